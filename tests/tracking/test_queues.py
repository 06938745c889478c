"""When requests are tried again, and what is tried with what: by a clock that stands still."""

from __future__ import annotations

import pytest

from irrbench.tracking.queues import MAX_BATCH, Outcome, Queues
from irrbench.tracking.spool import QueuedRequest
from tests.tracking.test_spool import numbers, request

FAILED, SILENT, REFUSED = Outcome("busy"), Outcome("nobody there", silent=True), Outcome("no", refused=True)


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("irrbench.tracking.queues.time", clock)
    return clock


def filled(*requests: QueuedRequest) -> Queues:
    queues = Queues()
    for one in requests:
        queues.add(one)
    return queues


@pytest.mark.parametrize(
    ("outcome", "pauses"),
    [(FAILED, [2, 4, 8, 16, 32, 60, 60]), (SILENT, [1, 2, 4, 8, 16, 30, 30])],
)
def test_pauses_double_up_to_a_limit_and_begin_anew_after_a_success(clock, outcome, pauses) -> None:
    queues = filled(request(0, "tags"), request(1, "tags"))
    assert queues.pause() is None
    for seconds in pauses:
        queues.settle(queues.next_batch(), outcome)
        assert queues.pause() == seconds
        clock.now += seconds - 0.001
        assert queues.next_batch() == []
        clock.now += 0.001
        assert queues.pause() is None
    queues.settle(queues.next_batch(), Outcome())
    queues.settle(queues.next_batch(), outcome)
    assert queues.pause() == pauses[0]


def test_a_silent_store_pauses_all_runs_and_a_failure_its_own_queue_alone(clock) -> None:
    queues = filled(request(0, "tags", "r1"), request(1, "tags", "r2"))
    queues.settle(queues.next_batch(), FAILED)
    assert numbers(queues.next_batch()) == [1]
    assert not queues.is_silent
    queues.settle(queues.next_batch(), SILENT)
    assert queues.is_silent
    assert queues.next_batch() == []
    queues.end_pauses()
    assert numbers(queues.next_batch()) == [0]
    queues.settle(queues.next_batch(), Outcome())
    assert not queues.is_silent
    assert numbers(queues.next_batch()) == [1]


def test_of_several_refused_metrics_fewer_are_tried_and_only_the_refused_one_is_held(clock) -> None:
    queues = filled(*(request(number) for number in range(4)), request(9, "tags"))
    queues.settle(queues.next_batch()[:2], REFUSED)
    queues.settle(queues.next_batch(), Outcome())
    assert numbers(queues.next_batch()) == [1, 2]
    queues.settle(queues.next_batch(), REFUSED)
    assert numbers(queues.next_batch()) == [1]
    queues.settle(queues.next_batch(), REFUSED)
    assert [found.order[1] for found, _ in queues.held.values()] == [1]
    assert numbers(queues.next_batch()) == [2, 3]
    queues.settle(queues.next_batch(), REFUSED)
    assert numbers(queues.next_batch()) == [2]
    queues.settle(queues.next_batch(), Outcome())
    queues.settle(queues.next_batch(), Outcome("never", refused=True, final=True))
    assert numbers(queues.next_batch()) == [9]
    assert len(queues.held) == 1  # neither what has arrived nor what is out of the way


def test_what_is_refused_in_one_run_makes_batches_of_another_no_smaller(clock) -> None:
    queues = filled(*(request(number, run=f"r{number // 2}") for number in range(4)))
    queues.settle(queues.next_batch(), REFUSED)
    assert numbers(queues.next_batch()) == [0]
    queues.settle(queues.next_batch(), FAILED)
    assert numbers(queues.next_batch()) == [2, 3]
    queues.settle(queues.next_batch(), REFUSED)
    assert numbers(queues.next_batch()) == [2]
    queues.end_pauses()
    assert numbers(queues.next_batch()) == [1]  # what is behind the one that failed
    queues.settle(queues.next_batch(), Outcome())
    assert numbers(queues.next_batch()) == [0]


def test_a_batch_that_is_refused_is_halved(clock) -> None:
    queues = filled(*(request(number) for number in range(7)))
    for size in (7, 3, 1):
        assert numbers(queues.next_batch()) == list(range(size))
        queues.settle(queues.next_batch(), REFUSED)


def test_a_batch_has_a_limit(clock) -> None:
    queues = filled(*(request(number) for number in range(MAX_BATCH + 1)))
    assert numbers(queues.next_batch()) == list(range(MAX_BATCH))
    queues.settle(queues.next_batch(), Outcome())
    assert numbers(queues.next_batch()) == [MAX_BATCH]
