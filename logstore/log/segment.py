"""One segment on disk: a log file named by its base offset, and the indexes beside it.

Rules: FORMAT §4.3a, LOG_SEMANTICS §3.2, §5, §6, §9.

A segment is **active** while its log file is open; sealed, it holds no descriptor of its own and is read through maps.
Invariants: `size` is the end of the last whole batch, what lies behind it in the file is nobody's; an index is believed
only where a batch begins that it may speak of. The log's lock guards changes; any number may read beside them.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

from logstore import names
from logstore.config import LogConfig
from logstore.errors import DamagedLogError
from logstore.fs import Buffer, File, FileSystem
from logstore.log.index_file import RELATIVE_OFFSET_MAX
from logstore.log.log_file import LogFile
from logstore.log.maps import MapCache
from logstore.log.segment_indexes import SegmentIndexes
from logstore.log.transaction_index_file import TransactionIndexFile
from logstore.names import FileKind
from logstore.records import Record, RecordBatch
from logstore.records.header import HEADER_V2_SIZE, LOG_OVERHEAD, WalkEnd
from logstore.records.kernel import find_batch, find_candidate, find_record, parse_header, walk_batches

_WALK_BYTES = 1 << 16  # read at a time when looking for the batch of an offset
FILE_SIZE_MAX = 2**31 - 1
_SMALLEST_BATCH = 26  # a message of format v0 without key and value
_UNKNOWN = -2  # a largest timestamp that was not looked up yet


class Located(NamedTuple):
    """Where a batch lies in its segment's file."""

    position: int
    size: int


class Segment:
    """A segment; make one with `create` or `existing`.

    Attributes:
        base_offset: its first offset, and its name.
        size: bytes of whole batches.
        created_ms: when this object was made, for rolling by time (ms since the epoch).
        jitter_ms: by how much it is rolled earlier than its configuration says.
    """

    # A log may have thousands of them.
    __slots__ = (
        "_bytes_fit", "_bytes_since_entry", "_config", "_directory", "_first_timestamp", "_fs", "_guard",
        "_index_bytes", "_index_interval", "_indexes", "_log", "_maps", "_max_timestamp", "_offset_of_max",
        "_suffix", "_timestamp_fits", "_transaction_index", "base_offset", "created_ms", "jitter_ms", "size",
    )  # fmt: skip

    def __init__(
        self, fs: FileSystem, directory: Path, base_offset: int, config: LogConfig, maps: MapCache, created_ms: int,
        suffix: str = "",
    ) -> None:  # fmt: skip
        self.base_offset = base_offset
        self.created_ms = created_ms
        jitter = min(config.segment_jitter_ms, config.segment_ms)
        self.jitter_ms = random.randrange(jitter) if jitter else 0
        self.size = 0
        self._first_timestamp: int | None = None
        self._max_timestamp = _UNKNOWN
        self._offset_of_max = base_offset
        # Guards that who looks the largest timestamp up does not put it over a later one, and that two who need the
        # indexes do not make them twice. Taken before all others.
        self._guard = threading.Lock()
        self._fs, self._directory = fs, directory
        self._index_interval = config.index_interval_bytes
        self._bytes_since_entry = 0
        self.configure(config)
        self._maps, self._index_bytes, self._suffix = maps, config.segment_index_bytes, suffix
        self._log = LogFile(fs, self._name(FileKind.LOG), maps, has_spare_room=config.preallocate)
        # Made when they are needed: of a log with thousands of segments, most are never looked into.
        self._indexes: SegmentIndexes | None = None
        self._transaction_index: TransactionIndexFile | None = None

    @classmethod
    def create(
        cls, fs: FileSystem, directory: Path, base_offset: int, config: LogConfig, maps: MapCache, created_ms: int
    ) -> Self:
        """Make a new segment; only its log file appears. Raises FileExistsError and OSError; nothing is left then."""
        segment = cls(fs, directory, base_offset, config, maps, created_ms)
        segment._max_timestamp = -1
        segment._log.create(config.initial_file_size)
        return segment

    @classmethod
    def existing(
        cls, fs: FileSystem, directory: Path, base_offset: int, config: LogConfig, maps: MapCache, created_ms: int,
        suffix: str = "",
    ) -> Self:  # fmt: skip
        """A segment that is there, sealed; all of its file is believed until a scan says better.

        Raises DamagedLogError for a file larger than any segment, OSError.
        """
        segment = cls(fs, directory, base_offset, config, maps, created_ms, suffix)
        segment.size = fs.file_size(segment._name(FileKind.LOG))
        if segment.size > FILE_SIZE_MAX:
            raise DamagedLogError(
                f"a segment of {segment.size} bytes is larger than any can be, {FILE_SIZE_MAX}", path=segment.path,
                remedy="it is no segment of Kafka's; move it away",
            )  # fmt: skip
        return segment

    def __repr__(self) -> str:
        state = "active" if self.is_active else "sealed"
        return f"<Segment {self.base_offset} {state} size {self.size} of {self._directory}>"

    # ---- state

    @property
    def path(self) -> Path:
        """Where its log file is."""
        return self._log.path

    @property
    def indexes(self) -> SegmentIndexes:
        """Its offset and time index."""
        found = self._indexes
        return self._make_indexes() if found is None else found

    def _make_indexes(self) -> SegmentIndexes:
        with self._guard:
            if self._indexes is None:
                paths = self._path(FileKind.OFFSET_INDEX), self._path(FileKind.TIME_INDEX)
                self._indexes = SegmentIndexes(self._fs, self._maps, self.base_offset, *paths, self._index_bytes)
            return self._indexes

    @property
    def transaction_index(self) -> TransactionIndexFile:
        """The aborted transactions whose marker lies in it."""
        found = self._transaction_index
        if found is not None:
            return found
        with self._guard:
            if self._transaction_index is None:
                path = self._path(FileKind.TRANSACTION_INDEX)
                self._transaction_index = TransactionIndexFile(self._fs, path, self.base_offset)
            return self._transaction_index

    @property
    def is_active(self) -> bool:
        """Whether it is open for writing."""
        return self._log.is_open

    @property
    def first_timestamp(self) -> int | None:
        """The largest timestamp of the first append, after a reload of the first batch; None while empty."""
        if self._first_timestamp is None and self.size:
            head = bytes(self.slice(0, HEADER_V2_SIZE))
            if len(head) >= _SMALLEST_BATCH:
                self._first_timestamp = parse_header(head.ljust(HEADER_V2_SIZE, b"\0"), 0, 0).max_timestamp
        return self._first_timestamp

    @property
    def max_timestamp(self) -> int:
        """The largest timestamp so far (of a segment not touched yet: by its last time entry), -1 if there is none."""
        if self._max_timestamp == _UNKNOWN:
            indexes = self.indexes
            with self._guard:
                if self._max_timestamp == _UNKNOWN:
                    timestamp, self._offset_of_max = indexes.last_time_entry
                    self._max_timestamp = max(timestamp, -1)
        return self._max_timestamp

    @property
    def offset_of_max(self) -> int:
        """The last offset of the first batch that had the largest timestamp."""
        return self._offset_of_max if self.max_timestamp >= -1 else self.base_offset

    @property
    def largest_timestamp(self) -> int:
        """As `max_timestamp`; where there is none, the time the file was changed (LOG_SEMANTICS §7)."""
        return self.max_timestamp if self.max_timestamp >= 0 else self.modified_ms

    @property
    def modified_ms(self) -> int:
        """When its log file was changed (ms since the epoch). Raises OSError."""
        return self._fs.modified_ms(self.path)

    def files(self) -> list[Path]:
        """The files it consists of, whether they are there or not."""
        return [self.path, self.indexes.offset_path, self.indexes.time_path, self.transaction_index.path]

    # ---- writing

    def configure(self, config: LogConfig) -> None:
        """Heed other settings for rolling; index interval, index size and jitter stay (LOG_SEMANTICS §2)."""
        self._config = config
        # Up to which size and timestamp an append needs no closer look, once one has been taken.
        self._bytes_fit, self._timestamp_fits = -1, -1

    def fits(self, size: int, last_offset: int, max_timestamp: int) -> bool:
        """Whether an append belongs here for certain; if not, `should_roll` knows."""
        return (
            self.size + size <= self._bytes_fit
            and max_timestamp <= self._timestamp_fits
            and last_offset - self.base_offset <= RELATIVE_OFFSET_MAX
        )

    def should_roll(self, size: int, last_offset: int, max_timestamp: int, now_ms: int) -> bool:
        """Whether an append of `size` bytes belongs into a new segment (LOG_SEMANTICS §5, the exact inequalities)."""
        config = self._config
        if self.size > config.segment_bytes - size:
            return True
        if not 0 <= last_offset - self.base_offset <= RELATIVE_OFFSET_MAX:
            return True
        if self.size == 0:
            return False
        age_max = config.effective_segment_ms - self.jitter_ms
        if self.waited_ms(max_timestamp, now_ms) > age_max or self.indexes.are_full:
            return True
        first = self._first_timestamp
        if first is not None and first >= 0:
            self._bytes_fit, self._timestamp_fits = config.segment_bytes, first + age_max
        return False

    def waited_ms(self, max_timestamp: int, now_ms: int) -> int:
        """How long it waits to be rolled, seen by an append with this largest timestamp (LOG_SEMANTICS §5)."""
        first = self.first_timestamp if self._first_timestamp is None else self._first_timestamp
        return max_timestamp - first if first is not None and first >= 0 else now_ms - self.created_ms

    def append(self, data: Buffer, last_offset: int, max_timestamp: int, offset_of_max: int) -> int:
        """Write whole batches behind the last one, in one write; the position they were written at.

        In the page cache on return; `sync_log` makes it durable. Raises OSError, after which the segment is as before.
        """
        position, size = self.size, len(data)
        if not 0 <= last_offset - self.base_offset <= RELATIVE_OFFSET_MAX:
            raise ValueError(f"offset {last_offset} is not in the range of segment {self.base_offset}")
        if position + size > FILE_SIZE_MAX:
            raise ValueError(f"segment {self.base_offset} would grow beyond {FILE_SIZE_MAX} bytes")
        if not self.indexes.is_open:
            self.indexes.open()  # their files exist from the first append on
        before = self.max_timestamp  # to look it up may fail, and nothing is written then
        self._log.write(position, data)
        self._take(position, size, last_offset, max_timestamp, offset_of_max, before)
        return position

    def take(self, size: int, last_offset: int, max_timestamp: int, offset_of_max: int) -> None:
        """Take note of whole batches that another process has written behind the last one."""
        self._take(self.size, size, last_offset, max_timestamp, offset_of_max, self.max_timestamp)

    def skip(self, size: int, max_timestamp: int, offset_of_max: int) -> None:
        """Take note of `size` bytes of whole batches behind the last one that nobody here has looked at.

        The indexes have no entry for them: who looks for one of their offsets walks there.
        """
        if max_timestamp > self.max_timestamp:
            self._max_timestamp, self._offset_of_max = max_timestamp, offset_of_max
        self._bytes_since_entry += size
        self.size += size  # last: a reader goes as far

    @property
    def bytes_since_entry(self) -> int:
        """How much lies behind the batch that the indexes name last."""
        return self._bytes_since_entry

    def _take(
        self, position: int, size: int, last_offset: int, max_timestamp: int, offset_of_max: int, before: int
    ) -> None:
        if position == 0:
            self._first_timestamp = max_timestamp
        if max_timestamp > before:
            self._max_timestamp, self._offset_of_max = max_timestamp, offset_of_max
        self.size = position + size
        if self._bytes_since_entry > self._index_interval:
            if self.indexes.put(last_offset, position, self._max_timestamp, self._offset_of_max):
                self._bytes_fit = -1  # they are full now
            self._bytes_since_entry = 0
        self._bytes_since_entry += size

    def sync_log(self) -> None:
        """Make the batches durable; indexes are made anew from them after a crash. Raises OSError."""
        self._log.sync()

    def sync(self) -> None:
        """Make all that was appended durable, and the indexes; an active segment has them then. Raises OSError."""
        self._log.sync()
        if self.is_active:
            self.indexes.open()
        self.indexes.sync()
        self.transaction_index.sync()

    def seal(self) -> None:
        """Write the last time entry and cut log and indexes to what is used (roll and close).

        Raises OSError, after which it goes on as the active segment, and may be sealed again.
        """
        if self.size:
            self.indexes.put_final(self.max_timestamp, self.offset_of_max)
        self.indexes.trim()
        if self._log.cut(self.size):
            self._fs.sync_directory(self._directory)

    def close(self) -> None:
        """Give up what is open; nothing is sealed or synced. Who is reading finishes undisturbed."""
        self.indexes.close()
        self.transaction_index.close()
        self._log.close()

    def resume(self) -> None:
        """Make a closed segment the active one. Raises OSError."""
        self._log.open()
        self.indexes.open()

    def share(self, indexes: SegmentIndexes, transaction_index: TransactionIndexFile, size: int) -> None:
        """Make a closed segment the active one of a log that several processes append to; its first `size` bytes count.

        The indexes keep new entries to themselves: who seals the segment makes the files anew. Raises OSError.
        """
        self._indexes, self._transaction_index, self.size = indexes, transaction_index, size
        self.resume()

    @property
    def file(self) -> File:
        """The log file, open for writing: also what lies behind `size`. Raises OSError."""
        return self._log.open()

    # ---- reading

    def slice(self, position: int, size: int) -> Buffer:
        """At most `size` bytes of the batches from `position`: of a map where there is one, else read."""
        whole = self.size
        end = min(position + size, whole)
        return self._log.read(position, end, whole) if 0 <= position < end else b""

    def start_of(self, offset: int) -> int:
        """Where to begin looking for `offset`: at the batch that the index names, at 0 if it names none."""
        return self._believed(self.indexes.floor_position(offset), offset)

    def _believed(self, position: int, offset: int) -> int:
        """`position` if a batch that does not lie above `offset` can begin there, else 0: an index may be damaged."""
        is_believed = position > 0 and self._may_begin(self.slice(position, HEADER_V2_SIZE), position, offset)
        return position if is_believed else 0

    def _may_begin(self, window: Buffer, position: int, offset: int) -> bool:
        size_max, head = self.size - position, min(len(window), HEADER_V2_SIZE)
        return find_candidate(window, 0, head, size_max, self.base_offset, offset) == 0

    def locate(self, offset: int, limit: int) -> Located | None:
        """The first batch below position `limit` whose last offset is `offset` or more; None if there is none.

        Raises DamagedLogError where the walk meets bytes that are no batch.
        """
        position = self.indexes.floor_position(offset)
        if not 0 <= position < limit:
            position = self._believed(position, offset)
        is_believed = not position
        while position < limit:
            window = self.slice(position, min(_WALK_BYTES, limit - position))
            if not is_believed:
                is_believed = True
                if not self._may_begin(window, position, offset):
                    position = 0
                    continue
            found, size, status = find_batch(window, 0, len(window), offset)
            if size:
                return Located(position + found, size) if size <= limit - position - found else None
            if status in (WalkEnd.BAD_SIZE, WalkEnd.BAD_MAGIC):
                raise self._no_batch(position + found)
            if not found:
                large = self._size_at(window)
                if large is None or large > limit - position:
                    return None
                found = large
            position += found
        return None

    @staticmethod
    def _size_at(window: Buffer) -> int | None:
        """The size of a batch that is larger than a window."""
        return None if len(window) < LOG_OVERHEAD else LOG_OVERHEAD + int.from_bytes(window[8:LOG_OVERHEAD], "big")

    def _no_batch(self, position: int, what: str = "these bytes are no batch") -> DamagedLogError:
        remedy = "`logstore check` says how much is damaged"
        return DamagedLogError(what, path=self.path, position=position, remedy=remedy)

    def find_record(self, offset: int) -> Record | None:
        """The record of an offset by the quickest way; None where it takes a closer look (`kernel.find_record`)."""
        position = self.indexes.floor_position(offset)
        whole = self.size
        if not 0 <= position < whole:
            return None
        view = self._log.mapped(min(position + _WALK_BYTES, whole))
        if view is None:
            return None
        size_max = whole - position
        if position and find_candidate(
            view, position, position + min(size_max, HEADER_V2_SIZE), size_max, self.base_offset, offset
        ) != position:
            return None
        return find_record(view, position, whole, offset)

    def batches(self, position: int, limit: int) -> list[RecordBatch]:
        """The whole batches in the next stretch from `position`: at least one, unless none is whole below `limit`.

        CRCs are not checked. Raises DamagedLogError as `locate`.
        """
        size = _WALK_BYTES
        while True:
            window = self.slice(position, min(size, limit - position))
            headers, stop, status = walk_batches(window, 0, len(window), position, False)
            if status in (WalkEnd.BAD_SIZE, WalkEnd.BAD_MAGIC) and not headers:
                raise self._no_batch(position + stop)
            needed = None if headers else self._size_at(window)
            if needed is None or not size < needed <= limit - position:
                return [RecordBatch(header, window, header.position - position) for header in headers]
            size = needed

    def next_offset(self) -> int:
        """The offset behind the last batch, from the last index entry on; no CRC is checked.

        Raises DamagedLogError where the file does not end with a whole batch, or with one whose offset is too low.
        """
        last = self.indexes.last_offset_entry
        position, following = self._believed(last.position, last.offset), self.base_offset
        while position < self.size:
            found = self.batches(position, self.size)
            if not found:
                raise self._no_batch(position, "the file ends inside a batch")
            for batch in found:
                if batch.header.base_offset < following:
                    raise self._no_batch(batch.header.position, "the offsets of a batch do not ascend")
                following = batch.next_offset
            position = found[-1].header.position + found[-1].header.size
        return following

    # ---- cutting

    def truncate_to(self, offset: int, now_ms: int, *, was_sealed: bool = False) -> int:
        """Drop the batches that hold `offset` or more, and become the active segment; the number of bytes dropped.

        A batch with `offset` in its middle goes as a whole (LOG_SEMANTICS §9). A file that may be mapped, as those of a
        sealed segment are by any process, is replaced, the log durably; one that is not is cut, and durable after
        `sync`. Raises DamagedLogError and OSError: the batches are all there still then, unless it was the last sync
        that failed.
        """
        located = self.locate(offset, self.size)
        kept = self.size if located is None else located.position
        had_timestamp = self.max_timestamp >= 0
        self.indexes.truncate_to(offset, was_sealed=was_sealed)
        self.transaction_index.truncate_to(offset)
        largest = self._largest_below(kept) if had_timestamp else (-1, self.base_offset)
        dropped = self.size - kept
        was_replaced = dropped > 0 and self._log.cut(kept, may_be_mapped=was_sealed)
        self.size, self._bytes_since_entry, self._bytes_fit = kept, 0, -1
        self._max_timestamp, self._offset_of_max = largest
        if not kept:
            self.created_ms, self._first_timestamp = now_ms, None
        self.resume()
        if was_replaced:
            self._fs.sync_directory(self._directory)
        return dropped

    def _largest_below(self, limit: int) -> tuple[int, int]:
        """The largest timestamp and its offset: by the last time entry, and the batches behind the last index entry."""
        largest, offset = self.indexes.last_time_entry
        last = self.indexes.last_offset_entry
        position = self._believed(last.position, last.offset)
        while position < limit and (found := self.batches(position, limit)):
            for batch in found:
                if batch.header.max_timestamp > largest:
                    largest, offset = batch.header.max_timestamp, batch.last_offset
            position = found[-1].header.position + found[-1].header.size
        return largest, offset

    # ---- names

    def rename(self, suffix: str, before_transactions: Callable[[], object] = lambda: None) -> list[Path]:
        """Let its files have this suffix and no other, those that are there; their new names. Closes it.

        `before_transactions` is called before a transaction index is renamed, which comes last. Raises OSError; some of
        them have their new names then.
        """
        self.close()
        _ = self.indexes, self.transaction_index  # by the names they have
        self._suffix = suffix
        log, transactions = self._path(FileKind.LOG), self._path(FileKind.TRANSACTION_INDEX)
        renamed = [log] if self._log.rename(log) else []
        renamed += self.indexes.rename(self._path(FileKind.OFFSET_INDEX), self._path(FileKind.TIME_INDEX))
        if self._fs.exists(self.transaction_index.path):
            before_transactions()
            renamed.append(transactions)
        self.transaction_index.rename(transactions)
        return renamed

    def move_to(self, directory: Path) -> None:
        """Take note that its files are in this directory now: theirs has another name. Touches none of them."""
        _ = self.indexes, self.transaction_index  # by the names they have
        self._directory = directory
        self._log.path = directory / self.path.name
        self.indexes.move_to(directory)
        self.transaction_index.rename(directory / self.transaction_index.path.name)

    def doom(self) -> None:
        """Let those who still read it go on when its files are removed."""
        self._log.doom()

    def _path(self, kind: FileKind) -> Path:
        return Path(self._name(kind))

    def _name(self, kind: FileKind) -> str:
        """Its path as text: of a path each part would be kept for good."""
        return os.path.join(self._directory, names.segment_file_name(self.base_offset, kind, self._suffix))
