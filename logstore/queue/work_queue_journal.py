"""The state topic of a work queue: followed, written, and kept small.

Everything before the last snapshot is deleted: a new segment begins with each, so that what is left of the log says all
by itself, wherever a crash comes. Belongs to who has the queue's turn.
"""

from __future__ import annotations

from logstore.config import Durability
from logstore.errors import OffsetOutOfRangeError
from logstore.log import AppendFuture, Log, SharedLog
from logstore.queue.work_queue_records import Kind, encode_acknowledged, encode_finished, encode_snapshot
from logstore.queue.work_queue_slate import ENTRIES_MAX, Slate
from logstore.queue.work_queue_state import QueueState
from logstore.store import Partition

SETTINGS = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "max.message.bytes": str(16 << 20),
    "segment.bytes": str(64 << 20),
    "file.delete.delay.ms": "0",
}
"""Of a state topic: nothing of it may go but by a snapshot."""
SNAPSHOT_BYTES = 4 << 20
_RECORD_BYTES = 80  # of a batch around a small record, about


class Journal:
    """The log of a queue's state.

    Args:
        partition: of the state topic.
        log: the same, open.
        durability: of what is written.
        slate: takes acknowledgements where it is wanted.
    """

    def __init__(
        self, partition: Partition, log: Log | SharedLog, durability: Durability, slate: Slate | None
    ) -> None:  # fmt: skip
        self._partition = partition
        self._log = log
        self._durability = durability
        self._slate = slate
        self._next = 0  # the offset of the first record that was not read or written here
        self._written = 0  # bytes since the last snapshot, about
        self._snapshot_bytes = 0

    def __repr__(self) -> str:
        return f"<Journal at {self._next}>"

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever written."""
        return self._next == 0

    @property
    def is_long(self) -> bool:
        """Whether a snapshot would make it smaller by much."""
        return self._written > SNAPSHOT_BYTES + 4 * self._snapshot_bytes

    def follow(self, state: QueueState) -> None:
        """Apply what others have written. Raises InvalidRecordError, UnsupportedFormatError, and as a log's reads."""
        if self._log.log_end_offset == self._next:
            return
        try:
            self._read(state)
        except OffsetOutOfRangeError:  # they have written a snapshot, and it begins there
            state.clear()
            self._next = self._log.log_start_offset
            self._read(state)

    def _read(self, state: QueueState) -> None:
        for record in self._log.records(self._next):
            state.apply(record.value)
            self._next = record.offset + 1
            self._written += len(record.value or b"") + _RECORD_BYTES

    @property
    def end(self) -> int:
        """The offset of the first record that was not read or written here."""
        return self._next

    def write(self, values: list[bytes]) -> AppendFuture | None:
        """Write records as one batch; for `QueueFiles.settle`. Raises OSError, LogClosedError: none is written then."""
        slate = self._slate
        noted = slate is not None and bool(slate.pending)
        if slate is not None and noted:
            values = [*_grouped(slate.pending), *values]
        if not values:
            return None
        records = [(None, value) for value in values]
        future = None
        if self._durability == "always":
            future = self._log.append_later(records)
            self._next = future.last_offset + 1
        else:
            self._next = self._log.append(records, durability=self._durability).last_offset + 1
        self._written += _RECORD_BYTES + sum(map(len, values))
        if slate is not None and noted:
            slate.pending.clear()
        return future

    def acknowledge(self, number: int, offset: int) -> AppendFuture | None:
        """Write that one job is acknowledged; as `write`."""
        slate = self._slate
        if slate is None:
            return self.write([encode_acknowledged(number, offset)])
        slate.write(self._next, number, offset)
        if len(slate.pending) >= ENTRIES_MAX:
            self.write([])
        return None

    def write_snapshot(self, state: QueueState) -> None:
        """Write all that is known, durably, and delete all before it. Raises OSError, LogClosedError."""
        data = state.dump()
        with self._partition.changing() as log:
            log.roll()
            first = log.log_end_offset
            for part in encode_snapshot(data):
                log.append([(None, part)], durability="os")
            log.flush()
            log.advance_log_start(first)
            log.delete_before_log_start()
            log.maintain()
            self._next = log.log_end_offset
        self._written, self._snapshot_bytes = 0, len(data)
        if self._slate is not None:
            self._slate.pending.clear()


def _grouped(jobs: list[tuple[int, int]]) -> list[bytes]:
    """Acknowledgements as one record for each partition."""
    offsets: dict[int, list[int]] = {}
    for number, offset in jobs:
        offsets.setdefault(number, []).append(offset)
    return [encode_finished(Kind.ACKNOWLEDGED, number, found) for number, found in offsets.items()]
