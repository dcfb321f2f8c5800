"""Queues of jobs that WorkQueue is compared with, and logstore's own, behind one small protocol.

Each works through values by itself, in the tightest loop that its interface allows: put one, get one, acknowledge it.
What is not forgotten when a worker dies between get and acknowledge says so in its class; who cannot do that is marked
"no ack" and has less to do. `Sync` says what is synced. Threads may share a queue where `is_shared` was given.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import sqlite3
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from peers import LMDB_MAP_SIZE

import logstore
from logstore.queue.work_queue import WorkQueue

Sync = Literal["OFF", "NORMAL", "FULL"]
"""Nothing, nothing of a single job, or everything; as SQLite names them."""

CLEAN_EVERY = 100
"""Cycles between two calls of what persist-queue and litequeue have to be asked for: to delete what is finished."""
GROUP = "workers"
STREAM = "jobs"


class JobQueue(Protocol):
    """A queue of jobs."""

    def cycle(self, values: Sequence[bytes]) -> int:
        """Put, get and acknowledge as many jobs as there are values; the bytes of those that were acknowledged."""
        ...

    def left(self) -> int:
        """Jobs that are not finished, as the queue's own files or server say it."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


Opener = Callable[[Path], JobQueue]
"""Makes a queue in a directory that is there and empty."""


class LogstoreQueue:
    """Our WorkQueue, in a store that is open as exclusive."""

    def __init__(self, directory: Path, *, sync: Sync = "OFF") -> None:
        self._store = logstore.open(directory / "store", mode="exclusive")
        self._queue = WorkQueue(self._store, "jobs", durability="always" if sync == "FULL" else "os")

    def cycle(self, values: Sequence[bytes]) -> int:
        put, get, ack, size = self._queue.put, self._queue.get, self._queue.ack, 0
        for value in values:
            put(value)
            job = get()
            assert job is not None
            size += len(job.value)
            ack(job)
        return size

    def left(self) -> int:
        stats = self._queue.stats()
        return stats.available + stats.acquired + stats.delayed + stats.dead

    def acknowledged(self) -> int:
        """How many jobs ever were, as its state says."""
        return self._queue.stats().acknowledged

    def close(self) -> None:
        self._queue.close()
        self._store.close()


class SqliteQueue:
    """A table with a write-ahead log, as one would write it: three statements a job, each a transaction of its own.

    Threads share the connection under a lock: they would otherwise wait for each other by sleeping.
    """

    def __init__(self, directory: Path, *, sync: Sync = "OFF", is_shared: bool = False) -> None:
        self._connection = sqlite3.connect(directory / "jobs.db", isolation_level=None, check_same_thread=not is_shared)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute(f"PRAGMA synchronous = {sync}")
        self._connection.execute("CREATE TABLE jobs (id INTEGER PRIMARY KEY, taken INTEGER, value BLOB)")
        self._connection.execute("CREATE INDEX ready ON jobs (id) WHERE taken IS NULL")
        self._guard = threading.Lock() if is_shared else contextlib.nullcontext()

    def cycle(self, values: Sequence[bytes]) -> int:
        execute, guard, now, size = self._connection.execute, self._guard, time.time_ns, 0
        take = (
            "UPDATE jobs SET taken = ? WHERE id = (SELECT id FROM jobs WHERE taken IS NULL ORDER BY id LIMIT 1)"
            " RETURNING id, value"
        )
        for value in values:
            with guard:
                execute("INSERT INTO jobs (value) VALUES (?)", (value,))
            with guard:
                ((number, found),) = execute(take, (now(),)).fetchall()
            size += len(found)
            with guard:
                execute("DELETE FROM jobs WHERE id = ?", (number,))
        return size

    def left(self) -> int:
        (count,) = self._connection.execute("SELECT count(*) FROM jobs").fetchone()
        return int(count)

    def close(self) -> None:
        self._connection.close()


class LmdbQueue:
    """LMDB, a tree of what is ready and one of what is taken: three transactions a job."""

    def __init__(self, directory: Path, *, sync: Sync = "OFF", is_shared: bool = False) -> None:
        lmdb: Any = importlib.import_module("lmdb")
        synced = sync == "FULL"
        self._env: Any = lmdb.open(str(directory), map_size=LMDB_MAP_SIZE, max_dbs=2, sync=synced, metasync=synced)
        self._ready, self._taken = (self._env.open_db(name) for name in (b"ready", b"taken"))
        self._guard = threading.Lock() if is_shared else contextlib.nullcontext()
        self._next = 0

    def cycle(self, values: Sequence[bytes]) -> int:
        begin, ready, taken, guard, size = self._env.begin, self._ready, self._taken, self._guard, 0
        pack = struct.Struct(">Q").pack
        for value in values:
            with guard, begin(write=True) as transaction:
                self._next += 1
                transaction.put(pack(self._next), value, db=ready, append=True)
            with guard, begin(write=True) as transaction, transaction.cursor(db=ready) as cursor:
                cursor.first()
                key, found = cursor.item()
                cursor.delete()
                transaction.put(key, found, db=taken)
            size += len(found)
            with guard, begin(write=True) as transaction:
                transaction.delete(key, db=taken)
        return size

    def left(self) -> int:
        with self._env.begin() as transaction:
            return sum(int(transaction.stat(db)["entries"]) for db in (self._ready, self._taken))

    def close(self) -> None:
        self._env.close()


class PersistAckQueue:
    """persist-queue's SQLiteAckQueue: three transactions a job. What is acknowledged stays until it is cleared away."""

    def __init__(self, directory: Path, *, sync: Sync = "OFF", is_shared: bool = False) -> None:
        module: Any = importlib.import_module("persistqueue")
        self._queue = module.SQLiteAckQueue(str(directory), multithreading=is_shared)
        _synchronous(self._queue, sync)

    def cycle(self, values: Sequence[bytes]) -> int:
        put, get, ack, size = self._queue.put, self._queue.get, self._queue.ack, 0
        for number, value in enumerate(values, 1):
            put(value)
            job = get(raw=True)
            size += len(job["data"])
            ack(id=job["pqid"])
            if number % CLEAN_EVERY == 0:
                self._queue.clear_acked_data(keep_latest=0)
        return size

    def left(self) -> int:
        left: int = self._queue._count() + self._queue.unack_count() + self._queue.ack_failed_count()
        return left

    def close(self) -> None:
        self._queue.close()


class PersistFifoQueue:
    """persist-queue's FIFOSQLiteQueue. With one thread `task_done` acknowledges; else a job is gone once it was got."""

    def __init__(self, directory: Path, *, sync: Sync = "OFF", is_shared: bool = False) -> None:
        module: Any = importlib.import_module("persistqueue")
        self._queue = module.FIFOSQLiteQueue(str(directory), auto_commit=is_shared, multithreading=is_shared)
        _synchronous(self._queue, sync)

    def cycle(self, values: Sequence[bytes]) -> int:
        put, get, task_done, size = self._queue.put, self._queue.get, self._queue.task_done, 0
        for value in values:
            put(value)
            size += len(get())
            task_done()
        return size

    def left(self) -> int:
        count: int = self._queue._count()
        return count

    def close(self) -> None:
        self._queue.close()


def _synchronous(queue: Any, sync: Sync) -> None:
    """It has no setting for this; left alone, it syncs each transaction."""
    for connection in {queue._putter, queue._getter}:
        connection.execute(f"PRAGMA synchronous = {sync}")


class LiteQueue:
    """litequeue: three transactions a job, in its own mode, NORMAL. It keeps what is done until it is asked not to."""

    def __init__(self, directory: Path) -> None:
        module: Any = importlib.import_module("litequeue")
        self._queue = module.LiteQueue(directory / "jobs.db")

    def cycle(self, values: Sequence[bytes]) -> int:
        put, pop, done, size = self._queue.put, self._queue.pop, self._queue.done, 0
        for number, value in enumerate(values, 1):
            put(value)
            job = pop()
            size += len(job.data)
            done(job.message_id)
            if number % CLEAN_EVERY == 0:
                self._queue.prune()
        return size

    def left(self) -> int:
        count: int = self._queue.qsize()
        return count

    def close(self) -> None:
        self._queue.close()


class DequeQueue:
    """diskcache's Deque: two transactions a job; it is gone once it was got."""

    def __init__(self, directory: Path, *, sync: Sync = "OFF") -> None:
        module: Any = importlib.import_module("diskcache")
        mode = ("OFF", "NORMAL", "FULL").index(sync)
        self._cache = module.Cache(str(directory), eviction_policy="none", sqlite_synchronous=mode)
        self._deque = module.Deque.fromcache(self._cache)

    def cycle(self, values: Sequence[bytes]) -> int:
        append, pop, size = self._deque.append, self._deque.popleft, 0
        for value in values:
            append(value)
            size += len(pop())
        return size

    def left(self) -> int:
        return len(self._deque)

    def close(self) -> None:
        self._cache.close()


class RedisServer:
    """A server of our own on a socket in a directory of its own; `is_synced`: each write, else nothing is on disk."""

    def __init__(self, *, is_synced: bool = False) -> None:
        program = shutil.which("redis-server")
        assert program is not None
        # Not below pytest's directories: a socket's path has at most 107 bytes.
        self._directory = Path(tempfile.mkdtemp(prefix="redis-"))
        self.socket = str(self._directory / "socket")
        settings = {
            "port": "0",
            "unixsocket": self.socket,
            "save": "",
            "dir": str(self._directory),
            "appendonly": "yes" if is_synced else "no",
            "appendfsync": "always" if is_synced else "no",
            "daemonize": "no",
        }
        arguments = [word for name, value in settings.items() for word in (f"--{name}", value)]
        self._process = subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 10
        while not os.path.exists(self.socket):
            assert self._process.poll() is None and time.monotonic() < end, "redis-server does not start"
            time.sleep(0.01)

    def client(self) -> Any:
        """A connection; threads may share it."""
        module: Any = importlib.import_module("redis")
        return module.Redis(unix_socket_path=self.socket)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self._directory)


@contextlib.contextmanager
def redis_server(*, is_synced: bool = False) -> Iterator[RedisServer]:
    """Start a server for a while."""
    server = RedisServer(is_synced=is_synced)
    try:
        yield server
    finally:
        server.close()


class RedisQueue:
    """A stream with a group: XADD, XREADGROUP, XACK, each a round trip. What is acknowledged stays in the stream."""

    def __init__(self, server: RedisServer) -> None:
        self._client = server.client()
        self._client.delete(STREAM)
        self._client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)

    def cycle(self, values: Sequence[bytes]) -> int:
        add, read, ack, size = self._client.xadd, self._client.xreadgroup, self._client.xack, 0
        worker, wanted = f"worker-{threading.get_ident()}", {STREAM: ">"}
        for value in values:
            add(STREAM, {b"v": value})
            jobs = read(GROUP, worker, wanted, count=1)
            (entries,) = jobs.values() if isinstance(jobs, dict) else (found for _, found in jobs)
            ((number, fields),) = entries[0] if isinstance(entries[0], list) else entries
            size += len(fields[b"v"])
            ack(STREAM, GROUP, number)
        return size

    def left(self) -> int:
        (group,) = self._client.xinfo_groups(STREAM)
        return int(group["pending"]) + int(group["lag"])

    def close(self) -> None:
        self._client.delete(STREAM)
        self._client.close()


def has_redis() -> bool:
    """Whether there is a server that can be started, and a client."""
    return shutil.which("redis-server") is not None and importlib.util.find_spec("redis") is not None
