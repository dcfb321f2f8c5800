"""The open files and maps of a `MemoryFileSystem`, and what they share with it.

Invariant: they behave as those of the operating system do, its errors included; but cutting a mapped file, which would
kill its readers, is an AssertionError. Thread-safe, by the file system's lock.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from dataclasses import dataclass, field
from typing import Self

from logstore.clock import Clock
from logstore.fs import Buffer, StrPath
from logstore.testing.disk import Content, MappedBytes, Resize, Write
from logstore.testing.operations import Operations


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """What a file system and all its open files have in common; the guard is that of other processes on it, too."""

    clock: Clock
    operations: Operations = field(default_factory=Operations)
    # Guards the operations and all files and directories of one file system. Innermost: under it only the clock and the
    # predicates of `fail_on` are called.
    guard: threading.RLock = field(default_factory=threading.RLock)


class MemoryFile:
    """An open file of a `MemoryFileSystem`; it goes on working when its name is gone."""

    __slots__ = ("_content", "_shared", "_writable", "path")

    def __init__(self, path: str, content: Content, shared: Shared, *, writable: bool) -> None:
        self.path = path
        self._content: Content | None = content
        self._shared = shared
        self._writable = writable

    def __repr__(self) -> str:
        return f"<MemoryFile {self.path} {'closed' if self._content is None else f'size {self.size()}'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def size(self) -> int:
        with self._shared.guard:
            return len(self._open().visible)

    def read(self, position: int, size: int) -> bytes:
        with self._shared.guard:
            content = self._open()
            if position < 0 or size < 0:
                raise os_error(errno.EINVAL, self.path)
            return bytes(content.visible[position : position + size])

    def write(self, position: int, data: Buffer) -> None:
        with self._shared.guard:
            content, rest = self._open(), memoryview(data).tobytes()
            if not self._writable:
                raise os_error(errno.EBADF, self.path)
            if position < 0:
                raise os_error(errno.EINVAL, self.path)
            while rest:
                count, error = self._shared.operations.attempt("write", self.path, position=position, size=len(rest))
                if count:
                    content.change(Write(position, rest[:count]), self._shared.clock.now_ms())
                if error is not None:
                    raise error
                position, rest = position + count, rest[count:]

    def truncate(self, size: int) -> None:
        """As `File.truncate`. Raises AssertionError where that would kill somebody who reads a map of the file."""
        with self._shared.guard:
            content = self._open()
            if not self._writable or size < 0:
                raise os_error(errno.EINVAL, self.path)
            if size < (mapped := content.mapped_size()):
                raise AssertionError(f"{self.path} is cut to {size} bytes while {mapped} are mapped: readers would die")
            self._shared.operations.begin("truncate", self.path, size=size)
            content.change(Resize(size), self._shared.clock.now_ms())

    def reserve(self, position: int, size: int) -> None:
        """Nothing: there is always room."""

    def sync(self) -> None:
        with self._shared.guard:
            content = self._open()
            try:
                self._shared.operations.begin("sync", self.path)
            except OSError:
                content.changes.clear()
                raise
            content.sync()

    def map(self) -> MemoryFileMap:
        with self._shared.guard:
            return MemoryFileMap(self._open().map())

    def close(self) -> None:
        self._content = None

    def _open(self) -> Content:
        if self._content is None:
            raise ValueError(f"{self.path} is closed")
        return self._content


class MemoryFileMap:
    """The bytes a file had when it was mapped; writes to them show."""

    __slots__ = ("view",)

    def __init__(self, mapped: MappedBytes) -> None:
        self.view = memoryview(mapped).toreadonly()

    def close(self) -> None:
        with contextlib.suppress(BufferError):
            self.view.release()


def os_error(number: int, path: StrPath) -> OSError:
    """The error that the operating system gives for a path."""
    return OSError(number, os.strerror(number), os.fspath(path))
