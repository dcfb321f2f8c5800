"""What cleaning leaves of transactions: data, empty batches, markers, and the transaction index (CLEANER §4.5)."""

from __future__ import annotations

import pytest
from helpers.cleaning import RETENTION_MS, Compacted, Writer
from helpers.open_logs import START

from logstore.errors import DamagedLogError
from logstore.log import AbortedTransaction
from logstore.records import encode_control_key
from logstore.records.control import ControlType

FOREVER = 2**63 - 1


@pytest.fixture
def log() -> Compacted:
    return Compacted()


def transactional(log: Compacted, *ids: int) -> list[Writer]:
    return [log.producer(one, transactional=True) for one in ids]


@pytest.mark.kafka("CLEAN-64")
def test_aborted_data_goes_and_what_is_left_is_indexed_as_before(log: Compacted) -> None:
    one, two = transactional(log, 1, 2)
    one.add(1, 2)
    two.add(2, 3)
    one.add(3, 4)
    log.abort(1).commit(2)
    one.add(2)
    log.commit(1).roll()
    before = log.aborted
    assert before
    log.clean()
    assert (log.keys, log.offsets, log.aborted) == ([3, 2], [3, 6, 7, 8, 9], before)


@pytest.mark.kafka("CLEAN-65")
def test_transactions_stay_whole_over_rounds_that_each_clean_a_part(log: Compacted) -> None:
    one, two = transactional(log, 1, 2)
    one.add(1, 2)
    two.add(2, 3)
    one.add(3, 4)
    log.commit(1).commit(2)
    one.add(2, 3)
    log.abort(1)
    two.add(4, 5)
    one.add(5, 6)
    log.commit(1).abort(2)
    two.add(6, 7)
    log.commit(2).roll()
    both = [AbortedTransaction(1, 8, 10, 11), AbortedTransaction(2, 11, 16, 17)]
    assert (log.log.log_end_offset, log.aborted) == (20, both)

    assert log.clean(room=4).end_offset == 4
    assert log.offsets == [0, 2, 3, 4, 5, 6, 7, 10, *range(13, 20)]
    assert log.aborted == both
    assert log.clean(room=4).end_offset == 14
    assert log.offsets == [0, 2, 4, 5, 6, 7, 10, *range(13, 20)]
    assert log.aborted == []
    assert log.clean(room=4, at=START + RETENTION_MS).end_offset == 20
    assert log.offsets == [0, 2, 4, 5, 6, 7, 13, 15, 17, 18, 19]
    assert (log.aborted, log.log.first_unstable_offset) == ([], None)


@pytest.mark.kafka("CLEAN-66")
def test_interleaved_transactions_may_reach_beyond_what_is_cleaned(log: Compacted) -> None:
    one, two, three = transactional(log, 1, 2, 3)
    one.add(1)
    two.add(2)
    three.add(3)
    log.roll()
    second = log.log.log_end_offset
    one.add(4)
    log.abort(2)
    three.add(5)
    log.abort(1).commit(3).roll()
    log.each(6, 7).roll()
    later = [one.raw.tobytes() for one in log.batches() if one.header.base_offset >= second]
    log.clean(uncleanable_offset=second)
    assert [one.raw.tobytes() for one in log.batches() if one.header.base_offset >= second] == later
    assert set(log.keys) == {3, 4, 5, 6, 7}
    log.clean_all()
    assert log.keys == [3, 5, 6, 7]
    assert log.found == {3: b"2", 5: b"5", 6: b"8", 7: b"9"}


@pytest.mark.kafka("CLEAN-67")
def test_a_commit_marker_goes_when_its_data_is_gone_and_the_horizon_has_passed(log: Compacted) -> None:
    (one,) = transactional(log, 1)
    one.add(1).add(2, 3)
    log.commit(1)
    one.add(2)
    log.commit(1).roll()
    log.clean()
    assert (log.keys, log.offsets) == ([1, 3, 2], [0, 2, 3, 4, 5])
    one.add(1, 3)
    log.commit(1).roll()
    log.clean()
    assert (log.keys, log.offsets) == ([2, 1, 3], [3, 4, 5, 6, 7, 8])
    log.clean()
    assert (log.keys, log.offsets) == ([2, 1, 3], [3, 4, 5, 6, 7, 8])
    log.clean(at=FOREVER)
    assert (log.keys, log.offsets) == ([2, 1, 3], [4, 5, 6, 7, 8])


@pytest.mark.kafka("CLEAN-68")
def test_windows_that_hold_nothing_to_keep_are_passed(log: Compacted) -> None:
    (one,) = transactional(log, 1)
    one.add(1)
    log.abort(1)
    one.add(2).add(2)
    log.commit(1).roll()
    log.clean(window_bytes=61)
    assert log.offsets == [1, 3, 4]
    log.clean_twice()
    assert log.offsets == [3, 4]


@pytest.mark.kafka("CLEAN-69")
def test_empty_batches_keep_the_commit_marker_of_their_transaction(log: Compacted) -> None:
    one, two = transactional(log, 1, 2)
    one.add(2, 3)
    log.roll()
    two.add(2, 3)
    log.commit(2).roll()
    log.each(2, 3).commit(1).roll()
    for at in (START, START + RETENTION_MS + 1):
        log.clean_all(at=at)
        assert (log.offsets, log.ends) == ([4, 5, 6, 7], [1, 3, 4, 5, 6, 7])
    two.add(1)
    log.commit(2).roll()
    log.clean_all()
    assert (log.offsets, log.ends) == ([4, 5, 6, 7, 8, 9], [1, 4, 5, 6, 7, 8, 9])
    log.clean_twice()
    assert (log.offsets, log.ends) == ([5, 6, 7, 8, 9], [1, 5, 6, 7, 8, 9])


@pytest.mark.kafka("CLEAN-70")
def test_a_marker_without_data_becomes_an_empty_control_batch(log: Compacted) -> None:
    log.commit(1).each(2, 3).roll()
    log.clean_twice()
    assert (log.ends, log.offsets) == ([0, 1, 2], [1, 2])
    assert log.batches()[0].is_control
    log.clean_all(at=FOREVER)
    assert (log.ends, log.offsets) == ([0, 1, 2], [1, 2])


@pytest.mark.kafka("CLEAN-71")
def test_a_committed_transaction_over_two_segments_stays(log: Compacted) -> None:
    transactional(log, 1)[0].add(1)
    log.roll().commit(1).roll()
    log.clean_twice()
    assert log.offsets == [0, 1]


@pytest.mark.kafka("CLEAN-72")
def test_of_an_aborted_transaction_over_two_segments_an_empty_batch_stays(log: Compacted) -> None:
    transactional(log, 1)[0].add(1)
    log.roll().abort(1).roll()
    log.clean_twice()
    assert (log.offsets, log.ends) == ([1], [0, 1])
    log.clean_all(at=FOREVER)
    assert (log.offsets, log.ends) == ([1], [0, 1])
    assert log.aborted == [AbortedTransaction(1, 0, 1, 2)]


@pytest.mark.kafka("CLEAN-73")
def test_an_abort_marker_goes_after_its_horizon(log: Compacted) -> None:
    (one,) = transactional(log, 1)
    one.add(1).add(2, 3)
    log.abort(1)
    one.add(3)
    log.commit(1).roll()
    log.clean()
    assert (log.keys, log.offsets) == ([3], [3, 4, 5])
    log.clean_twice()
    assert (log.keys, log.offsets) == ([3], [4, 5])


@pytest.mark.kafka("CLEAN-74")
def test_an_empty_batch_keeps_the_abort_marker_and_its_index_entry(log: Compacted) -> None:
    (one,) = transactional(log, 1)
    one.add(2, 3)
    log.abort(1).roll()
    entry = [AbortedTransaction(1, 0, 2, 3)]
    for _ in range(2):
        log.clean_twice()
        assert (log.offsets, log.ends, log.aborted) == ([2], [1, 2], entry)
    one.add(1)
    log.commit(1).roll()
    log.clean_all()
    assert (log.offsets, log.ends, log.aborted) == ([2, 3, 4], [2, 3, 4], entry)
    log.clean_twice()
    assert (log.offsets, log.ends, log.aborted) == ([3, 4], [3, 4], [])


@pytest.mark.kafka("CLEAN-75")
def test_a_users_key_may_look_like_that_of_a_marker(log: Compacted) -> None:
    (one,) = transactional(log, 1)
    one.add(1)
    log.commit(1)
    log.log.append([(encode_control_key(ControlType.COMMIT), b"a user's")])
    log.roll()
    log.clean_twice()
    assert log.offsets == [0, 1, 2]


def test_a_late_commit_behind_the_begin_of_the_dirty_part_is_not_taken_for_aborted(log: Compacted) -> None:
    # The map is read from the log's begin on: an abort below the first dirty offset has ended there.
    (one,) = transactional(log, 1)
    one.add(1)
    log.abort(1)
    one.add(2)
    log.commit(1).each(2).roll()
    log.clean(first_dirty_offset=2)
    assert (log.keys, log.found) == ([2], {2: b"4"})


def test_a_log_with_an_abort_that_no_index_knows_of_is_left_alone(log: Compacted) -> None:
    (one,) = transactional(log, 1)
    one.add(1)
    log.abort(1).roll()
    log.log._state.segments.first.transaction_index.delete()
    with pytest.raises(DamagedLogError, match=r"the abort of producer 1 is not in the transaction index .*reindex"):
        log.clean()
    assert log.offsets == [0, 1]


def test_compressed_transactions_are_cleaned_as_plain_ones(log: Compacted) -> None:
    (one,) = transactional(log, 1)
    one.add(1, 2, 3)
    log.commit(1).each(2).roll()
    log.clean()
    assert (log.keys, log.found) == ([1, 3, 2], {1: b"0", 3: b"2", 2: b"4"})
