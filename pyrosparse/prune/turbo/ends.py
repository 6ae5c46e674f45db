"""Between which units the weights of a network lie, and which of them have nothing left to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyrosparse.compaction.ties import unit_ties
from pyrosparse.lifting.masks import Masks
from pyrosparse.lifting.target import Target
from pyrosparse.supports.units import Ends, Units


def units_of(net: nn.Module, targets: Sequence[Target], inputs: tuple[Any, ...]) -> Units:
    """The units that a network's weights lie between.

    A layer's units are those that another layer reads on their own; the inputs and outputs of the
    network, and what residual sums join, are none. Grouped convolutions have units at their outputs
    only, transposed ones none.

    targets: weights of dense and convolutional layers; others are left out.
    inputs:  what the network is called with.

    Raises ValueError if the network cannot be traced, or has no unit.

    >>> from pyrosparse.lifting.target import weights
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> units_of(net, weights(net), (torch.ones(1, 4),)).size
    {'0': 3}
    """
    ties = unit_ties(net, inputs)
    names = dict.fromkeys(tie.producer for tie in ties)
    ends = {}
    for target in targets:
        owner, _, leaf = target.name.rpartition(".")
        layer = net.get_submodule(owner)
        plain = isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
        if leaf != "weight" or not plain:
            continue
        # Features may vanish with units of several layers, as those of a depthwise layer do with
        # its own and with its inputs: the nearest counts.
        before = [tie for tie in ties if tie.consumer == owner][-1:]
        whole = bool(before) and len(before[0].units) == target.shape[1]
        inputs_end = (before[0].producer, before[0].units) if whole else None
        outputs_end = owner if owner in names else None
        if inputs_end is not None or outputs_end is not None:
            ends[target.key] = Ends(inputs_end, outputs_end)
    used = {end.outputs for end in ends.values()} | {
        end.inputs[0] for end in ends.values() if end.inputs is not None
    }
    size = {name: len(_weight(net, name)) for name in names if name in used}
    if not size:
        raise ValueError(
            "the network has no units between layers, so there is nothing for a unit "
            "factor: leave out `units`"
        )
    return Units(ends, size)


def idle_units(masks: Mapping[str, Tensor], units: Units) -> dict[str, Tensor]:
    """Which units have no weight left before them or none behind, boolean by group.

    >>> units = Units({"a": Ends(None, "u")}, {"u": 2})
    >>> idle_units({"a": torch.tensor([[1, 0], [0, 0]])}, units)
    {'u': tensor([False,  True])}
    """
    found = {}
    for group, count in units.size.items():
        idle = torch.zeros(count, dtype=torch.bool)
        before = [key for key, ends in units.ends.items() if ends.outputs == group]
        behind = [
            (key, ends.inputs[1])
            for key, ends in units.ends.items()
            if ends.inputs is not None and ends.inputs[0] == group
        ]
        for key in before:
            idle |= ~(masks[key] != 0).flatten(1).any(1).cpu()
        if behind:
            read = torch.zeros(count + 1, dtype=torch.bool)
            for key, place in behind:
                columns = (masks[key] != 0).transpose(0, 1).flatten(1).any(1).cpu()
                read[place[columns]] = True
            idle |= ~read[:-1]
        found[group] = idle
    return found


def without_units(masks: Mapping[str, Tensor], units: Units, off: Mapping[str, Tensor]) -> Masks:
    """Masks that also remove all weights of units that are off.

    off: boolean by group, (units,).

    >>> units = Units({"a": Ends(None, "u")}, {"u": 2})
    >>> off = {"u": torch.tensor([True, False])}
    >>> without_units({"a": torch.ones(2, 2).bool()}, units, off)["a"]
    tensor([[False, False],
            [ True,  True]])
    """
    result = Masks({key: mask.clone() for key, mask in masks.items()})
    for key, ends in units.ends.items():
        mask = result[key]
        if ends.outputs is not None:
            mask[off[ends.outputs].to(mask.device)] = 0
        if ends.inputs is not None:
            group, place = ends.inputs
            silent = torch.cat([off[group].cpu(), torch.zeros(1, dtype=torch.bool)])[place]
            mask[:, silent.to(mask.device)] = 0
    return result


def without_idle_units(masks: Mapping[str, Tensor], units: Units) -> Masks:
    """Masks from which all is gone that leads nowhere, or comes from nowhere: the weights of idle
    units, and of those that are idle then.

    >>> units = Units({"a": Ends(None, "u"), "b": Ends(("u", torch.arange(2)), None)}, {"u": 2})
    >>> masks = {"a": torch.ones(2, 1).bool(), "b": torch.tensor([[True, False]])}
    >>> without_idle_units(masks, units)["a"].flatten()
    tensor([ True, False])
    """
    while True:
        left = sum(int(mask.count_nonzero()) for mask in masks.values())
        result = without_units(masks, units, idle_units(masks, units))
        if sum(int(mask.count_nonzero()) for mask in result.values()) == left:
            return result
        masks = result


def with_best_units(
    masks: Mapping[str, Tensor],
    units: Units,
    scores: Mapping[str, Tensor],
    beliefs: Mapping[str, Tensor],
    at_least: Mapping[str, int],
) -> Masks:
    """Masks in which every layer has so many units with a weight before and behind them.

    scores:   by tensor, its shape, of the weights; -inf for what cannot be kept.
    beliefs:  by group, of the units: where units are missing, the best that still have weights
              take their best ones.
    at_least: by group, how many units.

    >>> units = Units({"a": Ends(None, "u")}, {"u": 2})
    >>> scores = {"a": torch.tensor([[2.0, 1.0], [-2.0, -1.0]])}
    >>> masks = {"a": scores["a"] > 0}
    >>> with_best_units(masks, units, scores, {"u": torch.tensor([3.0, -3.0])}, {"u": 2})["a"]
    tensor([[ True,  True],
            [False,  True]])
    """
    on = {group: ~idle for group, idle in idle_units(masks, units).items()}
    possible = idle_units({key: score > -torch.inf for key, score in scores.items()}, units)
    chosen: dict[str, list[int]] = {}
    for group, least in at_least.items():
        candidates = (~on[group] & ~possible[group]).nonzero().flatten()
        missing = max(least - int(on[group].sum()), 0)
        belief = beliefs[group].cpu()[candidates] if group in beliefs else candidates.float()
        chosen[group] = candidates[belief.argsort(descending=True)[:missing]].tolist()
        on[group][chosen[group]] = True
    result = Masks({key: mask.clone() for key, mask in masks.items()})
    for key, ends in units.ends.items():
        # A weight to a unit that is off would go with it.
        score, mask = scores[key].clone(), result[key]
        if ends.outputs is not None:
            score[~on[ends.outputs].to(score.device)] = -torch.inf
        if ends.inputs is not None:
            group, place = ends.inputs
            heard = torch.cat([on[group], torch.ones(1, dtype=torch.bool)])[place]
            score[:, ~heard.to(score.device)] = -torch.inf
            for unit in chosen.get(group, []):
                own = (place == unit).to(score.device)
                columns = mask[:, own]
                _keep_best(columns, score[:, own])
                mask[:, own] = columns
        for unit in chosen.get(ends.outputs or "", []):
            _keep_best(mask[unit], score[unit])
    return result


def _keep_best(mask: Tensor, scores: Tensor) -> None:
    """Set the element of the highest score, in place, where none is set."""
    if not mask.any():
        place = torch.unravel_index(scores.argmax(), scores.shape)
        mask[place] = True


def _weight(net: nn.Module, layer: str) -> Tensor:
    weight = net.get_submodule(layer).weight
    assert isinstance(weight, Tensor)
    return weight
