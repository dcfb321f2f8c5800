"""The offset index of a segment (`<base>.index`): offset -> position in the segment's log, read from bytes.

An entry names the last offset of an append and the position where that append starts; offsets increase strictly.
The file has no header and no checksum, and while its segment is written it is longer than its content: a tail of
zeros. The view stops before that tail, so that a search is right on the index of a live broker too.
Immutable, therefore thread-safe, as long as nobody changes the buffer underneath.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from logstore.errors import CorruptIndexError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

#  0        4        8
#  | i32    | i32    |     big-endian; on disk, never change
#  | offset | posi-  |     offset is counted from the segment's base offset
#  | - base | tion   |
_ENTRY = struct.Struct(">ii")
assert _ENTRY.size == 8

_CHUNK_BYTES = 65536


class OffsetIndexEntry(NamedTuple):
    """`offset` is the last one of the append that starts at byte `position` of the segment's log."""

    offset: int
    position: int


class IndexExtent(NamedTuple):
    """How the bytes of an index file divide: used entries, whole entries of zero padding, bytes of a partial entry."""

    entry_count: int
    padding_count: int
    trailing_size: int


def index_extent(buffer: Buffer, entry_size: int) -> IndexExtent:
    """Separate the used entries of an offset or time index from the zero-filled tail that was preallocated.

    Padding is what follows the last entry that is not all zero: no entry but the first can be all zero, because
    offsets (or timestamps) increase. Zero entries between others are damage, not padding, and are counted as used.
    A file of several entries, all zero, was preallocated and never used; a file of exactly one, all zero, holds that
    entry (base offset, position or time 0), because Kafka trims an index only to what it uses.
    """
    with memoryview(buffer).cast("B") as view:
        capacity, trailing_size = divmod(len(view), entry_size)
        end = _end_of_content(view, capacity * entry_size)
    entry_count = -(-end // entry_size)
    if capacity == 1:
        entry_count = 1
    return IndexExtent(entry_count, capacity - entry_count, trailing_size)


class OffsetIndex:
    """A read-only view of the used entries of an offset index; it copies nothing.

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

    def __iter__(self) -> Iterator[OffsetIndexEntry]:
        base_offset, make = self.base_offset, OffsetIndexEntry._make
        for relative_offset, position in _ENTRY.iter_unpack(self._entries):
            yield make((base_offset + relative_offset, position))

    def __repr__(self) -> str:
        return f"OffsetIndex(base_offset={self.base_offset}, {self.extent}, last={self.last})"

    def entry(self, number: int) -> OffsetIndexEntry:
        """Return the entry in slot `number`, counted from 0.

        Raises:
            IndexError: there is no such used entry.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"entry {number} of an offset index with {len(self)} entries")
        relative_offset, position = _ENTRY.unpack_from(self._entries, number * _ENTRY.size)
        return OffsetIndexEntry(self.base_offset + relative_offset, position)

    @property
    def last(self) -> OffsetIndexEntry:
        """The last used entry; (base offset, 0) if there is none."""
        return self.entry(len(self) - 1) if len(self) else OffsetIndexEntry(self.base_offset, 0)

    def lookup(self, offset: int) -> OffsetIndexEntry:
        """Return the entry with the greatest offset <= `offset`, else (base offset, 0): where to start looking.

        In a damaged index (offsets do not increase) some entry is returned (FORMAT.md §4.2).
        """
        found = bisect_right(range(len(self)), offset, key=lambda number: self.entry(number).offset)
        return self.entry(found - 1) if found else OffsetIndexEntry(self.base_offset, 0)

    def upper_bound(self, start_position: int, size: int) -> OffsetIndexEntry | None:
        """Return the first entry with a position >= `start_position + size`, or None: no offset of a fetch of these
        bytes is at or above that entry's (FORMAT.md §4.2). Kafka answers one slot later where slot 0 matches exactly.
        """
        end = start_position + size
        found = bisect_left(range(len(self)), end, key=lambda number: self.entry(number).position)
        return self.entry(found) if found < len(self) else None

    def sanity_check(self) -> None:
        """Check what Kafka's dump tool checks (FORMAT.md §4.2); whether the entries are right is not looked at.

        Raises:
            CorruptIndexError: the last offset is below the base offset, or the size is not a multiple of 8.
        """
        last = self.last
        if last.offset < self.base_offset:
            raise CorruptIndexError(
                f"the last offset of the offset index, {last.offset}, is below its base offset {self.base_offset}",
                position=(len(self) - 1) * _ENTRY.size,
            )
        check_whole_entries(self.extent, _ENTRY.size)


def check_whole_entries(extent: IndexExtent, entry_size: int) -> None:
    """Raise CorruptIndexError if bytes of a partial entry follow the last whole one."""
    if extent.trailing_size:
        size = (extent.entry_count + extent.padding_count) * entry_size
        raise CorruptIndexError(
            f"the index ends with {extent.trailing_size} bytes of an entry of {entry_size} bytes", position=size
        )


def _end_of_content(view: memoryview, size: int) -> int:
    """Return the position after the last byte that is not zero, looking backwards from `size`."""
    end = size
    while end:
        start = max(0, end - _CHUNK_BYTES)
        content = bytes(view[start:end]).rstrip(b"\0")
        if content:
            return start + len(content)
        end = start
    return 0
