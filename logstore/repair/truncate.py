"""Cuts the end of a log off, offline.

It is tried out first: what is asked for and cannot be is refused with nothing changed, and what goes is counted.
Belongs to one thread.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from logstore import names
from logstore.clock import Clock
from logstore.config import LogConfig
from logstore.errors import DamagedLogError, LogstoreError, OffsetOutOfRangeError
from logstore.fs import FileSystem
from logstore.log import Log, Recovered
from logstore.names import FileKind
from logstore.records import RecordBatch, iter_batches
from logstore.repair.dry_run import DryRunFileSystem
from logstore.repair.held import HeldDirectory, OnRead
from logstore.repair.opening import refuse_unclean, taken


@dataclasses.dataclass(frozen=True, slots=True)
class Truncation:
    """What was cut, or would be.

    Attributes:
        path: the partition directory.
        offset: what was asked for.
        log_start_offset: of the log before.
        end_before, end: the log end offset before, and after: the end of the last batch that is kept whole.
        segments, size: segment files, and bytes of batches, that went.
        batches, records: how many went, control records among them; None where damage keeps them from being counted.
        split: first and last offset of the batch that `offset` lies within; it went as a whole.
        recovered: what opening the log has done before, if anything.
    """

    path: Path
    offset: int
    log_start_offset: int
    end_before: int
    end: int
    segments: int = 0
    size: int = 0
    batches: int | None = 0
    records: int | None = 0
    split: tuple[int, int] | None = None
    recovered: Recovered | None = None


def truncate(
    fs: FileSystem,
    partition: Path,
    offset: int,
    *,
    force: bool = False,
    config: LogConfig | None = None,
    clock: Clock | None = None,
    on_read: OnRead | None = None,
) -> Truncation:
    """Drop all records from `offset` on; durable on return. `partition` is as `locate` gives it.

    Damage that lies in what goes is no hindrance. Raises OffsetOutOfRangeError when `offset` is not in the log,
    DamagedLogError when the log is damaged before it, with nothing changed; LogLockedError, LogstoreError as
    `refuse_unclean`, OSError.
    """
    config = dataclasses.replace(config or LogConfig(), file_delete_delay_ms=0)  # nobody is reading
    held = HeldDirectory.take_partition(fs, partition, on_read)
    try:
        refuse_unclean(held, force=force)
        trial = DryRunFileSystem(held.fs)
        try:
            found, cut_damage = _tried(trial, partition, config, offset, cut_damage=False), False
        except DamagedLogError as error:
            if error.offset is None or error.offset < offset:
                raise
            trial = DryRunFileSystem(held.fs)
            found, cut_damage = _tried(trial, partition, config, offset, cut_damage=True), True
        if not found.size:
            return found
        held.lower(partition, found.end)
        with taken(held, partition, config, clock=clock, cut_damage=cut_damage) as log:
            log.truncate_to(found.end)
            log.maintain()
        return found
    finally:
        held.release()


def _tried(fs: FileSystem, partition: Path, config: LogConfig, offset: int, *, cut_damage: bool) -> Truncation:
    """What truncating does, found out by doing it on a file system that forgets it."""
    before, size = _segments(fs, partition)
    with Log.open(partition, config, fs=fs, damage="cut" if cut_damage else "refuse") as log:
        recovered, start, end_before = log.recovered, log.log_start_offset, log.log_end_offset
        if not cut_damage:  # what recovery cuts is not of our doing
            size = log.size
        if not start <= offset <= end_before:
            raise OffsetOutOfRangeError(
                f"the log has offsets {start} to {end_before} (next)", path=partition, offset=offset
            )
        split = _batch_around(log, offset)
        batches, records = (None, None) if cut_damage else _counted(log, offset)
        log.truncate_to(offset)
        kept = log.size
        log.maintain()
    # Opened again, it ends behind its last batch: at `offset`, or before, where none ends there.
    with Log.open(partition, config, fs=fs) as log:
        end = log.log_end_offset if kept < size else end_before
    return Truncation(
        partition, offset, start, end_before, end, before - _segments(fs, partition)[0], size - kept, batches, records,
        split, recovered,
    )  # fmt: skip


def _batch_around(log: Log, offset: int) -> tuple[int, int] | None:
    for batch in _batches(log, offset):
        return (batch.header.base_offset, batch.last_offset) if batch.header.base_offset < offset else None
    return None


def _counted(log: Log, offset: int) -> tuple[int | None, int | None]:
    batches = records = 0
    try:
        for batch in _batches(log, offset):
            batches += 1
            records += batch.header.count if batch.header.magic == 2 else sum(map(len, batch.record_pieces()))
    except (LogstoreError, ValueError):
        return None, None
    return batches, records


def _batches(log: Log, offset: int) -> Iterator[RecordBatch]:
    if offset < log.log_end_offset:
        for data in log.slices(offset):
            yield from iter_batches(data, verify=False)


def _segments(fs: FileSystem, partition: Path) -> tuple[int, int]:
    """How many segments there are, and the bytes of their log files."""
    found = [name for name in fs.list(partition) if names.classify_file(name)[::2] == (FileKind.LOG, None)]
    return len(found), sum(fs.file_size(partition / name) for name in found)
