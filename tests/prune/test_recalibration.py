"""Recalibration: the statistics of the pruned network, and nothing else changed."""

import copy

import pytest
import torch
from torch import nn

import pyrosparse as ps


def test_statistics_are_those_of_the_pruned_network() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2)).eval()
    x = torch.randn(600, 5)
    with torch.no_grad():
        net[0].weight[:, :3] = 0.0
    before = copy.deepcopy(net)
    ps.prune.recalibrate(net, (x, torch.zeros(600)), batch_size=200)
    features = net[0](x)
    assert torch.allclose(net[1].running_mean, features.mean(0), atol=1e-6)
    batches = torch.stack([part.var(0) for part in features.split(200)])
    assert torch.allclose(net[1].running_var, batches.mean(0), atol=1e-6)
    assert net[1].momentum == 0.1 and not any(module.training for module in net.modules())
    for one, other in zip(net.parameters(), before.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_smaller_last_batch_does_not_count() -> None:
    net = nn.BatchNorm1d(1)
    x = torch.cat([torch.zeros(8, 1), torch.full((2, 1), 100.0)])
    ps.prune.recalibrate(net, (x, x), batch_size=8)
    assert net.running_mean == 0.0 and net.training


def test_no_data_are_refused() -> None:
    with pytest.raises(ValueError, match="no data"):
        ps.prune.recalibrate(nn.BatchNorm1d(1), [])
