"""Trainings for two processes, and the same for one; a script for ``test_ranks.py``.

    torchrun --nproc-per-node 2 -m tests.infer.ranks_cases FOLDER

writes FOLDER/CASE.RANK.pt of every case in ``CASES``: tensors by name, and strings.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import pyrosparse as ps
from pyrosparse.infer import Callback, resuming, schedules
from pyrosparse.prune import BayesFactorPruner, Movement, Pruner, ReductionPruner, Snip
from pyrosparse.prune.turbo import TurboPruner
from pyrosparse.supports.units import UnitFactor

RANKS = 2
N = 22
CASES: dict[str, Callable[[Path], dict[str, Any]]] = {}


def case(function: Callable[[Path], dict[str, Any]]) -> Callable[[Path], dict[str, Any]]:
    CASES[function.__name__] = function
    return function


def alone() -> bool:
    return not torch.distributed.is_initialized()


def second() -> bool:
    return not alone() and torch.distributed.get_rank() == 1


class Halves(TraceMeanField_ELBO):
    """The steps of two ranks one after another, each on its rows and with its own noise."""

    def __init__(self, bnn: ps.Lifted, seed: int = 0) -> None:
        super().__init__()
        self.bnn = bnn
        self.noise: list[Tensor] = []
        self.buffers: list[dict[str, Tensor]] = [{}, {}]
        for number in range(RANKS):
            seeds = np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)
            generator = torch.Generator().manual_seed(int(seeds[0]))
            self.noise.append(generator.get_state())

    def statistics(self) -> dict[str, Tensor]:
        written = ("running_", "num_batches")
        buffers = self.bnn.named_buffers()
        return {name: one for name, one in buffers if any(part in name for part in written)}

    def loss_and_grads(self, model: Any, guide: Any, *batch: Any) -> float:
        shared, n, total = torch.get_rng_state(), len(batch[0]), 0.0
        tensors = self.statistics()
        start = {key: one.clone() for key, one in tensors.items()}
        for number in range(RANKS):
            for key, one in tensors.items():
                one.copy_(self.buffers[number].get(key, start[key]))
            rows = slice(n * number // RANKS, n * (number + 1) // RANKS)
            share = (rows.stop - rows.start) / n
            if share:
                torch.set_rng_state(self.noise[number])
                loss = self.differentiable_loss(model, guide, *[one[rows] for one in batch]) * share
                loss.backward()
                total += float(loss.detach())
                self.noise[number] = torch.get_rng_state()
            self.buffers[number] = {key: one.clone() for key, one in tensors.items()}
        torch.set_rng_state(shared)
        return total


class Averages(Callback):
    """Averages what two ranks would have in their buffers."""

    def __init__(self, elbo: Halves) -> None:
        self.elbo = elbo

    def on_epoch_end(self, run: Any) -> None:
        for key, one in self.elbo.statistics().items():
            first, second = (buffers[key] for buffers in self.elbo.buffers)
            one.copy_((first + second) / 2)  # of what counts steps, both are the same
        self.elbo.buffers = [{}, {}]


def data(n: int = N, features: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, features, generator=generator, dtype=torch.float64)
    return x, (x[:, 0] + x[:, 1] > 0).long() + (x[:, 2] > 1).long()


def mlp(hidden: int = 5, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    middle = [nn.BatchNorm1d(hidden)] if norm else []
    # Before a normalisation a bias has no gradient but rounding, by which Adam would move it.
    first = nn.Linear(4, hidden, bias=not norm)
    return nn.Sequential(first, *middle, nn.ReLU(), nn.Linear(hidden, 3)).double()


def train(bnn: Any, halves: bool = False, **options: Any) -> dict[str, Any]:
    """What training leaves: with ``halves``, one process takes the steps of two ranks."""
    settings: dict[str, Any] = {
        "epochs": 3, "batch_size": 7, "learning_rate": 0.02, "progress": False, "data": data(),
    }  # fmt: skip
    settings |= options
    given = settings.pop("data")
    if halves:
        settings["capture"] = False
        if alone():
            settings["elbo"] = elbo = Halves(bnn, settings.get("seed", 0))
            settings["callbacks"] = [Averages(elbo), *settings.get("callbacks", ())]
    model = settings.pop("model", None) or ps.classifier(bnn, N)
    run = ps.fit(model, bnn.guide, given, **settings)
    tensors = {key: one.detach().clone() for key, one in bnn.state_dict().items()}
    masks = {f"mask of {key}": mask.clone() for key, mask in bnn.masks().items()}
    losses = torch.tensor([entry["loss"] for entry in run.history], dtype=torch.float64)
    return tensors | masks | {"losses": losses, "steps": torch.tensor(run.step)}


def dependent(net: nn.Module) -> ps.Method:
    first = ps.lift(net, ps.BetaBernoulli(initial=0.7, temperature=1.0))
    return ps.DependentBetaBernoulli(first)


METHODS: dict[str, Callable[[nn.Module], ps.Method]] = {
    "beta bernoulli": lambda net: ps.BetaBernoulli(),
    "concrete dropout": lambda net: ps.ConcreteDropout(),
    "dependent beta bernoulli": dependent,
    "gamma spike and slab": lambda net: ps.GammaSpikeAndSlab(),
    "gaussian activations": lambda net: ps.Gaussian(posterior="normal", estimator="activations"),
    "gaussian weights": lambda net: ps.Gaussian(posterior="normal"),
    "generalized dropout": lambda net: ps.GeneralizedDropout(),
    "gibbs": lambda net: ps.GibbsPruning(0.25, beta=2.0),
    "group horseshoe": lambda net: ps.GroupHorseshoe(n=N),
    "group spike and slab": lambda net: ps.GroupSpikeAndSlab(),
    "hard concrete": lambda net: ps.HardConcrete(),
    "horseshoe": lambda net: ps.Horseshoe(),
    "information bottleneck": lambda net: ps.InformationBottleneck(),
    "laplace": lambda net: ps.LaplacePrior(posterior="normal"),
    "movement pruning": lambda net: ps.MovementPruning(0.25),
    "polarization": lambda net: ps.Polarization(strength=2.0),
    "spike and slab": lambda net: ps.SpikeAndSlab(),
    "structured": lambda net: ps.StructuredBayesianPruning(),
    "targeted dropout": lambda net: ps.TargetedDropout(0.25, rate=0.5),
    "variational dropout": lambda net: ps.VariationalDropout(initial_scale=0.1),
}


def method_case(name: str) -> Callable[[Path], dict[str, Any]]:
    def trained(folder: Path) -> dict[str, Any]:
        net = mlp()
        bnn = ps.lift(net, METHODS[name](net))
        annealed = name in ("gibbs", "movement pruning", "targeted dropout")
        ramp = schedules.constant
        callbacks = [ps.prune.Annealing(ramp)] if annealed else []
        return train(bnn, halves=True, callbacks=callbacks)

    return trained


CASES |= {name: method_case(name) for name in METHODS}


@case
def captured(folder: Path) -> dict[str, Any]:
    """Nothing is drawn, so that one process takes the same steps; with batches of 7, 7, 7, 1."""
    return train(
        ps.lift(mlp(), ps.Gaussian()),
        kl_warmup=2,
        clip_norm=0.5,
        schedule=schedules.cosine(0.1),
        validation=data(),
        patience=2,
    )


@case
def batch_norm(folder: Path) -> dict[str, Any]:
    """Batches of 7, 7 and 8, as a rank with one datum could not normalise it."""
    return train(ps.lift(mlp(norm=True), ps.BetaBernoulli()), halves=True)


@case
def bayes_factor(folder: Path) -> dict[str, Any]:
    pruner = BayesFactorPruner("random", 0.5, threshold=-1e9, freeze=True)
    return train(ps.lift(mlp(), ps.Gaussian()), callbacks=[pruner])


@case
def reduction(folder: Path) -> dict[str, Any]:
    bnn = ps.lift(mlp(), ps.Gaussian(posterior="normal", initial_scale=0.5))
    return train(bnn, halves=True, callbacks=[ReductionPruner(draws=8)], learning_rate=0.1)


@case
def movement(folder: Path) -> dict[str, Any]:
    return train(ps.lift(mlp(), ps.Gaussian()), callbacks=[Pruner(Movement(), 0.5)])


@case
def snip(folder: Path) -> dict[str, Any]:
    pruner = Pruner(Snip(), 0.5, at="start", freeze=True)
    return train(ps.lift(mlp(), ps.Gaussian()), callbacks=[pruner])


def turbo(units: UnitFactor | None, method: ps.Method) -> dict[str, Any]:
    pruner = TurboPruner(
        units=units, active=schedules.logarithmic(0.9, 0.4, until=0.75), prune_from=0.3, removal=0.5
    )
    return train(ps.lift(mlp(8), method), callbacks=[pruner], epochs=6, learning_rate=0.05)


@case
def turbo_of_weights(folder: Path) -> dict[str, Any]:
    return turbo(None, ps.GammaSpikeAndSlab())


@case
def turbo_with_units(folder: Path) -> dict[str, Any]:
    return turbo(UnitFactor(cost=4.0), ps.GammaSpikeAndSlab(likelihood="curvature"))


@case
def cut(folder: Path) -> dict[str, Any]:
    """Dead features leave the network during training."""
    net = mlp(8)
    with torch.no_grad():
        net[2].weight[:, 3:6] = 0.0
    bnn = ps.lift(net, ps.Gaussian())
    bnn.freeze({"2.weight": net[2].weight != 0})
    kept: list[int] = []

    class Sizes(Callback):
        def on_step(self, run: Any, progress: float) -> None:
            kept.append(sum(one.numel() for one in bnn.net.parameters()))

    found = train(bnn, compact_every=1, callbacks=[Sizes()])
    return found | {"weights": torch.tensor(kept)}


@case
def sampler(folder: Path) -> dict[str, Any]:
    """Each rank has a loader of its own; 20 data, so that both have the same number."""
    x, y = data(20)
    rows = TensorDataset(x, y)
    order = torch.cat([torch.arange(0, 20, 2), torch.arange(1, 20, 2)]).view(2, 10)
    if alone():
        given: Any = [
            tuple(part[order[:, s : s + 3].flatten()] for part in (x, y)) for s in (0, 3, 6, 9)
        ]
    else:
        given = DataLoader(rows, batch_size=3, sampler=DistributedSampler(rows, shuffle=False))
    bnn = ps.lift(mlp(), ps.Gaussian())
    return train(bnn, data=given, model=ps.classifier(bnn, 20))


@case
def recipe(folder: Path) -> dict[str, Any]:
    """A whole recipe with files, of which rank 0 writes each."""
    net = mlp()
    x, y = data(60)
    result = ps.compress(
        net,
        (x, y),
        ps.recipes.Magnitude(epochs=2, batch_size=16),
        start=ps.recipes.Pretraining(epochs=1, batch_size=16),
        folder=folder / ("alone" if alone() else "together"),
        progress=False,
    )
    return {key: one.detach() for key, one in result.net.state_dict().items()}


class Stop(Callback):
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_epoch_end(self, run: Any) -> None:
        if run.epoch == self.epoch:
            raise KeyError("stopped")


@case
def resumed(folder: Path) -> dict[str, Any]:
    """What a run that was stopped leaves, less what a whole one does."""

    def go(path: Path, *callbacks: Callback) -> dict[str, Any]:
        bnn = ps.lift(mlp(norm=True), ps.Gaussian(posterior="normal"))
        return train(bnn, checkpoint=path, callbacks=callbacks, epochs=4, seed=3)

    name = "alone" if alone() else "together"
    whole = go(folder / f"whole-{name}.safetensors")
    path = folder / f"stopped-{name}.safetensors"
    with suppress(KeyError):
        go(path, Stop(3))
    found = go(path)
    return {key: found[key] - whole[key] for key in whole if whole[key].dtype != torch.bool}


def said(work: Callable[[], Any]) -> dict[str, Any]:
    try:
        work()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"error": ""}


@case
def not_a_number(folder: Path) -> dict[str, Any]:
    """Only the second rank's rows of a batch give NaN."""
    bnn = ps.lift(mlp(), ps.Gaussian())
    model = ps.classifier(bnn, N)

    def broken(x: Tensor, y: Tensor | None = None) -> Any:
        return model(x * float("nan") if second() and run_steps[0] > 4 else x, y)

    run_steps = [0]

    class Count(Callback):
        def on_step(self, run: Any, progress: float) -> None:
            run_steps[0] += 1

    options = {"callbacks": [Count()], "checkpoint": folder / "nan.safetensors"}
    return said(lambda: train(bnn, model=broken, capture=False, **options))


@case
def exception_in_a_model(folder: Path) -> dict[str, Any]:
    bnn = ps.lift(mlp(), ps.Gaussian())
    model = ps.classifier(bnn, N)

    def broken(x: Tensor, y: Tensor | None = None) -> Any:
        if second() and len(x) == 4 and torch.is_grad_enabled():
            raise LookupError("no such word")
        return model(x, y)

    return said(lambda: train(bnn, model=broken, capture=False))


@case
def exception_in_a_callback(folder: Path) -> dict[str, Any]:
    stop = [Stop(2 if second() else 99)]
    return said(lambda: train(ps.lift(mlp(), ps.Gaussian()), callbacks=stop))


@case
def other_weights(folder: Path) -> dict[str, Any]:
    net = mlp()
    if second():
        nn.init.normal_(net[2].weight)
    return said(lambda: train(ps.lift(net, ps.Gaussian())))


@case
def other_mask(folder: Path) -> dict[str, Any]:
    class Freeze(Callback):
        def on_epoch_end(self, run: Any) -> None:
            if second() and run.epoch == 2:
                run.lifted.freeze({"0.weight": torch.zeros(5, 4)})

    return said(lambda: train(ps.lift(mlp(), ps.Gaussian()), callbacks=[Freeze()]))


@case
def other_draws(folder: Path) -> dict[str, Any]:
    class Draw(Callback):
        def on_epoch_end(self, run: Any) -> None:
            if second():
                torch.rand(3)

    return said(lambda: train(ps.lift(mlp(), ps.Gaussian()), callbacks=[Draw()]))


@case
def other_settings(folder: Path) -> dict[str, Any]:
    return said(lambda: train(ps.lift(mlp(), ps.Gaussian()), epochs=3 + second()))


@case
def other_data(folder: Path) -> dict[str, Any]:
    x, y = data()
    return said(lambda: train(ps.lift(mlp(), ps.Gaussian()), data=(x + second(), y)))


@case
def folder_is_gone(folder: Path) -> dict[str, Any]:
    path = folder / "gone" / "checkpoint.safetensors"

    class Remove(Callback):
        def on_epoch_end(self, run: Any) -> None:
            if run.ranks.first:
                path.parent.rmdir()

    found = said(
        lambda: train(ps.lift(mlp(), ps.Gaussian()), callbacks=[Remove()], checkpoint=path)
    )
    return {"error": found["error"].replace(str(folder), "")}


@case
def shares_cannot_be_read(folder: Path) -> dict[str, Any]:
    rows = TensorDataset(*data())
    loader = DataLoader(rows, batch_size=3, sampler=DistributedSampler(rows, 2, int(second())))
    pruner = BayesFactorPruner("magnitude", 0.5)
    return said(lambda: train(ps.lift(mlp(), ps.Gaussian()), data=loader, callbacks=[pruner]))


@case
def other_number_of_ranks(folder: Path) -> dict[str, Any]:
    """A checkpoint of one process is none of two."""
    return said(lambda: train(ps.lift(mlp(), ps.Gaussian()), checkpoint=folder / "one.safetensors"))


class Die(Callback):
    def on_step(self, run: Any, progress: float) -> None:
        if run.epoch == 2 and second():
            os.kill(os.getpid(), signal.SIGKILL)


def killed(folder: Path, number: int) -> None:
    """Train in a child of each rank; the second one is killed."""
    pid = os.fork()
    if not pid:
        torch.distributed.init_process_group(
            "gloo", f"file://{folder}/store", timedelta(seconds=30), RANKS, number
        )
        resuming.TIMES_AS_LONG = 0  # a checkpoint after every epoch
        options = {"callbacks": [Die()], "checkpoint": folder / "killed.safetensors"}
        found = said(lambda: train(ps.lift(mlp(), ps.Gaussian()), **options))
        torch.save(found, folder / f"killed.{number}.pt")
        os._exit(0)
    os.waitpid(pid, 0)


def main(folder: Path) -> None:
    number = int(os.environ["RANK"])
    killed(folder, number)
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=120))
    for name, trained in CASES.items():
        try:
            found = trained(folder)
        except Exception:
            found = {"traceback": traceback.format_exc()}
        torch.save(found, folder / f"{name}.{number}.pt")
        print(name, number, time.time(), flush=True)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
