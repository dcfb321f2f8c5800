"""A partition directory that several processes have open: two logs here are as good as two processes, for the kernel
locks each for itself; and verbs on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers.open_logs import START

from logstore.config import LogConfig
from logstore.fs import LocalFileSystem
from logstore.inspect import CheckOptions, Severity, check, resolve
from logstore.log import Log, PartitionFacts, PartitionHold, SharedLog
from logstore.testing import ManualClock

SESSION = 7
SMALL = LogConfig(segment_bytes=600, index_interval_bytes=100, segment_index_bytes=96)


class SharedPlace:
    """A partition directory of a session."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = ManualClock(START)
        self.opened: list[SharedLog] = []
        directory.mkdir(parents=True)

    def open(self, config: LogConfig | None = None, *, session: int = SESSION, **options: Any) -> SharedLog:
        log = SharedLog.open(self.directory, config, session=session, **{"clock": self.clock, **options})
        self.opened.append(log)
        return log

    def alone(self, config: LogConfig | None = None, known: PartitionFacts | None = None) -> Log:
        """Open it as its only owner does."""
        hold = PartitionHold.owned(LocalFileSystem(), self.directory, known or PartitionFacts())
        return Log.open(self.directory, config, clock=self.clock, hold=hold)

    def close(self) -> None:
        for log in self.opened:
            log.close()

    def names(self, suffix: str = "") -> list[str]:
        return sorted(one.name for one in self.directory.iterdir() if one.name.endswith(suffix))

    def path(self, base_offset: int, suffix: str = ".log") -> Path:
        return self.directory / f"{base_offset:020}{suffix}"

    def alarms(self) -> list[str]:
        """What `check` finds beyond notes, once the log is completed."""
        self.close()
        self.alone().close()
        found = check(resolve(self.directory), CheckOptions())
        return [str(one) for one in found if one.severity != Severity.NOTE]


def values(log: Any, offset: int | None = None, **options: Any) -> list[bytes | None]:
    """The values of all records from an offset on."""
    return [record.value for record in log.records(offset, **options)]


def fill(log: Any, count: int, *, first: int = 0, **options: Any) -> None:
    """Append records one by one; each has its number as its value."""
    for number in range(first, first + count):
        log.append([(b"k", b"%d" % number)], **options)


def numbers(first: int, end: int) -> list[bytes]:
    """The values that `fill` writes."""
    return [b"%d" % number for number in range(first, end)]
