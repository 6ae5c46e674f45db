"""Going on with a training from a step of it."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pyrosparse as ps
from pyrosparse.infer import Callback, schedules
from pyrosparse.infer.checkpoint import CheckpointError
from tests.nets import batch, cnn, mlp

N, EPOCHS, A_BATCH = 30, 3, 7  # five batches an epoch, the last of two
STEPS = 15


def lifted(method=None, net=None) -> ps.Lifted:
    torch.manual_seed(0)
    return ps.lift(net or mlp(), method or ps.Gaussian())


def train(bnn: ps.Lifted, data=None, n=N, **options) -> ps.infer.Fit:
    options = {
        "epochs": EPOCHS,
        "batch_size": A_BATCH,
        "progress": False,
        "optimizer": torch.optim.SGD,
        "learning_rate": 1e-3,
        "schedule": schedules.cosine(),
        "kl_warmup": 2,
        "seed": 3,
    } | options
    data = batch("mlp", N) if data is None else data
    return ps.fit(ps.classifier(bnn, n), bnn.guide, data, **options)


class Record(Callback):
    """What every step was given, and the state after step k."""

    def __init__(self, k: int = -1):
        self.k = k
        self.given = []
        self.state = {}

    def on_start(self, run):
        batches = run.batches
        self.seen = []

        def watched():
            for one in batches():
                self.seen.append(one)
                yield one

        run.batches = watched

    def on_step(self, run, progress):
        x = self.seen[-1][0]
        self.given.append((run.step, progress, run.optimizer.param_groups[0]["lr"], x.tolist()))

    def after_step(self, run):
        if run.step == self.k:
            self.state = {name: one.clone() for name, one in run.lifted.state_dict().items()}


def same(one: nn.Module, two: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("k", "capture"), [(1, True), (5, True), (7, True), (14, True), (7, False)]
)
def test_what_remembers_and_draws_nothing_ends_as_the_whole(k, capture):
    whole, rest = lifted(), lifted()
    first, second = Record(k), Record()
    full = train(whole, callbacks=[first], capture=capture)
    rest.load_state_dict(first.state)
    run = train(rest, callbacks=[second], capture=capture, first_step=k)
    assert second.given == first.given[k:]
    assert same(whole, rest)
    assert (run.step, run.epoch) == (STEPS, EPOCHS)
    assert [entry["epoch"] for entry in run.history] == list(range(k // 5 + 1, EPOCHS + 1))
    for key in ("step", "kl_scale", "learning_rate"):
        assert [e[key] for e in run.history] == [e[key] for e in full.history[k // 5 :]]
    # Of whole epochs the loss is the same; the first may be the rest of one.
    assert [e["loss"] for e in run.history[1:]] == [e["loss"] for e in full.history[k // 5 + 1 :]]


def test_the_loss_of_the_first_epoch_is_the_mean_of_its_rest():
    class Losses(Callback):
        def on_start(self, run):
            self.losses = []
            take = run.take_step

            def noted(*args):
                self.losses.append(float(take(*args)))
                return self.losses[-1]

            run.take_step = noted

    first, whole, losses = Record(7), lifted(), Losses()
    train(whole, callbacks=[first, losses], capture=False)
    rest = lifted()
    rest.load_state_dict(first.state)
    run = train(rest, first_step=7, capture=False)
    assert run.history[0]["loss"] == pytest.approx(sum(losses.losses[7:10]) / 3, rel=1e-6)


def test_the_optimizer_is_new():
    """Adam takes a first step of the size of its rate, whatever the gradient was before."""
    rest, first = lifted(), Record(10)
    train(lifted(), callbacks=[first], optimizer=torch.optim.Adam)
    rest.load_state_dict(first.state)
    sizes = []

    class First(Callback):
        def after_step(self, run):
            moved = (run.lifted.net[0].weight - first.state["net.0.weight"]).abs().max()
            sizes.append(float(moved.detach()) / run.optimizer.param_groups[0]["lr"])

    run = train(rest, callbacks=[First()], optimizer=torch.optim.Adam, first_step=10)
    assert sizes[0] == pytest.approx(1.0, rel=1e-3)
    assert {int(memory["step"]) for memory in run.optimizer.state.values()} == {5}


def test_draws_follow_from_the_seed():
    method = ps.Gaussian(posterior="normal", initial_scale=0.1)
    runs = [lifted(method) for _ in range(3)]
    for bnn, seed in zip(runs, (3, 3, 4), strict=True):
        train(bnn, first_step=7, seed=seed)
    assert same(runs[0], runs[1]) and not same(runs[0], runs[2])


def test_annealing_and_pruners_see_the_whole_progress():
    beta = schedules.logarithmic(0.5, 50.0)
    annealing = ps.prune.Annealing(beta, per="step", finish=False)
    bnn = lifted(ps.GibbsPruning(0.5))
    seen = []

    class Beta(Callback):
        def on_step(self, run, progress):
            seen.append(float(bnn.guide.entries[0].posterior()["_beta"]))

    train(bnn, callbacks=[annealing, Beta()], first_step=7)
    assert seen == pytest.approx([beta(step / STEPS) for step in range(7, STEPS)])


@pytest.mark.parametrize(
    "make",
    [
        lambda x, y: ps.data.Examples(x, y),
        lambda x, y: TensorDataset(x, y),
        lambda x, y: {"x": x, "y": y},
        lambda x, y: list(zip(x.split(A_BATCH), y.split(A_BATCH), strict=True)),
        lambda x, y: DataLoader(TensorDataset(x, y), batch_size=A_BATCH),
    ],
    ids=["examples", "dataset", "dict", "list", "loader"],
)
def test_data_of_every_kind_go_on_where_they_were(make):
    data = make(*batch("mlp", N))
    whole, rest = lifted(), lifted()
    first, second = Record(7), Record()
    train(whole, data, callbacks=[first])
    rest.load_state_dict(first.state)
    train(rest, data, callbacks=[second], first_step=7)
    assert second.given == first.given[7:]
    assert same(whole, rest)


def test_batches_of_one_datum_count_as_merged():
    """With batch normalisation 29 data make four batches of 7, the last of 8."""
    whole, rest, first = lifted(net=cnn()), lifted(net=cnn()), Record(6)
    x, y = batch("cnn", 29)
    train(whole, (x, y), n=29, callbacks=[first])
    rest.load_state_dict(first.state)
    run = train(rest, (x, y), n=29, first_step=6)
    assert run.batches_an_epoch() == 4
    assert same(whole, rest)


def test_an_interrupted_rest_is_resumed(tmp_path):
    class Stop(Callback):
        def on_epoch_end(self, run):
            if run.epoch == 2:
                raise KeyboardInterrupt

    method = ps.Gaussian(posterior="normal")
    whole, broken, resumed = lifted(method), lifted(method), lifted(method)
    file = tmp_path / "run"
    train(whole, first_step=3)
    with pytest.raises(KeyboardInterrupt):
        train(broken, first_step=3, checkpoint=file, callbacks=[Stop()])
    run = train(resumed, first_step=3, checkpoint=file)
    assert same(whole, resumed)
    assert [entry["step"] for entry in run.history] == [5, 10, 15]
    for other in (0, 4):
        with pytest.raises(CheckpointError, match=f"first_step was 3, is {other}"):
            train(lifted(method), first_step=other, checkpoint=file)


def test_shrinking_starts_with_the_first_step_that_is_taken():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    bnn = ps.lift(net, ps.BetaBernoulli(), ps.outputs(net, "0"))
    bnn.freeze({bnn.targets[0].key: torch.arange(8) >= 4})
    widths = []

    class Width(Callback):
        def on_step(self, run, progress):
            widths.append(run.lifted.targets[0].shape[0])

    train(bnn, callbacks=[Width()], first_step=8, compact_every=1)
    assert max(widths) <= 4


@pytest.mark.parametrize("k", [STEPS, STEPS + 1, 1000])
def test_a_step_behind_the_end_is_refused(k):
    with pytest.raises(ValueError, match=f"below {STEPS}; got {k}"):
        train(lifted(), first_step=k)


@pytest.mark.parametrize("k", [-1, 1.5])
def test_what_is_no_number_of_steps_is_refused(k):
    with pytest.raises(ValueError, match=f"first_step must be 0 or .*, got {k}"):
        train(lifted(), first_step=k)


def test_batches_without_a_number_are_refused():
    class Endless:
        def __iter__(self):
            return iter([batch("mlp", 7)])

    with pytest.raises(ValueError, match="first_step needs to know how many batches"):
        train(lifted(), Endless(), first_step=1)
    assert train(lifted(), Endless(), epochs=2).step == 2
