"""How well a network predicts the next token: perplexity."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyrosparse.evidence.batches import batches
from pyrosparse.models.calls import named_output, separated
from pyrosparse.models.language import UNKNOWN, shifted, with_next_tokens
from pyrosparse.util.modes import evaluating


@dataclass(frozen=True)
class LanguageQuality:
    """How well a network predicts the tokens of some sequences from those before.

    nll:      the mean negative log likelihood, in nats per predicted token.
    accuracy: the fraction of these tokens that is the most probable one.
    tokens:   how many were predicted.

    >>> LanguageQuality(nll=0.0, accuracy=1.0, tokens=5).perplexity
    1.0
    """

    nll: float
    accuracy: float
    tokens: int

    @property
    def perplexity(self) -> float:
        """exp(nll)."""
        return math.exp(self.nll)

    def figures(self) -> dict[str, float]:
        """Its scores by name: ``perplexity``, ``nll`` and ``accuracy``."""
        return {"perplexity": self.perplexity, "nll": self.nll, "accuracy": self.accuracy}

    def rows(self, after: LanguageQuality) -> list[tuple[str, str]]:
        """The rows of a report that compare this network with another."""
        return [
            ("perplexity", f"{self.perplexity:.4g} -> {after.perplexity:.4g}"),
            ("NLL", f"{self.nll:.4f} -> {after.nll:.4f} nats per token"),
            ("accuracy", f"{100 * self.accuracy:.2f} % -> {100 * after.accuracy:.2f} %"),
        ]


def perplexity(
    net: nn.Module, data: Any, *, output: str | None = None, batch_size: int = 256
) -> LanguageQuality:
    r"""The perplexity of a causal network on sequences of tokens.

    .. math::
        \mathrm{PPL} = \exp\Big(-\frac{1}{M} \sum_{i, t \ge 2} \log p(x_{it} \mid x_{i,<t})\Big)

    over the M tokens that are predicted: all but the first of each sequence and those left out.

    net:        maps tokens and further inputs to logits (batch, length, words); it is run in
                evaluation mode, and every module gets back the mode it was in.
    data:       as of the model ``language_model``: tokens, tuples of inputs and labels, or dicts.
    output:     the name of the logits in what the network gives; None where it gives a tensor.
    batch_size: how many sequences at a time, where it is we who make the batches.

    Raises ValueError if there is no token to predict, and on shapes that do not fit.

    >>> net = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
    >>> nn.init.zeros_(net[1].weight), nn.init.zeros_(net[1].bias)  # doctest: +ELLIPSIS
    (...)
    >>> round(perplexity(net, torch.tensor([[1, 2, 3]])).perplexity, 4)
    5.0
    """
    device = next((parameter.device for parameter in net.parameters()), None)
    total, right, tokens = 0.0, 0, 0
    with torch.no_grad(), evaluating(net):
        for batch in batches(data, batch_size, _Sequences(net)):
            first, *more = (x.to(device) if isinstance(x, Tensor) else x for x in batch)
            inputs, labels = separated(first, more, None)
            logits = named_output(net(*inputs), output)
            logits, targets = shifted(logits, first, labels)
            known = targets != UNKNOWN
            logs, chosen = logits.double().log_softmax(-1)[known], targets[known]
            total -= float(logs.gather(1, chosen[:, None]).sum())
            right += int((logs.argmax(1) == chosen).sum())
            tokens += len(chosen)
    if not tokens:
        raise ValueError(
            "there is no token to predict: the data are empty, or all labels are ignored"
        )
    return LanguageQuality(total / tokens, right / tokens, tokens)


class _Sequences:
    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def __call__(self, *inputs: Any) -> Any:
        return self.net(*inputs)

    def from_names(self, named: Any) -> tuple[Any, ...]:
        return with_next_tokens(named, self.net)
