"""Checks the indexes of a segment against its batches, in one pass and in flat memory.

Each checker is told every batch in order (`add`), and asked at the end (`finish`). What they hold healthy is what
Kafka leaves (FORMAT §4.3a): an offset entry names the last offset of an append and the position of its start; a time
entry the largest timestamp so far. One thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from logstore.errors import CorruptIndexError
from logstore.inspect.findings import Finding, finding
from logstore.log import (
    AbortedTransaction,
    IndexExtent,
    OffsetIndex,
    OffsetIndexEntry,
    TimeIndex,
    TimeIndexEntry,
    TransactionIndex,
)
from logstore.records import RecordBatch

_OFFSET_ENTRY_SIZE = 8
_TIME_ENTRY_SIZE = 12
_TRANSACTION_ENTRY_SIZE = 34


def check_extent(path: Path, extent: IndexExtent, entry_size: int, may_be_padded: bool) -> Iterator[Finding]:
    """Whether an index file is a whole number of entries, and trimmed if it should be."""
    whole = (extent.entry_count + extent.padding_count) * entry_size
    if extent.trailing_size:
        message = f"the index ends with {extent.trailing_size} bytes of an entry"
        yield finding("index-size", path, message, position=whole)
    if extent.padding_count and not may_be_padded:
        message = f"{extent.padding_count} empty entries follow the last one"
        yield finding("index-padding", path, message, position=extent.entry_count * entry_size)


class OffsetIndexCheck:
    """Holds an offset index against the batches of its segment."""

    def __init__(self, path: Path, data: bytes, base_offset: int, may_be_padded: bool) -> None:
        self._path = path
        self._index = OffsetIndex(data, base_offset)
        self._entries = enumerate(self._index)
        self._may_be_padded = may_be_padded
        self._number = 0
        self._entry: OffsetIndexEntry | None = None
        self._number, self._entry = next(self._entries, (0, None))
        self._begun = False  # whether the batch at the entry's position has been seen
        self._previous: OffsetIndexEntry | None = None

    def begin(self) -> Iterator[Finding]:
        """Check what needs no batches."""
        yield from check_extent(self._path, self._index.extent, _OFFSET_ENTRY_SIZE, self._may_be_padded)

    def add(self, batch: RecordBatch) -> Iterator[Finding]:
        """Take the next batch."""
        position, last_offset = batch.header.position, batch.last_offset
        while (entry := self._entry) is not None:
            if not self._begun and position < entry.position:
                return
            if not self._begun and position > entry.position:
                yield self._mismatch(entry, f"no batch begins at position {entry.position}")
                yield from self._advance()
                continue
            self._begun = True
            if last_offset < entry.offset:
                return
            if last_offset > entry.offset:
                yield self._mismatch(
                    entry, f"no batch from position {entry.position} on ends with offset {entry.offset}"
                )
            yield from self._advance()

    def finish(self, has_damage: bool) -> Iterator[Finding]:
        """Report entries beyond the last batch, unless damage in the log explains them."""
        while (entry := self._entry) is not None:
            if not has_damage:
                yield self._mismatch(entry, "the entry lies beyond the last batch of the log")
            yield from self._advance()

    def _advance(self) -> Iterator[Finding]:
        self._previous, self._begun = self._entry, False
        self._number, self._entry = next(self._entries, (0, None))
        one, other = self._previous, self._entry
        if one and other and (other.offset <= one.offset or other.position <= one.position):
            message = f"entry {self._number} ({other.offset} at {other.position}) does not ascend"
            yield finding(
                "index-order", self._path, message, position=self._number * _OFFSET_ENTRY_SIZE, offset=other.offset
            )

    def _mismatch(self, entry: OffsetIndexEntry, message: str) -> Finding:
        place = self._number * _OFFSET_ENTRY_SIZE
        return finding(
            "index-mismatch", self._path, f"entry {self._number}: {message}", position=place, offset=entry.offset
        )


class TimeIndexCheck:
    """Holds a time index against the batches of its segment."""

    def __init__(self, path: Path, data: bytes, base_offset: int, may_be_padded: bool) -> None:
        self._path = path
        self._base_offset = base_offset
        self._index = TimeIndex(data, base_offset)
        self._entries = enumerate(self._index)
        self._may_be_padded = may_be_padded
        self._number = 0
        self._entry: TimeIndexEntry | None = None
        self._number, self._entry = next(self._entries, (0, None))
        self._largest = -1
        # Offsets of the first batch with the largest timestamp; never empty.
        self._reached = range(base_offset, base_offset + 1)
        self._last: TimeIndexEntry | None = None
        self._is_timed = True  # format v0 has no timestamps, and its index entries the broker's clock
        self._next_offset = base_offset

    def begin(self) -> Iterator[Finding]:
        """Check what needs no batches."""
        yield from check_extent(self._path, self._index.extent, _TIME_ENTRY_SIZE, self._may_be_padded)

    def add(self, batch: RecordBatch) -> Iterator[Finding]:
        """Take the next batch."""
        while (entry := self._entry) is not None and entry.offset < batch.header.base_offset:
            yield from self._judge(entry)
        if batch.header.max_timestamp > self._largest:
            self._largest = batch.header.max_timestamp
            self._reached = range(min(self._next_offset, batch.last_offset), batch.last_offset + 1)
        self._is_timed = self._is_timed and batch.header.magic > 0
        self._next_offset = batch.next_offset

    def finish(self, has_damage: bool) -> Iterator[Finding]:
        """Judge the entries up to the last batch and report those beyond it, unless damage in the log explains them."""
        while (entry := self._entry) is not None:
            if entry.offset < self._next_offset:
                yield from self._judge(entry) if not has_damage else self._advance()
                continue
            if not has_damage:
                yield self._mismatch(entry, f"offset {entry.offset} is beyond the last batch of the log")
            yield from self._advance()
        last = -1 if self._last is None else self._last.timestamp
        if not self._may_be_padded and not has_damage and self._is_timed and last < self._largest:
            message = f"the last entry has timestamp {last}, and the segment is closed with {self._largest}"
            yield finding("time-index-mismatch", self._path, message, offset=self._reached[-1])

    def _judge(self, entry: TimeIndexEntry) -> Iterator[Finding]:
        if entry.offset < self._base_offset:
            yield self._mismatch(entry, f"offset {entry.offset} is below the segment")
        elif entry.timestamp < self._largest:
            yield self._mismatch(
                entry, f"a record up to offset {entry.offset} has the larger timestamp {self._largest}"
            )
        elif entry.timestamp > self._largest and self._is_timed:
            yield self._mismatch(entry, f"no record up to offset {entry.offset} has timestamp {entry.timestamp}")
        elif entry.offset not in self._reached and self._is_timed:
            # Kafka 4 names the last offset of that batch, Kafka 2 that of the record itself.
            message = f"timestamp {entry.timestamp} is first reached by offset {self._reached[-1]}, not {entry.offset}"
            yield self._mismatch(entry, message)
        yield from self._advance()

    def _advance(self) -> Iterator[Finding]:
        self._last = one = self._entry
        self._number, self._entry = next(self._entries, (0, None))
        other = self._entry
        if one and other and (other.timestamp <= one.timestamp or other.offset < one.offset):
            message = f"entry {self._number} ({other.timestamp}, {other.offset}) does not ascend"
            yield finding(
                "time-index-order", self._path, message, position=self._number * _TIME_ENTRY_SIZE, offset=other.offset
            )

    def _mismatch(self, entry: TimeIndexEntry, message: str) -> Finding:
        place = self._number * _TIME_ENTRY_SIZE
        return finding(
            "time-index-mismatch", self._path, f"entry {self._number}: {message}", position=place, offset=entry.offset
        )


def check_transaction_index(
    path: Path | None,
    log: Path,
    data: bytes,
    base_offset: int,
    end_offset: int,
    aborts: list[AbortedTransaction],
    *,
    is_whole: bool,
) -> Iterator[Finding]:
    """Hold a transaction index against the aborted transactions found in its segment.

    `aborts` is what the batches say, as far as they are still there: records of a transaction may have been compacted
    away or deleted, so an entry may begin earlier, and be held back longer, than they show, unless the log `is_whole`.
    """
    index = TransactionIndex(data, base_offset)
    entries: dict[int, AbortedTransaction] = {}
    if path is not None:
        if index.trailing_size:
            message = f"the index ends with {index.trailing_size} bytes of an entry"
            yield finding("index-size", path, message, position=len(data) - index.trailing_size)
        previous = -1
        try:
            for number, entry in enumerate(index):
                entries[entry.last_offset] = entry
                flaw = _entry_flaw(entry, base_offset, end_offset, previous)
                previous = max(previous, entry.last_offset)
                if flaw is not None:
                    place = number * _TRANSACTION_ENTRY_SIZE
                    yield finding(
                        "txn-index-entry", path, f"entry {number}: {flaw}", position=place, offset=entry.last_offset
                    )
        except CorruptIndexError as error:
            yield finding("txn-index-entry", path, error.reason, position=error.position)
    for abort in aborts:
        known = entries.get(abort.last_offset)
        if known is None:
            message = (
                f"the abort of producer {abort.producer_id} at offset {abort.last_offset}"
                " is not in the transaction index"
            )
            yield finding("txn-index-missing", path or log, message, offset=abort.last_offset)
        elif known.producer_id != abort.producer_id or known.first_offset > abort.first_offset:
            message = f"the entry of the abort at offset {abort.last_offset} does not hide all of its records"
            yield finding("txn-index-entry", path or log, message, offset=abort.last_offset)
        elif known.last_stable_offset > abort.last_stable_offset or (is_whole and known != abort):
            message = (
                f"the entry of the abort at offset {abort.last_offset} says {known.first_offset} and"
                f" {known.last_stable_offset} for first and last stable offset, the batches {abort.first_offset} and"
                f" {abort.last_stable_offset}"
            )
            yield finding("txn-index-entry", path or log, message, offset=abort.last_offset)


def _entry_flaw(entry: AbortedTransaction, base_offset: int, end_offset: int, previous: int) -> str | None:
    """What is impossible about an entry by itself."""
    if not base_offset <= entry.last_offset < end_offset or entry.last_offset <= previous:
        return f"marker offset {entry.last_offset} is not in the segment, or does not ascend"
    if not 0 <= entry.first_offset <= entry.last_offset or entry.producer_id < 0:
        return f"the transaction {entry.first_offset} to {entry.last_offset} is impossible"
    if not 0 <= entry.last_stable_offset <= entry.last_offset + 1:
        return f"the last stable offset {entry.last_stable_offset} is impossible"
    return None
