"""Suites and results that are damaged, or that cannot be written: an error with file and line."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from pyrosparse import bench

SUITE = """
title = "t"
source = "s"
[settings]
dataset = "digits"
network = "fcn"
recipe = "none"
epochs = 1
network_options = {hidden = [4]}
[[grid]]
seed_line
"""


def suite(folder: Path, text: str) -> str:
    file = folder / "mine.toml"
    file.write_text(text)
    return str(file)


def test_a_suite_of_ones_own_is_read(tmp_path: Path) -> None:
    loaded = bench.load(suite(tmp_path, SUITE.replace("seed_line", "seeds = 2")))
    assert [job.id for job in loaded.jobs] == [f"digits-fcn-none-seed{i}" for i in range(2)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title = \nb = 1", "line 1"),
        ("title = 1\n[[grid]]\n", "the entry 'source' is missing|'title' is not a text"),
        ("grid = 3\ntitle = 't'\nsource = 's'", "'grid' is not a list"),
        ("grid = [3]\ntitle = 't'\nsource = 's'", "'grid' is not a list of tables"),
        ("grid = []\ntitle = 't'\nsource = 's'", "has no runs"),
        ("", "the entry 'grid' is missing"),
        ("a = " + "[" * 5000 + "]" * 5000, "cannot be read"),
        (SUITE.replace("seed_line", "seeds = 1000000000"), "1000000000 runs.*100000"),
        (SUITE.replace("seed_line", "seeds = 'two'"), "positive whole number"),
        (SUITE.replace("seed_line", "seeds = 0"), "positive whole number"),
        (SUITE.replace("seed_line", "seeds = true"), "positive whole number"),
        (SUITE.replace("seed_line", "colour = 1"), "unknown setting"),
        (SUITE.replace("epochs = 1", "epochs = {}").replace("seed_line", ""), "cannot be read"),
    ],
)
def test_damaged_suites_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"mine\.toml.*({message})"):
        bench.load(suite(tmp_path, text))


def test_many_seeds_of_the_command_are_refused(tmp_path: Path) -> None:
    file = suite(tmp_path, SUITE.replace("seed_line", ""))
    with pytest.raises(ValueError, match="lower seeds"):
        bench.load(file, seeds=10**9)


def test_a_suite_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"title = 1\n\xff")
    with pytest.raises(ValueError, match=r"a\.toml, line 2: it is not text"):
        bench.load(str(tmp_path / "a.toml"))
    (tmp_path / "b.toml").mkdir()
    with pytest.raises(OSError, match=r"b\.toml is a folder"):
        bench.load(str(tmp_path / "b.toml"))


def good(**changes: Any) -> dict[str, Any]:
    line = {
        "id": "digits-fcn-none-seed0", "cell": "digits-fcn-none", "seed": 0, "test_accuracy": 0.9,
        "sparsity": 0.0, "settings": {"method": "none"}, "compact": {}, "version": "1",
        "torch": "2", "machine": "m", "date": "d",
    }  # fmt: skip
    return line | changes


@pytest.mark.parametrize(
    "text",
    [
        '{"id": ', "3", "null", "[]", "{}", "[" * 20_000, '{"seed": ' + "9" * 5000 + "}",
        json.dumps(good(seed="0")), json.dumps(good(id=3)), json.dumps(good(settings=[])),
        json.dumps(good(settings={"epochs": {}})), json.dumps(good(test_accuracy=True)),
        json.dumps(good(test_accuracy="much")), json.dumps(good(date=None)),
    ],
)  # fmt: skip
def test_damaged_results_are_named_with_their_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "results.jsonl"
    file.write_text(f"{json.dumps(good())}\n\n{text}\n")
    with pytest.raises(ValueError, match=r"results\.jsonl, line 3 is damaged .*remove that line"):
        bench.read(file)


def test_results_that_lack_what_a_table_needs_are_named(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    loaded = bench.load(suite(tmp_path, SUITE.replace("seed_line", "")))
    line = good()
    del line["test_accuracy"], line["date"]
    file.write_text(json.dumps(line))
    with pytest.raises(ValueError, match="a line of digits-fcn-none is damaged"):
        bench.markdown(bench.table(loaded, file))
    with pytest.raises(ValueError, match=r"results\.jsonl, a line is damaged"):
        bench.provenance(file)


def test_what_cannot_be_written_is_said_before_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object) -> None:
        raise AssertionError("a run was started")

    monkeypatch.setattr(sys.modules["pyrosparse.bench.task"], "run_job", never)
    loaded = bench.load(suite(tmp_path, SUITE.replace("seed_line", "")))
    (tmp_path / "file").write_text("")
    good_place, bad = tmp_path / "a.jsonl", tmp_path / "file" / "a"
    for results, scratch in ((bad, tmp_path / "s"), (good_place, bad), (tmp_path, tmp_path / "s")):
        with pytest.raises(OSError, match="cannot write"):
            list(bench.run(loaded, results=results, scratch=scratch))
