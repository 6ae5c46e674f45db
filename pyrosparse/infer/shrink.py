"""Training that cuts as it goes: dead features are removed from parameters, guide, optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from pyrosparse.compaction.cut import Cut, cut, put, take
from pyrosparse.compaction.posterior import features_of, part_of, unreached
from pyrosparse.lifting.guide import Contents
from pyrosparse.lifting.lift import Lifted

if TYPE_CHECKING:
    from pyrosparse.infer.run import Fit


class Shrink:
    """Cuts dead features out of the lifted network of a run, and restores its size at the end.

    Dead elements (a gate below its method's threshold, or anything frozen at zero) are frozen, so
    that they stay dead, and then cut: the smaller network computes exactly what the frozen one
    would. Every cut starts from the whole network, so that ``to`` alone resumes a run.

    run:   the run of a lifted network, with its parameters and optimizer.
    every: number of epochs between cuts.

    alive: the remaining elements of each target of the whole network, boolean, by the target's
           name.

    Raises what ``cut`` raises, ValueError if there are gates of heads and if the network does not
    use all targets, and TypeError if there is no lifted network.
    """

    def __init__(self, run: Fit, every: int = 1) -> None:
        self.run = run
        self.every = every
        self.lifted = run.lifted
        self.inputs = inputs = _inputs(run)
        self.whole = self.lifted.contents
        if of_heads := [e.target.key for e in self.whole.entries if e.target.block > 1]:
            raise ValueError(
                f"compact_every cannot cut gates of heads while training goes on "
                f"({', '.join(of_heads)}): train without compact_every, and cut them after "
                "training with ps.compact"
            )
        self.alive = {entry.target.key: entry.mask.clone() for entry in self.whole.entries}
        self.positions: dict[str, Tensor] = {}
        # Report a network that cannot be cut now, not after an epoch.
        made = cut(self.whole.net, {}, inputs)
        if unused := unreached(made, self.whole.entries):
            raise ValueError(
                f"compact_every cannot cut {', '.join(unused)}, which the network does not use on "
                "these data: leave them out of the targets, or remove their layers"
            )

    def after_epoch(self) -> dict[str, Any]:
        """Cut if it is due, and restore the original size when training has ended; returns metrics
        of the epoch."""
        due = self.run.finished or self.run.epoch % self.every == 0
        if due and self.shrink():
            self.run.make_steps()
        if self.run.finished:
            self.restore()
        return {"kept": self.kept()}

    def shrink(self) -> bool:
        """Cut elements that have died since the last cut; returns whether there were any."""
        masks = self.lifted.masks()
        alive = {key: mask.clone() for key, mask in self.alive.items()}
        for entry in self.lifted.guide.entries:
            key = entry.target.key
            left = entry.mask if entry.target.kind == "weight" else masks[key] != 0
            put(alive[key], self._positions(key), left)
        if all(torch.equal(alive[key], self.alive[key]) for key in alive) and self.positions:
            return False
        self.to(alive)
        return True

    def to(self, alive: Mapping[str, Tensor]) -> None:
        """Continue with the network that has only these elements of every target."""
        before, old_positions = self._restore_whole()
        made = cut(self.whole.net, alive, self.inputs)
        self.alive = {}
        for entry in self.whole.entries:
            key, positions = entry.target.key, features_of(made, entry)
            assert positions is not None  # every layer keeps a feature
            # Elements that can no longer be reached are dead too.
            reached = torch.zeros_like(alive[key])
            put(reached, positions, torch.ones_like(positions, dtype=torch.bool))
            self.alive[key] = alive[key] & reached
        self._erase(made)
        self.lifted.freeze(self.alive)
        contents, self.positions = part_of(self.whole, made)
        self.lifted.hold(contents)
        self.lifted.guide.find_frozen()
        self._follow(before, old_positions)

    def _erase(self, made: Cut) -> None:
        """Set all elements cut out of the whole network to zero, whatever their trained values."""
        for name, tensor in self.whole.net.state_dict().items():
            if tensor.is_floating_point():
                left = torch.zeros_like(tensor, dtype=torch.bool)
                if name in made.positions:
                    positions = made.positions[name]
                    put(left, positions, torch.ones_like(positions, dtype=torch.bool))
                # Times zero, a negative number is -0.0, which a resumed run would not have.
                tensor.masked_fill_(~left, 0.0)

    def restore(self) -> None:
        """Restore the whole network; the elements cut are frozen at zero there."""
        if not self.positions:
            return
        before, positions = self._restore_whole()
        self.lifted.freeze(self.alive)
        self._follow(before, positions)

    def kept(self) -> dict[str, int]:
        """The number of remaining elements of each target, by its name."""
        return {key: int(mask.count_nonzero()) for key, mask in self.alive.items()}

    def _positions(self, key: str) -> Tensor:
        found = self.positions.get(f"guide.posterior.{key}.mask")
        return torch.arange(self.alive[key].numel()) if found is None else found

    def _restore_whole(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Hold the whole network, with the values trained since; returns the tensors before that
        and their positions."""
        before, positions = _state(self.lifted), self.positions
        self.lifted.hold(self.whole)
        self.positions = {}
        for name, tensor in _state(self.lifted).items():
            other = before.get(name)
            if other is None or other is tensor:
                continue
            if name in positions:
                put(tensor, positions[name], other)
            else:
                tensor.detach().copy_(other.detach())
        return before, positions

    def _follow(self, before: Mapping[str, Tensor], old_positions: Mapping[str, Tensor]) -> None:
        """Replace the earlier tensors in the run and its optimizer by the new ones."""
        after, whole = _state(self.lifted), _state_of(self.whole)
        prefix = self.lifted._site_prefix
        for label, tensor in self.run.parameters.items():
            name = label.removeprefix(prefix)
            if before.get(name) is not tensor or after[name] is tensor:
                continue
            self.run.parameters[label] = after[name]
            memory = self.run.optimizer.state.pop(tensor, None)
            if memory is not None:
                self.run.optimizer.state[after[name]] = {
                    key: self._moved(name, value, tensor, whole[name], old_positions)
                    for key, value in memory.items()
                }
            _replace(self.run.optimizer, tensor, after[name])

    def _moved(
        self,
        name: str,
        value: Any,
        of: Tensor,
        whole: Tensor,
        old_positions: Mapping[str, Tensor],
    ) -> Any:
        """An optimizer's averages for a parameter, reduced to the remaining elements."""
        if not isinstance(value, Tensor) or value.shape != of.shape:
            return value
        if name in old_positions:
            everything = torch.zeros_like(whole.detach(), dtype=value.dtype)
            put(everything, old_positions[name], value)
            value = everything
        return take(value, self.positions[name]) if name in self.positions else value


def _inputs(run: Fit) -> tuple[Any, ...]:
    """The inputs with which the model calls the lifted network, for two data."""
    seen: list[tuple[Any, ...]] = []

    def note(_: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if kwargs:
            raise ValueError(
                f"the lifted network is called with {', '.join(kwargs)} by name: call it by "
                "position, so that compact_every can trace it"
            )
        seen.append(tuple(x[:2] if isinstance(x, Tensor) and x.dim() else x for x in args))

    handle = run.lifted.register_forward_pre_hook(note, with_kwargs=True)
    try:
        run.try_once()
    finally:
        handle.remove()
    if not seen:
        raise ValueError(
            "the model does not call the lifted network, so compact_every has "
            "nothing to cut: call it in the model, or leave compact_every out"
        )
    return seen[0]


def _state(lifted: Lifted) -> dict[str, Tensor]:
    return _state_of(lifted.contents)


def _state_of(contents: Contents) -> dict[str, Tensor]:
    """All tensors by their names in a lifted network's state dict."""
    net = {f"net.{key}": value for key, value in contents.net.state_dict(keep_vars=True).items()}
    posterior = contents.posterior.state_dict(keep_vars=True)
    return net | {f"guide.posterior.{key}": value for key, value in posterior.items()}


def _replace(optimizer: Optimizer, old: Tensor, new: Tensor) -> None:
    for group in optimizer.param_groups:
        group["params"] = [new if one is old else one for one in group["params"]]
