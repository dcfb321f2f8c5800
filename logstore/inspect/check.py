"""Checks partitions and log directories: everything that can be wrong, and what it means.

Read-only and tolerant: a finding stands where something is wrong, and the check goes on. What healthy, living or killed
brokers leave is told from damage. Memory is flat. One check belongs to one thread.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

from logstore import names
from logstore.errors import LogstoreError, UnsupportedFormatError
from logstore.inspect.check_batches import LogWalk
from logstore.inspect.check_segments import CheckOptions, check_segment, from_error
from logstore.inspect.files import file_rows
from logstore.inspect.findings import Finding, Severity, finding
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
    partition_files,
    read_context,
    single_file,
)
from logstore.log import EpochEntry, parse_leader_epoch_checkpoint
from logstore.names import DirectoryKind, FileKind

_COMPACTED_TOPICS = ("__consumer_offsets", "__transaction_state")
_FLAT_KINDS = (
    FileKind.PRODUCER_SNAPSHOT, FileKind.OFFSET_CHECKPOINT, FileKind.LEADER_EPOCH_CHECKPOINT,
    FileKind.PARTITION_METADATA, FileKind.META_PROPERTIES, FileKind.QUORUM_STATE,
)  # fmt: skip


_INDEX_FIELDS = {
    FileKind.OFFSET_INDEX: "offset_index",
    FileKind.TIME_INDEX: "time_index",
    FileKind.TRANSACTION_INDEX: "transaction_index",
}


def check(target: Target, options: CheckOptions) -> Iterator[Finding]:
    """Check a file, a partition directory or a log directory (as `layout.resolve` gives it).

    Raises UnsupportedFormatError for a file whose name says nothing, OSError only for the target itself.
    """
    if isinstance(target, SingleFile):
        if target.kind in (FileKind.OTHER, FileKind.TEMPORARY):
            raise UnsupportedFormatError("nothing is known of a file of this name", path=target.path)
        yield from _check_file(target, options)
    elif isinstance(target, PartitionFiles):
        context = context_around(target.path)
        if context is not None and not context.is_clean and target.topic_partition is not None:
            yield finding("unclean-shutdown", context.path, "no clean-shutdown mark in the log directory")
        yield from check_partition(target, context, options)
    else:
        yield from check_log_directory(target, options)


def check_log_directory(directory: LogDirectoryFiles, options: CheckOptions) -> Iterator[Finding]:
    """Check a log directory and all of its partitions."""
    context = read_context(directory.path)
    if context is not None:
        for path, error in context.errors:
            yield from_error("checkpoint", path, error)
        if not context.is_clean:
            yield finding("unclean-shutdown", directory.path, "no clean-shutdown mark")
        here = {topic_partition for topic_partition, _ in directory.partitions}
        named = context.recovery_points.keys() | context.high_watermarks.keys() | context.cleaner_offsets.keys()
        absent = [directory.path / str(topic_partition) for topic_partition in sorted(named - here)]
        yield from _count("checkpoint-partition", directory.path, absent)
    for path, reason in directory.foreign:
        yield finding("foreign-directory", path, reason)
    for name in (names.META_PROPERTIES, names.BOOTSTRAP_CHECKPOINT):
        if name in directory.named:
            yield from _check_file(single_file(directory.named[name]), options)
    yield from _count("leftover", directory.path, directory.leftovers)
    others = [path for path in directory.others if not path.name.startswith(names.OWN_PREFIX)]
    yield from _count("foreign-file", directory.path, others)
    yield from _count("set-aside", directory.path, [path for _, path in directory.set_aside])
    for partition in iter_partitions(directory, topic=options.topic, partition=options.partition):
        yield from check_partition(partition, context, options)


def check_partition(
    partition: PartitionFiles, context: LogDirectoryContext | None, options: CheckOptions
) -> Iterator[Finding]:
    """Check a partition directory; `context` is what its log directory says, if it has one."""
    if partition.error is not None:
        yield from_error("unreadable", partition.path, partition.error)
        return
    options.totals.partitions += 1
    if partition.name is not None and partition.name.kind != DirectoryKind.NORMAL:
        context = None  # checkpoints do not speak of directories that are set aside
    epochs, findings = _read_epochs(partition)
    yield from findings
    walk = LogWalk(
        _is_compacted(partition, context), epochs, options.batch_bytes_max, lambda: _read_epochs(partition)[0]
    )
    gaps: list[tuple[int, int, Path]] = []
    for number, segment in enumerate(partition.segments):
        expected = walk.next_offset
        if expected is not None and segment.base_offset > expected:
            gaps.append((expected, segment.base_offset, segment.log))
            walk.next_offset = segment.base_offset
        is_last = number == len(partition.segments) - 1
        yield from check_segment(segment, is_last, _may_be_padded(partition, is_last, context), walk, context, options)
        yield from _missing_indexes(segment)
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


# ---------------------------------------------------------------- parts of a partition


def _missing_indexes(segment: SegmentFiles) -> Iterator[Finding]:
    """Kafka makes both indexes with the first append to a segment."""
    missing = [what for what, path in (("offset", segment.offset_index), ("time", segment.time_index)) if path is None]
    if missing and segment.log.is_file() and segment.log.stat().st_size:
        yield finding("index-missing", segment.log, f"the segment has no {' and no '.join(missing)} index")


def _check_gaps(partition: PartitionFiles, gaps: list[tuple[int, int, Path]], walk: LogWalk) -> Iterator[Finding]:
    if walk.is_compacted or walk.gaps or not walk.is_complete:
        return  # offsets are missing inside segments too: the mark of compaction
    for start, end, path in gaps:
        lost = [offset for offset, _ in partition.snapshots if start <= offset < end]
        message = f"offsets {start} to {end - 1} are missing before this segment"
        if lost:
            yield finding("segment-missing", path, f"{message}, and there is a snapshot at {lost[0]}", offset=start)
        else:
            yield finding("segment-gap", path, message, offset=start)


def _check_end(partition: PartitionFiles, context: LogDirectoryContext | None, walk: LogWalk) -> Iterator[Finding]:
    """Hold what is known of the log's end against the end that was found."""
    if not partition.segments or not walk.is_complete:
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
        return (), [from_error("checkpoint", path, error)]
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
    elif file.kind in _INDEX_FIELDS:
        yield from _check_index_file(file, options)
    elif file.kind in _FLAT_KINDS:
        code = "snapshot" if file.kind == FileKind.PRODUCER_SNAPSHOT else "checkpoint"
        try:
            for _ in file_rows(file):
                pass
        except (LogstoreError, OSError) as error:
            yield from_error(code, file.path, error)


def _check_batch_file(file: SingleFile, options: CheckOptions) -> Iterator[Finding]:
    segment, siblings = SegmentFiles(file.first_offset, file.path), None
    if file.is_segment:
        siblings = partition_files(file.directory)
        known = (one for one in siblings.segments if one.base_offset == segment.base_offset)
        segment = dataclasses.replace(next(known, segment), log=file.path)
    yield from _check_in_place(segment, siblings, options)


def _check_index_file(file: SingleFile, options: CheckOptions) -> Iterator[Finding]:
    stem, _, rest = file.path.name.partition(".")
    _, dot, suffix = rest.partition(".")  # of files set aside: `.deleted`, `.cleaned`, `.swap`
    log = file.path.with_name(f"{stem}.log{dot}{suffix}")
    if not log.exists():
        yield finding("index-orphan", file.path, "no log file of this offset")
        try:
            for _ in file_rows(file):
                pass
        except (LogstoreError, OSError) as error:
            yield from_error("index-size", file.path, error)
        return
    segment = SegmentFiles(file.base_offset or 0, log, **{_INDEX_FIELDS[file.kind]: file.path})
    siblings = partition_files(file.directory) if file.is_in_use else None
    quiet = dataclasses.replace(options, progress=lambda _: None)
    for one in _check_in_place(segment, siblings, quiet):
        if one.path == file.path:
            yield one


def _check_in_place(segment: SegmentFiles, siblings: PartitionFiles | None, options: CheckOptions) -> Iterator[Finding]:
    """Check a segment by what its neighbours tell; one that is set aside has none."""
    is_last, context = True, None
    epochs: tuple[EpochEntry, ...] = ()
    if siblings is not None:
        is_last = not siblings.segments or siblings.segments[-1].base_offset <= segment.base_offset
        epochs, _ = _read_epochs(siblings)
        if siblings.name is not None and siblings.name.kind == DirectoryKind.NORMAL:
            context = context_around(siblings.path)
    walk = LogWalk(False, epochs, options.batch_bytes_max)
    padded = siblings is None or _may_be_padded(siblings, is_last, context)
    yield from check_segment(segment, is_last, padded, walk, context, options)
    options.totals.batches += walk.batches
    options.totals.records += walk.records


def _count(code: str, path: Path, paths: tuple[Path, ...] | list[Path]) -> Iterator[Finding]:
    if paths:
        shown = ", ".join(one.name for one in paths[:3]) + (" …" if len(paths) > 3 else "")
        yield finding(code, path, f"{len(paths)}: {shown}")
