"""Clocks: the machine's, and the one that tests move."""

from __future__ import annotations

import time

import pytest

from logstore.clock import Clock, SystemClock
from logstore.testing import ManualClock


def test_the_system_clock_gives_milliseconds_since_the_epoch() -> None:
    before = time.time()
    now_ms = SystemClock().now_ms()
    assert int(before * 1000) - 1 <= now_ms <= time.time() * 1000 + 1


def test_the_system_clocks_monotonic_time_counts_nanoseconds_and_does_not_go_back() -> None:
    clock = SystemClock()
    first = clock.monotonic_ns()
    time.sleep(0.002)
    assert clock.monotonic_ns() - first >= 2_000_000


def test_a_manual_clock_stands_still_until_it_is_advanced() -> None:
    clock = ManualClock(1_000)
    assert (clock.now_ms(), clock.now_ms()) == (1_000, 1_000)
    before = clock.monotonic_ns()
    clock.advance(25)
    assert (clock.now_ms(), clock.monotonic_ns() - before) == (1_025, 25_000_000)


def test_a_manual_clock_may_be_set_back_while_its_monotonic_time_stays() -> None:
    clock: Clock = (manual := ManualClock(1_000))
    manual.advance(10)
    before = clock.monotonic_ns()
    manual.set(5)
    assert (clock.now_ms(), clock.monotonic_ns()) == (5, before)


def test_a_manual_clock_does_not_advance_backwards() -> None:
    with pytest.raises(ValueError, match="-1 ms"):
        ManualClock().advance(-1)
