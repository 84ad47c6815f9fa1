"""A matrix product whose sums are kept in too few bits, as Hopper's tensor cores keep them when they multiply FP8.

DeepSeek-V3's report found it (sections 3.3.2 and 3.5.2): 32 products at a time are shifted to the exponent of the
largest of them and cut off after 14 bits, and so is the register that the sums are added to. Cutting off rounds towards
zero, always: errors do not cancel, and grow with the length of the sum. The remedy is to *promote* what has been summed
so far to ordinary float32 registers, every N_C = 128 elements, and to begin anew.
"""

from __future__ import annotations

import torch
from torch import Tensor

BITS = 14  # the report says "around 14"
AT_ONCE = 32  # products that the hardware adds in one go


def register_product(a: Tensor, b: Tensor, *, promote: int | None = None, bits: int = BITS) -> Tensor:
    """a (M, K), b (N, K) -> a @ b.T (M, N) in float64, summed as tensor cores do. Slow: for small matrices.

    Args:
        a: numbers of FP8, in any type; their products are exact.
        b: likewise.
        promote: elements of K after which the sum moves to a register that loses nothing; None never does.
        bits: that sums keep, the leading one included.

    Raises:
        ValueError: ``promote`` is no multiple of what is added in one go.
    """
    if promote is not None and (promote < AT_ONCE or promote % AT_ONCE):
        raise ValueError(f"promote={promote}: the hardware adds {AT_ONCE} products in one go, so give a multiple")
    a, b = a.double(), b.double()
    register = promoted = a.new_zeros(len(a), len(b))
    for start in range(0, a.shape[1], AT_ONCE):
        part = slice(start, start + AT_ONCE)
        products = a[:, None, part] * b[None, :, part]
        aligned = cut_off(products, bits, like=products.abs().amax(-1, keepdim=True))
        total = register + aligned.sum(-1)
        register = cut_off(total, bits, like=total)
        if promote is not None and (start + AT_ONCE) % promote == 0:
            promoted, register = promoted + register, torch.zeros_like(register)
    return promoted + register


def cut_off(x: Tensor, bits: int, *, like: Tensor) -> Tensor:
    """x with what lies below the ``bits`` leading bits of ``like`` set to zero."""
    _, exponent = torch.frexp(like)  # 2^(exponent - 1) <= |like| < 2^exponent
    last = torch.ldexp(torch.ones_like(like), exponent - bits)
    return torch.trunc(x / last) * last
