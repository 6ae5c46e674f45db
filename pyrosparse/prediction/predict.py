"""``predict``: from a network with a posterior, or a file of one, to predictive distributions."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro.poutine as poutine
import torch
from pyro.distributions import Categorical
from torch import Tensor, nn

from pyrosparse.diagnostics.draws import draw_seed
from pyrosparse.evidence.batches import Batch, Columns, as_batch
from pyrosparse.evidence.latents import check_covered
from pyrosparse.evidence.traces import evaluation_mode
from pyrosparse.lifting.lift import Lifted
from pyrosparse.lifting.together import (
    Call,
    answered,
    calls_of_network,
    close,
    draws_a_pass,
    outputs_together,
)
from pyrosparse.models import guide_of
from pyrosparse.models.calls import takes_labels_last
from pyrosparse.prediction.ensemble import Ensemble
from pyrosparse.prediction.prediction import ClassPrediction, Prediction, RealPrediction, mixed
from pyrosparse.storage import load
from pyrosparse.util.arrays import as_tensor, is_array
from pyrosparse.util.generators import generators_left_alone

Likelihood = Callable[[Any], Any]


def predict(
    network: nn.Module | str | os.PathLike[str],
    x: Any,
    *,
    draws: int = 100,
    likelihood: Likelihood | None = None,
    guide: Callable[..., Any] | None = None,
    seed: int = 0,
    batch_size: int = 1000,
) -> Prediction:
    r"""The predictive distribution of new data.

    .. math:: p(y \mid x) = \frac1S \sum_{s=1}^S p(y \mid f(x; w_s)), \qquad w_s \sim q

    network:    a lifted network, compact or not; any other network, which has a single draw, its
                weights; a model with a ``network``, such as ``ps.regressor``; the path of a file
                that ``ps.save`` wrote; or an ``Ensemble``, whose members share the draws.
    x:          inputs (n, ...), a tensor or an array; a tuple of several, in the order of the
                network's arguments; or a dict of them by the names of these.
    draws:      S.
    likelihood: a function from the network's output, (batch, ...), to the distribution of the data;
                by default the model's own, and for networks and files ``Categorical`` of logits
                (batch, classes). For the file of a regression network:
                ``lambda f: dist.Normal(f, noise)``.
    guide:      the guide with which the model was trained; by default the model's own, as for
                ``ps.regressor`` with learned noise, or the lifted network's.
    seed:       seed of the draws; the caller's generators do not change.
    batch_size: the number of data in each forward pass. All batches use the same draws.

    Returns a ``ClassPrediction`` if the likelihood is ``Categorical``, otherwise a
    ``RealPrediction``. Networks are in evaluation mode for the call, which takes no gradients.

    Raises ValueError if there are no data or draws, if inputs differ in length, if the outputs are
    not logits (n, classes) and no likelihood is given, if they are not finite, and if the guide
    does not draw all sites; TypeError if ``network`` is not a network or has no argument of a name,
    and if the inputs are no arrays. If a file uses your own classes, read it first,
    ``ps.load(path, trusted=...)``.

    >>> import pyrosparse as ps
    >>> bnn = ps.lift(nn.Linear(4, 3), ps.Gaussian(posterior="normal"))
    >>> found = ps.predict(bnn, torch.ones(2, 4), draws=10)
    >>> found.probabilities.shape, found.epistemic.shape
    (torch.Size([2, 3]), torch.Size([2]))
    """
    if not isinstance(network, nn.Module):
        if not isinstance(network, str | os.PathLike):
            way = (
                ". For a model that is a function give its lifted network, with the model's guide "
                "and the likelihood of the network's output: "
                "ps.predict(bnn, x, guide=guide, likelihood=...)"
            )
            raise TypeError(
                f"a network is a module or the path of a file, got {type(network).__name__}"
                + (way if callable(network) else "")
            )
        network = load(network)
    assert isinstance(network, nn.Module)
    if isinstance(network, Ensemble):
        if guide is not None:
            raise ValueError("an ensemble has a guide for each member, and takes none")
        each: dict[str, Any] = {"draws": -(-draws // len(network)), "batch_size": batch_size}
        return mixed(
            [
                predict(member, x, likelihood=likelihood, seed=seed + number, **each)
                for number, member in enumerate(network.members)
            ]
        )
    if draws < 1 or batch_size < 1:
        raise ValueError(f"draws and batch_size must be 1 or more, got {draws} and {batch_size}")
    lifted = next((m for m in network.modules() if isinstance(m, Lifted)), None)
    program = network if likelihood is None or lifted is None else lifted
    if lifted is None and guide is not None:
        raise ValueError(
            f"{type(network).__name__} is not lifted, so there is no posterior to "
            "draw from: give a network that ps.lift returns"
        )
    own = guide if guide is not None or lifted is None else guide_of(program, lifted)
    count = 1 if lifted is None else draws
    batches = list(_columns(x, program).batches(batch_size))
    with (
        generators_left_alone(),
        torch.no_grad(),
        evaluation_mode(program, *([] if own is None else [own])),
        poutine.block(),
    ):
        of_draws = _Laws(program, lifted, own, batches, likelihood, seed).all(count)
    return _prediction([list(laws) for laws in zip(*of_draws, strict=True)])


def _columns(x: Any, program: nn.Module) -> Columns:
    """The inputs, as what a network or a model is called with."""
    if isinstance(x, Sequence) and not isinstance(x, tuple | list | str | bytes):
        x = as_tensor(x, "x")
    if not (is_array(x) or isinstance(x, tuple | list | Mapping)):
        raise TypeError(
            f"predict takes inputs without labels, not {type(x).__name__}: give a tensor, an "
            "array, a tuple of them, or a dict by the names of the network's arguments"
        )
    inputs = as_batch(x, program)
    if len(inputs) > 1 and not isinstance(x, Mapping) and takes_labels_last(program):
        inputs = (*inputs, None)  # else the last of them would be taken for the labels
    columns = Columns(inputs)
    if not len(columns):
        raise ValueError("there are no data to predict: the inputs have no rows")
    return columns


class _Laws:
    """The distributions of the data under draws of a guide: one list of batches a draw."""

    def __init__(
        self,
        program: nn.Module,
        lifted: Lifted | None,
        guide: Callable[..., Any] | None,
        batches: list[Batch],
        likelihood: Likelihood | None,
        seed: int,
    ) -> None:
        self._program = program
        self._lifted = lifted
        self._guide = guide
        self._batches = batches
        self._likelihood = likelihood
        self._seed = seed

    def all(self, count: int) -> list[list[Any]]:
        if self._lifted is None:
            return [self._one_by_one(self._drawn(0)) for _ in range(count)]
        first = self._drawn(0)
        with calls_of_network(self._lifted) as calls:
            found = [self._one_by_one(first)]
        size = 1
        if len(calls) == len(self._batches):
            kinds = {target.kind for target in self._lifted.targets}
            device = next(one.device for one in self._batches[0] if isinstance(one, Tensor))
            size = draws_a_pass(calls, weights="weight" in kinds, device=device)
        while len(found) < count:
            if size == 1:
                found.append(self._one_by_one(self._drawn(len(found))))
                continue
            numbers = range(len(found), min(len(found) + size, count))
            # The first draw goes along once, to see that it gives the same.
            known = [first] if len(found) == 1 else []
            traces = known + [self._drawn(number) for number in numbers]
            together = self._together(traces, calls, checked=bool(known))
            if together is None:
                size = 1
            else:
                found += together[len(known) :]
        return found

    def _drawn(self, number: int) -> poutine.Trace:
        torch.manual_seed(draw_seed(self._seed, number))
        if self._guide is None:
            return poutine.Trace()
        return poutine.trace(self._guide).get_trace(*self._batches[0])

    def _one_by_one(self, drawn: poutine.Trace) -> list[Any]:
        return [self._law(drawn, batch) for batch in self._batches]

    def _law(self, drawn: poutine.Trace, batch: Batch) -> Any:
        return _law(self._program, drawn, batch, self._likelihood)

    def _together(
        self, traces: list[poutine.Trace], calls: list[Call], *, checked: bool
    ) -> list[list[Any]] | None:
        """The laws of several draws whose network runs once a batch; None where it cannot."""
        assert self._lifted is not None
        found: list[list[Any]] = [[] for _ in traces]
        for batch, call in zip(self._batches, calls, strict=True):
            try:
                outputs = outputs_together(self._lifted, traces, call)
            except Exception:  # one by one it works, as the first draw has shown
                return None
            if checked and not close(outputs[0], call.output):
                return None
            for laws, drawn, output in zip(found, traces, outputs, strict=True):
                if self._program is self._lifted:
                    laws.append(_law_of_output(output, self._likelihood))
                    continue
                with answered(self._lifted, call, output):
                    laws.append(self._law(drawn, batch))
        return found


def _law(
    program: nn.Module,
    drawn: poutine.Trace,
    batch: Batch,
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
        return _law_of_output(output, likelihood)
    _check_law(law)
    return law


def _law_of_output(output: Any, likelihood: Likelihood | None) -> Any:
    if isinstance(output, Tensor):
        _check_finite(output)  # before the likelihood, which may refuse it in other words
    law = (likelihood or _categorical)(output)
    _check_law(law)
    return law


def _check_law(law: Any) -> None:
    if not isinstance(law, torch.distributions.Distribution):
        raise TypeError(
            "the likelihood must return a distribution, such as dist.Normal(f, 1.0), for the "
            f"network's output f; it returned a {type(law).__name__}"
        )
    if (classes := _of_classes(law)) is not None:
        _check_finite(classes.logits)
        return
    try:
        mean = law.mean
    except NotImplementedError as error:
        raise ValueError(
            f"the likelihood, {type(law).__name__}, has no mean, which a prediction needs: give "
            "one that has, as likelihood=, a function of the network's output"
        ) from error
    _check_finite(mean)


def _of_classes(law: Any) -> Any:
    """The categorical distribution within a distribution, of labels at several positions too;
    None if it is of something else."""
    while hasattr(law, "base_dist") and not isinstance(law, torch.distributions.Categorical):
        law = law.base_dist
    return law if isinstance(law, torch.distributions.Categorical) else None


def _check_finite(numbers: Tensor) -> None:
    if not numbers.isfinite().all():
        raise ValueError("the network gives outputs that are NaN or infinite")


def _categorical(output: Any) -> Any:
    if not isinstance(output, Tensor) or output.dim() != 2 or output.shape[1] < 2:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"the network must give logits (n, classes) and gives {shape}: for other outputs give "
            "the distribution of the data, likelihood=lambda f: dist.Normal(f, noise), or "
            "predict with the model, ps.predict(model, x)"
        )
    return Categorical(logits=output.double(), validate_args=False)


def _prediction(laws: list[list[Any]]) -> Prediction:
    if _of_classes(laws[0][0]) is not None:
        logs = [
            torch.stack([_of_classes(one).logits.double().cpu() for one in found]) for found in laws
        ]
        return ClassPrediction(torch.cat(logs, 1).log_softmax(-1))
    means, variances = (
        torch.cat(
            [torch.stack([getattr(one, key).double().cpu() for one in found]) for found in laws], 1
        )
        for key in ("mean", "variance")
    )
    return RealPrediction(means, variances, laws)
