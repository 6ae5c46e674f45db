"""Two processes train what one would: started once, by torchrun, for all cases."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import pyrosparse as ps
from pyrosparse.infer import checkpoint
from tests.infer import ranks_cases
from tests.infer.ranks_cases import CASES, METHODS, mlp, train

EQUAL = [
    *METHODS,
    "captured", "batch_norm", "bayes_factor", "reduction", "movement", "snip", "turbo_of_weights",
    "turbo_with_units", "cut", "sampler", "recipe",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ranks")
    train(ps.lift(mlp(), ps.Gaussian()), checkpoint=path / "one.safetensors")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", ranks_cases.__name__, str(path),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    return path


def found(folder: Path, name: str) -> list[dict[str, Any]]:
    results = [torch.load(folder / f"{name}.{rank}.pt") for rank in (0, 1)]
    for result in results:
        assert "traceback" not in result, result["traceback"]
    return results


def error(folder: Path, name: str) -> str:
    """What a case said: the same on both ranks."""
    first, second = (result["error"] for result in found(folder, name))
    assert first == second
    return str(first)


@pytest.mark.slow
@pytest.mark.parametrize("name", EQUAL)
def test_two_processes_train_as_one_does(folder: Path, name: str, tmp_path: Path) -> None:
    first, second = found(folder, name)
    alone = CASES[name](tmp_path)
    assert first.keys() == second.keys() == alone.keys()
    for key, tensor in alone.items():
        assert torch.equal(first[key], second[key]), key
        if tensor.is_floating_point():
            torch.testing.assert_close(first[key], tensor, rtol=1e-12, atol=1e-12, msg=key)
        else:
            assert torch.equal(first[key], tensor), key


@pytest.mark.slow
def test_what_must_happen_happens(folder: Path) -> None:
    """Else the cases above would compare trainings in which nothing goes."""
    for name in ("bayes_factor", "reduction", "movement", "snip", "turbo_of_weights", "cut"):
        weights = [one for key, one in found(folder, name)[0].items() if key.endswith("0.weight")]
        assert any(bool((weight == 0).any()) for weight in weights), name
    units = found(folder, "turbo_with_units")[0]["mask of 0.weight"]
    assert not (units != 0).any(1).all()
    sizes = found(folder, "cut")[0]["weights"]
    assert sizes[-1] < sum(one.numel() for one in mlp(8).parameters())
    assert found(folder, "captured")[0]["steps"] == 12  # the last batch of an epoch is one datum
    assert found(folder, "batch_norm")[0]["steps"] == 9


@pytest.mark.slow
def test_a_resumed_run_ends_as_a_whole_one_bit_for_bit(folder: Path) -> None:
    for result in found(folder, "resumed"):
        assert result and all(not tensor.any() for tensor in result.values())


@pytest.mark.slow
def test_what_goes_wrong_on_one_rank_stops_both_alike(folder: Path) -> None:
    said = error(folder, "not_a_number")
    assert "NonFiniteLossError: the loss is nan at step 5 (epoch 2)" in said
    assert checkpoint.load(folder / "nan.safetensors")["epoch"] == 1
    assert error(folder, "exception_in_a_model") == "LookupError: no such word"
    assert error(folder, "exception_in_a_callback") == "KeyError: 'stopped'"
    assert "cannot write /gone/checkpoint.safetensors" in error(folder, "folder_is_gone")
    assert "CheckpointError" in error(folder, "other_number_of_ranks")
    assert "ranks was 1, is 2" in error(folder, "other_number_of_ranks")
    assert "gives each rank only a share" in error(folder, "shares_cannot_be_read")


@pytest.mark.slow
def test_what_differs_is_named(folder: Path) -> None:
    assert "before the first step, the ranks differ from rank 0 in net.2.weight (rank 1):" in error(
        folder, "other_weights"
    )
    named = error(folder, "other_mask")
    assert "after epoch 2," in named and "guide.posterior.0.weight.mask (rank 1)" in named
    assert "in torch's random generator (rank 1)" in error(folder, "other_draws")
    assert "in epochs (rank 1): call fit" in error(folder, "other_settings")
    assert "in tensor 0 of the batch (rank 1)" in error(folder, "other_data")


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_other_and_the_checkpoint_stays(folder: Path) -> None:
    said = torch.load(folder / "killed.0.pt")["error"]
    assert said.startswith("RankError: another rank no longer answers")
    assert not (folder / "killed.1.pt").exists()
    assert checkpoint.load(folder / "killed.safetensors")["epoch"] == 2
