"""What a consumer reads of all its partitions in turn, and how much of it was handed out and dealt with.

Invariant: a position is that of the first message that was not handed out, wherever the reading is ahead of it. Belongs
to one thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from logstore.names import TopicPartition
from logstore.queue.reading import Cursor, Message

Taker = Callable[[Cursor, int], list[Message]]

_OPEN_MAX = 50  # of more partitions none is kept open between two polls


class Intake:
    """The cursors of a consumer, and the messages that they gave last.

    Args:
        poll_max: how many messages are taken at most at a time.

    Attributes:
        cursors: by partition.
        began: where the reading of each partition began.
        dropped: how many partitions were taken away.
    """

    def __init__(self, poll_max: int) -> None:
        self.cursors: dict[TopicPartition, Cursor] = {}
        self.began: dict[TopicPartition, int] = {}
        self.dropped = 0
        self._poll_max = poll_max
        self._turns: deque[Cursor] = deque()  # who is asked next
        self._unread: list[Message] = []  # taken, and not handed out from `_at` on
        self._at = 0
        self._before: dict[TopicPartition, int] = {}  # positions before the last poll
        self._is_settled = False  # what was handed out last is dealt with, too

    def __repr__(self) -> str:
        return f"<Intake of {len(self.cursors)} partitions, {len(self._unread) - self._at} messages unread>"

    # ---- partitions

    def add(self, cursor: Cursor) -> None:
        """Read one more."""
        self.cursors[cursor.name] = cursor
        self.began[cursor.name] = cursor.position
        self._turns.append(cursor)

    def drop(self, name: TopicPartition) -> None:
        """Read one no more; what was not handed out of it is forgotten."""
        cursor = self.cursors.pop(name, None)
        if cursor is not None:
            self.dropped += 1
            cursor.close()
            self._turns.remove(cursor)
            self._forget_unread(name)

    def seek(self, name: TopicPartition, offset: int) -> None:
        """Go on elsewhere."""
        self._forget_unread(name)
        self.cursors[name].seek(offset)

    def _forget_unread(self, name: TopicPartition) -> None:
        """Forget what was not handed out of a partition, and what is in hand of it; of others that stays in hand."""
        self._before = self._in_hand()
        self._before.pop(name, None)
        self._unread = [one for one in self._unread[self._at :] if (one.topic, one.partition) != name]
        self._at = 0

    def close(self) -> None:
        """Let go of what is being read."""
        for cursor in self.cursors.values():
            cursor.close()

    # ---- messages

    def begin(self) -> None:
        """Count what was handed out until now as dealt with."""
        self._before = {}

    def settle(self) -> None:
        """Count all that was handed out as dealt with."""
        self._is_settled = True

    def next(self, take: Taker) -> list[Message]:
        """The next messages: first what an iteration that ended has left, then what `take` takes of the cursors."""
        self._is_settled = False
        if self._unread:
            messages, self._unread, self._at = self._unread[self._at :], [], 0
            for one in reversed(messages):
                self._before[TopicPartition(one.topic, one.partition)] = one.offset
            if messages:
                return messages
        messages = []
        for _ in range(len(self._turns)):
            cursor = self._turns[0]
            self._turns.rotate(-1)
            if cursor.is_paused:
                continue
            before = cursor.position
            found = take(cursor, self._poll_max - len(messages))
            if found:
                self._before[cursor.name] = before
                messages = messages + found if messages else found
                if len(self._turns) > _OPEN_MAX:
                    cursor.close()
                if len(messages) >= self._poll_max:
                    break
        return messages

    def one_by_one(self, messages: list[Message]) -> Iterator[Message]:
        """Hand messages out; each is dealt with once the next one is asked for."""
        self.put_back(messages, 0)
        while self._at < len(self._unread):
            message = self._unread[self._at]
            self._at += 1
            self._before, self._is_settled = {}, False
            yield message
        self._unread, self._at, self._before = [], 0, {}

    def put_back(self, messages: list[Message], handed: int) -> None:
        """Take back messages, but for the first ones."""
        self._unread, self._at, self._before, self._is_settled = messages, handed, {}, False

    # ---- positions

    def positions(self) -> dict[TopicPartition, int]:
        """The offset behind the last message of each partition that was handed out."""
        found = {name: cursor.position for name, cursor in self.cursors.items()}
        for one in reversed(self._unread[self._at :]):
            found[TopicPartition(one.topic, one.partition)] = one.offset
        return found

    def settled_positions(self) -> dict[TopicPartition, int]:
        """The positions behind what is dealt with for certain: not what was handed out last."""
        found = self.positions()
        if self._is_settled:
            return found
        return found | {name: at for name, at in self._in_hand().items() if name in found}

    def _in_hand(self) -> dict[TopicPartition, int]:
        """Where what was handed out last begins, in each partition of which it is."""
        if not self._at:
            return dict(self._before)
        one = self._unread[self._at - 1]
        return {TopicPartition(one.topic, one.partition): one.offset}
