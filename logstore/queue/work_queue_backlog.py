"""The jobs of one partition at which nobody has looked yet, a few of them read ahead.

What this process puts goes to the worker without a detour over the disk, as long as the worker keeps up. Records of
transactions that are undecided are waited for, those of aborted ones are left out. Belongs to one thread at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from logstore.errors import OffsetOutOfRangeError
from logstore.log import FetchIsolation, Log, SharedLog
from logstore.records import Record

_PUSHED_MAX = 1024
_PUSHED_BYTES_MAX = 4096  # of one value


class Backlog:
    """Gives records in order.

    Args:
        log: has them.
    """

    def __init__(self, log: Log | SharedLog) -> None:
        self._log = log
        self._ready: deque[Record] = deque()  # pushed; all below `_end`
        self._source: Iterator[Record] | None = None
        self._end = 0  # what is from here on was not read
        self._bound = 0  # what the source had before it when it was made

    def __repr__(self) -> str:
        return f"<Backlog up to {self._end}>"

    def push(self, record: Record) -> None:
        """A record was appended; it is kept if it is the next one and there is room."""
        if (
            record.offset == self._end
            and self._source is None
            and len(self._ready) < _PUSHED_MAX
            and len(record.value or b"") <= _PUSHED_BYTES_MAX
        ):
            self._ready.append(record)
            self._end += 1

    def next(self, position: int) -> Record | None:
        """The next record at or above `position`. Raises as a log's reads."""
        ready = self._ready
        while ready:
            record = ready.popleft()
            if record.offset >= position:
                return record
        try:
            return self._read(position)
        except OffsetOutOfRangeError:  # deleted meanwhile
            self.clear()
            return self._read(position)

    def _read(self, position: int) -> Record | None:
        if self._source is not None:
            found = self._from_source(position)
            if found is not None:
                return found
        self._end = max(self._end, position)
        stable = self._log.last_stable_offset
        if stable <= self._end:
            return None
        self._end = max(self._end, self._log.log_start_offset)
        self._bound = stable
        self._source = self._log.records(self._end, isolation=FetchIsolation.TXN_COMMITTED)
        return self._from_source(position)

    def _from_source(self, position: int) -> Record | None:
        assert self._source is not None
        for record in self._source:
            if record.offset >= position:
                self._end = record.offset + 1
                if self._end >= self._bound:  # so that what is put next can be pushed
                    self._source = None
                return record
        self._source = None
        self._end = max(self._end, self._bound)
        return None

    def clear(self) -> None:
        """Forget what was read ahead; it is read again."""
        self._ready.clear()
        self._source = None
        self._end = 0
