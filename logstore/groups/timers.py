"""Deadlines by key, and which of them have passed.

A deadline that is put off costs no more than a look-up: its place in the queue is put right when its old time comes.
No clock: times are milliseconds on any one scale. Not thread-safe.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from itertools import count
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Timers(Generic[Key]):
    """One deadline for each key. Of those that pass together, the one that was set first comes first."""

    def __init__(self) -> None:
        self._deadlines: dict[Key, int] = {}
        self._queued: dict[Key, int] = {}  # the time of a key's place in the queue: not behind its deadline
        self._queue: list[tuple[int, int, Key]] = []
        self._numbers = count()

    def __repr__(self) -> str:
        return f"<Timers {len(self._deadlines)}, next {self.next_ms}>"

    def __contains__(self, key: Key) -> bool:
        return key in self._deadlines

    def set(self, key: Key, deadline_ms: int) -> None:
        """Give the key this deadline, instead of any that it has."""
        self._deadlines[key] = deadline_ms
        queued = self._queued.get(key)
        if queued is None or queued > deadline_ms:
            self._enqueue(key, deadline_ms)

    def clear(self, key: Key) -> None:
        """Take the key's deadline away, if it has one."""
        self._deadlines.pop(key, None)

    @property
    def next_ms(self) -> int | None:
        """The earliest deadline."""
        while self._queue:
            at, _, key = self._queue[0]
            is_current = self._queued.get(key) == at
            deadline = self._deadlines.get(key)
            if is_current and deadline == at:
                return at
            heapq.heappop(self._queue)
            if is_current:
                del self._queued[key]
                if deadline is not None:
                    self._enqueue(key, deadline)
        return None

    def due(self, now_ms: int) -> list[Key]:
        """Return the keys whose deadlines have passed, in their order; `take` each before heeding it."""
        keys = []
        while (at := self.next_ms) is not None and at <= now_ms:
            _, _, key = heapq.heappop(self._queue)
            del self._queued[key]
            keys.append(key)
        return keys

    def take(self, key: Key, now_ms: int) -> bool:
        """Clear the deadline of a key that was due; False where it has been cleared or put off meanwhile."""
        deadline = self._deadlines.get(key)
        if deadline is None:
            return False
        if deadline > now_ms:
            if key not in self._queued:
                self._enqueue(key, deadline)
            return False
        del self._deadlines[key]
        return True

    def _enqueue(self, key: Key, at: int) -> None:
        self._queued[key] = at
        heapq.heappush(self._queue, (at, next(self._numbers), key))
