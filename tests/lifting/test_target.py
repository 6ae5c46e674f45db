"""Selecting targets: by name, type, predicate and sequence; what is chosen when none is named."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import pyrosparse as ps
from tests.nets import Residual, Tied, cnn


def names(targets: list[ps.Target]) -> list[str]:
    return [target.name for target in targets]


def test_by_default_weights_are_those_of_dense_and_convolutional_layers():
    assert names(ps.weights(cnn())) == ["0.weight", "5.weight"]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("0.*", ["0.weight"]),
        ("0", ["0.weight"]),
        ("*.bias", ["1.bias", "5.bias"]),
        ("*", ["0.weight", "1.weight", "1.bias", "5.weight", "5.bias"]),
        (nn.Linear, ["5.weight"]),
        (nn.BatchNorm2d, ["1.weight"]),
        (lambda name, module: "bias" in name, ["1.bias", "5.bias"]),
        (["5.bias", nn.Conv2d], ["0.weight", "5.bias"]),
        (("0", lambda name, module: isinstance(module, nn.Linear)), "0.weight 5.weight 5.bias"),
    ],
)
def test_weights_by(where, expected):
    expected = expected.split() if isinstance(expected, str) else expected
    assert names(ps.weights(cnn(), where)) == expected


@pytest.mark.parametrize("select", [ps.inputs, ps.outputs])
@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("5", ["5"]),
        ("*", ["0", "1", "5"]),  # activations and pools have no features of their own
        (nn.Conv2d, ["0"]),
        (lambda name, module: name in "01" and name != "", ["0", "1"]),
        (["5", nn.BatchNorm2d], ["1", "5"]),
    ],
)
def test_features_by(select, where, expected):
    assert names(select(cnn(), where)) == expected


def test_by_default_inputs_are_those_of_every_dense_and_convolutional_layer():
    assert [(t.name, t.shape, t.axis) for t in ps.inputs(cnn())] == [
        ("0", (1,), 1),
        ("5", (12,), -1),
    ]


def test_by_default_outputs_leave_out_the_last_layers():
    assert [(t.name, t.shape, t.axis) for t in ps.outputs(cnn())] == [("0", (3,), 1)]
    assert names(ps.outputs(Residual())) == ["stem", "branch.1", "branch.3"]


def test_outputs_of_the_last_layer_can_be_named():
    assert names(ps.outputs(cnn(), "5")) == ["5"]


@pytest.mark.parametrize("select", [ps.weights, ps.inputs, ps.outputs])
def test_a_near_miss_is_named(select):
    net = nn.Sequential()
    net.add_module("encoder", nn.Linear(3, 2))
    with pytest.raises(ValueError, match="did you mean 'encoder"):
        select(net, "encodr.weight" if select is ps.weights else "encodr")


@pytest.mark.parametrize("select", [ps.weights, ps.inputs, ps.outputs])
def test_nothing_found_says_what_there_is(select):
    with pytest.raises(ValueError, match="encoder"):
        net = nn.Sequential()
        net.add_module("encoder", nn.Linear(3, 2))
        select(net, nn.Conv2d)


@pytest.mark.parametrize("select", [ps.inputs, ps.outputs])
def test_features_that_are_not_known_are_refused(select):
    with pytest.raises(ValueError, match=r"'3' \(MaxPool2d\)"):
        select(cnn(), "3")


def test_tied_weights_are_one_target_under_the_first_name():
    net = Tied()
    (target,) = ps.weights(net)
    assert target.name == "first.weight"
    assert target.value is net.second.weight


@pytest.mark.parametrize("select", [ps.weights, ps.inputs, ps.outputs])
def test_lazy_modules_must_be_run_first(select):
    net = nn.Sequential(nn.LazyLinear(3), nn.ReLU(), nn.LazyLinear(2))
    with pytest.raises(ValueError, match=r"lazy.*forward pass"):
        select(net)
    net(torch.ones(1, 4))
    assert select(net)[0].shape == {ps.weights: (3, 4), ps.inputs: (4,), ps.outputs: (3,)}[select]


def test_a_single_layer_can_be_selected():
    net = nn.Linear(3, 2)
    assert names(ps.weights(net)) == ["weight"]
    assert [target.shape for target in ps.inputs(net)] == [(3,)]
    with pytest.raises(ValueError):
        ps.outputs(net)


def test_value_is_the_parameter_itself():
    net = nn.Linear(3, 2)
    assert ps.weights(net)[0].value is net.weight


@given(st.lists(st.integers(1, 5), min_size=2, max_size=5))
def test_shapes_are_those_of_the_layers(widths):
    net = nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(widths)))
    assert [t.shape for t in ps.inputs(net)] == [(width,) for width in widths[:-1]]
    assert [t.shape for t in ps.weights(net)] == [tuple(layer.weight.shape) for layer in net]
    assert [t.shape for t in ps.outputs(net, "*")] == [(width,) for width in widths[1:]]


def test_keys_and_sites():
    gate = ps.Target("fc", "output", (2,), axis=-1, prefix="encoder")
    assert (gate.key, gate.site) == ("fc.output", "encoder.fc.output")
    weight = ps.Target("fc.weight", "weight", (2, 3))
    assert (weight.key, weight.site) == ("fc.weight", "fc.weight")


def test_gates_sit_behind_normalisation_and_not_at_the_very_end() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.Flatten(),
        nn.Linear(6, 5),
        nn.ReLU(),
        nn.Linear(5, 2),
    )
    assert [(t.key, t.shape) for t in ps.gates(net)] == [
        ("0.output", (4,)),
        ("3.output", (6,)),
        ("5.input", (6,)),
        ("7.input", (5,)),
    ]
    dense = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    assert [t.key for t in ps.gates(dense)] == ["0.input", "3.input"]
    ends = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))
    assert [t.key for t in ps.gates(ends)] == ["0.output"]
    with pytest.raises(ValueError, match="no dense or convolutional layer"):
        ps.gates(nn.ReLU())
