"""Annealing: beta over a run, captured steps that see it, resumption, the final mask."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pyrosparse as ps
from pyrosparse.infer import schedules
from pyrosparse.prune import Annealing
from tests.stopped import stopped_after

X = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
Y = torch.randint(3, (24,), generator=torch.Generator().manual_seed(1))
ANNEALING = schedules.logarithmic(0.1, 1e6, until=0.5)


def lifted(**options: Any) -> ps.Lifted:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    return ps.lift(net, ps.GibbsPruning(**({"sparsity": 0.5} | options)))


class Betas(ps.infer.Callback):
    """Notes beta before each step; after ``Annealing`` in the order of callbacks."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_step(self, run: ps.infer.Fit, progress: float) -> None:
        q = run.lifted.guide.entries[-1].posterior()
        self.seen.append(float(q["_beta"]))


def train(bnn: ps.Lifted, *callbacks: Any, epochs: int = 4, **options: Any) -> ps.infer.Fit:
    return ps.fit(
        ps.classifier(bnn, 24),
        bnn.guide,
        (X, Y),
        epochs=epochs,
        batch_size=8,
        callbacks=callbacks,
        progress=False,
        **options,
    )


@pytest.mark.parametrize("per", ["epoch", "step"])
def test_beta_follows_the_schedule(per: str) -> None:
    bnn, betas = lifted(), Betas()
    run = train(bnn, Annealing(ANNEALING, per=per), betas)
    places = [i / 12 if per == "step" else i // 3 / 4 for i in range(12)]
    assert betas.seen == pytest.approx([ANNEALING(place) for place in places], rel=1e-6)
    assert [entry["beta"] for entry in run.history] == betas.seen[2::3]


def test_a_longer_run_stretches_beta_and_the_rates_together() -> None:
    seen = {}
    for epochs in (2, 4):
        betas = Betas()
        run = train(
            lifted(),
            Annealing(ANNEALING, per="step"),
            betas,
            epochs=epochs,
            schedule=schedules.steps(0.5),
        )
        rates = [entry["learning_rate"] for entry in run.history]
        seen[epochs] = betas.seen, rates
    assert seen[4][0][::2] == pytest.approx(seen[2][0])
    assert seen[4][1][1::2] == pytest.approx(seen[2][1])


def test_captured_steps_see_beta_change_and_are_captured_once() -> None:
    bnn = lifted()
    run = train(bnn, Annealing(ANNEALING, per="step", finish=False), epochs=8)
    assert run.svi.fallback is None and len(run.svi.captured) == 1
    assert all(len(made) == 1 for made in run.svi.captured.values())
    eager = lifted()
    train(eager, Annealing(ANNEALING, per="step", finish=False), epochs=8, capture=False)
    # The captured run leaves out the draws of weights that the guide replaces, which a point
    # guide does not make; so both draw the same masks.
    for one, other in zip(bnn.parameters(), eager.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_a_stopped_run_ends_like_a_whole_one(tmp_path: Path) -> None:
    for structure in ("weight", "filter"):
        whole, stopped = (lifted(structure=structure) for _ in range(2))
        file, callbacks = tmp_path / f"{structure}.safetensors", [Annealing(ANNEALING, per="step")]
        train(whole, *callbacks)
        with stopped_after(2):
            train(stopped, *callbacks, checkpoint=file)
        resumed = lifted(structure=structure)
        train(resumed, *callbacks, checkpoint=file)
        for (key, one), other in zip(
            whole.state_dict().items(), resumed.state_dict().values(), strict=True
        ):
            assert torch.equal(one, other), key


@pytest.mark.parametrize("final", ["draw", "mode", "magnitude"])
def test_the_network_is_left_with_one_mask(final: str) -> None:
    bnn = lifted(final=final)
    train(bnn, Annealing(ANNEALING))
    for entry in bnn.guide.entries:
        zeros = int((entry.parameter() == 0).sum())
        assert zeros == pytest.approx(entry.mask.numel() / 2, abs=1)
        assert torch.equal(entry.parameter() != 0, entry.mask)
    assert torch.equal(bnn.mean_forward(X), bnn.net(X))


def test_a_network_without_such_masks_is_refused() -> None:
    bnn = ps.lift(nn.Linear(6, 3), ps.Gaussian())
    with pytest.raises(ValueError, match="draws no masks with a temperature"):
        train(bnn, Annealing(ANNEALING))
    with pytest.raises(ValueError, match="per must be"):
        Annealing(ANNEALING, per="minute")
