"""Documents in a row: each ends with the end-of-sentence token, some are turned into fill-in-the-middle exercises.

Pre-training packs documents one behind the other and lets attention reach across the joins (DeepSeek-V3 report, section
4.1); `segment_ids` recovers the joins for those who want to mask them.
"""

from collections.abc import Sequence

import torch

from minideepseek.data.document import text_hash
from minideepseek.data.tokenizer import Tokenizer


def encode_documents(
    texts: Sequence[str], tokenizer: Tokenizer, *, fim_rate: float = 0.0, seed: int = 0, first: int = 0
) -> list[list[int]]:
    """The ids of each document, ended by `eos_id`; a share `fim_rate` of them in prefix-suffix-middle order.

    DeepSeek-V3 report, section 4.1 (rate 0.1, decided per document, before packing):
    begin, prefix, hole, suffix, end, middle, eos. The model learns to fill a hole without losing next-token prediction.

    first: the number of the first text in its corpus; which documents are cut, and where, depends on number and seed.
    """
    parts = [split_middle(text, first + i, rate=fim_rate, seed=seed) for i, text in enumerate(texts)]
    encoded = iter(tokenizer.encode_batch([part for document in parts for part in document]))
    rows = []
    for document in parts:
        if len(document) == 1:
            row = next(encoded)
        else:
            prefix, middle, suffix = next(encoded), next(encoded), next(encoded)
            row = [tokenizer.fim_begin_id, *prefix, tokenizer.fim_hole_id, *suffix, tokenizer.fim_end_id, *middle]
        row.append(tokenizer.eos_id)
        rows.append(row)
    return rows


def split_middle(text: str, number: int, *, rate: float, seed: int = 0) -> tuple[str, ...]:
    """(prefix, middle, suffix) for the chosen share of documents, (text,) for the others.

    The cuts fall between any two characters, also inside words: in an editor the cursor does not respect tokens.
    """
    if rate <= 0 or len(text) < 3:
        return (text,)
    chance, cuts = divmod(text_hash(f"fim {number}", salt=seed), 2**48)
    if chance >= rate * 2**16:
        return (text,)
    # Two different places among len(text) + 1, each pair equally likely.
    one, other = cuts % (len(text) + 1), cuts // (len(text) + 1) % len(text)
    start, end = sorted((one, other + (other >= one)))
    return text[:start], text[start:end], text[end:]


def segment_ids(ids: torch.Tensor, eos_id: int) -> torch.Tensor:
    """Which document of its row each token belongs to: 0, 1, 2, ... along the last dimension; same shape as `ids`.

    The end-of-sentence token closes its document, so it still counts as part of it.
    """
    ends = (ids == eos_id).long()
    return ends.cumsum(-1) - ends
