"""How the cleaner reads a segment: in windows of whole batches, and how the round is paced meanwhile.

Invariant: a window begins with a batch that is all there. Nothing is copied where the segment is mapped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from logstore.errors import CleaningAbortedError, DamagedLogError, LogstoreError
from logstore.fs import Buffer
from logstore.log.rewriting import SealedSegment
from logstore.records import RecordBatch, first_batch_size
from logstore.records.header import HEADER_V2_SIZE, MapEnd
from logstore.records.kernel import parse_header

WINDOW_BYTES = 2 << 20
_REMEDY = "`logstore check` says how much is damaged"
_WRONG = {
    MapEnd.BAD_CRC: "the bytes of a batch do not match its CRC",
    MapEnd.BAD: "a batch or its records are malformed",
    MapEnd.RANGE: "a batch claims offsets that belong to the next segment",
    MapEnd.ORDER: "a batch claims offsets that belong before it",  # no CRC covers the first one
}


class Pace(NamedTuple):
    """How a round is held back and ended from outside.

    Attributes:
        take: is told how many bytes were read or written, and may wait.
        is_cancelled: whether to give up.
        window_bytes: how much is read at a time, at least.
    """

    take: Callable[[int], object]
    is_cancelled: Callable[[], bool]
    window_bytes: int = WINDOW_BYTES

    def check(self) -> None:
        """Raise CleaningAbortedError where the round is to end."""
        if self.is_cancelled():
            raise CleaningAbortedError("cleaning was called off")

    def take_and_check(self, size: int) -> None:
        """Tell how many bytes were read, and raise as `check`."""
        self.take(size)
        self.check()


class SourceReader:
    """Reads one segment from its begin to its end."""

    __slots__ = ("_pace", "_source", "position", "size")

    def __init__(self, source: SealedSegment, pace: Pace) -> None:
        self._source = source
        self._pace = pace
        self.position = 0
        self.size = source.facts.size

    def __repr__(self) -> str:
        return f"<SourceReader at {self.position} of {self._source.segment.path}>"

    def window(self) -> Buffer:
        """Bytes from the position on, whole batches first; empty at the end. Raises DamagedLogError, OSError."""
        self._pace.check()
        left = self.size - self.position
        if not left:
            return b""
        window = self._source.segment.slice(self.position, min(self._pace.window_bytes, left))
        try:
            needed = first_batch_size(window)
        except LogstoreError as error:
            raise self.damage(error.reason) from error
        if needed is None or needed > left:
            raise self.damage("the segment ends inside a batch")
        if needed > len(window):
            window = self._source.segment.slice(self.position, needed)
            if len(window) < needed:
                raise self.damage("the segment became shorter")
        return window

    def advance(self, size: int) -> None:
        """Go on behind what was taken of a window."""
        self.position += size
        self._pace.take(size)

    def batch_at(self, window: Buffer, start: int) -> RecordBatch | None:
        """The batch at `start` of a window at the position, its CRC checked; None if it is not all in the window.

        Raises DamagedLogError.
        """
        head = window[start : start + HEADER_V2_SIZE]
        try:
            needed = first_batch_size(head)
        except LogstoreError as error:
            raise self.damage(error.reason, start) from error
        if needed is None or needed > len(window) - start:
            return None
        if len(head) < HEADER_V2_SIZE:  # of an old format
            head = bytes(head).ljust(HEADER_V2_SIZE, b"\0")
        header = parse_header(head, 0, self.position + start)
        batch = RecordBatch(header, window, start)
        if not batch.crc_is_valid():
            raise self.damage(_WRONG[MapEnd.BAD_CRC], start)
        return batch

    def check_end(self, end: MapEnd, start: int) -> None:
        """Raise DamagedLogError where a walk over a window has ended at something that is no good batch."""
        if end in _WRONG:
            raise self.damage(_WRONG[end], start)

    def damage(self, reason: str, start: int = 0, *, remedy: str = _REMEDY) -> DamagedLogError:
        """The error for something that is wrong, `start` bytes behind the position."""
        return DamagedLogError(
            f"it cannot be cleaned: {reason}", path=self._source.segment.path, position=self.position + start,
            remedy=remedy,
        )  # fmt: skip
