"""What producers may append: sequences, epochs, duplicates, markers and verified transactions."""

from __future__ import annotations

import copy

import pytest
from helpers.producers import (
    ABORT,
    CLIENT,
    COMMIT,
    COORDINATOR,
    PRODUCER,
    REPLICATION,
    Producers,
    data,
    marker,
    transactional,
    views,
    with_header,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.errors import (
    InvalidRecordError,
    InvalidTransactionStateError,
    LogstoreError,
    OutOfOrderSequenceError,
    ProducerFencedError,
)
from logstore.log.log_offset import LogOffsetMetadata
from logstore.log.origin import AppendOrigin
from logstore.log.producer_state import CachedBatch, CompletedTransaction, DuplicateBatch, PendingAppend, ProducerState
from logstore.records import ControlType, encode_batch, encode_empty_batch
from logstore.records.header import INT32_MAX

bounded = settings(deadline=None, database=None, max_examples=100)


@pytest.fixture
def log() -> Producers:
    return Producers()


# ---------------------------------------------------------------- sequences and epochs


@pytest.mark.kafka("PROD-01")
def test_sequences_follow_each_other_and_begin_at_0_in_a_new_epoch(log: Producers) -> None:
    log.append(data(0, 0))
    log.append(data(1, 1))
    assert log.check(data(1, 2)) == DuplicateBatch(1, 1, 0)
    for wrong in (data(1, 2, count=2), data(5, 2)):
        with pytest.raises(OutOfOrderSequenceError, match="after sequence 1"):
            log.check(wrong)
    log.append(data(0, 2, epoch=1))
    assert log.entry.epoch == 1
    with pytest.raises(ProducerFencedError, match="producer 1 sends with epoch 0, its last epoch was 1"):
        log.check(data(0, 3))


@pytest.mark.kafka("PROD-02")
def test_a_producer_known_by_a_marker_alone_begins_at_sequence_0(log: Producers) -> None:
    assert log.append(marker(COMMIT, 0, epoch=2)) == ()
    assert (log.entry.epoch, log.entry.last_sequence, log.entry.last_offset) == (2, -1, -1)
    with pytest.raises(ProducerFencedError):
        log.check(data(0, 1, epoch=0))
    with pytest.raises(OutOfOrderSequenceError, match="sends sequence 17 after sequence -1"):
        log.check(data(17, 1, epoch=2))
    log.append(data(0, 1, epoch=2))
    assert log.entry.last_sequence == 0


@pytest.mark.kafka("PROD-03")
def test_sequences_wrap_to_0(log: Producers) -> None:
    log.append(data(INT32_MAX, 15))
    with pytest.raises(OutOfOrderSequenceError):
        log.check(data(1, 16))
    log.append(data(0, 16))
    assert (log.entry.first_sequence, log.entry.last_sequence) == (INT32_MAX, 0)


@pytest.mark.kafka("PROD-04")
def test_a_batch_may_wrap_inside(log: Producers) -> None:
    wrapping = data(INT32_MAX - 10, 2000, count=21)
    pending = log.check(wrapping, origin=REPLICATION)
    assert isinstance(pending, PendingAppend)
    assert PRODUCER not in log.states.entries
    log.states.apply(pending)
    assert (log.entry.first_sequence, log.entry.last_sequence) == (INT32_MAX - 10, 9)
    assert (log.entry.first_offset, log.entry.last_offset) == (2000, 2020)
    assert log.check(data(INT32_MAX - 10, 3000, count=21)) == DuplicateBatch(2000, 2020, 0)


@pytest.mark.kafka("PROD-05")
def test_what_is_replicated_begins_anywhere(log: Producers) -> None:
    log.replicate(data(16, 0, epoch=5))
    assert (log.entry.epoch, log.entry.last_sequence) == (5, 16)


@pytest.mark.kafka("PROD-06")
def test_a_marker_of_a_higher_epoch_clears_batches_and_transaction(log: Producers) -> None:
    log.append(transactional(0, 0))
    assert log.append(marker(ABORT, 1, epoch=1)) == (CompletedTransaction(PRODUCER, 0, 1, True),)
    assert (log.entry.epoch, log.entry.first_sequence, log.entry.last_sequence) == (1, -1, -1)
    assert not log.entry.in_transaction
    log.append(data(0, 2, epoch=1))
    assert (log.entry.first_sequence, log.entry.last_sequence) == (0, 0)


@pytest.mark.kafka("PROD-07")
def test_after_a_marker_of_a_higher_epoch_sequences_begin_at_0(log: Producers) -> None:
    log.append(transactional(0, 0))
    log.append(transactional(1, 1))
    log.append(marker(ABORT, 2, epoch=1))
    for epoch in (1, 2):
        with pytest.raises(OutOfOrderSequenceError):
            log.check(data(2, 3, epoch=epoch))
    log.append(data(0, 3, epoch=1))


@pytest.mark.kafka("PROD-20")
def test_a_gap_in_sequences_is_refused_from_a_client_and_replicated(log: Producers) -> None:
    log.append(data(0, 0))
    with pytest.raises(OutOfOrderSequenceError):
        log.check(data(3, 1))
    log.replicate(data(3, 1))
    assert log.entry.last_sequence == 3


def test_a_lower_epoch_is_replicated_and_empties_the_batches(log: Producers) -> None:
    log.replicate(data(0, 0, epoch=3), data(1, 1, epoch=3), data(7, 2, epoch=2))
    assert (log.entry.epoch, log.entry.batches) == (2, (CachedBatch(7, 2, 0, 0),))


@pytest.mark.kafka("PROD-27")
def test_a_coordinator_writes_without_sequences(log: Producers) -> None:
    for offset in range(3):
        log.append(transactional(-1, offset), origin=COORDINATOR)
    assert (log.entry.last_sequence, log.entry.last_offset) == (-1, 2)
    assert log.append(marker(COMMIT, 3), origin=COORDINATOR) == (CompletedTransaction(PRODUCER, 0, 3, False),)


@pytest.mark.kafka("PROD-28")
@pytest.mark.parametrize("origin", [CLIENT, COORDINATOR, AppendOrigin.RAFT_LEADER])
def test_a_marker_of_a_lower_epoch_is_refused(log: Producers, origin: AppendOrigin) -> None:
    log.append(data(0, 0, epoch=5))
    with pytest.raises(ProducerFencedError):
        log.check(marker(ABORT, 1, epoch=4), origin=origin)
    log.replicate(marker(ABORT, 1, epoch=4))
    assert log.entry.epoch == 4


@pytest.mark.kafka("PROD-29")
def test_a_marker_of_a_lower_coordinator_epoch_is_refused_also_after_a_reload(log: Producers) -> None:
    log.append(transactional(0, 0))
    for offset, epoch in enumerate((1, 1, 2), 1):
        log.append(marker(COMMIT, offset, coordinator_epoch=epoch))
        assert log.entry.coordinator_epoch == epoch
    for _ in range(2):
        with pytest.raises(ProducerFencedError, match="of coordinator epoch 1, the last one was of 2"):
            log.check(marker(COMMIT, 4, coordinator_epoch=1))
        log.states.take_snapshot()
        log = log.reload(0, 4)
    log.replicate(marker(COMMIT, 4, coordinator_epoch=1))
    assert log.entry.coordinator_epoch == 1


# ---------------------------------------------------------------- duplicates


def test_the_last_five_batches_are_known_when_they_are_sent_again(log: Producers) -> None:
    for sequence in range(6):
        log.append(data(sequence, 10 + sequence, timestamp=1000 + sequence))
    log.append(data(6, 16, count=3, timestamp=1006))
    assert len(log.entry.batches) == 5
    assert log.check(data(6, 30, count=3)) == DuplicateBatch(16, 18, 1006)
    assert log.check(data(2, 30)) == DuplicateBatch(12, 12, 1002)
    for wrong in (data(1, 30), data(7, 30, count=2), data(6, 30, count=2)):
        with pytest.raises(OutOfOrderSequenceError):
            log.check(wrong)


@pytest.mark.parametrize("origin", [COORDINATOR, REPLICATION, AppendOrigin.RAFT_LEADER])
def test_only_clients_send_again(log: Producers, origin: AppendOrigin) -> None:
    log.append(data(0, 0))
    log.append(data(0, 1), origin=origin)
    assert log.entry.last_offset == 1


def test_a_batch_of_another_epoch_is_no_duplicate(log: Producers) -> None:
    log.append(data(0, 0))
    assert isinstance(log.check(data(0, 1, epoch=1)), PendingAppend)


def test_a_duplicate_makes_the_whole_append_one(log: Producers) -> None:
    log.append(data(0, 0, producer=2))
    assert log.check(data(0, 1), data(0, 2, producer=2)) == DuplicateBatch(0, 0, 0)
    assert PRODUCER not in log.states.entries


# ---------------------------------------------------------------- one append


@pytest.mark.kafka("PROD-10")
def test_nothing_is_changed_before_it_is_applied(log: Producers) -> None:
    log.append(data(0, 9))
    before = log.entry
    guard = log.states.maybe_create_guard(PRODUCER, 6, 0, 0)
    pending = log.check(transactional(0, 10, count=6, epoch=1), transactional(6, 16, count=5, epoch=1))
    assert isinstance(pending, PendingAppend)
    assert (log.entry, log.undecided, log.states.guard_of(PRODUCER)) == (before, None, guard)
    log.states.apply(pending)
    assert (log.entry.first_sequence, log.entry.last_sequence) == (0, 10)
    assert (log.entry.first_offset, log.entry.last_offset) == (10, 20)
    assert (log.entry.current_transaction_first_offset, log.undecided) == (10, 10)


@pytest.mark.kafka("PROD-11")
def test_a_transaction_may_begin_and_end_in_one_append(log: Producers) -> None:
    log.append(data(0, 0, count=16))
    completed = log.append(
        transactional(16, 16, count=5),
        transactional(21, 26, count=5),
        marker(COMMIT, 40, coordinator_epoch=1, timestamp=77),
    )
    assert completed == (CompletedTransaction(PRODUCER, 16, 40, False),)
    assert [batch.first_offset for batch in log.entry.batches] == [0, 16, 26]
    assert (log.entry.last_sequence, log.entry.last_offset) == (25, 30)
    assert (log.entry.coordinator_epoch, log.entry.last_timestamp) == (1, 77)
    assert (log.entry.in_transaction, log.undecided) == (False, None)


@pytest.mark.kafka("PROD-12")
@pytest.mark.parametrize("origin", [CLIENT, COORDINATOR, REPLICATION])
@pytest.mark.parametrize("first", [0, 3])
def test_a_batch_outside_of_the_open_transaction_is_refused(log: Producers, origin: AppendOrigin, first: int) -> None:
    log.append(transactional(0, first))
    with pytest.raises(InvalidTransactionStateError, match=f"open since offset {first}") as caught:
        log.check(data(1, 4), origin=origin)
    assert caught.value.offset == 4


@pytest.mark.kafka("PROD-08")
@pytest.mark.parametrize("base_offset", [0, 990])
def test_a_transaction_remembers_where_in_its_segment_it_began(log: Producers, base_offset: int) -> None:
    plain = encode_batch([(b"k", b"v")], base_offset=990)
    log.append(plain, transactional(0, 992, producer=0), segment_base_offset=base_offset, position=234224)
    assert log.states.first_unstable_offset == LogOffsetMetadata(992, base_offset, 234224 + len(plain))


def test_a_transaction_that_began_at_an_unknown_place_has_its_offset_only(log: Producers) -> None:
    log.append(transactional(0, 992))
    assert log.states.first_unstable_offset == LogOffsetMetadata(992)


@pytest.mark.kafka("PROD-31")
@pytest.mark.parametrize("transaction", [True, False])
def test_a_control_batch_without_records_changes_nothing(log: Producers, transaction: bool) -> None:
    header = views(marker(ABORT, 7, epoch=9))[0].header
    if transaction:
        log.append(transactional(0, 0))
    before = dict(log.states.entries)
    assert log.append(encode_empty_batch(header)) == ()
    assert dict(log.states.entries) == before
    assert log.undecided == (0 if transaction else None)


def test_a_batch_that_compaction_has_emptied_keeps_the_sequence_of_its_producer(log: Producers) -> None:
    header = views(data(4, 10, count=3, timestamp=50))[0].header
    log.replicate(encode_empty_batch(header))
    assert log.entry.batches == (CachedBatch(6, 12, 2, 50),)


def test_a_control_batch_of_a_producer_that_is_no_marker_is_refused(log: Producers) -> None:
    odd = with_header(encode_batch([(b"\0\0\0\2", b"\0\0\0\0\0\0")]), producer_id=1, producer_epoch=0, attributes=0x20)
    assert views(odd)[0].control_type() is ControlType.LEADER_CHANGE
    with pytest.raises(InvalidRecordError, match="does not end a transaction"):
        log.check(odd, origin=REPLICATION)


def test_batches_without_producers_change_nothing(log: Producers) -> None:
    pending = log.check(encode_batch([(b"k", b"v")]), encode_batch([(b"k", b"v")], base_offset=1))
    assert isinstance(pending, PendingAppend)
    assert log.states.apply(pending) == ()
    assert log.states.is_empty


def test_a_new_producer_begins_at_any_sequence_also_within_one_append(log: Producers) -> None:
    log.append(data(5, 0), data(9, 1))
    assert (log.entry.first_sequence, log.entry.last_sequence) == (5, 9)
    with pytest.raises(OutOfOrderSequenceError, match="after sequence 10"):
        log.check(data(10, 2), data(12, 3))


batches = st.builds(
    lambda kind, sequence, producer, epoch: (
        marker(ControlType(kind), 0, producer=producer, epoch=epoch)
        if kind < 2
        else data(sequence, 0, producer=producer, epoch=epoch, transactional=kind == 2)
    ),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(0, 2),
    st.integers(0, 2),
)


@given(st.lists(st.lists(batches, max_size=4), max_size=6), st.sampled_from(AppendOrigin))
@bounded
def test_checking_changes_nothing_whatever_it_says(appends: list[list[bytearray]], origin: AppendOrigin) -> None:
    log = Producers()
    offset = 0
    for append in appends:
        numbered = []
        for batch in append:
            numbered.append(with_header(batch[:], base_offset=offset))
            offset += 1
        before = copy.deepcopy((dict(log.states.entries), log.undecided, log.unstable))
        try:
            pending = log.check(*numbered, origin=origin)
        except LogstoreError:
            pending = None
        assert (dict(log.states.entries), log.undecided, log.unstable) == before
        if isinstance(pending, PendingAppend):
            for completed in log.states.apply(pending):
                log.states.complete(completed)
        opened = [one.current_transaction_first_offset for one in log.states.entries.values() if one.in_transaction]
        assert log.undecided == min(opened, default=None)
        assert all(len(one.batches) <= 5 for one in log.states.entries.values())


# ---------------------------------------------------------------- verified transactions


def takes(log: Producers, sequence: int) -> bool:
    """Whether a client's batch of this sequence is not behind one that is still to come."""
    try:
        return isinstance(log.check(data(sequence, 100, epoch=9)), PendingAppend)
    except OutOfOrderSequenceError:
        return False


def lowest_waiting(log: Producers) -> int:
    return [takes(log, sequence) for sequence in range(10)].index(False) - 1


@pytest.mark.kafka("PROD-34")
def test_a_guard_stays_the_same_until_it_is_used_and_the_lowest_sequence_counts(log: Producers) -> None:
    states = log.states
    guard = states.maybe_create_guard(PRODUCER, 2, 0, 0)
    assert lowest_waiting(log) == 2
    assert states.maybe_create_guard(PRODUCER, 1, 0, 5) is guard
    assert lowest_waiting(log) == 1
    for sequence, epoch, lowest in ((3, 0, 1), (5, 1, 5), (0, 0, 5), (6, 1, 5), (4, 1, 4)):
        assert states.maybe_create_guard(PRODUCER, sequence, epoch, 5) is guard
        assert lowest_waiting(log) == lowest
    assert states.guard_of(PRODUCER) is guard
    log.append(transactional(0, 0))
    assert states.guard_of(PRODUCER) is None
    assert states.maybe_create_guard(PRODUCER, 1, 0, 5) is not guard
    assert "producer 1" in repr(guard)


@pytest.mark.kafka("PROD-34")
def test_a_guard_that_is_not_used_expires_by_when_it_was_made() -> None:
    log = Producers(producer_id_expiration_ms=1000)
    guard = log.states.maybe_create_guard(PRODUCER, 0, 0, 5000)
    log.states.maybe_create_guard(PRODUCER, 0, 1, 5500)
    log.states.expire(5999)
    assert log.states.guard_of(PRODUCER) is guard
    log.states.expire(6000)
    assert log.states.guard_of(PRODUCER) is None


@pytest.mark.kafka("PROD-35")
@pytest.mark.parametrize("verification", [True, False])
def test_a_batch_may_not_pass_the_one_that_waits_for_verification(log: Producers, verification: bool) -> None:
    guard = log.states.maybe_create_guard(PRODUCER, 0, 0, 0)
    with pytest.raises(OutOfOrderSequenceError, match="sequence 4 while its batch of sequence 0 has still to come"):
        log.check(transactional(4, 0), guard=guard, verification=verification)
    log.append(transactional(0, 0), guard=guard, verification=verification)
    log.append(transactional(1, 1), verification=verification)


@pytest.mark.parametrize("origin", [CLIENT, COORDINATOR])
def test_with_verification_a_transaction_begins_with_its_guard_only(log: Producers, origin: AppendOrigin) -> None:
    stale = log.states.maybe_create_guard(PRODUCER, 0, 0, 0)
    log.states.clear_guard(PRODUCER)
    log.states.clear_guard(PRODUCER)
    guard = log.states.maybe_create_guard(PRODUCER, 0, 0, 0)
    for wrong in (None, stale):
        with pytest.raises(InvalidTransactionStateError, match="producer 1 of epoch 0 has no transaction open"):
            log.check(transactional(0, 0), origin=origin, guard=wrong, verification=True)
    log.append(transactional(0, 0), origin=origin, guard=guard, verification=True)
    log.append(transactional(1, 1), origin=origin, verification=True)
    log.append(marker(COMMIT, 2), origin=origin, verification=True)
    with pytest.raises(InvalidTransactionStateError):
        log.check(transactional(2, 3), origin=origin, guard=guard, verification=True)


def test_what_is_replicated_or_not_transactional_needs_no_guard(log: Producers) -> None:
    guard = log.states.maybe_create_guard(PRODUCER, 0, 0, 0)
    log.append(data(0, 0), verification=True)
    assert log.states.guard_of(PRODUCER) is guard
    log.append(marker(ABORT, 1), verification=True)
    assert log.states.guard_of(PRODUCER) is None
    log.append(transactional(1, 2), origin=REPLICATION, verification=True)
    assert log.states.has_open_transaction(PRODUCER)
    assert not log.states.has_open_transaction(2)


def test_the_state_of_a_producer_begins_with_nothing() -> None:
    state = ProducerState(8)
    assert (state.first_sequence, state.last_sequence, state.first_offset, state.last_offset) == (-1, -1, -1, -1)
    assert not state.in_transaction
