"""Compaction of whole architectures: the compact network computes what the masked one does."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, fx, nn
from torch.nn import functional as F

import pyrosparse as ps
from pyrosparse import networks
from tests.compaction.cases import (
    Dense,
    Separable,
    TransformerBlock,
    gains,
    randomise,
    run_masked,
    same,
    structured,
)


def residual_8(shortcut: str) -> nn.Module:
    """The resnet20 of the package with one block a stage."""
    net = networks.resnet20(shortcut=shortcut)
    for stage in (net.stage1, net.stage2, net.stage3):
        del stage.block2, stage.block3
    return net


def bottleneck() -> nn.Module:
    block = torchvision.models.resnet.Bottleneck
    net = torchvision.models.ResNet(block, [2, 2, 1, 1])
    net.layer3 = net.layer4 = nn.Identity()  # for time
    net.fc = nn.Linear(512, 7)
    return net


def vgg_small() -> nn.Module:
    groups = [(8,), (12, 12), (16,)]
    return networks._vgg((3, 16, 16), 10, groups, hidden=(20,))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "fcn": (lambda: networks.fcn((1, 12, 12), hidden=(40, 30)), (3, 1, 12, 12)),
    "lenet5_caffe": (lambda: networks.lenet5_caffe((1, 20, 20)), (3, 1, 20, 20)),
    "cnn": (lambda: networks.cnn((1, 8, 8)), (3, 1, 8, 8)),
    "vgg": (vgg_small, (3, 3, 16, 16)),
    "resnet_pad": (lambda: residual_8("pad"), (3, 3, 16, 16)),
    "resnet_projection": (lambda: residual_8("projection"), (3, 3, 16, 16)),
    "bottleneck": (bottleneck, (3, 3, 32, 32)),
    "dense": (Dense, (3, 3, 8, 8)),
    "separable": (Separable, (3, 3, 8, 8)),
    "transformer": (TransformerBlock, (3, 7, 16)),
    "transformer_torch": (lambda: TransformerBlock(torchs=True), (3, 7, 16)),
}
KINDS = ("weights", "input", "output", "both")


def make(name: str, seed: int = 0) -> tuple[nn.Module, Tensor]:
    build, shape = NETWORKS[name]
    generator = torch.Generator().manual_seed(seed)
    return randomise(build(), seed), torch.randn(shape, generator=generator).double()


def masks_of(net: nn.Module, kind: str, density: float, seed: int) -> dict[str, Tensor]:
    # Torch's attention computes past the hooks of its out_proj, and past its masks of gates.
    if kind == "weights":
        masks = structured(net, density, seed)
    elif kind == "both":
        masks = structured(net, density, seed) | gains(net, density, seed, "input")
    else:
        masks = gains(net, density, seed, kind)
    return {key: mask for key, mask in masks.items() if "out_proj" not in key}


def size(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize("density, seed", [(0.8, 0), (0.4, 0), (0.4, 1)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_equals_the_masked_network(name: str, kind: str, density: float, seed: int) -> None:
    net, x = make(name, seed)
    masks = masks_of(net, kind, density, seed)
    before = copy.deepcopy(net.state_dict())
    small = ps.compact(net, masks, x, at_least=seed)
    assert not small.account.barriers or name.startswith("transformer")
    expected = run_masked(net, masks, x)
    assert same(small.eval()(x), expected)
    if name != "transformer_torch" or kind != "output":
        assert size(small) < size(net)
    other = torch.randn(5, *x.shape[1:], generator=torch.Generator().manual_seed(9)).double()
    assert same(small(other), run_masked(net, masks, other))
    assert net.training and all(torch.equal(before[k], v) for k, v in net.state_dict().items())


@pytest.mark.parametrize("name", NETWORKS)
def test_float32(name: str) -> None:
    net, x = make(name)
    net, x = net.float(), x.float()
    masks = masks_of(net, "both", 0.6, 0)
    small = ps.compact(net, masks, x, at_least=0)
    assert same(small.eval()(x), run_masked(net, masks, x), 1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_full_masks_change_nothing_and_a_second_pass_neither(name: str) -> None:
    net, x = make(name)
    masks = {key: torch.ones_like(mask) for key, mask in masks_of(net, "both", 0.5, 0).items()}
    whole = ps.compact(net, masks, x)
    assert size(whole) == size(net)
    assert dict(whole.named_parameters()).keys() == dict(net.named_parameters()).keys()
    once = ps.compact(net, masks_of(net, "weights", 0.5, 0), x, at_least=0)
    twice = ps.compact(once, None, x, at_least=0)
    assert size(once) == size(twice)
    assert twice.account.structure == once.account.structure


def test_every_layer_stays_in_its_mode() -> None:
    net, x = make("resnet_pad")
    frozen = {name for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)}
    for name in frozen:
        net.get_submodule(name).eval()
    small = ps.compact(net, masks_of(net, "both", 0.5, 0), x, at_least=0)
    for other in (small, copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        modes = {name: module.training for name, module in other.named_modules()}
        assert modes[""] and {name for name, training in modes.items() if not training} <= frozen
        assert any(not training for training in modes.values())


def test_result_is_an_ordinary_module() -> None:
    net, x = make("resnet_pad")
    masks = masks_of(net, "both", 0.5, 0)
    small = ps.compact(net, masks, x, at_least=0)
    assert small.training
    expected = small.eval()(x)
    for other in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        assert torch.equal(other(x), expected)
        assert str(other.account) == str(small.account) and not other.training
    other.load_state_dict(
        {k: torch.zeros_like(v) for k, v in small.state_dict().items()}, strict=False
    )
    with torch.no_grad():
        assert same(fx.symbolic_trace(small)(x[:2]), expected[:2])
        assert same(torch.export.export(small, (x,)).module()(x), expected)
    optimizer = torch.optim.SGD(small.parameters(), lr=1e-3)
    small.train()
    first = F.cross_entropy(small(x), torch.tensor([0, 1, 2]))
    first.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in small.parameters())
    optimizer.step()
    assert F.cross_entropy(small(x), torch.tensor([0, 1, 2])) < first
