"""Whose turn it is to change what several processes have open, and how they learn that it was changed.

A lock file holds two numbers: the session, which the first process to open the store draws anew, and the generation.
What is appended behind the last batch others find by looking; whatever else changes makes the generation odd before and
even after. So who finds another even number looks at everything anew, and who finds an odd one knows that somebody is
at work, or has died at it. Behind the numbers may be told where the last append has left the end (`log_end`): a help,
that is believed where it names the numbers before it and the file's size. One who takes turns is one thread at a time;
any number may look.
"""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from logstore.fs import FileSystem, OpenLock
from logstore.log.log_end import END_BYTES

_NUMBERS = struct.Struct(">QQ")  # session, generation. In files of ours; never change.
RAW_BYTES = _NUMBERS.size
_DELETED = 2**64 - 1
_NAP_S, _NAPS_MAX = 0.00005, 20


class Turn(NamedTuple):
    """What the lock file says."""

    session: int = 0
    generation: int = 0

    @property
    def is_settled(self) -> bool:
        """Whether nobody is at work, and nobody has died at it."""
        return not self.generation & 1

    def follows(self, other: Turn) -> bool:
        """Whether this change is the next one after another that is over."""
        return self == (other.session, other.generation + 1)

    @property
    def is_deleted(self) -> bool:
        """Whether the partition was deleted."""
        return self.generation == _DELETED


class _Taken:
    """Holds a lock inside a `with`: appends do that, and a generator would cost them a microsecond.

    An append has it for some twenty microseconds. Who slept until the kernel gives it would be woken right behind each
    other append and meet the same one at the next partition: several would go along all of them in a row.
    """

    __slots__ = ("_lock",)

    def __init__(self, lock: OpenLock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        acquire = self._lock.acquire
        for _ in range(_NAPS_MAX):
            if acquire():
                return
            time.sleep(_NAP_S)
        acquire(wait=True)

    def __exit__(self, *exception: object) -> None:
        self._lock.release()


class Turns:
    """The lock file of one partition, open.

    Args:
        lock: it.
        session: of this process's store.
    """

    def __init__(self, lock: OpenLock, session: int) -> None:
        self._lock = lock
        self._taken = _Taken(lock)
        self.session = session

    def __repr__(self) -> str:
        return f"<Turns {self._lock.path} of session {self.session}>"

    # ---- looking, which needs no lock

    def raw(self) -> bytes:
        """What the file says now, as bytes: others, when it says something else."""
        return self._lock.read(_NUMBERS.size)

    def said(self) -> bytes:
        """As `raw`, and behind it what is told of the end."""
        return self._lock.read(_NUMBERS.size + END_BYTES)

    def read(self) -> Turn:
        """What the file says now."""
        return parse_turn(self.raw())

    def is_good(self, turn: Turn) -> bool:
        """Whether somebody of this session has left the log in order."""
        return turn.is_settled and turn.session == self.session

    # ---- taking it

    def taken(self) -> contextlib.AbstractContextManager[None]:
        """Keep all others from appending and changing, inside."""
        return self._taken

    @contextlib.contextmanager
    def tried(self) -> Iterator[bool]:
        """As `taken` where nobody else has it; whether that is so."""
        has_it = self._lock.acquire()
        try:
            yield has_it
        finally:
            if has_it:
                self._lock.release()

    # ---- changing, inside `taken`

    def begin(self) -> None:
        """Say that more than the end is being changed; others know also where this process dies at it."""
        self._lock.write(_NUMBERS.pack(self.session, self.read().generation | 1))

    def end(self) -> None:
        """Say that all is in order, in this session; others look at it anew."""
        self._lock.write(_NUMBERS.pack(self.session, (self.read().generation | 1) + 1))

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Change more than the end. Where that fails it does not count as in order."""
        self.begin()
        yield
        self.end()

    def tell(self, end: bytes) -> None:
        """Say where an append has left the end. Raises OSError."""
        self._lock.write(end, _NUMBERS.size)

    def delete(self) -> None:
        """Say that the partition is no more."""
        self._lock.write(_NUMBERS.pack(self.session, _DELETED))

    def close(self) -> None:
        """Give the file up."""
        self._lock.close()


def parse_turn(data: bytes) -> Turn:
    """What the bytes of a lock file say; a file of somebody else says nothing."""
    return Turn(*_NUMBERS.unpack(data)) if len(data) == _NUMBERS.size else Turn()


def read_turn(fs: FileSystem, path: Path) -> Turn:
    """What a lock file says, without opening it as one; the file need not be there. Raises OSError."""
    if not fs.exists(path):
        return Turn()
    with fs.open(path) as file:
        return parse_turn(file.read(0, _NUMBERS.size))
