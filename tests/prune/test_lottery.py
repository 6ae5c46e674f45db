"""Lottery tickets: everything is rewound, and what went stays gone."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyrosparse as ps
from pyrosparse.infer import Callback, Fit
from pyrosparse.prune import lottery, ticket_sparsities
from tests.nets import batch, cnn, mlp

N = 28
STEPS = 4  # an epoch


class Notes(Callback):
    """What a training began with, and its data."""

    def __init__(self) -> None:
        self.start: dict[str, Tensor] = {}
        self.memory = -1
        self.seen: list[Tensor] = []
        self.states: dict[int, dict[str, Tensor]] = {}

    def on_start(self, run: Fit) -> None:
        self.start = copied(run)
        self.memory = len(run.optimizer.state)

    def on_step(self, run: Fit, progress: float) -> None:
        self.states[run.step] = copied(run)


def copied(run: Fit) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in run.lifted.state_dict().items()}


class Trainings:
    """Trains as ``lottery`` asks, and keeps notes of each training."""

    def __init__(self, name: str = "mlp", **options: Any) -> None:
        torch.manual_seed(0)
        self.bnn = ps.lift({"mlp": mlp, "cnn": cnn}[name](), ps.Gaussian())
        self.data = batch(name, N)
        self.notes: list[Notes] = []
        self.runs: list[Fit] = []
        defaults = {"epochs": 3, "batch_size": 7, "learning_rate": 0.05, "capture": False}
        self.options = defaults | {"progress": False} | options

    def __call__(self, level: int, *, first_step: int, callbacks: Any) -> None:
        assert level == len(self.notes)
        self.notes.append(Notes())

        def model(x: Tensor, y: Tensor) -> Any:
            if self.bnn.training:
                self.notes[-1].seen.append(x)
            return ps.classifier(self.bnn, N)(x, y)

        run = ps.fit(
            model,
            self.bnn.guide,
            self.data,
            first_step=first_step,
            callbacks=[*callbacks, self.notes[-1]],
            **self.options,
        )
        self.runs.append(run)


@pytest.mark.parametrize("rewind", [0, 3, 4, 6])
def test_every_level_starts_from_all_that_the_network_was_at_that_step(rewind: int) -> None:
    train = Trainings("cnn")
    masks = lottery(train.bnn, train, 0.5, fraction=0.3, rewind=rewind)
    early = train.notes[0].states[rewind]
    buffers = [key for key in early if "running" in key or "bias" in key]
    assert len(buffers) >= 3  # statistics of batch normalisation, and biases
    for notes, kept in zip(train.notes[1:], masks, strict=True):
        for key, value in notes.start.items():
            weight = key.removeprefix("net.")
            if weight in kept:
                assert torch.equal(value, early[key] * kept[weight]), key
            elif not key.endswith("mask"):
                assert torch.equal(value, early[key]), key
        assert notes.memory == 0  # a fresh optimizer
        # The data go on from there, and so does the count of steps.
        assert sorted(notes.states) == list(range(rewind, 3 * STEPS))
        assert len(notes.seen) == 3 * STEPS - rewind
        rest = train.notes[0].seen[rewind:]
        assert all(torch.equal(x, y) for x, y in zip(notes.seen, rest, strict=True))


def test_with_nothing_gone_a_level_ends_as_the_first_training() -> None:
    # Plain gradient descent remembers nothing, so that a fresh optimizer is the old one.
    train = Trainings("cnn", optimizer=lambda groups: torch.optim.SGD(groups))
    first: dict[str, Tensor] = {}

    def training(level: int, **options: Any) -> None:
        train(level, **options)
        if not level:
            first.update({k: v.clone() for k, v in train.bnn.state_dict().items()})

    (masks,) = lottery(train.bnn, training, 0.004, fraction=0.5, rewind=5)
    assert masks.sparsity == 0.0
    assert all(torch.equal(value, first[key]) for key, value in train.bnn.state_dict().items())


def test_rates_go_on_from_the_step_too() -> None:
    train = Trainings(schedule=lambda progress: 1 - progress)
    lottery(train.bnn, train, 0.2, rewind=6)
    for run in train.runs:
        assert run.history[-1]["learning_rate"] == pytest.approx(0.05 * (1 - 11 / 12))


def test_a_fifth_of_what_is_left_goes_from_all_layers_together() -> None:
    train = Trainings()
    ends: list[dict[str, Tensor]] = []

    def training(level: int, **options: Any) -> None:
        train(level, **options)
        ends.append({t.key: t.value.detach().clone() for t in train.bnn.targets})

    masks = lottery(train.bnn, training, 0.6, rewind=2)
    wanted = ticket_sparsities(0.6)
    assert len(masks) == len(wanted) == 5
    for level, (one, sparsity, end) in enumerate(zip(masks, wanted, ends[:-1], strict=True)):
        assert one.kept == 35 - round(35 * sparsity)
        # By the weights of the training before, all layers together.
        flat = torch.cat([end[key].abs().flatten() for key in one])
        kept = torch.cat([mask.flatten() for mask in one.values()])
        assert flat[kept].min() >= flat[~kept].max()
        if level:
            assert all(not (one[key] & ~masks[level - 1][key]).any() for key in one)
    for key, mask in masks[-1].items():
        assert torch.equal(ends[-1][key] != 0, mask)


@pytest.mark.parametrize("sparsity", [0.0, 0.2, 0.36, 0.9, 0.999])
def test_sparsities_of_the_levels(sparsity: float) -> None:
    found = ticket_sparsities(sparsity)
    left = 1.0
    for one in found[:-1]:
        left *= 0.8
        assert one == pytest.approx(1 - left)
    assert not found or (
        found[-1] == pytest.approx(sparsity) and 1 - found[-1] >= 0.8 * left - 1e-9
    )
    assert len(found) == {0.0: 0, 0.2: 1, 0.36: 2, 0.9: 11, 0.999: 31}[sparsity]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rewind": 12}, "ended before step 12"),
        ({"rewind": -1}, "rewind must be a whole number"),
        ({"fraction": 1.0}, "fraction must be in"),
        ({"sparsity": 1.0}, "sparsity must be in"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    train = Trainings()
    with pytest.raises(ValueError, match=message):
        lottery(train.bnn, train, **{"sparsity": 0.5, "rewind": 2} | options)


def test_cuts_in_between_are_refused() -> None:
    train = Trainings(compact_every=1)
    with pytest.raises(ValueError, match="compact_every"):
        lottery(train.bnn, train, 0.5, rewind=2)


def test_another_guide_is_refused() -> None:
    from pyro.infer.autoguide import AutoNormal

    bnn = ps.lift(mlp(), ps.Gaussian())
    model = ps.classifier(bnn, N)
    guide = AutoNormal(model)

    def train(level: int, **options: Any) -> None:
        ps.fit(model, guide, batch("mlp", N), epochs=2, progress=False, capture=False, **options)

    with pytest.raises(ValueError, match=r"pass bnn\.guide to fit"):
        lottery(bnn, train, 0.5, rewind=1)


def test_a_plain_module_stays_its_own() -> None:
    train = Trainings()
    net = train.bnn.net
    weights = [parameter for parameter in net.parameters()]
    lottery(train.bnn, train, 0.3, rewind=1)
    assert isinstance(net, nn.Sequential)
    assert all(one is other for one, other in zip(weights, net.parameters(), strict=True))
