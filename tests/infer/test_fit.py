"""The training loop."""

import copy
import json
import math
import re
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pyrosparse as ps
from pyrosparse.infer import Callback, Evaluation, NonFiniteLossError, schedules
from pyrosparse.infer.checkpoint import CheckpointError
from tests.nets import Residual, batch, cnn, mlp

N = 28
NORMAL = ps.Gaussian(posterior="normal", initial_scale=0.1)


def lifted(method: ps.Method = NORMAL, net=None) -> ps.Lifted:
    torch.manual_seed(0)
    return ps.lift(net or mlp(), method)


def train(bnn: ps.Lifted, data=None, **options) -> ps.infer.Fit:
    options = {"epochs": 3, "batch_size": 7, "progress": False, "learning_rate": 0.01} | options
    data = batch("mlp", N) if data is None else data
    return ps.fit(ps.classifier(bnn, N), bnn.guide, data, **options)


def same(one: nn.Module, two: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def timeless(history: list[dict]) -> list[dict]:
    return [{key: value for key, value in e.items() if key != "seconds"} for e in history]


class Raise(Callback):
    """Interrupts the run after an epoch."""

    def __init__(self, epoch: int):
        self.epoch = epoch

    def on_epoch_end(self, run):
        if run.epoch == self.epoch:
            raise KeyboardInterrupt


# What it computes


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
@pytest.mark.parametrize("estimator", ["weights", "activations"])
def test_updates_are_those_of_svi(elbo, estimator):
    method = ps.Gaussian(posterior="normal", estimator=estimator)
    x, y = batch("mlp", N)
    batches = list(zip(x.split(7), y.split(7), strict=True))
    ours, theirs = lifted(method), lifted(method)
    options = {"optimizer": torch.optim.Adam, "learning_rate": 0.01, "seed": 5}
    # A captured step leaves out the draws of weights that noise at the activations does not read.
    run = train(ours, batches, elbo=elbo(), capture=estimator == "weights", **options)

    torch.manual_seed(5)
    svi = SVI(ps.classifier(theirs, N), theirs.guide, pyro.optim.Adam({"lr": 0.01}), elbo())
    losses = [sum(svi.step(*b) for b in batches) / 4 for _ in range(3)]
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6, msg=name)
    assert [e["loss"] for e in run.history] == pytest.approx(losses, rel=1e-5)


def test_every_datum_is_seen_once_an_epoch_in_a_new_order():
    seen = []

    class Watching(nn.Linear):
        def forward(self, x):
            if self.training:
                seen.extend(x[:, 0].tolist())
            return super().forward(x)

    x = torch.arange(10.0).unsqueeze(-1).repeat(1, 2)
    bnn = lifted(net=nn.Sequential(Watching(2, 2)))
    data = (x, torch.zeros(10, dtype=torch.int64))
    # A captured forward does not run.
    options = {"epochs": 2, "batch_size": 4, "capture": False, "progress": False}
    ps.fit(ps.classifier(bnn, 10), bnn.guide, data, **options)
    first, second = seen[:10], seen[10:]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second != sorted(second)


def test_seed_decides_the_run_and_the_caller_keeps_the_random_state():
    runs = {}
    for label, seed in (("a", 1), ("again", 1), ("b", 2)):
        bnn = lifted()
        torch.manual_seed(len(label))
        state = torch.get_rng_state()
        train(bnn, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        runs[label] = bnn
    assert same(runs["a"], runs["again"])
    assert not same(runs["a"], runs["b"])


@pytest.mark.parametrize(
    "make",
    [
        lambda x, y: (x, y),
        lambda x, y: ps.data.Examples(x, y),
        lambda x, y: DataLoader(TensorDataset(x, y), batch_size=7, shuffle=True),
        lambda x, y: [(x, y)],
    ],
    ids=["tuple", "examples", "loader", "list"],
)
def test_data_of_every_kind_are_learnt(make):
    x = torch.randn(N, 4)
    data = make(x, (x[:, 0] > 0).long())
    run = train(
        lifted(), data, epochs=40, learning_rate=0.02, callbacks=[Evaluation("train", data)]
    )
    assert run.history[-1]["train_accuracy"] > 0.9
    assert run.history[-1]["loss"] < 0.7 * run.history[0]["loss"]


def test_ordinary_pyro_models_train():
    x = torch.randn(50, 2)
    y = x @ torch.tensor([1.0, -2.0]) + 0.5

    def model(x, y=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        offset = pyro.param("offset", torch.tensor(0.0))
        noise = pyro.param("noise", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", 50, subsample_size=len(x)):
            pyro.sample("y", dist.Normal(x @ w + offset, noise), obs=y)

    guide = AutoNormal(model)
    run = ps.fit(
        model,
        guide,
        (x, y),
        epochs=120,
        batch_size=25,
        learning_rate=0.03,
        elbo=Trace_ELBO(),
        progress=False,
    )
    assert {"offset", "noise"} < set(run.parameters)
    assert (guide.median()["w"] - torch.tensor([1.0, -2.0])).abs().max() < 0.1
    assert abs(pyro.param("offset").item() - 0.5) < 0.1
    assert 0 < pyro.param("noise").item() < 0.3


def test_lifted_property_needs_a_lifted_network():
    def model(x, y=None):
        pyro.param("w", torch.zeros(2))
        pyro.sample("y", dist.Normal(pyro.param("w"), 1.0).to_event(1), obs=y)

    data = [(torch.zeros(2), torch.zeros(2))]
    run = ps.fit(model, lambda x, y=None: None, data, epochs=1, progress=False)
    with pytest.raises(TypeError, match=r"pyrosparse\.lift"):
        run.lifted.targets  # noqa: B018


# Rates, schedules, the weight of the divergence


def test_rates_by_glob_make_groups():
    rates = {"guide.*": 0.1, "net.0.*": 0.02, "*": 0.003}
    run = train(lifted(), learning_rate=rates, epochs=1)
    of = {
        name: group["lr"]
        for group in run.optimizer.param_groups
        for name, tensor in run.parameters.items()
        if any(tensor is other for other in group["params"])
    }
    assert of == {
        "guide.posterior.0.weight.log_scale": 0.1,
        "guide.posterior.2.weight.log_scale": 0.1,
        "net.0.weight": 0.02,
        "net.0.bias": 0.02,
        "net.2.weight": 0.003,
        "net.2.bias": 0.003,
    }


def test_rate_of_zero_leaves_its_parameters():
    bnn = lifted()
    before = copy.deepcopy(bnn.state_dict())
    train(bnn, learning_rate={"net.*": 0.0, "*": 0.01})
    for name, parameter in bnn.named_parameters():
        assert torch.equal(parameter, before[name]) == name.startswith("net.")


def test_uncovered_parameters_and_useless_rules_are_refused():
    with pytest.raises(ValueError, match=r"'net\.\d\.(weight|bias)'"):
        train(lifted(), learning_rate={"guide.*": 0.1})
    with pytest.raises(ValueError, match=r"'nett\.\*'"):
        train(lifted(), learning_rate={"nett.*": 0.1, "*": 0.1})


def test_schedule_sets_the_rate_at_every_step():
    used = []

    class Spy(torch.optim.SGD):
        def step(self, closure=None):
            used.append([group["lr"] for group in self.param_groups])
            return super().step(closure)

    rates = {"guide.*": 0.01, "*": 0.002}
    train(lifted(), learning_rate=rates, schedule=schedules.cosine(), optimizer=Spy, epochs=2)
    expected = [schedules.cosine()(step / 8) for step in range(8)]
    by_group = list(zip(*used, strict=True))
    for rate, group in zip(sorted(rates.values()), sorted(by_group), strict=True):
        assert list(group) == pytest.approx([rate * factor for factor in expected])


def test_schedule_moves_within_an_epoch_of_a_loader():
    used = []

    class Spy(torch.optim.SGD):
        def step(self, closure=None):
            used.append(self.param_groups[0]["lr"])
            return super().step(closure)

    loader = DataLoader(TensorDataset(*batch("mlp", N)), batch_size=7)
    train(lifted(), loader, schedule=schedules.cosine(), optimizer=Spy, epochs=2)
    assert len(set(used)) == 8


def test_divergence_is_warmed_up_linearly_from_zero():
    scales = []

    class Spy(TraceMeanField_ELBO):
        def loss_and_grads(self, model, guide, *args):
            trace = pyro.poutine.trace(model).get_trace(*args)
            scales.append((trace.nodes["0.weight"]["scale"], trace.nodes["y"]["scale"]))
            return super().loss_and_grads(model, guide, *args)

    options = {"kl_scale": 0.5, "kl_warmup": 2, "capture": False}
    run = train(lifted(), elbo=Spy(), epochs=3, **options)
    expected = [0.5 * min(1.0, step / 8) for step in range(12)]
    assert [float(latent) for latent, _ in scales] == pytest.approx(expected)
    assert {float(observed) for _, observed in scales} == {4.0}
    assert run.history[-1]["kl_scale"] == 0.5


def test_clipping_bounds_the_gradient():
    norms = []

    class Spy(torch.optim.SGD):
        def step(self, closure=None):
            gradients = [p.grad.flatten() for g in self.param_groups for p in g["params"]]
            norms.append(torch.cat(gradients).norm().item())
            return super().step(closure)

    train(lifted(), optimizer=Spy, clip_norm=0.5)
    assert max(norms) <= 0.5 * (1 + 1e-5)


# Callbacks, validation, metrics


def test_callbacks_are_called_in_order_and_their_metrics_recorded():
    calls = []

    class Note(Callback):
        def __init__(self, name):
            self.name = name

        def on_start(self, run):
            calls.append((self.name, "start", run.epoch))

        def on_epoch_end(self, run):
            calls.append((self.name, "epoch", run.epoch))
            return {self.name: run.epoch}

        def on_end(self, run):
            calls.append((self.name, "end", run.epoch))
            return {f"{self.name}_end": run.epoch}

    run = train(lifted(), epochs=2, callbacks=[Note("a"), Note("b")])
    expected = [("start", 0), ("epoch", 1), ("epoch", 2), ("end", 2)]
    assert calls == [(name, *what) for what in expected for name in "ab"]
    assert [(e["a"], e["b"]) for e in run.history] == [(1, 1), (2, 2)]
    assert "a_end" not in run.history[0] and run.history[1]["b_end"] == 2


def test_callbacks_see_the_divergence_unscaled():
    class Note(Callback):
        def on_epoch_end(self, run):
            return {"prior": ps.evidence.log_posterior(run.model, run.guide, run.data).prior}

        def on_end(self, run):
            estimate = ps.evidence.elbo(run.model, run.guide, run.data)
            return {"elbo": estimate.mean}

    bnn = lifted()
    run = train(bnn, epochs=1, kl_scale=0.1, callbacks=[Note()])
    model, data = ps.classifier(bnn, N), batch("mlp", N)
    prior = ps.evidence.log_posterior(model, bnn.guide, data).prior
    assert run.history[0]["prior"] == pytest.approx(prior, rel=1e-9)
    estimate = ps.evidence.elbo(model, bnn.guide, data).mean
    assert run.history[0]["elbo"] == pytest.approx(estimate, rel=1e-6)


def test_validation_is_of_the_network_that_is_handed_over():
    class Ruin(Callback):
        def on_end(self, run):
            run.lifted.zero(
                {target.key: torch.zeros(target.shape) for target in run.lifted.targets}
            )

    bnn = lifted()
    run = train(bnn, epochs=2, validation=batch("mlp", N), callbacks=[Ruin()])
    model = ps.classifier(bnn, N)
    scores = ps.evidence.evaluate(model, bnn.guide, batch("mlp", N))
    assert run.history[-1]["validation_nll"] == scores["nll"]


def test_patience_stops_without_a_new_best():
    run = train(
        lifted(),
        epochs=50,
        learning_rate=0.0,
        validation=batch("mlp", N),
        patience=3,
    )
    assert run.finished
    assert len(run.history) == 4  # the first is the best, and three more


def test_patience_is_not_lost_where_the_best_keeps_coming():
    x = torch.randn(N, 4)
    data = (x, (x[:, 0] > 0).long())
    run = train(lifted(ps.Gaussian()), data, epochs=8, validation=data, patience=1)
    assert len(run.history) == 8


def test_metrics_are_one_line_an_epoch(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("of an earlier run\n")
    run = train(lifted(), metrics=path)
    assert [json.loads(line) for line in path.read_text().splitlines()] == run.history


# Interruption


@pytest.mark.parametrize("net", [mlp, cnn])
@pytest.mark.parametrize("loader", [False, True])
def test_interrupted_run_ends_like_a_whole_one(tmp_path, net, loader):
    x, y = batch(net.__name__, N)

    def attempt(callback, **options):
        data = DataLoader(TensorDataset(x, y), batch_size=7, shuffle=True) if loader else (x, y)
        bnn = lifted(net=(torch.manual_seed(0), net())[1])
        options |= {"kl_warmup": 2, "validation": (x, y), "clip_norm": 5.0}
        return bnn, train(bnn, data, callbacks=[callback], epochs=4, **options)

    whole, whole_run = attempt(Callback())
    for epoch in (1, 2, 3):
        path, metrics = tmp_path / f"{epoch}.safetensors", tmp_path / f"{epoch}.jsonl"
        with pytest.raises(KeyboardInterrupt):
            attempt(Raise(epoch + 1), checkpoint=path, metrics=metrics)
        resumed, run = attempt(Callback(), checkpoint=path, metrics=metrics)
        assert same(whole, resumed)
        assert timeless(run.history) == timeless(whole_run.history)
        lines = [json.loads(line) for line in metrics.read_text().splitlines()]
        assert lines == run.history


def test_interrupted_run_of_a_channels_last_network_ends_like_a_whole_one(tmp_path):
    data = batch("residual", N)

    def attempt(callback, checkpoint=None):
        net = (torch.manual_seed(0), Residual())[1].to(memory_format=torch.channels_last)
        bnn = lifted(net=net)
        return bnn, train(bnn, data, callbacks=[callback], epochs=4, checkpoint=checkpoint)

    whole, _ = attempt(Callback())
    assert not whole.net.branch[1].weight.is_contiguous()
    with pytest.raises(KeyboardInterrupt):
        attempt(Raise(3), tmp_path / "a")
    resumed, _ = attempt(Callback(), tmp_path / "a")
    assert same(whole, resumed)


def test_finished_run_is_given_back_as_it_is(tmp_path):
    path, metrics = tmp_path / "run.safetensors", tmp_path / "metrics.jsonl"
    first, second = lifted(), lifted()
    run = train(first, checkpoint=path)
    again = train(second, checkpoint=path, metrics=metrics)
    assert same(first, second)
    assert again.history == run.history
    # As where the process was killed between the last checkpoint and its line of metrics.
    assert [json.loads(line) for line in metrics.read_text().splitlines()] == run.history


def test_parameters_of_pyro_itself_are_resumed(tmp_path):
    x = torch.randn(20, 1)
    data = (x, 3 * x[:, 0])

    def model(x, y=None):
        slope = pyro.param("slope", torch.tensor(0.1), constraint=dist.constraints.positive)
        with pyro.plate("data", 20, subsample_size=len(x)):
            pyro.sample("y", dist.Normal(x[:, 0] * slope, 0.5), obs=y)

    def guide(x, y=None):
        pass

    def attempt(callback, checkpoint=None):
        pyro.clear_param_store()
        options = {"epochs": 4, "progress": False, "checkpoint": checkpoint, "learning_rate": 0.1}
        ps.fit(model, guide, data, callbacks=[callback], **options)
        return pyro.param("slope").detach().clone()

    whole = attempt(Callback())
    with pytest.raises(KeyboardInterrupt):
        attempt(Raise(3), tmp_path / "a")
    assert torch.equal(attempt(Callback(), tmp_path / "a"), whole)


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "run.safetensors"
    train(lifted(), epochs=2, checkpoint=path)
    return path


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("epochs", 5),
        ("batch_size", 14),
        ("learning_rate", 0.5),
        ("kl_scale", 0.5),
        ("kl_warmup", 1),
        ("clip_norm", 1.0),
        ("seed", 1),
    ],
)
def test_checkpoint_of_other_settings_is_refused(checkpoint, option, value):
    bnn = lifted()
    before = copy.deepcopy(bnn)
    with pytest.raises(CheckpointError, match=rf"other settings.*{option} was"):
        train(bnn, **({"epochs": 2} | {option: value}), checkpoint=checkpoint)
    assert same(bnn, before)


@pytest.mark.parametrize(
    "other",
    [
        lambda: lifted(ps.Gaussian()),
        lambda: lifted(net=nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))),
    ],
)
def test_checkpoint_of_another_network_or_method_is_refused(checkpoint, other):
    with pytest.raises(CheckpointError, match="another network or method"):
        train(other(), epochs=2, checkpoint=checkpoint)


def test_checkpoint_of_another_optimizer_is_refused(checkpoint):
    with pytest.raises(CheckpointError, match="optimizer"):
        train(lifted(), epochs=2, checkpoint=checkpoint, optimizer=torch.optim.SGD)


def test_checkpoint_with_other_callbacks_is_refused(checkpoint):
    pruner = ps.prune.BayesFactorPruner("magnitude", 0.5)
    with pytest.raises(CheckpointError, match=r"callbacks was \[\], is \['BayesFactorPruner'\]"):
        train(lifted(), epochs=2, checkpoint=checkpoint, callbacks=[pruner])


def test_damaged_checkpoint_is_refused_and_kept(checkpoint):
    content = checkpoint.read_bytes()[:-10]
    checkpoint.write_bytes(content)
    with pytest.raises(CheckpointError, match=re.escape(str(checkpoint))):
        train(lifted(), epochs=2, checkpoint=checkpoint)
    assert checkpoint.read_bytes() == content


# What goes wrong


def poisoned(value: float, bnn: ps.Lifted, epoch: int = 2) -> Callback:
    class Poison(Callback):
        def on_start(self, run):
            self.steps = 0
            step = run.optimizer.step

            def poisonous(*args, **kwargs):
                self.steps += 1
                step(*args, **kwargs)
                if self.steps == 4 * (epoch - 1) + 1:
                    with torch.no_grad():
                        bnn.net[2].weight[0, 0] = value

            run.optimizer.step = poisonous

    return Poison()


@pytest.mark.filterwarnings("ignore:Encountered NaN")  # Pyro's own, less clear
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("method", [ps.Gaussian(), NORMAL], ids=["point", "normal"])
def test_loss_that_is_not_finite_names_step_site_and_layer(tmp_path, value, method):
    path = tmp_path / "run.safetensors"
    bnn = lifted(method)
    with (
        pyro.validation_enabled(False),
        pytest.raises(NonFiniteLossError) as caught,
    ):
        train(bnn, callbacks=[poisoned(value, bnn)], checkpoint=path)
    message = str(caught.value)
    assert "step 6 (epoch 2)" in message
    assert "'net.2'" in message
    assert "'2.weight'" in message
    assert "net.2.weight" in message
    assert str(path) in message
    saved = ps.infer.checkpoint.load(path)
    assert saved["epoch"] == 1
    assert all(tensor.isfinite().all() for tensor in saved["modules"][0].values())


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_loss_that_is_not_finite_names_the_data():
    x, y = batch("mlp", N)
    x[3, 1] = math.nan
    with pyro.validation_enabled(False), pytest.raises(NonFiniteLossError, match="argument 0"):
        train(lifted(), [(x, y)])  # batches of their own are not looked at beforehand


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_checkpoint_is_never_of_parameters_that_are_not_finite(tmp_path):
    class Root(nn.Module):
        """Finite at zero, with an infinite gradient there."""

        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)
            self.scale = nn.Parameter(torch.zeros(()))

        def forward(self, x):
            return self.fc(x) + self.scale.sqrt()

    path = tmp_path / "run.safetensors"
    with pyro.validation_enabled(False), pytest.raises(NonFiniteLossError):
        train(lifted(net=Root()), batch_size=N, checkpoint=path)
    assert not path.exists() or all(
        t.isfinite().all() for t in ps.infer.checkpoint.load(path)["modules"][0].values()
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs"),
        ({"epochs": 1.5}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"kl_scale": -1.0}, "kl_scale"),
        ({"kl_scale": math.nan}, "kl_scale"),
        ({"kl_warmup": -1}, "kl_warmup"),
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"patience": 3}, "validation"),
        ({"patience": 0, "validation": batch("mlp", N)}, "patience"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        train(lifted(), **options)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_without_gradients_is_refused(mode):
    with mode(), pytest.raises(RuntimeError, match=r"outside torch\.no_grad"):
        train(lifted())


def test_no_data_are_refused():
    with pytest.raises(ValueError, match="no data"):
        train(lifted(), [])


def test_generator_that_is_used_up_is_refused():
    with pytest.raises(ValueError, match="only once"):
        train(lifted(), iter([batch("mlp", N)]))


def test_model_without_parameters_is_refused():
    def model(x, y=None):
        pyro.sample("y", dist.Normal(x, 1.0).to_event(2), obs=x)

    with pytest.raises(ValueError, match="parameter to train"):
        ps.fit(model, lambda x, y=None: None, batch("mlp", N), epochs=1, progress=False)


def test_training_warns_of_nothing(recwarn):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        train(lifted(), validation=batch("mlp", N), kl_warmup=1)
    assert not recwarn.list


def test_data_that_are_not_finite_or_do_not_match_are_refused_before_training():
    bnn = ps.lift(nn.Linear(3, 2), ps.Gaussian())
    model = ps.classifier(bnn, n=4)
    x, y = torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"different numbers of rows: \[4, 3\]"):
        ps.fit(model, bnn.guide, (x, y[:3]), epochs=1)
    x[1, 2] = torch.inf
    with pytest.raises(
        ValueError, match="tensor 0 of the data has 1 values that are NaN or infinite"
    ):
        ps.fit(model, bnn.guide, (x, y), epochs=1)
