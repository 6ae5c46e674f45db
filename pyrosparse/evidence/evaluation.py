"""Predictions at the guide's mean against what was observed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyrosparse.evidence.traces import batches, evaluation_mode, sample_sites, trace_at_mean


def evaluate(model: Any, guide: Any, data: Any, *, batch_size: int = 256) -> dict[str, float]:
    """The mean negative log likelihood (``nll``, nats per datum) of data at the guide's mean, and
    for categorical observations the ``accuracy``.

    model, guide, data, batch_size: as for ``log_posterior``.

    Raises ValueError when there are no data.

    >>> import torch
    >>> import pyrosparse as ps
    >>> bnn = ps.lift(torch.nn.Linear(4, 3), ps.Gaussian())
    >>> data = (torch.ones(10, 4), torch.zeros(10, dtype=torch.int64))
    >>> sorted(evaluate(ps.classifier(bnn, 10), bnn.guide, data))
    ['accuracy', 'nll']
    """
    nll, correct, n, categorical = 0.0, 0, 0, False
    with torch.no_grad(), evaluation_mode(model, guide):
        for batch in batches(data, batch_size, model):
            for site in sample_sites(trace_at_mean(model, guide, batch), observed=True):
                nll -= float(site["unscaled_log_prob"].sum(dtype=torch.float64))
                logits = _logits(site["fn"])
                if logits is not None:
                    categorical = True
                    correct += int((logits.argmax(-1) == site["value"]).sum())
            n += len(batch[0])
    if n == 0:
        raise ValueError("there are no data to evaluate on")
    return {"nll": nll / n} | ({"accuracy": correct / n} if categorical else {})


def _logits(fn: Any) -> Tensor | None:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn.logits if type(fn).__name__ == "Categorical" else None
