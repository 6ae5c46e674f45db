"""The examples in the documentation's pages run, and those of the README one after another."""

import ast
import builtins
import doctest
import inspect
import itertools
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

import pyrosparse as ps
from pyrosparse import bench

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "pyrosparse"
FENCE = re.compile(r"^(\s*)```.*$", re.M)
PAGES = [page for page in sorted(DOCS.glob("**/*.md")) if ">>>" in page.read_text()]


# Pages that train for long; .ci/run runs them.
SLOW = {
    "index.md",
    "recipes.md",
    "structured-bayesian-pruning.md",
    "beta-bernoulli.md",
    "turbo-vbi.md",
    "model-reduction.md",
    "diagnostics.md",
    "command-line.md",
    "benchmarks.md",
}


def _page(file):
    marks = [pytest.mark.slow] if file.name in SLOW else []
    return pytest.param(file, id=file.relative_to(DOCS).as_posix(), marks=marks)


@pytest.mark.parametrize("page", [_page(file) for file in PAGES])
def test_page(page):
    # A closing fence would be read as a line of expected output.
    text = FENCE.sub("", page.read_text())
    test = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
    assert test.examples
    report: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(test, out=report.append)
    assert not runner.failures, "".join(report)


API = "".join(page.read_text() for page in sorted((DOCS / "api").glob("*.md")))
MODULES = set(re.findall(r"automodule:: ([\w.]+)", API))
NAMES = {
    name.split(".")[-1] for name in re.findall(r"auto(?:class|function|exception):: ([\w.]+)", API)
}


def _silent(definition, said=False):
    """Functions and methods of a definition that raise where no docstring says so."""
    said = said or "aise" in (ast.get_docstring(definition) or "")
    if isinstance(definition, ast.ClassDef):
        for part in definition.body:
            # Dunders of a class are part of how it is made.
            if isinstance(part, ast.FunctionDef) and not re.match("_[^_]", part.name):
                yield from _silent(part, said)
    elif not said:
        for node in ast.walk(definition):
            # NotImplementedError says what a subclass must write.
            if isinstance(node, ast.Raise) and node.exc is not None:
                told = "NotImplementedError" not in ast.unparse(node.exc)
                yield from [f"{definition.name}, line {node.lineno}"] * told


def test_the_reference_says_what_is_raised():
    silent = []
    for file in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
        if module.startswith("pyrosparse.recipes."):
            continue  # the options' ranges stand with the options
        for one in ast.parse(file.read_text()).body:
            if not isinstance(one, ast.ClassDef | ast.FunctionDef) or one.name.startswith("_"):
                continue
            if one.name in NAMES or module in MODULES:
                silent += [f"{module}: {found}" for found in _silent(one)]
    assert not silent


def test_the_reference_lists_every_public_name():
    missing = []
    for module in [ps, *(getattr(ps, name) for name in ps.__all__)]:
        for name in getattr(module, "__all__", ()) if inspect.ismodule(module) else ():
            one = getattr(module, name)
            documented = inspect.isclass(one) or inspect.isfunction(one)
            if documented and name not in NAMES and module.__name__ not in MODULES:
                missing.append(f"{module.__name__}.{name}")
    assert not missing


def test_the_reference_says_of_every_page_how_stable_it_is():
    table = re.findall(
        r"^\| \[\]\(api/(\w+)\.md\) \|.*\| (firm|open) \|$", (DOCS / "api.md").read_text(), re.M
    )
    assert sorted(name for name, _ in table) == sorted(p.stem for p in (DOCS / "api").glob("*.md"))


def test_every_page_is_in_the_table_of_contents():
    index = (DOCS / "index.md").read_text() + (DOCS / "api.md").read_text()
    included = {"figures", "results"}
    for page in DOCS.glob("**/*.md"):
        name = page.relative_to(DOCS)
        if name.parts[0] not in included | {"_build", "index.md"}:
            assert re.search(rf"^{name.with_suffix('').as_posix()}$", index, re.M), name


def _unfenced(text):
    """A page without its code and directives."""
    return re.sub(r"^(`{3,})[^`\n]*\n.*?^\1`*$", "", text, flags=re.M | re.S)


SOURCES = [*sorted(DOCS.glob("**/*.md")), ROOT / "README.md"]


@pytest.mark.parametrize("page", SOURCES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_can_be_read_aloud(page):
    text = page.read_text()
    levels = [len(marks) for marks in re.findall(r"^(#+) ", _unfenced(text), re.M)]
    if page.parent.name not in ("figures", "results"):  # which other pages include
        assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    for image in re.findall(r"^```\{(?:image|figure)\}.*\n(?:.*\n)*?```", text, re.M):
        assert re.search(r"^:alt: \S", image, re.M), image
    assert all(re.findall(r"!\[([^\]]*)\]\(", _unfenced(text)))
    for cell in re.findall(r"^```\{code-cell\}.*\n((?:(?!```).*\n)*)```", text, re.M):
        if "plt.show()" in cell:
            assert '"alt": "' in cell.splitlines()[0], cell


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_a_page_outside_the_documentation_lead_somewhere(name):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", _unfenced((ROOT / name).read_text()))
    local = [link for link in links if not link.startswith(("http:", "https:", "mailto:"))]
    assert local and all((ROOT / link).exists() for link in local)


BLOCKS = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)


@pytest.mark.slow
def test_the_blocks_of_the_readme_run_one_after_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for number, block in enumerate(BLOCKS, start=1):
        exec(compile(block, f"README.md, block {number}", "exec"), names)
    assert Path("small.safetensors").exists()
    small, test = names["small"], names["data"].test
    assert (small(test.x).argmax(1) == test.y).float().mean() > 0.85
    assert small.account.parameters[1] < small.account.parameters[0]


@pytest.mark.slow
def test_the_table_of_the_home_page_is_of_the_committed_results(tmp_path):
    home = runpy.run_path(str(DOCS / "figures" / "home.py"))
    assert home["main"](tmp_path) > 40
    assert (tmp_path / "home.md").read_text() == (DOCS / "figures" / "home.md").read_text()
    assert "<svg" in (tmp_path / "home.svg").read_text()


def test_the_page_of_the_arena_is_of_the_committed_results(tmp_path):
    arena = runpy.run_path(str(DOCS / "figures" / "arena.py"))
    arena["main"](tmp_path)
    for file in tmp_path.iterdir():
        assert file.read_text() == (DOCS / "figures" / file.name).read_text()


def test_the_front_of_the_arena_has_what_no_other_beats():
    arena = runpy.run_path(str(DOCS / "figures" / "arena.py"))

    def cell(recipe, macs, size, accuracy):
        settings = {"dataset": "mnist", "network": "fcn", "recipe": recipe}
        compact = {"macs": {"fc": [100, macs]}, "file_bytes": [9000, size]}
        line = {
            "settings": settings,
            "test_accuracy": accuracy,
            "test_ece": 0.01,
            "compact": compact,
        }
        return bench.Cell(f"mnist-fcn-{recipe}", [line])

    found = [
        cell("none", 100, 9000, 0.98),
        cell("magnitude", 100, 1000, 0.975),  # beaten in MACs by none
        cell("beta-bernoulli", 50, 4000, 0.97),
        cell("random", 60, 5000, 0.9),  # beaten in both
    ]
    names = [
        [one.setup.recipe.name for one in arena["front"](found, size)] for size in arena["SIZES"]
    ]
    assert names == [["beta-bernoulli", "none"], ["magnitude", "none"]]
    rows = arena["front_table"](found).splitlines()[2:]
    assert [row.split("|")[2].strip(" `") for row in rows] == [
        "none",
        "magnitude",
        "beta-bernoulli",
    ]
    assert "fcn on mnist: 4 of" in arena["runs"](found)


def test_the_readme_has_the_table_of_the_home_page():
    assert (DOCS / "figures" / "home.md").read_text().strip() in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("block", range(len(BLOCKS)))
def test_a_block_of_the_readme_needs_no_other(block):
    # Names of the module that are read before they are bound at its top level, in order.
    bound, missing = set(dir(builtins)), set()
    for statement in ast.parse(BLOCKS[block]).body:
        nodes = list(ast.walk(statement))
        own = {node.arg for node in nodes if isinstance(node, ast.arg)}
        stored = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        loops = stored if isinstance(statement, ast.For | ast.FunctionDef) else set()
        read = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        missing |= read - bound - own - loops
        bound |= stored
        for node in nodes:
            if isinstance(node, ast.Import | ast.ImportFrom):
                bound |= {(a.asname or a.name).split(".")[0] for a in node.names}
            if isinstance(node, ast.FunctionDef):
                bound.add(node.name)
    assert not missing
