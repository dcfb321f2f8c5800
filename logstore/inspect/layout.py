"""What lies on disk: a file, a partition directory or a log directory, found and sorted without opening a log.

Read-only and tolerant: names that mean nothing are kept and told, never dropped. The values are snapshots of the
moment of listing; a live broker may have moved on. Thread-safe (no state).
"""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from logstore import names
from logstore.errors import InvalidNameError, LogstoreError
from logstore.fs import LocalFileSystem
from logstore.log import parse_offset_checkpoint, read_facts
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
    Kafka's. `name` is None when the directory's name is no partition's, `error` why the directory could not be listed.
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
    error: OSError | None = None

    @property
    def topic_partition(self) -> TopicPartition | None:
        """Topic and partition, as far as the name tells."""
        return None if self.name is None else self.name.topic_partition

    @property
    def checkpointed(self) -> TopicPartition | None:
        """What the checkpoints of its log directory call it: nothing, once it waits for deletion or is a stray."""
        is_named = self.name is not None and self.name.kind in (DirectoryKind.NORMAL, DirectoryKind.FUTURE)
        return self.topic_partition if is_named else None


@dataclasses.dataclass(frozen=True, slots=True)
class LogDirectoryContext:
    """What the files of a log directory say about its partitions.

    `errors` are the checkpoints that could not be read, with the reason; their offsets are then missing.
    """

    path: Path
    is_clean: bool
    recovery_points: dict[TopicPartition, int]
    log_starts: dict[TopicPartition, int]
    high_watermarks: dict[TopicPartition, int]
    cleaner_offsets: dict[TopicPartition, int]
    errors: tuple[tuple[Path, LogstoreError | OSError], ...]


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
    """One file, named itself; `partition` is what the name of `directory` says, where its neighbours lie."""

    path: Path
    kind: FileKind
    base_offset: int | None
    partition: TopicPartition | None
    directory: Path
    is_in_use: bool = True

    @property
    def first_offset(self) -> int:
        """The lowest offset that its batches may have; a metadata snapshot is named by its end."""
        return self.base_offset or 0 if self.kind == FileKind.LOG else 0

    @property
    def is_segment(self) -> bool:
        """Whether it is a segment of the log that lies around it."""
        return self.kind == FileKind.LOG and self.is_in_use

    @property
    def holds_batches(self) -> bool:
        """Whether the content is record batches."""
        return self.kind in (FileKind.LOG, FileKind.METADATA_SNAPSHOT, FileKind.BOOTSTRAP_CHECKPOINT)


Target = SingleFile | PartitionFiles | LogDirectoryFiles


def resolve(path: str | os.PathLike[str]) -> Target:
    """Say what a path is. Raises OSError, and LogstoreError for a directory that holds no log."""
    place = Path(path)
    if not place.is_dir():
        if not stat.S_ISREG(os.stat(place).st_mode):  # stat says why, where the path is nothing
            raise LogstoreError("neither a file nor a directory", path=place)
        return single_file(place)
    entries = _list(place)
    directories = [entry.name for entry in entries if entry.is_dir()]
    classified = [names.classify_file(entry.name) for entry in entries if not entry.is_dir()]
    holds_segments = any(file.kind in (FileKind.LOG, *_INDEXES) for file in classified)
    holds_partitions = any(_parse_name(name) for name in directories)
    is_marked = any(entry.name in _LOG_DIRECTORY_FILES for entry in entries)
    if holds_segments and not (holds_partitions and is_marked):
        return partition_files(place)
    if holds_partitions or is_marked:
        return log_directory_files(place)
    if _partition_name(place):
        return partition_files(place)
    raise LogstoreError(
        "this directory holds no log: neither segment files nor partition directories", path=place,
        remedy="name a partition directory such as orders-3, or a broker's log directory",
    )  # fmt: skip


def single_file(path: Path) -> SingleFile:
    """Say what a file is by its name; of a symbolic link, by its own or by that of what it leads to."""
    classified, directory = names.classify_file(path.name), path.parent
    name = _partition_name(directory)
    if path.is_symlink() and (name is None or classified.kind == FileKind.OTHER):
        real = path.resolve()
        classified = names.classify_file(real.name) if classified.kind == FileKind.OTHER else classified
        name, directory = _partition_name(real.parent), real.parent
    partition = None if name is None else name.topic_partition
    if classified.kind in (FileKind.METADATA_SNAPSHOT, FileKind.BOOTSTRAP_CHECKPOINT):
        partition = TopicPartition(names.CLUSTER_METADATA_TOPIC, 0)  # wherever it lies, it holds metadata records
    is_in_use = classified.temporary_suffix is None
    return SingleFile(path, classified.kind, classified.base_offset, partition, directory, is_in_use)


def partition_files(path: Path) -> PartitionFiles:
    """Sort the files of a partition directory. Raises OSError."""
    found: dict[FileKind, dict[int, Path]] = {kind: {} for kind in FileKind}
    named: dict[str, Path] = {}
    leftovers, others, metadata_snapshots = [], [], []
    for entry in _list(path):
        place = path / entry.name
        classified = names.classify_file(entry.name)
        if not _is_file(entry) or classified.kind == FileKind.OTHER:
            others.append(place)
        elif classified.temporary_suffix is not None or classified.kind == FileKind.TEMPORARY:
            leftovers.append(place)
        elif classified.kind == FileKind.METADATA_SNAPSHOT:
            metadata_snapshots.append(place)
        elif classified.base_offset is not None:
            twin = found[classified.kind].setdefault(classified.base_offset, place)
            if twin is not place:  # the same offset written with fewer digits, as Kafka never does
                found[classified.kind][classified.base_offset] = max(twin, place, key=lambda path: len(path.name))
                others.append(min(twin, place, key=lambda path: len(path.name)))
        else:
            named[entry.name] = place
    logs = found[FileKind.LOG]
    segments = tuple(
        SegmentFiles(base, logs[base], *(found[kind].get(base) for kind in _INDEXES)) for base in sorted(logs)
    )
    orphans = tuple(found[kind][base] for kind in _INDEXES for base in sorted(found[kind].keys() - logs.keys()))
    snapshots = tuple(sorted(found[FileKind.PRODUCER_SNAPSHOT].items()))
    return PartitionFiles(
        path, _partition_name(path), segments, snapshots, tuple(metadata_snapshots), orphans,
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
            elif classified.kind == FileKind.OTHER or classified.base_offset is not None or not _is_file(entry):
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
    if not any(os.path.exists(path / name) for name in _LOG_DIRECTORY_FILES):
        return None
    errors: list[tuple[Path, LogstoreError | OSError]] = []
    offsets: dict[str, dict[TopicPartition, int]] = {}
    for name in _CHECKPOINTS:
        offsets[name] = {}
        try:
            offsets[name] = parse_file(path / name, parse_offset_checkpoint)
        except FileNotFoundError:
            continue
        except (LogstoreError, OSError) as error:
            errors.append((path / name, error))
    return LogDirectoryContext(
        path,
        os.path.exists(path / names.CLEAN_SHUTDOWN),
        recovery_points=offsets[names.RECOVERY_POINT_CHECKPOINT],
        log_starts=offsets[names.LOG_START_CHECKPOINT],
        high_watermarks=offsets[names.HIGH_WATERMARK_CHECKPOINT],
        cleaner_offsets=offsets[names.CLEANER_CHECKPOINT],
        errors=tuple(errors),
    )


def context_around(directory: Path) -> LogDirectoryContext | None:
    """What the log directory around a partition directory says: around the path as it is named, else as it is really.

    A partition directory may be a symbolic link from its log directory, or be reached by one from anywhere. Where there
    is none, logstore's own files in the partition directory say it.
    """
    parent, real_parent = directory.absolute().parent, directory.resolve().parent
    around = read_context(parent) or (None if real_parent == parent else read_context(real_parent))
    return around or _own_context(directory)


def _own_context(directory: Path) -> LogDirectoryContext | None:
    """What logstore's own files in a partition directory that stands alone say, in the shape of a log directory's."""
    facts = read_facts(LocalFileSystem(), directory)
    identity = _partition_name(directory)
    if facts.recovery_point is None or identity is None:
        return None
    partition = identity.topic_partition
    return LogDirectoryContext(
        directory, facts.clean_end is not None, {partition: facts.recovery_point},
        {partition: facts.log_start_offset} if facts.log_start_offset else {}, {}, {}, (),
    )  # fmt: skip


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
    """The partitions of a log directory whose topic and number are wanted; one that vanished meanwhile is left out.

    One that cannot be listed is empty and has an `error`.
    """
    for topic_partition, path in directory.partitions:
        if topic(topic_partition.topic) and partition in (None, topic_partition.partition):
            try:
                yield partition_files(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                yield PartitionFiles(path, _partition_name(path), (), (), (), (), (), {}, (), error)


def _list(path: Path) -> list[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is to be opened as a file: not a directory, pipe, socket or device, which could block forever.

    A symbolic link that leads nowhere is: opening it says so.
    """
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
    except OSError:
        return True


def _partition_name(path: Path) -> PartitionDirectory | None:
    """What the directory's name says: the one it is called by, else (for `.` or a symbolic link) its own."""
    return _parse_name(path.name) or _parse_name(path.resolve().name)


def _parse_name(name: str) -> PartitionDirectory | None:
    try:
        return names.parse_partition_directory(name)
    except InvalidNameError:
        return None
