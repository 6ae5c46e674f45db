"""Models compared by the log predictive density of data on which none was trained."""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrosparse.diagnostics.draws import scores
from pyrosparse.diagnostics.guides import guides_by_name
from pyrosparse.diagnostics.khat import pareto_khat
from pyrosparse.diagnostics.table import text_table
from pyrosparse.evidence.repeated import Repeated
from pyrosparse.evidence.traces import evaluation_mode
from pyrosparse.lifting.lift import Lifted
from pyrosparse.models.latents import guide_of

LOO_WARNING = (
    "LOO is from the training data, by importance sampling from the guide to the posterior that "
    "leaves a datum out. Above 0.7 the k-hat of the guide says that its draws do not stand for the "
    "posterior, and then LOO says nothing: so it is for mean-field guides of networks. Choose by "
    "elpd."
)


@dataclass(frozen=True)
class ModelScore:
    """The scores of one model on held-out data.

    elpd, se:         the summed log predictive density and its standard error, nats.
    difference:       elpd minus the best model's, nats; 0 for the best.
    difference_se:    its standard error, from the differences datum by datum.
    loo, loo_se:      the estimate by PSIS-LOO for approximate posteriors, from the training data,
                  nats; None without training data.
    loo_unreliable:   the number of training data whose k-hat is too large for PSIS-LOO.
    khat:             the k-hat of the guide itself; None without training data, for fewer than 25
                  draws, and if all ratios are equal (a point, or the posterior itself).
    """

    name: str
    elpd: float
    se: float
    difference: float
    difference_se: float
    loo: float | None = None
    loo_se: float | None = None
    loo_unreliable: int | None = None
    khat: float | None = None

    def __repr__(self) -> str:
        return (
            f"ModelScore of {self.name}: elpd {self.elpd:.1f} +- {self.se:.1f} nats, "
            f"{self.difference:.1f} +- {self.difference_se:.1f} from the best"
        )


@dataclass(frozen=True)
class Comparison:
    """Models sorted by held-out elpd, the best first.

    n: the number of held-out data.
    """

    rows: list[ModelScore]
    n: int

    def __repr__(self) -> str:
        shown = [f"{row.name} {row.elpd:.1f} +- {row.se:.1f}" for row in self.rows]
        return f"Comparison on {self.n:,} data, elpd in nats: {', '.join(shown)}"

    def __str__(self) -> str:
        names = ["model", "elpd", "se", "difference", "its se"]
        rows = [
            [row.name, *(f"{v:.1f}" for v in (row.elpd, row.se, row.difference, row.difference_se))]
            for row in self.rows
        ]
        note = f"elpd in nats, summed over {self.n:,} held-out data"
        if self.rows[0].loo is not None:
            names += ["LOO", "se", "k-hat too large", "of the guide"]
            for cells, row in zip(rows, self.rows, strict=True):
                cells += [f"{row.loo:.1f}", f"{row.loo_se:.1f}", f"{row.loo_unreliable}"]
                cells += ["" if row.khat is None else f"{row.khat:.1f}"]
            note += "\n" + textwrap.fill(LOO_WARNING, 88)
        return f"{text_table(names, rows)}\n{note}"


def compare_models(
    models: Mapping[str, tuple[Lifted, Callable[..., Any]]],
    heldout: Any,
    *,
    guide: Mapping[str, Callable[..., Any]] | None = None,
    draws: int = 100,
    train: Any = None,
    seed: int = 0,
    batch_size: int = 1000,
) -> Comparison:
    r"""Compare models by their expected log predictive density on held-out data.

    .. math::
        \mathrm{elpd} = \sum_{i=1}^{n} \ell_i, \quad
        \ell_i = \log \frac{1}{S} \sum_{s=1}^{S} p(y_i \mid x_i, w_s), \; w_s \sim q, \qquad
        \mathrm{se} = \sqrt{n \operatorname{var}_i \ell_i}

    and the same formula gives the standard error of the differences :math:`\ell_i^a - \ell_i^b`.
    Judge by that one: data that are hard for both models cancel in it.

    models:  by name, pairs of a lifted network and the Pyro model that contains it.
    heldout: data as for ``to_datatree``, which were not used to train or choose any of the models.
             All models get the same data, also from a loader that shuffles; masked data do not
             count.
    guide:   the guides with which the models were trained, by the name of the model; by default the
             model's own if it learns more than the network, otherwise the lifted network's.
    draws:   S. With few draws elpd is too low, the more so the wider the posterior.
    train:   the training data; adds PSIS-LOO for approximate posteriors (which corrects the draws
             by p / q), the guide's k-hat and a warning.

    Raises ValueError if there are fewer than 2 held-out data, or no models; if a guide has no
    model; if the models mask different data; and as ``to_datatree`` does.

    Source: Vehtari, Gelman and Gabry (2017), "Practical Bayesian model evaluation using
    leave-one-out cross-validation and WAIC", eqs. 22 to 24; Magnusson et al. (2019), "Bayesian
    leave-one-out cross-validation for large data", section 2.1, for LOO.

    >>> import pyrosparse as ps, torch
    >>> bnn = ps.lift(torch.nn.Linear(4, 3), ps.Gaussian(posterior="normal"))
    >>> data = (torch.randn(10, 4), torch.zeros(10, dtype=torch.int64))
    >>> compare_models({"only": (bnn, ps.classifier(bnn, 10))}, data).rows[0].difference
    0.0
    """
    if not models:
        raise ValueError("there are no models to compare")
    guides = guides_by_name(guide, models)
    options: dict[str, Any] = {"draws": draws, "seed": seed, "batch_size": batch_size}
    heldout, train = Repeated.of(heldout), None if train is None else Repeated.of(train)
    pointwise, loos, missing = {}, {}, {}
    for name, (bnn, model) in models.items():
        drawn_from = guides.get(name, guide_of(model, bnn))
        with evaluation_mode(bnn):
            found, masked, _ = scores(model, drawn_from, heldout, **options)
            pointwise[name] = found[:, masked >= 0].logsumexp(0) - math.log(draws)
            missing[name] = masked
            if train is not None:
                found, masked, ratios = scores(model, drawn_from, train, **options)
                loos[name] = _loo(found[:, masked >= 0], ratios)
    first = next(iter(missing))
    for name, masked in missing.items():
        if not torch.equal(masked, missing[first]):
            differ = int((masked != missing[first]).sum())
            raise ValueError(
                f"{first!r} and {name!r} mask different values for {differ} of the {len(masked)} "
                "held-out data: compare them on data that neither masks"
            )
    order = sorted(pointwise, key=lambda name: float(pointwise[name].sum()), reverse=True)
    best = pointwise[order[0]]
    n = len(best)
    if n < 2:
        raise ValueError("a standard error needs at least 2 held-out data")
    rows = [
        ModelScore(
            name,
            *_sum_and_error(pointwise[name]),
            *_sum_and_error(pointwise[name] - best),
            *loos.get(name, ()),
        )
        for name in order
    ]
    return Comparison(rows, n)


def _sum_and_error(values: Tensor) -> tuple[float, float]:
    return float(values.sum()), math.sqrt(len(values) * float(values.var()))


def _loo(found: Tensor, ratios: Tensor) -> tuple[float, float, int, float | None]:
    """PSIS-LOO from log likelihoods (draws, n) and log p - log q without them (draws,): elpd,
    standard error, the number of unreliable data, and the k-hat of the guide."""
    # Here, not at the top: arviz_stats takes as long to import as pyrosparse.
    import arviz_stats
    from arviz_base import from_dict

    tree = from_dict({"log_likelihood": {"y": found[None].numpy()}})
    with warnings.catch_warnings():
        # It warns of k-hats that are too large; the table counts them.
        warnings.simplefilter("ignore", UserWarning)
        # Only the ratio counts: log q is 0, and log p is log p - log q.
        log_p = (found.sum(1) + ratios).numpy()
        loo = arviz_stats.loo_approximate_posterior(
            tree, log_p=log_p, log_q=np.zeros_like(log_p), pointwise=True
        )
    khat = None
    with suppress(ValueError):  # too few draws, or all ratios equal
        khat = pareto_khat(found.sum(1) + ratios).k
    return float(loo.elpd), float(loo.se), int((loo.pareto_k > loo.good_k).sum()), khat
