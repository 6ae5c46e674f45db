"""How many units each gate keeps, by epoch."""

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
