"""Selectors for transformers: attention heads and the neurons of feed-forward networks."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from pyrosparse.lifting.layers import features, is_dense
from pyrosparse.lifting.liftable import refused_at
from pyrosparse.lifting.target import Target, Where, inputs, matches, raise_nothing, rules

_COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "nhead", "heads")
_WIDTHS = ("head_dim", "attention_head_size", "key_value_proj_dim", "dim_head")
_PARTS = {
    **dict.fromkeys(("q", "query", "wq"), "q"),
    **dict.fromkeys(("k", "key", "wk"), "k"),
    **dict.fromkeys(("v", "value", "wv"), "v"),
    **{"kv": "kv", "wkv": "kv", "qkv": "qkv", "wqkv": "qkv"},
}


def heads(net: nn.Module, where: Where | Sequence[Where] | None = None) -> list[Target]:
    r"""Select attention heads as targets: one gate for each head, on the result of the head before
    the output projection.

    .. math:: y = W_o \, [g_1 h_1, \dots, g_H h_H] + b_o

    With grouped queries, one gate belongs to a group: its keys, its values and all its queries. If
    all heads share the same keys and values, one gate belongs to the queries of one head.

    Attention is ``nn.MultiheadAttention``, or a module with dense layers that are named as queries,
    keys and values (``q_proj``, ``query``, ``qkv``, ``c_attn``, ...) and a number of heads or their
    width as an attribute, of itself or of its ``config``. Its output projection is the dense layer
    after these.

    where: a glob on the names of attentions or of their output projections, a type, a predicate
           ``(name, module) -> bool``, or a sequence of these; by default all.

    The key of a target, and of its mask, is ``<output projection>.heads``; its shape is
    ``(gates,)``, and ``Target.block`` has the number of features that share a gate.

    A warning names attention whose heads are not found. Raises ValueError when nothing matches.

    >>> net = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=16, batch_first=True)
    >>> [(target.key, target.shape, target.block) for target in heads(net)]
    [('self_attn.out_proj.heads', (2,), 4)]
    """
    found, unknown, names = [], [], []
    for attention in _attentions(net):
        names.append(attention.name)
        if where is not None and not any(
            matches(rule, name, net.get_submodule(name))
            for rule in rules(where)
            for name in (attention.name, attention.projection)
            if name is not None
        ):
            continue
        target = attention.target(net)
        if target is None:
            unknown.append(attention.name)
        else:
            found.append(target)
    if unknown:
        warnings.warn(
            f"the heads of {', '.join(map(repr, unknown))} are left out: their number, or the "
            "output projection, was not found. ps.inputs has gates for single features of it",
            stacklevel=2,
        )
    if not found:
        if where is not None:
            raise_nothing(where, names, "attention")
        raise ValueError(
            f"the network ({type(net).__name__}) has no attention of a supported kind: the "
            "documentation of ps.heads lists them. For gates on the features of a layer use "
            "ps.inputs"
        )
    return found


def ffn(net: nn.Module, where: Where | Sequence[Where] | None = None) -> list[Target]:
    r"""Select the neurons of feed-forward networks as targets: one gate for each, on the inputs of
    the down projection.

    .. math::
        y = W_2 \, (g \odot \phi(W_1 x + b_1)) + b_2, \qquad
        y = W_2 \, (g \odot \phi(W_g x) \odot W_u x)

    In a gated network (right), one gate multiplies both the gate and the up projection. A
    feed-forward network is a dense layer from d features to h, or two of them, or one to 2h,
    followed in order of registration by one from h to d in the same block; the layers of attention
    do not count.

    where: as of ``heads``, on the names of down projections or of the blocks that hold them.

    The key of a target, and of its mask, is ``<down projection>.input``, its shape ``(h,)``.

    A warning names experts whose weights are one tensor for all, which are left out. Raises
    ValueError when nothing matches.

    >>> net = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=16, batch_first=True)
    >>> [(target.key, target.shape) for target in ffn(net)]
    [('linear2.input', (16,))]
    """
    names = _down_projections(net)
    experts = [
        name
        for name, module in net.named_modules()
        if "expert" in type(module).__name__.lower()
        and any(one.dim() == 3 for one in module.parameters(recurse=False))
    ]
    if experts and where is None:
        warnings.warn(
            f"the neurons of {', '.join(map(repr, experts))} are left out: the weights of all "
            "experts are one tensor, past which gates cannot go",
            stacklevel=2,
        )
    if where is not None:
        chosen = [
            name
            for name in names
            if any(
                matches(rule, one, net.get_submodule(one))
                for rule in rules(where)
                for one in (name, _parent(name), _parent(_parent(name)))
            )
        ]
        if not chosen:
            raise_nothing(where, names, "feed-forward network")
        names = chosen
    if not names:
        raise ValueError(
            f"the network ({type(net).__name__}) has no feed-forward network, two dense layers "
            "from d features to h and back: name layers with ps.inputs"
        )
    return [target for name in names for target in inputs(net, lambda one, _, n=name: one == n)]


@dataclass(frozen=True)
class _Attention:
    """An attention with its layers, by their names.

    entering:   the projections to queries, keys and values, each with which of them it gives.
    beside:     layers named alike that give something else, such as positions.
    projection: the output projection; None where it was not found.
    """

    name: str
    entering: dict[str, str]
    beside: list[str]
    projection: str | None

    def target(self, net: nn.Module) -> Target | None:
        """The gates of its heads; None where their number is not known."""
        if self.projection is None:
            return None
        width = features(net.get_submodule(self.projection), "input")
        assert width is not None
        module = net.get_submodule(self.name)
        size = _head_width(module, width)
        if size is None or width % size:
            return None
        count = width // size
        groups = (
            count if isinstance(module, nn.MultiheadAttention) else self._groups(net, count, size)
        )
        if groups is None or count % groups:
            return None
        if groups == 1:  # of one group, any single head can go
            groups = count
        return Target(self.projection, "input", (groups,), axis=-1, block=width // groups)

    def _groups(self, net: nn.Module, count: int, size: int) -> int | None:
        """How many heads have keys and values of their own, by the features of these."""
        single = any(part == "q" for part in self.entering.values())
        total = sum(
            features(net.get_submodule(name), "output") or 0
            for name, part in self.entering.items()
            if part != "q"
        )
        left = total if single else total - count * size
        return left // (2 * size) if left > 0 and left % (2 * size) == 0 else None


def _attentions(net: nn.Module) -> Iterator[_Attention]:
    dense = [name for name, module in net.named_modules() if is_dense(module)]
    for name, module in net.named_modules():
        if refused_at(net, name) is not None:
            continue
        path = f"{name}." if name else ""
        if isinstance(module, nn.MultiheadAttention):
            yield _Attention(name, {}, [], f"{path}out_proj")
            continue
        entering, beside = {}, []
        for leaf, child in module.named_children():
            part = _part(leaf)
            if is_dense(child) and part == "":
                beside.append(path + leaf)
            elif is_dense(child) and part is not None:
                entering[path + leaf] = part
        if set("".join(entering.values())) == set("qkv"):
            projection = _output_projection(net, dense, name, [*entering, *beside])
            yield _Attention(name, entering, beside, projection)


def _part(leaf: str) -> str | None:
    """Which of queries, keys and values a layer gives by its name: some of ``qkv``, "" of
    something beside them, None where it is named otherwise.

    >>> [_part(leaf) for leaf in ("q_proj", "query_key_value", "c_attn", "pos_key_proj", "fc1")]
    ['q', 'qkv', 'qkv', '', None]
    """
    words = re.split(r"[^a-z]+", leaf.lower())
    if words == ["c", "attn"]:
        return "qkv"
    parts = "".join(_PARTS.get(word, "") for word in words)
    if not parts:
        return None
    return "" if "pos" in words else parts


def _output_projection(
    net: nn.Module, dense: list[str], name: str, entering: list[str]
) -> str | None:
    """The last dense layer of an attention behind the entering ones, else one of its own before
    them; else the first behind it, in the module around it, that leads back to what enters."""
    path = f"{name}." if name else ""
    behind = dense[max(map(dense.index, entering)) + 1 :]
    own = [one for one in dense if _parent(one) == name and one not in entering]
    within = [one for one in behind if one.startswith(path)] or own
    if within:
        return within[-1]
    if not behind or not name or not _is_in(behind[0], _parent(name)):
        return None
    width = features(net.get_submodule(entering[0]), "input")
    leads_back = features(net.get_submodule(behind[0]), "output") == width
    return behind[0] if leads_back else None


def _head_width(attention: nn.Module, width: int) -> int | None:
    """The number of features of a head; width: of all heads."""
    for owner in (attention, getattr(attention, "config", None)):
        for name in _WIDTHS:
            value = getattr(owner, name, None)
            if isinstance(value, int) and value > 0:
                return value
        for name in _COUNTS:
            value = getattr(owner, name, None)
            if isinstance(value, int) and value > 0 and width % value == 0:
                return width // value
    return None


def _down_projections(net: nn.Module) -> list[str]:
    """The names of the dense layers that end a feed-forward network."""
    taken = {
        layer
        for one in _attentions(net)
        for layer in (*one.entering, *one.beside, one.projection)
        if layer is not None
    }
    layers = [
        (name, features(module, "input"), features(module, "output"))
        for name, module in net.named_modules()
        if is_dense(module) and name not in taken and refused_at(net, name) is None
    ]
    found, free = [], 0
    for place, (name, hidden, width) in enumerate(layers):
        ups = 0
        for up, into, out in reversed(layers[free:place]):
            if into != width or not _same_block(up, name) or out not in (hidden, 2 * (hidden or 0)):
                break
            ups += 1
            if ups == 2 or out != hidden:
                break
        if ups:
            found.append(name)
            free = place + 1
    return found


def _same_block(one: str, other: str) -> bool:
    return _parent(one) == _parent(other) or _parent(_parent(one)) == _parent(_parent(other))


def _is_in(name: str, module: str) -> bool:
    return not module or name.startswith(f"{module}.")


def _parent(name: str) -> str:
    return name.rpartition(".")[0]
