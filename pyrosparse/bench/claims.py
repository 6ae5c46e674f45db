"""Who is at work on a run: several commands, on several machines, divide a suite among them."""

from __future__ import annotations

import datetime
import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from pyrosparse.util.files import read_text, write_atomically
from pyrosparse.util.locks import locked


class Claims:
    """The claims on the runs of a results file, in a folder beside it.

    A claim is a lock of the operating system, which ends with its process, however that ends, and a
    note of who has it, which a process that is killed leaves behind.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     claims = Claims(Path(folder, "suite.jsonl"))
    ...     claims.prepare()
    ...     with claims.claim("a-run") as mine:
    ...         mine, claims.left_behind("another-run")
    (True, None)
    """

    def __init__(self, results: Path) -> None:
        self.folder = results.parent / f".{results.name}.claims"

    def prepare(self) -> None:
        """Make the folder, in which workers then find that they share it."""
        self.folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def claim(self, run: str, command: str = "") -> Iterator[bool]:
        """Have a run for oneself until the block ends; False where another process has it.

        command: what the note says of the command that the process works for.

        Raises FileNotFoundError if the folder is not there: on a machine that does not share it.
        """
        if not self.folder.is_dir():
            raise FileNotFoundError(
                f"{socket.gethostname()} cannot find {self.folder}: all machines must share the "
                "folders of results and scratch, at the same paths"
            )
        with ExitStack() as held:
            try:
                held.enter_context(locked(self.folder / run, wait=False))
            except BlockingIOError:
                yield False
                return
            write_atomically(self._note(run), json.dumps(_who() | {"command": command}))
            yield True
            # Not after an exception: whoever stops a run leaves it unfinished, as a kill does.
            self._note(run).unlink(missing_ok=True)

    def left_behind(self, run: str) -> dict[str, Any] | None:
        """The note of a process that ended within a claim, whose ``host``, ``process``,
        ``started`` and ``command`` it names, and which is removed; None where there is none."""
        note = self._note(run)
        if not note.exists():
            return None
        with suppress(BlockingIOError, FileNotFoundError), locked(self.folder / run, wait=False):
            found: dict[str, Any] = json.loads(read_text(note))
            note.unlink()
            return found
        return None

    def _note(self, run: str) -> Path:
        return self.folder / f"{run}.json"


def _who() -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "process": os.getpid(), "started": now}
