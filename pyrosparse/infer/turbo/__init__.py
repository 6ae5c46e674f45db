"""Turbo-VBI: variational inference and sum-product in turns."""

from pyrosparse.infer.turbo.exchange import Exchange
from pyrosparse.infer.turbo.schedule import Turbo
from pyrosparse.infer.turbo.turbo_vbi import TurboVBI

__all__ = ["Exchange", "Turbo", "TurboVBI"]
