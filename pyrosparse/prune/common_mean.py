"""The mean over all scales of a network that polarization pushes scales away from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyrosparse.infer.callback import Callback
from pyrosparse.lifting.guide import Entry

if TYPE_CHECKING:
    from pyrosparse.infer.run import Fit


class CommonMean(Callback):
    """Callback that computes the common mean of all scales of a network before each step, for
    ``Polarization(mean_over="network")``.

    The mean, and the share of its gradient that goes to each scale, are buffers of the guide, so
    captured steps read the current values.

    Raises ValueError at the start of a run whose lifted network has no such scales.

    Source: Zhuang et al. (2020), section 3.

    >>> import pyrosparse as ps
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 3))
    >>> bnn = ps.lift(net, ps.Polarization(strength=1.0, mean_over="network"))
    >>> data = (torch.randn(20, 4), torch.zeros(20, dtype=torch.int64))
    >>> run = ps.fit(ps.classifier(bnn, 20), bnn.guide, data, epochs=1, callbacks=[CommonMean()],
    ...              progress=False)
    """

    def on_start(self, run: Fit) -> None:
        if not _entries(run):
            raise ValueError(
                "the lifted network has no scales with a common mean: lift it with "
                "ps.Polarization(..., mean_over='network')"
            )

    def on_step(self, run: Fit, progress: float) -> None:
        entries = _entries(run)
        with torch.no_grad():
            scales = torch.cat([_tensor(entry, "loc").flatten() for entry in entries])
            mean = scales.mean()
            share = (scales - mean).sign().mean()
            for entry in entries:
                _tensor(entry, "_mean").copy_(mean)
                _tensor(entry, "_share").copy_(share)


def _entries(run: Fit) -> list[Entry]:
    return [entry for entry in run.lifted.guide.entries if "_share" in entry.located]


def _tensor(entry: Entry, key: str) -> Tensor:
    module, leaf = entry.located[key]
    return getattr(module, leaf)  # type: ignore[no-any-return]
