"""Data sets of examples and benchmarks: whole sets in memory, minibatches cut out by index."""

import gzip
import math
import os
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pyrosparse.errors import torchvision, unknown_name

Normalisation = Literal["standard", "unit"]

# The test part that we cut ourselves is the same whatever seed the user averages over.
_TEST_SEED = 0

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


@dataclass(frozen=True, eq=False, repr=False)
class Examples:
    """Inputs and their classes, or the values to regress on, both in memory.

    x: (N, C, H, W) or (N, D) floating, normally float32; y: (N,) int64 classes, or (N,) or (N, d)
    floating.
    Raises ValueError if there are no data, the lengths differ, a dtype is wrong, or x has a NaN or
    an infinity.

    >>> import torch
    >>> examples = Examples(torch.zeros(5, 2), torch.tensor([0, 1, 0, 1, 1]))
    >>> [len(y) for x, y in examples.batches(2)]
    [2, 2, 1]
    """

    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        if not self.x.is_floating_point() or self.x.ndim < 2:
            raise ValueError(
                f"x must be floating, (N, ...); got {self.x.dtype} {tuple(self.x.shape)}"
            )
        classes = self.y.dtype == torch.int64 and self.y.ndim == 1
        if not classes and not (self.y.is_floating_point() and self.y.ndim in (1, 2)):
            raise ValueError(
                "y must be classes, int64 (N,), or values, floating (N,) or (N, d); got "
                f"{self.y.dtype} {tuple(self.y.shape)}"
            )
        if len(self.x) != len(self.y):
            raise ValueError(f"x has {len(self.x)} data but y has {len(self.y)}")
        if not self.x.numel():
            raise ValueError("there are no data")
        # aminmax passes NaN on and, unlike isfinite, needs no second tensor of this size.
        if not torch.stack(self.x.aminmax()).isfinite().all():
            bad = ~self.x.isfinite()
            first = int(bad.flatten(1).any(1).nonzero()[0])
            raise ValueError(
                f"x has {int(bad.sum())} values that are NaN or infinite, the first in x[{first}]"
            )

    def __len__(self) -> int:
        """Number of data."""
        return len(self.y)

    def __repr__(self) -> str:
        return f"Examples({len(self)} x {tuple(self.x.shape[1:])}, {self.x.dtype}, {self.x.device})"

    def to(self, device: torch.device | str) -> "Examples":
        """Return the same data on a device.

        >>> import torch
        >>> Examples(torch.zeros(5, 2), torch.zeros(5, dtype=torch.int64)).to("cpu")
        Examples(5 x (2,), torch.float32, cpu)
        """
        return Examples(self.x.to(device), self.y.to(device))

    def subset(self, indices: Tensor) -> "Examples":
        """Return the data at some indices; indices: (M,) int64, or (N,) bool.

        Raises IndexError if an index is out of range, ValueError if there are none.

        >>> import torch
        >>> Examples(torch.zeros(5, 2), torch.arange(5)).subset(torch.tensor([3, 1])).y
        tensor([3, 1])
        """
        return Examples(self.x[indices], self.y[indices])

    def batches(
        self, size: int, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield minibatches (x, y) that cover every datum once; the last one may be smaller.

        x: (size, ...) like `self.x`; y: (size,) int64. In order, or shuffled by a CPU generator,
        which moves on at the call. Raises ValueError if the size is not positive.

        >>> import torch
        >>> examples = Examples(torch.zeros(5, 2), torch.arange(5))
        >>> shuffled = examples.batches(2, torch.Generator().manual_seed(0))
        >>> sorted(torch.cat([y for x, y in shuffled]).tolist())
        [0, 1, 2, 3, 4]
        """
        if size < 1:
            raise ValueError(f"the batch size must be positive; got {size}")
        if generator is None:
            return zip(self.x.split(size), self.y.split(size), strict=True)
        order = torch.randperm(len(self), generator=generator).to(self.y.device)
        return ((self.x[index], self.y[index]) for index in order.split(size))


@dataclass(frozen=True, eq=False)
class DataSet:
    """A named data set in three parts; `validation` is None if nothing was held out.

    Raises ValueError if the parts differ in shape or a label has no class.

    >>> import torch
    >>> part = Examples(torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 0, 1]))
    >>> DataSet("Toy", part, None, part, classes=("cat", "dog")).image_shape
    (1, 8, 8)
    """

    name: str
    train: Examples
    validation: Examples | None
    test: Examples
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        for part in (self.train, self.validation, self.test):
            if part is None:
                continue
            if part.x.shape[1:] != self.train.x.shape[1:]:
                raise ValueError(f"{self.name}: the parts have data of different shapes")
            if part.y.min() < 0 or part.y.max() >= len(self.classes):
                raise ValueError(f"{self.name}: a label is outside 0..{len(self.classes) - 1}")

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one datum, (C, H, W) or (D,)."""
        return tuple(self.train.x.shape[1:])

    def to(self, device: torch.device | str) -> "DataSet":
        """Return the same data set on a device.

        >>> import torch
        >>> load("digits", validation=0).to("cpu").train
        Examples(1438 x (1, 8, 8), torch.float32, cpu)
        """
        validation = None if self.validation is None else self.validation.to(device)
        train, test = self.train.to(device), self.test.to(device)
        return replace(self, train=train, validation=validation, test=test)


@dataclass(frozen=True, eq=False)
class _Pixels:
    """What a source reads: pixels as they are stored, before any split or normalisation.

    train_x, test_x: (N, C, H, W) uint8, or float32 in [0, 1]; train_y, test_y: (N,) int64.
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: tuple[str, ...]


def names() -> tuple[str, ...]:
    """Names that `load` knows.

    >>> names()
    ('digits', 'mnist', 'fashion-mnist', 'cifar10')
    """
    return tuple(_SOURCES)


def default_root() -> Path:
    """Folder of the data: the environment variable PYROSPARSE_DATA, else the cache folder."""
    return Path(os.environ.get("PYROSPARSE_DATA") or _cache()).expanduser()


def load(
    name: str | os.PathLike[str],
    *,
    validation: float = 0.1,
    normalise: Normalisation = "standard",
    root: str | os.PathLike[str] | None = None,
    seed: int = 0,
    download: bool = True,
) -> DataSet:
    """Load a data set by name (`names()`), or the existing directory `name` as `image_folder` does.

    The parts hold x: (N, C, H, W) float32 and y: (N,) int64. `validation` is the fraction of the
    training data that is held out, at random by `seed`; which data are test data is fixed.
    `normalise`: "standard" makes mean 0 and variance 1 of each channel of the training part
    (Bayesian pruning; beta-Bernoulli on CIFAR), "unit" leaves pixels in [0, 1] (beta-Bernoulli on
    MNIST). `root` has torchvision's layout, and is `default_root()` if None; torchvision downloads
    what is missing.

    digits: (1, 8, 8), from scikit-learn, a fifth as test data. mnist, fashion-mnist: (1, 28, 28).
    cifar10: (3, 32, 32), from cifar-10-batches-py, else from cifar10-jpeg/cifar10-jpeg.zip,
    which is named "CIFAR-10 (JPEG)", because its pixels are not the original ones.

    Raises ValueError if an argument or a file is bad, FileNotFoundError if files are missing and
    cannot be downloaded, ImportError if a library that the data set needs is missing.

    >>> digits = load("digits", validation=0.2)
    >>> digits.image_shape, len(digits.train), len(digits.validation), len(digits.test)
    ((1, 8, 8), 1150, 288, 359)
    """
    if isinstance(name, str) and name in _SOURCES:
        _check_options(validation, normalise)  # before minutes of reading
        pixels = _SOURCES[name](Path(root).expanduser() if root else default_root(), download)
        return _prepare(pixels, validation, normalise, seed)
    if Path(name).is_dir():
        return image_folder(name, validation=validation, normalise=normalise, seed=seed)
    raise unknown_name("data set", os.fspath(name), [*names(), "<folder>"])


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
    (H, W) to resize to, or None if all images have one size already. `test` is the fraction of each
    class that becomes test data, always the same ones, if there is no test folder. `validation`,
    `normalise` and `seed` as in `load`.

    Raises ValueError if there are no classes or images, an image cannot be read (it is named), the
    sizes differ, or an argument is bad.

    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for index in range(20):
    ...         file = Path(folder, ("cat", "dog")[index % 2], f"{index}.png")
    ...         file.parent.mkdir(exist_ok=True)
    ...         Image.new("RGB", (6, 4), (index, 0, 0)).save(file)
    ...     animals = image_folder(folder)
    >>> animals.classes, animals.image_shape, len(animals.test)
    (('cat', 'dog'), (3, 4, 6), 4)
    """
    _check_options(validation, normalise)
    path = Path(path)
    if (path / "train").is_dir() and (path / "test").is_dir():
        return _prepare(_tree(path.name, path, size, grey), validation, normalise, seed)
    if not 0 < test < 1:
        raise ValueError(f"test must be a fraction between 0 and 1; got {test}")
    x, y, classes = _images(path, size, grey)
    held_out = _stratified(y, test)
    pixels = _Pixels(path.name, x[~held_out], y[~held_out], x[held_out], y[held_out], classes)
    return _prepare(pixels, validation, normalise, seed)


def read_idx(path: str | os.PathLike[str], dimensions: int) -> Tensor:
    """Read a file of unsigned bytes in the idx format of MNIST, gzipped if its name ends in .gz.

    Returns a uint8 tensor of that many dimensions. Raises ValueError, naming the file, if it is no
    such file, truncated or damaged.

    >>> import torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "labels-idx1-ubyte")
    ...     _ = file.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 5, 0, 4]))
    ...     read_idx(file, dimensions=1)
    tensor([5, 0, 4], dtype=torch.uint8)
    """
    path = Path(path)
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes([0, 0, 8, dimensions]):
        raise ValueError(
            f"{path} is not an idx file of bytes in {dimensions} dimensions: it starts with "
            f"{content[:4].hex(' ') or 'nothing'}"
        )
    shape = np.frombuffer(content, dtype=">u4", offset=4, count=dimensions).tolist()
    if len(content) != header + math.prod(shape):
        raise ValueError(
            f"{path} is truncated or damaged: its header says {shape}, which takes "
            f"{header + math.prod(shape)} bytes, but it has {len(content)}"
        )
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy())


# Sources: each reads its pixels from a root folder, and may download what is missing.


def _digits(root: Path, download: bool) -> _Pixels:
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError("digits comes with scikit-learn: pip install scikit-learn") from error
    bunch = load_digits()
    x = torch.from_numpy(bunch.images).float().unsqueeze(1) / 16
    y = torch.from_numpy(bunch.target).long()
    test = _stratified(y, 0.2)
    classes = tuple(str(digit) for digit in range(10))
    return _Pixels("Digits", x[~test], y[~test], x[test], y[test], classes)


def _mnist(root: Path, download: bool) -> _Pixels:
    classes = tuple(str(digit) for digit in range(10))
    return _Pixels("MNIST", *_idx_files("MNIST", root, download), classes)


def _fashion_mnist(root: Path, download: bool) -> _Pixels:
    return _Pixels("Fashion-MNIST", *_idx_files("FashionMNIST", root, download), _FASHION)


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
            places = [place / raw / name for place in (root, _cache())]
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


def _cifar10(root: Path, download: bool) -> _Pixels:
    archive = Path("cifar10-jpeg", "cifar10-jpeg.zip")
    if not _has_cifar_batches(root) and (root / archive).is_file():
        return _jpeg_zip("CIFAR-10 (JPEG)", root / archive, size=(32, 32))
    if not any(_has_cifar_batches(place) for place in (root, _cache())):
        what = f"cifar-10-batches-py (unpacked) or {archive} into {root}"
        _download("CIFAR10", root, download, what)
    place = root if _has_cifar_batches(root) else _cache()
    # The batches are pickles, which may run any code: torchvision compares their md5 sums first.
    read = torchvision().datasets.CIFAR10
    try:
        train, test = read(place, train=True), read(place, train=False)
    except RuntimeError as error:
        raise ValueError(f"{place / 'cifar-10-batches-py'} is damaged: {error}") from error
    train_x, test_x = (torch.from_numpy(part.data).permute(0, 3, 1, 2) for part in (train, test))
    train_y, test_y = torch.tensor(train.targets), torch.tensor(test.targets)
    return _Pixels("CIFAR-10", train_x, train_y, test_x, test_y, tuple(train.classes))


_SOURCES: dict[str, Callable[[Path, bool], _Pixels]] = {
    "digits": _digits,
    "mnist": _mnist,
    "fashion-mnist": _fashion_mnist,
    "cifar10": _cifar10,
}


def _has_cifar_batches(place: Path) -> bool:
    return (place / "cifar-10-batches-py").is_dir()


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pyrosparse"


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
        data_set(root if _writable(root) else _cache(), download=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: torchvision found no mirror
        raise FileNotFoundError(f"{kind} could not be downloaded ({error}): {put}") from error


# Images in folders and zip files.


def _jpeg_zip(name: str, archive: Path, size: tuple[int, int]) -> _Pixels:
    """Decode a zip of train/<class>/ and test/<class>/, and keep the pixels in the cache folder."""
    try:
        with zipfile.ZipFile(archive) as opened:
            members = repr([(member.filename, member.CRC) for member in opened.infolist()])
            # Named after the contents, so that another zip of the same name is decoded anew.
            decoded = _cache() / f"{archive.stem}-{zlib.crc32(members.encode()):08x}.npz"
            if not decoded.is_file():
                pixels = _tree(name, zipfile.Path(opened), size, grey=False)
                _save(decoded, pixels)
                return pixels
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive} is damaged: {error}") from error
    with np.load(decoded) as arrays:
        tensors = {key: torch.from_numpy(arrays[key]) for key in arrays.files if key != "classes"}
        return _Pixels(name, **tensors, classes=tuple(arrays["classes"].tolist()))


def _save(file: Path, pixels: _Pixels) -> None:
    tensors = ("train_x", "train_y", "test_x", "test_y")
    arrays = {key: getattr(pixels, key).numpy() for key in tensors}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Renamed when complete: another process never reads half a file.
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as temporary:
            try:
                np.savez(temporary, **arrays, classes=np.array(pixels.classes))
                temporary.close()
                os.replace(temporary.name, file)
            except BaseException:
                os.unlink(temporary.name)
                raise
    except OSError as error:
        warnings.warn(f"cannot keep the decoded images in {file}: {error}", stacklevel=2)


def _tree(
    name: str, folder: Path | zipfile.Path, size: tuple[int, int] | None, grey: bool
) -> _Pixels:
    train_x, train_y, classes = _images(folder / "train", size, grey)
    test_x, test_y, test_classes = _images(folder / "test", size, grey)
    if test_classes != classes:
        different = ", ".join(sorted(set(classes) ^ set(test_classes)))
        raise ValueError(f"{folder}: only one of train and test has the classes {different}")
    return _Pixels(name, train_x, train_y, test_x, test_y, classes)


def _images(
    folder: Path | zipfile.Path, size: tuple[int, int] | None, grey: bool
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Read `<class>/*.png|jpg|jpeg`, sorted: (N, C, H, W) uint8, (N,) int64, class names."""

    def visible(parent: Path | zipfile.Path) -> list[Path | zipfile.Path]:
        return sorted(
            (child for child in parent.iterdir() if not child.name.startswith(".")),
            key=lambda child: child.name,
        )

    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    folders = [child for child in visible(folder) if child.is_dir()]
    if not folders:
        raise ValueError(f"{folder} has no classes: it needs one folder of images for each class")
    arrays: list[np.ndarray] = []
    labels: list[int] = []
    for label, child in enumerate(folders):
        files = [
            file for file in visible(child) if file.name.lower().endswith((".png", ".jpg", ".jpeg"))
        ]
        if not files:
            raise ValueError(f"{child} has no images (.png, .jpg or .jpeg)")
        for file in files:
            arrays.append(_pixels(file, size, grey))
            labels.append(label)
            if arrays[-1].shape != arrays[0].shape:
                (height, width), (first, second) = arrays[-1].shape[:2], arrays[0].shape[:2]
                raise ValueError(
                    f"{file} is {height} x {width}, others are {first} x {second}; give size=(H, W)"
                )
    x = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    return x, torch.tensor(labels), tuple(child.name for child in folders)


def _pixels(file: Path | zipfile.Path, size: tuple[int, int] | None, grey: bool) -> np.ndarray:
    """Read one image: (H, W, C) uint8."""
    from PIL import Image

    try:
        with file.open("rb") as stream, Image.open(stream) as image:
            if image.mode[0] in "IF":
                raise ValueError(f"mode {image.mode} has more than 8 bits a channel")
            converted = image.convert("L" if grey else "RGB")
            if size is not None and converted.size != (size[1], size[0]):
                converted = converted.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read the image {file}: {error}") from error
    array = np.asarray(converted)
    return array[:, :, None] if grey else array


# From pixels to parts.


def _check_options(validation: float, normalise: str) -> None:
    if not 0 <= validation < 1:
        raise ValueError(f"validation must be a fraction from 0 to below 1; got {validation}")
    if normalise not in ("standard", "unit"):
        raise unknown_name("normalisation", normalise, ["standard", "unit"])


def _stratified(y: Tensor, fraction: float) -> Tensor:
    """Mark a fixed fraction of each class: (N,) bool."""
    generator = torch.Generator().manual_seed(_TEST_SEED)
    marked = torch.zeros(len(y), dtype=torch.bool)
    for label in y.unique():
        members = (y == label).nonzero().squeeze(1)
        order = torch.randperm(len(members), generator=generator)
        marked[members[order[: round(fraction * len(members))]]] = True
    return marked


def _prepare(pixels: _Pixels, validation: float, normalise: Normalisation, seed: int) -> DataSet:
    """Hold out the validation part, and normalise all parts by what the training part says."""
    count = len(pixels.train_y)
    held_out = max(1, round(validation * count)) if validation else 0
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    # Sorted: within a part, data keep the order of the file.
    chosen, rest = order[:held_out].sort().values, order[held_out:].sort().values

    train_x = _unit(pixels.train_x[rest])
    mean, deviation = torch.zeros(()), torch.ones(())
    if normalise == "standard":
        deviation, mean = torch.std_mean(train_x, dim=(0, 2, 3), correction=0, keepdim=True)
        deviation = deviation.where(deviation > 0, 1.0)  # a constant channel becomes zeros, not NaN

    def examples(x: Tensor, y: Tensor) -> Examples:
        return Examples(x.sub_(mean).div_(deviation), y)

    train = examples(train_x, pixels.train_y[rest])
    validation_part = None
    if held_out:
        validation_part = examples(_unit(pixels.train_x[chosen]), pixels.train_y[chosen])
    test = examples(_unit(pixels.test_x), pixels.test_y)
    return DataSet(pixels.name, train, validation_part, test, pixels.classes)


def _unit(x: Tensor) -> Tensor:
    """Return pixels in [0, 1] in a tensor of their own: float32."""
    return x.float().div_(255) if x.dtype == torch.uint8 else x.clone()
