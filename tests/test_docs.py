"""The examples in the documentation's pages run."""

import doctest
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
FENCE = re.compile(r"^(\s*)```.*$", re.M)
PAGES = [page for page in sorted(DOCS.glob("**/*.md")) if ">>>" in page.read_text()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
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
