"""Loaders that shuffle, augment or run out: all draws are scored on the same data."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

import pyrosparse as ps
from pyrosparse.diagnostics import khat
from pyrosparse.evidence import elbo, repeated
from pyrosparse.evidence.repeated import Repeated
from tests.linear_gaussian import LinearGaussian

TRUTH = LinearGaussian(n=40)


class Noisy(Dataset):
    """With random augmentation: other inputs each time."""

    def __init__(self, generator=None):
        self.generator = generator

    def __len__(self):
        return 40

    def __getitem__(self, place):
        noise = torch.randn(3, generator=self.generator, dtype=torch.float64)
        return TRUTH.x[place] + noise, TRUTH.y[place]


def loader(kind):
    whole = TensorDataset(*TRUTH.data)
    if kind == "shuffled":
        return DataLoader(whole, batch_size=7, shuffle=True)
    if kind == "own generator":
        generator = torch.Generator().manual_seed(3)
        return DataLoader(whole, batch_size=7, shuffle=True, generator=generator)
    if kind == "drop last":
        return DataLoader(whole, batch_size=7, shuffle=True, drop_last=True)
    if kind == "augmented":
        return DataLoader(Noisy(), batch_size=7)
    if kind == "augmented by a generator of its own":
        return DataLoader(Noisy(torch.Generator()), batch_size=7)
    if kind == "spent":
        return iter([(TRUTH.x[:20], TRUTH.y[:20]), (TRUTH.x[20:], TRUTH.y[20:])])
    buffer = TRUTH.x[:20].clone()

    def one_buffer():
        for start in (0, 20):
            buffer.copy_(TRUTH.x[start : start + 20])
            yield buffer, TRUTH.y[start : start + 20]

    return one_buffer()


KINDS = [
    "shuffled",
    "own generator",
    "drop last",
    "augmented",
    "augmented by a generator of its own",
    "spent",
    "one buffer",
]
AS_THEY_ARE = {"shuffled", "own generator", "spent", "one buffer"}
REPEATED_BY_THEMSELVES = {"shuffled", "drop last", "augmented"}


def fitted():
    return TRUTH.at_mean_field_optimum()


@pytest.mark.parametrize("kind", KINDS)
def test_all_draws_are_of_the_same_data(kind):
    bnn = fitted()
    state = torch.get_rng_state()
    tree = ps.to_datatree(bnn, TRUTH.model(bnn), loader(kind), draws=30, var_names="weight")
    assert torch.equal(state, torch.get_rng_state())
    weights = torch.from_numpy(tree["posterior"]["weight"].to_numpy())[0, :, 0]
    x, y = (
        torch.from_numpy(tree[group][name].to_numpy())
        for group, name in (("constant_data", "x"), ("observed_data", "y"))
    )
    expected = torch.distributions.Normal(weights @ x.T, TRUTH.noise).log_prob(y)
    found = torch.from_numpy(tree["log_likelihood"]["y"].to_numpy())[0]
    torch.testing.assert_close(found, expected)
    in_order = ps.to_datatree(bnn, TRUTH.model(bnn), TRUTH.data, draws=30, var_names="weight")
    # The same draws as on tensors, whatever random numbers a loader takes.
    assert (in_order["posterior"]["weight"] == tree["posterior"]["weight"]).all()
    if kind in AS_THEY_ARE:
        scores = torch.from_numpy(in_order["log_likelihood"]["y"].to_numpy())[0]
        torch.testing.assert_close(found.sort(1).values, scores.sort(1).values)


@pytest.mark.parametrize("kind", ["shuffled", "own generator"])
def test_comparison_and_loo_are_those_in_order(kind):
    good, poor = fitted(), TRUTH.lifted(initial_scale=0.1)
    models = {"good": (good, TRUTH.model(good)), "poor": (poor, TRUTH.model(poor))}
    expected = ps.compare_models(models, TRUTH.data, draws=50, train=TRUTH.data)
    found = ps.compare_models(models, loader(kind), draws=50, train=loader(kind))
    for one, other in zip(found.rows, expected.rows, strict=True):
        assert one.name == other.name
        for name in ("elpd", "se", "difference", "difference_se", "loo", "loo_se"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-9)


@pytest.mark.parametrize("kind", ["augmented", "augmented by a generator of its own"])
def test_models_are_compared_on_the_same_augmented_data(kind):
    bnn = fitted()
    model = TRUTH.model(bnn)
    one, other = fitted(), fitted()
    models = {"one": (one, TRUTH.model(one)), "other": (other, TRUTH.model(other))}
    rows = ps.compare_models(models, loader(kind), draws=20).rows
    assert rows[1].difference == rows[1].difference_se == 0.0
    ratios = elbo(model, bnn.guide, loader(kind), draws=30).draws
    assert ratios.isfinite().all()


def test_elbos_are_of_the_same_data():
    bnn = fitted()
    model = TRUTH.model(bnn)
    for kind in AS_THEY_ARE:
        draws = elbo(model, bnn.guide, loader(kind), draws=5).draws
        assert draws.tolist() == pytest.approx([TRUTH.log_evidence()] * 5, rel=1e-10)
    # With data that are others for each draw, the exact posterior would have a tail.
    with pytest.raises(ValueError, match="all log ratios are equal"):
        khat(model, bnn.guide, loader("shuffled"), draws=30)


def test_pruning_judges_by_the_same_data():
    def reduced(data):
        bnn = fitted()
        return ps.prune.reduce_model(TRUTH.model(bnn), bnn, data, draws=4)

    for kind in ("shuffled", "spent"):
        found, expected = reduced(loader(kind)), reduced(TRUTH.data)
        assert [batch.gain.mean for batch in found] == pytest.approx(
            [batch.gain.mean for batch in expected], rel=1e-6
        )

    bnn = fitted()
    part = ps.prune.reduce_model(TRUTH.model(bnn), bnn, TRUTH.data, draws=4, subset=20)
    assert all(batch.gain.draws.isfinite().all() for batch in part)
    bnn = fitted()
    with pytest.raises(ValueError, match="only tensors can be subsampled"):
        ps.prune.reduce_model(TRUTH.model(bnn), bnn, loader("shuffled"), draws=4, subset=20)

    run = ps.fit(
        TRUTH.model(bnn),
        bnn.guide,
        DataLoader(Noisy(), batch_size=7),
        epochs=2,
        learning_rate=0.0,
        callbacks=[ps.prune.Pruner("magnitude", 0.0)],
        progress=False,
    )
    assert [entry["log_bayes_factor"] for entry in run.history] == [0.0, 0.0]


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_fit_in_memory_is_the_same_or_refused(kind, monkeypatch):
    monkeypatch.setattr(repeated, "MEMORY", 100)
    data = Repeated(loader(kind), memory=100)
    first = list(data.minibatches(7))
    if kind not in REPEATED_BY_THEMSELVES:
        with pytest.raises(ValueError, match=r"in another order.*shuffle=False"):
            list(data.minibatches(7))
        return
    for one, other in zip(first, data.minibatches(7), strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_half_precision_and_other_batches_are_compared():
    def changing():
        for number in range(2):
            yield {"x": torch.full((3,), float(number), dtype=torch.bfloat16), "name": "a"}

    for memory in (0, 100):
        data = Repeated(list(changing()) if memory else _Again(changing), memory=memory)
        first, second = (list(data.minibatches(3, lambda x, name: None)) for _ in range(2))
        for one, other in zip(first, second, strict=True):
            assert torch.equal(one[0], other[0])


class _Again:
    def __init__(self, batches):
        self.batches_of = batches

    def __iter__(self):
        return self.batches_of()


def test_a_model_that_chooses_its_data_is_refused():
    bnn = fitted()
    model = TRUTH.model(bnn)

    def shuffling(x, y):
        order = torch.randperm(len(x))
        return model(x[order], y[order])

    for call in (
        lambda: ps.to_datatree(bnn, shuffling, TRUTH.data, draws=3),
        lambda: ps.compare_models({"one": (bnn, shuffling)}, TRUTH.data, draws=3),
    ):
        with pytest.raises(ValueError, match="observes different data at 'y' in different draws"):
            call()
