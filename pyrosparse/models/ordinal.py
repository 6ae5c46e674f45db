"""A ready-made Pyro model of ordered classes."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.transforms import OrderedTransform
from torch import Tensor, nn
from torch.nn import functional as F

from pyrosparse.models.calls import called
from pyrosparse.models.latents import Latent, ModelGuide
from pyrosparse.models.likelihoods import Network, check_labels, data_plate, positive_count


def ordinal_logits(predictor: Tensor, cutpoints: Tensor) -> Tensor:
    r"""The log probabilities of ordered classes, (batch, K), nats.

    .. math:: P(y \le k) = \sigma(c_k - f), \qquad
        \log(\sigma(a) - \sigma(b)) = \log \sigma(a) + \log \sigma(-b) + \log(1 - e^{b - a})

    without a difference of numbers near 1.

    predictor: f, (..., batch).
    cutpoints: c, (K - 1,), increasing; (..., 1, K - 1) for one set of them for each of several
               batches.

    >>> ordinal_logits(torch.zeros(1), torch.tensor([0.0])).exp()
    tensor([[0.5000, 0.5000]])
    """
    below = cutpoints - predictor[..., None]
    first, last = F.logsigmoid(below[..., :1]), F.logsigmoid(-below[..., -1:])
    gap = cutpoints[..., 1:] - cutpoints[..., :-1]
    above = F.logsigmoid(-below[..., :-1])
    inner = F.logsigmoid(below[..., 1:]) + above + (-(-gap).expm1()).log()
    return torch.cat([first, inner, last], -1)


class ordinal(nn.Module):
    r"""A Pyro model of ordered classes, such as grades, given by one number and cutpoints.

    .. math:: P(y_i \le k) = \sigma(c_k - f(x_i; w)), \quad k = 1 \dots K - 1, \qquad c \sim p

    network:   maps ``x``, (batch, ...), to one number for each datum, (batch, 1) or (batch,).
    n:         the number of all data; the plate ``data`` scales a minibatch to it.
    classes:   K, 2 or more.
    cutpoints: the prior on c, a distribution over increasing vectors (K - 1,). By default the first
               cutpoint and the logarithms of the gaps between them are normal with standard
               deviation 1, and with means for which all classes have the same probability at f = 0.

    The model takes ``x`` and labels ``y``, (batch,) int64 in 0..K-1, or None to draw them; it
    returns the labels. Its sites are ``y`` and the latent ``cutpoints``; train with ``guide``,
    which calls the network's own guide and draws ``cutpoints``. It is a torch module that contains
    the network, if that is a module.

    Raises ValueError if n or classes are out of range, if the network returns more than one number
    for a datum, and for labels as ``classifier`` does.

    Source: McCullagh (1980), "Regression models for ordinal data", eq. 2.3.

    >>> import pyrosparse as ps
    >>> bnn = ps.lift(nn.Linear(4, 1), ps.Gaussian(posterior="normal"))
    >>> model = ordinal(bnn, n=20, classes=3)
    >>> data = (torch.randn(20, 4), torch.arange(20) % 3)
    >>> _ = ps.fit(model, model.guide, data, epochs=1, progress=False)
    >>> model(data[0]).shape
    torch.Size([20])
    """

    def __init__(self, network: Network, n: int, *, classes: int, cutpoints: Any = None) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"classes must be 2 or more, got {classes}")
        self.network = network
        self.n = positive_count(n)
        self.classes = classes
        self.cutpoints = Latent("cutpoints", cutpoints or cutpoint_prior(classes))
        if tuple(self.cutpoints.loc.shape) != (classes - 1,):
            raise ValueError(
                f"the prior of cutpoints has shape {tuple(self.cutpoints.loc.shape)}, but "
                f"{classes} classes have {classes - 1} cutpoints"
            )
        self.guide = ModelGuide(network, [self.cutpoints])

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        predictor, leading = called(self.network, [x])
        own = predictor.shape[leading:]
        if own not in ((len(x),), (len(x), 1)):
            raise ValueError(
                f"the network's output has shape {tuple(own)}: one number for each "
                f"datum is expected, ({len(x)}, 1)"
            )
        predictor = predictor.reshape(*predictor.shape[:leading], len(x))
        logits = ordinal_logits(predictor, self.cutpoints.sample())
        check_labels(y, logits.shape[leading:])
        with data_plate(self.n, x):
            return pyro.sample("y", dist.Categorical(logits=logits), obs=y)


def cutpoint_prior(classes: int) -> Any:
    """The default prior on the cutpoints of this number of classes; see ``ordinal``.

    >>> cutpoint_prior(3).event_shape
    torch.Size([2])
    """
    equal = torch.arange(1, classes) / classes
    loc = OrderedTransform().inv(equal.logit())
    return dist.TransformedDistribution(dist.Normal(loc, 1.0).to_event(1), [OrderedTransform()])
