"""The cause of a loss that is not finite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro.poutine as poutine
import torch
from torch import Tensor

from pyrosparse.evidence.traces import modules


class NonFiniteLossError(FloatingPointError):
    """The loss became NaN or infinite; the message names the step, the site and the layer."""


def explain(
    model: Any, guide: Any, batch: tuple[Tensor, ...], parameters: Mapping[str, Tensor]
) -> str:
    """Say where the first NaN or infinity of a step occurs: data, parameter, layer, site."""
    findings = []
    for position, tensor in enumerate(batch):
        if _bad(tensor):
            findings.append(f"argument {position} of the batch has values that are not finite")
    broken = [name for name, tensor in parameters.items() if _bad(tensor)]
    if broken:
        findings.append(f"parameters that are not finite: {', '.join(broken)}")
    layers: list[str] = []

    def watch(name: str) -> Any:
        def look(_module: Any, args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and _bad(output):
                layers.append(name)

        return look

    hooks = [
        module.register_forward_hook(watch(name))
        for root in modules(model, guide)
        for name, module in root.named_modules()
        if name and not any(module.children())
    ]
    sites: list[str] = []
    try:
        with torch.no_grad(), poutine.block():
            guide_trace = poutine.trace(guide).get_trace(*batch)
            trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*batch)
            for name, site in [*guide_trace.nodes.items(), *trace.nodes.items()]:
                if site["type"] == "sample" and name not in sites and _bad_site(site):
                    sites.append(name)
    except (ValueError, RuntimeError, ArithmeticError) as error:
        findings.append(f"evaluating it again raises: {error}")
    finally:
        for hook in hooks:
            hook.remove()
    if layers:
        findings.append(f"the first layer with an output that is not finite is {layers[0]!r}")
    if sites:
        findings.append(f"the first site that is not finite is {sites[0]!r}")
    return "; ".join(findings) or "evaluating the step again gives finite values"


def _bad(tensor: Any) -> bool:
    return (
        isinstance(tensor, Tensor)
        and tensor.is_floating_point()
        and not bool(tensor.isfinite().all())
    )


def _bad_site(site: Any) -> bool:
    if _bad(site["value"]):
        return True
    return _bad(site["fn"].log_prob(site["value"]))
