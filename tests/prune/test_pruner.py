"""Pruning during training, with and without the gate."""

import math

import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import nn

import pyrosparse as ps
from pyrosparse.evidence import BayesFactor
from pyrosparse.infer import schedules
from pyrosparse.prune import BayesFactorPruner, Pruner
from tests.methods.gates import LogNormalGate
from tests.nets import batch, cnn, mlp

N = 28


def train(*callbacks, epochs=3, method=None, net=None, data=None, **options):
    """Train from the same start each time; returns the lifted network and the run."""
    torch.manual_seed(0)
    bnn = ps.lift(net or mlp(), method or ps.Gaussian())
    options = {"batch_size": 7, "learning_rate": 0.05, "progress": False} | options
    model = ps.classifier(bnn, N)
    data = data or batch("mlp", N)
    return bnn, ps.fit(model, bnn.guide, data, epochs=epochs, callbacks=callbacks, **options)


def sparsity(bnn: ps.Lifted) -> float:
    weights = [target.value for target in bnn.targets]
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    return zeros / sum(weight.numel() for weight in weights)


def expected_sparsity(bnn: ps.Lifted, wanted: float) -> float:
    sizes = [target.value.numel() for target in bnn.targets]
    return sum(round(n * wanted) for n in sizes) / sum(sizes)


class Watch(ps.infer.Callback):
    """Collects the weights at the end of each epoch, after the callbacks before it."""

    def __init__(self):
        self.seen = []

    def on_epoch_end(self, run):
        self.seen.append({t.key: t.value.detach().clone() for t in run.lifted.targets})


def scripted_factors(monkeypatch, *totals: float) -> None:
    """Let the Bayes factors of the rounds that prune be the given ones."""
    left = list(totals)

    def factor(before, after, likelihood="sum"):
        return BayesFactor(0.0 if before is after else left.pop(0), 0.0, before.n)

    monkeypatch.setattr("pyrosparse.prune.pruner.log_bayes_factor", factor)


@pytest.mark.parametrize("criterion", ["magnitude", "random"])
@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("posterior", ["point", "normal"])
def test_network_ends_at_the_wanted_sparsity(criterion, freeze, posterior):
    pruner = Pruner(criterion, 0.75, freeze=freeze)
    bnn, run = train(pruner, method=ps.Gaussian(posterior=posterior))
    assert sparsity(bnn) == expected_sparsity(bnn, 0.75)
    assert run.history[-1]["sparsity"] == sparsity(bnn)


def test_history_records_what_happened():
    _, run = train(Pruner("magnitude", 0.75))
    for entry in run.history:
        assert entry["pruned"] is True
        parts = entry["log_bayes_factor_likelihood"] + entry["log_bayes_factor_prior"]
        assert entry["log_bayes_factor"] == parts
        assert entry["log_bayes_factor_per_datum"] == parts / N
        assert math.isfinite(entry["train_nll"])


@pytest.mark.parametrize("likelihood", ["sum", "mean"])
def test_recorded_factor_is_that_of_the_weights_before_and_after(likelihood):
    bnn, run = train(Pruner("magnitude", 0.75, likelihood=likelihood), epochs=1)
    start = Watch()
    before, _ = train(start, epochs=1)
    pruned_copy = ps.lift(mlp(), ps.Gaussian())
    pruned_copy.load_state_dict(before.state_dict())
    pruned_copy.zero(ps.prune.magnitude(start.seen[0], 0.75))
    for key, value in pruned_copy.state_dict().items():
        assert torch.equal(value, bnn.state_dict()[key])
    at = [
        ps.evidence.log_posterior(ps.classifier(net, N), net.guide, batch("mlp", N))
        for net in (before, pruned_copy)
    ]
    factor = ps.evidence.log_bayes_factor(*at, likelihood)
    assert run.history[0]["log_bayes_factor"] == pytest.approx(factor.total, rel=1e-12)
    assert run.history[0]["log_bayes_factor_prior"] == pytest.approx(factor.prior, rel=1e-12)
    assert run.history[0]["train_nll"] == pytest.approx(-at[1].likelihood_per_datum, rel=1e-12)


def test_frozen_weights_stay_exactly_zero_under_momentum():
    watch = Watch()
    train(Pruner("magnitude", 0.75, freeze=True), watch, epochs=6)
    first = {key: weight == 0 for key, weight in watch.seen[0].items()}
    for later in watch.seen[1:]:
        for key, weight in later.items():
            assert torch.equal(weight == 0, first[key])


class MidEpoch(nn.Module):
    """A network that notes how many of its weights are zero at each training pass."""

    def __init__(self):
        super().__init__()
        self.layers = mlp()
        self.zeros = []

    def forward(self, x):
        if self.training:
            own = [p for name, p in self.layers.named_parameters() if name.endswith("weight")]
            self.zeros.append(sum(int((p == 0).sum()) for p in own))
        return self.layers(x)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda groups: torch.optim.Adam(groups),
        lambda groups: torch.optim.SGD(groups, momentum=0.9),
        lambda groups: torch.optim.AdamW(groups, weight_decay=0.1),
        lambda groups: torch.optim.RMSprop(groups, momentum=0.9),
    ],
)
@pytest.mark.parametrize("freeze", [True, False])
def test_only_frozen_weights_stay_zero_during_an_epoch(freeze, optimizer):
    net = MidEpoch()
    pruner = Pruner("magnitude", 0.75, freeze=freeze)
    # A captured forward would not run, and so note nothing.
    train(pruner, net=net, epochs=4, optimizer=optimizer, learning_rate=0.01, capture=False)
    # The first pass of an epoch comes before its first step.
    after_steps = [zeros for i, zeros in enumerate(net.zeros[4:]) if i % 4]
    wanted = sum(round(n * 0.75) for n in (20, 15))
    if freeze:
        assert set(after_steps) == {wanted}
    else:
        assert max(after_steps) < wanted


def test_ramp_raises_the_sparsity():
    ramp = schedules.cubic(end=0.5)
    bnn, run = train(Pruner("magnitude", 0.8, ramp=ramp, freeze=True), epochs=4)
    shares = [0.8 * ramp(epoch / 4) for epoch in (1, 2, 3, 4)]
    assert [e["sparsity"] for e in run.history] == [expected_sparsity(bnn, s) for s in shares]


# The gate


def gated(threshold: float = 0.0, per_datum: bool = False, **options) -> BayesFactorPruner:
    return BayesFactorPruner("random", 0.5, threshold=threshold, per_datum=per_datum, **options)


def test_first_round_prunes_and_a_poor_factor_shuts_the_gate(monkeypatch):
    scripted_factors(monkeypatch, 2.0, 1.0, -0.5, 7.0)
    _, run = train(gated(), epochs=6)
    assert [e["pruned"] for e in run.history[:-1]] == [True, True, True, False, False]
    assert [e["log_bayes_factor"] for e in run.history[:-1]] == [2.0, 1.0, -0.5, 0.0, 0.0]
    # The gate is shut; what is recorded last is the round at the end, which asks no gate.
    assert run.history[-1]["pruned"]
    assert run.history[-1]["log_bayes_factor"] == 7.0


@pytest.mark.parametrize(
    ("threshold", "factor", "opens"), [(1.0, 1.0, False), (1.0, 1.001, True), (-1.0, -0.5, True)]
)
def test_gate_opens_above_the_threshold_only(threshold, factor, opens):
    pruner = gated(threshold)
    assert pruner.accepts()
    pruner.learn(BayesFactor(factor - 1.0, 1.0, 10))
    assert pruner.accepts() == opens


def test_gate_shut_by_a_low_factor_reopens_below_zero(monkeypatch):
    # A round that does not prune has log BF = 0, which exceeds a negative threshold.
    scripted_factors(monkeypatch, -5.0, 3.0, 3.0)
    _, run = train(gated(threshold=-1.0), epochs=4)
    assert [e["pruned"] for e in run.history] == [True, False, True, True]
    assert run.history[1]["log_bayes_factor"] == 0.0


def test_threshold_can_be_per_datum():
    for per_datum, opens in ((True, False), (False, True)):
        pruner = gated(threshold=0.2, per_datum=per_datum)
        pruner.learn(BayesFactor(1.0, 0.0, 10))
        assert pruner.accepts() == opens


def test_by_default_a_round_may_take_a_tenth_of_each_datums_density():
    for per_datum, opens in ((math.log(0.91), True), (math.log(0.89), False)):
        pruner = BayesFactorPruner()
        pruner.learn(BayesFactor(1000 * per_datum, 0.0, 1000))
        assert pruner.accepts() == opens


def test_network_is_pruned_at_the_end_though_the_gate_is_shut(monkeypatch):
    scripted_factors(monkeypatch, -1.0, -1.0)
    bnn, run = train(gated(), epochs=3)
    assert not run.history[1]["pruned"]
    assert sparsity(bnn) == expected_sparsity(bnn, 0.5)
    assert run.history[1]["sparsity"] < run.history[2]["sparsity"] == sparsity(bnn)


def test_round_that_finds_nothing_to_prune_does_not_shut_the_gate():
    ramp = schedules.cubic(start=0.5, end=1.0)  # nothing to prune in the first half
    _, run = train(gated(ramp=ramp), epochs=6)
    assert run.history[3]["pruned"]


@pytest.mark.parametrize("epochs_before", [1, 2, 3])
def test_resumed_run_equals_an_uninterrupted_one(tmp_path, epochs_before):
    def options():
        return gated(threshold=-20.0)

    whole, run = train(options(), epochs=4)

    class Stop(ps.infer.Callback):
        def on_epoch_end(self, run):
            if run.epoch == epochs_before + 1:
                raise KeyboardInterrupt

    path = tmp_path / "checkpoint.safetensors"

    def attempt(stop: bool):
        return train(options(), Stop() if stop else ps.infer.Callback(), epochs=4, checkpoint=path)

    with pytest.raises(KeyboardInterrupt):
        attempt(stop=True)
    bnn, resumed = attempt(stop=False)
    assert all(torch.equal(v, whole.state_dict()[k]) for k, v in bnn.state_dict().items())
    seconds = {"seconds": None}
    assert [e | seconds for e in resumed.history] == [e | seconds for e in run.history]


def test_networks_with_batch_norm_keep_their_statistics_when_pruned():
    net = cnn()
    train(Pruner("magnitude", 0.5), net=net, data=batch("cnn", N), epochs=2)
    assert net[1].num_batches_tracked == 2 * N // 7


def test_own_criterion_is_called_with_weights_sparsity_and_a_generator():
    def keep_first(weights, sparsity, generator):
        assert isinstance(generator, torch.Generator)
        masks = ps.Masks()
        for name, weight in weights.items():
            masks[name] = torch.zeros_like(weight, dtype=torch.bool)
            masks[name].view(-1)[: round(weight.numel() * (1 - sparsity))] = True
        return masks

    bnn, _ = train(Pruner(keep_first, 0.8))
    assert bnn.net[0].weight.flatten()[:4].all()
    assert not bnn.net[0].weight.flatten()[4:].any()


@pytest.mark.parametrize("make", [Pruner, BayesFactorPruner])
@pytest.mark.parametrize("wrong", [-0.1, 1.0, math.nan])
def test_sparsity_out_of_range_is_refused(make, wrong):
    with pytest.raises(ValueError, match="sparsity"):
        make("magnitude", wrong)


@pytest.mark.parametrize("make", [Pruner, BayesFactorPruner])
def test_unknown_options_are_refused(make):
    with pytest.raises(ValueError, match="did you mean 'random'"):
        make("randon", 0.5)
    with pytest.raises(ValueError, match="likelihood"):
        make("random", 0.5, likelihood="max")


def test_guide_that_is_not_the_lifted_networks_own_is_refused():
    bnn = ps.lift(mlp(), ps.Gaussian())
    model = ps.classifier(bnn, N)
    guide = AutoNormal(model)
    with pytest.raises(ValueError, match="own guide"):
        ps.fit(
            model,
            guide,
            batch("mlp", N),
            epochs=1,
            callbacks=[Pruner("magnitude", 0.5)],
            progress=False,
        )


def test_network_without_weights_among_its_targets_is_refused():
    net = mlp()
    bnn = ps.lift(net, LogNormalGate(), ps.inputs(net))
    with pytest.raises(ValueError, match="no weight"):
        ps.fit(
            ps.classifier(bnn, N),
            bnn.guide,
            batch("mlp", N),
            epochs=1,
            callbacks=[Pruner("magnitude", 0.5)],
            progress=False,
        )
