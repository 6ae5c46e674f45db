"""Language models, batches by name and outputs by name: against Hugging Face's own losses."""

import math
from types import SimpleNamespace
from typing import NamedTuple

import pyro.poutine as poutine
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

import pyrosparse as ps
from pyrosparse.evidence import evaluate
from pyrosparse.models.language import with_next_tokens
from tests.transformer_nets import case


class Causal(nn.Module):
    """Logits of the next token from this one."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7)

    def forward(self, input_ids: Tensor, past: Tensor | None = None, attention_mask=None) -> Tensor:
        assert past is None
        return self.head(self.table(input_ids))


def log_likelihood(model, *batch) -> Tensor:
    trace = poutine.trace(model).get_trace(*batch)
    trace.compute_log_prob()
    return trace.nodes["y"]["log_prob_sum"]


IDS = torch.tensor([[1, 2, 3, 4], [6, 5, 4, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])


def test_tokens_are_predicted_from_those_before_and_scaled_to_all_data():
    net = Causal()
    logs = net(IDS).log_softmax(-1)
    expected = sum(logs[i, t, IDS[i, t + 1]] for i in range(2) for t in range(3)) * 10 / 2
    torch.testing.assert_close(log_likelihood(ps.language_model(net, 10), IDS), expected)
    labels = IDS.clone()
    labels[1, 3] = -100
    expected = expected - 5 * logs[1, 2, IDS[1, 3]]
    model = ps.language_model(net, 10)
    torch.testing.assert_close(log_likelihood(model, IDS, labels), expected)
    torch.testing.assert_close(log_likelihood(model, IDS, None, MASK, labels), expected)
    torch.testing.assert_close(
        log_likelihood(model, *model.from_names({"attention_mask": MASK, "input_ids": IDS})),
        expected,
    )


def test_tokens_behind_padding_on_the_left_are_not_predicted_from_it():
    mask = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]])
    *inputs, labels = with_next_tokens({"input_ids": IDS, "attention_mask": mask}, Causal())
    assert len(inputs) == 3 and inputs[1] is None
    assert labels.tolist() == [[-100, -100, -100, 4], [-100, -100, 4, 0]]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_likelihood_and_perplexity_are_those_of_hugging_faces_loss(name):
    made = case(name)
    labels = made.inputs["input_ids"].masked_fill(made.inputs["attention_mask"] == 0, -100)
    with torch.no_grad():
        loss = made.net(**made.inputs, labels=labels).loss
        found = log_likelihood(
            model := ps.language_model(made.net, 2, output="logits"),
            *model.from_names(made.inputs | {"labels": labels}),
        )
    count = int((labels[:, 1:] != -100).sum())
    assert math.isclose(found / count, -loss, rel_tol=1e-6)  # theirs is computed in float32
    for data in (made.inputs, [made.inputs], made.inputs | {"labels": labels}):
        quality = ps.measure.perplexity(made.net, data, output="logits", batch_size=1)
        assert math.isclose(quality.perplexity, math.exp(loss), rel_tol=1e-6)
        assert quality.tokens == count
    bnn = ps.lift(
        made.net, ps.Gaussian(), ps.weights(made.net, "*h.0.*" if name == "gpt2" else "*")
    )
    scores = evaluate(ps.language_model(bnn, 2, output="logits"), bnn.guide, made.inputs)
    assert math.isclose(scores["nll"], quality.nll * count / 2, rel_tol=1e-9)
    assert math.isclose(scores["accuracy"], quality.accuracy)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((IDS.float(),), "predicts tokens, int64"),
        ((IDS[:, :1],), "of two or more"),
        ((IDS, IDS[:, :3]), "the labels come last"),
    ],
)
def test_language_models_refuse_what_are_no_tokens(batch, message):
    model = ps.language_model(lambda x: torch.zeros(*x.shape, 7), 2)
    with pytest.raises(ValueError, match=message):
        model(*batch)


class Two(nn.Module):
    """Two inputs, and logits by name."""

    def __init__(self, wrap):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.wrap = wrap

    def forward(self, pixels: Tensor, scale: Tensor | None = None, shift: Tensor | None = None):
        x = pixels if scale is None else pixels * scale
        return self.wrap(self.layer(x if shift is None else x + shift))


class Named(NamedTuple):
    loss: float
    logits: Tensor


WRAPS = {
    "dict": lambda logits: {"loss": 0.0, "logits": logits},
    "object": lambda logits: SimpleNamespace(logits=logits),
    "tuple": lambda logits: Named(0.0, logits),
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_several_inputs_by_place_and_by_name_and_logits_by_name(wrap):
    torch.manual_seed(0)
    net = Two(wrap)
    bnn = ps.lift(net, ps.Gaussian())
    x, scale, y = torch.randn(6, 4), torch.rand(6, 1), torch.tensor([0, 1, 2, 0, 1, 2])
    model = ps.classifier(bnn, 6, output="logits")
    expected = -F.cross_entropy(net.layer(x + scale), y, reduction="sum")
    by_name = {"labels": y, "shift": scale, "pixels": x}
    assert model.from_names(by_name)[1] is None
    mean = poutine.condition(model, {"layer.weight": net.layer.weight.detach()})
    for batch in ((x, None, scale, y), model.from_names(by_name)):
        torch.testing.assert_close(log_likelihood(mean, *batch), expected)
    assert model(x, None, scale, None).shape == (6,)
    rows = [{"labels": y[n], "shift": scale[n], "pixels": x[n]} for n in range(6)]
    for data in ((x, torch.ones(6, 1), scale, y), by_name, DataLoader(rows, batch_size=4)):
        run = ps.fit(model, bnn.guide, data, epochs=1, batch_size=4, progress=False)
        assert run.step == 2
        quality = ps.measure.quality(net, data, output="logits", batch_size=4)
        expected = F.cross_entropy(net.layer(x + scale), y)
        assert math.isclose(quality.nll, expected.item(), rel_tol=1e-5)
    example = {"pixels": x, "shift": scale}
    report = ps.report(net, net, example, data=by_name, output="logits", batch_sizes=(2,))
    assert report.macs == {"layer": (12, 12)}
    assert report.quality[0] == quality and "accuracy" in str(report)


def test_outputs_that_are_no_tensor_are_refused_by_name():
    net, x, y = Two(WRAPS["dict"]), torch.ones(2, 4), torch.tensor([0, 1])
    with pytest.raises(TypeError, match=r"no tensor but dict with logits.*output='logits'"):
        ps.classifier(net, 2)(x, y)
    with pytest.raises(TypeError, match=r"no tensor 'scores'; it has: logits"):
        ps.classifier(net, 2, output="scores")(x, y)
    with pytest.raises(ValueError, match=r"got dict: name them by output="):
        ps.measure.quality(net, (x, y))
    with pytest.raises(ValueError, match=r"no labels"):
        ps.measure.quality(net, {"pixels": x}, output="logits")
    with pytest.raises(TypeError, match=r"'mask'.*pixels, scale, shift"):
        ps.fit(ps.classifier(net, 2, output="logits"), lambda *_: None, {"mask": x}, epochs=1)
    with pytest.raises(TypeError, match=r"labels twice"):
        ps.classifier(net, 2).from_names({"pixels": x, "y": y, "labels": y})


def test_a_report_of_a_language_model_has_its_perplexity():
    net = Causal()
    data = {"input_ids": IDS, "attention_mask": MASK}
    report = ps.report(net, net, data, data=data, judge=ps.measure.perplexity, batch_sizes=(1,))
    assert report.quality[0] == ps.measure.perplexity(net, data)
    assert "perplexity" in str(report) and "nats per token" in str(report)
    assert report.macs == {"head": (4 * 28, 4 * 28)}


def test_macs_of_attention_and_conv1d_are_counted():
    net = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    layers = {"self_attn": 4 * 8 * 8, "linear1": 8 * 12, "linear2": 12 * 8}
    expected = {name: 5 * work for name, work in layers.items()}
    assert ps.measure.macs(net, torch.ones(3, 5, 8)) == expected
    conv1d = pytest.importorskip("transformers.pytorch_utils", reason="no transformers").Conv1D
    assert ps.measure.macs(nn.Sequential(conv1d(3, 4)), torch.ones(2, 5, 4)) == {"0": 5 * 12}


def imitation(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """T^2 KL for each position but the last, (batch, length - 1)."""
    soft = (taught[:, :-1].double() / temperature).softmax(-1)
    student = (logits[:, :-1].double() / temperature).log_softmax(-1)
    return temperature**2 * (soft * (soft.log() - student)).sum(-1)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_a_teacher_of_tokens_is_in_the_likelihood(weight: float, temperature: float):
    torch.manual_seed(0)
    net, teacher = Causal(), Causal()
    options = {"weight": weight, "temperature": temperature}
    model = ps.distill_language_model(net, teacher, 10, **options)
    batch = model.from_names({"attention_mask": MASK, "input_ids": IDS})
    trace = poutine.trace(model).get_trace(*batch)
    trace.compute_log_prob()
    found = sum(site["log_prob_sum"] for site in trace.nodes.values() if site["type"] == "sample")
    counts = torch.tensor([[1, 1, 1], [1, 1, 0]])
    logs = net(IDS)[:, :-1].log_softmax(-1).gather(2, IDS[:, 1:, None])[..., 0]
    teaching = imitation(net(IDS), teacher(IDS), temperature)
    expected = (((1 - weight) * logs - weight * teaching) * counts).sum() * 10 / 2
    torch.testing.assert_close(found, expected.float())
    plain = log_likelihood(ps.language_model(net, 10), *batch)
    torch.testing.assert_close(log_likelihood(model.eval(), *batch), plain)
    assert not [name for name, _ in model.named_parameters() if "teacher" in name]


def test_a_student_comes_near_its_teacher_of_tokens():
    torch.manual_seed(0)
    net, teacher = Causal(), Causal()
    data = {"input_ids": torch.randint(7, (40, 6))}

    def distance(network: nn.Module) -> float:
        with torch.no_grad():
            ids = data["input_ids"]
            return float(imitation(network(ids), teacher(ids), 1.0).mean())

    def likelihood(f, n):
        return ps.distill_language_model(f, teacher, n, weight=1.0)

    recipe = ps.recipes.NoPruning(epochs=20, batch_size=8, learning_rate=0.05)
    result = ps.compress(net, data, recipe, model=likelihood, progress=False)
    assert distance(result.net) < 0.05 * distance(net)
    assert "perplexity" in result.quality


def test_teachers_of_tokens_that_do_not_fit_are_refused():
    class Swapped(Causal):
        def forward(self, input_ids, attention_mask=None, past=None):
            return super().forward(input_ids)

    net = Causal()
    with pytest.raises(TypeError, match="in other places than the network does"):
        named = {"attention_mask": MASK, "input_ids": IDS}
        ps.distill_language_model(net, Swapped(), 10).from_names(named)
    more = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 8))
    with pytest.raises(ValueError, match="they must be of the same classes"):
        ps.distill_language_model(net, more, 10)(IDS)
    with pytest.raises(ValueError, match=r"weight must be in \[0, 1\]"):
        ps.distill_language_model(net, net, 10, weight=2)
