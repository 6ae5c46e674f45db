"""The package: nothing is loaded before it is asked for, and no function is hidden by a module."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import pyrosparse as ps

ROOT = Path(ps.__file__).parents[1]


def fresh(code: str) -> None:
    """Run code in a process of its own, which must succeed."""
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "HOME": "/tmp"}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr


def test_every_name_is_there() -> None:
    for name in ps.__all__:
        assert getattr(ps, name) is not None
    assert set(ps.__all__) <= set(dir(ps))
    with pytest.raises(AttributeError, match="no attribute 'compres'"):
        ps.compres  # noqa: B018


def test_the_package_alone_loads_nothing() -> None:
    fresh(
        "import sys, pyrosparse, pyrosparse.recipes\n"
        "assert pyrosparse.__version__ and pyrosparse.recipes.names()\n"
        "assert not {'torch', 'pyro', 'numpy', 'rich'} & set(sys.modules)"
    )


HIDDEN = """
import importlib, os, matplotlib.pyplot, pyro  # which take longest to import, once for all
assert not any(name.startswith("pyrosparse") for name in __import__("sys").modules)
for first in ("compaction.rules", "lifting.lift", "models", "recipes.run", "reports.page"):
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0, first
        continue
    importlib.import_module(f"pyrosparse.{first}")
    import pyrosparse as ps
    assert callable(ps.compact) and callable(ps.lift) and callable(ps.distill)
    assert callable(ps.compress) and callable(ps.report)
    from pyrosparse import compact
    assert compact is ps.compact
    os._exit(0)  # at once, without an end of its own
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_function_is_not_hidden_by_the_module_it_is_in() -> None:
    """Whichever module is imported first."""
    fresh(HIDDEN)


def test_no_function_has_the_name_of_a_module() -> None:
    modules = {part.stem for part in (ROOT / "pyrosparse").iterdir()}
    assert not modules & {name for name in ps.__all__ if callable(getattr(ps, name))}


def test_the_package_says_that_it_has_types() -> None:
    assert (ROOT / "pyrosparse" / "py.typed").exists()


@pytest.mark.slow
def test_a_wheel_has_all_that_is_no_python(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    files = (f for f in (ROOT / "pyrosparse").rglob("*") if f.is_file())
    # Compiled files, of Python and of numba, are where it ran.
    other = {f for f in files if f.suffix != ".py" and f.parent.name != "__pycache__"}
    assert {f.relative_to(ROOT).as_posix() for f in other} <= names
    assert "pyrosparse/py.typed" in names
    assert not any(name.startswith(("tests/", "docs/", "examples/")) for name in names)


def test_the_citation_names_this_version() -> None:
    assert f"version: {ps.__version__}\n" in (ROOT / "CITATION.cff").read_text()
