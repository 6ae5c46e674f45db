"""What is folded into the weights: masks, gates on normalisations, parametrizations."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import pyrosparse as ps
from pyrosparse.compaction.masked import masked
from tests.compaction.cases import (
    run_masked,
    same,
)


def lenet() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))


def test_pruned_and_parametrized_networks() -> None:
    net = lenet().double()
    x = torch.randn(3, 6).double()
    prune.ln_structured(net[0], "weight", amount=0.4, n=2, dim=0)
    with pytest.raises(ValueError, match=r"prune\.remove"):
        net(x)
        ps.compact(net, None, x)
    prune.remove(net[0], "weight")
    nn.utils.parametrizations.weight_norm(net[2])
    small = ps.compact(net, None, x)
    assert small.get_submodule("0").out_features == 3
    assert same(small(x), net(x))


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"fc9.weight": torch.ones(2)}, "unknown mask 'fc9.weight'"),
        ({"0.weight": torch.ones(2)}, "shape"),
        ({"0.output": torch.ones(2)}, "shape"),
        ({"1.output": torch.ones(5)}, "gates are supported on"),
        ({"0.bias": torch.ones(5), "7.input": torch.ones(5)}, "unknown mask '7.input'"),
    ],
)
def test_wrong_masks(masks: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ps.compact(lenet(), masks)


def test_masked_weights_are_positive_zeros() -> None:
    net = lenet()
    masks = {"0.weight": torch.rand(5, 6) < 0.5, "2.output": torch.tensor([1.0, 0.0, 2.0, 0.0])}
    assert ((net[0].weight < 0) & ~masks["0.weight"]).any()
    for small in (masked(net, masks), ps.compact(net, masks)):
        for parameter in small.parameters():
            assert not parameter[parameter == 0].signbit().any()


NORMS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "batch": (lambda: nn.BatchNorm1d(6), (4, 6)),
    "batch without scale": (lambda: nn.BatchNorm1d(6, affine=False), (4, 6)),
    "batch without statistics": (lambda: nn.BatchNorm1d(6, track_running_stats=False), (4, 6)),
    "layer": (lambda: nn.LayerNorm(6), (4, 3, 6)),
    "layer without scale": (lambda: nn.LayerNorm(6, elementwise_affine=False), (4, 6)),
    "layer without bias": (lambda: nn.LayerNorm(6, bias=False), (4, 6)),
    "group": (lambda: nn.GroupNorm(3, 6), (4, 6, 5)),
    "group without scale": (lambda: nn.GroupNorm(2, 6, affine=False), (4, 6)),
}


@pytest.mark.parametrize("kind", ["input", "output"])
@pytest.mark.parametrize("name", NORMS)
def test_gates_on_normalisations(name: str, kind: str) -> None:
    build, shape = NORMS[name]
    norm = build()
    if norm.weight is not None:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    if getattr(norm, "running_mean", None) is not None:
        nn.init.normal_(norm.running_mean)
    dense = len(shape) == 2 or name == "layer"
    before = nn.Linear(6, 6) if dense else nn.Conv1d(6, 6, 1)
    after = nn.Linear(6, 2) if dense else nn.Conv1d(6, 2, 1)
    net = nn.Sequential(before, norm, after).double()
    before.weight.data[5] = 0
    masks = {f"1.{kind}": torch.tensor([0.0, 0.5, 2.0, 1.0, 0.7, 0.0]).double()}
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
    small = ps.compact(net, masks, x)
    assert same(small.eval()(x), run_masked(net, masks, x))
    last = small.get_submodule("2")
    read = last.in_features if dense else last.in_channels
    alone = kind == "output" or (name.startswith("batch") and "statistics" not in name)
    # Behind a layer norm the two that are zero before it are multiples of each other.
    assert read == (4 if alone else 5 if name.startswith("layer") else 6)
