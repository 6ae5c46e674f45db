"""``compact``: from a network with exact zeros to a smaller one that computes the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast, overload

import torch
from torch import Tensor, fx, nn

from pyrosparse.compaction.account import Account, Layer
from pyrosparse.compaction.check import CompactionError, SizeError, check
from pyrosparse.compaction.functional import as_modules
from pyrosparse.compaction.in_place.compacted import compacted_in_place, has_dead_layers
from pyrosparse.compaction.in_place.probe import ProbeError
from pyrosparse.compaction.layers import parameter_count
from pyrosparse.compaction.masked import masked
from pyrosparse.compaction.other_sizes import reads_sizes
from pyrosparse.compaction.reference import reference
from pyrosparse.compaction.rules import find, learn_node
from pyrosparse.compaction.rules.keeping import note_dimensions
from pyrosparse.compaction.rules.mixing import Mixing
from pyrosparse.compaction.rules.rule import Flow, Rule
from pyrosparse.compaction.rules.sizes import Size
from pyrosparse.compaction.trace import TraceError, shapes, trace
from pyrosparse.lifting.attention import no_fast_path
from pyrosparse.lifting.lift import Lifted
from pyrosparse.util.sharding import refuse_sharded

__all__ = ["CompactNet", "CompactionError", "compact"]


class CompactNet(fx.GraphModule):
    """A network made by ``compact``: an ordinary module, with the names of the original's layers.

    It can be trained, moved, pickled, copied, traced and exported as any other; ``print(net.code)``
    shows its forward.

    >>> import copy
    >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> small = compact(net, example=torch.ones(1, 2))
    >>> isinstance(copy.deepcopy(small).account, Account)
    True
    """

    account: Account

    def __init__(self, root: nn.Module | dict[str, Any], graph: fx.Graph, account: Account) -> None:
        super().__init__(root, graph, "CompactNet")
        self.account = account

    def __deepcopy__(self, memo: dict[int, Any]) -> CompactNet:
        new: CompactNet = super().__deepcopy__(memo)  # type: ignore[assignment]
        new.account = self.account
        return new

    def __reduce__(self) -> Any:
        return _rebuild, (*super().__reduce__(), self.account, self.training)


def _rebuild(build: Any, parts: Any, account: Account, training: bool) -> CompactNet:
    plain = build(*parts)
    return CompactNet(plain, plain.graph, account).train(training)


@overload
def compact(  # type: ignore[overload-overlap]
    net: Lifted,
    masks: Mapping[str, Tensor] | None = None,
    example: Tensor | Sequence[Any] | None = None,
    *,
    at_least: int | None = None,
) -> Lifted: ...


@overload
def compact(
    net: nn.Module,
    masks: Mapping[str, Tensor] | None = None,
    example: Tensor | Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    gates: Mapping[str, nn.Module] | None = None,
    at_least: int | None = None,
    round_to: int = 1,
) -> CompactNet: ...


def compact(
    net: nn.Module,
    masks: Mapping[str, Tensor] | None = None,
    example: Tensor | Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    gates: Mapping[str, nn.Module] | None = None,
    at_least: int | None = None,
    round_to: int = 1,
) -> CompactNet | Lifted:
    r"""A smaller network that computes exactly what the masked network does in evaluation mode.

    Gains are folded into weights. A feature goes where it is *constant*, that is the same number
    for every input, because the weights into it are zero (the number is carried through what
    follows into the next bias), and where nobody *needs* it, because the weights out of it are
    zero. What an unknown operation reads stays whole, and the account says so.

    What torch.fx can trace becomes a graph, cut operation by operation. A network that it cannot
    trace, or in which it must leave more, is cut in place: the result is a copy of its own class
    with smaller layers, whichever is smaller.

    Of a lifted network it makes a smaller lifted network, whose guide is the old posterior on what
    is left: its draws have the law of those of ``net`` with ``masks`` frozen. Nothing is folded
    there, so that every weight and gate that stays is one of the old ones; a feature goes where it
    is zero in every draw, or where nobody needs it.

    net:      any module, or a lifted network that torch.fx can trace; it is left as it is.
    masks:    as ``Lifted.masks()`` gives them: of weights by parameter name, gains of gates by
              ``<module>.input`` or ``<module>.output``. With none, the zeros in the weights count.
    example:  what the network is called with, a tensor, the sequence of its arguments, or a mapping
              of arguments by name; it gives the shapes. It can be left out where the network begins
              with a dense layer, or with a convolution and takes images of a usual size.
    gates:    as ``Lifted.gates()`` gives them, for gains that depend on the input: the compact
              network computes them anew for every datum.
    at_least: how many features each layer keeps at both ends. 0 lets a layer go altogether (a
              branch beside a shortcut, say); None refuses that.
    round_to: keep a few dead features, so that layers read multiples of this number of them:
              kernels are written for widths such as 8 or 16. The account says how many.

    The result, a ``CompactNet`` or a network of the class of ``net``, has an ``account``; print
    it. It is checked on the example and on random inputs of its shape, and of other sizes where
    the network reads sizes: its outputs are those of the masked network within 1e-5 (1e-9 in
    float64) of the largest output, or of 1e-3 where that is larger. The masked network is computed
    by its definition, with gates as forward hooks, as ``Lifted.mean_forward`` does.

    Raises ValueError where masks do not fit or are not finite, parameters that stay are NaN, the
    network is compiled or can neither be traced nor probed, no example is given and none found, or
    a layer is left without a unit, and for a posterior of which a part has another law, as
    ``Method.part`` says, or with round_to; CompactionError, a defect of ours, where the outputs
    differ.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> masks = {"0.weight": torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]]).bool()}
    >>> small = compact(net, masks, torch.ones(1, 4))
    >>> print(small.account)
    layer  kind    inputs  outputs  parameters
    0      Linear  4 -> 3  3 -> 2   15 -> 8
    2      Linear  3 -> 2  2        8 -> 6
    all                             23 -> 14
    largest difference to the masked network: ...
    """
    if at_least is not None and at_least < 0:
        raise ValueError(f"at_least is a number of features, 0 or more; got {at_least}")
    refuse_sharded(
        net.named_parameters(),
        "compact reads whole weights",
        "Gather them first: load torch.distributed.checkpoint.state_dict.get_model_state_dict(net, "
        "options=StateDictOptions(full_state_dict=True)) into a network that is not sharded",
    )
    if round_to < 1:
        raise ValueError(f"round_to is a number of features, 1 or more; got {round_to}")
    if isinstance(net, Lifted):
        from pyrosparse.compaction.posterior import compact_posterior

        if gates is not None:
            raise ValueError("a lifted network has its own gates: leave `gates` out")
        if round_to > 1:
            raise ValueError("a posterior keeps no dead features: leave `round_to` out")
        if isinstance(example, Mapping):
            raise ValueError(
                "torch.fx traces a lifted network by positional arguments, and the example has "
                "names: give it as a tuple"
            )
        return compact_posterior(net, masks or {}, example, at_least)
    # Its nested tensors can be neither traced nor probed.
    with no_fast_path():
        return _smallest(net, masks, example, gates, at_least, round_to)


def _smallest(
    net: nn.Module,
    masks: Mapping[str, Tensor] | None,
    example: Tensor | Sequence[Any] | Mapping[str, Any] | None,
    gates: Mapping[str, nn.Module] | None,
    at_least: int | None,
    round_to: int,
) -> CompactNet:
    """What is smaller: the network as a graph, or as a copy that is cut in place."""
    expected = reference(net, masks, gates)
    inputs = arguments_of(expected, example)
    try:
        traced = _traced(net, masks, gates, expected, inputs, at_least, round_to)
    except TraceError as error:
        traced, reason = None, error
    if traced is not None and not (traced.account.barriers and has_dead_layers(traced)):
        return traced
    try:
        in_place = compacted_in_place(net, masks, gates, expected, inputs, at_least, round_to)
    except ProbeError as error:
        if traced is None:
            raise ValueError(f"{reason}. It cannot be cut in place either: {error}") from error
        return traced
    if traced is not None and parameter_count(traced) <= parameter_count(in_place):
        return traced
    return cast(CompactNet, in_place)  # for type checkers: it has the same account


def _traced(
    net: nn.Module,
    masks: Mapping[str, Tensor] | None,
    gates: Mapping[str, nn.Module] | None,
    expected: nn.Module,
    inputs: tuple[Any, ...],
    at_least: int | None,
    round_to: int,
) -> CompactNet:
    if len(inputs) == 1 and isinstance(inputs[0], Mapping):
        raise TraceError("torch.fx traces positional arguments alone, and the example has names")
    try:
        return _compacted(net, masks, gates, expected, inputs, at_least, round_to)
    except SizeError:
        return _compacted(net, masks, gates, expected, inputs, at_least, round_to, layers_only=True)


def _compacted(
    net: nn.Module,
    masks: Mapping[str, Tensor] | None,
    gates: Mapping[str, nn.Module] | None,
    expected: nn.Module,
    inputs: tuple[Any, ...],
    at_least: int | None,
    round_to: int,
    layers_only: bool = False,
) -> CompactNet:
    working = masked(net, masks, gates)
    graph = trace(working, len(inputs))
    as_modules(graph, working)
    gated = {key.rpartition(".")[0] for key in masks or {}}
    if elsewhere := gated & _read_elsewhere(graph):
        working = masked(net, masks, gates, unfolded=elsewhere)
        graph = trace(working, len(inputs))
        as_modules(graph, working)
    _refuse_second_calls(graph, gates or {})
    resize = reads_sizes(graph)
    found = shapes(working, graph, inputs)
    flow = Flow(working, found, at_least or 0, round_to=round_to)
    rules, barriers = find(graph, working, layers_only)
    learn(graph, rules, barriers, flow)
    live = want(graph, rules, flow)
    barriers = {node: why for node, why in barriers.items() if node in live}
    if at_least is None:
        refuse_empty(rules, flow)
    small = rewrite(graph, rules, live, flow)
    error = check(expected, small, inputs, resize)
    account = account_of(net, small, rules, barriers, flow, error)
    return CompactNet(small, flow.graph, account).train(net.training)


def learn(
    graph: fx.Graph, rules: dict[fx.Node, Rule], barriers: dict[fx.Node, str], flow: Flow
) -> None:
    """Carry forward what is constant."""
    note_dimensions(rules, flow)
    for node in graph.nodes:
        rules[node], features = learn_node(rules[node], flow)
        if features is not None:
            flow.learn(node, features)
        elif not isinstance(rules[node], Size):
            knows = any(operand in flow.wanted for operand in node.all_input_nodes)
            if type(rules[node]) is not Rule and knows:
                barriers[node] = f"not in a form that is known of {_operation(node, rules[node])}"
            elif not knows and not _has_parameters(rules[node].module):
                barriers.pop(node, None)  # nothing was known here that it could keep
            rules[node] = Rule(node, rules[node].module)


def _operation(node: fx.Node, rule: Rule) -> str:
    if rule.module is not None:
        return type(rule.module).__name__
    return str(getattr(node.target, "__name__", node.target))


def want(graph: fx.Graph, rules: dict[fx.Node, Rule], flow: Flow) -> set[fx.Node]:
    """Ask backward for what is wanted; the nodes that are left."""
    for node in reversed(graph.nodes):
        if node in flow.wanted:
            if node in flow.sized and not flow.wanted[node].any():
                flow.wanted[node][0] = True  # any of them has that size
            wanted = bool(flow.wanted[node].any())
        else:
            users = [user for user in node.users if user in flow.live]
            wanted = any(rules[user].reads(node) for user in users)
        if wanted or node.op in ("placeholder", "output"):
            flow.live.add(node)
            rules[node].want(flow)
    return flow.live


def rewrite(
    graph: fx.Graph, rules: dict[fx.Node, Rule], live: set[fx.Node], flow: Flow
) -> fx.GraphModule:
    """Build the compact network of what is wanted."""
    for node in graph.nodes:
        if node in live:
            flow.new[node] = rules[node].rewrite(flow)
    _drop_unread(flow.graph)
    used = {str(n.target) for n in flow.graph.nodes if n.op in ("call_module", "get_attr")}
    parts = {name: part for name, part in flow.parts.items() if name in used}
    return fx.GraphModule(parts, flow.graph)


def _drop_unread(graph: fx.Graph) -> None:
    for node in reversed(graph.nodes):
        effects = node.op == "call_function" and node.is_impure()
        if not node.users and node.op not in ("placeholder", "output") and not effects:
            graph.erase_node(node)


def refuse_empty(rules: dict[fx.Node, Rule], flow: Flow) -> None:
    """Raise ValueError where nothing is left of a layer."""
    empty = {}
    for node, rule in rules.items():
        if isinstance(rule, Mixing) and node.users:
            if flow.features[node].constant.all():
                empty[str(node.target)] = "every output is constant"
            elif not flow.wanted[node].any():
                empty[str(node.target)] = "no output is read by anything that varies"
    if empty:
        raise ValueError(
            "nothing is left of "
            + ", ".join(f"{name!r} ({why})" for name, why in empty.items())
            + ": prune less, ask for at_least=1 to keep a unit of every layer, or for at_least=0 "
            "to let whole layers go"
        )


def account_of(
    net: nn.Module,
    small: nn.Module,
    rules: dict[fx.Node, Rule],
    barriers: dict[fx.Node, str],
    flow: Flow,
    error: float,
) -> Account:
    """What went, layer by layer."""
    layers = []
    for node, rule in rules.items():
        if not isinstance(rule, Mixing):
            continue
        features, wanted = flow.features[node], flow.wanted[node]
        left = node in flow.new and str(node.target) in dict(small.named_modules())
        after = small.get_submodule(str(node.target)) if left else None
        stay = int((features.constant & wanted).sum())
        notes = [f"{stay} constant outputs stay: they are read as they are"] if stay else []
        if left and rule.rounding:
            notes.append(f"{rule.rounding} inputs stay: widths are multiples of {flow.round_to}")
        if flow.spare[node]:
            notes.append(f"{flow.spare[node]} outputs stay: all heads are of one size")
        layers.append(
            Layer(
                str(node.target),
                type(rule.module).__name__,
                (rule.shape[0] * rule.shape[2], int(rule.columns.sum()) if left else 0),
                (len(wanted), int(wanted.sum()) if left else 0),
                (parameter_count(rule.module), parameter_count(after) if after is not None else 0),
                "; ".join(notes),
            )
        )
    named = {
        str(node.target) if node.op == "call_module" else node.name: why
        for node, why in barriers.items()
    }
    return Account(layers, named, (parameter_count(net), parameter_count(small)), error)


def _refuse_second_calls(graph: fx.Graph, gates: Mapping[str, nn.Module]) -> None:
    """A gate keeps the gains of its first call in the lifted network, and cannot here."""
    called = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    for key in gates:
        name, _, kind = key.rpartition(".")
        place = f"{name}.entering." if kind == "input" else f"{name}.leaving."
        if any(count > 1 for target, count in called.items() if target.startswith(place)):
            raise ValueError(
                f"{name!r} is called more than once in a forward pass, and the gains of its gate "
                f"{key!r} depend on the input: use a method whose gains do not, or a layer for "
                "each call"
            )


def _read_elsewhere(graph: fx.Graph) -> set[str]:
    """The modules whose parameters are read by name: a gain in these would be everywhere."""
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    return read - {""}


def _has_parameters(module: nn.Module | None) -> bool:
    return module is not None and parameter_count(module) > 0


def arguments_of(
    net: nn.Module, example: Tensor | Sequence[Any] | Mapping[str, Any] | None
) -> tuple[Any, ...]:
    """What a network is called with: the example, or what can be guessed.

    Raises ValueError where nothing can."""
    if example is not None:
        if isinstance(example, Mapping):
            return (dict(example),)
        return (example,) if isinstance(example, Tensor) else tuple(example)
    first = next((p for p in net.parameters() if p.dim() >= 2), None)
    if first is not None:
        sides = (1,) if first.dim() == 2 else (28, 32, 64, 96, 128, 224)
        for side in sides:
            x = first.new_zeros(2, first.shape[1], *[side] * (first.dim() - 2))
            try:
                with torch.no_grad():
                    net(x)
            except (RuntimeError, ValueError, IndexError):
                continue
            return (x,)
    raise ValueError(
        "the network's input cannot be guessed: give an example, compact(net, masks, x[:1])"
    )
