"""The papers' architectures: their sizes, their shapes, and what they refuse."""

import importlib
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pyrosparse import networks

CIFAR, MNIST, DIGITS = (3, 32, 32), (1, 28, 28), (1, 8, 8)


def count(net: nn.Module, suffix: str = "") -> int:
    return sum(p.numel() for name, p in net.named_parameters() if name.endswith(suffix))


def multiplications(net: nn.Module, image_shape: tuple[int, ...]) -> int:
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        net.eval()(torch.zeros(1, *image_shape))
    return counter.get_total_flops() // 2


def layers(net: nn.Module, kind: type[nn.Module]) -> list[str]:
    return [name for name, module in net.named_modules() if isinstance(module, kind)]


@pytest.mark.parametrize(
    ("name", "image_shape", "parameters"),
    [
        ("fcn", MNIST, 784 * 512 + 512 + 512 * 512 + 512 + 512 * 10 + 10),
        ("cnn", MNIST, 320 + 18_496 + 3136 * 128 + 128 + 1290),
        ("lenet_500_300", MNIST, 545_810),
        ("lenet5_caffe", MNIST, 431_080),
        ("lenet5", MNIST, 61_706),
        ("strided_cnn", (1, 14, 14), 9 * (16 + 16 * 16 + 16 * 24 + 24 * 24) + 160 + 250),
        ("resnet20", CIFAR, 269_722),  # He et al., table 6: 0.27M
        ("resnet56", CIFAR, 853_018),  # He et al., table 6: 0.85M
        ("vgg_like", CIFAR, 14_710_464 + 8448 + 512 * 512 + 1024 + 5130),
        ("vgg11", CIFAR, 9_217_728 + 5504 + 5130),
    ],
)
def test_number_of_parameters(name: str, image_shape: tuple[int, ...], parameters: int) -> None:
    assert count(networks.create(name, image_shape, 10)) == parameters


def test_lenet5_caffe_multiplications() -> None:
    assert multiplications(networks.lenet5_caffe(), MNIST) == 2_293_000


def test_resnet20_multiplications() -> None:
    # 16, 32 and 64 channels at 32, 16 and 8 pixels: 40.6 million in the literature.
    assert multiplications(networks.resnet20(), CIFAR) == pytest.approx(40.6e6, rel=0.01)


def test_lenet5_weights() -> None:
    assert count(networks.lenet5(), "weight") == 61_470


def test_lenet5_with_leaky_relus() -> None:
    slopes = [
        one.negative_slope
        for one in networks.lenet5(negative_slope=0.1).modules()
        if isinstance(one, torch.nn.LeakyReLU)
    ]
    assert slopes == [0.1] * 4
    assert not any(isinstance(one, torch.nn.LeakyReLU) for one in networks.lenet5().modules())


def test_lenet5_sees_32_x_32_either_way() -> None:
    assert networks.lenet5(MNIST).get_parameter("fc1.weight").shape == (120, 400)
    assert networks.lenet5((1, 32, 32)).get_parameter("fc1.weight").shape == (120, 400)


@pytest.mark.parametrize(
    ("name", "structure"),
    [
        ("lenet5", [6, 16, 120, 84, 10]),
        ("lenet5_caffe", [20, 50, 500, 10]),
        ("cnn", [32, 64, 128, 10]),
        ("alexnet_small", [6, 16, 32, 64, 128, 120, 84, 10]),
        ("vgg11", [64, 128, 256, 256, 512, 512, 512, 512, 10]),
        ("vgg_like", [64] * 2 + [128] * 2 + [256] * 3 + [512] * 7 + [10]),
    ],
)
def test_widths(name: str, structure: list[int]) -> None:
    net = networks.create(name, CIFAR, 10)
    weights = [m.weight for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert [len(weight) for weight in weights] == structure


@pytest.mark.parametrize(("name", "blocks"), [("resnet20", 9), ("resnet56", 27)])
def test_resnet_depth(name: str, blocks: int) -> None:
    net = networks.create(name, CIFAR, 10)
    assert len(layers(net, networks.Block)) == blocks
    weighted = layers(net, nn.Conv2d) + layers(net, nn.Linear)
    assert len(weighted) == int(name.removeprefix("resnet"))


@pytest.mark.parametrize("network", [networks.resnet20, networks.resnet56])
def test_width_of_a_resnet_is_that_of_its_first_stage(
    network: Callable[..., nn.Sequential],
) -> None:
    net = network(width=8)
    assert [net[0].out_channels, net.fc.in_features] == [8, 32]
    assert net(torch.zeros(2, *CIFAR)).shape == (2, 10)
    with pytest.raises(ValueError, match="width"):
        network(width=0)


def test_a_strided_network_halves_the_image_at_every_other_convolution() -> None:
    net = networks.strided_cnn((3, 16, 16), 10, widths=(4, 5, 6))
    assert net[:3](torch.zeros(2, 3, 16, 16)).shape == (2, 4, 8, 8)
    assert net[:6](torch.zeros(2, 3, 16, 16)).shape == (2, 5, 8, 8)
    assert net[:9](torch.zeros(2, 3, 16, 16)).shape == (2, 6, 4, 4)
    for widths in ((), (4, 0)):
        with pytest.raises(ValueError, match="widths must be positive"):
            networks.strided_cnn(widths=widths)


def test_readable_layer_names() -> None:
    assert list(dict(networks.cnn().named_children())) == (
        ["conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "flatten", "fc1", "relu3", "fc2"]
    )
    assert layers(networks.fcn(), nn.Linear) == ["fc1", "fc2", "fc3"]
    assert layers(networks.resnet20(), networks.Block)[3] == "stage2.block1"


@pytest.mark.parametrize("name", networks.names())
def test_every_activation_is_a_module_of_its_own(name: str) -> None:
    """A gate hooks a module; one that is called twice could not be told apart."""
    net = networks.create(name, CIFAR, 10).eval()
    calls: dict[str, int] = {}

    def hook(name: str) -> Callable[..., None]:
        def count_call(*arguments: object) -> None:
            calls[name] = calls.get(name, 0) + 1

        return count_call

    for module_name, module in net.named_modules():
        if not list(module.children()):
            module.register_forward_hook(hook(module_name))
    with torch.no_grad():
        net(torch.zeros(1, *CIFAR))
    leaves = [n for n, m in net.named_modules() if not list(m.children())]
    assert calls == dict.fromkeys(leaves, 1)


@pytest.mark.parametrize("name", networks.names())
@pytest.mark.parametrize("image_shape", [MNIST, CIFAR])
def test_logits_and_gradients(name: str, image_shape: tuple[int, ...]) -> None:
    net = networks.create(name, image_shape, classes=7)
    assert net.training
    logits = net(torch.randn(2, *image_shape))
    assert logits.shape == (2, 7) and logits.isfinite().all()
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("name", ["fcn", "cnn", "lenet_500_300"])
def test_digits(name: str) -> None:
    assert networks.create(name, DIGITS, 10)(torch.zeros(3, *DIGITS)).shape == (3, 10)


SMALLEST = {"cnn": 4, "lenet5_caffe": 16, "lenet5": 12, "alexnet_small": 8}


@settings(deadline=None, max_examples=30)
@given(
    name=st.sampled_from(sorted(SMALLEST)),
    channels=st.integers(1, 4),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    classes=st.integers(1, 12),
)
def test_any_image_that_is_large_enough(
    name: str, channels: int, height: int, width: int, classes: int
) -> None:
    shape = (channels, height, width)
    if min(height, width) < SMALLEST[name]:
        with pytest.raises(ValueError, match=f"images of {height} x {width} are too small"):
            networks.create(name, shape, classes)
    else:
        net = networks.create(name, shape, classes)
        assert net(torch.zeros(2, *shape)).shape == (2, classes)


def test_dense_networks_take_rows_too() -> None:
    assert networks.fcn((13,), 3, hidden=(5,))(torch.zeros(4, 13)).shape == (4, 3)


def test_building_leaves_batch_statistics_as_they_start() -> None:
    net = networks.vgg11()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            fresh = nn.BatchNorm2d(module.num_features)
            assert module.training
            assert all(
                torch.equal(buffer, fresh.get_buffer(name))
                for name, buffer in module.named_buffers()
            )


def test_pad_shortcut_is_the_input_with_zero_channels() -> None:
    x = torch.randn(2, 16, 7, 7)
    padded = networks.Pad(extra=16, stride=2)(x)
    assert torch.equal(padded[:, :16], x[:, :, ::2, ::2])
    assert padded.shape == (2, 32, 4, 4) and (padded[:, 16:] == 0).all()


def test_block_adds_its_shortcut() -> None:
    block = networks.Block(4, 4, stride=1, shortcut="pad").eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(block(x), x.relu())


def test_projection_is_a_convolution_without_bias_or_normalisation() -> None:
    pad, projection = networks.resnet20(), networks.resnet20(shortcut="projection")
    assert count(projection) - count(pad) == 16 * 32 + 32 * 64
    shortcut = projection.get_submodule("stage2.block1.shortcut")
    assert isinstance(shortcut, nn.Conv2d)
    assert shortcut.stride == (2, 2) and shortcut.bias is None


@pytest.mark.parametrize("name", networks.names())
def test_state_dict_round_trip(name: str) -> None:
    net, other = (networks.create(name, CIFAR, 10).eval() for _ in "ab")
    other.load_state_dict(net.state_dict())
    x = torch.randn(1, *CIFAR)
    with torch.no_grad():
        assert torch.equal(net(x), other(x))


def test_same_seed_same_weights() -> None:
    nets = []
    for _ in "ab":
        torch.manual_seed(0)
        nets.append(networks.cnn())
    assert torch.equal(*(net.get_parameter("fc1.weight") for net in nets))


def test_descriptions_are_single_sentences() -> None:
    for name in networks.names():
        line = networks.describe(name)
        assert line.endswith(".") and len(line) > 20


@pytest.mark.parametrize(
    "function", [networks.describe, lambda name: networks.create(name, MNIST, 10)]
)
def test_unknown_network(function: Callable[[str], object]) -> None:
    with pytest.raises(ValueError, match="unknown network 'fnc'; did you mean 'fcn'"):
        function("fnc")


def test_unknown_shortcut() -> None:
    with pytest.raises(ValueError, match="unknown shortcut 'padd'; did you mean 'pad'"):
        networks.create("resnet20", CIFAR, 10, shortcut="padd")


def test_unknown_option() -> None:
    with pytest.raises(ValueError, match=r"hiden.*hidden"):
        networks.create("fcn", MNIST, 10, hiden=(3,))


@pytest.mark.parametrize("name", [n for n in networks.names() if n not in ("fcn", "lenet_500_300")])
def test_convolutions_need_images(name: str) -> None:
    with pytest.raises(ValueError, match=r"must be \(channels, height, width\)"):
        networks.create(name, (784,), 10)


@pytest.mark.parametrize(
    ("image_shape", "classes", "hidden"),
    [((1, 0, 28), 10, (5,)), ((1, 28, 28), 0, (5,)), ((1, 28, 28), 10, (0,)), ((), 10, (5,))],
)
def test_sizes_must_be_positive(
    image_shape: tuple[int, ...], classes: int, hidden: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="sizes must be positive"):
        networks.fcn(image_shape, classes, hidden)


def test_torchvision_models() -> None:
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    net = networks.create("torchvision:resnet18", CIFAR, 5).eval()
    with torch.no_grad():
        assert net(torch.zeros(1, *CIFAR)).shape == (1, 5)
    with pytest.raises(ValueError, match="unknown torchvision model 'resnet81'; did you mean"):
        networks.create("torchvision:resnet81", CIFAR, 5)
    with pytest.raises(ValueError, match="take 3 channels; the images have 1"):
        networks.create("torchvision:resnet18", MNIST, 5)


def test_torchvision_that_does_not_import(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(ImportError, match="pip install --upgrade torch torchvision"):
        networks.create("torchvision:resnet18", CIFAR, 10)
