"""Files of a dry run: bytes of real files and bytes that were written since, put together by reference.

Invariant: a content never changes a real file, and holds no copy of one; what was written lies in a spool. Not
thread-safe: `DryRunFileSystem` guards it.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import tempfile
import threading
import weakref
from bisect import bisect_right
from collections.abc import Callable
from typing import NamedTuple, Protocol, Self

from logstore.fs import Buffer, File, FileMap, FileSystem

_SPOOL_BYTES_MAX = 32 << 20  # of what was written is kept in memory; the rest goes to a temporary file without a name


class Origin(Protocol):
    """Where bytes come from."""

    def read(self, position: int, size: int) -> bytes:
        """Exactly `size` bytes from `position`."""


class Spool:
    """What was written, one piece behind the other; it is never written over."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES_MAX)  # noqa: SIM115 - as long as this lives
        self._size = 0

    def __del__(self) -> None:
        self._file.close()

    def __repr__(self) -> str:
        return f"<Spool {self._size}>"

    def put(self, data: Buffer) -> int:
        """Add a piece; its position."""
        position = self._size
        self._file.seek(position)
        self._file.write(data)
        self._size += len(data)
        return position

    def read(self, position: int, size: int) -> bytes:
        """Exactly `size` bytes from `position`."""
        self._file.seek(position)
        return self._file.read(size)


class RealFile:
    """A file of the real file system, open while somebody has it open here."""

    def __init__(self, fs: FileSystem, path: str) -> None:
        self._fs = fs
        self.path = path
        self._opened: File | None = None
        self._count = 0

    def __repr__(self) -> str:
        return f"<RealFile {self.path} opened {self._count} times>"

    def acquire(self) -> None:
        """Open it, once for all. Raises OSError."""
        if self._opened is None:
            self._opened = self._fs.open(self.path)
        self._count += 1

    def release(self) -> None:
        """Close it with the last who has it open."""
        self._count -= 1
        if not self._count and self._opened is not None:
            self._opened.close()
            self._opened = None

    def read(self, position: int, size: int) -> bytes:
        """Exactly `size` bytes from `position`; zeros for what it lost since. Raises OSError."""
        with self._borrowed() as file:
            return file.read(position, size).ljust(size, b"\0")

    def map(self) -> FileMap:
        """Map all of it. Raises OSError."""
        with self._borrowed() as file:
            return file.map()

    def _borrowed(self) -> contextlib.AbstractContextManager[File]:
        return self._fs.open(self.path) if self._opened is None else contextlib.nullcontext(self._opened)


class Extent(NamedTuple):
    """A range of a content and where its bytes are; what no extent covers is zeros."""

    start: int
    end: int
    origin: Origin
    position: int

    def part(self, start: int, end: int) -> Extent:
        """What lies of it in a range that it meets."""
        first = max(start, self.start)
        return Extent(first, min(end, self.end), self.origin, self.position + first - self.start)

    def is_followed_by(self, other: Extent) -> bool:
        """Whether another goes on where this one ends, here and in its origin."""
        in_origin = self.position + self.end - self.start
        return (self.end, self.origin, in_origin) == (other.start, other.origin, other.position)


class Content:
    """The content of a file, whatever names it has.

    Attributes:
        real: the file it began as.
        modified_ms: when it was changed; None as long as it is what `real` is.
    """

    __slots__ = ("_extents", "_maps", "_starts", "modified_ms", "real", "size")

    def __init__(self, real: RealFile | None = None, size: int = 0) -> None:
        self.real = real
        self.size = size
        self.modified_ms: int | None = None
        self._extents: list[Extent] = [Extent(0, size, real, 0)] if real is not None and size else []
        self._starts: list[int] = [one.start for one in self._extents]
        self._maps: list[weakref.ref[DryRunMap]] = []

    def read(self, position: int, size: int) -> bytes:
        """At most `size` bytes from `position`."""
        end = min(position + size, self.size)
        if position >= end:
            return b""
        only = self.origin_of(position, end)
        if only is not None:
            return only.origin.read(only.position, end - position)
        data = bytearray(end - position)
        for one in self._between(position, end):
            data[one.start - position : one.end - position] = one.origin.read(one.position, one.end - one.start)
        return bytes(data)

    def origin_of(self, start: int, end: int) -> Extent | None:
        """The extent that holds all of a range, cut to it; None if several do, or none."""
        at = bisect_right(self._starts, start) - 1
        if at < 0 or self._extents[at].end < end:
            return None
        return self._extents[at].part(start, end)

    def put(self, start: int, end: int, origin: Origin, position: int) -> None:
        """Let a range be what stands at `position` of an origin."""
        self._drop(start, end)
        at = bisect_right(self._starts, start)
        new = Extent(start, end, origin, position)
        before = self._extents[at - 1] if at else None
        if before is not None and before.is_followed_by(new):
            at -= 1
            new = before._replace(end=end)
            del self._extents[at], self._starts[at]
        self._extents.insert(at, new)
        self._starts.insert(at, new.start)
        self.size = max(self.size, end)
        self._show(start, end)

    def resize(self, size: int) -> None:
        """Cut it, or extend it with zeros."""
        if size < self.size:
            self._drop(size, self.size)
        self.size = size

    def map(self) -> DryRunMap:
        """All its bytes as a map: that of the real file where they are its own, else put together in memory."""
        only = self.origin_of(0, self.size) if self.size else None
        if only is not None and isinstance(only.origin, RealFile):
            mapped = only.origin.map()
            return DryRunMap(mapped.view[only.position : only.position + self.size])
        found = DryRunMap(memoryview(mmap.mmap(-1, self.size)) if self.size else memoryview(b""))
        self._maps = [one for one in self._maps if one() is not None]
        self._maps.append(weakref.ref(found))
        self._show(0, self.size)
        return found

    def _show(self, start: int, end: int) -> None:
        """Let maps see what is there now."""
        for reference in self._maps:
            mapped = reference()
            if mapped is None:
                continue
            limit = min(end, len(mapped.raw))
            for one in self._between(start, limit):
                mapped.raw[one.start : one.end] = one.origin.read(one.position, one.end - one.start)

    def _between(self, start: int, end: int) -> list[Extent]:
        at = max(bisect_right(self._starts, start) - 1, 0)
        found = []
        while at < len(self._extents) and self._extents[at].start < end:
            if self._extents[at].end > start:
                found.append(self._extents[at].part(start, end))
            at += 1
        return found

    def _drop(self, start: int, end: int) -> None:
        """Take a range out: it is zeros then."""
        at = max(bisect_right(self._starts, start) - 1, 0)
        while at < len(self._extents) and self._extents[at].start < end:
            one = self._extents[at]
            if one.end <= start:
                at += 1
                continue
            kept = [one.part(*part) for part in ((one.start, start), (end, one.end)) if part[0] < part[1]]
            self._extents[at : at + 1] = kept
            self._starts[at : at + 1] = [piece.start for piece in kept]
            at += len(kept)


class DryRunMap:
    """The bytes of a content; slices of `view` outlive it."""

    __slots__ = ("__weakref__", "raw", "view")

    def __init__(self, raw: memoryview) -> None:
        self.raw = raw
        self.view = raw.toreadonly()

    def close(self) -> None:
        """Give it up."""
        with contextlib.suppress(BufferError):
            self.view.release()


class Tray:
    """What all files of one dry run share: the lock, the spool, and what was read last.

    Who writes the very bytes that were read last makes a copy: it is kept as a reference, so that copies of gigabytes
    cost nothing.
    """

    def __init__(self, now_ms: Callable[[], int]) -> None:
        # Guards names and contents of one dry run. Innermost but for the real file system's.
        self.guard = threading.RLock()
        self.spool = Spool()
        self.now_ms = now_ms
        self.last_read: tuple[bytes, Extent] | None = None


class DryRunFile:
    """An open file of a dry run."""

    __slots__ = ("_content", "_tray", "_writable", "path")

    def __init__(self, path: str, content: Content, tray: Tray, *, writable: bool) -> None:
        self.path = path
        self._content: Content | None = None
        self._tray = tray
        self._writable = writable
        if content.real is not None:
            content.real.acquire()
        self._content = content

    def __del__(self) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<DryRunFile {self.path} {'closed' if self._content is None else f'size {self.size()}'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def size(self) -> int:
        with self._tray.guard:
            return self._open().size

    def read(self, position: int, size: int) -> bytes:
        with self._tray.guard:
            content = self._open()
            if position < 0 or size < 0:
                raise os_error(errno.EINVAL, self.path)
            data = content.read(position, size)
            only = content.origin_of(position, position + len(data)) if data else None
            self._tray.last_read = None if only is None else (data, only)
            return data

    def write(self, position: int, data: Buffer) -> None:
        with self._tray.guard:
            content = self._open()
            if not self._writable:
                raise os_error(errno.EBADF, self.path)
            if position < 0:
                raise os_error(errno.EINVAL, self.path)
            size = len(memoryview(data).cast("B"))
            last = self._tray.last_read
            if last is not None and last[0] is data:
                origin, at = last[1].origin, last[1].position
            else:
                origin, at = self._tray.spool, self._tray.spool.put(data) if size else 0
            if size:
                content.put(position, position + size, origin, at)
                content.modified_ms = self._tray.now_ms()

    def truncate(self, size: int) -> None:
        with self._tray.guard:
            content = self._open()
            if not self._writable or size < 0:
                raise os_error(errno.EINVAL, self.path)
            content.resize(size)
            content.modified_ms = self._tray.now_ms()

    def reserve(self, position: int, size: int) -> None:
        pass  # what is kept by reference needs no room

    def sync(self) -> None:
        with self._tray.guard:
            self._open()

    def map(self) -> DryRunMap:
        """As `File.map`. A map of a real file's own bytes does not show what is written there later."""
        with self._tray.guard:
            return self._open().map()

    def close(self) -> None:
        content, self._content = self._content, None
        if content is not None and content.real is not None:
            with self._tray.guard:
                content.real.release()

    def _open(self) -> Content:
        if self._content is None:
            raise ValueError(f"{self.path} is closed")
        return self._content


def os_error(number: int, path: str | os.PathLike[str]) -> OSError:
    """The error that the operating system gives for a path."""
    return OSError(number, os.strerror(number), os.fspath(path))
