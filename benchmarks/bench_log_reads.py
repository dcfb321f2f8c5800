"""Read a log that lies in the page cache: all records, all bytes, one record, the offset of a time. Nothing is synced.

Uncompressed batches. LMDB holds the same pairs by key and is asked for keys that are made beforehand; it has no CRCs.
The log checks them as it iterates over records; where one record or plain slices are asked for, it does not.
"""

from __future__ import annotations

import random
from collections import deque
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from peers import LmdbStore, checksum_file, is_installed, log_config
from pytest_benchmark.fixture import BenchmarkFixture
from side_by_side import NOT_SYNCED, Side, by_size, compare
from workload import BATCH_BYTES, TIMESTAMP, Pair, pairs, records_per_batch

from logstore.log.log import Log
from logstore.records import iter_batches

RECORDS = 500_000
RECORDS_WHEN_DISABLED = 3000
SCANNED_BYTES = 256 * 1024 * 1024
SEGMENT_BYTES = 8 << 20  # several of them, for a seek to have to find the right one


def make_log(directory: Path, records: list[Pair], batch_bytes: int, **settings: Any) -> Log:
    """A log of these records in batches of about this size, a millisecond after each other."""
    log = Log.open(directory, log_config(**settings))
    count = records_per_batch(batch_bytes)
    for number, first in enumerate(range(0, len(records), count)):
        log.append(records[first : first + count], timestamp=TIMESTAMP + number)
    return log


def make_lmdb(directory: Path, records: list[Pair]) -> LmdbStore:
    directory.mkdir()
    store = LmdbStore(directory, multi=True)
    store.append(records)
    return store


@pytest.mark.parametrize("size", BATCH_BYTES)
def bench_read_records(benchmark: BenchmarkFixture, tmp_path: Path, stack: ExitStack, size: str) -> None:
    """All records as objects, beside the (key, value) pairs of a cursor."""
    records = pairs(0, by_size(benchmark, RECORDS, RECORDS_WHEN_DISABLED))
    log = stack.enter_context(make_log(tmp_path / "logstore", records, BATCH_BYTES[size]))
    assert [(record.key, record.value) for record in log.records(0)] == records

    def read_log() -> None:
        deque(log.records(0), maxlen=0)

    sides = [Side("logstore", read_log, len(records))]
    if is_installed("lmdb"):
        store = stack.enter_context(closing(make_lmdb(tmp_path / "lmdb", records)))

        def read_lmdb() -> None:
            with store.reading() as transaction, transaction.cursor() as cursor:
                deque(cursor, maxlen=0)

        sides.append(Side("LMDB cursor", read_lmdb, len(records), 1.5))
    else:
        sides.append(Side.absent("LMDB cursor", 1.5))
    compare(
        benchmark,
        f"read all as objects, every CRC checked, batches of {size}",
        sync=NOT_SYNCED,
        unit="records/s",
        sides=sides,
        rounds=10,
    )


@pytest.mark.parametrize("size", BATCH_BYTES)
def bench_read_slices(benchmark: BenchmarkFixture, tmp_path: Path, stack: ExitStack, size: str) -> None:
    """All bytes as they lie there, the CRC of every batch checked, beside the bare CRC of a file that is read."""
    batch = pairs(0, records_per_batch(BATCH_BYTES[size]))
    directory = tmp_path / "logstore"
    log = stack.enter_context(Log.open(directory, log_config()))
    (segment,) = directory.glob("*.log")
    batches = 0
    while segment.stat().st_size < by_size(benchmark, SCANNED_BYTES, 1 << 20):
        log.append(batch, timestamp=TIMESTAMP + batches)
        batches += 1
    nbytes = segment.stat().st_size

    def check_all() -> int:
        return sum(sum(1 for _ in iter_batches(piece, verify=True)) for piece in log.slices(0))

    assert check_all() == batches
    compare(
        benchmark,
        f"read slices, every CRC checked, batches of {size}",
        sync=NOT_SYNCED,
        unit="GB/s",
        sides=[
            Side("logstore", check_all, nbytes, 5),
            Side("read + crc32c", lambda: checksum_file(segment), nbytes),
        ],
        rounds=10,
    )


def bench_read_one(benchmark: BenchmarkFixture, tmp_path: Path, stack: ExitStack) -> None:
    """Single records by offset, at random."""
    records = pairs(0, by_size(benchmark, RECORDS, RECORDS_WHEN_DISABLED))
    log = stack.enter_context(make_log(tmp_path / "logstore", records, BATCH_BYTES["16KiB"]))
    chosen = random.Random(1).choices(range(len(records)), k=by_size(benchmark, 20_000, 200))
    found = [log.get(offset) for offset in chosen]
    assert [record and (record.key, record.value) for record in found] == [records[offset] for offset in chosen]

    def read_log() -> None:
        get = log.get
        for offset in chosen:
            get(offset)

    sides = [Side("logstore", read_log, len(chosen), 200_000)]
    if is_installed("lmdb"):
        store = stack.enter_context(closing(make_lmdb(tmp_path / "lmdb", records)))
        keys = [records[offset][0] for offset in chosen]

        def read_lmdb() -> None:
            with store.reading() as transaction:
                get = transaction.get
                for key in keys:
                    get(key)

        sides.append(Side("LMDB get", read_lmdb, len(chosen)))
    else:
        sides.append(Side.absent("LMDB get"))
    compare(
        benchmark,
        "read one by offset, no CRC checked, batches of 16KiB",
        sync=NOT_SYNCED,
        unit="reads/s",
        sides=sides,
        rounds=10,
    )


def bench_seek_time(benchmark: BenchmarkFixture, tmp_path: Path, stack: ExitStack) -> None:
    """The first record at or after a time, at random."""
    records = pairs(0, by_size(benchmark, RECORDS, RECORDS_WHEN_DISABLED))
    batch_bytes = BATCH_BYTES["16KiB"]
    log = stack.enter_context(make_log(tmp_path / "logstore", records, batch_bytes, segment_bytes=SEGMENT_BYTES))
    count = records_per_batch(batch_bytes)
    batches = -(-len(records) // count)
    chosen = random.Random(1).choices(range(batches), k=by_size(benchmark, 2000, 50))
    for number in chosen[:20]:
        found = log.offset_for_time(TIMESTAMP + number)
        assert found is not None and found.offset == number * count

    def seek() -> None:
        offset_for_time = log.offset_for_time
        for number in chosen:
            offset_for_time(TIMESTAMP + number)

    compare(
        benchmark,
        "seek by time, batches of 16KiB",
        sync=NOT_SYNCED,
        unit="µs",
        sides=[Side("logstore", seek, len(chosen), 50)],
        rounds=10,
    )
