"""Ready-made Pyro models of values: regression with one noise or one for each datum, and counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrosparse.models.calls import called, separated, with_labels
from pyrosparse.models.latents import Latent, ModelGuide
from pyrosparse.models.likelihoods import Network, data_plate, positive_count


def noise_prior() -> Any:
    """The default prior on the standard deviation of the noise, LogNormal(-1, 1): median 0.37, and
    0.05 to 2.6 with probability 0.95, for targets of standard deviation 1.

    >>> round(float(noise_prior().mean), 2)
    0.61
    """
    return dist.LogNormal(-1.0, 1.0)


class regressor(nn.Module):
    r"""A Pyro model of real targets, given by the output of a lifted network.

    .. math:: y_i \sim \mathcal N(f(x_i; w), \sigma^2), \quad i = 1 \dots n, \qquad \sigma \sim p

    network: maps ``x``, (batch, ...), and further inputs to means (batch, d) or (batch,), or to a
             mapping or object that contains them.
    n:       the number of all data; the plate ``data`` scales a minibatch to it.
    output:  the name of the means in the network's output, such as ``"logits"``; None if it is a
             tensor.
    noise:   the standard deviation sigma > 0, if it is known; or a prior on it, a distribution
             over positive numbers, (), or (d,) for one in each target, by ``.to_event(1)``. By
             default LogNormal(-1, 1), which suits targets with standard deviation 1.

    The model takes ``x`` and ``y``, (batch, d) or (batch,) floating point, or None to draw them;
    it returns the targets. With further inputs the targets come last: ``model(x, mask, y)``. In
    data that are dicts, the keys are the names of the network's arguments, and ``y`` or ``labels``.
    Its site is ``y``. It is a torch module that contains the network, if that is a module.

    Learned noise is a latent variable, the site ``noise``; train with ``guide``, which calls the
    network's own guide and draws ``noise`` from a log-normal (if the prior's support is not the
    positive numbers, from a normal mapped to that support).

    Raises ValueError if n is not a positive whole number or the noise is not positive, and if ``y``
    has another shape than the network's output; TypeError if the noise is not a number or a
    distribution, and if the network returns no tensor, or none of that name.

    >>> import torch
    >>> import pyrosparse as ps
    >>> bnn = ps.lift(torch.nn.Linear(4, 1), ps.Gaussian(posterior="normal"))
    >>> regressor(bnn, n=100, noise=0.1)(torch.ones(5, 4)).shape
    torch.Size([5, 1])
    >>> model = regressor(bnn, n=20)
    >>> data = (torch.randn(20, 4), torch.randn(20, 1))
    >>> run = ps.fit(model, model.guide, data, epochs=2, progress=False)
    >>> sorted(run.parameters)[:2]
    ['guide.noise.loc', 'guide.noise.log_scale']
    """

    noise: float | Latent

    def __init__(
        self, network: Network, n: int, *, noise: Any = None, output: str | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.n = positive_count(n)
        self.output = output
        if isinstance(noise, int | float):
            if not noise > 0:
                raise ValueError(f"noise must be positive, got {noise}")
            self.noise = noise
        else:
            self.noise = Latent("noise", noise_prior() if noise is None else noise)
            _refuse_negative(self.noise.prior)
            self.guide = ModelGuide(network, [self.noise])

    def from_names(self, named: Mapping[str, Any]) -> tuple[Any, ...]:
        """The model's positional arguments from arguments by name."""
        return with_labels(named, self.network)

    def forward(self, x: Tensor, *more: Any, y: Tensor | None = None) -> Tensor:
        inputs, y = separated(x, more, y)
        mean, leading = called(self.network, inputs, self.output)
        own = mean.shape[leading:]
        check_values(y, own)
        likelihood = dist.Normal(mean, self._noise(own)).to_event(len(own) - 1)
        with data_plate(self.n, x):
            return pyro.sample("y", likelihood, obs=y)

    def _noise(self, mean: torch.Size) -> Tensor | float:
        """The standard deviation, which broadcasts with means (batch, ...) of this shape."""
        if not isinstance(self.noise, Latent):
            return self.noise
        noise, each = self.noise.sample(), self.noise.loc.shape
        if each and each != mean[1:]:
            raise ValueError(
                f"the prior of noise is over {tuple(each)} standard deviations, the "
                f"network's output has {tuple(mean[1:])}: give one for all targets, (), or "
                "one for each target"
            )
        # Where particles are drawn together, its first dimensions are theirs and that of the data.
        particles = noise.shape[: noise.dim() - len(each)]
        return noise.view(*particles, *(each or [1] * len(mean[1:]))) if particles else noise


class heteroscedastic_regressor(nn.Module):
    r"""A Pyro model of real targets; the network returns their means and their noise.

    .. math:: y_{ij} \sim \mathcal N\big(f_j(x_i; w), \exp(f_{d + j}(x_i; w))^2\big),
              \quad j = 1 \dots d

    network: maps ``x``, (batch, ...), to (batch, 2 d): first the means of the d targets, then the
             logarithms of their standard deviations.
    n:       the number of all data; the plate ``data`` scales a minibatch to it.

    The model takes ``x`` and ``y``, (batch, d) floating point, or None to draw them; it returns the
    targets. Its site is ``y``. It is a torch module that contains the network, if that is a module.

    Raises ValueError if n is not a positive whole number, if the number of outputs is odd, and if
    ``y`` has another shape than the means.

    Source: Nix and Weigend (1994), "Estimating the mean and variance of the target probability
    distribution", eq. 1; here the network returns the logarithm of the scale.

    >>> import torch
    >>> import pyrosparse as ps
    >>> bnn = ps.lift(torch.nn.Linear(4, 2), ps.Gaussian())
    >>> heteroscedastic_regressor(bnn, n=100)(torch.ones(5, 4)).shape
    torch.Size([5, 1])
    """

    def __init__(self, network: Network, n: int) -> None:
        super().__init__()
        self.network = network
        self.n = positive_count(n)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        outputs, leading = called(self.network, [x])
        own = outputs.shape[leading:]
        if len(own) != 2 or own[1] % 2:
            raise ValueError(
                f"the network's output has shape {tuple(own)}: (batch, 2 d) is needed, a "
                "mean and the logarithm of a standard deviation for each of d targets"
            )
        mean, log_scale = outputs.chunk(2, -1)
        check_values(y, mean.shape[leading:])
        with data_plate(self.n, x):
            return pyro.sample("y", dist.Normal(mean, log_scale.exp()).to_event(1), obs=y)


class counts(nn.Module):
    r"""A Pyro model of counts, given by the logarithms of their rates.

    .. math:: y_i \sim \mathrm{Poisson}(\exp f(x_i; w)), \quad i = 1 \dots n

    network: maps ``x``, (batch, ...), to log rates (batch, d) or (batch,).
    n:       the number of all data; the plate ``data`` scales a minibatch to it.

    The model takes ``x`` and ``y``, counts (batch, d) or (batch,) of any dtype, or None to draw
    them; it returns the counts, floating point. Its site is ``y``. It is a torch module that
    contains the network, if that is a module.

    Raises ValueError if n is not a positive whole number, and if ``y`` has another shape than the
    network's output, or a value that is negative or not a whole number.

    >>> import torch
    >>> import pyrosparse as ps
    >>> bnn = ps.lift(torch.nn.Linear(4, 1), ps.Gaussian())
    >>> counts(bnn, n=100)(torch.ones(5, 4)).shape
    torch.Size([5, 1])
    """

    def __init__(self, network: Network, n: int) -> None:
        super().__init__()
        self.network = network
        self.n = positive_count(n)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        log_rate, leading = called(self.network, [x])
        check_values(y, log_rate.shape[leading:])
        y = None if y is None else y.to(log_rate.dtype)
        likelihood = dist.Poisson(log_rate.exp()).to_event(log_rate.dim() - leading - 1)
        with data_plate(self.n, x):
            return pyro.sample("y", likelihood, obs=y)


def check_values(y: Tensor | None, output: torch.Size) -> None:
    """Raise ValueError if the targets have another shape than the network's output."""
    if y is not None and y.shape != output:
        raise ValueError(
            f"y has shape {tuple(y.shape)} but the network's output has {tuple(output)}; "
            "broadcasting them would score targets against the predictions of other data: "
            f"{_same_shape(y, output)}"
        )


def _same_shape(y: Tensor, output: torch.Size) -> str:
    if (*y.shape, 1) == tuple(output):
        return "give y[:, None]"
    if tuple(y.shape) == (*output, 1):
        return "give y[:, 0]"
    return "give one target for each output"


def _refuse_negative(prior: Any) -> None:
    if bool(prior.support.check(-torch.ones(prior.event_shape)).any()):
        raise ValueError(
            f"the prior of noise, {prior}, gives negative numbers: a standard deviation is "
            "positive, such as under LogNormal or HalfNormal"
        )
