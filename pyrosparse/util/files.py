"""Writing files whole or not at all, and reading nothing but files."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

ABANDONED_AFTER = 7 * 24 * 3600.0
"""Seconds after which a temporary file of another machine is taken for one that nobody writes."""

# Some systems lack these flags.
_NOTHING = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | _NOTHING
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _NOTHING


def write_atomically(
    path: str | os.PathLike[str], content: str | bytes, *, parents: bool = True
) -> Path:
    """Put a text (UTF-8) or bytes in a file in one step.

    A reader, or a process killed at any moment, finds the old file or the new one, never a part;
    of several writers at once, processes or threads, the last one counts. A symbolic link of that
    name is replaced, not followed. What killed writers left beside the file is removed.

    parents: make the file's folder where it is missing.

    Raises OSError that says what to do if the disk is full or the folder not writable; the old
    file is then still there.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomically(f"{folder}/a.txt", "whole").read_text()
    'whole'
    """
    with writing_atomically(path, parents=parents) as file:
        file.write(content.encode() if isinstance(content, str) else content)
    return Path(path)


@contextmanager
def writing_atomically(path: str | os.PathLike[str], *, parents: bool = True) -> Iterator[BinaryIO]:
    """A file to write to, which takes the name of another in one step when the block ends.

    What ``write_atomically`` promises holds, and an exception in the block leaves the old file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with writing_atomically(f"{folder}/a.txt") as file:
    ...         _ = file.write(b"wh"), file.write(b"ole")
    ...     Path(folder, "a.txt").read_text()
    'whole'
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(path)
        # Not there before, and no link: nobody else writes to it.
        with os.fdopen(os.open(temporary, _NEW, 0o666), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(
                error.errno,
                f"cannot write {path} ({error.strerror or error}): free some space or choose "
                "another folder; an earlier file of this name is untouched",
            ) from error
        raise
    _sweep(path)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Find out now whether a file can be written later, making its folder where it is missing.

    Raises OSError, as ``write_atomically`` does, if it cannot: a folder has its name, or its
    folder is not writable or no folder.

    >>> check_writable("/dev/null/a.txt")
    Traceback (most recent call last):
    FileExistsError: [Errno 17] cannot write /dev/null/a.txt (File exists): free some space or ...
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(
            f"cannot write {path}: it is a folder. Name a file in it, or remove the folder"
        )
    try:
        with writing_atomically(path):
            raise _Enough
    except _Enough:
        pass


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading: one with contents on a disk, also through symbolic links.

    Raises FileNotFoundError if there is none, and OSError if it is something else that has
    a name, such as a folder, a device or a pipe, whose reading might never end.

    >>> open_file("/dev/null")
    Traceback (most recent call last):
    OSError: /dev/null is a device, not a file: name a file
    """
    if Path(path).is_dir():  # of which some systems say that there is no permission
        raise IsADirectoryError(f"{os.fspath(path)} is a folder, not a file: name a file")
    descriptor = os.open(path, _READ)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            kind = "a pipe" if stat.S_ISFIFO(mode) else "a device"
            raise OSError(f"{os.fspath(path)} is {kind}, not a file: name a file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_text(path: str | os.PathLike[str]) -> str:
    """The text (UTF-8) of a file.

    Raises ValueError, which names the file, if it is no such text, and what ``open_file``
    raises.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     read_text(write_atomically(f"{folder}/a.txt", "text"))
    'text'
    """
    with open_file(path) as file:
        content = file.read()
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{os.fspath(path)}, line {line}: it is not text in UTF-8 ({error.reason}): the file "
            "is damaged or from another program"
        ) from error


class _Enough(Exception):
    """What ends an attempt to write before anything is written."""


def _temporary(path: Path) -> Path:
    """A name that no one has, and that tells who writes to it."""
    return path.with_name(f".{path.name}.{_here()}.{os.getpid()}.{secrets.token_hex(6)}.tmp")


def _here() -> str:
    """Where process ids are of the same processes: this machine, or this container on it."""
    space = ""
    with suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{socket.gethostname()} {space}".encode()).hexdigest()[:8]


def _sweep(path: Path) -> None:
    """Remove what writers of this file left who are no more."""
    ours = re.compile(rf"\.{re.escape(path.name)}\.(?:([0-9a-f]{{8}})\.)?(\d+)\.(?:\w{{12}}\.)?tmp")
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            match = ours.fullmatch(entry.name)
            if match is None:
                continue
            with suppress(OSError):  # another one has removed it
                age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                here = match[1] == _here() and os.name == "posix"
                if not _lives(int(match[2])) if here else age > ABANDONED_AFTER:
                    os.unlink(entry.path)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # of another user
        return True
    return True
