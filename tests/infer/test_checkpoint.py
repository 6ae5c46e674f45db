"""Checkpoints: trees that come back as they were, or an error that says why not."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

import pyrosparse as ps
from pyrosparse.infer import Callback, Fit, resuming
from pyrosparse.infer.checkpoint import CheckpointError, load, save
from tests.infer.test_killed_run import assert_equal_trees

NAMES = st.text(max_size=5)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False)
    | NAMES
    | st.sampled_from(
        [
            torch.zeros(()),
            torch.empty(0, 3),
            torch.tensor([[1.5, float("nan")], [float("inf"), -0.0]])[1:],
            torch.arange(6, dtype=torch.int64).view(2, 3).T,
            torch.tensor([True, False]),
            torch.ones(2, dtype=torch.bfloat16),
            torch.arange(3, dtype=torch.uint8),
        ]
    )
)
TREES = st.dictionaries(
    NAMES | st.integers(),
    st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner)),
    max_size=4,
)


@given(TREES)
def test_trees_come_back_as_they_were(tmp_path_factory, tree):
    path = tmp_path_factory.mktemp("tree") / "a.safetensors"
    save(path, tree)
    assert_equal_trees(load(path), tree)


def test_tensors_that_share_memory_are_kept_apart(tmp_path: Path):
    weight = torch.arange(4.0)
    tree = load(save(tmp_path / "a", {"one": weight, "two": weight, "half": weight[2:]}))
    tree["one"][0] = 9
    assert torch.equal(tree["two"], weight)
    assert torch.equal(tree["half"], weight[2:])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return save(tmp_path / "run.safetensors", {"step": 3, "w": torch.randn(50)})


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_truncated_checkpoint_is_named_with_the_way_out(file: Path, share: float):
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=rf"{re.escape(str(file))}.*truncated.*Delete it"):
        load(file)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_no_checkpoint(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("bytes") / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        load(path)


def test_foreign_safetensors_file_is_refused(tmp_path: Path):
    save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="not a checkpoint of pyrosparse"):
        load(tmp_path / "model.safetensors")


def test_folder_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError):
        load(tmp_path)


def test_missing_file_is_another_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load(tmp_path / "a.safetensors")


def test_tree_that_cannot_be_written_leaves_the_old_checkpoint(file: Path):
    with pytest.raises(TypeError):
        save(file, {"w": object()})
    assert load(file)["step"] == 3
    assert list(file.parent.iterdir()) == [file]


class Watch(Callback):
    """Removes a folder at the end of the first epoch, and counts steps."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.steps = 0

    def on_step(self, run: Fit, progress: float) -> None:
        self.steps += 1

    def on_epoch_end(self, run: Fit) -> dict[str, Any]:
        if self.folder is not None:
            shutil.rmtree(self.folder)
        return {}


def train(watch: Watch, **files: Path) -> None:
    bnn = ps.lift(torch.nn.Linear(3, 2), ps.Gaussian())
    data = (torch.randn(8, 3), torch.zeros(8, dtype=torch.int64))
    ps.fit(
        ps.classifier(bnn, 8),
        bnn.guide,
        data,
        epochs=3,
        callbacks=[watch],
        progress=False,
        **files,
    )


@pytest.mark.parametrize("name", ["checkpoint", "metrics"])
def test_what_cannot_be_written_is_said_before_the_first_step(tmp_path: Path, name: str):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "a", tmp_path):
        watch = Watch()
        with pytest.raises(OSError, match="cannot write"):
            train(watch, **{name: place})
        assert watch.steps == 0


@pytest.mark.parametrize("name", ["checkpoint", "metrics"])
def test_a_folder_that_is_removed_ends_training(tmp_path: Path, name: str):
    watch = Watch(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match=r"cannot write .*run/a"):
        train(watch, **{name: tmp_path / "run" / "a"})
    assert watch.steps == 1
    assert not (tmp_path / "run").exists()


class Clock:
    """A clock that callbacks and the file system move, in place of ``time``."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


def test_files_take_at_most_a_twentieth_of_the_time(tmp_path: Path, monkeypatch):
    clock, written = Clock(), []
    monkeypatch.setattr(resuming, "time", clock)

    class Epochs(Callback):
        def on_epoch_end(self, run: Fit) -> None:
            clock.now += 5.0

    def slow_save(path: Path, tree: dict[str, Any]) -> Path:
        clock.now += 1.0
        written.append(tree["epoch"])
        return save(path, tree)

    monkeypatch.setattr(resuming.checkpoints, "save", slow_save)
    bnn = ps.lift(torch.nn.Linear(3, 2), ps.Gaussian())
    data = (torch.randn(8, 3), torch.zeros(8, dtype=torch.int64))
    file, metrics = tmp_path / "run.safetensors", tmp_path / "metrics.jsonl"
    ps.fit(
        ps.classifier(bnn, 8), bnn.guide, data, epochs=11, callbacks=[Epochs()], checkpoint=file,
        metrics=metrics, capture=False, progress=False,
    )  # fmt: skip
    assert written == [1, 5, 9, 11]  # 20 seconds are four epochs; the first and the last always
    assert load(file)["epoch"] == 11 and len(metrics.read_text().splitlines()) == 11


class Memory(Callback):
    """Remembers the loss of every epoch, in a state of its own."""

    def __init__(self, stop: int = 0) -> None:
        self.stop = stop
        self.seen: list[float] = []

    def on_epoch_end(self, run: Fit) -> None:
        if run.epoch == self.stop:
            raise KeyboardInterrupt
        self.seen.append(run.history[-1]["loss"])

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = list(state["seen"])


def test_a_callback_goes_on_from_its_state(tmp_path: Path):
    data = (torch.randn(20, 3), torch.arange(20) % 2)

    def train(memory: Memory, file: Path | None) -> list[float]:
        torch.manual_seed(0)
        bnn = ps.lift(torch.nn.Linear(3, 2), ps.Gaussian())
        ps.fit(
            ps.classifier(bnn, 20), bnn.guide, data, epochs=4, callbacks=[memory], checkpoint=file,
            capture=False, progress=False,
        )  # fmt: skip
        return memory.seen

    file = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(Memory(stop=3), file)
    resumed = train(Memory(), file)
    assert len(resumed) == 4 and resumed == train(Memory(), None)
