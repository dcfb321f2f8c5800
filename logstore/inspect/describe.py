"""Describes what a file, a partition or a log directory holds, from one walk over its batch headers.

Read-only, tolerant of damage, flat in memory. One description belongs to one thread.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from logstore import names
from logstore.errors import InvalidNameError, LogstoreError
from logstore.inspect.files import file_rows
from logstore.inspect.layout import (
    LogDirectoryContext,
    LogDirectoryFiles,
    PartitionFiles,
    SegmentFiles,
    SingleFile,
    Target,
    context_around,
    iter_partitions,
    parse_file,
    read_context,
)
from logstore.inspect.tails import explain_tail
from logstore.inspect.transactions import TransactionTracker
from logstore.log import RecordFile, parse_leader_epoch_checkpoint, parse_properties
from logstore.names import FileKind, TopicPartition
from logstore.records import BATCH_BYTES_MAX, Damage, RecordBatch, TimestampType


@dataclasses.dataclass(slots=True)
class PartitionDescription:
    """What a partition holds. Sizes in bytes, times in ms since the epoch; None where the files do not tell.

    `records` are those that users wrote, `control_records` the others. The clean part lies below the cleaner
    checkpoint; the dirty part reaches from there to the active segment, and `dirty_ratio` is its share of both
    (CLEANER §2.4).
    """

    path: Path
    topic: str | None = None
    partition: int | None = None
    segments: int = 0
    log_start_offset: int = 0
    log_end_offset: int = 0
    high_watermark: int | None = None
    recovery_point: int | None = None
    records: int = 0
    control_records: int = 0
    batches: int = 0
    log_bytes: int = 0
    index_bytes: int = 0
    first_timestamp: int | None = None
    last_timestamp: int | None = None
    timestamp_types: Counter[str] = dataclasses.field(default_factory=Counter)
    codecs: Counter[str] = dataclasses.field(default_factory=Counter)
    formats: Counter[str] = dataclasses.field(default_factory=Counter)
    producers: int = 0
    transactions_committed: int = 0
    transactions_aborted: int = 0
    transactions_open: int = 0
    leader_epochs: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    cleaner_offset: int | None = None
    clean_bytes: int | None = None
    dirty_bytes: int | None = None
    dirty_ratio: float | None = None
    leftovers: int = 0
    damages: int = 0
    unread_batches: int = 0
    unreadable_files: list[str] = dataclasses.field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The description as plain values."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain = {name: dict(value) if isinstance(value, Counter) else value for name, value in values.items()}
        return {**plain, "path": str(self.path)}


@dataclasses.dataclass(slots=True)
class Description:
    """What a path holds. `shutdown` is clean, unclean or unknown (no log directory around it)."""

    path: Path
    kind: str
    shutdown: str
    partitions: list[PartitionDescription]
    set_aside: list[str] = dataclasses.field(default_factory=list)
    foreign: list[str] = dataclasses.field(default_factory=list)
    entries: int | None = None
    first_entry: dict[str, Any] | None = None
    last_entry: dict[str, Any] | None = None
    properties: dict[str, str] = dataclasses.field(default_factory=dict)
    errors: list[LogstoreError | OSError] = dataclasses.field(default_factory=list)

    @property
    def damages(self) -> int:
        """How many damaged places were met, those in files of the log directory itself (`errors`) included."""
        own = sum(isinstance(error, LogstoreError) for error in self.errors)
        return own + sum(partition.damages for partition in self.partitions)

    @property
    def unreadable_files(self) -> list[str]:
        """The files that the operating system would not let be read, each with its reason."""
        own = [_said(error, self.path) for error in self.errors if isinstance(error, OSError)]
        return own + [said for partition in self.partitions for said in partition.unreadable_files]

    def as_json(self) -> dict[str, Any]:
        """The description as plain values."""
        partitions = [partition.as_json() for partition in self.partitions]
        totals = {
            name: sum(partition[name] for partition in partitions)
            for name in ("segments", "records", "control_records", "batches", "log_bytes", "index_bytes")
        } | {"damages": self.damages, "unreadable_files": self.unreadable_files}
        result: dict[str, Any] = {
            "path": str(self.path), "kind": self.kind, "shutdown": self.shutdown,
            "topics": len({partition["topic"] for partition in partitions}), "partition_count": len(partitions),
            "totals": totals, "partitions": partitions,
        }  # fmt: skip
        if self.kind == "log directory":
            result |= {"set_aside": self.set_aside, "foreign": self.foreign}
        if self.kind == "log directory" or self.properties:
            result |= {"properties": self.properties}
        if self.entries is not None:
            result |= {"entries": self.entries, "first_entry": self.first_entry, "last_entry": self.last_entry}
        return result


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DescribeOptions:
    """As `CheckOptions`."""

    batch_bytes_max: int = BATCH_BYTES_MAX
    topic: Callable[[str], bool] = lambda _: True
    partition: int | None = None
    progress: Callable[[int], object] = lambda _: None


def describe(target: Target, options: DescribeOptions) -> Description:
    """Describe a file, a partition directory or a log directory. Raises OSError and, for a small file whose content is
    not what its name says, LogstoreError."""
    if isinstance(target, LogDirectoryFiles):
        return _describe_directory(target, options)
    if isinstance(target, PartitionFiles):
        context = context_around(target.path)
        return Description(
            target.path, "partition", _shutdown(context), [_describe_partition(target, context, options)]
        )
    if target.holds_batches:
        return _describe_file(target, options)
    rows = list(_ends(file_rows(target)))
    entries, first, last = rows[-1]
    return Description(
        target.path, target.kind.value, "unknown", [], entries=entries, first_entry=first, last_entry=last
    )


def _ends(rows: Iterator[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any] | None, dict[str, Any] | None]]:
    count, first, last = 0, None, None
    for row in rows:
        count, first, last = count + 1, first or row, row
    yield count, first, last


def _describe_directory(directory: LogDirectoryFiles, options: DescribeOptions) -> Description:
    context = read_context(directory.path)
    partitions = [
        _describe_partition(partition, context, options)
        for partition in iter_partitions(directory, topic=options.topic, partition=options.partition)
    ]
    properties: dict[str, str] = {}
    errors = [] if context is None else [error for _, error in context.errors]
    if names.META_PROPERTIES in directory.named:
        try:
            properties = parse_file(directory.named[names.META_PROPERTIES], parse_properties)
        except (LogstoreError, OSError) as error:
            errors.append(error)
    return Description(
        directory.path, "log directory", _shutdown(context), partitions,
        [path.name for _, path in directory.set_aside], [path.name for path, _ in directory.foreign],
        properties=properties, errors=errors,
    )  # fmt: skip


def _shutdown(context: LogDirectoryContext | None) -> str:
    return "unknown" if context is None else "clean" if context.is_clean else "unclean"


def _describe_file(file: SingleFile, options: DescribeOptions) -> Description:
    context = context_around(file.directory) if file.partition is not None and file.is_segment else None
    segment = SegmentFiles(file.first_offset, file.path)
    alone = PartitionFiles(file.directory, None, (segment,), (), (), (), (), {}, ())
    result = _describe_partition(alone, None, options, context)
    result.path = file.path
    if file.partition is not None:
        result.topic, result.partition = file.partition
    kind = "segment" if file.kind == FileKind.LOG else file.kind.value
    return Description(file.path, kind, _shutdown(context), [result], properties=_snapshot_properties(file))


def _snapshot_properties(file: SingleFile) -> dict[str, str]:
    """What the name of a metadata snapshot says of it."""
    if file.kind != FileKind.METADATA_SNAPSHOT:
        return {}
    try:
        name = names.parse_segment_file(file.path.name)
    except InvalidNameError:
        name = names.parse_segment_file(file.path.resolve().name)  # the path is a symbolic link of another name
    return {"end offset": str(name.base_offset), "epoch": str(name.epoch)}


def _describe_partition(
    files: PartitionFiles, context: LogDirectoryContext | None, options: DescribeOptions,
    tail_context: LogDirectoryContext | None = None,
) -> PartitionDescription:  # fmt: skip
    result = PartitionDescription(files.path, segments=len(files.segments), leftovers=len(files.leftovers))
    identity = files.topic_partition
    if files.error is not None:
        result.unreadable_files.append(_said(files.error, files.path))
    if files.segments:
        result.log_start_offset = files.segments[0].base_offset
        result.log_end_offset = files.segments[-1].base_offset
    sizes: list[tuple[int, int]] = []
    tracker, producers = TransactionTracker(), set[int]()
    for number, segment in enumerate(files.segments):
        is_last = number == len(files.segments) - 1
        for path in (segment.offset_index, segment.time_index, segment.transaction_index):
            result.index_bytes += _size(path)
        try:
            with RecordFile(segment.log) as records:
                sizes.append((segment.base_offset, records.size))
                for found in records.batches(batch_bytes_max=options.batch_bytes_max, offset_min=segment.base_offset):
                    if isinstance(found, RecordBatch):
                        _add(result, found, tracker, producers, options.batch_bytes_max)
                    else:
                        result.damages += _is_damage(found, is_last, context or tail_context)
                options.progress(records.size)
        except OSError as error:  # of a symbolic link, FileNotFoundError means that it leads nowhere
            if not isinstance(error, FileNotFoundError) or segment.log.is_symlink():
                result.unreadable_files.append(_said(error, segment.log))
    result.log_bytes = sum(size for _, size in sizes)
    result.producers = len(producers)
    result.transactions_committed = tracker.committed_count
    result.transactions_aborted = sum(map(len, tracker.aborted.values()))
    result.transactions_open = len(tracker.open)
    if names.LEADER_EPOCH_CHECKPOINT in files.named:
        try:
            entries = parse_file(files.named[names.LEADER_EPOCH_CHECKPOINT], parse_leader_epoch_checkpoint)
            result.leader_epochs = [(entry.epoch, entry.start_offset) for entry in entries]
        except LogstoreError:
            result.damages += 1
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                result.unreadable_files.append(_said(error, files.named[names.LEADER_EPOCH_CHECKPOINT]))
    if identity is not None:
        result.topic, result.partition = identity
    if files.checkpointed is not None and context is not None:
        _add_context(result, files.checkpointed, context, sizes)
    return result


def _add_context(
    result: PartitionDescription, identity: TopicPartition, context: LogDirectoryContext, sizes: list[tuple[int, int]]
) -> None:
    result.log_start_offset = max(result.log_start_offset, context.log_starts.get(identity, 0))
    result.high_watermark = context.high_watermarks.get(identity)
    result.recovery_point = context.recovery_points.get(identity)
    result.cleaner_offset = context.cleaner_offsets.get(identity)
    if result.cleaner_offset is None or not sizes:
        return
    sealed = sizes[:-1]
    clean = sum(size for base, size in sealed if base < result.cleaner_offset)
    dirty = sum(size for base, size in sealed if base >= result.cleaner_offset)
    result.clean_bytes, result.dirty_bytes = clean, dirty
    result.dirty_ratio = dirty / (clean + dirty) if clean + dirty else 0.0


def _is_damage(found: Damage, is_last: bool, context: LogDirectoryContext | None) -> bool:
    tail = explain_tail(found, is_last, context)
    return tail is None or tail.is_damage


def _said(error: OSError, path: Path) -> str:
    return f"{error.filename or path}: {error.strerror or error}"


def _size(path: Path | None) -> int:
    try:
        return 0 if path is None else path.stat().st_size
    except OSError:
        return 0


def _add(
    result: PartitionDescription,
    batch: RecordBatch,
    tracker: TransactionTracker,
    producers: set[int],
    batch_bytes_max: int,
) -> None:
    header = batch.header
    result.batches += 1
    result.log_end_offset = max(result.log_end_offset, batch.next_offset)
    result.formats[f"v{header.magic}"] += 1
    result.timestamp_types[batch.timestamp_type.value] += 1
    if batch.has_producer_id:
        producers.add(header.producer_id)
    try:
        result.codecs[batch.codec.label] += 1
        tracker.add(batch)
        count, first, last = _count_and_times(batch, batch_bytes_max)
    except LogstoreError:
        result.unread_batches += 1
        return
    if batch.is_control:
        result.control_records += count
    else:
        result.records += count
    if first >= 0:
        result.first_timestamp = first if result.first_timestamp is None else min(first, result.first_timestamp)
    if last >= 0:
        result.last_timestamp = last if result.last_timestamp is None else max(last, result.last_timestamp)


def _count_and_times(batch: RecordBatch, batch_bytes_max: int) -> tuple[int, int, int]:
    """How many records there are, and their first and last time, -1 if they have none. Raises LogstoreError.

    Headers name the last time only: for the first, records are walked, because producers send them out of order.
    """
    header = batch.header
    if header.magic < 2:
        times = [record.timestamp for record in batch.records(size_max=batch_bytes_max)]
        return len(times), min(times), max(times)
    if batch.timestamp_type == TimestampType.LOG_APPEND_TIME and header.count >= 0:
        time = header.max_timestamp if header.count else -1
        return header.count, time, time
    stats = batch.stats(size_max=batch_bytes_max)
    if not stats.count:
        return 0, -1, -1
    return stats.count, header.base_timestamp + stats.timestamp_delta_min, header.max_timestamp
