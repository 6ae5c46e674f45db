"""The plots of structured pruning hold the numbers they were given."""

import math
import sys

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from pyrosparse.plots import (
    accuracy_under_attack,
    convergence,
    kernels_before_and_after,
    messages,
    supports,
)
from pyrosparse.plots.plots import png, svg
from pyrosparse.robustness import RobustnessRow


def draws(figure: Figure) -> bool:
    return png(figure)[1:4] == b"PNG" and svg(figure).startswith("<svg")


def image(axes, number: int = 0) -> np.ndarray:
    return np.ma.filled(axes.images[number].get_array(), math.nan)


@pytest.mark.parametrize(
    "outputs, inputs, columns, layout",
    [
        (6, 1, None, (2, 3)),
        (6, 1, 6, (1, 6)),
        (5, 1, None, (2, 3)),
        (3, 2, None, (3, 2)),
        (1, 1, 4, (1, 1)),
    ],
)
def test_kernels_are_all_there_on_one_scale(outputs, inputs, columns, layout) -> None:
    torch.manual_seed(0)
    before = torch.randn(outputs, inputs, 5, 4)
    after = before.clone()
    after[0, 0, :, 2:] = 0
    figure = kernels_before_and_after(before, after, columns=columns)
    *panels, _ = figure.axes
    assert len(panels) == 2
    for panel, weight in zip(panels, (before, after), strict=True):
        mosaic = image(panel)
        assert mosaic.shape == (layout[0] * 6 - 1, layout[1] * 5 - 1)
        kernels = weight.flatten(0, 1).double().numpy()
        for number, kernel in enumerate(kernels):
            row, column = 6 * (number // layout[1]), 5 * (number % layout[1])
            assert np.array_equal(mosaic[row : row + 5, column : column + 4], kernel)
        assert np.isfinite(mosaic).sum() == weight.numel()  # and nothing else is drawn
        marked = ~np.isnan(image(panel, 1))
        assert np.array_equal(marked, mosaic == 0)
        largest = float(before.abs().max())
        assert panel.images[0].get_clim() == pytest.approx((-largest, largest))
    assert panels[1].get_title("left") == f"after: {10 / after.numel():.1%} pruned"
    # Grey is none of the colours that weights have.
    grey = to_rgba(panels[1].images[1].get_cmap()(0))
    scale = panels[1].images[0].get_cmap()(np.linspace(0, 1, 256))
    assert np.abs(scale - grey).max(1).min() > 0.1
    assert draws(figure)


@pytest.mark.parametrize(
    "before, after, options, message",
    [
        (torch.zeros(2, 1, 3, 3), torch.zeros(1, 1, 3, 3), {}, "one shape"),
        (torch.zeros(3, 3), torch.zeros(3, 3), {}, "4 dimensions"),
        (torch.zeros(0, 1, 3, 3), torch.zeros(0, 1, 3, 3), {}, "not empty"),
        (torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), math.nan), {}, "not finite"),
        (torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), {"columns": 0}, "positive"),
    ],
)
def test_kernels_that_cannot_be_drawn(before, after, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        kernels_before_and_after(before, after, **options)


def rounds(count: int) -> list[dict]:
    torch.manual_seed(0)
    return [
        {
            "iteration": 1 + 2 * number,
            "prior log-odds": torch.randn(4, 3),
            "evidence log-odds": torch.randn(4, 3),
        }
        for number in range(count)
    ]


@pytest.mark.parametrize("count", [1, 4])
def test_messages_are_probabilities_by_iteration(count: int) -> None:
    given = rounds(count)
    given[0]["prior log-odds"][0, 0] = -math.inf
    figure = messages(given)
    *panels, _ = figure.axes
    assert len(panels) == 3 * count
    for number, entry in enumerate(given):
        evidence, prior = entry["evidence log-odds"].double(), entry["prior log-odds"].double()
        expected = (evidence.sigmoid(), prior.sigmoid(), (evidence + prior).sigmoid())
        for row, matrix in enumerate(expected):
            panel = panels[row * count + number]
            assert np.allclose(image(panel), matrix.numpy(), rtol=1e-12)
            assert panel.images[0].get_clim() == (0, 1)
        assert panels[number].get_title("left") == f"iteration {entry['iteration']}"
    # The posterior is p q / (p q + (1 - p) (1 - q)).
    p, q = (image(panels[row * count])[1:] for row in (0, 1))
    assert np.allclose(image(panels[2 * count])[1:], p * q / (p * q + (1 - p) * (1 - q)))
    assert draws(figure)


def test_messages_as_arrays() -> None:
    entry = {
        "iteration": 1,
        "prior log-odds": np.zeros((2, 2)),
        "evidence log-odds": [[0.0] * 2] * 2,
    }
    assert np.array_equal(image(messages([entry]).axes[2]), np.full((2, 2), 0.5))


def test_messages_that_cannot_be_drawn() -> None:
    (entry,) = rounds(1)
    with pytest.raises(ValueError, match="no iteration"):
        messages([])
    with pytest.raises(ValueError, match="'evidence log-odds'"):
        messages([{"iteration": 1, "prior log-odds": torch.zeros(2, 2)}])
    with pytest.raises(ValueError, match="2 dimensions"):
        messages([entry | {"prior log-odds": torch.zeros(3)}])
    with pytest.raises(ValueError, match="one shape"):
        messages([entry | {"prior log-odds": torch.zeros(1, 3)}])
    with pytest.raises(ValueError, match="one shape"):
        messages(
            [
                entry,
                {
                    key: entry.get(key, 2) if key == "iteration" else torch.zeros(2, 2)
                    for key in entry
                },
            ]
        )
    with pytest.raises(ValueError, match="NaN"):
        messages([entry | {"prior log-odds": torch.full((4, 3), math.nan)}])
    infinite = torch.full((4, 3), math.inf)
    with pytest.raises(ValueError, match="contradict"):
        messages([entry | {"prior log-odds": infinite, "evidence log-odds": -infinite}])


def test_supports_by_layer() -> None:
    layers = {f"fc{number}": torch.rand(number + 2, 5) for number in range(5)}
    layers |= {"conv": torch.rand(6, 2, 3, 3), "bias": torch.tensor([0.0, 1.0])}
    figure = supports(layers)
    *panels, _ = figure.axes
    assert [panel.get_title("left") for panel in panels] == list(layers)
    for panel, values in zip(panels, layers.values(), strict=True):
        expected = values.reshape(1, -1) if values.dim() == 1 else values.flatten(1)
        assert np.array_equal(image(panel), expected.double().numpy())
    assert draws(figure)


@pytest.mark.parametrize(
    "layers, message",
    [
        ({}, "no layer"),
        ({"fc1": torch.tensor([[1.5]])}, "sigmoid"),
        ({"fc1": torch.tensor([[-0.1]])}, "fc1"),
        ({"fc1": torch.tensor(0.5)}, "dimensions"),
        ({"fc1": torch.tensor([[math.nan]])}, "not finite"),
    ],
)
def test_supports_that_cannot_be_drawn(layers, message) -> None:
    with pytest.raises(ValueError, match=message):
        supports(layers)


def test_convergence_has_a_panel_for_what_was_recorded() -> None:
    history = [
        {"iteration": 1, "loss": 4.0, "kept": 0.9},
        {"iteration": 2, "loss": 3.0, "kept": 0.5, "change": 0.1, "accuracy": 0.8},
        {"iteration": 3, "loss": 2.0, "kept": 0.2, "change": 0.0, "accuracy": 0.9},
    ]
    figure = convergence(history)
    assert len(figure.axes) == 4
    for panel, key in zip(figure.axes, ("loss", "change", "kept", "accuracy"), strict=True):
        ((x, y),) = [line.get_data() for line in panel.lines]
        assert list(x) == [1, 2, 3]
        assert np.array_equal(y, [entry.get(key, math.nan) for entry in history], equal_nan=True)
        assert panel.get_shared_x_axes().joined(panel, figure.axes[0])
    assert [panel.get_yscale() for panel in figure.axes] == ["linear", "log", "linear", "linear"]
    assert draws(figure)
    assert draws(convergence([{"iteration": 1, "change": 0.0}]))


@pytest.mark.parametrize(
    "history, message",
    [
        ([], "empty"),
        ([{"loss": 1.0}], "'iteration'"),
        ([{"iteration": 1, "lost": 1.0}], "none of loss"),
    ],
)
def test_convergence_that_cannot_be_drawn(history, message) -> None:
    with pytest.raises(ValueError, match=message):
        convergence(history)


def test_robustness_has_a_colour_a_network_and_dashes_after_fine_tuning() -> None:
    rows = [
        RobustnessRow(name, tuned, epsilon, 0.9 - epsilon)
        for name, tuned in (("dense", False), ("compact", False), ("compact", True))
        for epsilon in (0.2, 0.0, 0.1)
    ]
    figure = accuracy_under_attack(rows)
    dense, before, after = figure.axes[0].lines
    assert [line.get_label() for line in (dense, before, after)] == [
        "dense",
        "compact",
        "compact, fine-tuned",
    ]
    assert before.get_color() == after.get_color() != dense.get_color()
    assert (before.get_linestyle(), after.get_linestyle()) == ("-", "--")
    assert list(after.get_xdata()) == [0.0, 0.1, 0.2]
    assert list(after.get_ydata()) == pytest.approx([0.9, 0.8, 0.7])
    assert draws(figure)
    with pytest.raises(ValueError, match="no network"):
        accuracy_under_attack([])


def open_figures() -> list[int]:
    """Those that pyplot holds, of other tests; none where nobody has imported it."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    return [] if pyplot is None else pyplot.get_fignums()


def test_plots_leave_no_state_behind() -> None:
    before, figures = dict(matplotlib.rcParams), open_figures()
    convergence([{"iteration": 1, "loss": 1.0}])
    supports({"fc1": torch.rand(2, 2)})
    assert dict(matplotlib.rcParams) == before
    assert open_figures() == figures
