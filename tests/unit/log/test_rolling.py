"""When a log begins a new segment, and what that leaves of the old one."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.open_logs import PLACE, START, Place, Producer, bases, fill, from_leader, offsets, values
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.config import LogConfig
from logstore.errors import LogClosedError, LogstoreError
from logstore.log import Log
from logstore.records import encode_batch

ONE = len(encode_batch([(None, b"x")]))


@pytest.fixture
def place() -> Place:
    return Place()


def one(log: Log, timestamp: int = -1) -> None:
    log.append([(None, b"x", timestamp)])


# ---------------------------------------------------------------- when


@pytest.mark.kafka("ROLL-01")
def test_records_without_time_roll_by_the_age_of_the_segment_unless_it_is_empty(place: Place) -> None:
    log = place.open(LogConfig(segment_ms=1000))
    place.clock.advance(1001)
    one(log)
    assert bases(log) == [0]
    one(log)
    assert bases(log) == [0, 1]
    for count in range(3, 6):
        place.clock.advance(1001)
        one(log)
        assert len(bases(log)) == count
    place.clock.advance(1000)
    one(log)
    assert len(bases(log)) == 5


@pytest.mark.kafka("ROLL-02")
def test_a_time_in_the_future_does_not_roll_a_segment_that_began_without_one(place: Place) -> None:
    log = place.open(LogConfig(segment_ms=1000))
    one(log)
    one(log, START + 3_000_000)
    assert bases(log) == [0]
    place.clock.advance(1001)
    one(log, START)
    assert bases(log) == [0, 2]


@pytest.mark.kafka("ROLL-03")
def test_timestamps_roll_by_their_distance_not_by_the_clock(place: Place) -> None:
    log = place.open(LogConfig(segment_ms=1000))
    one(log, 5_000)
    place.clock.advance(10_000)
    one(log, 6_000)
    one(log)
    assert bases(log) == [0]
    one(log, 6_001)
    assert bases(log) == [0, 3]


@pytest.mark.kafka("ROLL-04")
def test_jitter_lets_a_segment_roll_earlier_by_its_own_share(place: Place) -> None:
    log = place.open(LogConfig(segment_ms=10_000, segment_jitter_ms=2_000))
    one(log, START)
    jitter = log._state.segments.active.jitter_ms
    assert 0 <= jitter < 2_000
    one(log, START + 8_000)
    one(log, START + 10_000 - jitter)
    assert bases(log) == [0]
    one(log, START + 10_000 - jitter + 1)
    assert bases(log) == [0, 3]


@pytest.mark.kafka("ROLL-05")
def test_a_segment_is_rolled_when_the_next_batch_does_not_fit(place: Place) -> None:
    log = place.open(LogConfig(segment_bytes=10 * (ONE - 1)))
    for _ in range(11):
        one(log)
    assert bases(log) == [0, 9]
    other = Place().open(LogConfig(segment_bytes=10 * ONE))
    for _ in range(20):
        one(other)
    assert bases(other) == [0, 10]
    one(other)
    assert bases(other) == [0, 10, 20]


def test_a_full_index_rolls(place: Place) -> None:
    log = place.open(LogConfig(index_interval_bytes=0, segment_index_bytes=4 * 12))
    for number in range(12):
        one(log, START + number)
    assert len(bases(log)) > 2
    assert offsets(log) == list(range(12))


@given(
    sizes=st.lists(st.tuples(st.integers(1, 200), st.integers(0, 40)), min_size=1, max_size=20),
    segment_bytes=st.integers(300, 700),
)
@settings(deadline=None)
def test_rolls_are_those_of_the_rule(sizes: list[tuple[int, int]], segment_bytes: int) -> None:
    """A plain model of the inequalities beside a log, also of one that is opened anew between two appends."""
    place = Place()
    config = LogConfig(segment_bytes=segment_bytes, segment_ms=100)
    log = place.open(config)
    expected, filled, first = [0], 0, -1
    for number, (size, step) in enumerate(sizes):
        timestamp = START + step * 10
        added = len(encode_batch([(None, b"x" * size, timestamp)]))
        if filled > segment_bytes - added or (filled and timestamp - first > 100):
            expected.append(number)
            filled = 0
        first = first if filled else timestamp
        filled += added
        log.append([(None, b"x" * size, timestamp)])
        if number % 5 == 4:
            log.close()
            log = place.open(config)
    assert bases(log) == expected


@pytest.mark.kafka("LOCAL-13")
def test_a_roll_begins_at_the_log_end_and_never_behind_the_active_segment(place: Place) -> None:
    log = place.open()
    fill(log, 2)
    log.roll()
    assert bases(log) == [0, 2]
    with pytest.raises(LogstoreError, match="cannot begin at 1"):
        log._writer.roll(1)
    # An append that rolls begins the segment at its first offset, where that is above the log end.
    log.append_as_follower(from_leader(2**32))
    log.append_as_follower(from_leader(2**33))
    assert bases(log) == [0, 2, 2**32, 2**33]


@pytest.mark.kafka("ROLL-12")
def test_a_closed_log_is_not_rolled(place: Place) -> None:
    log = place.open()
    log.close()
    with pytest.raises(LogClosedError):
        log.roll()


# ---------------------------------------------------------------- what it leaves


@pytest.mark.kafka("ROLL-06", "LOCAL-02")
def test_an_empty_segment_that_is_rolled_is_made_anew(place: Place) -> None:
    log = place.open()
    old = log._state.segments.active
    log.roll()
    assert bases(log) == [0]
    assert log._state.segments.active is not old
    assert place.names(".log.deleted") == ["00000000000000000000.log.deleted"]
    fill(log, 3)
    log.roll()
    log.roll()
    assert bases(log) == [0, 3]
    fill(log, 1, first=3)
    assert values(log) == [b"0", b"1", b"2", b"3"]
    place.clock.advance(60_000)
    log.maintain()
    assert place.names(".deleted") == []


@pytest.mark.kafka("ROLL-07")
def test_an_index_without_room_is_made_anew_by_the_next_append(place: Place) -> None:
    config = LogConfig(index_interval_bytes=0)
    log = place.open(config)
    fill(log, 3)
    log.roll()
    log.close()
    for suffix in ("index", "timeindex"):
        place.fs.write_bytes(PLACE / f"{3:020d}.{suffix}", b"")
    log = place.open(config)
    fill(log, 3, first=3)
    assert bases(log) == [0, 3]
    assert len(log._state.segments.active.indexes.open()[0]) > 0
    assert values(log, 4) == [b"4", b"5"]


@pytest.mark.kafka("ROLL-08")
def test_the_indexes_of_a_rolled_segment_are_trimmed_and_have_room_again_when_it_is_active_again(place: Place) -> None:
    config = LogConfig(index_interval_bytes=ONE - 1, segment_bytes=10 * ONE, segment_index_bytes=1000)
    log = place.open(config)
    for number in range(11):
        one(log, START + number)
    sizes = [place.fs.file_size(PLACE / f"{0:020d}.{suffix}") for suffix in ("index", "timeindex")]
    assert sizes == [9 * 8, 9 * 12]
    log.truncate_to(5)
    assert bases(log) == [0]
    sizes = [place.fs.file_size(PLACE / f"{0:020d}.{suffix}") for suffix in ("index", "timeindex")]
    assert sizes == [1000 // 8 * 8, 1000 // 12 * 12]
    assert len(log._state.segments.active.indexes.open()[0]) == 4


@pytest.mark.kafka("ROLL-09")
def test_a_snapshot_of_the_producers_is_taken_at_each_roll(place: Place) -> None:
    log = place.open()
    for number in range(3):
        fill(log, 1, first=number)
        log.roll()
    expected = [f"{offset:020d}.snapshot" for offset in (1, 2, 3)]
    assert place.names(".snapshot") == expected
    fill(log, 1)
    log.flush()
    assert place.names(".snapshot") == expected


@pytest.mark.kafka("ROLL-10")
def test_all_below_a_new_segment_is_on_disk(place: Place) -> None:
    log = place.open()
    producer = Producer(log, 7)
    producer.send(3)
    assert log.recovery_point == 0
    log.roll()
    assert log.recovery_point == log._state.segments.active.base_offset == 3
    again = place.crashed("nothing").open()
    assert (offsets(again), bases(again), again.producers[0].last_sequence) == ([0, 1, 2], [0, 3], 2)


@pytest.mark.kafka("ROLL-11")
def test_the_recovery_point_stays_where_the_snapshot_cannot_be_synced(place: Place) -> None:
    log = place.open()
    fill(log, 3)
    place.fs.fail_on(
        lambda operation: operation.kind == "sync" and operation.path.endswith(".snapshot"), OSError(5, "broken")
    )
    with pytest.raises(OSError, match="broken"):
        log.roll()
    assert (log.recovery_point, bases(log)) == (0, [0])


@pytest.mark.kafka("ROLL-14")
def test_a_new_segment_has_no_index_before_its_first_append_or_flush(place: Place) -> None:
    log = place.open()
    fill(log, 1)
    log.roll()
    assert (len(place.names(".log")), len(place.names(".index"))) == (2, 1)
    log.flush()
    assert (len(place.names(".log")), len(place.names(".index"))) == (2, 2)


@pytest.mark.kafka("TIME-08")
def test_time_entries_follow_the_index_interval_and_go_with_what_is_truncated(place: Place) -> None:
    size = len(from_leader(40))
    log = place.open(LogConfig(index_interval_bytes=2 * size - 1), log_start_offset=40)
    for offset in range(40, 70):
        log.append_as_follower(from_leader(offset, timestamp=offset * 10))
    segment = log._state.segments.active
    time_index = segment.indexes.open()[1]
    assert (len(time_index), log.log_end_offset) == (30 // 2 - 1, 70)
    log.truncate_to(41)
    assert (len(segment.indexes.open()[1]), segment.largest_timestamp, log.log_end_offset) == (0, 400, 41)


@pytest.mark.kafka("TIMESTAMP-04")
def test_the_newest_time_is_the_last_time_entry(place: Place) -> None:
    log = place.open(LogConfig(index_interval_bytes=1))
    for offset in range(100):
        log.append_as_follower(from_leader(offset, timestamp=START + offset))
    time_index = log._state.segments.active.indexes.open()[1]
    assert len(time_index) == 99
    assert time_index.last == (START + 99, 99)


def test_all_of_it_is_as_kafka_would_have_written_it(place: Place, tmp_path: Path) -> None:
    config = LogConfig(segment_bytes=700, segment_ms=100, index_interval_bytes=100, segment_index_bytes=96)
    with place.open(config) as log:
        producer = Producer(log, 7)
        for number in range(60):
            log.append([(None, b"x" * (number % 9) * 10, START + number * 7 % 300)])
            if number % 7 == 0:
                producer.send(2)
            if number % 21 == 20:
                producer.end(commit=number % 2 == 0)
    assert place.alarms(tmp_path) == []
