"""What cleaning leaves of idempotent producers: their last batch, if only its header (CLEANER §4.6)."""

from __future__ import annotations

import pytest
from helpers.cleaning import Compacted

from logstore.log.writing import Appended


@pytest.fixture
def log() -> Compacted:
    return Compacted()


@pytest.mark.kafka("CLEAN-58")
def test_each_producers_last_batch_stays_so_that_duplicates_are_known(log: Compacted) -> None:
    one, two, three, four = (log.producer(number) for number in (1, 2, 3, 4))
    sent = [(one, (1, 2, 3)), (two, (3, 1, 4)), (three, (1, 4))]
    for writer, keys in sent:
        writer.add(*keys)
    log.roll().clean()
    assert log.ends == [2, 5, 7]
    assert log.sequences == {1: 2, 2: 2, 3: 1}
    assert (log.keys, log.offsets) == ([2, 3, 1, 4], [1, 3, 6, 7])

    log.reopen(forgets=True)
    assert log.sequences == {1: 2, 2: 2, 3: 1}
    for (writer, keys), (first, last) in zip([sent[0], sent[2], sent[1]], [(0, 2), (6, 7), (3, 5)], strict=True):
        writer.sequence = 0
        again = log.log.append_batch(writer.batch(*keys))
        assert again[:2] == (first, last)
        assert again.is_duplicate

    four.add(2)
    log.roll().clean()
    assert log.sequences == {1: 2, 2: 2, 3: 1, 4: 0}
    assert (log.ends, log.keys, log.offsets) == ([2, 5, 7, 8], [3, 1, 4, 2], [3, 6, 7, 8])
    one.sequence = 0
    assert log.batches()[0].header.count == 0
    again = log.log.append_batch(one.batch(1, 2, 3))
    assert isinstance(again, Appended)
    assert (again.first_offset, again.last_offset, again.is_duplicate) == (0, 2, True)


@pytest.mark.kafka("CLEAN-59")
def test_records_of_one_key_from_several_producers_are_cleaned_together(log: Compacted) -> None:
    one, two, three = (log.producer(number) for number in (1, 2, 3))
    log.add(0)
    one.add(0)
    two.add(0)
    three.add(0)
    two.add(1)
    log.roll().clean()
    assert (log.ends, log.offsets) == ([1, 3, 4], [3, 4])
    assert log.sequences == {1: 0, 2: 1, 3: 0}


@pytest.mark.kafka("CLEAN-60")
def test_an_aborted_batch_that_was_the_producers_last_stays_empty(log: Compacted) -> None:
    one = log.producer(1, transactional=True)
    one.add(1).add(2, 3)
    log.abort(1).roll().clean()
    assert (log.ends, log.sequences, log.keys) == ([2, 3], {1: 2}, [])
    one.add(1, 5)
    log.roll().clean_all()
    assert (log.ends, log.sequences, log.keys) == ([3, 5], {1: 4}, [1, 5])


@pytest.mark.kafka("CLEAN-61")
def test_it_is_the_offset_that_makes_a_batch_the_last_and_not_the_sequence(log: Compacted) -> None:
    one = log.producer(1, transactional=True)
    for number in (1, 2):
        log.replicate(one.batch(number, offset=log.log.log_end_offset, sequence=0)).commit(1)
    log.each(1, 2).roll().clean_all()
    assert (log.offsets, log.ends) == ([1, 3, 4, 5], [1, 2, 3, 4, 5])
    log.clean_twice()
    assert (log.offsets, log.ends) == ([3, 4, 5], [2, 3, 4, 5])


@pytest.mark.kafka("CLEAN-62")
def test_sequences_follow_from_batches_with_gaps_and_without_records(log: Compacted) -> None:
    one, two = log.producer(1), log.producer(2)
    one.add(1, 2, 3)
    two.add(4, 5)
    log.each(1, 3, 4, 5).roll().clean()
    assert [batch.header.count for batch in log.batches()[:2]] == [1, 0]
    before = log.log.producers
    assert log.reopen(forgets=True).log.producers == before
    assert log.sequences == {1: 2, 2: 1}


@pytest.mark.kafka("CLEAN-63", "RETAIN-18")
def test_snapshots_of_segments_that_are_no_more_go(log: Compacted) -> None:
    one = log.producer(1)
    for _ in range(3):
        one.add(1)
        log.roll()
    log.clean()
    assert log.bases == [0, 3]
    assert log.place.names(".snapshot") == ["00000000000000000003.snapshot"]
    log.place.clock.advance(log.config.file_delete_delay_ms)
    log.log.maintain()
    assert log.place.names(".deleted") == []
    assert log.reopen().sequences == {1: 2}


def test_a_producer_that_is_forgotten_protects_nothing(log: Compacted) -> None:
    log.producer(1).add(1)
    log.add(1).roll()
    log.place.clock.advance(log.config.producer_id_expiration_ms)
    log.log.maintain()
    log.clean()
    assert log.ends == [1]


def test_the_last_batch_below_what_is_not_cleaned_stays_also_in_front_of_a_gap(log: Compacted) -> None:
    # Kafka keeps it only where it reaches up to there (Q4).
    log.each(1, 2).roll()
    log.log.truncate_to(2)
    log.replicate(log.producer(9).batch(1, 2, offset=10)).roll()
    log.clean()
    assert (log.ends, log.keys) == ([11], [1, 2])
    log.each(1, 2).roll()
    assert log.clean().end_offset == 14
    assert log.ends == [11, 12, 13]
