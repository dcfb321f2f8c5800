"""The throttle: bytes a second over periods of 300 ms, shared by all, changed at any time."""

from __future__ import annotations

import math

import pytest

from logstore.cleaner.throttle import Throttle
from logstore.testing import ManualClock


def test_nothing_waits_within_a_period() -> None:
    clock = ManualClock()
    throttle = Throttle(1000, clock)
    assert throttle.delay(5000) == 0
    clock.advance(299)
    assert throttle.delay(5000) == 0


def test_a_period_that_was_too_fast_is_followed_by_a_pause_that_makes_up_for_it() -> None:
    clock = ManualClock()
    throttle = Throttle(1000, clock)
    clock.advance(300)
    assert throttle.delay(1000) == pytest.approx(0.7)


def test_a_period_within_the_limit_is_followed_by_none_and_saves_nothing_up() -> None:
    clock = ManualClock()
    throttle = Throttle(1000, clock)
    clock.advance(10_000)
    assert throttle.delay(1000) == 0
    clock.advance(300)
    assert throttle.delay(600) == pytest.approx(0.3)


def test_a_pause_is_everybodys_and_what_is_read_in_it_counts_for_the_next_period() -> None:
    clock = ManualClock()
    throttle = Throttle(1000, clock)
    clock.advance(500)
    assert throttle.delay(1500) == pytest.approx(1)
    clock.advance(250)
    assert throttle.delay(2000) == pytest.approx(0.75)
    clock.advance(750 + 300)
    assert throttle.delay(0) == pytest.approx(1.7)


@pytest.mark.parametrize("step", [1, 7, 100, 400])
@pytest.mark.parametrize("size", [10, 3000])
def test_over_time_the_average_keeps_the_limit(step: int, size: int) -> None:
    clock = ManualClock()
    throttle = Throttle(10_000, clock)
    taken = 0
    while clock.now_ms() < 60_000:
        clock.advance(step)
        taken += size
        clock.advance(math.ceil(throttle.delay(size) * 1000))
    expected = min(size / step * 1000, 10_000)
    assert taken / clock.now_ms() * 1000 == pytest.approx(expected, rel=0.05)


@pytest.mark.kafka("CLEAN-89")
def test_a_changed_limit_counts_from_the_next_bytes_on() -> None:
    clock = ManualClock()
    throttle = Throttle(10_000_000, clock)
    clock.advance(1000)
    assert throttle.delay(20_000_000) == pytest.approx(1)
    throttle.bytes_per_second = 20_000_000
    clock.advance(2000)
    assert throttle.delay(20_000_000) == 0
    clock.advance(500)
    assert throttle.delay(20_000_000) == pytest.approx(0.5)


def test_without_a_limit_nobody_waits() -> None:
    clock = ManualClock()
    throttle = Throttle(math.inf, clock)
    clock.advance(300)
    assert throttle.delay(1 << 60) == 0


@pytest.mark.parametrize("limit", [0, -1, math.nan])
def test_a_limit_is_more_than_nothing(limit: float) -> None:
    with pytest.raises(ValueError, match="bytes a second"):
        Throttle(limit, ManualClock())
