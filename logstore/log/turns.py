"""Whose turn it is to change a partition that several processes have open, and how they learn that it was changed.

A lock file in the partition holds two numbers: the session, which the first process to open the store draws anew, and
the generation. What is appended behind the last batch others find by looking; whatever else changes makes the
generation odd before and even after. So who finds another even number looks at everything anew, and who finds an odd
one knows that somebody is at work, or has died at it. One object belongs to one thread at a time.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from typing import NamedTuple

from logstore.fs import OpenLock

_NUMBERS = struct.Struct(">QQ")  # session, generation. In files of ours; never change.


_DELETED = 2**64 - 1


class Turn(NamedTuple):
    """What the lock file says."""

    session: int = 0
    generation: int = 0

    @property
    def is_settled(self) -> bool:
        """Whether nobody is at work, and nobody has died at it."""
        return not self.generation & 1

    @property
    def is_deleted(self) -> bool:
        """Whether the partition was deleted."""
        return self.generation == _DELETED


class Turns:
    """The lock file of one partition, open.

    Args:
        lock: it.
        session: of this process's store.
    """

    def __init__(self, lock: OpenLock, session: int) -> None:
        self._lock = lock
        self.session = session

    def __repr__(self) -> str:
        return f"<Turns {self._lock.path} {self.read()}>"

    def read(self) -> Turn:
        """What the file says now; needs no lock."""
        data = self._lock.read(_NUMBERS.size)
        return Turn(*_NUMBERS.unpack(data)) if len(data) == _NUMBERS.size else Turn()

    def is_good(self, turn: Turn) -> bool:
        """Whether somebody of this session has left the log in order."""
        return turn.is_settled and turn.session == self.session

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Keep all others from appending and changing, inside."""
        self._lock.acquire(wait=True)
        try:
            yield
        finally:
            self._lock.release()

    @contextlib.contextmanager
    def tried(self) -> Iterator[bool]:
        """As `taken` where nobody else has it; whether that is so."""
        has_it = self._lock.acquire()
        try:
            yield has_it
        finally:
            if has_it:
                self._lock.release()

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Change more than the end, inside `taken`. Where that fails, or the process dies, others know."""
        odd = self.read().generation | 1
        self._lock.write(_NUMBERS.pack(self.session, odd))
        yield
        self._lock.write(_NUMBERS.pack(self.session, odd + 1))

    def vouch(self) -> None:
        """Say that the log is in order, in this session, inside `taken`; others look at it anew."""
        self._lock.write(_NUMBERS.pack(self.session, (self.read().generation | 1) + 1))

    def delete(self) -> None:
        """Say that the partition is no more, inside `taken`."""
        self._lock.write(_NUMBERS.pack(self.session, _DELETED))

    def close(self) -> None:
        """Give the file up."""
        self._lock.close()
