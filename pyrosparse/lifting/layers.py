"""The layers that carry features: dense layers, convolutions, normalisations, embeddings."""

from __future__ import annotations

from typing import Literal

from torch import nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm)

KNOWN = "Linear, Hugging Face's Conv1D, convolutions, BatchNorm, GroupNorm, LayerNorm or RMSNorm"
"""What gates go on, in words; those on outputs go on Embedding too."""


def is_conv1d(module: nn.Module) -> bool:
    """Whether a module is Hugging Face's ``Conv1D``, a dense layer whose weight has the inputs
    first; told by its name, so that transformers need not be there.

    >>> is_conv1d(nn.Conv1d(1, 2, 3))
    False
    """
    return any(map(is_conv1d_class, type(module).__mro__))


def is_conv1d_class(kind: type) -> bool:
    """Whether a class is Hugging Face's ``Conv1D`` itself.

    >>> is_conv1d_class(nn.Conv1d)
    False
    """
    return (kind.__module__, kind.__name__) == ("transformers.pytorch_utils", "Conv1D")


def is_dense(module: nn.Module) -> bool:
    """Whether a module is a dense layer: ``Linear`` or Hugging Face's ``Conv1D``."""
    return isinstance(module, nn.Linear) or is_conv1d(module)


def is_mixing(module: nn.Module) -> bool:
    """Whether a module is a dense layer or a convolution."""
    return isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)) or is_dense(module)


def is_norm_of_features(module: nn.Module) -> bool:
    """Whether a module is a ``LayerNorm`` or ``RMSNorm`` over one dimension, the last one.

    Hugging Face's RMSNorms, a class for each architecture, are told by their names."""
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return len(module.normalized_shape) == 1
    own = dict(module.named_parameters())
    return type(module).__name__.endswith("RMSNorm") and (
        list(own) == ["weight"] and own["weight"].dim() == 1
    )


def features(module: nn.Module, kind: Literal["input", "output"]) -> int | None:
    """How many features enter or leave a module; None where gates cannot go there.

    >>> features(nn.Linear(4, 3), "input"), features(nn.Embedding(5, 3), "output")
    (4, 3)
    """
    entering = kind == "input"
    if isinstance(module, nn.Linear):
        return module.in_features if entering else module.out_features
    if is_conv1d(module):
        return int(module.nx if entering else module.nf)  # type: ignore[arg-type]
    if isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)):
        return module.in_channels if entering else module.out_channels
    if isinstance(module, nn.GroupNorm):
        return module.num_channels
    if isinstance(module, BATCH_NORMS):
        return int(module.num_features)  # type: ignore[arg-type]
    if isinstance(module, nn.Embedding):
        return None if entering else module.embedding_dim
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return module.normalized_shape[0] if is_norm_of_features(module) else None
    return module.weight.numel() if is_norm_of_features(module) else None  # type: ignore[operator, union-attr]


def axis(module: nn.Module) -> int:
    """The dimension of an activation that holds the features of a module."""
    on_channels = isinstance(module, (*CONVOLUTIONS, *TRANSPOSED, *BATCH_NORMS))
    return 1 if on_channels else -1
