"""Who has a work queue open: lock files in the store's directory, which the kernel lets go when a process dies.

Three kinds of dot-files, all empty: one per queue that is locked for a moment by who changes its state; one per queue
that all share who have it open, by which the first one knows that it is; and one per worker, locked as long as it
lives. A worker's number is drawn once and never used again. Not thread-safe.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from logstore.errors import LogLockedError
from logstore.fs import OpenLock, SharingFileSystem

# On disk; never change.
TURN_PREFIX = ".logstore-queue-"
USERS_PREFIX = ".logstore-users-"
WORKER_PREFIX = ".logstore-worker-"
DETACHED = 2**64 - 1
"""The number of all workers that are no process: what they have acquired they have until its visibility runs out."""


class Worker:
    """One who acquires jobs.

    Attributes:
        number: never 0.
    """

    def __init__(self, fs: SharingFileSystem, root: Path, *, is_alone: bool, is_detached: bool = False) -> None:
        self._fs = fs
        self._root = root
        self._lock: OpenLock | None = None
        self.number = DETACHED if is_detached else _draw()
        while not is_alone and not is_detached and not self._begin():
            self.number = _draw()

    def __repr__(self) -> str:
        return f"<Worker {self.number:016x}>"

    def _begin(self) -> bool:
        path = self._path(self.number)
        lock = self._fs.open_lock(path)
        # Who sweeps may have found the file before it was locked, and has removed it then.
        if lock.acquire() and self._fs.exists(path):
            self._lock = lock
            return True
        lock.close()
        return False

    def is_gone(self, number: int) -> bool:
        """Whether another worker has ended, in whatever way."""
        return number not in (self.number, DETACHED) and self._is_gone(self._path(number))

    def _is_gone(self, path: Path) -> bool:
        if not self._fs.exists(path):
            return True
        lock = self._fs.open_lock(path)
        try:
            if not lock.acquire():
                return False
            self._fs.unlink(path, missing_ok=True)
            return True
        finally:
            lock.close()

    def sweep(self) -> None:
        """Remove the files of those who were killed."""
        for name in self._fs.list(self._root):
            if name.startswith(WORKER_PREFIX) and name != self._path(self.number).name:
                self._is_gone(self._root / name)

    def end(self) -> None:
        """What it has acquired is available again."""
        lock, self._lock = self._lock, None
        if lock is not None:
            self._fs.unlink(self._path(self.number), missing_ok=True)
            lock.close()

    def _path(self, number: int) -> Path:
        return self._root / f"{WORKER_PREFIX}{number:016x}"


class Users:
    """All who have a queue open. Inside its turn."""

    def __init__(self, fs: SharingFileSystem, root: Path, queue: str) -> None:
        self._lock = fs.open_lock(root / f"{USERS_PREFIX}{queue}")
        self._queue = queue

    def __repr__(self) -> str:
        return f"<Users of {self._queue}>"

    def is_only(self) -> bool:
        """Whether there is nobody else; nobody else can come then until `join`."""
        return self._lock.acquire()

    def join(self) -> None:
        """Be one of many. Raises LogLockedError where one has it for itself."""
        if not self._lock.acquire(shared=True):
            raise self.refusal()

    def refusal(self) -> LogLockedError:
        """What is said to those who come second to an exclusive store."""
        return LogLockedError(
            f"the work queue {self._queue!r} is open already in this store, which is open as exclusive",
            path=self._lock.path, remedy="use the same WorkQueue in all threads, or open the store as shared",
        )  # fmt: skip

    def leave(self) -> None:
        self._lock.close()


class SharedTurn:
    """A context manager: keeps all others from changing the state of a queue, and knows what they did before.

    Args:
        mutex: keeps out the threads of this process; taken before the file.
        lock: keeps out other processes.
        check_open: raises where the file is closed.
        follow: reads what others have written.
    """

    def __init__(
        self, mutex: threading.Lock, lock: OpenLock, check_open: Callable[[], None], follow: Callable[[], None]
    ) -> None:
        self._mutex = mutex
        self._lock = lock
        self._check_open = check_open
        self._follow = follow

    def __repr__(self) -> str:
        return f"<SharedTurn {self._lock.path}>"

    def __enter__(self) -> None:
        self._mutex.acquire()
        try:
            self._check_open()
            self._lock.acquire(wait=True)
            self._follow()
        except BaseException:
            self._give_up()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_up()

    def _give_up(self) -> None:
        try:
            self._lock.release()
        finally:
            self._mutex.release()


def _draw() -> int:
    return random.SystemRandom().randrange(1, DETACHED)
