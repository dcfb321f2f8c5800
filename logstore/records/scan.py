"""Walks a log file batch by batch, whatever it holds.

Where bytes are bad the scanner says what and why, as a `Damage`, and goes on at the next batch that can be trusted: one
whose header is possible at that place and whose CRC is right. A torn tail is a fact, not an exception. The scanner does
no I/O of its own: it reads through a `Source`. One scan belongs to one thread.
"""

from __future__ import annotations

import dataclasses
import enum
import zlib
from collections.abc import Iterator
from typing import Protocol

from logstore.checksum import crc32c
from logstore.records import kernel
from logstore.records.batch import BATCH_BYTES_MAX, RecordBatch
from logstore.records.compression import Buffer
from logstore.records.header import (
    CRC_LEGACY_START,
    CRC_V2_START,
    HEADER_SIZE_UP_TO_MAGIC,
    HEADER_V2_SIZE,
    INT32_MAX,
    INT64_MAX,
    LOG_OVERHEAD,
    MAGIC_POSITION,
    SIZE_MIN_V0,
    BatchHeader,
    WalkEnd,
)

WINDOW_BYTES = 1 << 19  # read at a time; stays in the processor's cache
_WINDOW_BYTES_MIN = 1 << 12  # behind damage windows begin small and double, so that much damage costs little
_ZEROS = bytes(WINDOW_BYTES)
# Bytes of CRC that may be computed in vain, and more per byte passed: a hostile file stays linear.
_SEARCH_CREDIT = 64 << 20
_SEARCH_CREDIT_PER_BYTE = 16


class Source(Protocol):
    """Where a scan reads from."""

    def read(self, position: int, size: int) -> bytes:
        """At most `size` bytes from `position`; fewer only at the end."""

    @property
    def size(self) -> int:
        """Bytes there are."""


class BytesSource:
    """A buffer as a source."""

    __slots__ = ("_buffer",)

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = memoryview(buffer)

    def read(self, position: int, size: int) -> bytes:
        """At most `size` bytes from `position`."""
        return bytes(self._buffer[position : position + size])

    @property
    def size(self) -> int:
        """Bytes of the buffer."""
        return len(self._buffer)


class DamageCode(enum.Enum):
    """What is wrong with a range of a log file; docs/damage.md says cause and remedy of each."""

    BATCH_CRC = "batch-crc"
    BATCH_SIZE = "batch-size"
    BATCH_MAGIC = "batch-magic"
    ZEROS = "zeros"
    ZERO_TAIL = "zero-tail"
    TORN_TAIL = "torn-tail"
    FILE_SHRANK = "file-shrank"


_REASONS = {
    DamageCode.BATCH_CRC: "the bytes of a batch do not match its CRC",
    DamageCode.BATCH_SIZE: "the size field of a batch is impossible here",
    DamageCode.BATCH_MAGIC: "no message format has this magic byte",
    DamageCode.ZEROS: "zeros where a batch should begin",
    DamageCode.ZERO_TAIL: "nothing but zeros up to the end of the file",
    DamageCode.TORN_TAIL: "the file ends inside a batch",
    DamageCode.FILE_SHRANK: "the file became shorter while it was read",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Damage:
    """A range of a file that holds no batch one can trust.

    `batch` is there when the range is one batch whose frame is whole and only its CRC is wrong.
    """

    position: int
    size: int
    code: DamageCode
    batch: RecordBatch | None = None

    @property
    def reason(self) -> str:
        """What is wrong, as a clause."""
        return _REASONS[self.code]


class BatchScanner:
    """Iterates over the batches and damages of a source, in order of position.

    Args:
        source: what to read.
        start, end: byte range; `end` None means the size of the source when the scan begins.
        verify: check CRCs.
        batch_bytes_max: a larger batch is not held in memory: its CRC is checked piece by piece and its records
            cannot be had.
        offset_min, offset_max: bounds of offsets for batches found behind damage.
    """

    def __init__(
        self,
        source: Source,
        *,
        start: int = 0,
        end: int | None = None,
        verify: bool = True,
        batch_bytes_max: int = BATCH_BYTES_MAX,
        offset_min: int = 0,
        offset_max: int = INT64_MAX,
    ) -> None:
        self._source = source
        self._start = self._position = start
        self._end = source.size if end is None else end
        self._verify = verify
        self._batch_bytes_max = batch_bytes_max
        self._offset_floor = offset_min
        self._offset_min = offset_min
        self._offset_max = offset_max
        self._window_bytes = WINDOW_BYTES
        self._spent = 0  # bytes of CRC computed in vain

    def __iter__(self) -> Iterator[RecordBatch | Damage]:
        while self._position < self._end:
            window = self._source.read(self._position, min(self._window_bytes, self._end - self._position))
            self._window_bytes = min(2 * self._window_bytes, WINDOW_BYTES)
            if not window:
                yield self._damage(self._end, DamageCode.FILE_SHRANK)
                return
            base = self._position
            headers, stop, status = kernel.walk_batches(window, 0, len(window), base, self._verify)
            for header in headers:
                yield RecordBatch(header, window, header[0] - base)
            if headers:
                self._passed(headers[-1])
            self._position += stop
            if status == WalkEnd.END:
                continue
            if status == WalkEnd.INCOMPLETE:
                if stop > 0 and self._position + len(window) - stop < self._end:
                    continue  # a new window may hold all of it
                yield from self._cut_off(window[stop:])
            else:
                yield from self._bad(WalkEnd(status), window[stop:])

    # ---- what a walk could not take

    def _cut_off(self, head: bytes) -> Iterator[RecordBatch | Damage]:
        """A batch that the window does not hold: large, or not all there."""
        left = self._end - self._position
        if len(head) < HEADER_SIZE_UP_TO_MAGIC:
            shrank = len(head) < left
            yield self._damage(self._end, DamageCode.FILE_SHRANK if shrank else self._tail_code(head))
            return
        size = LOG_OVERHEAD + int.from_bytes(head[8:12], "big", signed=True)
        if size > left:
            yield from self._resynchronize(DamageCode.TORN_TAIL, None)
            return
        yield from self._large(head, size)

    def _large(self, head: bytes, size: int) -> Iterator[RecordBatch | Damage]:
        """A batch larger than the window: read whole, or only checked piece by piece."""
        if size <= max(self._batch_bytes_max, WINDOW_BYTES):
            buffer = self._source.read(self._position, size)
            if len(buffer) < size:
                yield self._damage(self._end, DamageCode.FILE_SHRANK)
                return
            headers, _, _ = kernel.walk_batches(buffer, 0, size, self._position, self._verify)
            batch = RecordBatch(headers[0], buffer) if headers else None
        else:
            head = head[:HEADER_V2_SIZE].ljust(HEADER_V2_SIZE, b"\0")
            batch = RecordBatch(kernel.parse_header(head, 0, self._position), None)
            if self._verify and not self._crc_matches(batch.header):
                batch = None
        if batch is None:
            yield from self._resynchronize(DamageCode.BATCH_CRC, self._frame())
            return
        yield batch
        self._position += size
        self._passed(batch.header)

    def _bad(self, status: WalkEnd, head: bytes) -> Iterator[Damage]:
        code = {WalkEnd.BAD_CRC: DamageCode.BATCH_CRC, WalkEnd.BAD_MAGIC: DamageCode.BATCH_MAGIC}.get(
            status, DamageCode.BATCH_SIZE
        )
        if code == DamageCode.BATCH_SIZE and not any(head[:HEADER_SIZE_UP_TO_MAGIC]):
            code = DamageCode.ZEROS
            if self._is_zero_to_end():
                yield self._damage(self._end, DamageCode.ZERO_TAIL)
                return
        yield from self._resynchronize(code, self._frame() if code == DamageCode.BATCH_CRC else None)

    def _tail_code(self, head: bytes) -> DamageCode:
        return DamageCode.TORN_TAIL if any(head) else DamageCode.ZERO_TAIL

    def _is_zero_to_end(self) -> bool:
        position, size = self._position, _WINDOW_BYTES_MIN
        while position < self._end:
            piece = self._source.read(position, min(size, self._end - position))
            if not piece or piece != _ZEROS[: len(piece)]:
                return not piece
            position += len(piece)
            size = min(2 * size, WINDOW_BYTES)
        return True

    # ---- finding the next batch

    def _resynchronize(self, code: DamageCode, frame: RecordBatch | None) -> Iterator[Damage]:
        """Report the range up to the next batch that can be trusted, or up to the end."""
        if frame is not None:
            self._spent += frame.header.size
            following = self._position + frame.header.size
            # Right behind the frame any offset will do: the last one passed may be wrong, no CRC covers it.
            may_follow = following == self._end or self._is_trusted(following, self._offset_floor)
            if may_follow or not self._can_spend(0, following):
                yield self._damage(following, code, frame)
                return
        found = self._find()
        if found is not None and code == DamageCode.TORN_TAIL:
            code = DamageCode.BATCH_SIZE  # the file goes on behind it, so the size was the lie
        yield self._damage(self._end if found is None else found, code)

    def _find(self) -> int | None:
        position, size = self._position + 1, _WINDOW_BYTES_MIN
        while position < self._end:
            window = self._source.read(position, min(size, self._end - position))
            at = 0
            while True:
                at = kernel.find_candidate(
                    window, at, len(window), self._end - position - at, self._offset_min, self._offset_max
                )
                if at < 0:
                    break
                if self._is_trusted(position + at, self._offset_min):
                    return position + at
                at += 1
            if position + len(window) >= self._end or len(window) < HEADER_V2_SIZE:
                return None
            position += len(window) - HEADER_V2_SIZE + 1
            size = min(2 * size, WINDOW_BYTES)
        return None

    def _is_trusted(self, position: int, offset_min: int) -> bool:
        """Whether a batch with possible fields and the right CRC begins at `position`."""
        head = self._source.read(position, min(HEADER_V2_SIZE, self._end - position))
        left = self._end - position
        if kernel.find_candidate(head, 0, min(len(head), HEADER_V2_SIZE), left, offset_min, self._offset_max) != 0:
            return False
        header = kernel.parse_header(head, 0, position)
        if not self._can_spend(header.size, position):
            return False
        if self._crc_matches(header):
            return True
        self._spent += header.size
        return False

    def _can_spend(self, size: int, position: int) -> bool:
        """Whether the CRC of `size` more bytes may be computed in vain, once the scan has come to `position`."""
        return self._spent + size <= _SEARCH_CREDIT + _SEARCH_CREDIT_PER_BYTE * (position - self._start)

    def _crc_matches(self, header: BatchHeader) -> bool:
        position = header.position + (CRC_V2_START if header.magic == 2 else CRC_LEGACY_START)
        end = header.position + header.size
        crc = 0
        while position < end:
            piece = self._source.read(position, min(WINDOW_BYTES, end - position))
            if not piece:
                return False
            crc = crc32c(piece, crc) if header.magic == 2 else zlib.crc32(piece, crc)
            position += len(piece)
        return crc == header.crc

    def _frame(self) -> RecordBatch | None:
        """The batch here, as its header describes it, if it ends within the file."""
        head = self._source.read(self._position, min(HEADER_V2_SIZE, self._end - self._position))
        if len(head) < HEADER_SIZE_UP_TO_MAGIC or head[MAGIC_POSITION] > 2:
            return None
        if int.from_bytes(head[8:12], "big", signed=True) < (
            HEADER_V2_SIZE - LOG_OVERHEAD if head[16] == 2 else SIZE_MIN_V0
        ):
            return None
        header = kernel.parse_header(head.ljust(HEADER_V2_SIZE, b"\0"), 0, self._position)
        if header.size > self._end - self._position:
            return None
        whole = header.size <= min(self._batch_bytes_max, INT32_MAX)
        return RecordBatch(header, self._source.read(self._position, header.size) if whole else None)

    def _passed(self, last: BatchHeader) -> None:
        self._offset_min = max(self._offset_floor, min(last.base_offset + last.last_offset_delta + 1, INT64_MAX))

    def _damage(self, end: int, code: DamageCode, batch: RecordBatch | None = None) -> Damage:
        damage = Damage(self._position, end - self._position, code, batch)
        self._position = end
        self._window_bytes = _WINDOW_BYTES_MIN
        return damage
