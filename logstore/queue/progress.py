"""What a consumer has read since a transaction began: to be committed with it, or to be read again.

Invariant: all that was handed out since then is covered by `offsets`, and comes again after `rewind`, unless partitions
went to another member meanwhile: then nothing can be committed. Belongs to the thread of its consumer.
"""

from __future__ import annotations

from collections.abc import Callable

from logstore.errors import FencedMemberError
from logstore.names import TopicPartition
from logstore.queue.intake import Intake

Seek = Callable[[TopicPartition, int], None]


class Progress:
    """Where a consumer stands: before the messages that it has handed out last.

    Args:
        intake: of the consumer.
        seek: lets it go on elsewhere.
    """

    def __init__(self, intake: Intake, seek: Seek) -> None:
        self._intake = intake
        self._seek = seek
        self._dropped = intake.dropped
        self._cursors = dict(intake.cursors)
        self._start = intake.settled_positions()

    def __repr__(self) -> str:
        return f"<Progress since {self._start}>"

    def offsets(self) -> dict[TopicPartition, int]:
        """Where to go on in each partition of which something was handed out. Raises FencedMemberError."""
        if self._intake.dropped != self._dropped:
            raise FencedMemberError("the group took partitions away during the transaction: what it read comes again")
        before = self._start
        return {
            name: at
            for name, at in self._intake.positions().items()
            if before.get(name, self._intake.began.get(name)) != at
        }

    def settle(self) -> None:
        """Take note that all of it is committed."""
        self._intake.settle()

    def rewind(self) -> None:
        """Let all that was handed out since then come again, of the partitions that are still there."""
        for name, cursor in tuple(self._intake.cursors.items()):
            is_same = self._cursors.get(name) is cursor
            self._seek(name, self._start[name] if is_same else self._intake.began[name])
