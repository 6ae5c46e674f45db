"""The report's story: the answer, the sizes, the classes, what lies beside, what next."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import pyrosparse as ps
from pyrosparse.measure import Report
from pyrosparse.measure.quality import Quality
from pyrosparse.plots import plots
from pyrosparse.plots.input_plots import kept_inputs
from pyrosparse.plots.trade_off_plots import trade_off
from pyrosparse.recipes import Compaction
from pyrosparse.recipes.setup import Setup
from pyrosparse.reports import Summary, lead
from pyrosparse.reports.figures import figures
from pyrosparse.reports.folder import run
from pyrosparse.reports.neighbours import neighbours
from pyrosparse.reports.next_steps import next_steps
from pyrosparse.reports.predictions import class_changes
from pyrosparse.reports.remarks import remarks

QUALITY = Quality(0.992, 0.1, 0.01), Quality(0.989, 0.2, 0.02)
REPORT = Report("3-2", (301066, 2398), {"0": (12, 6)}, (300, 260), {1: (2e-3, 1e-3)}, None, QUALITY)
TOY = Summary("Toy", 9, 0, 9, 0.989, 0.3, 301066, 2000, [], 300, 280, 2.0, None)
WHOLE = replace(TOY, compaction=Compaction(REPORT, "", "", {}), compact_bytes=270, compared=True)


def test_the_answer_names_its_baseline_where_there_is_one() -> None:
    with_baseline = "98.90 % with 2,398 of 301,066 parameters; the dense network 99.20 %."
    assert lead.answer(WHOLE) == with_baseline
    alone = lead.answer(replace(WHOLE, compared=False))
    assert alone == "98.90 % with 2,398 of 301,066 parameters."
    assert lead.answer(TOY) == "98.90 % with 301,066 parameters, of which 2,000 are not zero."


def test_the_size_that_counts_is_explained_against_the_others() -> None:
    assert lead.size(TOY) == ""
    assert "Only 2,000 parameters are not zero" in lead.size(WHOLE)
    assert "more parameters (3,000" in lead.size(replace(WHOLE, nonzero_parameters=3000))
    same = lead.size(replace(WHOLE, nonzero_parameters=2398))
    assert "not zero" not in same and "270 bytes" in same and "280 bytes" in same


def test_classes_by_what_they_lost_against_a_loop() -> None:
    torch.manual_seed(0)
    before, after = (torch.randn(300, 4).log_softmax(1) for _ in range(2))
    labels = torch.randint(3, (300,))  # nothing of class 3
    changes = class_changes({"before": before, "compact": after}, labels, ["a", "b", "c", "d"])
    assert [change.name for change in changes if change.name == "d"] == []
    lost = [change.after - change.before for change in changes]
    assert lost == sorted(lost) and len(changes) == 3
    for change in changes:
        own = labels == "abcd".index(change.name)
        assert change.size == int(own.sum())
        right = [
            float((one[own].argmax(1) == labels[own]).double().mean()) for one in (before, after)
        ]
        assert [change.before, change.after] == pytest.approx(right)
        wrong = [c for c in after[own].argmax(1).tolist() if c != "abcd".index(change.name)]
        assert wrong.count("abcd".index(change.taken_for)) == max(wrong.count(c) for c in range(4))
    assert class_changes({"compact": after}, labels) == []


@pytest.mark.parametrize(
    "values, expected",
    [
        ({"recipe": "magnitude", "sparsity": 0.9}, [0.8, 0.95]),
        ({"recipe": "magnitude", "sparsity": 0.4}, [0.7]),  # twice as much left is everything
        ({"recipe": "beta-bernoulli", "kl_scale": 4.0}, [2.0, 8.0]),
        ({"recipe": "turbo-vbi", "active": 0.1}, [0.2, 0.05]),
        ({"recipe": "none"}, []),
        ({"recipe": "model-reduction"}, []),
    ],
)
def test_commands_for_other_sizes_differ_in_the_knob(values: dict, expected: list[float]) -> None:
    setup = Setup.of(values)
    steps = next_steps(TOY, setup)
    knob = f"--{setup.recipe.knob.replace('_', '-')}"
    found = []
    for _, command in steps:
        words = shlex.split(command)
        found.append(float(words[words.index(knob) + 1]))
    assert found == expected
    if expected:
        more = [one for sentence, one in zip(steps, found, strict=True) if "Keep" in sentence[0]]
        assert not more or setup.recipe.keeps_more.startswith(
            "a lower" if more[0] < setup.recipe.level else "a higher"
        )
    assert "ps.load" in next_steps(replace(TOY, compact_bytes=9), setup)[0][1]


def write(folder: Path, setup: Setup, parameters: int) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"settings": setup.values()}))
    quality = [{"accuracy": 0.99}, {"accuracy": 0.9}]
    report = {"parameters": [1000, parameters], "quality": quality}
    (folder / "summary.json").write_text(json.dumps({"compaction": {"report": report}}))


def test_neighbours_differ_in_the_knob_alone(tmp_path: Path) -> None:
    own = Setup.of({"recipe": "magnitude", "sparsity": 0.9})
    write(tmp_path / "own", own, 100)
    write(tmp_path / "other", Setup.of({"recipe": "magnitude", "sparsity": 0.5}), 500)
    write(tmp_path / "seed", Setup.of({"recipe": "magnitude", "sparsity": 0.5, "seed": 1}), 501)
    write(tmp_path / "recipe", Setup.of({"recipe": "beta-bernoulli"}), 502)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for name, content in (("broken", "{"), ("list", "[]"), ("deep", "[" * 100_000)):
        write(tmp_path / name, Setup.of({"recipe": "magnitude", "sparsity": 0.6}), 7)
        (tmp_path / name / "summary.json").write_text(content)
    assert neighbours(tmp_path / "own", own) == [(0.5, 500, 0.9)]
    figure = trade_off([(0.5, 500, 0.9)], (0.9, 100, 0.8), "sparsity")
    assert plots.png(figure)[1:4] == b"PNG"
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.9", "0.5"]
    with pytest.raises(ValueError, match="no other run"):
        trade_off([], (0.9, 100, 0.8), "sparsity")


def test_pixels_that_are_read_are_those_with_a_weight() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(2 * 3 * 3, 4))
    x, y = torch.randn(40, 2, 3, 3), torch.arange(40) % 4
    recipe = ps.recipes.Magnitude(epochs=1, sparsity=0.9)
    result = ps.compress(net, (x, y), recipe, progress=False)
    drawn = figures(result)["kept_inputs"]
    kept = (result.net[1].weight != 0).any(0).view(2, 3, 3)
    assert not kept.all()
    for axes, expected in zip(drawn.axes, kept, strict=True):
        assert (torch.tensor(axes.images[0].get_array().data) == expected).all()
    with pytest.raises(ValueError, match="channels, height, width"):
        kept_inputs(kept[0])


def test_a_network_that_guesses_is_neither_used_nor_made_smaller() -> None:
    guessing = replace(TOY, test=1000, test_accuracy=0.11, chance=0.1, compact_bytes=9)
    setup = Setup.of({"recipe": "magnitude", "sparsity": 0.9})
    assert [sentence for sentence, _ in next_steps(guessing, setup)] == ["Keep more:"]
    knowing = replace(guessing, test_accuracy=0.9)
    assert len(next_steps(knowing, setup)) == 3


def test_without_a_compact_network_the_dense_one_is_still_told(tmp_path: Path) -> None:
    options = {"pretrain": 40, "epochs": 5, "kl_scale": 1e4, "gate_rate": 0.5}
    small = {"network_options": {"hidden": (8,)}, "recipe": "beta-bernoulli"}
    summary = run(Setup.of(small | options), tmp_path, progress=False)
    assert summary.compaction is not None and summary.compaction.problem
    assert summary.accuracy_before is not None and summary.accuracy_before > 0.7
    told = f"the dense network {100 * summary.accuracy_before:.2f} %."
    assert lead.answer(summary).endswith(told) and told in (tmp_path / "report.html").read_text()
    assert f"The dense network has {100 * summary.accuracy_before:.2f} %" in remarks(summary)[0]
