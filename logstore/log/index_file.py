"""The writing side of the offset and the time index of one segment (FORMAT §4.1 to §4.3a).

A new index file is as large as it may become, filled with zeros; what is used of it is known here and nowhere on disk
until `trim`. Entries are gathered and written a few at a time: a crash loses them, and recovery of the active segment
makes them anew. Not thread-safe: the log's lock guards it.
"""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

from logstore.errors import CorruptIndexError
from logstore.fs import FileSystem
from logstore.log.offset_index import OffsetIndexEntry
from logstore.log.time_index import TimeIndexEntry

_GATHERED_MAX = 64  # entries
_OFFSET_ENTRY = struct.Struct(">ii")  # relative offset, position. On disk; never change.
_TIME_ENTRY = struct.Struct(">qi")  # timestamp, relative offset. On disk; never change.
TIME_ENTRY_BYTES = _TIME_ENTRY.size
RELATIVE_OFFSET_MAX = 2**31 - 1


class IndexFile:
    """Fixed-size entries in a file that is made full size and trimmed at the end.

    Args:
        fs, path: where it is; it is created when it is not there.
        layout: the struct of an entry.
        bytes_max: how large it may become (segment.index.bytes).
    """

    def __init__(self, fs: FileSystem, path: Path, layout: struct.Struct, bytes_max: int) -> None:
        self.path = path
        self._layout = layout
        is_new = not fs.exists(path)
        self._file = fs.open(path, write=True, create=True)
        self._written = 0 if is_new else self._file.size() // layout.size
        self._gathered = bytearray()
        self.capacity = self._written
        if is_new:
            self.resize(bytes_max)

    def __len__(self) -> int:
        return self._written + len(self._gathered) // self._layout.size

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path.name} entries {len(self)} of {self.capacity}>"

    def put(self, *fields: int) -> None:
        """Add an entry. Raises ValueError when the index is full."""
        if len(self) >= self.capacity:
            raise ValueError(f"{self.path.name} is full at {self.capacity} entries")
        self._gathered += self._layout.pack(*fields)
        if len(self._gathered) >= _GATHERED_MAX * self._layout.size:
            # What it belongs to is in the log already: it stays gathered, and whoever needs it on disk is told.
            with contextlib.suppress(OSError):
                self.write()

    def get(self, number: int) -> tuple[int, ...]:
        """The fields of entry `number`."""
        if number >= self._written:
            return self._layout.unpack_from(self._gathered, (number - self._written) * self._layout.size)
        data = self._file.read(number * self._layout.size, self._layout.size)
        if len(data) < self._layout.size:
            raise CorruptIndexError("the index became shorter", path=self.path, position=number * self._layout.size)
        return self._layout.unpack(data)

    def write(self) -> None:
        """Write what was gathered. Not durable until `sync`."""
        if self._gathered:
            self._file.write(self._written * self._layout.size, bytes(self._gathered))
            self._written += len(self._gathered) // self._layout.size
            self._gathered.clear()

    def sync(self) -> None:
        """Write what was gathered and make it durable."""
        self.write()
        self._file.sync()

    def resize(self, bytes_max: int) -> None:
        """Make the file as large as it may become, zeros behind the used entries."""
        self.write()
        self.capacity = max(bytes_max // self._layout.size, self._written)
        self._file.truncate(self.capacity * self._layout.size)

    def trim(self) -> None:
        """Cut the file to the used entries."""
        self.resize(0)

    def keep(self, count: int) -> None:
        """Drop all entries but the first `count`; the bytes of the others become zeros."""
        self.write()
        if count < self._written:
            capacity = self.capacity
            self._written = count
            self._file.truncate(count * self._layout.size)
            self.resize(capacity * self._layout.size)

    def close(self) -> None:
        """Write what was gathered and give the file back."""
        try:
            self.write()
        finally:
            self._file.close()

    def floor(self, target: int, field: int) -> int:
        """The last entry whose `field` is at most `target`, or -1."""
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self.get(middle)[field] <= target:
                low = middle + 1
            else:
                high = middle
        return low - 1


class OffsetIndexFile(IndexFile):
    """Last offset of an append, and the position of its start."""

    def __init__(self, fs: FileSystem, path: Path, base_offset: int, bytes_max: int) -> None:
        super().__init__(fs, path, _OFFSET_ENTRY, bytes_max)
        self.base_offset = base_offset

    @property
    def is_full(self) -> bool:
        """Whether no entry fits any more."""
        return len(self) >= self.capacity

    @property
    def last(self) -> OffsetIndexEntry:
        """The last entry; (base offset, 0) when there is none."""
        return self._entry(len(self) - 1)

    def append(self, offset: int, position: int) -> None:
        """Add an entry. Raises ValueError when full, when the offset does not ascend, or is out of the segment."""
        if len(self) and offset <= self.last.offset:
            raise ValueError(f"offset {offset} does not ascend behind {self.last.offset}")
        if not 0 <= offset - self.base_offset <= RELATIVE_OFFSET_MAX:
            raise ValueError(f"offset {offset} is not in the range of segment {self.base_offset}")
        self.put(offset - self.base_offset, position)

    def lookup(self, offset: int) -> OffsetIndexEntry:
        """The entry with the greatest offset up to `offset`, else (base offset, 0)."""
        return self._entry(self.floor(offset - self.base_offset, 0))

    def truncate_to(self, offset: int) -> None:
        """Drop entries at or above `offset`."""
        self.keep(self.floor(offset - self.base_offset - 1, 0) + 1)

    def _entry(self, number: int) -> OffsetIndexEntry:
        if number < 0:
            return OffsetIndexEntry(self.base_offset, 0)
        relative, position = self.get(number)
        return OffsetIndexEntry(self.base_offset + relative, position)


class TimeIndexFile(IndexFile):
    """The largest timestamp so far, and the offset that had it."""

    def __init__(self, fs: FileSystem, path: Path, base_offset: int, bytes_max: int) -> None:
        super().__init__(fs, path, _TIME_ENTRY, bytes_max)
        self.base_offset = base_offset

    @property
    def is_full(self) -> bool:
        """Whether only the slot for the last entry, written at roll and close, is left."""
        return len(self) >= self.capacity - 1

    @property
    def last(self) -> TimeIndexEntry:
        """The last entry; (-1, base offset) when there is none."""
        return self._entry(len(self) - 1)

    def maybe_append(self, timestamp: int, offset: int, *, is_final: bool = False) -> None:
        """Add an entry if its timestamp is larger than the last. Raises ValueError when full (unless `is_final`)."""
        last = self.last
        if self.is_full and not is_final:
            raise ValueError(f"{self.path.name} is full at {len(self)} entries")
        if len(self) and (offset < last.offset or timestamp < last.timestamp):
            raise ValueError(f"entry ({timestamp}, {offset}) does not ascend behind {tuple(last)}")
        if timestamp > last.timestamp:
            self.put(timestamp, offset - self.base_offset)

    def lookup(self, timestamp: int) -> TimeIndexEntry:
        """The entry with the greatest timestamp up to `timestamp`, else (-1, base offset)."""
        return self._entry(self.floor(timestamp, 0))

    def truncate_to(self, offset: int) -> None:
        """Drop entries at or above `offset`."""
        self.keep(self.floor(offset - self.base_offset - 1, 1) + 1)

    def _entry(self, number: int) -> TimeIndexEntry:
        if number < 0:
            return TimeIndexEntry(-1, self.base_offset)
        timestamp, relative = self.get(number)
        return TimeIndexEntry(timestamp, self.base_offset + relative)
