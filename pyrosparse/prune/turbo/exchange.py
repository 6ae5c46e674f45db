"""One exchange of messages between the weights and the support prior of a network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from pyrosparse.lifting.guide import Entry
from pyrosparse.lifting.lift import Lifted
from pyrosparse.lifting.masks import Masks, largest
from pyrosparse.lifting.method import Posterior
from pyrosparse.methods.gamma_spike_and_slab import LARGEST, GammaSpikeAndSlab
from pyrosparse.prune.turbo.curvature import curvature
from pyrosparse.prune.turbo.ends import (
    idle_units,
    units_of,
    with_best_units,
    without_idle_units,
    without_units,
)
from pyrosparse.prune.turbo.rates import find_log_rate, set_rate
from pyrosparse.supports.units import UnitFactor
from pyrosparse.util.errors import unknown_name

_DAMPING = 0.5
"""Of messages from units, which otherwise swing: a unit's weights go, or stay, together."""

_FACTORS = (0.01, 100.0)
"""Of rates by information, at least and at most."""


class MessageExchange:
    r"""Module B of Turbo-VBI, and the closed-form part of module A, over one lifted network.

    The weights' evidence goes out, and the messages of the support prior come in:

    .. math::
        \ell^{A \to B}_n = \Lambda_n(E[w_n^2]), \qquad
        \ell^{B \to A}_n = \text{sum of the messages into } s_n, \qquad
        \operatorname{logit} q(s_n = 1) = \ell^{B \to A}_n + \ell^{A \to B}_n

    Its state is in the posterior's buffers, so that the network's ``state_dict`` holds it.

    bnn:     lifted with ``GammaSpikeAndSlab``.
    units:   couples the weights of a unit, and the layers with each other; None for no such factor.
    example: what the network is called with; needed with units, to see where they lie.

    Raises TypeError if no target is of ``GammaSpikeAndSlab``, and ValueError if units are
    wanted and the network has none or cannot be traced.

    >>> import pyrosparse as ps
    >>> bnn = ps.lift(torch.nn.Linear(4, 3), ps.GammaSpikeAndSlab())
    >>> sorted(MessageExchange(bnn)())
    ['active', 'change', 'slab_rate']
    """

    def __init__(
        self, bnn: Lifted, *, units: UnitFactor | None = None, example: tuple[Any, ...] = ()
    ) -> None:
        self.entries: dict[str, tuple[Entry, GammaSpikeAndSlab]] = {}
        for entry in bnn.guide.entries:
            if isinstance(entry.method, GammaSpikeAndSlab):
                self.entries[entry.target.key] = (entry, entry.method)
        if not self.entries:
            raise TypeError(
                "Turbo-VBI needs weights with the prior ps.GammaSpikeAndSlab: lift the network "
                "with it"
            )
        self.bnn = bnn
        self.factor = units
        self.units = None
        if units is not None:
            targets = [entry.target for entry, _ in self.entries.values()]
            self.units = units_of(bnn.contents.net, targets, example)
        self.beliefs: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(
        self,
        *,
        active: float | None = None,
        contrast: float | None = None,
        strength: float = 1.0,
        removable: Mapping[str, int] | None = None,
    ) -> dict[str, Any]:
        """Exchange messages once, and set q(precision, support) to the best given q(w).

        active:    the wanted share of active weights: slab and spike are moved to where so many
                   are, at first as far as it takes, then by a factor of 1.4 up or 1.2 down at most.
                   None leaves them.
        contrast:  slab_rate / spike_rate, with ``active``; the method's own by default.
        strength:  of the unit factor, in [0, 1], as in ``UnitFactor.tempered``.
        removable: how many units of each layer may be off beyond those that are idle already.

        Returns a record: ``active``, the share of weights with support log-odds above 0;
        ``change``, of the support prior, ||p - p'|| / ||p|| (the paper's test of convergence);
        ``slab_rate``; and ``units``, how many are on in each layer, where there is a unit factor.

        Raises ValueError if a share is wanted under the mean-field posterior, whose evidence
        does not follow the rates at once.
        """
        if active is not None and any(
            method.posterior == "mean-field" for _, method in self.entries.values()
        ):
            raise ValueError(
                "a share of active weights needs "
                "GammaSpikeAndSlab(posterior='structured'): leave `active` out, or change the "
                "posterior"
            )
        before = {key: method.prior_log_odds(q) for key, method, q in self._posteriors()}
        if active is None:
            self._pass(strength, removable)
        else:
            # Messages and rates depend on each other; the rates have the last word.
            self._place(active, contrast)
            for _ in range(2):
                self._pass(strength, removable)
                self._place(active, contrast)
        for _, method, q in self._posteriors():
            method.update(q)
        after = {key: method.prior_log_odds(q) for key, method, q in self._posteriors()}
        record: dict[str, Any] = {
            "active": self.masks_of_weights().kept / self._count(),
            "change": _change(before, after),
            "slab_rate": float(next(self._posteriors())[2]["_slab_rate"]),
        }
        if self.units is not None:
            record["units"] = {group: int((b > 0).sum()) for group, b in self.beliefs.items()}
        return record

    @property
    def kept(self) -> float:
        """The share of the weights that is not frozen at zero."""
        masks = [entry.mask for entry, _ in self.entries.values()]
        return sum(int(mask.count_nonzero()) for mask in masks) / self._count()

    @property
    def needs_curvature(self) -> bool:
        """Whether a weight's q(w) takes its variance, or its prior the rates, from the Fisher
        information."""
        return any(_informed(method) for _, method in self.entries.values())

    def estimate_curvature(
        self, model: Any, data: Any, *, examples: int, seed: int, guide: Any = None
    ) -> None:
        """Set h, the diagonal of the Fisher information, for weights under
        ``likelihood="curvature"``, and what follows from it for ``rates="information"``.

        guide: the model's; by default as for ``to_datatree``."""
        wanted = [key for key, (_, method) in self.entries.items() if _informed(method)]
        found = curvature(model, self.bnn, data, wanted, examples=examples, seed=seed, guide=guide)
        live = torch.cat([found[key][self.entries[key][0].mask] for key in found])
        mean = live[live > 0].double().log().mean().exp()
        for key, values in found.items():
            q = self.entries[key][0].posterior()
            if "_curvature" in q:
                q["_curvature"].copy_(values)
            if "_rate_factors" in q:
                q["_rate_factors"].copy_((mean / values).sqrt().clamp(*_FACTORS))

    def snapshot(self, key: str) -> dict[str, Tensor]:
        """The messages at a weight, as matrices, for ``plots.messages``: ``prior log-odds``, those
        into it, and ``evidence log-odds``, those out of it.

        Raises ValueError on an unknown name."""
        if key not in self.entries:
            raise unknown_name("weight", key, self.entries)
        entry, method = self.entries[key]
        q = entry.posterior()
        found = {
            "prior log-odds": method.prior_log_odds(q),
            "evidence log-odds": self._evidence(key),
        }
        return {name: values.detach().flatten(1).clone() for name, values in found.items()}

    def masks_of_weights(self) -> Masks:
        """Which weights are active: support log-odds above 0, and not frozen."""
        return Masks({key: self._log_odds(key) > 0 for key in self.entries})

    def masks(
        self,
        least: float = 0.0,
        most: float = 1.0,
        at_least: Mapping[str, int] | None = None,
    ) -> Masks:
        """What stays: active weights between units that are on, without those that lead nowhere or
        come from nowhere. A tensor that would lose all its weights keeps its best.

        least, most: the share of the weights that counts as active at least and at most, those of
                  the highest log-odds.
        at_least: by layer, how many units keep a weight before and behind them, as far as they are
                  not frozen: those of the highest log-odds.
        """
        masks = self.masks_of_weights()
        wanted = min(
            max(masks.kept, math.ceil(least * self._count())), math.ceil(most * self._count())
        )
        if masks.kept != wanted:
            scores = torch.cat([self._log_odds(key).flatten() for key in masks])
            best = largest(scores, wanted).split([mask.numel() for mask in masks.values()])
            # What is frozen already is not called back.
            masks = Masks(
                {
                    key: part.view(masks[key].shape) & self.entries[key][0].mask
                    for key, part in zip(masks, best, strict=True)
                }
            )
        log_odds = {key: self._log_odds(key) for key in masks}
        for key, mask in masks.items():
            if not mask.any():
                mask.view(-1)[log_odds[key].argmax()] = bool(self.entries[key][0].mask.any())
        if self.units is None:
            return masks
        off = {group: ~(belief > 0) for group, belief in self.beliefs.items()}
        if off:
            masks = without_units(masks, self.units, off)
        if at_least:
            masks = with_best_units(masks, self.units, log_odds, self.beliefs, at_least)
        return without_idle_units(masks, self.units)

    def masks_of_units(self, most: Mapping[str, int] | None = None) -> Masks:
        """All weights between units that are on, but those that are frozen.

        most: by layer, how many units are on at most: those of the highest beliefs.
        """
        assert self.units is not None
        off = {}
        for group, belief in self.beliefs.items():
            limit = (most or {}).get(group, len(belief))
            off[group] = ~(largest(belief, min(limit, len(belief))) & (belief > 0))
        masks = Masks({key: entry.mask.clone() for key, (entry, _) in self.entries.items()})
        return without_idle_units(without_units(masks, self.units, off), self.units)

    def idle(self) -> dict[str, Tensor]:
        """Units that have no weight left before or behind them, boolean by layer."""
        assert self.units is not None
        return idle_units({key: entry.mask for key, (entry, _) in self.entries.items()}, self.units)

    def _posteriors(self) -> Iterator[tuple[str, GammaSpikeAndSlab, Posterior]]:
        for key, (entry, method) in self.entries.items():
            yield key, method, entry.posterior()

    def _count(self) -> int:
        return sum(entry.mask.numel() for entry, _ in self.entries.values())

    def _evidence(self, key: str) -> Tensor:
        entry, method = self.entries[key]
        return method.evidence(entry.posterior()).masked_fill(~entry.mask, -LARGEST)

    def _log_odds(self, key: str) -> Tensor:
        entry, method = self.entries[key]
        score = method.score(entry.target, entry.posterior())
        return score.masked_fill(~entry.mask, -torch.inf)

    def _pass(self, strength: float, removable: Mapping[str, int] | None) -> None:
        heard = {}
        for key, method, q in self._posteriors():
            said = self._evidence(key)
            messages = method.support.messages(
                (said + q["_unit_messages"]).clamp(-LARGEST, LARGEST)
            )
            q["_weight_messages"].copy_(messages)
            heard[key] = (said + messages).clamp(-LARGEST, LARGEST)
        if self.units is None or self.factor is None:
            return
        self.beliefs, told = self.units.messages(
            {key: heard[key] for key in self.units.ends},
            self.factor.tempered(strength),
            off=self.idle(),
            removable=removable,
        )
        for key, messages in told.items():
            old = self.entries[key][0].posterior()["_unit_messages"]
            old.lerp_(messages, 1 - _DAMPING)

    def _place(self, active: float, contrast: float | None) -> None:
        """Move slab and spike to where a share of the weights is active."""
        wanted = active * self._count()
        rates = [float(q["_slab_rate"]) for _, _, q in self._posteriors()]
        # At first each weight has a rate of its own. After that they move by little at a time:
        # where units decide, a small step can take very many weights.
        first = min(rates) < max(rates)
        low = math.log(min(rates) / (1e3 if first else 1.2))
        high = math.log(max(rates) * (1e3 if first else 1.4))
        parts = list(self.entries.values())
        found = find_log_rate(parts, wanted, low, high, contrast)
        for _, method, q in self._posteriors():
            set_rate(method, q, found, contrast or method.contrast)


def _informed(method: GammaSpikeAndSlab) -> bool:
    return method.likelihood == "curvature" or method.rates == "information"


def _change(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    difference = sum(
        float((before[key].sigmoid() - after[key].sigmoid()).square().sum()) for key in after
    )
    return math.sqrt(difference / sum(float(x.sigmoid().square().sum()) for x in after.values()))
