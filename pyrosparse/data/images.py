"""Images in folders and zip files."""

import warnings
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyrosparse.data.folders import cache_folder
from pyrosparse.data.pixels import Pixels
from pyrosparse.util.files import open_file, writing_atomically

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 2**26
"""Pixels of the largest image that is decoded: 8192 x 8192."""

_PARTS = ("train", "test")
_TENSORS = ("train_x", "train_y", "test_x", "test_y")


def jpeg_zip(name: str, archive: Path, size: tuple[int, int]) -> Pixels:
    """Decode a zip of train/<class>/ and test/<class>/, and keep the pixels in the cache folder."""
    open_file(archive).close()  # refuses a path that is not a file
    try:
        with zipfile.ZipFile(archive) as opened:
            members = repr([(member.filename, member.CRC) for member in opened.infolist()])
            # Named after the contents, so that another zip with the same name is decoded anew.
            decoded = cache_folder() / f"{archive.stem}-{zlib.crc32(members.encode()):08x}.npz"
            pixels = _kept(name, decoded)
            if pixels is None:
                pixels = image_tree(name, zipfile.Path(opened), size, grey=False)
                _keep(decoded, pixels)
            return pixels
    except (zipfile.BadZipFile, NotImplementedError, LookupError, RuntimeError) as error:
        raise ValueError(f"{archive} is damaged: {error}. Replace it by a complete copy") from error


def _kept(name: str, file: Path) -> Pixels | None:
    """The pixels of a cache file; None if it is missing or damaged, so that it is written anew."""
    try:
        with open_file(file) as opened, np.load(opened) as arrays:
            classes = tuple(map(str, arrays["classes"].tolist()))
            tensors: dict[str, Any] = {key: torch.from_numpy(arrays[key]) for key in _TENSORS}
    except Exception:  # damage makes zip and numpy raise any exception
        return None
    images = all(tensors[key].dtype == torch.uint8 for key in ("train_x", "test_x"))
    lengths = all(len(tensors[f"{part}_x"]) == len(tensors[f"{part}_y"]) for part in _PARTS)
    return Pixels(name, **tensors, classes=classes) if images and lengths else None


def _keep(file: Path, pixels: Pixels) -> None:
    arrays = {key: getattr(pixels, key).numpy() for key in _TENSORS}
    try:
        with writing_atomically(file) as opened:
            np.savez(opened, **arrays, classes=np.array(pixels.classes))
    except OSError as error:
        warnings.warn(f"cannot keep the decoded images in {file}: {error}", stacklevel=2)


def image_tree(
    name: str, folder: Path | zipfile.Path, size: tuple[int, int] | None, grey: bool
) -> Pixels:
    train_x, train_y, classes = read_images(folder / "train", size, grey)
    test_x, test_y, test_classes = read_images(folder / "test", size, grey)
    if test_classes != classes:
        different = ", ".join(sorted(set(classes) ^ set(test_classes)))
        raise ValueError(f"{folder}: only one of train and test has the classes {different}")
    return Pixels(name, train_x, train_y, test_x, test_y, classes)


def read_images(
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
            arrays.append(_pixels(file, size, grey, arrays[0].shape[:2] if arrays else None))
            labels.append(label)
    x = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    return x, torch.tensor(labels), tuple(child.name for child in folders)


def _pixels(
    file: Path | zipfile.Path,
    size: tuple[int, int] | None,
    grey: bool,
    others: tuple[int, ...] | None,
) -> np.ndarray:
    """Read one image: (H, W, C) uint8, of the size of the others unless it is resized."""
    from PIL import Image

    try:
        stream = open_file(file) if isinstance(file, Path) else file.open("rb")
        with stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about large images: our limit is stricter
            # No other formats, whatever the name says: Pillow runs EPS as a program.
            with Image.open(stream, formats=("PNG", "JPEG")) as image:
                _check(image, file, None if size is not None else others)
                converted = image.convert("L" if grey else "RGB")
                if size is not None and converted.size != (size[1], size[0]):
                    converted = converted.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    except _Refused:
        raise
    except Exception as error:  # damage makes Pillow and zip raise any exception
        raise ValueError(
            f"cannot read the image {file}: {error}. Images are PNG and JPEG files: save it again "
            "as one of these, or remove it"
        ) from error
    array = np.asarray(converted)
    return array[:, :, None] if grey else array


class _Refused(ValueError):
    """An image that is not decoded."""


def _check(image: "Image.Image", file: Path | zipfile.Path, others: tuple[int, ...] | None) -> None:
    """Check the header of an image before it is decoded."""
    width, height = image.size
    if image.mode[0] in "IF":
        raise ValueError(f"mode {image.mode} has more than 8 bits a channel")
    if width * height > MAX_PIXELS:
        raise _Refused(
            f"{file} is {height} x {width}, more than {MAX_PIXELS} pixels: make the image "
            "smaller, or remove it"
        )
    if others is not None and (height, width) != others:
        first, second = others
        raise _Refused(
            f"{file} is {height} x {width}, others are {first} x {second}; give size=(H, W), or "
            "--size on the command line"
        )
