"""What the tracker answers batch by batch where indexes and markers do not fit together (CLEANER §4.5)."""

from __future__ import annotations

import pytest

from logstore.cleaner.transactions import MarkerFate, TransactionTracker
from logstore.log import AbortedTransaction
from logstore.records import BatchHeader, ControlType

ABORT, COMMIT = ControlType.ABORT, ControlType.COMMIT


def at(offset: int, producer: int = 1, *, transactional: bool = True) -> BatchHeader:
    return BatchHeader(0, 70, offset, 0, 2, 0, 0x10 * transactional, 0, 0, 0, producer, 0, 0, 1)


def test_data_is_aborted_from_the_first_offset_of_its_transaction_up_to_its_marker() -> None:
    entry = AbortedTransaction(1, 3, 6, 7)
    tracker = TransactionTracker([entry])
    assert [tracker.is_aborted(at(offset)) for offset in (1, 3, 5)] == [False, True, True]
    assert not tracker.is_aborted(at(4, producer=2))
    assert tracker.see_marker(at(6), ABORT) == MarkerFate(False, entry)
    assert not tracker.is_aborted(at(8))


def test_plain_data_of_the_same_producer_is_not_aborted() -> None:
    assert not TransactionTracker([AbortedTransaction(1, 0, 6, 7)]).is_aborted(at(3, transactional=False))


@pytest.mark.parametrize("control_type", [ABORT, COMMIT, None])
def test_a_marker_without_data_can_go(control_type: ControlType | None) -> None:
    assert TransactionTracker([]).see_marker(at(3), control_type) == MarkerFate(True)


@pytest.mark.parametrize("control_type", [ControlType.LEADER_CHANGE, ControlType.UNKNOWN])
def test_other_control_records_stay(control_type: ControlType) -> None:
    assert TransactionTracker([]).see_marker(at(3), control_type) == MarkerFate(False)


def test_a_commit_marker_stays_once_for_its_data() -> None:
    tracker = TransactionTracker([])
    tracker.is_aborted(at(1))
    assert tracker.see_marker(at(2), COMMIT) == MarkerFate(False)
    assert tracker.see_marker(at(3), COMMIT) == MarkerFate(True)


def test_a_transaction_whose_marker_was_lost_ends_where_it_was() -> None:
    tracker = TransactionTracker([AbortedTransaction(1, 0, 5, 6), AbortedTransaction(1, 8, 9, 10)])
    assert [tracker.is_aborted(at(offset)) for offset in (1, 6, 8)] == [True, False, True]
    assert tracker.see_marker(at(9), ABORT).aborted == AbortedTransaction(1, 8, 9, 10)


def test_an_abort_that_no_index_knows_of_stays_with_its_data() -> None:
    tracker = TransactionTracker([])
    assert not tracker.is_aborted(at(1))
    assert tracker.see_marker(at(2), ABORT) == MarkerFate(False)
    assert tracker.see_marker(at(3), ABORT) == MarkerFate(True)
