"""Encode and decode one batch, beside aiokafka's compiled codec in the same run.

Both encoders get the same list of distinct (key, value) pairs and one timestamp, and their record bytes must be equal.
Both decoders make one object a record with its key and value, with the CRC of the batch checked and, to tell the two
costs apart, without. Nothing here touches a file.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from workload import BATCH_BYTES, HEADER_SIZE, TIMESTAMP, Pair, pairs, records_per_batch

from logstore.records import decode, encode_batch

LIBRARIES = ("logstore", "aiokafka")


def aiokafka_codec() -> ModuleType:
    """aiokafka's record batches; skips when they are not installed, fails when they are not compiled."""
    codec: ModuleType = pytest.importorskip(
        "aiokafka.record.default_records", reason="the peer aiokafka is not installed (extra `bench`)"
    )
    compiled = importlib.import_module("aiokafka.record._crecords.default_records")
    assert codec.DefaultRecordBatchBuilder is compiled.DefaultRecordBatchBuilder, "aiokafka runs without its extension"
    assert codec.DefaultRecordBatch is compiled.DefaultRecordBatch, "aiokafka runs without its extension"
    return codec


def encode_by_aiokafka(builder_class: Any, records: list[Pair]) -> bytearray:
    builder = builder_class(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 30,
    )
    append = builder.append
    for offset, (key, value) in enumerate(records):
        append(offset, TIMESTAMP, key, value, [])
    encoded: bytearray = builder.build()
    return encoded


def decode_by_aiokafka(batch_class: Any, encoded: bytes, *, verify: bool) -> list[Any]:
    batch = batch_class(encoded)
    if verify:
        assert batch.validate_crc()
    return list(batch)


@pytest.mark.parametrize("size", BATCH_BYTES)
@pytest.mark.parametrize("library", LIBRARIES)
def bench_encode(benchmark: BenchmarkFixture, library: str, size: str) -> None:
    records = pairs(0, records_per_batch(BATCH_BYTES[size]))
    ours = encode_batch(records, base_offset=0, timestamp=TIMESTAMP)
    describe(benchmark, "encode", library, size, len(records), len(ours))
    if library == "logstore":
        benchmark(encode_batch, records, base_offset=0, timestamp=TIMESTAMP)
    else:
        theirs = benchmark(encode_by_aiokafka, aiokafka_codec().DefaultRecordBatchBuilder, records)
        assert bytes(ours[HEADER_SIZE:]) == bytes(theirs[HEADER_SIZE:])


@pytest.mark.parametrize("size", BATCH_BYTES)
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("verify", [True, False], ids=["crc", "no-crc"])
def bench_decode(benchmark: BenchmarkFixture, verify: bool, library: str, size: str) -> None:
    records = pairs(0, records_per_batch(BATCH_BYTES[size]))
    encoded = bytes(encode_batch(records, base_offset=0, timestamp=TIMESTAMP))
    describe(benchmark, "decode" if verify else "decode, no CRC", library, size, len(records), len(encoded))
    if library == "logstore":
        decoded = benchmark(decode, encoded, verify=verify)
    else:
        batch_class = aiokafka_codec().DefaultRecordBatch
        decoded = benchmark(decode_by_aiokafka, batch_class, encoded, verify=verify)
    assert [(record.key, record.value) for record in decoded] == records


def describe(benchmark: BenchmarkFixture, operation: str, library: str, size: str, records: int, nbytes: int) -> None:
    """Say what one round does, for the table of ratios."""
    benchmark.group = f"{operation} {size}"
    benchmark.extra_info.update(operation=operation, library=library, batch=size, records=records, bytes=nbytes)
