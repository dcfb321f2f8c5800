"""The high watermark of a log whose owner sets it, what it bounds, and that of one that stands alone."""

from __future__ import annotations

import threading

import pytest
from helpers.open_logs import Place, Producer, fill, from_leader, offsets
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.errors import OffsetOutOfRangeError
from logstore.log import FetchIsolation, Log
from logstore.records import iter_batches

LOG_END, HIGH_WATERMARK = FetchIsolation.LOG_END, FetchIsolation.HIGH_WATERMARK
COMMITTED = FetchIsolation.TXN_COMMITTED


@pytest.fixture
def place() -> Place:
    return Place()


@pytest.fixture
def log(place: Place) -> Log:
    return place.open(replicated=True)


def fetched(log: Log, offset: int, isolation: FetchIsolation) -> list[int]:
    """The offsets that a fetch gives."""
    data = log.fetch(offset, isolation=isolation).data
    return [record.offset for batch in iter_batches(data) for record in batch.records()]


# ---------------------------------------------------------------- setting it


@pytest.mark.kafka("HW-01")
def test_it_is_set_by_the_owner_within_the_log_and_lowered_by_truncation_alone(log: Log) -> None:
    assert log.high_watermark == 0
    log.append([(None, b"a"), (None, b"b"), (None, b"c")])
    assert log.high_watermark == 0
    assert log.raise_high_watermark(1) == 0
    assert log.high_watermark == 1
    assert log.set_high_watermark(5) == 3
    log.append_as_follower(from_leader(3, 3))
    assert log.high_watermark == 3
    assert log.set_high_watermark(6) == 6
    log.truncate_to(3)
    assert log.high_watermark == 3
    fill(log, 3)
    assert log.high_watermark == 3
    log.truncate_fully_and_start_at(4)
    assert (log.log_start_offset, log.high_watermark, log.log_end_offset) == (4, 4, 4)


@pytest.mark.kafka("HW-02")
def test_a_follower_is_told_only_what_is_new(log: Log) -> None:
    fill(log, 100)
    assert log.update_high_watermark(99) == 99
    assert log.update_high_watermark(99) is None
    assert log.update_high_watermark(100) == 100
    assert log.update_high_watermark(101) is None
    assert log.high_watermark == 100


def test_it_may_move_down_when_it_is_set_but_not_when_it_is_raised(log: Log) -> None:
    fill(log, 10)
    log.set_high_watermark(8)
    assert log.raise_high_watermark(8) is None
    assert log.raise_high_watermark(3) is None
    assert log.high_watermark == 8
    assert log.set_high_watermark(3) == 3
    for wrong in (lambda: log.raise_high_watermark(11), lambda: log.set_high_watermark(-1)):
        with pytest.raises(ValueError, match="high watermark"):
            wrong()
    assert log.high_watermark == 3


def test_it_is_never_below_the_log_start(place: Place) -> None:
    log = place.open(replicated=True)
    fill(log, 10)
    log.set_high_watermark(10)
    log.advance_log_start(6)
    assert log.set_high_watermark(2) == 6
    log.close()
    log = place.open(replicated=True)
    assert (log.log_start_offset, log.high_watermark, log.log_end_offset) == (6, 6, 10)


@pytest.mark.kafka("RETAIN-13")
def test_the_log_start_is_not_moved_above_it(log: Log) -> None:
    fill(log, 10)
    log.set_high_watermark(5)
    with pytest.raises(OffsetOutOfRangeError, match="above the high watermark 5"):
        log.advance_log_start(6)
    assert log.log_start_offset == 0
    assert log.advance_log_start(5)
    assert not log.advance_log_start(4)
    assert log.log_start_offset == 5


def test_that_of_a_log_that_stands_alone_is_its_end(place: Place) -> None:
    log = place.open()
    fill(log, 3)
    assert log.high_watermark == 3
    assert fetched(log, 0, HIGH_WATERMARK) == [0, 1, 2]
    with pytest.raises(ValueError, match="stands alone"):
        log.set_high_watermark(2)
    with pytest.raises(ValueError, match="stands alone"):
        log.update_high_watermark(2)
    log.truncate_to(1)
    assert log.high_watermark == 1


# ---------------------------------------------------------------- reading up to it


@pytest.mark.kafka("READ-02")
def test_reads_up_to_it_give_nothing_at_or_above_it(log: Log) -> None:
    fill(log, 10)
    for watermark in range(11):
        log.set_high_watermark(watermark)
        for offset in range(11):
            assert fetched(log, offset, HIGH_WATERMARK) == list(range(offset, watermark))
            assert offsets(log, offset, isolation=HIGH_WATERMARK) == list(range(offset, watermark))
            assert list(iter_batches(log.read(offset, isolation=HIGH_WATERMARK)))[watermark:] == []
            if offset >= watermark:
                found = log.fetch(offset, isolation=HIGH_WATERMARK)
                assert found[:2] == (log._reader.metadata_of(offset), b"")
        with pytest.raises(OffsetOutOfRangeError):
            log.fetch(11, isolation=HIGH_WATERMARK)


@pytest.mark.kafka("HW-04")
def test_a_fetch_at_the_bound_says_where_that_lies(place: Place) -> None:
    log = place.open(replicated=True)
    fill(log, 4)
    log.roll()
    producer = Producer(log, 7)
    producer.send()
    fill(log, 3, first=5)
    size = len(log.read(0, bytes_max=1))
    log.set_high_watermark(2)
    assert log.fetch(2, isolation=HIGH_WATERMARK).metadata == (2, 0, 2 * size)
    assert log.fetch(2, isolation=COMMITTED).metadata == (2, 0, 2 * size)
    log.set_high_watermark(8)
    assert log.fetch(8, isolation=HIGH_WATERMARK).metadata == (8, 4, log.size - 4 * size)
    assert log.last_stable_offset == 4
    assert log.fetch(4, isolation=COMMITTED)[:2] == ((4, 4, 0), b"")


@pytest.mark.kafka("ROLL-13")
def test_a_roll_at_it_changes_nothing_for_those_who_read_up_to_it(log: Log) -> None:
    fill(log, 5)
    log.set_high_watermark(5)
    log.roll()
    assert log.fetch(5, isolation=HIGH_WATERMARK)[:2] == ((5, 5, 0), b"")
    assert fetched(log, 0, HIGH_WATERMARK) == [0, 1, 2, 3, 4]
    fill(log, 2, first=5)
    assert offsets(log, isolation=HIGH_WATERMARK) == [0, 1, 2, 3, 4]
    assert log.fetch(5, isolation=HIGH_WATERMARK)[:2] == ((5, 5, 0), b"")
    assert offsets(log) == list(range(7))


@given(
    counts=st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=8),
    watermarks=st.lists(st.integers(0, 32), min_size=1, max_size=4),
    bytes_max=st.integers(1, 300),
)
@settings(deadline=None)
def test_every_way_to_read_ends_before_the_batch_that_holds_it(
    counts: list[tuple[int, bool]], watermarks: list[int], bytes_max: int
) -> None:
    log, ends, next_offset = Place().open(replicated=True), [0], 0
    for count, rolls in counts:
        log.append_as_follower(from_leader(next_offset, count))
        next_offset += count
        ends.append(next_offset)
        if rolls:
            log.roll()
    for watermark in watermarks:
        log.set_high_watermark(watermark)
        end = max(one for one in ends if one <= watermark)
        assert offsets(log, isolation=HIGH_WATERMARK, bytes_max=bytes_max) == list(range(end))
        pieces = list(log.slices(bytes_max=bytes_max, isolation=HIGH_WATERMARK))
        assert [r.offset for piece in pieces for b in iter_batches(piece) for r in b.records()] == list(range(end))
        offset = 0
        while found := log.fetch(offset, bytes_max, isolation=HIGH_WATERMARK).data:
            batches = list(iter_batches(found))
            assert batches[-1].next_offset <= watermark
            offset = batches[-1].next_offset
        assert offset == end


@pytest.mark.kafka("READ-12")
def test_committed_readers_never_get_what_is_not_decided_while_the_watermark_moves(log: Log) -> None:
    """One thread writes a transaction and moves the watermark behind it, another reads all the time."""
    producer = Producer(log, 7)
    decided = [0]
    problems: list[object] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            both = offsets(log, isolation=COMMITTED), fetched(log, log.last_stable_offset, COMMITTED)
            # What is decided grows: it is looked at after the read.
            problems.extend(found for found in both if found and found[-1] >= decided[0])

    def write() -> None:
        for _ in range(150):
            producer.send()
            log.set_high_watermark(log.log_end_offset)
            producer.send()
            log.set_high_watermark(log.log_end_offset)
            decided[0] = log.log_end_offset + 1  # with the marker that follows
            producer.commit()
            log.set_high_watermark(log.log_end_offset)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        write()
    finally:
        done.set()
        reader.join()
    assert not problems
    assert len(offsets(log, isolation=COMMITTED)) == 300
