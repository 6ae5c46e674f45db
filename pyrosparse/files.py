"""Writing files whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], None]) -> Path:
    """Let ``write`` fill a temporary file beside ``path``, then put it in place in one step.

    A reader, or a process killed at any moment, finds the old file or the new one, never a part.

    Raises OSError that says what to do where the disk is full or the folder not writable; the old
    file is then still there.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = write_atomically(f"{folder}/a.txt", lambda file: file.write_text("whole"))
    ...     written.read_text()
    'whole'
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(
            error.errno,
            f"cannot write {path} ({error.strerror or error}): free some space or choose another "
            "folder; an earlier file of this name is untouched",
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def write_text_atomically(path: str | os.PathLike[str], text: str) -> Path:
    """Put a text in a file in one step, as ``write_atomically`` does.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_text_atomically(f"{folder}/a.txt", "whole").read_text()
    'whole'
    """

    def write(file: Path) -> None:
        file.write_text(text, encoding="utf-8")

    return write_atomically(path, write)
