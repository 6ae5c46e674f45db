"""Trackers send each number of each epoch once, in all stages, and go on after an interruption."""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import pyrosparse as ps
from pyrosparse.infer import Fit
from pyrosparse.tracking import MLflow, TensorBoard, Tracker, WandB
from tests.stopped import stopped_after


class Kept(Tracker):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[int, dict[str, float]]] = []

    def log(self, metrics: Mapping[str, float], epoch: int) -> None:
        self.lines.append((epoch, dict(metrics)))


def data() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(30, 4), torch.arange(30) % 3


def fit(tracker: Tracker, epochs: int = 3, **options: Any) -> Fit:
    torch.manual_seed(0)
    bnn = ps.lift(nn.Linear(4, 3), ps.Gaussian())
    return ps.fit(
        ps.classifier(bnn, 30),
        bnn.guide,
        data(),
        epochs=epochs,
        batch_size=10,
        validation=data(),
        callbacks=[*options.pop("before", ()), tracker],
        progress=False,
        seed=0,
        **options,
    )


def test_every_whole_entry_is_sent_once() -> None:
    tracker = Kept()
    run = fit(tracker)
    assert [epoch for epoch, _ in tracker.lines] == [1, 2, 3]
    for entry, (_, metrics) in zip(run.history, tracker.lines, strict=True):
        assert metrics == {name: entry[name] for name in metrics}
        assert {"loss", "validation_nll", "validation_accuracy"} <= metrics.keys()


def test_stages_of_a_recipe_have_their_names() -> None:
    tracker = Kept()
    recipe = ps.recipes.Magnitude(epochs=3, fine_tune=1)
    ps.compress(nn.Linear(4, 3), data(), recipe, callbacks=[tracker], dense=False, progress=False)
    found = [(epoch, next(iter(metrics)).rsplit("/", 1)[0]) for epoch, metrics in tracker.lines]
    assert found == [(1, "magnitude"), (2, "magnitude"), (3, "magnitude"), (1, "fine-tuning")]


def test_a_resumed_run_goes_on_where_the_sending_was(tmp_path: Path) -> None:
    whole, before, after = Kept(), Kept(), Kept()
    fit(whole, epochs=4)
    with stopped_after(2):
        fit(before, epochs=4, checkpoint=tmp_path / "run.safetensors")
    fit(after, epochs=4, checkpoint=tmp_path / "run.safetensors")
    # The second entry was sent in the third epoch, of which there is no checkpoint.
    assert [epoch for epoch, _ in before.lines] == [1, 2]
    assert [epoch for epoch, _ in after.lines] == [2, 3, 4]
    losses = {epoch: metrics["loss"] for epoch, metrics in before.lines + after.lines}
    assert losses == {epoch: metrics["loss"] for epoch, metrics in whole.lines}


@pytest.mark.filterwarnings("ignore")  # of the package itself
def test_tensorboard_has_every_number(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the package tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = fit(TensorBoard(tmp_path))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    (name,) = [name for name in events.Tags()["scalars"] if name.endswith("validation_nll")]
    found = {event.step: event.value for event in events.Scalars(name)}
    expected = {entry["epoch"]: entry["validation_nll"] for entry in run.history}
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.filterwarnings("ignore")  # of the package itself
def test_mlflow_has_every_number(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs the package mlflow")
    with pytest.raises(ValueError, match="start_run"):
        MLflow()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/runs.db")
    with mlflow.start_run() as active:
        run = fit(MLflow())
    client = mlflow.MlflowClient()
    names = client.get_run(active.info.run_id).data.metrics
    (name,) = [name for name in names if name.endswith("validation_nll")]
    found = [(one.step, one.value) for one in client.get_metric_history(active.info.run_id, name)]
    assert found == [(entry["epoch"], entry["validation_nll"]) for entry in run.history]


def test_wandb_gets_every_number() -> None:
    sent: list[dict[str, float]] = []
    run = fit(WandB(SimpleNamespace(log=sent.append)))
    assert [line["epoch"] for line in sent] == [1, 2, 3]
    for line, entry in zip(sent, run.history, strict=True):
        (value,) = [value for name, value in line.items() if name.endswith("validation_nll")]
        assert value == entry["validation_nll"]
    with pytest.raises(ValueError, match=r"wandb\.init"):
        WandB(None)


@pytest.mark.filterwarnings("ignore")  # of the package itself
def test_a_run_of_wandb_without_a_network(tmp_path: Path) -> None:
    wandb = pytest.importorskip("wandb", reason="needs the package wandb")
    with wandb.init(mode="offline", dir=tmp_path) as active:
        fit(WandB(active))
        assert active.summary["epoch"] == 3


@pytest.mark.parametrize(
    "make, package", [(lambda: TensorBoard("x"), "tensorboard"), (MLflow, "mlflow")]
)
def test_a_missing_package_is_named(
    make: Any, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (package, "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=f"pip install {package}"):
        make()
