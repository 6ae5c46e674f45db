"""Sphinx configuration: MyST pages, tutorials that run, and an API page from docstrings."""

from __future__ import annotations

import os
import re

import pyrosparse

project = "pyrosparse"
author = copyright = "The pyrosparse developers"
release = version = pyrosparse.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # MathJax is a part of the pages: formulas show without a network
    "sphinx_copybutton",
]
# The build runs the tutorials; an error in a cell is an error of the build. With a backend in the
# environment, such as Agg, a kernel would show no figure.
os.environ.pop("MPLBACKEND", None)
nb_execution_mode = "auto"
nb_execution_timeout = 900
nb_execution_raise_on_error = True
# Prompts and output are not copied.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
myst_enable_extensions = ["amsmath", "dollarmath", "deflist"]
myst_heading_anchors = 3
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["house.css"]
html_title = f"pyrosparse {release}"
exclude_patterns = ["_build", "figures/*.md", "results/*.md"]  # included by pages

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
# Types written in signatures are torch's and Pyro's: the build has no network to look them up in.
nitpicky = False

# pytest runs the examples of docstrings and of pages (tests/test_docs.py).
doctest_test_doctest_blocks = ""

# The house's docstrings list arguments as
#     name:   text
#             that goes on
# which reStructuredText would take for a paragraph with a wrong indentation.
_ARGUMENT = re.compile(r"(?P<names>[A-Za-z_]\w*(?:, [A-Za-z_]\w*)*):\s+(?P<text>\S.*)")
# Marks of reStructuredText that the docstrings mean as they stand: (N, *shape), |loc| / scale.
_LITERAL = re.compile(r"``.*?``|`.*?`")
_MARKS = re.compile(r"(?<![\w*`\\])\*{1,2}(?=\w)(?![\w ]+\*)|\|")


def definition_lists(app, what, name, obj, options, lines: list[str]) -> None:
    """Turn the aligned argument lists of a docstring into definition lists, in place."""
    result: list[str] = []
    block: list[str] = []

    def flush() -> None:
        result.extend(_definitions(block))
        block.clear()

    for line in lines:
        if line.strip():
            block.append(line)
        else:
            flush()
            result.append(line)
    flush()
    lines[:] = result


def _definitions(block: list[str]) -> list[str]:
    if not block or block[0].lstrip().startswith((".. ", ">>>")):
        return list(block)
    if not _ARGUMENT.fullmatch(block[0]):
        return [_escape(line) for line in block]
    result: list[str] = []
    for line in block:
        match = _ARGUMENT.fullmatch(line)
        if match:
            names = ", ".join(f"``{name}``" for name in match["names"].split(", "))
            result += ["", names]
            line = match["text"]
        result.append(f"    {_escape(line.strip())}")
    return [*result, ""]


def _escape(line: str) -> str:
    parts, end = [], 0
    for literal in _LITERAL.finditer(line):
        parts += [_marks(line[end : literal.start()]), literal[0]]
        end = literal.end()
    return "".join([*parts, _marks(line[end:])])


def _marks(text: str) -> str:
    return _MARKS.sub(lambda mark: mark[0].replace("*", r"\*").replace("|", r"\|"), text)


def setup(app) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", definition_lists)
    return {"parallel_read_safe": True}
