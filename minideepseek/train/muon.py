"""Muon: a step of the same length in every direction of a matrix (Jordan et al. 2024; DeepSeek-V4 report, section 2.4).

The momentum of a matrix has a few large singular values and many small ones, so a plain step moves along a few
directions only. Muon sets all of them to one, U S V^T -> U V^T, without an SVD: an odd polynomial of a matrix is the
same polynomial of each singular value, and Newton-Schulz iterations are polynomials that drive those to one.

What is orthogonalised is a matrix in the sense of the model, not a tensor: each expert of a stack, gate and up apart,
queries, keys and values apart, although they are kept as one parameter (``Linear.stacked``). Embedding, head and
whatever has one dimension (gains of norms, biases, gates) follow AdamW, with the same learning rate.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw as adamw_step

from minideepseek.ops.matmul import MKL_IS_SLOW, product

MOMENTUM = 0.95
RMS = 0.18  # of an update's elements before the learning rate: about AdamW's, whose learning rate then fits
EPS_NORM, EPS_ADAMW = 1e-7, 1e-20

# Eight iterations that lift small singular values steeply (by 3.4 each) but hover around one, between 0.7 and 1.2,
# then two whose slope at one is zero, which settle there.
COEFFICIENTS = ((3.4445, -4.7750, 2.0315),) * 8 + ((2.0, -1.5, 0.5),) * 2

# Elements multiplied at once. Many small matrices keep a processor busier than one, as long as they fit into its cache;
# in bfloat16, whose library is slow to start, it takes more of them.
CPU_BATCH, CPU_BATCH_16, GPU_BATCH = 2**16, 2**19, 2**24


def orthogonalise(x: Tensor) -> Tensor:
    """The nearest matrices with orthonormal rows (or columns, where they are fewer), up to a fraction of a percent.

    Args:
        x: (N, R, C), N matrices. Singular values down to 1e-4 of the Frobenius norm arrive at one; a matrix of zeros
            stays zero.

    Returns:
        (N, R, C), same dtype. Where that is bfloat16, the products are rounded to its 8 bits: good to a percent or so.
    """
    if x.shape[-2] > x.shape[-1]:  # X X^T is smaller than X^T X then
        return orthogonalise(x.mT).mT
    found = torch.empty_like(x, memory_format=torch.contiguous_format)
    alone = x.dtype == torch.float32 and x.device.type == "cpu" and x.shape[1] >= 128 and MKL_IS_SLOW
    on_cpu = CPU_BATCH_16 if x.itemsize == 2 else CPU_BATCH
    batch = on_cpu if x.device.type == "cpu" else GPU_BATCH
    n = 1 if alone else max(1, batch // max(1, x[0].numel()))
    for part, target in zip(x.split(n), found.split(n), strict=True):  # small enough to stay in the cache all the way
        part = _shrink(part)
        target.copy_(_iterate_one(part[0]) if alone else _iterate(part))
    return found


def _shrink(x: Tensor) -> Tensor:
    """(N, R, C) divided by their Frobenius norms: no singular value is greater than that."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    norm = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True, dtype=wide)
    return (x * (norm + EPS_NORM).reciprocal().to(x.dtype)).contiguous()  # in one pass; a rounded factor does no harm


def _iterate(x: Tensor) -> Tensor:
    """All iterations on (N, R, C), R <= C, singular values at most one."""
    for a, b, c in COEFFICIENTS:
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _iterate_one(x: Tensor) -> Tensor:
    """The same on (R, C), where a product of two matrices has a quicker library than a batch of them."""
    for a, b, c in COEFFICIENTS:
        gram = product(x, x)  # which multiplies by its second argument's transpose; ``gram`` is its own
        step = c * gram
        step.diagonal().add_(b)
        step = product(gram, step)
        step.diagonal().add_(a)  # a X + (b G + c G^2) X in one product
        x = product(step, x.t())
    return x


class Muon(torch.optim.Optimizer):
    """Muon for matrices and AdamW for everything else, as one optimiser.

    With gradient G, momentum M and learning rate η, for each matrix of R rows and C columns:
    M = 0.95 M + G, then W = (1 - η·decay) W - η · 0.18 · sqrt(max(R, C)) · orthogonal(0.95 M + G).

    Each matrix is updated from itself alone, so whole matrices may be spread over processes in any way. A cut through
    one is refused: no process would see its singular values.

    Args:
        matrices: parameter (..., R, C) -> rows of the matrices it holds one below the other, (R,) if it is one.
        others: parameters for AdamW, as groups like those of ``torch.optim.AdamW``.
        lr: learning rate.
        weight_decay: of matrices, and of other parameters whose group does not say.
        betas: memories of AdamW.
        dtype: of the products that orthogonalise; None keeps the parameters' own.

    Raises:
        ValueError: a parameter has no two dimensions, holds other rows than said, or is a DTensor cut through its
            matrices.
    """

    def __init__(
        self,
        matrices: Mapping[Tensor, tuple[int, ...]],
        others: Iterable[dict[str, Any]] = (),
        *,
        lr: float,
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.95),
        dtype: torch.dtype | None = None,
    ) -> None:
        for parameter, rows in matrices.items():
            _check(parameter, rows)
        groups = [{"params": list(matrices), "rows": list(matrices.values())}, *others]
        self.dtype = dtype
        defaults = {"lr": lr, "weight_decay": weight_decay, "betas": betas}
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            if "rows" in group:
                self._step_matrices(group)
            else:
                self._step_others(group)

    def _step_matrices(self, group: dict[str, Any]) -> None:
        held = [(p, rows) for p, rows in zip(group["params"], group["rows"], strict=True) if p.grad is not None]
        if not held:
            return
        weights, grads = [_local(p) for p, _ in held], [_local(p.grad) for p, _ in held]
        for (p, _), weight in zip(held, weights, strict=True):
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(weight)
        momenta = [self.state[p]["momentum"] for p, _ in held]
        torch._foreach_mul_(momenta, MOMENTUM)
        torch._foreach_add_(momenta, grads)
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for (_, rows), weight, update in zip(
            held, weights, torch._foreach_add(grads, momenta, alpha=MOMENTUM), strict=True
        ):
            for w, u in zip(_separate(weight, rows), _separate(update, rows), strict=True):
                if w.shape[1] > w.shape[2]:
                    w, u = w.mT, u.mT
                by_shape[w.shape[1], w.shape[2]].append((w, u))
        for (_, width), pairs in by_shape.items():
            updates = orthogonalise(torch.cat([u if self.dtype is None else u.to(self.dtype) for _, u in pairs]))
            for (w, _), u in zip(pairs, updates.split([len(w) for w, _ in pairs]), strict=True):
                w.sub_(u, alpha=group["lr"] * RMS * width**0.5)

    def _step_others(self, group: dict[str, Any]) -> None:
        parameters = [p for p in group["params"] if p.grad is not None]
        for p in parameters:
            if not self.state[p]:
                step = torch.zeros((), dtype=torch.float32, device=p.device)
                self.state[p] |= {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        states = [self.state[p] for p in parameters]
        adamw_step(
            parameters,
            [p.grad for p in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],  # the maxima of AMSGrad, which nobody asks for
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=EPS_ADAMW,
            maximize=False,
        )


def stacked_rows(model: nn.Module) -> dict[Tensor, tuple[int, ...]]:
    """Of every parameter with two or more dimensions: rows of the matrices it holds, as its module says."""
    found: dict[Tensor, tuple[int, ...]] = {}
    for module in model.modules():
        stacked = getattr(module, "stacked", {})
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim >= 2:
                found[parameter] = stacked.get(name, (parameter.shape[-2],))
    return found


def _separate(tensor: Tensor, rows: tuple[int, ...]) -> list[Tensor]:
    """Views (k, r, C) of the matrices in a tensor (..., R, C), k of each."""
    return list(tensor.view(-1, *tensor.shape[-2:]).split(rows, dim=1))


def _check(parameter: Tensor, rows: tuple[int, ...]) -> None:
    if parameter.ndim < 2 or sum(rows) != parameter.shape[-2]:
        raise ValueError(f"a parameter of shape {tuple(parameter.shape)} does not hold matrices of {rows} rows")
    for placement in getattr(parameter, "placements", ()):
        if placement.is_partial() or (placement.is_shard() and placement.dim % parameter.ndim >= parameter.ndim - 2):
            raise ValueError(
                f"a parameter of shape {tuple(parameter.shape)} is cut through its matrices ({placement}): Muon needs "
                "each of them whole; shard a stack along its first dimension, or keep the parameter on one process"
            )


def _local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor that is spread over several."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
