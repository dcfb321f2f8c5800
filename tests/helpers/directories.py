"""Small directories as a broker leaves them, made for one test, and verbs that damage them.

A partition gets what Kafka writes beside its batches: an entry in both indexes for each append but a segment's first, a
time index entry and a snapshot at each roll and at the end, aborted transactions, leader epochs.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from logstore.inspect import CheckOptions, Finding, Severity, check, resolve
from logstore.log import AbortedTransaction, ProducerSnapshot
from logstore.records import (
    BatchOptions,
    ControlType,
    EndTransactionMarker,
    RecordBatch,
    encode_batch,
    encode_end_transaction_batch,
    iter_batches,
)

START = 1_700_000_000_000
LOG_DIRECTORY_FILES = ("recovery-point-offset-checkpoint", "replication-offset-checkpoint")


class Partition:
    """A partition directory that is being written, one segment after the other."""

    def __init__(self, path: Path, *, first_offset: int = 0) -> None:
        path.mkdir(parents=True)
        self.path = path
        self.next_offset = self._base_offset = first_offset
        self._open: dict[int, int] = {}
        self._epoch_starts: dict[int, int] = {}
        (path / "partition.metadata").write_text("version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAQ\n")
        self._begin()

    @property
    def log(self) -> Path:
        """The segment that is being written."""
        return self._file("log")

    @property
    def batches(self) -> list[RecordBatch]:
        """All batches so far."""
        return [batch for log in sorted(self.path.glob("*.log")) for batch in batches_of(log)]

    @property
    def open_transactions(self) -> list[int]:
        """Producers with a transaction that has not ended."""
        return sorted(self._open)

    def append(self, *records: Any, options: BatchOptions | None = None, leader_epoch: int = 0) -> RecordBatch:
        """Append one batch; a record is a value, or what `encode_batch` takes."""
        given = [one if isinstance(one, tuple) else (None, one) for one in records]
        batch = encode_batch(
            given, base_offset=self.next_offset, timestamp=START + self.next_offset, options=options or BatchOptions()
        )
        batch[12:16] = leader_epoch.to_bytes(4, "big")
        return self.append_bytes(batch)

    def append_bytes(self, data: bytes | bytearray) -> RecordBatch:
        """Append one batch as it is."""
        batch = next(iter(iter_batches(bytes(data), verify=False)))
        position = self.log.stat().st_size
        if batch.header.max_timestamp > self._largest[0]:
            self._largest = (batch.header.max_timestamp, batch.last_offset)
        append_bytes(self.log, data)
        if position:
            entry = (batch.last_offset - self._base_offset).to_bytes(4, "big") + position.to_bytes(4, "big")
            append_bytes(self._file("index"), entry)
            self._index_time()
        self.next_offset = batch.next_offset
        if batch.header.leader_epoch >= 0:
            self._epoch_starts.setdefault(batch.header.leader_epoch, batch.header.base_offset)
        if batch.is_transactional and not batch.is_control:
            self._open.setdefault(batch.header.producer_id, batch.header.base_offset)
        return batch

    def append_transactional(self, producer_id: int, *records: Any) -> RecordBatch:
        """Append one batch to a transaction, which it begins if there is none."""
        options = BatchOptions(producer_id=producer_id, producer_epoch=0, base_sequence=0, is_transactional=True)
        return self.append(*records, options=options)

    def end_transaction(self, producer_id: int, how: ControlType) -> RecordBatch:
        """Append the marker that ends a transaction."""
        first, offset = self._open.pop(producer_id), self.next_offset
        marker = encode_end_transaction_batch(
            EndTransactionMarker(how, 0), offset=offset, timestamp=START + offset, producer_id=producer_id,
            producer_epoch=0, leader_epoch=0,
        )  # fmt: skip
        batch = self.append_bytes(marker)
        if how == ControlType.ABORT:
            stable = min(self._open.values(), default=offset + 1)
            append_bytes(self._file("txnindex"), AbortedTransaction(producer_id, first, offset, stable).encode())
        return batch

    def roll(self) -> Partition:
        """Close the segment and begin the next."""
        self._index_time()
        self._base_offset = self.next_offset
        self._snapshot()
        self._begin()
        return self

    def close(self) -> Path:
        """Write what a clean shutdown writes."""
        self._index_time()
        self._snapshot()
        entries = sorted(self._epoch_starts.items())
        lines = [0, len(entries), *(f"{epoch} {start}" for epoch, start in entries)]
        (self.path / "leader-epoch-checkpoint").write_text("".join(f"{line}\n" for line in lines))
        return self.path

    def _begin(self) -> None:
        self._largest = self._indexed = (-1, self._base_offset)
        for extension in ("log", "index", "timeindex"):
            self._file(extension).touch()

    def _file(self, extension: str) -> Path:
        return self.path / f"{self._base_offset:020d}.{extension}"

    def _index_time(self) -> None:
        if self._largest[0] > self._indexed[0]:
            self._indexed = self._largest
            timestamp, offset = self._largest
            entry = timestamp.to_bytes(8, "big") + (offset - self._base_offset).to_bytes(4, "big")
            append_bytes(self._file("timeindex"), entry)

    def _snapshot(self) -> None:
        (self.path / f"{self.next_offset:020d}.snapshot").write_bytes(ProducerSnapshot().encode())


class LogDirectory:
    """A log directory of such partitions."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._partitions: list[Partition] = []

    def partition(self, name: str, *, first_offset: int = 0) -> Partition:
        """Begin a partition."""
        self._partitions.append(Partition(self.path / name, first_offset=first_offset))
        return self._partitions[-1]

    def close(self, *, is_clean: bool = True, log_starts: dict[str, int] | None = None) -> Path:
        """Write the checkpoints, and the mark of a clean shutdown."""
        for one in self._partitions:
            one.close()
        ends = {one.path.name: one.next_offset for one in self._partitions}
        for name in LOG_DIRECTORY_FILES:
            write_checkpoint(self.path / name, ends)
        write_checkpoint(self.path / "log-start-offset-checkpoint", log_starts or {})
        write_checkpoint(self.path / "cleaner-offset-checkpoint", {})
        (self.path / "meta.properties").write_text("#\nversion=1\ncluster.id=c\nnode.id=1\n")
        if is_clean:
            (self.path / ".kafka_cleanshutdown").write_text('{"version":0,"brokerEpoch":1}')
        return self.path


def write_checkpoint(path: Path, offsets: dict[str, int]) -> None:
    """Write an offset checkpoint; partitions are given as their directories are named."""
    entries = ["{} {} {}".format(*name.rsplit("-", 1), offset) for name, offset in offsets.items()]
    path.write_text("".join(f"{line}\n" for line in (0, len(entries), *entries)))


# ---------------------------------------------------------------- verbs


def append_bytes(path: Path, data: bytes | bytearray) -> None:
    with open(path, "ab") as file:
        file.write(data)


def overwrite(path: Path, position: int, data: bytes) -> None:
    """Replace bytes in place."""
    with open(path, "r+b") as file:
        file.seek(position)
        file.write(data)


def flip_bit(path: Path, position: int, bit: int) -> None:
    byte = path.read_bytes()[position]
    overwrite(path, position, bytes([byte ^ 1 << bit]))


def insert(path: Path, position: int, data: bytes) -> None:
    """Put bytes between others."""
    content = path.read_bytes()
    path.write_bytes(content[:position] + data + content[position:])


def shorten(path: Path, size: int) -> None:
    """Cut a file to its first `size` bytes."""
    with open(path, "r+b") as file:
        file.truncate(size)


def copied(source: Path, into: Path) -> Path:
    """A copy of a file or directory, by the same name in another directory."""
    into.mkdir(parents=True, exist_ok=True)
    place = into / source.name
    if source.is_dir():
        shutil.copytree(source, place)
    else:
        shutil.copy(source, place)
    return place


def batches_of(log: Path) -> list[RecordBatch]:
    """The batches of an intact log."""
    return list(iter_batches(log.read_bytes()))


# ---------------------------------------------------------------- what a check says


def findings(path: Path, **options: Any) -> list[Finding]:
    """All that `check` finds."""
    return list(check(resolve(path), CheckOptions(**options)))


def alarms(path: Path) -> list[Finding]:
    """What `check` finds beyond notes."""
    return [one for one in findings(path) if one.severity != Severity.NOTE]


def codes(found: Iterable[Finding]) -> set[str]:
    return {one.code for one in found}


def values(count: int, size: int = 8) -> Sequence[bytes]:
    """Distinct values."""
    return [b"%0*d" % (size, number) for number in range(count)]
