"""The producers of one log, in memory: their epochs, last batches and transactions (LOG_SEMANTICS §4).

Invariant: the state is that of all records below `map_end_offset`. It changes only by `apply` and what follows it,
after the batches are written; `check` changes nothing. Not thread-safe: the log's lock guards it. No clock is read: the
time is handed in.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from logstore.errors import CorruptSnapshotError
from logstore.fs import FileSystem
from logstore.log.log_offset import LogOffsetMetadata
from logstore.log.origin import AppendOrigin
from logstore.log.producer_append import (
    NOTHING_PENDING,
    AppendFacts,
    CachedBatch,
    CompletedTransaction,
    DuplicateBatch,
    Guard,
    PendingAppend,
    ProducerState,
    Transaction,
    Verification,
    check_append,
)
from logstore.log.producer_snapshots import ProducerSnapshots
from logstore.log.producers import ProducerSnapshot, ProducerStateEntry
from logstore.records.batch import RecordBatch

__all__ = [
    "LATE_TRANSACTION_BUFFER_MS",
    "CachedBatch",
    "CompletedTransaction",
    "DuplicateBatch",
    "Guard",
    "PendingAppend",
    "ProducerState",
    "ProducerStates",
]

LATE_TRANSACTION_BUFFER_MS = 300_000
"""How long after its timeout a transaction may stay open before it counts as late."""


class ProducerStates:
    """All producers of a log, and their snapshots in its directory.

    The snapshots' files are listed when it is made; their content is read by `truncate_and_reload`. OSError passes
    through wherever files are touched.

    Args:
        fs, directory: where the snapshots are.
        producer_id_expiration_ms: after which idle time a producer without open transaction is forgotten.
        transaction_max_timeout_ms: the longest timeout a transaction may have.
    """

    def __init__(
        self,
        fs: FileSystem,
        directory: Path,
        *,
        producer_id_expiration_ms: int = 86_400_000,
        transaction_max_timeout_ms: int = 900_000,
    ) -> None:
        self._snapshots = ProducerSnapshots(fs, directory)
        self.configure(producer_id_expiration_ms, transaction_max_timeout_ms)
        self._entries: dict[int, ProducerState] = {}
        self._verifications: dict[int, Verification] = {}
        # Both ascend by first offset. They are kept sorted rather than trusted to be: damaged logs are replayed too.
        self._ongoing: list[Transaction] = []
        self._unreplicated: list[Transaction] = []
        self._map_end_offset = 0
        self._snapshot_taken_at = 0  # no snapshot is due while the map ends here or before

    def __repr__(self) -> str:
        return (
            f"<ProducerStates below {self.map_end_offset} producers {len(self._entries)} ongoing {len(self._ongoing)}"
            f" unreplicated {len(self._unreplicated)} snapshots {list(self.snapshot_offsets)}>"
        )

    # ---- what is known

    @property
    def entries(self) -> Mapping[int, ProducerState]:
        """The producers by id; a live view."""
        return MappingProxyType(self._entries)

    def active_producers(self) -> tuple[ProducerStateEntry, ...]:
        """The producers as values: last sequence, open transaction, coordinator epoch (-1 for none) and so on."""
        return tuple([entry.for_snapshot() for entry in self._entries.values()])

    @property
    def is_empty(self) -> bool:
        """Whether no producer is known."""
        return not self._entries

    @property
    def map_end_offset(self) -> int:
        """The first offset whose record is not part of the state."""
        return self._map_end_offset

    def update_map_end_offset(self, offset: int) -> None:
        """Say that the state is that of all records below `offset`."""
        self._map_end_offset = offset

    # ---- appends

    def check(
        self,
        batches: Sequence[RecordBatch],
        origin: AppendOrigin,
        *,
        segment_base_offset: int = -1,
        position: int = -1,
        guard: Guard | None = None,
        verification: bool = False,
    ) -> PendingAppend | DuplicateBatch:
        """Check the batches of one append, in order, against the state (LOG_SEMANTICS §4.2); it stays as it is.

        The batches are numbered already. `segment_base_offset` and `position` say where the first one will begin: a
        transaction that an append opens remembers its place. With `verification` a transaction of a client or
        coordinator may only begin with the `guard` that was given out for it. A batch that a client sends again makes
        the whole append a duplicate. What is replicated is accepted where sequences and epochs do not fit.

        Raises OutOfOrderSequenceError, ProducerFencedError (an older producer's or coordinator's epoch),
        InvalidTransactionStateError (also for what is replicated), and what a control batch that is no end marker or
        cannot be decoded raises: InvalidRecordError, UnsupportedFormatError, BatchTooLargeError.
        """
        facts = AppendFacts(origin, segment_base_offset, position, guard, verification)
        return check_append(batches, facts, self._entries, self._verifications)

    def apply(self, pending: PendingAppend) -> tuple[CompletedTransaction, ...]:
        """Take over what an append does, once it is written; return the transactions it ends, in order.

        Each of these stays ongoing until it is handed to `complete`.
        """
        if pending is NOTHING_PENDING:
            return ()
        self._entries.update(pending.entries)
        for transaction in pending.started:
            insort(self._ongoing, transaction)
        for producer_id in pending.verified:
            self._verifications.pop(producer_id, None)
        return tuple(pending.completed)

    def last_stable_offset(self, completed: CompletedTransaction) -> int:
        """The last stable offset right behind the marker of `completed`, as the transaction index stores it.

        That is where the oldest open transaction of another producer begins, else the offset behind the marker. What
        begins behind the marker does not count, so that the answer is the same however batches are grouped.
        """
        for transaction in self._ongoing:
            if transaction.first_offset > completed.last_offset:
                break
            if transaction.producer_id != completed.producer_id:
                return transaction.first_offset
        return completed.last_offset + 1

    def complete(self, completed: CompletedTransaction) -> None:
        """Let a transaction wait for the high watermark to pass its marker. Raises ValueError if it is not ongoing."""
        key = (completed.first_offset, completed.producer_id)
        index = bisect_left(self._ongoing, key)
        if index == len(self._ongoing) or self._ongoing[index][:2] != key:
            raise ValueError(f"{completed} is not ongoing")
        transaction = self._ongoing.pop(index)
        insort(self._unreplicated, transaction._replace(last_offset=completed.last_offset))

    def on_high_watermark(self, high_watermark: int) -> None:
        """Drop the ended transactions whose marker is below the high watermark."""
        if self._unreplicated:
            self._unreplicated = [one for one in self._unreplicated if one.last_offset >= high_watermark]

    def remove_unreplicated_below(self, log_start_offset: int) -> None:
        """Drop the ended transactions whose marker is below a log start that has moved up (LOG_SEMANTICS §8.2)."""
        self.on_high_watermark(log_start_offset)
        self._map_end_offset = max(self._map_end_offset, log_start_offset)
        latest = self.latest_snapshot_offset
        self._snapshot_taken_at = log_start_offset if latest is None else latest

    @property
    def first_unstable_offset(self) -> LogOffsetMetadata | None:
        """Where the oldest transaction begins that is open, or ended but not replicated; may be below the log start."""
        oldest = [transactions[0] for transactions in (self._ongoing, self._unreplicated) if transactions]
        return min(oldest).start if oldest else None

    @property
    def first_undecided_offset(self) -> int | None:
        """Where the oldest open transaction begins."""
        return self._ongoing[0].first_offset if self._ongoing else None

    def has_open_transaction(self, producer_id: int) -> bool:
        """Whether this producer has a transaction open."""
        entry = self._entries.get(producer_id)
        return entry is not None and entry.in_transaction

    def has_late_transaction(self, now_ms: int) -> bool:
        """Whether the producer of the oldest open transaction has been silent for longer than any timeout allows."""
        entry = self._entries.get(self._ongoing[0].producer_id) if self._ongoing else None
        return entry is not None and entry.last_timestamp > 0 and now_ms - entry.last_timestamp > self._late_after_ms

    def configure(self, producer_id_expiration_ms: int, transaction_max_timeout_ms: int) -> None:
        """Heed other times from now on."""
        self._expiration_ms = producer_id_expiration_ms
        self._late_after_ms = transaction_max_timeout_ms + LATE_TRANSACTION_BUFFER_MS

    def expire(self, now_ms: int) -> None:
        """Forget producers that have been idle for too long and have no transaction open, and guards not used."""
        for entry in [entry for entry in self._entries.values() if self._is_expired(entry, now_ms)]:
            del self._entries[entry.producer_id]
        for producer_id, verification in list(self._verifications.items()):
            if now_ms - verification.created_ms >= self._expiration_ms:
                del self._verifications[producer_id]

    def _is_expired(self, entry: ProducerState, now_ms: int) -> bool:
        return not entry.in_transaction and now_ms - entry.last_timestamp >= self._expiration_ms

    # ---- verification of transactions

    def maybe_create_guard(self, producer_id: int, sequence: int, epoch: int, now_ms: int) -> Guard:
        """The guard for a transaction of this producer that is to be verified: a new one, or the one there is.

        `sequence` is that of the batch which waits for it. Until the guard is used, no client's batch of a higher
        sequence than the lowest that waits is taken.
        """
        known = self._verifications.get(producer_id)
        if known is None:
            known = Verification(Guard(producer_id), now_ms, sequence, epoch)
        elif epoch > known.epoch or (epoch == known.epoch and sequence < known.lowest_sequence):
            known = known._replace(lowest_sequence=sequence, epoch=epoch)
        self._verifications[producer_id] = known
        return known.guard

    def guard_of(self, producer_id: int) -> Guard | None:
        """The guard that was given out for this producer and not used yet."""
        known = self._verifications.get(producer_id)
        return None if known is None else known.guard

    def clear_guard(self, producer_id: int) -> None:
        """Forget the guard of this producer, if there is one."""
        self._verifications.pop(producer_id, None)

    # ---- snapshots

    @property
    def snapshot_offsets(self) -> tuple[int, ...]:
        """The offsets of all snapshots, ascending."""
        return self._snapshots.offsets

    @property
    def latest_snapshot_offset(self) -> int | None:
        """The greatest offset of a snapshot."""
        return self._snapshots.latest

    @property
    def oldest_snapshot_offset(self) -> int | None:
        """The least offset of a snapshot."""
        return self._snapshots.oldest

    @property
    def discarded(self) -> tuple[CorruptSnapshotError, ...]:
        """For each snapshot that was removed because it could not be trusted: which, and why."""
        return tuple(self._snapshots.discarded)

    def take_snapshot(self) -> Path | None:
        """Write a snapshot of the state, unless there is one of this offset or a later; return where.

        It is not durable, see `sync_snapshot`; nor is its name.
        """
        if self._map_end_offset <= self._snapshot_taken_at:
            return None
        path = self._snapshots.write(self._map_end_offset, ProducerSnapshot(self.active_producers()))
        self._snapshot_taken_at = self._map_end_offset
        return path

    def sync_snapshot(self, offset: int) -> None:
        """Make the content of a snapshot durable; nothing where there is none of this offset any more.

        May be called from any thread, without the log's lock.
        """
        self._snapshots.sync(offset)

    def move_to(self, directory: Path) -> None:
        """Take note that the directory of the log has a new name."""
        self._snapshots.directory = directory

    def delete_snapshots_before(self, offset: int) -> None:
        """Remove the snapshots of lower offsets."""
        self._snapshots.delete_all(one for one in self.snapshot_offsets if one < offset)

    def remove_stray_snapshots(self, base_offsets: Sequence[int]) -> None:
        """List the directory anew and remove snapshots at no segment's base, but for one at the log end (§4.4)."""
        self._snapshots.remove_stray(base_offsets)

    def remove_and_mark_for_deletion(self, offset: int) -> Path | None:
        """Forget a snapshot and rename it to `.deleted`; the new path, None if there was no such file any more."""
        return self._snapshots.mark_for_deletion(offset)

    # ---- truncation and loading

    def truncate_and_reload(self, log_start_offset: int, log_end_offset: int, now_ms: int) -> None:
        """Bring the state to a log that now has this range, as far as that goes without reading it (§4.4).

        Snapshots outside of the range are removed. If the state does not end at the log end, it becomes that of the
        latest snapshot, without expired producers, or nothing as of the log start; `map_end_offset` then says from
        where on the log has to be read.
        """
        outside = [one for one in self.snapshot_offsets if not log_start_offset < one <= log_end_offset]
        self._snapshots.delete_all(outside)
        if log_end_offset == self._map_end_offset:
            self.remove_unreplicated_below(log_start_offset)
            return
        self.load_latest(log_start_offset, now_ms)

    def load_latest(self, log_start_offset: int, now_ms: int) -> None:
        """Become the state of the latest snapshot, without expired producers, or nothing as of the log start."""
        self._forget()
        loaded = self._snapshots.load_latest()
        self._map_end_offset = self._snapshot_taken_at = log_start_offset
        if loaded is not None:
            self._map_end_offset = self._snapshot_taken_at = loaded[0]
            self._take_over(loaded[1], now_ms)

    def truncate_fully_and_start_at(self, offset: int) -> None:
        """Forget all producers and transactions, and remove all snapshots; the log begins anew at `offset`."""
        self._forget()
        self._snapshots.delete_all(self.snapshot_offsets)
        self._snapshot_taken_at = 0
        self._map_end_offset = offset

    def truncate_fully_and_reload_snapshots(self) -> None:
        """Forget everything, remove the snapshots that are known, and list those which others have put there since."""
        self.truncate_fully_and_start_at(0)
        self._snapshots.rescan()

    def _take_over(self, snapshot: ProducerSnapshot, now_ms: int) -> None:
        for entry in map(ProducerState.of_snapshot, snapshot.entries):
            if not self._is_expired(entry, now_ms):
                self._entries[entry.producer_id] = entry
        for entry in self._entries.values():
            if entry.in_transaction:
                insort(self._ongoing, Transaction(entry.current_transaction_first_offset, entry.producer_id))

    def _forget(self) -> None:
        self._entries.clear()
        self._ongoing.clear()
        self._unreplicated.clear()
