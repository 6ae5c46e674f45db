"""A run that is stopped in any of its stages ends like a whole one, bit for bit."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pyrosparse.recipes import Result
from pyrosparse.recipes.setup import Setup
from tests.stopped import stopped_after

# One size of batch only, because a step of every other size is captured anew.
SHARED = {"network_options": {"hidden": [8]}, "batch_size": 647, "learning_rate": 0.01}
RUNS: dict[str, dict[str, Any]] = {
    "magnitude": {"epochs": 2},
    "bayesian-random": {"epochs": 2},
    "model-reduction": {"epochs": 2, "warmup": 1},
    "gibbs": {"epochs": 2},
    "reinitialised": {"epochs": 2},
    "gradual-magnitude": {"epochs": 2, "ramp": 0.9, "every": 1},
    "dependent-beta-bernoulli": {"pretrain": 1, "epochs": 2, "second_epochs": 2, "gate_rate": 2.0},
    "structured-bayesian-pruning": {"pretrain": 1, "epochs": 2, "gate_rate": 0.1},
    "hard-concrete": {"pretrain": 1, "epochs": 2, "gate_rate": 0.1},
    "concrete-dropout": {"pretrain": 1, "epochs": 2},
    "independent-support": {"pretrain": 1, "epochs": 2, "fine_tune": 2, "active": 0.3},
}
# How many checkpoints were written before it is stopped, and the folders that have one then.
STOPS = [
    ("magnitude", 1, {"."}),
    ("magnitude", 3, {".", "dense"}),
    ("bayesian-random", 1, {"."}),
    ("model-reduction", 1, {"."}),
    ("gibbs", 1, {"."}),
    ("gibbs", 3, {".", "dense"}),
    ("gradual-magnitude", 1, {"."}),
    ("reinitialised", 1, {"first"}),
    ("reinitialised", 3, {"first", "."}),
    ("dependent-beta-bernoulli", 0, set()),
    ("dependent-beta-bernoulli", 2, {"first/pretraining", "first"}),
    ("dependent-beta-bernoulli", 4, {"first/pretraining", "first", "."}),
    ("structured-bayesian-pruning", 2, {"pretraining", "."}),
    ("hard-concrete", 2, {"pretraining", "."}),
    pytest.param("concrete-dropout", 2, {"pretraining", "."}, marks=pytest.mark.slow),
    ("independent-support", 2, {"pretraining", "support"}),
    ("independent-support", 4, {"pretraining", "support", "fine-tuning"}),
]
WHOLE: dict[str, Result] = {}


def setup(recipe: str) -> Setup:
    return Setup.of(SHARED | RUNS[recipe] | {"recipe": recipe})


@pytest.mark.parametrize(("recipe", "saves", "begun"), STOPS)
def test_a_run_stopped_in_a_stage(tmp_path: Path, recipe: str, saves: int, begun: set[str]) -> None:
    if recipe not in WHOLE:
        WHOLE[recipe] = setup(recipe).run(progress=False)
    whole = WHOLE[recipe]
    with stopped_after(saves):
        setup(recipe).run(folder=tmp_path, progress=False)
    files = tmp_path.rglob("checkpoint.safetensors")
    assert {file.parent.relative_to(tmp_path).as_posix() for file in files} == begun
    resumed = setup(recipe).run(folder=tmp_path, progress=False)
    assert resumed.quality == whole.quality and resumed.scores == whole.scores
    for mine, expected in ((resumed.net, whole.net), (resumed.original, whole.original)):
        for key, value in mine.state_dict().items():
            assert torch.equal(value, expected.state_dict()[key]), key
    assert [s.name for s in resumed.stages] == [s.name for s in whole.stages]
