"""``predict``: from a network with a posterior, or a file of one, to predictive distributions."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import pyro.poutine as poutine
import torch
from pyro.distributions import Categorical
from torch import Tensor, nn

from pyrosparse.diagnostics.draws import draw_seed
from pyrosparse.evidence.latents import check_covered
from pyrosparse.evidence.traces import evaluation_mode
from pyrosparse.lifting.lift import Lifted
from pyrosparse.prediction.prediction import ClassPrediction, Prediction, RealPrediction
from pyrosparse.storage import load

Likelihood = Callable[[Any], Any]


def predict(
    network: nn.Module | str | os.PathLike[str],
    x: Tensor | Sequence[Tensor],
    *,
    draws: int = 100,
    likelihood: Likelihood | None = None,
    guide: Callable[..., Any] | None = None,
    seed: int = 0,
    batch_size: int = 1000,
) -> Prediction:
    r"""The predictive distribution of new data.

    .. math:: p(y \mid x) = \frac1S \sum_{s=1}^S p(y \mid f(x; w_s)), \qquad w_s \sim q

    network:    a lifted network, compact or not; any other, which has one draw: its weights; a
                model that holds one as ``network``, such as ``ps.regressor``; or the path of a file
                that ``ps.save`` wrote.
    x:          inputs (n, ...), or the sequence of the network's arguments, (n, ...) each.
    draws:      S.
    likelihood: a function from the network's output, (batch, ...), to the distribution of the data;
                by default the model's own, and for networks and files ``Categorical`` of logits
                (batch, classes). Of a regression file: ``lambda f: dist.Normal(f, noise)``.
    guide:      that the model was trained with; by default the lifted network's own.
    seed:       of the draws; the caller's generators are left alone.
    batch_size: at how many data the network is run at a time. One draw serves all batches.

    Returns a ``ClassPrediction`` where the likelihood is ``Categorical``, and a ``RealPrediction``
    otherwise. Networks are in evaluation mode for the call, which takes no gradients.

    Raises ValueError where there are no data or draws, where the outputs are not logits
    (n, classes) and no likelihood is given, where they are not finite, and where the guide does not
    draw all sites; TypeError where the network is none. A file that names classes of one's own is
    read first, ``ps.load(path, trusted=...)``.

    >>> import pyrosparse as ps
    >>> bnn = ps.lift(nn.Linear(4, 3), ps.Gaussian(posterior="normal"))
    >>> found = ps.predict(bnn, torch.ones(2, 4), draws=10)
    >>> found.probabilities.shape, found.epistemic.shape
    (torch.Size([2, 3]), torch.Size([2]))
    """
    if not isinstance(network, nn.Module):
        if not isinstance(network, str | os.PathLike):
            raise TypeError(f"a network is a module or the path of a file, got {network!r}")
        network = load(network)
    assert isinstance(network, nn.Module)
    inputs = (x,) if isinstance(x, Tensor) else tuple(x)
    if not inputs or not len(inputs[0]) or draws < 1 or batch_size < 1:
        raise ValueError("there must be data to predict, and draws and batch_size of 1 or more")
    lifted = next((m for m in network.modules() if isinstance(m, Lifted)), None)
    program = network if likelihood is None or lifted is None else lifted
    if lifted is None and guide is not None:
        raise ValueError(f"{type(network).__name__} is not lifted: there is nothing to draw for it")
    own = guide if guide is not None or lifted is None else lifted.guide
    count = 1 if lifted is None else draws
    batches = list(zip(*(one.split(batch_size) for one in inputs), strict=True))
    laws: list[list[Any]] = [[] for _ in batches]
    devices = list(range(torch.cuda.device_count()))
    with (
        torch.random.fork_rng(devices=devices),
        torch.no_grad(),
        evaluation_mode(program, *([] if own is None else [own])),
        poutine.block(),
    ):
        for number in range(count):
            torch.manual_seed(draw_seed(seed, number))
            drawn = poutine.Trace() if own is None else poutine.trace(own).get_trace(*batches[0])
            for found, batch in zip(laws, batches, strict=True):
                found.append(_law(program, drawn, batch, likelihood))
    return _prediction(laws)


def _law(
    program: nn.Module,
    drawn: poutine.Trace,
    batch: tuple[Tensor, ...],
    likelihood: Likelihood | None,
) -> Any:
    """The distribution of a batch of data: of a model's one site that the guide does not draw, or
    of a network's output."""
    replayed = poutine.trace(poutine.replay(program, trace=drawn))
    output = replayed(*batch)
    own = [
        site
        for name, site in replayed.trace.nodes.items()
        if site["type"] == "sample"
        and name not in drawn.nodes
        and type(site["fn"]).__name__ != "_Subsample"
    ]
    if len(own) == 1 and likelihood is None and not isinstance(program, Lifted):
        law: Any = own[0]["fn"]
    else:
        check_covered(replayed.trace, drawn)
        if isinstance(output, Tensor):
            _check_finite(output)  # before the likelihood, which may refuse it in other words
        law = (likelihood or _categorical)(output)
    _check_finite(law.logits if isinstance(law, torch.distributions.Categorical) else law.mean)
    return law


def _check_finite(numbers: Tensor) -> None:
    if not numbers.isfinite().all():
        raise ValueError("the network gives outputs that are NaN or infinite")


def _categorical(output: Any) -> Any:
    if not isinstance(output, Tensor) or output.dim() != 2 or output.shape[1] < 2:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"the network must give logits (n, classes) and gives {shape}: of other outputs say "
            "what the data's distribution is, likelihood=lambda f: dist.Normal(f, noise), or "
            "predict with the model, ps.predict(model, x)"
        )
    return Categorical(logits=output.double(), validate_args=False)


def _prediction(laws: list[list[Any]]) -> Prediction:
    if isinstance(laws[0][0], torch.distributions.Categorical):
        logs = [torch.stack([one.logits.double().cpu() for one in found]) for found in laws]
        return ClassPrediction(torch.cat(logs, 1).log_softmax(-1))
    means, variances = (
        torch.cat(
            [torch.stack([getattr(one, key).double().cpu() for one in found]) for found in laws], 1
        )
        for key in ("mean", "variance")
    )
    return RealPrediction(means, variances, laws)
