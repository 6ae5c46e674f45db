"""Where gains may be folded, and where they stay: every sibling against ``mean_forward``."""

import copy
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

import pyrosparse as ps
from pyrosparse.compaction import CompactionError, CompactNet
from pyrosparse.compaction.check import check, difference
from pyrosparse.compaction.cut import cut
from pyrosparse.compaction.masked import masked
from pyrosparse.compaction.parts import Gain
from tests.compaction.cases import randomise, same


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def exact(
    net: nn.Module, targets: Sequence[ps.Target], x: Tensor, tolerance: float = 1e-9
) -> CompactNet:
    """The compact network, once it computes what ``mean_forward`` of the lifted one does."""
    bnn = ps.lift(net, ps.BetaBernoulli(initial=0.5), targets).eval()
    masks = bnn.masks()
    for mask in masks.values():
        mask.mul_(torch.linspace(0.5, 1.5, len(mask)).to(mask))  # no two gains are the same
    for half in (False, True):
        if half:
            for mask in masks.values():
                mask[::2] = 0.0
        with torch.no_grad():
            expected = by_hooks(net, masks, x)
            small = ps.compact(net, masks, x)
            assert same(small(x), expected, tolerance)
    with torch.no_grad():
        plain = ps.compact(net, bnn.masks(), x)
        assert same(plain(x), bnn.mean_forward(x), tolerance)
    return small


def by_hooks(net: nn.Module, masks: dict[str, Tensor], x: Tensor) -> Tensor:
    """On the network itself, so that nothing is lost in a copy."""
    handles = []
    for key, gain in masks.items():
        name, _, kind = key.rpartition(".")
        module = net.get_submodule(name)
        last = isinstance(module, (nn.Linear, nn.LayerNorm))

        def times(x: Tensor, gain: Tensor = gain, last: bool = last) -> Tensor:
            return x * (gain if last else gain.view(-1, *[1] * (x.dim() - 2)))

        if kind == "input":
            hook = lambda _, args, times=times: (times(args[0]), *args[1:])  # noqa: E731
            handles.append(module.register_forward_pre_hook(hook))
        else:
            hook = lambda _, args, out, times=times: times(out)  # noqa: E731
            handles.append(module.register_forward_hook(hook))
    result: Tensor = net(x)
    for handle in handles:
        handle.remove()
    return result


class TanhIn(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.tanh(x))


class LowRank(nn.Linear):
    """A second path beside the weight, as LoRA has."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.down, self.up = nn.Linear(sizes[0], 2), nn.Linear(2, sizes[1])

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.up(self.down(x).tanh())


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / weight.std((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class NormAct(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


def mlp(second: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), second, nn.ReLU(), nn.Linear(6, 2))


def cnn(conv: nn.Module, norm: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.Tanh(), conv, norm, nn.Flatten(), nn.Linear(24, 2))


def hooked(kind: str) -> nn.Module:
    net = mlp(nn.Linear(6, 6))
    layer = net[2]
    if kind == "forward":
        layer.register_forward_hook(lambda _, args, out: (out + 1).tanh())
    elif kind == "pre":
        layer.register_forward_pre_hook(lambda _, args: (args[0].square() + 1,))
    elif kind == "pre with names":
        layer.register_forward_pre_hook(
            lambda _, args, kwargs: ((args[0].square() + 1,), kwargs), with_kwargs=True
        )
    elif kind == "both":
        layer.register_forward_pre_hook(lambda _, args: (args[0].exp(),))
        layer.register_forward_hook(lambda _, args, out: out * args[0].mean() + 1)
    elif kind == "backward":
        layer.register_full_backward_hook(lambda _, before, after: None)
        layer.register_full_backward_pre_hook(lambda _, after: None)
    elif kind == "patched":
        layer.forward = types.MethodType(lambda self, x: F.linear(x.sin(), self.weight), layer)
    elif kind == "old weight_norm":
        with pytest.warns(FutureWarning):
            nn.utils.weight_norm(layer)
    elif kind == "old spectral_norm":
        nn.utils.spectral_norm(layer)
    return net


MLPS: dict[str, Callable[[], nn.Module]] = {
    "subclass": lambda: mlp(TanhIn(6, 6)),
    "low rank": lambda: mlp(LowRank(6, 6)),
    "weight_norm": lambda: mlp(parametrizations.weight_norm(nn.Linear(6, 6))),
    "orthogonal": lambda: mlp(parametrizations.orthogonal(nn.Linear(6, 6))),
    "spectral_norm": lambda: mlp(parametrizations.spectral_norm(nn.Linear(6, 6))),
    **{
        kind: lambda kind=kind: hooked(kind)
        for kind in (
            "forward", "pre", "pre with names", "both", "backward", "patched", "old weight_norm",
            "old spectral_norm",
        )
    },
}  # fmt: skip
CNNS: dict[str, Callable[[], nn.Module]] = {
    "standardised": lambda: cnn(Standardised(6, 6, 3), nn.BatchNorm2d(6)),
    "norm with activation": lambda: cnn(nn.Conv2d(6, 6, 3), NormAct(6)),
    "groups": lambda: cnn(nn.Conv2d(6, 6, 3, groups=3), nn.BatchNorm2d(6)),
    "reflected": lambda: cnn(
        nn.Conv2d(6, 6, 5, padding=1, padding_mode="reflect"), nn.BatchNorm2d(6)
    ),
    "transposed": lambda: cnn(nn.ConvTranspose2d(6, 6, 1, groups=2), nn.MaxPool2d(2)),
    "norm without scale": lambda: cnn(nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6, affine=False)),
    "norm of the batch": lambda: cnn(
        nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6, track_running_stats=False)
    ),
    "instance norm behind": lambda: cnn(nn.Conv2d(6, 6, 3), nn.GroupNorm(6, 6)),
}


def randomised(net: nn.Module) -> nn.Module:
    by_hand = any(
        parametrize.is_parametrized(module)
        or getattr(module, "affine", True) is False
        or getattr(module, "track_running_stats", True) is False
        for module in net.modules()
    )
    return (net.double() if by_hand else randomise(net)).eval()


@pytest.mark.parametrize("kind", ["input", "output"])
@pytest.mark.parametrize("name", MLPS)
def test_gains_on_dense_layers(name: str, kind: str) -> None:
    torch.manual_seed(0)
    net = randomised(MLPS[name]())
    targets = {"input": ps.inputs, "output": ps.outputs}[kind](net, ["0", "2"])
    before = {key: value.clone() for key, value in net.state_dict().items()}
    exact(net, targets, draw(5, 4))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("kind", ["input", "output"])
@pytest.mark.parametrize("name", CNNS)
def test_gains_on_convolutions_and_norms(name: str, kind: str) -> None:
    torch.manual_seed(0)
    net = randomised(CNNS[name]())
    places = ["0", "2"] if name == "transposed" else ["0", "2", "3"]
    select = {"input": ps.inputs, "output": ps.outputs}[kind]
    exact(net, select(net, places), draw(3, 2, 6, 6))


def test_both_gains_of_one_layer_and_of_a_layer_within() -> None:
    torch.manual_seed(0)
    net = randomise(mlp(LowRank(6, 6))).eval()
    targets = [*ps.inputs(net, ["2", "2.down"]), *ps.outputs(net, ["2", "2.up"])]
    exact(net, targets, draw(5, 4))
    net = randomise(nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2))).eval()
    exact(net, [*ps.inputs(net, "1"), *ps.outputs(net, "1")], draw(5, 4))


class Shared(nn.Module):
    """One module at two names, called three times."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first = self.second = layer
        self.last = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.first(self.first(x)).tanh()))


class Tied(nn.Module):
    """One weight in two layers, and read once more past both."""

    def __init__(self, elsewhere: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.elsewhere = elsewhere

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).tanh())
        return F.linear(x.tanh(), self.second.weight) if self.elsewhere else x


@pytest.mark.parametrize("kind", ["input", "output"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: Shared(nn.Linear(6, 6)),
        lambda: Shared(nn.LayerNorm(6)),
        lambda: Shared(TanhIn(6, 6)),
        lambda: Tied(False),
        lambda: Tied(True),
    ],
)
def test_shared_modules_and_weights(make: Callable[[], nn.Module], kind: str) -> None:
    torch.manual_seed(0)
    net = randomise(make()).eval()
    for name in ("first", "second"):
        if name in dict(net.named_modules()):
            exact(net, {"input": ps.inputs, "output": ps.outputs}[kind](net, name), draw(5, 6))


TIMM: dict[str, dict[str, Any]] = {
    "mobilenetv3_small_050": {},  # of the family of efficientnet_b0
    "resnetv2_50": {"layers": (1, 1, 1, 1), "conv_layer": "StdConv2d"},
    "nf_resnet26": {"depths": (1, 1, 1, 1)},
}


@pytest.mark.parametrize("model", TIMM)
def test_default_gates_of_timm_networks(model: str) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    options = dict(TIMM[model])
    if "conv_layer" in options:
        options["conv_layer"] = getattr(timm.layers, options["conv_layer"])
    net = timm.create_model(model, num_classes=3, **options)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("conv3.gain"):
                parameter.fill_(0.5)  # zero at the start: nothing would be left of the branches
        net.train()(torch.randn(8, 3, 32, 32))  # with other statistics the outputs are all but zero
    net.eval()
    bnn = ps.lift(net, ps.BetaBernoulli(initial=0.9)).eval()
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = bnn.mean_forward(x)
        assert (expected - net(x)).abs().max() > 1e-2 * expected.abs().max()
        assert same(ps.compact(net, bnn.masks(), x)(x), expected, 1e-5)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(self.layer(x)))


def test_gates_that_depend_on_the_input_and_a_layer_called_twice() -> None:
    net = Twice().double()
    for name, refused in (("layer", True), ("last", False)):
        first = ps.lift(net, ps.BetaBernoulli(initial=0.5), ps.inputs(net, name))
        bnn = ps.lift(net, ps.DependentBetaBernoulli(first), ps.inputs(net, name)).eval()
        x = draw(3, 6)
        if refused:
            with pytest.raises(ValueError, match="called more than once"):
                ps.compact(net, bnn.masks(), x, gates=bnn.gates())
        else:
            small = ps.compact(net, bnn.masks(), x, gates=bnn.gates())
            assert same(small(draw(5, 6)), bnn.mean_forward(draw(5, 6)))


def test_a_wrong_fold_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    net = randomise(mlp(nn.Linear(6, 6))).eval()
    module = sys.modules[masked.__module__]
    monkeypatch.setattr(module, "_fold_into_weights", lambda *_: None)
    with pytest.raises(CompactionError):
        ps.compact(net, {"2.input": torch.full((6,), 0.5)}, draw(3, 4))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["weight_norm", "orthogonal", "spectral_norm"])
def test_masks_of_parametrized_weights(name: str, training: bool) -> None:
    torch.manual_seed(0)
    net = MLPS[name]().double()
    for _ in range(3):
        net(draw(8, 4))  # spectral normalisation moves with every call in training
    net.train(training)
    module = net[2]
    (original,) = [k for k, p in net.named_parameters() if "parametrizations" in k and p.dim() == 2
                   and p.shape == module.weight.shape]  # fmt: skip
    mask = torch.ones(6, 6)
    mask[::2, 1:] = 0
    for key in ("2.weight", original):
        x, small = draw(5, 4), ps.compact(net, {key: mask}, draw(5, 4)).eval()
        whole = copy.deepcopy(net).eval()
        if key == original:
            dict(whole.named_parameters())[key].data.mul_(mask)
        else:
            plain = nn.Linear(6, 6).double()
            plain.weight.data, plain.bias.data = whole[2].weight * mask, whole[2].bias.detach()
            whole[2] = plain
        with torch.no_grad():
            assert same(small(x), whole(x))
        assert small.get_submodule("2").in_features == 6


def test_a_frozen_parametrized_layer_stays_untrained() -> None:
    net = mlp(parametrizations.weight_norm(nn.Linear(6, 6)))
    net[2].requires_grad_(False)
    small = ps.compact(net, {"0.weight": torch.ones(6, 4)}, torch.randn(3, 4))
    assert not small.get_submodule("2").weight.requires_grad
    assert small.get_submodule("0").weight.requires_grad


def test_hooked_and_patched_layers_are_barriers() -> None:
    for kind in ("forward", "pre", "patched"):
        net = randomise(hooked(kind)).eval()
        net[0].weight.data[:3] = 0
        small = ps.compact(net, None, draw(3, 4))
        assert "2" in small.account.barriers, kind
        assert same(small(draw(5, 4)), net(draw(5, 4)))


def test_hooks_on_blocks_survive() -> None:
    seen: list[Any] = []
    net = nn.Sequential(nn.Linear(4, 6), nn.Sequential(nn.Linear(6, 6), nn.ReLU()), nn.Linear(6, 2))
    net = randomise(net).eval()
    net[1].register_forward_hook(lambda _, args, out: seen.append(out) or out.square())
    small = ps.compact(net, {"0.weight": (torch.arange(6) < 4)[:, None].expand(6, 4)}, draw(3, 4))
    assert all(isinstance(one, Tensor) for one in seen)
    seen.clear()
    y = small(draw(5, 4))
    assert len(seen) == 1 and "1" in small.account.barriers
    net[0].weight.data[4:] = 0
    assert same(y, net(draw(5, 4)))


@pytest.mark.parametrize("kind", ["hook", "pre-hook", "forward"])
def test_hooks_on_the_network_itself_are_refused(kind: str) -> None:
    net = randomise(mlp(nn.Linear(6, 6))).eval()
    if kind == "hook":
        net.register_forward_hook(lambda _, args, out: out + 1)
    elif kind == "pre-hook":
        net.register_forward_pre_hook(lambda _, args: (args[0] + 1,))
    else:
        net.forward = types.MethodType(lambda self, x: self[0](x).sum(1), net)
    with pytest.raises(ValueError, match=r"nn\.Sequential\(net\)"):
        ps.compact(net, {"2.input": torch.ones(6)}, draw(3, 4))
    around = nn.Sequential(net)
    small = ps.compact(around, {"0.2.input": torch.full((6,), 0.5)}, draw(3, 4))
    assert same(
        small(draw(5, 4)), by_hooks(around, {"0.2.input": torch.full((6,), 0.5)}, draw(5, 4))
    )


def test_a_forward_that_holds_on_to_the_original_is_refused() -> None:
    net = mlp(nn.Linear(6, 6))
    before = net[2].forward
    net[2].forward = lambda x: before(x.tanh())
    with pytest.raises(ValueError, match=r"2 is a function that refers to a Linear"):
        ps.compact(net, {"2.weight": torch.ones(6, 6)}, torch.randn(3, 4))
    net = mlp(nn.Linear(6, 6))
    other = net[0]
    net[2].register_forward_hook(lambda _, args, out: out + other.weight.sum())
    with pytest.raises(ValueError, match=r"types\.MethodType"):
        ps.compact(net, None, torch.randn(3, 4))


def test_quantised_layers_have_no_gates_and_stay() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, that it will go
        net = torch.ao.quantization.quantize_dynamic(mlp(nn.Linear(6, 6)), {nn.Linear})
    x = torch.randn(3, 4)
    assert torch.equal(ps.compact(net, None, x)(x), net(x))
    with pytest.raises(ValueError, match=r"not on torch\.ao\.nn\.quantized"):
        ps.compact(net, {"2.input": torch.ones(6)}, x)


def test_compiled_networks_are_refused() -> None:
    net = mlp(nn.Linear(6, 6))
    x = torch.randn(3, 4)
    with pytest.raises(ValueError, match="compact the original module"):
        ps.compact(torch.compile(net), None, x)
    with pytest.raises(ValueError, match="compact the original module"):
        ps.compact(nn.Sequential(torch.compile(net), nn.ReLU()), None, x)
    with pytest.warns(FutureWarning):
        scripted = torch.jit.trace(net, x)
    with pytest.raises(ValueError, match="compact the original module"):
        ps.compact(scripted, None, x)


def test_training_does_not_cut_what_is_not_plain() -> None:
    for name in ("forward", "pre", "patched", "subclass", "weight_norm"):
        net = MLPS[name]().double()
        masks = {"4.input": torch.arange(6) < 3, "2.output": torch.arange(6) < 3}
        small = cut(net, {**masks, "2.input": torch.arange(6) < 2}, (draw(3, 4),))
        named = dict(small.net.named_parameters())
        for key, parameter in net.named_parameters():
            if key.startswith("2."):
                assert torch.equal(named[key], parameter), (name, key)
        assert torch.equal(named["4.weight"], net[4].weight[:, :3])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_masks_and_weights_that_are_not_finite(bad: float) -> None:
    net, x = mlp(nn.Linear(6, 6)).double(), draw(3, 4)
    with pytest.raises(ValueError, match=r"1 numbers of the mask '2\.input' are NaN or infinite"):
        ps.compact(net, {"2.input": torch.tensor([1.0] * 5 + [bad])}, x)
    with pytest.raises(ValueError, match=r"mask '2\.weight' are NaN or infinite"):
        ps.compact(net, {"2.weight": torch.full((6, 6), bad)}, x)
    net[2].weight.data[3, 1:] = bad
    mask = torch.ones(6, 6)
    mask[3, 1:] = 0
    small = ps.compact(net, {"2.weight": mask}, x)
    net[2].weight.data[3, 1:] = 0
    assert same(small(x), net(x))
    net[2].weight.data[3, 1:] = bad
    with pytest.raises(ValueError, match=r"5 numbers of the parameter '2\.weight' are NaN or inf"):
        ps.compact(net, {"2.weight": torch.ones(6, 6)}, x)
    with pytest.raises(ValueError, match=r"parameter '2\.weight'"):
        masked(net, {"2.output": torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0, 1.0])})


def test_infinity_that_is_meant_stays() -> None:
    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)
            table = torch.full((4,), -torch.inf)
            self.table = nn.Parameter(torch.where(torch.arange(4) < 2, 0.0, table), False)

        def forward(self, x: Tensor) -> Tensor:
            return (self.layer(x) + self.table).softmax(-1)

    net = randomise(Biased()).eval()
    assert same(ps.compact(net, None, draw(3, 4))(draw(5, 4)), net(draw(5, 4)))


def test_nan_outputs_are_not_a_difference_of_zero() -> None:
    nan, inf = torch.tensor([torch.nan, 1.0]), torch.tensor([torch.inf, 1.0])
    assert difference(nan, nan) == 0.0
    assert (
        difference(nan, inf) == difference(inf, -inf) == difference(nan, torch.ones(2)) == torch.inf
    )
    assert difference(inf, inf) == 0.0
    whole = difference(nan[:1], nan[:1])
    assert whole != whole
    with pytest.raises(ValueError, match="no finite number on the example"):
        check(nn.ReLU(), nn.ReLU(), (nan[:1],))
    with pytest.raises(CompactionError):
        check(nn.ReLU(), nn.Tanh(), (torch.ones(2),))


def test_a_threshold_of_nan() -> None:
    bnn = ps.lift(mlp(nn.Linear(6, 6)), ps.Gaussian())
    for threshold in (float("nan"), {"2.weight": float("nan")}):
        with pytest.raises(ValueError, match=r"threshold of '[02]\.weight' is NaN"):
            bnn.masks(threshold=threshold)


def test_one_feature_is_not_spread_over_all_gains():
    net = nn.Sequential(nn.Linear(3, 2))
    bnn = ps.lift(net, ps.BetaBernoulli(), ps.inputs(net)).eval()
    with pytest.raises(ValueError, match=r"'0\.input' has 3 gates.*one feature"):
        bnn.mean_forward(torch.ones(5, 1))
    with pytest.raises(RuntimeError, match="size"):
        Gain(torch.ones(3), dim=-1)(torch.ones(5, 1))


class TiedWords(nn.Module):
    """A language model whose output layer has its embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.up, self.down = nn.Embedding(9, 6), nn.Linear(6, 8), nn.Linear(8, 6)
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 9, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        return self.head(self.norm(x + self.down(self.up(x).relu())))


class Looking(TiedWords):
    """The same with a branch that torch.fx cannot follow."""

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids if ids.max() < 99 else -ids)


@pytest.mark.parametrize("made", [TiedWords, Looking])
def test_an_output_layer_keeps_its_tie_to_the_embedding(made: Callable[[], nn.Module]) -> None:
    net = randomise(made())
    masks = {"head.input": torch.linspace(0.5, 1.5, 6), "down.input": torch.arange(8) % 2}
    ids = torch.arange(10).view(2, 5) % 9
    small = ps.compact(net, masks, ids)
    count = sum(parameter.numel() for parameter in net.parameters())
    assert small.account.parameters == (count, count - 4 * 13)
    assert "larger than before" not in str(small.account)
    for batch in (ids, ids[:1, :3]):
        with torch.no_grad():
            assert same(small(batch), by_hooks(net, masks, batch))


def test_an_account_says_where_a_network_is_larger() -> None:
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    net[1].weight = net[0].weight
    small = ps.compact(net, {"0.input": torch.linspace(0.5, 1.5, 4)}, torch.ones(1, 4))
    assert small.account.parameters == (16, 32)
    assert "larger than before: folding the gains added more parameters" in str(small.account)
