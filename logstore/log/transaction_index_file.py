"""The writing side of the transaction index of one segment (`<base>.txnindex`, FORMAT §4.4).

Invariant: the file holds whole entries in the order of their markers, and at most a piece of one behind them, which
nobody reads and the next append writes over. There is no file before the first append. Reading may run in any thread
beside the one that writes, and sees whole entries only; everything that changes something is guarded by the log's lock.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from logstore.errors import CorruptIndexError
from logstore.fs import File, FileSystem
from logstore.log.transaction_index import AbortedTransaction, TransactionIndex, TransactionSearch

BYTES_MAX = 64 << 20
"""A larger file is refused: it is held in memory while it is read, and no segment has that many aborts."""
_ENTRY_BYTES = len(AbortedTransaction(0, 0, 0, 0).encode())


class TransactionIndexFile:
    """The aborted transactions whose marker lies in a segment, on disk.

    The file is opened for each reading. For writing it is opened by the first append and stays so until `sync`: the
    kernel may drop what it could not write, and tells only those who had the file open then.

    Args:
        fs, path: where it is, or will be.
        base_offset: the segment's.
    """

    def __init__(self, fs: FileSystem, path: Path, base_offset: int) -> None:
        self.base_offset = base_offset
        self._fs = fs
        # Guards that the path is that of the file: a reader that came between would take the index for empty.
        # Innermost; nothing is called under it but the file system.
        self._place = threading.Lock()
        self._path = path
        self._exists = fs.exists(path)
        self._writing: File | None = None
        self._last_offset: int | None = None  # of the last entry, where this object has written or seen it

    @property
    def path(self) -> Path:
        """Where the file is, or will be."""
        return self._path

    def __len__(self) -> int:
        """How many whole entries the file has. Raises OSError."""
        file = self._open()
        if file is None:
            return 0
        with file:
            return file.size() // _ENTRY_BYTES

    def __repr__(self) -> str:
        return f"<TransactionIndexFile {self.path.name} {'exists' if self._exists else 'has no file'}>"

    # ---- reading

    def entries(self) -> list[AbortedTransaction]:
        """All entries, in the order of their markers.

        Raises CorruptIndexError (an entry's version is not 0, or the file is too large to be one) and OSError.
        """
        try:
            return list(self._load())
        except CorruptIndexError as error:
            raise self._placed(error) from None

    def collect(self, fetch_offset: int, upper_bound_offset: int) -> TransactionSearch:
        """Find the aborted transactions with records in `fetch_offset` <= offset < `upper_bound_offset`.

        Raises as `entries`.
        """
        try:
            return self._load().collect(fetch_offset, upper_bound_offset)
        except CorruptIndexError as error:
            raise self._placed(error) from None

    def sanity_check(self) -> None:
        """Check what is checked when a log is loaded: no marker lies below the base offset. Raises as `entries`."""
        try:
            self._load().sanity_check()
        except CorruptIndexError as error:
            raise self._placed(error) from None

    # ---- writing

    def append(self, transaction: AbortedTransaction) -> None:
        """Write an entry behind the others; the first one makes the file. Not durable until `sync`.

        The new file's name is not durable before its directory is synced. Raises ValueError when its marker is not
        behind that of the entry appended before, and OSError, after which the next append writes at the same place.
        """
        if self._last_offset is not None and transaction.last_offset <= self._last_offset:
            raise ValueError(
                f"the marker at {transaction.last_offset} is not behind the one at {self._last_offset} in"
                f" {self.path.name}"
            )
        if self._writing is None:
            self._writing = self._fs.open(self.path, write=True, create=True)
            self._exists = True
        end = self._writing.size() // _ENTRY_BYTES * _ENTRY_BYTES
        self._writing.write(end, transaction.encode())
        self._last_offset = transaction.last_offset

    def truncate_to(self, offset: int) -> None:
        """Cut the file at the first entry whose marker is at or above `offset`. Raises as `entries`."""
        last_offset = None
        for number, transaction in enumerate(self.entries()):
            if transaction.last_offset >= offset:
                self._cut(number * _ENTRY_BYTES)
                self._last_offset = last_offset
                return
            last_offset = transaction.last_offset

    def reset(self) -> None:
        """Drop all entries; a file that there is stays, empty. Raises OSError."""
        self._cut(0)
        self._last_offset = None

    def sync(self) -> None:
        """Make all entries durable, not the file's name; nothing where there is no file. Never retry it on OSError."""
        file = self._writing or self._open(write=True)
        self._writing = None
        if file is not None:
            with file:
                file.sync()

    def rename(self, path: Path) -> None:
        """Let the file, if there is one, have another name; or tell that its directory has got one.

        What is appended later goes there. The new name is not durable before the directory is synced. Raises OSError.
        """
        with self._place:
            if self._exists and self._fs.exists(self._path):
                self._fs.rename(self._path, path)
            self._path = path

    def delete(self) -> None:
        """Remove the file, if there is one. Raises OSError."""
        self.close()
        with self._place:
            self._fs.unlink(self._path, missing_ok=True)
            self._exists = False
        self._last_offset = None

    def close(self) -> None:
        """Give the file back, without a sync; the object goes on working. Closing twice is fine."""
        file, self._writing = self._writing, None
        if file is not None:
            file.close()

    # ---- inside

    def _open(self, *, write: bool = False) -> File | None:
        with self._place:
            return self._fs.open(self._path, write=write) if self._exists else None

    def _load(self) -> TransactionIndex:
        file = self._open()
        if file is None:
            return TransactionIndex(b"", self.base_offset)
        with file:
            size = file.size()
            if size > BYTES_MAX:
                raise CorruptIndexError(f"a transaction index of {size} bytes is larger than {BYTES_MAX}")
            return TransactionIndex(file.read(0, size), self.base_offset)

    def _cut(self, size: int) -> None:
        file = self._writing or self._open(write=True)
        if file is None:
            return
        self._writing = file
        if file.size() > size:
            file.truncate(size)

    def _placed(self, error: CorruptIndexError) -> CorruptIndexError:
        """The error with the file it was found in."""
        error.path = os.fspath(self.path)
        return error
