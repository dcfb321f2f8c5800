"""The append: epochs, roll, producers, one write, transactions (LOG_SEMANTICS §3.2 steps 4 to 12, §5).

What is written was checked and numbered by `append`. Everything here runs under the log's lock.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from logstore import names
from logstore.errors import BatchTooLargeError, InvalidRecordError, LogstoreError
from logstore.fs import Buffer
from logstore.log.index_file import RELATIVE_OFFSET_MAX
from logstore.log.log_state import LogState
from logstore.log.origin import AppendOrigin
from logstore.log.producer_append import CompletedTransaction, DuplicateBatch, Guard, PendingAppend
from logstore.log.segment import Segment
from logstore.log.transaction_index import AbortedTransaction
from logstore.names import FileKind
from logstore.records import RecordBatch
from logstore.records.header import LOG_OVERHEAD

# The first fields of a batch: base offset, length, leader epoch (FORMAT §2.1). On disk; never change.
_NUMBERS = struct.Struct(">qii")


class Appended(NamedTuple):
    """Where records were written: offsets of the first and the last, and their largest timestamp (ms).

    A duplicate of a producer's batch was not written again: the offsets are those it got before.
    """

    first_offset: int
    last_offset: int
    timestamp: int
    is_duplicate: bool = False


class Batch(NamedTuple):
    """What is to be written: bytes with their offsets, as `append` has numbered them.

    `batches` is None for one batch of no producer, made by this log itself.
    """

    data: Buffer
    first_offset: int
    last_offset: int
    max_timestamp: int
    offset_of_max: int
    batches: Sequence[RecordBatch] | None = None


class LogWriter:
    """Appends to the segments of one log."""

    def __init__(self, state: LogState) -> None:
        self._state = state

    def __repr__(self) -> str:
        return f"<LogWriter at {self._state.next_offset} of {self._state.directory}>"

    def write(
        self,
        batch: Batch,
        now_ms: int,
        origin: AppendOrigin = AppendOrigin.CLIENT,
        guard: Guard | None = None,
        *,
        verification: bool = False,
    ) -> Appended:
        """Write numbered batches, in the page cache on return.

        Raises BatchTooLargeError, what the producer checks raise, OSError; nothing is written then, unless it was the
        transaction index that could not be: the log is out of use then until it is opened again.
        """
        state = self._state
        data, first, last, max_timestamp, offset_of_max, batches = batch
        if batches is not None:
            self._assign_epochs(batches)
        elif state.leader_epoch != state.epochs.latest_epoch:
            state.epochs.assign(state.leader_epoch, first)
        size = len(data)
        if size > state.config.segment_bytes:
            raise BatchTooLargeError(
                f"{size} bytes in one append are above segment.bytes, {state.config.segment_bytes}", offset=first
            )
        active = state.segments.active
        if active.should_roll(size, last, max_timestamp, now_ms):
            # A follower does not know the first offset of a compressed batch of formats v0 and v1.
            base = first if first >= 0 else last - RELATIVE_OFFSET_MAX
            active = self.roll(max(base, state.next_offset))
        pending: PendingAppend | None = None
        if batches is not None:
            checked = state.producers.check(
                batches, origin, segment_base_offset=active.base_offset, position=active.size, guard=guard,
                verification=verification,
            )  # fmt: skip
            if isinstance(checked, DuplicateBatch):
                return Appended(checked.first_offset, checked.last_offset, checked.timestamp, is_duplicate=True)
            pending = checked
        active.append(data, last, max_timestamp, offset_of_max)
        state.next_offset = last + 1
        if pending is not None:
            self._finish(active, pending)
        return Appended(first, last, max_timestamp)

    def write_plain(self, data: bytearray, delta: int, max_timestamp: int, now_ms: int) -> Appended:
        """Number and write one batch that this log has encoded itself, of no producer; the way of most appends.

        Raises BatchTooLargeError, OSError.
        """
        state = self._state
        first = state.next_offset
        last = first + delta
        active = state.segments.active
        if state.leader_epoch != state.epochs.latest_epoch or not active.fits(len(data), last, max_timestamp):
            _NUMBERS.pack_into(data, 0, first, len(data) - LOG_OVERHEAD, state.leader_epoch)
            return self.write(Batch(data, first, last, max_timestamp, last), now_ms)
        # Neither base offset nor leader epoch is covered by the CRC.
        _NUMBERS.pack_into(data, 0, first, len(data) - LOG_OVERHEAD, state.leader_epoch)
        active.append(data, last, max_timestamp, last)
        state.next_offset = last + 1
        return Appended(first, last, max_timestamp)

    def _assign_epochs(self, batches: Sequence[RecordBatch]) -> None:
        state, epochs = self._state, self._state.epochs
        for batch in batches:
            epoch = batch.header.leader_epoch
            if batch.header.magic < 2:
                if epochs.epochs.entries:
                    epochs.clear()
            elif epoch < 0:
                raise InvalidRecordError(f"a batch has the leader epoch {epoch}", offset=batch.header.base_offset)
            elif epoch != epochs.latest_epoch:
                epochs.assign(epoch, batch.header.base_offset)
                state.leader_epoch = max(state.leader_epoch, epoch)

    def _finish(self, segment: Segment, pending: PendingAppend) -> None:
        """Take over what the batches say of producers, and put aborted transactions into the index (step 11)."""
        state = self._state
        for completed in state.producers.apply(pending):
            if completed.is_aborted:
                self._index_aborted(segment, completed)
            state.producers.complete(completed)
        state.producers.update_map_end_offset(state.next_offset)
        state.after_append()

    def _index_aborted(self, segment: Segment, completed: CompletedTransaction) -> None:
        state = self._state
        stable = state.producers.last_stable_offset(completed)
        entry = AbortedTransaction(completed.producer_id, completed.first_offset, completed.last_offset, stable)
        try:
            segment.transaction_index.append(entry)
        except OSError as error:
            # The marker is in the log; without the entry committed readers would see what was aborted.
            state.failure = f"the transaction index could not be written ({error.strerror}); open the log again"
            state.refusal = state.failure
            raise

    # ---- roll

    def roll(self, base_offset: int) -> Segment:
        """Seal the active segment, make it durable, and begin the next at `base_offset`; the new one (§5).

        Raises OSError, after which the old one is active still, and LogstoreError for a base offset that is taken.
        """
        state = self._state
        active = state.segments.active
        if base_offset == active.base_offset and not active.size:
            return self._replace_empty(active)
        if base_offset <= active.base_offset:
            raise LogstoreError(f"a segment cannot begin at {base_offset}, behind one at {active.base_offset}")
        self._remove_leftovers(base_offset)
        active.seal()
        state.producers.update_map_end_offset(base_offset)
        snapshot = state.producers.take_snapshot()
        with state.sync_lock:
            try:
                for segment in state.segments.from_floor(state.synced_offset):
                    segment.sync()
                if snapshot is not None:
                    state.producers.sync_snapshot(base_offset)
            except OSError as error:
                state.refusal = f"a sync failed ({error.strerror}); open the log again"
                raise
            # Syncs the directory too: the names of the sealed indexes are durable before that of the next segment.
            state.hold.write_state(base_offset, state.log_start_offset)
            state.synced_offset = max(state.synced_offset, state.next_offset)
            state.synced_ns = state.clock.monotonic_ns()
        active.close()
        return self.begin(base_offset)

    def seal_for_close(self) -> None:
        """Make everything complete and durable, and say so. Raises OSError: the log is recovered when opened again."""
        state = self._state
        active = state.segments.active
        active.seal()
        # After a cut inside a batch that is where the batch before it ends, as it is once the log is opened again: what
        # is torn behind it then is no damage, and a log that has grown to the old end was not closed there.
        end = min(active.next_offset(), state.next_offset)
        state.producers.update_map_end_offset(end)
        snapshot = state.producers.take_snapshot()
        with state.sync_lock:
            for segment in state.segments.from_floor(state.synced_offset):
                segment.sync()
            if snapshot is not None:
                state.producers.sync_snapshot(end)
            state.hold.write_state(end, state.log_start_offset)
            state.hold.mark_clean(end)

    def begin(self, base_offset: int) -> Segment:
        """Make a new active segment; its name is durable on return."""
        state = self._state
        segment = Segment.create(
            state.fs, state.directory, base_offset, state.config, state.maps, state.clock.now_ms()
        )
        try:
            state.fs.sync_directory(state.directory)
        except BaseException:
            state.fs.unlink(segment.path, missing_ok=True)
            raise
        state.segments.add(segment)
        return segment

    def _replace_empty(self, active: Segment) -> Segment:
        """A roll of an empty segment to its own base offset makes it anew."""
        state = self._state
        try:
            state.segments.doom(active, state.clock.now_ms() + state.config.file_delete_delay_ms)
            return self.begin(active.base_offset)
        except OSError as error:
            state.refusal = f"a segment could not be replaced ({error.strerror}); open the log again"
            raise

    def _remove_leftovers(self, base_offset: int) -> None:
        state = self._state
        for kind in (FileKind.LOG, FileKind.OFFSET_INDEX, FileKind.TIME_INDEX, FileKind.TRANSACTION_INDEX):
            state.fs.unlink(state.directory / names.segment_file_name(base_offset, kind), missing_ok=True)
