"""What a suite has still to run, and how long that may take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from pyrosparse.bench.results import read
from pyrosparse.bench.suite import Job, Suite
from pyrosparse.recipes.setup import Setup


@dataclass(frozen=True)
class Plan:
    """The runs of a suite.

    done, missing: in the suite's order.
    seconds:       by the name of a missing run, an estimate of its time: the mean of finished runs
                   of the same data and network, of the same recipe where there are some; None
                   where nothing like it has run.
    """

    done: list[Job]
    missing: list[Job]
    seconds: dict[str, float | None]

    @property
    def total(self) -> float:
        """All that is estimated, in seconds of one run after the other."""
        return sum(one for one in self.seconds.values() if one is not None)


def plan(suite: Suite, results: Path, *, only: str = "*") -> Plan:
    """What of a suite is in a results file and what is missing.

    only: a glob on run names.

    Raises ValueError when no run matches.

    >>> from pyrosparse.bench import load
    >>> len(plan(load("fcn-width"), Path("nowhere.jsonl")).missing)
    2
    """
    lines = {line["id"]: line for line in read(results)}
    wanted = suite.matching(only)
    finished = [
        (Setup.of(line["settings"]), line["seconds"] + line.get("pretraining_seconds", 0.0))
        for line in lines.values()
    ]
    missing = [job for job in wanted if job.id not in lines]
    return Plan(
        [job for job in wanted if job.id in lines],
        missing,
        {job.id: _estimate(job.setup, finished) for job in missing},
    )


def _estimate(setup: Setup, finished: Sequence[tuple[Setup, float]]) -> float | None:
    where = [
        (one, seconds)
        for one, seconds in finished
        if (one.dataset, one.network) == (setup.dataset, setup.network)
    ]
    same = [seconds for one, seconds in where if one.recipe.name == setup.recipe.name]
    known = same or [seconds for _, seconds in where]
    return mean(known) if known else None
