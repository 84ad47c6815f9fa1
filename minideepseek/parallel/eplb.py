"""Where experts live: the busiest on several devices, and every device about equally busy.

While a model answers, experts are unequally popular, and a layer takes as long as its busiest device. V3 therefore
gives popular experts further *replicas* on other devices, and places them anew every ten minutes or so, by the loads of
the last ones (report, section 3.4.1). Two greedy rules, as in deepseek-ai/EPLB:

* ``replicate``: the next replica goes to the expert of which a replica has most to do. No other way to divide the
  replicas would leave the busiest with less.
* ``pack``: the heaviest first, each to the lightest device that has room. Near the best; the best is hard to find.

Where tokens are routed by groups of experts, a group's experts stay together on a node (``place_by_groups``), so that
a token still visits few nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Which experts are on which device.

    Attributes:
        devices: the experts of each device, one entry for each replica.
    """

    devices: tuple[tuple[int, ...], ...]

    def replicas(self, n_experts: int) -> list[int]:
        """How many there are of each expert."""
        held = [expert for device in self.devices for expert in device]
        return [held.count(expert) for expert in range(n_experts)]

    def loads(self, loads: Sequence[float]) -> list[float]:
        """What each device has to do if experts have ``loads`` and the replicas of an expert share evenly."""
        replicas = self.replicas(len(loads))
        return [sum(loads[expert] / replicas[expert] for expert in device) for device in self.devices]

    def imbalance(self, loads: Sequence[float]) -> float:
        """The busiest device's load over the mean: how much longer a layer takes than it would have to. 1 is best."""
        found = self.loads(loads)
        return max(found) * len(found) / sum(found) if sum(found) else 1.0


def replicate(loads: Sequence[float], slots: int) -> list[int]:
    """How many replicas each expert gets if there are ``slots`` in all: at least one each.

    Raises:
        ValueError: fewer slots than experts.
    """
    if slots < len(loads):
        raise ValueError(f"{slots} slots are not enough for {len(loads)} experts")
    replicas = [1] * len(loads)
    for _ in range(slots - len(loads)):
        replicas[max(range(len(loads)), key=lambda expert: loads[expert] / replicas[expert])] += 1
    return replicas


def pack(weights: Sequence[float], boxes: int) -> list[list[int]]:
    """Items of these weights in ``boxes`` boxes, equally many in each: the numbers of each box's items.

    Raises:
        ValueError: items do not divide evenly.
    """
    if boxes < 1 or len(weights) % boxes:
        raise ValueError(f"{len(weights)} items do not fill {boxes} boxes evenly")
    room = len(weights) // boxes
    found: list[list[int]] = [[] for _ in range(boxes)]
    totals = [0.0] * boxes
    for item in sorted(range(len(weights)), key=lambda item: -weights[item]):
        box = min((b for b in range(boxes) if len(found[b]) < room), key=totals.__getitem__)
        found[box].append(item)
        totals[box] += weights[item]
    return found


def place(loads: Sequence[float], *, slots: int, devices: int) -> Placement:
    """Replicas of any expert on any device.

    Args:
        loads: of the experts: tokens, or anything proportional.
        slots: replicas of all experts together.
        devices: that share them equally.

    Raises:
        ValueError: slots are too few, or do not divide among devices.
    """
    held = [expert for expert, n in enumerate(replicate(loads, slots)) for _ in range(n)]
    share = [loads[expert] / held.count(expert) for expert in held]
    return Placement(devices=tuple(tuple(held[slot] for slot in box) for box in pack(share, devices)))


def place_by_groups(loads: Sequence[float], *, slots: int, devices: int, groups: int, nodes: int) -> Placement:
    """Groups of experts packed to nodes, experts replicated within their node, replicas packed to the node's devices.

    Args:
        loads: of the experts, group by group, in equal groups.
        slots: replicas of all experts together.
        devices: node by node, in equal nodes.
        groups: of experts, as routing knows them (``layers.Groups``).
        nodes: that share the groups equally.

    Raises:
        ValueError: something does not divide. Then ``place`` is the way, as it is for the many nodes of decoding.
    """
    for what, n, into in (("experts", len(loads), groups), ("groups", groups, nodes), ("devices", devices, nodes)):
        if n % into:
            raise ValueError(f"{n} {what} do not divide into {into} equal parts; place() asks for no groups")
    if slots % devices:
        raise ValueError(f"{slots} slots do not fill {devices} devices evenly")
    size = len(loads) // groups
    members = [range(group * size, (group + 1) * size) for group in range(groups)]
    found: list[tuple[int, ...]] = []
    for box in pack([sum(loads[expert] for expert in group) for group in members], nodes):
        experts = [expert for group in box for expert in members[group]]
        own = place([loads[expert] for expert in experts], slots=slots // nodes, devices=devices // nodes)
        found += [tuple(experts[place] for place in device) for device in own.devices]
    return Placement(devices=tuple(found))
