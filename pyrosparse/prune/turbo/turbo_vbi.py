"""Turbo-VBI as a class to call step by step."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from pyro.infer import TraceMeanField_ELBO

from pyrosparse.captured import CapturedSVI
from pyrosparse.evidence.traces import own_guide_called
from pyrosparse.lifting.lift import Lifted
from pyrosparse.models.latents import guide_of
from pyrosparse.prune.turbo.exchange import MessageExchange
from pyrosparse.supports.units import UnitFactor


class TurboVBI:
    """Turbo-VBI: steps of SVI on the weights, and exchanges of messages with the support prior.

    model:   a Pyro model of ``bnn``, as for ``SVI``.
    bnn:     a network lifted with ``GammaSpikeAndSlab``.
    optim:   as for ``CapturedSVI``.
    loss:    an ELBO; ``TraceMeanField_ELBO()`` by default.
    units:   a factor that makes whole units go; None for none.
    guide:   a guide that calls the lifted network's own; by default as for ``to_datatree``.

    history: what each exchange returned.

    Raises TypeError if the network has no weight under ``GammaSpikeAndSlab``.

    Source: Xia, Tsang and Lau (2023), algorithm 1.

    >>> import torch
    >>> import pyrosparse as ps
    >>> x, y = torch.randn(20, 4), torch.zeros(20, dtype=torch.int64)
    >>> bnn = ps.lift(torch.nn.Linear(4, 3), ps.GammaSpikeAndSlab())
    >>> optimizer = torch.optim.Adam(bnn.parameters(), lr=1e-3)
    >>> turbo = TurboVBI(ps.classifier(bnn, 20), bnn, optimizer)
    >>> while not turbo.converged(tolerance=0.1):
    ...     for _ in range(5):
    ...         loss = turbo.step(x, y)
    ...     record = turbo.exchange()
    >>> sorted(record)
    ['active', 'change', 'loss', 'slab_rate', 'steps']
    """

    def __init__(
        self,
        model: Any,
        bnn: Lifted,
        optim: Any,
        loss: Any = None,
        *,
        units: UnitFactor | None = None,
        guide: Any = None,
    ) -> None:
        self.model = model
        self.bnn = bnn
        guide = guide_of(model, bnn, guide)
        self.svi = CapturedSVI(model, guide, optim, loss or TraceMeanField_ELBO())
        self.factor = units
        self.history: list[dict[str, Any]] = []
        self.module_b: MessageExchange | None = None
        if units is None:
            self.module_b = MessageExchange(bnn)
        self._losses: list[Any] = []

    def step(self, *batch: Any) -> float:
        """One step of SVI on q(w); returns the negative ELBO in nats, but for what q(precision,
        support) adds.

        Raises ValueError at the first step if the guide does not call the lifted network's own."""
        if self.module_b is None:
            # Where the units lie is seen from what the network is called with.
            self.module_b = MessageExchange(self.bnn, units=self.factor, example=(batch[0][:1],))
        # The first step runs guide and model as they are; later ones may be captured.
        first = not self.history and not self._losses
        with own_guide_called(self.bnn, "pruned") if first else nullcontext():
            loss = float(self.svi.step(*batch))
        self._losses.append(loss)
        return loss

    def exchange(
        self, data: Any = None, *, examples: int = 5000, seed: int = 0, **options: Any
    ) -> dict[str, Any]:
        """Update q(precision, support), and exchange messages with the support prior.

        data:     of which ``likelihood="curvature"`` estimates the Fisher information, as for
                  ``fit``; ``examples`` of them, with ``seed``.
        options:  as for ``MessageExchange``.

        Returns the exchange's record, with ``steps``, how many there were since the last one, and
        ``loss``, their mean. Raises RuntimeError with units before the first step, and ValueError
        where the curvature is wanted and there are no data.
        """
        if self.module_b is None:
            raise RuntimeError(
                "call step before exchange: the first step finds the units of the network"
            )
        if data is not None:
            self.module_b.estimate_curvature(
                self.model, data, examples=examples, seed=seed, guide=self.svi.guide
            )
        elif self.module_b.needs_curvature:
            raise ValueError("likelihood='curvature' needs the data: exchange(data)")
        record = self.module_b(**options)
        record["steps"] = len(self._losses)
        record["loss"] = sum(self._losses) / len(self._losses) if self._losses else None
        self._losses = []
        self.history.append(record)
        return record

    def converged(self, tolerance: float = 1e-2) -> bool:
        """Whether the last exchange changed the support prior by less, ||p - p'|| / ||p||."""
        return bool(self.history) and self.history[-1]["change"] < tolerance
