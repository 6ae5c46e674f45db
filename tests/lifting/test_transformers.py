"""Transformers of torch, torchvision, timm and Hugging Face: gates of heads and of neurons."""

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

import pyrosparse as ps
from pyrosparse.compaction.masked import masked
from pyrosparse.compaction.reference import reference
from pyrosparse.lifting.layers import is_conv1d
from tests.transformer_nets import CASES, case, hugging_face

EXACT = {"rtol": 1e-12, "atol": 1e-12}


class Given(ps.Method):
    """Gates of which each is what it is set to: a point."""

    kinds = ("input",)

    def init(self, target):
        return {"gain": torch.ones(target.shape)}

    def prior(self, target, q, x):
        return pyro.sample(target.site, dist.Delta(q["gain"]).to_event(1))

    guide = prior

    def score(self, target, q):
        return q["gain"].abs()

    def mean(self, target, q, x):
        return q["gain"]


class PerExample(Given):
    """The same gates, drawn for each example."""

    def prior(self, target, q, x):
        pyro.sample(target.site, dist.Delta(q["gain"]).to_event(1))
        return q["gain"].expand(len(x), -1)

    def guide(self, target, q, x):
        return pyro.sample(target.site, dist.Delta(q["gain"]).to_event(1))


def both(net: nn.Module) -> list[ps.Target]:
    return [*ps.heads(net), *ps.ffn(net)]


def set_gain(bnn: ps.Lifted, key: str, place: int, value: float) -> None:
    (entry,) = [one for one in bnn.guide.entries if one.target.key == key]
    with torch.no_grad():
        entry.tensors()["gain"][place] = value


def columns(layer: nn.Module) -> Tensor:
    """A layer's weight with its inputs in the second dimension."""
    return layer.weight.T if is_conv1d(layer) else layer.weight


# The encoder alone, on its fast path, makes such tensors of a batch with padding.
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("method", [Given, PerExample])
@pytest.mark.parametrize("name", CASES)
def test_gates_of_one_change_nothing_and_one_of_zero_takes_its_columns(name, method):
    made = case(name)
    expected = made.logits(made.net)
    targets = both(made.net)
    bnn = ps.lift(made.net, method(), targets).eval()
    torch.testing.assert_close(made.logits(bnn), expected, **EXACT)
    torch.testing.assert_close(made.logits(bnn.mean_forward), expected, **EXACT)
    for target in targets[:1] + targets[-1:]:
        set_gain(bnn, target.key, 1, 0.0)
        layer = made.net.get_submodule(target.name)
        before = layer.weight.detach().clone()
        with torch.no_grad():
            columns(layer)[:, target.block : 2 * target.block] = 0.0
            expected = made.logits(made.net)
            layer.weight.copy_(before)
        assert not torch.allclose(expected, made.logits(made.net))
        torch.testing.assert_close(made.logits(bnn), expected, **EXACT)
        with torch.no_grad():
            torch.testing.assert_close(made.logits(bnn), expected, **EXACT)
            torch.testing.assert_close(made.logits(bnn.mean_forward), expected, **EXACT)
        set_gain(bnn, target.key, 1, 1.0)
    for target in targets:
        set_gain(bnn, target.key, 0, 0.0)
    masks = bnn.masks(0.5)
    assert {len(masks[t.key]) for t in targets} == {t.shape[0] for t in targets}
    assert all(mask[0] == 0 and mask[1:].all() for mask in masks.values())
    expected = made.logits(bnn.mean_forward)
    torch.testing.assert_close(made.logits(reference(made.net, masks)), expected, **EXACT)
    folded = masked(made.net, masks)
    torch.testing.assert_close(made.logits(folded), expected, **EXACT)
    for target in targets:  # what cuts them needs nothing but these zeros
        assert not columns(folded.get_submodule(target.name))[:, : target.block].any()
    bnn.freeze(masks)
    torch.testing.assert_close(made.logits(bnn), expected, **EXACT)


@pytest.mark.parametrize("name", CASES)
def test_gradients_reach_every_gate_and_every_weight(name):
    made = case(name)
    gated = both(made.net)
    bnn = ps.lift(
        made.net,
        [(ps.BetaBernoulli(), gated), (ps.Gaussian(posterior="normal"), ps.weights(made.net))],
    )

    def program(**inputs):
        result = bnn(**inputs)
        logits = result if made.output is None else result[made.output]
        pyro.factor("likelihood", -logits.square().sum())

    Trace_ELBO().differentiable_loss(program, bnn.guide, **made.inputs).backward()
    unused = {name for name, p in bnn.named_parameters() if p.requires_grad and p.grad is None}
    assert not unused, unused
    silent = [
        e.target.key
        for e in bnn.guide.entries
        if not any(p.grad.abs().sum() > 0 for p in e.tensors().values() if p.requires_grad)
    ]
    assert not silent


@pytest.mark.parametrize("name", CASES)
def test_fit_takes_dicts_in_captured_steps(name):
    made = case(name, torch.float32)
    bnn = ps.lift(made.net, ps.HardConcrete(), both(made.net))
    if name in ("gpt2", "llama"):
        model, data = ps.language_model, made.inputs
    else:
        model, data = ps.classifier, made.inputs | {"labels": made.labels}
    if name == "bert":
        data.pop("attention_mask")
    run = ps.fit(
        model(bnn, 2, output=made.output),
        bnn.guide,
        data,
        epochs=12,
        batch_size=2,
        learning_rate=3e-2,
        progress=False,
        validation=data,
    )
    nll = [epoch["validation_nll"] for epoch in run.history]
    assert nll[-1] < nll[0]
    said = run.svi.explain()
    assert said.startswith("Captured") and "ran 12 times" in said, said


def test_a_mask_that_bert_looks_at_is_named_and_steps_are_eager():
    made = case("bert", torch.float32)
    bnn = ps.lift(made.net, ps.HardConcrete(), ps.heads(made.net))
    model = ps.classifier(bnn, 2, output="logits")
    data = made.inputs | {"labels": made.labels}
    with pytest.warns(UserWarning, match="eager steps: the model reads a tensor's value"):
        run = ps.fit(model, bnn.guide, data, epochs=1, batch_size=2, progress=False)
    assert run.history[0]["loss"] > 0


class ByPlace(Given):
    """Gates of which each example has its own: 1, 2, ... in order."""

    def prior(self, target, q, x):
        pyro.sample(target.site, dist.Delta(q["gain"]).to_event(1))
        return q["gain"] * torch.arange(1.0, len(x) + 1, dtype=x.dtype)[:, None]

    def guide(self, target, q, x):
        return pyro.sample(target.site, dist.Delta(q["gain"]).to_event(1))


@pytest.mark.parametrize("select", [ps.heads, ps.ffn])
def test_gates_of_examples_are_of_examples_where_the_length_comes_first(select):
    first, second = case("encoder"), case("encoder_time_first")
    second.net.load_state_dict(first.net.state_dict())
    x = first.inputs["x"]
    one, two = (ps.lift(made.net, ByPlace(), select(made.net)).eval() for made in (first, second))
    with torch.no_grad():
        expected = torch.stack([_scaled(first.net, select, x[n], n + 1) for n in range(2)])
        torch.testing.assert_close(one(x), expected, **EXACT)
        torch.testing.assert_close(two(x), expected, **EXACT)


def _scaled(net: nn.Module, select, x: Tensor, gain: int) -> Tensor:
    masks = {t.key: torch.full(t.shape, float(gain)) for t in select(net)}
    return masked(net, masks)(x[None])[0]


def test_attention_without_a_batch_and_with_other_keys_has_gates():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, kdim=3, vdim=5, add_bias_kv=True).double().eval()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = attention

        def forward(self, q, k, v):
            return self.attention(q, k, value=v, need_weights=True)

    net = Net()
    inputs = [torch.randn(4, width, dtype=torch.float64) for width in (8, 3, 5)]
    expected, weights = net(*inputs)
    bnn = ps.lift(net, Given(), ps.heads(net))
    found, same = bnn(*inputs)
    torch.testing.assert_close(found, expected, **EXACT)
    torch.testing.assert_close(same, weights, **EXACT)
    set_gain(bnn, "attention.out_proj.heads", 1, 0.0)
    kept = attention.out_proj.weight.detach().clone()
    with torch.no_grad():
        attention.out_proj.weight[:, 4:] = 0.0
        expected, _ = net(*inputs)
        attention.out_proj.weight.copy_(kept)
    torch.testing.assert_close(bnn(*inputs)[0], expected, **EXACT)
    names = [target.name for target in ps.weights(net)]
    parts = ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"]
    assert names == [f"attention.{part}" for part in parts]


def test_an_attention_that_raises_an_error_has_its_projection_back():
    net = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    projection = net.self_attn.out_proj
    bnn = ps.lift(net, Given(), ps.heads(net))
    with pytest.raises(AssertionError):
        bnn(torch.ones(2, 3, 7))
    assert net.self_attn.out_proj is projection
    assert torch.backends.mha.get_fastpath_enabled()
    assert not net.self_attn._forward_hooks and not net.self_attn._forward_pre_hooks


@pytest.mark.parametrize("name", ["encoder", "torchvision_vit"])
def test_drawn_weights_of_attention_act_on_the_fast_path_too(name):
    made = case(name)
    bnn = ps.lift(made.net, ps.Gaussian(posterior="normal", initial_scale=0.1)).eval()
    assert any(target.name.endswith("in_proj_weight") for target in bnn.targets)
    with torch.no_grad():
        trace = poutine.trace(bnn.guide).get_trace()
        drawn = made.logits(poutine.replay(bnn, trace=trace))
        for target in bnn.targets:
            bnn.net.get_parameter(target.name).copy_(trace.nodes[target.site]["value"])
        torch.testing.assert_close(made.logits(made.net), drawn, **EXACT)


def test_noise_at_the_activations_of_conv1d_and_of_an_output_projection():
    conv1d = pytest.importorskip("transformers.pytorch_utils", reason="no transformers").Conv1D
    layer = conv1d(3, 4)
    linear = nn.Linear(4, 3)
    with torch.no_grad():
        linear.weight.copy_(layer.weight.T)
        linear.bias.copy_(layer.bias)
    method = ps.Gaussian(posterior="normal", estimator="activations", initial_scale=0.5)
    drawn = []
    for one in (layer, linear):
        bnn = ps.lift(nn.Sequential(one), method)
        assert bnn.targets[0].shape == tuple(one.weight.shape)
        torch.manual_seed(1)
        trace = poutine.trace(bnn.guide).get_trace()
        torch.manual_seed(2)
        drawn.append(poutine.replay(bnn, trace=trace)(torch.eye(4)))
    torch.testing.assert_close(*drawn)
    net = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    bnn = ps.lift(net, method, ps.weights(net, "*.out_proj"))
    trace, x = poutine.trace(bnn.guide).get_trace(), torch.ones(2, 3, 8)
    assert not torch.equal(*(poutine.replay(bnn, trace=trace)(x) for _ in range(2)))
    with pytest.raises(ValueError, match=r"in_proj_weight.*estimator='weights'"):
        ps.lift(net, method)


@pytest.mark.parametrize(
    ("name", "kind"), [("bert", "LayerNorm"), ("llama", "RMSNorm"), ("gpt2", "LayerNorm")]
)
def test_embeddings_and_scales_of_normalisation_are_targets(name, kind):
    made = case(name)
    expected = made.logits(made.net)
    norms = [n for n, m in made.net.named_modules() if type(m).__name__.endswith(kind)]
    scales = ps.weights(made.net, lambda name, m: type(m).__name__.endswith(kind))
    scales = [target for target in scales if target.name.endswith("weight")]
    tables = ps.weights(made.net, nn.Embedding)
    assert [target.name for target in scales] == [f"{norm}.weight" for norm in norms]
    bnn = ps.lift(made.net, ps.Gaussian(), [*scales, *tables]).eval()
    drawn = poutine.replay(bnn, trace=poutine.trace(bnn.guide).get_trace())
    torch.testing.assert_close(made.logits(drawn), expected, **EXACT)
    half = {target.site: target.value.detach() / 2 for target in bnn.targets}
    assert not torch.allclose(made.logits(poutine.condition(bnn, half)), expected)
    gates = ps.outputs(made.net, lambda n, m: n in norms or isinstance(m, nn.Embedding))
    gated = ps.lift(made.net, OnOutputs(), gates).eval()
    set_gain(gated, gates[0].key, 3, 0.5)
    set_gain(gated, gates[-1].key, 2, 0.0)
    found = made.logits(gated)
    assert not torch.allclose(found, expected)
    torch.testing.assert_close(made.logits(masked(made.net, gated.masks(0.1))), found, **EXACT)
    with pytest.raises(ValueError, match=r"features of .* are not known"):
        ps.inputs(made.net, nn.Embedding)


class OnOutputs(Given):
    kinds = ("output",)


@pytest.mark.parametrize(
    ("name", "config", "options", "expected"),
    [
        ("LlamaForCausalLM", "LlamaConfig", {"num_key_value_heads": 2}, "self_attn.o_proj 2 4"),
        # One key for all: of its queries any single one can go.
        ("LlamaForCausalLM", "LlamaConfig", {"num_key_value_heads": 1}, "self_attn.o_proj 4 2"),
        ("Phi3ForCausalLM", "Phi3Config", {"num_key_value_heads": 2}, "self_attn.o_proj 2 4"),
        ("GPTNeoXForCausalLM", "GPTNeoXConfig", {}, "attention.dense 4 2"),
        ("RobertaModel", "RobertaConfig", {}, "attention.output.dense 4 2"),
    ],
)
def test_heads_are_found_in_their_groups(name, config, options, expected):
    net = hugging_face(name, config, **options)
    layer, gates, block = expected.split()
    for target in ps.heads(net):
        assert target.key.endswith(f"{layer}.heads")
        assert (target.shape, target.block) == ((int(gates),), int(block))
    assert len(ps.heads(net)) == len(ps.ffn(net)) == 2


def test_heads_and_neurons_are_selected_by_name_and_refused_where_there_are_none():
    net = case("timm_vit").net
    assert [t.key for t in ps.heads(net, "blocks.1.*")] == ["blocks.1.attn.proj.heads"]
    assert [t.key for t in ps.ffn(net, "blocks.0.*")] == ["blocks.0.mlp.fc2.input"]
    for select in (ps.heads, ps.ffn):
        with pytest.raises(ValueError, match=r"unknown (attention|feed-forward network) 'nothing"):
            select(net, "nothing.*")
        with pytest.raises(ValueError, match=r"has no (attention|feed-forward network)"):
            select(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))


def test_attention_whose_heads_are_not_found_is_named():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)

    net = nn.Sequential(Attention(), nn.TransformerEncoderLayer(8, 2, 12, batch_first=True))
    with pytest.warns(UserWarning, match="heads of '0' are left out"):
        assert [target.key for target in ps.heads(net)] == ["1.self_attn.out_proj.heads"]
    net[0].num_heads = 4
    assert [target.block for target in ps.heads(net)] == [2, 4]


def test_heads_of_another_network_are_refused():
    small, large = (nn.TransformerEncoderLayer(d, 2, 12, batch_first=True) for d in (4, 8))
    with pytest.raises(ValueError, match=r"2 heads of 2 features.*ps\.heads"):
        ps.lift(large, Given(), ps.heads(small))
    with pytest.raises(ValueError, match="cannot be divided into this number of heads"):
        masked(large, {"self_attn.out_proj.heads": torch.ones(3)})


def test_training_that_cuts_refuses_gates_of_heads_by_name():
    made = case("timm_vit", torch.float32)
    bnn = ps.lift(made.net, ps.HardConcrete(), ps.heads(made.net))
    data = made.inputs | {"labels": made.labels}
    with pytest.raises(ValueError, match=r"compact_every.*attn\.proj\.heads"):
        ps.fit(ps.classifier(bnn, 2), bnn.guide, data, epochs=1, compact_every=1, progress=False)


def test_a_compact_vision_transformer_computes_what_its_masks_leave():
    made = case("torchvision_vit")
    bnn = ps.lift(made.net, Given(), both(made.net)).eval()
    for target in bnn.targets:
        set_gain(bnn, target.key, 0, 0.0)
    masks = bnn.masks(0.5)
    small = ps.compact(made.net, masks, made.inputs["x"])
    expected = bnn.mean_forward(made.inputs["x"])
    torch.testing.assert_close(small(made.inputs["x"]), expected, rtol=1e-9, atol=1e-9)
