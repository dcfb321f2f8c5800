"""Reading a log: slices of whole batches, fetches, single records, and where they lie (LOG_SEMANTICS §6).

Takes no lock where it need not: the table of segments is replaced as a whole, a segment's size grows only once its
bytes are there, and maps and files live as long as somebody reads them. What was read while a part of the log was taken
away is read again, under the lock. Any number of threads may read while others append, truncate and delete.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from logstore.config import INT64_MAX
from logstore.errors import DamagedLogError, LogstoreError, OffsetOutOfRangeError
from logstore.fs import Buffer
from logstore.log.log_offset import LogOffsetMetadata
from logstore.log.segment import Located, Segment
from logstore.log.transaction_index import AbortedTransaction
from logstore.log.validate import decompressed_size_max
from logstore.records import Record, RecordBatch
from logstore.records.header import HEADER_V2_SIZE
from logstore.records.kernel import decode_at, find_batch, parse_header, walk_batches

if TYPE_CHECKING:
    from logstore.log.log_state import LogState

READ_BYTES_MAX = 1 << 20
_COMPRESSED_OR_CONTROL = 0x27  # attributes of a v2 batch (FORMAT §2.2); on disk, never change
REMEDY = "read with on_damage to go around it; `logstore check` tells how much is damaged"

_Found = TypeVar("_Found")


class FetchIsolation(enum.Enum):
    """How far a read may go."""

    LOG_END = "log_end"
    """Up to the log end offset."""
    HIGH_WATERMARK = "high_watermark"
    """Up to what all in-sync replicas have."""
    TXN_COMMITTED = "txn_committed"
    """Up to the last stable offset, with the aborted transactions to leave out."""


class FetchData(NamedTuple):
    """What a fetch gives.

    Attributes:
        metadata: the offset that was asked for, and where it lies.
        data: the file from the batch that holds the offset on; it may end inside a batch.
        is_first_entry_incomplete: whether it ends inside the first one.
        aborted: with TXN_COMMITTED, the aborted transactions that may touch the data; else None.
    """

    metadata: LogOffsetMetadata
    data: Buffer
    is_first_entry_incomplete: bool = False
    aborted: tuple[AbortedTransaction, ...] | None = None


class Bounds(NamedTuple):
    """How far the log goes at the moment of a read.

    `limit` is what the last offset of a batch must be below: the end offset, but none where all may be read, since
    what is appended meanwhile may be read as well.
    """

    log_start_offset: int
    end_offset: int
    log_end_offset: int
    limit: int = INT64_MAX


class Stretch(NamedTuple):
    """Whole batches that lie behind each other, and where; no segment where there is nothing to read."""

    segment: Segment | None
    position: int
    data: Buffer


_NOTHING = Stretch(None, 0, b"")


class LogReader:
    """Reads the segments of one log. Thread-safe."""

    def __init__(self, state: LogState) -> None:
        self._state = state
        self._segments = state.segments

    def __repr__(self) -> str:
        return f"<LogReader of {self._segments!r}>"

    def steadily(self, find: Callable[..., _Found], isolation: FetchIsolation, *arguments: object) -> _Found:
        """What `find(bounds, *arguments)` finds where nothing is taken away meanwhile; it may be called twice."""
        state = self._state
        cuts = state.cuts
        if not cuts & 1:
            state.check_open(for_append=False)
            try:
                found = find(state.bounds(isolation), *arguments)
            except (OSError, LogstoreError):
                if state.cuts == cuts:
                    raise
            else:
                if state.cuts == cuts:
                    return found
        with state.lock:
            state.check_open(for_append=False)
            return find(state.bounds(isolation), *arguments)

    # ---- slices

    def stretch(self, offset: int, bytes_max: int, isolation: FetchIsolation) -> Stretch:
        """Whole batches from the one that holds `offset` on: at least one, unless it reaches beyond the bound.

        Raises OffsetOutOfRangeError, DamagedLogError where there is none that can be found.
        """
        return self.steadily(self._stretch, isolation, offset, bytes_max)

    def slices(self, offset: int, bytes_max: int, isolation: FetchIsolation) -> Iterator[Buffer]:
        """One stretch after the other, up to the end there is when each of them is read."""
        while data := self.stretch(offset, bytes_max, isolation).data:
            yield data
            headers, _, _ = walk_batches(data, 0, len(data), 0, False)
            # No CRC covers an offset: where they do not ascend, the greatest lets the next read get on.
            offset = max(header.base_offset + header.last_offset_delta for header in headers) + 1

    def _stretch(self, bounds: Bounds, offset: int, bytes_max: int) -> Stretch:
        self._check_range(bounds, offset)
        if offset >= bounds.end_offset:
            return _NOTHING
        for segment in self._segments.from_floor(offset):
            located = self._locate(segment, offset, segment.size)
            if located is None:
                continue
            data = segment.slice(located.position, max(bytes_max, located.size))
            whole, _, _ = find_batch(data, 0, len(data), bounds.limit)
            if not whole:
                self._check_end(segment, located, data)
            return Stretch(segment, located.position, data[:whole])
        return _NOTHING

    def _check_end(self, segment: Segment, located: Located, data: Buffer) -> None:
        """Refuse a batch that is not all there, and one that claims offsets behind the log end.

        A read would take the one for the end of the log, a bounded read the other for its bound.
        """
        if len(data) < located.size:
            raise DamagedLogError(
                "the segment became shorter", path=segment.path, position=located.position, remedy=REMEDY
            )
        header = parse_header(data, 0, 0)
        with self._state.lock:
            end_offset = self._state.next_offset
        if header.base_offset + header.last_offset_delta >= end_offset:
            raise DamagedLogError(
                f"a batch from offset {header.base_offset} on reaches beyond the log end, {end_offset}",
                path=segment.path, position=located.position, remedy=REMEDY,
            )  # fmt: skip

    def fetch(self, offset: int, bytes_max: int, isolation: FetchIsolation, *, at_least_one: bool) -> FetchData:
        """As Kafka's read (§6). Raises OffsetOutOfRangeError, ValueError for a negative limit, DamagedLogError."""
        if bytes_max < 0:
            raise ValueError(f"a read of {bytes_max} bytes")
        is_committed = isolation is FetchIsolation.TXN_COMMITTED
        return self.steadily(self._fetch, isolation, offset, bytes_max, at_least_one, is_committed)

    def _fetch(self, bounds: Bounds, offset: int, bytes_max: int, at_least_one: bool, is_committed: bool) -> FetchData:
        aborted: tuple[AbortedTransaction, ...] | None = () if is_committed else None
        self._check_range(bounds, offset)
        if offset >= bounds.end_offset:
            return FetchData(self._metadata(bounds, offset), b"", False, aborted)
        for segment in self._segments.from_floor(offset):
            size = segment.size
            located = self._locate(segment, offset, size)
            if located is None:
                continue
            metadata = LogOffsetMetadata(offset, segment.base_offset, located.position)
            limit = max(bytes_max, located.size) if at_least_one else bytes_max
            end = self._end_position(segment, size, bounds)
            if not limit or end <= located.position:
                return FetchData(metadata, b"", False, aborted)
            data = segment.slice(located.position, min(end - located.position, limit))
            if is_committed:
                aborted = self._aborted(segment, offset, located.position, len(data), bounds.log_end_offset)
            return FetchData(metadata, data, limit < located.size, aborted)
        return FetchData(self._metadata(bounds, bounds.log_end_offset), b"", False, aborted)

    def _end_position(self, segment: Segment, size: int, bounds: Bounds) -> int:
        """Up to which byte the first `size` ones of a segment may be read."""
        if bounds.limit == INT64_MAX:
            return size
        if segment.base_offset >= bounds.limit:
            return 0
        located = self._locate(segment, bounds.limit, size)
        return size if located is None else located.position

    def metadata_of(self, offset: int) -> LogOffsetMetadata:
        """An offset with where it lies; without, when it is not in the log."""
        return self.steadily(self._metadata, FetchIsolation.LOG_END, offset)

    def _metadata(self, bounds: Bounds, offset: int) -> LogOffsetMetadata:
        if not bounds.log_start_offset <= offset <= bounds.log_end_offset:
            return LogOffsetMetadata(offset)
        found = LogOffsetMetadata(offset)
        for segment in self._segments.from_floor(offset):
            size = segment.size
            located = self._locate(segment, offset, size)
            position = size if located is None else located.position
            found = LogOffsetMetadata(offset, segment.base_offset, position)
            if located is not None:
                break
        return found

    def _locate(self, segment: Segment, offset: int, size: int) -> Located | None:
        """The batch of an offset, or the first behind it, in the first `size` bytes; None if there is none.

        Raises DamagedLogError also where the batches end before the segment does: the next one would be taken for what
        follows, and nobody would notice.
        """
        located = segment.locate(offset, size)
        if located is None:
            position = segment.start_of(offset)
            while position < size:
                found = segment.batches(position, size)
                if not found:
                    raise DamagedLogError(
                        "a batch reaches beyond the end of the segment", path=segment.path, position=position,
                        offset=offset, remedy=REMEDY,
                    )  # fmt: skip
                position = found[-1].header.position + found[-1].header.size
        return located

    def _check_range(self, bounds: Bounds, offset: int) -> None:
        if not bounds.log_start_offset <= offset <= bounds.log_end_offset:
            raise OffsetOutOfRangeError(
                f"offset {offset} is not in {bounds.log_start_offset}..{bounds.log_end_offset}",
                path=self._state.directory, offset=offset,
            )  # fmt: skip

    # ---- transactions

    def _aborted(
        self, segment: Segment, offset: int, position: int, size: int, log_end_offset: int
    ) -> tuple[AbortedTransaction, ...]:
        """The aborted transactions that may have records in what was read (§6)."""
        upper = segment.indexes.upper_bound_offset(position, size)
        if upper is None:
            following = self._segments.higher(segment.base_offset)
            upper = log_end_offset if following is None else following.base_offset
        return self._aborted_between(offset, upper)

    def aborted_from(self, offset: int) -> tuple[int, tuple[AbortedTransaction, ...]]:
        """The last stable offset, and the aborted transactions with records from `offset` up to it.

        Raises CorruptIndexError.
        """

        def find(bounds: Bounds) -> tuple[int, tuple[AbortedTransaction, ...]]:
            return bounds.end_offset, self._aborted_between(offset, bounds.end_offset)

        return self.steadily(find, FetchIsolation.TXN_COMMITTED)

    def _aborted_between(self, offset: int, upper: int) -> tuple[AbortedTransaction, ...]:
        found: list[AbortedTransaction] = []
        for segment in self._segments.from_floor(offset):
            search = segment.transaction_index.collect(offset, upper)
            found += search.transactions
            if search.complete:
                break
        return tuple(found)

    # ---- one record

    def get(self, offset: int) -> Record | None:
        """The record of an offset; None where there is none of that offset. CRCs are not checked."""
        state = self._state
        cuts = state.cuts
        is_fine = not cuts & 1 and state.is_open and state.failure is None
        if is_fine and state.log_start_offset <= offset < state.next_offset:
            segment = self._segments.floor(offset)
            try:
                found = None if segment is None else segment.find_record(offset)
            except (OSError, LogstoreError):  # the closer look tells what it is and where, if it is anything
                found = None
            if found is not None and state.cuts == cuts:
                return found
        return self.steadily(self._get, FetchIsolation.LOG_END, offset)

    def _get(self, bounds: Bounds, offset: int) -> Record | None:
        self._check_range(bounds, offset)
        segment = self._segments.floor(offset)
        if segment is None or offset >= bounds.end_offset:
            return None
        located = self._locate(segment, offset, segment.size)
        if located is None:
            return None
        data = segment.slice(*located)
        try:
            return self._decode(data, offset)
        except LogstoreError as error:
            error.path, error.position, error.offset = str(segment.path), located.position, offset
            raise

    def _decode(self, data: Buffer, offset: int) -> Record | None:
        """The record of an offset in the batch that `data` is."""
        header = parse_header(data, 0, 0)
        body, start, end = data, HEADER_V2_SIZE, len(data)
        if header.magic < 2 or header.attributes & _COMPRESSED_OR_CONTROL:
            batch = RecordBatch(header, data)
            size_max = decompressed_size_max(self._state.config)
            if header.magic < 2:  # of a compressed set the header says the last offset only
                return next((record for record in batch.records(size_max=size_max) if record.offset == offset), None)
            if batch.is_control:
                return None
            body, start, end = batch.body(size_max=size_max)
        if header.base_offset > offset:
            return None
        append_time = header.max_timestamp if header.attributes & 0x08 else None
        return decode_at(
            body, start, end, header.count, header.base_offset, header.base_timestamp, append_time, offset
        )
