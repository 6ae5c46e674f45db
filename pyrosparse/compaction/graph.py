"""Compaction operation by operation, for networks that torch.fx can trace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import fx, nn

from pyrosparse.compaction.account import Account, Layer
from pyrosparse.compaction.branches import is_branch
from pyrosparse.compaction.calls import call_name
from pyrosparse.compaction.check import SizeError, check
from pyrosparse.compaction.compact_net import CompactNet
from pyrosparse.compaction.functional import as_modules
from pyrosparse.compaction.layers import parameter_count
from pyrosparse.compaction.masked import masked
from pyrosparse.compaction.other_sizes import reads_sizes
from pyrosparse.compaction.request import Request
from pyrosparse.compaction.rules import OverFeatures, find, learn_node
from pyrosparse.compaction.rules.keeping import note_dimensions
from pyrosparse.compaction.rules.mixing import Mixing
from pyrosparse.compaction.rules.rule import Flow, Rule
from pyrosparse.compaction.rules.sizes import Size
from pyrosparse.compaction.trace import TraceError, refuse_other_program, result_of, trace
from pyrosparse.compaction.written_out import written_out
from pyrosparse.util.modes import copy_modes


def compacted_graph(request: Request[Any]) -> CompactNet:
    """The compact network as a graph; if it is wrong at other sizes, only layers are cut.

    Raises TraceError if torch.fx cannot trace the network; ValueError if a layer has no units left
    and ``at_least`` is None; CompactionError if the outputs differ.

    >>> layer = nn.Linear(3, 2)
    >>> _ = layer.weight.data[:, 0].zero_()
    >>> compacted_graph(Request.of(nn.Sequential(layer))).account.parameters
    (8, 6)
    """
    if len(request.inputs) == 1 and isinstance(request.inputs[0], Mapping):
        raise TraceError(
            "torch.fx can trace only positional arguments, but the example is a dict of names"
        )
    try:
        return _compacted(request, branches=True)
    except (SizeError, TraceError):
        pass  # at other sizes it takes other branches, or they depend on more than sizes
    try:
        return _compacted(request)
    except SizeError:
        return _compacted(request, layers_only=True)


def _compacted(
    request: Request[Any], layers_only: bool = False, branches: bool = False
) -> CompactNet:
    net, masks, gates, inputs = request.net, request.masks, request.gates, request.inputs
    example = inputs if branches else None
    working = masked(net, masks, gates)
    graph = trace(working, len(inputs), example)
    as_modules(graph, working, inputs)
    gated = {key.rpartition(".")[0] for key in masks or {}}
    if elsewhere := gated & _read_elsewhere(graph):
        working = masked(net, masks, gates, unfolded=elsewhere)
        graph = trace(working, len(inputs), example)
        as_modules(graph, working, inputs)
    refuse_other_program(result_of(request.expected, inputs), working, graph, inputs)
    _refuse_second_calls(graph, gates or {})
    resize = reads_sizes(graph)
    found = written_out(working, graph, inputs)
    flow = Flow(working, found, request.at_least or 0, round_to=request.round_to)
    rules, barriers = find(graph, working, layers_only)
    learn(graph, rules, barriers, flow)
    live = want(graph, rules, flow)
    barriers = {node: why for node, why in barriers.items() if node in live}
    if request.at_least is None:
        refuse_empty(rules, flow)
    small = rewrite(graph, rules, live, flow)
    error = check(request.expected, small, inputs, resize)
    account = account_of(net, small, rules, barriers, flow, error)
    made = CompactNet(small, flow.graph, account)
    copy_modes(net, made)
    return made


def learn(
    graph: fx.Graph, rules: dict[fx.Node, Rule], barriers: dict[fx.Node, str], flow: Flow
) -> None:
    """Find the constant features, from the inputs on."""
    note_dimensions(rules, flow)
    for node in graph.nodes:
        rules[node], features = learn_node(rules[node], flow)
        if features is not None:
            flow.learn(node, features)
        elif not isinstance(rules[node], (Size, OverFeatures)):
            knows = any(operand in flow.wanted for operand in node.all_input_nodes)
            if type(rules[node]) is not Rule and knows:
                barriers[node] = f"this use of {_operation(node, rules[node])} is not supported"
            elif not knows and not _has_parameters(rules[node].module):
                barriers.pop(node, None)  # nothing was known here that it could block
            rules[node] = Rule(node, rules[node].module)


def _operation(node: fx.Node, rule: Rule) -> str:
    if rule.module is not None:
        return type(rule.module).__name__
    return call_name(node)


def want(graph: fx.Graph, rules: dict[fx.Node, Rule], flow: Flow) -> set[fx.Node]:
    """Find the wanted features, from the outputs back; returns the remaining nodes."""
    for node in reversed(graph.nodes):
        if node in flow.wanted:
            if node in flow.sized and not flow.wanted[node].any():
                flow.wanted[node][0] = True  # any feature has that size
            wanted = bool(flow.wanted[node].any())
        else:
            users = [user for user in node.users if user in flow.live]
            wanted = any(rules[user].reads(node) for user in users)
        if wanted or node.op in ("placeholder", "output") or is_branch(node):
            flow.live.add(node)
            rules[node].want(flow)
    return flow.live


def rewrite(
    graph: fx.Graph, rules: dict[fx.Node, Rule], live: set[fx.Node], flow: Flow
) -> fx.GraphModule:
    """Build the compact network from the wanted features."""
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
    """Raise ValueError if a layer has no units left."""
    empty = {}
    for node, rule in rules.items():
        if isinstance(rule, Mixing) and node.users:
            if flow.features[node].constant.all():
                empty[str(node.target)] = "every output is constant"
            elif not flow.wanted[node].any():
                empty[str(node.target)] = "no output is read by anything that varies"
    if empty:
        named = [f"{name!r} ({why})" for name, why in empty.items()]
        more = f" and {len(named) - 3} more" if len(named) > 3 else ""
        raise ValueError(
            f"nothing is left of {', '.join(named[:3])}{more}: prune less, pass at_least=1 to keep "
            "one unit in every layer, or at_least=0 to remove such layers"
        )


def account_of(
    net: nn.Module,
    small: nn.Module,
    rules: dict[fx.Node, Rule],
    barriers: dict[fx.Node, str],
    flow: Flow,
    error: float,
) -> Account:
    """The removed features, layer by layer."""
    layers = []
    for node, rule in rules.items():
        if not isinstance(rule, Mixing):
            continue
        features, wanted = flow.features[node], flow.wanted[node]
        left = node in flow.new and str(node.target) in dict(small.named_modules())
        after = small.get_submodule(str(node.target)) if left else None
        stay = int((features.constant & wanted).sum())
        notes = [f"{stay} constant outputs stay: their values are needed"] if stay else []
        if left and rule.rounding:
            notes.append(f"{rule.rounding} inputs stay: widths are multiples of {flow.round_to}")
        if flow.spare[node]:
            notes.append(f"{flow.spare[node]} outputs stay: all heads must have the same size")
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
    parameters = (parameter_count(net), parameter_count(small))
    return Account(layers, named, parameters, error, round_to=flow.round_to)


def _refuse_second_calls(graph: fx.Graph, gates: Mapping[str, nn.Module]) -> None:
    """Raise ValueError for second calls: a gate keeps the gains of its first call in the lifted
    network, and cannot here."""
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
    """The modules whose parameters are read by name: a folded gain would act at every reader."""
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    return read - {""}


def _has_parameters(module: nn.Module | None) -> bool:
    return module is not None and parameter_count(module) > 0
