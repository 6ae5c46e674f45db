"""Pyro programs that know nothing of pyrosparse, on the usual themes of Pyro's documentation.

Every builder in ``BUILDERS`` makes a new, tiny training problem. Data come from generators of
their own, so that only starting values depend on the global random state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyro
import pyro.contrib.gp as gp
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import (
    ELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    config_enumerate,
)
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn
from torch.distributions import constraints


@dataclass(frozen=True)
class ForeignModel:
    """What an SVI object needs, and the positional arguments that its steps take in turn."""

    model: Callable
    guide: Callable
    elbo: ELBO
    batches: list[tuple]
    # Modules with buffers that training changes; Pyro's param store holds parameters alone.
    modules: tuple[nn.Module, ...] = ()


def normal(*shape: int) -> Tensor:
    """Standard normal numbers, the same at every call with this shape."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


# Linear regression


def regression_data(n: int = 30, features: int = 3) -> tuple[Tensor, Tensor]:
    draws = normal(n, features + 1)
    x, noise = draws[:, :-1], draws[:, -1]
    return x, x @ torch.linspace(-1.0, 1.5, features) + 0.5 + 0.3 * noise


def regression(x: Tensor, y: Tensor) -> None:
    features = x.shape[-1]
    slopes = pyro.sample("slopes", dist.Normal(0.0, 2.0).expand([features]).to_event(1))
    intercept = pyro.sample("intercept", dist.Normal(0.0, 5.0))
    noise = pyro.sample("noise", dist.LogNormal(-1.0, 0.5))
    with pyro.plate("data", len(x)):
        # No matrix product: with vectorised particles there are dimensions on the left.
        mean = (slopes * x).sum(-1) + intercept
        pyro.sample("y", dist.Normal(mean, noise), obs=y)


def linear_regression(guide: Callable, elbo: ELBO) -> ForeignModel:
    return ForeignModel(regression, guide(regression), elbo, [regression_data()])


class BayesianLinear(PyroModule):
    """The regression as a module: a linear layer whose weights are random."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear = PyroModule[nn.Linear](features, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 2.0).expand([1, features]).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(0.0, 5.0).expand([1]).to_event(1))
        self.noise = PyroSample(dist.LogNormal(-1.0, 0.5))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        mean = self.linear(x).squeeze(-1)
        noise = self.noise
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(mean, noise), obs=y)
        return mean


def linear_module() -> ForeignModel:
    x, y = regression_data()
    model = BayesianLinear(x.shape[1])
    return ForeignModel(model, AutoNormal(model), Trace_ELBO(), [(x, y)])


# Mixtures with enumerated assignments

COMPONENTS = 3


def mixture_data() -> Tensor:
    return torch.cat([0.4 * part + 3 * (k - 1) for k, part in enumerate(normal(COMPONENTS, 8))])


@config_enumerate
def mixture(y: Tensor) -> None:
    weights = pyro.sample("weights", dist.Dirichlet(torch.full((COMPONENTS,), 2.0)))
    with pyro.plate("components", COMPONENTS):
        locs = pyro.sample("locs", dist.Normal(0.0, 5.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        assignment = pyro.sample("assignment", dist.Categorical(weights))
        pyro.sample("y", dist.Normal(locs[assignment], scale), obs=y)


def enumerated_mixture(guide: type) -> ForeignModel:
    """Assignments summed out in the model."""
    blocked = guide(poutine.block(mixture, hide=["assignment"]))
    return ForeignModel(mixture, blocked, TraceEnum_ELBO(max_plate_nesting=1), [(mixture_data(),)])


def guided_mixture(*sharpness: float) -> ForeignModel:
    """Assignments summed out in the guide, which has a distribution over them for every datum.

    Its logits are multiplied by the ``sharpness``, one number after the other: under a large one
    most probabilities are zero, which the loss leaves out by a branch on their values.
    """

    def model(y: Tensor, sharpness: Tensor) -> None:
        mixture(y)

    @config_enumerate
    def guide(y: Tensor, sharpness: Tensor) -> None:
        weights = pyro.param(
            "weights_map", torch.full((COMPONENTS,), 1 / COMPONENTS), constraints.simplex
        )
        pyro.sample("weights", dist.Delta(weights, event_dim=1))
        loc = pyro.param("locs_loc", lambda: torch.randn(COMPONENTS))
        scale = pyro.param("locs_scale", torch.full((COMPONENTS,), 0.2), constraints.positive)
        with pyro.plate("components", COMPONENTS):
            pyro.sample("locs", dist.Normal(loc, scale))
        pyro.sample("scale", dist.Delta(pyro.param("scale_map", torch.tensor(0.8))))
        logits = pyro.param("assignment_logits", lambda: torch.randn(len(y), COMPONENTS))
        with pyro.plate("data", len(y)):
            pyro.sample("assignment", dist.Categorical(logits=logits * sharpness))

    batches = [(mixture_data(), torch.tensor(one)) for one in sharpness]
    return ForeignModel(model, guide, TraceEnum_ELBO(max_plate_nesting=1), batches)


# Variational autoencoder


class Autoencoder(nn.Module):
    """Plain networks registered with ``pyro.module``; ``binary`` pixels or real ones."""

    def __init__(self, binary: bool, batch_norm: bool, pixels: int = 16, code: int = 2) -> None:
        super().__init__()
        self.binary, self.code = binary, code
        # Before batch normalisation a bias has no gradient but rounding, which Adam blows up.
        first = nn.Linear(pixels, 12, bias=not batch_norm)
        norm = nn.BatchNorm1d(12) if batch_norm else nn.Identity()
        self.encoder = nn.Sequential(first, norm, nn.Softplus(), nn.Linear(12, 2 * code))
        self.decoder = nn.Sequential(nn.Linear(code, 12), nn.Softplus(), nn.Linear(12, pixels))

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            prior = dist.Normal(x.new_zeros(len(x), self.code), 1.0)
            output = self.decoder(pyro.sample("code", prior.to_event(1)))
            pixels = dist.Bernoulli(logits=output) if self.binary else dist.Normal(output, 0.5)
            pyro.sample("x", pixels.to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, dim=-1)
            pyro.sample("code", dist.Normal(loc, log_scale.exp()).to_event(1))


def autoencoder(elbo: ELBO, binary: bool = True, batch_norm: bool = False) -> ForeignModel:
    vae = Autoencoder(binary, batch_norm)
    images = normal(44, 2) @ normal(2, 16)
    images = (images > 0).to(images.dtype) if binary else images
    # The last batch of an epoch is smaller, as with most data loaders.
    batches = [(batch,) for batch in images.split(16)]
    return ForeignModel(vae.model, vae.guide, elbo, batches, (vae,))


# Hierarchies with a subsampled plate

GROUPS, DATA, SUBSAMPLE = 4, 40, 10


def grouped_data() -> tuple[Tensor, Tensor]:
    group = torch.arange(DATA) % GROUPS
    return group, torch.linspace(-2.0, 2.0, GROUPS)[group] + 0.3 * normal(DATA)


def group_effects() -> ForeignModel:
    """Global unknowns alone: the model draws the subsample."""

    def model(group: Tensor, y: Tensor) -> None:
        centre = pyro.sample("centre", dist.Normal(0.0, 3.0))
        spread = pyro.sample("spread", dist.HalfNormal(2.0))
        with pyro.plate("groups", GROUPS):
            effect = pyro.sample("effect", dist.Normal(centre, spread))
        with pyro.plate("data", len(y), subsample_size=SUBSAMPLE) as index:
            pyro.sample("y", dist.Normal(effect[group[index]], 0.5), obs=y[index])

    return ForeignModel(model, AutoNormal(model), Trace_ELBO(), [grouped_data()])


def group_effects_with_local_scales() -> ForeignModel:
    """An unknown scale for every datum: the guide draws the subsample, and the model follows it.

    The programs take no arguments: the data are theirs.
    """
    group, y = grouped_data()

    def model() -> None:
        with pyro.plate("groups", GROUPS):
            effect = pyro.sample("effect", dist.Normal(0.0, 3.0))
        with pyro.plate("data", DATA, subsample_size=SUBSAMPLE) as index:
            scale = pyro.sample("scale", dist.LogNormal(-1.0, 0.5))
            pyro.sample("y", dist.Normal(effect[group[index]], scale), obs=y[index])

    def guide() -> None:
        loc = pyro.param("effect_loc", lambda: torch.randn(GROUPS))
        spread = pyro.param("effect_scale", torch.full((GROUPS,), 0.1), constraints.positive)
        with pyro.plate("groups", GROUPS):
            pyro.sample("effect", dist.Normal(loc, spread))
        # Both ways to the parameters of a subsample: indexed by hand, and by Pyro.
        local_loc = pyro.param("scale_loc", torch.full((DATA,), -1.0))
        with pyro.plate("data", DATA, subsample_size=SUBSAMPLE) as index:
            local_scale = pyro.param(
                "scale_scale", torch.full((DATA,), 0.2), constraints.positive, event_dim=0
            )
            pyro.sample("scale", dist.LogNormal(local_loc[index], local_scale))

    return ForeignModel(model, guide, Trace_ELBO(), [()])


# Gaussian processes


def curve() -> tuple[Tensor, Tensor]:
    x = torch.linspace(0.0, 5.0, 15)
    return x, torch.sin(2 * x) + 0.2 * normal(15)


def gaussian_process() -> ForeignModel:
    """Exact regression, with a variational posterior for the length scale."""
    kernel = gp.kernels.RBF(input_dim=1, variance=torch.tensor(2.0))
    kernel.lengthscale = PyroSample(dist.LogNormal(0.0, 0.5))
    kernel.autoguide("lengthscale", dist.Normal)
    process = gp.models.GPRegression(*curve(), kernel, noise=torch.tensor(0.3))
    return ForeignModel(process.model, process.guide, Trace_ELBO(), [()])


def sparse_gaussian_process() -> ForeignModel:
    """Classification with inducing points."""
    x, y = curve()
    process = gp.models.VariationalSparseGP(
        x,
        (y > 0).to(x.dtype),
        gp.kernels.Matern32(input_dim=1),
        Xu=torch.linspace(0.5, 4.5, 5),
        likelihood=gp.likelihoods.Binary(),
        whiten=True,
        jitter=1e-4,
    )
    return ForeignModel(process.model, process.guide, TraceMeanField_ELBO(), [()])


# Discrete unknowns that are sampled: gradients by the score function


def feature_selection(elbo: ELBO) -> ForeignModel:
    """Which features a regression uses."""

    def model(x: Tensor, y: Tensor) -> None:
        features = x.shape[1]
        slopes = pyro.param("slopes", lambda: torch.randn(features))
        with pyro.plate("features", features):
            used = pyro.sample("used", dist.Bernoulli(0.3))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(x @ (used * slopes), 0.5), obs=y)

    def guide(x: Tensor, y: Tensor) -> None:
        features = x.shape[1]
        probs = pyro.param("probs", torch.full((features,), 0.5), constraints.unit_interval)
        with pyro.plate("features", features):
            pyro.sample("used", dist.Bernoulli(probs))

    return ForeignModel(model, guide, elbo, [regression_data()])


def sampled_assignments() -> ForeignModel:
    """A mixture whose assignments are sampled for every datum."""

    def model(y: Tensor) -> None:
        locs = pyro.param("locs", torch.linspace(-1.0, 1.0, COMPONENTS))
        with pyro.plate("data", len(y)):
            assignment = pyro.sample("assignment", dist.Categorical(torch.ones(COMPONENTS)))
            pyro.sample("y", dist.Normal(locs[assignment], 1.0), obs=y)

    def guide(y: Tensor) -> None:
        logits = pyro.param("logits", torch.zeros(len(y), COMPONENTS))
        with pyro.plate("data", len(y)):
            pyro.sample("assignment", dist.Categorical(logits=logits))

    return ForeignModel(model, guide, Trace_ELBO(), [(mixture_data(),)])


# Programs whose next statement depends on a draw


def branching() -> ForeignModel:
    """A coin decides which of two scales the data have: no one graph is both."""

    def model(y: Tensor) -> None:
        wide = pyro.sample("wide", dist.Bernoulli(0.5))
        loc = pyro.param("loc", torch.tensor(0.0))
        if wide:
            loc = loc + pyro.param("shift", torch.tensor(0.5))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(loc, 3.0 if wide else 1.0), obs=y)

    def guide(y: Tensor) -> None:
        probs = pyro.param("probs", torch.tensor(0.5), constraints.unit_interval)
        pyro.sample("wide", dist.Bernoulli(probs))

    return ForeignModel(model, guide, Trace_ELBO(), [(mixture_data(),)])


def stopping() -> ForeignModel:
    """A number of unknowns that is itself random: tosses until the first head."""

    def tosses(probs: Callable[[int], Tensor | float]) -> int:
        count = 0
        while not pyro.sample(f"head_{count}", dist.Bernoulli(probs(count))).item():
            count += 1
        return count

    def model(y: Tensor) -> None:
        # After five tails the next toss is certain, in the guide too.
        count = tosses(lambda toss: 0.4 if toss < 5 else 1.0)
        rate = pyro.param("rate", torch.tensor(0.7), constraints.positive)
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(rate * count, 2.0), obs=y)

    def guide(y: Tensor) -> None:
        probs = pyro.param("probs", torch.full((5,), 0.5), constraints.unit_interval)
        tosses(lambda toss: probs[toss] if toss < 5 else 1.0)

    return ForeignModel(model, guide, Trace_ELBO(), [(mixture_data(),)])


# A loss object keeps what it learned of its model, so every problem gets a new one.
BUILDERS: dict[str, Callable[[], ForeignModel]] = {
    "regression": lambda: linear_regression(AutoNormal, Trace_ELBO()),
    "regression-mean-field": lambda: linear_regression(AutoNormal, TraceMeanField_ELBO()),
    "regression-multivariate": lambda: linear_regression(AutoMultivariateNormal, Trace_ELBO()),
    "regression-module": linear_module,
    "particles": lambda: linear_regression(AutoNormal, Trace_ELBO(num_particles=3)),
    "particles-vectorized": lambda: linear_regression(
        AutoNormal, Trace_ELBO(num_particles=3, vectorize_particles=True)
    ),
    "mixture-delta": lambda: enumerated_mixture(AutoDelta),
    "mixture-normal": lambda: enumerated_mixture(AutoNormal),
    "mixture-guide": lambda: guided_mixture(1.0),
    "mixture-guide-zeros": lambda: guided_mixture(1.0, 1e4),
    "autoencoder": lambda: autoencoder(Trace_ELBO()),
    "autoencoder-real-pixels": lambda: autoencoder(TraceMeanField_ELBO(), binary=False),
    "autoencoder-batch-norm": lambda: autoencoder(Trace_ELBO(), batch_norm=True),
    "groups-subsampled": group_effects,
    "groups-local-scales": group_effects_with_local_scales,
    "gaussian-process": gaussian_process,
    "gaussian-process-sparse": sparse_gaussian_process,
    "score-bernoulli": lambda: feature_selection(Trace_ELBO()),
    "score-categorical": sampled_assignments,
    "score-graph": lambda: feature_selection(TraceGraph_ELBO()),
    "branching": branching,
    "stopping": stopping,
}
