"""Producers, consumers and work queues of an exclusive store, by one thread, beside other queues on disk and Redis.

Nothing is synced where it is not said. A producer gathers what it is sent, and writes it as batches of 16 KiB; so the
stores beside it get the same records one by one, in transactions of as many. A cycle is: put a job, get one,
acknowledge it; what is acknowledged is counted after each round, by the bytes that came out and by what is left.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from peers import LmdbStore, SqliteStore, is_installed
from pytest_benchmark.fixture import BenchmarkFixture
from queue_peers import (
    DequeQueue,
    JobQueue,
    LiteQueue,
    LmdbQueue,
    LogstoreQueue,
    PersistAckQueue,
    PersistFifoQueue,
    RedisQueue,
    RedisServer,
    SqliteQueue,
    has_redis,
    redis_server,
)
from side_by_side import NOT_SYNCED, Side, by_size, compare
from workload import BATCH_BYTES, Pair, pairs, recent_pairs, records_per_batch

import logstore

TOPIC = "records"
GATHERED = records_per_batch(BATCH_BYTES["16KiB"])
POLLED = 500
ROUNDS = 10


@pytest.fixture
def redis(stack: ExitStack) -> RedisServer | None:
    """A server that is stopped in the end; None where there is none."""
    return stack.enter_context(redis_server()) if has_redis() else None


class Records:
    """A store of one topic that is made anew for every round."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "store"
        self.store: logstore.Store | None = None

    def make(self) -> None:
        self.store = logstore.open(self._directory, mode="exclusive")
        self.store.create_topic(TOPIC, settings={"retention.ms": "-1"})

    def drop(self, count: int) -> None:
        assert self.store is not None
        assert self.store.partition(TOPIC).log_end_offset == count
        self.store.close()
        shutil.rmtree(self._directory)

    def side(self, work: Callable[[logstore.Producer], object], count: int, asked: float) -> Side:
        def run() -> None:
            assert self.store is not None
            with logstore.Producer(self.store, durability="os") as producer:
                work(producer)

        return Side("logstore", run, count, asked, before=self.make, after=lambda: self.drop(count))


def emptied(library: str, opener: Callable[[Path], Any], directory: Path, work: Any, count: int) -> Side:
    """A store that is made anew for every round, worked on, and counted."""
    place, opened = directory / library.split(",")[0].replace(" ", "-"), []

    def make() -> None:
        place.mkdir()
        opened.append(opener(place))

    def drop() -> None:
        store = opened.pop()
        assert len(store) == count
        store.close()
        shutil.rmtree(place)

    return Side(library, lambda: work(opened[0]), count, before=make, after=drop)


def in_groups(records: Sequence[Pair], each: int) -> Iterator[list[Pair]]:
    rest = iter(records)
    while group := list(islice(rest, each)):
        yield group


class RedisRecords:
    """A stream that takes records in pipelines, a round trip for so many."""

    def __init__(self, server: RedisServer) -> None:
        self.client = server.client()
        self.client.delete(TOPIC)

    def append(self, records: list[Pair]) -> None:
        with self.client.pipeline(transaction=False) as pipeline:
            for key, value in records:
                pipeline.xadd(TOPIC, {b"k": key, b"v": value})
            pipeline.execute()

    def __len__(self) -> int:
        count: int = self.client.xlen(TOPIC)
        return count

    def close(self) -> None:
        self.client.delete(TOPIC)
        self.client.close()


class SqliteOneByOne(SqliteStore):
    """SQLite, with a statement for each record; a transaction an append all the same."""

    def append(self, records: list[Pair]) -> None:
        execute = self._connection.execute
        execute("BEGIN")
        for record in records:
            execute("INSERT INTO log (key, value) VALUES (?, ?)", record)
        execute("COMMIT")


def stores_beside(
    directory: Path, redis: RedisServer | None, records: Sequence[Pair], each: int, *, is_one_by_one: bool
) -> list[Side]:
    """SQLite, LMDB and Redis, that take the same records in transactions of `each`; the slow ones get fewer."""

    def work_of(count: int) -> Callable[[Any], None]:
        groups = list(in_groups(records[:count], each))

        def work(store: Any) -> None:
            append = store.append
            for group in groups:
                append(group)

        return work

    whole, many, few = (max(len(records) // part, 100) for part in (1, 10, 100))
    name = f"SQLite (WAL, OFF), {'INSERT' if is_one_by_one else 'executemany'}, {each:,} a transaction"
    sides = [emptied(name, SqliteOneByOne if is_one_by_one else SqliteStore, directory, work_of(many), many)]
    name = f"LMDB (no sync), {'put' if is_one_by_one else 'putmulti'}, {each:,} a transaction"
    if is_installed("lmdb"):
        opener = partial(LmdbStore, multi=not is_one_by_one)
        sides.append(emptied(name, opener, directory, work_of(whole), whole))
    else:
        sides.append(Side.absent(name))
    name = f"Redis XADD (no AOF), {each:,} a pipeline"
    if redis is not None:
        sides.append(emptied(name, lambda _: RedisRecords(redis), directory, work_of(few), few))
    else:
        sides.append(Side.absent(name))
    return sides


def bench_send(benchmark: BenchmarkFixture, tmp_path: Path, redis: RedisServer | None) -> None:
    """`Producer.send`, one record a call; what is gathered last is flushed within the time."""
    records = recent_pairs(0, by_size(benchmark, 200_000, 1000))

    def send(producer: logstore.Producer) -> None:
        send = producer.send
        for key, value in records:
            send(TOPIC, value, key)

    ours = Records(tmp_path).side(send, len(records), 500_000)
    peers = stores_beside(tmp_path, redis, records, GATHERED, is_one_by_one=True)
    compare(
        benchmark,
        "Producer.send, one record a call",
        sync=NOT_SYNCED,
        unit="records/s",
        sides=[ours, *peers],
        rounds=ROUNDS,
    )


def bench_send_many(benchmark: BenchmarkFixture, tmp_path: Path, redis: RedisServer | None) -> None:
    """`Producer.send_many`, all records in one call."""
    records = recent_pairs(0, by_size(benchmark, 400_000, 1000))

    def send(producer: logstore.Producer) -> None:
        producer.send_many(TOPIC, records)

    ours = Records(tmp_path).side(send, len(records), 3_000_000)
    peers = stores_beside(tmp_path, redis, records, 1000, is_one_by_one=False)
    compare(benchmark, "Producer.send_many", sync=NOT_SYNCED, unit="records/s", sides=[ours, *peers], rounds=ROUNDS)


@pytest.mark.parametrize("looks", [False, True], ids=["only-polled", "values-read"])
def bench_poll(
    benchmark: BenchmarkFixture, tmp_path: Path, stack: ExitStack, redis: RedisServer | None, looks: bool
) -> None:
    """`Consumer.poll` until the end, at most 500 messages a call; alone, and with a look at each value."""
    records = pairs(0, by_size(benchmark, 400_000, 1000))
    store = stack.enter_context(logstore.open(tmp_path / "store", mode="exclusive"))
    store.create_topic(TOPIC, settings={"retention.ms": "-1"})
    with logstore.Producer(store, durability="os") as producer:
        for key, value in records:
            producer.send(TOPIC, value, key)
    seen: list[tuple[int, int]] = []

    def poll() -> None:
        count = size = 0
        with logstore.Consumer(store, TOPIC, max_poll_records=POLLED) as consumer:
            while messages := consumer.poll():
                count += len(messages)
                if looks:
                    for one in messages:
                        size += len(one.value)
        seen.append((count, size))

    def counted() -> None:
        assert seen.pop() == (len(records), sum(len(value or b"") for _, value in records) * looks)

    asked = None if looks else 2_000_000
    sides = [Side("logstore", poll, len(records), asked, after=counted)]
    sides += readers_beside(tmp_path, stack, redis, records)
    compare(
        benchmark,
        f"Consumer.poll, {POLLED} a call" + (", each value looked at" if looks else ""),
        sync="",
        unit="records/s",
        sides=sides,
        rounds=ROUNDS,
    )


def readers_beside(directory: Path, stack: ExitStack, redis: RedisServer | None, records: Sequence[Pair]) -> list[Side]:
    """SQLite, LMDB and Redis, read through with their values, as tuples."""
    (directory / "sqlite").mkdir()
    sqlite = stack.enter_context(closing(SqliteStore(directory / "sqlite")))
    sqlite.append(list(records))

    def read_sqlite() -> None:
        cursor, count = sqlite._connection.execute("SELECT offset, key, value FROM log ORDER BY offset"), 0
        while rows := cursor.fetchmany(POLLED):
            count += len(rows)
        assert count == len(records)

    sides = [Side(f"SQLite SELECT, {POLLED} a fetch", read_sqlite, len(records))]
    if is_installed("lmdb"):
        (directory / "lmdb").mkdir()
        lmdb = stack.enter_context(closing(LmdbStore(directory / "lmdb", multi=True)))
        lmdb.append(list(records))

        def read_lmdb() -> None:
            count = 0
            with lmdb.reading() as transaction, transaction.cursor() as cursor:
                rest = iter(cursor)
                while rows := list(islice(rest, POLLED)):
                    count += len(rows)
            assert count == len(records)

        sides.append(Side("LMDB cursor", read_lmdb, len(records)))
    else:
        sides.append(Side.absent("LMDB cursor"))
    name = f"Redis XRANGE, {POLLED} a call"
    if redis is None:
        return [*sides, Side.absent(name)]
    stream = stack.enter_context(closing(RedisRecords(redis)))
    few = len(records) // 10
    for group in in_groups(records[:few], 1000):
        stream.append(group)

    def read_redis() -> None:
        count, last = 0, "-"
        while rows := stream.client.xrange(TOPIC, last, count=POLLED):
            count += len(rows)
            last = b"(" + rows[-1][0]
        assert count == few

    return [*sides, Side(name, read_redis, few)]


def cycling(library: str, queue: JobQueue, values: Sequence[bytes], asked: float | None = None) -> Side:
    """A queue that is worked with in all rounds; after each one it is empty, and everything came out."""
    sizes: list[int] = []
    whole = sum(map(len, values))

    def counted() -> None:
        assert sizes.pop() == whole
        assert queue.left() == 0

    return Side(library, lambda: sizes.append(queue.cycle(values)), len(values), asked, after=counted)


def bench_cycle(benchmark: BenchmarkFixture, tmp_path: Path, stack: ExitStack, redis: RedisServer | None) -> None:
    """Put, get and acknowledge one job after the other, by one thread; nothing of a single job is synced."""
    values = [value or b"" for _, value in pairs(0, by_size(benchmark, 20_000, 20))]
    few = values[: by_size(benchmark, 2000, 20)]

    def opened(name: str, opener: Callable[[Path], JobQueue]) -> JobQueue:
        (tmp_path / name).mkdir()
        return stack.enter_context(closing(opener(tmp_path / name)))

    (tmp_path / "logstore").mkdir()
    ours = LogstoreQueue(tmp_path / "logstore")
    stack.callback(ours.close)
    sides = [cycling("logstore", ours, values, 100_000)]
    found: list[tuple[str, str, Callable[[Path], JobQueue]]] = [
        ("persist-queue SQLiteAckQueue (OFF)", "persistqueue", PersistAckQueue),
        ("persist-queue FIFOSQLiteQueue (OFF)", "persistqueue", PersistFifoQueue),
        ("diskcache Deque (OFF, no ack)", "diskcache", DequeQueue),
        ("SQLite table (WAL, OFF)", "sqlite3", SqliteQueue),
        ("SQLite table (WAL, NORMAL)", "sqlite3", partial(SqliteQueue, sync="NORMAL")),
        ("LMDB (no sync)", "lmdb", LmdbQueue),
        ("litequeue (WAL, NORMAL)", "litequeue", LiteQueue),
    ]
    for number, (library, module, opener) in enumerate(found):
        if is_installed(module):
            share = values if module == "lmdb" else few
            sides.append(cycling(library, opened(f"peer-{number}", opener), share))
        else:
            sides.append(Side.absent(library))
    if redis is not None:
        sides.append(cycling("Redis Streams (no AOF)", opened("redis", lambda _: RedisQueue(redis)), few))
    else:
        sides.append(Side.absent("Redis Streams (no AOF)"))
    compare(
        benchmark,
        "work queue: put, get, ack, 1 thread",
        sync=NOT_SYNCED,
        unit="cycles/s",
        sides=sides,
        rounds=ROUNDS,
    )
    assert ours.acknowledged() == len(values) * len(sides[0].seconds)
