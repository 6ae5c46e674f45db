"""Pruning by model reduction: what is ranked, what is accepted, and where it stops."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

import pyrosparse as ps
from pyrosparse.evidence import elbo, elbo_difference, reductions
from pyrosparse.prune import ReductionPruner, prune_batch, ranked, reduce_model
from tests.linear_gaussian import LinearGaussian
from tests.methods.gates import LogNormalGate
from tests.nets import NETS, batch, cnn, mlp

N = 28


def normal(**options) -> ps.Gaussian:
    return ps.Gaussian(posterior="normal", **{"initial_scale": 0.1, "scale": 0.5} | options)


def train(*callbacks, epochs=4, net=None, data=None, method=None, **options):
    """Train from the same start each time; returns the lifted network and the run."""
    torch.manual_seed(0)
    bnn = ps.lift(net or mlp(), method or normal())
    options = {"batch_size": 7, "learning_rate": 0.02, "progress": False} | options
    data = data or batch("mlp", N)
    model = ps.classifier(bnn, N)
    return bnn, ps.fit(model, bnn.guide, data, epochs=epochs, callbacks=callbacks, **options)


def zeros(bnn: ps.Lifted) -> float:
    weights = [target.value for target in bnn.targets]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


# Ranking


def scattered() -> ps.Lifted:
    """A posterior whose locations and standard deviations have nothing to do with each other."""
    generator = torch.Generator().manual_seed(2)
    bnn = ps.lift(mlp(), normal())
    for entry in bnn.guide.entries:
        q = entry.posterior()
        with torch.no_grad():
            q["loc"].copy_(0.2 * torch.randn(q["loc"].shape, generator=generator))
            q["log_scale"].copy_(-1 - 2 * torch.rand(q["loc"].shape, generator=generator))
    return bnn


@pytest.mark.parametrize("order", ["signal", "evidence"])
@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.9])
def test_the_first_in_order_go_over_all_targets_together(fraction, rows, order):
    bnn = scattered()
    if order == "evidence":
        scores = reductions(bnn, rows=rows)
    else:
        scores = {key: -score.square() / 2 for key, score in bnn.scores().items()}
        scores = {key: score.mean(1) if rows else score for key, score in scores.items()}
    masks = ranked(bnn, fraction, rows=rows, order=order)
    if rows:
        assert all((mask.all(1) | ~mask.any(1)).all() for mask in masks.values())
        masks = {key: mask.any(1) for key, mask in masks.items()}
    flat = torch.cat([score.flatten() for score in scores.values()])
    kept = torch.cat([mask.flatten() for mask in masks.values()])
    assert int((~kept).sum()) == min(math.ceil(fraction * len(flat)), len(flat) - 2)
    stay = {key: score == score.min() for key, score in scores.items()}
    assert all(masks[key][last].all() for key, last in stay.items())
    free = torch.cat([~last.flatten() for last in stay.values()])
    if (kept & free).any():
        assert flat[~kept].min() >= flat[kept & free].max()


def test_the_orders_differ_where_standard_deviations_do():
    bnn = scattered()
    masks = [ranked(bnn, 0.5, order=order)["0.weight"] for order in ("signal", "evidence")]
    assert not torch.equal(*masks)
    with pytest.raises(ValueError, match="'magnitude'"):
        ranked(bnn, 0.5, order="magnitude")
    with pytest.raises(ValueError, match="'magnitude'"):
        ReductionPruner(order="magnitude")


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("rows", [True, False])
def test_one_of_each_target_stays_and_what_is_gone_stays_gone(name, rows):
    bnn = ps.lift(NETS[name](), normal())
    seen = []
    while not seen or ranked(bnn, 0.5, rows=rows).kept < seen[-1]:
        masks = ranked(bnn, 0.5, rows=rows)
        seen.append(masks.kept)
        bnn.freeze(masks)
        if rows:
            for mask in masks.values():
                assert set(mask.flatten(1).float().mean(1).tolist()) <= {0.0, 1.0}
    for mask in masks.values():
        assert int(mask.count_nonzero()) == (mask[0].numel() if rows else 1)


def test_frozen_weights_are_not_counted_nor_ranked():
    bnn = ps.lift(mlp(), normal())
    first = {key: torch.rand(mask.shape) > 0.4 for key, mask in ranked(bnn, 0.5).items()}
    bnn.freeze(first)
    left = sum(int(mask.sum()) for mask in first.values())
    masks = ranked(bnn, 0.25)
    assert masks.kept == left - math.ceil(0.25 * left)
    assert all(not mask[~first[key]].any() for key, mask in masks.items())


@pytest.mark.parametrize("wrong", [0.0, 1.0, -0.5, math.nan])
def test_a_fraction_out_of_range_is_refused(wrong):
    with pytest.raises(ValueError, match="fraction"):
        ranked(ps.lift(mlp(), normal()), wrong)
    with pytest.raises(ValueError, match="fraction"):
        ReductionPruner(fraction=wrong)


# One batch


def planted(effects: list[float]) -> tuple[LinearGaussian, ps.Lifted]:
    """A regression on orthogonal columns with these weights, at its exact posterior."""
    truth = LinearGaussian(n=30, d=3, noise=0.5)
    truth.x = truth.x / truth.x.norm(dim=0) * 5
    truth.y = truth.x @ torch.tensor(effects).double().unsqueeze(-1)
    return truth, truth.at_mean_field_optimum()


def test_at_the_exact_posterior_the_gain_is_the_exact_change_of_evidence():
    truth, bnn = planted([1.0, 0.01, -1.0])
    batch = prune_batch(truth.model(bnn), bnn, truth.data, fraction=0.3)
    assert batch.accepted
    assert batch.masks["weight"].tolist() == [[True, False, True]]
    exact = truth.log_evidence(torch.tensor([0, 2])) - truth.log_evidence()
    # Every draw is the log evidence, as both posteriors are exact.
    torch.testing.assert_close(
        batch.gain.draws, exact + torch.zeros(16).double(), rtol=1e-9, atol=0
    )


def test_what_has_evidence_is_refused_and_left_as_it_was():
    truth, bnn = planted([1.0, 0.8, -1.0])
    before = {key: value.clone() for key, value in bnn.state_dict().items()}
    batch = prune_batch(truth.model(bnn), bnn, truth.data, fraction=0.3)
    assert not batch.accepted and batch.gain.mean < 0
    assert all(torch.equal(value, before[key]) for key, value in bnn.state_dict().items())
    assert not any(entry.frozen for entry in bnn.guide.entries)


def test_a_gain_must_exceed_two_standard_errors():
    zero = ps.evidence.ElboEstimate(torch.zeros(4))
    for shift, accepted in ((2.1, True), (1.9, False)):
        draws = torch.tensor([-1.0, 1.0, -1.0, 1.0])
        draws = draws / draws.std() * 2 + shift  # a standard error of 1
        assert (
            ps.prune.Candidate(0.1, ps.Masks(), zero, ps.evidence.ElboEstimate(draws)).accepted
            == accepted
        )


def test_drift_of_what_is_frozen_is_no_gain():
    truth, bnn = planted([1.0, 0.01, -1.0])
    bnn.freeze({"weight": torch.tensor([[True, False, True]])})
    with torch.no_grad():
        bnn.get_parameter("guide.posterior.weight.log_scale")[0, 1] = -9.0
    batch = prune_batch(truth.model(bnn), bnn, truth.data, fraction=0.5)
    exact = truth.log_evidence(torch.tensor([0, 2]))
    assert batch.before.mean == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("rows", [True, False])
def test_without_training_it_goes_on_until_a_batch_is_refused(rows):
    data = batch("mlp", N)
    bnn, _ = train(epochs=40)
    model = ps.classifier(bnn, N)
    start = elbo(model, bnn.guide, data)
    batches = reduce_model(model, bnn, data, fraction=0.1, rows=rows)
    assert [one.accepted for one in batches[:-1]] == [True] * (len(batches) - 1)
    kept = [one.masks.kept for one in batches]
    assert all(a > b for a, b in pairwise(kept))
    gain = elbo_difference(start, elbo(model, bnn.guide, data))
    total = sum(one.gain.mean for one in batches if one.accepted)
    assert gain.mean == pytest.approx(total, abs=1e-3) and (rows or total > 0)
    left = [one.masks.kept for one in batches if one.accepted]
    assert bnn.masks(-1.0).kept == (left or [35])[-1]


def test_a_network_without_anything_that_could_go_ends_it():
    bnn = ps.lift(nn.Linear(1, 1), normal())
    data = (torch.ones(5, 1), torch.zeros(5, 1))
    assert reduce_model(ps.regressor(bnn, 5, noise=1.0), bnn, data) == []


def test_callers_random_state_and_mode_are_left_alone():
    bnn = ps.lift(cnn(), normal(estimator="activations"))
    state = torch.get_rng_state()
    prune_batch(ps.classifier(bnn, 7), bnn, batch("cnn"))
    assert torch.equal(torch.get_rng_state(), state)
    assert bnn.training and bnn.net[1].num_batches_tracked == 0


# While training


@pytest.mark.parametrize("estimator", ["weights", "activations"])
def test_training_ends_at_the_recorded_sparsity(estimator):
    pruner = ReductionPruner(fraction=0.3)
    bnn, run = train(pruner, method=normal(estimator=estimator), epochs=6)
    entries = [entry["sparsity"] for entry in run.history]
    assert entries == sorted(entries)
    assert zeros(bnn) == entries[-1] > 0
    for entry in run.history:
        if entry["pruned"]:
            assert entry["elbo_gain"] > 2 * entry["elbo_gain_error"] >= 0
            assert math.isfinite(entry["elbo"])


def test_batches_come_after_the_warmup_and_never_last():
    _, run = train(ReductionPruner(fraction=0.1, warmup=2, every=2), epochs=6)
    assert ["elbo" in entry for entry in run.history] == [False, True, False, True, False, False]
    _, run = train(ReductionPruner(fraction=0.1, warmup=6), epochs=6)
    assert all(entry["sparsity"] == 0 for entry in run.history)


def test_a_batch_that_is_refused_is_the_last(monkeypatch):
    monkeypatch.setattr("pyrosparse.prune.reduction.STANDARD_ERRORS", math.inf)
    bnn, run = train(ReductionPruner(fraction=0.1), epochs=4)
    plain, _ = train(epochs=4)
    assert ["elbo" in entry for entry in run.history] == [True, False, False, False]
    # And what is refused leaves no trace in the training.
    assert all(torch.equal(v, plain.state_dict()[k]) for k, v in bnn.state_dict().items())


class Frozen(ps.infer.Callback):
    """Collects the posterior over what is frozen, each time an epoch ends."""

    def __init__(self):
        self.seen = []

    def on_epoch_end(self, run):
        for entry in run.lifted.guide.entries:
            q = entry.posterior()
            self.seen.append((q["loc"][~entry.mask], q["log_scale"][~entry.mask]))


@pytest.mark.parametrize(
    "make", [ReductionPruner, lambda: ps.prune.Pruner("magnitude", 0.5, freeze=True)]
)
def test_what_is_frozen_stays_at_zero_with_the_prior_as_its_posterior(make):
    watch = Frozen()
    # The second looks after training, before the next batch.
    train(watch, make(), epochs=5)
    count = 0
    for loc, log_scale in watch.seen:
        count += loc.numel()
        assert not loc.any()
        torch.testing.assert_close(log_scale, torch.full_like(log_scale, math.log(0.5)))
    assert count


@pytest.mark.parametrize("compact_every", [None, 1])
def test_resumed_run_equals_an_uninterrupted_one(tmp_path, compact_every):
    options = {"epochs": 5, "compact_every": compact_every}

    def pruner():
        return ReductionPruner(fraction=0.4, rows=compact_every is not None)

    whole, run = train(pruner(), **options)
    assert run.history[-1]["sparsity"] > 0
    for epochs_before in (1, 3):

        class Stop(ps.infer.Callback):
            def on_epoch_end(self, run, last=epochs_before):
                if run.epoch == last + 1:
                    raise KeyboardInterrupt

        path = tmp_path / f"{epochs_before}.safetensors"
        with pytest.raises(KeyboardInterrupt):
            train(pruner(), Stop(), checkpoint=path, **options)
        bnn, resumed = train(pruner(), checkpoint=path, **options)
        assert all(torch.equal(v, whole.state_dict()[k]) for k, v in bnn.state_dict().items())
        seconds = {"seconds": None}
        assert [e | seconds for e in resumed.history] == [e | seconds for e in run.history]


def test_stopping_is_remembered_by_the_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr("pyrosparse.prune.reduction.STANDARD_ERRORS", math.inf)
    pruner = ReductionPruner()
    train(pruner, epochs=2)
    other = ReductionPruner()
    other.load_state_dict(pruner.state_dict())
    assert pruner.stopped and other.stopped


def test_planted_support_is_recovered_without_a_sparsity():
    generator = torch.Generator().manual_seed(5)
    support = torch.tensor([1, 0, 0, 1, 0, 0, 0, 1], dtype=torch.bool)
    x = torch.randn(80, 8, generator=generator)
    y = x @ support.float().unsqueeze(-1) + 0.1 * torch.randn(80, 1, generator=generator)
    net = nn.Linear(8, 1, bias=False)
    bnn = ps.lift(net, normal(scale=1.0))
    ps.fit(
        ps.regressor(bnn, 80, noise=0.1),
        bnn.guide,
        (x, y),
        epochs=300,
        batch_size=80,
        learning_rate=0.05,
        schedule=ps.infer.schedules.cosine(),
        callbacks=[ReductionPruner(fraction=0.1, warmup=200, every=5)],
        progress=False,
    )
    assert torch.equal(net.weight[0] != 0, support)


def test_gates_beside_the_weights_are_left_alone():
    net = mlp()
    pairs = [(normal(), ps.weights(net)), (LogNormalGate(), ps.inputs(net))]
    bnn = ps.lift(net, pairs)
    ps.fit(
        ps.classifier(bnn, N),
        bnn.guide,
        batch("mlp", N),
        epochs=3,
        callbacks=[ReductionPruner()],
        progress=False,
    )
    for entry in bnn.guide.entries:
        assert entry.frozen == (entry.target.kind == "weight")


@pytest.mark.parametrize("method", [ps.Gaussian(), ps.Horseshoe()])
def test_methods_without_a_normal_posterior_are_refused_before_the_first_step(method):
    with pytest.raises(ValueError, match="no normal posterior"):
        train(ReductionPruner(), method=method)


@pytest.mark.parametrize(
    "wrong", [{"warmup": -1}, {"every": 0}, {"draws": 1}, {"warmup": 0.5}, {"subset": 0}]
)
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ReductionPruner(**wrong)
