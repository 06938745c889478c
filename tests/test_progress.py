import re
import sys
import time

import pytest

from irrbench._progress import step, track


def shown(items, *, seconds=10, **options):
    """What passes through `track`, where each item waits until the label is on the screen, or some seconds."""

    def wait(item):
        wait_for("label", seconds=seconds)
        return item

    return list(track(map(wait, items), total=len(items), label="label", **options))


def wait_for(text, *, seconds=10):
    deadline = time.monotonic() + seconds
    while text not in sys.stderr.getvalue() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_bar_on_a_terminal_shows_what_takes_long_while_the_first_item_is_worked_on(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("irrbench._progress.PATIENCE_SECONDS", 600.0)
    assert list(track(iter("abc"), total=3, label="quick")) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("irrbench._progress.PATIENCE_SECONDS", 0.0)
    assert shown("ab") == ["a", "b"]
    text = capsys.readouterr().err
    assert "label" in text
    assert re.search(r"\b0%", text)
    assert re.search(r"\d:\d\d", text)  # the time that is left


@pytest.mark.parametrize(("is_terminal", "enabled"), [(False, True), (True, False)])
def test_no_bar_in_a_file_and_none_where_it_is_not_wanted(capsys, monkeypatch, is_terminal, enabled):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal, raising=False)
    monkeypatch.setattr("irrbench._progress.PATIENCE_SECONDS", 0.0)
    assert shown("ab", enabled=enabled, seconds=0.2) == ["a", "b"]
    assert capsys.readouterr().err == ""


def test_a_file_gets_a_line_now_and_then_with_the_time_that_is_left(capsys, monkeypatch):
    monkeypatch.setattr("irrbench._progress.LINE_SECONDS", 0.05)
    with step("label", total=4) as advance:
        advance(2)
        wait_for("label")
    text = capsys.readouterr().err
    assert text.startswith("label: 2 of 4, about 1 second left\n")
    assert "\x1b" not in text


def test_a_step_of_which_nobody_knows_the_end_shows_the_time_it_has_taken(capsys, monkeypatch):
    monkeypatch.setattr("irrbench._progress.LINE_SECONDS", 0.05)
    with step("drawing"):
        wait_for("drawing")
    assert capsys.readouterr().err.startswith("drawing: 1 second so far\n")


def test_a_step_within_another_is_not_shown_and_the_next_one_is(capsys, monkeypatch):
    monkeypatch.setattr("irrbench._progress.LINE_SECONDS", 0.05)
    with step("outer"):
        assert list(track("ab", total=2, label="inner")) == ["a", "b"]
        wait_for("outer")
    with pytest.raises(ValueError, match="mine"), step("failing"):
        raise ValueError("mine")
    with step("next"):
        wait_for("next")
    text = capsys.readouterr().err
    assert "inner" not in text
    assert "next: 1 second so far" in text


def test_names_in_labels_are_no_markup_and_steer_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr("irrbench._progress.LINE_SECONDS", 0.05)
    with step("scoring [red]x[/red]\x1b[2J"):
        wait_for("scoring")
    assert "scoring [red]x[/red]\\x1b[2J" in capsys.readouterr().err
