"""What a group of segments becomes: one segment, or several where one would not hold it (CLEANER §5.4).

Invariant: batches are written in order, and a segment ends between two of them. The first segment has the base offset
of the group, so that a crash while it is swapped in is completed by names. Belongs to one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from logstore.config import INT32_MAX
from logstore.fs import Buffer
from logstore.log.transaction_index import AbortedTransaction
from logstore.records.header import FilteredBatch


class Target(Protocol):
    """A segment that is written, as `CleanedSegment`."""

    base_offset: int
    size: int

    def fits(self, last_offset: int, size: int) -> bool:
        """Whether batches up to this offset, of so many bytes, belong here."""
        ...

    def write(self, data: Buffer) -> None:
        """Write whole batches."""
        ...

    def add_aborted(self, transaction: AbortedTransaction) -> None:
        """Put an entry into the transaction index."""
        ...

    def discard(self) -> None:
        """Remove what was written."""
        ...


class CountedSegment:
    """A segment that is only counted: of a dry run."""

    __slots__ = ("_size_max", "base_offset", "size")

    def __init__(self, base_offset: int, size_max: int) -> None:
        self.base_offset = base_offset
        self.size = 0
        self._size_max = min(size_max, INT32_MAX)

    def __repr__(self) -> str:
        return f"<CountedSegment {self.base_offset} size {self.size}>"

    def fits(self, last_offset: int, size: int) -> bool:
        if last_offset - self.base_offset > INT32_MAX:
            return False
        return self.size + size <= (self._size_max if self.size else INT32_MAX)

    def write(self, data: Buffer) -> None:
        self.size += len(data)

    def add_aborted(self, transaction: AbortedTransaction) -> None:
        pass

    def discard(self) -> None:
        pass


class Output:
    """The segments of one group.

    Args:
        base_offset: that of the group.
        size_max: how large one of them may become.
        create: makes a segment of a base offset and a largest size.

    Attributes:
        segments: those that were begun.
    """

    def __init__(self, base_offset: int, size_max: int, create: Callable[[int, int], Target]) -> None:
        self.segments: list[Target] = []
        self._size_max = size_max
        self._create = create
        self._roll(base_offset)

    def __repr__(self) -> str:
        return f"<Output {self.segments!r}>"

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        return sum(one.size for one in self.segments)

    def write(self, data: Buffer, batches: Sequence[FilteredBatch]) -> None:
        """Write batches that lie behind each other in `data`, from its begin on. Raises OSError."""
        if self._current.fits(batches[-1].last_offset, len(data)):
            self._current.write(data)
            return
        for batch in batches:
            if not self._current.fits(batch.last_offset, batch.size):
                self._roll(batch.base_offset)
            self._current.write(data[batch.position : batch.position + batch.size])

    def copy(self, data: Buffer) -> None:
        """Write what the first segment of the group begins with; it fits. Raises OSError."""
        self._current.write(data)

    def add_aborted(self, transaction: AbortedTransaction) -> None:
        """Put an aborted transaction, whose marker was written last, into the transaction index."""
        self._current.add_aborted(transaction)

    def discard(self) -> None:
        """Remove all that was written."""
        for segment in self.segments:
            segment.discard()

    def _roll(self, base_offset: int) -> None:
        self._current = self._create(base_offset, self._size_max)
        self.segments.append(self._current)
