"""Widths that are multiples of a number."""

import inspect

import pytest
import torch
from torch import nn

import pyrosparse as ps
from pyrosparse.compaction.fastest import fastest
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
    with pytest.raises(ValueError, match=r"a number of features, 1 or more.*; got 0"):
        ps.compact(net, None, torch.ones(1, 3), round_to=0)


def timer_of(*seconds: float):
    """A timer that gives these for the networks it is asked for, which must be as many."""

    def timer(nets: list[nn.Module], *inputs: object) -> list[float]:
        assert len(nets) == len(seconds)
        with torch.no_grad():
            results = [net(*inputs) for net in nets]
        assert all(same(result[0], results[0][0]) for result in results)
        return list(seconds)

    return timer


def wide() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(3, 40), nn.ReLU(), nn.Linear(40, 2))
    net[2].weight.data[:, 9:] = 0
    return net.double()


@pytest.mark.parametrize(
    ("seconds", "width", "chosen"),
    [
        ((8.0, 9.0, 6.0, 7.0), 16, 8),  # 16 as a multiple of 8, not timed again as one of 16
        ((8.0, 7.9, 9.0, 9.0), 9, 1),  # no difference that a measurement shows
        ((8.0, 9.0, 9.0, 4.0), 32, 32),
    ],
)
def test_the_fastest_width(seconds, width: int, chosen: int, monkeypatch) -> None:
    monkeypatch.setattr(fastest, "__defaults__", (timer_of(*seconds),))
    net = wide()
    small = ps.compact(net, None, draw(5, 3), round_to="fastest")
    assert small.get_submodule("2").in_features == width
    assert small.account.round_to == chosen
    assert list(small.account.times) == [1, 4, 8, 32]
    assert list(small.account.times.values()) == [one / seconds[0] for one in seconds]
    told = "multiples of" if chosen > 1 else "exact"
    assert f"widths: {told}" in str(small.account)


def test_what_is_cut_in_place_has_a_fastest_width_and_is_called_by_name(monkeypatch) -> None:
    monkeypatch.setattr(fastest, "__defaults__", (timer_of(2.0, 1.0, 1.5),))
    net = random_numbers(Gated())
    net.down.weight.data[:, :7] = 0
    (name,) = inspect.signature(net.forward).parameters
    small = ps.compact(net, None, {name: draw(2, 3, 6)}, round_to="fastest")
    assert type(small) is Gated and small.down.in_features == 8 and small.account.round_to == 4


def test_one_width_is_not_timed(monkeypatch) -> None:
    monkeypatch.setattr(fastest, "__defaults__", (timer_of(),))
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
    account = ps.compact(net, round_to="fastest").account
    assert account.times == {} and "widths" not in str(account)


def test_the_times_are_in_the_file(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(fastest, "__defaults__", (timer_of(4.0, 3.0, 2.0, 1.0),))
    small = ps.compact(wide(), round_to="fastest")
    assert ps.load(ps.save(tmp_path / "small.safetensors", small)).account == small.account


def test_round_to_is_a_number_or_fastest() -> None:
    with pytest.raises(ValueError, match="1 or more, or \"fastest\"; got 'slowest'"):
        ps.compact(wide(), round_to="slowest")  # type: ignore[call-overload]
