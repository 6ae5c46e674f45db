"""The factor that makes whole units go: a weight needs the units at both its ends."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from pyrosparse.util.globs import first_match


@dataclass(frozen=True)
class UnitFactor:
    r"""Units that are on or off, and weights that are active where the units at both ends are on.

    .. math:: p(s_n = 1 \mid u_i, u_j) = \begin{cases} q & u_i = u_j = 1 \\ \varepsilon &
              \text{else} \end{cases}, \qquad \operatorname{logit} p(u_i = 1) = -c

    active:   q, the share of active weights between units that are on, in (0, 1).
    inactive: epsilon, their share elsewhere, in (0, q).
    cost:     c, the evidence in nats that a unit needs to stay: one number, or numbers by
              glob on the names of layers (the first that matches counts).

    Without a cost a unit stays where more than about ln((1 - epsilon) / (1 - q)) / ln(q / epsilon)
    of its weights are active, 6 % of them by default.

    Raises ValueError on numbers out of range.

    >>> UnitFactor(cost={"conv*": 160.0, "*": 40.0}).cost_of("fc1")
    40.0
    """

    active: float = 0.25
    inactive: float = 0.002
    cost: float | Mapping[str, float] = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.inactive < self.active < 1:
            raise ValueError(
                "shares of active weights must satisfy 0 < inactive < active < 1, got "
                f"{self.inactive} and {self.active}"
            )
        costs = self.cost.values() if isinstance(self.cost, Mapping) else [self.cost]
        for cost in costs:
            if not math.isfinite(cost):
                raise ValueError(f"cost must be finite, got {cost}")

    def cost_of(self, layer: str) -> float:
        """Evidence that a unit of that layer needs to stay, in nats; 0 where no glob matches."""
        if not isinstance(self.cost, Mapping):
            return self.cost
        glob = first_match(self.cost, layer)
        return 0.0 if glob is None else self.cost[glob]

    def tempered(self, strength: float) -> UnitFactor:
        """The factor with its coupling, ln(active / inactive), and its costs weakened.

        strength: from 0, nothing, to 1, all.

        >>> UnitFactor(0.5, 0.005, cost=8.0).tempered(0.5)
        UnitFactor(active=0.5, inactive=0.05, cost=4.0)
        """
        # At no strength at all the two shares would be one.
        strength = max(strength, 1e-6)
        ratio = (self.inactive / self.active) ** strength
        if isinstance(self.cost, Mapping):
            cost: float | Mapping[str, float] = {k: strength * c for k, c in self.cost.items()}
        else:
            cost = strength * self.cost
        return replace(self, inactive=round(self.active * ratio, 15), cost=cost)

    def evidence(self, log_odds: Tensor) -> Tensor:
        r"""What a weight says for the units at both its ends being on, in nats, any shape.

        .. math:: \ln R_n = \ln \frac{(1 - q) + q e^{x_n}}{(1 - \varepsilon) + \varepsilon e^{x_n}}

        log_odds: x, what speaks for the weight's being active.
        """
        return _log_mixture(_logit(self.active), log_odds) - _log_mixture(
            _logit(self.inactive), log_odds
        )

    def prior(self, both: Tensor) -> Tensor:
        """The log-odds that a weight is active, given those that both its units are on."""
        p = self.inactive + (self.active - self.inactive) * torch.sigmoid(both)
        return (p / (1 - p)).log()


@dataclass(frozen=True)
class Ends:
    """Which units the weights of a tensor (out, in, ...) lie between.

    inputs:  the name of the group of units before it, and int64 (in,), the unit of every input, -1
             for an input that is no unit; None where there is no such group.
    outputs: the name of the group of units that its outputs are; None where they are no units.
    """

    inputs: tuple[str, Tensor] | None
    outputs: str | None


class Units:
    r"""Sum-product between weights and the units at their ends, over several tensors at once.

    All weights between the same two units are one factor, so that messages within it are exact; a
    unit hears from all tensors that it is an end of.

    .. math::
        r_{ij} = \sum_{n \in (i,j)} \ln R_n, \quad
        m_{ij \to i} = \ln(1 - U_j + U_j e^{r_{ij}}), \quad
        L_i = -c_i + \sum_j m_{ij \to i}

    with the cavity :math:`U_j = \varsigma(L_j - m_{ij \to j})`, or 1 where there is no unit. Where
    the units make a tree this is exact.

    ends: by the name of a tensor.
    size: by the name of a group, how many units it has.

    >>> units = Units({"w": Ends(None, "units")}, {"units": 2})
    >>> evidence = torch.tensor([[5.0, 5.0], [-5.0, -5.0]])
    >>> beliefs, _ = units.messages({"w": evidence}, UnitFactor())
    >>> beliefs["units"] > 0
    tensor([ True, False])
    """

    def __init__(self, ends: Mapping[str, Ends], size: Mapping[str, int]) -> None:
        self.ends = dict(ends)
        self.size = dict(size)

    @torch.no_grad()
    def messages(
        self,
        log_odds: Mapping[str, Tensor],
        factor: UnitFactor,
        *,
        off: Mapping[str, Tensor] | None = None,
        removable: Mapping[str, int] | None = None,
        sweeps: int = 4,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What units and weights make of what speaks for each weight.

        log_odds:  x by tensor, (out, in, ...): evidence, and the messages of other factors.
        off:       by group, boolean (units,): those that are off for certain.
        removable: by group, how many of the others may be off: where more would be, the group's
                   cost is lowered until the next has log-odds of 2. Without a number all may be.
        sweeps:    over all tensors, there and back.

        Returns the log-odds of the units by group, and by tensor the messages to its weights, of
        the tensor's shape.
        """
        evidence = {name: factor.evidence(x) for name, x in log_odds.items()}
        blocks = {name: self._blocks(name, value) for name, value in evidence.items()}
        like = next(iter(blocks.values()))
        heard = {group: like.new_zeros(count) for group, count in self.size.items()}
        cost = {group: factor.cost_of(group) for group in self.size}
        silent = {group: one.to(like.device) for group, one in (off or {}).items()}
        to_inputs = {name: torch.zeros_like(r) for name, r in blocks.items()}
        to_outputs = {name: torch.zeros_like(r) for name, r in blocks.items()}

        def belief(group: str) -> Tensor:
            limit = (removable or {}).get(group)
            return _beliefs(heard[group] - cost[group], silent.get(group), limit)

        def cavities(name: str) -> tuple[Tensor, Tensor]:
            """The log-odds of a tensor's units, without what it told them, as (1, I) - (O, I)."""
            ends, on = self.ends[name], like.new_full((1, 1), torch.inf)
            inputs = outputs = on
            if ends.inputs is not None:
                known = F.pad(belief(ends.inputs[0]), (0, 1), value=torch.inf)
                inputs = known - to_inputs[name]
            if ends.outputs is not None:
                outputs = belief(ends.outputs)[:, None] - to_outputs[name]
            return inputs, outputs

        order = list(blocks)
        for name in [*order, *reversed(order)] * sweeps:
            inputs, outputs = cavities(name)
            ends, r = self.ends[name], blocks[name]
            # Half of the old message stays: loops of units may swing.
            if ends.inputs is not None:
                new = (to_inputs[name] + log_blend(outputs, r)) / 2
                heard[ends.inputs[0]] += (new - to_inputs[name]).sum(0)[:-1]
                to_inputs[name] = new
            if ends.outputs is not None:
                new = (to_outputs[name] + log_blend(inputs, r)) / 2
                heard[ends.outputs] += (new - to_outputs[name]).sum(1)
                to_outputs[name] = new
        told = {}
        for name, value in evidence.items():
            both = _log_both(*cavities(name)) + blocks[name]
            told[name] = factor.prior(self._spread(name, both, value) - value)
        return {group: belief(group) for group in self.size}, told

    def _blocks(self, name: str, evidence: Tensor) -> Tensor:
        """Sums over all weights between the same two units, (O, I): I counts one more than the
        units, for inputs that are none."""
        ends = self.ends[name]
        sums = evidence.flatten(2).sum(2) if evidence.dim() > 2 else evidence
        if ends.outputs is None:
            sums = sums.sum(0, keepdim=True)
        if ends.inputs is None:
            return sums.sum(1, keepdim=True)
        return sums.new_zeros(len(sums), self.size[ends.inputs[0]] + 1).index_add_(
            1, self._places(name, sums.device), sums
        )

    def _spread(self, name: str, blocks: Tensor, like: Tensor) -> Tensor:
        """What is known of each block, at each of its weights."""
        ends = self.ends[name]
        if ends.inputs is not None:
            blocks = blocks[:, self._places(name, blocks.device)]
        return blocks.view(*blocks.shape, *[1] * (like.dim() - 2)).expand(like.shape)

    def _places(self, name: str, device: torch.device) -> Tensor:
        inputs = self.ends[name].inputs
        assert inputs is not None
        group, units = inputs
        return torch.where(units >= 0, units, self.size[group]).to(device)


def _beliefs(log_odds: Tensor, off: Tensor | None, removable: int | None) -> Tensor:
    if off is not None:
        # Those that are off count among none: they come last.
        log_odds = log_odds.masked_fill(off, torch.inf)
    if removable is not None and removable < len(log_odds):
        next_lowest = log_odds.kthvalue(removable + 1).values
        log_odds = log_odds + (2 - next_lowest).clamp_min(0).nan_to_num(0)
    return log_odds if off is None else log_odds.masked_fill(off, -torch.inf)


def _logit(p: float) -> float:
    return math.log(p) - math.log1p(-p)


def _log_mixture(prior: float, x: Tensor) -> Tensor:
    """ln(1 - p + p e^x), where ``prior`` is logit p."""
    return log_blend(x.new_tensor(prior), x)


def log_blend(on: Tensor, x: Tensor) -> Tensor:
    r"""The message of a factor that a unit switches, :math:`\ln(1 - U + U e^x)`, in nats.

    on: logit U, which may be infinite; of a shape that broadcasts with that of x.
    x:  finite log-odds.

    Its error is a few roundings of 1 and of x, whatever U.

    >>> log_blend(torch.tensor([-torch.inf, 0.0, torch.inf]), torch.tensor(2.0))
    tensor([0.0000, 1.4338, 2.0000])
    """
    # ln(1 + e^(on + x)) - ln(1 + e^on), where the larger parts of the exponents are subtracted
    # first. On a processor torch's exp and log are ten times as fast as its log1p and softplus.
    both = on + x
    linear = torch.where(on > 0, torch.maximum(x, -on), both.clamp_min(0))
    return linear + ((1 + torch.exp(-both.abs())) / (1 + torch.exp(-on.abs()))).log()


def _log_both(first: Tensor, second: Tensor) -> Tensor:
    """logit of U V from logit U and logit V: 1 / UV - 1 = e^-u + e^-v + e^-(u + v)."""
    # Where one is off for certain and the other on, the last term is nothing beside the others.
    last = (-first - second).nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    return -torch.logsumexp(torch.stack(torch.broadcast_tensors(-first, -second, last)), 0)
