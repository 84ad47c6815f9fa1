"""The orders of work that pipelines are run in, from GPipe to DualPipe.

===============  =======================  ===============  ========================================================
schedule         bubble of a device       activations      source
===============  =======================  ===============  ========================================================
``gpipe``        (P - 1)(F + B)           all of a batch   Huang et al., arXiv 1811.06965
``one_f_one_b``  (P - 1)(F + B)           P at most        Narayanan et al., arXiv 2006.09503, flushed every batch
``zero_bubble``  (P - 1)(F + B - 2W)      P                Qi et al., arXiv 2401.10241: ZB-H1; "ZB1P" in V3's table
``dual_pipe``    (P/2 - 1)(F&B + B - 3W)  P + 1            V3 report, section 3.2.1 and table 2
``dual_pipe_v``  the same, P/2 devices    P + 1            deepseek-ai/DualPipe, README
===============  =======================  ===============  ========================================================

P stages; F a forward pass, B a whole backward pass, W its part for weights, F&B the two side by side, which DualPipe
makes possible (``pipeline.Costs``). DualPipe's formula is exact where F, W and the rest of B take equally long; if F&B
takes less than F and B, devices with fewer such pairs take longer, and it is that of the largest bubble. For all else
there is ``pipeline.simulate``.
"""

from __future__ import annotations

from collections import deque
from itertools import count

from minideepseek.parallel.pipeline import Kind, Op, Schedule, Step


def gpipe(stages: int, micros: int) -> Schedule:
    """All forward passes, then all backward passes, so that every activation of the batch is kept."""
    _check(stages, micros)
    order: list[tuple[Kind, int]] = [("F", n) for n in range(micros)]
    order += [("B", n) for n in range(micros)]
    return _in_line("GPipe", micros, [order] * stages)


def one_f_one_b(stages: int, micros: int) -> Schedule:
    """Backward passes as soon as they can be: one forward, one backward, so that activations are soon free again.

    A device begins with as many forward passes as there are stages behind it.
    """
    _check(stages, micros)
    orders = []
    for stage in range(stages):
        ahead = min(stages - 1 - stage, micros)
        order: list[tuple[Kind, int]] = [("F", n) for n in range(ahead)]
        for n in range(micros):
            order += [("F", n + ahead), ("B", n)] if n + ahead < micros else [("B", n)]
        orders.append(order)
    return _in_line("1F1B", micros, orders)


def zero_bubble(stages: int, micros: int) -> Schedule:
    """1F1B with the gradients of weights put off until there is nothing more urgent: they fill the bubble at the end.

    Stage s puts off s of them, which is how many activations it has fewer than the first stage: no device keeps more
    than the first one does in 1F1B.
    """
    _check(stages, micros)
    orders = []
    for stage in range(stages):
        ahead = min(stages - 1 - stage, micros)
        order: list[tuple[Kind, int]] = [("F", n) for n in range(ahead)]
        owed = iter(range(micros))
        for n in range(micros):
            order += [("F", n + ahead), ("I", n)] if n + ahead < micros else [("I", n)]
            if n >= stage or n + ahead >= micros:
                order.append(("W", next(owed)))
        order += [("W", n) for n in owed]
        orders.append(order)
    return _in_line("ZB1P", micros, orders)


def dual_pipe(stages: int, micros: int) -> Schedule:
    """Micro-batches enter at both ends and pass each other, forward and backward passes side by side.

    Every device has two stages, the one of its place from either end, so that there are two copies of every parameter.
    Micro-batches of the first half enter at the first device, the others at the last.

    Raises:
        ValueError: an odd number of either, or fewer than two micro-batches a stage.
    """
    _check_both_ways(stages, micros, least=2 * stages)
    half = stages // 2
    devices = []
    for device in range(stages):
        place = min(device, stages - 1 - device)
        entered_here = 0 if device < half else 1  # the half of the batch that this device meets on its way in
        numbers = [range(half_batch * micros // 2, micros) for half_batch in (entered_here, 1 - entered_here)]
        devices.append(_folded(half, place, numbers, micros // 2))
    return Schedule(name="DualPipe", stages=stages, micros=micros, devices=tuple(devices))


def dual_pipe_v(stages: int, micros: int) -> Schedule:
    """DualPipe cut in half: its one half is the mirror of the other, so half of the devices do without the copy.

    A micro-batch goes down the devices through the first half of the stages, and up again through the second.

    Raises:
        ValueError: an odd number of stages, or fewer micro-batches than stages.
    """
    _check_both_ways(stages, 2 * micros, least=2 * stages)
    half = stages // 2
    devices = [_folded(half, place, [range(micros)] * 2, micros) for place in range(half)]
    return Schedule(name="DualPipeV", stages=stages, micros=micros, devices=tuple(devices))


def _folded(depth: int, place: int, numbers: list[range], micros: int) -> tuple[Step, ...]:
    """The work of the device at ``place`` in a line of ``depth`` that micro-batches pass on leg 0 and back on leg 1.

    As in the code released with the report (deepseek-ai/DualPipe). numbers: of the micro-batches of either leg.
    """
    forward, backward = (count(), count()), (count(), count())
    owed: deque[Op] = deque()
    steps: list[Step] = []

    def op(kind: Kind, leg: int) -> Op:
        n = next((forward if kind == "F" else backward)[leg])
        found = Op(kind, numbers[leg][n], place if leg == 0 else 2 * depth - 1 - place)
        if kind == "I":
            owed.append(found._replace(kind="W"))
        return found

    beyond = depth - 1 - place  # devices between this one and the turn
    steps += [(op("F", 0),) for _ in range(2 * beyond)]  # until the first one is back
    for _ in range(place + 1):
        steps += [(op("F", 0),), (op("F", 1),)]
    for _ in range(beyond):
        steps += [(op("I", 1),), (owed.popleft(),), (op("F", 1),)]
    for n in range(micros - 2 * depth + place + 1):  # in full swing
        pair = op("F", 0), op("B", 1)
        steps += [pair[:1], pair[1:]] if n == 0 and beyond == 0 else [pair]  # at the turn F would wait for B
        steps.append((op("F", 1), op("B", 0)))
    for _ in range(beyond):
        steps += [(op("B", 1),), (op("F", 1), op("B", 0))]
    for n in range(2 * (place + 1)):  # the others wait for the last gradients: weights must wait for them
        steps.append((op("B" if n <= place else "I", 1 - n % 2),))
    for _ in range(beyond):
        steps += [(owed.popleft(),), (op("I", 0),)]
    return (*steps, *((late,) for late in owed))


def _in_line(name: str, micros: int, orders: list[list[tuple[Kind, int]]]) -> Schedule:
    """One stage a device."""
    devices = tuple(tuple((Op(kind, n, stage),) for kind, n in order) for stage, order in enumerate(orders))
    return Schedule(name=name, stages=len(orders), micros=micros, devices=devices)


def _check(stages: int, micros: int) -> None:
    if stages < 1 or micros < 1:
        raise ValueError(f"stages={stages} and micros={micros} must be positive")


def _check_both_ways(stages: int, micros: int, *, least: int) -> None:
    _check(stages, micros)
    if stages % 2 or micros % 2 or micros < least:
        raise ValueError(
            f"a pipeline of {stages} stages that is used from both ends takes even numbers, and at least {least} "
            f"micro-batches, of which there are {micros} from both ends together"
        )
