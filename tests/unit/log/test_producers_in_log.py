"""Idempotent producers of a log: duplicates, order, epochs, what is forgotten, and what a restart remembers."""

from __future__ import annotations

import pytest
from helpers.open_logs import START, Place, Producer, bases, fill, from_producer, marker, offsets

from logstore.config import LogConfig
from logstore.errors import OutOfOrderSequenceError, ProducerFencedError
from logstore.log import AppendOrigin, Log
from logstore.records import iter_batches

COORDINATOR = AppendOrigin.COORDINATOR


@pytest.fixture
def place() -> Place:
    return Place()


@pytest.fixture
def log(place: Place) -> Log:
    return place.open()


def batches(log: Log) -> list[tuple[int, int, int]]:
    """Producer, base offset and base sequence of each batch."""
    headers = [one.header for one in iter_batches(log.read(log.log_start_offset))]
    return [(header.producer_id, header.base_offset, header.base_sequence) for header in headers]


# ---------------------------------------------------------------- what a client sends


@pytest.mark.kafka("APPEND-15", "PROD-20")
def test_a_gap_in_the_sequences_is_refused_and_nothing_is_appended(log: Log) -> None:
    log.append_batch(from_producer(1, 0))
    with pytest.raises(OutOfOrderSequenceError, match="sequence 2 after sequence 0"):
        log.append_batch(from_producer(1, 2))
    assert (log.log_end_offset, len(list(iter_batches(log.read(0))))) == (1, 1)
    log.append_batch(from_producer(1, 1))
    assert log.producers[0].last_sequence == 1


@pytest.mark.kafka("APPEND-16", "PROD-01")
def test_an_older_epoch_of_a_producer_is_refused(log: Log) -> None:
    log.append_batch(from_producer(1, 0, epoch=1))
    with pytest.raises(ProducerFencedError, match="epoch 0, its last epoch was 1"):
        log.append_batch(from_producer(1, 0, epoch=0))
    with pytest.raises(OutOfOrderSequenceError):
        log.append_batch(from_producer(1, 1, epoch=2))
    log.append_batch(from_producer(1, 0, epoch=2))
    assert log.log_end_offset == 2


@pytest.mark.kafka("APPEND-17")
def test_one_of_the_last_five_batches_that_is_sent_again_is_not_written_again(log: Log) -> None:
    for sequence in range(6):
        log.append_batch(from_producer(1, sequence))
    log.append_batch(from_producer(1, 6, 3))
    again = log.append_batch(from_producer(1, 6, 3))
    assert again == (6, 8, START, True)
    for wrong in (from_producer(1, 7, 2), from_producer(1, 1), from_producer(1, 0)):
        with pytest.raises(OutOfOrderSequenceError):
            log.append_batch(wrong)
    assert log.append_batch(from_producer(1, 2)) == (2, 2, START, True)
    assert log.log_end_offset == 9
    log.append_batch(from_producer(1, 9))
    assert log.append_batch(from_producer(1, 9)) == (9, 9, START, True)
    assert (log.log_end_offset, offsets(log)) == (10, list(range(10)))


def test_a_duplicate_is_known_also_after_a_roll_and_of_the_last_batch_after_a_restart(place: Place) -> None:
    log = place.open()
    for sequence in range(3):
        log.append_batch(from_producer(1, sequence))
    log.roll()
    assert log.append_batch(from_producer(1, 1)).is_duplicate
    for opened in (place.crashed().open, lambda: _reopened(place, log)):
        again = opened()
        assert again.append_batch(from_producer(1, 2)) == (2, 2, START, True)
        with pytest.raises(OutOfOrderSequenceError):
            again.append_batch(from_producer(1, 4))
        assert again.append_batch(from_producer(1, 3)).first_offset == 3


def _reopened(place: Place, log: Log) -> Log:
    log.close()
    return place.open()


def test_a_duplicate_is_durable_when_its_append_says_so(place: Place) -> None:
    log = place.open()
    log.append_batch(from_producer(1, 0))
    assert log.append_batch(from_producer(1, 0), durability="always").is_duplicate
    assert offsets(place.crashed("nothing").open()) == [0]


@pytest.mark.kafka("PROD-03")
def test_sequences_begin_again_at_zero_behind_the_greatest(log: Log) -> None:
    log.append_batch(from_producer(1, 2**31 - 1))
    with pytest.raises(OutOfOrderSequenceError):
        log.append_batch(from_producer(1, 1))
    log.append_batch(from_producer(1, 0))
    assert log.producers[0].last_sequence == 0


@pytest.mark.kafka("PROD-02", "PROD-28", "PROD-29")
def test_a_marker_alone_fences_older_producers_and_coordinators(log: Log) -> None:
    log.end_transaction(1, 2, commit=True, coordinator_epoch=1)
    assert [(one.producer_epoch, one.last_sequence) for one in log.producers] == [(2, -1)]
    with pytest.raises(ProducerFencedError):
        log.append_batch(from_producer(1, 0, epoch=0))
    with pytest.raises(OutOfOrderSequenceError):
        log.append_batch(from_producer(1, 17, epoch=2))
    with pytest.raises(ProducerFencedError):
        log.end_transaction(1, 1, commit=True, coordinator_epoch=1)
    with pytest.raises(ProducerFencedError):
        log.end_transaction(1, 2, commit=True, coordinator_epoch=0)
    log.append_batch(from_producer(1, 0, epoch=2))
    assert log.log_end_offset == 2


@pytest.mark.kafka("PROD-18", "APPEND-24")
def test_an_unknown_producer_may_begin_with_any_sequence(log: Log) -> None:
    log.append_batch(from_producer(1, 3, epoch=1, transactional=True))
    log.append_batch(from_producer(2, 17, epoch=0))
    assert [(one.producer_id, one.last_sequence) for one in log.producers] == [(1, 3), (2, 17)]
    assert log.first_unstable_offset == 0


# ---------------------------------------------------------------- what a leader sends


@pytest.mark.kafka("APPEND-18", "PROD-20")
def test_a_follower_takes_what_its_leader_took(log: Log) -> None:
    log.append_as_follower(from_producer(1, 0, offset=0, leader_epoch=0))
    log.append_as_follower(from_producer(1, 0, offset=1, leader_epoch=0))
    log.append_as_follower(from_producer(1, 3, offset=2, leader_epoch=0))
    assert (log.log_end_offset, log.producers[0].last_sequence) == (3, 3)
    other = Place().open()
    wanted = [(1, 0), (2, 0), (1, 1), (2, 1), (1, 1)]
    data = b"".join(
        from_producer(producer, sequence, offset=offset, leader_epoch=0)
        for offset, (producer, sequence) in enumerate(wanted)
    )
    other.append_as_follower(data)
    assert other.log_end_offset == 5


@pytest.mark.kafka("APPEND-19")
def test_batches_of_several_producers_in_one_append_are_read_back_as_they_were(log: Log) -> None:
    wanted = [(producer, offset, offset + 10) for offset, producer in enumerate((1, 2, 3, 4, 1, 2))]
    data = b"".join(
        from_producer(producer, sequence, offset=offset, leader_epoch=0) for producer, offset, sequence in wanted
    )
    log.append_as_follower(data)
    assert batches(log) == wanted


@pytest.mark.kafka("PROD-19")
def test_a_follower_takes_a_producer_from_its_batch_where_it_knows_none(place: Place) -> None:
    log = place.open(LogConfig(producer_id_expiration_ms=1000))
    log.append_as_follower(from_producer(1, 0, offset=0, leader_epoch=0))
    log.close()
    place.clock.advance(1000)
    log = place.open(LogConfig(producer_id_expiration_ms=1000))
    assert log.producers == ()
    log.append_as_follower(from_producer(1, 2, offset=1, leader_epoch=0))
    assert log.producers[0].last_sequence == 2


@pytest.mark.kafka("PROD-27")
def test_a_coordinators_batches_need_no_sequence(log: Log) -> None:
    data = marker(1, commit=True)
    log.append_batch(data, origin=COORDINATOR)
    log.append_batch(from_producer(1, 5, transactional=True), origin=COORDINATOR)
    log.append_batch(from_producer(1, 5, transactional=True), origin=COORDINATOR)
    assert log.log_end_offset == 3


# ---------------------------------------------------------------- what is forgotten


@pytest.mark.kafka("TXNLOG-09", "PROD-25")
def test_producers_that_are_silent_are_forgotten_by_upkeep_and_not_by_deletion(place: Place) -> None:
    log = place.open(LogConfig(producer_id_expiration_ms=200))
    idle, busy = Producer(log, 1), Producer(log, 2)
    idle.send(transactional=False)
    busy.send(transactional=True)
    log.roll()
    log.advance_log_start(2)
    log.delete_before_log_start()
    assert (bases(log), len(log.producers)) == ([2], 2)
    place.clock.advance(199)
    log.maintain()
    assert len(log.producers) == 2
    place.clock.advance(1)
    log.maintain()
    assert [one.producer_id for one in log.producers] == [2]  # it has a transaction open
    busy.abort()
    place.clock.advance(201)
    log.maintain()
    assert log.producers == ()
    assert log.append_batch(from_producer(1, 17)).first_offset == 3


@pytest.mark.kafka("TXNLOG-08")
def test_producers_tell_their_last_sequence_transaction_and_coordinator(log: Log) -> None:
    producer = Producer(log, 7, epoch=3)
    fill(log, 2)
    producer.send(2)
    [found] = log.producers
    assert (found.producer_id, found.producer_epoch, found.last_sequence) == (7, 3, 1)
    assert (found.current_transaction_first_offset, found.coordinator_epoch) == (2, -1)
    producer.end(commit=True, coordinator_epoch=5)
    [found] = log.producers
    assert (found.last_sequence, found.current_transaction_first_offset, found.coordinator_epoch) == (1, -1, 5)


def test_a_producer_is_forgotten_after_the_time_that_is_set_now(place: Place) -> None:
    log = place.open(LogConfig(producer_id_expiration_ms=1_000))
    log.append_batch(from_producer(1, 0))
    log.configure(LogConfig(producer_id_expiration_ms=5_000))
    place.clock.advance(4_999)
    log.maintain()
    assert [one.producer_id for one in log.producers] == [1]
    place.clock.advance(1)
    log.maintain()
    assert log.producers == ()
