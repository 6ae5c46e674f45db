"""Where data are kept."""

import os
from pathlib import Path


def default_root() -> Path:
    """Folder of the data: the environment variable PYROSPARSE_DATA, else the cache folder."""
    return Path(os.environ.get("PYROSPARSE_DATA") or cache_folder()).expanduser()


def cache_folder() -> Path:
    """Folder of what is downloaded or decoded: XDG_CACHE_HOME, else ~/.cache, and pyrosparse."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pyrosparse"
