"""NUTS with records of its steps: divergences, energies, tree depths."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pyrosparse.captured import CapturedNUTS


class RecordingNUTS(CapturedNUTS):
    """NUTS that also records the energy and the tree depth of every step.

    It is ``captured.CapturedNUTS``: it draws what ``pyro.infer.NUTS`` draws, with the same
    arguments and with captured gradients. ``to_datatree(mcmc=...)`` puts
    the records into ``sample_stats``, for ``arviz_stats.bfmi`` and ``arviz_plots.plot_energy``.
    Chains in separate processes (``num_chains`` above 1, by Pyro's default) do not return their
    records; give ``MCMC`` one chain at a time, or no ``mp_context``.

    records: by chain, one pair (energy in nats, depth) for each step, including warm-up.

    >>> import pyro.distributions as dist, pyro
    >>> from pyro.infer import MCMC
    >>> kernel = RecordingNUTS(lambda: pyro.sample("a", dist.Normal(0.0, 1.0)))
    >>> MCMC(kernel, 5, warmup_steps=3, disable_progbar=True).run()
    >>> len(kernel.records[0])
    8
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.records: list[list[tuple[float, int]]] = []
        self._energy: float | None = None
        self._depth = 0
        super().__init__(*args, **kwargs)

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        self.records.append([])
        super().setup(warmup_steps, *args, **kwargs)

    def sample(self, params: Any) -> Any:
        self._energy, self._depth = None, 0
        found = super().sample(params)
        self.records[-1].append(
            (float("nan") if self._energy is None else self._energy, self._depth)
        )
        return found

    def _kinetic_energy(self, r_unscaled: Any) -> Any:
        kinetic = super()._kinetic_energy(r_unscaled)
        if self._energy is None:  # the first call in a step, before the trajectory
            self._energy = float(kinetic + self._potential_energy_last)
        return kinetic

    def _build_tree(self, *args: Any) -> Any:
        tree_depth = args[5]
        self._depth = max(self._depth, tree_depth + 1)
        return super()._build_tree(*args)


def nuts_statistics(mcmc: Any, draws: int) -> dict[str, np.ndarray]:
    """The records of a NUTS run for its draws, by name, (chains, draws): ``diverging``, boolean,
    and for ``RecordingNUTS`` also ``energy``, nats, and ``tree_depth``.

    draws: the number of draws of each chain, as for ``mcmc_guides``.
    """
    samples = mcmc.get_samples(group_by_chain=True)
    chains, length = next(iter(samples.values())).shape[:2]
    taken = chosen_draws(length, draws)
    found: dict[str, np.ndarray] = {}
    diagnosed = [one or {} for one in getattr(mcmc, "_diagnostics", [None] * chains)]
    if all("divergences" in one for one in diagnosed):
        diverging = np.zeros((chains, length), bool)
        for chain, one in enumerate(diagnosed):
            diverging[chain, one["divergences"]] = True
        found["diverging"] = diverging[:, taken]
    records = getattr(mcmc.kernel, "records", [])
    if len(records) == chains and all(len(chain) >= length for chain in records):
        kept = np.array([chain[-length:] for chain in records])[:, taken]
        found |= {"energy": kept[..., 0], "tree_depth": kept[..., 1].astype(np.int64)}
    return found


def chosen_draws(length: int, most: int) -> list[int]:
    """The indices of at most ``most`` of ``length`` draws, evenly spaced.

    >>> chosen_draws(5, 3)
    [0, 2, 4]
    """
    return torch.linspace(0, length - 1, min(most, length)).round().long().tolist()
