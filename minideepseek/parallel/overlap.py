"""Communication hidden behind computation: a forward and a backward pass through the same layers, side by side.

With experts on other nodes a device sends about as long as it computes (V3 report, section 3.2.1), and in one pass
alone it must do the one after the other: experts cannot begin before their tokens are there. Two passes do not wait for
each other. DualPipe gives a device a forward pass of one micro-batch and a backward pass of another, cuts both into
pieces, and computes for one while it sends for the other (figure 4):

    computing      experts B   experts W   experts F   attention B   attention W   attention F
    sending        dispatch F        dispatch B        combine F             combine B

F forward; B backward for inputs, W for weights. What is called dispatch B brings back what dispatch F sent out, as
gradients, and combine B what combine F brought.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from minideepseek.parallel.pipeline import Costs

Way = Literal["F", "B", "W"]
Part = Literal["attention", "experts", "dispatch", "combine"]
SENDING: tuple[Part, ...] = ("dispatch", "combine")


class Piece(NamedTuple):
    """A part of a layer, one way, of the n-th layer that a pass comes to."""

    part: Part
    way: Way
    layer: int


class Moment(NamedTuple):
    """When a piece is worked on: by the processors, or, where it is sent, by the links."""

    piece: Piece
    start: float
    end: float


@dataclass(frozen=True, kw_only=True)
class Layer:
    """How long the pieces of a layer take, each way; gradients of inputs and of weights as long as going forward.

    Attributes:
        attention: computing.
        experts: computing.
        dispatch: sending tokens to their experts.
        combine: sending results back.
    """

    attention: float = 1
    experts: float = 1
    dispatch: float = 1
    combine: float = 1

    def __post_init__(self) -> None:
        if min(self.attention, self.experts) <= 0 or min(self.dispatch, self.combine) < 0:
            raise ValueError(f"{self}: what is computed takes time, and nothing takes less than none")

    def costs(self, layers: int) -> Costs:
        """Of a stage of so many layers: a pass alone takes its pieces in turn, a pair side by side.

        A pass alone might send a little while it makes gradients of weights; what runs layers one by one does not.
        """
        computing, sending = self.attention + self.experts, self.dispatch + self.combine
        forward, backward = layers * (computing + sending), layers * (2 * computing + sending)
        pair = max(moment.end for moment in side_by_side(self, layers))
        return Costs(forward=forward, backward=backward, weight=layers * computing, pair=pair)


def side_by_side(layer: Layer, layers: int) -> list[Moment]:
    """A forward and a backward pass through ``layers`` layers at a time, every piece as soon as it can be.

    Processors and links each take their pieces in the order of figure 4, one at a time.

    Raises:
        ValueError: no layers.
    """
    if layers < 1:
        raise ValueError(f"layers={layers} must be positive")
    computing, sending = [Piece("attention", "F", 0)], [Piece("combine", "B", 0)]
    for n in range(layers):
        computing += [Piece("experts", "B", n), Piece("experts", "W", n), Piece("experts", "F", n)]
        computing += [Piece("attention", "B", n), Piece("attention", "W", n)]
        sending += [Piece("dispatch", "F", n), Piece("dispatch", "B", n), Piece("combine", "F", n)]
        if n + 1 < layers:
            computing.append(Piece("attention", "F", n + 1))
            sending.append(Piece("combine", "B", n + 1))
    return _play(layer, [computing, sending])


def one_after_the_other(layer: Layer, layers: int) -> list[Moment]:
    """The same passes, first forward and then backward, and nothing at a time."""
    order = [Piece(part, "F", n) for n in range(layers) for part in ("attention", "dispatch", "experts", "combine")]
    for n in range(layers):
        order += [Piece("combine", "B", n), Piece("experts", "B", n), Piece("experts", "W", n)]
        order += [Piece("dispatch", "B", n), Piece("attention", "B", n), Piece("attention", "W", n)]
    return _play(layer, [order])


def needs(piece: Piece) -> Piece | None:
    """The piece that must be done before."""
    part, way, n = piece
    if way == "W":
        return Piece(part, "B", n)
    forward: tuple[Part, ...] = ("attention", "dispatch", "experts", "combine")
    order = forward if way == "F" else forward[::-1]
    place = order.index(part)
    if place:
        return Piece(order[place - 1], way, n)
    return Piece(order[-1], way, n - 1) if n else None


def _play(layer: Layer, hands: Sequence[Sequence[Piece]]) -> list[Moment]:
    done: dict[Piece, float] = {}
    free, place = [0.0] * len(hands), [0] * len(hands)
    found: list[Moment] = []
    while any(place[hand] < len(order) for hand, order in enumerate(hands)):
        before = len(found)
        for hand, order in enumerate(hands):
            while place[hand] < len(order):
                piece = order[place[hand]]
                needed = needs(piece)
                if needed is not None and needed not in done:
                    break
                start = max(free[hand], 0.0 if needed is None else done[needed])
                free[hand] = done[piece] = start + getattr(layer, piece.part)
                found.append(Moment(piece, start, done[piece]))
                place[hand] += 1
        assert len(found) > before, "an order of figure 4 waits for itself"
    return sorted(found, key=lambda moment: moment.start)
