"""Robustness: a classifier's accuracy under the fast gradient sign method."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyrosparse.lifting.lift import Lifted
from pyrosparse.measure.quality import check_logits, labelled_batches
from pyrosparse.util.modes import evaluating

Bounds = tuple[float | Tensor, float | Tensor]
"""The smallest and the largest value of an input: numbers, or tensors that broadcast to a datum."""


@dataclass(frozen=True)
class Robustness:
    """A network's accuracy under attack.

    epsilons:   how far each input value was moved.
    accuracies: for each epsilon the share of the data classified correctly, in [0, 1].
    examples:   the number of data.

    >>> Robustness((0.0, 0.1), (0.9, 0.4), examples=100).accuracies[1]
    0.4
    """

    epsilons: tuple[float, ...]
    accuracies: tuple[float, ...]
    examples: int


@dataclass(frozen=True)
class RobustnessRow:
    """A network's accuracy under attack at one epsilon.

    network:    its name.
    fine_tuned: whether it was trained on adversarial examples before.
    epsilon:    how far each input value was moved.
    accuracy:   the share of the data classified correctly, in [0, 1].

    >>> RobustnessRow("dense", fine_tuned=False, epsilon=0.1, accuracy=0.4).network
    'dense'
    """

    network: str
    fine_tuned: bool
    epsilon: float
    accuracy: float


def fgsm(
    net: nn.Module,
    data: Any,
    epsilons: Sequence[float],
    *,
    bounds: Bounds | None = None,
    batch_size: int = 256,
) -> Robustness:
    r"""A classifier's accuracy on examples of the fast gradient sign method, at each epsilon.

    .. math:: x' = \mathrm{clip}_{[l, h]}\big(x + \epsilon\, (h - l) \odot
              \mathrm{sign}\, \nabla_x [-\log \mathrm{softmax}(f(x))_y]\big)

    The sign is that of the gradient of the log-odds against the true class,

    .. math:: \log \textstyle\sum_{k \ne y} e^{f_k(x)} - f_y(x),

    of which the loss is an increasing function. In exact arithmetic the sign is the same, and it
    remains correct if the network is so certain that the loss and its gradient round to zero.

    net:        inputs -> logits (N, classes), of any class, also compact; a ``Lifted`` is attacked
                and evaluated at its posterior mean, in evaluation mode. Modes, parameters, their
                ``grad`` and buffers do not change.
    data:       ``Examples``, a tuple (x, y), or an iterable of such tuples (a ``DataLoader``);
                x: (N, ...) floating point, y: (N,) int64 classes. All of it is attacked.
    epsilons:   non-negative numbers, as fractions of the range from l to h: for images the step in
                pixels of [0, 1], whatever their normalisation. Without bounds, in the unit of x.
    bounds:     (l, h), the smallest and the largest value of an input: numbers, or tensors that
                broadcast to a datum. For a data set of ``pyrosparse.data`` use its ``bounds``. None
                clips nothing.
    batch_size: the batch size, if data are not already batches.

    Raises ValueError if epsilons are negative, not finite or missing; if bounds are not l < h, or
    data lie outside them; if data or logits are not those of a classifier with two or more classes;
    and if no gradient reaches the inputs.

    Source: Goodfellow, Shlens and Szegedy (2015), "Explaining and harnessing adversarial examples",
    section 4; Xia, Tsang and Lau (2023), section V-D.

    >>> x, y = torch.tensor([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([0, 0])
    >>> fgsm(nn.Identity(), (x, y), [0, 0.2, 0.5], bounds=(0, 1)).accuracies
    (1.0, 0.5, 0.0)
    """
    steps = _checked_epsilons(epsilons)
    forward = _forward(net)
    name = type(net).__name__
    device = next((parameter.device for parameter in net.parameters()), None)
    right: Any = 0
    count = 0
    with evaluating(net):
        for batch in labelled_batches(data, batch_size, net):
            x, y = _checked_batch(batch)
            x, y = x.to(device), y.to(device)
            box = checked_bounds(bounds, x)
            direction = _ascent(forward, name, x, y)
            with torch.no_grad():
                hits = []
                for epsilon in steps:
                    logits = forward(_moved(x, direction, epsilon, box))
                    check_logits(name, logits, y)
                    hits.append((logits.argmax(1) == y).sum())
                right = right + torch.stack(hits)
            count += len(y)
    if not count:
        raise ValueError(
            "there are no data to attack: give data that are not empty (an iterator "
            "can be read only once)"
        )
    return Robustness(steps, tuple((right.double() / count).tolist()), count)


def adversarial_examples(
    net: nn.Module, x: Tensor, y: Tensor, epsilon: float, *, bounds: Bounds | None = None
) -> Tensor:
    """Adversarial examples by the fast gradient sign method, detached, of the shape of x.

    net, epsilon, bounds: as for ``fgsm``.
    x: (N, ...) floating point; y: (N,) int64 classes.

    Raises ValueError as ``fgsm`` does.

    >>> x, y = torch.tensor([[0.9, 0.1]]), torch.tensor([0])
    >>> adversarial_examples(nn.Identity(), x, y, 0.25, bounds=(0, 1))
    tensor([[0.6500, 0.3500]])
    """
    (step,) = _checked_epsilons([epsilon])
    x, y = _checked_batch((x, y))
    box = checked_bounds(bounds, x)
    with evaluating(net):
        return _moved(x, _ascent(_forward(net), type(net).__name__, x, y), step, box)


def robustness_rows(
    networks: Mapping[str, nn.Module],
    data: Any,
    epsilons: Sequence[float],
    *,
    fine_tuned: Mapping[str, nn.Module] | None = None,
    bounds: Bounds | None = None,
    batch_size: int = 256,
) -> list[RobustnessRow]:
    """The accuracy of several networks under attack, before and after adversarial fine-tuning.

    networks:   by name, before fine-tuning.
    fine_tuned: by the same names, after fine-tuning, for some or all of the networks.
    data, epsilons, bounds, batch_size: as for ``fgsm``; data that can be read more than once.

    One row for each network, before and after, and each epsilon.

    Raises ValueError if there is no network, if a fine-tuned one has no network of its name, and as
    ``fgsm`` does.

    Source: Xia, Tsang and Lau (2023), figure 12.

    >>> data = (torch.eye(2), torch.tensor([0, 1]))
    >>> for row in robustness_rows({"identity": nn.Identity()}, data, [0, 1]):
    ...     print(row.network, row.epsilon, row.accuracy)
    identity 0.0 1.0
    identity 1.0 0.0
    """
    after = fine_tuned or {}
    if not networks:
        raise ValueError("there is no network to attack")
    if unknown := [name for name in after if name not in networks]:
        raise ValueError(
            f"fine-tuned networks without a network of the same name: {', '.join(unknown)}; there "
            "are "
            f"{', '.join(networks)}"
        )
    rows = []
    for tuned, nets in ((False, networks), (True, after)):
        for name, net in nets.items():
            found = fgsm(net, data, epsilons, bounds=bounds, batch_size=batch_size)
            for epsilon, accuracy in zip(found.epsilons, found.accuracies, strict=True):
                rows.append(RobustnessRow(name, tuned, epsilon, accuracy))
    return rows


def checked_bounds(bounds: Bounds | None, x: Tensor) -> tuple[Tensor, Tensor] | None:
    """Bounds as tensors that broadcast to x, (N, ...); raises ValueError if x lies outside."""
    if bounds is None:
        return None
    low, high = (torch.as_tensor(bound, dtype=x.dtype, device=x.device) for bound in bounds)
    for bound in (low, high):
        try:
            fits = torch.broadcast_shapes(bound.shape, x.shape[1:]) == x.shape[1:]
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(
                f"bounds of shape {tuple(bound.shape)} do not broadcast to a datum, "
                f"{tuple(x.shape[1:])}"
            )
    if not (low < high).all():
        raise ValueError("bounds must be (lowest, highest) with lowest < highest everywhere")
    # Data normalised with other arithmetic than ours lie next to the bound, not on it.
    slack = 1e-4 * (high - low)
    if ((x < low - slack) | (x > high + slack)).any():
        raise ValueError(
            f"the inputs, from {float(x.min()):.4g} to {float(x.max()):.4g}, lie outside the "
            f"bounds, {float(low.min()):.4g} to {float(high.max()):.4g}. Bounds are of the "
            "network's inputs: of a normalised data set give its `bounds`"
        )
    return low, high


def _ascent(forward: Callable[[Tensor], Any], name: str, x: Tensor, y: Tensor) -> Tensor:
    """The sign of the gradient of each datum's loss by its input: -1, 0 or 1, the shape of x."""
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        logits = forward(x)
        check_logits(name, logits, y)
        if logits.shape[1] < 2:
            raise ValueError(
                f"{name} has only one class, so it cannot be attacked: give a "
                "network with two or more"
            )
        labels = y.long()[:, None]
        true = logits.gather(1, labels).squeeze(1)
        others = logits.scatter(1, labels, -math.inf).logsumexp(1)
        gradient = None
        if logits.requires_grad:
            (gradient,) = torch.autograd.grad((others - true).sum(), x, allow_unused=True)
    if gradient is None:
        raise ValueError(
            f"no gradient reaches the inputs of {name} (a forward under no_grad, or an operation "
            "without derivative?): attack a network with the same weights that has a gradient"
        )
    if gradient.isnan().any():
        raise ValueError(
            f"the gradient of {name} by its inputs is NaN, so the attack has no "
            "direction: look for NaN in the weights"
        )
    return gradient.sign()


def _moved(
    x: Tensor, direction: Tensor, epsilon: float, box: tuple[Tensor, Tensor] | None
) -> Tensor:
    if box is None:
        return x + epsilon * direction
    low, high = box
    return (x + epsilon * (high - low) * direction).clamp(low, high)


def _forward(net: nn.Module) -> Callable[[Tensor], Any]:
    return net.mean_forward if isinstance(net, Lifted) else net


def _checked_epsilons(epsilons: Sequence[float]) -> tuple[float, ...]:
    steps = tuple(float(epsilon) for epsilon in epsilons)
    if not steps:
        raise ValueError("epsilons is empty: give at least one epsilon")
    for step in steps:
        if not (step >= 0 and math.isfinite(step)):
            raise ValueError(f"an epsilon must be finite and not negative, got {step}")
    return steps


def _checked_batch(batch: Sequence[Any]) -> tuple[Tensor, Tensor]:
    if len(batch) != 2:
        raise ValueError(f"data must be (inputs, classes); got batches of {len(batch)} parts")
    x, y = batch
    if not (isinstance(x, Tensor) and x.is_floating_point()):
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(
            f"the inputs must be floating point, so that the attack can change them, got {kind}"
        )
    return x, y
