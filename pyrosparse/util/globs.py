"""Options by glob on names: the first that matches counts."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase


def first_match(globs: Iterable[str], name: str) -> str | None:
    """The first glob that a name matches; None where none does.

    >>> first_match({"conv*": 20.0, "*": 1.0}, "fc1")
    '*'
    """
    return next((glob for glob in globs if fnmatchcase(name, glob)), None)
