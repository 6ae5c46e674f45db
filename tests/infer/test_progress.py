"""The progress of a training: stages are named, and a log has a line a minute at most."""

import logging

import pytest

from pyrosparse.infer import progress
from pyrosparse.infer.progress import progress_bar


def test_without_a_terminal_the_log_has_a_line_a_stage_and_one_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with (
        caplog.at_level(logging.INFO, "pyrosparse"),
        progress_bar(10, 2, None, "pretraining") as step,
    ):
        for epoch in range(3, 11):
            now += 25.0
            step({"epoch": epoch, "loss": 2.0})
    assert caplog.messages == [
        "pretraining: epoch 2 of 10",
        "pretraining: epoch 5 of 10  loss 2",
        "pretraining: epoch 8 of 10  loss 2",
    ]


@pytest.mark.parametrize("shown", [False, True])
def test_nothing_is_logged_where_it_was_said_what_to_show(
    shown: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), progress_bar(1, 0, shown, "gates") as step:
        step({"epoch": 1, "loss": 2.0})
    assert not caplog.messages


def test_a_bar_has_the_name_of_its_stage(capsys: pytest.CaptureFixture[str]) -> None:
    bar = progress_bar(3, 0, True, "fine-tuning")
    assert bar.progress is not None
    assert bar.progress.columns[0].text_format == "fine-tuning epoch"  # type: ignore[attr-defined]
