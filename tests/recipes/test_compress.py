"""``ps.compress``: any network, any data, any likelihood; and what it leaves alone."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import pyrosparse as ps
from pyrosparse.infer import Callback
from pyrosparse.recipes.split import split
from tests.short import short_runs

X = torch.randn(120, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()
Z = X[:, :1] - 2 * X[:, 1:2]
GATES = ps.recipes.BetaBernoulli(pretrain=1, epochs=2, batch_size=96)
QUICK = {"epochs": 2, "batch_size": 96}
PRUNED = ps.recipes.Magnitude(sparsity=0.3, **QUICK)


@pytest.fixture(autouse=True)
def short(request: pytest.FixtureRequest) -> Iterator[None]:
    """Data in tensors are trained on by captured steps."""
    with contextlib.nullcontext() if "tensors" in request.node.name else short_runs():
        yield


class Own(nn.Module):
    """A network of one's own, with a shortcut."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.second = nn.Linear(8, 8)
        self.last = nn.Linear(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        return self.last(h + self.second(h).relu())


def own(outputs: int = 3) -> Own:
    torch.manual_seed(0)
    return Own(outputs)


def loader(*parts: Tensor, size: int = 32) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*parts), batch_size=size, shuffle=True)


DATA: dict[str, Callable[[], dict[str, Any]]] = {
    "tensors": lambda: {"data": (X, Y), "validation": 0.1},
    "arrays": lambda: {"data": (X.double().numpy(), Y.numpy().astype(np.int32))},
    "loaders": lambda: {"data": loader(X, Y), "test": loader(X[:40], Y[:40])},
    "a loader alone": lambda: {"data": loader(X, Y)},
    "examples": lambda: {"data": ps.data.Examples(X, Y), "test": (X[:40], Y[:40])},
}


@pytest.mark.parametrize("form", DATA)
@pytest.mark.parametrize(
    "recipe", [GATES, ps.recipes.Magnitude(sparsity=0.3, **QUICK)], ids=lambda r: r.name
)
def test_a_network_of_ones_own_on_data_of_any_form(form: str, recipe: ps.recipes.Recipe) -> None:
    given = DATA[form]()
    data = given.pop("data")
    result = ps.compress(own(), data, recipe, progress=False, **given)
    x = X[:7]
    assert result.small is not None and result.report is not None
    assert torch.allclose(result.small(x), result.whole.eval()(x), atol=1e-5)
    with torch.no_grad():
        expected = result.posterior.eval().mean_forward(x)
    assert torch.allclose(result.net.eval()(x), expected, atol=1e-5)
    assert set(result.quality) == {"accuracy", "nll", "ece"}
    assert set(result.scores) == {"before", "after", "compact"}
    assert result.scores["compact"]["nll"] == pytest.approx(result.quality["nll"], abs=1e-5)
    assert recipe.name in str(result) and "accuracy" in str(result)


def test_a_network_of_torchvision_on_small_images() -> None:
    torchvision = pytest.importorskip("torchvision")
    digits = ps.data.load("digits")
    x, y = digits.train.x[:60].repeat(1, 3, 4, 4), digits.train.y[:60]
    net = torchvision.models.resnet18(num_classes=10)
    recipe = ps.recipes.OneShot(epochs=1, batch_size=48, structure="filter", sparsity=0.5)
    result = ps.compress(net, (x, y), recipe, dense=False, progress=False)
    before, after = result.report.parameters if result.report else (1, 1)
    assert 0 < after < before and result.original is result.net
    assert 0.4 < result.sparsity < 0.5


REGRESSION = [
    GATES,
    ps.recipes.TurboVBI(pretrain=1, epochs=2, fine_tune=1, active=0.3, batch_size=96),
    ps.recipes.ModelReduction(**QUICK),
    ps.recipes.Gibbs(**QUICK),
]


@pytest.mark.parametrize("recipe", REGRESSION, ids=lambda recipe: recipe.name)
def test_regression_is_scored_by_its_likelihood(recipe: ps.recipes.Recipe) -> None:
    result = ps.compress(
        own(1),
        (X, Z),
        recipe,
        model=lambda bnn, n: ps.regressor(bnn, n, noise=0.5),
        test=(X[:40], Z[:40]),
        dense=False,
        progress=False,
    )
    assert {"nll", "rmse", "crps", "coverage_50"} <= set(result.quality)
    with torch.no_grad():
        law = dist.Normal(result.net.eval()(X[:40]), 0.5)
    rmse = float((law.mean - Z[:40]).square().mean().sqrt())
    assert result.quality["rmse"] == pytest.approx(rmse, rel=1e-5)
    assert result.quality["nll"] == pytest.approx(-float(law.log_prob(Z[:40]).mean()), rel=1e-5)
    assert "test nll" in str(result)


def test_a_pyro_model_of_ones_own() -> None:
    def student(network: Any, n: int) -> Any:
        def model(x: Tensor, y: Tensor | None = None) -> Tensor:
            mean = network(x)
            with pyro.plate("data", n, subsample=torch.arange(len(x))):
                return pyro.sample("y", dist.StudentT(3.0, mean, 0.5).to_event(1), obs=y)

        return model

    result = ps.compress(own(1), (X, Z), GATES, model=student, test=(X, Z), progress=False)
    with torch.no_grad():
        law = dist.StudentT(3.0, result.net.eval()(X), 0.5)
    assert result.quality["nll"] == pytest.approx(-float(law.log_prob(Z).mean()), rel=1e-5)


def test_a_likelihood_of_which_only_the_density_is_known_is_scored_by_it() -> None:
    def squared(network: Any, n: int) -> Any:
        def model(x: Tensor, y: Tensor) -> None:
            error = (network(x) - y).square().sum(1)
            with pyro.plate("data", n, subsample=torch.arange(len(x))):
                pyro.factor("error", -error)

        return model

    result = ps.compress(own(1), (X, Z), GATES, model=squared, test=(X, Z), progress=False)
    with torch.no_grad():
        error = (result.net.eval()(X) - Z).square().sum(1)
    assert result.quality == {"nll": pytest.approx(float(error.mean()), rel=1e-5)}


def test_any_recipe_distils() -> None:
    teacher = own().eval()

    def model(network: Any, n: int) -> Any:
        return ps.distill(network, teacher, n, weight=1.0)

    recipe = ps.recipes.NoPruning(epochs=150, batch_size=96, learning_rate=0.02, scale=100.0)
    torch.manual_seed(1)
    student = Own()
    result = ps.compress(student, (X, Y), recipe, model=model, progress=False)

    def distance(net: nn.Module) -> float:
        with torch.no_grad():
            return float((net(X).softmax(1) - teacher(X).softmax(1)).abs().mean())

    assert distance(result.net.eval()) < 0.3 * distance(student)
    assert set(result.quality) == {"accuracy", "nll", "ece"}


def test_a_teacher_sees_the_data_once_for_all_epochs() -> None:
    class Teacher(nn.Linear):
        seen = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            type(self).seen += len(x)
            return super().forward(x.flatten(1)[:, : self.in_features])

    width = X.flatten(1).shape[1]
    teacher = Teacher(width, 3)

    def model(network: Any, n: int) -> Any:
        return ps.distill(network, teacher, n)

    recipe = ps.recipes.NoPruning(epochs=5, batch_size=96)
    ps.compress(own(), (X, Y), recipe, model=model, progress=False, dense=False)
    assert Teacher.seen == len(X) * 4 // 5  # a fifth is held out


def test_network_and_generators_are_left_alone() -> None:
    net = own()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    pyro.clear_param_store()
    result = ps.compress(net, (X, Y), GATES, progress=False)
    assert torch.equal(torch.get_rng_state(), state) and net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    torch.manual_seed(6)
    assert ps.compress(net, (X, Y), GATES, progress=False).quality == result.quality
    assert ps.compress(net, (X, Y), GATES, seed=1, progress=False).quality != result.quality


def test_a_trained_network_is_what_the_result_is_compared_with() -> None:
    net = own()
    recipe = ps.recipes.BetaBernoulli(pretrain=0, epochs=1, batch_size=96)
    result = ps.compress(net, (X, Y), recipe, progress=False)
    assert [stage.name for stage in result.stages] == ["beta-bernoulli"]
    for key, value in net.state_dict().items():
        assert torch.equal(result.original.state_dict()[key], value)


def test_a_pruned_network_is_compared_with_a_dense_one_or_one_of_ones_own() -> None:
    recipe, plain = ps.recipes.Magnitude(**QUICK), ps.recipes.NoPruning(**QUICK)
    dense = ps.compress(own(), (X, Y), plain, progress=False)
    result = ps.compress(own(), (X, Y), recipe, progress=False)
    assert result.scores["before"] == pytest.approx(dense.quality, rel=1e-6)
    assert [stage.name for stage in result.stages] == ["magnitude"]
    mine = own().eval()
    given = ps.compress(own(), (X, Y), recipe, dense=mine, progress=False)
    assert torch.equal(given.original(X), mine(X))
    alone = ps.compress(own(), (X, Y), recipe, dense=False, progress=False)
    assert alone.original is alone.net and "before" not in alone.scores


def test_stages_are_named_to_callbacks(tmp_path: Path) -> None:
    class Names(Callback):
        def __init__(self) -> None:
            self.found: list[str] = []

        def on_start(self, run: ps.infer.Fit) -> None:
            self.found.append(run.stage)

    names = Names()
    recipe = ps.recipes.TurboVBI(pretrain=1, epochs=2, fine_tune=1, active=0.3, batch_size=96)
    ps.compress(own(), (X, Y), recipe, folder=tmp_path, callbacks=[names], progress=False)
    assert names.found == ["pretraining", "support", "fine-tuning"]
    for name in names.found:
        assert (tmp_path / name / "metrics.jsonl").exists()


def test_what_cannot_be_hashed_is_not_pooled(tmp_path: Path) -> None:
    def run(name: str, data: Any, **options: Any) -> set[str]:
        ps.compress(
            own(),
            data,
            GATES,
            pool=tmp_path / name,
            folder=tmp_path / f"own {name}",
            progress=False,
            **options,
        )
        pool = tmp_path / name
        return {one.name.rpartition("-")[0] for one in pool.glob("[!.]*")}

    assert run("tensors", (X, Y)) == {"beta-bernoulli", "pretraining"}
    assert run("lambda", (X, Y), model=lambda bnn, n: ps.classifier(bnn, n)) == set()
    assert run("loader", loader(X, Y)) == set()


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (X, {}, "data must be a DataSet"),
        ((X,), {}, "inputs only"),
        ("digits", {}, "got str"),
        ((x for x in X), {}, "a loader of such batches that has a length"),
        ((X, Y), {"validation": 1.0}, "validation is data or a share"),
        ((X[:1], Y[:1]), {}, "would be left for training"),
        (loader(X, Y), {"validation": 0.1}, "a loader cannot be divided"),
        (loader(X, Y), {"test": 0.1}, "pass test data"),
    ],
)
def test_data_that_are_none(data: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        ps.compress(own(), data, **options)


def test_a_split_is_disjoint_and_of_the_seed() -> None:
    x = torch.arange(100.0).unsqueeze(1)
    one, other = (split((x, torch.zeros(100).long()), 0.25, seed=seed) for seed in (0, 1))
    parts = [part.x.flatten() for part in (one.train, one.validation, one.test)]
    assert torch.equal(torch.cat(parts).sort().values, x.flatten())
    assert [len(part) for part in parts] == [60, 20, 20] and one.n == 60
    assert not torch.equal(one.test.x, other.test.x) and one.key != other.key
    assert split(loader(X, Y)).steps(1) == 4 and split(loader(X, Y)).n == 120


def test_a_result_says_that_nothing_went() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(60, 6)
    data = (x, (x[:, 0] > 0).long())
    shy = ps.recipes.BetaBernoulli(pretrain=1, epochs=1, kl_scale=1e-6)
    result = ps.compress(net, data, shy, progress=False)
    assert result.took_nothing and "nothing; try a higher --kl-scale" in str(result)
    keen = ps.recipes.HardConcrete(pretrain=1, epochs=60, cost=5.0, gate_rate=0.5)
    result = ps.compress(net, data, keen, progress=False)
    assert not result.took_nothing and "nothing; try" not in str(result)
