"""When a segment is rolled, and which of its records belongs to a time."""

from __future__ import annotations

from pathlib import Path

import pytest
from by_hand import message
from helpers.segments import (
    FILE_SYSTEMS,
    NOW,
    Place,
    batch,
    put,
    put_batches,
)

from logstore.config import LogConfig
from logstore.log import Log
from logstore.records import BatchOptions, encode_batch

COMMON_SIZE = len(batch(40))


@pytest.fixture(params=FILE_SYSTEMS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place.on(request.param, tmp_path)


# ---------------------------------------------------------------- rolling


def test_a_segment_is_rolled_when_an_append_would_make_it_too_large(place: Place) -> None:
    segment = place.create(0, LogConfig(segment_bytes=10 * COMMON_SIZE))
    for offset in range(10):
        assert not segment.should_roll(COMMON_SIZE, offset, offset, NOW)
        put(segment, offset)
    assert segment.should_roll(1, 10, 10, NOW)
    assert not segment.should_roll(0, 10, 10, NOW)


@pytest.mark.kafka("ROLL-01")
def test_without_time_a_segment_is_rolled_by_the_clock_since_it_was_made(place: Place) -> None:
    segment = place.create(0, LogConfig(segment_ms=1000))
    assert not segment.should_roll(10, 0, -1, NOW + 5000)  # empty
    put(segment, 0, timestamp=-1)
    assert [segment.waited_ms(-1, NOW + waited) for waited in (0, 500)] == [0, 500]
    assert [segment.should_roll(10, 1, -1, NOW + waited) for waited in (1000, 1001)] == [False, True]


@pytest.mark.kafka("ROLL-02")
def test_a_far_future_time_does_not_roll_where_the_first_batch_has_none(place: Place) -> None:
    segment = place.create(0, LogConfig(segment_ms=1000))
    put(segment, 0, timestamp=-1)
    assert not segment.should_roll(10, 1, NOW + 10**9, NOW)


@pytest.mark.kafka("ROLL-03")
def test_with_time_a_segment_is_rolled_by_the_records_and_not_by_the_clock(place: Place) -> None:
    segment = place.create(0, LogConfig(segment_ms=1000))
    put(segment, 0, timestamp=5_000)
    put(segment, 1, timestamp=4_000)
    assert segment.waited_ms(5_700, NOW) == 700
    assert not segment.should_roll(10, 2, 6_000, NOW + 10**9)
    assert segment.should_roll(10, 2, 6_001, NOW)
    assert not segment.should_roll(10, 2, -1, NOW + 10**9)  # no time at all


def test_a_first_append_counts_with_its_largest_time_and_after_a_reload_with_that_of_its_first_batch(
    place: Place,
) -> None:
    segment = place.create(0)
    two = batch(0, timestamp=100) + batch(1, timestamp=900)
    segment.append(two, 1, 900, 1)
    assert segment.waited_ms(1000, NOW) == 100
    place.sealed(segment)
    assert place.existing().waited_ms(1000, NOW) == 900


@pytest.mark.kafka("ROLL-04")
def test_jitter_rolls_earlier_by_less_than_what_is_set(place: Place) -> None:
    config = LogConfig(segment_ms=10_000, segment_jitter_ms=2_000)
    jitters = set()
    for base in range(50):
        segment = place.create(base, config)
        put(segment, base, timestamp=-1)
        jitters.add(segment.jitter_ms)
        limit = NOW + 10_000 - segment.jitter_ms
        assert [segment.should_roll(10, base + 1, -1, now) for now in (limit, limit + 1)] == [False, True]
    assert len(jitters) > 10
    assert 0 <= min(jitters) <= max(jitters) < 2_000


@pytest.mark.parametrize(("ms", "jitter"), [(1, 500), (500, 0), (1, 1)])
def test_jitter_is_less_than_the_age(place: Place, ms: int, jitter: int) -> None:
    segment = place.create(0, LogConfig(segment_ms=ms, segment_jitter_ms=jitter))
    assert segment.jitter_ms == 0


def test_a_segment_is_rolled_when_an_index_is_full(place: Place) -> None:
    segment = place.create(0, LogConfig(segment_index_bytes=48, index_interval_bytes=0))
    for offset in range(4):  # the first has no entry, and a slot of four is for sealing
        assert not segment.should_roll(10, offset, offset, NOW)
        put(segment, offset)
    assert segment.should_roll(10, 4, 4, NOW)


def test_an_append_that_fits_for_certain_is_one_that_does_not_roll(place: Place) -> None:
    config = LogConfig(segment_bytes=4000, segment_ms=1000, segment_index_bytes=48, index_interval_bytes=100)
    segment = place.create(0, config)
    for offset in range(8):
        for size in (10, 3000, 4000, 5000):
            for last in (offset, 2**31 - 1, 2**31):
                for timestamp in (-1, 5, 1000, 1001, 10**9):
                    if segment.fits(size, last, timestamp):
                        assert not segment.should_roll(size, last, timestamp, NOW)
        if segment.should_roll(COMMON_SIZE, offset, offset, NOW):
            break
        put(segment, offset)
    segment.configure(LogConfig(segment_bytes=20))
    assert not segment.fits(10, 9, 9)


# ---------------------------------------------------------------- times


@pytest.mark.kafka("TIME-09")
@pytest.mark.parametrize("interval", [0, 10**6])
def test_a_time_finds_the_first_record_at_or_after_it(place: Place, interval: int) -> None:
    config = LogConfig(index_interval_bytes=interval)
    segment = place.create(40, config)
    for offset in range(40, 50):
        put(segment, offset, timestamp=10 * offset)
    assert segment.largest_timestamp == 490
    place.sealed(segment)
    with Log.open(place.path, config, fs=place.fs) as log:
        found = [log.offset_for_time(time) for time in (420, 421, 430, 431, 491, 401, 399)]
        assert [one and one.offset for one in found] == [42, 43, 43, 44, None, 41, 40]


@pytest.mark.kafka("FILE-08")
def test_a_time_finds_records_of_formats_1_and_2_and_none_of_format_0(place: Place) -> None:
    segment = place.create(0)
    new = encode_batch([(None, b"n", 11), (None, b"n", 11)], base_offset=6, options=BatchOptions(leader_epoch=4))
    put_batches(segment, message(0, None, b"o", offset=4), message(1, None, b"m", offset=5, timestamp=10), new)
    place.sealed(segment)
    with Log.open(place.path, fs=place.fs) as log:
        found = [log.offset_for_time(time) for time in (9, 10, 11, 12)]
        assert found == [(10, 5, -1), (10, 5, -1), (11, 6, 4), None]
