"""torchvision's classifiers by name, for images of any size and any number of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from pyrosparse.util.errors import torchvision, unknown_name

# With their auxiliary classifiers these return no logits in training mode.
_WITHOUT_AUXILIARY: dict[str, dict[str, Any]] = {
    model: {"aux_logits": False, "init_weights": True} for model in ("googlenet", "inception_v3")
}


def check_model(model: str) -> None:
    """Raise ValueError if torchvision has no classifier of that name.

    >>> check_model("resnet81")
    Traceback (most recent call last):
    ValueError: unknown torchvision model 'resnet81'; did you mean 'resnet18'? known: ...
    """
    models = torchvision().models
    # Without `module` the list also has detectors and segmenters, which return no logits.
    known = models.list_models(module=models)
    if model not in known:
        raise unknown_name("torchvision model", model, known)


def create_torchvision(
    model: str, image_shape: Sequence[int], classes: int, **options: Any
) -> nn.Module:
    """Make one of torchvision's classifiers, and try it on an image.

    image_shape: (3, H, W); the network maps (N, 3, H, W) float32 to logits (N, classes).
    options:     further arguments of torchvision's function, besides ``num_classes``.

    Raises ValueError if there is no such model or option, or it does not accept such images.

    >>> create_torchvision("resnet18", (3, 32, 32), 5).fc
    Linear(in_features=512, out_features=5, bias=True)
    """
    check_model(model)
    if image_shape[0] != 3:
        raise ValueError(
            f"torchvision's models take 3 channels; the images have {image_shape[0]}: choose "
            "a data set in colour or a folder of images (read as RGB), repeat the channel "
            "(x.expand(-1, 3, -1, -1)), or choose a network such as resnet20, which takes any "
            "number of channels"
        )
    options = _WITHOUT_AUXILIARY.get(model, {}) | options
    try:
        net: nn.Module = torchvision().models.get_model(model, num_classes=classes, **options)
    except TypeError as error:
        raise ValueError(f"torchvision:{model} does not take {options}: {error}") from error
    _try(model, net, image_shape, classes)
    return net


def _try(model: str, net: nn.Module, image_shape: Sequence[int], classes: int) -> None:
    size = " x ".join(str(side) for side in image_shape)
    try:
        with torch.no_grad():  # in evaluation mode no statistics change and nothing is drawn
            output = net.eval()(torch.zeros(1, *image_shape))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ValueError(
            f"torchvision:{model} does not take images of {size} ({error}): resize them, --size on "
            "the command line, or set what the network expects, such as image_size of vit_b_16, in "
            "its options"
        ) from error
    finally:
        net.train()
    if tuple(output.shape) != (1, classes):
        raise ValueError(
            f"torchvision:{model} gives {tuple(output.shape)} for one image, but logits for "
            f"{classes} classes are expected"
        )
