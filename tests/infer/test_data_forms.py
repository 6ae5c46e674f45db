"""What fit takes as data, optimizers and ELBOs, and the last batch of one datum."""

import copy
import math

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import (
    HMC,
    MCMC,
    NUTS,
    SVI,
    JitTrace_ELBO,
    JitTraceEnum_ELBO,
    JitTraceGraph_ELBO,
    JitTraceMeanField_ELBO,
)
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, TensorDataset

import pyrosparse as ps
from pyrosparse.data import Augmented, Examples
from pyrosparse.infer import Callback

N = 29
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


def network(norm=None):
    torch.manual_seed(0)
    middle = [] if norm is None else [norm]
    return nn.Sequential(nn.Linear(4, 6), *middle, nn.ReLU(), nn.Linear(6, 2))


def train(data, net=None, n=N, **options):
    bnn = ps.lift(net or network(), ps.Gaussian(posterior="normal"))
    options = {"epochs": 3, "batch_size": 7, "progress": False, "learning_rate": 0.01} | options
    return bnn, ps.fit(ps.classifier(bnn, n), bnn.guide, data, **options)


def same(one, two):
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class Stop(Callback):
    def on_epoch_end(self, run):
        if run.epoch == 2:
            raise KeyboardInterrupt


FORMS = {
    "arrays": lambda: (X.numpy().astype(np.float64), Y.numpy()),
    "lists": lambda: (X.tolist(), Y.tolist()),
    "dict": lambda: {"y": Y.numpy(), "x": X},
    "TensorDataset": lambda: TensorDataset(X, Y),
    "Examples": lambda: Examples(X.numpy(), Y.numpy()),
    "Dataset": lambda: ConcatDataset([TensorDataset(X[:9], Y[:9]), TensorDataset(X[9:], Y[9:])]),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_trains_to_the_same_bits(form):
    expected, run = train((X, Y), validation=(X, Y), capture=False)
    found, other = train(FORMS[form](), validation=FORMS[form](), capture=False)
    assert same(found, expected)
    assert other.step == run.step == 15
    assert other.n == N
    pairs = zip(run.history, other.history, strict=True)
    assert all(a["validation_nll"] == b["validation_nll"] for a, b in pairs)


def test_frames_train_to_the_same_bits():
    pandas = pytest.importorskip("pandas")
    expected, _ = train((X, Y))
    frame = pandas.DataFrame(X.double().numpy())
    assert same(train((frame, pandas.Series(Y.numpy())))[0], expected)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_resumed_to_the_same_bits(tmp_path, form):
    path = tmp_path / "run.safetensors"
    options = {"capture": form == "arrays"}  # a capture takes longer than all the steps
    with pytest.raises(KeyboardInterrupt):
        train(FORMS[form](), checkpoint=path, callbacks=[Stop()], **options)
    assert same(train(FORMS[form](), checkpoint=path, **options)[0], train((X, Y), **options)[0])


def test_batches_of_dicts_and_arrays_train_as_those_of_tensors():
    rows = [{"y": y, "x": x} for x, y in zip(X, Y, strict=True)]
    expected, _ = train(DataLoader(TensorDataset(X, Y), batch_size=7))
    assert same(train(DataLoader(rows, batch_size=7))[0], expected)
    arrays = [(x.numpy(), y.numpy()) for x, y in zip(X.split(7), Y.split(7), strict=True)]
    tensors = list(zip(X.split(7), Y.split(7), strict=True))
    assert same(train(arrays, n=N)[0], train(tensors)[0])


@pytest.mark.parametrize("validation", [False, True])
@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ((X, Y[:1]), ValueError, r"\[29, 1\]"),
        ((X, np.array(["no", "yes"])[Y.numpy()]), ValueError, "tensor 1 of the data has the dtype"),
        ({"x": X, "targets": Y}, TypeError, "'targets'"),
        ([X, Y], TypeError, "may be columns or batches"),
        ("digits", TypeError, "got str"),
    ],
)
def test_what_cannot_be_data_is_refused_before_training(data, error, message, validation):
    given = {"data": (X, Y), "validation": data} if validation else {"data": data}
    with pytest.raises(error, match=message):
        train(**given)


def test_values_that_are_not_finite_are_refused_in_every_column():
    x, target = X.clone(), torch.randn(N, 1)
    target[3] = math.nan
    bnn = ps.lift(nn.Linear(4, 1), ps.Gaussian())
    model = ps.regressor(bnn, N, noise=0.1)
    options = {"epochs": 1, "progress": False}
    for data in ((x, target), {"x": x, "y": target.numpy()}, TensorDataset(x, target)):
        with pytest.raises(
            ValueError, match="tensor 1 of the data has 1 values that are NaN or infinite"
        ):
            ps.fit(model, bnn.guide, data, **options)
    with pytest.raises(ValueError, match=r"y has 1 values that are NaN .* y\[3\]"):
        Examples(x, target)
    with pytest.raises(ValueError, match=r"y has 1 values"):
        Examples(x, target[:, 0])


def test_targets_without_their_last_side_name_it():
    bnn = ps.lift(nn.Linear(4, 1), ps.Gaussian())
    model = ps.regressor(bnn, N, noise=0.1)
    y = torch.randn(N)
    with pytest.raises(ValueError, match=r"give y\[:, None\]"):
        ps.fit(model, bnn.guide, (X, y), epochs=1, progress=False)
    ps.fit(model, bnn.guide, (X, y[:, None]), epochs=1, progress=False)
    flat = ps.regressor(lambda x: bnn(x)[:, 0], N, noise=0.1)
    with pytest.raises(ValueError, match=r"give y\[:, 0\]"):
        ps.fit(flat, bnn.guide, (X, y[:, None]), epochs=1, progress=False)


# The last batch


def batches_seen(data, net, **options):
    """The sizes of the batches of an epoch, and the data in them."""
    seen = []

    class Watching(type(net)):
        def forward(self, x):
            if self.training:
                seen.append(x.clone())
            return super().forward(x)

    net.__class__ = Watching
    _, run = train(data, net, epochs=1, capture=False, **options)
    return [len(x) for x in seen], torch.cat(seen), run


@pytest.mark.parametrize(
    "data",
    [(X, Y), TensorDataset(X, Y), Examples(X, Y), ConcatDataset([TensorDataset(X, Y)])],
    ids=["tuple", "TensorDataset", "Examples", "Dataset"],
)
def test_a_last_datum_goes_into_the_batch_before_where_a_batch_is_normalised(data):
    sizes, seen, run = batches_seen(data, network(nn.BatchNorm1d(6)))
    assert sizes == [7, 7, 7, 8]
    assert run.step == run.batches_an_epoch() == 4
    assert sorted(seen[:, 0].tolist()) == sorted(X[:, 0].tolist())
    sizes, _, run = batches_seen(data, network(nn.LayerNorm(6)))  # as ever
    assert sizes == [7, 7, 7, 7, 1]
    assert run.step == run.batches_an_epoch() == 5
    sizes, *_ = batches_seen(data, network(nn.BatchNorm1d(6)), batch_size=9)
    assert sizes == [9, 9, 9, 2]


def test_a_run_with_a_merged_batch_is_resumed_to_the_same_bits(tmp_path):
    path = tmp_path / "run.safetensors"

    def attempt(**options):
        return train((X, Y), network(nn.BatchNorm1d(6)), schedule=lambda p: 1 - p / 2, **options)[0]

    with pytest.raises(KeyboardInterrupt):
        attempt(checkpoint=path, callbacks=[Stop()])
    assert same(attempt(checkpoint=path), attempt())


def test_augmented_images_are_the_same_in_merged_batches():
    images = Augmented(Examples(torch.randn(N, 1, 4, 4), Y), shift=0.3)
    options = {"batch_size": 7, "epochs": 1, "progress": False}

    def sizes(norm):
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), norm, nn.Linear(6, 2))
        bnn = ps.lift(net, ps.Gaussian())
        return list(ps.fit(ps.classifier(bnn, N), bnn.guide, images, **options).batches())

    merged, plain = sizes(nn.BatchNorm1d(6)), sizes(nn.LayerNorm(6))
    assert [len(x) for x, _ in merged] == [7, 7, 7, 8]
    for place in (0, 1):
        assert torch.equal(*(torch.cat([b[place] for b in one]) for one in (merged, plain)))


def test_batches_of_one_that_fit_does_not_make_name_the_way_out():
    loader = DataLoader(TensorDataset(X, Y), batch_size=7)
    for capture in (False, True):
        with pytest.raises(ValueError, match="drop_last=True"):
            train(loader, network(nn.BatchNorm1d(6)), capture=capture)
    with pytest.raises(ValueError, match="batch_size of 2 or more"):
        train((X, Y), network(nn.BatchNorm1d(6)), batch_size=1)
    dropped = DataLoader(TensorDataset(X, Y), batch_size=7, drop_last=True)
    assert train(dropped, network(nn.BatchNorm1d(6)))[1].step == 12


# Optimizers and ELBOs of Pyro


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (pyro.optim.Adam({"lr": 0.01}), r"PyroOptim of Pyro.*optimizer=torch\.optim\.Adam.*SVI"),
        (pyro.optim.ClippedAdam({"lr": 0.01}), "of Pyro"),
        (pyro.optim.ExponentialLR({"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1},
                                   "gamma": 0.9}), "PyroLRScheduler of Pyro.*schedule="),
        (torch.optim.SGD([torch.zeros(2)], lr=0.1), r"already built.*optimizer=torch\.optim\.SGD"),
        (lambda groups: None, "returned a NoneType"),
        (torch.optim.LBFGS, "LBFGS computes the same loss several times"),
    ],
)  # fmt: skip
def test_optimizers_that_fit_cannot_take_are_refused_by_name(optimizer, message):
    net = network()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(TypeError, match=message):
        train((X, Y), net, optimizer=optimizer)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


JIT = [JitTrace_ELBO, JitTraceEnum_ELBO, JitTraceGraph_ELBO, JitTraceMeanField_ELBO]


@pytest.mark.parametrize("elbo", JIT)
def test_jit_elbos_are_refused_with_their_plain_form(elbo):
    plain = elbo.__name__.removeprefix("Jit")
    message = rf"fit does not support {elbo.__name__}.*pass {plain}\(\).*Capt"
    with pytest.raises(TypeError, match=message):
        train((X, Y), elbo=elbo())


@pytest.mark.filterwarnings(
    "ignore:`torch.jit.trace` is deprecated", "ignore:TraceEnum_ELBO found no sample sites"
)
@pytest.mark.parametrize("method", [ps.Gaussian(posterior="normal"), ps.BetaBernoulli()])
@pytest.mark.parametrize("elbo", JIT)
def test_svi_with_jit_elbos_points_to_captured_steps(elbo, method):
    bnn = ps.lift(network(), method)
    svi = SVI(ps.classifier(bnn, N), bnn.guide, pyro.optim.Adam({"lr": 0.01}), elbo())
    with pytest.raises(TypeError, match=r"torch\.jit cannot trace.*CapturedSVI"):
        svi.step(X, Y)


@pytest.mark.filterwarnings(
    "ignore:`torch.jit.trace` is deprecated", "ignore:TraceEnum_ELBO found no sample sites"
)
@pytest.mark.parametrize("kernel", [NUTS, HMC])
def test_mcmc_compiled_by_jit_points_to_the_way_out(kernel):
    net = network()
    bnn = ps.lift(net, ps.Gaussian(posterior="normal"), ps.weights(net, "*"))
    made = kernel(ps.classifier(bnn, N), jit_compile=True, ignore_jit_warnings=True)
    run = MCMC(made, num_samples=1, warmup_steps=1, disable_progbar=True)
    with pytest.raises(TypeError, match="jit_compile=False"):
        run.run(X, Y)
