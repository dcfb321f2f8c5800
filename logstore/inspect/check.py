"""Checks partitions and log directories: everything that can be wrong, and what it means.

Read-only and tolerant: a finding stands where something is wrong, and the check goes on. What healthy, living or killed
brokers leave is told from damage. Memory is flat. One check belongs to one thread.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

from logstore import names
from logstore.errors import LogstoreError
from logstore.inspect.check_batches import LogWalk, check_batch
from logstore.inspect.check_indexes import OffsetIndexCheck, TimeIndexCheck, check_transaction_index
from logstore.inspect.files import file_rows
from logstore.inspect.findings import Finding, Severity, finding
from logstore.inspect.layout import (
    LogDirectoryContext,
    LogDirectoryFiles,
    PartitionFiles,
    SegmentFiles,
    SingleFile,
    Target,
    iter_partitions,
    parse_file,
    partition_files,
    read_context,
    read_small,
    single_file,
)
from logstore.inspect.tails import explain_tail
from logstore.log import EpochEntry, RecordFile, parse_leader_epoch_checkpoint
from logstore.names import DirectoryKind, FileKind
from logstore.records import BATCH_BYTES_MAX, Damage, RecordBatch

_COMPACTED_TOPICS = ("__consumer_offsets", "__transaction_state")
_FLAT_KINDS = (
    FileKind.PRODUCER_SNAPSHOT, FileKind.OFFSET_CHECKPOINT, FileKind.LEADER_EPOCH_CHECKPOINT,
    FileKind.PARTITION_METADATA, FileKind.META_PROPERTIES, FileKind.QUORUM_STATE,
)  # fmt: skip


@dataclasses.dataclass(slots=True)
class CheckTotals:
    """What was looked at."""

    partitions: int = 0
    segments: int = 0
    batches: int = 0
    records: int = 0
    bytes: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """`batch_bytes_max` caps one batch in bytes; `topic` and `partition` choose inside a log directory; `progress` is
    told the bytes done."""

    batch_bytes_max: int = BATCH_BYTES_MAX
    topic: Callable[[str], bool] = lambda _: True
    partition: int | None = None
    progress: Callable[[int], object] = lambda _: None
    totals: CheckTotals = dataclasses.field(default_factory=CheckTotals)


def check(target: Target, options: CheckOptions) -> Iterator[Finding]:
    """Check a file, a partition directory or a log directory (as `layout.resolve` gives it). Raises OSError only for
    the target itself."""
    if isinstance(target, SingleFile):
        yield from _check_file(target, options)
    elif isinstance(target, PartitionFiles):
        context = read_context(target.path.absolute().parent)
        if context is not None and not context.is_clean and target.topic_partition is not None:
            yield finding("unclean-shutdown", context.path, "no clean-shutdown mark in the log directory")
        yield from check_partition(target, context, options)
    else:
        yield from check_log_directory(target, options)


def check_log_directory(directory: LogDirectoryFiles, options: CheckOptions) -> Iterator[Finding]:
    """Check a log directory and all of its partitions."""
    context = read_context(directory.path)
    if context is not None:
        for error in context.errors:
            yield _from_error("checkpoint", Path(error.path or directory.path), error)
        if not context.is_clean:
            yield finding("unclean-shutdown", directory.path, "no clean-shutdown mark")
        here = {topic_partition for topic_partition, _ in directory.partitions}
        named = context.recovery_points.keys() | context.high_watermarks.keys() | context.cleaner_offsets.keys()
        for absent in sorted(named - here):
            yield finding("checkpoint-partition", directory.path, f"{absent} stands in a checkpoint and is not here")
    for path, reason in directory.foreign:
        yield finding("foreign-directory", path, reason)
    for name in (names.META_PROPERTIES, names.BOOTSTRAP_CHECKPOINT):
        if name in directory.named:
            yield from _check_file(single_file(directory.named[name]), options)
    yield from _count("leftover", directory.path, directory.leftovers)
    yield from _count("foreign-file", directory.path, directory.others)
    yield from _count("set-aside", directory.path, [path for _, path in directory.set_aside])
    for partition in iter_partitions(directory, topic=options.topic, partition=options.partition):
        yield from check_partition(partition, context, options)


def check_partition(
    partition: PartitionFiles, context: LogDirectoryContext | None, options: CheckOptions
) -> Iterator[Finding]:
    """Check a partition directory; `context` is what its log directory says, if it has one."""
    options.totals.partitions += 1
    if partition.name is not None and partition.name.kind != DirectoryKind.NORMAL:
        context = None  # checkpoints do not speak of directories that are set aside
    epochs, findings = _read_epochs(partition)
    yield from findings
    walk = LogWalk(_is_compacted(partition, context), epochs, options.batch_bytes_max)
    gaps: list[tuple[int, int, Path]] = []
    for number, segment in enumerate(partition.segments):
        expected = walk.next_offset
        if expected is not None and segment.base_offset > expected:
            gaps.append((expected, segment.base_offset, segment.log))
            walk.next_offset = segment.base_offset
        is_last = number == len(partition.segments) - 1
        yield from check_segment(segment, is_last, _may_be_padded(partition, is_last, context), walk, context, options)
    yield from _check_gaps(partition, gaps, walk)
    yield from _check_end(partition, context, walk)
    yield from _check_small_files(partition, options)
    yield from _count("leftover", partition.path, partition.leftovers)
    yield from _count(
        "foreign-file", partition.path, [path for path in partition.others if not path.name.startswith(".")]
    )
    for orphan in partition.orphans:
        yield finding("index-orphan", orphan, "no log file of this offset")
    options.totals.batches += walk.batches
    options.totals.records += walk.records


def check_segment(
    segment: SegmentFiles,
    is_last: bool,
    may_be_padded: bool,
    walk: LogWalk,
    context: LogDirectoryContext | None,
    options: CheckOptions,
) -> Iterator[Finding]:
    """Check one segment: its batches, and its indexes against them."""
    options.totals.segments += 1
    try:
        records = RecordFile(segment.log)
    except FileNotFoundError:
        yield finding("vanished", segment.log, "was deleted while the directory was read")
        return
    except OSError as error:
        yield finding("unreadable", segment.log, str(error.strerror))
        return
    checks: list[OffsetIndexCheck | TimeIndexCheck] = []
    for path, kind in ((segment.offset_index, OffsetIndexCheck), (segment.time_index, TimeIndexCheck)):
        data, problem = _read(path)
        yield from problem
        if path is not None and data is not None:
            checks.append(kind(path, data, segment.base_offset, may_be_padded))
            yield from checks[-1].begin()
    has_damage = False
    markers_before = {pid: len(ranges) for pid, ranges in walk.transactions.aborted.items()}
    with records:
        options.totals.bytes += records.size
        done = 0
        for found in records.batches(batch_bytes_max=options.batch_bytes_max, offset_min=segment.base_offset):
            if isinstance(found, RecordBatch):
                yield from check_batch(found, segment.log, segment.base_offset, walk)
                for check in checks:
                    yield from check.add(found)
                position = found.header.position + found.header.size
            else:
                has_damage = True
                position = found.position + found.size
                yield _damage(found, segment.log, is_last, context, walk)
                _step_over(found, walk)
            options.progress(position - done)
            done = position
        is_empty = records.size == 0
    for check in checks:
        yield from check.finish(has_damage)
    yield from _check_aborts(segment, walk, markers_before)
    if not is_empty and not is_last and (segment.offset_index is None or segment.time_index is None):
        which = "offset index" if segment.offset_index is None else "time index"
        yield finding("index-missing", segment.log, f"the segment has no {which}")


# ---------------------------------------------------------------- parts of a partition


def _damage(found: Damage, path: Path, is_last: bool, context: LogDirectoryContext | None, walk: LogWalk) -> Finding:
    tail = explain_tail(found, is_last, context)
    message = f"{found.reason} ({found.size} bytes)" + (f"; {tail.message}" if tail else "")
    severity = None if tail is None else Severity.WARNING if tail.is_warning else Severity.NOTE
    code = "preallocated" if severity == Severity.NOTE and found.code.value == "zero-tail" else found.code.value
    offset = walk.next_offset if found.batch is None else found.batch.header.base_offset
    return finding(code, path, message, position=found.position, offset=offset, severity=severity)


def _step_over(found: Damage, walk: LogWalk) -> None:
    """Expect what follows a damaged batch, if its frame is whole; otherwise anything later."""
    if found.batch is not None and walk.next_offset is not None and found.batch.next_offset > walk.next_offset:
        walk.next_offset = found.batch.next_offset
    walk.is_compacted = True  # a gap behind damage says nothing


def _check_aborts(segment: SegmentFiles, walk: LogWalk, before: dict[int, int]) -> Iterator[Finding]:
    aborted = {
        marker: (producer_id, first)
        for producer_id, ranges in walk.transactions.aborted.items()
        for first, marker in ranges[before.get(producer_id, 0) :]
    }
    data, problem = _read(segment.transaction_index)
    yield from problem
    if aborted or data:
        end = segment.base_offset if walk.next_offset is None else walk.next_offset
        yield from check_transaction_index(
            segment.transaction_index, segment.log, data or b"", segment.base_offset, end, aborted
        )


def _check_gaps(partition: PartitionFiles, gaps: list[tuple[int, int, Path]], walk: LogWalk) -> Iterator[Finding]:
    if walk.is_compacted or walk.gaps or len(gaps) > 1:
        return  # offsets are missing in many places: the mark of compaction
    for start, end, path in gaps:
        lost = [offset for offset, _ in partition.snapshots if start <= offset < end]
        message = f"offsets {start} to {end - 1} are missing before this segment"
        if lost:
            yield finding("segment-missing", path, f"{message}, and there is a snapshot at {lost[0]}", offset=start)
        else:
            yield finding("segment-gap", path, message, offset=start)


def _check_end(partition: PartitionFiles, context: LogDirectoryContext | None, walk: LogWalk) -> Iterator[Finding]:
    """Hold what is known of the log's end against the end that was found."""
    if not partition.segments:
        return
    active = partition.segments[-1]
    end = max(active.base_offset, walk.next_offset or 0)
    for covered, path in partition.snapshots:
        if covered > end:
            yield finding(
                "snapshot-beyond-end", path, f"the snapshot covers offsets up to {covered}, the log ends at {end}"
            )
    if walk.epochs and walk.epochs[-1].start_offset > end:
        message = (
            f"epoch {walk.epochs[-1].epoch} begins at offset {walk.epochs[-1].start_offset}, the log ends at {end}"
        )
        yield finding("epoch-beyond-end", partition.named[names.LEADER_EPOCH_CHECKPOINT], message)
    if context is None or partition.topic_partition is None:
        return
    for what, offsets in (
        ("recovery point", context.recovery_points),
        ("log start offset", context.log_starts),
        ("high watermark", context.high_watermarks),
    ):
        offset = offsets.get(partition.topic_partition)
        if offset is not None and offset > end:
            severity = Severity.WARNING if what == "high watermark" and not context.is_clean else None
            message = f"the {what} is {offset}, the log ends at {end}"
            yield finding("checkpoint-beyond-end", active.log, message, offset=end, severity=severity)
    recovery_point = context.recovery_points.get(partition.topic_partition)
    if context.is_clean and recovery_point is not None and recovery_point < end:
        message = f"the recovery point is {recovery_point}, the log ends at {end}"
        yield finding("checkpoint-behind-end", active.log, message, offset=recovery_point)


def _check_small_files(partition: PartitionFiles, options: CheckOptions) -> Iterator[Finding]:
    paths = [path for _, path in partition.snapshots]
    paths += [path for name, path in partition.named.items() if name != names.LEADER_EPOCH_CHECKPOINT]
    for path in (*paths, *partition.metadata_snapshots):
        yield from _check_file(single_file(path), options)


def _read_epochs(partition: PartitionFiles) -> tuple[tuple[EpochEntry, ...], list[Finding]]:
    path = partition.named.get(names.LEADER_EPOCH_CHECKPOINT)
    if path is None:
        return (), []
    try:
        entries = parse_file(path, parse_leader_epoch_checkpoint)
    except (LogstoreError, OSError) as error:
        return (), [_from_error("checkpoint", path, error)]
    pairs = itertools.pairwise(entries)
    if any(one.epoch >= other.epoch or one.start_offset >= other.start_offset for one, other in pairs):
        return (), [finding("checkpoint", path, "leader epochs or their start offsets do not ascend")]
    return entries, []


def _is_compacted(partition: PartitionFiles, context: LogDirectoryContext | None) -> bool:
    identity = partition.topic_partition
    if identity is None:
        return False
    return identity.topic in _COMPACTED_TOPICS or (context is not None and identity in context.cleaner_offsets)


def _may_be_padded(partition: PartitionFiles, is_last: bool, context: LogDirectoryContext | None) -> bool:
    """Only the last segment's indexes have spare room, and only until the broker is shut down cleanly."""
    if partition.name is not None and partition.name.kind != DirectoryKind.NORMAL:
        return True
    return is_last and not (context is not None and context.is_clean)


# ---------------------------------------------------------------- single files


def _check_file(file: SingleFile, options: CheckOptions) -> Iterator[Finding]:
    if file.holds_batches:
        yield from _check_batch_file(file, options)
    elif file.kind in (FileKind.OFFSET_INDEX, FileKind.TIME_INDEX, FileKind.TRANSACTION_INDEX):
        yield from _check_index_file(file, options)
    elif file.kind in _FLAT_KINDS:
        code = "snapshot" if file.kind == FileKind.PRODUCER_SNAPSHOT else "checkpoint"
        try:
            for _ in file_rows(file):
                pass
        except FileNotFoundError:
            yield finding("vanished", file.path, "was deleted while the directory was read")
        except (LogstoreError, OSError) as error:
            yield _from_error(code, file.path, error)


def _check_batch_file(file: SingleFile, options: CheckOptions) -> Iterator[Finding]:
    base_offset = file.base_offset if file.kind == FileKind.LOG and file.base_offset is not None else 0
    in_use = names.classify_file(file.path.name).temporary_suffix is None
    segment, is_last, context = SegmentFiles(base_offset, file.path), True, None
    epochs: tuple[EpochEntry, ...] = ()
    if file.kind == FileKind.LOG and in_use:
        siblings = partition_files(file.path.absolute().parent)
        segment = next((s for s in siblings.segments if s.log.name == file.path.name), segment)
        is_last = not siblings.segments or siblings.segments[-1].base_offset <= base_offset
        epochs, _ = _read_epochs(siblings)
        if file.partition is not None and (siblings.name is None or siblings.name.kind == DirectoryKind.NORMAL):
            context = read_context(siblings.path.parent)
    walk = LogWalk(False, epochs, options.batch_bytes_max)
    padded = is_last and not (context is not None and context.is_clean)
    yield from check_segment(segment, is_last, padded, walk, context, options)
    options.totals.batches += walk.batches
    options.totals.records += walk.records


def _check_index_file(file: SingleFile, options: CheckOptions) -> Iterator[Finding]:
    log = file.path.with_suffix(".log")
    if not log.exists():
        yield finding("index-orphan", file.path, "no log file of this offset")
        try:
            for _ in file_rows(file):
                pass
        except (LogstoreError, OSError) as error:
            yield _from_error("index-size", file.path, error)
        return
    quiet = dataclasses.replace(options, progress=lambda _: None)
    for one in _check_batch_file(single_file(log), quiet):
        if one.path.name == file.path.name:
            yield one


def _read(path: Path | None) -> tuple[bytes | None, list[Finding]]:
    if path is None:
        return None, []
    try:
        return read_small(path), []
    except FileNotFoundError:
        return None, [finding("vanished", path, "was deleted while the directory was read")]
    except LogstoreError as error:
        return None, [_from_error("index-size", path, error)]
    except OSError as error:
        return None, [_from_error("unreadable", path, error)]


def _from_error(code: str, path: Path, error: LogstoreError | OSError) -> Finding:
    if isinstance(error, OSError):
        return finding("unreadable", path, str(error.strerror))
    return finding(code, path, error.reason, position=error.position, offset=error.offset)


def _count(code: str, path: Path, paths: tuple[Path, ...] | list[Path]) -> Iterator[Finding]:
    if paths:
        shown = ", ".join(one.name for one in paths[:3]) + (" …" if len(paths) > 3 else "")
        yield finding(code, path, f"{len(paths)}: {shown}")
