"""Turbo-VBI: variational inference and sum-product in turns."""

from pyrosparse.prune.turbo.callback import TurboPruner
from pyrosparse.prune.turbo.exchange import MessageExchange
from pyrosparse.prune.turbo.turbo_vbi import TurboVBI

__all__ = [
    "MessageExchange",
    "TurboPruner",
    "TurboVBI",
]
