"""What lies on disk: a file, a partition directory or a log directory, found and sorted without opening a log.

Read-only and tolerant: names that mean nothing are kept and told, never dropped. The values are snapshots of the
moment of listing; a live broker may have moved on. Thread-safe (no state).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from logstore import names
from logstore.errors import InvalidNameError, LogstoreError
from logstore.log import parse_offset_checkpoint
from logstore.names import DirectoryKind, FileKind, PartitionDirectory, TopicPartition

SMALL_FILE_BYTES_MAX = 64 << 20
"""Indexes, snapshots and checkpoints above this size, in bytes, are not read: no Kafka writes such a one."""

_CHECKPOINTS = (
    names.RECOVERY_POINT_CHECKPOINT,
    names.LOG_START_CHECKPOINT,
    names.HIGH_WATERMARK_CHECKPOINT,
    names.CLEANER_CHECKPOINT,
)
_LOG_DIRECTORY_FILES = (*_CHECKPOINTS, names.META_PROPERTIES, names.CLEAN_SHUTDOWN)
_INDEXES = (FileKind.OFFSET_INDEX, FileKind.TIME_INDEX, FileKind.TRANSACTION_INDEX)
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, slots=True)
class SegmentFiles:
    """The files of one segment; an index that is not there is None."""

    base_offset: int
    log: Path
    offset_index: Path | None = None
    time_index: Path | None = None
    transaction_index: Path | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class PartitionFiles:
    """A partition directory: its segments by base offset, and everything else that lies in it.

    `orphans` are indexes without a log, `leftovers` files with a temporary suffix, `others` files that are none of
    Kafka's. `name` is None when the directory's name is no partition's.
    """

    path: Path
    name: PartitionDirectory | None
    segments: tuple[SegmentFiles, ...]
    snapshots: tuple[tuple[int, Path], ...]
    metadata_snapshots: tuple[Path, ...]
    orphans: tuple[Path, ...]
    leftovers: tuple[Path, ...]
    named: dict[str, Path]
    others: tuple[Path, ...]

    @property
    def topic_partition(self) -> TopicPartition | None:
        """Topic and partition, as far as the name tells."""
        return None if self.name is None else self.name.topic_partition


@dataclasses.dataclass(frozen=True, slots=True)
class LogDirectoryContext:
    """What the files of a log directory say about its partitions.

    `errors` are the checkpoints that could not be read; their offsets are then missing.
    """

    path: Path
    is_clean: bool
    recovery_points: dict[TopicPartition, int]
    log_starts: dict[TopicPartition, int]
    high_watermarks: dict[TopicPartition, int]
    cleaner_offsets: dict[TopicPartition, int]
    errors: tuple[LogstoreError, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class LogDirectoryFiles:
    """A log directory: partition directories sorted by topic and number, and what else lies in it.

    `set_aside` are directories that wait for deletion, move or decision, `foreign` those whose names are no
    partition's, `named` Kafka's own files, `others` the rest.
    """

    path: Path
    partitions: tuple[tuple[TopicPartition, Path], ...]
    set_aside: tuple[tuple[PartitionDirectory, Path], ...]
    foreign: tuple[tuple[Path, str], ...]
    named: dict[str, Path]
    leftovers: tuple[Path, ...]
    others: tuple[Path, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class SingleFile:
    """One file, named itself; `partition` is what the name of its directory says."""

    path: Path
    kind: FileKind
    base_offset: int | None
    partition: TopicPartition | None

    @property
    def holds_batches(self) -> bool:
        """Whether the content is record batches."""
        return self.kind in (FileKind.LOG, FileKind.METADATA_SNAPSHOT, FileKind.BOOTSTRAP_CHECKPOINT)


Target = SingleFile | PartitionFiles | LogDirectoryFiles


def resolve(path: str | os.PathLike[str]) -> Target:
    """Say what a path is. Raises OSError, and LogstoreError for a directory that holds no log."""
    place = Path(path)
    if not place.is_dir():
        os.stat(place)  # says why, where the path is nothing
        return single_file(place)
    entries = _list(place)
    directories = [entry.name for entry in entries if entry.is_dir()]
    classified = [names.classify_file(entry.name) for entry in entries if not entry.is_dir()]
    holds_segments = any(file.kind in (FileKind.LOG, *_INDEXES) for file in classified)
    holds_partitions = any(_partition_name(name) for name in directories)
    if holds_segments or (_partition_name(_real_name(place)) and not holds_partitions):
        return partition_files(place)
    if holds_partitions or any(entry.name in _LOG_DIRECTORY_FILES for entry in entries):
        return log_directory_files(place)
    raise LogstoreError(
        "this directory holds no log: neither segment files nor partition directories", path=place,
        remedy="name a partition directory such as orders-3, or a broker's log directory",
    )  # fmt: skip


def single_file(path: Path) -> SingleFile:
    """Say what a file is by its name."""
    classified = names.classify_file(path.name)
    name = _partition_name(_real_name(path.absolute().parent))
    return SingleFile(path, classified.kind, classified.base_offset, None if name is None else name.topic_partition)


def partition_files(path: Path) -> PartitionFiles:
    """Sort the files of a partition directory. Raises OSError."""
    found: dict[FileKind, dict[int, Path]] = {kind: {} for kind in FileKind}
    named: dict[str, Path] = {}
    leftovers, others, metadata_snapshots = [], [], []
    for entry in _list(path):
        place = path / entry.name
        classified = names.classify_file(entry.name)
        if entry.is_dir() or classified.kind == FileKind.OTHER:
            others.append(place)
        elif classified.temporary_suffix is not None or classified.kind == FileKind.TEMPORARY:
            leftovers.append(place)
        elif classified.kind == FileKind.METADATA_SNAPSHOT:
            metadata_snapshots.append(place)
        elif classified.base_offset is not None:
            found[classified.kind][classified.base_offset] = place
        else:
            named[entry.name] = place
    logs = found[FileKind.LOG]
    segments = tuple(
        SegmentFiles(base, logs[base], *(found[kind].get(base) for kind in _INDEXES)) for base in sorted(logs)
    )
    orphans = tuple(found[kind][base] for kind in _INDEXES for base in sorted(found[kind].keys() - logs.keys()))
    snapshots = tuple(sorted(found[FileKind.PRODUCER_SNAPSHOT].items()))
    return PartitionFiles(
        path, _partition_name(_real_name(path)), segments, snapshots, tuple(metadata_snapshots), orphans,
        tuple(leftovers), named, tuple(others),
    )  # fmt: skip


def log_directory_files(path: Path) -> LogDirectoryFiles:
    """Sort what lies in a log directory; partition directories are not opened. Raises OSError."""
    partitions, set_aside, foreign, leftovers, others = [], [], [], [], []
    named: dict[str, Path] = {}
    for entry in _list(path):
        place = path / entry.name
        if not entry.is_dir():
            classified = names.classify_file(entry.name)
            if classified.kind == FileKind.TEMPORARY:
                leftovers.append(place)
            elif classified.kind == FileKind.OTHER or classified.base_offset is not None:
                others.append(place)
            else:
                named[entry.name] = place
            continue
        if entry.name == names.REMOTE_LOG_INDEX_CACHE:
            continue
        try:
            name = names.parse_partition_directory(entry.name)
        except InvalidNameError as error:
            foreign.append((place, error.reason))
            continue
        if name.kind == DirectoryKind.NORMAL:
            partitions.append((name.topic_partition, place))
        else:
            set_aside.append((name, place))
    partitions.sort()
    set_aside.sort(key=lambda item: item[1])
    return LogDirectoryFiles(
        path, tuple(partitions), tuple(set_aside), tuple(foreign), named, tuple(leftovers), tuple(others)
    )


def read_context(path: Path) -> LogDirectoryContext | None:
    """What the checkpoints of a log directory say, or None where `path` has no file of a log directory."""
    if not any((path / name).exists() for name in _LOG_DIRECTORY_FILES):
        return None
    errors: list[LogstoreError] = []
    offsets: dict[str, dict[TopicPartition, int]] = {}
    for name in _CHECKPOINTS:
        offsets[name] = {}
        try:
            offsets[name] = parse_file(path / name, parse_offset_checkpoint)
        except FileNotFoundError:
            continue
        except LogstoreError as error:
            errors.append(error)
    return LogDirectoryContext(
        path,
        (path / names.CLEAN_SHUTDOWN).exists(),
        recovery_points=offsets[names.RECOVERY_POINT_CHECKPOINT],
        log_starts=offsets[names.LOG_START_CHECKPOINT],
        high_watermarks=offsets[names.HIGH_WATERMARK_CHECKPOINT],
        cleaner_offsets=offsets[names.CLEANER_CHECKPOINT],
        errors=tuple(errors),
    )


def read_small(path: Path) -> bytes:
    """All bytes of an index, snapshot or checkpoint. Raises OSError, and LogstoreError for one that is too large."""
    with open(path, "rb") as file:
        data = file.read(SMALL_FILE_BYTES_MAX + 1)
    if len(data) > SMALL_FILE_BYTES_MAX:
        raise LogstoreError(f"larger than {SMALL_FILE_BYTES_MAX} bytes, which no Kafka writes", path=path)
    return data


def parse_file(path: Path, parse: Callable[[bytes], _T]) -> _T:
    """Read a small file through a parser whose errors do not know the file."""
    data = read_small(path)
    try:
        return parse(data)
    except LogstoreError as error:
        error.path = os.fspath(path)
        raise


def iter_partitions(
    directory: LogDirectoryFiles, *, topic: Callable[[str], bool], partition: int | None
) -> Iterator[PartitionFiles]:
    """The partitions of a log directory whose topic and number are wanted; one that vanished meanwhile is left out."""
    for topic_partition, path in directory.partitions:
        if topic(topic_partition.topic) and partition in (None, topic_partition.partition):
            try:
                yield partition_files(path)
            except FileNotFoundError:
                continue


def _list(path: Path) -> list[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _real_name(path: Path) -> str:
    """The directory's own name, also for `.` and `..`."""
    return path.name if path.name not in ("", "..") else path.resolve().name


def _partition_name(name: str) -> PartitionDirectory | None:
    try:
        return names.parse_partition_directory(name)
    except InvalidNameError:
        return None
