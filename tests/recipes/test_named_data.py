"""``ps.compress`` on data by name and on networks that give their output by name."""

import math
from collections import UserDict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import pyrosparse as ps
from pyrosparse import recipes
from pyrosparse.recipes.split import split
from tests.transformer_nets import case

N, LENGTH, WORDS = 60, 5, 9
DRAW = torch.Generator().manual_seed(0)
IDS = torch.randint(1, WORDS, (N, LENGTH), generator=DRAW)
MASK = (torch.arange(LENGTH) < torch.randint(2, LENGTH + 1, (N, 1), generator=DRAW)).long()
NAMED = {"labels": IDS[:, 0] % 3, "attention_mask": MASK, "input_ids": IDS}
HELD = {name: column[:20] for name, column in NAMED.items()}


class Words(nn.Module):
    """Classes of sequences, by arguments with a gap between them; the mask is needed."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, 6)
        self.first = nn.Linear(6, 8)
        self.last = nn.Linear(8, outputs)

    def forward(
        self, input_ids: Tensor, past: Any = None, attention_mask: Tensor | None = None
    ) -> Any:
        """Without a mask it fails."""
        x = self.first(self.table(input_ids)).relu() * attention_mask.unsqueeze(2)
        return self.given(x)

    def given(self, x: Tensor) -> Any:
        return {"logits": self.last(x.sum(1))}


class Objects(Words):
    """The same, which gives an object that torch.fx cannot trace."""

    def given(self, x: Tensor) -> Any:
        return SimpleNamespace(loss=None, logits=self.last(x.sum(1)))


class Causal(Words):
    """Logits of the next token."""

    def given(self, x: Tensor) -> Any:
        return {"logits": self.last(x)}


class Rows(Dataset[Any]):
    def __len__(self) -> int:
        return N

    def __getitem__(self, place: int) -> dict[str, Any]:
        return {name: column[place] for name, column in NAMED.items()}


class Table:
    """Rows as Hugging Face's datasets give them, with lists and numbers."""

    column_names = tuple(NAMED)

    def __len__(self) -> int:
        return N

    def __getitem__(self, place: int) -> dict[str, Any]:
        return {name: column[place].tolist() for name, column in NAMED.items()}

    def __iter__(self) -> Any:
        return (self[place] for place in range(N))


def network(kind: type[Words] = Words, outputs: int = 3) -> Words:
    torch.manual_seed(0)
    return kind(outputs)


def classifier(network: Any, n: int) -> ps.classifier:
    return ps.classifier(network, n, output="logits")


def language_model(network: Any, n: int) -> ps.language_model:
    return ps.language_model(network, n, output="logits")


def logits_of(net: nn.Module, named: dict[str, Tensor]) -> Tensor:
    given = {name: column for name, column in named.items() if name != "labels"}
    with torch.no_grad():
        result = net.eval()(**given)
    return result["logits"] if isinstance(result, dict) else result.logits


FORMS = {
    "dict": lambda: NAMED,
    "another mapping": lambda: UserDict({name: one.numpy() for name, one in NAMED.items()}),
    "dataset": Rows,
    "table": Table,
    "loader": lambda: DataLoader(Rows(), batch_size=32, shuffle=True),
    "list": lambda: [{name: one[k::2] for name, one in NAMED.items()} for k in range(2)],
}


@pytest.mark.parametrize("form", FORMS)
def test_data_by_name_of_any_form_are_trained_on_and_scored(form: str) -> None:
    recipe = recipes.OneShot(epochs=2, batch_size=32, sparsity=0.5, structure="filter")
    net = network(Objects)
    result = ps.compress(
        net, FORMS[form](), recipe, model=classifier, test=HELD, dense=False, progress=False
    )
    assert result.small is not None and result.report is not None
    assert result.report.parameters[1] < result.report.parameters[0]
    logits = logits_of(result.net, HELD)
    torch.testing.assert_close(logits_of(result.small, HELD), logits, atol=1e-5, rtol=0)
    right = (logits.argmax(1) == HELD["labels"]).float().mean()
    nll = F.cross_entropy(logits.double(), HELD["labels"])
    assert result.quality["accuracy"] == pytest.approx(float(right))
    assert result.quality["nll"] == pytest.approx(float(nll), rel=1e-6)
    assert result.report.quality is not None
    assert result.report.quality[1].accuracy == pytest.approx(float(right))
    assert result.report.quality[1].nll == pytest.approx(float(nll), abs=1e-5)
    assert "accuracy" in str(result)


def test_a_dict_is_trained_on_as_the_tuple_of_the_same_columns() -> None:
    class Ordered(Words):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:  # type: ignore[override]
            return super().forward(input_ids, attention_mask=attention_mask)

    def weights(data: Any, kind: type[Words]) -> Tensor:
        recipe = recipes.Gibbs(epochs=2, batch_size=16, sparsity=0.3)
        found = ps.compress(
            network(kind), data, recipe, model=classifier, dense=False, progress=False
        )
        return found.net.get_parameter("first.weight")

    columns = (NAMED["input_ids"], NAMED["attention_mask"], NAMED["labels"])
    by_place = weights(columns, Ordered)
    assert torch.equal(weights(NAMED, Ordered), by_place)
    assert torch.equal(weights(NAMED, Words), by_place)  # with a default between the arguments
    assert torch.equal(weights(Rows(), Words), by_place)


QUICK = {"epochs": 2, "batch_size": 32}
KINDS = [
    recipes.BetaBernoulli(pretrain=1, **QUICK),
    recipes.DependentBetaBernoulli(pretrain=1, second_epochs=1, **QUICK),
    recipes.InformationBottleneck(pretrain=1, **QUICK),
    recipes.TurboVBI(pretrain=1, fine_tune=1, active=0.5, **QUICK),
    recipes.TurboUnitsFirst(
        pretrain=1, unit_epochs=2, fine_tune=1, active=0.5, unit_cost=0.0, **QUICK
    ),
    recipes.ModelReduction(**QUICK),
    recipes.Gibbs(sparsity=0.5, **QUICK),
    recipes.Snip(sparsity=0.5, score_batch=20, **QUICK),
    recipes.ThiNet(examples=20, fine_tune=0, last_fine_tune=1, **QUICK),
    recipes.Nuts(samples=4, warmup=2, depth=2),
]


# No unit is seen between two layers here, and Turbo says so.
@pytest.mark.filterwarnings("ignore:turbo.* prunes single weights only:UserWarning")
@pytest.mark.parametrize("loader", [False, True], ids=["dict", "loader"])
@pytest.mark.parametrize("recipe", KINDS, ids=lambda recipe: recipe.name)
def test_recipes_of_every_kind_take_data_by_name(recipe: recipes.Recipe, loader: bool) -> None:
    data: Any = DataLoader(Rows(), batch_size=32) if loader else NAMED
    result = ps.compress(
        network(), data, recipe, model=classifier, test=HELD, dense=False, progress=False
    )
    assert result.small is not None, result.compaction.problem
    logits = logits_of(result.whole, HELD)
    torch.testing.assert_close(logits_of(result.small, HELD), logits, atol=1e-5, rtol=0)
    expected = F.cross_entropy(logits.double(), HELD["labels"])
    assert result.quality["nll"] == pytest.approx(float(expected), rel=1e-6)


def test_a_network_of_several_inputs_is_called_with_all_of_them() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.layer = nn.BatchNorm1d(4), nn.Linear(4, 3)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.layer(self.norm(x * mask))

    torch.manual_seed(0)
    net, x, mask = Masked(), torch.randn(20, 4), torch.zeros(20, 4)
    data = x, mask, torch.arange(20) % 3
    ps.prune.recalibrate(net, data)
    assert net.norm.running_mean.eq(0).all() and net.norm.running_var.eq(0).all()
    bnn = ps.lift(net, ps.BetaBernoulli(), ps.inputs(net, "layer"))
    found = ps.measure.active_features(bnn, data, classes=3)["layer.input"]
    assert found.mean == 4 and found.class_mean is not None and found.class_mean.shape == (3, 4)
    # All that reaches the layer is its bias: the channels are alike, and the first ones go.
    gains = ps.prune.thinet(net, data, 0.5, on=ps.inputs(net, "layer"), reconstruct=False)
    assert gains["layer.input"].tolist() == [0.0, 0.0, 1.0, 1.0]


def test_language_models_are_scored_by_their_perplexity() -> None:
    tokens = {"input_ids": IDS, "attention_mask": MASK}
    recipe = recipes.Magnitude(epochs=2, batch_size=32, sparsity=0.5)
    result = ps.compress(
        network(Causal, WORDS), tokens, recipe, model=language_model, test=tokens, progress=False
    )
    assert result.small is not None and result.report is not None
    logits = logits_of(result.small, tokens)
    logs = logits[:, :-1].double().log_softmax(-1).gather(2, IDS[:, 1:, None])[..., 0]
    known = (MASK[:, 1:] * MASK[:, :-1]).bool()
    perplexity = float((-logs[known].mean()).exp())
    assert result.scores["compact"]["perplexity"] == pytest.approx(perplexity, rel=1e-6)
    assert result.quality["perplexity"] == pytest.approx(perplexity, rel=1e-5)
    assert result.report.quality is not None
    assert result.report.quality[1].tokens == int(known.sum())
    assert result.report.quality[1].perplexity == pytest.approx(perplexity, rel=1e-6)
    assert set(result.scores) == {"before", "after", "compact"}
    assert "test perplexity" in str(result)


def test_values_by_name_are_scored_as_values() -> None:
    targets = IDS.float().mean(1, keepdim=True)
    result = ps.compress(
        network(outputs=1),
        NAMED | {"labels": targets},
        recipes.Magnitude(sparsity=0.3, **QUICK),
        model=lambda f, n: ps.regressor(f, n, noise=0.5, output="logits"),
        test=HELD | {"labels": targets[:20]},
        dense=False,
        progress=False,
    )
    error = logits_of(result.net, HELD) - targets[:20]
    assert result.quality["rmse"] == pytest.approx(float(error.square().mean().sqrt()), rel=1e-5)


def test_a_teacher_that_names_its_logits_sees_data_by_name_once() -> None:
    calls = []

    class Teacher(Words):
        def given(self, x: Tensor) -> Any:
            calls.append(len(x))
            return super().given(x)

    teacher = network(Teacher)
    result = ps.compress(
        network(),
        NAMED,
        recipes.NoPruning(epochs=3, batch_size=16),
        model=lambda f, n: ps.distill(f, teacher, n, output="logits"),
        validation=0.25,
        progress=False,
    )
    assert sum(calls) == result.data.n
    logits = logits_of(result.net, HELD)
    assert logits.shape == (20, 3) and set(result.quality) == {"accuracy", "nll", "ece"}


def test_units_first_teaches_with_the_name_of_the_logits() -> None:
    recipe = recipes.TurboUnitsFirst(distillation=0.9)
    job = recipes.Job(network(), split(NAMED).ordered(classifier(network(), N)), classifier, recipe)
    job.keep()
    taught = recipe.taught(job).likelihood(network(), N)
    assert isinstance(taught, ps.distill) and taught.output == "logits"


LEFT_OUT = {name: column for name, column in NAMED.items() if name != "labels"}


@pytest.mark.parametrize(
    ("data", "model", "error", "message"),
    [
        (NAMED, None, ValueError, r"no tensor but dict with logits.*ps\.classifier\(f, n, output="),
        (
            NAMED,
            lambda f, n: ps.classifier(f, n, output="scores"),
            ValueError,
            "no tensor 'scores'; it has: logits",
        ),
        (LEFT_OUT, classifier, ValueError, r"no targets, only .*give them as 'labels'"),
        (
            NAMED | {"token_type_ids": MASK},
            classifier,
            TypeError,
            r"have 'token_type_ids', but .* input_ids, past, attention_mask",
        ),
        (
            [{name: column[0] for name, column in NAMED.items()}],
            classifier,
            ValueError,
            r"come one by one.*DataLoader",
        ),
        (NAMED | {"labels": NAMED["labels"][:3]}, classifier, ValueError, r"numbers of rows"),
        ((IDS,), language_model, TypeError, r"\{'input_ids': tokens\}"),
    ],
    ids=["no model", "another name", "no labels", "another argument", "rows", "length", "tokens"],
)
def test_what_does_not_fit_is_refused_before_training(
    data: Any, model: Any, error: type[Exception], message: str
) -> None:
    class Never(ps.infer.Callback):
        def on_start(self, run: Any) -> None:
            raise AssertionError("it trains")

    with pytest.raises(error, match=message):
        ps.compress(
            network(),
            data,
            recipes.Gibbs(**QUICK),
            model=model,
            callbacks=[Never()],
            progress=False,
        )


def test_an_output_that_a_tensor_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="returns a single tensor: leave output='logits' out"):
        ps.compress(
            nn.Linear(6, 3),
            (torch.randn(20, 6), torch.arange(20) % 3),
            model=classifier,
            progress=False,
        )


def test_images_by_name_are_images() -> None:
    class Pixels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(1, 3, 3)

        def forward(self, pixel_values: Tensor) -> Any:
            return {"logits": self.layer(pixel_values).mean((2, 3))}

    x, y = torch.randn(30, 1, 12, 12), torch.arange(30) % 3
    net, recipe = Pixels(), recipes.Dense(epochs=1, batch_size=16)
    result = ps.compress(
        net, {"labels": y, "pixel_values": x}, recipe, model=classifier, progress=False
    )
    assert isinstance(result.data.train, ps.data.Examples) and result.recipe.augment is True
    batches = DataLoader([{"labels": y[k], "pixel_values": x[k]} for k in range(30)], batch_size=16)
    result = ps.compress(net, batches, recipe, model=classifier, progress=False)
    assert result.recipe.augment is False
    with pytest.raises(ValueError, match=r"dense can augment only images .* in memory"):
        ps.compress(
            net, batches, recipes.Dense(epochs=1, augment=True), model=classifier, progress=False
        )


def test_sequences_of_several_lengths_come_padded_or_from_a_loader() -> None:
    rows = [
        {"input_ids": IDS[k, :length], "attention_mask": MASK[k, :length], "labels": IDS[k, 0] % 3}
        for k, length in enumerate([3, 3, 5, 5] * 8)
    ]
    batches = DataLoader(rows, batch_size=2)
    recipe = recipes.Magnitude(sparsity=0.5, epochs=1)
    result = ps.compress(network(), batches, recipe, model=classifier, test=HELD, progress=False)
    assert math.isfinite(result.quality["nll"])
    with pytest.raises(ValueError, match=r"different shapes, such as \(3,\) and \(5,\).*pad"):
        ps.compress(network(), batches, recipes.Snip(epochs=1), model=classifier, progress=False)

    class Ragged(Dataset[Any]):
        __len__ = lambda self: len(rows)  # noqa: E731
        __getitem__ = lambda self, place: rows[place]  # noqa: E731

    with pytest.raises(ValueError, match=r"rows of different shapes.*collate_fn"):
        ps.compress(network(), Ragged(), recipe, model=classifier, progress=False)


def test_a_loader_by_name_is_asked_for_its_sampler_and_left_in_its_order() -> None:
    batches, model = DataLoader(Rows(), batch_size=32, shuffle=True), classifier(network(), N)
    state = torch.get_rng_state()
    parts = split(batches).ordered(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert parts.train.sampler is batches.sampler and parts.train.batch_size == 32
    assert (parts.n, parts.steps(7), parts.key) == (N, 2, None)


def test_data_with_names_in_other_places_have_another_key() -> None:
    def key(**columns: Tensor) -> str | None:
        return split(columns).ordered(lambda a, b=None, c=None, y=None: None).key

    y = NAMED["labels"]
    assert key(a=IDS, b=MASK, y=y) != key(a=IDS, c=MASK, y=y)
    assert key(a=IDS, c=MASK, y=y) == key(y=y, c=MASK, a=IDS) != key(a=IDS, c=1 - MASK, y=y)


@pytest.mark.parametrize("name", ["bert", "vit", "gpt2", "llama"])
def test_networks_of_hugging_face(name: str) -> None:
    made = case(name, torch.float32)
    data = {key: one.repeat(12, *[1] * (one.dim() - 1)) for key, one in made.inputs.items()}
    causal = name in ("gpt2", "llama")
    if not causal:
        data["labels"] = made.labels.repeat(12)
    test = {key: one[:4] for key, one in data.items()}
    result = ps.compress(
        made.net,
        data,
        recipes.Magnitude(epochs=1, batch_size=12, sparsity=0.5),
        model=language_model if causal else classifier,
        test=test,
        dense=False,
        progress=False,
    )
    assert result.small is not None and result.report is not None
    logits = logits_of(result.net, test)
    torch.testing.assert_close(logits_of(result.small, test), logits, atol=1e-5, rtol=1e-5)
    if causal:
        labels = test["input_ids"].masked_fill(test["attention_mask"] == 0, -100)
        with torch.no_grad():
            loss = float(result.net.eval()(**test, labels=labels).loss)
        assert result.quality["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
    else:
        loss = float(F.cross_entropy(logits.double(), test["labels"]))
        assert result.quality["nll"] == pytest.approx(loss, rel=1e-6)
