"""Lottery tickets: iterative magnitude pruning with rewinding."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from pyrosparse.infer import Callback, Fit
from pyrosparse.lifting.lift import Lifted
from pyrosparse.lifting.masks import Masks
from pyrosparse.prune.criteria import magnitude
from pyrosparse.prune.located import located_weights
from pyrosparse.prune.pruner import check_weights


def lottery(
    bnn: Lifted,
    train: Callable[..., Any],
    sparsity: float,
    *,
    fraction: float = 0.2,
    rewind: int = 500,
    at_least: int = 1,
) -> list[Masks]:
    r"""Iterative magnitude pruning with rewinding: train, prune the smallest remaining weights, go
    back to an early step, and train again.

    .. math::
        \theta_T = \mathrm{train}(m \odot \theta_k, k), \qquad
        m \leftarrow m \odot [\,|\theta_T| \text{ among the largest}\,], \qquad
        s_l = \min(1 - (1 - f)^l, s)

    :math:`\theta_k` is the state of the lifted network after k steps of the first training:
    weights, biases, statistics of batch normalisation and posterior. Every level starts from this
    state, with the same data from step k on, a new optimizer, and the rate schedule at step k.

    bnn:      the lifted network; targets that are weights are pruned, all together.
    train:    ``train(level, first_step=..., callbacks=...)`` trains it by ``fit`` with these two
              options, always for the same epochs with the same seed. Level 0 is the first training.
    sparsity: s, of the targets at the end, in [0, 1).
    fraction: f, the share of the remaining weights that each level prunes, in (0, 1).
    rewind:   k, in steps; 0 is the start.
    at_least: the smallest number of weights that each target keeps.

    Returns the masks of the levels, in order. The network is trained with the last masks, which are
    frozen.

    Raises ValueError on options out of range, if the first training has no more than ``rewind``
    steps, with ``compact_every``, and if ``train`` fits with another guide.

    Source: Frankle et al. (2019), arXiv 1903.01611.

    >>> import torch, pyrosparse as ps
    >>> bnn = ps.lift(torch.nn.Linear(4, 3), ps.Gaussian())
    >>> data = (torch.randn(20, 4), torch.zeros(20, dtype=torch.int64))
    >>> def train(level, **options):
    ...     model = ps.classifier(bnn, 20)
    ...     return ps.fit(model, bnn.guide, data, epochs=2, progress=False, **options)
    >>> [masks.kept for masks in lottery(bnn, train, 0.5, rewind=1)]
    [10, 8, 6, 6]
    """
    for name, value, least in (("rewind", rewind, 0), ("at_least", at_least, 0)):
        if int(value) != value or value < least:
            raise ValueError(f"{name} must be a whole number, {least} or more; got {value}")
    levels = ticket_sparsities(sparsity, fraction)
    early = _Early(rewind)
    train(0, first_step=0, callbacks=[early])
    if early.state is None:
        raise ValueError(
            f"the first training ended before step {rewind}, to which later trainings rewind: "
            "train longer, or choose an earlier rewind"
        )
    found: list[Masks] = []
    for level, wanted in enumerate(levels, 1):
        masks = magnitude(located_weights(bnn), wanted, scope="global", at_least=at_least)
        if found:
            masks = Masks({name: mask & found[-1][name] for name, mask in masks.items()})
        bnn.load_state_dict(early.state)
        bnn.freeze(masks)
        found.append(masks)
        train(level, first_step=rewind, callbacks=[])
    return found


def ticket_sparsities(sparsity: float, fraction: float = 0.2) -> list[float]:
    """The sparsities of the levels, if each prunes a fraction of the remaining weights.

    Raises ValueError unless sparsity is in [0, 1) and fraction in (0, 1).

    >>> [round(one, 3) for one in ticket_sparsities(0.5)]
    [0.2, 0.36, 0.488, 0.5]
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity}")
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be in (0, 1), got {fraction}")
    count = math.ceil(math.log1p(-sparsity) / math.log1p(-fraction) - 1e-9)
    return [min(1 - (1 - fraction) ** level, sparsity) for level in range(1, count + 1)]


class _Early(Callback):
    """Keeps what the lifted network holds after so many steps."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.state: dict[str, Tensor] | None = None

    def on_start(self, run: Fit) -> None:
        check_weights(run)
        if run.shrink is not None:
            raise ValueError(
                "compact_every removes weights that the rewound network still has: leave it out"
            )

    def on_step(self, run: Fit, progress: float) -> None:
        if run.step == self.step:
            state = run.lifted.state_dict()
            self.state = {name: tensor.detach().clone() for name, tensor in state.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"state": self.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state["state"]
