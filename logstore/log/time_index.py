"""The time index of a segment (`<base>.timeindex`): timestamp -> offset, read from bytes.

An entry says: no record up to `offset` has a larger timestamp. Timestamps increase strictly, offsets do not decrease.
Like the offset index it has no header and no checksum, and may end in preallocated zeros, which the view leaves out.
Immutable, therefore thread-safe, as long as nobody changes the buffer underneath.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from logstore.errors import CorruptIndexError
from logstore.log.offset_index import check_whole_entries, index_extent

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

#  0                8        12
#  | i64            | i32    |     big-endian; on disk, never change
#  | timestamp (ms) | offset |     offset is counted from the segment's base offset
#  |                | - base |
_ENTRY = struct.Struct(">qi")
assert _ENTRY.size == 12

_NO_TIMESTAMP = -1


class TimeIndexEntry(NamedTuple):
    """`timestamp` (milliseconds since the epoch) is the largest of all records of the segment up to `offset`."""

    timestamp: int
    offset: int


class TimeIndex:
    """A read-only view of the used entries of a time index; it copies nothing.

    Args:
        buffer: the whole file; a mapped file cannot be closed while the view lives.
        base_offset: the segment's, from the file's name.
    """

    __slots__ = ("_entries", "base_offset", "extent")

    def __init__(self, buffer: Buffer, base_offset: int) -> None:
        self.base_offset = base_offset
        self.extent = index_extent(buffer, _ENTRY.size)
        self._entries = memoryview(buffer).cast("B").toreadonly()[: self.extent.entry_count * _ENTRY.size]

    def __len__(self) -> int:
        return self.extent.entry_count

    def __iter__(self) -> Iterator[TimeIndexEntry]:
        base_offset, make = self.base_offset, TimeIndexEntry._make
        for timestamp, relative_offset in _ENTRY.iter_unpack(self._entries):
            yield make((timestamp, base_offset + relative_offset))

    def __repr__(self) -> str:
        return f"TimeIndex(base_offset={self.base_offset}, {self.extent}, last={self.last})"

    def entry(self, number: int) -> TimeIndexEntry:
        """Return the entry in slot `number`, counted from 0.

        Raises:
            IndexError: there is no such used entry.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"entry {number} of a time index with {len(self)} entries")
        timestamp, relative_offset = _ENTRY.unpack_from(self._entries, number * _ENTRY.size)
        return TimeIndexEntry(timestamp, self.base_offset + relative_offset)

    @property
    def last(self) -> TimeIndexEntry:
        """The last used entry: the largest timestamp of a closed segment; (-1, base offset) if there is none."""
        return self.entry(len(self) - 1) if len(self) else TimeIndexEntry(_NO_TIMESTAMP, self.base_offset)

    def lookup(self, timestamp: int) -> TimeIndexEntry:
        """Return the entry with the greatest timestamp <= `timestamp` (ms), else (-1, base offset).

        In a damaged index (timestamps do not increase) some entry is returned (FORMAT.md §4.3).
        """
        found = bisect_right(range(len(self)), timestamp, key=lambda number: self.entry(number).timestamp)
        return self.entry(found - 1) if found else TimeIndexEntry(_NO_TIMESTAMP, self.base_offset)

    def sanity_check(self) -> None:
        """Check what Kafka's dump tool checks (FORMAT.md §4.3); whether the entries are right is not looked at.

        Raises:
            CorruptIndexError: the last timestamp is below the first, the last offset is below the base offset, or the
                size is not a multiple of 12.
        """
        if len(self):
            first, last, position = self.entry(0), self.last, (len(self) - 1) * _ENTRY.size
            if last.timestamp < first.timestamp:
                raise CorruptIndexError(
                    f"the last timestamp of the time index, {last.timestamp}, is below its first, {first.timestamp}",
                    position=position,
                )
            if last.offset < self.base_offset:
                raise CorruptIndexError(
                    f"the last offset of the time index, {last.offset}, is below its base offset {self.base_offset}",
                    position=position,
                )
        check_whole_entries(self.extent, _ENTRY.size)
