"""The report of a compression run: one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from matplotlib.figure import Figure

from pyrosparse.plots import plots
from pyrosparse.reports import lead
from pyrosparse.reports.costs import costs, speed
from pyrosparse.reports.next_steps import Step
from pyrosparse.reports.predictions import ClassChange
from pyrosparse.reports.remarks import remarks
from pyrosparse.reports.summary import Summary, headline

_EPOCHS = {
    "epoch": "epoch",
    "loss": "loss",
    "train_nll": "training NLL",
    "validation_nll": "validation NLL",
    "validation_accuracy": "validation accuracy",
    "pruned": "pruned",
    "sparsity": "sparsity",
    "log_bayes_factor": "log BF",
    "log_bayes_factor_likelihood": "likelihood",
    "log_bayes_factor_prior": "prior",
    "elbo": "ELBO",
    "elbo_gain": "gain",
    "elbo_gain_error": "its standard error",
    "seconds": "seconds",
}

_CAPTIONS = {
    "learning_curves": (
        "Left: negative log likelihood at the end of each epoch, after pruning. Right: the "
        "negative ELBO of training, which is noisy and rises while the weight of the KL divergence "
        "grows; or, of pruning in rounds, each round's log Bayes factor and the sparsity after it."
    ),
    "bayes_factor_parts": (
        "The log Bayes factor is the sum of a likelihood part and a prior part. The axis is linear "
        "between -1 and 1 nat, and logarithmic beyond."
    ),
    "elbo_gains": (
        "Change of the ELBO on all training data with each batch of weights that is removed, with "
        "two standard errors. Pruning ends at the first batch that is refused. The axis is linear "
        "between -1 and 1 nat, and logarithmic beyond."
    ),
    "convergence": (
        "Turbo-VBI by iteration: the loss, the change of the support's prior, and the share of "
        "weights left."
    ),
    "kernels": "The kernels of the first convolution; pruned weights are grey.",
    "sparsity_by_layer": "The share of exact zeros among each layer's weights.",
    "class_correlations": (
        "Correlation between classes of their mean gains on the test data: near 1 where two "
        "classes use the same units."
    ),
    "input_regions": "The mean gain of every pixel, by class. A pixel of gain 0 is not read.",
    "reliability_diagram": (
        "Accuracy on the test data against confidence, the probability of the predicted class. A "
        "calibrated network lies on the diagonal. Each point is the mean of ten or more examples, "
        "with its standard error. Below: the number of examples by confidence."
    ),
    "pit_histograms": (
        "Quantiles of the test targets in their predictive distributions. Flat: calibrated; a U: "
        "the distributions are too narrow; a hump: too wide. 99 % of the bars of a calibrated "
        "model lie in the band."
    ),
    "interval_coverage": (
        "Share of the test targets in the central predictive intervals, against the probability of "
        "the intervals. On the diagonal: calibrated; below it: intervals too narrow."
    ),
    "kept_inputs": "Dark pixels are read by the network; white ones are not.",
    "trade_off": (
        "Runs in neighbouring folders that differ from this one in this option only. This run is "
        "orange."
    ),
    "gate_forest": (
        "Probability that a gate passes its unit: posterior mean, 50 % and 94 % intervals. At most "
        "20 units of a layer are shown, evenly spaced in the order of their means."
    ),
    "kept_units": "The share of units that the gates keep, by layer.",
}

_NOTES = (
    "The Bayes factor here compares the posterior density at two points, the network before and "
    "after a round. It does not compare two models with their weights integrated out. It says "
    "which of the two networks is more probable under this prior and these data. It does not say "
    "how certain a structure is.",
    "A Gaussian prior centred at zero favours every weight that becomes zero, whatever the data. "
    "If the prior part is much larger than the likelihood part, a round is accepted because of the "
    "prior.",
    "After the last epoch the network is pruned once more to the requested sparsity, without a "
    "Bayes factor. So the run ends at that sparsity even if no round was accepted.",
)
_MEAN_NOTE = (
    "Here the likelihood part is divided by the number of examples, and the prior part is not. So "
    "the prior counts as if there were one example, and nearly always decides. --likelihood sum "
    "changes this."
)
_TEST_NOTE = (
    "The test data were used for the numbers above only. They did not influence training or "
    "pruning."
)


def html(
    summary: Summary,
    history: Sequence[Mapping[str, Any]],
    figures: Mapping[str, Figure],
    config: Mapping[str, Any],
    command: str,
    *,
    changes: Sequence[ClassChange] = (),
    steps: Sequence[Step] = (),
) -> str:
    """The report as one HTML page that needs no other file: styles and plots are inside.

    history: as in ``Fit.history``.
    figures: the plots by name, from ``pyrosparse.reports.figures.figures``.
    config:  ``settings``, ``weights``, ``version``, ``started`` and ``machine`` of the run.
    command: the shell command that repeats the run.
    changes: the recall of each class before and after, largest loss first.
    steps:   possible next steps, from ``next_steps``.

    >>> from pyrosparse.storage.storage import Stored
    >>> from pyrosparse.reports.summary import Layer
    >>> layer = Layer("fc.weight", (10, 10), 10, Stored("bitmask", 53, 400), 100)
    >>> summary = Summary("Toy", 9, 0, 9, 0.9, 0.3, 110, 20, [layer], 800, 400, 2.0, None)
    >>> settings = {"network": "fcn", "recipe": "magnitude", "epochs": 1, "seed": 0}
    >>> config = {"settings": settings, "weights": None, "version": "1", "machine": {}}
    >>> page = html(summary, [{"epoch": 1}], {}, config | {"started": "today"}, "pyrosparse")
    >>> page[:15]
    '<!DOCTYPE html>'
    """
    settings = config["settings"]
    title = lead.title(summary, settings)
    css = (resources.files("pyrosparse.reports") / "report.css").read_text(encoding="utf-8")
    gated = "threshold" in settings
    pruned = any("log_bayes_factor" in entry for entry in history)
    mean = settings.get("likelihood") == "mean" and gated
    notes = [
        *(_NOTES if gated else _NOTES[:1] if pruned else ()),
        *((_MEAN_NOTE,) if mean else ()),
        _TEST_NOTE,
    ]
    parts = [
        f"<h1>{escape(title)}</h1>",
        *_remarks(summary),
        f'<p class="lead"><strong>{escape(lead.answer(summary))}</strong></p>',
        f"<p>{escape(lead.sentence(summary, settings, config['weights']))}</p>",
        _cards(summary),
        *_compact(summary),
        *_steps(steps),
        *_classes(changes),
        _section("Plots", "".join(_figure(name, figure) for name, figure in figures.items())),
        _section("Numbers", _pairs(headline(summary))),
        _section("Layers", _layers(summary)),
        _section(
            "What the Bayes factor means" if pruned else "Note",
            "".join(f"<p>{escape(note)}</p>" for note in notes),
        ),
        _section("Epochs", f"<details><summary>Every epoch</summary>{_epochs(history)}</details>"),
        _section("Settings", _pairs([(k, str(v)) for k, v in settings.items() if v is not None])),
        _section("Do it again", f"<pre>{escape(command)}</pre>"),
        _section("Versions and machine", _pairs(_circumstances(config))),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{css}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _compact(summary: Summary) -> list[str]:
    """The section on the compact network, if the run got that far."""
    compaction = summary.compaction
    if compaction is None:
        return []
    rows = costs(summary)
    if not rows:
        return []
    account = (
        "<details><summary>What was removed, layer by layer</summary>"
        f"<pre>{escape(compaction.account)}</pre></details>"
    )
    table = _table(["cost", "before", "compact", "change"], rows)
    size = lead.size(summary)
    counts = f"<p>{escape(size)}</p>" if size else ""
    return [_section("The compact network", counts + table + account)]


def _steps(steps: Sequence[Step]) -> list[str]:
    """Possible next steps, if there are any."""
    if not steps:
        return []
    told = (f"<p>{escape(sentence)}</p><pre>{escape(code)}</pre>" for sentence, code in steps)
    return [_section("What next", "".join(told))]


def _classes(changes: Sequence[ClassChange], most: int = 5) -> list[str]:
    """The classes with a lower recall than before, worst first."""
    rows = [
        [
            change.name,
            f"{change.size:,}",
            f"{100 * change.before:.1f} %",
            f"{100 * change.after:.1f} %",
            change.taken_for,
        ]
        for change in changes
        if change.after < change.before
    ]
    if not rows:
        return []
    names = ["class", "test data", "recognised before", "after", "most often taken for"]
    return [_section("Classes that lost most", _table(names, rows[:most]))]


def _remarks(summary: Summary) -> list[str]:
    found = remarks(summary)
    if not found:
        return []
    return [_section("Read this first", "".join(f"<p>{escape(one)}</p>" for one in found))]


def _cards(summary: Summary) -> str:
    cards = []
    if summary.test_accuracy is not None:
        cards.append((f"{100 * summary.test_accuracy:.2f} %", "test accuracy"))
    if summary.values is not None:
        cards.append((f"{summary.values['rmse']:.4f}", "test RMSE"))
    cards += [
        (f"{summary.test_nll:.4f}", "test NLL, nats per datum"),
        *_size_cards(summary),
    ]
    inner = "".join(
        f'<div class="card"><b>{escape(value)}</b>{escape(label)}</div>' for value, label in cards
    )
    return f'<div class="cards">{inner}</div>'


def _size_cards(summary: Summary) -> list[tuple[str, str]]:
    compaction = summary.compaction
    if compaction is not None and compaction.report is not None and compaction.units:
        size, times = max(compaction.report.seconds.items())
        factor, word = speed(*times)
        return [
            (compaction.kept, "units kept by the gates"),
            (factor, f"{word}, measured at a batch of {size}"),
        ]
    return [
        (f"{100 * summary.sparsity:.4g} %", f"sparsity, {summary.nonzero:,} weights left"),
        (
            f"{summary.sparse_bytes / 1000:,.1f} kB",
            f"of {summary.dense_bytes / 1000:,.1f} kB dense",
        ),
    ]


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>\n{content}</section>"


def _figure(name: str, figure: Figure) -> str:
    caption = escape(_CAPTIONS.get(name.partition("-")[0], ""))
    # A screen reader reads the description of the figure instead of its ticks.
    label = caption or escape(name.replace("_", " "))
    drawing = plots.svg(figure).replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    return f"<figure>{drawing}<figcaption>{caption}</figcaption></figure>"


def _layers(summary: Summary) -> str:
    names = ["layer", "shape", "weights", "not zero", "sparsity", "stored as", "bytes", "dense"]
    rows = [
        [
            layer.name,
            " × ".join(str(side) for side in layer.shape),
            f"{layer.size:,}",
            f"{layer.nonzero:,}",
            f"{100 * layer.sparsity:.2f} %",
            layer.stored.layout,
            f"{layer.stored.bytes:,}",
            f"{layer.stored.dense_bytes:,}",
        ]
        for layer in summary.layers
    ]
    return _table(names, rows)


def _epochs(history: Sequence[Mapping[str, Any]]) -> str:
    keys = [key for key in _EPOCHS if any(key in entry for entry in history)]
    rows = [[_value(key, entry.get(key)) for key in keys] for entry in history]
    return _table([_EPOCHS[key] for key in keys], rows)


def _value(key: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key in ("sparsity", "validation_accuracy"):
        return f"{100 * value:.2f} %"
    return f"{value:.5g}" if isinstance(value, float) else f"{value:,}"


def _circumstances(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [("pyrosparse", config["version"]), *config["machine"].items()]
    rows.append(("started", config["started"]))
    if config["weights"]:
        rows.append(("weights, SHA-256", config["weights"]["sha256"]))
    return [(str(key), str(value)) for key, value in rows]


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def _pairs(rows: Sequence[tuple[str, str]]) -> str:
    body = "".join(f"<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>\n" for k, v in rows)
    return f'<table class="pairs"><tbody>{body}</tbody></table>'
