"""Running a suite: what is missing, side by side, resumed where it stopped."""

from __future__ import annotations

import datetime
import json
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import joblib
import torch

from pyrosparse import __version__
from pyrosparse.bench.predictive import outside_inputs, predictive, predictive_of_values
from pyrosparse.bench.results import append, read, reading
from pyrosparse.bench.suite import Job, Suite
from pyrosparse.recipes.named import load_data
from pyrosparse.recipes.peers import missing_package
from pyrosparse.recipes.result import Result
from pyrosparse.recipes.setup import Setup
from pyrosparse.recipes.split import digest
from pyrosparse.recipes.stages import Pretraining
from pyrosparse.storage import save
from pyrosparse.util import machine
from pyrosparse.util.files import check_writable


def run(
    suite: Suite,
    *,
    results: Path,
    scratch: Path,
    only: str = "*",
    jobs: int = 1,
) -> Iterator[dict[str, Any]]:
    """Run what is missing of a suite, yielding each run's line as it is done.

    results: a file of one JSON line a run, written whole or not at all.
    scratch: the pool of ``compress``: checkpoints of unfinished runs, from which they go on, and
             stages that several runs share.
    only:    a glob on run names.
    jobs:    runs side by side, by joblib: local processes, each on one thread, or whatever
             ``joblib.parallel_config`` says (``dask``, ``ray``).

    Runs of recipes whose package is not installed are left out, with a warning.

    Raises ValueError when no run matches ``only``, when results are damaged, or of other settings
    than the suite has now, and OSError when results or scratch cannot be written: before a run.
    """
    wanted = suite.matching(only)
    for file in (results, scratch / "file"):
        check_writable(file)
    done = {line["id"]: line for line in read(results)}
    for job in wanted:
        if job.id in done:
            _refuse_other_settings(job, suite.outside, done[job.id], results)
    missing = _runnable([job for job in wanted if job.id not in done])
    parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")
    for line in parallel(joblib.delayed(_run_job)(job, suite.outside, scratch) for job in missing):
        append(results, line)
        yield line


def _runnable(jobs: Sequence[Job]) -> list[Job]:
    reasons = {job.id: missing_package(job.setup.recipe) for job in jobs}
    for reason in dict.fromkeys(filter(None, reasons.values())):
        left_out = sum(one == reason for one in reasons.values())
        warnings.warn(f"{left_out} runs are left out: {reason}", stacklevel=3)
    return [job for job in jobs if not reasons[job.id]]


def _refuse_other_settings(
    job: Job, outside: str | None, line: dict[str, Any], results: Path
) -> None:
    now = json.loads(json.dumps(job.setup.values()))
    # A setting that is newer than the line had the default's effect when the line was written.
    then = json.loads(json.dumps(Setup.of(line["settings"]).values()))
    now["outside"] = outside
    then["device"] = now["device"]  # not of the other runs, and the line names its machine
    with reading(f"{results}, the line of {job.id}"):
        then["outside"] = line.get("predictive", {}).get("outside", outside)
    other = [
        f"{key} was {then.get(key)!r}, is {now[key]!r}" for key in now if then.get(key) != now[key]
    ]
    if other:
        raise ValueError(
            f"{results} has {job.id} with other settings ({', '.join(other)}): name another "
            "file, or remove the line"
        )


def _run_job(job: Job, outside: str | None, scratch: Path) -> dict[str, Any]:
    torch.set_num_threads(1)
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
        "pretraining_seconds": round(result.seconds - seconds, 1),
        "version": __version__,
        "torch": torch.__version__,
        "machine": f"{machine.describe(setup.device)}, 1 thread a run",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "settings": setup.values(),
        "history": [_rounded(entry) for entry in result.history],
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
