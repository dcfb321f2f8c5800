"""The cleaner's two walks over batches in memory: keys into the table, and what stays of them into a new buffer.

Keys of 12 bytes, drawn from a million, with values of 100 bytes; what a table of all of them leaves is a fifth. Both
walks check every CRC. The peer is the bare CRC-32C of the same batches, which neither walk can do without.
"""

from __future__ import annotations

import random
from functools import lru_cache

import crc32c
import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from workload import BATCH_BYTES, TIMESTAMP, pairs, records_per_batch

from logstore.records import FilterRule, KeyTable, MapEnd, encode_batch
from logstore.records.kernel import filter_plain_batches, map_plain_batches

KEYS, RECORDS = 1_000_000, 5_000_000
KEYS_WHEN_DISABLED, RECORDS_WHEN_DISABLED = 600, 3000
SEED = bytes(range(16))
READ_BYTES = 1 << 20
LIBRARIES = ("logstore", "crc32c alone")


@lru_cache(maxsize=1)
def make_batches(batch_bytes: int, keys: int, records: int) -> bytes:
    """Batches back to back, a millisecond between records."""
    choice, count, out = random.Random(1), records_per_batch(batch_bytes), bytearray()
    values = [value for _, value in pairs(0, count)]
    for base in range(0, records, count):
        drawn = (b"key-%08d" % choice.randrange(keys) for _ in range(count))
        items = [(key, value, TIMESTAMP + base + at) for at, (key, value) in enumerate(zip(drawn, values, strict=True))]
        out += encode_batch(items, base_offset=base, timestamp=TIMESTAMP)
    return bytes(out)


def make_table(keys: int) -> KeyTable:
    return KeyTable(bytearray(24 * 2 * keys), SEED)


def map_all(table: KeyTable, data: bytes) -> int:
    position = 0
    while position < len(data):
        end = min(position + READ_BYTES, len(data))
        position, _, _, _, status, _ = map_plain_batches(table, data, position, end, 0, 2**62)
        assert status in (MapEnd.END, MapEnd.INCOMPLETE)
    return table.count


def filter_all(table: KeyTable, data: bytes, out: bytearray, rule: FilterRule) -> int:
    position = kept = 0
    while position < len(data):
        end = min(position + READ_BYTES, len(data))
        position, _, _, counts, _ = filter_plain_batches(table, data, position, end, out, 0, rule)
        kept += counts.kept
    return kept


def checksum_all(data: bytes, batch_bytes: int) -> None:
    view = memoryview(data)
    for start in range(0, len(data), batch_bytes):
        crc32c.crc32c(view[start : start + batch_bytes])


@pytest.mark.parametrize("size", BATCH_BYTES)
@pytest.mark.parametrize("operation", ["map", "filter"])
@pytest.mark.parametrize("library", LIBRARIES)
def bench_cleaner(benchmark: BenchmarkFixture, library: str, operation: str, size: str) -> None:
    keys = KEYS_WHEN_DISABLED if benchmark.disabled else KEYS
    data = make_batches(BATCH_BYTES[size], keys, RECORDS_WHEN_DISABLED if benchmark.disabled else RECORDS)
    benchmark.group = f"cleaner, {operation} {size}"
    benchmark.extra_info.update(operation=operation, library=library, batch=size, bytes=len(data))
    if library != "logstore":
        benchmark(checksum_all, data, BATCH_BYTES[size])
    else:
        table = make_table(keys)
        found = map_all(table, data)
        assert 0.98 * keys < found <= keys
        if operation == "map":
            assert benchmark(map_all, table, data) == found
        else:
            rule = FilterRule(2**62, 0, 0, frozenset(), False)
            assert benchmark(filter_all, table, data, bytearray(2 * READ_BYTES), rule) == found
    if benchmark.stats is not None:
        benchmark.extra_info["gb_per_s"] = round(len(data) / benchmark.stats.stats.min / 1e9, 2)
