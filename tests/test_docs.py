"""The examples in the documentation's pages run, and those of the README one after another."""

import ast
import builtins
import doctest
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FENCE = re.compile(r"^(\s*)```.*$", re.M)
PAGES = [page for page in sorted(DOCS.glob("**/*.md")) if ">>>" in page.read_text()]


# Pages that train for long; .ci/run runs them.
SLOW = {
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


def test_every_page_is_in_the_table_of_contents():
    index = (DOCS / "index.md").read_text()
    included = {"figures", "results"}
    for page in DOCS.glob("**/*.md"):
        name = page.relative_to(DOCS)
        if name.parts[0] not in included | {"_build", "index.md"}:
            assert re.search(rf"^{name.with_suffix('').as_posix()}$", index, re.M), name


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
