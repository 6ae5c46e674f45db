"""The report and the plots: complete, escaped, and in need of no other file."""

import itertools
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pyrosparse.plots import plots, style
from pyrosparse.reports import lead
from pyrosparse.reports import page as report
from pyrosparse.reports.summary import Layer, Round, Summary, headline
from pyrosparse.storage.storage import Stored

LAYER = Layer("<fc1>.weight", (10, 10), 10, Stored("bitmask", 53, 400), 100)
ROUND = Round(2, 4.0, -1.0, 5.0, "mean")
SUMMARY = Summary("Toy & Co", 90, 9, 30, 0.9, 0.31, 110, 20, [LAYER], 800, 400, 2.0, ROUND)
SETTINGS = {"network": "fcn", "recipe": "bayesian-random", "epochs": 2}
SETTINGS |= {"threshold": 0.0, "likelihood": "mean"}
CONFIG = {
    "settings": SETTINGS,
    "weights": {"file": "a<b.pt", "sha256": "00ff"},
    "version": "1.2.3",
    "started": "2024-02-03T04:05:06+00:00",
    "machine": {"torch": "9.9"},
}


def entry(epoch: int, pruned: bool, factor: float) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "loss": 10.0,
        "train_nll": 0.5,
        "validation_nll": 0.6,
        "validation_accuracy": 0.8,
        "pruned": pruned,
        "sparsity": 0.9,
        "log_bayes_factor": factor,
        "log_bayes_factor_likelihood": -1.0,
        "log_bayes_factor_prior": factor + 1.0,
        "log_bayes_factor_per_datum": factor / 90,
        "seconds": 0.1,
    }


HISTORY = [entry(1, True, 88.0), entry(2, False, -3.0)]
UNPRUNED = [{"epoch": 1, "loss": 3.0, "train_nll": 0.5, "train_accuracy": 0.9, "seconds": 0.1}]


class Page(HTMLParser):
    """Collects what a page refers to, its text, and whether every tag is closed."""

    VOID = ("meta", "br", "img", "link", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.open: list[str] = []
        self.headings: list[int] = []
        self.labels: list[str | None] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "svg":
            told = dict(attrs)
            self.labels.append(told.get("aria-label") if told.get("role") == "img" else None)
        if tag not in self.VOID:
            self.open.append(tag)
        self._attributes(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._attributes(attrs)

    def _attributes(self, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "action", "poster", "srcset"):
                self.references.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def assert_self_contained(text: str) -> Page:
    page = Page(text)
    assert not page.open
    assert not page.tags & {"script", "link", "iframe", "img", "object", "embed"}
    assert all(reference.startswith("#") for reference in page.references)
    assert {reference[1:] for reference in page.references} <= set(page.ids)
    assert "@import" not in text
    assert all(url.startswith("#") for url in re.findall(r"url\(['\"]?([^)]*)", text))
    # The namespaces of SVG are names and not places.
    assert set(re.findall(r"https?://[^\s\"'<)]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    return page


def assert_readable_aloud(page: Page) -> None:
    """One title, no level of headings left out, and words for every figure."""
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(page.headings))
    assert page.labels and all(page.labels)


def contrast(one: str, other: str) -> float:
    """The ratio of luminances of WCAG 2: 1 of equal colours, 21 of black on white."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def test_the_contrast_of_colours_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


def test_text_stands_out_from_its_ground_in_light_and_dark_mode() -> None:
    css = (Path(report.__file__).parent / "report.css").read_text()
    modes = [dict(re.findall(r"--(\w+): (#\w{6})", mode)) for mode in css.split("@media", 2)[:2]]
    assert [set(mode) for mode in modes] == [
        {"ink", "soft", "paper", "card", "line", "accent"} for _ in range(2)
    ]
    for mode in modes:
        for text in ("ink", "soft", "accent"):
            for ground in ("paper", "card"):
                assert contrast(mode[text], mode[ground]) >= 4.5, (text, ground)
        # Curves need 3, on either paper.
        for curve in (style.BLUE, style.ORANGE, style.GREEN, style.GREY):
            assert contrast(curve, mode["paper"]) >= 3, curve
    assert contrast(style.INK, "#ffffff") >= 4.5


def page_of(
    history: list[dict[str, Any]], config: dict[str, Any] = CONFIG, summary: Summary = SUMMARY
) -> Page:
    figures = {"learning_curves": plots.learning_curves(history, threshold=0.0)}
    if "log_bayes_factor" in history[0]:
        figures["bayes_factor_parts"] = plots.bayes_factor_parts(history)
        figures["sparsity_by_layer"] = plots.sparsity_by_layer({"<fc1>.weight": 0.9})
    text = report.html(summary, history, figures, config, "pyrosparse compress --x '<y>'")
    page = assert_self_contained(text)
    assert_readable_aloud(page)
    return page


def test_report_is_complete_self_contained_and_escaped() -> None:
    page = page_of(HISTORY)
    for expected in (
        "Toy & Co",
        "<fc1>.weight",
        "a<b.pt",
        "pyrosparse compress --x '<y>'",
        "90.00 %",
        "log Bayes factor",
        "1.2.3",
        "9.9",
        "2024-02-03",
        "00ff",
        "10 × 10",
        "They did not influence training",
        "as if there were one example",
        "+4 nats",
        "-1 nats, mean over the data",
    ):
        assert expected in page.text, expected


def test_report_without_pruning_says_nothing_of_bayes_factors() -> None:
    whole = replace(SUMMARY, layers=[replace(LAYER, nonzero=100)], last_round=None)
    page = page_of(
        UNPRUNED,
        CONFIG | {"settings": {"network": "fcn", "recipe": "none", "epochs": 1}, "weights": None},
        whole,
    )
    assert "Bayes factor means" not in page.text
    assert "without pruning" in page.text


def test_figures_on_a_page_do_not_repeat_ids() -> None:
    ids = page_of(HISTORY).ids
    assert not [name for name in ids if re.fullmatch(r"\w+_\d+", name)]


def test_headline_has_no_round_where_nothing_was_pruned() -> None:
    fields = {**SUMMARY.__dict__, "last_round": None}
    assert not any("Bayes" in what for what, _ in headline(Summary(**fields)))
    assert SUMMARY.sparsity == pytest.approx(0.9)


def test_learning_curves_have_the_panels_that_there_are_data_for() -> None:
    loss, evidence, sparsity = plots.learning_curves(HISTORY, threshold=0.1).axes
    assert [line.get_label() for line in loss.lines] == ["training", "validation"]
    labels = [line.get_label() for line in evidence.lines]
    assert {"log Bayes factor", "pruned", "gate closed", "threshold"} == set(labels)
    assert list(evidence.lines[0].get_ydata()) == [88 / 90, -3 / 90]
    assert list(sparsity.lines[0].get_ydata()) == [0.9, 0.9]
    (alone,) = plots.learning_curves(UNPRUNED).axes
    assert [line.get_label() for line in alone.lines] == ["training"]


def test_plots_refuse_what_they_have_no_data_for() -> None:
    with pytest.raises(ValueError, match="empty"):
        plots.learning_curves([])
    with pytest.raises(ValueError, match="no Bayes factor"):
        plots.bayes_factor_parts(UNPRUNED)
    with pytest.raises(ValueError, match="no layer"):
        plots.sparsity_by_layer({})


def test_svg_is_well_formed_takes_the_pages_colour_and_repeats(tmp_path: Path) -> None:
    first, again = (plots.svg(plots.learning_curves(HISTORY)) for _ in range(2))
    assert first == again
    assert "currentColor" in first
    ElementTree.fromstring(first)
    assert plots.png(plots.learning_curves(HISTORY)).startswith(b"\x89PNG")


def test_the_epochs_of_a_start_and_of_the_fine_tuning_are_told() -> None:
    settings = {"network": "fcn", "recipe": "magnitude", "epochs": 3, "fine_tune": 2}
    for start, before in (({"epochs": 7}, 7), ({"batch_size": 10}, 20)):
        text = lead.sentence(SUMMARY, settings | {"start": start}, None)
        assert f"for 3 epochs, after {before} of pretraining, with magnitude pruning" in text
        assert "and the rest fine-tuned for 2 more" in text
    assert "pretraining" not in lead.sentence(SUMMARY, settings | {"start": {}}, None)
