"""Append records that are on disk when the append returns, beside what a bare loop of write and fdatasync does.

The bare loop writes the same batches, encoded beforehand, to a file that grows. Its rounds and ours alternate, 50
appends at a time, so that a disk that slows down does so for both; the medians are judged. Needs a directory on a real
disk: on tmpfs a sync costs nothing (choose one with --basetemp).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from peers import BareFile, LmdbStore, LogstoreStore, SqliteStore, Store, is_installed
from pytest_benchmark.fixture import BenchmarkFixture
from side_by_side import SYNC_EACH, Side, by_size, compare
from workload import TIMESTAMP, Pair, pairs

from logstore.log.log import Log
from logstore.records import encode_batch

pytestmark = pytest.mark.starts_threads

APPENDS = 50
THREADS = 16
IN_FLIGHT = 1000


class Stores:
    """Makes stores that sync each append, and a bare file, in directories of their own; closes them all."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self._directory = directory
        self._stack = stack

    def log(self) -> Log:
        store = LogstoreStore(self._new("logstore"), synced=True)
        self._stack.callback(store.close)
        return store.log

    def peers(self, calls: Sequence[list[Pair]]) -> list[Side]:
        """SQLite and LMDB. Both also write over space that their files have already, where a sync costs less."""
        sides = [self._side("SQLite", SqliteStore(self._new("sqlite"), synced=True), calls)]
        if is_installed("lmdb"):
            sides.append(self._side("LMDB put", LmdbStore(self._new("lmdb"), synced=True), calls))
        else:
            sides.append(Side.absent("LMDB put"))
        return sides

    def bare_loop(self, calls: Sequence[list[Pair]], asked: float) -> Side:
        """The loop, on the batches that the log makes of these calls."""
        batches = [bytes(encode_batch(call, timestamp=TIMESTAMP)) for call in calls]
        file = BareFile(self._new("bare"))
        self._stack.callback(file.close)
        return Side("write + fdatasync, one thread", lambda: file.append_durably(batches), len(batches), asked)

    def _side(self, library: str, store: Store, calls: Sequence[list[Pair]]) -> Side:
        self._stack.callback(store.close)
        return Side(library, lambda: append_all(store, calls), len(calls))

    def _new(self, name: str) -> Path:
        path = self._directory / name
        path.mkdir()
        return path


@pytest.fixture
def stores(tmp_path: Path, stack: contextlib.ExitStack) -> Stores:
    return Stores(tmp_path, stack)


def append_all(store: Store | Log, calls: Sequence[list[Pair]]) -> None:
    append = store.append
    for call in calls:
        append(call)


def singles(first: int, count: int) -> list[list[Pair]]:
    return [[pair] for pair in pairs(first, count)]


def bench_append_durable(benchmark: BenchmarkFixture, stores: Stores) -> None:
    """One record a call, from one thread: every append waits for a sync of its own."""
    calls = singles(0, by_size(benchmark, APPENDS, 3))
    log = stores.log()
    ours = Side("logstore", lambda: append_all(log, calls), len(calls))
    # The bare loop comes last, right before ours.
    sides = [ours, *stores.peers(calls), stores.bare_loop(calls, 0.9)]
    compare(
        benchmark,
        "append, one record a call, 1 thread",
        sync=SYNC_EACH,
        unit="appends/s",
        sides=sides,
        rounds=60,
        judged="median",
    )
    assert log.log_end_offset == len(calls) * len(ours.seconds)


def bench_append_durable_by_threads(benchmark: BenchmarkFixture, stores: Stores) -> None:
    """One record a call, from 16 threads at a time: those that wait share the next sync."""
    shares = [singles(first, by_size(benchmark, APPENDS, 2)) for first in range(THREADS)]
    log = stores.log()
    with ThreadPoolExecutor(THREADS) as threads:

        def append_by_threads() -> None:
            for done in [threads.submit(append_all, log, share) for share in shares]:
                done.result()

        ours = Side("logstore", append_by_threads, sum(map(len, shares)))
        compare(
            benchmark,
            f"append, one record a call, {THREADS} threads",
            sync=SYNC_EACH,
            unit="appends/s",
            sides=[ours, stores.bare_loop(shares[0], 2.5)],
            rounds=40,
            judged="median",
        )
    assert log.log_end_offset == ours.count * len(ours.seconds)


def bench_append_durable_later(benchmark: BenchmarkFixture, stores: Stores) -> None:
    """One record a call, from one thread that asks for the results once all calls are made."""
    calls = singles(0, by_size(benchmark, IN_FLIGHT, 20))
    log = stores.log()

    def append_later_all() -> None:
        futures = [log.append_later(call) for call in calls]
        for future in futures:
            future.result()

    ours = Side("logstore", append_later_all, len(calls))
    compare(
        benchmark,
        f"append, one record a call, {IN_FLIGHT:,} futures in flight",
        sync=SYNC_EACH,
        unit="appends/s",
        sides=[ours, stores.bare_loop(calls[:APPENDS], 20)],
        rounds=40,
        judged="median",
    )
    assert log.log_end_offset == len(calls) * len(ours.seconds)
