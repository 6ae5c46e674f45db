"""What machine this is, for beside the numbers measured on it."""

from __future__ import annotations

import os
import platform

import torch


def describe(device: str = "cpu") -> str:
    """The kind of processor, the number of its cores, and the kind of a GPU that was used.

    device: as torch names it.

    Raises ValueError if there is no such device.

    >>> describe().endswith("cores")
    True
    """
    check_device(device)
    gpu = f", {torch.cuda.get_device_name(device)}" if device.startswith("cuda") else ""
    return f"{_processor()}, {os.cpu_count()} cores{gpu}"


def check_device(name: str) -> None:
    """Raise ValueError where nothing can be computed on a device here.

    >>> check_device("gpu")
    Traceback (most recent call last):
    ValueError: there is no device 'gpu' here: Expected one of cpu, cuda, ...
    """
    try:
        torch.ones(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"there is no device {name!r} here: {reason}") from error


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            models = (line for line in file if line.startswith("model name"))
            return next(models).split(":")[1].strip()
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
