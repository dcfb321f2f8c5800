"""Append to a log, to LMDB, RocksDB, SQLite, persist-queue and diskcache in turn; nothing is synced.

All take the same list of (key, value) pairs a call, and store it in the page cache; ours encodes and numbers it and
computes its CRC within the time. The bare write gets batches that are encoded already: what the system takes for those
bytes, whoever writes them. With --large the log that has grown has 2 GB instead of 256 MB.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence, Sized
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import pytest
from peers import (
    BareFile,
    DequeStore,
    LmdbStore,
    LogstoreStore,
    Opener,
    PersistQueueStore,
    RocksStore,
    SqliteStore,
    Store,
    is_installed,
)
from pytest_benchmark.fixture import BenchmarkFixture
from side_by_side import NOT_SYNCED, Side, by_size, compare
from workload import TIMESTAMP, pairs, recent_pairs

from logstore.records import encode_batch

CALL_RECORDS = 1000  # 121 KiB as one uncompressed batch
GROWN_BYTES = 256_000_000
GROWN_BYTES_WHEN_LARGE = 2_000_000_000
GROWN_BYTES_WHEN_DISABLED = 1_000_000
FILL_RECORDS = 32  # 4 KiB: the log that grows gets an index entry for every batch, as dense as they can be

Peer = tuple[str, str, Opener, int, float | None]
"""Its name, its module, what opens it, how many calls it gets a round, and how many times as fast we have to be."""


class Fresh:
    """A store that is made anew for every round, and the calls that fill it."""

    def __init__(self, opener: Opener, directory: Path, calls: Sequence[Sized]) -> None:
        self._opener = opener
        self._directory = directory
        self._calls = calls
        self._store: Store | None = None

    def make(self) -> None:
        self._directory.mkdir()
        self._store = self._opener(self._directory)

    def fill(self) -> None:
        assert self._store is not None
        append = self._store.append
        for call in self._calls:
            append(call)

    def drop(self) -> None:
        assert self._store is not None
        assert len(self._store) == sum(map(len, self._calls))
        self._store.close()
        shutil.rmtree(self._directory)


def fresh(
    library: str, opener: Opener, directory: Path, calls: Sequence[Sized], count: int, asked: float | None = None
) -> Side:
    store = Fresh(opener, directory / library.replace(" ", "-"), calls)
    return Side(library, store.fill, count, asked, before=store.make, after=store.drop)


def compare_calls_of_many(benchmark: BenchmarkFixture, figure: str, directory: Path, peers: Sequence[Peer]) -> None:
    most = by_size(benchmark, 400, 3)
    calls = [recent_pairs(number * CALL_RECORDS, CALL_RECORDS) for number in range(most)]
    sides = [fresh("logstore", LogstoreStore, directory, calls, most * CALL_RECORDS)]
    for library, module, opener, full, asked in peers:
        share = calls[: by_size(benchmark, full, 1)]
        if is_installed(module):
            sides.append(fresh(library, opener, directory, share, len(share) * CALL_RECORDS, asked))
        else:
            sides.append(Side.absent(library, asked))
    encoded = [bytes(encode_batch(call, timestamp=TIMESTAMP)) for call in calls]
    sides.append(fresh("bare write", BareFile, directory, encoded, most * CALL_RECORDS))
    compare(benchmark, figure, sync=NOT_SYNCED, unit="records/s", sides=sides, rounds=10)


def bench_append_batches(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Calls of 1,000 records. The slow ones get fewer calls a round, for all to take about as long."""
    peers: list[Peer] = [
        ("LMDB put", "lmdb", LmdbStore, 200, 5),
        ("LMDB putmulti", "lmdb", partial(LmdbStore, multi=True), 400, 2),
        ("SQLite", "sqlite3", SqliteStore, 50, None),
        ("persist-queue", "persistqueue", PersistQueueStore, 5, None),
        ("diskcache", "diskcache", DequeStore, 5, None),
    ]
    compare_calls_of_many(benchmark, f"append, {CALL_RECORDS:,} records a call", tmp_path, peers)


@pytest.mark.starts_threads
def bench_append_batches_beside_rocksdb(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """The same beside RocksDB, which has threads of its own."""
    figure = f"append, {CALL_RECORDS:,} records a call, in a process with threads"
    compare_calls_of_many(benchmark, figure, tmp_path, [("RocksDB", "rocksdict", RocksStore, 200, 4)])


def bench_append_one(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Calls of one record, each a batch or a transaction of its own."""
    calls = [[pair] for pair in pairs(0, by_size(benchmark, 20_000, 100))]
    sides = [fresh("logstore", LogstoreStore, tmp_path, calls, len(calls), 200_000)]
    if is_installed("lmdb"):
        sides.append(fresh("LMDB put", LmdbStore, tmp_path, calls, len(calls)))
    else:
        sides.append(Side.absent("LMDB put"))
    sides.append(fresh("SQLite", SqliteStore, tmp_path, calls, len(calls)))
    compare(benchmark, "append, one record a call", sync=NOT_SYNCED, unit="appends/s", sides=sides, rounds=10)


def bench_append_one_to_a_large_log(
    benchmark: BenchmarkFixture, tmp_path: Path, stack: ExitStack, request: pytest.FixtureRequest
) -> None:
    """The same on a log that has grown, beside one that is empty: an append may not depend on what is there."""
    full = GROWN_BYTES_WHEN_LARGE if request.config.getoption("--large") else GROWN_BYTES
    size = by_size(benchmark, full, GROWN_BYTES_WHEN_DISABLED)
    grown = tmp_path / "grown"
    store = stack.enter_context(closing(LogstoreStore(grown)))
    fill(store, grown, size)
    calls = [[pair] for pair in pairs(0, by_size(benchmark, 20_000, 100))]

    def append_all() -> None:
        append = store.append
        for call in calls:
            append(call)

    ours = Side("logstore", append_all, len(calls), 200_000)
    empty = fresh("logstore, empty log", LogstoreStore, tmp_path, calls, len(calls), 0.9)
    compare(
        benchmark,
        f"append, one record a call, log of {size / 1e9:g} GB",
        sync=NOT_SYNCED,
        unit="appends/s",
        sides=[ours, empty],
        rounds=10,
    )


def fill(store: LogstoreStore, directory: Path, size: int) -> None:
    """Append small batches until the log files have `size` bytes."""
    batch, append = pairs(0, FILL_RECORDS), store.append
    while sum(path.stat().st_size for path in directory.glob("*.log")) < size:
        for _ in range(200):
            append(batch)
