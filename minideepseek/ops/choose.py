"""Which experts a token goes to, given what each scores: perhaps only experts of the best groups."""

from __future__ import annotations

from torch import Tensor

from minideepseek.ops import reference
from minideepseek.ops.backend import kernel_in


@kernel_in("choose")
def choose_experts(scores: Tensor, k: int, *, groups: int = 1, limit: int = 1, judged_by: int = 1) -> Tensor:
    """The k largest of each row, best first; of equal ones the smaller index, on every device.

    ``torch.topk`` breaks ties as it happens to visit them, so a router would not be reproducible; a stable sort does
    not, and costs as little for a few hundred experts. No gradient comes back through a choice.

    Args:
        scores: (N, E).
        k: experts for each token.
        groups: equal groups of neighbours that the experts make.
        limit: groups that a token may use, those whose best score highest; all of them may be used where there are
            no more.
        judged_by: how many of a group's best experts are summed to judge it.

    Returns:
        (N, k) int64.
    """
    return reference.choose_experts(scores, k, groups=groups, limit=limit, judged_by=judged_by)
