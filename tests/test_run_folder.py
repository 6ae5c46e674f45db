"""One run at a time in a folder, which must be there until the end."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyrosparse.recipes import NoPruning
from pyrosparse.recipes.setup import Setup
from pyrosparse.reports import folder as run_folder
from tests.short import short_runs

ROOT = Path(__file__).parents[1]
SETUP = Setup(network_options={"hidden": (4,)}, recipe=NoPruning(epochs=2))


@pytest.fixture(autouse=True)
def short() -> Iterator[None]:
    with short_runs():
        yield


OTHER_PROCESS = """
import sys
from pyrosparse.util.locks import locked_folder
with locked_folder(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_second_run_in_a_folder_is_refused_and_leaves_it_alone(tmp_path: Path) -> None:
    words = [sys.executable, "-c", OTHER_PROCESS, str(tmp_path / "run")]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, env=os.environ | {"PYTHONPATH": str(ROOT)}, **pipes) as process:
        assert process.stdout is not None and process.stdout.readline() == "locked\n"
        with pytest.raises(ValueError, match=r"another run is using .*run.*--output"):
            run_folder.run(SETUP, tmp_path / "run", progress=False)
        assert not (tmp_path / "run").exists()
    assert run_folder.run(SETUP, tmp_path / "run", progress=False)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("when", ["in training", "after training"])
def test_a_folder_removed_during_a_run_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, again: bool
) -> None:
    folder = tmp_path / "run"

    def remove() -> None:
        shutil.rmtree(folder)
        if again:
            folder.mkdir()

    if when == "in training":
        prepare = run_folder._prepare

        def prepared(*arguments: object) -> object:
            config = prepare(*arguments)  # type: ignore[arg-type]
            remove()
            return config

        monkeypatch.setattr(run_folder, "_prepare", prepared)
    else:
        compress = Setup.run

        def compressed(*arguments: object, **options: object) -> object:
            outcome = compress(*arguments, **options)  # type: ignore[arg-type]
            remove()
            return outcome

        monkeypatch.setattr(Setup, "run", compressed)
    with pytest.raises(FileNotFoundError, match=r"run was removed or changed"):
        run_folder.run(SETUP, folder, progress=False)


@pytest.mark.parametrize("content", ["", "[]", "{}", "3", "[" * 20_000, '{"settings": 3}'])
def test_a_damaged_config_is_named(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "checkpoint.safetensors").write_bytes(b"")
    (folder / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"no config\.json that describes its run.*--output"):
        run_folder.run(SETUP, folder, progress=False)
