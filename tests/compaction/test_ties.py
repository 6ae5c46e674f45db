"""Which units are which inputs of other layers: against networks with single units zeroed."""

import copy

import pytest
import torch
from torch import Tensor, nn

from pyrosparse import networks
from pyrosparse.compaction.ties import unit_ties
from tests.nets import NETS, batch


class Dense(nn.Module):
    """Each layer reads what all before it gave, as in DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.second = nn.Conv2d(3, 2, 3, padding=1)
        self.third = nn.Conv2d(5, 2, 1)
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        for layer in (self.second, self.third):
            x = torch.cat([x, layer(x).relu()], 1)
        return self.head(x.mean((2, 3)))


class Gated(nn.Module):
    """A product of two layers: a feature is gone with either."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Linear(4, 3, bias=False)
        self.gate = nn.Linear(4, 3, bias=False)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.value(x) * self.gate(x))


class Summed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 3)
        self.two = nn.Linear(4, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.one(x).relu() + self.two(x).relu())


def grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(4, 6, 3, padding=1, groups=2),
        nn.Tanh(),
        nn.Conv2d(6, 3, 1),
        nn.Flatten(),
        nn.Linear(48, 3),
    )


def transposed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 1), nn.Tanh(), nn.ConvTranspose2d(3, 2, 2), nn.Tanh(), nn.Conv2d(2, 2, 1)
    )


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Conv2d(3, 4, 1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(16, 5),
        nn.Tanh(),
        nn.Linear(5, 2),
    )


def vgg() -> nn.Module:
    """Padded convolutions with batch normalisation, pooled, flattened."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 3), (3, 5)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.Tanh()]
        layers += [nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.Tanh()]
        layers += [nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


def residual_blocks() -> nn.Module:
    blocks = [networks.Block(3, 3, 1, "pad"), networks.Block(3, 4, 2, "pad")]
    for block in blocks:  # an activation that leaves no unit constant by chance
        block.relu1, block.relu2 = nn.Tanh(), nn.Tanh()
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.Tanh(),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


CASES = NETS | {
    "concat": Dense,
    "product": Gated,
    "sum": Summed,
    "grouped": grouped,
    "transposed": transposed,
    "lenet": lenet,
    "vgg": vgg,
    "residual blocks": residual_blocks,
}


def inputs_of(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """What each layer with weights reads, (batch, features, anything)."""
    seen: dict[str, Tensor] = {}
    handles = []
    for name, layer in net.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):

            def note(_: nn.Module, args: tuple, name: str = name) -> None:
                seen[name] = args[0].flatten(2) if args[0].dim() > 2 else args[0].unsqueeze(-1)

            handles.append(layer.register_forward_pre_hook(note))
    net(x)
    for handle in handles:
        handle.remove()
    return seen


def brute_force(net: nn.Module, x: Tensor) -> dict[tuple[str, str], list[int]]:
    """By producer and consumer, the unit without which each feature is the same for all inputs; -1
    where there is none."""

    def constant(net: nn.Module) -> dict[str, Tensor]:
        return {
            name: (values - values[:1]).abs().amax((0, 2)) < 1e-12
            for name, values in inputs_of(net, x).items()
        }

    start = constant(net)
    found = {}
    for producer in start:
        layer = net.get_submodule(producer)
        dim = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
        units = {name: [-1] * len(features) for name, features in start.items()}
        for unit in range(layer.weight.shape[dim]):
            silent = copy.deepcopy(net)
            silent.get_submodule(producer).weight.data.select(dim, unit).zero_()
            for name, features in constant(silent).items():
                for feature in (features & ~start[name]).nonzero().flatten().tolist():
                    units[name][feature] = unit
        for consumer, tied in units.items():
            if max(tied) >= 0:
                found[producer, consumer] = tied
    return found


@pytest.mark.parametrize("name", CASES)
def test_ties_are_those_of_networks_without_the_unit(name: str):
    torch.manual_seed(1)
    net = CASES[name]().double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
    x = batch(name, 200)[0].double()
    if name in ("product", "sum"):
        x = torch.randn(200, 4).double()
    before = copy.deepcopy(net.state_dict())
    found = {(tie.producer, tie.consumer): tie.units.tolist() for tie in unit_ties(net, (x[:1],))}
    with torch.no_grad():
        assert found == brute_force(net, x)
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key])


def names(name: str) -> set[tuple[str, str]]:
    return {(tie.producer, tie.consumer) for tie in unit_ties(CASES[name](), (batch(name)[0][:1],))}


def test_residual_streams_are_tied_to_nothing():
    # The stem alone reaches the first block; after the sums, only what is inside a block is tied,
    # and the channel that the shortcut pads with zeros.
    assert names("residual blocks") == {
        ("0", "2.conv1"),
        ("2.conv1", "2.conv2"),
        ("3.conv1", "3.conv2"),
        ("3.conv2", "6"),
    }


def test_a_layer_of_one_unit_is_tied():
    net = nn.Sequential(nn.Linear(2, 1), nn.Tanh(), nn.Linear(1, 2))
    (tie,) = unit_ties(net, (torch.ones(1, 2),))
    assert tie.units.tolist() == [0]


def test_networks_that_cannot_be_traced_are_refused():
    class Wayward(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) if x.sum() > 0 else x

    with pytest.raises(ValueError, match="trace"):
        unit_ties(Wayward(), (torch.ones(1, 3),))
