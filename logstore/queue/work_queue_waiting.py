"""Waiting for a job: until somebody writes, in whatever process, or the time of a job comes.

Of the threads that wait one watches the files, and tells the others. It wakes now and then by itself: nothing is
written when a process dies that has jobs, or when somebody sets the clock. Thread-safe.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from logstore.store import Partition, Store, Watcher

NAP_S = 0.25
"""How long nobody looks, at most."""


class Waiting:
    """Those who wait for jobs of one queue.

    Args:
        store: of the queue.
        partitions: in which something is written when there is a job.
    """

    def __init__(self, store: Store, partitions: Sequence[Partition]) -> None:
        self._store = store
        self._partitions = partitions
        # Guards the three; the innermost lock.
        self._told = threading.Condition()
        self._is_watched = False
        self._watcher: Watcher | None = None
        self._round = 0

    def __repr__(self) -> str:
        return f"<Waiting {'watched' if self._is_watched else 'for nothing'}>"

    @property
    def round(self) -> int:
        """Ask before looking for a job; for `wait`."""
        return self._round

    def wait(self, since: int, timeout: float, is_there: Callable[[], bool]) -> None:
        """Sleep until there may be something that was not there in round `since`, or `timeout` seconds are over."""
        with self._told:
            if self._round != since:
                return
            if self._is_watched:
                self._told.wait(timeout)
                return
            self._is_watched = True
        watcher: Watcher | None = None
        try:
            watcher = self._watcher = self._store.watch(self._partitions)
            if not is_there():  # what came before the watcher was there
                watcher.wait(timeout)
        finally:
            with self._told:
                self._watcher = None
                self._is_watched = False
                self._round += 1
                self._told.notify_all()
            if watcher is not None:
                watcher.close()

    def wake(self) -> None:
        """Let all look."""
        with self._told:
            self._round += 1
            self._told.notify_all()
            if self._watcher is not None:
                self._watcher.wake()


class Deadline:
    """When a caller's patience ends; None: never."""

    def __init__(self, timeout: float | None) -> None:
        self._end = None if timeout is None else time.monotonic() + timeout

    def __repr__(self) -> str:
        return f"<Deadline in {self.left} s>"

    @property
    def left(self) -> float:
        """Seconds, at most a nap."""
        return NAP_S if self._end is None else min(NAP_S, self._end - time.monotonic())
