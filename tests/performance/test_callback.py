"""The measurement of the callback's share measures what it says."""

import pytest
from studies.performance import Budget, validation_epoch
from studies.performance.validation_epoch import CallbackShare, measure_validation_epoch

from irrbench.callbacks import RaterBoundsMonitor

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
SMALL = {"side": 32, "batch_size": 2, "num_batches": 3}


class Clock:
    """Moves a little at each look and by what a hook is said to take, whatever else runs on the machine."""

    now = 0.0

    def thread_time(self):
        self.now += 1e-6
        return self.now


def test_time_in_a_hook_is_found_and_none_outside(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(validation_epoch, "time", clock)

    def busy(seconds):
        clock.now += seconds

    bare = measure_validation_epoch(**SMALL)
    take_in = RaterBoundsMonitor.after_step
    monkeypatch.setattr(RaterBoundsMonitor, "after_step", lambda *a: (busy(0.5), take_in(*a))[1])
    slow = measure_validation_epoch(**SMALL)
    assert bare.batches <= bare.hooks <= bare.callback
    for part in ("batches", "hooks", "callback"):
        assert getattr(slow, part) - getattr(bare, part) > 1.4  # three batches, half a second each
    assert slow.epoch > slow.callback > 1.5
    assert slow.share > bare.share


def test_share_is_hooks_and_watching_over_the_epoch():
    assert CallbackShare(hooks=0.03, batches=0.02, watching=0.01, epoch=8.0, num_batches=2).share == pytest.approx(
        0.005
    )


def test_the_row_compares_the_callback_with_its_epoch(monkeypatch):
    found = CallbackShare(hooks=0.03, batches=0.02, watching=0.01, epoch=8.0, num_batches=4)
    sides = []

    def measure(*, side, num_batches, scores):
        sides.append((side, "nsd" in scores))
        return found

    monkeypatch.setattr("studies.performance.validation_epoch.measure_validation_epoch", measure)
    for seconds in (1.0, 10.0):
        for row in validation_epoch.rows(Budget(5, seconds)):
            assert row.ratio == pytest.approx(200)
            assert row.verdict == "met"
            assert row.note == "0.50% of the epoch"
    assert sides == [(256, False), (256, True), (512, False), (512, True)]
