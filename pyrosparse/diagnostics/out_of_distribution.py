"""Out-of-distribution detection: does a network notice data of another kind?"""

from __future__ import annotations

import torch
from torch import Tensor


def predictive_entropy(log_probabilities: Tensor) -> Tensor:
    r"""The predictive entropy of every datum, (n,), nats.

    .. math:: H_i = -\sum_c p_{ic} \log p_{ic}

    log_probabilities: (n, classes), nats.

    >>> predictive_entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]).log()).exp()
    tensor([2., 1.])
    """
    return torch.special.entr(log_probabilities.exp()).sum(1)


def negative_log_confidence(log_probabilities: Tensor) -> Tensor:
    r"""Minus the log probability of the most probable class, (n,), nats.

    .. math:: d_i = -\max_c \log p_{ic}

    log_probabilities: (n, classes), nats. The order of the data is that of 1 - max p, also where
    max p rounds to 1.

    >>> negative_log_confidence(torch.tensor([[0.25, 0.75]]).log()).exp()
    tensor([1.3333])
    """
    logs = log_probabilities
    # From the other classes: log max p itself is 0 if they have less than 1e-16 together.
    top = logs.max(1, keepdim=True)
    others = logs.scatter(1, top.indices, -torch.inf).logsumexp(1)
    return torch.log1p((others - top.values[:, 0]).exp())


def auroc(inside: Tensor, outside: Tensor) -> float:
    r"""The area under the ROC curve of a score that separates data outside from data inside.

    .. math:: P(s_{\text{out}} > s_{\text{in}}) + \tfrac12 P(s_{\text{out}} = s_{\text{in}})

    0.5 if the score does not separate them, 1 if it separates them perfectly.

    inside, outside: scores, (n,) and (m,), such as ``predictive_entropy`` or
                     ``negative_log_confidence``, on the test data of the network's own data set
                     (MNIST) and on those of another one (Fashion-MNIST), both with pixels in the
                     same units: ``ps.data.load(..., normalise="unit")``.

    Raises ValueError if one of the two is empty or not finite.

    Source: Hendrycks and Gimpel (2017), "A baseline for detecting misclassified and
    out-of-distribution examples in neural networks", section 3.

    >>> auroc(torch.tensor([0.1, 0.2]), torch.tensor([0.2, 0.3]))
    0.875
    """
    for name, scores in (("inside", inside), ("outside", outside)):
        if scores.dim() != 1 or not len(scores) or not scores.isfinite().all():
            raise ValueError(f"{name} must be finite scores, (n,) with n > 0")
    ordered = inside.sort().values
    below = torch.searchsorted(ordered, outside)
    up_to = torch.searchsorted(ordered, outside, right=True)
    return float((below + up_to).double().mean()) / (2 * len(inside))
