"""The command line, as a person calls it."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import pyrosparse
from pyrosparse import bench, data, networks, run_folder
from pyrosparse.cli import app
from pyrosparse.compact.storage import load_sparse
from pyrosparse.compress import METHODS, Settings
from pyrosparse.infer import checkpoint

SMALL = ["--epochs", "2", "--network-options", '{"hidden": [8]}']


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def call(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def succeed(*words: str) -> str:
    result = call(*words)
    assert result.exit_code == 0, result.output
    return result.output


def fail(*words: str) -> str:
    """What a failing command says: one line on stderr, and the code for wrong use."""
    result = call(*words)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.stderr


def test_lists() -> None:
    assert pyrosparse.__version__ in succeed("--version")
    text = succeed("methods")
    assert all(name in text and METHODS[name] in text for name in METHODS)
    text = succeed("networks")
    assert all(name in text for name in networks.names())
    assert "14,987,210" in text
    text = succeed("datasets")
    for name in data.names():
        (line,) = (line for line in text.splitlines() if line.startswith(f"{name} "))
        assert line.removeprefix(name).strip(), f"nothing is said of {name}"


def test_compress_leaves_a_whole_folder(workplace: Path) -> None:
    text = succeed("compress", *SMALL)
    folder = workplace / "runs" / "digits-fcn-bayesian-magnitude-0.9-seed0"
    assert text.splitlines()[-1] == str(folder.relative_to(workplace) / "report.html")
    for word in ("fc1.weight", "test accuracy", "nats per datum", "log Bayes factor", "prior"):
        assert word in text
    assert {file.name for file in folder.iterdir()} == {
        "bayes_factor_parts.png",
        "checkpoint.safetensors",
        "config.json",
        "learning_curves.png",
        "metrics.jsonl",
        "report.html",
        "sparsity_by_layer.png",
        "summary.json",
        "weights.safetensors",
    }
    summary = json.loads((folder / "summary.json").read_text())
    weights = load_sparse(folder / "weights.safetensors")
    prunable = [weights[name] for name in ("fc1.weight", "fc2.weight")]
    zeros = sum(int((weight == 0).sum()) for weight in prunable)
    assert summary["sparsity"] == pytest.approx(zeros / sum(w.numel() for w in prunable))
    assert summary["sparse_bytes"] == (folder / "weights.safetensors").stat().st_size
    assert summary["sparse_bytes"] < summary["dense_bytes"]
    assert not any(bool(torch.signbit(weight[weight == 0]).any()) for weight in prunable)


def test_a_finished_run_is_not_repeated(workplace: Path) -> None:
    words = ["compress", *SMALL, "--output", "run", "--quiet"]
    assert succeed(*words).splitlines() == [str(Path("run", "report.html"))]
    metrics = Path("run", "metrics.jsonl").read_text()
    config = Path("run", "config.json").read_text()
    weights = Path("run", "weights.safetensors").read_bytes()
    Path("run", "report.html").unlink()
    succeed(*words)
    assert Path("run", "report.html").exists()
    assert Path("run", "metrics.jsonl").read_text() == metrics  # with its seconds
    assert Path("run", "config.json").read_text() == config
    assert Path("run", "weights.safetensors").read_bytes() == weights


def test_a_stopped_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["compress", *SMALL, "--quiet", "--output"]
    succeed(*words, "whole")
    save, saved = checkpoint.save, []

    def save_once(*arguments: Any) -> Any:
        if saved:
            raise KeyboardInterrupt
        saved.append(save(*arguments))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save_once)
        result = call(*words, "stopped")
    assert result.exit_code == 130 and "goes on" in result.stderr
    assert not Path("stopped", "report.html").exists()
    succeed(*words, "stopped")
    first, second = (load_sparse(Path(f, "weights.safetensors")) for f in ("whole", "stopped"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_other_settings_in_the_same_folder_are_refused() -> None:
    succeed("compress", *SMALL, "--output", "run", "--quiet")
    text = fail("compress", *SMALL, "--output", "run", "--sparsity", "0.5")
    assert "sparsity was 0.9, is 0.5" in text and "--output" in text
    Path("run", "config.json").write_text("{}")
    assert "config.json" in fail("compress", *SMALL, "--output", "run")
    Path("run", "config.json").unlink()
    assert "config.json" in fail("compress", *SMALL, "--output", "run")


def test_a_run_that_never_began_leaves_its_folder_free() -> None:
    assert "batch_size" in fail("compress", *SMALL, "--batch-size", "0", "--output", "run")
    succeed("compress", *SMALL, "--output", "run", "--quiet")


def test_unpruned_run() -> None:
    text = succeed("compress", *SMALL, "--method", "none")
    folder = Path("runs", "digits-fcn-none-seed0")
    assert "Bayes" not in text
    assert not (folder / "bayes_factor_parts.png").exists()
    assert "without pruning" in (folder / "report.html").read_text()


def test_starting_from_weights() -> None:
    succeed("compress", *SMALL, "--method", "none", "--output", "dense", "--quiet")
    accuracies = []
    for file in ("weights.safetensors", "checkpoint.safetensors"):
        words = ["compress", *SMALL, "--weights", f"dense/{file}", "--output", f"from-{file}"]
        assert "pyrosparse" not in succeed(*words, "--quiet")
        summary = json.loads(Path(f"from-{file}", "summary.json").read_text())
        accuracies.append(summary["test_accuracy"])
    assert accuracies[0] == accuracies[1]  # the same weights from either file
    config = json.loads(Path("from-weights.safetensors", "config.json").read_text())
    assert len(config["weights"]["sha256"]) == 64
    # The same folder without those weights is another run.
    assert "weights" in fail("compress", *SMALL, "--output", "from-weights.safetensors")


def test_weights_that_do_not_serve() -> None:
    assert "no file" in fail("compress", *SMALL, "--weights", "nowhere.pt")
    Path("bad.safetensors").write_bytes(b"not a file of tensors")
    assert "truncated" in fail("compress", *SMALL, "--weights", "bad.safetensors")
    torch.save(torch.nn.Linear(2, 2).state_dict(), "other.pt")
    text = fail("compress", *SMALL, "--weights", "other.pt")
    assert "not of this network" in text and "fc1.weight" in text
    torch.save(torch.nn.Linear(2, 2), "code.pt")
    assert "could run code" in fail("compress", *SMALL, "--weights", "code.pt")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--network", "fnc"], "did you mean 'fcn'?"),
        (["--dataset", "digit"], "did you mean 'digits'?"),
        (["--method", "bayesian-magnitud"], "did you mean 'bayesian-magnitude'?"),
        (["--sparsity", "1"], "sparsity must be in [0, 1)"),
        (["--ramp", "2"], "ramp"),
        (["--likelihood", "total"], "'mean' or 'sum'"),
        (["--scale", "-1"], "scale must be positive"),
        (["--network-options", "{"], "not JSON"),
        (["--network-options", "[1]"], "JSON object"),
        (["--epochs", "many"], "epochs"),
        (["--no-such-option"], "No such option"),
    ],
)
def test_wrong_options(words: list[str], message: str) -> None:
    assert message in fail("compress", *words)
    assert not list(Path().glob("runs/*/checkpoint.safetensors"))


def test_a_folder_that_cannot_be_written_stops_before_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def train(*_: object, **__: object) -> None:
        raise AssertionError("the training started")

    monkeypatch.setattr(run_folder, "compress", train)
    Path("file").write_text("in the way")
    assert "error" in fail("compress", *SMALL, "--output", "file")
    assert "error" in fail("compress", *SMALL, "--output", "file/run")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_folder, "write_atomically", full)
    assert "No space left" in fail("compress", *SMALL, "--output", "run")


def test_our_own_mistakes_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(run_folder, "run", broken)
    result = call("compress")
    assert isinstance(result.exception, ZeroDivisionError)


def test_the_command_of_a_report_repeats_the_run() -> None:
    settings = Settings(
        network_options={"hidden": [8]},
        method="bayesian-random",
        sparsity=0.75,
        epochs=1,
        learning_rate=0.01,
        freeze=False,
        per_datum=True,
        likelihood="sum",
        threshold=-0.105,
        validation=0.2,
        seed=3,
    )
    program, *words = shlex.split(run_folder.command(settings))
    assert program == "pyrosparse"
    succeed(*words, "--output", "run", "--quiet")
    saved = json.loads(Path("run", "config.json").read_text())["settings"]
    assert Settings(**saved) == settings


SUITE = """
title = "A [small] suite"
source = "nobody"
[settings]
dataset = "digits"
network = "fcn"
network_options = { hidden = [8] }
epochs = 1
[[grid]]
method = ["none", "magnitude"]
seeds = 2
[[paper]]
dataset = "digits"
network = "fcn"
sparsity = 0.9
accuracy = { magnitude = 0.5 }
"""


def test_bench_goes_on_and_table_compares() -> None:
    Path("small.toml").write_text(SUITE)
    assert "no results" in fail("table", "small.toml")
    text = succeed("bench", "small.toml", "--only", "*-none-*", "--seeds", "1")
    assert text.count("digits-fcn-none-seed") == 1 and "1 runs added" in text
    text = succeed("bench", "small.toml")
    assert "digits-fcn-none-seed0 " not in text and "3 runs added" in text
    assert "nothing is missing" in succeed("bench", "small.toml")
    assert len(bench.read(Path("runs", "bench", "small.jsonl"))) == 4
    text = succeed("table", "small.toml")
    assert "A [small] suite" in text and "50.00" in text and "±" in text
    lines = succeed("table", "small.toml", "--markdown").splitlines()
    assert lines[0].startswith("| cell |") and [line[:1] for line in lines[1:4]] == ["|", "|", "|"]
    assert lines[-1].startswith("4 runs; pyrosparse ")


def test_bench_prefers_published_results() -> None:
    Path("small.toml").write_text(SUITE)
    published = Path("docs", "results", "small.jsonl")
    published.parent.mkdir(parents=True)
    published.write_text("")
    succeed("bench", "small.toml", "--only", "digits-fcn-none-seed0")
    assert len(bench.read(published)) == 1
    assert "digits-fcn-none" in succeed("table", "small.toml", "--results", str(published))


def test_bench_errors() -> None:
    assert "did you mean 'bayesian-pruning'?" in fail("bench", "bayesian-prunin")
    Path("small.toml").write_text(SUITE)
    assert "no run" in fail("bench", "small.toml", "--only", "nothing")
    Path("small.toml").write_text(SUITE.replace("epochs", "epoch"))
    assert "did you mean 'epochs'?" in fail("bench", "small.toml")
