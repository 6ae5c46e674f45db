"""Turbo-VBI: variational inference and sum-product in turns."""

from pyrosparse.prune.turbo.callback import Turbo
from pyrosparse.prune.turbo.exchange import Exchange
from pyrosparse.prune.turbo.turbo_vbi import TurboVBI

__all__ = [
    "Exchange",
    "Turbo",
    "TurboVBI",
]
