"""A weight on the KL divergence of an ELBO."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor


class kl_scale(Messenger):
    r"""A Pyro handler that scales latent sites and does not change the likelihood.

    .. math:: E_q[\log p(D \mid w)] - \beta \, \mathrm{KL}(q \Vert p)

    Wrap both model and guide, ``kl_scale(0.1)(model)``, or use it as a context manager around the
    step. With a weight other than 1 the objective is no longer a bound on the evidence.

    scale: beta, a number or a zero-dimensional tensor; set ``.scale`` to change it between steps.

    >>> import pyro, pyro.distributions as dist, pyro.poutine as poutine, torch
    >>> def model():
    ...     return pyro.sample("w", dist.Normal(0.0, 1.0))
    >>> with kl_scale(scale=0.5):
    ...     poutine.trace(model).get_trace().nodes["w"]["scale"]
    0.5
    """

    def __init__(self, scale: float | Tensor = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"]:
            msg["scale"] = self.scale * msg["scale"]

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Set the weight to 1 for a block, for evaluation."""
        scale, self.scale = self.scale, 1.0
        try:
            yield
        finally:
            self.scale = scale
