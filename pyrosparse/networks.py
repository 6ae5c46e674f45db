"""The papers' architectures by name: plain modules from images (N, C, H, W) to logits."""

import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyrosparse.torchvision_networks import check_model, create_torchvision
from pyrosparse.util.errors import unknown_name

Shortcut = Literal["pad", "projection"]

# One step of a convolutional body: (channels, kernel size, padding), or a 2x2 max-pool.
Step = tuple[int, int, int] | Literal["pool"]


def fcn(
    image_shape: Sequence[int] = (1, 28, 28), classes: int = 10, hidden: Sequence[int] = (512, 512)
) -> nn.Sequential:
    """Fully connected network with ReLU, two hidden layers by default (Bayesian pruning).

    x: (N, *image_shape) float32 -> logits: (N, classes) float32. The paper gives no widths.
    Raises ValueError if a size is not positive.

    >>> fcn(hidden=(100, 50)).fc2
    Linear(in_features=100, out_features=50, bias=True)
    """
    return _build(image_shape, classes, body=(), hidden=hidden)


def cnn(
    image_shape: Sequence[int] = (1, 28, 28), classes: int = 10, hidden: Sequence[int] = (128,)
) -> nn.Sequential:
    """Two 3x3 convolutions (32, 64) with ReLU and max-pool, then dense 128 (Bayesian pruning).

    x: (N, C, H, W) float32 -> logits: (N, classes) float32. The paper gives neither the kernel size
    nor the dense width. Raises ValueError if the images are smaller than 4 x 4.

    >>> cnn(image_shape=(3, 32, 32)).fc1.in_features
    4096
    """
    return _build(image_shape, classes, [(32, 3, 1), "pool", (64, 3, 1), "pool"], hidden)


def lenet_500_300(image_shape: Sequence[int] = (1, 28, 28), classes: int = 10) -> nn.Sequential:
    """LeNet-500-300: fully connected, hidden layers of 500 and 300 units (beta-Bernoulli dropout).

    x: (N, *image_shape) float32 -> logits: (N, classes) float32.
    Raises ValueError if a size is not positive.

    >>> sum(parameter.numel() for parameter in lenet_500_300().parameters())
    545810
    """
    return _build(image_shape, classes, body=(), hidden=(500, 300))


def lenet5_caffe(image_shape: Sequence[int] = (1, 28, 28), classes: int = 10) -> nn.Sequential:
    """LeNet-5-Caffe: two 5x5 convolutions (20, 50), then dense 500 (beta-Bernoulli dropout).

    x: (N, C, H, W) float32 -> logits: (N, classes) float32. ReLU after each hidden layer, as in the
    pruning literature; Caffe's own file has only the one after fc1.
    Raises ValueError if the images are smaller than 16 x 16.

    >>> sum(parameter.numel() for parameter in lenet5_caffe().parameters())
    431080
    """
    return _build(image_shape, classes, [(20, 5, 0), "pool", (50, 5, 0), "pool"], hidden=(500,))


def lenet5(
    image_shape: Sequence[int] = (1, 28, 28), classes: int = 10, negative_slope: float = 0.0
) -> nn.Sequential:
    """LeNet-5: 5x5 convolutions (6, 16), max-pools, then dense 120 and 84, ReLU (Turbo-VBI).

    x: (N, C, H, W) float32 -> logits: (N, classes) float32. The network is made for 32 x 32: images
    x: (N, C, H, W) float32 -> logits: (N, classes) float32. The network is made for 32 x 32: images
    smaller than that get a border of 2. With a `negative_slope` its ReLUs are leaky: the authors'
    public code has 0.1. Raises ValueError if the images are smaller than 12 x 12.

    >>> sum(p.numel() for name, p in lenet5().named_parameters() if name.endswith("weight"))
    61470
    """
    border = 2 if min(image_shape[1:], default=0) < 32 else 0
    body: list[Step] = [(6, 5, border), "pool", (16, 5, 0), "pool"]
    return _build(image_shape, classes, body, (120, 84), negative_slope=negative_slope)


def alexnet_small(image_shape: Sequence[int] = (3, 32, 32), classes: int = 10) -> nn.Sequential:
    """Small AlexNet for CIFAR: convolutions 6-16-32-64-128, then dense 120 and 84 (Turbo-VBI).

    x: (N, C, H, W) float32 -> logits: (N, classes) float32. The paper gives the widths only; the
    3x3 kernels are ours, the places of the three max-pools are AlexNet's.
    Raises ValueError if the images are smaller than 8 x 8.

    >>> alexnet_small().fc1.in_features
    2048
    """
    body: list[Step] = [(6, 3, 1), "pool", (16, 3, 1), "pool", (32, 3, 1), (64, 3, 1), (128, 3, 1)]
    return _build(image_shape, classes, [*body, "pool"], hidden=(120, 84))


def vgg_like(image_shape: Sequence[int] = (3, 32, 32), classes: int = 10) -> nn.Sequential:
    """VGG-like: 13 batch-normalised convolutions, then dense 512 (beta-Bernoulli dropout).

    x: (N, C, H, W) float32 -> logits: (N, classes) float32. Zagoruyko's network, but
    without its dropout, and without biases before a batch normalisation.
    Raises ValueError if a size is not positive.

    >>> vgg_like().conv13
    Conv2d(512, 512, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
    """
    groups = [(64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)]
    return _vgg(image_shape, classes, groups, hidden=(512,))


def vgg11(image_shape: Sequence[int] = (3, 32, 32), classes: int = 10) -> nn.Sequential:
    """VGG-11 for CIFAR: 8 batch-normalised convolutions and one dense layer (Turbo-VBI).

    x: (N, C, H, W) float32 -> logits: (N, classes) float32. Without biases before a batch
    normalisation. Raises ValueError if a size is not positive.

    >>> vgg11(classes=100).fc1
    Linear(in_features=512, out_features=100, bias=True)
    """
    groups = [(64,), (128,), (256, 256), (512, 512), (512, 512)]
    return _vgg(image_shape, classes, groups, hidden=())


def strided_cnn(
    image_shape: Sequence[int] = (1, 14, 14),
    classes: int = 10,
    widths: Sequence[int] = (16, 16, 24, 24),
) -> nn.Sequential:
    """Small: batch-normalised 3x3 convolutions of strides 2, 1, 2, 1, then their mean (ours).

    x: (N, C, H, W) float32 -> logits: (N, classes) float32. It trains in seconds, for studies with
    many runs: the suite `gibbs-small`. There are as many convolutions as `widths`, every other one
    of stride 2. Raises ValueError if a size is not positive or there is no width.

    >>> strided_cnn().conv2
    Conv2d(16, 16, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
    """
    _check_images(image_shape, classes)
    if not widths or min(widths) < 1:
        raise ValueError(f"widths must be positive, one or more; got {tuple(widths)}")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    inputs = image_shape[0]
    for depth, outputs in enumerate(widths, start=1):
        layers[f"conv{depth}"] = nn.Conv2d(
            inputs, outputs, 3, stride=1 + depth % 2, padding=1, bias=False
        )
        layers[f"bn{depth}"] = nn.BatchNorm2d(outputs)
        layers[f"relu{depth}"] = nn.ReLU()
        inputs = outputs
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(inputs, classes)
    return nn.Sequential(layers)


def resnet20(
    image_shape: Sequence[int] = (3, 32, 32),
    classes: int = 10,
    shortcut: Shortcut = "pad",
    width: int = 16,
) -> nn.Sequential:
    """ResNet-20 for CIFAR: three stages of 16, 32 and 64 channels (He et al.; Gibbs pruning).

    x: (N, C, H, W) float32 -> logits: (N, classes) float32. If the shape changes, `shortcut` "pad"
    adds zero channels (He et al.), "projection" is a 1x1 convolution alone (Gibbs pruning).
    A `width` other than 16 makes it narrower or wider: width, 2 width and 4 width channels.
    Raises ValueError if a size is not positive or the shortcut is unknown.

    >>> sum(parameter.numel() for parameter in resnet20().parameters())
    269722
    """
    return _resnet(image_shape, classes, shortcut, width, depth=3)


def resnet56(
    image_shape: Sequence[int] = (3, 32, 32),
    classes: int = 10,
    shortcut: Shortcut = "pad",
    width: int = 16,
) -> nn.Sequential:
    """ResNet-56 for CIFAR: three stages of 16, 32 and 64 channels (He et al.; Gibbs pruning).

    x: (N, C, H, W) float32 -> logits: (N, classes) float32. Options as for `resnet20`.
    Raises ValueError if a size is not positive or the shortcut is unknown.

    >>> len(resnet56().stage1)
    9
    """
    return _resnet(image_shape, classes, shortcut, width, depth=9)


_NETWORKS: dict[str, Callable[..., nn.Module]] = {
    network.__name__: network
    for network in (
        fcn,
        cnn,
        lenet_500_300,
        lenet5_caffe,
        lenet5,
        alexnet_small,
        vgg_like,
        vgg11,
        strided_cnn,
        resnet20,
        resnet56,
    )
}


def names() -> tuple[str, ...]:
    """The names that `create` accepts, besides "torchvision:<model>".

    >>> names()[:3]
    ('fcn', 'cnn', 'lenet_500_300')
    """
    return tuple(_NETWORKS)


def describe(name: str) -> str:
    """One line about the network of that name, for every name that `create` accepts.

    Raises ValueError if there is none.

    >>> describe("vgg11")
    'VGG-11 for CIFAR: 8 batch-normalised convolutions and one dense layer (Turbo-VBI).'
    >>> describe("torchvision:resnet18")
    "torchvision's resnet18."
    """
    family, _, model = name.partition(":")
    if family == "torchvision":
        check_model(model)
        return f"torchvision's {model}."
    return (_network(name).__doc__ or "").splitlines()[0]


def create(name: str, image_shape: Sequence[int], classes: int, **options: Any) -> nn.Module:
    """Make a network by name: one of `names()`, or for example "torchvision:resnet18".

    image_shape: (C, H, W); the network maps (N, C, H, W) float32 to logits (N, classes) float32.
    Raises ValueError if the name or an option is unknown or the images do not suit the network, and
    ImportError if torchvision is needed and does not import.

    >>> create("fcn", image_shape=(1, 8, 8), classes=10, hidden=(32, 16)).fc1
    Linear(in_features=64, out_features=32, bias=True)
    """
    family, _, model = name.partition(":")
    if family == "torchvision":
        _check_images(image_shape, classes)
        return create_torchvision(model, image_shape, classes, **options)
    function = _network(name)
    known_options = list(inspect.signature(function).parameters)[2:]
    for option in options:
        if option not in known_options:
            raise unknown_name(f"option of {name}", option, known_options)
    try:
        return function(image_shape, classes, **options)
    except TypeError as error:  # from a value that is not a size
        raise ValueError(f"{name} does not take {options}: {error}") from error


class Block(nn.Module):
    """Residual block of He et al.: two 3x3 convolutions beside a shortcut.

    x: (N, inputs, H, W) float32 -> (N, outputs, ceil(H / stride), ceil(W / stride)) float32.

    >>> import torch
    >>> Block(16, 32, stride=2, shortcut="pad")(torch.zeros(1, 16, 8, 8)).shape
    torch.Size([1, 32, 4, 4])
    """

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module
        if inputs == outputs and stride == 1:
            self.shortcut = nn.Identity()
        elif shortcut == "pad":
            self.shortcut = Pad(outputs - inputs, stride)
        else:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.relu1(self.bn1(self.conv1(x)))
        output: Tensor = self.relu2(self.bn2(self.conv2(hidden)) + self.shortcut(x))
        return output


class Pad(nn.Module):
    """Shortcut without parameters: every stride-th pixel, then channels of zeros.

    x: (N, C, H, W) float32 -> (N, C + extra, ceil(H / stride), ceil(W / stride)) float32.

    >>> import torch
    >>> Pad(extra=2, stride=2)(torch.ones(1, 1, 2, 2)).flatten()
    tensor([1., 0., 0.])
    """

    def __init__(self, extra: int, stride: int) -> None:
        super().__init__()
        self.extra = extra
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))

    def extra_repr(self) -> str:
        return f"extra={self.extra}, stride={self.stride}"


def _network(name: str) -> Callable[..., nn.Module]:
    if name not in _NETWORKS:
        raise unknown_name("network", name, [*_NETWORKS, "torchvision:<model>"])
    return _NETWORKS[name]


def _check(image_shape: Sequence[int], classes: int, hidden: Sequence[int] = ()) -> None:
    if not image_shape or min(*image_shape, *hidden, classes) < 1:
        raise ValueError(
            f"sizes must be positive; got image_shape={tuple(image_shape)}, classes={classes}, "
            f"hidden={tuple(hidden)}"
        )


def _check_images(image_shape: Sequence[int], classes: int) -> None:
    if len(image_shape) != 3:
        raise ValueError(f"image_shape must be (channels, height, width); got {tuple(image_shape)}")
    _check(image_shape, classes)


def _vgg(
    image_shape: Sequence[int], classes: int, groups: Iterable[Iterable[int]], hidden: Sequence[int]
) -> nn.Sequential:
    body: list[Step] = []
    for group in groups:
        body += [*((width, 3, 1) for width in group), "pool"]
    return _build(image_shape, classes, body, hidden, normalised=True)


def _build(
    image_shape: Sequence[int],
    classes: int,
    body: Sequence[Step],
    hidden: Sequence[int],
    normalised: bool = False,
    negative_slope: float = 0.0,
) -> nn.Sequential:
    """Convolutions and pools of `body`, then dense layers of `hidden` widths, then the logits.

    Networks with normalisation are the VGGs. Their pools round up, as Zagoruyko's do, so that
    28 x 28 images can pass all five of them.
    """
    if body:
        _check_images(image_shape, classes)
    _check(image_shape, classes, hidden)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = image_shape[0]
    depth = pools = 0

    def activation() -> nn.Module:
        return nn.LeakyReLU(negative_slope) if negative_slope else nn.ReLU()

    for step in body:
        if isinstance(step, str):
            pools += 1
            layers[f"pool{pools}"] = nn.MaxPool2d(2, ceil_mode=normalised)
            continue
        depth += 1
        width, kernel, padding = step
        layers[f"conv{depth}"] = nn.Conv2d(
            channels, width, kernel, padding=padding, bias=not normalised
        )
        if normalised:
            layers[f"bn{depth}"] = nn.BatchNorm2d(width)
        layers[f"relu{depth}"] = activation()
        channels = width
    layers["flatten"] = nn.Flatten()
    features = _features(layers, image_shape)
    for index, width in enumerate(hidden, start=1):
        depth += 1
        layers[f"fc{index}"] = nn.Linear(features, width, bias=not normalised)
        if normalised:
            layers[f"bn{depth}"] = nn.BatchNorm1d(width)
        layers[f"relu{depth}"] = activation()
        features = width
    layers[f"fc{len(hidden) + 1}"] = nn.Linear(features, classes)
    return nn.Sequential(layers)


def _features(layers: OrderedDict[str, nn.Module], image_shape: Sequence[int]) -> int:
    """Number of features that the layers compute for one image."""
    body = nn.Sequential(layers).eval()  # in training mode a trial would change batch statistics
    try:
        with torch.no_grad():
            return int(body(torch.zeros(1, *image_shape)).numel())
    except RuntimeError as error:
        size = " x ".join(str(side) for side in image_shape[1:])
        raise ValueError(
            f"images of {size} are too small for this network's convolutions and pooling"
        ) from error
    finally:
        body.train()


def _resnet(
    image_shape: Sequence[int], classes: int, shortcut: Shortcut, width: int, depth: int
) -> nn.Sequential:
    _check_images(image_shape, classes)
    if width < 1:
        raise ValueError(f"width must be positive; got {width}")
    if shortcut not in ("pad", "projection"):
        raise unknown_name("shortcut", shortcut, ["pad", "projection"])
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv1"] = nn.Conv2d(image_shape[0], width, 3, padding=1, bias=False)
    layers["bn1"] = nn.BatchNorm2d(width)
    layers["relu1"] = nn.ReLU()
    inputs = width
    for stage, outputs in enumerate((width, 2 * width, 4 * width), start=1):
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        for index in range(1, depth + 1):
            stride = 2 if outputs != inputs else 1
            blocks[f"block{index}"] = Block(inputs, outputs, stride, shortcut)
            inputs = outputs
        layers[f"stage{stage}"] = nn.Sequential(blocks)
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(inputs, classes)
    return nn.Sequential(layers)
