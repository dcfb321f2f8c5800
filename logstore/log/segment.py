"""One segment that is written: a log file, and the indexes beside it (FORMAT §4.3a, LOG_SEMANTICS §3.2, §5).

Invariant: `size` is the end of the last whole batch; what lies behind it in the file is nobody's. Index files are made
when the first entry is due. Not thread-safe: the log's lock guards writing; `read` takes a limit below which nothing
changes and may run beside an append.
"""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import NamedTuple

from logstore import names
from logstore.config import LogConfig
from logstore.fs import File, FileSystem
from logstore.log.index_file import RELATIVE_OFFSET_MAX, TIME_ENTRY_BYTES, OffsetIndexFile, TimeIndexFile
from logstore.records import BatchHeader, BatchScanner, Damage, DamageCode, RecordBatch
from logstore.records.kernel import walk_batches

_WALK_BYTES = 1 << 16  # read at a time when looking for the batch of an offset
_FILE_SIZE_MAX = 2**31 - 1


class Located(NamedTuple):
    """Where a batch lies."""

    position: int
    size: int


@dataclasses.dataclass(frozen=True, slots=True)
class SegmentRecovery:
    """What recovering a segment found: bytes kept, bytes behind them, and why those were not (None: nothing cut)."""

    kept: int
    cut: int
    reason: DamageCode | None


class Segment:
    """A segment.

    Args:
        fs, directory: where it lies.
        base_offset: its first offset, and its name.
        config: index sizes and intervals are taken from it when the segment is opened.
        created_ms: when, for rolling by time (ms since the epoch).
        is_new: whether the file is made now; otherwise all of it is believed until `recover` says better.
    """

    def __init__(
        self, fs: FileSystem, directory: Path, base_offset: int, config: LogConfig, created_ms: int, *, is_new: bool
    ) -> None:
        self.base_offset = base_offset
        self.created_ms = created_ms
        self.first_timestamp: int | None = None
        self.max_timestamp = -1
        self.max_timestamp_offset = base_offset
        self.leader_epoch = -1
        self._fs = fs
        self._directory = directory
        self._config = config
        self._bytes_since_entry = 0
        self._opened: File | None = None
        self._offset_index: OffsetIndexFile | None = None
        self._time_index: TimeIndexFile | None = None
        self.path = directory / names.log_file_name(base_offset)
        self.size = 0
        if is_new:
            self._opened = fs.open(self.path, write=True, create=True, exclusive=True)
            if config.preallocate:
                self._file.truncate(config.segment_bytes)
        else:
            with fs.open(self.path) as file:
                self.size = file.size()

    def __repr__(self) -> str:
        return f"<Segment {self.base_offset} size {self.size} of {self._directory}>"

    @property
    def _file(self) -> File:
        """The log file, opened when it is first needed, so that a log of many segments holds few descriptors."""
        if self._opened is None:
            self._opened = self._fs.open(self.path, write=True)
        return self._opened

    @property
    def index_paths(self) -> tuple[Path, Path]:
        """Where the offset and the time index are, or would be."""
        base = self.base_offset
        return (
            self._directory / names.offset_index_file_name(base),
            self._directory / names.time_index_file_name(base),
        )

    @property
    def _index_bytes(self) -> int:
        """How large an index may become: at least the time entry that sealing writes fits."""
        return max(self._config.segment_index_bytes, TIME_ENTRY_BYTES)

    @property
    def offset_index(self) -> OffsetIndexFile:
        """The offset index, opened or made now if it was not yet."""
        if self._offset_index is None:
            path = self.index_paths[0]
            self._offset_index = OffsetIndexFile(self._fs, path, self.base_offset, self._index_bytes)
        return self._offset_index

    @property
    def time_index(self) -> TimeIndexFile:
        """The time index, opened or made now if it was not yet."""
        if self._time_index is None:
            path = self.index_paths[1]
            self._time_index = TimeIndexFile(self._fs, path, self.base_offset, self._index_bytes)
        return self._time_index

    # ---- writing

    def should_roll(self, size: int, last_offset: int, max_timestamp: int, now_ms: int, jitter_ms: int) -> bool:
        """Whether an append of `size` bytes belongs into a new segment (LOG_SEMANTICS §5, the exact inequalities)."""
        if self.size > self._config.segment_bytes - size:
            return True
        if not 0 <= last_offset - self.base_offset <= RELATIVE_OFFSET_MAX:
            return True
        if self.size == 0:
            return False
        first = self.first_timestamp
        waited = max_timestamp - first if first is not None and first >= 0 else now_ms - self.created_ms
        if waited > self._config.effective_segment_ms - jitter_ms:
            return True
        return self.offset_index.is_full or self.time_index.is_full

    def append(
        self, data: bytes | bytearray | memoryview, last_offset: int, max_timestamp: int, offset_of_max: int
    ) -> int:
        """Write whole batches behind the last one, in one write; the position they were written at.

        In the page cache on return; `sync` makes it durable. Raises OSError, after which the segment is as before.
        """
        position = self.size
        if not 0 <= last_offset - self.base_offset <= RELATIVE_OFFSET_MAX:
            raise ValueError(f"offset {last_offset} is not in the range of segment {self.base_offset}")
        if position + len(data) > _FILE_SIZE_MAX:
            raise ValueError(f"segment {self.base_offset} would grow beyond {_FILE_SIZE_MAX} bytes")
        if position == 0:
            _ = self.offset_index, self.time_index  # the files exist from the first append on
        self._file.write(position, data)
        if position == 0:
            self.first_timestamp = max_timestamp
        if max_timestamp > self.max_timestamp:
            self.max_timestamp, self.max_timestamp_offset = max_timestamp, offset_of_max
        if self._bytes_since_entry > self._config.index_interval_bytes:
            self._put_entries(last_offset, position)
        self._bytes_since_entry += len(data)
        self.size = position + len(data)
        return position

    def sync(self) -> None:
        """Make all that was appended durable, indexes included. Raises OSError."""
        self._file.sync()
        for index in (self._offset_index, self._time_index):
            if index is not None:
                index.sync()

    def seal(self) -> None:
        """Write the last time entry and cut log and indexes to what is used (roll and close)."""
        if self.size:
            self.time_index.maybe_append(self.max_timestamp, self.max_timestamp_offset, is_final=True)
        for index in (self._offset_index, self._time_index):
            if index is not None:
                index.trim()
        if self._file.size() > self.size:
            self._file.truncate(self.size)

    def close(self) -> None:
        """Give the files back; nothing is sealed or synced. Reading opens them again."""
        files = (self._opened, self._offset_index, self._time_index)
        self._opened = self._offset_index = self._time_index = None
        with contextlib.ExitStack() as stack:
            for file in files:
                if file is not None:
                    stack.callback(file.close)

    def resume(self) -> None:
        """Make room in the indexes of a segment that was closed cleanly, to append to it again."""
        for index in (self.offset_index, self.time_index):
            index.resize(self._index_bytes)

    def _put_entries(self, last_offset: int, position: int) -> None:
        self.offset_index.append(last_offset, position)
        self.time_index.maybe_append(self.max_timestamp, self.max_timestamp_offset)
        self._bytes_since_entry = 0

    # ---- reading

    def read_bytes(self, position: int, size: int) -> bytes:
        """At most `size` bytes from `position`, as they are."""
        return self._file.read(position, size)

    def locate(self, offset: int, limit: int) -> Located | None:
        """The first batch below position `limit` whose last offset is `offset` or more; None if there is none."""
        position = self.offset_index.lookup(offset).position if self.size else 0
        while position < limit:
            window = self._file.read(position, min(_WALK_BYTES, limit - position))
            headers, stop, _ = walk_batches(window, 0, len(window), position, False)
            for header in headers:
                if header.base_offset + header.last_offset_delta >= offset:
                    return Located(header.position, header.size)
            if not headers:
                return self._locate_large(position, window, offset, limit)
            position += stop
        return None

    def _locate_large(self, position: int, window: bytes, offset: int, limit: int) -> Located | None:
        """Go on from a batch that is larger than a window."""
        while len(window) >= 12 and position < limit:
            size = 12 + int.from_bytes(window[8:12], "big")
            base, delta = int.from_bytes(window[:8], "big"), int.from_bytes(window[23:27], "big")
            if size > limit - position:
                return None
            if base + delta >= offset:
                return Located(position, size)
            position += size
            window = self._file.read(position, min(61, limit - position))
        return None

    # ---- opening and recovery

    def load_end(self) -> int:
        """Find the offset behind the last batch, from the last index entry on; no CRC is checked."""
        last = self.offset_index.last if self.size else None
        position = 0 if last is None else last.position
        next_offset = self.base_offset if last is None or not len(self.offset_index) else last.offset + 1
        self.max_timestamp, self.max_timestamp_offset = self.time_index.last if self.size else (-1, self.base_offset)
        for found in BatchScanner(self, start=position, end=self.size, verify=False):
            if isinstance(found, RecordBatch):
                next_offset = max(next_offset, found.next_offset)
                self._note(found.header, found.last_offset)
        head = self._file.read(0, 61)
        self.first_timestamp = int.from_bytes(head[35:43], "big", signed=True) if len(head) == 61 else None
        return next_offset

    def recover(self) -> SegmentRecovery:
        """Check every batch and make the indexes anew (LOG_SEMANTICS §11.1).

        What cannot be trusted stays behind `size`; the file is not cut yet: the caller keeps aside what lies behind.
        """
        file_size = self._file.size()
        for index in (self.offset_index, self.time_index):
            index.keep(0)
            index.resize(self._index_bytes)
        self.size, self.max_timestamp, self.first_timestamp = 0, -1, None
        next_offset, indexed, reason = self.base_offset, 0, None
        for found in BatchScanner(self, end=file_size, offset_min=self.base_offset):
            if isinstance(found, Damage):
                reason = found.code
                break
            header = found.header
            if header.base_offset < next_offset or found.last_offset - self.base_offset > RELATIVE_OFFSET_MAX:
                reason = DamageCode.BATCH_SIZE
                break
            if self.size == 0:
                self.first_timestamp = header.max_timestamp
            self._note(header, found.last_offset)
            is_full = self.offset_index.is_full or self.time_index.is_full  # made smaller since: it stays sparse
            if header.position - indexed > self._config.index_interval_bytes and not is_full:
                self._put_entries(found.last_offset, header.position)
                indexed = header.position
            self.size = header.position + header.size
            next_offset = found.next_offset
        self._bytes_since_entry = self.size - indexed
        return SegmentRecovery(self.size, file_size - self.size, reason)

    def cut(self) -> None:
        """Cut the file behind the last whole batch."""
        self._file.truncate(self.size)

    def read(self, position: int, size: int) -> bytes:
        """The protocol of a scan's source."""
        return self._file.read(position, size)

    def _note(self, header: BatchHeader, last_offset: int) -> None:
        self.leader_epoch = max(self.leader_epoch, header.leader_epoch)
        if header.max_timestamp > self.max_timestamp:
            self.max_timestamp, self.max_timestamp_offset = header.max_timestamp, last_offset
