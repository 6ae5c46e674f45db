"""Folders of images of unknown origin: nothing is run, nothing hangs, nothing large is decoded."""

import gzip
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pyrosparse import data
from pyrosparse.data import images


def folder_of(path: Path) -> Path:
    for label in "ab":
        (path / label).mkdir(parents=True)
        for index in range(6):
            Image.new("RGB", (8, 8), (index, 0, 0)).save(path / label / f"{index}.png")
    return path


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.jpeg"])
def test_postscript_starts_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    tool = tmp_path / "bin" / "gs"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    (folder_of(tmp_path / "images") / "a" / name).write_bytes(EPS)
    with pytest.raises(ValueError, match=rf"cannot read the image .*{name}.*PNG and JPEG"):
        data.image_folder(tmp_path / "images")
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM", "WEBP"])
def test_other_formats_are_refused_whatever_their_name(tmp_path: Path, kind: str) -> None:
    Image.new("RGB", (8, 8)).save(folder_of(tmp_path) / "a" / "x.png", format=kind)
    with pytest.raises(ValueError, match=r"cannot read the image .*x\.png"):
        data.image_folder(tmp_path)


def test_a_format_with_the_others_name_is_read(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(folder_of(tmp_path) / "a" / "x.png", format="JPEG")
    assert data.image_folder(tmp_path).image_shape == (3, 8, 8)


def test_pipes_devices_and_folders_are_refused_at_once(tmp_path: Path) -> None:
    file = folder_of(tmp_path) / "a" / "x.png"
    os.mkfifo(file)
    with pytest.raises(ValueError, match=r"x\.png is a pipe, not a file"):
        data.image_folder(tmp_path)
    file.unlink()
    file.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=r"x\.png is a device, not a file"):
        data.image_folder(tmp_path)
    file.unlink()
    file.mkdir()
    with pytest.raises(ValueError, match=r"x\.png is a folder, not a file"):
        data.image_folder(tmp_path)


def test_large_images_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder_of(tmp_path) / "a" / "x.png"
    Image.new("L", (9000, 9000)).save(file)
    monkeypatch.setattr(Image.Image, "convert", None)  # what decodes

    def refused(message: str, **options: tuple[int, int]) -> None:
        with pytest.raises(ValueError, match=message):
            images._pixels(file, options.get("size"), False, options.get("others"))

    refused(r"x\.png is 9000 x 9000, more than 67108864 pixels", size=(8, 8))
    refused(r"x\.png is 9000 x 9000, more than 67108864 pixels")
    Image.new("L", (900, 900)).save(file)
    refused(r"x\.png is 900 x 900, others are 8 x 8", others=(8, 8))


def test_cut_and_flipped_images_are_named(tmp_path: Path) -> None:
    file = folder_of(tmp_path) / "a" / "0.png"
    whole = file.read_bytes()
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 0x55
        for content in (whole[:place], bytes(flipped)):
            file.write_bytes(content)
            try:
                images.read_images(tmp_path, None, False)
            except ValueError as error:
                assert "0.png" in str(error)


def test_a_zip_is_as_strict_and_its_cache_heals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for part in ("train", "test"):
        folder_of(tmp_path / "set" / part)
    archive = tmp_path / "images.zip"

    def pack() -> None:
        with zipfile.ZipFile(archive, "w") as opened:
            for file in sorted((tmp_path / "set").rglob("*.png")):
                opened.write(file, file.relative_to(tmp_path / "set"))

    pack()
    pixels = images.jpeg_zip("set", archive, (8, 8))
    (cache,) = (tmp_path / "cache").rglob("*.npz")
    whole = cache.read_bytes()
    for content in (b"", whole[:100], b"PK" + whole[50:], whole.replace(b"train_y", b"train_z")):
        cache.write_bytes(content)
        again = images.jpeg_zip("set", archive, (8, 8))
        assert torch.equal(again.train_x, pixels.train_x) and again.classes == pixels.classes
        assert cache.read_bytes() == whole
    (tmp_path / "set" / "train" / "a" / "x.png").write_bytes(EPS)
    pack()
    with pytest.raises(ValueError, match=r"cannot read the image .*x\.png"):
        images.jpeg_zip("set", archive, (8, 8))


def test_a_small_gzip_cannot_claim_gigabytes(tmp_path: Path) -> None:
    header = bytes([0, 0, 8, 3]) + np.array([2**31, 2**31, 2**31], ">u4").tobytes()
    for name, content in (("a.gz", gzip.compress(header + bytes(99))), ("a", header + bytes(99))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"truncated or damaged.*Delete it"):
            data.read_idx(tmp_path / name, dimensions=3)
    # More in the file than the header says is not unpacked either.
    bomb = bytes([0, 0, 8, 1, 0, 0, 0, 3]) + bytes(10**7)
    (tmp_path / "b.gz").write_bytes(gzip.compress(bomb))
    with pytest.raises(ValueError, match="it has more than 3"):
        data.read_idx(tmp_path / "b.gz", dimensions=1)
