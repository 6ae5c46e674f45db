"""Gates: resumed, of any network, and with a compact network at the end."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyrosparse as ps
from pyrosparse import networks
from pyrosparse.recipes.setup import Setup
from pyrosparse.reports import folder as run_folder
from pyrosparse.storage.storage import load_sparse
from tests.short import short_runs
from tests.stopped import stopped_after

# One size of batch only, because a step of every other size is captured anew.
VALUES = {
    "network_options": {"hidden": [8]},
    "epochs": 6,
    "pretrain": 2,
    "batch_size": 647,
    "gate_rate": 2.0,
    "kl_scale": 0.3,
}


def tiny(**changes: Any) -> Setup:
    return Setup.of(VALUES | changes)


TINY = tiny()


class Wayward(nn.Module):
    """A network that torch.fx cannot trace: what it does depends on how many data there are."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, 8)
        self.fc2 = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        if len(x) > 10**6:
            x = -x
        return self.fc2(self.fc1(x).relu())


def read(folder: Path, name: str) -> bytes:
    return (folder / name).read_bytes()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The folder of a whole run, and its summary."""
    folder = tmp_path_factory.mktemp("whole")
    with short_runs():
        return folder, run_folder.run(TINY, folder, progress=False)


@pytest.mark.parametrize("saves", [1, 4], ids=["in the pretraining", "with gates"])
def test_a_stopped_run_ends_like_a_whole_one(
    tmp_path: Path, saves: int, finished: tuple[Path, Any]
) -> None:
    with stopped_after(saves):
        run_folder.run(TINY, tmp_path, progress=False)
    assert (tmp_path / "checkpoint.safetensors").exists() == (saves > 2)
    with pytest.raises(ValueError, match="pretrain was 2, is 3"):
        run_folder.run(tiny(pretrain=3), tmp_path, progress=False)
    run_folder.run(TINY, tmp_path, progress=False)
    for name in ("weights.safetensors", "compact.safetensors", "account.txt"):
        assert read(finished[0], name) == read(tmp_path, name)


def test_a_finished_run_is_not_repeated(finished: tuple[Path, Any]) -> None:
    folder, first = finished
    files = {name: read(folder, name) for name in ("metrics.jsonl", "compact.safetensors")}
    again = run_folder.run(TINY, folder, progress=False)
    assert again.test_nll == first.test_nll and again.seconds == first.seconds
    assert files == {name: read(folder, name) for name in files}


def test_a_network_that_cannot_be_traced_is_compressed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "create", lambda *_, **__: Wayward())
    summary = run_folder.run(TINY, tmp_path, progress=False)
    assert summary.compaction is not None and not summary.compaction.problem
    assert "still Wayward" in (tmp_path / "account.txt").read_text()
    small = ps.load(tmp_path / "compact.safetensors", into=Wayward())
    assert isinstance(small, Wayward)
    (inputs, _), _ = summary.compaction.units.values()
    state = load_sparse(tmp_path / "weights.safetensors")
    assert int((state["fc1.weight"] != 0).any(0).sum()) == inputs < 64


def test_gates_that_closed_are_frozen_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    # A network that is cut while it trains has them frozen by then; this one is trained whole.
    monkeypatch.setattr(networks, "create", lambda *_, **__: Wayward())
    posterior = TINY.run(progress=False).posterior
    masks = posterior.masks()
    for entry in posterior.guide.entries:
        if entry.target.kind == "input":
            assert torch.equal(entry.mask, masks[entry.target.key] != 0)
    assert not all(entry.mask.all() for entry in posterior.guide.entries)


def test_a_compact_network_that_cannot_be_saved_is_said_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsaved(*_: object) -> None:
        raise ValueError("it has hooks")

    monkeypatch.setattr("pyrosparse.reports.summary.save", unsaved)
    summary = run_folder.run(TINY, tmp_path, progress=False)
    assert summary.compact_bytes is None and summary.compaction is not None
    assert summary.compaction.problem == "it has hooks" and summary.compaction.report is not None
    assert (tmp_path / "account.txt").exists()


def test_gates_follow_their_own_gamma() -> None:
    settings = tiny(kl_scale={"fc2.*": 1e6, "*": 1e-6})
    outcome = settings.run(progress=False)
    assert outcome.compaction.units["fc2.input"][0] == 0
    assert outcome.compaction.units["fc1.input"][0] > 16
    assert outcome.compaction.kept.endswith("-0")


def test_a_convolutional_network_with_its_layout(tmp_path: Path) -> None:
    setup = tiny(network="cnn", epochs=1, pretrain=0, gate_rate=1e-3, network_options={})
    summary = run_folder.run(setup, tmp_path, progress=False)
    small = ps.load(tmp_path / "compact.safetensors")
    assert summary.compaction is not None and summary.compaction.report is not None
    assert list(summary.compaction.units) == [
        "conv1.output",
        "conv2.output",
        "fc1.input",
        "fc2.input",
    ]
    assert small(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.slow
def test_pretrained_networks_are_shared_by_what_makes_them(tmp_path: Path) -> None:
    def pretraining(**changes: Any) -> Any:
        result = tiny(**changes).run(pool=tmp_path, progress=False)
        return next(stage.history for stage in result.stages if stage.name == "pretraining")

    first = pretraining()
    assert pretraining(kl_scale=5.0, epochs=1, gate_rate=0.1) == first  # with its seconds
    assert len(list(tmp_path.glob("pretraining-*"))) == 1
    for changes in ({"seed": 1}, {"pretrain": 3}, {"batch_size": 640}, {"normalise": "unit"}):
        assert pretraining(epochs=1, **changes) != first
    assert len(list(tmp_path.glob("pretraining-*"))) == 5
    alone = TINY.run(progress=False)
    shared = TINY.run(pool=tmp_path, progress=False)
    assert alone.quality == shared.quality and alone.compaction.units == shared.compaction.units


def test_given_weights_take_the_place_of_the_pretraining() -> None:
    whole = TINY.run(progress=False)
    weights = whole.original.state_dict()
    result = TINY.run(weights=weights, progress=False)
    assert [stage.name for stage in result.stages] == ["beta-bernoulli"]
    assert result.quality == whole.quality and result.compaction.units == whole.compaction.units


@pytest.mark.slow
def test_without_options_digits_stay_right_in_a_smaller_and_faster_network() -> None:
    result = Setup().run(progress=False)
    report = result.report
    assert report is not None and report.quality is not None
    assert report.quality[1].nll == pytest.approx(result.quality["nll"], abs=1e-5)
    assert result.quality["accuracy"] > 0.95
    before, after = report.total_macs
    assert before > 30 * after
    slow, fast = report.seconds[128]
    assert slow > 3 * fast
