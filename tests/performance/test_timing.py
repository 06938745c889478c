import math

import pandas as pd
import pytest
from studies.performance import (
    SECTIONS,
    Budget,
    exponents,
    files,
    machine,
    measure,
    scaling_figure,
    study,
    surfaces,
    timing,
    to_frame,
    to_markdown,
)
from studies.performance.images import Images
from studies.performance.timing import Row, against, compare, spell, without_peer


@pytest.fixture
def clock(monkeypatch):
    """A clock that only `sleep` moves, so that what is measured does not depend on the machine's load."""

    class Clock:
        now = 0.0

        def perf_counter(self):
            return self.now

        def sleep(self, seconds):
            self.now += seconds

    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    return clock


def row(ours, peer, **others):
    return Row("task", "size", ours, "peer", peer, peer / ours, peer / ours, **others)


def test_the_ratio_says_how_many_times_our_time_the_peer_takes():
    assert row(2.0, 6.0).ratio == 3
    assert row(2.0, 6.0).verdict == ""
    assert row(2.0, 6.0, goal=3).verdict == "met"
    assert row(2.0, 6.0, goal=3.01).verdict == "missed"


def test_sides_take_turns_and_the_first_calls_do_not_count(clock):
    calls = []
    found = compare(
        "t",
        "s",
        ours=lambda: (calls.append("ours"), clock.sleep(0.025)),
        peer=lambda: (calls.append("peer"), clock.sleep(0.03)),
        peer_name="p",
        equal=True,
        budget=Budget(3, 60),
    )
    assert calls == ["ours", "peer"] * 5  # once each, once each to see how long it takes, three rounds
    assert (found.ours, found.peer) == pytest.approx((0.025, 0.03))
    assert (found.low, found.high) == pytest.approx((1.2, 1.2))


def test_what_takes_microseconds_is_called_in_a_row(clock):
    calls = []
    compare(
        "t",
        "s",
        ours=lambda: (calls.append("ours"), clock.sleep(1e-6)),
        peer=lambda: clock.sleep(0.01),
        peer_name="p",
        equal=None,
        budget=Budget(2, 60),
    )
    assert len(calls) == 2 + 2 * 100


def test_no_round_begins_when_the_budget_is_spent(clock):
    calls = []
    compare(
        "t",
        "s",
        ours=lambda: calls.append(clock.sleep(0.05)),
        peer=lambda: clock.sleep(0.01),
        peer_name="p",
        equal=None,
        budget=Budget(100, 0.01),
    )
    assert len(calls) == 3  # the two that do not count, and the one that is always measured


def test_against_a_number_of_seconds(clock):
    found = against("t", "s", action=lambda: clock.sleep(0.01), seconds=1.0, peer_name="goal", budget=Budget(2), per=2)
    assert found.ours == pytest.approx(0.005)
    assert found.ratio == pytest.approx(200)
    assert found.verdict == "met"


def test_a_missing_peer_is_named_and_has_no_numbers():
    missing = without_peer("STAPLE", "1 x 4", "SimpleITK", "SimpleITK is not installed")
    assert math.isnan(missing.ratio)
    assert missing.verdict == ""
    cells = to_markdown([missing]).splitlines()[-1]
    assert cells == "| STAPLE | 1 x 4 |  | SimpleITK |  |  |  |  |  | skipped: SimpleITK is not installed |"


def test_durations_have_units():
    assert [spell(x) for x in (12.34, 0.5, 2.5e-5, 1e-9)] == ["12.3 s", "500 ms", "25 µs", "0.001 µs"]


def test_the_machine_names_versions():
    assert "torch 2" in machine()
    assert "Python 3." in machine()


def test_frames_hold_ratio_and_verdict():
    frame = to_frame([row(2.0, 6.0, equal=True, goal=2)])
    assert frame[["ratio", "verdict", "equal"]].to_numpy().tolist() == [[3.0, "met", True]]


def test_growth_is_the_slope_over_the_upper_half():
    sizes = [1, 2, 4, 8, 16, 32]
    frame = pd.DataFrame(
        [("linear", "pixels", s, 3.0 * s) for s in sizes] + [("flat", "pixels", s, 0.1) for s in sizes],
        columns=["task", "axis", "value", "seconds"],
    )
    assert exponents(frame) == {
        ("linear", "pixels"): pytest.approx(1),
        ("flat", "pixels"): pytest.approx(0, abs=1e-12),
    }


def test_the_figure_has_a_panel_for_each_axis():
    frame = pd.DataFrame(
        [(task, axis, v, 1e-3 * v) for task in ("a", "b") for axis in ("pixels", "images", "raters") for v in (1, 4)],
        columns=["task", "axis", "value", "seconds"],
    )
    panels = scaling_figure(frame).axes
    assert [panel.get_xlabel() for panel in panels] == ["pixels of an image", "images", "raters"]
    assert all(len(panel.lines) == 2 for panel in panels)


@pytest.mark.slow
def test_a_study_is_right_and_judged_by_its_seconds():
    (row,) = study.rows(Budget(1, 10.0), num_images=8, side=64)
    assert row.equal
    assert row.size == "8 x 4 x 64 x 64"
    assert row.ratio == pytest.approx(60 / row.ours)
    (quick,) = study.rows(Budget(1, 1.0), num_images=30, side=64)
    assert (quick.size, quick.verdict) == ("3 x 4 x 64 x 64", "")


def test_unknown_sections_are_refused():
    with pytest.raises(ValueError, match=r"`sections` must be among counting, bounds, .*; found speed"):
        list(measure(["speed"]))


@pytest.mark.slow
@pytest.mark.parametrize("section", [name for name in SECTIONS if name not in ("callback", "startup", "study")])
def test_every_row_finds_the_same_numbers_as_its_peer(section, monkeypatch):
    def seconds_once(ours, peer, budget):
        return [timing.seconds_of(ours)], [timing.seconds_of(peer)]

    monkeypatch.setattr(timing, "_rounds", seconds_once)
    monkeypatch.setitem(Images.draw.__func__.__kwdefaults__, "side", 128)
    monkeypatch.setattr(files, "NUM_IMAGES", 4)
    for name, value in {"SIDE": 64, "SMALL": 32, "DEPTH": 8}.items():
        monkeypatch.setattr(surfaces, name, value)
    rows = list(measure([section]))
    assert rows
    assert all(found.equal in (True, None) or found.note.startswith("skipped") for found in rows)
    assert any(found.equal or found.note.startswith("skipped") for found in rows)
