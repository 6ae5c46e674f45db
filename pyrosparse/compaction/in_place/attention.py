"""``nn.MultiheadAttention`` with layers that can be cut."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyrosparse.util.hooks import hooks_of


class MultiheadAttention(nn.Module):
    r"""What ``nn.MultiheadAttention`` computes, of any number of heads of any width.

    .. math:: y = W_o\, [\, \mathrm{softmax}(q_h k_h^\top / \sqrt{d} + m)\, v_h \,]_h + b_o

    embed_dim, kdim, vdim: features of queries, keys and values as they enter.
    heads, width:          how many heads, and the features of each.
    bias:                  whether the layers have biases.
    batch_first:           whether the batch is the first dimension.

    It has no ``bias_k``, ``bias_v`` and no ``add_zero_attn``.

    >>> theirs = nn.MultiheadAttention(6, 2, batch_first=True)
    >>> ours = MultiheadAttention.of(theirs)
    >>> x = torch.randn(2, 3, 6)
    >>> torch.allclose(ours(x, x, x)[0], theirs(x, x, x)[0], atol=1e-6)
    True
    """

    # Encoders ask this before they compute past the forward of their parts.
    _qkv_same_embed_dim = False
    in_proj_bias = None

    def __init__(
        self,
        embed_dim: int,
        heads: int,
        width: int,
        kdim: int,
        vdim: int,
        bias: bool = True,
        dropout: float = 0.0,
        batch_first: bool = False,
    ) -> None:
        super().__init__()
        self.embed_dim, self.kdim, self.vdim = embed_dim, kdim, vdim
        self.heads, self.width = heads, width
        self.bias, self.dropout, self.batch_first = bias, dropout, batch_first
        self.q_proj = nn.Linear(embed_dim, heads * width, bias)
        self.k_proj = nn.Linear(kdim, heads * width, bias)
        self.v_proj = nn.Linear(vdim, heads * width, bias)
        self.out_proj = nn.Linear(heads * width, embed_dim, bias)

    @property
    def num_heads(self) -> int:
        """The number of heads, by the name that torch has for it."""
        return self.heads

    @classmethod
    def of(cls, module: nn.MultiheadAttention) -> MultiheadAttention:
        """The same attention, with copies of the weights."""
        d = module.embed_dim
        with torch.device("meta"):
            new = cls(
                d,
                module.num_heads,
                module.head_dim,
                module.kdim,
                module.vdim,
                module.in_proj_bias is not None,
                module.dropout,
                module.batch_first,
            )
        if module.in_proj_weight is not None:
            weights = list(module.in_proj_weight.detach().split(d))
            trained = module.in_proj_weight.requires_grad
        else:
            parts = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
            weights, trained = [part.detach() for part in parts], parts[0].requires_grad
        layers = (new.q_proj, new.k_proj, new.v_proj)
        for layer, weight in zip(layers, weights, strict=True):
            layer.weight = nn.Parameter(weight.clone(), trained)
        if module.in_proj_bias is not None:
            for layer, bias in zip(layers, module.in_proj_bias.detach().split(d), strict=True):
                layer.bias = nn.Parameter(bias.clone(), module.in_proj_bias.requires_grad)
        for name, old in module.out_proj.named_parameters():
            setattr(new.out_proj, name, nn.Parameter(old.detach().clone(), old.requires_grad))
        return new.train(module.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As of ``nn.MultiheadAttention``: the result and, where needed, the weights."""
        batched = query.dim() == 3
        swap = batched and not self.batch_first
        if not batched:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
        elif swap:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, self.width)).transpose(1, 2)
            for layer, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        # Torch's takes the mask for causal, unseen, where it is said to be and nothing else counts.
        causal = is_causal and key_padding_mask is None and not need_weights
        mask = None if causal else self._mask(q, attn_mask, key_padding_mask)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) / math.sqrt(self.width)
            weights = (scores if mask is None else scores + mask).softmax(-1)
            weights = F.dropout(weights, dropout)
            y = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights if batched else weights.squeeze(0)
        else:
            y = F.scaled_dot_product_attention(q, k, v, mask, dropout, causal)
        y = self.out_proj(y.transpose(1, 2).flatten(2))
        if not batched:
            return y.squeeze(0), weights
        return (y.transpose(0, 1) if swap else y), weights

    def _mask(self, q: Tensor, attn_mask: Tensor | None, padding: Tensor | None) -> Tensor | None:
        """Both masks as one that is added to the scores."""
        mask = None
        if attn_mask is not None:
            mask = _added(attn_mask, q)
            if mask.dim() == 3:  # torch has one for every head of every datum
                mask = mask.unflatten(0, (len(q), -1))
        if padding is not None:
            hidden = _added(padding, q).view(len(q), 1, 1, -1)
            mask = hidden if mask is None else mask + hidden
        return mask


def _added(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape).to(like).masked_fill(mask, -torch.inf)
    return mask.to(like)


def without_nested_tensors(net: nn.Module) -> None:
    """Let torch's encoders that hold a ``MultiheadAttention`` of ours take padded batches as they
    are, and not as nested tensors, for which they read the weights of torch's attention.

    >>> layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    >>> encoder = nn.TransformerEncoder(layer, 1)
    >>> encoder.layers[0].self_attn = MultiheadAttention.of(encoder.layers[0].self_attn)
    >>> without_nested_tensors(encoder)
    >>> encoder.use_nested_tensor
    False
    """
    for module in net.modules():
        inside = isinstance(module, nn.TransformerEncoder) and module.modules()
        if any(isinstance(part, MultiheadAttention) for part in inside or ()):
            module.use_nested_tensor = False  # type: ignore[assignment]


def can_replace(module: nn.Module) -> bool:
    """Whether a module is torch's attention in a form that ``MultiheadAttention`` has.

    >>> can_replace(nn.MultiheadAttention(4, 2, add_zero_attn=True))
    False
    """
    return (
        type(module) is nn.MultiheadAttention
        and module.bias_k is None
        and not module.add_zero_attn
        and not (hooks_of(module) or "forward" in vars(module))
    )
