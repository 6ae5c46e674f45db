"""Imports point downward only."""

import ast
from pathlib import Path

import pytest

import pyrosparse

ROOT = Path(pyrosparse.__file__).parent
BASE = {"arrays", "errors", "files", "globs", "liftable", "origin", "tensor_file"}
CORE = BASE | {"target", "method", "masks"}
LIFTING = CORE | {"call", "draws", "lift", "guide", "hooks", "param_store", "watch"}
RUNNING = LIFTING | {"evidence", "compact", "infer", "prune", "methods", "models"}
RUNNING |= {"data", "networks", "locks", "machine", "supports"}
ALLOWED = {
    "target.py": BASE,
    "method.py": BASE | {"target"},
    "masks.py": BASE,
    "sum_product": BASE | {"sum_product"},
    "distributions": {"distributions", "sum_product"},
    "supports": BASE | {"supports", "distributions", "sum_product"},
    "input_gate.py": BASE,
    "methods": BASE | {"input_gate", "method", "target", "methods", "distributions", "supports"},
    "hooks.py": CORE,
    "param_store.py": CORE,
    "guide.py": LIFTING,
    "lift.py": LIFTING,
    "models.py": LIFTING,
    "distill.py": LIFTING | {"models"},
    "evidence": LIFTING | {"evidence"},
    "compact": LIFTING | {"input_gate", "evidence", "compact"},
    "infer": LIFTING | {"evidence", "compact", "infer", "methods", "supports", "sum_product"},
    "diagnostics": LIFTING | {"evidence", "compact", "data", "diagnostics"},
    "prune": LIFTING | {"evidence", "infer", "prune"},
    "locks.py": set(),
    "machine.py": set(),
    "recipes": RUNNING | {"distill", "recipes", "weights_file", "__version__"},
    "bench": RUNNING | {"diagnostics", "recipes", "bench", "__version__"},
    "assess": RUNNING | {"diagnostics", "recipes", "bench", "assess"},
}


def imported(path: Path) -> set[str]:
    """Our modules that the files at a path import, typing and all."""
    found = set()
    for file in path.rglob("*.py") if path.is_dir() else [path]:
        for node in ast.walk(ast.parse(file.read_text())):
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"relative, in {file}"
            if isinstance(node, ast.ImportFrom):
                if node.module == "pyrosparse":
                    modules = [f"pyrosparse.{alias.name}" for alias in node.names]
                else:
                    modules = [node.module or ""]
            elif isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            else:
                continue
            found |= {m.split(".")[1] for m in modules if m.startswith("pyrosparse.")}
            assert "pyrosparse" not in modules, f"{file} imports the package whole"
    return found


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_point_downward(part: str):
    path = ROOT / part
    assert path.exists()
    assert imported(path) <= ALLOWED[part]
