"""What tokens cost on their way to their experts: copies over the network between nodes, and over the links within.

Within a node, devices are joined by NVLink; between nodes by InfiniBand, which carries a third as much. V3 (report,
section 3.2.2) sends a token once to each node that it has business with, to the device of its own place there, which
passes it on to those that hold its experts. So what matters between nodes is how many *nodes* a token visits, which
node-limited routing bounds (``layers.Groups``), and within a node how many *devices*. The way back is the same, with
more bytes a number.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Devices in equal nodes, experts in equal shares: expert e is on device e // (experts / devices).

    Attributes:
        nodes: number of nodes.
        per_node: devices of a node.
        ib: bytes a second that a device sends to other nodes.
        nvlink: bytes a second that a device sends to others of its node.
    """

    nodes: int
    per_node: int
    ib: float = 50e9
    nvlink: float = 160e9

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.per_node < 1 or not (self.ib > 0 and self.nvlink > 0):
            raise ValueError(f"{self} has no devices, or nothing to send by")

    @property
    def devices(self) -> int:
        """Of all nodes."""
        return self.nodes * self.per_node

    @property
    def free_fan_out(self) -> float:
        """Devices of a node that a token can be passed on to while the next one arrives: 3.2 for V3.

        A bound from bandwidths, not what routing comes to: 4 nodes times 3.2 make "13 experts at the same cost".
        """
        return self.nvlink / self.ib


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Copies of tokens that devices send for one layer, one way.

    Attributes:
        cluster: where.
        nodes: (N,) int64 how many nodes each token has business with, its own included if so.
        devices: (N,) int64 how many devices.
        ib: (devices,) int64 copies that each device sends to other nodes.
        nvlink: (devices,) int64 copies that each device sends within its node.
        direct: (devices,) int64 copies it would send to other nodes if every device were sent its own.
    """

    cluster: Cluster
    nodes: Tensor
    devices: Tensor
    ib: Tensor
    nvlink: Tensor
    direct: Tensor

    def seconds(self, bytes_per_copy: float, *, direct: bool = False) -> float:
        """How long the slowest device sends.

        Args:
            bytes_per_copy: of a token: for V3 7168 numbers of one byte on the way out, of two on the way back.
            direct: to every device across the network; else once to a node, both kinds of links at a time.
        """
        if direct:  # what little there is to send at home is over long before
            return self.direct.max().item() * bytes_per_copy / self.cluster.ib
        across = self.ib.max().item() / self.cluster.ib
        within = self.nvlink.max().item() / self.cluster.nvlink
        return max(across, within) * bytes_per_copy


def traffic(experts: Tensor, *, n_experts: int, cluster: Cluster, home: Tensor | None = None) -> Traffic:
    """Count what is sent when tokens go to their experts.

    Args:
        experts: (N, K) int64 chosen experts, as ``layers.router.Routing`` has them.
        n_experts: in all, in equal shares on the devices.
        cluster: where they are.
        home: (N,) int64 device of each token; None: equally many in a row on each.

    Raises:
        ValueError: experts do not divide among devices, or tokens do not where that is asked.
    """
    tokens = len(experts)
    if n_experts % cluster.devices:
        raise ValueError(f"{n_experts} experts do not divide among {cluster.devices} devices")
    if home is None:
        if tokens % cluster.devices:
            raise ValueError(f"{tokens} tokens do not divide among {cluster.devices} devices; say where each one is")
        home = torch.arange(tokens, device=experts.device) // (tokens // cluster.devices)
    device_of = experts // (n_experts // cluster.devices)
    goes = torch.zeros(tokens, cluster.devices, dtype=torch.bool, device=experts.device).scatter_(1, device_of, True)
    by_node = goes.unflatten(1, (cluster.nodes, cluster.per_node))  # (N, nodes, devices of a node)
    visits = by_node.any(-1)
    node, place = home // cluster.per_node, home % cluster.per_node

    away = torch.arange(cluster.nodes, device=experts.device) != node[:, None]
    across = visits & away
    # Where a token arrives, at its own place of a node, it need not be passed on to.
    arrives = torch.arange(cluster.per_node, device=experts.device) == place[:, None, None]
    passed_on = (by_node & ~arrives).sum(-1)  # (N, nodes), sent by the device of the token's place on each node

    def sent(copies: Tensor, by: Tensor) -> Tensor:
        """Sums of copies (N, ...) over devices ``by`` that send them."""
        found = torch.zeros(cluster.devices, dtype=torch.int64, device=experts.device)
        return found.index_add_(0, by.flatten(), copies.flatten())

    entries = torch.arange(cluster.nodes, device=experts.device) * cluster.per_node + place[:, None]
    return Traffic(
        cluster=cluster,
        nodes=visits.sum(1),
        devices=goes.sum(1),
        ib=sent(across.sum(1), home),
        nvlink=sent(passed_on, entries),
        direct=sent((by_node & away[..., None]).sum((1, 2)), home),
    )
