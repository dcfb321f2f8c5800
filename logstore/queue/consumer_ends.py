"""What a consumer has to give back: its place in the group, and what wakes it.

Kept apart from the consumer, so that it can be given back for one that nobody closes. Belongs to one thread at a time,
but for `wake`.
"""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Iterable
from pathlib import Path

from logstore.errors import StoreClosedError
from logstore.queue.membership import Member
from logstore.queue.reading import Cursor
from logstore.store import Store, Watcher


class Ends:
    """What a consumer has to give back, also one that nobody closes."""

    def __init__(self) -> None:
        self.member: Member | None = None
        self.is_closed = False
        self.was_woken = True
        self._pid = os.getpid()
        self._watcher: Watcher | None = None
        self._watched: set[Path] = set()
        self._guard = threading.RLock()  # guards the watcher against `wake`, which a signal handler may call

    def __repr__(self) -> str:
        return f"<Ends {self.member}>"

    def watch(self, store: Store, cursors: Iterable[Cursor]) -> None:
        """Watch these, and what the group does; what was watched before stays so."""
        wanted = {cursor.directory for cursor in cursors}
        if self.member is not None:
            wanted.add(store.paths[0])
        new = wanted - self._watched
        with self._guard:
            if self._watcher is None:
                self._watcher = Watcher()
        for directory in new:
            try:
                self._watcher.add(directory)
            except FileNotFoundError:
                continue  # deleted: the next look will tell
        self._watched |= new

    def wait(self, timeout: float) -> None:
        """Sleep until something happens."""
        assert self._watcher is not None
        self.was_woken = self._watcher.wait(timeout)

    def wake(self) -> None:
        """Let `wait` return."""
        with self._guard:
            if self._watcher is not None:
                self._watcher.wake()

    def close(self) -> None:
        """Leave the group."""
        self.is_closed = True
        with self._guard:
            watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.close()
        member, self.member = self.member, None
        if member is not None:
            with contextlib.suppress(StoreClosedError):  # the others take it for dead
                member.leave()

    def abandon(self) -> None:
        """End as if the process were killed: what was not committed comes again."""
        if self._pid != os.getpid():
            return
        self.is_closed = True
        member, self.member = self.member, None
        if member is not None:
            member.abandon()
        if self._watcher is not None:
            self._watcher.close()
        warnings.warn("a consumer was not closed: its last offsets are not committed", ResourceWarning, stacklevel=2)
