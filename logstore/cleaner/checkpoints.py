"""Where it is remembered up to which offset each log is cleaned: in the logs themselves, or, as brokers do it, in one
`cleaner-offset-checkpoint` for each log directory (CLEANER §2.6).

Invariant: what was put is durable on return; a point is never remembered higher than it was put. Both are thread-safe.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from logstore import names
from logstore.errors import CorruptCheckpointError
from logstore.fs import FileSystem, replace_atomically
from logstore.log import format_offset_checkpoint, parse_offset_checkpoint
from logstore.names import TopicPartition

_FILE_SIZE_MAX = 64 * 1024 * 1024


class CleanerCheckpoints(Protocol):
    """What the manager of the cleaner needs."""

    def points(self) -> Mapping[TopicPartition, int]:
        """The cleaner points of all logs that have one. Raises CorruptCheckpointError, OSError."""
        ...

    def put(self, partition: TopicPartition, offset: int) -> None:
        """Remember the point of a log, durably. Raises LogClosedError, CorruptCheckpointError, OSError."""
        ...

    def remove(self, partition: TopicPartition) -> None:
        """Forget a log that is no more, durably. Raises as `put`."""
        ...


class PointedLog(Protocol):
    """A log that remembers its cleaner point itself."""

    @property
    def cleaner_point(self) -> int | None: ...

    def set_cleaner_point(self, offset: int) -> None: ...


class PlacedLog(Protocol):
    """A log that lies in a log directory."""

    @property
    def directory(self) -> Path: ...


class LogCheckpoints:
    """The points that logs remember themselves; for logs that stand alone."""

    def __init__(self, logs: Mapping[TopicPartition, PointedLog]) -> None:
        self._logs = logs

    def __repr__(self) -> str:
        return f"<LogCheckpoints of {len(self._logs)} logs>"

    def points(self) -> dict[TopicPartition, int]:
        found = {partition: log.cleaner_point for partition, log in list(self._logs.items())}
        return {partition: point for partition, point in found.items() if point is not None}

    def put(self, partition: TopicPartition, offset: int) -> None:
        log = self._logs.get(partition)
        if log is not None:
            log.set_cleaner_point(offset)

    def remove(self, partition: TopicPartition) -> None:
        """Nothing: the point goes with the log."""


class DirectoryCheckpoints:
    """The checkpoint files of several log directories.

    Whenever a file is written, the entries of partitions go from it that its owner does not have any more.

    Args:
        directories: the log directories; the files need not be there.
        logs: the owner's, asked anew each time: a log's point is in the directory above its own.
    """

    def __init__(self, fs: FileSystem, directories: Iterable[Path], logs: Mapping[TopicPartition, PlacedLog]) -> None:
        self._fs = fs
        self._logs = logs
        self._guard = threading.Lock()  # guards the directories and their files; innermost but for the file system's
        self._directories = list(directories)

    def __repr__(self) -> str:
        return f"<DirectoryCheckpoints in {', '.join(map(str, self._directories))}>"

    def points(self) -> dict[TopicPartition, int]:
        """All points there are, of two for one partition the lower: rather is something cleaned again than never."""
        points: dict[TopicPartition, int] = {}
        with self._guard:
            for directory in self._directories:
                for partition, offset in self._read(directory).items():
                    points[partition] = min(offset, points.get(partition, offset))
        return points

    def put(self, partition: TopicPartition, offset: int) -> None:
        """Remember the point of a log; nothing is done where its directory has failed, or it is not there any more."""
        log = self._logs.get(partition)
        with self._guard:
            if log is not None and log.directory.parent in self._directories:
                self._update(log.directory.parent, {partition: offset})

    def remove(self, partition: TopicPartition) -> None:
        with self._guard:
            for directory in self._directories:
                self._update(directory, {partition: None})

    def move(self, partition: TopicPartition, source: Path, destination: Path) -> None:
        """Let the point of a log go with it to another log directory. Raises CorruptCheckpointError, OSError.

        A crash in between leaves it in both; they are the same.
        """
        with self._guard:
            offset = self._read(source).get(partition) if source in self._directories else None
            if offset is None:
                return
            if destination in self._directories:
                self._update(destination, {partition: offset})
            self._update(source, {partition: None})

    def fail(self, directory: Path) -> None:
        """Have nothing to do with a log directory any more: it is offline."""
        with self._guard:
            self._directories = [one for one in self._directories if one != directory]

    def _update(self, directory: Path, changes: Mapping[TopicPartition, int | None]) -> None:
        before = self._read(directory)
        after = {partition: offset for partition, offset in before.items() if partition in self._logs}
        for partition, offset in changes.items():
            after.pop(partition, None)
            if offset is not None:
                after[partition] = offset
        if after != before:
            replace_atomically(self._fs, directory / names.CLEANER_CHECKPOINT, format_offset_checkpoint(after))

    def _read(self, directory: Path) -> dict[TopicPartition, int]:
        place = directory / names.CLEANER_CHECKPOINT
        if not self._fs.exists(place):
            return {}
        with self._fs.open(place) as file:
            data = file.read(0, _FILE_SIZE_MAX + 1)
        try:
            return parse_offset_checkpoint(data)
        except CorruptCheckpointError as error:
            error.path = str(place)
            raise
