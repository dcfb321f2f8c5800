"""Partition directories in memory that nobody has open: written without a log, damaged, opened, and looked at."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from by_hand import message

from logstore import names
from logstore.config import LogConfig
from logstore.fs import File, StrPath
from logstore.inspect import CheckOptions, Severity, check, resolve
from logstore.log import Log, TransactionIndex
from logstore.records import (
    BatchOptions,
    ControlType,
    EndTransactionMarker,
    encode_batch,
    encode_end_transaction_batch,
    iter_batches,
)
from logstore.testing import CrashMode, ManualClock, MemoryFileSystem, Operation, SimulatedCrash

LOG_DIRECTORY = Path("/data")
PLACE = LOG_DIRECTORY / "orders-0"
START = 1_700_000_000_000
SMALL = LogConfig(segment_bytes=10_000, index_interval_bytes=100, segment_index_bytes=240, file_delete_delay_ms=0)
"""Indexes with several entries, and segments that end only where a test says so."""


class Disk:
    """A file system with one partition directory on it; what the verbs write is durable."""

    def __init__(self, fs: MemoryFileSystem | None = None) -> None:
        self.fs = fs or MemoryFileSystem(ManualClock(START))
        if fs is None:
            self.fs.make_directory(PLACE)
            self.sync()

    def sync(self) -> None:
        for directory in ("/", LOG_DIRECTORY, PLACE):
            self.fs.sync_directory(directory)

    def copy(self, mode: CrashMode = "everything", seed: int = 0) -> Disk:
        """What there is after a power cut."""
        return Disk(self.fs.crash(mode, seed))

    # ---- files

    def path(self, name: str) -> Path:
        """Where a file of the partition is; `../name` is one of its log directory."""
        return LOG_DIRECTORY / name.removeprefix("../") if name.startswith("../") else PLACE / name

    def write(self, name: str, data: bytes | bytearray | str) -> Self:
        self.fs.write_bytes(self.path(name), data.encode() if isinstance(data, str) else data)
        return self

    def read(self, name: str) -> bytes:
        return self.fs.read_bytes(self.path(name))

    def add(self, name: str, data: bytes) -> Self:
        """Write behind what a file holds."""
        return self.write(name, self.read(name) + data)

    def flip(self, name: str, position: int) -> Self:
        """Change one byte."""
        data = bytearray(self.read(name))
        data[position] ^= 0xFF
        return self.write(name, data)

    def remove(self, *endings: str) -> Self:
        """Remove the files whose names end so."""
        for name in self.names(*endings):
            self.fs.unlink(PLACE / name)
        self.sync()
        return self

    def rename(self, old: str, new: str) -> Self:
        self.fs.rename(PLACE / old, PLACE / new)
        self.sync()
        return self

    def exists(self, name: str) -> bool:
        return self.fs.exists(self.path(name))

    def names(self, *endings: str) -> list[str]:
        """The files whose names end so; without dot-files if nothing is asked for."""
        found = self.fs.list(PLACE)
        return [name for name in found if (name.endswith(endings) if endings else not name.startswith("."))]

    def files(self) -> dict[str, bytes]:
        """All that Kafka would see in the partition directory, with its content."""
        return {name: self.read(name) for name in self.names() if not self.fs.is_directory(PLACE / name)}

    def asides(self) -> dict[str, bytes]:
        """What was kept aside."""
        return {name: self.read(name) for name in self.names(".aside")}

    def offsets_of(self, ending: str) -> list[int]:
        """The offsets in the names of the files that end so."""
        return [int(name.partition(".")[0]) for name in self.names(ending) if not name.startswith(".")]

    # ---- marks

    def state(self, recovery_point: int, log_start_offset: int = 0) -> Self:
        """Say what is on disk, as an open log does."""
        text = f"0\n2\nrecovery_point {recovery_point}\nlog_start_offset {log_start_offset}\n"
        return self.write(".logstore-state", text)

    def unclean(self, recovery_point: int | None = None, log_start_offset: int = 0) -> Self:
        """Take the mark of a clean close away, and let the recovery point be this; None when nobody is to know it."""
        self.remove(".logstore-clean", *([".logstore-state"] if recovery_point is None else []))
        return self if recovery_point is None else self.state(recovery_point, log_start_offset)

    def broker(
        self, *, is_clean: bool = False, recovery_point: int | None = None, log_start: int | None = None
    ) -> Self:
        """Let the directory above be a broker's log directory."""
        self.write("../meta.properties", "version=1\nnode.id=1\ncluster.id=c\n")
        offsets = {names.RECOVERY_POINT_CHECKPOINT: recovery_point, names.LOG_START_CHECKPOINT: log_start}
        for name, offset in offsets.items():
            self.write(f"../{name}", "0\n0\n" if offset is None else f"0\n1\norders 0 {offset}\n")
        return self.write(f"../{names.CLEAN_SHUTDOWN}", '{"version":0,"brokerEpoch":7}') if is_clean else self

    # ---- logs

    def open(self, config: LogConfig = SMALL, **options: Any) -> Log:
        return Log.open(PLACE, config, **{"fs": self.fs, "clock": ManualClock(START), **options})

    def settle(self, config: LogConfig = SMALL, **options: Any) -> Self:
        """Open and close it cleanly, so that it has all that belongs to a log."""
        self.open(config, **options).close()
        self.sync()
        return self

    def aborted(self, base_offset: int) -> list[tuple[int, ...]]:
        """The entries of a transaction index: producer, first and last offset, last stable offset."""
        name = names.transaction_index_file_name(base_offset)
        data = self.read(name) if self.exists(name) else b""
        return [tuple(one) for one in TransactionIndex(data, base_offset)]

    def alarms(self, *but: str) -> list[str]:
        """What `check` finds beyond notes and these."""
        with tempfile.TemporaryDirectory(prefix="logstore-stored-") as directory:
            self.fs.export(directory)
            found = list(check(resolve(Path(directory) / PLACE.relative_to("/")), CheckOptions()))
        return [str(one) for one in found if one.severity != Severity.NOTE and one.code not in but]


class Writing:
    """Log files that are being written, batch by batch; `save` puts them on a disk, with nothing beside them."""

    def __init__(self, first_offset: int = 0) -> None:
        self.next_offset = first_offset
        self._segments = {first_offset: bytearray()}
        self._sequences: dict[int, int] = {}

    def put(self, batch: bytes | bytearray) -> Self:
        """Write a batch as it is."""
        self._segments[max(self._segments)] += batch
        self.next_offset = list(iter_batches(bytes(batch)))[-1].next_offset
        return self

    def plain(self, count: int = 1, *, leader_epoch: int = 0, size: int = 4) -> Self:
        """Write a batch; each value is its offset."""
        records = [(b"k", b"%0*d" % (size, self.next_offset + number)) for number in range(count)]
        options = BatchOptions(leader_epoch=leader_epoch)
        return self.put(
            encode_batch(
                records, base_offset=self.next_offset, timestamp=START + 10 * self.next_offset, options=options
            )
        )

    def produce(
        self, producer: int, count: int = 1, *, is_transactional: bool = True, leader_epoch: int = 0, epoch: int = 0
    ) -> Self:
        """Write a batch of a producer."""
        sequence = self._sequences.get(producer, 0)
        self._sequences[producer] = sequence + count
        options = BatchOptions(
            producer_id=producer, producer_epoch=epoch, base_sequence=sequence, is_transactional=is_transactional,
            leader_epoch=leader_epoch,
        )  # fmt: skip
        records = [(b"k", b"%d" % (self.next_offset + number)) for number in range(count)]
        return self.put(
            encode_batch(
                records, base_offset=self.next_offset, timestamp=START + 10 * self.next_offset, options=options
            )
        )

    def end(
        self, producer: int, *, commit: bool = False, epoch: int = 0, coordinator_epoch: int = 0, leader_epoch: int = 0
    ) -> Self:
        """Write the marker that ends a transaction."""
        kind = ControlType.COMMIT if commit else ControlType.ABORT
        return self.put(
            encode_end_transaction_batch(
                EndTransactionMarker(kind, coordinator_epoch), offset=self.next_offset,
                timestamp=START + 10 * self.next_offset, producer_id=producer, producer_epoch=epoch,
                leader_epoch=leader_epoch,
            )
        )  # fmt: skip

    def old(self, magic: int, size: int = 4) -> Self:
        """Write a message of an old format; one of v0 has no time."""
        timestamp = START + 10 * self.next_offset
        return self.put(
            message(magic, b"k", b"%0*d" % (size, self.next_offset), offset=self.next_offset, timestamp=timestamp)
        )

    def roll(self, base_offset: int | None = None) -> Self:
        """Begin the next segment."""
        self.next_offset = self.next_offset if base_offset is None else base_offset
        self._segments[self.next_offset] = bytearray()
        return self

    def save(self, disk: Disk | None = None) -> Disk:
        """Put the log files on a disk, a new one if none is given."""
        disk = disk or Disk()
        for base, data in self._segments.items():
            disk.write(names.log_file_name(base), data)
        return disk


def segments(count: int = 3, batches: int = 4) -> Writing:
    """So many segments of so many batches of two records."""
    writing = Writing()
    for number in range(count):
        if number:
            writing.roll()
        for _ in range(batches):
            writing.plain(2)
    return writing


def interleaved(roll_at: tuple[int, ...] = ()) -> Writing:
    """Transactions of four producers, as one test of Kafka's writes them, up to offset 89; segments begin at `roll_at`.

    Aborted are that of producer 1, of the offsets 0 to 29, and that of producer 2, of 8 to 74.
    """
    writing = Writing()
    steps: list[tuple[int, int]] = [
        (1, 5), (0, 3), (2, 2), (1, 4), (3, 3), (0, 2), (1, 10), (-1, 0), (2, 6), (4, 3), (0, 10), (3, 9), (-3, 1),
        (4, 8), (2, 7), (-2, 0), (0, 10), (4, 4), (-4, 1),
    ]  # fmt: skip
    for producer, count in steps:
        if writing.next_offset in roll_at:
            writing.roll()
        if producer == 0:
            writing.plain(count)
        elif producer < 0:
            writing.end(-producer, commit=bool(count))
        else:
            writing.produce(producer, count)
    return writing


ABORTED = [(1, 0, 29, 8), (2, 8, 74, 36)]
"""What the transaction indexes of `interleaved` say."""


def offsets(log: Log, **options: Any) -> list[int]:
    return [record.offset for record in log.records(**options)]


def values(log: Log, **options: Any) -> list[bytes | None]:
    return [record.value for record in log.records(**options)]


def outcome(log: Log) -> dict[str, Any]:
    """What a log tells of itself; equal for logs that hold the same."""
    return {
        "offsets": offsets(log),
        "start": log.log_start_offset,
        "end": log.log_end_offset,
        "epochs": tuple(log.leader_epochs.entries),
        "producers": tuple(sorted(log._state.producers.active_producers())),
        "stable": log.last_stable_offset,
        "bases": log._state.segments.bases,
    }


def watch(disk: Disk) -> list[str]:
    """The names of the files that are opened from now on."""
    opened: list[str] = []
    plain = disk.fs.open

    def opening(path: StrPath, **options: bool) -> File:
        opened.append(Path(path).name)
        return plain(path, **options)

    disk.fs.open = opening  # type: ignore[assignment, method-assign]
    return opened


def operations_of(disk: Disk, act: Callable[[Disk], object]) -> list[Operation]:
    """What `act` does to a disk."""
    found: list[Operation] = []
    disk.fs.fail_on(lambda one: bool(found.append(one)), OSError())
    act(disk)
    disk.fs.heal()
    return found


def crash_points(disk: Disk, act: Callable[[Disk], object]) -> Iterator[tuple[int, Disk]]:
    """Run `act` on copies of a disk, and stop it at each of its operations in turn; number and disk each time."""
    for stop_at in range(1, 10_000):
        copy = disk.copy()
        copy.fs.stop_at = stop_at
        try:
            act(copy)
        except SimulatedCrash:
            copy.fs.stop_at = None
            yield stop_at, copy
        else:
            return
