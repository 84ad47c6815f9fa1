"""Anticipatory routing: experts are chosen by weights of some steps ago, and weighed by those of now.

A router that follows every twitch of its own weights can feed a spike of the loss: what it chooses moves the features,
and those move what it chooses. DeepSeek-V4 (report, section 4.2.3) cuts the loop. While step t is made, the batch of
step t + dt is read ahead, and the routers' choices for it are put aside; when its turn comes, features and gates are
computed by the weights of then, and only the choices are the old ones. V4 does so for a while after a spike was seen;
how large dt is, and what counts as a spike, is not published, so a run here does it from beginning to end.

The price is one more forward pass a step.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Mapping

import torch
from torch import Tensor

from minideepseek.context import Routes
from minideepseek.data.loader import Loader
from minideepseek.errors import UserError
from minideepseek.layers.router import Router
from minideepseek.model import Transformer


class Foresight:
    """The choices for batches to come.

    Args:
        model: as it computes, whatever its weights are when it is asked.
        loader: of the run, at the batch that comes next.
        ahead: dt, in steps; 0 chooses when the batch is there, which changes nothing.
        pieces: that a batch is cut into.

    Raises:
        UserError: no layer of the model chooses.
    """

    def __init__(self, model: Transformer, loader: Loader, *, ahead: int, pieces: int = 1) -> None:
        if not any(isinstance(module, Router) for module in model.modules()):
            raise UserError(f"anticipate={ahead}: this model has no routers that choose experts; leave it at 0")
        self.model, self.ahead, self.pieces = model, ahead, pieces
        self.loader = copy.copy(loader)
        self.waiting: deque[list[list[Tensor]]] = deque()  # of each batch, each piece, each router

    def next(self) -> list[Routes]:
        """What the next batch is to choose, piece by piece; the one ``ahead`` steps later is read by today's weights.

        Batches at the very beginning, for which there was no earlier step, are read by the first weights.
        """
        while len(self.waiting) <= self.ahead:
            self.waiting.append(self._look(next(self.loader)))
        return [Routes(chosen) for chosen in self.waiting.popleft()]

    @torch.no_grad()
    def _look(self, ids: Tensor) -> list[list[Tensor]]:
        found = []
        for piece in ids.to(self.model.embed.weight.device).chunk(self.pieces):
            routes = Routes()
            self.model.loss(piece, routes=routes)
            found.append(routes.chosen)
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint needs besides the place of the run's loader: the choices of weights that are gone."""
        return {
            f"routes/{step}/{piece}/{router}": experts
            for step, pieces in enumerate(self.waiting)
            for piece, routers in enumerate(pieces)
            for router, experts in enumerate(routers)
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on where the state was taken, with the run's loader where it was then."""
        self.waiting.clear()
        places = sorted(tuple(map(int, name.split("/")[1:])) for name in state if name.startswith("routes/"))
        for step, piece, router in places:
            if step == len(self.waiting):
                self.waiting.append([])
            if piece == len(self.waiting[step]):
                self.waiting[step].append([])
            experts = state[f"routes/{step}/{piece}/{router}"]
            self.waiting[step][piece].append(experts.to(self.model.embed.weight.device, copy=True))
        for _ in self.waiting:
            next(self.loader)
