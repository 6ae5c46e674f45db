"""A run killed at random moments ends as if nothing had happened, bit for bit."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pyrosparse.infer import checkpoint
from tests.infer.killed_run import EPOCHS

ROOT = Path(__file__).parents[2]


def assert_equal_trees(one, two, where: str = "") -> None:
    assert type(one) is type(two), where
    if isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            if key != "seconds":
                assert_equal_trees(one[key], two[key], f"{where}/{key}")
    elif isinstance(one, list):
        assert len(one) == len(two), where
        for index, (a, b) in enumerate(zip(one, two, strict=True)):
            assert_equal_trees(a, b, f"{where}/{index}")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == two.dtype and torch.equal(one, two), where
    else:
        assert one == two, where


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_killed_run_ends_bit_for_bit_like_an_uninterrupted_one(tmp_path: Path):
    seed = random.SystemRandom().randrange(10**6)  # other moments in every run of the tests
    result = subprocess.run(
        [sys.executable, "-m", "tests.infer.killed_run", str(tmp_path), "4", str(seed)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"seed {seed}: {result.stderr}"
    assert int(result.stdout) >= 2, f"seed {seed}: too few kills hit a run under way"
    whole = checkpoint.load(tmp_path / "whole.safetensors")
    killed = checkpoint.load(tmp_path / "killed.safetensors")
    assert whole["epoch"] == EPOCHS and whole["finished"]
    assert_equal_trees(whole, killed, f"seed {seed}: ")
    lines = [
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("whole", "killed")
    ]
    assert_equal_trees(*lines, f"seed {seed}: metrics")
    assert [entry["epoch"] for entry in lines[1]] == list(range(1, EPOCHS + 1))
