"""The two kinds of locks of a `MemoryFileSystem`.

Invariant: they keep each other out as those of the operating system do; each belongs to one process, and goes with it.
Thread-safe, by the file system's lock, as far as the operating system's are.
"""

from __future__ import annotations

import threading

from logstore.fs import Buffer
from logstore.testing.disk import Content
from logstore.testing.memory_file import MemoryFile, Shared


class Locks:
    """The locks that one process has, held or open.

    Args:
        shared: what it shares with its files.
        others: those of another process on the same files.

    Attributes:
        mine: all that were not given up.
    """

    def __init__(self, shared: Shared, others: Locks | None = None) -> None:
        self.mine: set[MemoryLock | MemoryOpenLock] = set()
        self.guard = shared.guard
        # Tells those who wait for any lock that one was dropped; its lock is the guard.
        self._dropped: threading.Condition = threading.Condition(shared.guard) if others is None else others._dropped

    def __repr__(self) -> str:
        return f"<Locks {len(self.mine)}>"

    def wait(self) -> None:
        """Wait until somebody drops a lock. Raises AssertionError where there is no other thread that could."""
        if threading.active_count() == 1:
            raise AssertionError("this thread waits for a lock that nobody else will ever drop")
        self._dropped.wait()

    def drop(self, content: Content, who: MemoryLock | MemoryOpenLock) -> None:
        """Let others have a lock."""
        content.holders.drop(who)
        self._dropped.notify_all()

    def has_alone(self, content: Content) -> bool:
        """Whether this process holds the lock that belongs to a process."""
        return any(content.holders.alone is one for one in self.mine if isinstance(one, MemoryLock))

    def end(self) -> None:
        """Give all up, as the process does that dies."""
        for one in tuple(self.mine):
            one.close()


class MemoryLock:
    """A lock of a process; for all who come later it is one of another process."""

    __slots__ = ("_content", "_locks", "path")

    def __init__(self, path: str, content: Content, locks: Locks) -> None:
        self.path = path
        self._content = content
        self._locks = locks
        locks.mine.add(self)

    def __repr__(self) -> str:
        return f"<MemoryLock {self.path} {'held' if self.is_held else 'released'}>"

    @property
    def is_held(self) -> bool:
        return self in self._locks.mine

    def release(self) -> None:
        with self._locks.guard:
            self._locks.mine.discard(self)
            self._locks.drop(self._content, self)

    def close(self) -> None:
        """The same."""
        self.release()


class MemoryOpenLock:
    """A lock file that is open. What is written there is a change like any other, and not durable."""

    __slots__ = ("_content", "_file", "_locks", "path")

    def __init__(self, file: MemoryFile, content: Content, locks: Locks) -> None:
        self.path = file.path
        self._file = file
        self._content = content
        self._locks = locks
        locks.mine.add(self)

    def __repr__(self) -> str:
        return f"<MemoryOpenLock {self.path} {'open' if self in self._locks.mine else 'closed'}>"

    def acquire(self, *, shared: bool = False, wait: bool = False) -> bool:
        """As `OpenLock.acquire`. Raises AssertionError where it would wait for ever."""
        with self._locks.guard:
            while True:
                if self not in self._locks.mine:
                    raise ValueError(f"the lock {self.path} is closed")
                if self._content.holders.take(self, shared=shared):
                    return True
                if not wait:
                    return False
                self._locks.wait()

    def release(self) -> None:
        with self._locks.guard:
            self._locks.drop(self._content, self)

    def read(self, size: int) -> bytes:
        return self._file.read(0, size)

    def write(self, data: Buffer, position: int = 0) -> None:
        self._file.write(position, data)

    def close(self) -> None:
        with self._locks.guard:
            self._locks.mine.discard(self)
            self._locks.drop(self._content, self)
        self._file.close()
