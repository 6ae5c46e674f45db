"""Networks, data and teachers by their names, or as a function of the user's own gives them."""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pyrosparse import data as data_sets
from pyrosparse import networks
from pyrosparse.recipes.split import Split, digest, split
from pyrosparse.storage import StorageError, load
from pyrosparse.storage.weights_file import load_weights
from pyrosparse.util.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from pyrosparse.models.distillation import distill
    from pyrosparse.recipes.setup import Setup


def own_function(name: str) -> Callable[..., Any] | None:
    """The function that ``package.module:function`` names; None where a name is of another form.

    The current folder is searched as well.

    Raises ValueError if there is no such module or function.

    >>> own_function("os.path:join")("a", "b")
    'a/b'
    """
    module, colon, attribute = name.partition(":")
    if not colon or module == "torchvision" or not attribute.isidentifier():
        return None
    if not all(part.isidentifier() for part in module.split(".")):
        raise ValueError(f"{name} names no function: write package.module:function")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{name} is not a function ({error}): write package.module:function, with a module "
            "that Python can import from here"
        ) from error
    if not callable(found) or isinstance(found, nn.Module):
        raise ValueError(
            f"{name} is a {type(found).__name__} and no function: write a function that returns it"
        )
    return found  # type: ignore[no-any-return]


def load_data(setup: Setup) -> Any:
    """The data of a setup: a ``DataSet``, or what the user's function gives.

    A function is given ``validation``, ``normalise`` and ``seed`` where it takes them, and ``size``
    where that is not None.

    Raises ValueError if a function takes no ``size`` and there is one, and if it gives no
    data, or a loader, of which nothing can be held out as test data; what ``data.load`` and the
    function raise.
    """
    options = {name: getattr(setup, name) for name in ("validation", "normalise", "seed")}
    function = own_function(setup.dataset)
    if function is not None:
        found = _call(function, {} if setup.size is None else {"size": setup.size}, options)
        try:
            parts = split(found)
        except (UsageError, ValueError) as error:
            raise ValueError(f"{setup.dataset} gives no data that can be used: {error}") from error
        if parts.test is None:
            raise ValueError(
                f"{setup.dataset} gives a loader or a list of batches, of which no test data can "
                "be held out: return all data as tensors (inputs, targets), as a dict of them, or "
                "as a torch Dataset"
            )
        return found
    return data_sets.load(setup.dataset, size=setup.size, **options)


def load_network(setup: Setup, data: Any, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
    """The network of a setup, with its first weights from the seed.

    weights: a state dict to start from instead.

    A function of the user's own is given ``image_shape`` and ``classes`` where it takes them, but
    for data by name.

    Raises ValueError if the weights do not fit the network, if data by name have no network
    of the user's own, and what ``networks.create`` raises.
    """
    parts = split(data)
    function = own_function(setup.network)
    known = {} if parts.names else _sizes(setup, parts)
    if function is None and parts.names:
        raise ValueError(
            f"the data are by name ({', '.join(parts.names)}), and {setup.network} takes images or "
            "rows of numbers: name a network of your own, --network package.module:function"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(setup.seed)
        if function is not None:
            net = _call(function, dict(setup.network_options), known)
            if not isinstance(net, nn.Module):
                raise ValueError(
                    f"{setup.network} returns a {type(net).__name__} instead of a module"
                )
        else:
            net = networks.create(setup.network, *known.values(), **setup.network_options)
    known_shapes = (one for one in net.parameters() if not is_lazy(one))
    if any(parameter.dim() == 4 for parameter in known_shapes):
        # Convolutions and, above all, max-pooling are faster in this layout on a CPU.
        net = net.to(memory_format=torch.channels_last)
    if weights is not None:
        fill(net, weights)
    return net


def load_likelihood(setup: Setup, data: Any, net: nn.Module) -> Callable[[Any, int], Any] | None:
    """What makes the model of a setup's network; None for the default of ``compress``.

    Raises ValueError on an unknown name, and on a language model.
    """
    from pyrosparse import models

    if not setup.model:
        return None
    function = own_function(setup.model)
    if function is not None:
        _check_arguments(function, net, 1)
        if isinstance(function(net, 1), models.language_model):
            raise ValueError(
                f"{setup.model} is a language model, but the command line reports only classes "
                "and values: call ps.compress in Python, whose result has the perplexity"
            )
        return function
    ready: dict[str, Callable[[Any, int], Any]] = {
        "classifier": models.classifier,
        "regressor": models.regressor,
        "heteroscedastic": models.heteroscedastic_regressor,
        "counts": models.counts,
        "multilabel": models.multilabel,
        "ordinal": functools.partial(_ordinal, data),
    }
    if setup.model not in ready:
        raise unknown_name("model", setup.model, [*ready, "<package.module:function>"])
    return ready[setup.model]


def _ordinal(data: Any, network: Any, n: int) -> Any:
    from pyrosparse.models import ordinal

    parts = split(data)
    if parts.names:
        raise ValueError(
            "the number of classes is not known for data by name: give your own model, --model "
            "package.module:function"
        )
    return ordinal(network, n, classes=max(2, _classes(parts)))


def _sizes(setup: Setup, data: Split) -> dict[str, Any]:
    """What networks are made for: the shape of a datum, and how many numbers they give."""
    return {
        "image_shape": tuple(data.batch[0].shape[1:]),
        "classes": _outputs(setup.model, data),
    }


def _outputs(likelihood: str, data: Split) -> int:
    """How many numbers a network gives for a datum."""
    targets = int(data.batch[-1][0].numel())
    several = {
        "counts": targets,
        "multilabel": targets,
        "ordinal": 1,
        "heteroscedastic": 2 * targets,
    }
    return several.get(likelihood) or _classes(data)


def _classes(data: Split) -> int:
    """The number of classes; of values the number of targets."""
    y = getattr(data.train, "y", None)
    if data.classes or y is None or y.is_floating_point():
        return len(data.classes) or int(data.batch[-1][0].numel())
    return int(y.max()) + 1


def load_teacher(setup: Setup, net: nn.Module) -> Teacher:
    """The likelihood that distils the teacher of a setup.

    net: the network that learns; weights alone are taken for one like it.

    Raises ValueError if there is no such network.
    """
    function, path = own_function(setup.teacher), Path(setup.teacher)
    if function is not None:
        teacher = _call(function, {}, {})
    elif path.is_dir() and not (path / "compact.safetensors").exists():
        raise ValueError(f"{path} has no compact.safetensors: name the folder of a finished run")
    else:
        teacher = _from_file(path / "compact.safetensors" if path.is_dir() else path, net)
    if not isinstance(teacher, nn.Module):
        raise ValueError(f"{setup.teacher} returns a {type(teacher).__name__} instead of a module")
    return Teacher(teacher.to(setup.device), setup.teacher_weight, setup.teacher_temperature)


class Teacher:
    """Makes the likelihood ``distill`` of a network, with a teacher.

    output: the name of the logits in what both give; None where they give tensors.
    key:    what tells it from others, for pools of stages.
    """

    def __init__(
        self, teacher: nn.Module, weight: float, temperature: float, output: str | None = None
    ) -> None:
        self.teacher, self.weight, self.temperature = teacher, weight, temperature
        self.output = output
        self.key = f"distill {weight} {temperature} {digest(teacher.state_dict().values())}"

    def __call__(self, network: Any, n: int) -> distill:
        from pyrosparse.models.distillation import distill

        options = {"weight": self.weight, "temperature": self.temperature}
        return distill(network, self.teacher, n, output=self.output, **options)


def fill(net: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put a state dict into a network; raises ValueError that names what does not fit."""
    own = net.state_dict()
    wrong = {
        "it lacks": own.keys() - weights.keys(),
        "it has no": weights.keys() - own.keys(),
        "other shapes for": {
            name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape
        },
    }
    if any(wrong.values()):
        told = [f"{what} {', '.join(sorted(names))}" for what, names in wrong.items() if names]
        raise ValueError(f"the weights do not fit this network: {'; '.join(told)}")
    net.load_state_dict(dict(weights))


def _from_file(path: Path, net: nn.Module) -> nn.Module:
    try:
        return load(path, into=net)
    except StorageError:
        like = copy.deepcopy(net)
        fill(like, load_weights(path))
        return like


def _call(function: Callable[..., Any], given: dict[str, Any], offered: dict[str, Any]) -> Any:
    """Call a function with what is given, and with what is offered where it takes it."""
    taken = inspect.signature(function).parameters
    chosen = {key: one for key, one in offered.items() if key in taken} | given
    _check_arguments(function, **chosen)
    return function(**chosen)


def _check_arguments(function: Callable[..., Any], *args: Any, **chosen: Any) -> None:
    """Refuse a function of the user's own that does not take what it is called with."""
    try:
        inspect.signature(function).bind(*args, **chosen)
    except TypeError as error:
        name = getattr(function, "__qualname__", function)
        with_what = ", ".join(chosen) or ("a network and n" if args else "no arguments")
        raise ValueError(f"{name} cannot be called with {with_what}: {error}") from error
