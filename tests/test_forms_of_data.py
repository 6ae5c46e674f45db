"""Every function that takes data takes them in every form, and gives the same for all."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

import pyrosparse as ps
from pyrosparse import diagnostics, evidence, measure, prune, robustness

N = 40
torch.manual_seed(0)
X = torch.randn(N, 8)
Y = (X[:, 0] > 0).long()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 6)
        self.norm = nn.BatchNorm1d(6)
        self.last = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.norm(self.first(x))))


NET = Net().eval()


class RowsOfDicts(Dataset[Any]):
    def __len__(self) -> int:
        return N

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        return {"x": X[place], "y": Y[place]}


class Table:
    """A table of Hugging Face's datasets: rows and columns are read when they are asked for."""

    column_names = ("x", "y")

    def __len__(self) -> int:
        return N

    def __getitem__(self, name: str | int) -> Any:
        if isinstance(name, int):
            return {"x": X[name].tolist(), "y": int(Y[name])}
        return Column(X if name == "x" else Y)

    def __getitems__(self, places: list[int]) -> list[Any]:
        return [self[place] for place in places]

    def __iter__(self) -> Any:
        return (self[place] for place in range(N))


class Column(Sequence[Any]):
    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, place: Any) -> Any:
        return self.values[place]


FORMS: dict[str, Callable[[], Any]] = {
    "arrays": lambda: (X.numpy(), Y.numpy()),
    "lists": lambda: (X.tolist(), Y.tolist()),
    "dict": lambda: {"y": Y, "x": X},
    "tensors as a data set": lambda: TensorDataset(X, Y),
    "part of a data set": lambda: Subset(TensorDataset(X, Y), range(N)),
    "rows of dicts": RowsOfDicts,
    "table": Table,
    "columns of a table": lambda: (Table()["x"], Table()["y"]),
    "columns by name": lambda: {"x": Table()["x"], "y": Table()["y"]},
    "loader": lambda: DataLoader(TensorDataset(X, Y), batch_size=N),
    "loader of dicts": lambda: DataLoader(RowsOfDicts(), batch_size=N),
    "list of batches": lambda: [(X, Y)],
    "list of dicts": lambda: [{"x": X, "y": Y}],
}


NORMAL = ps.Gaussian(posterior="normal", initial_scale=0.1)


def with_model(function: Callable[..., Any], method: ps.Method = NORMAL) -> Callable[[Any], Any]:
    """The function of data, with a fresh lifted network and a model of it."""

    def run(data: Any) -> Any:
        bnn = ps.lift(copy.deepcopy(NET), method)
        return function(bnn, ps.classifier(bnn, N), data)

    return run


def fitted(validation: bool) -> Callable[[Any], Any]:
    def run(bnn: ps.Lifted, model: Any, data: Any) -> Any:
        more = {"validation": data} if validation else {}
        made = ps.fit(
            model,
            bnn.guide,
            (X, Y) if validation else data,
            epochs=2,
            batch_size=N,
            progress=False,
            **more,
        )
        return made.history[-1]["validation_nll" if validation else "loss"]

    return with_model(run, ps.Gaussian())  # a loader draws too, which would change other draws


def recalibrated(data: Any) -> Tensor:
    net = copy.deepcopy(NET)
    prune.recalibrate(net, data, batch_size=N)
    return net.norm.running_mean


def fine_tuned(data: Any) -> Any:
    net = copy.deepcopy(NET)
    done = robustness.adversarial_fine_tune(
        net, {}, data, epsilon=0.1, epochs=1, batch_size=N, progress=False
    )
    return done[-1]["loss"]


def an_ensemble(data: Any) -> Any:
    found = ps.prediction.ensemble(
        lambda: copy.deepcopy(NET), data, members=2, epochs=1, batch_size=N, progress=False
    )
    return found.members[0].last.weight.detach()


def lp(bnn: ps.Lifted, model: Any, data: Any) -> float:
    return float(diagnostics.to_datatree(bnn, model, data, draws=2)["sample_stats"]["lp"].sum())


def gated(data: Any) -> Any:
    net = copy.deepcopy(NET)
    bnn = ps.lift(net, ps.BetaBernoulli(), ps.inputs(net))
    return {key: one.mean for key, one in measure.active_features(bnn, data).items()}


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "fit": fitted(validation=False),
    "validation of fit": fitted(validation=True),
    "elbo": with_model(
        lambda bnn, model, data: evidence.elbo(model, bnn.guide, data, draws=2).mean
    ),
    "log_posterior": with_model(
        lambda bnn, model, data: str(evidence.log_posterior(model, bnn.guide, data))
    ),
    "evaluate": with_model(lambda bnn, model, data: evidence.evaluate(model, bnn.guide, data)),
    "khat": with_model(
        lambda bnn, model, data: diagnostics.khat(model, bnn.guide, data, draws=25).k
    ),
    "to_datatree": with_model(lp),
    "compare_models": with_model(
        lambda bnn, model, data: str(diagnostics.compare_models({"a": (bnn, model)}, data, draws=3))
    ),
    "predictive_quality": with_model(
        lambda bnn, _, data: str(diagnostics.predictive_quality({"a": bnn}, data, draws=3))
    ),
    "reduce_model": with_model(
        lambda bnn, model, data: str(prune.reduce_model(model, bnn, data, draws=2))
    ),
    "active_features": gated,
    "quality": lambda data: measure.quality(NET, data),
    "report": lambda data: measure.report(NET, NET, X, data=data, repeats=1).quality,
    "recalibrate": recalibrated,
    "thinet": lambda data: prune.thinet(copy.deepcopy(NET), data, 0.5),
    "fgsm": lambda data: robustness.fgsm(NET, data, [0.1]).accuracies,
    "adversarial_fine_tune": fine_tuned,
    "ensemble": an_ensemble,
}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.allclose(one, other, atol=1e-5)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, float):
        return one == pytest.approx(other, rel=1e-5)
    return bool(one == other)


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    return {}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_form_gives_what_tensors_give(name: str, form: str, expected: dict[str, Any]) -> None:
    function = FUNCTIONS[name]
    if name not in expected:
        torch.manual_seed(1)
        expected[name] = function((X, Y))
    torch.manual_seed(1)
    assert same(expected[name], function(FORMS[form]()))


def test_an_ensemble_counts_data_and_not_batches() -> None:
    """The prior has the weight of N data, however they come."""
    loader = DataLoader(TensorDataset(X, Y), batch_size=8)
    seen = []

    def model(network: ps.Lifted, n: int) -> ps.classifier:
        seen.append(n)
        return ps.classifier(network, n)

    ps.prediction.ensemble(
        lambda: copy.deepcopy(NET), loader, members=1, model=model, epochs=1, progress=False
    )
    assert seen == [N]


def test_validation_by_a_loader_does_not_change_the_training() -> None:
    def trained(**options: Any) -> float:
        torch.manual_seed(0)
        bnn = ps.lift(copy.deepcopy(NET), NORMAL)
        model = ps.classifier(bnn, N)
        run = ps.fit(model, bnn.guide, (X, Y), epochs=3, batch_size=8, progress=False, **options)
        return run.history[-1]["loss"]

    assert trained() == trained(validation=DataLoader(TensorDataset(X, Y), batch_size=8))


def test_data_in_parts_are_refused_with_the_way_out() -> None:
    with pytest.raises(TypeError, match=r"in parts, 'train', 'test': give one .* data\['train'\]"):
        measure.quality(NET, {"train": Table(), "test": Table()})
