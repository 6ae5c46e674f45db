"""The rooms stand on floors: imports point downward, and no files import each other in a circle."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import pyrosparse

ROOT = Path(pyrosparse.__file__).parent
FLOORS = [
    {"util", "sum_product", "captured", "structures"},
    {"distributions", "data", "lifting", "torchvision_networks"},
    {"supports", "evidence", "networks", "models"},
    {"methods", "compaction"},
    {"measure", "infer"},
    {"storage", "prune", "diagnostics", "robustness", "tracking"},
    {"sparse", "prediction"},
    {"recipes"},
    {"bench"},
    {"plots"},
    {"reports"},
    {"cli"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def module_of(file: Path) -> str:
    parts = ("pyrosparse", *file.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(file): file for file in sorted(ROOT.rglob("*.py"))}


def is_run(node: ast.AST) -> bool:
    """Whether what is in it is imported with the file: not what is for the type checker alone, and
    what a function imports when it is called makes no circle."""
    checked = isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
    return not checked and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def inside(node: ast.AST, *, running: bool) -> Iterator[ast.AST]:
    for one in ast.iter_child_nodes(node):
        if not running or is_run(one):
            yield one
            yield from inside(one, running=running)


def imports(module: str, *, running: bool) -> Iterator[str]:
    """Our modules that a file imports; without those for the type checker alone if running."""
    for node in inside(ast.parse(FILES[module].read_text()), running=running):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} has a relative import"
            for alias in node.names:
                if alias.name == "__version__":  # which needs nothing of the package
                    continue
                whole = f"{node.module}.{alias.name}"
                found = whole if whole in FILES else node.module or ""
                if found in FILES:
                    yield found
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in FILES)


def room(module: str) -> str:
    return module.split(".")[1]


INSIDE = [module for module in FILES if module != "pyrosparse"]


def test_every_room_has_a_floor() -> None:
    assert {room(module) for module in INSIDE} == set(FLOOR)


@pytest.mark.parametrize("module", INSIDE)
def test_imports_point_downward(module: str) -> None:
    for other in imports(module, running=False):
        assert other != "pyrosparse", f"{module} imports the package whole"
        down = FLOOR[room(other)] < FLOOR[room(module)]
        assert down or room(other) == room(module), f"{module} imports {other}, which is not below"


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {module: set(imports(module, running=True)) for module in FILES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(f"a circle: {' -> '.join(error.args[1])}") from None
