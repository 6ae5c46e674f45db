"""Training that shrinks: what is cut makes no difference, and comes back at the end."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyro
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pyrosparse as ps
from pyrosparse.compaction.cut import cut
from pyrosparse.distributions import Point
from pyrosparse.infer import Callback, Fit
from pyrosparse.lifting.method import Posterior
from pyrosparse.lifting.target import Kind
from pyrosparse.storage import layout_bytes

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: ps.networks.fcn((6,), 3, hidden=(9, 7)), (6,)),
    "lenet5_caffe": (lambda: ps.networks.create("lenet5_caffe", (1, 28, 28), 10), (1, 28, 28)),
    "vgg_like": (lambda: ps.networks.create("vgg_like", (3, 32, 32), 10), (3, 32, 32)),
    "resnet20": (lambda: ps.networks.create("resnet20", (3, 16, 16), 10), (3, 16, 16)),
}


@dataclass(frozen=True)
class PointGate(ps.Method):
    """A gate without noise: a logistic function of a point, with a normal prior."""

    kinds: ClassVar[tuple[Kind, ...]] = ("input", "output")
    threshold: ClassVar[float] = 0.3

    def init(self, target: ps.Target) -> dict[str, Tensor]:
        return {"logit": torch.linspace(-1.0, 2.0, target.shape[0])}

    def prior(self, target: ps.Target, q: Posterior, x: Tensor | None) -> Tensor:
        normal = pyro.distributions.Normal(torch.full_like(q["logit"], -3.0), 1.0)
        return pyro.sample(target.site, normal.to_event(1)).sigmoid()

    def guide(self, target: ps.Target, q: Posterior, x: Tensor | None) -> Tensor:
        return pyro.sample(target.site, Point(q["logit"]))

    def score(self, target: ps.Target, q: Posterior) -> Tensor:
        return q["logit"].sigmoid()

    def mean(self, target: ps.Target, q: Posterior, x: Tensor | None) -> Tensor:
        return q["logit"].sigmoid()

    def forget(self, target: ps.Target, q: Posterior, removed: Tensor) -> None:
        q["logit"].masked_fill_(removed, -3.0)


class Freeze(Callback):
    """What shrinking amounts to, without the shrinking."""

    def on_start(self, run: Fit) -> None:
        self.on_epoch_end(run)

    def on_epoch_end(self, run: Fit) -> dict[str, Any]:
        run.lifted.freeze(run.lifted.masks())
        return {}


def classes(n: int, shape: tuple[int, ...], count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(n, *shape, generator=generator)
    return x, torch.randint(count, (n,), generator=generator)


def some(net: nn.Module, share: float, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    masks = {t.key: torch.rand(t.shape, generator=generator) < share for t in ps.gates(net)}
    for mask in masks.values():
        mask[int(torch.randint(len(mask), (1,), generator=generator))] = True
    return masks


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_cut_network_has_the_outputs_and_gradients_of_the_frozen_one(
    name: str, training: bool
) -> None:
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    net = make().double().to(memory_format=torch.channels_last)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            module.weight.data.normal_()
            module.bias.data.normal_()
    masks = some(net, 0.6)
    x, _ = classes(4, shape, 3)
    x = x.double()
    small = cut(net, masks, (x[:2],))
    assert sum(p.numel() for p in small.net.parameters()) < 0.8 * sum(
        p.numel() for p in net.parameters()
    )
    whole = copy.deepcopy(net).train(training)
    for target in ps.gates(whole):
        gain = masks[target.key].double()
        module = whole.get_submodule(target.name)
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(lambda _, args, gain=gain: (args[0] * gain,))
        else:
            module.register_forward_hook(lambda _, args, out, gain=gain: out * gain.view(-1, 1, 1))
    gated = small.net.train(training)
    # What is left of the gates is open, but for the one that a layer keeps in any case.
    for target in ps.gates(net):
        features = small.features[target.name][target.kind == "output"]
        gain = masks[target.key][features].double()
        module = gated.get_submodule(target.name)
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(lambda _, args, gain=gain: (args[0] * gain,))
        else:
            module.register_forward_hook(lambda _, args, out, gain=gain: out * gain.view(-1, 1, 1))
    dropout = [m for m in (*whole.modules(), *gated.modules()) if isinstance(m, nn.Dropout)]
    for module in dropout:
        module.eval()
    expected, found = whole(x), gated(x)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9)
    (expected**2).sum().backward()
    (found**2).sum().backward()
    parameters = dict(whole.named_parameters())
    for key, parameter in gated.named_parameters():
        positions = small.positions[key]
        assert torch.equal(parameters[key].flatten()[positions], parameter)
        gradient = parameters[key].grad.flatten()[positions]
        assert torch.allclose(parameter.grad, gradient, rtol=1e-7, atol=1e-9), key
    for key, value in gated.named_buffers():
        if key in small.positions and value.is_floating_point():
            other = dict(whole.named_buffers())[key].flatten()[small.positions[key]]
            assert torch.allclose(value, other, rtol=1e-9), key


def train(net: nn.Module, shape: tuple[int, ...], **options: Any) -> tuple[ps.Lifted, Fit]:
    data = classes(60, shape, 3)
    bnn = ps.lift(net, PointGate())
    model = ps.classifier(bnn, 60)
    options = {
        "epochs": 4,
        "batch_size": 20,
        "learning_rate": {"guide.*": 0.05, "*": 1e-3},
    } | options
    return bnn, ps.fit(model, bnn.guide, data, progress=False, **options)


@pytest.mark.parametrize("name", ["mlp", "lenet5_caffe"])
def test_shrinking_trains_as_freezing_alone_does(name: str) -> None:
    make, shape = NETWORKS[name]
    found = []
    for options in ({"callbacks": [Freeze()]}, {"compact_every": 1}):
        torch.manual_seed(0)
        found.append(train(make(), shape, **options))
    (frozen, _), (bnn, run) = found
    masks, expected = bnn.masks(), frozen.masks()
    # Beside what died, what could no longer be reached is gone too.
    for key, mask in masks.items():
        assert not (mask.bool() & ~expected[key].bool()).any()
        assert torch.allclose(mask, expected[key] * (mask != 0), atol=1e-5)
    assert sum(int(m.count_nonzero()) for m in masks.values()) < 0.8 * masks.size
    x, _ = classes(20, shape, 3)
    assert torch.allclose(bnn.eval().mean_forward(x), frozen.eval().mean_forward(x), atol=1e-4)
    # The prior of what is cut costs nothing any more; the loss of the first epochs agrees.
    assert run.history[0]["kept"] != run.history[-1]["kept"]
    assert run.history[-1]["kept"] == {k: int(m.count_nonzero()) for k, m in masks.items()}


@pytest.mark.parametrize("options", [{}, {"compact_every": 1}])
def test_frozen_batch_statistics_stay(options: dict[str, Any]) -> None:
    net = nn.Sequential(
        nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 8), nn.Linear(8, 3)
    )
    norm = net[1]

    class Frozen(Callback):
        def on_start(self, run: Fit) -> None:
            norm.eval()

    norm.eval()
    before = norm.running_mean.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, run = train(net, (6,), callbacks=[Frozen()], **options)
    assert run.history[-1]["loss"] < run.history[0]["loss"]
    assert torch.equal(norm.running_mean, before) and not norm.training and net.training
    with pytest.warns(UserWarning, match=r"1 layers .* \('1'\)"):
        train(net, (6,), epochs=1)
    assert norm.training and not torch.equal(norm.running_mean, before)


def test_all_is_put_back_in_the_network_that_was_given() -> None:
    make, shape = NETWORKS["lenet5_caffe"]
    net = make().to(memory_format=torch.channels_last)
    held = dict(net.named_parameters())
    bnn, run = train(net, shape, compact_every=2)
    assert bnn.net is net
    for key, parameter in net.named_parameters():
        assert parameter is held[key]
        assert run.parameters[f"net.{key}"] is parameter
        state = run.optimizer.state[parameter]
        assert state["exp_avg"].shape == parameter.shape
        assert state["exp_avg"].stride() == parameter.stride()
    optimized = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    assert optimized == {id(p) for p in run.parameters.values()}
    masks = bnn.masks()
    x, _ = classes(5, shape, 3)
    small = ps.compact(net, masks, x[:1])
    assert torch.allclose(small(x), bnn.eval().mean_forward(x), atol=1e-5)
    state = copy.deepcopy(bnn.state_dict())
    assert all(state[f"net.{key}"].shape == value.shape for key, value in held.items())


class Stop(Callback):
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_epoch_end(self, run: Fit) -> dict[str, Any]:
        if run.epoch == self.epoch:
            raise KeyboardInterrupt
        return {}


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Equal, and 0.0 is not -0.0."""
    return first.detach().numpy().tobytes() == second.detach().numpy().tobytes()


@pytest.mark.parametrize("name", ["mlp", "lenet5_caffe"])
def test_what_was_cut_is_zero_and_not_minus_zero(name: str) -> None:
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    net = make()
    _, run = train(net, shape, compact_every=1)
    assert sum(int((p == 0).sum()) for p in net.parameters()) > 20
    tensors = list(net.state_dict().values())
    tensors += [m for memory in run.optimizer.state.values() for m in memory.values()]
    for tensor in tensors:
        assert not tensor[tensor == 0].signbit().any()
    for layer in net.modules():
        if isinstance(layer, nn.Linear):  # a file has no need of the zeros
            assert layout_bytes(layer.weight) == layout_bytes(layer.weight + 0.0)


@pytest.mark.parametrize(
    "stop", [2, pytest.param(3, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("method", [PointGate(), ps.BetaBernoulli(initial=0.02, temperature=0.5)])
def test_a_resumed_run_ends_as_a_whole_one(method: ps.Method, stop: int, tmp_path: Path) -> None:
    make, shape = NETWORKS["mlp"]
    data = classes(64, shape, 3)

    def run(checkpoint: Path, callbacks: list[Callback]) -> tuple[ps.Lifted, Fit]:
        torch.manual_seed(1)
        bnn = ps.lift(make(), method)
        model = ps.classifier(bnn, 64)
        # One size of batch, as steps of each are captured after every cut.
        options: dict[str, Any] = {"learning_rate": 0.1, "batch_size": 32, "compact_every": 1}
        return bnn, ps.fit(
            model, bnn.guide, data, epochs=5, progress=False, callbacks=callbacks,
            checkpoint=checkpoint, **options,
        )  # fmt: skip

    whole, expected = run(tmp_path / "a.safetensors", [])
    assert expected.history[0]["kept"] != expected.history[-1]["kept"]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b.safetensors", [Stop(stop)])
    resumed, resumed_run = run(tmp_path / "b.safetensors", [])
    for (key, value), other in zip(
        whole.state_dict().items(), resumed.state_dict().values(), strict=True
    ):
        assert same_bits(value, other), key
    resumed_memory = {id(p): key for key, p in resumed_run.parameters.items()}
    for parameter, memory in resumed_run.optimizer.state.items():
        other = expected.optimizer.state[expected.parameters[resumed_memory[id(parameter)]]]
        assert all(same_bits(value, other[key]) for key, value in memory.items())
    again, _ = run(tmp_path / "b.safetensors", [])  # finished: nothing is trained
    assert all(
        same_bits(a, b)
        for a, b in zip(again.state_dict().values(), whole.state_dict().values(), strict=True)
    )


def test_an_interrupted_run_leaves_the_whole_network() -> None:
    make, shape = NETWORKS["mlp"]
    net = make()
    data = classes(60, shape, 3)
    bnn = ps.lift(net, PointGate())
    with pytest.raises(KeyboardInterrupt):
        ps.fit(
            ps.classifier(bnn, 60), bnn.guide, data, epochs=4, learning_rate=0.05,
            compact_every=1, callbacks=[Stop(3)], progress=False,
        )  # fmt: skip
    assert bnn.net is net
    assert {key: tuple(mask.shape) for key, mask in bnn.masks().items()} == {
        target.key: target.shape for target in ps.gates(net)
    }


def test_weights_and_gates_together() -> None:
    make, shape = NETWORKS["mlp"]
    torch.manual_seed(2)
    net = make()
    data = classes(60, shape, 3)
    pairs = [(ps.Gaussian(posterior="normal"), ps.weights(net)), (PointGate(), ps.gates(net))]
    bnn = ps.lift(net, pairs)
    model = ps.classifier(bnn, 60)
    ps.fit(model, bnn.guide, data, epochs=3, learning_rate=0.05, compact_every=1, progress=False)
    masks = bnn.masks(0.0)
    first, second = masks["fc1.weight"], masks["fc2.input"]
    assert 0 < int(second.count_nonzero()) < len(second)
    # The weights into what is gone are gone, and zero in the network itself.
    assert not first[second == 0].any()
    assert not net.fc1.weight[second == 0].any()
    assert first[second != 0][:, masks["fc1.input"] != 0].all()


class Asking(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.dropout(F.relu(self.fc1(x)), 0.5, self.training))


def test_what_cannot_be_cut_is_refused_before_training() -> None:
    data = classes(60, (6,), 3)
    with pytest.raises(ValueError, match=r"depends on self\.training"):
        train(Asking(), (6,), compact_every=1)
    with pytest.raises(ValueError, match="compact_every must be a positive whole number"):
        train(NETWORKS["mlp"][0](), (6,), compact_every=0)
    bnn = ps.lift(NETWORKS["mlp"][0](), PointGate())

    def model(x: Tensor, y: Tensor | None = None) -> None:
        bnn(input=x)

    with pytest.raises(ValueError, match="by name: call it by position"):
        ps.fit(model, bnn.guide, data, epochs=1, compact_every=1, progress=False)
    weight = torch.zeros(3, requires_grad=True)

    def guide(x: Tensor, y: Tensor | None = None) -> None:
        pyro.sample("w", Point(pyro.param("location", weight)))

    def free(x: Tensor, y: Tensor | None = None) -> None:
        pyro.sample("w", pyro.distributions.Normal(torch.zeros(3), 1.0).to_event(1))

    with pytest.raises(TypeError, match="needs a lifted network"):
        ps.fit(free, guide, data, epochs=1, compact_every=1, progress=False)


def test_a_layer_whose_gates_all_die_keeps_a_place() -> None:
    make, shape = NETWORKS["mlp"]
    torch.manual_seed(0)
    net = make()
    bnn = ps.lift(net, PointGate())
    with torch.no_grad():
        bnn.guide.entries[1].posterior()["logit"].fill_(-9.0)
    data = classes(60, shape, 3)
    ps.fit(ps.classifier(bnn, 60), bnn.guide, data, epochs=2, compact_every=1, progress=False)
    assert not bnn.masks()["fc2.input"].any()
    with pytest.raises(ValueError, match="nothing is left"):
        ps.compact(net, bnn.masks(), data[0][:1])
