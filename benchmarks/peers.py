"""Stores that a log is compared with, and logstore's own, behind one small protocol; what a bare loop does, too.

Every store appends a list of (key, value) pairs as one transaction, batch or record set, in the fastest way that its
interface has for that. The stores ordered by key get the pair as it is: the keys of the workload ascend, so that none
of them has to make a key out of an offset. `synced` says whether an append is on disk when it returns; without it
nothing is synced, also where that is not the store's default. Not thread-safe, but for logstore's.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import crc32c
from workload import Pair

from logstore.config import LogConfig
from logstore.fs import LocalFileSystem, StrPath
from logstore.log.log import Log

LMDB_MAP_SIZE = 8 << 30
PIECE_BYTES = 1 << 20


class Store(Protocol):
    """A store that takes records."""

    @property
    def append(self) -> Callable[[Any], object]:
        """Append a list of pairs as one unit, behind what is there."""
        ...

    def __len__(self) -> int:
        """How much was stored: the sum of the lengths of what was appended."""
        ...

    def close(self) -> None:
        """Give the files back."""
        ...


Opener = Callable[[Path], Store]
"""Makes a store in a directory that is there and empty."""


def log_config(**settings: Any) -> LogConfig:
    """Settings of a log in which nothing expires: the timestamps of the workload are years old."""
    return LogConfig(retention_ms=-1, **settings)


class LogstoreStore:
    """Our log, one batch an append; `append` is the log's own method, without a call in between."""

    def __init__(self, directory: Path, *, synced: bool = False) -> None:
        self.log = Log.open(directory, log_config(durability="always" if synced else "os"))
        self.append: Callable[[list[Pair]], object] = self.log.append

    def __len__(self) -> int:
        return self.log.log_end_offset

    def close(self) -> None:
        self.log.close()


class LmdbStore:
    """LMDB, one transaction an append: a `put` for each record, or one `putmulti` at the end of the tree."""

    def __init__(self, directory: Path, *, synced: bool = False, multi: bool = False) -> None:
        lmdb: Any = importlib.import_module("lmdb")
        self._env: Any = lmdb.open(str(directory), map_size=LMDB_MAP_SIZE, sync=synced, metasync=synced)
        self.append: Callable[[list[Pair]], object] = self._put_multi if multi else self._put

    def _put(self, records: list[Pair]) -> None:
        with self._env.begin(write=True) as transaction:
            put = transaction.put
            for key, value in records:
                put(key, value)

    def _put_multi(self, records: list[Pair]) -> None:
        with self._env.begin(write=True) as transaction, transaction.cursor() as cursor:
            cursor.putmulti(records, append=True)

    def reading(self) -> Any:
        """A transaction that reads."""
        return self._env.begin()

    def __len__(self) -> int:
        entries: int = self._env.stat()["entries"]
        return entries

    def close(self) -> None:
        self._env.close()


class RocksStore:
    """RocksDB by rocksdict, one WriteBatch an append, through the write-ahead log."""

    def __init__(self, directory: Path, *, synced: bool = False) -> None:
        self._module: Any = importlib.import_module("rocksdict")
        self._db = self._module.Rdict(str(directory), self._module.Options(raw_mode=True))
        options = self._module.WriteOptions()
        options.sync = synced
        self._db.set_write_options(options)

    def append(self, records: list[Pair]) -> None:
        batch = self._module.WriteBatch(raw_mode=True)
        put = batch.put
        for key, value in records:
            put(key, value)
        self._db.write(batch)

    def __len__(self) -> int:
        count: int = self._db.latest_sequence_number()  # one for each put, and nothing else was done
        return count

    def close(self) -> None:
        self._db.close()


class SqliteStore:
    """SQLite with a write-ahead log: a table by offset, one transaction an append."""

    def __init__(self, directory: Path, *, synced: bool = False) -> None:
        self._connection = sqlite3.connect(directory / "log.db", isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute(f"PRAGMA synchronous = {'FULL' if synced else 'OFF'}")
        self._connection.execute("CREATE TABLE log (offset INTEGER PRIMARY KEY, key BLOB, value BLOB)")

    def append(self, records: list[Pair]) -> None:
        insert = "INSERT INTO log (key, value) VALUES (?, ?)"
        execute = self._connection.execute
        if len(records) == 1:  # a statement outside a transaction is one
            execute(insert, records[0])
            return
        execute("BEGIN")
        self._connection.executemany(insert, records)
        execute("COMMIT")

    def __len__(self) -> int:
        (count,) = self._connection.execute("SELECT count(*) FROM log").fetchone()
        return int(count)

    def close(self) -> None:
        self._connection.close()


class PersistQueueStore:
    """persist-queue's queue in SQLite, its fastest one on disk; it has no call for many, each put is a transaction."""

    def __init__(self, directory: Path) -> None:
        module: Any = importlib.import_module("persistqueue")
        self._queue = module.FIFOSQLiteQueue(str(directory), auto_commit=False, multithreading=False)
        # It has no setting for this; left alone, it syncs each put.
        self._queue._conn.execute("PRAGMA synchronous = OFF")

    def append(self, records: list[Pair]) -> None:
        put = self._queue.put
        for record in records:
            put(record)

    def __len__(self) -> int:
        return len(self._queue)

    def close(self) -> None:
        self._queue.close()


class DequeStore:
    """diskcache's Deque, one transaction an append."""

    def __init__(self, directory: Path) -> None:
        module: Any = importlib.import_module("diskcache")
        self._cache = module.Cache(str(directory), eviction_policy="none", sqlite_synchronous=0)
        self._deque = module.Deque.fromcache(self._cache)

    def append(self, records: list[Pair]) -> None:
        with self._deque.transact():
            self._deque.extend(records)

    def __len__(self) -> int:
        return len(self._deque)

    def close(self) -> None:
        self._cache.close()


class BareFile:
    """A file that grows, written without any store; it takes batches that were encoded beforehand and counts bytes."""

    def __init__(self, directory: Path) -> None:
        self._descriptor = os.open(directory / "bare", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)

    def append(self, batch: bytes) -> None:
        os.write(self._descriptor, batch)

    def append_durably(self, batches: Sequence[bytes]) -> None:
        """Write and sync one after the other: what no durable append can do without."""
        descriptor, write, sync = self._descriptor, os.write, getattr(os, "fdatasync", os.fsync)
        for batch in batches:
            write(descriptor, batch)
            sync(descriptor)

    def __len__(self) -> int:
        return os.fstat(self._descriptor).st_size

    def close(self) -> None:
        os.close(self._descriptor)


def checksum_file(path: Path) -> int:
    """The CRC-32C of a file that is read in pieces into one buffer: the least that a reader who checks has to do."""
    buffer = memoryview(bytearray(PIECE_BYTES))
    checksum = 0
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            checksum = crc32c.crc32c(buffer[:size], checksum)
    return checksum


def is_installed(module: str) -> bool:
    """Whether a peer can be imported (extra `bench`); a figure without one goes on with the others."""
    return importlib.util.find_spec(module) is not None


class NeverSyncing(LocalFileSystem):
    """The operating system's files, and no sync: for making files whose making is not what is measured."""

    def open(self, path: StrPath, *, write: bool = False, create: bool = False, exclusive: bool = False) -> Any:
        return _UnsyncedFile(super().open(path, write=write, create=create, exclusive=exclusive))

    def sync_directory(self, path: StrPath) -> None:
        pass


class _UnsyncedFile:
    """All that a file is, but for its sync."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _UnsyncedFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def sync(self) -> None:
        pass
