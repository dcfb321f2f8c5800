"""Several logs in memory with one clock, as a broker has them, and verbs on them for tests of the log cleaner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers.open_logs import START

from logstore.config import LogConfig
from logstore.log import Log
from logstore.names import TopicPartition
from logstore.testing import ManualClock, MemoryFileSystem

DATA = Path("/data")
HOUR = 3_600_000
COMPACT = LogConfig(cleanup_policy=frozenset({"compact"}))
COMPACT_DELETE = LogConfig(cleanup_policy=frozenset({"compact", "delete"}))
DELETE = LogConfig(cleanup_policy=frozenset({"delete"}))


class ManyLogs:
    """Partitions 0 of topics that are open, by name; `logs` is the mapping that an owner would have."""

    def __init__(self) -> None:
        self.clock = ManualClock(START)
        self.fs = MemoryFileSystem(self.clock)
        self.logs: dict[TopicPartition, Log] = {}

    def open(self, topic: str, config: LogConfig = COMPACT, *, directory: Path = DATA, **options: Any) -> Log:
        """Open a log, or open it again."""
        self.fs.make_directory(directory)
        log = Log.open(directory / f"{topic}-0", config, fs=self.fs, clock=self.clock, **options)
        self.logs[tp(topic)] = log
        return log

    def damage(self, log: Log) -> None:
        """Change a byte in the middle of the first segment."""
        place = log.directory / f"{log.segments[0].base_offset:020}.log"
        content = bytearray(self.fs.read_bytes(place))
        content[len(content) // 2] ^= 0xFF
        self.fs.write_bytes(place, content)


def tp(topic: str) -> TopicPartition:
    return TopicPartition(topic, 0)


def write(log: Log, segments: int, *, keys: int = 2, each: int = 10) -> None:
    """Sealed segments of `each` records, which take turns with so many keys, and an empty active one."""
    for _ in range(segments):
        for _ in range(each):
            offset = log.log_end_offset
            log.append([(b"%d" % (offset % keys), b"%d" % offset)])
        log.roll()


def newest(log: Log) -> dict[bytes | None, bytes | None]:
    """The last value of each key."""
    return {record.key: record.value for record in log.records()}
