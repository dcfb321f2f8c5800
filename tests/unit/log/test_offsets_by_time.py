"""Which offset belongs to a time: by the time index and the records, beside a search through all records."""

from __future__ import annotations

import pytest
from by_hand import GZIP, message, message_set
from helpers.open_logs import START, Place, Producer, from_leader
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.config import LogConfig
from logstore.errors import DamagedLogError
from logstore.log import Log, TimestampOffset
from logstore.records import BatchOptions, Codec, encode_batch


@pytest.fixture
def place() -> Place:
    return Place()


@pytest.fixture
def log(place: Place) -> Log:
    return place.open()


def searched(log: Log, timestamp: int) -> TimestampOffset | None:
    """The answer of the rule (LOG_SEMANTICS §7), found by looking at every record of the first segment that counts."""
    for segment in log._state.segments:
        records = [
            (record, batch)
            for batch in segment.batches(0, segment.size)
            for record in batch.records()
        ]  # fmt: skip
        largest = max((record.timestamp for record, _ in records), default=-1)
        if (largest if largest >= 0 else segment.largest_timestamp) < timestamp:
            continue
        for record, batch in records:
            if record.timestamp >= timestamp and record.offset >= log.log_start_offset:
                return TimestampOffset(record.timestamp, record.offset, batch.header.leader_epoch)
        return None
    return None


def newest(log: Log) -> TimestampOffset | None:
    found = [
        TimestampOffset(record.timestamp, record.offset, batch.header.leader_epoch)
        for segment in log._state.segments
        for batch in segment.batches(0, segment.size)
        for record in batch.records()
    ]
    best = max((one.timestamp for one in found), default=-1)
    return None if best < 0 else next(one for one in found if one.timestamp == best)


@pytest.mark.kafka("TIMESTAMP-01")
def test_times_are_found_with_offset_and_epoch_and_the_ends_have_names(place: Place) -> None:
    log = place.open(leader_epoch=0)
    assert log.offset_for_time(0) is None
    assert log.max_timestamp() is None
    log.append([(None, b"a", START)])
    log.append_epoch(1, 1)
    log.append([(None, b"b", START + 1)])
    assert log.offset_for_time(START) == (START, 0, 0)
    assert log.offset_for_time(START + 1) == (START + 1, 1, 1)
    assert log.offset_for_time(START + 2) is None
    assert log.earliest() == (-1, 0, 0)
    assert log.latest() == (-1, 2, 1)
    log.append_epoch(2, 2)
    assert log.latest() == (-1, 2, 2)


def test_the_epoch_of_the_earliest_offset_is_told_where_it_is_known(log: Log) -> None:
    assert log.earliest() == (-1, 0, -1)
    log.append_epoch(3, 5)
    assert log.earliest() == (-1, 0, -1)
    log.truncate_fully_and_start_at(7)
    log.append_epoch(4, 7)
    assert log.earliest() == (-1, 7, 4)


@pytest.mark.kafka("TIMESTAMP-02")
def test_the_largest_time_is_that_of_the_first_record_that_has_it(log: Log) -> None:
    for number, timestamp in enumerate((START, START + 1, START)):
        log.append([(None, b"%d" % number, timestamp)])
    assert log.max_timestamp() == (START + 1, 1, 0)
    log.roll()
    log.append([(None, b"3", START + 1)])
    assert log.max_timestamp() == (START + 1, 1, 0)
    log.append([(None, b"4", 5), (None, b"5", START + 2), (None, b"6", START + 2)])
    assert log.max_timestamp() == (START + 2, 5, 0)


@pytest.mark.kafka("TIME-09")
def test_the_first_record_at_or_behind_a_time_is_found_through_the_index(place: Place) -> None:
    size = len(from_leader(40))
    log = place.open(LogConfig(index_interval_bytes=2 * size - 1), log_start_offset=40)
    for offset in range(40, 50):
        log.append_as_follower(from_leader(offset, timestamp=offset * 10))
    expected = {420: 42, 421: 43, 430: 43, 431: 44, 491: None, 401: 41, 399: 40}
    found = {timestamp: log.offset_for_time(timestamp) for timestamp in expected}
    assert {timestamp: one and one.offset for timestamp, one in found.items()} == expected
    assert log._state.segments.active.largest_timestamp == 490


def test_only_the_first_segment_with_such_a_time_is_searched(log: Log) -> None:
    """As Kafka does; what it holds below the log start does not count, what follows in the next is not looked at."""
    log.append([(None, b"a", START + 5)])
    log.append([(None, b"b", START)])
    log.roll()
    log.append([(None, b"c", START + 5)])
    assert log.offset_for_time(START + 5) == (START + 5, 0, 0)
    log.advance_log_start(1)
    assert log.offset_for_time(START + 5) is None
    assert log.offset_for_time(START) == (START, 1, 0)
    log.advance_log_start(2)
    log.delete_before_log_start()
    assert log.offset_for_time(START + 5) == (START + 5, 2, 0)


def test_a_segment_without_times_counts_with_the_time_its_file_was_changed(place: Place) -> None:
    log = place.open()
    log.append([(None, b"a", -1)])
    log.roll()
    place.clock.advance(1000)
    log.append([(None, b"b", START + 500)])
    assert log.offset_for_time(START) is None
    assert log.offset_for_time(START + 1) == (START + 500, 1, 0)
    assert log.max_timestamp() == (START + 500, 1, 0)


def test_old_formats_have_times_from_v1_on_and_no_epochs(log: Log) -> None:
    log.append_as_follower(message(0, b"k", b"v0", offset=0))
    inner = [message(1, b"k", b"v1", offset=n, timestamp=START + n) for n in range(3)]
    log.append_as_follower(message_set(1, GZIP, *inner, offset=3, timestamp=START + 2))
    assert log.offset_for_time(START + 1) == (START + 1, 2, -1)
    assert log.max_timestamp() == (START + 2, 3, -1)
    assert log.offset_for_time(START + 3) is None


def test_an_incomplete_segment_is_damage_and_no_answer(place: Place) -> None:
    log = place.open()
    for number in range(3):
        log.append([(None, b"a", START + number)])
    log.roll()
    log.close()
    name = f"{0:020d}.log"
    whole = place.fs.read_bytes(log.directory / name)
    place.fs.write_bytes(log.directory / name, whole[:-3])
    log = place.open()
    assert log.recovered is None
    with pytest.raises(DamagedLogError):
        log.offset_for_time(START + 2)


@given(
    batches=st.lists(
        st.tuples(
            st.lists(st.one_of(st.just(-1), st.integers(0, 30)), min_size=1, max_size=4),
            st.sampled_from([Codec.NONE, Codec.GZIP]),
            st.sampled_from(["append", "append", "append", "roll", "append time", "transaction"]),
        ),
        min_size=1,
        max_size=15,
    ),
    interval=st.sampled_from([0, 150, 4096]),
    start=st.integers(0, 10),
    cut=st.integers(0, 20),
)
@settings(deadline=None)
def test_every_time_is_answered_as_a_search_through_all_records_would(
    batches: list[tuple[list[int], Codec, str]], interval: int, start: int, cut: int
) -> None:
    place = Place(now_ms=10)
    plain = LogConfig(index_interval_bytes=interval)
    stamped = LogConfig(index_interval_bytes=interval, message_timestamp_type="LogAppendTime")
    log = place.open(plain)
    producer = Producer(log, 7)
    for times, codec, what in batches:
        place.clock.advance(1)
        log.configure(stamped if what == "append time" else plain)
        if what == "roll":
            log.roll()
        if what == "transaction":
            producer.send()
            producer.abort()
        log.append_batch(encode_batch([(b"k", b"v", time) for time in times], options=BatchOptions(codec=codec)))
    log.truncate_to(max(log.log_end_offset - cut, 0))
    log.advance_log_start(min(start, log.log_end_offset))
    for _ in range(2):
        for time in range(-1, 32):
            assert log.offset_for_time(time) == searched(log, time), f"at {time} in {log._state.segments.bases}"
        assert log.max_timestamp() == newest(log)
        log.close()
        log = place.open(plain)
