"""The skeletons of CONTRIBUTING.md work as they stand there."""

import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn

import pyrosparse as ps
from pyrosparse import networks
from tests.nets import NETS
from tests.short import short_runs

PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
BLOCKS = [
    textwrap.dedent(one) for one in re.findall(r"^ *```python\n(.*?)^ *```$", PAGE, re.M | re.S)
]


def typed_in(word: str, monkeypatch: pytest.MonkeyPatch, **names: Any) -> dict[str, Any]:
    """What is defined by the one block that has this in it, as a module of its own."""
    (block,) = [one for one in BLOCKS if word in one]
    module = ModuleType("typed_in")
    monkeypatch.setitem(sys.modules, "typed_in", module)
    vars(module).update(names)
    exec(compile(block, "CONTRIBUTING.md", "exec"), vars(module))
    return vars(module)


def test_every_walk_through_has_one() -> None:
    words = ("class Mine(", "class TestMine", "class CutOnce", "class Scaled", "def two_layers")
    found = [word for block in BLOCKS for word in words if word in block]
    assert found == list(words) and len(BLOCKS) == len(words)


def test_a_method_and_its_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = typed_in("class Mine(", monkeypatch)["Mine"]
    monkeypatch.setattr(ps, "Mine", mine, raising=False)
    case = typed_in("class TestMine", monkeypatch)["TestMine"]()
    case.test_bad_arguments_are_refused()
    case.test_planted_support_is_recovered()
    case.test_mean_field_kl_equals_monte_carlo()
    for name in NETS:
        case.test_prior_and_guide_have_the_same_sites_and_shapes(name)
        case.test_gradients_reach_every_parameter_of_guide_and_network(name)
        case.test_compact_posterior_is_the_frozen_one_on_what_is_left(name)
        for elbo in (Trace_ELBO, TraceMeanField_ELBO):
            case.test_elbo_is_finite(name, elbo)


def test_a_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = typed_in("class CutOnce", monkeypatch)["CutOnce"](sparsity=0.5, epochs=1)
    net, data = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3)), torch.randn(40, 4)
    with short_runs():
        result = ps.compress(net, (data, torch.arange(40) % 3), recipe, progress=False)
    assert result.sparsity == pytest.approx(0.5, abs=0.02)
    assert [stage.name for stage in result.stages] == ["cut-once"]


def test_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tripled(nn.Module):
        scale = 3.0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.scale * x if len(x) else x  # a branch, so that the class itself is a leaf

    ps.compaction.register(Tripled, typed_in("class Scaled", monkeypatch)["Scaled"])
    net = nn.Sequential(nn.Linear(4, 5), Tripled(), nn.Linear(5, 3))
    with torch.no_grad():
        net[0].weight[:2] = 0.0  # constants, which the rule must triple
    small, x = ps.compact(net), torch.randn(7, 4)
    assert small.get_submodule("0").out_features == 3 and not small.account.barriers
    torch.testing.assert_close(small(x), net(x))


def test_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"Sequence": Sequence, "nn": nn, "_build": networks._build}
    net = typed_in("def two_layers", monkeypatch, **names)["two_layers"]((1, 8, 8), classes=4)
    assert net(torch.zeros(2, 1, 8, 8)).shape == (2, 4)
    assert sum(one.numel() for one in net.parameters()) == 65 * 100 + 101 * 4
