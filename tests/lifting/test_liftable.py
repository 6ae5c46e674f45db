"""What is lifted by default, what is left out by name, and what is refused."""

import warnings
from collections import OrderedDict

import pyro.poutine as poutine
import pytest
import torch
import torch.nn.utils.prune
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import pyrosparse as ps

NORMAL = ps.Gaussian(posterior="normal", initial_scale=0.3)


def weight_norm(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(layer)


def pruned(layer: nn.Module) -> nn.Module:
    return nn.utils.prune.l1_unstructured(layer, "weight", 0.5)


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def doubled(layer: nn.Module) -> nn.Module:
    return parametrize.register_parametrization(layer, "weight", Doubled())


class Product(nn.Module):
    """A dense layer of another library."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x):
        return x @ self.weight


COMPUTED = {
    "weight_norm": parametrizations.weight_norm,
    "old weight_norm": weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "old spectral_norm": nn.utils.spectral_norm,
    "prune": pruned,
    "own parametrization": doubled,
}


def with_first(layer: nn.Module) -> nn.Module:
    return nn.Sequential(OrderedDict(body=layer, tanh=nn.Tanh(), head=nn.Linear(4, 2)))


@pytest.mark.parametrize("name", COMPUTED)
def test_a_layer_whose_weight_is_computed_is_left_out_by_name(name):
    net = with_first(COMPUTED[name](nn.Linear(4, 4)))
    with pytest.warns(UserWarning, match=r"leave out layers.*'body'.*makes") as said:
        bnn = ps.lift(net, ps.Gaussian())
    assert len(said) == 1
    assert [target.name for target in bnn.targets] == ["head.weight"]
    x = torch.randn(3, 4)
    assert torch.equal(bnn.eval().mean_forward(x), net(x))


@pytest.mark.parametrize("name", COMPUTED)
def test_gates_are_put_on_a_layer_whose_weight_is_computed(name):
    net = with_first(COMPUTED[name](nn.Linear(4, 4))).eval()
    bnn = ps.lift(net, ps.BetaBernoulli(initial=0.25))
    assert [target.key for target in bnn.targets] == ["body.input", "head.input"]
    x = torch.randn(3, 4)
    torch.testing.assert_close(bnn.mean_forward(x), net.head(net.body(x / 4).tanh() / 4))


@pytest.mark.parametrize(
    ("make", "inside"),
    [
        (lambda: nn.LSTM(4, 4), "LSTM"),
        (lambda: nn.GRUCell(4, 4), "GRUCell"),
        (lambda: nn.Bilinear(4, 4, 4), "Bilinear"),
        (Product, "Product"),
        (lambda: torch.compile(nn.Linear(4, 4)), "OptimizedModule"),
    ],
    ids=["lstm", "cell", "bilinear", "foreign", "compiled"],
)
@pytest.mark.parametrize("select", [ps.weights, ps.inputs, ps.outputs, ps.gates])
def test_layers_that_a_default_does_not_take_are_named(make, inside, select):
    net = nn.Sequential(
        OrderedDict(
            first=nn.Linear(4, 4), body=make(), middle=nn.Linear(4, 3), last=nn.Linear(3, 2)
        )
    )
    with pytest.warns(UserWarning, match=rf"'body' \({inside}"):
        targets = select(net)
    assert targets
    assert not any(target.name.startswith("body") for target in targets)


@pytest.mark.parametrize("select", [ps.weights, ps.inputs, ps.outputs, ps.gates])
def test_what_is_no_dense_layer_is_left_out_in_silence(select):
    net = nn.Sequential(
        nn.Embedding(5, 4), nn.LayerNorm((3, 4)), nn.Linear(4, 4), nn.PReLU(), nn.Linear(4, 2)
    )
    assert select(net)[0].name.removesuffix(".weight") == "2"


def test_a_transformer_is_lifted_whole():
    net = nn.Sequential(nn.Linear(4, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
    bnn = ps.lift(net, ps.Gaussian())
    attention = ["1.self_attn.in_proj_weight", "1.self_attn.out_proj.weight"]
    expected = ["0.weight", *attention, "1.linear1.weight", "1.linear2.weight"]
    assert [target.name for target in bnn.targets] == expected


@pytest.mark.parametrize("select", [ps.inputs, ps.outputs, ps.gates])
def test_queries_keys_and_values_without_gates_are_named(select):
    net = nn.Sequential(nn.Linear(4, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
    with pytest.warns(UserWarning, match=r"'1\.self_attn' \(MultiheadAttention.*ps\.heads"):
        assert "1.self_attn.out_proj" in [target.name for target in select(net)]


def test_a_head_tied_to_an_embedding_is_lifted_under_its_first_name():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(5, 4)
            self.head = nn.Linear(4, 5, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, x):
            return self.head(self.embedding(x))

    net = Tied()
    for where in (None, "head*", nn.Linear):
        assert [target.name for target in ps.weights(net, where)] == ["embedding.weight"]
    weight = torch.randn(5, 4)
    x = torch.tensor([0, 3])
    result = poutine.condition(ps.lift(net, NORMAL), {"embedding.weight": weight})(x)
    torch.testing.assert_close(result, weight[x] @ weight.T)


@pytest.mark.parametrize("make", [nn.ReLU, lambda: nn.LSTM(3, 2), lambda: nn.GRUCell(4, 2)])
@pytest.mark.parametrize("method", [ps.Gaussian(), ps.BetaBernoulli(), ps.GibbsPruning()], ids=repr)
def test_where_nothing_is_left_the_alternatives_are_named(make, method):
    with pytest.raises(
        ValueError, match=r"no dense or convolutional layer.*ps\.weights\(net, where"
    ):
        ps.lift(make(), method)


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("weight_norm", "body.parametrizations.weight.original1"),
        ("old weight_norm", "body.weight_v"),
        ("spectral_norm", "body.parametrizations.weight.original"),
        ("old spectral_norm", "body.weight_orig"),
    ],
)
def test_what_is_divided_by_its_own_norm_is_refused(name, parameter):
    net = with_first(COMPUTED[name](nn.Linear(4, 4)))
    with pytest.raises(ValueError, match=r"own norm.*remove_parametrizations"):
        ps.lift(net, ps.Gaussian(), ps.weights(net, parameter))


def test_what_makes_an_orthogonal_matrix_is_refused():
    net = with_first(parametrizations.orthogonal(nn.Linear(4, 4)))
    with pytest.raises(ValueError, match=r"orthogonal matrix.*remove_parametrizations"):
        ps.lift(net, ps.Gaussian(), ps.weights(net, "body.parametrizations.weight.original"))


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("weight_norm", "body.parametrizations.weight.original0"),
        ("old weight_norm", "body.weight_g"),
        ("prune", "body.weight_orig"),
        ("own parametrization", "body.parametrizations.weight.original"),
    ],
)
def test_rows_at_zero_are_zero_in_the_other_parametrizations(name, parameter):
    net = with_first(COMPUTED[name](nn.Linear(4, 4, bias=False)))
    (target,) = ps.weights(net, parameter)
    bnn = ps.lift(net, ps.Gaussian(), [target])
    bnn.freeze({parameter: torch.zeros(target.shape)})
    assert torch.equal(bnn.mean_forward(torch.randn(3, 4)), net.head.bias.expand(3, 2))


# Networks that cannot be lifted as they are


def compiled_in_place() -> nn.Module:
    net = nn.Linear(3, 2)
    net.compile()
    return net


@pytest.mark.parametrize("method", [ps.Gaussian(), ps.BetaBernoulli()], ids=repr)
@pytest.mark.parametrize("make", [lambda: torch.compile(nn.Linear(3, 2)), compiled_in_place])
def test_a_compiled_network_is_refused_with_the_way_out(make, method):
    with pytest.raises(ValueError, match=r"it is compiled.*net\._orig_mod"):
        ps.lift(make(), method)


@pytest.mark.parametrize("make", [lambda: torch.compile(nn.Linear(3, 2)), compiled_in_place])
def test_targets_in_a_compiled_layer_are_refused(make):
    net = nn.Sequential(OrderedDict(head=make()))
    with pytest.raises(TypeError, match=r"lies in head \(.*it is compiled"):
        ps.lift(net, ps.Gaussian(), ps.weights(net, "*weight"))


def test_what_torch_compile_wraps_can_be_lifted():
    net = torch.compile(nn.Linear(3, 2))
    x = torch.ones(1, 3)
    assert torch.equal(ps.lift(net._orig_mod, NORMAL).mean_forward(x), net._orig_mod(x))


@pytest.mark.parametrize("wrap", [lambda bnn: bnn, lambda bnn: nn.Sequential(bnn, nn.Linear(2, 2))])
def test_a_lifted_network_is_not_lifted_again(wrap):
    bnn = ps.lift(nn.Linear(3, 2), NORMAL)
    with pytest.raises(ValueError, match=r"lifted already.*bnn\.net"):
        ps.lift(wrap(bnn), ps.Gaussian())


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match="function"):
        ps.lift(lambda x: x, NORMAL)


def test_complex_weights_are_refused_by_name():
    net = nn.Sequential(nn.Linear(3, 4, dtype=torch.complex64), nn.Linear(4, 2))
    with pytest.raises(TypeError, match=r"'0\.weight' is complex.*leave it out"):
        ps.lift(net, NORMAL)
    assert ps.lift(net, NORMAL, ps.weights(net, "1.*")).targets[0].name == "1.weight"
