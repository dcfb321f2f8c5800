"""The producers of a log: its transactions, what is unstable, who expires, and how a reload restores them."""

from __future__ import annotations

import pytest
from helpers.producers import ABORT, COMMIT, PRODUCER, Producers, data, marker, transactional
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.errors import OutOfOrderSequenceError
from logstore.inspect.transactions import TransactionTracker
from logstore.log.log_offset import LogOffsetMetadata
from logstore.log.origin import AppendOrigin
from logstore.log.producer_state import LATE_TRANSACTION_BUFFER_MS, CompletedTransaction, PendingAppend
from logstore.log.transaction_index import AbortedTransaction
from logstore.records import iter_batches

A, B, C = 1, 2, 3
DAY_MS = 86_400_000
bounded = settings(deadline=None, database=None, max_examples=100)


@pytest.fixture
def log() -> Producers:
    return Producers()


# ---------------------------------------------------------------- transactions


@pytest.mark.kafka("PROD-26")
def test_an_ended_transaction_is_unstable_until_the_high_watermark_has_passed_its_marker(log: Producers) -> None:
    log.append(transactional(0, 99, producer=A))
    log.append(transactional(0, 105, producer=B))
    assert (log.undecided, log.unstable) == (99, 99)
    log.append(marker(COMMIT, 109, producer=A))
    assert (log.undecided, log.unstable) == (105, 99)
    log.states.on_high_watermark(100)
    assert log.unstable == 99
    log.states.on_high_watermark(109)
    assert log.unstable == 99
    log.states.on_high_watermark(110)
    assert (log.undecided, log.unstable) == (105, 105)
    log.append(marker(ABORT, 112, producer=B))
    assert (log.undecided, log.unstable) == (None, 105)
    log.states.on_high_watermark(113)
    assert (log.undecided, log.unstable) == (None, None)


@pytest.mark.kafka("PROD-36")
def test_the_last_stable_offset_is_where_the_oldest_other_transaction_begins(log: Producers) -> None:
    for number, producer in enumerate((A, B, C)):
        log.append(transactional(0, 10 * number, producer=producer))
    stable = []
    for offset, producer in ((30, A), (40, C), (50, B)):
        (completed,) = apply_only(log, marker(COMMIT, offset, producer=producer))
        stable.append(log.states.last_stable_offset(completed))
        log.states.complete(completed)
    assert stable == [10, 10, 51]


@pytest.mark.kafka("PROD-37")
def test_one_append_ends_only_transactions_that_are_open(log: Producers) -> None:
    completed = log.replicate(
        marker(COMMIT, 0, producer=A),
        marker(ABORT, 1, producer=B),
        transactional(0, 2, producer=A),
        transactional(0, 3, producer=B),
        marker(ABORT, 4, producer=A),
        marker(COMMIT, 5, producer=B),
        marker(COMMIT, 6, producer=B),
        transactional(1, 7, producer=A),
        transactional(1, 8, producer=B),
        transactional(0, 9, producer=C),
        marker(COMMIT, 10, producer=A),
        marker(COMMIT, 11, producer=B),
    )
    assert completed == (
        CompletedTransaction(A, 2, 4, True),
        CompletedTransaction(B, 3, 5, False),
        CompletedTransaction(A, 7, 10, False),
        CompletedTransaction(B, 8, 11, False),
    )
    log.states.on_high_watermark(12)
    assert (log.undecided, log.unstable) == (9, 9)


def test_a_transaction_is_ongoing_until_it_is_completed(log: Producers) -> None:
    log.append(transactional(0, 0))
    (completed,) = apply_only(log, marker(ABORT, 1))
    log.states.on_high_watermark(2)
    assert (log.undecided, log.unstable) == (0, 0)
    log.states.complete(completed)
    log.states.on_high_watermark(2)
    assert log.unstable is None
    with pytest.raises(ValueError, match="is not ongoing"):
        log.states.complete(completed)


def test_a_log_start_that_moves_up_drops_the_ended_transactions_below_it(log: Producers) -> None:
    log.append(transactional(0, 0))
    log.append(marker(COMMIT, 1))
    log.states.remove_unreplicated_below(1)
    assert log.unstable == 0
    log.states.remove_unreplicated_below(2)
    assert log.unstable is None
    assert list(log.states.entries) == [PRODUCER]


@pytest.mark.kafka("PROD-09")
def test_the_oldest_transaction_is_late_when_its_producer_has_been_silent_for_too_long() -> None:
    limit = 1000 + LATE_TRANSACTION_BUFFER_MS
    log = Producers(transaction_max_timeout_ms=1000)
    assert LATE_TRANSACTION_BUFFER_MS == 300_000
    assert not log.states.has_late_transaction(DAY_MS)
    log.append(transactional(0, 0, producer=A, timestamp=5000))
    log.append(transactional(0, 1, producer=B, timestamp=7000))
    log.states.take_snapshot()

    def late_after(some: Producers) -> int:
        found = [ms for ms in (5000, 7000) if some.states.has_late_transaction(ms + limit + 1)]
        assert not some.states.has_late_transaction(found[0] + limit)
        return found[0]

    assert late_after(log) == 5000
    assert late_after(log.reload(0, 2)) == 5000
    log.append(marker(COMMIT, 2, producer=A, timestamp=6000))
    assert late_after(log) == 7000
    log.append(marker(COMMIT, 3, producer=B, timestamp=8000))
    assert not log.states.has_late_transaction(10 * DAY_MS)


@pytest.mark.kafka("PROD-09")
@pytest.mark.parametrize("fully", [True, False])
def test_truncation_clears_late_transactions(log: Producers, fully: bool) -> None:
    log.append(transactional(0, 0, timestamp=5000))
    assert log.states.has_late_transaction(DAY_MS)
    if fully:
        log.states.truncate_fully_and_start_at(0)
    else:
        log.states.truncate_and_reload(0, 0, DAY_MS)
    assert not log.states.has_late_transaction(DAY_MS)
    assert (log.states.is_empty, log.unstable) == (True, None)


def test_a_transaction_without_timestamp_is_never_late(log: Producers) -> None:
    log.append(transactional(0, 0, timestamp=0))
    assert not log.states.has_late_transaction(DAY_MS)


def apply_only(log: Producers, *batches: bytearray) -> tuple[CompletedTransaction, ...]:
    pending = log.check(*batches)
    assert isinstance(pending, PendingAppend)
    return log.states.apply(pending)


# ---------------------------------------------------------------- expiry


@pytest.mark.kafka("PROD-25")
def test_idle_producers_expire_unless_they_have_a_transaction_open() -> None:
    log = Producers(producer_id_expiration_ms=60_000)
    log.append(data(0, 0, producer=A, timestamp=1000))
    log.append(transactional(0, 1, producer=B, timestamp=1000))
    log.states.expire(60_999)
    assert list(log.states.entries) == [A, B]
    log.states.expire(61_001)
    assert list(log.states.entries) == [B]
    log.states.expire(10 * DAY_MS)
    log.append(transactional(1, 2, producer=B, timestamp=2000))
    log.append(marker(COMMIT, 3, producer=B, timestamp=3000))
    log.states.expire(63_000)
    assert log.states.is_empty


@pytest.mark.kafka("PROD-17")
def test_a_marker_that_fences_leaves_the_producer_without_batches_and_not_expired() -> None:
    log = Producers(producer_id_expiration_ms=60_000)
    log.append(transactional(0, 0, timestamp=1000))
    log.append(marker(ABORT, 1, epoch=1, timestamp=61_001))
    log.states.expire(61_001)
    assert (log.entry.first_offset, log.entry.last_offset, log.entry.in_transaction) == (-1, -1, False)
    assert (log.entry.last_timestamp, log.undecided) == (61_001, None)


@pytest.mark.kafka("PROD-18")
def test_a_producer_that_expired_before_a_reload_is_new_to_a_client() -> None:
    log = expired_while_closed()
    assert log.states.is_empty
    log.append(data(2, 2, timestamp=70_000))
    assert (log.entry.first_sequence, log.entry.last_sequence) == (2, 2)


@pytest.mark.kafka("PROD-19")
def test_a_producer_that_expired_before_a_reload_is_taken_as_replicated() -> None:
    log = expired_while_closed()
    log.replicate(data(2, 2, epoch=3, timestamp=70_000))
    assert (log.entry.epoch, log.entry.last_sequence, log.entry.last_timestamp) == (3, 2, 70_000)


def expired_while_closed() -> Producers:
    log = Producers(producer_id_expiration_ms=60_000)
    log.append(data(0, 0, timestamp=1000))
    log.append(data(1, 1, timestamp=2000))
    log.states.take_snapshot()
    return log.reload(0, 2, now_ms=70_000)


# ---------------------------------------------------------------- reload


@pytest.mark.kafka("PROD-15")
def test_a_reload_restores_the_last_batch_and_the_open_transaction(log: Producers) -> None:
    log.append(transactional(0, 0, timestamp=10))
    log.append(transactional(1, 1, timestamp=20))
    log.states.take_snapshot()
    again = log.reload(0, 2)
    assert (again.states.map_end_offset, again.undecided) == (2, 0)
    assert again.states.first_unstable_offset == LogOffsetMetadata(0)
    entry = again.entry
    assert [(batch.first_offset, batch.last_sequence) for batch in entry.batches] == [(1, 1)]
    assert (entry.current_transaction_first_offset, entry.last_timestamp) == (0, 20)
    with pytest.raises(OutOfOrderSequenceError):
        again.check(transactional(3, 2))
    again.append(transactional(2, 2))
    assert again.append(marker(COMMIT, 3)) == (CompletedTransaction(PRODUCER, 0, 3, False),)


@pytest.mark.kafka("PROD-15")
def test_a_reload_after_a_marker_restores_the_last_batch_and_no_transaction(log: Producers) -> None:
    log.append(transactional(0, 0))
    log.append(transactional(1, 1))
    log.append(marker(ABORT, 2))
    log.states.take_snapshot()
    again = log.reload(0, 3)
    assert (again.entry.last_sequence, again.entry.last_offset, again.entry.in_transaction) == (1, 1, False)
    assert (again.undecided, again.unstable) == (None, None)
    again.append(transactional(2, 3))


@pytest.mark.kafka("PROD-16")
def test_a_reload_restores_the_timestamp_of_a_marker_without_data(log: Producers) -> None:
    log.append(marker(ABORT, 0, timestamp=1234))
    log.states.take_snapshot()
    again = log.reload(0, 1)
    assert (again.entry.last_timestamp, again.entry.batches, again.entry.in_transaction) == (1234, (), False)


@pytest.mark.kafka("PROD-24")
def test_truncation_restores_the_transaction_that_was_open_there(log: Producers) -> None:
    log.append(transactional(0, 99))
    log.states.take_snapshot()
    log.append(marker(COMMIT, 105))
    log.states.on_high_watermark(106)
    log.states.take_snapshot()
    log.states.truncate_and_reload(0, 106, 0)
    assert log.unstable is None
    log.states.truncate_and_reload(0, 100, 0)
    assert (log.unstable, log.states.map_end_offset, log.states.snapshot_offsets) == (99, 100, (100,))


def test_truncation_to_where_the_state_ends_keeps_it(log: Producers) -> None:
    log.append(transactional(0, 0))
    log.append(transactional(1, 1))
    log.append(marker(COMMIT, 2))
    log.states.truncate_and_reload(1, 3, 0)
    assert (len(log.entry.batches), log.unstable) == (2, 0)
    log.states.truncate_and_reload(3, 3, 0)
    assert (len(log.entry.batches), log.unstable) == (2, None)


def test_without_a_snapshot_the_log_has_to_be_read_from_its_start(log: Producers) -> None:
    log.append(data(0, 7))
    log.states.truncate_and_reload(3, 9, 0)
    assert (log.states.is_empty, log.states.map_end_offset) == (True, 3)


def test_active_producers_are_told_as_values(log: Producers) -> None:
    log.append(data(3, 0, producer=A, timestamp=5))
    log.append(transactional(0, 1, producer=B, timestamp=6))
    log.append(marker(COMMIT, 2, producer=A, coordinator_epoch=4, timestamp=7))
    one, other = log.states.active_producers()
    assert (one.last_sequence, one.current_transaction_first_offset, one.coordinator_epoch) == (3, -1, 4)
    assert (other.last_sequence, other.current_transaction_first_offset, other.coordinator_epoch) == (0, 1, -1)
    assert "producers 2 ongoing 1" in repr(log.states)


# ---------------------------------------------------------------- random histories

kinds = st.sampled_from(["data", "data", "plain", "commit", "abort", "fence"])
histories = st.lists(st.tuples(st.sampled_from([A, B, C]), kinds, st.integers(1, 3)), max_size=30)


class History:
    """Batches that producers who keep the rules would write, in order."""

    def __init__(self, steps: list[tuple[int, str, int]]) -> None:
        self.batches: list[bytearray] = []
        self.end_offset = 0
        self._sequences: dict[int, int] = {}
        self._epochs: dict[int, int] = {}
        self.open: dict[int, int] = {}  # producer -> first offset
        self.ended: list[tuple[int, int]] = []  # first offset, marker
        for producer, kind, count in steps:
            if kind == "plain" and producer in self.open:
                kind = "data"
            self._add(producer, kind, count)

    def _add(self, producer: int, kind: str, count: int) -> None:
        epoch, timestamp = self._epochs.get(producer, 0), 1000 + self.end_offset
        if kind in ("data", "plain"):
            sequence = self._sequences.get(producer, 0)
            self.batches.append(
                data(
                    sequence, self.end_offset, count=count, producer=producer, epoch=epoch,
                    transactional=kind == "data", timestamp=timestamp,
                )
            )  # fmt: skip
            self._sequences[producer] = sequence + count
            if kind == "data":
                self.open.setdefault(producer, self.end_offset)
            self.end_offset += count
            return
        if kind == "fence":
            epoch += 1
            self._epochs[producer], self._sequences[producer] = epoch, 0
        ending = COMMIT if kind == "commit" else ABORT
        self.batches.append(marker(ending, self.end_offset, producer=producer, epoch=epoch, timestamp=timestamp))
        if producer in self.open:
            self.ended.append((self.open.pop(producer), self.end_offset))
        self.end_offset += 1


def run(log: Producers, batches: list[bytearray], origin: AppendOrigin) -> list[AbortedTransaction]:
    """Append batches at once, as the log does it; return the entries for the transaction index."""
    found = []
    pending = log.check(*batches, origin=origin)
    assert isinstance(pending, PendingAppend)
    for completed in log.states.apply(pending):
        stable = log.states.last_stable_offset(completed)
        if completed.is_aborted:
            found.append(
                AbortedTransaction(completed.producer_id, completed.first_offset, completed.last_offset, stable)
            )
        log.states.complete(completed)
    return found


def in_groups(batches: list[bytearray], sizes: list[int]) -> list[list[bytearray]]:
    groups, start = [], 0
    for size in [*sizes, len(batches)]:
        groups.append(batches[start : start + size])
        start += size
    return [group for group in groups if group]


@given(histories, st.lists(st.integers(1, 6), max_size=8), st.sampled_from(AppendOrigin), st.integers(0, 60))
@bounded
def test_transactions_end_the_same_however_batches_are_grouped(
    steps: list[tuple[int, str, int]], sizes: list[int], origin: AppendOrigin, high_watermark: int
) -> None:
    history, log, tracker = History(steps), Producers(), TransactionTracker()
    aborted = []
    for group in in_groups(history.batches, sizes):
        aborted += run(log, group, origin)
        for batch in iter_batches(b"".join(group)):
            tracker.add(batch)
        assert log.undecided == tracker.first_open_offset
    assert aborted == tracker.aborts
    log.states.on_high_watermark(high_watermark)
    unreplicated = [first for first, last in history.ended if last >= high_watermark]
    assert log.unstable == min([*unreplicated, *history.open.values()], default=None)
    log.states.on_high_watermark(history.end_offset)
    assert log.unstable == log.undecided


@given(histories, st.lists(st.booleans(), max_size=30))
@bounded
def test_a_reload_restores_all_but_the_older_batches(steps: list[tuple[int, str, int]], reloads: list[bool]) -> None:
    history, log = History(steps), Producers()
    for batch, reloaded in zip(history.batches, [*reloads, *[False] * 30], strict=False):
        log.append(batch)
        if not reloaded:
            continue
        log.states.take_snapshot()
        again = log.reload(0, log.states.map_end_offset)
        assert again.states.active_producers() == log.states.active_producers()
        for producer, entry in log.states.entries.items():
            last = tuple(one._replace(timestamp=entry.last_timestamp) for one in entry.batches[-1:])
            assert again.states.entries[producer] == entry._replace(batches=last)
        assert (again.undecided, again.unstable) == (log.undecided, log.undecided)
        log = again
