"""Data in the forms that people have."""

from collections import UserDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
)

import pyrosparse as ps
from pyrosparse.diagnostics import to_datatree
from pyrosparse.evidence import elbo, evaluate, log_posterior
from pyrosparse.evidence.batches import arguments, as_batch, batches, prepared

N = 10
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 3


class Named(Dataset):
    """Rows as dicts, in another order than a model's arguments."""

    def __len__(self):
        return N

    def __getitem__(self, index):
        return {"y": int(Y[index]), "x": X[index].numpy().astype(np.float64)}


class Doubled(TensorDataset):
    """Changes what its tensors hold."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return 2 * x, y


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(X, Y, strict=True)


def model(x, y=None):
    raise AssertionError("not called")


FORMS = {
    "tuple": lambda: (X, Y),
    "arrays": lambda: (X.numpy().astype(np.float64), Y.numpy().astype(np.int32)),
    "lists": lambda: (X.tolist(), Y.tolist()),
    "mixed": lambda: (X, Y.numpy()),
    "dict": lambda: {"y": Y.numpy(), "x": X},
    "other mapping": lambda: UserDict(x=X, y=Y),
    "TensorDataset": lambda: TensorDataset(X, Y),
    "Dataset": lambda: Named(),
    "ConcatDataset": lambda: ConcatDataset(
        [TensorDataset(X[:3], Y[:3]), TensorDataset(X[3:], Y[3:])]
    ),
    "Subset": lambda: Subset(TensorDataset(X.flip(0), Y.flip(0)), list(range(N))[::-1]),
    "Examples": lambda: ps.data.Examples(X.numpy(), Y.numpy()),
    "loader": lambda: DataLoader(TensorDataset(X, Y), batch_size=4),
    "loader of dicts": lambda: DataLoader(
        [{"y": y, "x": x} for x, y in zip(X, Y, strict=True)], batch_size=4
    ),
    "list of arrays": lambda: [
        (x.numpy(), y.numpy()) for x, y in zip(X.split(4), Y.split(4), strict=True)
    ],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_batches(form):
    found = list(batches(FORMS[form](), 4, model))
    assert [len(one) for one in found] == [2, 2, 2]
    for (x, y), wanted_x, wanted_y in zip(found, X.split(4), Y.split(4), strict=True):
        assert torch.equal(x, wanted_x) and torch.equal(y, wanted_y)
        assert x.dtype is torch.float32 and y.dtype is torch.int64


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_evaluated_alike(form):
    torch.manual_seed(0)
    bnn = ps.lift(nn.Linear(4, 3), ps.Gaussian(posterior="normal"))
    program, data = ps.classifier(bnn, N), FORMS[form]()
    expected = log_posterior(program, bnn.guide, (X, Y))
    options = {"batch_size": 4}
    assert log_posterior(program, bnn.guide, data, **options).n == N
    found = log_posterior(program, bnn.guide, data, **options)
    assert found.likelihood == pytest.approx(expected.likelihood, rel=1e-6)
    accuracy = float((bnn.mean_forward(X).argmax(1) == Y).float().mean())
    scores = evaluate(program, bnn.guide, data, **options)
    assert scores["accuracy"] == pytest.approx(accuracy)
    if isinstance(data, DataLoader):  # which draws a number of its own before the first batch
        data = list(data)
    estimates = [elbo(program, bnn.guide, one, draws=2, **options) for one in (data, (X, Y))]
    torch.testing.assert_close(*(one.draws for one in estimates))
    tree = to_datatree(bnn, program, data, draws=2, **options)
    assert tree["constant_data"]["x"].values == pytest.approx(X.numpy())
    assert tree["observed_data"]["y"].values.tolist() == Y.tolist()


def test_pandas_frames_and_series_are_columns():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X.numpy().astype(np.float64), columns=list("abcd"))
    series = pandas.Series(Y.numpy(), index=range(N)[::-1])  # by position, whatever the index
    x, y = prepared((frame, series))
    assert torch.equal(x, X) and torch.equal(y, Y)
    x, y = prepared({"y": series, "x": frame}, model)
    assert torch.equal(x, X) and torch.equal(y, Y)
    with pytest.raises(ValueError, match=r"tensor 1 .* the dtype (object|str)"):
        prepared((frame, pandas.Series(["cat"] * N)))


def test_a_dataset_that_changes_its_tensors_is_read_row_by_row():
    found = torch.cat([x for x, _ in batches(Doubled(X, Y), 4)])
    assert torch.equal(found, 2 * X)


def test_one_column_is_the_only_argument():
    assert [len(batch) for batch in batches(X, 4)] == [1, 1, 1]
    assert [len(batch) for batch in batches(DataLoader(X, batch_size=4), 4)] == [1, 1, 1]
    assert torch.equal(torch.cat([x for (x,) in batches(X.numpy(), 4)]), X)


def test_arguments_between_those_by_name_have_their_defaults():
    def masked(x, mask=None, y=None, *, scale=1.0):
        raise AssertionError("not called")

    data = {"y": Y, "x": X}
    for x, mask, y in batches(data, 4, masked):
        assert mask is None and len(x) == len(y)
    ordered = prepared(data, masked)
    assert len(ordered) == N
    shuffled = list(ordered.batches(4, torch.Generator().manual_seed(0)))
    x, y = (torch.cat([batch[place] for batch in shuffled]) for place in (0, 2))
    assert not torch.equal(x, X)
    for one, label in zip(x, y, strict=True):
        assert label == Y[(one == X).all(1)].item()

    class Module(nn.Module):
        def forward(self, x, mask=None, y=None):
            raise AssertionError("not called")

    assert arguments({"y": 2, "x": 1}, Module()) == (1, None, 2)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ((X, Y[:3]), ValueError, r"different numbers of rows: \[10, 3\]"),
        ((X, Y[:1]), ValueError, r"\[10, 1\]"),
        (TensorDataset(torch.zeros(0, 2)), ValueError, "no data"),
        ((X[:0], Y[:0]), ValueError, "no data"),
        ((), ValueError, "no data"),
        ({"x": X, "y": Y[:3]}, ValueError, r"\[10, 3\]"),
        ({"x": X, "label": Y}, TypeError, r"have 'label', but .* are x, y"),
        ({"y": Y}, TypeError, "the model needs 'x'"),
        (Stream(), TypeError, r"Stream gives one datum at a time.*DataLoader"),
        ([X, Y], TypeError, r"a list of 2 Tensor may be columns or batches.*\(x, y\)"),
        ([X.numpy(), Y.numpy()], TypeError, "may be columns or batches"),
        ("digits", TypeError, "got str"),
        (None, TypeError, "got NoneType"),
        (7, TypeError, "data must be Examples, a tuple"),
        (((X, Y), (X, Y)), TypeError, "batches belong in a list"),
    ],
)
def test_data_of_no_form_are_refused_with_the_way_out(data, error, message):
    with pytest.raises(error, match=message):
        prepared(data, model)


def test_a_data_set_of_parts_is_refused_with_the_name_of_one():
    with pytest.raises(TypeError, match=r"got DataSet; give .* data\.train"):
        prepared(ps.data.load("digits"), model)


def test_names_need_a_model():
    with pytest.raises(TypeError, match=r"by name \(x, y\).*give a tuple"):
        list(batches({"x": X, "y": Y}, 4))
    with pytest.raises(TypeError, match="by name"):
        as_batch({"x": X})
