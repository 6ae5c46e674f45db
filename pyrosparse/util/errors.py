"""Error messages that several modules share."""

import importlib
from collections.abc import Iterable
from difflib import get_close_matches
from types import ModuleType


class UsageError(TypeError):
    """Data, a network or what it gives is of a kind that is not taken; the message says what is.

    The command line says it in one line, as it does every ValueError.
    """


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """Build the error for a `name` that is not `known`, with the nearest known name if one is near.

    >>> unknown_name("network", "fnc", ["cnn", "fcn", "lenet5"])
    ValueError("unknown network 'fnc'; did you mean 'fcn'? known: cnn, fcn, lenet5")
    """
    spellings = {candidate.casefold(): candidate for candidate in known}
    near = get_close_matches(name.casefold(), spellings, n=1)
    hint = f"; did you mean {spellings[near[0]]!r}?" if near else ";"
    return ValueError(f"unknown {kind} {name!r}{hint} known: {', '.join(spellings.values())}")


def expect_network(net: object) -> None:
    """Raise UsageError if ``net`` is not a torch module.

    >>> expect_network("resnet18")
    Traceback (most recent call last):
    pyrosparse.util.errors.UsageError: a network is a torch.nn.Module, got str
    """
    from torch import nn  # not above: the command line's help does without it

    if isinstance(net, type) and issubclass(net, nn.Module):
        raise UsageError(
            f"a network is a torch.nn.Module, got the class {net.__name__}: make a network of it, "
            f"{net.__name__}(...)"
        )
    if not isinstance(net, nn.Module):
        raise UsageError(f"a network is a torch.nn.Module, got {type(net).__name__}")


def refuse_jit() -> None:
    """Say what to do in place of ``torch.jit.trace``, which cannot see replaced weights.

    Raises TypeError if it is tracing.

    >>> refuse_jit()
    """
    import torch  # not above: the command line's help does without it

    if torch.jit.is_tracing():
        raise TypeError(
            "torch.jit cannot trace a lifted network, whose weights are replaced: instead of a "
            "JIT ELBO use the plain ELBO with ps.captured.CapturedSVI, instead of NUTS with "
            "jit_compile=True use ps.captured.CapturedNUTS, pass jit_compile=False to HMC, and "
            "trace the network that ps.compact returns"
        )


def torchvision() -> ModuleType:
    """Import torchvision where it is needed; pyrosparse works without it.

    Raises ImportError, with the way to install it, when it is missing or made for another torch.

    >>> torchvision().__name__
    'torchvision'
    """
    try:
        return importlib.import_module("torchvision")
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        # A torchvision made for another torch fails in any of these ways at import.
        raise ImportError(
            "this needs a torchvision that matches torch; install both together: "
            f"pip install --upgrade torch torchvision ({error})"
        ) from error
