"""Write the code of the tutorials as scripts: ``examples/tutorial_*.py``.

    python docs/tutorials/scripts.py

A page is the source, and its script holds the same cells. A test compares the two.
"""

from __future__ import annotations

import re
from pathlib import Path

from pyrosparse.util.files import write_atomically

FOLDER = Path(__file__).parent
EXAMPLES = FOLDER.parents[1] / "examples"
# A heading, or a code cell with its options.
_PARTS = re.compile(r"^#+ (?P<heading>.*)$|^```\{code-cell\}.*\n(?P<cell>(?:.*\n)*?)```$", re.M)


def script(page: Path) -> str:
    """The code of a page, with its headings as comments."""
    parts: list[str] = []
    title, heading = "", ""
    body = page.read_text().split("---\n", 2)[2]
    for part in _PARTS.finditer(body):
        if part["heading"] is not None and not title:
            title = re.sub(r"^\d+\. ", "", part["heading"])
        elif part["heading"] is not None:
            heading = f"# {part['heading']}\n"
        else:
            cell = re.sub(r"^:.*\n", "", part["cell"]).strip("\n")
            parts.append(f"{heading}{cell}\n")
            heading = ""
    lead = (
        f'"""{title}.\n\n    python examples/{name(page)}\n\n'
        f"The code of docs/tutorials/{page.name}, which explains it.\n"
        '`python docs/tutorials/scripts.py` writes this file from that page.\n"""\n'
    )
    imports, *rest = parts
    return f"{lead}\n{imports}\n" + "\n\n".join(rest)


def name(page: Path) -> str:
    return f"tutorial_{page.stem.replace('-', '_')}.py"


def pages() -> list[Path]:
    return [page for page in sorted(FOLDER.glob("*.md")) if "{code-cell}" in page.read_text()]


if __name__ == "__main__":
    for page in pages():
        write_atomically(EXAMPLES / name(page), script(page))
