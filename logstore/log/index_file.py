"""The writing side of the offset and the time index of one segment (FORMAT §4.1 to §4.3a).

A new index file is as large as it may become, filled with zeros, unless other processes may map it; what is used of
it is known here and nowhere on disk until `trim`. Entries are gathered and written a few at a time: a crash loses them,
and recovery of the active segment makes them anew. Not thread-safe: `SegmentIndexes` guards it.
"""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

from logstore.errors import CorruptIndexError
from logstore.fs import FileMap, FileSystem
from logstore.log.offset_index import OffsetIndexEntry
from logstore.log.time_index import TimeIndexEntry
from logstore.records.kernel import floor_entry

_GATHERED_MAX = 64  # entries
OFFSET_ENTRY = struct.Struct(">ii")  # relative offset, position. On disk; never change.
TIME_ENTRY = struct.Struct(">qi")  # timestamp, relative offset. On disk; never change.
OFFSET_ENTRY_BYTES = OFFSET_ENTRY.size
TIME_ENTRY_BYTES = TIME_ENTRY.size
# Width and place in an entry of the numbers that are searched.
OFFSET_KEY = (4, 0)
POSITION_KEY = (4, 4)
TIME_KEY = (8, 0)
TIME_OFFSET_KEY = (4, 8)
RELATIVE_OFFSET_MAX = 2**31 - 1


class IndexFile:
    """Fixed-size entries in a file that is made full size and trimmed at the end.

    Args:
        fs, path: where it is; it is created when it is not there.
        layout: the struct of an entry.
        bytes_max: how large it may become (segment.index.bytes).
        reserves: whether it is made that large at once. It is cut in the end then: not one that others may have mapped.

    Attributes:
        capacity: entries it has room for.
        last_fields: the fields of the last entry, None when there is none.
    """

    def __init__(
        self, fs: FileSystem, path: Path, layout: struct.Struct, bytes_max: int, *, reserves: bool = True
    ) -> None:
        self.path = path
        self._reserves = reserves
        self._layout = layout
        self._file = fs.open(path, write=True, create=True)
        self._written = self._file.size() // layout.size
        self._gathered = bytearray()
        self._map: FileMap | None = None
        self.last_fields = self.get(self._written - 1) if self._written else None
        self.capacity = self._written
        if not self._written:
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
        self.last_fields = fields
        if len(self._gathered) >= _GATHERED_MAX * self._layout.size:
            # What it belongs to is in the log already: it stays gathered, and whoever needs it on disk is told.
            with contextlib.suppress(OSError):
                self.write()

    def get(self, number: int) -> tuple[int, ...]:
        """The fields of entry `number`."""
        if number >= self._written:
            return self._layout.unpack_from(self._gathered, (number - self._written) * self._layout.size)
        size = self._layout.size
        if self._map is not None and (number + 1) * size <= len(self._map.view):
            return self._layout.unpack_from(self._map.view, number * size)
        data = self._file.read(number * size, size)
        if len(data) < size:
            raise self._became_shorter()
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

    def resize(self, bytes_max: int) -> bool:
        """Make the file as large as it may become, zeros behind the used entries; whether that changed anything."""
        capacity = max(bytes_max // self._layout.size, len(self))
        if not self._reserves and capacity > len(self):
            self.capacity = capacity
            return False
        if capacity == self.capacity and self._file.size() == capacity * self._layout.size:
            return False
        self._map = None  # never shorten a mapped file
        self._file.truncate(capacity * self._layout.size)
        self.capacity = capacity
        return True

    def trim(self) -> None:
        """Cut the file to the used entries."""
        self.write()
        self.resize(0)

    def keep(self, count: int) -> None:
        """Drop all entries but the first `count`; the bytes of the others become zeros.

        They are dropped also where that raises OSError: what is left of them on disk is written over or cut.
        """
        if count >= len(self):
            return
        self.last_fields = self.get(count - 1) if count else None
        if count >= self._written:
            del self._gathered[(count - self._written) * self._layout.size :]
            return
        dropped = self._written - count
        self._gathered.clear()
        self._written = count
        self._file.write(count * self._layout.size, bytes(dropped * self._layout.size))

    def close(self) -> None:
        """Write what was gathered and give the file back."""
        self._map = None
        try:
            self.write()
        finally:
            self._file.close()

    def floor(self, target: int, width: int, at: int) -> int:
        """The last entry whose number of `width` bytes, `at` bytes into it, is at most `target`; -1 if none is."""
        size = self._layout.size
        gathered = len(self._gathered) // size
        if gathered:
            found = floor_entry(self._gathered, gathered, size, width, at, target)
            if found >= 0:
                return self._written + found
        if not self._written:
            return -1
        if self._map is None or len(self._map.view) < self._written * size:
            self._map = self._file.map()
            if len(self._map.view) < self._written * size:
                raise self._became_shorter()
        return floor_entry(self._map.view, self._written, size, width, at, target)

    def _became_shorter(self) -> CorruptIndexError:
        return CorruptIndexError(f"the index became shorter than its {self._written} entries", path=self.path)


class OffsetIndexFile(IndexFile):
    """Last offset of an append, and the position of its start."""

    def __init__(
        self, fs: FileSystem, path: Path, base_offset: int, bytes_max: int, *, reserves: bool = True
    ) -> None:
        super().__init__(fs, path, OFFSET_ENTRY, bytes_max, reserves=reserves)
        self.base_offset = base_offset

    @property
    def is_full(self) -> bool:
        """Whether no entry fits any more."""
        return len(self) >= self.capacity

    @property
    def last(self) -> OffsetIndexEntry:
        """The last entry; (base offset, 0) when there is none."""
        fields = self.last_fields
        return OffsetIndexEntry(self.base_offset + fields[0], fields[1]) if fields else self._entry(-1)

    def append(self, offset: int, position: int) -> None:
        """Add an entry. Raises ValueError when full, when the offset does not ascend, or is out of the segment."""
        last = self.last_fields
        if last is not None and offset - self.base_offset <= last[0]:
            raise ValueError(f"offset {offset} does not ascend behind {self.last.offset}")
        if not 0 <= offset - self.base_offset <= RELATIVE_OFFSET_MAX:
            raise ValueError(f"offset {offset} is not in the range of segment {self.base_offset}")
        self.put(offset - self.base_offset, position)

    def lookup(self, offset: int) -> OffsetIndexEntry:
        """The entry with the greatest offset up to `offset`, else (base offset, 0)."""
        return self._entry(self.floor(offset - self.base_offset, *OFFSET_KEY))

    def truncate_to(self, offset: int) -> None:
        """Drop entries at or above `offset`."""
        self.keep(self.floor(offset - self.base_offset - 1, *OFFSET_KEY) + 1)

    def _entry(self, number: int) -> OffsetIndexEntry:
        if number < 0:
            return OffsetIndexEntry(self.base_offset, 0)
        relative, position = self.get(number)
        return OffsetIndexEntry(self.base_offset + relative, position)


class TimeIndexFile(IndexFile):
    """The largest timestamp so far, and the offset that had it."""

    def __init__(
        self, fs: FileSystem, path: Path, base_offset: int, bytes_max: int, *, reserves: bool = True
    ) -> None:
        super().__init__(fs, path, TIME_ENTRY, bytes_max, reserves=reserves)
        self.base_offset = base_offset

    @property
    def is_full(self) -> bool:
        """Whether only the slot for the last entry, written at roll and close, is left."""
        return len(self) >= self.capacity - 1

    @property
    def last(self) -> TimeIndexEntry:
        """The last entry; (-1, base offset) when there is none."""
        fields = self.last_fields
        return TimeIndexEntry(fields[0], self.base_offset + fields[1]) if fields else self._entry(-1)

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
        return self._entry(self.floor(timestamp, *TIME_KEY))

    def truncate_to(self, offset: int) -> None:
        """Drop entries at or above `offset`."""
        self.keep(self.floor(offset - self.base_offset - 1, *TIME_OFFSET_KEY) + 1)

    def _entry(self, number: int) -> TimeIndexEntry:
        if number < 0:
            return TimeIndexEntry(-1, self.base_offset)
        timestamp, relative = self.get(number)
        return TimeIndexEntry(timestamp, self.base_offset + relative)
