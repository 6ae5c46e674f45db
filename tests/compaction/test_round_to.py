"""Widths that are multiples of a number."""

import pytest
import torch
from torch import nn

import pyrosparse as ps
from tests.compaction.cases import randomise, same
from tests.compaction.test_in_place import Gated, draw
from tests.compaction.test_in_place import randomise as random_numbers


def test_layers_read_multiples() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 20, 3), nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 24, 1), nn.Flatten(),
        nn.Linear(24 * 4, 30), nn.ReLU(), nn.Linear(30, 5),
    )  # fmt: skip
    randomise(net).eval()
    net[3].weight.data[:, 9:] = 0
    net[5].weight.data[:13] = 0  # constant
    net[7].weight.data[:, 27:] = 0
    x = draw(2, 3, 4, 4)
    small, exact = ps.compact(net, None, x, round_to=8), ps.compact(net, None, x)
    assert (exact.get_submodule("3").in_channels, exact.get_submodule("7").in_features) == (9, 14)
    assert (small.get_submodule("3").in_channels, small.get_submodule("7").in_features) == (16, 16)
    assert small.get_submodule("0").out_channels == 16
    assert "7 inputs stay: widths are multiples of 8" in str(small.account)
    assert not any(isinstance(m, ps.compaction.parts.Select) for m in small.modules())
    assert same(small(x), net(x)) and same(exact(x), net(x))


def test_what_is_cut_in_place_too() -> None:
    net = random_numbers(Gated())
    net.down.weight.data[:, :7] = 0
    small = ps.compact(net, None, draw(2, 3, 6), round_to=4)
    assert small.down.in_features == 8 and same(small(draw(2, 3, 6)), net(draw(2, 3, 6)))


def test_no_more_than_there_were() -> None:
    net = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))
    net[2].weight.data[:, 5] = 0
    assert ps.compact(net, round_to=8).get_submodule("2").in_features == 6
    with pytest.raises(ValueError, match="round_to is a number of features, 1 or more; got 0"):
        ps.compact(net, None, torch.ones(1, 3), round_to=0)
