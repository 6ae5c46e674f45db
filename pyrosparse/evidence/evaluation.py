"""Predictions at the guide's mean, compared with the observations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyrosparse.evidence.batches import batches
from pyrosparse.evidence.sites import known_data, known_elements, log_density, observed_sites
from pyrosparse.evidence.traces import evaluation_mode, trace_at_mean
from pyrosparse.util.generators import generators_left_alone


def evaluate(model: Any, guide: Any, data: Any, *, batch_size: int = 256) -> dict[str, float]:
    """The mean negative log likelihood (``nll``, nats per datum) of data at the guide's mean, and
    for categorical observations the ``accuracy``, the share of labels predicted correctly.

    Only known data count: data that ``poutine.mask`` or a masked distribution leaves out are
    ignored. A datum with a map of labels counts as one in the likelihood, and as the number of its
    known labels in the accuracy. The caller's random state does not change.

    model, guide, data, batch_size: as for ``log_posterior``.

    Raises ValueError if there are no data, if all are masked, if the model observes nothing, if an
    observed site has no dimension of the data, and if the guide does not draw a latent site of the
    model.

    >>> import torch
    >>> import pyrosparse as ps
    >>> bnn = ps.lift(torch.nn.Linear(4, 3), ps.Gaussian())
    >>> data = (torch.ones(10, 4), torch.zeros(10, dtype=torch.int64))
    >>> sorted(evaluate(ps.classifier(bnn, 10), bnn.guide, data))
    ['accuracy', 'nll']
    """
    nll, n, correct, labels, seen = 0.0, 0, 0, 0, False
    # A loader draws from the generators: training must be the same with and without this.
    with (
        generators_left_alone(),
        torch.no_grad(),
        evaluation_mode(model, guide),
    ):
        for batch in batches(data, batch_size, model):
            seen = True
            of_data = []
            for site in observed_sites(trace_at_mean(model, guide, batch)):
                nll -= float(log_density(site).sum(dtype=torch.float64))
                of_data.append(known_data(site, len(batch[0])))
                logits = _logits(site["fn"])
                if logits is not None:
                    known = known_elements(site)
                    correct += int(((logits.argmax(-1) == site["value"]) & known).sum())
                    labels += int(known.sum())
            n += int(torch.stack(of_data).any(0).sum())
    if n == 0:
        raise ValueError(
            "all data are masked: there is nothing to evaluate on"
            if seen
            else "there are no data to evaluate on"
        )
    return {"nll": nll / n} | ({"accuracy": correct / labels} if labels else {})


def _logits(fn: Any) -> Tensor | None:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn.logits if type(fn).__name__ == "Categorical" else None
