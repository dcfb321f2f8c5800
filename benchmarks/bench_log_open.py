"""Open a log: after a crash, after a clean close with many segments, and with few descriptors and little memory.

Everything lies in the page cache. Opening itself syncs: the directory, since the mark of the clean close goes, and in
recovery the files that it makes anew.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from peers import NeverSyncing, checksum_file, log_config
from pytest_benchmark.fixture import BenchmarkFixture
from side_by_side import Side, by_size, compare, note
from workload import BATCH_BYTES, TIMESTAMP, pairs, records_per_batch

from logstore.errors import DamagedLogError
from logstore.log.log import Log
from logstore.log.partition_state import CLEAN_CLOSE

SYNCS = "syncs as it opens"
RECOVERED_BYTES = 512 * 1000 * 1000
SEGMENT_MS = 1000
SEGMENT_RECORDS = 10
DESCRIPTORS = 1024
ROUNDS_OF_MEMORY = 5

pytestmark = pytest.mark.usefixtures("stack")  # removes the files

MEASURE = Path(__file__).with_name("measure_open.py")


class Opened:
    """A log that is opened once a round, timed, and closed again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.log: Log | None = None

    def unmark(self) -> None:
        """Make the next opening one after a crash."""
        (self._directory / CLEAN_CLOSE).unlink()

    def open(self) -> None:
        self.log = Log.open(self._directory, log_config())

    def close(self) -> None:
        assert self.log is not None
        self.log.close()


@pytest.mark.parametrize("size", BATCH_BYTES)
def bench_recover(benchmark: BenchmarkFixture, tmp_path: Path, size: str) -> None:
    """Open after a crash: the CRC of every batch of the one segment, and its indexes made anew."""
    assert_recovery_checks_crcs(tmp_path / "damaged")
    directory = tmp_path / "log"
    make_segment(directory, BATCH_BYTES[size], by_size(benchmark, RECOVERED_BYTES, 1_000_000))
    (segment,) = directory.glob("*.log")
    nbytes = segment.stat().st_size
    opened = Opened(directory)

    def close() -> None:
        assert opened.log is not None and opened.log.recovered is not None and not opened.log.recovered.was_clean
        opened.close()
        assert segment.stat().st_size == nbytes

    compare(
        benchmark,
        f"recover a segment of {nbytes / 1e6:.0f} MB, every CRC checked, batches of {size}",
        sync=SYNCS,
        unit="GB/s",
        sides=[
            Side("logstore", opened.open, nbytes, 3, before=opened.unmark, after=close),
            Side("read + crc32c", lambda: checksum_file(segment), nbytes),
        ],
        rounds=5,
    )


def bench_open_clean(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Open after a clean close: nothing is checked."""
    segments = by_size(benchmark, 1000, 50)
    make_segments(tmp_path / "log", segments)
    opened = Opened(tmp_path / "log")

    def close() -> None:
        assert opened.log is not None and opened.log.recovered is None
        assert opened.log.log_end_offset == segments * SEGMENT_RECORDS
        opened.close()

    compare(
        benchmark,
        f"open {segments:,} segments after a clean close",
        sync=SYNCS,
        unit="ms",
        sides=[Side("logstore", opened.open, 1, 100, after=close)],
        rounds=10,
    )


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not say what is anonymous memory")
@pytest.mark.parametrize("segments", [1, 1000])
def bench_memory(benchmark: BenchmarkFixture, tmp_path: Path, segments: int) -> None:
    """By how much the anonymous memory of a process grows that opens a log; the round's time is the whole process."""
    count = by_size(benchmark, segments, min(segments, 20))
    make_segments(tmp_path / "log", count)
    found: list[dict[str, Any]] = []

    def measure() -> None:
        found.append(in_a_process("memory", tmp_path / "log"))

    benchmark.pedantic(measure, rounds=by_size(benchmark, ROUNDS_OF_MEMORY, 1))
    grown = [one["after_kib"] - one["before_kib"] for one in found]
    note(
        benchmark,
        f"anonymous memory of an open log of {count:,} segment{'s' if count > 1 else ''}",
        sync=SYNCS,
        unit="KiB",
        ours={"library": "logstore", "best": min(grown), "median": median(grown), "asked": 1024},
        judged="median",
    )


def bench_read_many_segments(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Open a log of many segments and read through it in a process that may have 1,024 descriptors."""
    segments = by_size(benchmark, 5000, 1100)
    make_segments(tmp_path / "log", segments)
    found: list[dict[str, Any]] = []

    def measure() -> None:
        found.append(in_a_process("read", tmp_path / "log", DESCRIPTORS))

    benchmark.pedantic(measure, rounds=by_size(benchmark, 3, 1))
    assert {one["records"] for one in found} == {segments * SEGMENT_RECORDS}
    milliseconds = [(one["open_s"] + one["read_s"]) * 1000 for one in found]
    note(
        benchmark,
        f"open and read {segments:,} segments, at most {DESCRIPTORS:,} descriptors",
        sync=SYNCS,
        unit="ms",
        ours={"library": "logstore", "best": min(milliseconds), "median": median(milliseconds), "asked": None},
    )


def in_a_process(*arguments: object) -> dict[str, Any]:
    """What measure_open.py says."""
    command = [sys.executable, str(MEASURE), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def make_segment(directory: Path, batch_bytes: int, size: int) -> None:
    """A log of one segment of about `size` bytes, closed cleanly."""
    batch = pairs(0, records_per_batch(batch_bytes))
    with Log.open(directory, log_config()) as log:
        for number in range(max(1, size // batch_bytes)):
            log.append(batch, timestamp=TIMESTAMP + number)


def make_segments(directory: Path, segments: int) -> None:
    """A log of so many segments with one small batch each, closed cleanly."""
    records = pairs(0, SEGMENT_RECORDS)
    with Log.open(directory, log_config(segment_ms=SEGMENT_MS), fs=NeverSyncing()) as log:
        for number in range(segments):
            log.append(records, timestamp=TIMESTAMP + number * 2 * SEGMENT_MS)
    assert len(list(directory.glob("*.log"))) == segments


def assert_recovery_checks_crcs(directory: Path) -> None:
    """What is timed would be worth nothing if it believed what it reads."""
    make_segment(directory, BATCH_BYTES["16KiB"], 100_000)
    (segment,) = directory.glob("*.log")
    (directory / CLEAN_CLOSE).unlink()
    with segment.open("r+b") as file:
        file.seek(1000)
        byte = file.read(1)[0]
        file.seek(1000)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(DamagedLogError):
        Log.open(directory, log_config())
