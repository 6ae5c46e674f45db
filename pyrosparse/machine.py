"""What machine this is, for beside the numbers measured on it."""

from __future__ import annotations

import os
import platform


def describe() -> str:
    """The kind of processor and the number of its cores.

    >>> describe().endswith("cores")
    True
    """
    return f"{_processor()}, {os.cpu_count()} cores"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            models = (line for line in file if line.startswith("model name"))
            return next(models).split(":")[1].strip()
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
