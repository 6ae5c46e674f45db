"""Files of compact lifted networks: draws come back bit for bit, and nothing else gets in."""

import copy
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import pyrosparse as ps
from pyrosparse.storage import StorageError
from pyrosparse.storage.posterior import plan_of_posterior, posterior

METHODS = {
    "gaussian": ps.Gaussian(posterior="normal"),
    "activations": ps.Gaussian(posterior="normal", estimator="activations"),
    "horseshoe": ps.Horseshoe(scale=0.2),
    "laplace": ps.LaplacePrior(),
    "spike": ps.SpikeAndSlab(),
    "dropout": ps.VariationalDropout(),
    "concrete": ps.ConcreteDropout(),
    "support": ps.GammaSpikeAndSlab(likelihood="curvature", inactive=0.5),
    "beta": ps.BetaBernoulli(kl_scale={"*": 2.0}),
    "group horseshoe": ps.GroupHorseshoe(n=10),
    "group spike": ps.GroupSpikeAndSlab(),
    "hard": ps.HardConcrete(),
    "structured": ps.StructuredBayesianPruning(noise="example"),
    "bottleneck": ps.InformationBottleneck(),
    "generalized": ps.GeneralizedDropout(),
}


def compacted(method: ps.Method, **options: Any) -> tuple[ps.Lifted, Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    bnn = ps.lift(net, method, **options)
    with torch.no_grad():
        for parameter in bnn.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(6, 4).double()
    keep = torch.tensor([1, 0, 1, 1, 0]).bool()
    key = next(target.key for target in bnn.targets if target.key.startswith("2."))
    masks = {key: keep.expand(3, 5) if key == "2.weight" else keep}
    return ps.compact(bnn, masks, x), x


def drawn(bnn: ps.Lifted, x: Tensor) -> Tensor:
    bnn = copy.deepcopy(bnn).eval()
    torch.manual_seed(5)
    with torch.no_grad():
        return poutine.replay(bnn, trace=poutine.trace(bnn.guide).get_trace(x))(x)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    small, x = compacted(METHODS[name])
    small.guide.requires_grad_(False)
    path = ps.save(tmp_path / "a.safetensors", small)
    again = ps.load(path)
    assert isinstance(again, ps.Lifted)
    assert again.training == small.training
    before, after = small.state_dict(), again.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert {k: p.requires_grad for k, p in again.named_parameters()} == {
        k: p.requires_grad for k, p in small.named_parameters()
    }
    assert torch.equal(drawn(again, x), drawn(small, x))
    assert [e.method for e in again.guide.entries] == [e.method for e in small.guide.entries] or (
        name == "horseshoe"
    )
    assert str(again.net.account) == str(small.net.account)
    second = ps.save(tmp_path / "b.safetensors", again)
    assert path.read_bytes() == second.read_bytes()


def test_the_second_stage_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    first = ps.lift(net, ps.BetaBernoulli())
    bnn = ps.lift(net, ps.DependentBetaBernoulli(first), name="second")
    x = torch.randn(6, 4)
    small = ps.compact(bnn, {"2.input": torch.tensor([1, 0, 1, 1, 0])}, x)
    again = ps.load(ps.save(tmp_path / "a.safetensors", small))
    assert again.targets == small.targets
    assert torch.equal(drawn(again, x), drawn(small, x))
    assert torch.equal(again.eval().mean_forward(x), small.eval().mean_forward(x))


@dataclass(frozen=True)
class Mine(ps.Gaussian):
    pass


@dataclass(frozen=True)
class Wide:
    scale: float = 2.0

    def __call__(self, target: ps.Target) -> Tensor:
        assert target.value is not None
        zeros = torch.zeros_like(target.value)
        return pyro.sample(target.site, dist.Normal(zeros, self.scale).to_event(2))


def test_methods_of_ones_own_are_named_to_load(tmp_path: Path) -> None:
    for method, kind in ((Mine(posterior="normal"), Mine), (ps.from_pyro(Wide(3.0)), Wide)):
        small, x = compacted(method)
        path = ps.save(tmp_path / "a.safetensors", small)
        with pytest.raises(StorageError, match=r"ps\.load"):
            ps.load(path)
        again = ps.load(path, trusted=[kind])
        assert torch.equal(drawn(again, x), drawn(small, x))


def test_what_a_file_cannot_hold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(ValueError, match="instead of a compact network"):
        ps.save(path, ps.lift(nn.Linear(2, 2), ps.Gaussian()))

    def prior(target: ps.Target) -> Tensor:
        return Wide()(target)

    for method, message in [
        (ps.from_pyro(prior), "not a dataclass"),
        (ps.from_pyro(Wide(), score=lambda t, q: q["loc"].abs()), "score that is a function"),
    ]:
        with pytest.raises(ValueError, match=message):
            ps.save(path, compacted(method)[0])
    assert not path.exists()


def test_plans_that_do_not_fit_are_refused() -> None:
    small, _ = compacted(METHODS["beta"])
    plan, tensors = plan_of_posterior(small)
    assert isinstance(posterior(plan, tensors, {}), ps.Lifted)

    def changed(**entries: Any) -> dict[str, Any]:
        other = copy.deepcopy(plan)
        other["targets"][0] |= entries
        return other

    class_of = {"class": "os.system", "options": {}}
    grid = {"class": "pyrosparse.Grid", "options": {}}
    for wrong, message in [
        (changed(method=class_of), "which a file may not contain"),
        (changed(method=grid), "not a method"),
        (changed(kind="bias"), "none"),
        (plan | {"targets": []}, "no target has"),
    ]:
        with pytest.raises(StorageError, match=message):
            posterior(wrong, tensors, {})
    key = next(name for name in tensors if name.endswith("mask"))
    with pytest.raises(StorageError, match="mask"):
        posterior(plan, tensors | {key: torch.ones(9, dtype=torch.bool)}, {})
    with pytest.raises(StorageError, match=r"guide\.posterior\.more"):
        posterior(plan, tensors | {"guide.posterior.more": torch.ones(1)}, {})


@pytest.mark.slow
def test_a_new_process_predicts_without_the_code_of_the_network(tmp_path: Path) -> None:
    small, x = compacted(METHODS["beta"])
    ps.save(tmp_path / "small.safetensors", small)
    expected = ps.predict(small, x, draws=20)
    script = f"""
import torch, pyrosparse as ps
from safetensors.torch import save_file
x = torch.tensor({x.tolist()}, dtype=torch.float64)
save_file({{"p": ps.predict("small.safetensors", x, draws=20).probabilities}}, "p.safetensors")
"""
    root = str(Path(ps.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, env=environment)
    found = load_file(tmp_path / "p.safetensors")["p"]
    assert torch.allclose(found, expected.probabilities, rtol=1e-12)
