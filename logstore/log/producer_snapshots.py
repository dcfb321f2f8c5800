"""The producer snapshots of one partition directory, as files: which there are, writing, reading, removing.

Invariant: a snapshot that cannot be trusted is removed when it is met, and the one before is taken: what is missing is
made anew from the log. So neither the bytes nor the name of a new one need be durable before something relies on it.
Not thread-safe, but for `sync`: the log's lock guards it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from logstore import names
from logstore.errors import CorruptSnapshotError
from logstore.fs import FileSystem
from logstore.log.producers import ProducerSnapshot
from logstore.names import FileKind

BYTES_MAX = 64 << 20
"""A larger file is taken for a corrupt one: it is held in memory while it is read. Room for 1.4 million producers."""


class ProducerSnapshots:
    """The files `<offset>.snapshot` of a directory; each covers the records below its offset.

    Attributes:
        discarded: one error for each file that could not be trusted and was removed, with path and reason.
    """

    def __init__(self, fs: FileSystem, directory: Path) -> None:
        self.directory = directory
        self.discarded: list[CorruptSnapshotError] = []
        self._fs = fs
        self._names: dict[int, str] = {}
        self.rescan()

    def __repr__(self) -> str:
        return f"<ProducerSnapshots {self.offsets} of {self.directory}>"

    @property
    def offsets(self) -> tuple[int, ...]:
        """The offsets of all snapshots, ascending."""
        return tuple(sorted(self._names))

    @property
    def latest(self) -> int | None:
        """The greatest offset."""
        return max(self._names, default=None)

    @property
    def oldest(self) -> int | None:
        """The least offset."""
        return min(self._names, default=None)

    def rescan(self) -> None:
        """Look which files there are. Raises OSError."""
        found: dict[int, str] = {}
        for name in self._fs.list(self.directory):
            kind, offset, suffix = names.classify_file(name)
            if kind is not FileKind.PRODUCER_SNAPSHOT or suffix is not None or offset is None:
                continue
            if self._fs.is_directory(os.path.join(self.directory, name)):
                continue
            # Names are read leniently: of two for one offset, the one that would be written counts.
            if offset not in found or name == names.producer_snapshot_file_name(offset):
                found[offset] = name
        self._names = found

    def write(self, offset: int, snapshot: ProducerSnapshot) -> Path:
        """Write a snapshot in place of any there is of this offset. Not durable until `sync`. Raises OSError."""
        name = names.producer_snapshot_file_name(offset)
        path = self.directory / name
        with self._fs.open(path, write=True, create=True) as file:
            if file.size():
                file.truncate(0)
            file.write(0, snapshot.encode())
        self._names[offset] = name
        return path

    def sync(self, offset: int) -> None:
        """Make the bytes of a snapshot durable; nothing where it has been removed since. Raises OSError.

        May be called from any thread, without the log's lock.
        """
        name = self._names.get(offset)
        if name is None:
            return
        try:
            file = self._fs.open(self.directory / name, write=True)
        except FileNotFoundError:
            return
        with file:
            file.sync()

    def load_latest(self) -> tuple[int, ProducerSnapshot] | None:
        """The latest snapshot that can be trusted, and its offset; those that cannot are removed. Raises OSError."""
        while (offset := self.latest) is not None:
            path = self.directory / self._names[offset]
            try:
                return offset, self._read(path)
            except FileNotFoundError:
                del self._names[offset]
            except CorruptSnapshotError as error:
                self.discarded.append(CorruptSnapshotError(error.reason, path=path, position=error.position))
                self.delete(offset)
        return None

    def delete(self, offset: int) -> None:
        """Remove the snapshot of this offset, if there is one. Raises OSError."""
        name = self._names.pop(offset, None)
        if name is not None:
            self._fs.unlink(self.directory / name, missing_ok=True)

    def delete_all(self, offsets: Iterable[int]) -> None:
        """Remove the snapshots of these offsets. Raises OSError."""
        for offset in offsets:
            self.delete(offset)

    def mark_for_deletion(self, offset: int) -> Path | None:
        """Rename a snapshot to `.deleted` and forget it; return the new path, or None where the file is gone already.

        Raises OSError.
        """
        name = self._names.pop(offset, None)
        if name is None:
            return None
        target = self.directory / (name + names.DELETED_SUFFIX)
        try:
            self._fs.rename(self.directory / name, target)
        except FileNotFoundError:
            return None
        return target

    def remove_stray(self, base_offsets: Iterable[int]) -> None:
        """Remove the snapshots that lie at no segment's base offset (LOG_SEMANTICS §4.4).

        The latest of them is kept unless it is below the last base: it may be the one of the log end. Raises OSError.
        """
        self.rescan()
        bases = set(base_offsets)
        strays = [offset for offset in self.offsets if offset not in bases]
        if strays and (not bases or strays[-1] > max(bases)):
            del strays[-1]
        self.delete_all(strays)

    def _read(self, path: Path) -> ProducerSnapshot:
        with self._fs.open(path) as file:
            size = file.size()
            if size > BYTES_MAX:
                raise CorruptSnapshotError(f"a producer snapshot of {size} bytes is larger than {BYTES_MAX}")
            return ProducerSnapshot.decode(file.read(0, size))
