"""The weights along a training run: draws by SGLD, and the normal distribution of SWAG."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from pyrosparse.evidence.given import AnyDraw
from pyrosparse.infer.callback import Callback

if TYPE_CHECKING:
    from pyrosparse.infer.run import Fit


class _Iterates(Callback):
    """Reads the weights at regular intervals of steps."""

    def __init__(self, *, burn_in: int, every: int) -> None:
        if burn_in < 0 or every < 1:
            raise ValueError(
                f"burn_in must be 0 or more and every 1 or more, got {burn_in} and {every}"
            )
        self.burn_in = burn_in
        self.every = every
        self._weights: dict[str, Tensor] = {}

    def on_start(self, run: Fit) -> None:
        what = type(self).__name__
        lifted = run.lifted
        entries = [entry for entry in lifted.guide.entries if entry.owner is not None]
        self._weights = {entry.target.site: entry.parameter() for entry in entries}
        own = {id(weight) for weight in self._weights.values()}
        others = [name for name, tensor in run.parameters.items() if id(tensor) not in own]
        if others or len(entries) < len(lifted.targets):
            shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
            raise ValueError(
                f"{what} can only train weights with a point posterior, but {shown or 'gates'} "
                "are not: lift with ps.lift(net, ps.Gaussian(scale=...), "
                "ps.weights(net, '*')), and give a model without latent variables of its own "
                "(known noise)"
            )
        if any(isinstance(m, _BatchNorm) and m.track_running_stats for m in lifted.net.modules()):
            raise ValueError(
                f"{what} has several sets of weights, but batch normalisation has running "
                "statistics only for the last: use a network without batch normalisation"
            )
        if run.checkpoint is not None or run.shrink is not None:
            raise ValueError(
                f"{what} supports neither checkpoints nor compact_every: leave them out"
            )

    def after_step(self, run: Fit) -> None:
        if run.step > self.burn_in and (run.step - self.burn_in) % self.every == 0:
            self._keep({site: weight.detach().clone() for site, weight in self._weights.items()})

    @abstractmethod
    def _keep(self, weights: dict[str, Tensor]) -> None: ...


class KeepDraws(_Iterates):
    """Callback that keeps the weights at regular intervals of steps, as draws; with
    ``infer.SGLD`` they are draws from the posterior.

    burn_in: number of steps before the first draw.
    every:   number of steps between draws; more steps make them less dependent.

    draws: after training, by site, (draws, ...); ``guide`` returns one of them at random.

    Raises ValueError, at the start of ``fit``, if a trained parameter is not a weight with a point
    posterior, and for batch normalisation, checkpoints and ``compact_every``.

    >>> import pyrosparse as ps
    >>> net = torch.nn.Linear(4, 3)
    >>> bnn = ps.lift(net, ps.Gaussian(scale=1.0), ps.weights(net, "*"))
    >>> data = (torch.randn(20, 4), torch.zeros(20, dtype=torch.int64))
    >>> kept = KeepDraws(burn_in=4, every=2)
    >>> run = ps.fit(ps.classifier(bnn, 20), bnn.guide, data, epochs=8, optimizer=ps.infer.SGLD,
    ...              learning_rate=1e-3, callbacks=[kept], progress=False)
    >>> kept.draws["weight"].shape
    torch.Size([2, 3, 4])
    >>> len(ps.predict(bnn, data[0], guide=kept.guide, draws=10))
    20
    """

    def __init__(self, *, burn_in: int, every: int = 1) -> None:
        super().__init__(burn_in=burn_in, every=every)
        self._kept: list[dict[str, Tensor]] = []

    def _keep(self, weights: dict[str, Tensor]) -> None:
        self._kept.append(weights)

    @property
    def draws(self) -> dict[str, Tensor]:
        """By site, (draws, ...). Raises ValueError if there are none."""
        if not self._kept:
            raise ValueError("there are no draws: train for more steps than burn_in")
        return {site: torch.stack([one[site] for one in self._kept]) for site in self._kept[0]}

    @property
    def guide(self) -> AnyDraw:
        """A guide that returns one of the draws, each with the same probability."""
        return AnyDraw(self.draws)


class SWAG(_Iterates):
    r"""Callback that fits a normal distribution to the weights along training: SWA-Gaussian.

    .. math:: w = \bar w + \tfrac{1}{\sqrt2} \Sigma_{\mathrm{diag}}^{1/2} z_1 +
        \frac{1}{\sqrt{2 (K - 1)}} \hat D z_2, \qquad
        \Sigma_{\mathrm{diag}} = \overline{w^2} - \bar w^2

    with :math:`\bar w` the mean of the iterates, and in the columns of :math:`\hat D` the last K of
    them, each minus the mean up to then. Train with SGD at a constant rate. The spread of the
    iterates comes from the gradient noise of SGD: it is the posterior's only for a suitable rate.

    burn_in: number of steps before the first iterate; training should have converged by then.
    every:   number of steps between iterates: an epoch in the paper.
    rank:    K, 2 or more.

    After training it is a guide: ``ps.predict(bnn, x, guide=swag)``. Given z_2, the auxiliary site
    ``swag``, the weights are independent normals.

    Raises ValueError as ``KeepDraws`` does, and if it is used as a guide with fewer than K
    iterates.

    Source: Maddox et al. (2019), "A simple baseline for Bayesian uncertainty in deep learning",
    section 3.2, eq. 1.

    >>> import pyrosparse as ps
    >>> net = torch.nn.Linear(4, 3)
    >>> bnn = ps.lift(net, ps.Gaussian(scale=1.0), ps.weights(net, "*"))
    >>> data = (torch.randn(20, 4), torch.zeros(20, dtype=torch.int64))
    >>> swag = SWAG(burn_in=4, rank=3)
    >>> run = ps.fit(ps.classifier(bnn, 20), bnn.guide, data, epochs=10, optimizer=torch.optim.SGD,
    ...              learning_rate=1e-2, callbacks=[swag], progress=False)
    >>> swag.count, len(ps.predict(bnn, data[0], guide=swag, draws=10))
    (6, 20)
    """

    def __init__(self, *, burn_in: int, every: int = 1, rank: int = 20) -> None:
        super().__init__(burn_in=burn_in, every=every)
        if rank < 2:
            raise ValueError(f"rank must be 2 or more, got {rank}")
        self.rank = rank
        self.count = 0
        self.mean: dict[str, Tensor] = {}
        self._square: dict[str, Tensor] = {}
        self._deviations: list[dict[str, Tensor]] = []

    def _keep(self, weights: dict[str, Tensor]) -> None:
        self.count += 1
        if self.count == 1:
            self.mean = {site: torch.zeros_like(weight) for site, weight in weights.items()}
            self._square = {site: torch.zeros_like(weight) for site, weight in weights.items()}
        deviations = {}
        for site, weight in weights.items():
            # Welford: the sum of squares about the mean, without cancellation.
            before = weight - self.mean[site]
            self.mean[site] = self.mean[site] + before / self.count
            deviations[site] = weight - self.mean[site]
            self._square[site] = self._square[site] + before * deviations[site]
        self._deviations = [*self._deviations[1 - self.rank :], deviations]

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        if self.count < self.rank:
            raise ValueError(
                f"SWAG has {self.count} iterates, of which it needs {self.rank}: train for more "
                "steps after burn_in, or choose a smaller rank"
            )
        like = next(iter(self.mean.values()))
        standard = dist.Normal(like.new_zeros(self.rank), 1.0).to_event(1)
        z = pyro.sample("swag", standard, infer={"is_auxiliary": True})
        for site, mean in self.mean.items():
            low_rank = torch.stack([one[site] for one in self._deviations], -1) @ z
            loc = mean + low_rank / math.sqrt(2 * (self.rank - 1))
            variance = self._square[site] / (2 * self.count)
            scale = variance.clamp_min(torch.finfo(mean.dtype).tiny).sqrt()
            pyro.sample(site, dist.Normal(loc, scale).to_event(loc.dim()))
