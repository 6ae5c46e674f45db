"""A Pyro model of sequences of tokens; a network predicts each token from those before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrosparse.models.calls import LABELS, called, separated
from pyrosparse.models.likelihoods import data_plate, positive_count
from pyrosparse.util.arguments import arguments

UNKNOWN = -100
"""The label of a position that is not to be predicted."""


class language_model(nn.Module):
    r"""A Pyro model of sequences of tokens, given by the logits of a lifted causal network.

    .. math::
        \log p(x_i \mid w) = \sum_{t=2}^{T} \log \mathrm{softmax}(f(x_{i,<t}; w))_{x_{it}},
        \quad i = 1 \dots n

    The logits at a position are those of the next token; the model shifts them.

    network: maps tokens ``x``, (batch, length) int64, and further inputs to logits (batch, length,
             words), or to a mapping or object that contains them.
    n:       the number of all sequences; the plate ``data`` scales a minibatch to it.
    output:  the name of the logits in the network's output, such as ``"logits"``; None if it is a
             tensor.

    The model takes the tokens alone, or inputs and labels ``y``, (batch, length): the tokens again,
    with -100 for tokens that are not predicted. In data that are dicts, the keys are the names of
    the network's arguments. Without ``labels`` a token counts if ``attention_mask`` keeps both it
    and the token before. The site ``y`` is always observed; the model returns its values,
    (batch, length - 1). It is a torch module that contains the network, if that is a module.

    Raises ValueError if n is not a positive whole number, if labels are not tokens of the
    sequences' shape, and if the logits have another shape; TypeError if the network returns no
    tensor, or none of that name.

    >>> import pyrosparse as ps
    >>> bnn = ps.lift(nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5)), ps.Gaussian())
    >>> language_model(bnn, n=100)(torch.tensor([[1, 2, 3]]))
    tensor([[2, 3]])
    """

    def __init__(self, network: Callable[..., Any], n: int, *, output: str | None = None) -> None:
        super().__init__()
        self.network = network
        self.n = positive_count(n)
        self.output = output

    def from_names(self, named: Mapping[str, Any]) -> tuple[Any, ...]:
        """The model's positional arguments from arguments by name."""
        return with_next_tokens(named, self.network)

    def forward(self, x: Tensor, *more: Any, y: Tensor | None = None) -> Tensor:
        inputs, y = separated(x, more, y)
        logits, leading = called(self.network, inputs, self.output)
        logits, targets = shifted(logits, x, y, leading)
        with data_plate(self.n, x):
            return observed(logits, targets)


def observed(logits: Tensor, targets: Tensor, counts: bool = True) -> Tensor:
    """The site ``y`` of the known tokens, within a plate of the sequences.

    counts: whether its log probability counts."""
    known = targets != UNKNOWN
    targets = targets.masked_fill(~known, 0)
    likelihood = dist.Categorical(logits=logits).mask(known & counts).to_event(1)
    return pyro.sample("y", likelihood, obs=targets)


def with_next_tokens(named: Mapping[str, Any], network: Callable[..., Any]) -> tuple[Any, ...]:
    """The positional arguments of a network from arguments by name, followed by the labels of a
    language model.

    >>> ids, mask = torch.tensor([[4, 5, 6]]), torch.tensor([[1, 1, 0]])
    >>> named = {"input_ids": ids, "attention_mask": mask}
    >>> with_next_tokens(named, lambda input_ids, attention_mask=None: None)[-1]
    tensor([[   4,    5, -100]])
    """
    inputs = {name: value for name, value in named.items() if name not in LABELS}
    labels = next((named[name] for name in LABELS if name in named), None)
    positional = arguments(inputs, network)
    if labels is None:
        labels, mask = positional[0], named.get("attention_mask")
        if mask is not None:
            counts = torch.as_tensor(mask) != 0
            counts[:, 1:] &= counts[:, :-1].clone()
            labels = torch.as_tensor(labels).masked_fill(~counts, UNKNOWN)
    return (*positional, labels)


def shifted(logits: Tensor, x: Tensor, y: Tensor | None, leading: int = 0) -> tuple[Tensor, Tensor]:
    """The logits of all tokens but the first, (batch, length - 1, words), and these tokens.

    leading: the number of dimensions of the logits in front of these.

    Raises ValueError if the shapes of labels, tokens and logits do not fit each other.

    >>> logits, targets = shifted(torch.zeros(1, 3, 5), torch.tensor([[1, 2, 3]]), None)
    >>> logits.shape, targets
    (torch.Size([1, 2, 5]), tensor([[2, 3]]))
    """
    targets = x if y is None else y
    if targets.is_floating_point() or targets.dim() != 2 or targets.shape[1] < 2:
        raise ValueError(
            f"a language model predicts tokens, int64 (batch, length) of two or more; got "
            f"{targets.dtype} {tuple(targets.shape)}"
        )
    own = logits.shape[leading:]
    if len(own) != 3 or own[:2] != targets.shape:
        raise ValueError(
            f"the tokens have shape {tuple(targets.shape)}, the logits {tuple(own)}: "
            "logits (batch, length, words) are needed, one row for each token. With several inputs "
            "the labels come last: model(ids, mask, labels)"
        )
    return logits[..., :-1, :], targets[:, 1:]
