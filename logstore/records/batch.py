"""A batch as a view on a buffer: its header as values, its records on request.

Invariant: the view never copies the batch, and believes nothing of its header beyond the size that the walk bounded.
Immutable, therefore thread-safe; it keeps its buffer alive.
"""

from __future__ import annotations

import enum
import zlib
from collections.abc import Iterator
from typing import TypeVar

from logstore.checksum import crc32c
from logstore.errors import BatchTooLargeError, CorruptRecordError, InvalidRecordError, LogstoreError
from logstore.records import kernel
from logstore.records.compression import Buffer, Codec, codec_of, decompress
from logstore.records.control import ControlType, parse_control_key
from logstore.records.header import (
    CRC_LEGACY_START,
    CRC_V2_START,
    FLAW_REASONS,
    HEADER_SIZE_UP_TO_MAGIC,
    HEADER_V2_SIZE,
    INT32_MAX,
    NONE,
    BatchHeader,
    Flaw,
    LineStyle,
    RecordStats,
    WalkEnd,
)
from logstore.records.legacy import decode_legacy
from logstore.records.record import Record

BATCH_BYTES_MAX = 32 << 20
"""Default cap on one batch, compressed or decompressed, in bytes; with it a reader stays under 150 MB of memory."""

_Error = TypeVar("_Error", bound=LogstoreError)
_LINES_BYTES = 1 << 20  # lines are handed out in pieces of about this size
_RECORDS_PIECE = 4096  # records are decoded at most so many at a time when iterating


class TimestampType(enum.Enum):
    """Where the timestamps of a batch come from, with Kafka's words for it."""

    NONE = "NoTimestampType"
    CREATE_TIME = "CreateTime"
    LOG_APPEND_TIME = "LogAppendTime"


class RecordBatch:
    """One batch of any message format, on a buffer that holds it.

    Args:
        header: its header, as a kernel read it.
        buffer: the bytes around it; None when the batch was too large to be read (its records then cannot be had).
        start: where in `buffer` it begins.
    """

    __slots__ = ("_buffer", "_start", "header")

    def __init__(self, header: BatchHeader, buffer: Buffer | None, start: int = 0) -> None:
        self.header = header
        self._buffer = buffer
        self._start = start

    def __repr__(self) -> str:
        h = self.header
        return (
            f"<RecordBatch v{h.magic} offsets {h.base_offset}..{self.last_offset} count {h.count} "
            f"position {h.position} size {h.size} attributes {h.attributes:#04x}>"
        )

    # ---- header

    @property
    def last_offset(self) -> int:
        """Offset of the last record as originally written."""
        return self.header.base_offset + self.header.last_offset_delta

    @property
    def next_offset(self) -> int:
        """The first offset behind the batch."""
        return self.last_offset + 1

    @property
    def codec(self) -> Codec:
        """How the records are compressed. Raises UnsupportedFormatError for an unknown codec."""
        return codec_of(self.header.attributes)

    @property
    def timestamp_type(self) -> TimestampType:
        """Where the timestamps come from; format v0 has none."""
        if self.header.magic == 0:
            return TimestampType.NONE
        return TimestampType.LOG_APPEND_TIME if self.header.attributes & 0x08 else TimestampType.CREATE_TIME

    @property
    def is_transactional(self) -> bool:
        """Whether the batch belongs to a transaction."""
        return self.header.magic == 2 and bool(self.header.attributes & 0x10)

    @property
    def is_control(self) -> bool:
        """Whether the batch holds control records, which consumers never see."""
        return self.header.magic == 2 and bool(self.header.attributes & 0x20)

    @property
    def delete_horizon_ms(self) -> int | None:
        """The time from which tombstones and markers in this batch may be dropped, or None (FORMAT §2.4)."""
        return self.header.base_timestamp if self.header.magic == 2 and self.header.attributes & 0x40 else None

    @property
    def has_producer_id(self) -> bool:
        """Whether an idempotent or transactional producer wrote it."""
        return self.header.producer_id > NONE

    @property
    def last_sequence(self) -> int:
        """Sequence of the last record, -1 if there is none; sequences wrap from 2^31-1 to 0 (FORMAT §2.3)."""
        base = self.header.base_sequence
        return NONE if base == NONE else increment_sequence(base, self.header.last_offset_delta)

    # ---- bytes

    @property
    def raw(self) -> memoryview:
        """All bytes of the batch. Raises BatchTooLargeError if it was too large to be read."""
        if self._buffer is None:
            raise BatchTooLargeError(
                f"a batch of {self.header.size} bytes was not read", position=self.header.position,
                offset=self.header.base_offset, remedy="raise the cap on one batch",
            )  # fmt: skip
        return memoryview(self._buffer)[self._start : self._start + self.header.size]

    def crc_is_valid(self) -> bool:
        """Whether the bytes are those that the CRC in the header was made of."""
        if self.header.magic == 2:
            return bool(crc32c(self.raw[CRC_V2_START:]) == self.header.crc)
        return zlib.crc32(self.raw[CRC_LEGACY_START:]) == self.header.crc

    # ---- records

    def records(self, *, size_max: int = BATCH_BYTES_MAX) -> list[Record]:
        """All records, decoded in one call.

        Raises InvalidRecordError where they contradict the header or themselves, UnsupportedFormatError for an unknown
        codec, BatchTooLargeError when they decompress to more than `size_max` bytes.
        """
        header = self.header
        if header.magic < 2 or header.count <= 0:
            return [record for piece in self.record_pieces(size_max=size_max) for record in piece]
        try:
            body, position, end = self.body(size_max=size_max)
            records, position = kernel.decode_records(
                body, position, end, header.count, header.base_offset, header.base_timestamp, self._append_time()
            )
        except LogstoreError as error:
            self._placed(error)
            raise
        self._check_end(position, end)
        return records

    def record_pieces(self, *, size_max: int = BATCH_BYTES_MAX, piece: int = _RECORDS_PIECE) -> Iterator[list[Record]]:
        """The records in lists of at most `piece`, so that memory stays flat. Raises as `records`."""
        header = self.header
        if header.magic < 2:
            with self._places():
                records = decode_legacy(self.raw, 0, header, size_max=size_max)
            for start in range(0, len(records), piece):
                yield records[start : start + piece]
            return
        with self._places():
            body, position, end = self.body(size_max=size_max)
        left = header.count
        append_time = self._append_time()
        while left > 0:
            with self._places():
                records, position = kernel.decode_records(
                    body, position, end, min(left, piece), header.base_offset, header.base_timestamp, append_time
                )
            left -= len(records)
            yield records
        self._check_end(position, end)

    def lines(self, style: LineStyle, *, size_max: int = BATCH_BYTES_MAX) -> Iterator[tuple[bytes, int]]:
        """The records of a v2 batch as lines of text, in pieces, each with its number of lines. Raises as `records`."""
        header = self.header
        with self._places():
            body, position, end = self.body(size_max=size_max)
        done = 0
        while done < header.count:
            try:
                with self._places():
                    lines, position, count = kernel.format_body(
                        body, position, end, header.count - done, header.base_offset, header.base_timestamp,
                        self._append_time(), style, _LINES_BYTES,
                    )  # fmt: skip
            except InvalidRecordError as error:
                yield getattr(error, "lines", b""), getattr(error, "lines_count", 0)
                raise
            done += count
            yield lines, count
        self._check_end(position, end)

    def stats(self, *, size_max: int = BATCH_BYTES_MAX) -> RecordStats:
        """Walk the records of a v2 batch and check them, without making objects. Raises as `records`."""
        with self._places():
            body, position, end = self.body(size_max=size_max)
            if self.header.count < 0:
                raise InvalidRecordError(FLAW_REASONS[Flaw.COUNT_NEGATIVE])
            if self.header.count == 0:
                return kernel.check_records(b"", 0, 0, 0)
            return kernel.check_records(body, position, end, self.header.count)

    def body(self, *, size_max: int = BATCH_BYTES_MAX) -> tuple[Buffer, int, int]:
        """The records of a v2 batch, decompressed: a buffer, and where in it they begin and end."""
        codec = self.codec
        if self.header.size > size_max:
            raise BatchTooLargeError(
                f"a batch of {self.header.size} bytes is above the cap of {size_max}",
                remedy="raise the cap on one batch",
            )
        if codec == Codec.NONE:
            raw = self.raw
            return raw, HEADER_V2_SIZE, len(raw)
        if self.header.count == 0:
            return b"", 0, 0
        plain = decompress(codec, self.raw[HEADER_V2_SIZE:], size_max=size_max)
        return plain, 0, len(plain)

    def control_type(self, *, size_max: int = BATCH_BYTES_MAX) -> ControlType | None:
        """What a control batch says by its first record; None if it is empty. Raises as `records`."""
        for piece in self.record_pieces(size_max=size_max, piece=1):
            with self._places():
                return parse_control_key(piece[0].key)[0]
        return None

    def _append_time(self) -> int | None:
        return self.header.max_timestamp if self.header.attributes & 0x08 else None

    def _check_end(self, position: int, end: int) -> None:
        if self.header.count < 0:
            raise self._placed(InvalidRecordError(FLAW_REASONS[Flaw.COUNT_NEGATIVE]))
        if self.header.count and position != end:
            raise self._placed(InvalidRecordError(FLAW_REASONS[Flaw.BYTES_LEFT]))

    def _places(self) -> _Placing:
        return _Placing(self)

    def _placed(self, error: _Error) -> _Error:
        """The error with the place of this batch, instead of a position in some buffer."""
        error.position, error.offset = self.header.position, self.header.base_offset
        return error


class _Placing:
    """Gives errors that are raised inside the place of the batch, instead of a position in some buffer."""

    __slots__ = ("_batch",)

    def __init__(self, batch: RecordBatch) -> None:
        self._batch = batch

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, LogstoreError):
            self._batch._placed(error)


def increment_sequence(sequence: int, count: int) -> int:
    """Add to a sequence number, wrapping from 2^31-1 to 0 (FORMAT §2.3)."""
    return sequence + count if sequence <= INT32_MAX - count else count - (INT32_MAX - sequence) - 1


def decrement_sequence(sequence: int, count: int) -> int:
    """Subtract from a sequence number, wrapping from 0 to 2^31-1 (FORMAT §2.3)."""
    return sequence - count if sequence >= count else INT32_MAX - (count - sequence) + 1


def first_batch_size(buffer: Buffer, start: int = 0) -> int | None:
    """Bytes of the batch that begins at `start`, or None while fewer than 17 bytes of it are there.

    Raises CorruptRecordError for a size or magic that no batch has (FORMAT §2.7).
    """
    view = memoryview(buffer)[start:]
    if len(view) < HEADER_SIZE_UP_TO_MAGIC:
        return None
    _, _, status = kernel.walk_batches(view, 0, HEADER_SIZE_UP_TO_MAGIC, 0, False)
    if status in (WalkEnd.BAD_SIZE, WalkEnd.BAD_MAGIC):
        raise CorruptRecordError("these bytes are no batch: size or magic is impossible", position=start)
    return int.from_bytes(view[8:12], "big") + 12


def iter_batches(buffer: Buffer, *, verify: bool = True) -> Iterator[RecordBatch]:
    """The whole batches of `buffer`, in order; a last one that is cut off is left out, as consumers do.

    Raises CorruptRecordError where bytes are no batch or, with `verify`, where a CRC is wrong; what comes before is
    handed out first.
    """
    headers, stop, status = kernel.walk_batches(buffer, 0, len(buffer), 0, verify)
    for header in headers:
        yield RecordBatch(header, buffer, header.position)
    if status in (WalkEnd.BAD_SIZE, WalkEnd.BAD_MAGIC, WalkEnd.BAD_CRC):
        what = {WalkEnd.BAD_SIZE: "size", WalkEnd.BAD_MAGIC: "magic", WalkEnd.BAD_CRC: "CRC"}[WalkEnd(status)]
        raise CorruptRecordError(f"a batch has a wrong {what}", position=stop)


def decode(buffer: Buffer, *, verify: bool = True, size_max: int = BATCH_BYTES_MAX) -> list[Record]:
    """All records of the whole batches in `buffer`, control records left out.

    The buffer is what a read of a log gives: batches back to back, the last one possibly cut off. Raises
    CorruptRecordError, InvalidRecordError, UnsupportedFormatError, BatchTooLargeError.
    """
    records: list[Record] = []
    for batch in iter_batches(buffer, verify=verify):
        if not batch.is_control:
            records += batch.records(size_max=size_max)
    return records
