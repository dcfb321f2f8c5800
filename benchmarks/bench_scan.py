"""Walk a file that lies in the page cache batch by batch and check every CRC.

The peer is the bare CRC-32C of the same bytes in one call: what no scanner that checks them can beat by much.
"""

from __future__ import annotations

import mmap
from pathlib import Path

import crc32c
import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from workload import BATCH_BYTES, TIMESTAMP, pairs, records_per_batch

from logstore.log import RecordFile
from logstore.records import encode_batch

FILE_BYTES = 256 * 1024 * 1024
FILE_BYTES_WHEN_DISABLED = 1024 * 1024
LIBRARIES = ("logstore", "crc32c alone")


def write_log(path: Path, batch_bytes: int, file_bytes: int) -> int:
    """Fill `path` with copies of one batch, renumbered: base offsets are not under the CRC. Returns how many."""
    count = records_per_batch(batch_bytes)
    batch = encode_batch(pairs(0, count), base_offset=0, timestamp=TIMESTAMP)
    batches = file_bytes // len(batch)
    with path.open("wb") as file:
        for number in range(batches):
            batch[0:8] = (number * count).to_bytes(8, "big")
            file.write(batch)
    return batches


def walk(path: Path) -> int:
    with RecordFile(path) as file:
        return sum(1 for _ in file.batches())


def checksum(path: Path) -> int:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        return crc32c.crc32c(mapped)


@pytest.mark.parametrize("size", BATCH_BYTES)
@pytest.mark.parametrize("library", LIBRARIES)
def bench_scan(benchmark: BenchmarkFixture, tmp_path: Path, library: str, size: str) -> None:
    path = tmp_path / "00000000000000000000.log"
    batches = write_log(path, BATCH_BYTES[size], FILE_BYTES_WHEN_DISABLED if benchmark.disabled else FILE_BYTES)
    nbytes = path.stat().st_size
    benchmark.group = f"scan {size}"
    benchmark.extra_info.update(operation="scan", library=library, batch=size, bytes=nbytes)
    if library == "logstore":
        assert benchmark(walk, path) == batches
    else:
        benchmark(checksum, path)
    if benchmark.stats is not None:
        benchmark.extra_info["gb_per_s"] = round(nbytes / benchmark.stats.stats.min / 1e9, 2)
