"""One run of a suite, as a worker computes it: claimed, run, and added to the results."""

from __future__ import annotations

import datetime
import logging
import socket
import tempfile
import threading
import traceback
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pyrosparse import __version__
from pyrosparse.bench import failures
from pyrosparse.bench.claims import Claims
from pyrosparse.bench.predictive import outside_inputs, predictive, predictive_of_values
from pyrosparse.bench.results import append, read
from pyrosparse.bench.suite import Job
from pyrosparse.diagnostics.nuts import chosen_draws
from pyrosparse.recipes.named import load_data
from pyrosparse.recipes.result import Result
from pyrosparse.recipes.split import digest
from pyrosparse.recipes.stages import Pretraining
from pyrosparse.storage import save
from pyrosparse.util import machine
from pyrosparse.util.threads import threads

log = logging.getLogger("pyrosparse")

_ALONE = threading.Lock()

_MOST_EPOCHS = 100
"""Epochs of a history that are kept, with the first and the last: a file holds many runs."""


@dataclass(frozen=True)
class Outcome:
    """What became of a run: nothing, where another process has it or has done it.

    line:    its result.
    failure: why there is none.
    refusal: why this worker computes no runs at all.
    """

    run: str
    line: dict[str, Any] | None = None
    failure: str = ""
    refusal: str = ""


@dataclass(frozen=True)
class Task:
    """Computes the runs of a suite, one at a time; nothing that a run raises goes further.

    results, scratch: absolute, as ``run`` has them.
    outside: the data set that is not of the run's kind, or None.
    command: what tells the command that computes these runs from others.
    """

    results: Path
    scratch: Path
    outside: str | None
    command: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __call__(self, job: Job) -> Outcome:
        if not _ALONE.acquire(blocking=False):
            return Outcome(
                job.id,
                refusal="a worker has several threads, and Pyro's state is global: give it one "
                "(Dask: --nthreads 1), or take processes",
            )
        try:
            reason, command = self._note_killed(job)
            if reason and command == self.command:
                # A cluster that hands it over once more; what killed one worker may kill the next.
                return Outcome(job.id, failure=reason)
            with Claims(self.results).claim(job.id, self.command) as mine:
                # Read anew: another process may have done it since the command began.
                if not mine or any(line["id"] == job.id for line in read(self.results)):
                    return Outcome(job.id)
                return self._run(job)
        except OSError as error:  # of the shared folder
            return Outcome(job.id, refusal=str(error))
        finally:
            _ALONE.release()

    def lost(self, job: Job, error: Exception) -> Outcome:
        """Record that a run was lost with its worker.

        error: how that came to be known."""
        reason, _ = self._note_killed(job)
        if not reason:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            failures.record(self.results, job.id, reason)
        return Outcome(job.id, failure=reason)

    def _note_killed(self, job: Job) -> tuple[str, str]:
        """Record that a process was killed or stopped within a run; returns what is recorded and
        the process's command, "" where none was."""
        note = Claims(self.results).left_behind(job.id)
        if note is None:
            return "", ""
        reason = f"process {note['process']} on {note['host']} was killed or stopped in it"
        command = note.pop("command", "")  # of a version before, none
        failures.record(self.results, job.id, reason, **note)
        log.warning("%s is unfinished: %s", job.id, reason)
        return reason, command

    def _run(self, job: Job) -> Outcome:
        try:
            with threads(1):
                line = run_job(job, self.outside, self.scratch)
            append(self.results, line)
            failures.forget(self.results, job.id)
            return Outcome(job.id, line)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            details = {
                "host": socket.gethostname(),
                "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "traceback": traceback.format_exc(),
            }
            failures.record(self.results, job.id, reason, **details)
            return Outcome(job.id, failure=reason)


def run_job(job: Job, outside: str | None, scratch: Path) -> dict[str, Any]:
    """Compute one run; returns its line."""
    setup = job.setup
    # Before the training: what is wrong with them shall not cost one.
    others = outside_inputs(setup, outside) if outside is not None else None
    # A suite has the unpruned network as a run of its own.
    result = setup.run(folder=scratch / job.id, pool=scratch, dense=False, progress=False)
    stages = [stage for stage in result.stages if not stage.name.endswith(Pretraining.name)]
    seconds = sum(stage.seconds for stage in stages)
    line = {
        "id": job.id,
        "cell": job.cell,
        "seed": setup.seed,
        **{f"test_{name}": value for name, value in result.quality.items()},
        "sparsity": result.sparsity,
        "compact": result.compaction.figures() | _file_bytes(result),
        "epochs": sum(len(stage.history) for stage in stages),
        "seconds": round(seconds, 1),
        "pretraining_seconds": round(result.seconds - seconds, 3),
        "version": __version__,
        "torch": torch.__version__,
        "machine": f"{machine.describe(setup.device)}, 1 thread a run",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "settings": setup.values(),
        "history": [
            _rounded(result.history[place])
            for place in chosen_draws(len(result.history), _MOST_EPOCHS)
        ],
    }
    if setup.start:
        # With what weights it began: cells of one start can be compared.
        line["start"] = digest(result.original.state_dict().values())[:12]
    if outside is not None and others is not None:
        line["predictive"] = predictive(result, outside, others, seed=setup.seed)
    elif "rmse" in result.quality:
        scale = getattr(load_data(setup), "target_scale", 1.0)
        line["predictive"] = predictive_of_values(result, scale, seed=setup.seed)
    return line


def _file_bytes(result: Result) -> dict[str, int]:
    """Bytes of the compact network's file, in which zeros cost little."""
    if result.small is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "small.safetensors")
        try:
            save(file, result.small)
        except ValueError:  # a file holds no layers of the user's own
            return {}
        return {"file_bytes": file.stat().st_size}


def _rounded(entry: dict[str, Any]) -> dict[str, Any]:
    return {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in entry.items()}
