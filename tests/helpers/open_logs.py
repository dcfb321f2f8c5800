"""A log that is open in memory, and verbs on it: what producers, coordinators and leaders send, crashes, damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from logstore.config import LogConfig
from logstore.inspect import CheckOptions, Severity, check, resolve
from logstore.log import Log
from logstore.log.writing import Appended
from logstore.records import (
    BatchOptions,
    ControlType,
    EndTransactionMarker,
    Record,
    encode_batch,
    encode_end_transaction_batch,
)
from logstore.testing import CrashMode, ManualClock, MemoryFileSystem

PLACE = Path("/data/orders-0")
START = 1_700_000_000_000
SMALL = LogConfig(segment_bytes=600, index_interval_bytes=100, segment_index_bytes=96)
"""Several segments, and several index entries in each, after some dozen records."""


class Place:
    """A partition directory in memory, its clock, and what is open there."""

    def __init__(self, fs: MemoryFileSystem | None = None, *, now_ms: int = START) -> None:
        self.clock = ManualClock(now_ms)
        self.fs = fs or MemoryFileSystem(self.clock)
        self.fs.make_directory(PLACE.parent)
        self.fs.sync_directory(PLACE.parent.parent)

    def open(self, config: LogConfig | None = None, **options: Any) -> Log:
        return Log.open(PLACE, config, **{"fs": self.fs, "clock": self.clock, **options})

    def crashed(self, mode: CrashMode = "everything", seed: int = 0) -> Place:
        """The same after a power cut."""
        return Place(self.fs.crash(mode, seed), now_ms=self.clock.now_ms())

    def names(self, suffix: str = "") -> list[str]:
        """The files whose names end so."""
        return [name for name in self.fs.list(PLACE) if name.endswith(suffix)]

    def alarms(self, directory: Path) -> list[str]:
        """What `check` finds beyond notes; the log should be closed."""
        self.fs.export(directory)
        found = check(resolve(directory / PLACE.relative_to("/")), CheckOptions())
        return [str(one) for one in found if one.severity != Severity.NOTE]

    def flip(self, name: str, position: int) -> None:
        """Change a byte of a file of the log."""
        content = bytearray(self.fs.read_bytes(PLACE / name))
        content[position] ^= 0xFF
        self.fs.write_bytes(PLACE / name, content)


def values(log: Log, offset: int | None = None, **options: Any) -> list[bytes | None]:
    """The values of all records from an offset on."""
    return [record.value for record in log.records(offset, **options)]


def offsets(log: Log, offset: int | None = None, **options: Any) -> list[int]:
    return [record.offset for record in log.records(offset, **options)]


def bases(log: Log) -> list[int]:
    """The base offsets of the segments."""
    return list(log._state.segments.bases)


def fill(log: Log, count: int, *, first: int = 0, **options: Any) -> None:
    """Append records one by one; each has its number as its value."""
    for number in range(first, first + count):
        log.append([(b"k", b"%d" % number)], **options)


def from_producer(
    producer_id: int,
    sequence: int,
    count: int = 1,
    *,
    epoch: int = 0,
    transactional: bool = False,
    offset: int = 0,
    leader_epoch: int = -1,
    timestamp: int = START,
) -> bytearray:
    """A batch as an idempotent or transactional producer sends it, or at an `offset` as its leader has it."""
    options = BatchOptions(
        producer_id=producer_id,
        producer_epoch=epoch,
        base_sequence=sequence,
        is_transactional=transactional,
        leader_epoch=leader_epoch,
    )
    records = [(b"k", b"%d:%d" % (producer_id, sequence + number)) for number in range(count)]
    return encode_batch(records, base_offset=offset, timestamp=timestamp, options=options)


def from_leader(offset: int, count: int = 1, *, leader_epoch: int = 0, timestamp: int = START) -> bytearray:
    """A batch as a leader has numbered it."""
    records = [Record(offset + number, timestamp, None, b"%d" % (offset + number)) for number in range(count)]
    return encode_batch(records, base_offset=offset, options=BatchOptions(leader_epoch=leader_epoch))


def marker(
    producer_id: int,
    *,
    commit: bool,
    epoch: int = 0,
    coordinator_epoch: int = 0,
    offset: int = 0,
    leader_epoch: int = -1,
) -> bytearray:
    """A batch that ends a transaction."""
    control_type = ControlType.COMMIT if commit else ControlType.ABORT
    return encode_end_transaction_batch(
        EndTransactionMarker(control_type, coordinator_epoch),
        offset=offset,
        timestamp=START,
        producer_id=producer_id,
        producer_epoch=epoch,
        leader_epoch=leader_epoch,
    )


class Producer:
    """A transactional producer that counts its sequences."""

    def __init__(self, log: Log, producer_id: int, epoch: int = 0) -> None:
        self.log = log
        self.producer_id = producer_id
        self.epoch = epoch
        self.sequence = 0

    def send(self, count: int = 1, *, transactional: bool = True) -> Appended:
        batch = from_producer(
            self.producer_id, self.sequence, count, epoch=self.epoch, transactional=transactional,
            timestamp=self.log._state.clock.now_ms(),
        )  # fmt: skip
        self.sequence += count
        return self.log.append_batch(batch)

    def end(self, *, commit: bool, coordinator_epoch: int = 0) -> Appended:
        return self.log.end_transaction(
            self.producer_id, self.epoch, commit=commit, coordinator_epoch=coordinator_epoch
        )  # fmt: skip

    def commit(self) -> Appended:
        return self.end(commit=True)

    def abort(self) -> Appended:
        return self.end(commit=False)
