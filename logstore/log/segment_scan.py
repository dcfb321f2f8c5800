"""One pass over the log file of a segment that believes nothing: what can be trusted, and the indexes it should have
(LOG_SEMANTICS §11.1, FORMAT §4.3a).

Changes nothing. Every batch is framed, its CRC checked, its offsets held against those before it; index entries are
gathered in memory (at most 1/200 of the file with the default interval). Not thread-safe; a scan belongs to one thread.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

from logstore.config import LogConfig
from logstore.errors import CorruptRecordError, InvalidRecordError
from logstore.fs import Buffer
from logstore.log.index_file import (
    OFFSET_ENTRY,
    OFFSET_ENTRY_BYTES,
    RELATIVE_OFFSET_MAX,
    TIME_ENTRY,
    TIME_ENTRY_BYTES,
)
from logstore.records import BATCH_BYTES_MAX, BatchHeader, BatchScanner, Damage, RecordBatch
from logstore.records.kernel import walk_batches

_WINDOW_BYTES = 1 << 19  # read at a time; stays in the processor's cache
_NEVER = 2**63  # more than a batch can say


class Source(Protocol):
    """Where a scan reads from."""

    def read(self, position: int, size: int) -> bytes:
        """At most `size` bytes from `position`."""

    def size(self) -> int:
        """Bytes there are."""


class SizedSource:
    """A source as `BatchScanner` wants it: how large it is is settled once.

    Args:
        source: is read.
        size: where it ends, by default at its size now (bytes).
    """

    __slots__ = ("_source", "size")

    def __init__(self, source: Source, size: int | None = None) -> None:
        self._source = source
        self.size = source.size() if size is None else size

    def read(self, position: int, size: int) -> bytes:
        """At most `size` bytes from `position`; raises as the source."""
        return self._source.read(position, size)


class Observer(Protocol):
    """Who wants to know of batches that change more than the indexes."""

    @property
    def latest_epoch(self) -> int:
        """The latest leader epoch it knows of; batches of a later one are shown."""

    def see(self, batch: RecordBatch) -> None:
        """A batch of a producer, or of a later epoch; batches come in order."""


@dataclasses.dataclass(slots=True)
class SegmentScan:
    """What a scan found.

    `valid_size` is the end of the last batch that can be trusted, `next_offset` what follows it; `problem` says why the
    scan ended before the end of the file (None: it did not). `overflows` is the position of the first batch whose
    offsets are out of the segment's range, if there is one: the segment has to be split there.
    """

    base_offset: int
    file_size: int
    next_offset: int
    valid_size: int = 0
    count: int = 0
    problem: str | None = None
    overflows: int | None = None
    first_timestamp: int | None = None
    max_timestamp: int = -1
    offset_of_max: int = 0
    offset_entries: bytearray = dataclasses.field(default_factory=bytearray, repr=False)
    time_entries: bytearray = dataclasses.field(default_factory=bytearray, repr=False)

    @property
    def cut(self) -> int:
        """Bytes that cannot be trusted."""
        return self.file_size - self.valid_size


def scan_segment(
    source: Source, base_offset: int, config: LogConfig, observer: Observer | None = None
) -> SegmentScan:
    """Walk all of a segment's log file. Raises OSError, and what `observer` raises.

    A batch of which the observer says that it is no batch (CorruptRecordError, InvalidRecordError) ends the scan.
    """
    return _Scan(source, base_offset, config, observer).run()


class _Scan:
    def __init__(self, source: Source, base_offset: int, config: LogConfig, observer: Observer | None) -> None:
        self._source = source
        self._observer = observer
        self._interval = config.index_interval_bytes
        self._offset_bytes_max = config.segment_index_bytes // OFFSET_ENTRY_BYTES * OFFSET_ENTRY_BYTES
        # One slot is for the entry that sealing adds.
        self._time_bytes_max = max(config.segment_index_bytes // TIME_ENTRY_BYTES - 1, 0) * TIME_ENTRY_BYTES
        self._indexed = 0
        self._last_indexed_time = -1
        self.found = SegmentScan(base_offset, source.size(), base_offset, offset_of_max=base_offset)

    def run(self) -> SegmentScan:
        found = self.found
        while found.valid_size < found.file_size and found.problem is None and found.overflows is None:
            start = found.valid_size
            window = self._source.read(start, min(_WINDOW_BYTES, found.file_size - start))
            headers, _, _ = walk_batches(window, 0, len(window), start, True)
            if headers:
                self._take(headers, window, start)
            else:
                self._look_closer(start)
        if self._last_indexed_time < found.max_timestamp:
            found.time_entries += TIME_ENTRY.pack(found.max_timestamp, found.offset_of_max - found.base_offset)
        return found

    def _take(self, headers: list[BatchHeader], window: Buffer | None, window_start: int) -> None:
        """Note the batches of one window, up to the first that is out of place."""
        found, observer, interval = self.found, self._observer, self._interval
        latest_epoch = observer.latest_epoch if observer is not None else _NEVER
        producer_min = 0 if observer is not None else _NEVER
        offset_min, offset_max = found.next_offset, found.base_offset + RELATIVE_OFFSET_MAX
        max_timestamp, indexed, end = found.max_timestamp, self._indexed, found.valid_size
        for header in headers:
            position, size, base, epoch, _, _, _, delta, _, timestamp, producer_id, _, _, _ = header
            last = base + delta
            if base < offset_min or delta < 0:
                found.problem = f"a batch begins at offset {base}, where {offset_min} or more belongs"
                break
            if last > offset_max:
                found.overflows = position
                break
            if (producer_id >= producer_min or epoch > latest_epoch) and observer is not None:
                try:
                    observer.see(RecordBatch(header, window, position - window_start))
                except (CorruptRecordError, InvalidRecordError) as error:
                    found.problem = error.reason
                    break
                latest_epoch = observer.latest_epoch
            if timestamp > max_timestamp:
                max_timestamp = found.max_timestamp = timestamp
                found.offset_of_max = last
            if position - indexed > interval:
                self._put_entries(last, position)
                indexed = position
            end, offset_min = position + size, last + 1
            found.count += 1
        if not found.valid_size and end:
            found.first_timestamp = headers[0].max_timestamp
        found.valid_size, found.next_offset, self._indexed = end, offset_min, indexed

    def _put_entries(self, last_offset: int, position: int) -> None:
        """Add entries to both indexes, if they take them; they do not where they were made smaller since."""
        found = self.found
        if len(found.offset_entries) >= self._offset_bytes_max or len(found.time_entries) >= self._time_bytes_max:
            return
        found.offset_entries += OFFSET_ENTRY.pack(last_offset - found.base_offset, position)
        if found.max_timestamp > self._last_indexed_time:
            found.time_entries += TIME_ENTRY.pack(found.max_timestamp, found.offset_of_max - found.base_offset)
            self._last_indexed_time = found.max_timestamp

    def _look_closer(self, start: int) -> None:
        """What stands at `start` is larger than a window, or no batch that can be trusted."""
        sized = SizedSource(self._source, self.found.file_size)
        for one in BatchScanner(sized, start=start, offset_min=self.found.next_offset):
            if isinstance(one, Damage):
                self.found.problem = one.reason
            elif one.header.size > _WINDOW_BYTES:
                # Of a batch above the cap nobody needs more than the header: those are never control batches.
                self._take([one.header], one.raw if one.header.size <= BATCH_BYTES_MAX else None, start)
            return
