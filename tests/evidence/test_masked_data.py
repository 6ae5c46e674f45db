"""Masked data count nowhere: by handler, by distribution, or left out, the answers are the same."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

import pyrosparse as ps
from pyrosparse.evidence import elbo, evaluate, log_posterior
from pyrosparse.prune.turbo.curvature import curvature
from tests.linear_gaussian import LinearGaussian
from tests.nets import batch, mlp

TRUTH = LinearGaussian(n=20)
KNOWN = torch.arange(20) % 3 != 1


def by_handler(bnn, n=20):
    def model(x, known, y=None):
        mean = bnn(x)
        with pyro.plate("data", n, subsample=torch.arange(len(x))), poutine.mask(mask=known):
            return pyro.sample("y", dist.Normal(mean, TRUTH.noise).to_event(1), obs=y)

    return model


def by_distribution(bnn, n=20):
    def model(x, known, y=None):
        likelihood = dist.Normal(bnn(x), TRUTH.noise).to_event(1).mask(known)
        with pyro.plate("data", n, subsample=torch.arange(len(x))):
            return pyro.sample("y", likelihood, obs=y)

    return model


def by_element(bnn, n=20):
    def model(x, known, y=None):
        likelihood = dist.Normal(bnn(x), TRUTH.noise).mask(known[:, None]).to_event(1)
        with pyro.plate("data", n, subsample=torch.arange(len(x))):
            return pyro.sample("y", likelihood, obs=y)

    return model


def data() -> tuple[torch.Tensor, ...]:
    """With a placeholder where nothing is known."""
    x, y = TRUTH.data
    return x, KNOWN, torch.where(KNOWN[:, None], y, torch.full_like(y, 50.0))


MASKS = [by_handler, by_distribution, by_element]


@pytest.mark.parametrize("batch_size", [7, 100])
@pytest.mark.parametrize("mask", MASKS)
def test_the_answers_are_those_of_the_known_data_alone(mask, batch_size):
    bnn = TRUTH.lifted(initial_scale=0.3)
    model, options = mask(bnn), {"batch_size": batch_size}
    left = (TRUTH.x[KNOWN], TRUTH.y[KNOWN])
    plain = ps.regressor(bnn, int(KNOWN.sum()), noise=TRUTH.noise)
    expected = evaluate(plain, bnn.guide, left)
    assert evaluate(model, bnn.guide, data(), **options) == pytest.approx(expected, rel=1e-12)
    one, other = (
        log_posterior(m, bnn.guide, d, **options) for m, d in ((model, data()), (plain, left))
    )
    assert (one.n, one.prior) == (other.n, other.prior) and one.n == int(KNOWN.sum())
    assert one.likelihood == pytest.approx(other.likelihood, rel=1e-12)
    one, other = (
        elbo(m, bnn.guide, d, draws=4, **options) for m, d in ((model, data()), (plain, left))
    )
    torch.testing.assert_close(one.draws, other.draws, rtol=1e-12, atol=0)


def test_with_the_posterior_of_the_known_data_every_draw_is_their_log_evidence():
    x, y = TRUTH.x[KNOWN], TRUTH.y[KNOWN]
    known = LinearGaussian(n=len(x))
    known.x, known.y = torch.linalg.qr(x).Q * 3, y
    bnn = known.at_mean_field_optimum()
    inputs = torch.zeros(20, 3, dtype=torch.float64)
    inputs[KNOWN] = known.x
    for mask in MASKS:
        found = elbo(mask(bnn), bnn.guide, (inputs, *data()[1:]), draws=4, batch_size=6).draws
        assert found.tolist() == pytest.approx([known.log_evidence()] * 4, rel=1e-10)


def test_pruning_and_patience_do_not_see_placeholders():
    def history(model_of, given, n):
        torch.manual_seed(0)
        bnn = TRUTH.lifted()
        pruner = ps.prune.BayesFactorPruner("magnitude", sparsity=0.5, threshold=-10.0)
        run = ps.fit(
            model_of(bnn, n),
            bnn.guide,
            given,
            epochs=3,
            batch_size=100,
            learning_rate=0.0,
            validation=given,
            callbacks=[pruner],
            progress=False,
        )
        names = ("validation_nll", "train_nll", "log_bayes_factor", "pruned")
        return [[entry[name] for name in names] for entry in run.history]

    def regressor(bnn, n):
        return ps.regressor(bnn, n, noise=TRUTH.noise)

    expected = history(regressor, (TRUTH.x[KNOWN], TRUTH.y[KNOWN]), int(KNOWN.sum()))
    for mask in MASKS:
        for one, other in zip(history(mask, data(), 20), expected, strict=True):
            assert one == pytest.approx(other, rel=1e-9)


def test_curvature_is_of_the_known_data():
    bnn = ps.lift(
        nn.Linear(3, 1, bias=False).double(), ps.GammaSpikeAndSlab(likelihood="curvature")
    )
    options = {"names": ["weight"], "examples": 20}
    for seed in range(3):
        one, other = (
            curvature(mask(bnn), bnn, data(), seed=seed, **options)["weight"]
            for mask in (by_handler, by_distribution)
        )
        assert torch.equal(one, other)
    x, _, y = data()
    nothing = (x, torch.zeros(20, dtype=torch.bool), y)
    assert curvature(by_handler(bnn), bnn, nothing, seed=0, **options)["weight"].abs().max() == 0


def test_elements_that_are_masked_do_not_count():
    bnn = ps.lift(nn.Linear(4, 3).double(), ps.Gaussian())
    x, y = torch.randn(6, 4).double(), torch.randn(6, 3).double()
    known = torch.rand(6, 3) < 0.5
    known[0], known[1] = True, False

    def model(x, known, y=None):
        likelihood = dist.Normal(bnn(x), 0.5).mask(known).to_event(1)
        with pyro.plate("data", 6, subsample=torch.arange(len(x))):
            return pyro.sample("y", likelihood, obs=y)

    scores = dist.Normal(bnn.net(x), 0.5).log_prob(y)[known]
    expected = -float(scores.detach().sum()) / int(known.any(1).sum())
    assert evaluate(model, bnn.guide, (x, known, y))["nll"] == pytest.approx(expected, rel=1e-12)


def maps(bnn, mask):
    def model(x, known, y=None):
        logits = bnn(x).movedim(1, -1)
        fn = dist.Categorical(logits=logits)
        with pyro.plate("data", 10, subsample=torch.arange(len(x))):
            if mask == "elements":
                return pyro.sample("y", fn.mask(known).to_event(2), obs=y)
            fn = fn.to_event(2)
            whole = known.flatten(1).all(1)
            if mask == "distribution":
                return pyro.sample("y", fn.mask(whole), obs=y)
            with poutine.mask(mask=whole):
                return pyro.sample("y", fn, obs=y)

    return model


@pytest.mark.parametrize("mask", ["elements", "distribution", "handler"])
def test_accuracy_counts_the_known_labels_of_maps(mask):
    bnn = ps.lift(nn.Conv2d(1, 3, 1), ps.Gaussian())
    x, y = torch.randn(10, 1, 4, 5), torch.randint(3, (10, 4, 5))
    known = torch.rand(10, 4, 5) < 0.9
    known[2:6] = True
    counted = known if mask == "elements" else known.flatten(1).all(1)[:, None, None].expand_as(y)
    logits = bnn.net(x)
    right = (logits.argmax(1) == y)[counted].double().mean()
    scores = nn.functional.cross_entropy(logits, y, reduction="none")[counted].sum()
    found = evaluate(maps(bnn, mask), bnn.guide, (x, known, y), batch_size=3)
    assert found["accuracy"] == pytest.approx(float(right), abs=1e-12)
    data = int(counted.flatten(1).any(1).sum())
    assert found["nll"] == pytest.approx(float(scores.detach()) / data, rel=1e-5)


def test_several_sites_count_a_datum_once():
    bnn = ps.lift(mlp(), ps.Gaussian())
    x, y = batch("mlp", 20)

    def model(x, known, y=None):
        logits = bnn(x)
        with pyro.plate("data", 20, subsample=torch.arange(len(x))):
            pyro.sample("one", dist.Categorical(logits=logits).mask(known), obs=y)
            pyro.sample("two", dist.Categorical(logits=-logits).mask(~known & (y == 1)), obs=y)
            pyro.deterministic("top", logits.argmax(-1).double())

    logits, other = bnn.net(x), KNOWN.logical_not() & (y == 1)
    total = nn.functional.cross_entropy(logits[KNOWN], y[KNOWN], reduction="sum")
    total = total + nn.functional.cross_entropy(-logits[other], y[other], reduction="sum")
    found = evaluate(model, bnn.guide, (x, KNOWN, y))
    assert found["nll"] == pytest.approx(
        float(total.detach()) / int((KNOWN | other).sum()), rel=1e-5
    )
    right = (logits.argmax(1) == y)[KNOWN].sum() + (logits.argmin(1) == y)[other].sum()
    assert found["accuracy"] == pytest.approx(float(right) / int((KNOWN | other).sum()))
    assert log_posterior(model, bnn.guide, (x, KNOWN, y), batch_size=7).n == int(
        (KNOWN | other).sum()
    )


def test_scales_do_not_change_densities():
    bnn = TRUTH.lifted()
    plain = TRUTH.model(bnn)
    weighted = poutine.scale(plain, scale=0.1)
    assert evaluate(weighted, bnn.guide, TRUTH.data) == evaluate(plain, bnn.guide, TRUTH.data)
    found, expected = (elbo(m, bnn.guide, TRUTH.data).mean for m in (weighted, plain))
    assert found == pytest.approx(expected)


def test_what_cannot_be_counted_is_refused():
    bnn = TRUTH.lifted()
    x, known, y = data()
    nothing = torch.zeros_like(known)
    for mask in MASKS:
        with pytest.raises(ValueError, match="all data are masked"):
            evaluate(mask(bnn), bnn.guide, (x, nothing, y))
        with pytest.raises(ValueError, match="all data are masked"):
            ps.to_datatree(bnn, mask(bnn), (x, nothing, y), draws=2)

    def column(x, known, y=None):
        with poutine.mask(mask=known[:, None]):
            return by_handler(bnn)(x, known, y)

    with pytest.raises(ValueError, match=r"has the shape \(20, .*count every datum several"):
        evaluate(column, bnn.guide, (x, known, y))

    def itself(x, known, y=None):
        mean = bnn(x)
        with pyro.plate("data", 20, subsample_size=5) as index:
            likelihood = dist.Normal(mean[index], 0.5).to_event(1)
            pyro.sample("y", likelihood, obs=None if y is None else y[index])

    some = "scores 5 of the 20 data that it is given, those that the plate 'data' chooses"
    with pytest.raises(ValueError, match=some):
        evaluate(itself, bnn.guide, (x, known, y))
    with pytest.raises(ValueError, match=some):
        ps.to_datatree(bnn, itself, (x, known, y), draws=2)
    with pytest.raises(ValueError, match=some):
        elbo(itself, bnn.guide, (x, known, y), draws=2)

    def penalised(x, known, y=None):
        pyro.factor("penalty", -x.new_ones(()))
        return by_handler(bnn)(x, known, y)

    whole = elbo(penalised, bnn.guide, (x, known, y), draws=2).mean
    plain = elbo(by_handler(bnn), bnn.guide, (x, known, y), draws=2).mean
    assert whole == pytest.approx(plain - 1)
    with pytest.raises(ValueError, match="'penalty' has log densities of shape"):
        elbo(penalised, bnn.guide, (x, known, y), draws=2, batch_size=7)  # it would count thrice
    with pytest.raises(ValueError, match="observes nothing"):
        evaluate(bnn, bnn.guide, (x,))
