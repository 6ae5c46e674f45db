"""What is made random: parameters, and the features entering or leaving a module."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from pyrosparse.lifting.layers import (
    BATCH_NORMS,
    KNOWN,
    axis,
    features,
    is_dense,
    is_mixing,
)
from pyrosparse.lifting.liftable import left_out, refused_at
from pyrosparse.util.errors import unknown_name

Kind = Literal["weight", "input", "output"]
Where = str | type[nn.Module] | Callable[[str, nn.Module], bool]


@dataclass(frozen=True)
class Target:
    """One tensor of a network that a method makes random.

    name:  the parameter (``fc1.weight``) or the module (``fc1``).
    kind:  ``weight`` (a parameter), ``input`` (features entering a module) or ``output``
           (units or channels leaving a module).
    shape: the parameter's shape, or ``(features,)``, or ``(heads,)``.
    value: the parameter itself, its shape ``shape``; None for ``input`` and ``output``.
    axis:  the dimension of the activation that holds the features; None for ``weight``.
    prefix: put before the names of the Pyro sites (``lift(..., name="encoder")``).
    block: the number of consecutive features that share one gate, such as those of an attention
           head.

    >>> Target("fc1.weight", "weight", (3, 2)).site
    'fc1.weight'
    >>> Target("fc1", "input", (2,), axis=-1).site
    'fc1.input'
    >>> Target("out_proj", "input", (2,), axis=-1, block=8).site
    'out_proj.heads'
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    value: Tensor | None = field(default=None, compare=False, repr=False)
    axis: int | None = None
    prefix: str = ""
    block: int = 1

    @property
    def key(self) -> str:
        """The name of the target in scores and masks."""
        if self.kind == "weight":
            return self.name
        kind = self.kind if self.block == 1 else "heads"
        return f"{self.name}.{kind}" if self.name else kind

    @property
    def site(self) -> str:
        """The name of the target's Pyro sample site."""
        return f"{self.prefix}.{self.key}" if self.prefix else self.key

    def part(self, name: str) -> str:
        """The name of a further site of the target's prior, such as a scale.

        It has no further dot: Pyro's AutoGuides keep parameters in modules that are nested by the
        dots of site names, and what is a parameter cannot have parts.

        >>> Target("fc1.weight", "weight", (3, 2)).part("global")
        'fc1.weight_global'
        """
        return f"{self.site}_{name}"


def weights(net: nn.Module, where: Where | Sequence[Where] | None = None) -> list[Target]:
    """Select parameters as targets; without ``where``, the weights of all dense and
    convolutional layers.

    where: a glob on parameter or module names, a module type, a predicate
           ``(parameter name, owning module) -> bool``, or a sequence of these (any may match).
           A parameter shared by several modules is one target, under its first name.

    Without ``where``, a warning names layers that cannot be lifted and are left out. Dense layers
    are ``Linear``, Hugging Face's ``Conv1D`` and the projections of ``MultiheadAttention``. To
    select embeddings or the scales of normalisations, name them, for example ``nn.Embedding`` or
    ``"*norm*"``.

    Raises ValueError when nothing matches.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> [target.name for target in weights(net)]
    ['0.weight', '2.weight']
    >>> [target.name for target in weights(net, "0.*")]
    ['0.weight', '0.bias']
    """
    first: dict[int, str] = {}
    found: dict[int, Target] = {}
    for name, parameter in net.named_parameters(remove_duplicate=False):
        first.setdefault(id(parameter), name)
        owner_name, _, leaf = name.rpartition(".")
        owner = net.get_submodule(owner_name)
        if where is None:
            layer = is_mixing(owner) or isinstance(owner, nn.MultiheadAttention)
            wanted = layer and _is_weight(owner, leaf) and refused_at(net, owner_name) is None
        else:
            wanted = any(_selects(rule, name, owner_name, owner) for rule in rules(where))
        if wanted and id(parameter) not in found:
            _refuse_lazy(name, owner)
            shape = tuple(parameter.shape)
            found[id(parameter)] = Target(first[id(parameter)], "weight", shape, parameter)
    if where is None:
        _name_left_out(net, found)
    elif not found:
        raise_nothing(where, [name for name, _ in net.named_parameters()], "parameter")
    return list(found.values())


def inputs(net: nn.Module, where: Where | Sequence[Where] | None = None) -> list[Target]:
    """Select the input features of modules as targets; without ``where``, those of every dense and
    convolutional layer, including the pixels or colours that enter the first layer.

    Without ``where``, a warning names layers that cannot have gates and are left out.

    Raises ValueError when nothing matches or the features of a matching module are not known.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> [(target.name, target.shape) for target in inputs(net)]
    [('0', (4,)), ('2', (3,))]
    """
    return [
        Target(name, "input", (_features(name, module, "input"),), axis=axis(module))
        for name, module in _modules(net, where, "input")
    ]


def outputs(net: nn.Module, where: Where | Sequence[Where] | None = None) -> list[Target]:
    """Select the output units or channels of modules as targets; without ``where``, those of every
    dense and convolutional layer except the last in order of registration, whose outputs are the
    network's. As for ``inputs``, a warning names layers that are left out.

    Raises ValueError when nothing matches or the features of a matching module are not known.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> [(target.name, target.shape) for target in outputs(net)]
    [('0', (3,))]
    """
    return [
        Target(name, "output", (_features(name, module, "output"),), axis=axis(module))
        for name, module in _modules(net, where, "output")
    ]


def gates(net: nn.Module) -> list[Target]:
    """Select the features that a gate can remove exactly: the inputs of dense layers, and the
    output channels of convolutions, after the batch normalisation if there is one.

    The output channels of a convolution or normalisation at the end of the network are left out. As
    for ``inputs``, a warning names layers that are left out.

    Raises ValueError when the network has neither dense nor convolutional layers.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 2))
    >>> [target.key for target in gates(net)]
    ['1.output', '3.input']
    """
    layers = [
        (name, module)
        for name, module in net.named_modules()
        if (is_mixing(module) or isinstance(module, BATCH_NORMS)) and refused_at(net, name) is None
    ]
    _name_left_out(net, _parameters_of(module for _, module in layers))
    found = []
    for number, (_, module) in enumerate(layers):
        last = number + 1 == len(layers)
        following = module if last else layers[number + 1][1]
        if is_dense(module):
            found.append(inputs(net, _is(module))[0])
        elif not isinstance(module, BATCH_NORMS) and not last:
            same = features(following, "output") == features(module, "output")
            normalised = isinstance(following, BATCH_NORMS) and same
            if not normalised:
                found.append(outputs(net, _is(module))[0])
            elif number + 2 < len(layers):
                found.append(outputs(net, _is(following))[0])
    return found


def _is_weight(owner: nn.Module, leaf: str) -> bool:
    """Whether a parameter is what its module multiplies the features by."""
    attention = isinstance(owner, nn.MultiheadAttention)
    return leaf == "weight" or (attention and leaf.endswith("proj_weight"))


def _parameters_of(layers: Iterable[nn.Module]) -> set[int]:
    return {id(parameter) for layer in layers for parameter in layer.parameters()}


def _name_left_out(net: nn.Module, covered: Iterable[int]) -> None:
    """Warn of the layers that a default selection leaves out; refuse where nothing is left.

    covered: the ids of the parameters of the layers that were selected from."""
    covered = set(covered)
    reasons: dict[str, list[str]] = {}
    for name, why in left_out(net, covered).items():
        reasons.setdefault(why, []).append(repr(name) if name else "the network itself")
    said = "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())
    if not covered:
        raise ValueError(
            f"the network ({type(net).__name__}) has no dense or convolutional layer to lift"
            f"{f'; these cannot be: {said}' if said else ''}. Name parameters with "
            "ps.weights(net, where), or modules with ps.inputs and ps.outputs; the parameters are: "
            f"{', '.join(name for name, _ in net.named_parameters()) or 'none'}"
        )
    if said:
        warnings.warn(
            f"the default targets leave out layers, which stay as they are: {said}. Name the "
            "targets to choose otherwise, and without this warning",
            stacklevel=3,
        )


def _is(module: nn.Module) -> Callable[[str, nn.Module], bool]:
    return lambda _, other: other is module


def rules(where: Where | Sequence[Where]) -> Sequence[Where]:
    """The rules of a selection, one or several."""
    return where if isinstance(where, Sequence) and not isinstance(where, str) else [where]  # type: ignore[list-item]


def _selects(rule: Where, name: str, owner_name: str, owner: nn.Module) -> bool:
    # A module's name or type selects its weight; a glob or a predicate may name any parameter.
    is_weight = _is_weight(owner, name.rpartition(".")[2])
    if isinstance(rule, str):
        return fnmatchcase(name, rule) or (is_weight and fnmatchcase(owner_name, rule))
    return matches(rule, name, owner) and (is_weight or not isinstance(rule, type))


def matches(rule: Where, name: str, module: nn.Module) -> bool:
    """Whether a rule selects a module (or a parameter of it) by this name."""
    if isinstance(rule, str):
        return fnmatchcase(name, rule)
    if isinstance(rule, type):
        return isinstance(module, rule)
    return bool(rule(name, module))


def _modules(
    net: nn.Module, where: Where | Sequence[Where] | None, kind: Literal["input", "output"]
) -> Iterator[tuple[str, nn.Module]]:
    if where is None:
        layers = [
            (name, module)
            for name, module in net.named_modules()
            if is_mixing(module) and refused_at(net, name) is None
        ]
        _name_left_out(net, _parameters_of(module for _, module in layers))
        found = layers[:-1] if kind == "output" else layers
    else:
        found = [
            (name, module)
            for name, module in net.named_modules()
            if any(matches(rule, name, module) for rule in rules(where))
        ]
        if any(isinstance(rule, str) and "*" in rule for rule in rules(where)):
            # A glob such as "features.*" also names activations and pools: those have no
            # features of their own, and the layer before them carries the gate.
            found = [(n, m) for n, m in found if features(m, kind) is not None]
    if not found:
        raise_nothing(where, [name for name, _ in net.named_modules() if name], "module")
    yield from found


def _features(name: str, module: nn.Module, kind: Literal["input", "output"]) -> int:
    _refuse_lazy(name, module)
    known = features(module, kind)
    if known is None:
        raise ValueError(
            f"the features of {name!r} ({type(module).__name__}) are not known: gates are "
            f"supported on {KNOWN}, for one dimension"
        )
    return known


def _refuse_lazy(name: str, module: nn.Module) -> None:
    if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():  # type: ignore[misc]
        raise ValueError(
            f"{name} has no shape yet (a lazy module): run one forward pass of the network before "
            "selecting targets"
        )


def raise_nothing(where: object, known: list[str], kind: str) -> None:
    """Refuse a selection that names nothing of the network."""
    if where is None:
        raise ValueError(
            "the outputs of the only layer are the network's own: name it to put gates on them"
        )
    if isinstance(where, str):
        raise unknown_name(kind, where, known)
    raise ValueError(f"no {kind} of the network matches {where!r}; choose from: {', '.join(known)}")


def locate(net: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that owns a parameter, and the attribute it has there."""
    owner, _, leaf = name.rpartition(".")
    return net.get_submodule(owner), leaf
