"""The rule of each operation; an operation without a rule is a barrier."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from pyrosparse.compaction.calls import call_name
from pyrosparse.compaction.layers import BATCH_NORMS, MIXING, TRANSPOSED, is_plain
from pyrosparse.compaction.parts import Gain, Scatter, Select
from pyrosparse.compaction.rules import attention, joining, pointwise, shaping
from pyrosparse.compaction.rules.heads import Split, with_heads
from pyrosparse.compaction.rules.keeping import note_dimensions
from pyrosparse.compaction.rules.layer_norm import LayerNorm, RMSNorm
from pyrosparse.compaction.rules.mixing import Mixing
from pyrosparse.compaction.rules.over_features import Normalize, OverFeatures, with_reduction
from pyrosparse.compaction.rules.pieces import write_as_slice
from pyrosparse.compaction.rules.registry import REGISTERED
from pyrosparse.compaction.rules.reshaped import Reshaped
from pyrosparse.compaction.rules.rule import Features, Flow, Heads, Rule, attribute
from pyrosparse.compaction.rules.sizes import Size, with_size, write_own_numbers
from pyrosparse.compaction.rules.tables import Embedding, OwnTensor
from pyrosparse.lifting.input_gate import InputGate

__all__ = [
    "Flow",
    "Mixing",
    "OverFeatures",
    "Rule",
    "Size",
    "find",
    "learn_node",
    "note_dimensions",
]

_ACTIVATIONS = (
    "relu", "relu6", "sigmoid", "tanh", "silu", "gelu", "elu", "selu", "celu", "mish", "softplus",
    "softsign", "hardtanh", "hardsigmoid", "hardswish", "leaky_relu", "logsigmoid", "tanhshrink",
    "hardshrink", "softshrink",
)  # fmt: skip
_FUNCTIONS = (
    "abs", "neg", "exp", "square", "sqrt", "clamp", "erf", "clamp_min", "clamp_max", "pow", "log",
    "log1p", "reciprocal", "rsqrt", "sign", "sin", "cos", "floor", "ceil", "round", "nan_to_num",
)  # fmt: skip
_POOLS = [
    f"{kind}_pool{rank}d"
    for kind in ("max", "avg", "adaptive_max", "adaptive_avg")
    for rank in (1, 2, 3)
]

_MODULES: dict[type[nn.Module], type[Rule]] = {
    **dict.fromkeys(MIXING, Mixing),
    **dict.fromkeys(BATCH_NORMS, pointwise.BatchNorm),
    **dict.fromkeys(
        (
            nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Tanh, nn.SiLU, nn.GELU, nn.ELU, nn.SELU, nn.CELU,
            nn.Mish, nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish,
            nn.LeakyReLU, nn.LogSigmoid, nn.Tanhshrink, nn.Hardshrink, nn.Softshrink, nn.Threshold,
            nn.RReLU,
        ),
        pointwise.Elementwise,
    ),
    **dict.fromkeys(
        (
            nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout,
            nn.FeatureAlphaDropout,
        ),
        pointwise.Pointwise,
    ),
    **dict.fromkeys(
        (
            nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
            nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
            nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
        ),
        pointwise.Pool,
    ),
    **dict.fromkeys(
        (
            nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d,
            nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d,
            nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d,
            nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d,
        ),
        pointwise.Resized,
    ),
    **dict.fromkeys(
        (
            nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d,
            nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d,
        ),
        shaping.Pad,
    ),
    **dict.fromkeys(
        (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), pointwise.InstanceNorm
    ),
    nn.GLU: pointwise.GLU,
    nn.PixelShuffle: shaping.PixelShuffle,
    nn.PixelUnshuffle: shaping.PixelUnshuffle,
    nn.PReLU: pointwise.PReLU,
    nn.GroupNorm: pointwise.GroupNorm,
    nn.Embedding: Embedding,
    nn.LayerNorm: LayerNorm,
    nn.RMSNorm: RMSNorm,
    nn.Softmax: attention.Softmax,
    nn.Flatten: shaping.Flatten,
    Gain: pointwise.Gains,
    InputGate: pointwise.InputGates,
    Scatter: joining.Scattered,
    Select: shaping.Selected,
}  # fmt: skip

_CALLS: dict[Any, type[Rule]] = {
    **dict.fromkeys(["contiguous", "clone", "detach", torch.clone], pointwise.Pointwise),
    **dict.fromkeys(
        [
            getattr(home, name)
            for name in _ACTIVATIONS
            for home in (torch, F)
            if hasattr(home, name)
        ],
        pointwise.Elementwise,
    ),
    **dict.fromkeys(
        [name for name in _ACTIVATIONS if hasattr(torch.Tensor, name)], pointwise.Elementwise
    ),
    **dict.fromkeys(_FUNCTIONS, pointwise.Elementwise),
    **dict.fromkeys([getattr(torch, name) for name in _FUNCTIONS], pointwise.Elementwise),
    operator.neg: pointwise.Elementwise,
    **dict.fromkeys(
        [getattr(home, name) for name in _POOLS for home in (torch, F) if hasattr(home, name)],
        pointwise.Pool,
    ),
    **dict.fromkeys(["flatten", "view", "reshape", torch.flatten, torch.reshape], shaping.Flatten),
    **dict.fromkeys(["mean", "amax", "amin", torch.mean, torch.amax, torch.amin], shaping.Mean),
    **dict.fromkeys(["sum", torch.sum], shaping.Total),
    **dict.fromkeys(["norm", torch.norm], shaping.Norm),
    torch.linalg.vector_norm: shaping.VectorNorm,
    F.normalize: Normalize,
    **dict.fromkeys(["permute", "transpose", torch.permute, torch.transpose], shaping.Permute),
    **dict.fromkeys(["unsqueeze", torch.unsqueeze], shaping.Unsqueeze),
    **dict.fromkeys(["squeeze", torch.squeeze], shaping.Squeeze),
    "expand_as": joining.Expanded,
    "expand": shaping.Expand,
    torch.stack: joining.Stack,
    **dict.fromkeys(["unflatten", torch.unflatten], Split),
    **dict.fromkeys(["size", "dim", getattr], Size),
    **dict.fromkeys([torch.cat, torch.concat, torch.concatenate], joining.Concatenation),
    **dict.fromkeys(
        ["matmul", "bmm", operator.matmul, torch.matmul, torch.bmm], attention.MatrixProduct
    ),
    **dict.fromkeys(["softmax", torch.softmax, F.softmax], attention.Softmax),
    **dict.fromkeys(["masked_fill", torch.masked_fill], attention.Fill),
    **dict.fromkeys(["where", "lerp", torch.where, torch.lerp], joining.ThreeTogether),
    **dict.fromkeys([torch.zeros_like, torch.ones_like, torch.full_like], pointwise.Filled),
    **dict.fromkeys(["flip", "roll", torch.flip, torch.roll], pointwise.Reordered),
    **dict.fromkeys(["cumsum", torch.cumsum], pointwise.Cumulated),
    F.scaled_dot_product_attention: attention.ScaledDotProduct,
    **dict.fromkeys(["to", "type_as", "float", "double", "half", "bfloat16"], pointwise.Cast),
    F.pad: shaping.Pad,
    F.interpolate: pointwise.Resized,
    F.glu: pointwise.GLU,
    F.pixel_shuffle: shaping.PixelShuffle,
    F.pixel_unshuffle: shaping.PixelUnshuffle,
    operator.getitem: shaping.Slice,
}

_COMPARISONS = ("gt", "ge", "lt", "le", "eq", "ne")

_ARITHMETIC: dict[Any, type[Rule]] = {
    **dict.fromkeys(["add", operator.add, torch.add], joining.Sum),
    **dict.fromkeys(["mul", operator.mul, torch.mul], joining.Product),
    **dict.fromkeys(["sub", operator.sub, torch.sub], joining.Together),
    **dict.fromkeys(["div", operator.truediv, torch.div], joining.Together),
    **dict.fromkeys(["maximum", "minimum", torch.maximum, torch.minimum], joining.Together),
    **dict.fromkeys(
        [
            one
            for name in _COMPARISONS
            for one in (name, getattr(operator, name), getattr(torch, name))
        ],
        joining.Together,
    ),
}  # fmt: skip

_DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout)


def find(
    graph: fx.Graph, net: nn.Module, layers_only: bool = False
) -> tuple[dict[fx.Node, Rule], dict[fx.Node, str]]:
    """The rule of every node, and for nodes without one the reason why they are barriers.

    layers_only: whether every function and method is a barrier.
    """
    uses = _uses(graph, net)
    rules: dict[fx.Node, Rule] = {}
    barriers: dict[fx.Node, str] = {}
    for node in graph.nodes:
        module = net.get_submodule(node.target) if node.op == "call_module" else None
        rule: type[Rule] | None = Rule
        if module is not None:
            rule = _MODULES.get(type(module)) or REGISTERED.get(type(module))
            why = f"{type(module).__name__} has no rule"
            if any(uses[id(tensor)] > 1 for tensor in _tensors(module)):
                rule, why = None, "its weights are used in several places"
            if isinstance(module, TRANSPOSED) and module.groups > 1:
                rule, why = None, "a transposed convolution in groups"
            if rule is not None and not is_plain(module, (*_MODULES, *REGISTERED)):
                rule, why = (
                    None,
                    "it has hooks, or its forward or weights are not those of its class",
                )
        elif node.op == "get_attr" and uses[id(attribute(net, str(node.target)))] == 1:
            rule = OwnTensor
        elif node.op in ("call_function", "call_method"):
            rule = _rule_of_call(node)
            why = f"{call_name(node)} has no rule"
            if layers_only:
                rule, why = None, "its result at other input sizes is not understood"
        if rule is None:
            barriers[node] = why
        rules[node] = (rule or Rule)(node, module)
    return rules, barriers


def learn_node(rule: Rule, flow: Flow) -> tuple[Rule, Features | Heads | None]:
    """The rule of a node whose operands are known, and the features of its result."""
    node = rule.node
    write_as_slice(flow, node)
    if write_own_numbers(flow, node) and rule.module is None and type(rule) is not Rule:
        kind = _rule_of_call(node) if node.all_input_nodes else None
        rule = (kind or Rule)(node)
    if node.target in _ARITHMETIC and type(rule) is not Rule:
        rule = with_size(rule, flow)
    rule = joining.with_positions(with_reduction(rule, flow), flow)
    rule = with_heads(rule, flow)
    features = rule.learn(flow)
    if features is None and isinstance(rule, (shaping.Flatten, Split)):
        rule = Reshaped(node, rule.module)
        features = rule.learn(flow)
    return rule, features


def _rule_of_call(node: fx.Node) -> type[Rule] | None:
    target = node.target
    if target in _ARITHMETIC:
        return _ARITHMETIC[target] if len(node.all_input_nodes) == 2 else pointwise.Elementwise
    if target in _DROPOUTS:
        training = node.args[2] if len(node.args) > 2 else node.kwargs.get("training", True)
        return None if training else pointwise.Pointwise
    if getattr(target, "__name__", "") == "stochastic_depth":  # torchvision's
        training = node.args[3] if len(node.args) > 3 else node.kwargs.get("training", True)
        return None if training else pointwise.Pointwise
    if target is operator.pow and len(node.all_input_nodes) == 1:
        return pointwise.Elementwise
    return _CALLS.get(target)


def _uses(graph: fx.Graph, net: nn.Module) -> Counter[int]:
    """The number of places in the graph that use each parameter and buffer."""
    uses: Counter[int] = Counter()
    for node in graph.nodes:
        if node.op == "call_module":
            uses.update(id(tensor) for tensor in _tensors(net.get_submodule(node.target)))
        elif node.op == "get_attr":
            uses[id(attribute(net, str(node.target)))] += 1
    return uses


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()
