"""A broker's log directory, on disk and in memory, as a kill or a clean shutdown leaves it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from helpers.directories import START, LogDirectory, append_bytes, shorten, values

from logstore.config import LogConfig
from logstore.log import Log, parse_offset_checkpoint
from logstore.names import TopicPartition
from logstore.repair import Recoverer
from logstore.testing import CrashMode, ManualClock, MemoryFileSystem
from logstore.testing.operations import SimulatedCrash

DATA = Path("/data")
MARKER = ".kafka_cleanshutdown"
ENDS = {"orders-3": 18, "payments-0": 6}
SMALL_INDEXES = LogConfig(segment_index_bytes=1024)  # files in memory are copied often
MODES: tuple[CrashMode, ...] = ("nothing", "everything", "torn", "metadata", "subset")


def make(path: Path, *, is_clean: bool, is_torn: bool = False) -> Path:
    """`orders-3` (three segments, offsets 0 to 17) and `payments-0` (one, 0 to 5); torn: their last batch is half."""
    directory = LogDirectory(path)
    orders, payments = directory.partition("orders-3"), directory.partition("payments-0")
    for number in range(9):
        if number in (3, 6):
            orders.roll()
        orders.append(*values(2))
    for _ in range(3):
        payments.append(*values(2))
    directory.close(is_clean=is_clean)
    if is_torn:
        for partition in (orders, payments):
            shorten(partition.log, partition.log.stat().st_size - 20)
            for checkpoint in ("recovery-point-offset-checkpoint", "replication-offset-checkpoint"):
                place = path / checkpoint
                place.write_text(place.read_text().replace(" 18\n", " 12\n").replace(" 6\n", " 0\n"))
    return path


def in_memory(path: Path) -> MemoryFileSystem:
    """A copy of it, at `DATA`."""
    fs = MemoryFileSystem(ManualClock(START))
    for file in sorted(one for one in path.rglob("*") if one.is_file()):
        fs.write_bytes(DATA / file.relative_to(path), file.read_bytes())
    return fs


def checkpoint(fs: MemoryFileSystem, name: str) -> dict[str, int]:
    """The offsets of one of its checkpoints, by partition directory."""
    return {str(one): offset for one, offset in parse_offset_checkpoint(fs.read_bytes(DATA / name)).items()}


def contents(fs: MemoryFileSystem, *partitions: str) -> dict[str, list[bytes | None]]:
    """The values of all records, by partition, in a copy: nothing is changed."""
    after = fs.crash("everything")
    found = {}
    for name in partitions or ENDS:
        with Log.open(DATA / name, SMALL_INDEXES, fs=after, clock=ManualClock(START)) as log:
            found[name] = [record.value for record in log.records()]
    return found


def recover(fs: MemoryFileSystem, **options: bool) -> Recoverer:
    """Recover all of it."""
    recoverer = Recoverer(fs, config=SMALL_INDEXES, clock=ManualClock(START), **options)
    list(recoverer.recover_all(DATA, everything))
    return recoverer


def everything(_: TopicPartition) -> bool:
    return True


def crashes(
    begin: Callable[[], MemoryFileSystem], act: Callable[[MemoryFileSystem], object]
) -> Iterator[MemoryFileSystem]:
    """What is left after `act` was stopped at each of its operations, in each way a power cut can leave it."""
    stop = 1
    while True:
        fs = begin()
        fs.stop_at = fs.operations + stop
        try:
            act(fs)
        except SimulatedCrash:
            for seed, mode in enumerate(MODES):
                yield fs.crash(mode, seed=stop * len(MODES) + seed)
        else:
            assert stop > 1, "it does nothing"
            return
        stop += 1


def zeros(path: Path, count: int) -> None:
    """Put zeros behind a file, as preallocation does."""
    append_bytes(path, bytes(count))


