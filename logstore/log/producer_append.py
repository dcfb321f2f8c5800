"""What the batches of one append do to the state of their producers (LOG_SEMANTICS §4.1 to §4.3).

Invariant: nothing here changes anything. `check_append` takes the state there is and the batches, and returns what the
state will be once they are written, or raises; `ProducerStates` then takes that over. All values are immutable,
therefore thread-safe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from logstore.errors import InvalidTransactionStateError, OutOfOrderSequenceError, ProducerFencedError
from logstore.log.log_offset import LogOffsetMetadata
from logstore.log.origin import AppendOrigin
from logstore.log.producers import ProducerStateEntry
from logstore.records.batch import RecordBatch, decrement_sequence, increment_sequence
from logstore.records.control import ControlType, parse_end_transaction_marker
from logstore.records.header import INT32_MAX, BatchHeader

BATCHES_MAX = 5
"""Batches remembered of each producer; one of these that is sent again is known to be a duplicate."""
NONE = -1


class CachedBatch(NamedTuple):
    """A batch that a producer wrote; `offset_delta` is last - first offset, `timestamp` its largest (ms)."""

    last_sequence: int
    last_offset: int
    offset_delta: int
    timestamp: int

    @property
    def first_sequence(self) -> int:
        """Counted back through the wrap at 2^31 - 1; a batch without sequence (-1) has no meaningful one."""
        return decrement_sequence(self.last_sequence, self.offset_delta)

    @property
    def first_offset(self) -> int:
        """Offset of its first record."""
        return self.last_offset - self.offset_delta


class ProducerState(NamedTuple):
    """What is known of one producer; -1 stands for none.

    `batches` are its last ones, oldest first, all of this epoch; `last_timestamp` (ms) is that of its last batch or
    marker; `current_transaction_first_offset` is where its open transaction began.
    """

    producer_id: int
    epoch: int = NONE
    batches: tuple[CachedBatch, ...] = ()
    coordinator_epoch: int = NONE
    last_timestamp: int = NONE
    current_transaction_first_offset: int = NONE

    @classmethod
    def of_snapshot(cls, entry: ProducerStateEntry) -> ProducerState:
        """What a snapshot remembers: of the batches the last one only."""
        batches: tuple[CachedBatch, ...] = ()
        if entry.has_batch:
            batches = (CachedBatch(entry.last_sequence, entry.last_offset, entry.offset_delta, entry.last_timestamp),)
        transaction = entry.current_transaction_first_offset if entry.in_transaction else NONE
        return cls(
            entry.producer_id, entry.producer_epoch, batches, entry.coordinator_epoch, entry.last_timestamp, transaction
        )

    def for_snapshot(self) -> ProducerStateEntry:
        """The part that a snapshot remembers."""
        last_sequence, last_offset, offset_delta = self.batches[-1][:3] if self.batches else (NONE, NONE, 0)
        return ProducerStateEntry(
            self.producer_id, self.epoch, last_sequence, last_offset, offset_delta, self.last_timestamp,
            self.coordinator_epoch, self.current_transaction_first_offset,
        )  # fmt: skip

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return self.current_transaction_first_offset >= 0

    @property
    def first_sequence(self) -> int:
        """The first sequence of the oldest batch that is remembered."""
        return self.batches[0].first_sequence if self.batches else NONE

    @property
    def last_sequence(self) -> int:
        """The last sequence of the last batch."""
        return self.batches[-1].last_sequence if self.batches else NONE

    @property
    def first_offset(self) -> int:
        """The first offset of the oldest batch that is remembered."""
        return self.batches[0].first_offset if self.batches else NONE

    @property
    def last_offset(self) -> int:
        """The last offset of the last batch."""
        return self.batches[-1].last_offset if self.batches else NONE


class Transaction(NamedTuple):
    """A transaction by its first record; `last_offset` is that of its marker, -1 while it is open."""

    first_offset: int
    producer_id: int
    segment_base_offset: int = NONE
    position: int = NONE
    last_offset: int = NONE

    @property
    def start(self) -> LogOffsetMetadata:
        """Where it begins."""
        return LogOffsetMetadata(self.first_offset, self.segment_base_offset, self.position)


class CompletedTransaction(NamedTuple):
    """A transaction that has ended; `last_offset` is that of its marker."""

    producer_id: int
    first_offset: int
    last_offset: int
    is_aborted: bool


class DuplicateBatch(NamedTuple):
    """Where a batch that is sent again was written the first time, and its largest timestamp (ms)."""

    first_offset: int
    last_offset: int
    timestamp: int


class PendingAppend(NamedTuple):
    """What an append changes once it is written.

    `entries` are the producers' new states, `started` the transactions it opens, `completed` those it ends, in order;
    `verified` names the producers whose guards have done their work.
    """

    entries: Mapping[int, ProducerState]
    started: Sequence[Transaction]
    completed: Sequence[CompletedTransaction]
    verified: Sequence[int]


NOTHING_PENDING = PendingAppend({}, (), (), ())
"""The outcome of an append without producers."""


class Guard:
    """Stands for one verification that a transaction includes this partition; a guard equals only itself."""

    __slots__ = ("producer_id",)

    def __init__(self, producer_id: int) -> None:
        self.producer_id = producer_id

    def __repr__(self) -> str:
        return f"<Guard of producer {self.producer_id} at {id(self):#x}>"


class Verification(NamedTuple):
    """A guard that was given out, when (ms), and the first batch that its producer will send."""

    guard: Guard
    created_ms: int
    lowest_sequence: int
    epoch: int


class AppendFacts(NamedTuple):
    """What `check_append` needs to know besides the batches.

    `segment_base_offset` and `position` say where the append will begin, -1 where that is not known; `guard` came with
    the request, and `verification` says whether a transaction may only begin with one.
    """

    origin: AppendOrigin
    segment_base_offset: int = NONE
    position: int = NONE
    guard: Guard | None = None
    verification: bool = False


def check_append(
    batches: Sequence[RecordBatch],
    facts: AppendFacts,
    stored_entries: Mapping[int, ProducerState],
    verifications: Mapping[int, Verification],
) -> PendingAppend | DuplicateBatch:
    """Check the batches of one append in order, each against the state as those before it leave it.

    Their offsets are final. Raises as `ProducerStates.check`.
    """
    with_producers = [batch for batch in batches if batch.header.producer_id >= 0]
    if not with_producers:
        return NOTHING_PENDING
    origin = facts.origin
    is_client = origin is AppendOrigin.CLIENT
    start = facts.position - batches[0].header.position
    entries: dict[int, ProducerState] = {}
    started: list[Transaction] = []
    completed: list[CompletedTransaction] = []
    verified: list[int] = []
    for batch in with_producers:
        header = batch.header
        producer_id = header.producer_id
        stored = stored_entries.get(producer_id)
        if is_client and stored is not None:
            duplicate = _find_duplicate(stored, header)
            if duplicate is not None:
                return duplicate
        before = entries.get(producer_id) or stored or ProducerState(producer_id)
        verification = verifications.get(producer_id)
        if batch.is_control:
            after = _after_marker(before, batch, origin, completed)
            if after is None:
                continue
        else:
            if batch.is_transactional and before.current_transaction_first_offset < 0:
                if facts.verification and origin.assigns_offsets:
                    _check_guard(header, verification, facts.guard)
                at = NONE if facts.segment_base_offset < 0 else start + header.position
                started.append(Transaction(header.base_offset, producer_id, facts.segment_base_offset, at))
            _check_epoch(before, header, origin)
            if is_client:
                _check_sequence(before, header, verification, is_new=stored is None or stored.epoch == NONE)
            after = _after_batch(before, batch)
        entries[producer_id] = after
        if batch.is_transactional:
            verified.append(producer_id)
    return PendingAppend(entries, started, completed, verified)


def _find_duplicate(stored: ProducerState, header: BatchHeader) -> DuplicateBatch | None:
    if header.producer_epoch != stored.epoch:
        return None
    last_sequence = _last_sequence(header)
    for cached in stored.batches:
        if cached.last_sequence == last_sequence and cached.first_sequence == header.base_sequence:
            return DuplicateBatch(cached.first_offset, cached.last_offset, cached.timestamp)
    return None


def _after_batch(before: ProducerState, batch: RecordBatch) -> ProducerState:
    header = batch.header
    in_transaction = before.current_transaction_first_offset
    if not batch.is_transactional:
        if in_transaction >= 0:
            raise InvalidTransactionStateError(
                f"producer {header.producer_id} sends a batch outside of its transaction, which is open since offset"
                f" {in_transaction}",
                offset=header.base_offset,
            )
    elif in_transaction < 0:
        in_transaction = header.base_offset
    delta = header.last_offset_delta
    added = CachedBatch(_last_sequence(header), header.base_offset + delta, delta, header.max_timestamp)
    batches = before.batches if before.epoch == header.producer_epoch else ()
    return ProducerState(
        before.producer_id, header.producer_epoch, (*batches[1 - BATCHES_MAX :], added), before.coordinator_epoch,
        header.max_timestamp, in_transaction,
    )  # fmt: skip


def _after_marker(
    before: ProducerState, batch: RecordBatch, origin: AppendOrigin, completed: list[CompletedTransaction]
) -> ProducerState | None:
    """The state behind an end marker, which may complete a transaction; None where compaction has left no marker."""
    first = next(batch.record_pieces(piece=1), None)
    if not first:
        return None
    header, record = batch.header, first[0]
    marker = parse_end_transaction_marker(record.key, record.value)
    _check_epoch(before, header, origin)
    if marker.coordinator_epoch < before.coordinator_epoch and origin is not AppendOrigin.REPLICATION:
        raise ProducerFencedError(
            f"the marker for producer {header.producer_id} is of coordinator epoch {marker.coordinator_epoch}, the"
            f" last one was of {before.coordinator_epoch}",
            offset=header.base_offset,
        )
    if before.current_transaction_first_offset >= 0:
        is_aborted = marker.control_type == ControlType.ABORT
        completed.append(
            CompletedTransaction(
                before.producer_id, before.current_transaction_first_offset, header.base_offset, is_aborted
            )
        )
    batches = before.batches if before.epoch == header.producer_epoch else ()
    return ProducerState(
        before.producer_id, header.producer_epoch, batches, marker.coordinator_epoch, record.timestamp, NONE
    )


def _check_guard(header: BatchHeader, verification: Verification | None, guard: Guard | None) -> None:
    if verification is None or verification.guard is not guard:
        raise InvalidTransactionStateError(
            f"producer {header.producer_id} of epoch {header.producer_epoch} has no transaction open here, and it was"
            " not verified that one includes this partition",
            offset=header.base_offset,
        )


def _check_epoch(before: ProducerState, header: BatchHeader, origin: AppendOrigin) -> None:
    if header.producer_epoch < before.epoch and origin is not AppendOrigin.REPLICATION:
        raise ProducerFencedError(
            f"producer {header.producer_id} sends with epoch {header.producer_epoch}, its last epoch was"
            f" {before.epoch}",
            offset=header.base_offset,
        )


def _check_sequence(
    before: ProducerState, header: BatchHeader, verification: Verification | None, *, is_new: bool
) -> None:
    sequence, epoch = header.base_sequence, header.producer_epoch
    if verification is not None and sequence > verification.lowest_sequence:
        problem = f"while its batch of sequence {verification.lowest_sequence} has still to come"
    elif epoch != before.epoch:
        if sequence == 0 or before.epoch == NONE:
            return
        problem = f"first in its new epoch; the last epoch was {before.epoch}"
    else:
        last = before.last_sequence
        if is_new or sequence == last + 1 or (sequence == 0 and last == INT32_MAX):
            return
        problem = f"after sequence {last}"
    raise OutOfOrderSequenceError(
        f"producer {header.producer_id} of epoch {epoch} sends sequence {sequence} {problem}",
        offset=header.base_offset,
    )


def _last_sequence(header: BatchHeader) -> int:
    base = header.base_sequence
    return NONE if base == NONE else increment_sequence(base, header.last_offset_delta)
