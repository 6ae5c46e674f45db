"""Connection sensitivity, movement, and pruning before the first step."""

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from torch import Tensor, nn

import pyrosparse as ps
from pyrosparse.infer import Callback
from pyrosparse.prune import Movement, Pruner, RunCriterion, Snip, connection_sensitivity
from tests.nets import batch, cnn, mlp
from tests.stopped import stopped_after

N = 28


def lifted(net: nn.Module, method: ps.Method | None = None) -> ps.Lifted:
    return ps.lift(net, method or ps.Gaussian())


def by_connections(bnn: ps.Lifted, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """|dL/dc| at c = 1, of the mean loss with weights c w."""
    bnn.eval()
    own = dict(bnn.net.named_parameters())
    c = {t.name: torch.ones(t.shape, requires_grad=True) for t in bnn.targets}
    scaled = {name: value.detach() * c.get(name, torch.ones(())) for name, value in own.items()}
    logits = torch.func.functional_call(bnn.net, scaled, (x,))
    nn.functional.cross_entropy(logits, y).backward()
    return {name: one.grad.abs() for name, one in c.items() if one.grad is not None}


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize("posterior", ["point", "normal"])
def test_sensitivity_is_the_gradient_by_connections(name: str, posterior: str) -> None:
    torch.manual_seed(0)
    net = {"mlp": mlp, "cnn": cnn}[name]()
    x, y = batch(name, 12)
    bnn = lifted(net, ps.Gaussian(posterior=posterior))
    # The number of data and the scale of the prior do not count.
    scores = connection_sensitivity(ps.classifier(bnn, 1000), bnn, (x, y))
    expected = by_connections(bnn, x, y)
    assert scores.keys() == expected.keys() and not any("bias" in key for key in scores)
    for key, score in scores.items():
        torch.testing.assert_close(score, expected[key], rtol=1e-5, atol=1e-8)


def test_it_is_of_the_mean_loss_and_not_a_mean_of_magnitudes() -> None:
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 1.0)
    bnn = lifted(net)
    # Residuals of +1 and -1 at x = 1: the gradients cancel.
    data = torch.ones(2, 1), torch.tensor([[0.0], [2.0]])
    model = ps.regressor(bnn, 2, noise=1.0)
    assert connection_sensitivity(model, bnn, data)["weight"].item() == 0.0


def test_nothing_is_left_behind() -> None:
    torch.manual_seed(0)
    net = cnn()
    bnn = lifted(net)
    bnn.train()
    before = {key: value.clone() for key, value in bnn.state_dict().items()}
    state = torch.get_rng_state()
    with torch.no_grad():  # also where gradients are off
        connection_sensitivity(ps.classifier(bnn, N), bnn, batch("cnn"))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in bnn.state_dict().items())
    assert all(parameter.grad is None for parameter in bnn.parameters())
    assert all(module.training for module in bnn.modules())


def test_masked_data_are_none() -> None:
    torch.manual_seed(0)
    bnn = lifted(mlp())
    x, y = batch("mlp", 10)
    known = torch.arange(10) < 6

    def model(x: Tensor, y: Tensor) -> None:
        logits = bnn(x)
        with pyro.plate("data", 10), poutine.mask(mask=known):
            pyro.sample("y", dist.Categorical(logits=logits), obs=y)

    scores = connection_sensitivity(model, bnn, (x, y))
    part = connection_sensitivity(ps.classifier(bnn, 6), bnn, (x[:6], y[:6]))
    for key, score in scores.items():
        torch.testing.assert_close(score, part[key])


class Apart(ps.Gaussian):
    """A posterior that is located at a copy of the weight."""

    def init(self, target: ps.Target) -> dict[str, Tensor]:
        found = super().init(target)
        return found | {"loc": found["loc"].detach().clone()}


def test_what_cannot_be_scored_is_refused() -> None:
    bnn = ps.lift(mlp(), Apart())
    with pytest.raises(ValueError, match="does not have the network's own weight as its mean"):
        connection_sensitivity(ps.classifier(bnn, N), bnn, batch("mlp"))
    net = mlp()
    gated = ps.lift(net, ps.BetaBernoulli(), ps.inputs(net))
    with pytest.raises(ValueError, match="no weights among its targets"):
        connection_sensitivity(ps.classifier(gated, N), gated, batch("mlp"))
    bnn = lifted(nn.Linear(1, 1))
    huge = torch.ones(1, 1), torch.full((1, 1), 1e30)
    with pytest.raises(ValueError, match="the loss of the batch is inf"):
        connection_sensitivity(ps.regressor(bnn, 1, noise=1.0), bnn, huge)


class Watch(Callback):
    """The zeros of all weights after each step's preparation, and at the start."""

    def __init__(self) -> None:
        self.masks: list[dict[str, Tensor]] = []
        self.losses: list[float] = []

    def on_step(self, run: ps.infer.Fit, progress: float) -> None:
        self.masks.append({t.key: t.value != 0 for t in run.lifted.targets})


def train(*callbacks: Callback, epochs: int = 3, **options):
    torch.manual_seed(0)
    bnn = lifted(mlp())
    defaults = {"batch_size": 7, "learning_rate": 0.05, "progress": False, "capture": False}
    options = defaults | options
    model, data = ps.classifier(bnn, N), batch("mlp", N)
    return bnn, ps.fit(model, bnn.guide, data, epochs=epochs, callbacks=callbacks, **options)


def test_snip_prunes_before_the_first_step_and_never_again() -> None:
    watch = Watch()
    bnn, run = train(Pruner("snip", 0.6, at="start", freeze=True), watch)
    torch.manual_seed(0)
    start = lifted(mlp())
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))[:7]
    x, y = batch("mlp", N)
    scores = connection_sensitivity(ps.classifier(start, N), start, (x[order], y[order]))
    expected = ps.prune.keep_largest(scores, 0.6, scope="global")
    assert expected.sparsity == 0.6  # 21 of 35 weights
    for seen in (*watch.masks, {t.key: t.value != 0 for t in bnn.targets}):
        assert all(torch.equal(mask, expected[key]) for key, mask in seen.items())
    assert [entry["sparsity"] for entry in run.history] == [0.6] * 3
    assert "log_bayes_factor" not in run.history[-1]


def test_at_the_end_is_pruned_once() -> None:
    watch = Watch()
    _, run = train(Pruner("magnitude", 0.6, at="end", freeze=True), watch)
    assert all(mask.all() for seen in watch.masks for mask in seen.values())
    assert [entry["sparsity"] for entry in run.history] == [0.0, 0.0, 0.6]
    assert "log_bayes_factor" in run.history[-1] and "log_bayes_factor" not in run.history[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at": "begin"}, "at must be 'start', 'epoch' or 'end'"),
        ({"at": "start"}, "give freeze=True"),
        ({"at": "end", "ramp": ps.infer.schedules.cubic()}, "leave ramp out"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        Pruner("magnitude", 0.5, **options)


@pytest.mark.parametrize("capture", [True, False])
def test_movement_is_the_sum_of_minus_weight_times_gradient(capture: bool) -> None:
    class Sums(Callback):
        """The same by the definition, from eager steps."""

        def __init__(self) -> None:
            self.sums: dict[str, Tensor] = {}

        def on_start(self, run: ps.infer.Fit) -> None:
            self.sums = {t.key: torch.zeros(t.shape) for t in run.lifted.targets}

        def on_step(self, run: ps.infer.Fit, progress: float) -> None:
            batches = list(run.batches())
            x, y = batches[run.step % 4]
            values = {t.key: t.value for t in run.lifted.targets}
            total = N / len(x) * nn.functional.cross_entropy(run.lifted.net(x), y, reduction="sum")
            total = total + sum(0.5 * value.square().sum() for value in values.values())
            gradients = torch.autograd.grad(total, list(values.values()))
            for (key, value), gradient in zip(values.items(), gradients, strict=True):
                self.sums[key] -= (value * gradient).detach()

    movement, sums = Movement(), Sums()
    bnn, _ = train(Pruner(movement, 0.4, at="end", freeze=True), sums, capture=capture)
    expected = ps.prune.keep_largest(sums.sums, 0.4)
    for target in bnn.targets:
        torch.testing.assert_close(
            movement._sums[target.key], sums.sums[target.key], rtol=1e-4, atol=1e-4
        )
        assert torch.equal(target.value != 0, expected[target.key])


def test_movement_starts_afresh_in_another_run() -> None:
    pruner = Pruner("movement", 0.4, freeze=True)
    first, _ = train(pruner)
    second, _ = train(pruner)
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Pruner("movement", 0.4, freeze=True, ramp=ps.infer.schedules.staircase(2)),
        lambda: Pruner("snip", 0.4, at="start", freeze=True),
        lambda: ps.prune.BayesFactorPruner("movement", 0.4, freeze=True),
    ],
    ids=["movement", "snip", "gated"],
)
def test_resumed_runs_equal_uninterrupted_ones(tmp_path, make) -> None:
    whole, run = train(make())
    file = tmp_path / "run.safetensors"
    with stopped_after(1):
        train(make(), checkpoint=file)
    resumed, again = train(make(), checkpoint=file)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key])
    assert [e["sparsity"] for e in run.history] == [e["sparsity"] for e in again.history]


def test_movement_and_cuts_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="compact_every"):
        train(Pruner("movement", 0.4, freeze=True), compact_every=1)


def test_frozen_weights_are_never_released() -> None:
    class Backwards(RunCriterion):
        """Scores that turn round at every round."""

        def __init__(self) -> None:
            super().__init__()
            self.sign = 1.0

        def scores(self, run: ps.infer.Fit) -> dict[str, Tensor]:
            self.sign = -self.sign
            return {
                t.key: self.sign * torch.arange(t.value.numel()).float().view(t.shape)
                for t in run.lifted.targets
            }

    watch = Watch()
    ramp = ps.infer.schedules.staircase(4)
    _, run = train(Pruner(Backwards(), 0.8, ramp=ramp, freeze=True), watch, epochs=4)
    for before, after in zip(watch.masks[:-1], watch.masks[1:], strict=True):
        assert all(not (after[key] & ~before[key]).any() for key in before)
    # And yet the wanted number goes: 20 and 15 weights.
    assert [round(35 * entry["sparsity"]) for entry in run.history] == [14, 21, 28, 28]


def test_a_function_that_would_release_frozen_weights_does_not() -> None:
    rounds: list[float] = []

    def turning(weights, sparsity, generator):
        rounds.append((-1.0) ** len(rounds))
        scores = {
            name: rounds[-1] * torch.arange(weight.numel()).float().view(weight.shape)
            for name, weight in weights.items()
        }
        return ps.prune.keep_largest(scores, sparsity)

    watch = Watch()
    train(Pruner(turning, 0.4, freeze=True), watch, epochs=3)
    for before, after in zip(watch.masks[:-1], watch.masks[1:], strict=True):
        assert all(not (after[key] & ~before[key]).any() for key in before)


def test_a_criterion_of_ones_own_is_a_function() -> None:
    def first(weights, sparsity, generator):
        scores = {
            name: -torch.arange(w.numel()).float().view(w.shape) for name, w in weights.items()
        }
        return ps.prune.keep_largest(scores, sparsity)

    bnn, _ = train(Pruner(first, 0.5))
    for target in bnn.targets:
        flat = target.value.flatten() != 0
        assert flat.tolist() == sorted(flat.tolist(), reverse=True)


def test_snip_takes_all_weights_together_and_can_keep_some_of_each() -> None:
    assert Snip().scope == "global" and Movement().scope == "tensor"
    bnn, _ = train(Pruner(Snip(at_least=4), 0.9, at="start", freeze=True))
    assert all(int((t.value != 0).sum()) >= 3 for t in bnn.targets)
