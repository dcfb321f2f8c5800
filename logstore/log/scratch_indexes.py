"""The indexes of the active segment of a log that several processes append to, in memory.

They begin with what the files on disk say, and never write these: each process keeps its own, and the one that seals
the segment makes the files anew. Memory is taken as entries come. Used as `SegmentIndexes` and `TransactionIndexFile`,
and as thread-safe.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path
from typing import Self, cast

from logstore.fs import Buffer, FileSystem, StrPath
from logstore.log.maps import MapCache
from logstore.log.segment_indexes import SegmentIndexes
from logstore.log.transaction_index_file import BYTES_MAX, TransactionIndexFile


def scratch_indexes(
    fs: FileSystem, maps: MapCache, base_offset: int, offset_path: Path, time_path: Path, bytes_max: int
) -> SegmentIndexes:
    """Indexes that begin as the files are, and change in memory alone. Raises OSError."""
    files = cast(FileSystem, _ScratchFiles(fs, bytes_max))  # all that indexes ask of one
    return SegmentIndexes(files, maps, base_offset, offset_path, time_path, bytes_max)


def scratch_transaction_index(fs: FileSystem, base_offset: int, path: Path) -> TransactionIndexFile:
    """A transaction index that begins as the file is, if there is one. Raises OSError."""
    copy = _ScratchFiles(fs, BYTES_MAX).open(path)
    return TransactionIndexFile(cast(FileSystem, _OneFile(copy)), path, base_offset)


class _OneFile:
    """Where there is one file, in memory, whatever its name."""

    def __init__(self, file: ScratchFile) -> None:
        self._file = file

    def exists(self, path: StrPath) -> bool:
        return True

    def open(self, path: StrPath, *, write: bool = False, create: bool = False, exclusive: bool = False) -> ScratchFile:
        return self._file


class _ScratchFiles:
    """Opens copies."""

    def __init__(self, fs: FileSystem, bytes_max: int) -> None:
        self._fs = fs
        self._bytes_max = bytes_max

    def open(self, path: StrPath, *, write: bool = False, create: bool = False, exclusive: bool = False) -> ScratchFile:
        data = b""
        with contextlib.suppress(FileNotFoundError), self._fs.open(path) as file:
            data = file.read(0, min(file.size(), self._bytes_max))
        return ScratchFile(os.fspath(path), data)


class ScratchFile:
    """A file that is nowhere but in memory; what of it is not touched takes none.

    One may write while others read: they see what was there, or what is.
    """

    def __init__(self, path: str, data: bytes) -> None:
        self.path = path
        self._size = len(data)
        self._memory = _memory(max(self._size, 1))
        self._memory[: self._size] = data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ScratchFile {self.path} {self._size} bytes>"

    def size(self) -> int:
        return self._size

    def read(self, position: int, size: int) -> bytes:
        return self._memory[position : min(position + size, self._size)]

    def write(self, position: int, data: Buffer) -> None:
        end = position + len(data)
        if end > len(self._memory):
            self._make_room(2 * end)
        self._memory[position:end] = bytes(data)
        self._size = max(self._size, end)  # last: nobody reads what is not written yet

    def truncate(self, size: int) -> None:
        self._make_room(size)
        before, self._size = self._size, min(size, self._size)
        if size < before:
            self._memory[size:before] = bytes(before - size)
        self._size = size

    def _make_room(self, size: int) -> None:
        if size > len(self._memory):
            larger = _memory(size)
            larger[: self._size] = self._memory[: self._size]
            self._memory = larger  # who has a view of the old one keeps it

    def reserve(self, position: int, size: int) -> None:
        pass

    def sync(self) -> None:
        pass

    def map(self) -> _ScratchView:
        return _ScratchView(memoryview(self._memory)[: self._size])

    def close(self) -> None:
        pass


def _memory(size: int) -> mmap.mmap:
    """Zeros that belong to this process alone: what is forked from it has its own."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class _ScratchView:
    __slots__ = ("view",)

    def __init__(self, view: memoryview) -> None:
        self.view = view

    def close(self) -> None:
        pass
