"""Time of one SVI training step against the same mathematics written by hand in torch.

    python -m tests.benchmarks.svi_step [--only 'LeNet5-Caffe/*'] [--memory] [--device cuda]

A row is a network with a method, a column a way to take the step: batches of 100 images of MNIST's
shape, n = 60 000, Adam, one thread. The columns of a row take turns, round by round; a figure is
the median over the rounds of the processor time of a step (on a GPU, of its time). Before anything
is timed, the steps by hand and captured must give the losses that the lifted network gives under
Pyro.

The other packages are timed where they are installed (tyxe, bayesian-torch and
blitz-bayesian-pytorch on PyPI).

With ``--memory``, instead of times: what all tensors take together, parameters and optimizer
included, at the peak of one step and between steps, by the allocations that torch's profiler sees.
"""

from __future__ import annotations

import argparse
import copy
import functools
import gc
import itertools
import json
import math
import multiprocessing
import operator
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pyro
import torch
import torch.nn.functional as F
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal, init_to_value
from pyro.optim import PyroOptim
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode

import pyrosparse as ps
from pyrosparse.captured import CapturedSVI
from pyrosparse.distributions.quantile import quantile
from pyrosparse.infer.denormals import flush_denormals
from pyrosparse.infer.parameter_groups import fused_adam, parameter_groups
from tests.benchmarks import dropout_by_hand as dropout
from tests.benchmarks import noise_by_hand as noise
from tests.benchmarks import selection_by_hand as selection
from tests.benchmarks.masks_by_hand import movement_by_hand, targeted_by_hand, two_of_four_by_hand

N = 60_000
BATCH = 100
IMAGE = (1, 28, 28)
CLASSES = 10
LEARNING_RATE = 1e-3
PRIOR_SCALE = 1.0
INITIAL_SCALE = 0.01
TOLERANCE = 1e-5
DEVICE = torch.device("cpu")
# The first steps also record, compile and allocate the optimizer's memory.
WARM_UP = 6

Step = Callable[[Tensor, Tensor], float]
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Way:
    """A method to train by: its name, the method itself, and its step written in torch.

    by_hand: makes the step for a network that it trains in place; None where nobody wrote one.
    """

    name: str
    method: Callable[[nn.Sequential], ps.Method | Sequence[tuple[ps.Method, Sequence[ps.Target]]]]
    by_hand: Callable[[nn.Sequential], Step] | None


@dataclass(frozen=True)
class Row:
    """A network with a method."""

    network: str
    way: Way

    @property
    def name(self) -> str:
        return f"{self.network}/{self.way.name}"

    def net(self) -> nn.Sequential:
        """The network, with the same weights at every call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return NETWORKS[self.network]().to(DEVICE)

    def lifted(self, name: str) -> tuple[ps.Lifted, ps.classifier]:
        """The lifted network and its model, under names of their own in Pyro's param store."""
        net = self.net()
        bnn = ps.lift(net, self.way.method(net), name=name)
        return bnn, ps.classifier(bnn, N)


# The steps written by hand.


def finish(optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
    """What every torch training step ends with."""
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def point_by_hand(net: nn.Sequential) -> Step:
    """The log posterior under a normal prior on the weights."""
    weights = [layer.weight for layer in net if isinstance(layer, (nn.Linear, nn.Conv2d))]
    constant = log_normalizer(weights)
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE, fused=True)

    def step(x: Tensor, y: Tensor) -> float:
        squares = sum(torch.dot(weight.flatten(), weight.flatten()) for weight in weights)
        loss = F.cross_entropy(net(x), y, reduction="sum") * (N / len(x))
        return finish(optimizer, loss + (0.5 / PRIOR_SCALE**2) * squares + constant)

    return step


def log_normalizer(weights: Iterable[Tensor]) -> float:
    """Of the normal prior."""
    count = sum(weight.numel() for weight in weights)
    return count * (math.log(PRIOR_SCALE) + 0.5 * math.log(2 * math.pi))


def mean_field_by_hand(net: nn.Sequential, at_activations: bool) -> Step:
    """Independent normals on the weights, the noise drawn at the weights or the activations."""
    layers = list(net)
    log_scales: dict[nn.Module, Tensor] = {
        layer: torch.full_like(layer.weight, math.log(INITIAL_SCALE)).detach().requires_grad_()
        for layer in layers
        if isinstance(layer, (nn.Linear, nn.Conv2d))
    }
    count = sum(log_scale.numel() for log_scale in log_scales.values())
    parameters = [*net.parameters(), *log_scales.values()]
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True)

    def step(x: Tensor, y: Tensor) -> float:
        loss: float | Tensor = count * (math.log(PRIOR_SCALE) - 0.5)
        features = x
        for layer in layers:
            if not isinstance(layer, (nn.Linear, nn.Conv2d)):
                features = layer(features)
                continue
            loc, log_scale = layer.weight, log_scales[layer]
            scale = log_scale.exp()
            flat_loc, flat_scale = loc.flatten(), scale.flatten()
            squares = torch.dot(flat_loc, flat_loc) + torch.dot(flat_scale, flat_scale)
            loss = loss + (0.5 / PRIOR_SCALE**2) * squares - log_scale.sum()
            if at_activations:
                mean = apply_layer(layer, features, loc, layer.bias)
                variance = apply_layer(layer, features.square(), scale.square(), None)
                spread = variance.clamp_min(torch.finfo(variance.dtype).tiny).sqrt()
                features = mean + spread * torch.randn_like(mean)
            else:
                weight = loc + scale * torch.randn_like(loc)
                features = apply_layer(layer, features, weight, layer.bias)
        likelihood = F.cross_entropy(features, y, reduction="sum") * (N / len(x))
        return finish(optimizer, loss + likelihood)

    return step


ALPHA, TEMPERATURE = 1e-4, 0.1


def gated_layers(net: nn.Sequential) -> dict[nn.Module, int]:
    """The layers with gates, on the inputs of dense ones and the outputs of others; how many."""
    return {
        layer: layer.in_features if isinstance(layer, nn.Linear) else layer.out_channels
        for layer in net
        if isinstance(layer, (nn.Linear, nn.Conv2d))
    }


def beta_bernoulli_by_hand(net: nn.Sequential, collapsed: bool) -> Step:
    """Gates before dense layers and behind convolutions, with pi in log space and in float64."""
    layers = list(net)
    gates: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    for layer, count in gated_layers(net).items():
        log_a = torch.full((count,), math.log(0.95 / 0.05), device=DEVICE).requires_grad_()
        gates[layer] = (log_a, torch.zeros_like(log_a, requires_grad=True))
    parameters = [*net.parameters(), *(tensor for pair in gates.values() for tensor in pair)]
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True)

    def gate(pair: tuple[Tensor, Tensor], examples: int) -> tuple[Tensor, Tensor]:
        log_a, log_b = pair[0].double(), pair[1].double()
        a, b = log_a.exp(), log_b.exp()
        uniform = torch.rand_like(a).clamp_min(1e-16)
        if collapsed:
            log_pi = log_b + torch.lgamma(1 + 1 / a) + torch.lgamma(b) - torch.lgamma(1 + 1 / a + b)
        else:
            log_pi = torch.log(-torch.expm1(torch.log1p(-uniform) / b)) / a
        logits = log_pi - torch.log(-torch.expm1(log_pi))
        divergence = (a - ALPHA) / a * (-torch.digamma(b) - 1 / b - 0.57721566490153286)
        divergence = divergence + log_a + log_b - math.log(ALPHA) - (b - 1) / b
        noise = torch.logit(torch.rand(examples, len(a), device=DEVICE), eps=6e-8)
        return torch.sigmoid((logits.float() + noise) / TEMPERATURE), divergence.sum()

    def step(x: Tensor, y: Tensor) -> float:
        divergence, features = torch.zeros((), dtype=torch.float64, device=DEVICE), x
        for layer in layers:
            if layer not in gates:
                features = layer(features)
                continue
            gains, own = gate(gates[layer], len(x))
            divergence = divergence + own
            if isinstance(layer, nn.Linear):
                features = layer(features * gains)
            else:
                features = layer(features) * gains[:, :, None, None]
        likelihood = F.cross_entropy(features, y, reduction="sum") * (N / len(x))
        return finish(optimizer, likelihood + divergence.float())

    return step


def dependent_by_hand(net: nn.Sequential) -> Step:
    """Gates that depend on what they see; q(pi) stays where the first stage began."""
    layers = list(net)
    counts = gated_layers(net)
    starts = {layer: torch.ones(n, device=DEVICE) for layer, n in counts.items()}
    gates = {
        layer: [ones.clone(), ones.clone(), torch.zeros_like(ones)]
        for layer, ones in starts.items()
    }
    for tensor in itertools.chain(*gates.values()):
        tensor.requires_grad_()
    norms = {layer: nn.BatchNorm1d(n, affine=False, device=DEVICE) for layer, n in counts.items()}
    parameters = [*net.parameters(), *itertools.chain(*gates.values())]
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True)
    a = 0.95 / 0.05
    # The mean of log pi is -1 / a; a point of b = 1 and alpha.
    frozen = (a - ALPHA) / a * -1.0 + math.log(a) - math.log(ALPHA)

    def gate(layer: nn.Module, features: Tensor) -> tuple[Tensor, Tensor]:
        slope, loc, log_scale = gates[layer]
        pooled = features.detach()
        pooled = pooled.mean((2, 3)) if pooled.dim() == 4 else pooled
        uniform = torch.rand(counts[layer], dtype=torch.float64, device=DEVICE).clamp_min(1e-16)
        log_pi = (torch.log(uniform) / a).float()
        shift = loc + log_scale.exp() * torch.randn_like(loc)
        clamped = torch.clamp(slope * norms[layer](pooled) + shift, 1e-6, 1 - 1e-6)
        log_gate = log_pi + clamped.log()
        logits = log_gate - torch.log(-torch.expm1(log_gate))
        noise = torch.logit(torch.rand_like(logits), eps=6e-8)
        scale, variance = log_scale.exp(), 5.0
        divergence = 0.5 * (scale**2 + loc**2) / variance - log_scale
        divergence = divergence + 0.5 * math.log(variance) - 0.5 + frozen
        return torch.sigmoid((logits + noise) / TEMPERATURE), divergence.sum()

    def step(x: Tensor, y: Tensor) -> float:
        divergence, features = torch.zeros((), device=DEVICE), x
        for layer in layers:
            if layer not in gates:
                features = layer(features)
                continue
            dense = isinstance(layer, nn.Linear)
            features = features if dense else layer(features)
            gains, own = gate(layer, features)
            divergence = divergence + own
            features = layer(features * gains) if dense else features * gains[:, :, None, None]
        likelihood = F.cross_entropy(features, y, reduction="sum") * (N / len(x))
        return finish(optimizer, likelihood + divergence)

    return step


def apply_layer(
    layer: nn.Linear | nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, bias)
    return F.conv2d(x, weight, bias, layer.stride, layer.padding)


NETWORKS: dict[str, Callable[[], nn.Sequential]] = {
    "784-100-10": lambda: ps.networks.fcn(IMAGE, CLASSES, hidden=(100,)),
    "LeNet-500-300": lambda: ps.networks.lenet_500_300(IMAGE, CLASSES),
    "LeNet5-Caffe": lambda: ps.networks.lenet5_caffe(IMAGE, CLASSES),
}


def support_by_hand(net: nn.Sequential) -> Step:
    """Module A of Turbo-VBI between two exchanges: each weight under a precision of its own."""
    bnn = ps.lift(copy.deepcopy(net), ps.GammaSpikeAndSlab())
    precisions = [entry.posterior()["_precision"] for entry in bnn.guide.entries]
    constant = -float(sum(entry.posterior()["_log_normalizer"] for entry in bnn.guide.entries))
    weights = [layer.weight for layer in net if isinstance(layer, (nn.Linear, nn.Conv2d))]
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE, fused=True)

    def step(x: Tensor, y: Tensor) -> float:
        pairs = zip(precisions, weights, strict=True)
        squares = sum((precision * weight.square()).sum() for precision, weight in pairs)
        loss = F.cross_entropy(net(x), y, reduction="sum") * (N / len(x))
        return finish(optimizer, loss + 0.5 * squares + constant)

    return step


def gibbs_by_hand(net: nn.Sequential) -> Step:
    """Masks of single weights, drawn given the weights in every step; with the package's quantile,
    as torch's cost more than all the rest."""
    chosen = {target.name for target in ps.GibbsPruning(0.9).targets(net)}
    layers = {f"{name}.weight": layer for name, layer in net.named_children()}
    constant = log_normalizer(layer.weight for name, layer in layers.items() if name in chosen)
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE, fused=True)

    def step(x: Tensor, y: Tensor) -> float:
        features, squares = x, 0.0
        for name, layer in layers.items():
            if name not in chosen:
                features = layer(features)
                continue
            weight = layer.weight
            squares = squares + weight.square().sum()
            with torch.no_grad():
                squared = weight.square()
                field = quantile(squared, 0.9) - squared
                mask = torch.rand_like(field) < torch.sigmoid(-2 * GIBBS_BETA * field)
            features = apply_layer(layer, features, weight * mask, layer.bias)
        loss = F.cross_entropy(features, y, reduction="sum") * (N / len(x))
        return finish(optimizer, loss + (0.5 / PRIOR_SCALE**2) * squares + constant)

    return step


def chosen_by(net: nn.Sequential, structure: str = "weight") -> set[str]:
    """The layers that masks of a structure are made for."""
    method = ps.GibbsPruning(0.5, structure)
    return {target.name.removesuffix(".weight") for target in method.targets(net)}


GIBBS_BETA = 100.0


def common() -> dropout.Common:
    return dropout.Common(N, LEARNING_RATE, DEVICE)


NORMAL = functools.partial(
    ps.Gaussian, scale=PRIOR_SCALE, posterior="normal", initial_scale=INITIAL_SCALE
)

WAYS = (
    Way("point", lambda _: ps.Gaussian(scale=PRIOR_SCALE), point_by_hand),
    Way(
        "mean field, weights",
        lambda _: NORMAL(estimator="weights"),
        functools.partial(mean_field_by_hand, at_activations=False),
    ),
    Way(
        "mean field, activations",
        lambda _: NORMAL(estimator="activations"),
        functools.partial(mean_field_by_hand, at_activations=True),
    ),
    Way(
        "beta-Bernoulli",
        lambda _: ps.BetaBernoulli(ALPHA, TEMPERATURE),
        functools.partial(beta_bernoulli_by_hand, collapsed=False),
    ),
    Way(
        "beta-Bernoulli, collapsed",
        lambda _: ps.BetaBernoulli(ALPHA, TEMPERATURE, pi="collapsed"),
        functools.partial(beta_bernoulli_by_hand, collapsed=True),
    ),
    Way(
        "dependent beta-Bernoulli",
        lambda net: ps.DependentBetaBernoulli(
            ps.lift(net, ps.BetaBernoulli(ALPHA, TEMPERATURE), name="first")
        ),
        dependent_by_hand,
    ),
    Way("support MRF", lambda _: ps.GammaSpikeAndSlab(), support_by_hand),
    Way(
        "Gibbs",
        lambda _: ps.GibbsPruning(0.9, beta=GIBBS_BETA, scale=PRIOR_SCALE),
        gibbs_by_hand,
    ),
    Way(
        "Gibbs, two of four",
        lambda _: ps.GibbsPruning(0.5, "2:4", beta=GIBBS_BETA, scale=PRIOR_SCALE),
        lambda net: two_of_four_by_hand(net, chosen_by(net, "2:4"), GIBBS_BETA),
    ),
    Way(
        "targeted dropout",
        lambda _: ps.TargetedDropout(0.9, scale=PRIOR_SCALE),
        lambda net: targeted_by_hand(net, chosen_by(net), 0.9, 0.75),
    ),
    Way(
        # With a sparsity, scores after a step of Adam are equal but for rounding, which decides.
        "movement, soft",
        lambda _: ps.MovementPruning(None, scale=PRIOR_SCALE),
        lambda net: movement_by_hand(net, chosen_by(net)),
    ),
    Way(
        "variational dropout",
        lambda _: ps.VariationalDropout(),
        lambda net: noise.step_by_hand(net, N, LEARNING_RATE, weights=noise.log_uniform),
    ),
    Way(
        "variational dropout, empirical Bayes",
        lambda _: ps.VariationalDropout(empirical_bayes=True),
        lambda net: noise.step_by_hand(net, N, LEARNING_RATE, weights=noise.empirical_bayes),
    ),
    Way(
        "group variational dropout",
        lambda net: [
            (ps.VariationalDropout(), ps.gates(net)),
            (NORMAL(estimator="activations"), ps.weights(net)),
        ],
        lambda net: noise.step_by_hand(
            net,
            N,
            LEARNING_RATE,
            weights=noise.unit_normal,
            weight_scale=INITIAL_SCALE,
            gates=noise.log_uniform,
        ),
    ),
    Way(
        "information bottleneck",
        lambda _: ps.InformationBottleneck(),
        lambda net: noise.step_by_hand(
            net, N, LEARNING_RATE, gates=noise.empirical_bayes, gate_scale=0.011
        ),
    ),
    Way(
        "structured Bayesian pruning",
        lambda _: ps.StructuredBayesianPruning(),
        lambda net: dropout.structured_bayesian_pruning(net, common()),
    ),
    Way(
        "hard concrete",
        lambda _: ps.HardConcrete(),
        lambda net: dropout.hard_concrete(net, common()),
    ),
    Way(
        "generalized dropout",
        lambda _: ps.GeneralizedDropout(),
        lambda net: dropout.generalized_dropout(net, common()),
    ),
    Way(
        "concrete dropout",
        lambda _: ps.ConcreteDropout(),
        lambda net: dropout.concrete_dropout(net, common()),
    ),
    Way("Laplace", lambda _: ps.LaplacePrior(selection.LAPLACE), selection.laplace),
    Way("polarization", lambda _: ps.Polarization(selection.STRENGTH), selection.polarization),
    Way("spike and slab", lambda _: ps.SpikeAndSlab(), selection.spike_and_slab),
    Way("group spike and slab", lambda _: ps.GroupSpikeAndSlab(), selection.group_spike_and_slab),
    Way("group horseshoe", lambda _: ps.GroupHorseshoe(N), selection.group_horseshoe),
)

ROWS = {row.name: row for row in itertools.starmap(Row, itertools.product(NETWORKS, WAYS))}


# The columns: each makes a step for a row, or None where it has none or its package is absent.


def plain(row: Row) -> Step:
    """Maximum likelihood in torch."""
    net = row.net()
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE, fused=True)
    return lambda x, y: finish(optimizer, F.cross_entropy(net(x), y))


def hand(row: Row) -> Step | None:
    return row.way.by_hand(row.net()) if row.way.by_hand is not None else None


def captured(row: Row, compile: bool = False) -> Step:
    bnn, model = row.lifted("compiled" if compile else "captured")
    elbo = TraceMeanField_ELBO()
    # As `fit` does: without the draws of weights that noise at the activations does not need.
    options = {"compile": compile, "same_random_stream": False}
    return CapturedSVI(model, bnn.guide, adam_by_name, elbo, **options).step


def adam_by_name(parameters: Mapping[str, Tensor]) -> torch.optim.Optimizer:
    return fused_adam(parameter_groups(parameters, LEARNING_RATE))


def eager(row: Row) -> Step:
    """SVI with Pyro's defaults."""
    bnn, model = row.lifted("eager")
    return SVI(model, bnn.guide, pyro_adam(), TraceMeanField_ELBO()).step


def auto_normal(row: Row) -> Step | None:
    """The same model with Pyro's own guide and its usual ELBO, by Monte Carlo."""
    if row.way.name != "mean field, weights":
        return None
    bnn, model = row.lifted("automatic")
    start = {
        target.site: value.detach() for target in bnn.targets if (value := target.value) is not None
    }
    guide = AutoNormal(model, init_loc_fn=init_to_value(values=start), init_scale=INITIAL_SCALE)
    return SVI(model, guide, pyro_adam(), Trace_ELBO()).step


def pyro_adam() -> PyroOptim:
    return pyro.optim.Adam({"lr": LEARNING_RATE})  # type: ignore[attr-defined]


# The other packages are used as their documentation shows. Two of them make the biases random
# too, and one estimates the KL divergence by Monte Carlo: nearly the same work, not the same.


def tyxe_step(row: Row) -> Step | None:
    try:
        import tyxe
    except ImportError:
        return None
    if not has_peers(row):
        return None
    # TyXe still calls a function that Pyro no longer has.
    if not hasattr(pyro.util, "deep_getattr"):
        pyro.util.deep_getattr = lambda owner, name: operator.attrgetter(name)(owner)  # type: ignore[attr-defined]
    net = row.net()
    start = tyxe.guides.PretrainedInitializer.from_net(net)
    normal = pyro.distributions.Normal(0.0, PRIOR_SCALE)
    bnn = tyxe.VariationalBNN(
        net,
        tyxe.priors.IIDPrior(normal, expose_all=False, hide_parameters=["bias"]),
        tyxe.likelihoods.Categorical(N),
        functools.partial(tyxe.guides.AutoNormal, init_loc_fn=start, init_scale=INITIAL_SCALE),
    )
    return SVI(bnn.model, bnn.guide, pyro_adam(), TraceMeanField_ELBO()).step


def bayesian_torch_step(row: Row) -> Step | None:
    try:
        from bayesian_torch.models.dnn_to_bnn import dnn_to_bnn, get_kl_loss
    except ImportError:
        return None
    if not has_peers(row):
        return None
    net = row.net()
    options = {
        "prior_mu": 0.0,
        "prior_sigma": PRIOR_SCALE,
        "posterior_mu_init": 0.0,
        "posterior_rho_init": inverse_softplus(INITIAL_SCALE),
        "type": "Reparameterization",
        "moped_enable": False,
    }
    dnn_to_bnn(net, options)
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE, fused=True)
    return lambda x, y: finish(optimizer, F.cross_entropy(net(x), y) + get_kl_loss(net) / len(x))


def blitz_step(row: Row) -> Step | None:
    try:
        from blitz.modules import BayesianLinear
        from blitz.utils import variational_estimator
    except ImportError:
        return None
    if not has_peers(row):
        return None
    # A class of its own, as the decorator adds methods to the class that it is given.
    network = variational_estimator(type("Network", (nn.Sequential,), {}))
    layers = [
        BayesianLinear(
            layer.in_features,
            layer.out_features,
            prior_sigma_1=PRIOR_SCALE,
            posterior_rho_init=inverse_softplus(INITIAL_SCALE),
        )
        if isinstance(layer, nn.Linear)
        else layer
        for layer in row.net()
    ]
    net = network(*layers)
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE, fused=True)
    return lambda x, y: finish(
        optimizer,
        net.sample_elbo(x, y, F.cross_entropy, sample_nbr=1, complexity_cost_weight=1 / N),
    )


def has_peers(row: Row) -> bool:
    """Whether the other packages have what this row trains: dense layers, noise at the weights."""
    dense = not any(isinstance(layer, nn.Conv2d) for layer in row.net())
    return dense and row.way.name == "mean field, weights"


def inverse_softplus(value: float) -> float:
    return math.log(math.expm1(value))


COLUMNS: dict[str, Callable[[Row], Step | None]] = {
    "plain": plain,
    "hand": hand,
    "captured": captured,
    "compiled": functools.partial(captured, compile=True),
    "pyro": eager,
    "AutoNormal": auto_normal,
    "TyXe": tyxe_step,
    "bayesian-torch": bayesian_torch_step,
    "blitz": blitz_step,
}


# The measurements.


def random_batches(count: int = 4) -> list[Batch]:
    """Batches of noise with random labels: what they show does not matter to the time."""
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(BATCH, *IMAGE, generator=generator).to(DEVICE),
            torch.randint(CLASSES, (BATCH,), generator=generator).to(DEVICE),
        )
        for _ in range(count)
    ]


def make_steps(row: Row, columns: Iterable[str]) -> dict[str, Step]:
    """The steps of a row by column, without those that it does not have."""
    pyro.clear_param_store()
    made = {name: COLUMNS[name](row) for name in columns}
    return {name: step for name, step in made.items() if step is not None}


class noise_by_shape(TorchDispatchMode):
    """Make every random draw depend on its shape alone, so that two programs that draw the same
    noise in another order, or draw some that they do not use, can be compared."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if torch.Tag.nondeterministic_seeded in function.tags:
            torch.manual_seed(0)
        return function(*args, **(kwargs or {}))


def losses(step: Step, count: int = WARM_UP) -> list[float]:
    """The losses of the first steps, under noise that depends on its shape alone."""
    batches = itertools.islice(itertools.cycle(random_batches()), count)
    with torch.random.fork_rng(devices=[]), noise_by_shape():
        return [step(*batch) for batch in batches]


def check(row: Row) -> None:
    """Hold the step written by hand, and the captured one, against the lifted network under Pyro.

    Raises SystemExit where their losses differ: then the ratios would compare different things.
    """
    found = {
        name: losses(step) for name, step in make_steps(row, ("hand", "captured", "pyro")).items()
    }
    expected = found.pop("pyro")
    for name, values in found.items():
        for number, (ours, theirs) in enumerate(zip(values, expected, strict=True), start=1):
            if not math.isclose(ours, theirs, rel_tol=TOLERANCE):
                raise SystemExit(
                    f"{row.name}: the column {name!r} does not compute what the lifted network "
                    f"does: the loss of step {number} is {ours:.8g}, under Pyro it is "
                    f"{theirs:.8g}, and they may differ by {TOLERANCE} of either. Correct the one "
                    "that is wrong"
                )


def measure(candidates: Mapping[str, Step], rounds: int, steps: int) -> dict[str, float]:
    """Seconds a step, medians over the rounds."""
    batches = itertools.cycle(random_batches())
    times: dict[str, list[float]] = {name: [] for name in candidates}
    with flush_denormals():
        for step in candidates.values():
            for batch in itertools.islice(batches, WARM_UP):
                step(*batch)
        for _ in range(rounds):
            for name, step in candidates.items():
                start = seconds_now()
                for batch in itertools.islice(batches, steps):
                    step(*batch)
                times[name].append((seconds_now() - start) / steps)
    return {name: statistics.median(values) for name, values in times.items()}


def seconds_now() -> float:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    # Processor time: on one thread it is wall time less what other programs took.
    return time.process_time()


@dataclass(frozen=True)
class Memory:
    """Bytes of all tensors: between two steps, and at the peak of a step."""

    between: int
    peak: int


def measure_memory(row_name: str, column: str) -> Memory | None:
    """What the tensors of a step take, or None where the row lacks the column.

    Only allocations made within this call count, and only if nothing older is freed meanwhile:
    call it in a process of its own.
    """
    torch.set_num_threads(1)
    marker = "measured step"
    *warm_up, last = itertools.islice(itertools.cycle(random_batches()), WARM_UP + 1)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step = make_steps(ROWS[row_name], [column]).get(column)
        if step is None:
            return None
        with flush_denormals():
            for batch in warm_up:
                step(*batch)
            # Pyro's traces are cycles: without this, the peak would depend on when they last went.
            gc.collect()
            with record_function(marker):
                step(*last)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    (marked,) = (event for event in events if event["name"] == marker and event["ph"] == "X")
    return _memory(events, marked["ts"], marked["ts"] + marked["dur"])


def _memory(events: Iterable[dict[str, Any]], start: float, end: float) -> Memory:
    live = between = peak = 0
    for event in sorted(
        (event for event in events if event["name"] == "[memory]"), key=lambda event: event["ts"]
    ):
        if event["ts"] > end:
            break
        live += event["args"]["Bytes"]
        if event["ts"] < start:
            between = live
        peak = max(peak, live) if event["ts"] >= start else live
    return Memory(between, peak)


# The tables.


def time_table(
    rows: Sequence[Row], columns: Sequence[str], rounds: int, steps: int
) -> tuple[Table, list[str]]:
    """The table, and what the captured steps have to say about themselves."""
    table = Table(
        title=f"One SVI step: milliseconds of plain torch, and ratios (medians of {rounds} rounds "
        f"of {steps} steps)",
        caption="ratios to the step by hand, where there is none to plain torch; "
        "(eager): could not be captured",
    )
    for heading in ("network", "method", "plain, ms", "hand / plain", *columns):
        table.add_column(heading, justify="left" if heading in ("network", "method") else "right")
    explanations: list[str] = []
    for row in rows:
        check(row)
        candidates = make_steps(row, ("plain", "hand", *columns))
        seconds = measure(candidates, rounds, steps)
        reference = seconds.get("hand", seconds["plain"])
        by_hand = f"{seconds['hand'] / seconds['plain']:.2f}" if "hand" in seconds else "-"
        ratios = {name: f"{seconds[name] / reference:.2f}" for name in candidates}
        for name, step in candidates.items():
            svi = getattr(step, "__self__", None)
            if isinstance(svi, CapturedSVI):
                ratios[name] += " (eager)" if svi.fallback is not None else ""
                explanations.append(f"{row.name}, {name}: {svi.explain()}")
        cells = [ratios.get(name, "-") for name in columns]
        table.add_row(row.network, row.way.name, f"{1e3 * seconds['plain']:.2f}", by_hand, *cells)
    return table, explanations


def memory_table(rows: Sequence[Row], columns: Sequence[str]) -> Table:
    # What Kineto logs is about itself and about devices that this does not measure.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    table = Table(title="Megabytes of all tensors: at the peak of a step (between steps)")
    for heading in ("network", "method", *columns):
        table.add_column(heading, justify="left" if heading in ("network", "method") else "right")
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
        for row in rows:
            measured = [pool.submit(measure_memory, row.name, name).result() for name in columns]
            cells = [
                "-" if one is None else f"{one.peak / 1e6:.1f} ({one.between / 1e6:.1f})"
                for one in measured
            ]
            table.add_row(row.network, row.way.name, *cells)
    return table


def main(
    only: str = "*",
    columns: Sequence[str] | None = None,
    rounds: int = 9,
    steps: int = 20,
    memory: bool = False,
    explain: bool = False,
    device: str = "cpu",
) -> None:
    """Print the table of times, or of memory."""
    torch.set_num_threads(1)
    global DEVICE
    DEVICE = torch.device(device)
    rows = [row for name, row in ROWS.items() if fnmatchcase(name, only)]
    if not rows:
        raise SystemExit("\n  ".join([f"no row is named {only!r}; there are", *ROWS]))
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # a table wider than a file's 80 columns would be cut off
    if memory:
        console.print(memory_table(rows, columns or ("captured", "pyro")))
        return
    others = [name for name in columns or COLUMNS if name not in ("plain", "hand")]
    table, explanations = time_table(rows, others, rounds, steps)
    console.print(table)
    if explain:
        console.print("\n".join(explanations), markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=20, help="steps in a round")
    parser.add_argument("--only", default="*", metavar="GLOB", help="rows, as 'network/method'")
    parser.add_argument(
        "--columns",
        nargs="+",
        choices=list(COLUMNS),
        help="beside plain and hand, which are always timed; by default all, and with --memory "
        "captured and pyro",
    )
    parser.add_argument("--device", default="cpu", help="as torch names it; memory is the CPU's")
    parser.add_argument("--memory", action="store_true", help="measure memory instead of time")
    parser.add_argument("--explain", action="store_true", help="say what was captured, and how")
    main(**vars(parser.parse_args()))
