"""Distillation of language models: a network also imitates another one's next tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor

from pyrosparse.models.calls import called, named_output, separated
from pyrosparse.models.language import (
    UNKNOWN,
    language_model,
    observed,
    shifted,
    with_next_tokens,
)
from pyrosparse.models.likelihoods import data_plate
from pyrosparse.models.teacher import Taught


class distill_language_model(Taught, language_model):
    r"""A Pyro model of sequences of tokens whose network also learns the probabilities of a
    teacher.

    .. math::
        \log p(x_i, t_i \mid w) = \sum_{t=2}^{T} \Big[ (1 - \lambda)
        \log \mathrm{softmax}(f(x_{i,<t}; w))_{x_{it}}
        - \lambda T_e^2 \, \mathrm{KL}\big(\mathrm{softmax}(g(x_{i,<t}) / T_e) \,\Vert\,
            \mathrm{softmax}(f(x_{i,<t}; w) / T_e)\big) \Big]

    where g is the teacher and :math:`T_e` the temperature. Use it in place of ``language_model``.
    Tokens that are not predicted, by ``attention_mask`` or the label -100, are not imitated either.
    In evaluation mode the teacher is left out: likelihoods and perplexities are those of the
    tokens.

    network, n, output: as for ``language_model``.
    teacher:     the dense network, with logits for the same words; the model copies it, so that it
                 may be the network that is lifted. It is called as the network is, in every step.
    weight:      lambda in [0, 1]; 0 is ``language_model``.
    temperature: T_e > 0; above 1 the teacher's probabilities of the other words count more.

    Its sites are ``y`` and ``teacher``. Arguments and errors are those of ``language_model``;
    ValueError also if an option is out of range or the teacher's logits have another shape;
    TypeError also if the teacher has the arguments of a dict in another order than the network.

    Source: Hinton, Vinyals and Dean (2015), section 2, for each token.

    >>> import pyrosparse as ps
    >>> net = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Linear(4, 5))
    >>> bnn = ps.lift(net, ps.Gaussian())
    >>> distill_language_model(bnn, net, n=100)(torch.tensor([[1, 2, 3]]))
    tensor([[2, 3]])
    """

    def from_names(self, named: Mapping[str, Any]) -> tuple[Any, ...]:
        """The model's positional arguments from arguments by name."""
        batch = super().from_names(named)
        taken = with_next_tokens(named, self.teacher)
        self.check_places(named, batch[:-1], taken[:-1])  # labels may be new tensors
        return batch

    def forward(self, x: Tensor, *more: Any, y: Tensor | None = None) -> Tensor:
        inputs, y = separated(x, more, y)
        logits, leading = called(self.network, inputs, self.output)
        logits, targets = shifted(logits, x, y, leading)
        if not self.imitates:
            with data_plate(self.n, x):
                return observed(logits, targets)
        with torch.no_grad():
            result = self.teacher(*inputs)
            found = result if isinstance(result, Tensor) else named_output(result, self.output)
        divergence = self.divergence(logits, shifted(found, x, y)[0])
        total = divergence.masked_fill(targets == UNKNOWN, 0.0).sum(-1)
        with data_plate(self.n, x):
            pyro.factor("teacher", -self.weight * total)
            if self.weight == 1:
                return observed(logits, targets, counts=False)
            with poutine.scale(scale=1 - self.weight):
                return observed(logits, targets)
