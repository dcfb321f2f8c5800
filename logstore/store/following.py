"""Keeps what the records of a partition say, up to its end: a state that grows with each look.

Invariant: the state is that of all batches from the log start to where it was read, in order; where the partition was
cut meanwhile it is made anew. Not thread-safe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from logstore.errors import OffsetOutOfRangeError
from logstore.records import RecordBatch, iter_batches
from logstore.store.partition import Partition

_READ_BYTES = 1 << 20

_State = TypeVar("_State")


class Followed(Generic[_State]):
    """A state that is made of a partition's batches.

    Args:
        partition: it.
        new: makes the state of an empty one.
        take: lets a state take batches in; what the partition raises passes through it.
    """

    def __init__(
        self, partition: Partition, new: Callable[[], _State], take: Callable[[_State, Iterable[RecordBatch]], object]
    ) -> None:
        self.partition = partition
        self._new = new
        self._take = take
        self._state = new()
        self._next_offset = -1

    def __repr__(self) -> str:
        return f"<Followed {self.partition.name} up to {self._next_offset}>"

    def caught_up(self) -> _State:
        """The state at the end there is now. Raises DamagedLogError, UnknownTopicError, OSError."""
        end = self.partition.log_end_offset
        if 0 <= self._next_offset <= end:
            try:
                if self._next_offset < end:
                    self._take(self._state, self._batches())
                return self._state
            except OffsetOutOfRangeError:
                pass  # what comes next was deleted
        self._state, self._next_offset = self._new(), self.partition.log_start_offset
        self._take(self._state, self._batches())
        return self._state

    def _batches(self) -> Iterator[RecordBatch]:
        while data := self.partition.read(self._next_offset, bytes_max=_READ_BYTES):
            for batch in iter_batches(data):
                if batch.next_offset > self._next_offset:  # a cleaner may have joined it with what was seen
                    self._next_offset = batch.next_offset
                    yield batch
