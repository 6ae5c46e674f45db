"""From stored pixels to normalised parts of a data set."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pyrosparse.data.examples import DataSet, Examples
from pyrosparse.util.errors import unknown_name

Normalisation = Literal["standard", "unit"]

# Where a source has no test part, the part held out is the same for all seeds of the user.
_TEST_SEED = 0


@dataclass(frozen=True, eq=False)
class Pixels:
    """Pixels as a source stores them, before any split or normalisation.

    train_x, test_x: (N, C, H, W) uint8, or float32 in [0, 1]; train_y, test_y: (N,) int64;
    flip: whether an image keeps its class when mirrored left to right.
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: tuple[str, ...]
    flip: bool = False


def check_options(validation: float, normalise: str) -> None:
    if not 0 <= validation < 1:
        raise ValueError(f"validation must be a fraction from 0 to below 1; got {validation}")
    if normalise not in ("standard", "unit"):
        raise unknown_name("normalisation", normalise, ["standard", "unit"])


def averaged(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Make images smaller: a pixel is the mean over the pixels that it covers, float32 in [0, 1].

    Raises ValueError if the size does not divide that of the images.

    >>> images = torch.tensor([[[[0, 0, 255, 255], [255, 255, 255, 255]]]], dtype=torch.uint8)
    >>> label = torch.tensor([0])
    >>> averaged(Pixels("Toy", images, label, images, label, ("cat",)), (1, 2)).test_x
    tensor([[[[0.5000, 1.0000]]]])
    """
    height, width = pixels.train_x.shape[2:]
    if size[0] < 1 or size[1] < 1 or height % size[0] or width % size[1]:
        raise ValueError(
            f"the images of {pixels.name} are {height} x {width}, and can only be reduced by "
            f"averaging whole pixels: size must divide these numbers, got {size[0]} x {size[1]}"
        )
    window = (height // size[0], width // size[1])
    train_x, test_x = (F.avg_pool2d(_unit(x), window) for x in (pixels.train_x, pixels.test_x))
    return replace(pixels, train_x=train_x, test_x=test_x)


def stratified(y: Tensor, fraction: float) -> Tensor:
    """Mark a fixed fraction of each class: (N,) bool."""
    generator = torch.Generator().manual_seed(_TEST_SEED)
    marked = torch.zeros(len(y), dtype=torch.bool)
    for label in y.unique():
        members = (y == label).nonzero().squeeze(1)
        order = torch.randperm(len(members), generator=generator)
        marked[members[order[: round(fraction * len(members))]]] = True
    return marked


def prepare(pixels: Pixels, validation: float, normalise: Normalisation, seed: int) -> DataSet:
    """Hold out the validation part, and normalise all parts by the training part."""
    count = len(pixels.train_y)
    held_out = max(1, round(validation * count)) if validation else 0
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    # Sorted: within a part, data keep their order in the file.
    chosen, rest = order[:held_out].sort().values, order[held_out:].sort().values

    train_x = _unit(pixels.train_x[rest])
    mean, deviation = torch.zeros(()), torch.ones(())
    if normalise == "standard":
        deviation, mean = torch.std_mean(train_x, dim=(0, 2, 3), correction=0, keepdim=True)
        deviation = deviation.where(deviation > 0, 1.0)  # a constant channel becomes zeros, not NaN

    def normalised(x: Tensor) -> Tensor:
        return x.sub_(mean).div_(deviation)

    def examples(x: Tensor, y: Tensor) -> Examples:
        return Examples(normalised(x), y)

    train = examples(train_x, pixels.train_y[rest])
    validation_part = None
    if held_out:
        validation_part = examples(_unit(pixels.train_x[chosen]), pixels.train_y[chosen])
    test = examples(_unit(pixels.test_x), pixels.test_y)
    # The same arithmetic as for the pixels, so that rounding puts none outside.
    black = torch.zeros(1, train.x.shape[1], 1, 1)
    bounds = normalised(black.clone())[0], normalised(black + 1)[0]
    return DataSet(
        pixels.name, train, validation_part, test, pixels.classes, bounds, flip=pixels.flip
    )


def _unit(x: Tensor) -> Tensor:
    """Return a copy of the pixels, float32 in [0, 1]."""
    return x.float().div_(255) if x.dtype == torch.uint8 else x.clone()
