"""What machine this is, for beside the numbers measured on it."""

from __future__ import annotations

import os
import platform

import torch


def describe(device: str = "cpu") -> str:
    """The kind of processor, the number of its cores, and the kind of a GPU that was used.

    device: as torch names it.

    >>> describe().endswith("cores")
    True
    """
    gpu = f", {torch.cuda.get_device_name(device)}" if device.startswith("cuda") else ""
    return f"{_processor()}, {os.cpu_count()} cores{gpu}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            models = (line for line in file if line.startswith("model name"))
            return next(models).split(":")[1].strip()
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
