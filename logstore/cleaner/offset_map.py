"""The latest offset of each key in the part of a log that is dirty (CLEANER §3).

Invariant: the map is that of all records from the first dirty offset up to `latest`: what it has no offset of has no
record there. Building it reads every batch from the begin of the log on, and so checks each one that may be rewritten.
Changes nothing in the log. A map belongs to one thread.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from logstore.cleaner.source import Pace, SourceReader
from logstore.cleaner.transactions import TransactionTracker
from logstore.config import INT64_MAX
from logstore.errors import LogstoreError, MapTooSmallError
from logstore.fs import Buffer
from logstore.log.rewriting import SealedSegment
from logstore.log.transaction_index import AbortedTransaction
from logstore.records import ControlType, Record, RecordBatch
from logstore.records.header import MapEnd
from logstore.records.kernel import KeyTable, map_plain_batches, map_records

KEY_SLOT_BYTES = 24
MEMORY_AT_FIRST = 32 << 20  # for a million keys
_SEED_BYTES = 16


class OffsetMap:
    """Keys and offsets in a limited amount of memory.

    Args:
        memory_bytes: how much at most; three of four slots of 24 bytes are used. It begins with less: keys that lie
            close to each other are found faster.
        seed: 16 bytes that key the hash of long keys; by default random, so that nobody can make two keys meet.

    Attributes:
        table: the keys.
        latest: up to which offset the map is complete, -1 for a map of nothing.
    """

    def __init__(self, memory_bytes: int, seed: bytes | None = None) -> None:
        """Make an empty map. Raises MapTooSmallError where it would not hold a key."""
        if memory_bytes // KEY_SLOT_BYTES * 3 // 4 < 1:
            raise MapTooSmallError(
                f"{memory_bytes} bytes for the offset map do not hold a key",
                remedy=f"give it {2 * KEY_SLOT_BYTES} bytes or more",
            )
        self._memory_max = memory_bytes
        self._seed = os.urandom(_SEED_BYTES) if seed is None else seed
        self.table = self._new_table(min(memory_bytes, MEMORY_AT_FIRST))
        self.latest = -1

    def _new_table(self, memory_bytes: int) -> KeyTable:
        return KeyTable(map_memory(memory_bytes), self._seed)

    def larger(self) -> KeyTable | None:
        """An empty table of all the memory there may be; None where the one there is has it already."""
        has_all = self.table.slots >= self._memory_max // KEY_SLOT_BYTES
        return None if has_all else self._new_table(self._memory_max)

    def grow(self) -> bool:
        """Take all the memory there may be, keeping the keys; False where that is so already."""
        table = self.larger()
        if table is None:
            return False
        table.absorb(self.table)
        self.table = table
        return True

    def __repr__(self) -> str:
        return f"<OffsetMap {self.table.count} of {self.table.capacity} keys, complete up to {self.latest}>"

    def __len__(self) -> int:
        return self.table.count

    def put(self, key: bytes, offset: int) -> bool:
        """Note that a key has a record at an offset; False, and nothing done, in a full map."""
        while not self.table.put(key, offset):
            if not self.grow():
                return False
        self.latest = offset
        return True

    def get(self, key: bytes) -> int:
        """The latest offset of a key, -1 where it has none."""
        return self.table.get(key)

    def clear(self) -> None:
        """Forget everything."""
        self.table.clear()
        self.latest = -1

    @property
    def utilization(self) -> float:
        """How much of its slots is used, from 0 to 1."""
        return self.table.count / self.table.slots


def map_memory(size: int) -> memoryview:
    """Zeroed memory that is not touched before it is used, and given back as a whole."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)  # keys lie all over it: fewer pages are found faster
    return memoryview(memory)


def memory_for(offsets: int, memory_max: int) -> int:
    """Bytes of memory that a map of so many offsets takes at most, within `memory_max`."""
    return min(memory_max, (offsets * 4 // 3 + 2) * KEY_SLOT_BYTES)


class MapBuild(NamedTuple):
    """What building a map has found.

    Attributes:
        end_offset: the map is complete below it.
        records: how many records with an offset in the range were looked at.
        unkeyed: those of them without a key.
        bytes_read: of all segments.
        is_full: whether the map took no more keys before the end of the range.
    """

    end_offset: int
    records: int
    unkeyed: int
    bytes_read: int
    is_full: bool


def build_map(
    target: OffsetMap,
    sources: Sequence[SealedSegment],
    first_dirty_offset: int,
    end_offset: int,
    aborted: Iterable[AbortedTransaction],
    pace: Pace,
    size_max: int,
    checks_all: bool = False,
) -> MapBuild:
    """Put the keys of a range into a map, as many as it holds; records of aborted transactions do not count.

    Args:
        target: the map, empty.
        sources: the segments from the log's begin up to the end of the range.
        first_dirty_offset, end_offset: the range; it may begin in the middle of a batch.
        aborted: the aborted transactions of the log.
        size_max: bytes that a batch may hold decompressed.
        checks_all: whether the segments behind the one in which the map became full are checked, too.

    Segments below the range, and the rest of the one in which the map became full, are only checked. Raises
    DamagedLogError for what cannot be read, offsets out of order, and an abort that no transaction index knows of;
    CleaningAbortedError, OSError.
    """
    build = _Build(target, first_dirty_offset, end_offset, TransactionTracker(aborted), pace, size_max)
    return build.run(sources, checks_all=checks_all)


class _Build:
    def __init__(
        self, target: OffsetMap, start: int, end: int, tracker: TransactionTracker, pace: Pace, size_max: int
    ) -> None:
        self._map = target
        self._start, self._end = start, end
        self._tracker = tracker
        self._pace = pace
        self._size_max = size_max
        self._records = self._unkeyed = self._bytes = 0
        self._is_full = False
        self._expected = 0  # the least offset that can come next

    def run(self, sources: Sequence[SealedSegment], *, checks_all: bool) -> MapBuild:
        for source in sources:
            self._segment(source)
            if not self._is_full:
                # What lies between its last batch and the next segment is known, too: there is nothing.
                self._reach(source.facts.end_offset - 1)
            elif not checks_all:
                break
        end = max(self._start, self._map.latest + 1)
        return MapBuild(end, self._records, self._unkeyed, self._bytes, self._is_full)

    def _reach(self, offset: int) -> None:
        if offset >= self._start:
            self._map.latest = max(self._map.latest, min(offset, self._end - 1))

    def _segment(self, source: SealedSegment) -> None:
        reader = SourceReader(source, self._pace)
        self._expected = source.facts.base_offset
        while window := reader.window():
            start, status = 0, MapEnd.END
            while status in (MapEnd.END, MapEnd.OTHER):
                start, status = self._plain(window, start)
                reader.check_end(status, start)
                if status is MapEnd.FULL:
                    self._is_full = True
                    status = MapEnd.END
                    continue
                if status is not MapEnd.OTHER:
                    break
                batch = reader.batch_at(window, start)
                if batch is None:
                    break
                self._other(batch, reader, start)
                start += batch.header.size
            self._bytes += start
            reader.advance(start)

    def _plain(self, window: Buffer, start: int) -> tuple[int, MapEnd]:
        """Take plain batches; where the map is full, they are only checked."""
        first, end = (INT64_MAX, INT64_MAX) if self._is_full else (self._start, self._end)
        while True:
            start, latest, records, unkeyed, status, self._expected = map_plain_batches(
                self._map.table, window, start, len(window), first, end, self._expected
            )
            self._records += records
            self._unkeyed += unkeyed
            self._map.latest = max(self._map.latest, latest)
            if status != MapEnd.FULL or not self._map.grow():
                return start, MapEnd(status)

    def _other(self, batch: RecordBatch, reader: SourceReader, start: int) -> None:
        """Take a batch that is compressed, of a transaction, or of an old format."""
        header = batch.header
        if (header.base_offset if header.magic >= 2 else batch.last_offset) < self._expected:
            reader.check_end(MapEnd.ORDER, start)
        self._expected, is_unknown = batch.last_offset + 1, False
        try:
            if batch.is_control:
                is_unknown = self._sees_unknown_abort(batch)
            elif not self._tracker.is_aborted(header) and batch.last_offset >= self._start and not self._is_full:
                self._put(batch)
        except LogstoreError as error:
            raise reader.damage(error.reason, start) from error
        if is_unknown:
            raise reader.damage(
                f"the abort of producer {header.producer_id} is not in the transaction index", start,
                remedy="`logstore reindex` makes it anew from the batches",
            )
        if not self._is_full:
            self._reach(batch.last_offset)

    def _sees_unknown_abort(self, marker: RecordBatch) -> bool:
        """Take a control batch; whether it aborts a transaction with data that no index calls aborted."""
        control_type = marker.control_type(size_max=self._size_max)
        fate = self._tracker.see_marker(marker.header, control_type)
        return control_type is ControlType.ABORT and not fate.is_discardable and fate.aborted is None

    def _put(self, batch: RecordBatch) -> None:
        header = batch.header
        if header.magic < 2:
            latest = self._put_records(batch.records(size_max=self._size_max))
        else:
            body, start, end = batch.body(size_max=self._size_max)
            payload, self._is_full = memoryview(body)[start:end], True
            while self._is_full:
                latest, records, unkeyed, self._is_full = map_records(
                    self._map.table, payload, header.count, header.base_offset, self._start, self._end
                )
                if self._is_full and not self._map.grow():
                    break
            self._records += records
            self._unkeyed += unkeyed
        self._map.latest = max(self._map.latest, latest)

    def _put_records(self, records: list[Record]) -> int:
        latest = -1
        for record in records:
            if not self._start <= record.offset < self._end:
                continue
            if record.key is None:
                self._unkeyed += 1
            elif self._map.put(record.key, record.offset):
                latest = record.offset
            else:
                self._is_full = True
                break
            self._records += 1
        return latest
