"""One run at a time in a folder, which must be there until the end."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyrosparse.recipes import NoPruning
from pyrosparse.recipes.setup import Setup
from pyrosparse.reports import folder as run_folder
from pyrosparse.util.locks import locked_folder
from tests.short import short_runs

SETUP = Setup(network_options={"hidden": (4,)}, recipe=NoPruning(epochs=2))


@pytest.fixture(autouse=True)
def short() -> Iterator[None]:
    with short_runs():
        yield


def other_process(path: str, go: object, done: object) -> None:
    with locked_folder(path):
        go.set()  # type: ignore[attr-defined]
        done.wait()  # type: ignore[attr-defined]


def test_a_second_run_in_a_folder_is_refused_and_leaves_it_alone(tmp_path: Path) -> None:
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    go, done = context.Event(), context.Event()
    process = context.Process(target=other_process, args=(str(tmp_path / "run"), go, done))
    process.start()
    assert go.wait(60)
    try:
        with pytest.raises(ValueError, match=r"another run is at work in .*run.*--output"):
            run_folder.run(SETUP, tmp_path / "run", progress=False)
        assert not (tmp_path / "run").exists()
    finally:
        done.set()
        process.join()
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
    with pytest.raises(ValueError, match=r"no config\.json that says of which run.*--output"):
        run_folder.run(SETUP, folder, progress=False)
