"""Files are written whole or not at all."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pyrosparse.util import files
from pyrosparse.util.files import check_writable, open_file, read_text, write_atomically


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


def temporaries(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir() if file.name.endswith(".tmp")]


def test_threads_that_write_one_file_lose_nothing(tmp_path: Path):
    path = tmp_path / "a.txt"
    contents = [letter * 50_000 for letter in "abcdef"]
    path.write_text(contents[0])
    done = threading.Event()
    halves = []

    def read() -> None:
        while not done.is_set():
            text = path.read_text()
            if text not in contents:
                halves.append(text)

    with ThreadPoolExecutor(8) as pool:
        reader = pool.submit(read)
        writers = [pool.submit(write_atomically, path, text) for text in contents * 20]
        for writer in writers:
            writer.result()  # raises what it raised
        done.set()
        reader.result()
    assert not halves
    assert path.read_text() in contents
    assert list(tmp_path.iterdir()) == [path]


def test_no_link_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    folder = tmp_path / "folder"
    folder.mkdir()
    # As before unique names, and where the name is guessed.
    (folder / f".a.txt.{os.getpid()}.tmp").symlink_to(precious)
    write_atomically(folder / "a.txt", "new")
    monkeypatch.setattr(files, "_temporary", lambda path: folder / "guessed")
    (folder / "guessed").symlink_to(precious)
    with pytest.raises(FileExistsError, match=r"cannot write .*a\.txt"):
        write_atomically(folder / "a.txt", "newer")
    assert precious.read_text() == "precious"
    assert (folder / "a.txt").read_text() == "new"


def test_files_have_the_usual_permissions(tmp_path: Path):
    before = os.umask(0o027)
    try:
        path = write_atomically(tmp_path / "a.txt", "text")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


KILLED = """
import os, sys
from pyrosparse.util.files import writing_atomically
with writing_atomically(sys.argv[1]) as file:
    file.write(b"half")
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_what_killed_writers_left_goes_and_what_live_ones_write_stays(tmp_path: Path):
    path = tmp_path / "a.txt"
    command = [sys.executable, "-c", KILLED, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as killed, subprocess.Popen(command, **pipes) as lives:
        for process in (killed, lives):
            assert process.stdout.readline() == b"writing\n"
        other = tmp_path / ".b.txt.0123abcd.1.0123456789ab.tmp"
        other.write_text("of another file")
        assert len(temporaries(tmp_path)) == 3
        killed.kill()
        killed.wait()
        write_atomically(path, "whole")
        assert len(temporaries(tmp_path)) == 2
        lives.communicate(b"")
        assert lives.returncode == 0
    assert path.read_text() == "half"  # the last writer
    assert temporaries(tmp_path) == [other.name]


def test_files_of_other_machines_go_when_they_are_old(tmp_path: Path):
    old, new = (tmp_path / f".a.txt.0123abcd.1.{i}23456789abc.tmp" for i in range(2))
    for file in (old, new):
        file.write_text("half")
    os.utime(old, (0, 0))
    write_atomically(tmp_path / "a.txt", "text")
    assert temporaries(tmp_path) == [new.name]


def test_a_missing_folder_is_made_only_on_request(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"cannot write .*a\.txt"):
        write_atomically(tmp_path / "b" / "a.txt", "text", parents=False)
    assert not list(tmp_path.iterdir())


def test_what_can_be_written_is_left_as_it_is(tmp_path: Path):
    check_writable(tmp_path / "b" / "a.txt")
    assert list((tmp_path / "b").iterdir()) == []
    path = write_atomically(tmp_path / "a.txt", "old")
    check_writable(path)
    assert path.read_text() == "old"
    with pytest.raises(OSError, match="it is a folder"):
        check_writable(tmp_path)
    with pytest.raises(OSError, match=r"cannot write .*a\.txt/c"):
        check_writable(path / "c")


def test_only_files_are_read(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe is a pipe, not a file"):
        open_file(tmp_path / "pipe")
    with pytest.raises(OSError, match="is a folder"):
        open_file(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_file(tmp_path / "none")
    (tmp_path / "latin").write_bytes(b"one\n\xe4\n")
    with pytest.raises(ValueError, match="latin, line 2: it is not text in UTF-8"):
        read_text(tmp_path / "latin")
