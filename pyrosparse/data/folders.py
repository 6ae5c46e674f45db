"""Folders for data."""

import os
from pathlib import Path


def default_root() -> Path:
    """Folder for data: the environment variable PYROSPARSE_DATA, else the cache folder."""
    return Path(os.environ.get("PYROSPARSE_DATA") or cache_folder()).expanduser()


def cache_folder() -> Path:
    """Folder for downloaded or decoded files: pyrosparse in XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pyrosparse"
