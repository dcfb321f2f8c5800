"""A look at what opening a log for writing would do to it, and at its last segment, before anything is changed.

Who opens a log for writing sets right what it may, and so cuts what it cannot read. Invariant: nothing is changed.
Belongs to one thread.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from logstore import names
from logstore.cleaner.offset_map import KEY_SLOT_BYTES, OffsetMap, build_map
from logstore.cleaner.source import Pace
from logstore.clock import Clock
from logstore.config import INT64_MAX, LogConfig
from logstore.errors import DamagedLogError, LogstoreError
from logstore.fs import File, FileSystem
from logstore.log import Log, Recovered
from logstore.log.segment_scan import SizedSource, scan_segment
from logstore.log.validate import decompressed_size_max
from logstore.names import FileKind
from logstore.records import BatchScanner, RecordBatch, first_batch_size
from logstore.records.header import HEADER_V2_SIZE
from logstore.repair.dry_run import DryRunFileSystem

_REMEDY = "`logstore check` says how much is damaged"
_ONE_KEY = 2 * KEY_SLOT_BYTES


def refuse_damage(
    fs: FileSystem, partition: Path, config: LogConfig, *, clock: Clock, on_read: Callable[[int], object]
) -> None:
    """Raise DamagedLogError for damage that a log cleaner would come upon when something was changed already; OSError.

    That is damage in the active segment, and where opening would cut some. Where opening the log would change a file at
    all, as by removing a producer snapshot of no segment, the whole log is looked at; otherwise the cleaner itself
    reads all of it before it changes anything. A last batch that was not written to its end is no damage.
    """
    trial = DryRunFileSystem(fs, clock=clock)
    with Log.open(partition, config, fs=trial, clock=clock) as log:
        if log.recovered is not None:
            _refuse_cut(trial, log.recovered)
        base_offset = log.segments[-1].base_offset
    place = partition / names.log_file_name(base_offset)
    with trial.open(place) as file:
        scan = scan_segment(file, base_offset, config)
    on_read(scan.file_size)
    if scan.cut:
        raise DamagedLogError(
            scan.problem or "its offsets are out of the range of a segment", path=place, position=scan.valid_size,
            offset=scan.next_offset, remedy=_REMEDY,
        )  # fmt: skip
    if _has_changed(fs, trial, partition):
        with Log.open(partition, config, fs=trial, clock=clock) as log:
            _read_all(log, on_read)


def _has_changed(fs: FileSystem, trial: FileSystem, partition: Path) -> bool:
    """Whether a file of a partition is there in one of two file systems alone, or has other bytes."""
    found = trial.list(partition)
    if found != fs.list(partition):
        return True
    touched = [
        one for name in found if trial.modified_ms(one := partition / name) != fs.modified_ms(one)
    ]  # fmt: skip
    return any(
        fs.file_size(one) != trial.file_size(one)
        or (names.classify_file(one.name).kind is not FileKind.LOG and _content(fs, one) != _content(trial, one))
        for one in touched
    )


def _content(fs: FileSystem, path: Path) -> bytes:
    with fs.open(path) as file:
        return file.read(0, file.size())


def _read_all(log: Log, on_read: Callable[[int], object]) -> None:
    """Raise DamagedLogError for what is not in order in the sealed segments."""
    facts = log.rewriter.facts()
    nothing = OffsetMap(_ONE_KEY)
    build_map(
        nothing, facts.sealed, INT64_MAX, INT64_MAX, facts.aborted, Pace(on_read, lambda: False),
        decompressed_size_max(log.config),
    )  # fmt: skip


def _refuse_cut(fs: FileSystem, found: Recovered) -> None:
    """Raise DamagedLogError where opening a log for writing would cut more than a torn batch."""
    for kept in found.kept_aside:
        with fs.open(kept) as file:
            if not _holds_a_batch(file):
                continue
        cut = next(one for one in found.actions if one.kind == "cut")
        raise DamagedLogError(f"it ends in damage, {cut.detail.partition(';')[0]}", path=cut.path, remedy=_REMEDY)


def _holds_a_batch(file: File) -> bool:
    """Whether there is more than the begin of one batch, good or not."""
    with contextlib.suppress(LogstoreError):
        needed = first_batch_size(file.read(0, HEADER_V2_SIZE))
        if needed is not None and needed <= file.size():
            return True
    return any(isinstance(one, RecordBatch) for one in BatchScanner(SizedSource(file)))
