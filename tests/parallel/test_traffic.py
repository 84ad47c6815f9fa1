"""Copies of tokens: by hand, by enumeration, and what routing to few nodes saves."""

import math

import pytest
import torch
from torch import Tensor

from minideepseek.layers import Groups, TopK
from minideepseek.parallel.traffic import Cluster, traffic

V3 = Cluster(nodes=8, per_node=8)


def routed(groups: Groups | None, n: int = 4096, seed: int = 0) -> Tensor:
    """Choices of V3's router on random affinities: 8 of 256."""
    router = TopK(k=8, affinity="sigmoid", groups=groups)
    return router.route(torch.randn(n, 256, generator=torch.Generator().manual_seed(seed))).experts


def one_by_one(
    experts: Tensor, n_experts: int, cluster: Cluster, home: Tensor
) -> tuple[list[int], list[int], list[int]]:
    ib, nvlink, direct = ([0] * cluster.devices for _ in range(3))
    for row, start in zip(experts.tolist(), home.tolist(), strict=True):
        targets = {expert * cluster.devices // n_experts for expert in row}
        for node in {target // cluster.per_node for target in targets}:
            entry = node * cluster.per_node + start % cluster.per_node
            if node != start // cluster.per_node:
                ib[start] += 1
            for target in targets:
                if target // cluster.per_node == node and target != entry:
                    nvlink[entry] += 1
        direct[start] += sum(target // cluster.per_node != start // cluster.per_node for target in targets)
    return ib, nvlink, direct


def test_a_token_by_hand() -> None:
    """Two nodes of two devices, two experts on each. A token of device 0 asks for experts 1, 6, 7 and 4."""
    found = traffic(
        torch.tensor([[1, 6, 7, 4]]), n_experts=8, cluster=Cluster(nodes=2, per_node=2), home=torch.tensor([0])
    )
    assert (found.nodes.item(), found.devices.item()) == (2, 3)
    assert found.ib.tolist() == [1, 0, 0, 0]  # once to node 1, to its device 2
    assert found.nvlink.tolist() == [0, 0, 1, 0]  # which passes it on to device 3; experts 0 and 1 are at home
    assert found.direct.tolist() == [2, 0, 0, 0]


@pytest.mark.parametrize("seed", range(3))
def test_counting_at_once_is_counting_one_by_one(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    cluster = Cluster(nodes=3, per_node=4)
    experts = torch.rand(50, 24, generator=draw).topk(5).indices
    home = torch.randint(0, 12, (50,), generator=draw)
    found = traffic(experts, n_experts=24, cluster=cluster, home=home)
    assert (found.ib.tolist(), found.nvlink.tolist(), found.direct.tolist()) == one_by_one(experts, 24, cluster, home)


def test_without_a_limit_a_token_visits_as_many_nodes_as_chance_has_it() -> None:
    """A node of 32 of the 256 experts is left out by all 8 choices with probability C(224, 8) / C(256, 8)."""
    expected = 8 * (1 - math.comb(224, 8) / math.comb(256, 8))
    found = traffic(routed(None), n_experts=256, cluster=V3)
    assert found.nodes.double().mean().item() == pytest.approx(expected, rel=0.01)
    assert expected == pytest.approx(5.29, abs=0.01)


def test_a_limit_of_four_nodes_is_kept_and_saves_a_quarter_between_nodes() -> None:
    free, limited = (traffic(routed(g), n_experts=256, cluster=V3) for g in (None, Groups(n=8, limit=4, judged_by=2)))
    assert limited.nodes.max() <= 4 < free.nodes.max()
    assert 0.65 < limited.ib.sum() / free.ib.sum() < 0.8
    assert limited.devices.double().mean() < free.devices.double().mean()


def test_sending_once_to_a_node_beats_sending_to_every_device() -> None:
    found = traffic(routed(Groups(n=8, limit=4, judged_by=2)), n_experts=256, cluster=V3)
    assert found.direct.sum() > 1.5 * found.ib.sum()
    assert found.seconds(7168) < 0.65 * found.seconds(7168, direct=True)
    assert found.seconds(2 * 7168) == pytest.approx(2 * found.seconds(7168))


def test_nvlink_keeps_up_with_three_devices_a_node_and_thirteen_experts() -> None:
    """V3 report, section 3.2.2: 160 / 50 = 3.2 experts a node, 13 on four nodes, at the cost of the network alone."""
    assert V3.free_fan_out == 3.2
    assert round(4 * V3.free_fan_out) == 13
    # Each token to four other nodes, and there to so many devices beside the one where it arrives.
    home = torch.arange(64).repeat_interleave(4)
    other = (home[:, None] // 8 + torch.arange(1, 5)) % 8
    for fan_out, bound in ((3, "ib"), (4, "nvlink")):
        place = (home[:, None, None] % 8 + 1 + torch.arange(fan_out)) % 8
        experts = ((other[..., None] * 8 + place) * 4).flatten(1)
        found = traffic(experts, n_experts=256, cluster=V3, home=home)
        alone = {"ib": found.ib.max().item() / V3.ib, "nvlink": found.nvlink.max().item() / V3.nvlink}
        assert max(alone, key=alone.__getitem__) == bound
        assert found.seconds(1.0) == pytest.approx(alone[bound])


def test_on_one_node_nothing_goes_over_the_network() -> None:
    found = traffic(routed(None, n=64), n_experts=256, cluster=Cluster(nodes=1, per_node=8))
    assert found.ib.sum() == found.direct.sum() == 0
    assert found.nvlink.sum() > 0


def test_what_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="100 experts do not divide among 64 devices"):
        traffic(torch.zeros(64, 2, dtype=torch.int64), n_experts=100, cluster=V3)
    with pytest.raises(ValueError, match="10 tokens do not divide among 64 devices; say where"):
        traffic(torch.zeros(10, 2, dtype=torch.int64), n_experts=256, cluster=V3)
    with pytest.raises(ValueError, match="no devices"):
        Cluster(nodes=0, per_node=8)
