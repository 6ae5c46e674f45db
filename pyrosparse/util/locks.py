"""Files that one process works on at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def locked(path: str | os.PathLike[str], *, wait: bool = True) -> Iterator[None]:
    """Have a file for oneself: another process or thread that asks for it waits, until this one is
    done or is no more. Who has it already may ask again.

    The lock is a file beside it, which stays. A symbolic link in its place is not followed.

    wait: wait for whoever has the file; or raise BlockingIOError, which names the file.

    Raises OSError that says what to do if the lock cannot be made.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, locked(f"{folder}/a.txt"):
    ...     [file.name for file in Path(folder).iterdir()]
    ['.a.txt.lock']
    """
    path = Path(path)
    file = path.with_name(f".{path.name}.lock")
    lock = FileLock(file.absolute(), is_singleton=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout as error:
        raise BlockingIOError(f"another process is using {path}: wait until it ends") from error
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot lock {path} ({error.strerror or error}): its folder must be writable, and "
            f"{file} no link; remove that file if no process is using it",
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def locked_folder(folder: str | os.PathLike[str], *, wait: bool = True) -> Iterator[None]:
    """Have a folder for oneself, also one that is not there yet or is removed meanwhile.

    The lock is a file beside it, or in it where nothing can be written beside it. ``wait`` and
    what is raised are as of ``locked``.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, locked_folder(f"{folder}/run"):
    ...     [file.name for file in Path(folder).iterdir()]
    ['.run.lock']
    """
    place = Path(folder).resolve()
    if place.is_dir() and not os.access(place.parent, os.W_OK):
        place = place / "folder"
    with locked(place, wait=wait):
        yield
