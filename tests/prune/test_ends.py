"""Units that have nothing left to do: against a search over paths of weights."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import pyrosparse as ps
from pyrosparse.prune.turbo.ends import (
    idle_units,
    units_of,
    with_best_units,
    without_idle_units,
    without_units,
)
from pyrosparse.supports.units import Ends, Units
from tests.nets import Residual, batch, cnn, depthwise


@st.composite
def chains(draw) -> tuple[Units, dict[str, Tensor]]:
    """Random masks of a chain of layers, some of them kernels, one behind a flattening."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=3, max_size=5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    share = draw(st.sampled_from([0.2, 0.5, 0.8]))
    ends, masks, size = {}, {}, {}
    last = len(sizes) - 2
    repeat = draw(st.integers(1, 3))  # how many features of the last layer each unit is
    for layer in range(last + 1):
        inputs, outputs = sizes[layer], sizes[layer + 1]
        place = torch.arange(inputs)
        if layer == last:
            place = place.repeat_interleave(repeat)
        before = (f"u{layer}", place) if layer else None
        behind = f"u{layer + 1}" if layer < last else None
        ends[f"w{layer}"] = Ends(before, behind)
        kernel = (2,) if layer == 0 else ()
        shape = (outputs, len(place), *kernel)
        masks[f"w{layer}"] = torch.rand(shape, generator=generator) < share
        if behind is not None:
            size[behind] = outputs
    return Units(ends, size), masks


def idle(units: Units, masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """From the definition, in loops."""
    found = {}
    for group, count in units.size.items():
        found[group] = torch.zeros(count, dtype=torch.bool)
        for unit in range(count):
            before = [masks[k][unit].any() for k, e in units.ends.items() if e.outputs == group]
            behind = [
                any(masks[k][:, i].any() for i, u in enumerate(e.inputs[1]) if u == unit)
                for k, e in units.ends.items()
                if e.inputs is not None and e.inputs[0] == group
            ]
            found[group][unit] = not all(before) or (bool(behind) and not any(behind))
    return found


@given(chains())
def test_idle_units_are_those_without_weights_before_or_behind(case):
    units, masks = case
    for group, expected in idle(units, masks).items():
        assert torch.equal(idle_units(masks, units)[group], expected)


@given(chains())
def test_what_is_left_lies_on_a_path_from_input_to_output(case):
    """A weight stays exactly where it is on a path of weights through the network."""
    units, masks = case
    names = list(masks)
    edges = []  # of every layer: which features are joined, (outputs, units before)
    for name in names:
        joined = masks[name].flatten(2).any(2) if masks[name].dim() > 2 else masks[name]
        edges.append(joined)

    def unit_of(layer: int) -> Tensor:
        inputs = units.ends[names[layer]].inputs
        return torch.arange(edges[layer].shape[1]) if inputs is None else inputs[1]

    reached = [torch.ones(edges[0].shape[1], dtype=torch.bool)]
    for layer, joined in enumerate(edges):
        reached.append((joined & reached[layer][unit_of(layer)]).any(1))
    needed = [torch.ones(len(edges[-1]), dtype=torch.bool)]
    for layer in reversed(range(len(edges))):
        columns = (edges[layer] & needed[0][:, None]).any(0)
        count = len(edges[layer - 1]) if layer else len(columns)
        units_needed = torch.zeros(count, dtype=torch.bool)
        for column, unit in enumerate(unit_of(layer).tolist()):
            units_needed[unit] |= columns[column]
        needed.insert(0, units_needed)
    result = without_idle_units(masks, units)
    for layer, name in enumerate(names):
        on_path = reached[layer][unit_of(layer)] & needed[layer + 1][:, None]
        mask = masks[name]
        assert torch.equal(
            result[name], mask & on_path.view(*on_path.shape, *[1] * (mask.dim() - 2))
        )
    again = without_idle_units(result, units)
    assert all(torch.equal(again[name], result[name]) for name in names)


@given(chains(), st.integers(0, 2**31))
def test_no_weight_of_a_unit_that_is_off_stays(case, seed):
    units, masks = case
    before = {name: mask.clone() for name, mask in masks.items()}
    generator = torch.Generator().manual_seed(seed)
    off = {g: torch.rand(n, generator=generator) < 0.5 for g, n in units.size.items()}
    result = without_units(masks, units, off)
    for name, mask in result.items():
        ends = units.ends[name]
        gone = torch.zeros_like(mask)
        if ends.outputs is not None:
            gone[off[ends.outputs]] = True
        if ends.inputs is not None:
            gone[:, off[ends.inputs[0]][ends.inputs[1]]] = True
        assert torch.equal(mask, masks[name] & ~gone)
        assert torch.equal(masks[name], before[name])


def test_units_of_a_network():
    net = cnn()
    units = units_of(net, ps.weights(net), (batch("cnn")[0][:1],))
    assert units.size == {"0": 3}
    assert units.ends["0.weight"] == Ends(None, "0")
    inputs = units.ends["5.weight"].inputs
    assert inputs is not None and inputs[0] == "0"
    assert torch.equal(inputs[1], torch.arange(3).repeat_interleave(4))


def test_units_of_a_residual_network_are_within_its_branches():
    net = Residual()
    units = units_of(net, ps.weights(net), (batch("residual")[0][:1],))
    assert "branch.1" in units.size
    assert units.ends["branch.3.weight"].inputs[0] == "branch.1"
    assert "head.weight" not in units.ends


def test_grouped_layers_have_units_at_their_outputs_only():
    net = depthwise()
    units = units_of(net, ps.weights(net), (batch("depthwise")[0][:1],))
    assert units.ends["2.weight"] == Ends(None, "2")
    assert units.ends["4.weight"].inputs[0] == "2"


def test_a_network_without_units_is_refused():
    net = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="no units"):
        units_of(net, ps.weights(net), (torch.ones(1, 3),))


def test_a_layer_keeps_its_best_units_where_all_would_go():
    units = Units(
        {
            "a": Ends(None, "u"),
            "b": Ends(("u", torch.arange(3)), "v"),
            "c": Ends(("v", torch.arange(2)), None),
        },
        {"u": 3, "v": 2},
    )
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (3, 4), "b": (2, 3), "c": (5, 2)}
    scores = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    beliefs = {"u": torch.tensor([-1.0, -3.0, -2.0]), "v": torch.tensor([-5.0, -4.0])}
    none = {key: torch.zeros(shape, dtype=torch.bool) for key, shape in shapes.items()}
    masks = with_best_units(none, units, scores, beliefs, {"u": 2, "v": 1})
    kept = without_idle_units(masks, units)
    assert all(torch.equal(kept[key], masks[key]) for key in masks)  # what is kept leads somewhere
    idle = idle_units(kept, units)
    assert idle["u"].tolist() == [False, True, False] and idle["v"].tolist() == [True, False]
    assert kept["a"][0].nonzero().flatten() == scores["a"][0].argmax()


def test_units_without_weights_are_not_called_back():
    units = Units({"a": Ends(None, "u")}, {"u": 2})
    scores = {"a": torch.tensor([[-torch.inf, -torch.inf], [1.0, 2.0]])}
    none = {"a": torch.zeros(2, 2, dtype=torch.bool)}
    masks = with_best_units(none, units, scores, {}, {"u": 2})
    assert masks["a"].tolist() == [[False, False], [False, True]]
