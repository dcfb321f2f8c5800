"""A segment that is being written to take the place of others: its files end in `.cleaned` (CLEANER §4.2, §4.8).

Invariant: nothing but `.cleaned` files is touched, and a load drops those. What was written is read back before its
indexes are made from it, so that no batch gets into a log that could not be read again. Belongs to one thread.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from logstore import names
from logstore.config import LogConfig
from logstore.errors import DamagedLogError
from logstore.fs import Buffer, File, FileSystem
from logstore.log.index_file import RELATIVE_OFFSET_MAX
from logstore.log.segment import FILE_SIZE_MAX
from logstore.log.segment_scan import scan_segment
from logstore.log.transaction_index import AbortedTransaction
from logstore.names import FileKind

_KINDS = (FileKind.LOG, FileKind.OFFSET_INDEX, FileKind.TIME_INDEX, FileKind.TRANSACTION_INDEX)
_GATHERED_BYTES = 1 << 20  # smaller pieces are written together


class CleanedSegment:
    """A segment in the making. What is left of an earlier one of this base offset is removed first.

    Args:
        fs, directory: where it is.
        base_offset: its name.
        config: for its indexes.
        size_max: how large it may become, at most as large as any segment; its first batch always fits.

    Attributes:
        size: bytes written.
    """

    def __init__(self, fs: FileSystem, directory: Path, base_offset: int, config: LogConfig, size_max: int) -> None:
        self.base_offset = base_offset
        self.size = 0
        self._fs = fs
        self._config = config
        self._size_max = min(size_max, FILE_SIZE_MAX)
        self._paths = {
            kind: directory / names.segment_file_name(base_offset, kind, names.CLEANED_SUFFIX) for kind in _KINDS
        }
        self._aborted: list[AbortedTransaction] = []
        self._gathered = bytearray()
        for path in self._paths.values():
            fs.unlink(path, missing_ok=True)
        self._file: File = fs.open(self._paths[FileKind.LOG], write=True, create=True, exclusive=True)

    def __repr__(self) -> str:
        return f"<CleanedSegment {self.base_offset} size {self.size}>"

    def fits(self, last_offset: int, size: int) -> bool:
        """Whether batches up to this offset, of so many bytes, belong here."""
        if last_offset - self.base_offset > RELATIVE_OFFSET_MAX:
            return False
        return self.size + size <= (self._size_max if self.size else FILE_SIZE_MAX)

    def write(self, data: Buffer) -> None:
        """Write whole batches behind the others. Raises OSError."""
        if len(data) < _GATHERED_BYTES:
            self._gathered += data
            self.size += len(data)
            if len(self._gathered) >= _GATHERED_BYTES:
                self._write_gathered()
            return
        self._write_gathered()
        self._file.write(self.size, data)
        self.size += len(data)

    def _write_gathered(self) -> None:
        if self._gathered:
            self._file.write(self.size - len(self._gathered), self._gathered)
            self._gathered = bytearray()

    def add_aborted(self, transaction: AbortedTransaction) -> None:
        """Put an aborted transaction, whose marker was written here, into the transaction index."""
        self._aborted.append(transaction)

    def finish(self, modified_ms: int) -> None:
        """Make all of it durable, with its indexes; the files are as old as they are told to be (ms since the epoch).

        The names are not durable before the directory is synced. Raises OSError, and DamagedLogError where what was
        written is no segment.
        """
        self._write_gathered()
        self._file.sync()
        scan = scan_segment(self._file, self.base_offset, self._config)
        self._file.close()
        if scan.valid_size != self.size:
            problem = scan.problem or "its offsets are out of the range of a segment"
            raise DamagedLogError(problem, path=self._paths[FileKind.LOG], position=scan.valid_size)
        self._write_index(FileKind.OFFSET_INDEX, scan.offset_entries)
        self._write_index(FileKind.TIME_INDEX, scan.time_entries)
        if self._aborted:
            self._write_index(FileKind.TRANSACTION_INDEX, b"".join(one.encode() for one in self._aborted))
        for kind in (FileKind.LOG, FileKind.OFFSET_INDEX, FileKind.TIME_INDEX):
            self._fs.set_modified_ms(self._paths[kind], modified_ms)

    def _write_index(self, kind: FileKind, data: Buffer) -> None:
        with self._fs.open(self._paths[kind], write=True, create=True) as file:
            file.write(0, data)
            file.sync()

    def written(self) -> WrittenSegment:
        """What was written and finished, to be read."""
        return WrittenSegment(self._fs, self._paths[FileKind.LOG], self.size)

    def discard(self) -> None:
        """Remove its files, as far as that is possible: what is left of them, a load removes."""
        self._file.close()
        for path in self._paths.values():
            with contextlib.suppress(OSError):
                self._fs.unlink(path, missing_ok=True)


class WrittenSegment:
    """The batches of a segment that was written and has not taken its place yet.

    Attributes:
        path, size: where they are, and how many bytes.
    """

    def __init__(self, fs: FileSystem, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self._fs = fs

    def __repr__(self) -> str:
        return f"<WrittenSegment {self.path.name} size {self.size}>"

    def slice(self, position: int, size: int) -> Buffer:
        """At most so many bytes from a position on. Raises OSError."""
        with self._fs.open(self.path) as file:
            return file.read(position, min(size, self.size - position))
