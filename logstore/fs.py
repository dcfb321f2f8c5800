"""The file system, as an argument: what a log needs of it, and the real one.

Invariant: nothing is durable until it was synced, and there are two things to sync: a file's data (`File.sync`), and
the names in a directory (`FileSystem.sync_directory`) after a file or directory was created, renamed or unlinked in it.
A sync that failed must not be tried again: the kernel may have dropped the data, and then reports success.

A `FileSystem` may be shared between threads. A `File` may too, as long as nobody closes it while others use it and no
two threads write the same bytes. `logstore.testing.MemoryFileSystem` is the other implementation.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import mmap
import os
import sys
from collections.abc import Callable
from typing import Protocol, Self, TypeAlias

from logstore.file_locks import LocalFileLock, LocalOpenLock, lock_file, open_lock
from logstore.names import TEMPORARY_FILE_SUFFIX

StrPath: TypeAlias = str | os.PathLike[str]
Buffer: TypeAlias = bytes | bytearray | memoryview
Names: TypeAlias = list[str]


class FileMap(Protocol):
    """A file's content in memory, read only."""

    @property
    def view(self) -> memoryview:
        """All bytes the file had when it was mapped; what is written there since shows."""
        ...

    def close(self) -> None:
        """Give the map up. Slices of the view stay valid: the memory goes with the last of them."""
        ...


class File(Protocol):
    """An open file, read and written by position; there is no current one. A closed file raises ValueError."""

    @property
    def path(self) -> str:
        """The path it was opened by; a rename since does not show."""
        ...

    def size(self) -> int:
        """Bytes in the file now."""
        ...

    def read(self, position: int, size: int) -> bytes:
        """At most `size` bytes from `position`; fewer only where the file ends."""
        ...

    def write(self, position: int, data: Buffer) -> None:
        """Write all of `data` at `position`; what lies between the end of the file and `position` becomes zeros.

        On OSError any part of `data` may have been written, from its start on.
        """
        ...

    def truncate(self, size: int) -> None:
        """Cut the file to `size`, or extend it with zeros. Never cut a mapped file below the size of its map."""
        ...

    def reserve(self, position: int, size: int) -> None:
        """Ask for room on disk from `position` on, behind the end, ahead of writes there: a hint, never an error.

        The size of the file stays; `truncate` gives back what was not used.
        """
        ...

    def sync(self) -> None:
        """Make all bytes and the size durable, not the name (see `sync_directory`). Never retry it after OSError."""
        ...

    def map(self) -> FileMap:
        """Map all bytes the file has now. The map outlives the file: it may be closed, renamed or unlinked."""
        ...

    def close(self) -> None:
        """Give the file up, without a sync. Closing twice is fine."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


class FileLock(Protocol):
    """An exclusive lock that this process holds."""

    @property
    def path(self) -> str:
        """The file it was taken on."""
        ...

    @property
    def is_held(self) -> bool:
        """Whether it was not released yet."""
        ...

    def release(self) -> None:
        """Let others have it. To remove the file, unlink it *before*: afterwards it may be locked by another process.
        Releasing twice is fine."""
        ...


class FileSystem(Protocol):
    """Operations on paths. What the operating system refuses raises the OSError it gave, with the path."""

    def open(self, path: StrPath, *, write: bool = False, create: bool = False, exclusive: bool = False) -> File:
        """Open a file: for reading, or with `write` for both.

        `create` makes it where it is missing; `exclusive` makes it, and fails where something has that name.
        A directory raises IsADirectoryError.
        """
        ...

    def exists(self, path: StrPath) -> bool:
        """Say whether there is a file or directory of this name."""
        ...

    def is_directory(self, path: StrPath) -> bool:
        """Say whether there is a directory of this name."""
        ...

    def list(self, path: StrPath) -> Names:
        """The names in a directory, sorted."""
        ...

    def make_directory(self, path: StrPath) -> None:
        """Make a directory and those above it that are missing; an existing one is fine. Syncs none of them."""
        ...

    def rename(self, source: StrPath, target: StrPath) -> None:
        """Rename a file or directory atomically; a file, or an empty directory, that has the new name is replaced."""
        ...

    def unlink(self, path: StrPath, missing_ok: bool = False) -> None:
        """Remove a file's name. Who has it open or mapped keeps its bytes."""
        ...

    def sync_directory(self, path: StrPath) -> None:
        """Make durable which names the directory holds, and which files and directories these are."""
        ...

    def file_size(self, path: StrPath) -> int:
        """Bytes in a file, without opening it."""
        ...

    def modified_ms(self, path: StrPath) -> int:
        """When the content was last changed, in milliseconds since the epoch."""
        ...

    def set_modified_ms(self, path: StrPath, ms: int) -> None:
        """Set what `modified_ms` says."""
        ...

    def lock(self, path: StrPath) -> FileLock | None:
        """Lock a file exclusively, creating it where it is missing; None where somebody holds the lock. Never waits.

        The lock is the one Kafka takes on `.lock`, so that the two see each other. While it is held, do not open this
        file otherwise in the process: closing any descriptor of it would end the lock.
        """
        ...


class OpenLock(Protocol):
    """A lock file that is open. One who opened it locks it again and again, and keeps a few bytes in it.

    The lock belongs to this object, not to the process, and goes when either ends. It and the lock of
    `FileSystem.lock` keep each other out. Not thread-safe.
    """

    @property
    def path(self) -> str:
        """The file."""
        ...

    def acquire(self, *, shared: bool = False, wait: bool = False) -> bool:
        """Lock it, for itself or with others who share it; a lock that is held becomes of the other kind.

        False where others hold it, unless it waits for them.
        """
        ...

    def release(self) -> None:
        """Let others have it; fine where it is not held."""
        ...

    def read(self, size: int) -> bytes:
        """The first bytes of the file, at most `size`."""
        ...

    def write(self, data: Buffer, position: int = 0) -> None:
        """Put bytes into the file; others who read it see them at once. Not durable. Raises OSError."""
        ...

    def close(self) -> None:
        """Give lock and file up."""
        ...


class SharingFileSystem(FileSystem, Protocol):
    """A file system that several processes work on together."""

    def open_lock(self, path: StrPath) -> OpenLock:
        """Open a lock file, creating it where it is missing.

        Raises BlockingIOError where this process holds the lock of `lock` on it, OSError.
        """
        ...

    def remove_directory(self, path: StrPath) -> None:
        """Remove an empty directory. Raises OSError."""
        ...


_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE of Linux


@functools.cache
def _fallocate() -> Callable[[int, int, int, int], int] | None:
    """The system call that sets blocks aside without changing a file's size, where there is one."""
    import ctypes  # it costs a start-up 10 ms that few need

    function = getattr(ctypes.CDLL(None), "fallocate", None) if sys.platform == "linux" else None
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return function


class LocalFile:
    """A file of the operating system."""

    __slots__ = ("_descriptor", "path")

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def __del__(self) -> None:
        # Who is in the middle of a read keeps the file alive: it is closed with its last user, never under a reader.
        self.close()

    def __repr__(self) -> str:
        return f"<LocalFile {self.path} {'closed' if self._descriptor < 0 else f'size {self.size()}'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def size(self) -> int:
        try:
            return os.fstat(self._descriptor).st_size
        except OSError as error:
            raise self._failure(error) from None

    def read(self, position: int, size: int) -> bytes:
        try:
            data = os.pread(self._descriptor, size, position)
            if len(data) == size or not data:
                return data
            parts, have = [data], len(data)
            while data and have < size:
                data = os.pread(self._descriptor, size - have, position + have)
                parts.append(data)
                have += len(data)
        except OSError as error:
            raise self._failure(error) from None
        return b"".join(parts)

    def write(self, position: int, data: Buffer) -> None:
        try:
            written = os.pwrite(self._descriptor, data, position)
            if written == len(data):
                return
            view = memoryview(data).cast("B")
            while written < len(view):
                count = os.pwrite(self._descriptor, view[written:], position + written)
                if count == 0:  # it would go on forever; no system is known to do so
                    raise OSError(errno.EIO, f"only {written} of {len(view)} bytes were written")
                written += count
        except OSError as error:
            raise self._failure(error) from None

    def truncate(self, size: int) -> None:
        try:
            os.ftruncate(self._descriptor, size)
        except OSError as error:
            raise self._failure(error) from None

    def reserve(self, position: int, size: int) -> None:
        fallocate = _fallocate()
        if fallocate is not None:
            fallocate(self._descriptor, _KEEP_SIZE, position, size)

    def sync(self) -> None:
        try:
            # Size and data, without the times, where the system can tell them apart.
            getattr(os, "fdatasync", os.fsync)(self._descriptor)
        except (OSError, ValueError) as error:
            raise self._failure(error) from None

    def map(self) -> LocalFileMap:
        size = self.size()
        return LocalFileMap(mmap.mmap(self._descriptor, size, access=mmap.ACCESS_READ) if size else None)

    def close(self) -> None:
        # Forget the number first: it is free for others once closed, also where closing it reports an error.
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _failure(self, error: OSError | ValueError) -> Exception:
        if self._descriptor < 0:
            return ValueError(f"{self.path} is closed")
        if isinstance(error, OSError):
            error.filename = self.path
        return error


class LocalFileMap:
    """A map of the operating system; it keeps a descriptor of its own. An empty file has none to keep."""

    __slots__ = ("_map", "view")

    def __init__(self, mapped: mmap.mmap | None) -> None:
        self._map = mapped
        self.view = memoryview(b"" if mapped is None else mapped)

    def close(self) -> None:
        # Where slices are in use, the last one to be dropped unmaps it.
        with contextlib.suppress(BufferError):
            self.view.release()
            if self._map is not None:
                self._map.close()
        self._map = None


class LocalFileSystem:
    """The operating system's files. It has no state: one is as good as another."""

    __slots__ = ()

    def open(self, path: StrPath, *, write: bool = False, create: bool = False, exclusive: bool = False) -> LocalFile:
        flags = os.O_CLOEXEC | (os.O_RDWR if write else os.O_RDONLY)
        if exclusive:
            flags |= os.O_CREAT | os.O_EXCL
        elif create:
            flags |= os.O_CREAT
        name = os.fspath(path)
        descriptor = os.open(name, flags, 0o666)
        if not write and os.path.isdir(descriptor):  # opened for writing, the kernel has refused it
            os.close(descriptor)
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
        return LocalFile(name, descriptor)

    def exists(self, path: StrPath) -> bool:
        return os.path.exists(path)

    def is_directory(self, path: StrPath) -> bool:
        return os.path.isdir(path)

    def list(self, path: StrPath) -> Names:
        return sorted(os.listdir(path))

    def make_directory(self, path: StrPath) -> None:
        os.makedirs(path, exist_ok=True)

    def rename(self, source: StrPath, target: StrPath) -> None:
        os.replace(source, target)

    def unlink(self, path: StrPath, missing_ok: bool = False) -> None:
        try:
            os.unlink(path)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def sync_directory(self, path: StrPath) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        except OSError as error:
            error.filename = os.fspath(path)
            raise
        finally:
            os.close(descriptor)

    def file_size(self, path: StrPath) -> int:
        return os.stat(path).st_size

    def modified_ms(self, path: StrPath) -> int:
        return os.stat(path).st_mtime_ns // 1_000_000

    def set_modified_ms(self, path: StrPath, ms: int) -> None:
        os.utime(path, ns=(ms * 1_000_000, ms * 1_000_000))

    def remove_directory(self, path: StrPath) -> None:
        os.rmdir(path)

    def open_lock(self, path: StrPath) -> LocalOpenLock:
        return open_lock(os.fspath(path))

    def lock(self, path: StrPath) -> LocalFileLock | None:
        return lock_file(os.fspath(path))


def replace_atomically(fs: FileSystem, path: StrPath, data: Buffer) -> None:
    """Replace a whole file, durably: after a crash it holds the old bytes or `data`, and `data` once this returned.

    Checkpoints and their like are never replaced in another way. Two calls for one path must not overlap. On OSError
    the file may hold either, and `<name>.tmp` may be left behind; the next call writes over it.
    """
    target = os.fspath(path)
    temporary = target + TEMPORARY_FILE_SUFFIX
    with fs.open(temporary, write=True, create=True) as file:
        if file.size():
            file.truncate(0)
        file.write(0, data)
        file.sync()
    fs.rename(temporary, target)
    fs.sync_directory(os.path.dirname(target) or os.curdir)
