"""Work queues whose jobs are on disk when `put` returns, and finished there when `ack` does; from 16 threads.

Each thread puts a job, gets one (which need not be its own), and acknowledges it, so many times. The bare loop writes
a value and syncs it twice a cycle, one after the other: what one thread cannot do without. The medians are judged, as a
disk may be lucky. Needs a directory on a real disk: on tmpfs a sync costs nothing (choose one with --basetemp).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import pytest
from peers import BareFile, is_installed
from pytest_benchmark.fixture import BenchmarkFixture
from queue_peers import (
    DequeQueue,
    JobQueue,
    LmdbQueue,
    LogstoreQueue,
    PersistAckQueue,
    PersistFifoQueue,
    RedisQueue,
    SqliteQueue,
    has_redis,
    redis_server,
)
from side_by_side import SYNC_EACH, Side, by_size, compare
from workload import VALUE_SIZE, pairs

pytestmark = pytest.mark.starts_threads

THREADS = 16
CYCLES = 25
CYCLES_OF_PEERS = 5
ROUNDS = 15

Peer = tuple[str, str, Callable[[Path], JobQueue], float | None]
"""Its name, its module, what opens it, and how many times as fast we have to be."""


class Crew:
    """Threads that work with one queue at a time."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads

    def side(self, library: str, queue: JobQueue, each: int, asked: float | None = None) -> Side:
        """A queue in which each thread has so many cycles a round; all of them come out, and none is left."""
        shares = [[value or b"" for _, value in pairs(number * each, each)] for number in range(THREADS)]
        whole = sum(len(value) for share in shares for value in share)
        sizes: list[int] = []

        def work() -> None:
            sizes.append(sum(self._threads.map(queue.cycle, shares)))

        def counted() -> None:
            assert sizes.pop() == whole
            assert queue.left() == 0

        return Side(library, work, THREADS * each, asked, after=counted)


def opened(peers: Iterable[Peer], crew: Crew, each: int, directory: Path, stack: ExitStack) -> list[Side]:
    sides = []
    for number, (library, module, opener, asked) in enumerate(peers):
        if not is_installed(module):
            sides.append(Side.absent(library, asked))
            continue
        place = directory / f"peer-{number}"
        place.mkdir()
        sides.append(crew.side(library, stack.enter_context(closing(opener(place))), each, asked))
    return sides


def bare_loop(directory: Path, count: int, stack: ExitStack) -> Side:
    directory.mkdir()
    file = stack.enter_context(closing(BareFile(directory)))
    writes: Sequence[bytes] = [b"v" * VALUE_SIZE] * (2 * count)
    return Side("2 x (write + fdatasync), one thread", lambda: file.append_durably(writes), count)


def bench_cycle_durable_by_threads(benchmark: BenchmarkFixture, tmp_path: Path, stack: ExitStack) -> None:
    """SQLiteAckQueue and the table sync three times a cycle, the two without acknowledgement twice."""
    each, few = by_size(benchmark, CYCLES, 2), by_size(benchmark, CYCLES_OF_PEERS, 1)
    (tmp_path / "logstore").mkdir()
    ours = LogstoreQueue(tmp_path / "logstore", sync="FULL")
    stack.callback(ours.close)
    peers: list[Peer] = [
        ("persist-queue SQLiteAckQueue (FULL)", "persistqueue",
         partial(PersistAckQueue, sync="FULL", is_shared=True), 3),
        ("persist-queue FIFOSQLiteQueue (FULL, no ack)", "persistqueue",
         partial(PersistFifoQueue, sync="FULL", is_shared=True), 3),
        ("diskcache Deque (FULL, no ack)", "diskcache", partial(DequeQueue, sync="FULL"), None),
        ("SQLite table (WAL, FULL)", "sqlite3", partial(SqliteQueue, sync="FULL", is_shared=True), 1.5),
        ("LMDB (sync)", "lmdb", partial(LmdbQueue, sync="FULL", is_shared=True), None),
    ]  # fmt: skip
    name = "Redis Streams (AOF, fsync always)"
    with ThreadPoolExecutor(THREADS) as threads:
        crew = Crew(threads)
        sides = [crew.side("logstore", ours, each), *opened(peers, crew, few, tmp_path, stack)]
        if has_redis():
            server = stack.enter_context(redis_server(is_synced=True))
            queue = stack.enter_context(closing(RedisQueue(server)))
            sides.append(crew.side(name, queue, each))
        else:
            sides.append(Side.absent(name))
        sides.append(bare_loop(tmp_path / "bare", by_size(benchmark, 50, 2), stack))
        compare(
            benchmark,
            f"work queue: put, get, ack, {THREADS} threads",
            sync=SYNC_EACH,
            unit="cycles/s",
            sides=sides,
            rounds=ROUNDS,
            judged="median",
        )
    assert ours.acknowledged() == THREADS * each * len(sides[0].seconds)
