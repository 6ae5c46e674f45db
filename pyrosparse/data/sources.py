"""The named data sets: each reads its pixels from a root folder, and may download them first."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor

from pyrosparse.data.folders import cache_folder
from pyrosparse.data.idx import read_idx
from pyrosparse.data.images import jpeg_zip
from pyrosparse.data.pixels import Pixels, stratified
from pyrosparse.util.errors import torchvision

_FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def _digits(root: Path, download: bool) -> Pixels:
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError("digits comes with scikit-learn: pip install scikit-learn") from error
    bunch = load_digits()
    x = torch.from_numpy(bunch.images).float().unsqueeze(1) / 16
    y = torch.from_numpy(bunch.target).long()
    test = stratified(y, 0.2)
    classes = tuple(str(digit) for digit in range(10))
    return Pixels("Digits", x[~test], y[~test], x[test], y[test], classes)


def _mnist(root: Path, download: bool) -> Pixels:
    classes = tuple(str(digit) for digit in range(10))
    return Pixels("MNIST", *_idx_files("MNIST", root, download), classes)


def _fashion_mnist(root: Path, download: bool) -> Pixels:
    return Pixels("Fashion-MNIST", *_idx_files("FashionMNIST", root, download), _FASHION, flip=True)


def _idx_files(folder: str, root: Path, download: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    raw = Path(folder, "raw")
    wanted = [
        f"{part}-{content}"
        for part in ("train", "t10k")
        for content in ("images-idx3-ubyte", "labels-idx1-ubyte")
    ]

    def found() -> list[Path]:
        files = []
        for name in wanted:
            places = [place / raw / name for place in (root, cache_folder())]
            places += [place.with_name(f"{name}.gz") for place in places]
            files += [place for place in places if place.is_file()][:1]
        return files

    files = found()
    if len(files) < len(wanted):
        what = f"{', '.join(wanted)} (plain or .gz) into {root / raw}"
        _download(folder, root, download, what)
        files = found()
    train_x, train_y, test_x, test_y = (
        read_idx(file, dimensions=3 if "idx3" in file.name else 1) for file in files
    )
    return train_x.unsqueeze(1), train_y.long(), test_x.unsqueeze(1), test_y.long()


def _cifar10(root: Path, download: bool) -> Pixels:
    archive = Path("cifar10-jpeg", "cifar10-jpeg.zip")
    if not _has_cifar_batches(root) and (root / archive).is_file():
        return replace(jpeg_zip("CIFAR-10 (JPEG)", root / archive, size=(32, 32)), flip=True)
    if not any(_has_cifar_batches(place) for place in (root, cache_folder())):
        what = f"cifar-10-batches-py (unpacked) or {archive} into {root}"
        _download("CIFAR10", root, download, what)
    place = root if _has_cifar_batches(root) else cache_folder()
    # The batches are pickles, which may run any code: torchvision first compares their md5 sums.
    read = torchvision().datasets.CIFAR10
    try:
        train, test = read(place, train=True), read(place, train=False)
    except (RuntimeError, OSError, EOFError, ValueError, LookupError, UnpicklingError) as error:
        raise ValueError(
            f"{place / 'cifar-10-batches-py'} is damaged: {error}. Delete it and download it again"
        ) from error
    train_x, test_x = (torch.from_numpy(part.data).permute(0, 3, 1, 2) for part in (train, test))
    train_y, test_y = torch.tensor(train.targets), torch.tensor(test.targets)
    return Pixels("CIFAR-10", train_x, train_y, test_x, test_y, tuple(train.classes), flip=True)


SOURCES: dict[str, Callable[[Path, bool], Pixels]] = {
    "digits": _digits,
    "mnist": _mnist,
    "fashion-mnist": _fashion_mnist,
    "cifar10": _cifar10,
}


def _has_cifar_batches(place: Path) -> bool:
    return (place / "cifar-10-batches-py").is_dir()


def _writable(folder: Path) -> bool:
    while not folder.exists():
        folder = folder.parent
    return os.access(folder, os.W_OK)


def _download(kind: str, root: Path, allowed: bool, what: str) -> None:
    """Let torchvision download into the root, or into the cache folder if the root is read-only."""
    put = f"put {what}, or set PYROSPARSE_DATA to the folder that has them"
    if not allowed:
        raise FileNotFoundError(f"{kind} is not in {root}, and download=False: {put}")
    data_set = getattr(torchvision().datasets, kind)
    try:
        data_set(root if _writable(root) else cache_folder(), download=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: torchvision found no mirror
        raise FileNotFoundError(f"{kind} could not be downloaded ({error}): {put}") from error
