"""What networks cost: known counts, and medians of times."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import pyrosparse as ps
from pyrosparse import networks
from pyrosparse.measure.costs import file_bytes, macs
from tests.compaction.cases import Separable


def test_counts_of_the_papers() -> None:
    x = torch.zeros(2, 1, 28, 28)
    lenet = networks.lenet5_caffe()
    assert list(macs(lenet, x).values()) == [288_000, 1_600_000, 400_000, 5_000]
    assert sum(macs(networks.lenet_500_300(), x).values()) == 545_000
    assert lenet.training


@pytest.mark.parametrize("build", [Separable, lambda: networks.resnet20(shortcut="projection")])
def test_counts_agree_with_torch(build) -> None:
    net, x = build().eval(), torch.zeros(3, 3, 8, 8)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(x)
    assert 3 * 2 * sum(macs(net, x).values()) == counter.get_total_flops()


def test_a_layer_that_is_called_twice_counts_twice() -> None:
    layer = nn.Linear(4, 4)
    assert macs(nn.Sequential(layer, layer), torch.zeros(2, 4)) == {"0": 32}


def test_report_of_a_compact_network() -> None:
    net = networks.lenet_500_300()
    net.fc1.weight.data[:400] = 0
    net.fc2.weight.data[200:] = 0
    net.fc2.weight.data[:, 450:] = 0
    x = torch.zeros(1, 1, 28, 28)
    small = ps.compact(net, None, x)
    report = ps.report(net, small, x, batch_sizes=(1, 256), repeats=9)
    assert report.structure == "50-200-10"
    assert report.macs["fc1"] == (784 * 500, 784 * 50)
    assert report.total_macs == (545_000, 784 * 50 + 50 * 200 + 200 * 10)
    assert report.parameters == (545_810, 784 * 50 + 50 + 50 * 200 + 200 + 200 * 10 + 10)
    assert abs(report.bytes[1] - 4 * report.parameters[1]) < 1500  # the header
    before, after = report.seconds[256]
    assert after < before
    assert "50-200-10" in str(report) and "batch 256" in str(report)
    assert str(ps.report(net, net, x, batch_sizes=())).startswith("parameters")


def test_a_vanished_layer_counts_nothing() -> None:
    net = networks.resnet20()
    net.stage1.block2.conv2.weight.data.zero_()
    x = torch.zeros(1, 3, 8, 8)
    small = ps.compact(net, None, x, at_least=0)
    report = ps.report(net, small, x, batch_sizes=())
    assert report.macs["stage1.block2.conv1"] == (16 * 16 * 9 * 64, 0)


def test_tied_tensors_and_bad_arguments() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    assert file_bytes(net) > 4 * (16 + 8)
    with pytest.raises(ValueError, match="repeats"):
        ps.measure.latency([net], torch.zeros(1, 4), repeats=0)


def test_rounded_widths_are_told_beside_exact_ones() -> None:
    net = nn.Sequential(nn.Linear(3, 40), nn.ReLU(), nn.Linear(40, 2))
    net[2].weight.data[:, 9:] = 0
    x = torch.ones(2, 3)
    rounded, exact = ps.compact(net, None, x, round_to=8), ps.compact(net, None, x)
    measured = ps.report(net, rounded, x, repeats=1, batch_sizes=(1,))
    alone = ps.report(net, exact, x, batch_sizes=())
    assert measured.parameters[1] == 16 * 4 + 17 * 2
    assert measured.exact.parameters == alone.parameters == (242, 9 * 4 + 10 * 2)
    assert (measured.exact.macs, measured.exact.bytes) == (alone.macs, alone.bytes)
    assert measured.exact.seconds[1][0] == measured.seconds[1][0] and alone.exact is None
    assert "exact widths    9-2\n  parameters    242 -> 56" in str(measured)
    assert "exact" not in str(alone)
