"""What a send gives: a light future of where the record went.

Invariant: a future is done once its record is where the durability of its producer wants it, or is known not to get
there; it does not change afterwards. Thread-safe.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from logstore.queue.packs import Pack


class RecordPlace(NamedTuple):
    """Where a record is: the partition of its topic, and its offset there."""

    partition: int
    offset: int


class SentRange(NamedTuple):
    """Where records are that were written together: a partition, and their first and last offset."""

    partition: int
    first_offset: int
    last_offset: int


class SendFuture:
    """A record on its way; `Producer.send` gives it. Nobody has to look at it."""

    __slots__ = ("_index", "_pack")

    def __init__(self, pack: Pack, index: int) -> None:
        self._pack = pack
        self._index = index

    def __repr__(self) -> str:
        pack = self._pack
        if not pack.is_done:
            state = "gathered" if pack.first_offset < 0 else "written"
        else:
            state = f"at {pack.first_offset + self._index}" if pack.error is None else f"failed: {pack.error}"
        return f"<SendFuture {pack.lane.name} {state}>"

    def done(self) -> bool:
        """Whether the record is where it belongs, or cannot get there."""
        return self._pack.is_done

    def result(self, timeout: float | None = None) -> RecordPlace:
        """Partition and offset of the record; what is only gathered yet is written now, not after the linger.

        `timeout` (seconds) bounds how long it waits for others who are writing. Raises TimeoutError, and what has kept
        the record from being written: children of LogstoreError, OSError.
        """
        error = self.exception(timeout)
        if error is not None:
            raise error
        return RecordPlace(self._pack.lane.number, self._pack.first_offset + self._index)

    def exception(self, timeout: float | None = None) -> Exception | None:
        """What has kept the record from being written, or None; waits as `result`."""
        pack = self._pack
        if not pack.is_done:
            pack.lane.desk.finish(pack, timeout)
        pack.is_error_seen = True
        return pack.error

    def add_done_callback(self, callback: Callable[[SendFuture], object]) -> None:
        """Call `callback` with this future once it is done; at once where it is.

        It is called by whoever writes the record: any thread that uses the producer. What it raises is logged (logger
        `logstore.queue`) and stops nobody else.
        """
        self._pack.lane.desk.call_when_done(self._pack, callback, self)
