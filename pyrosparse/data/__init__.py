"""Data sets for examples and benchmarks: whole sets in memory, minibatches by index."""

import os
from pathlib import Path

from pyrosparse.data.augment import Augmented
from pyrosparse.data.examples import DataSet, Examples
from pyrosparse.data.folders import default_root
from pyrosparse.data.idx import read_idx
from pyrosparse.data.images import image_tree, read_images
from pyrosparse.data.pixels import (
    Normalisation,
    Pixels,
    averaged,
    check_options,
    prepare,
    stratified,
)
from pyrosparse.data.sources import SOURCES
from pyrosparse.data.values import VALUES, load_values
from pyrosparse.util.errors import unknown_name

__all__ = [
    "Augmented",
    "DataSet",
    "Examples",
    "check_name",
    "default_root",
    "image_folder",
    "load",
    "names",
    "read_idx",
]


def names() -> tuple[str, ...]:
    """The names that `load` accepts.

    >>> names()
    ('digits', 'mnist', 'fashion-mnist', 'cifar10', 'diabetes', 'linnerud', 'friedman1', ...)
    """
    return (*SOURCES, *VALUES)


def check_name(name: str | os.PathLike[str]) -> None:
    """Raise ValueError if a name is neither one of `names()` nor an existing folder.

    >>> check_name("digit")
    Traceback (most recent call last):
    ValueError: unknown data set 'digit'; did you mean 'digits'? known: digits, mnist, ...
    """
    if name in names() or Path(name).is_dir():
        return
    if Path(name).exists():
        raise ValueError(f"{os.fspath(name)} is a file; images come from a folder of folders")
    raise unknown_name("data set", os.fspath(name), [*names(), "<folder of images>"])


def load(
    name: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    validation: float = 0.1,
    normalise: Normalisation = "standard",
    root: str | os.PathLike[str] | None = None,
    seed: int = 0,
    download: bool = True,
) -> DataSet:
    """Load a data set by name (`names()`), or the existing directory `name` as `image_folder` does.

    `size`, (H, W), if given: a folder's images are resized to it; the images of a named data set
    are reduced by averaging pixels, so that (14, 14) from 28 x 28 averages 2 x 2 pixels.

    The parts hold x: (N, C, H, W) float32 and y: (N,) int64. `validation` is the share of the
    training data that is held out, at random by `seed`; the test data are always the same.
    `normalise`: "standard" gives each channel of the training part mean 0 and variance 1
    (Bayesian pruning; beta-Bernoulli on CIFAR), "unit" leaves pixels in [0, 1] (beta-Bernoulli on
    MNIST); `DataSet.bounds` has the values of pixels 0 and 1 after that. `root` has torchvision's
    layout, and is `default_root()` if None; torchvision downloads missing files.

    digits: (1, 8, 8), from scikit-learn, a fifth as test data. mnist, fashion-mnist: (1, 28, 28).
    cifar10: (3, 32, 32), from cifar-10-batches-py, else from cifar10-jpeg/cifar10-jpeg.zip,
    which has the name "CIFAR-10 (JPEG)", because its pixels are not the original ones.

    diabetes, linnerud, friedman1, friedman2, friedman3: data for regression, y: (N, targets)
    float32, from scikit-learn. A tenth is test data, chosen by `seed` like the validation part;
    inputs and targets are normalised by the training part.

    Raises ValueError if an argument or a file is bad, FileNotFoundError if files are missing and
    cannot be downloaded, ImportError if a library that the data set needs is missing.

    >>> digits = load("digits", validation=0.2)
    >>> digits.image_shape, len(digits.train), len(digits.validation), len(digits.test)
    ((1, 8, 8), 1150, 288, 359)
    """
    check_name(name)
    if name not in names():
        return image_folder(name, size=size, validation=validation, normalise=normalise, seed=seed)
    check_options(validation, normalise)  # before reading, which may take minutes
    if name in VALUES:
        if normalise != "standard":
            raise ValueError(
                f"{name} is not a data set of images: leave normalise at its default, standard"
            )
        return load_values(str(name), validation=validation, seed=seed)
    pixels = SOURCES[str(name)](Path(root).expanduser() if root else default_root(), download)
    if size is not None:
        pixels = averaged(pixels, size)
    return prepare(pixels, validation, normalise, seed)


def image_folder(
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    grey: bool = False,
    validation: float = 0.1,
    test: float = 0.2,
    normalise: Normalisation = "standard",
    seed: int = 0,
) -> DataSet:
    """Load PNG and JPEG images from folders `<class>/`, or `train/<class>/` and `test/<class>/`.

    The parts hold x: (N, 3, H, W), or (N, 1, H, W) if `grey`, float32, and y: (N,) int64. `size` is
    (H, W) to resize to, or None if all images have the same size. Without a test folder, `test` is
    the share of each class that becomes test data, always the same images. `validation`,
    `normalise` and `seed` as in `load`.

    Raises ValueError if there are no classes or images, an image cannot be read (the message names
    it), the sizes differ, or an argument is bad.

    >>> from PIL import Image
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for index in range(20):
    ...         file = Path(folder, ("cat", "dog")[index % 2], f"{index}.png")
    ...         file.parent.mkdir(exist_ok=True)
    ...         Image.new("RGB", (6, 4), (index, 0, 0)).save(file)
    ...     animals = image_folder(folder)
    >>> animals.classes, animals.image_shape, len(animals.test)
    (('cat', 'dog'), (3, 4, 6), 4)
    """
    check_options(validation, normalise)
    path = Path(path)
    if (path / "train").is_dir() and (path / "test").is_dir():
        return prepare(image_tree(path.name, path, size, grey), validation, normalise, seed)
    if not 0 < test < 1:
        raise ValueError(f"test must be a fraction between 0 and 1; got {test}")
    x, y, classes = read_images(path, size, grey)
    held_out = stratified(y, test)
    pixels = Pixels(path.name, x[~held_out], y[~held_out], x[held_out], y[held_out], classes)
    return prepare(pixels, validation, normalise, seed)
