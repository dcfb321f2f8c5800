"""Appends behind what others have appended, and tells them where that has left the end.

Who is told so does not read what was appended since his own last append, nor check it again. Invariants: an end is told
by who has the turn, after the append, and believed by who has it, where the file is as large as it says; what changes
more than the end, or dies in between, leaves other numbers in the lock file, or another size. Nobody skips a batch that
changes what is known of producers, transactions or leader epochs. Belongs to who has the turn.
"""

from __future__ import annotations

import contextlib

from logstore.log.log_end import LogEnd, parse_end
from logstore.log.origin import AppendOrigin
from logstore.log.producer_append import Guard
from logstore.log.segment import Segment
from logstore.log.tail import SKIPPED_MAX, Tail
from logstore.log.turns import RAW_BYTES, Turns
from logstore.log.writing import Appended, Batch, LogWriter


class RollWantedError(Exception):
    """The append belongs into a new segment."""


class TailWriter(LogWriter):
    """Writes behind the last batch of an attached log, and nothing else.

    Args:
        tail: the log.
        turns: its lock file.
    """

    def __init__(self, tail: Tail, turns: Turns) -> None:
        super().__init__(tail.state)
        self._tail = tail
        self._turns = turns
        self._segment = tail.state.segments.active
        self._size = -1  # of the segment, where nobody else has appended since
        self._plain_from, self._leader_epoch = 0, -1  # as in `LogEnd`
        self._own_bytes = SKIPPED_MAX + 1  # appended here since anything of others was found; nothing was yet
        self._has_producer = False

    def catch_up(self, said: bytes) -> bool:
        """See what others have appended, by what the lock file says; whether it ends with a whole batch.

        Raises DamagedLogError, OSError.
        """
        tail, segment, size = self._tail, self._segment, self._tail.file_size()
        if size == self._size == segment.size:
            return True
        end, is_whole = parse_end(said[RAW_BYTES:], said[:RAW_BYTES]), True
        if end is not None and end.size != size:
            end = None
        if self._size >= 0 or size != segment.size:
            self._own_bytes = 0
        if size != segment.size and (end is None or not tail.skip_to(end)):
            is_whole = tail.catch_up().is_whole
        if end is None:
            self._plain_from, self._leader_epoch = segment.size, self._state.epochs.latest_epoch
        else:
            self._plain_from, self._leader_epoch = end.plain_from, end.leader_epoch
        self._has_producer = False
        self._size = segment.size  # last: where an interrupt comes before, it is all looked at again
        return is_whole

    def tell_end(self, raw: bytes) -> None:
        """Tell others where an append has left the end; `raw` are the numbers of the lock file.

        Where nothing of others was found for long, or ever, nobody is told: who comes now is too far behind to skip all
        that, and it would wake those who wait for more.
        """
        state, segment = self._state, self._segment
        size, epoch = segment.size, state.epochs.latest_epoch
        self._own_bytes += size - self._size
        if self._has_producer or epoch != self._leader_epoch:
            self._plain_from, self._leader_epoch = size, epoch
            self._has_producer = False
        self._size = size
        if self._own_bytes <= SKIPPED_MAX:
            end = LogEnd(
                size, state.next_offset, self._plain_from, epoch, segment.max_timestamp, segment.offset_of_max
            )
            with contextlib.suppress(OSError):  # the next one reads what is there, then
                self._turns.tell(end.pack(raw))

    def write(
        self, batch: Batch, now_ms: int, origin: AppendOrigin = AppendOrigin.CLIENT, guard: Guard | None = None, *,
        verification: bool = False,
    ) -> Appended:  # fmt: skip
        if batch.batches is not None and any(one.header.producer_id >= 0 for one in batch.batches):
            self._has_producer = True
        return super().write(batch, now_ms, origin, guard, verification=verification)

    def roll(self, base_offset: int) -> Segment:
        raise RollWantedError
