"""Compression by gates: resumed, of any network, and with a compact network at the end."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pyrosparse.compress import Settings, compress
from pyrosparse.compress.pretraining import shared
from torch import Tensor, nn

import pyrosparse as ps
from pyrosparse import networks, run_folder
from pyrosparse.compact.storage import load_sparse
from tests.stopped import stopped_after

# One size of batch only, because a step of every other size is captured anew.
TINY = Settings(
    network_options={"hidden": [8]},
    epochs=6,
    pretrain=2,
    batch_size=647,
    gate_rate=2.0,
    kl_scale=0.3,
)


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


@pytest.mark.parametrize("saves", [1, 4], ids=["in the pretraining", "with gates"])
def test_a_stopped_run_ends_like_a_whole_one(tmp_path: Path, saves: int) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run_folder.run(TINY, whole, progress=False)
    with stopped_after(saves):
        run_folder.run(TINY, stopped, progress=False)
    assert (stopped / "checkpoint.safetensors").exists() == (saves > 2)
    with pytest.raises(ValueError, match="pretrain was 2, is 3"):
        run_folder.run(Settings(**{**TINY.__dict__, "pretrain": 3}), stopped, progress=False)
    run_folder.run(TINY, stopped, progress=False)
    for name in ("weights.safetensors", "compact.safetensors", "account.txt"):
        assert read(whole, name) == read(stopped, name)


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    first = run_folder.run(TINY, tmp_path, progress=False)
    files = {name: read(tmp_path, name) for name in ("metrics.jsonl", "compact.safetensors")}
    again = run_folder.run(TINY, tmp_path, progress=False)
    assert again.test_nll == first.test_nll and again.seconds == first.seconds
    assert files == {name: read(tmp_path, name) for name in files}


def test_a_network_that_cannot_be_traced_is_compressed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "create", lambda *_, **__: Wayward())
    summary = run_folder.run(TINY, tmp_path, progress=False)
    assert summary.compaction is not None and "cannot trace" in summary.compaction.problem
    assert not (tmp_path / "compact.safetensors").exists()
    assert "cannot trace" in (tmp_path / "report.html").read_text()
    (inputs, _), _ = summary.compaction.units.values()
    state = load_sparse(tmp_path / "weights.safetensors")
    assert int((state["fc1.weight"] != 0).any(0).sum()) == inputs < 64


def test_a_compact_network_that_cannot_be_saved_is_said_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsaved(*_: object) -> None:
        raise ValueError("it has hooks")

    monkeypatch.setattr("pyrosparse.assess.summary.save", unsaved)
    summary = run_folder.run(TINY, tmp_path, progress=False)
    assert summary.compact_bytes is None and summary.compaction is not None
    assert summary.compaction.problem == "it has hooks" and summary.compaction.report is not None
    assert (tmp_path / "account.txt").exists()


def test_gates_follow_their_own_gamma() -> None:
    settings = Settings(**{**TINY.__dict__, "kl_scale": {"fc2.*": 1e6, "*": 1e-6}})
    outcome = compress(settings, progress=False)
    assert outcome.compaction.units["fc2.input"][0] == 0
    assert outcome.compaction.units["fc1.input"][0] > 16
    assert outcome.compaction.kept.endswith("-0")


def test_a_convolutional_network_with_its_layout(tmp_path: Path) -> None:
    settings = Settings(
        **{**TINY.__dict__, "network": "cnn", "epochs": 1, "pretrain": 0, "gate_rate": 1e-3}
    )
    summary = run_folder.run(settings, tmp_path, progress=False)
    small = ps.load(tmp_path / "compact.safetensors")
    assert summary.compaction is not None and summary.compaction.report is not None
    assert list(summary.compaction.units) == [
        "conv1.output",
        "conv2.output",
        "fc1.input",
        "fc2.input",
    ]
    assert small(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_pretrained_networks_are_shared_by_what_makes_them(tmp_path: Path) -> None:
    def seconds_of(**changes: Any) -> float:
        return shared(Settings(**{**TINY.__dict__, **changes}), tmp_path)[1]

    first = seconds_of()
    assert seconds_of(kl_scale=5.0, epochs=1, gate_rate=0.1) == first
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    assert seconds_of(seed=1) != first
    names = sorted(file.name for file in tmp_path.glob("*.safetensors"))
    assert [name[:17] for name in names] == ["digits-fcn-seed0-", "digits-fcn-seed1-"]
    weights, _ = shared(TINY, tmp_path)
    outcome = compress(TINY, weights=weights, progress=False)
    assert outcome.trained.pretraining is None
    alone = compress(TINY, progress=False)
    assert json.dumps(alone.compaction.units) == json.dumps(outcome.compaction.units)
    assert alone.test == outcome.test


def test_without_options_digits_stay_right_in_a_smaller_and_faster_network() -> None:
    outcome = compress(Settings(), progress=False)
    report = outcome.compaction.report
    assert report is not None and report.quality is not None
    assert report.quality[1].nll == pytest.approx(outcome.test.nll, abs=1e-5)
    assert outcome.test.accuracy > 0.95
    before, after = report.total_macs
    assert before > 30 * after
    slow, fast = report.seconds[128]
    assert slow > 3 * fast
