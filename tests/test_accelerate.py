"""Two processes of Accelerate train what one trains on the same rows."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import pyrosparse as ps

pytest.importorskip("accelerate")

from tests import accelerate_case

ROOT = Path(ps.__file__).parents[1]


def launch(*words: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        "--nproc-per-node", str(accelerate_case.RANKS), *words,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("accelerate")
    launch("-m", accelerate_case.__name__, str(folder))
    return [torch.load(folder / f"{rank}.pt") for rank in range(accelerate_case.RANKS)]


@pytest.mark.slow
def test_without_noise_two_processes_train_as_one_does(found: list[dict[str, Any]]) -> None:
    rows = accelerate_case.BATCH * accelerate_case.RANKS
    alone = accelerate_case.train(ps.Gaussian(scale=0.5), batch=rows)
    untrained = accelerate_case.train(ps.Gaussian(scale=0.5), batch=accelerate_case.BATCH)
    for name, value in alone.items():
        for one in found:
            torch.testing.assert_close(one["point"][name], value, rtol=1e-12, atol=1e-12)
        assert not torch.allclose(untrained[name], value, atol=1e-3)  # batches of one process only


@pytest.mark.slow
def test_each_process_draws_its_own_and_their_parameters_agree(found: list[dict[str, Any]]) -> None:
    first, second = (one["normal"] for one in found)
    drawn = [name for name in first if name.startswith("drawn")]
    assert drawn and first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]) == (name not in drawn), name


@pytest.mark.slow
def test_the_example_runs_on_two_processes() -> None:
    done = launch(str(ROOT / "examples" / "accelerate_loop.py"), "--epochs", "10")
    (line,) = [line for line in done.stdout.splitlines() if "test accuracy" in line]
    assert line.startswith("2 process")
    assert float(line.split("test accuracy ")[1].split(",")[0]) > 0.9
