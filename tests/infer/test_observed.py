"""What fit says of plates, numbers of data and labels before it trains."""

import warnings

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, Subset, TensorDataset

import pyrosparse as ps
from pyrosparse.data import Augmented, Examples

N, SIZE = 50, 8
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(N, 4, generator=GENERATOR)
Y = torch.arange(N) % 3


def lifted(method=None):
    torch.manual_seed(0)
    return ps.lift(nn.Linear(4, 3), method or ps.Gaussian(posterior="normal"))


def train(model, bnn, data=(X, Y), **options):
    options = {"epochs": 1, "batch_size": SIZE, "progress": False} | options
    return ps.fit(model, bnn.guide, data, **options)


def program(bnn, plate, scale=1.0, site="y"):
    """A model whose plate is made of a batch."""

    def model(x, y=None):
        logits = bnn(x)
        with poutine.scale(scale=scale), plate(x):
            return pyro.sample(site, dist.Categorical(logits=logits), obs=y)

    return model


def of_batch(x):
    return pyro.plate("rows", len(x))


def of_all(x):
    return pyro.plate("rows", N, subsample_size=len(x))


def test_plate_of_the_minibatch_is_warned_of_with_the_way_out():
    bnn = lifted()
    with pytest.warns(UserWarning) as caught:
        train(program(bnn, of_batch), bnn)
    (said,) = caught
    assert said.filename == __file__
    assert str(said.message) == (
        "the plate 'rows' of 'y' has the size 8 of a minibatch, but there are 50 data: the prior "
        "(the KL divergence) weighs 6.25 times what it should. Write "
        'pyro.plate("rows", 50, subsample_size=len(x))'
    )


def test_plate_that_it_names_trains_without_a_word_and_to_the_posterior():
    # w ~ N(0, 1), y_i ~ N(w, 1): the posterior's mean is sum(y) / (n + 1).
    y = 2 + torch.randn(64, 1, generator=torch.Generator().manual_seed(0))
    x = torch.ones(64, 1)
    means = {}
    for name, size in (("all", 64), ("batch", None)):
        net = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(net.weight)
        bnn = ps.lift(net, ps.Gaussian(scale=1.0, posterior="normal"))

        def model(x, y, bnn=bnn, size=size):
            mean = bnn(x)
            with pyro.plate("data", size or len(x), subsample_size=len(x)):
                pyro.sample("y", dist.Normal(mean, 1.0).to_event(1), obs=y)

        with warnings.catch_warnings():
            if size is None:
                warnings.filterwarnings("ignore", message="the plate 'data'")
            options = {"learning_rate": 0.05, "batch_size": 4}
            options["schedule"] = ps.infer.schedules.cosine()
            train(model, bnn, (x, y), epochs=60, **options)
        means[name] = net.weight.item()
    assert means["all"] == pytest.approx(float(y.sum()) / 65, abs=0.03)
    assert means["batch"] == pytest.approx(float(y.sum()) / 80, abs=0.05)  # KL of 16 data


def test_no_plate_at_all_is_warned_of():
    bnn = lifted()

    def model(x, y=None):
        return pyro.sample("y", dist.Categorical(logits=bnn(x)).to_event(1), obs=y)

    with pytest.warns(UserWarning, match=r"'y' is in no plate .*the 8 of a minibatch.*6.25 times"):
        train(model, bnn)


@pytest.mark.parametrize(
    ("model", "batch_size"),
    [
        (lambda bnn: program(bnn, of_all), SIZE),
        (lambda bnn: program(bnn, of_batch), N),  # one batch
        (lambda bnn: program(bnn, of_batch), 100),
        (lambda bnn: program(bnn, of_all, scale=0.1), SIZE),  # tempered
        (lambda bnn: program(bnn, of_batch, scale=N / SIZE), SIZE),  # by hand
        (lambda bnn: program(bnn, of_batch, scale=0.3), SIZE),  # on purpose, it seems
        (lambda bnn: ps.classifier(bnn, N), SIZE),
        (lambda bnn: ps.distill(bnn, nn.Linear(4, 3), N), SIZE),
        (lambda bnn: ps.distill(bnn, nn.Linear(4, 3), N, weight=1.0), SIZE),
    ],
)
def test_models_of_the_right_weight_are_not_spoken_of(model, batch_size):
    bnn = lifted()
    train(model(bnn), bnn, batch_size=batch_size)


def test_sequential_plates_and_inner_plates_are_not_the_data():
    bnn = lifted()

    def model(x, y):
        mean = bnn(x)
        with pyro.plate("outputs", 3, dim=-1), pyro.plate("data", N, len(x), dim=-2):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    train(model, bnn, (X, torch.randn(N, 3)))

    def one_by_one(x, y):
        mean = bnn(x)
        for place in pyro.plate("data", N, subsample=torch.arange(len(x))):
            pyro.sample(f"y{place}", dist.Normal(mean[place], 1.0).to_event(1), obs=y[place])

    train(one_by_one, bnn, (X, torch.randn(N, 3)), elbo=Trace_ELBO(), capture=False)


@pytest.mark.parametrize("n", [20, 49, 500])
@pytest.mark.parametrize("batch_size", [SIZE, N])
@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        Examples(X, Y),
        TensorDataset(X, Y),
        Augmented(Examples(torch.randn(N, 1, 2, 2), Y)),
        list(zip(X.split(SIZE), Y.split(SIZE), strict=True)),
        DataLoader(TensorDataset(X, Y), batch_size=SIZE, shuffle=True),
    ],
    ids=["tuple", "Examples", "TensorDataset", "Augmented", "list", "loader"],
)
def test_another_number_of_data_is_warned_of_with_both(n, batch_size, data):
    torch.manual_seed(0)
    bnn = ps.lift(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), ps.Gaussian())
    with pytest.warns(UserWarning, match=rf"there are {n} data .* trained on {N}: .*n={N}"):
        train(ps.classifier(bnn, n), bnn, data, batch_size=batch_size, capture=False)


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        ({"drop_last": True}, (N, 48)),
        ({"drop_last": True, "shuffle": True}, (N, 48)),
        ({"sampler": RandomSampler(X, num_samples=20)}, (N, 20)),
        ({"batch_sampler": [range(8), range(8, 16)]}, (N,)),
    ],
)
def test_loaders_that_take_some_of_the_data_may_count_either(options, counts):
    size = {} if "batch_sampler" in options else {"batch_size": SIZE}
    for n in counts:
        bnn = lifted()
        loader = DataLoader(TensorDataset(X, Y), **size, **options)
        train(ps.classifier(bnn, n), bnn, loader, capture=False)
    with pytest.warns(UserWarning, match="there are 10 data"):
        train(ps.classifier(bnn, 10), bnn, loader, capture=False)


def test_a_part_of_the_data_counts_as_such():
    bnn = lifted()
    part = DataLoader(Subset(TensorDataset(X, Y), range(30)), batch_size=SIZE)
    train(ps.classifier(bnn, 30), bnn, part)
    with pytest.warns(UserWarning, match="there are 50 data .* trained on 30: .* 1.67 times"):
        train(ps.classifier(bnn, N), bnn, part)


def test_looking_changes_no_number_and_no_generator():
    def run():
        bnn = lifted()
        state = torch.get_rng_state()
        result = train(program(bnn, of_batch), bnn, epochs=3, seed=3)
        assert torch.equal(torch.get_rng_state(), state)
        return bnn, result

    with pytest.warns(UserWarning, match="plate"):
        bnn, result = run()
    # As SVI on the batches that the run's seed gives: nothing was drawn before the first step.
    theirs = lifted()
    svi = ps.captured.CapturedSVI(
        program(theirs, of_batch), theirs.guide, lambda named: torch.optim.Adam(
            named.values(), lr=1e-3, fused=True
        ), TraceMeanField_ELBO(), same_random_stream=False,
    )  # fmt: skip
    torch.manual_seed(3)
    for batch in (batch for _ in range(3) for batch in _epoch(result, _)):
        if not svi.parameters:
            svi.capture(*batch)
        svi.step(*batch)
    for one, two in zip(bnn.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, two)


def _epoch(run, epoch):
    run.epoch = epoch
    return list(run.batches())


def test_a_model_that_observes_nothing_is_refused():
    bnn = lifted()
    for data in (X, (X,), DataLoader(X, batch_size=SIZE)):
        with pytest.raises(ValueError, match="observes nothing"):
            train(ps.classifier(bnn, N), bnn, data)


# Labels


@pytest.mark.parametrize("form", [lambda y: (X, y), lambda y: DataLoader(TensorDataset(X, y), 64)])
@pytest.mark.parametrize("y", [Y + 0.5, Y.float(), Y.double()])
def test_labels_of_floating_numbers_are_refused(form, y):
    bnn = lifted()
    with pytest.raises(ValueError, match=rf"dtype {y.dtype}.*int64: give y\.long\(\)"):
        train(ps.classifier(bnn, N), bnn, form(y))


@pytest.mark.parametrize(("bad", "span"), [(3, "0 to 3"), (-1, "-1 to 2"), (-100, "-100 to 2")])
@pytest.mark.parametrize("form", [tuple, lambda pair: Examples(*pair)])
@pytest.mark.parametrize("make", [lambda bnn: ps.classifier(bnn, N), lambda b: program(b, of_all)])
def test_labels_that_are_no_classes_of_the_network_are_refused_wherever_they_are(
    bad, span, form, make
):
    y = Y.clone()
    y[N - 1] = bad  # may be in a later batch
    bnn = lifted()
    before = bnn.net.weight.clone()
    with pytest.raises(ValueError, match=rf"'y' are {span}, .* 3 classes, 0 to 2"):
        train(make(bnn), bnn, form((X, y)))
    assert torch.equal(bnn.net.weight, before)


def test_labels_that_would_be_rounded_are_refused_in_any_model():
    bnn = lifted()
    with pytest.raises(ValueError, match="not whole numbers"):
        train(program(bnn, of_all), bnn, (X, (Y % 2) + 0.5))
    train(program(bnn, of_all), bnn, (X, Y.float()))  # whole


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.bool])
def test_labels_of_other_whole_numbers_train_as_int64(dtype):
    found = []
    for y in ((Y % 2).to(dtype), Y % 2):
        bnn = lifted()
        train(ps.classifier(bnn, N), bnn, (X, y))
        found.append(bnn.net.weight)
    assert torch.equal(*found)


def test_one_label_beside_many_data_is_refused():
    bnn = lifted()
    model = ps.classifier(bnn, N)
    with pytest.raises(ValueError, match=r"y has shape \(1,\) .* \(50, 3\): one label for each"):
        train(model, bnn, [(X, Y[:1])])
    with pytest.raises(ValueError, match=r"y has shape \(\)"):
        train(model, bnn, [(X, Y[0])])
    with pytest.raises(ValueError, match=r"y has shape \(8, 1\)"):
        train(model, bnn, (X, Y[:, None]))
