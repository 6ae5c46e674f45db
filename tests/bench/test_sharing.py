"""Several commands and clusters on one suite; runs that fail and runs that are killed."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pyrosparse import bench
from pyrosparse.bench import failures
from pyrosparse.bench.claims import Claims
from pyrosparse.bench.task import Task

SUITE = """
title = "Runs"
source = "nobody"
[settings]
epochs = 1
network_options = { hidden = [4] }
[[grid]]
dataset = "digits"
recipe = "none"
seeds = 4
"""

# A network that computes, fails or kills its process, as files in its folder say; and that takes
# long enough for others to come in between.
NETWORK = """
import os, signal, time
from pathlib import Path
import torch
HERE = Path(__file__).parent
def network(image_shape, classes, **options):
    log = HERE / "started"
    with log.open("a") as file:
        file.write(f"{torch.initial_seed()} {os.getpid()} {torch.get_num_threads()}\\n")
    if (HERE / f"kill-{torch.initial_seed()}").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    if (HERE / f"fail-{torch.initial_seed()}").exists():
        raise ArithmeticError("no [such] luck")
    while (HERE / "wait").exists():
        time.sleep(0.05)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, classes))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "suite.toml").write_text(
        SUITE.replace("network_options = { hidden = [4] }", 'network = "a_network_of_mine:network"')
    )
    (tmp_path / "a_network_of_mine.py").write_text(NETWORK)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("a_network_of_mine", None)


def runs(folder: Path, **options: Any) -> Iterator[dict[str, Any]]:
    suite = bench.load(str(folder / "suite.toml"))
    # Relative paths: workers on other machines start elsewhere.
    return bench.run(suite, results=Path("all.jsonl"), scratch=Path("scratch"), **options)


def started(folder: Path) -> list[list[int]]:
    """Seed, process and threads of each run that was begun."""
    lines = (folder / "started").read_text().splitlines()
    return [[int(word) for word in line.split()] for line in lines]


def seeds(folder: Path) -> Counter[int]:
    return Counter(line["seed"] for line in bench.read(folder / "all.jsonl"))


def command(*more: str) -> subprocess.Popen[str]:
    words = ["bench", "suite.toml", "--results", "all.jsonl", "--scratch", "scratch", *more]
    return subprocess.Popen(
        [sys.executable, "-m", "pyrosparse.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(number: int, folder: Path) -> None:
    for _ in range(12000):
        if (folder / "started").exists() and len(started(folder)) >= number:
            return
        time.sleep(0.1)
    raise AssertionError("no run was started")


def test_a_claim_is_of_one_process_and_a_dead_one_is_known(tmp_path: Path) -> None:
    claims = Claims(tmp_path / "all.jsonl")
    with pytest.raises(FileNotFoundError, match="must share"), claims.claim("a"):
        pass
    claims.prepare()
    hold = (
        "import sys, time, pathlib; from pyrosparse.bench.claims import Claims\n"
        "with Claims(pathlib.Path(sys.argv[1])).claim('a') as mine:\n"
        "    print(mine, flush=True); time.sleep(60)\n"
    )
    words = [sys.executable, "-c", hold, str(tmp_path / "all.jsonl")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "True\n"
        with claims.claim("a") as mine:
            assert not mine
        assert claims.left_behind("a") is None
        holder.kill()
        holder.wait()
    note = claims.left_behind("a")
    assert note is not None and note["process"] == holder.pid
    assert claims.left_behind("a") is None
    with claims.claim("a") as mine:
        assert mine
    assert claims.left_behind("a") is None


def test_a_run_that_fails_is_recorded_and_taken_up_again(folder: Path) -> None:
    (folder / "fail-1").touch()
    done = []
    with pytest.raises(bench.FailedRunsError, match=r"1 of 4 .*seed1 \(ArithmeticError: no \[such"):
        done.extend(runs(folder))
    assert [line["seed"] for line in done] == [0, 2, 3] and sorted(seeds(folder)) == [0, 2, 3]
    (failed,) = failures.read(folder / "all.jsonl").values()
    assert failed["times"] == 1 and "in network" in failed["traceback"]
    with pytest.raises(bench.FailedRunsError):
        list(runs(folder))
    assert failures.read(folder / "all.jsonl")[failed["id"]]["times"] == 2
    (folder / "fail-1").unlink()
    assert [line["seed"] for line in runs(folder)] == [1]
    assert not failures.file_of(folder / "all.jsonl").exists()
    assert all(threads == 1 for _, _, threads in started(folder))


def test_a_second_thread_of_a_process_is_refused(folder: Path) -> None:
    (folder / "wait").touch()
    results = folder / "all.jsonl"
    Claims(results).prepare()
    task = Task(results, folder / "scratch", None)
    first, second = bench.load(str(folder / "suite.toml")).jobs[:2]
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(task, first)
        wait_for(1, folder)
        outcome = task(second)
        (folder / "wait").unlink()
    assert "several threads" in outcome.refusal and outcome.line is None
    assert other.result().line is not None and task(second).line is not None


@pytest.mark.slow
def test_a_killed_worker_loses_its_run_alone(folder: Path) -> None:
    (folder / "kill-0").touch()
    with pytest.raises(bench.FailedRunsError, match="was killed or stopped"):
        list(runs(folder, jobs=2))
    assert sorted(seeds(folder)) == [1, 2, 3]
    # One start of the package a worker, and another in place of the killed one.
    assert len({process for _, process, _ in started(folder)}) <= 3
    (folder / "kill-0").unlink()
    assert [line["seed"] for line in runs(folder, jobs=2)] == [0]
    assert not failures.file_of(folder / "all.jsonl").exists()


@pytest.mark.slow
def test_equal_commands_divide_a_suite_and_one_may_be_killed(folder: Path) -> None:
    (folder / "wait").touch()
    first = command()
    wait_for(1, folder)
    second = command()
    wait_for(2, folder)
    assert sorted(seed for seed, _, _ in started(folder)) == [0, 1]
    first.send_signal(signal.SIGKILL)
    first.wait()
    (folder / "wait").unlink()
    out, err = second.communicate(timeout=1200)
    assert second.returncode == 0, err
    assert "3 runs added" in out and "1 runs are missing" in out
    third = command()
    out, err = third.communicate(timeout=1200)
    assert third.returncode == 0 and "1 runs added" in out and "was killed or stopped" in err
    assert seeds(folder) == {0: 1, 1: 1, 2: 1, 3: 1}
    first.communicate()


@pytest.mark.slow
def test_the_command_says_what_failed_with_its_status(folder: Path) -> None:
    (folder / "fail-2").touch()
    failing = command("--jobs", "2")
    out, err = failing.communicate(timeout=1200)
    assert failing.returncode == 1 and "3 runs added" in out
    assert "1 of 4 runs failed" in err and "all.failed.jsonl" in err


DASK = """
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(
        n_workers=2, threads_per_worker=int(sys.argv[1]), dashboard_address=None, processes=True
    ) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""

RAY = """
import sys, ray
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
print("ray://auto", flush=True)
sys.stdin.read()
"""


def swept(folder: Path, cluster: str, *words: str) -> tuple[int, str]:
    """Status and errors of a sweep on a cluster, which a script of its own holds meanwhile."""
    (folder / "cluster.py").write_text(cluster)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    start = [sys.executable, "cluster.py", *words]
    with subprocess.Popen(start, cwd=folder, **pipes) as held:  # type: ignore[call-overload]
        sweep = command("--cluster", held.stdout.readline().strip())
        _, err = sweep.communicate(timeout=1200)
        held.stdin.close()
    return sweep.returncode, err


def check_two_lost(folder: Path, status: int, err: str) -> None:
    assert status == 1, err
    assert "2 of 4 runs failed" in err
    assert seeds(folder) == {0: 1, 3: 1}
    reasons = {one["id"][-1]: one for one in failures.read(folder / "all.jsonl").values()}
    assert "ArithmeticError" in reasons["1"]["reason"]
    assert "was killed or stopped in it" in reasons["2"]["reason"]
    # Once: a cluster that hands a run over again kills no second worker, and computes none twice.
    assert Counter(seed for seed, _, _ in started(folder)) == {0: 1, 1: 1, 2: 1, 3: 1}
    assert [one["times"] for one in reasons.values()] == [1, 1]
    assert os.getpid() not in {process for _, process, _ in started(folder)}


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_dask(folder: Path, threads: int) -> None:
    pytest.importorskip("distributed", reason="Dask is not installed: pyrosparse[dask]")
    (folder / "fail-1").touch()
    (folder / "kill-2").touch()
    status, err = swept(folder, DASK, str(threads))
    if threads == 2:
        assert status == 2 and "has 2 threads" in err
        return
    check_two_lost(folder, status, err)


@pytest.mark.slow
def test_ray(folder: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pyrosparse[ray]")
    (folder / "fail-1").touch()
    (folder / "kill-2").touch()
    check_two_lost(folder, *swept(folder, RAY))


def test_a_run_that_killed_its_process_is_not_begun_again_by_the_same_command(folder: Path) -> None:
    """As a cluster would that hands over what a lost worker had; another command tries it."""
    job = bench.load(str(folder / "suite.toml")).jobs[0]
    task = Task(folder / "all.jsonl", folder / "scratch", None)
    claims = Claims(task.results)
    claims.prepare()
    with pytest.raises(KeyboardInterrupt), claims.claim(job.id, task.command):
        raise KeyboardInterrupt
    assert "was killed or stopped" in task(job).failure
    assert not (folder / "started").exists()
    with pytest.raises(KeyboardInterrupt), claims.claim(job.id, "another"):
        raise KeyboardInterrupt
    assert task(job).line is not None
    assert "MemoryError: gone" in task.lost(job, MemoryError("gone")).failure
    assert failures.read(task.results)[job.id]["reason"] == "MemoryError: gone"
