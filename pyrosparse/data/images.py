"""Images in folders and zip files."""

import os
import tempfile
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyrosparse.data.folders import cache_folder
from pyrosparse.data.pixels import Pixels


def jpeg_zip(name: str, archive: Path, size: tuple[int, int]) -> Pixels:
    """Decode a zip of train/<class>/ and test/<class>/, and keep the pixels in the cache folder."""
    try:
        with zipfile.ZipFile(archive) as opened:
            members = repr([(member.filename, member.CRC) for member in opened.infolist()])
            # Named after the contents, so that another zip of the same name is decoded anew.
            decoded = cache_folder() / f"{archive.stem}-{zlib.crc32(members.encode()):08x}.npz"
            if not decoded.is_file():
                pixels = image_tree(name, zipfile.Path(opened), size, grey=False)
                _save(decoded, pixels)
                return pixels
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive} is damaged: {error}") from error
    with np.load(decoded) as arrays:
        tensors = {key: torch.from_numpy(arrays[key]) for key in arrays.files if key != "classes"}
        return Pixels(name, classes=tuple(arrays["classes"].tolist()), **tensors)  # type: ignore[arg-type]


def _save(file: Path, pixels: Pixels) -> None:
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
            arrays.append(_pixels(file, size, grey))
            labels.append(label)
            if arrays[-1].shape != arrays[0].shape:
                (height, width), (first, second) = arrays[-1].shape[:2], arrays[0].shape[:2]
                raise ValueError(
                    f"{file} is {height} x {width}, others are {first} x {second}; resize all "
                    "of them with size=(H, W), or --size on the command line"
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
