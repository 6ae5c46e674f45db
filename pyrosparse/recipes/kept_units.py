"""How many units each gate keeps, by epoch, and what their gains sum to."""

from __future__ import annotations

from typing import Any

from pyrosparse.infer import Callback, Fit


class KeptUnits(Callback):
    """Records how many units each gate keeps: ``units``, numbers by the gate's name."""

    def on_epoch_end(self, run: Fit) -> dict[str, Any]:
        masks = run.lifted.masks()
        return {
            "units": {
                target.key: int(masks[target.key].count_nonzero())
                for target in run.lifted.targets
                if target.kind != "weight"
            }
        }


class GainSums(Callback):
    """Records the sum of each gate's gains: ``gain_sum``, by the gate's name. Some papers report it
    as the number of units, which it never exceeds where gains are 1 at most."""

    def on_epoch_end(self, run: Fit) -> dict[str, Any]:
        masks = run.lifted.masks()
        return {
            "gain_sum": {
                target.key: float(masks[target.key].sum())
                for target in run.lifted.targets
                if target.kind != "weight"
            }
        }
