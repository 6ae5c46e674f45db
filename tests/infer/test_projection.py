"""Projections after a step: a method's own, and those of callbacks."""

import warnings
from dataclasses import dataclass

import pyro
import pytest
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from torch import nn

import pyrosparse as ps
from pyrosparse.captured import CapturedSVI
from pyrosparse.infer import Callback
from tests.nets import batch, mlp

N = 28


@dataclass(frozen=True)
class Boxed(ps.Gaussian):
    """Weights that must lie in [-limit, limit]."""

    limit: float = 0.0625

    def project(self, target, q):
        q["loc"].clamp_(-self.limit, self.limit)


class Clamp(Callback):
    """The same as a callback."""

    def __init__(self):
        self.steps = []

    def after_step(self, run):
        self.steps.append(run.step)
        with torch.no_grad():
            for weight in (entry.parameter() for entry in run.lifted.guide.entries):
                weight.clamp_(-0.0625, 0.0625)


def lifted(method=None) -> ps.Lifted:
    torch.manual_seed(0)
    return ps.lift(mlp(), method or Boxed())


def train(bnn: ps.Lifted, **options) -> ps.infer.Fit:
    options = {"epochs": 3, "batch_size": 7, "progress": False, "learning_rate": 0.02} | options
    return ps.fit(ps.classifier(bnn, N), bnn.guide, batch("mlp", N), **options)


def largest(bnn: ps.Lifted) -> float:
    return max(float(entry.parameter().detach().abs().max()) for entry in bnn.guide.entries)


def same(one: nn.Module, two: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def by_hand(bnn: ps.Lifted, epochs: int) -> list[torch.Tensor]:
    """Projected gradient steps as a script would write them, with batches in the order of fit."""
    order = ps.infer.Fit(ps.classifier(bnn, N), bnn.guide, batch("mlp", N), epochs, 7, 0)
    loss = TraceMeanField_ELBO()(ps.classifier(bnn, N), bnn.guide)
    optimizer = torch.optim.SGD(list(loss.parameters()), lr=0.01)
    weights = [bnn.net.get_parameter(target.name) for target in bnn.targets]
    for _ in range(epochs):
        for x, y in order.batches():
            optimizer.zero_grad()
            loss(x, y).backward()
            optimizer.step()
            with torch.no_grad():
                for weight in weights:
                    weight.clamp_(-0.0625, 0.0625)
        order.epoch += 1
    return weights


@pytest.mark.parametrize("capture", [False, True])
@pytest.mark.parametrize("by", ["method", "callback"])
def test_steps_go_on_from_what_was_projected(capture, by):
    bnn, other = lifted(Boxed() if by == "method" else ps.Gaussian()), lifted(ps.Gaussian())
    callbacks = [Clamp()] if by == "callback" else []
    with torch.no_grad():
        for one in (bnn, other):
            for entry in one.guide.entries:
                entry.parameter().clamp_(-0.0625, 0.0625)
    run = train(
        bnn, callbacks=callbacks, capture=capture, optimizer=torch.optim.SGD, learning_rate=0.01
    )
    assert (run.svi is not None and run.svi.fallback is None) == capture
    expected = by_hand(other, 3)
    for entry, weight in zip(bnn.guide.entries, expected, strict=True):
        torch.testing.assert_close(entry.parameter(), weight, rtol=0, atol=1e-6)
        assert (entry.parameter().abs() == torch.tensor(0.0625)).any()


def test_after_step_is_called_after_every_step_in_order():
    seen = []

    class Note(Callback):
        def __init__(self, name):
            self.name = name

        def on_step(self, run, progress):
            seen.append((self.name, "before", run.step))

        def after_step(self, run):
            seen.append((self.name, "after", run.step))

    train(lifted(), callbacks=[Note("a"), Note("b")], epochs=1)
    expected = []
    for step in range(4):
        expected += [(name, "before", step) for name in "ab"]
        expected += [(name, "after", step + 1) for name in "ab"]
    assert seen == expected


def test_the_state_before_the_first_step_is_projected():
    bnn = lifted()
    assert largest(bnn) > 0.0625
    seen = []

    class Look(Callback):
        def on_step(self, run, progress):
            seen.append(largest(run.lifted))

    train(bnn, callbacks=[Look()])
    assert seen[0] == max(seen) == pytest.approx(0.0625)


def test_a_resumed_run_ends_as_a_whole_one(tmp_path):
    class Stop(Callback):
        def on_epoch_end(self, run):
            if run.epoch == 2:
                raise KeyboardInterrupt

    whole, broken = lifted(), lifted()
    train(whole)
    with pytest.raises(KeyboardInterrupt):
        train(broken, checkpoint=tmp_path / "run", callbacks=[Stop()])
    resumed = lifted()
    clamp = Clamp()
    train(resumed, checkpoint=tmp_path / "run", callbacks=[clamp])
    assert same(whole, resumed)
    assert clamp.steps == [5, 6, 7, 8, 9, 10, 11, 12]


def test_what_is_frozen_stays_at_zero():
    @dataclass(frozen=True)
    class Above(ps.Gaussian):
        def project(self, target, q):
            q["loc"].clamp_(min=0.1)

    bnn = lifted(Above())
    masks = {entry.target.key: torch.ones_like(entry.mask) for entry in bnn.guide.entries}
    for mask in masks.values():
        mask[0] = False
    bnn.freeze(masks)
    train(bnn)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bnn.scores()
    for entry in bnn.guide.entries:
        weight = entry.parameter()
        assert not weight[0].any()
        assert weight[1:].min() >= 0.1


def test_networks_that_shrink_are_projected():
    widths = []

    @dataclass(frozen=True)
    class Low(ps.BetaBernoulli):
        def project(self, target, q):
            widths.append(target.shape[0])

    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    bnn = ps.lift(net, Low(), ps.outputs(net, "0"))
    bnn.freeze({bnn.targets[0].key: torch.arange(8) >= 4})
    x = torch.randn(N, 4)
    data = (x, torch.zeros(N, dtype=torch.int64))
    ps.fit(ps.classifier(bnn, N), bnn.guide, data, epochs=2, compact_every=1, progress=False)
    assert widths[0] == 8
    assert min(widths) < 8


def test_a_network_that_a_function_uses_is_projected():
    bnn = lifted()
    model = ps.classifier(bnn, N)

    def guide(x, y=None):
        return bnn.guide(x, y)

    ps.fit(
        lambda x, y=None: model(x, y),
        guide,
        batch("mlp", N),
        epochs=1,
        learning_rate=0.02,
        progress=False,
    )
    assert largest(bnn) <= 0.0625


@pytest.mark.parametrize("captured", [False, True])
def test_steps_of_svi_are_projected_by_the_user(captured):
    bnn = lifted()
    kind = CapturedSVI if captured else SVI
    adam = pyro.optim.Adam({"lr": 0.02})
    svi = kind(ps.classifier(bnn, N), bnn.guide, adam, TraceMeanField_ELBO())
    for _ in range(3):
        svi.step(*batch("mlp", N))
        bnn.project()
    assert largest(bnn) == pytest.approx(0.0625)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bnn.masks()


def test_scores_of_what_was_not_projected_warn():
    bnn = lifted()
    before = {name: tensor.clone() for name, tensor in bnn.state_dict().items()}
    with pytest.warns(UserWarning, match=r"0\.weight, 2\.weight lies .* bnn\.project\(\)"):
        bnn.scores()
    assert all(torch.equal(tensor, before[name]) for name, tensor in bnn.state_dict().items())


def test_moments_of_draws_are_projected():
    bnn = lifted(Boxed(posterior="normal"))
    draws = {
        target.site: torch.randn(20, *target.shape, generator=torch.Generator().manual_seed(0))
        for target in bnn.targets
    }
    bnn.match_moments(draws)
    assert largest(bnn) <= 0.0625


def test_methods_without_a_projection_pay_nothing():
    bnn = lifted(ps.Gaussian())
    assert not bnn.projects
    run = ps.infer.Fit(ps.classifier(bnn, N), bnn.guide, batch("mlp", N), 1, 7, 0)
    assert run.projected() == []
    assert ps.infer.callback.after_steps([Callback(), Clamp.__new__(Clamp)]) != []
    assert ps.infer.callback.after_steps([Callback()]) == []
