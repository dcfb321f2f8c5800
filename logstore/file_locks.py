"""The two kinds of locks on files that `LocalFileSystem` gives: those of a process, and those of who opened the file.

Invariant: no file is opened here whose process lock this process holds, since closing it would end that lock. Which
these are, and which lock files are open, is the kernel's state of the whole process, hence the tables here are too.
Thread-safe.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import threading
import weakref

# Which locks this process holds: (process, device, inode). A process never conflicts with its own POSIX locks, and
# closing any descriptor of a locked file ends its lock; so who holds one has to be known before the file is opened.
# That is the kernel's state of the whole process, hence this table is too. The process id is there for forks: a child
# inherits the table, not the locks.
_lock_table: set[tuple[int, int, int]] = set()
_lock_table_guard = threading.Lock()  # guards the table, and that opening, locking and entering are one step; innermost


class LocalFileLock:
    """A POSIX record lock on a whole file, and the descriptor that keeps it."""

    __slots__ = ("_descriptor", "_identity", "path")

    def __init__(self, path: str, descriptor: int, identity: tuple[int, int, int]) -> None:
        self.path = path
        self._descriptor = descriptor
        self._identity = identity

    def __repr__(self) -> str:
        return f"<LocalFileLock {self.path} {'held' if self.is_held else 'released'}>"

    @property
    def is_held(self) -> bool:
        return self._descriptor >= 0

    def release(self) -> None:
        with _lock_table_guard:
            descriptor, self._descriptor = self._descriptor, -1
            if descriptor >= 0:
                _lock_table.discard(self._identity)
                os.close(descriptor)


class LocalOpenLock:
    """An open-file-description lock on a whole file. A child of a fork has none of its parent's."""

    __slots__ = ("__weakref__", "_descriptor", "path")

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        _open_locks.add(self)

    def __repr__(self) -> str:
        return f"<LocalOpenLock {self.path} {'open' if self._descriptor >= 0 else 'closed'}>"

    def acquire(self, *, shared: bool = False, wait: bool = False) -> bool:
        if self._descriptor < 0:
            raise ValueError(f"the lock {self.path} is closed")
        command = fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK
        try:
            fcntl.fcntl(self._descriptor, command, _SHARED if shared else _ALONE)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            error.filename = self.path
            raise
        return True

    def release(self) -> None:
        if self._descriptor >= 0:
            fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, _UNLOCKED)

    def read(self, size: int) -> bytes:
        return os.pread(self._descriptor, size, 0)

    def write(self, data: bytes | bytearray | memoryview, position: int = 0) -> None:
        os.pwrite(self._descriptor, data, position)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


# struct flock of Linux, with 64-bit offsets: type, whence, start, length, process (0 for this kind of lock).
_FLOCK = struct.Struct("hhqqi4x")
_SHARED, _ALONE, _UNLOCKED = (
    _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0) for kind in (fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK)
)
_open_locks: weakref.WeakSet[LocalOpenLock] = weakref.WeakSet()


def _drop_locks_of_the_parent() -> None:
    """A lock is held as long as any process has its descriptor, and a child would keep it from going."""
    for lock in tuple(_open_locks):
        lock.close()


os.register_at_fork(after_in_child=_drop_locks_of_the_parent)


def open_lock(name: str) -> LocalOpenLock:
    """Open a lock file, as `SharingFileSystem.open_lock`."""
    if not hasattr(fcntl, "F_OFD_SETLK"):
        raise OSError(errno.ENOTSUP, "locks that several processes share need Linux", name)
    with _lock_table_guard:
        if _identity_of(name) in _lock_table:  # closing this file again would end that lock
            raise BlockingIOError(errno.EAGAIN, "this process has locked it for itself", name)
        return LocalOpenLock(name, os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666))


def lock_file(name: str) -> LocalFileLock | None:
    """Lock a file for this process, as `FileSystem.lock`."""
    with _lock_table_guard:
        while _identity_of(name) not in _lock_table:
            descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(descriptor)
                if error.errno in (errno.EAGAIN, errno.EACCES):
                    return None
                error.filename = name
                raise
            identity = _identity(os.fstat(descriptor))
            if _identity_of(name) == identity:
                _lock_table.add(identity)
                return LocalFileLock(name, descriptor, identity)
            # Its holder unlinked and released it since we opened it; the next one would lock another file.
            os.close(descriptor)
    return None


def _identity_of(path: str) -> tuple[int, int, int] | None:
    try:
        return _identity(os.stat(path))
    except FileNotFoundError:
        return None


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return os.getpid(), status.st_dev, status.st_ino
