"""The files of a directory that is held for writing, as a log in it sees them.

The locks that the holder has count as taken by the log too; and inside a broker's log directory our own small files
(`.logstore-*`) and the clean-shutdown marker stay in memory: the holder writes that directory's own checkpoints and
marker instead, so that nothing is left behind that a broker would make stale. Everything else is done for real.
Thread-safe.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Self

from logstore import names
from logstore.fs import Buffer, File, FileLock, FileMap, FileSystem, Names, StrPath
from logstore.repair.dry_run import DryRunFileSystem, DryRunLock


class HeldFiles:
    """A `FileSystem`.

    Args:
        fs: the real one.
        locks: paths of the lock files that the holder has locked.
        in_memory: whether our own files and the marker stay in memory.
        on_read: told how many bytes each reading of a log file gave.
    """

    def __init__(
        self, fs: FileSystem, locks: set[str], *, in_memory: bool, on_read: Callable[[int], object] | None = None
    ) -> None:
        self.memory = DryRunFileSystem(fs)
        self._on_read = on_read
        self._fs = fs
        self._locks = {os.path.normpath(path) for path in locks}
        self._in_memory = in_memory

    def __repr__(self) -> str:
        return f"<HeldFiles of {self._fs!r}, {sorted(self._locks)} held>"

    def _of(self, path: StrPath) -> FileSystem:
        name = os.path.basename(os.fspath(path)).removesuffix(names.TEMPORARY_FILE_SUFFIX)
        is_small = name.startswith(names.OWN_PREFIX) or name == names.CLEAN_SHUTDOWN
        return self.memory if self._in_memory and is_small else self._fs

    def open(self, path: StrPath, *, write: bool = False, create: bool = False, exclusive: bool = False) -> File:
        file = self._of(path).open(path, write=write, create=create, exclusive=exclusive)
        if self._on_read is None or write or not os.fspath(path).endswith(".log"):
            return file
        return ToldFile(file, self._on_read)

    def exists(self, path: StrPath) -> bool:
        return self._of(path).exists(path)

    def is_directory(self, path: StrPath) -> bool:
        return self._of(path).is_directory(path)

    def list(self, path: StrPath) -> Names:
        found = self._fs.list(path)
        if not any(name.startswith(names.OWN_PREFIX) for name in found):
            return found
        return [name for name in found if self.exists(os.path.join(path, name))]  # ours may be gone in memory alone

    def make_directory(self, path: StrPath) -> None:
        self._fs.make_directory(path)

    def rename(self, source: StrPath, target: StrPath) -> None:
        self._of(target).rename(source, target)

    def unlink(self, path: StrPath, missing_ok: bool = False) -> None:
        self._of(path).unlink(path, missing_ok)

    def sync_directory(self, path: StrPath) -> None:
        self._fs.sync_directory(path)

    def file_size(self, path: StrPath) -> int:
        return self._of(path).file_size(path)

    def modified_ms(self, path: StrPath) -> int:
        return self._of(path).modified_ms(path)

    def set_modified_ms(self, path: StrPath, ms: int) -> None:
        self._of(path).set_modified_ms(path, ms)

    def lock(self, path: StrPath) -> FileLock | None:
        """As `FileSystem.lock`; what the holder has is lent, and in a broker's log directory no lock file is made."""
        is_lent = os.path.normpath(os.fspath(path)) in self._locks
        if is_lent or (self._in_memory and not self._fs.exists(path)):
            return DryRunLock(os.fspath(path), lambda: None)
        return self._fs.lock(path)


class ToldFile:
    """An open file whose readings are told."""

    __slots__ = ("_file", "_on_read")

    def __init__(self, file: File, on_read: Callable[[int], object]) -> None:
        self._file = file
        self._on_read = on_read

    def __repr__(self) -> str:
        return f"<ToldFile {self._file!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def path(self) -> str:
        """As `File.path`."""
        return self._file.path

    def size(self) -> int:
        return self._file.size()

    def read(self, position: int, size: int) -> bytes:
        data = self._file.read(position, size)
        self._on_read(len(data))
        return data

    def write(self, position: int, data: Buffer) -> None:
        self._file.write(position, data)

    def truncate(self, size: int) -> None:
        self._file.truncate(size)

    def reserve(self, position: int, size: int) -> None:
        self._file.reserve(position, size)

    def sync(self) -> None:
        self._file.sync()

    def map(self) -> FileMap:
        return self._file.map()

    def close(self) -> None:
        self._file.close()
