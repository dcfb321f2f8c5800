"""The model of a log: what it promises to survive, and what it refuses to believe."""

from __future__ import annotations

import pytest

from logstore.config import LogConfig
from logstore.errors import OffsetOutOfRangeError, OutOfOrderSequenceError
from logstore.records import BatchOptions, encode_batch
from logstore.testing import LogModel, ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_000)


@pytest.fixture
def model(clock: ManualClock) -> LogModel:
    return LogModel(clock=clock)


def from_producer(sequence: int, *, is_transactional: bool = False) -> bytes:
    options = BatchOptions(
        producer_id=1, producer_epoch=0, base_sequence=sequence, is_transactional=is_transactional
    )
    return bytes(encode_batch([(b"k", b"v")] * 2, timestamp=1_000, options=options))


def test_after_a_power_cut_a_log_ends_behind_any_batch_that_was_not_durable(model: LogModel) -> None:
    model.append([(b"k", b"a")] * 3, durability="always")
    model.append([(b"k", b"b")] * 2)
    model.append([(b"k", b"c")] * 2)
    assert model.possible_ends() == [3, 5, 7]
    with pytest.raises(ValueError, match="it may end at"):
        model.copy().crash(4)
    with pytest.raises(ValueError, match="it may end at"):
        model.copy().crash(0)
    model.crash(5)
    assert [record.value for record in model.records()] == [b"a"] * 3 + [b"b"] * 2
    assert model.possible_ends() == [5]


def test_a_close_loses_nothing(model: LogModel) -> None:
    model.append([(b"k", b"a")])
    with pytest.raises(ValueError, match="it may end at"):
        model.copy().reopen(0)
    model.reopen(1)
    assert len(model.records()) == 1


def test_an_interval_counts_the_time_that_passes_and_not_the_wall_clock(clock: ManualClock) -> None:
    model = LogModel(LogConfig(flush_ms=100, durability="interval"), clock=clock)
    model.append([(b"k", b"a")])
    clock.set(0)
    clock.advance(100)
    model.append([(b"k", b"b")])
    assert model.durable_end == 1


def test_fewer_records_than_flush_messages_may_be_lost(clock: ManualClock) -> None:
    model = LogModel(LogConfig(flush_messages=3), clock=clock)
    for _ in range(5):
        model.append([(b"k", b"a")])
    assert model.possible_ends() == [3, 4, 5]


def test_a_copy_goes_its_own_way(model: LogModel) -> None:
    model.append_batch(from_producer(0))
    other = model.copy()
    other.append_batch(from_producer(2))
    other.truncate_to(2)
    other.advance_log_start(1)
    assert (model.log_start_offset, model.log_end_offset) == (0, 2)
    assert model.append_batch(from_producer(2)).first_offset == 2


def test_a_batch_inside_of_which_is_truncated_goes_as_a_whole(model: LogModel) -> None:
    model.append([(b"k", b"a")] * 4)
    assert model.truncate_to(2)
    assert model.records() == []
    assert model.log_end_offset == 2
    assert model.append([(b"k", b"b")]).first_offset == 2


def test_committed_readers_see_what_is_decided_and_not_aborted(model: LogModel) -> None:
    model.append_batch(from_producer(0, is_transactional=True))
    assert (model.last_stable_offset, model.committed_records()) == (0, [])
    model.end_transaction(1, 0, commit=False)
    model.append_batch(from_producer(2, is_transactional=True))
    model.end_transaction(1, 0, commit=True)
    assert [record.offset for record in model.committed_records()] == [3, 4]


def test_what_a_log_may_have_forgotten_is_not_certain(model: LogModel) -> None:
    model.append_batch(from_producer(0))
    model.append([(b"k", b"a")])
    assert model.producers.is_certain(1)
    model.advance_log_start(2)
    model.reopen(3)
    assert not model.producers.is_certain(1)
    model.end_transaction(1, 1, commit=False)
    assert model.producers.is_certain(1)


def test_it_raises_what_a_log_raises(model: LogModel) -> None:
    model.append_batch(from_producer(0))
    with pytest.raises(OutOfOrderSequenceError):
        model.append_batch(from_producer(5))
    with pytest.raises(OffsetOutOfRangeError):
        model.advance_log_start(3)
    with pytest.raises(OffsetOutOfRangeError):
        model.records(3)
    assert model.log_end_offset == 2
