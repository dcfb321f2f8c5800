"""The transaction index of a segment (`<base>.txnindex`): the aborted transactions whose marker lies in the segment.

Entries are in the order of their markers. The file exists only where there is an entry, is not preallocated, and has
no checksum. Only whole entries are read; bytes of a partial one after them are reported by `trailing_size`.
Immutable, therefore thread-safe, as long as nobody changes the buffer underneath.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from logstore.errors import CorruptIndexError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

#  0         2            10            18           26                 34
#  | i16     | i64        | i64         | i64        | i64              |     big-endian; on disk, never change
#  | version | producer   | first       | last       | last stable      |
#  | = 0     | id         | offset      | offset     | offset           |
_ENTRY = struct.Struct(">hqqqq")
assert _ENTRY.size == 34

_VERSION = 0


class AbortedTransaction(NamedTuple):
    """A transaction that was aborted: its records, `first_offset` up to the marker, are not for committed readers.

    `last_offset` is that of the ABORT marker, `last_stable_offset` the log's after this abort.
    """

    producer_id: int
    first_offset: int
    last_offset: int
    last_stable_offset: int

    def encode(self) -> bytes:
        """Return the 34 bytes of this entry (FORMAT.md §4.4)."""
        return _ENTRY.pack(_VERSION, *self)


class TransactionSearch(NamedTuple):
    """What `TransactionIndex.collect` found; if not `complete`, the next segment's index has to be searched too."""

    transactions: tuple[AbortedTransaction, ...]
    complete: bool


class TransactionIndex:
    """A read-only view of a transaction index; it copies nothing.

    Args:
        buffer: the whole file; a mapped file cannot be closed while the view lives.
        base_offset: the segment's, from the file's name.
    """

    __slots__ = ("_entries", "base_offset", "trailing_size")

    def __init__(self, buffer: Buffer, base_offset: int) -> None:
        view = memoryview(buffer).cast("B").toreadonly()
        self.base_offset = base_offset
        self.trailing_size = len(view) % _ENTRY.size
        """Bytes of a partial entry at the end of the file; Kafka ignores them."""
        self._entries = view[: len(view) - self.trailing_size]

    def __len__(self) -> int:
        return len(self._entries) // _ENTRY.size

    def __iter__(self) -> Iterator[AbortedTransaction]:
        """Read the entries in order.

        Raises:
            CorruptIndexError: an entry's version is not 0. All 16 bits count; Kafka looks at the upper 8 only.
        """
        for number, (version, *fields) in enumerate(_ENTRY.iter_unpack(self._entries)):
            if version != _VERSION:
                raise CorruptIndexError(
                    f"entry {number} of the transaction index has version {version}; only {_VERSION} is known",
                    position=number * _ENTRY.size,
                )
            yield AbortedTransaction(*fields)

    def __repr__(self) -> str:
        return f"TransactionIndex(base_offset={self.base_offset}, {len(self)} entries, {self.trailing_size} over)"

    def collect(self, fetch_offset: int, upper_bound_offset: int) -> TransactionSearch:
        """Find the aborted transactions with records in `fetch_offset` <= offset < `upper_bound_offset`.

        The search is complete at the first entry whose last stable offset reaches the upper bound (FORMAT.md §4.4).

        Raises:
            CorruptIndexError: an entry's version is not 0.
        """
        found = []
        for transaction in self:
            if transaction.last_offset >= fetch_offset and transaction.first_offset < upper_bound_offset:
                found.append(transaction)
            if transaction.last_stable_offset >= upper_bound_offset:
                return TransactionSearch(tuple(found), complete=True)
        return TransactionSearch(tuple(found), complete=False)

    def sanity_check(self) -> None:
        """Check what Kafka checks when it loads a log; a failure there makes it rebuild the segment's indexes.

        Raises:
            CorruptIndexError: a marker lies below the base offset, or an entry's version is not 0.
        """
        for number, transaction in enumerate(self):
            if transaction.last_offset < self.base_offset:
                raise CorruptIndexError(
                    f"entry {number} of the transaction index ends at offset {transaction.last_offset}, below its"
                    f" base offset {self.base_offset}",
                    position=number * _ENTRY.size,
                )
