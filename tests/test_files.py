"""Files are written whole or not at all."""

import os
from pathlib import Path

import pytest

from pyrosparse.files import write_atomically


@pytest.mark.parametrize("content", ["text: ä", b"\x00\xff"])
def test_new_file_replaces_the_old_one(tmp_path: Path, content: str | bytes):
    path = tmp_path / "a"
    path.write_bytes(b"old and longer than the new one")
    assert write_atomically(path, content) == path
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(tmp_path.iterdir()) == [path]


def test_folders_are_made(tmp_path: Path):
    assert write_atomically(tmp_path / "b" / "c" / "a.txt", "text").read_text() == "text"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failure_keeps_the_old_file_and_leaves_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(descriptor: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(type(error)):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"a\.txt.*No space left.*free some space") as caught:
        write_atomically(tmp_path / "a.txt", "text")
    assert caught.value.errno == 28


def test_a_file_in_the_place_of_a_folder_is_explained(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*a\.txt"):
        write_atomically(tmp_path / "file" / "a.txt", "text")
