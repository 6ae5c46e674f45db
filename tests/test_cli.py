"""The command line, as a person calls it."""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import pyrosparse
from pyrosparse import bench, data, networks
from pyrosparse.cli import app
from pyrosparse.infer import checkpoint
from pyrosparse.recipes import RECIPES, BayesianMagnitude
from pyrosparse.recipes.setup import Setup
from pyrosparse.reports import folder as run_folder
from pyrosparse.storage.storage import load_sparse
from tests.short import short_runs

# One size of batch only, because a step of every other size is captured anew.
NET = ["--batch-size", "647", "--network-options", '{"hidden": [8]}']
DENSE = ["none", "--epochs", "2", *NET]
SMALL = ["bayesian-magnitude", "--epochs", "2", *NET]
GATES = ["--epochs", "6", "--pretrain", "2", "--gate-rate", "2", *NET]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture
def whole() -> None:
    """For tests of all that a run does: elsewhere no figure is drawn and no step is captured, which
    is most of the time of a short run."""


@pytest.fixture(autouse=True)
def short(request: pytest.FixtureRequest) -> Iterator[None]:
    with contextlib.nullcontext() if "whole" in request.fixturenames else short_runs():
        yield


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


def visible(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if not file.name.startswith(".")]


def test_lists() -> None:
    assert pyrosparse.__version__ in succeed("--version")
    text = succeed("recipes")
    for recipe in RECIPES:
        (line,) = (line for line in text.splitlines() if line.startswith(f"{recipe.name} "))
        assert recipe.summary() in line and recipe.knob.replace("_", "-") in line
    text = succeed("networks")
    assert all(name in text for name in networks.names())
    assert "14,987,210" in text
    text = succeed("datasets")
    for name in data.names():
        (line,) = (line for line in text.splitlines() if line.startswith(f"{name} "))
        assert line.removeprefix(name).strip(), f"nothing is said of {name}"


def test_compress_leaves_a_whole_folder(workplace: Path, whole: None) -> None:
    text = succeed("compress", *SMALL)
    folder = workplace / "runs" / "digits-fcn-bayesian-magnitude-0.9-seed0"
    assert text.splitlines()[-1] == str(folder.relative_to(workplace) / "report.html")
    words = ("fc1.weight", "test accuracy", "nats per datum", "log Bayes factor", "prior")
    for word in (*words, "multiply-accumulates", "times fewer", "zeros are scattered"):
        assert word in text
    assert {file.name for file in visible(folder)} == {
        "account.txt",
        "bayes_factor_parts.png",
        "checkpoint.safetensors",
        "compact.safetensors",
        "config.json",
        "dense",
        "kept_inputs.png",
        "learning_curves.png",
        "metrics.jsonl",
        "reliability_diagram.png",
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


def test_compress_without_options_leaves_a_compact_network(workplace: Path, whole: None) -> None:
    text = succeed("compress", *GATES, "--kl-scale", "0.3")
    folder = workplace / "runs" / "digits-fcn-beta-bernoulli-0.3-seed0"
    assert text.splitlines()[-1] == str(folder.relative_to(workplace) / "report.html")
    assert {file.name for file in visible(folder)} == {
        "account.txt",
        "checkpoint.safetensors",
        "compact.safetensors",
        "config.json",
        "gate_forest-fc1.input.png",
        "gate_forest-fc2.input.png",
        "kept_inputs.png",
        "kept_units.png",
        "learning_curves.png",
        "metrics.jsonl",
        "pretraining",
        "reliability_diagram.png",
        "report.html",
        "summary.json",
        "weights.safetensors",
    }
    summary = json.loads((folder / "summary.json").read_text())
    small, compaction = pyrosparse.load(folder / "compact.safetensors"), summary["compaction"]
    assert (folder / "account.txt").read_text() == f"{small.account}\n"
    assert summary["compact_bytes"] == (folder / "compact.safetensors").stat().st_size
    (inputs, of_inputs), (hidden, of_hidden) = compaction["units"].values()
    assert (of_inputs, of_hidden) == (64, 8) and inputs + hidden < 72
    assert compaction["report"]["structure"] == small.account.structure
    assert set(summary["latency_speedup"]) == {"1", "128"}
    assert f"64-8 │ {inputs}-{hidden}" in re.sub(" +", " ", text)
    # The compact network, the sparse weights and what was said of them are one network.
    test = data.load("digits").test
    net = networks.fcn((1, 8, 8), hidden=(8,))
    net.load_state_dict(load_sparse(folder / "weights.safetensors"))
    with torch.no_grad():
        assert torch.allclose(net(test.x), small(test.x), atol=1e-5)
        right = (small(test.x).argmax(1) == test.y).double().mean()
    assert float(right) == pytest.approx(summary["test_accuracy"])
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["units"] == {"fc1.input": inputs, "fc2.input": hidden}
    page = (folder / "report.html").read_text()
    assert "The compact network" in page and "Units that are kept" in page and "gamma 0.3" in page


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


@pytest.mark.slow
def test_processes_under_torchrun_train_together_and_the_first_writes(workplace: Path) -> None:
    def launch(*words: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
            "-m", "pyrosparse.cli", "compress", *words, "--output", "together",
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)

    done = launch("none", "--epochs", "2", "--network", "fcn")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("report.html") == 1
    assert {"report.html", "compact.safetensors", "summary.json"} <= {
        file.name for file in Path("together").iterdir()
    }
    # Both gave gradients: alone, a checkpoint of two ranks is refused.
    saved = checkpoint.load(Path("together", "checkpoint.safetensors"))
    assert saved["settings"]["ranks"] == 2
    refused = launch("none", "--epochs", "3", "--network", "fcn")
    assert refused.returncode
    assert refused.stderr.count("epochs was 2, is 3") == 2


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
    text = succeed("compress", *DENSE)
    folder = Path("runs", "digits-fcn-none-seed0")
    assert "Bayes" not in text
    assert not (folder / "bayes_factor_parts.png").exists()
    assert "without pruning" in (folder / "report.html").read_text()


def test_starting_from_weights() -> None:
    succeed("compress", *DENSE, "--output", "dense", "--quiet")
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
    assert "do not fit this network" in text and "fc1.weight" in text
    torch.save(torch.nn.Linear(2, 2), "code.pt")
    assert "could run code" in fail("compress", *SMALL, "--weights", "code.pt")


def test_gates_on_given_weights_are_not_pretrained() -> None:
    succeed("compress", *DENSE, "--output", "dense", "--quiet")
    words = ["compress", *GATES, "--weights", "dense/weights.safetensors", "--output", "run"]
    succeed(*words, "--quiet")
    assert not Path("run", "pretraining").exists()
    dense, run = (json.loads(Path(f, "summary.json").read_text()) for f in ("dense", "run"))
    before, _ = run["compaction"]["report"]["quality"]
    assert before["accuracy"] == dense["test_accuracy"]


def test_gates_that_close_everything_are_said_to() -> None:
    text = succeed("compress", *GATES, "--kl-scale", "1e6", "--output", "run")
    assert "There is no compact network: nothing is left of" in text
    assert "a lower --kl-scale" in text
    assert not Path("run", "compact.safetensors").exists()
    assert "a lower --kl-scale" in Path("run", "report.html").read_text()
    summary = json.loads(Path("run", "summary.json").read_text())
    assert summary["compaction"]["report"] is None and "latency_speedup" not in summary


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--network", "fnc"], "did you mean 'fcn'?"),
        (["--network", "nowhere:net"], "nowhere:net is not a function"),
        (["--network", "os.path:nothing"], "is not a function"),
        (["--network", "os.path:join"], "join cannot be called with"),
        (["--dataset", "digit"], "did you mean 'digits'?"),
        (["bayesian-magnitud"], "did you mean 'bayesian-magnitude'?"),
        (["--sparsity", "0.9"], "beta-bernoulli has no option sparsity: it is one of gibbs"),
        (["magnitude", "--kl-scale", "2"], "magnitude has no option kl_scale"),
        (["magnitude", "--no-rows"], "no option rows: it is one of model-reduction"),
        (["magnitude", "--sparsit", "0.9"], "did you mean '--sparsity'?"),
        (["independent-support", "--least-units", "3"], "it is one of turbo-vbi,"),
        (["magnitude", "--sparsity", "1"], "sparsity must be in [0, 1)"),
        (["magnitude", "--ramp", "2"], "ramp"),
        (["bayesian-random", "--likelihood", "total"], "'sum' or 'mean'"),
        (["--scale", "-1"], "scale must be positive"),
        (["--normalise", "none"], "normalise must be 'standard' or 'unit'"),
        (["--pi", "drawn"], "'sampled' or 'collapsed'"),
        (["--kl-scale", "much"], "--kl-scale is a number, or numbers by name"),
        (["--kl-scale", "conv=much"], "--kl-scale is a number, or numbers by name"),
        (["--kl-scale", "0"], "kl_scale must be positive"),
        (["--kl-scale", "conv1.*=2"], "kl_scale has no number for 'fc1.input'"),
        (["--pretrain", "-1"], "pretrain must be 0 or more"),
        (["--epochs", "0"], "epochs must be 1 or more"),
        (["--network-options", "{"], "not JSON"),
        (["--network-options", "[1]"], "JSON object"),
        (["--epochs", "many"], "epochs"),
        (["--device", "gpu"], "there is no device 'gpu' here"),
        (["--teacher", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--no-such-option"], "unknown option '--no-such-option'"),
        (["--network", "torchvision:resnet81"], "did you mean 'resnet18'?"),
        (["--network", "torchvision:resnet18"], "take 3 channels; the images have 1"),
        (["--network-options", '{"hidden": ["a"]}'], "fcn does not take"),
        (["--dataset", "nowhere/"], "<folder of images>"),
        (["--size", "5"], "size must divide these numbers, got 5 x 5"),
        (["--size", "8x"], "height x width"),
        (["--seed", "99999999999999999999"], "seed must be a whole number of at most 64 bits"),
        (["--batch-size", "99999999999999999999"], "batch_size must be 1 or more"),
        (["--learning-rate", "0"], "learning_rate must be positive"),
        (["--learning-rate", "-1"], "learning_rate must be positive"),
        (["--learning-rate", "1e29"], "try a lower --learning-rate"),
        (["--gate-rate", "-1"], "gate_rate must be positive"),
        (["--scale", "1e300"], "scale must be positive"),
        (["--kl-scale", "*=nan"], "kl_scale must be a finite number"),
        (["gibbs", "--no-augment", "--flip"], "leave one of the two out"),
    ],
)
def test_wrong_options(words: list[str], message: str) -> None:
    assert message in fail("compress", *words)
    assert not list(Path().glob("runs/*/checkpoint.safetensors"))


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    ("recipe", "option"),
    [
        (recipe, option)
        for recipe, options in {
            "beta-bernoulli": "learning-rate scale kl-scale gate-rate temperature initial",
            "bayesian-magnitude": "learning-rate scale sparsity ramp",
            "model-reduction": "learning-rate fraction",
            "turbo-vbi": "active unit-cost kl-scale",
            "gibbs": "sparsity coupling beta-start beta-end annealed",
        }.items()
        for option in options.split()
    ],
)
def test_numbers_that_are_none(recipe: str, option: str, value: str) -> None:
    text = fail("compress", recipe, f"--{option}", value)
    assert f"{option.replace('-', '_')} must be a finite number, got {value}" in text
    assert not Path("runs").exists()


def test_a_threshold_may_be_infinite_and_is_a_number() -> None:
    assert "threshold must be" in fail("compress", *SMALL, "--threshold", "nan")
    assert BayesianMagnitude(threshold=-float("inf")).threshold < 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:7", "meta"])
def test_a_device_that_is_not_here(device: str) -> None:
    assert f"there is no device '{device}' here" in fail("compress", "--device", device)


@pytest.fixture
def photos() -> Path:
    """Thirty pictures of two sizes, red or blue."""
    generator = np.random.default_rng(0)
    for index in range(30):
        pixels = generator.integers(0, 99, (33 + index % 3, 36, 3), dtype=np.uint8)
        pixels[..., 2 * (index % 2)] += 120
        file = Path("photos", ("red", "blue")[index % 2], f"{index}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    return Path("photos")


def test_a_folder_of_photographs_and_a_network_of_torchvision(photos: Path) -> None:
    words = ["compress", "none", "--dataset", str(photos), "--epochs", "1"]
    assert "--size" in fail(*words)
    words += ["--network", "torchvision:squeezenet1_1", "--output", "run"]
    text = succeed(*words, "--size", "32x40")
    assert "features.0.weight" in text
    setup = Setup.of(json.loads(Path("run", "config.json").read_text())["settings"])
    assert setup.size == (32, 40)
    assert "--size 32x40" in setup.command()
    assert pyrosparse.load("run/compact.safetensors")(torch.zeros(2, 3, 32, 40)).shape == (2, 2)
    assert "size was (32, 40), is (32, 32)" in fail(*words, "--size", "32")


def test_images_that_a_network_of_torchvision_does_not_take(photos: Path) -> None:
    words = ["compress", "--dataset", str(photos), "--size", "32", "--network"]
    assert "does not take images of 3 x 32 x 32" in fail(*words, "torchvision:alexnet")
    text = fail(*words, "torchvision:shufflenet_v2_x0_5", "--network-options", '{"depth": 3}')
    assert "does not take {'depth': 3}" in text


def test_a_pruned_network_is_compared_with_a_dense_one() -> None:
    trained = ["--epochs", "12", "--learning-rate", "0.03", *NET]
    words = ["compress", "magnitude", "--sparsity", "0.95", *trained]
    succeed(*words, "--output", "run", "--quiet")
    succeed("compress", "none", *trained, "--output", "none", "--quiet")
    run, none = (json.loads(Path(f, "summary.json").read_text()) for f in ("run", "none"))
    before, after = (one["accuracy"] for one in run["compaction"]["report"]["quality"])
    assert before == none["test_accuracy"]
    assert after == pytest.approx(run["test_accuracy"]) and after < before - 0.1
    # Weights to start from are the dense network; without either it is the pruned one.
    start = ["--weights", "none/weights.safetensors"]
    succeed(*words, *start, "--output", "from", "--quiet")
    assert not Path("from", "dense").exists()
    found = json.loads(Path("from", "summary.json").read_text())
    assert found["compaction"]["report"]["quality"][0]["accuracy"] == none["test_accuracy"]
    succeed(*words, "--no-dense", "--output", "alone", "--quiet")
    assert not Path("alone", "dense").exists()


def test_a_run_that_guesses_says_so_and_what_to_try() -> None:
    words = ["--output", "run", *NET, "--epochs", "1"]
    text = succeed("compress", "none", *words, "--learning-rate", "1e-9")
    assert "The network guesses" in text and "more --epochs" in text
    assert "The network guesses" in Path("run", "report.html").read_text()
    words[1] = "cut"
    words += ["--sparsity", "0.995", "--epochs", "30", "--learning-rate", "0.01"]
    text = succeed("compress", "one-shot", *words)
    assert "too much was pruned: try a lower --sparsity" in text


def test_a_run_in_which_no_gate_closed_says_so_and_what_to_try() -> None:
    words = ["compress", *NET, "--pretrain", "2", "--epochs", "1"]
    text = succeed(*words, "--output", "run")
    assert "No gate closed: all 72 units stay" in text
    assert "a higher --kl-scale, or more --epochs" in text
    assert "No gate closed" in Path("run", "report.html").read_text()


def test_digits_are_not_flipped() -> None:
    words = ["compress", "gibbs", *NET, "--epochs", "1", "--no-dense", "--quiet"]
    for output, more in (("run", []), ("plain", ["--no-augment"]), ("flipped", ["--flip"])):
        succeed(*words, "--output", output, *more)
    run, plain, flipped = (
        Path(f, "weights.safetensors").read_bytes() for f in ("run", "plain", "flipped")
    )
    assert run == plain != flipped


def test_a_folder_that_cannot_be_written_stops_before_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def train(*_: object, **__: object) -> None:
        raise AssertionError("the training started")

    monkeypatch.setattr(Setup, "run", train)
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


@pytest.mark.parametrize(
    "values",
    [
        {
            "recipe": "bayesian-random",
            "sparsity": 0.75,
            "learning_rate": 0.01,
            "freeze": False,
            "threshold": -0.2,
            "validation": 0.2,
            "seed": 3,
        },
        {"kl_scale": {"fc1.*": 2.0, "*": 0.5}, "pretrain": 0, "normalise": "unit"},
    ],
    ids=["pruning", "gates"],
)
def test_the_command_of_a_report_repeats_the_run(values: dict[str, Any]) -> None:
    setup = Setup.of(values | {"network_options": {"hidden": [8]}, "epochs": 1})
    program, *words = shlex.split(setup.command())
    assert program == "pyrosparse"
    succeed(*words, "--output", "run", "--quiet")
    saved = json.loads(Path("run", "config.json").read_text())["settings"]
    assert Setup.of(saved) == setup


OWN = """
import torch, pyrosparse as ps

def net(image_shape, classes, hidden=4):
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(image_shape[-1] ** 2, hidden), torch.nn.ReLU(),
        torch.nn.Linear(hidden, classes))

def some_digits(seed):
    digits = ps.data.load("digits", seed=seed)
    return digits.train.x[:200], digits.train.y[:200]

def teacher():
    torch.manual_seed(1)
    return net((1, 8, 8), 10, hidden=16)
"""


def test_a_network_data_and_a_teacher_of_ones_own() -> None:
    Path("mine.py").write_text(OWN)
    words = ["--network", "mine:net", "--network-options", '{"hidden": 6}', "--epochs", "1"]
    text = succeed("compress", "magnitude", *words, "--dataset", "mine:some_digits")
    folder = Path("runs", "mine-some_digits-mine-net-magnitude-0.9-seed0")
    assert text.splitlines()[-1] == str(folder / "report.html")
    assert json.loads((folder / "summary.json").read_text())["test"] == 40
    assert pyrosparse.load(folder / "compact.safetensors")(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    plain = succeed("compress", "none", *words, "--output", "plain")
    for teacher in (
        "mine:teacher",
        "plain",
        "plain/compact.safetensors",
        "plain/weights.safetensors",
    ):
        told = ["--teacher", teacher, "--teacher-weight", "0.9"]
        assert succeed("compress", "none", *words, *told, "--output", "taught") != plain
        losses = [
            json.loads(Path(run, "metrics.jsonl").read_text())["loss"]
            for run in ("plain", "taught")
        ]
        assert losses[0] != losses[1]
        shutil.rmtree("taught")


ODD = """
import torch, pyrosparse as ps
from torch import nn

x, y = torch.randn(12, 4), torch.arange(12) % 2

def net(): return nn.Linear(4, 2)
def lazy(): return nn.Sequential(nn.LazyLinear(3), nn.ReLU(), nn.LazyLinear(2))
def rows(): return x, y
def nothing(): return None
def empty(): return ()
def of_strings(): return x, ["cat"] * 12
def one_number(): return torch.tensor(1.0), torch.tensor(1)
def nested(): return (x, y), (x, y)
def one_by_one(): return list(zip(x, y))
def of_lists(): return [([1.0, 2.0], [0, 1])]
def no_batches(): return [None]
def batches(): return [(x, y), (x, y)]
def other_names(): return {"pixels": x, "labels": y}
def needs_more(path): return x, y
def three(network, n): return 3
def one_argument(network): return None
pair = (x, y)
module = net()
"""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "odd:nothing"], "odd:nothing gives no data that can be used: data must be"),
        (["--dataset", "odd:empty"], "there are no data: the tuple or dict is empty"),
        (["--dataset", "odd:of_strings"], "tensor 1 of the data has the dtype <U3"),
        (["--dataset", "odd:one_number"], "one row for each datum is expected"),
        (["--dataset", "odd:nested"], "batches belong in a list, not in a tuple"),
        (["--dataset", "odd:one_by_one"], "give DataLoader(data, batch_size=...)"),
        (["--dataset", "odd:of_lists"], "has a list where a tensor or array belongs"),
        (["--dataset", "odd:no_batches"], "must give batches, each (inputs, targets)"),
        (["--dataset", "odd:batches"], "of which no test data can be held out: return all data"),
        (["--dataset", "odd:other_names"], "the data have 'pixels', but the model's positional"),
        (["--dataset", "odd:needs_more"], "needs_more cannot be called with no arguments"),
        (["--dataset", "odd:pair"], "odd:pair is a tuple and no function"),
        (["--dataset", "odd:rows", "--size", "4"], "rows cannot be called with size"),
        (["--dataset", ".odd:rows"], "write package.module:function"),
        (
            ["--dataset", "odd:rows", "--network", "odd:nothing"],
            "returns a NoneType instead of a module",
        ),
        (["--dataset", "odd:rows", "--network", "odd:module"], "is a Linear and no function"),
        (["--dataset", "odd:rows", "--model", "odd:three"], "model= must return a Pyro model"),
        (["--dataset", "odd:rows", "--model", "odd:one_argument"], "with a network and n"),
        (["--dataset", "odd:rows", "--model", "regressor"], "give one target for each output"),
    ],
)
def test_functions_that_give_something_else(words: list[str], message: str) -> None:
    Path("odd.py").write_text(ODD)
    network = [] if "--network" in words else ["--network", "odd:net"]
    said = fail("compress", "magnitude", "--epochs", "1", *network, *words)
    assert message in said
    assert len(said.splitlines()) == 1 and "Trace Shapes" not in said


def test_a_lazy_network_of_ones_own() -> None:
    Path("odd.py").write_text(ODD)
    succeed(
        "compress", "magnitude", "--epochs", "1", "--network", "odd:lazy", "--dataset", "odd:rows"
    )


def test_help_has_the_options_of_the_recipe_alone_with_their_defaults() -> None:
    text = succeed("compress", "--help")
    assert "--kl-scale" in text and "--sparsity" not in text and "turbo-vbi" in text
    text = succeed("compress", "turbo-vbi", "--help")
    assert "Default: 0.02" in text and "Default: min(1, data / weights)" in text
    assert "--gate-rate" not in text


def test_help_needs_only_what_it_tells_of() -> None:
    for words, unwanted in (
        (["--help"], {"torch", "pydantic", "pyrosparse.recipes"}),
        (["compress", "gibbs", "--help"], {"torch", "pyro", "matplotlib", "pydantic"}),
    ):
        code = (
            f"import sys\nsys.argv = ['pyrosparse', *{words}]\n"
            "from pyrosparse.cli import app\n"
            "try: app()\nexcept SystemExit as end: assert not end.code\n"
            f"assert not {unwanted} & set(sys.modules)"
        )
        environment = {**os.environ, "PYTHONPATH": str(Path(pyrosparse.__file__).parents[1])}
        run = [sys.executable, "-c", code]
        subprocess.run(run, check=True, capture_output=True, env=environment)


def test_stages_are_in_the_log_where_there_is_no_terminal() -> None:
    text = call("compress", *GATES, "--output", "run").stderr
    assert text.splitlines() == ["pretraining: epoch 0 of 2", "beta-bernoulli: epoch 0 of 6"]


SUITE = """
title = "A [small] suite"
source = "nobody"
[settings]
dataset = "digits"
network = "fcn"
network_options = { hidden = [8] }
epochs = 1
[[grid]]
recipe = ["none", "magnitude"]
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


GATED_SUITE = """
title = "Gates"
source = "nobody"
[settings]
recipe = "beta-bernoulli"
network_options = { hidden = [8] }
batch_size = 647
pretrain = 2
epochs = 1
[[grid]]
kl_scale = [1, 2]
[[grid]]
kl_scale = { "fc1.*" = 30, "*" = 3 }
[[paper]]
dataset = "digits"
network = "fcn"
recipe = "beta-bernoulli"
kl_scale = [1, 3]
error = [12.34, 9.0]
speedup = [1.5, 2.5]
memory = [70.0, 45.67]
"""


@pytest.mark.slow
def test_bench_and_table_of_gates(whole: None) -> None:
    Path("gated.toml").write_text(GATED_SUITE)
    text = succeed("bench", "gated.toml", "--jobs", "2")
    assert "digits-fcn-beta-bernoulli-3-seed0" in text and "3 runs added" in text
    lines = bench.read(Path("runs", "bench", "gated.jsonl"))
    pretrained = Path("runs", "bench", "gated")
    assert len(list(pretrained.glob("pretraining-*"))) == 1
    assert len({line["compact"]["quality"][0]["nll"] for line in lines}) == 1
    assert all(line["pretraining_seconds"] > 0 for line in lines)
    keys = {"kept", "structure", "parameters", "macs", "paper", "seconds", "bytes", "units"}
    assert keys <= lines[0]["compact"].keys()
    text = succeed("table", "gated.toml", "--plot", "plot.svg")
    for word in ("12.34", "45.67", "64-8", "1 / 128"):
        assert word in text
    assert Path("plot.svg").read_text().startswith("<svg")
    markdown = succeed("table", "gated.toml", "--markdown")
    assert "| digits-fcn-beta-bernoulli-1 | 1 |" in markdown
    assert "nothing is missing" in succeed("bench", "gated.toml")


def test_a_suite_without_gates_has_no_such_plot() -> None:
    Path("small.toml").write_text(SUITE)
    succeed("bench", "small.toml", "--only", "*none-seed0")
    assert "nothing to plot" in fail("table", "small.toml", "--plot", "plot.svg")


def test_a_dry_run_lists_what_is_missing_and_how_long_it_takes() -> None:
    Path("small.toml").write_text(SUITE)
    text = succeed("bench", "small.toml", "--dry-run")
    assert text.count("missing") == 5 and "4 runs of unknown length" in text
    succeed("bench", "small.toml", "--only", "*-none-seed0")
    results = Path("runs", "bench", "small.jsonl")
    (line,) = bench.read(results)
    results.write_text(json.dumps(line | {"seconds": 120.0}) + "\n")
    lines = succeed("bench", "small.toml", "--dry-run").splitlines()
    assert lines[:2] == [
        "digits-fcn-none-seed0  done",
        "digits-fcn-none-seed1  missing, about 120 s",
    ]
    assert lines[-1] == "1 done, 3 missing: about 6 minutes one after the other"
    assert len(bench.read(results)) == 1


def test_bench_prefers_published_results() -> None:
    Path("small.toml").write_text(SUITE)
    published = Path("docs", "results", "small.jsonl")
    published.parent.mkdir(parents=True)
    published.write_text("")
    succeed("bench", "small.toml", "--only", "digits-fcn-none-seed0")
    assert len(bench.read(published)) == 1
    assert "digits-fcn-none" in succeed("table", "small.toml", "--results", str(published))


def test_results_of_a_device_that_is_not_here_count() -> None:
    Path("small.toml").write_text(SUITE)
    words = ["bench", "small.toml", "--only", "digits-fcn-none-seed0", "--results", "them.jsonl"]
    succeed(*words)
    there = Path("them.jsonl").read_text().replace('"device": "cpu"', '"device": "cuda:7"')
    assert "cuda:7" in there
    Path("them.jsonl").write_text(there)
    assert "nothing is missing" in succeed(*words)
    assert "digits-fcn-none" in succeed("table", "small.toml", "--results", "them.jsonl")


def test_bench_errors() -> None:
    assert "did you mean 'bayesian-pruning'?" in fail("bench", "bayesian-prunin")
    Path("small.toml").write_text(SUITE)
    assert "no run" in fail("bench", "small.toml", "--only", "nothing")
    Path("small.toml").write_text(SUITE.replace("epochs", "epoch"))
    assert "did you mean 'epochs'?" in fail("bench", "small.toml")
    Path("small.toml").write_text(SUITE.replace("seeds = 2", "kl_scale = 2"))
    assert "a grid of none, magnitude has kl_scale" in fail("bench", "small.toml")
