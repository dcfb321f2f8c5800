"""Checks one segment: its batches, and its indexes against them.

Read-only and tolerant: a finding stands where something is wrong, and the check goes on. Memory is flat. One check
belongs to one thread.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

from logstore.errors import LogstoreError
from logstore.inspect.check_batches import LogWalk, check_batch
from logstore.inspect.check_indexes import OffsetIndexCheck, TimeIndexCheck, check_transaction_index
from logstore.inspect.findings import Finding, Severity, finding
from logstore.inspect.layout import LogDirectoryContext, SegmentFiles, read_small
from logstore.inspect.tails import explain_tail
from logstore.log import RecordFile
from logstore.records import BATCH_BYTES_MAX, Damage, RecordBatch

OFFSET_MAX = 2**63 - 1


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
        with RecordFile(segment.log) as records:
            yield from _check_records(records, segment, is_last, may_be_padded, walk, context, options)
    except OSError as error:
        walk.is_complete = False
        yield from_error("unreadable", segment.log, error)


def _check_records(
    records: RecordFile,
    segment: SegmentFiles,
    is_last: bool,
    may_be_padded: bool,
    walk: LogWalk,
    context: LogDirectoryContext | None,
    options: CheckOptions,
) -> Iterator[Finding]:
    checks: list[OffsetIndexCheck | TimeIndexCheck] = []
    for path, kind in ((segment.offset_index, OffsetIndexCheck), (segment.time_index, TimeIndexCheck)):
        data, problem = _read(path)
        yield from problem
        if path is not None and data is not None:
            checks.append(kind(path, data, segment.base_offset, may_be_padded))
            yield from checks[-1].begin()
    has_damage = False
    aborts_before = len(walk.transactions.aborts)
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
    has_grown = _size_now(segment.log) > records.size  # then entries beyond the batches speak of what came meanwhile
    for check in checks:
        yield from check.finish(has_damage or has_grown)
    yield from _check_aborts(segment, walk, aborts_before, has_grown)


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


def _size_now(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _check_aborts(segment: SegmentFiles, walk: LogWalk, before: int, has_grown: bool) -> Iterator[Finding]:
    aborts = walk.transactions.aborts[before:]
    data, problem = _read(segment.transaction_index)
    yield from problem
    if segment.offset_index is None and segment.transaction_index is None:
        return  # a segment by itself: a broker makes all of its indexes anew
    if aborts or data:
        end = segment.base_offset if walk.next_offset is None else walk.next_offset
        end = OFFSET_MAX if has_grown else end
        path = segment.transaction_index
        yield from check_transaction_index(
            path, segment.log, data or b"", segment.base_offset, end, aborts, is_whole=walk.is_whole
        )


def _read(path: Path | None) -> tuple[bytes | None, list[Finding]]:
    if path is None:
        return None, []
    try:
        return read_small(path), []
    except (LogstoreError, OSError) as error:
        return None, [from_error("index-size", path, error)]


def from_error(code: str, path: Path, error: LogstoreError | OSError) -> Finding:
    """What an error means: content of the given code, a file that went away meanwhile, or one that cannot be read."""
    if isinstance(error, FileNotFoundError):
        if path.is_symlink():
            return finding("unreadable", path, "the symbolic link leads nowhere")
        return finding("vanished", path, "was deleted while the directory was read")
    if isinstance(error, OSError):
        return finding("unreadable", path, error.strerror or str(error))
    return finding(code, path, error.reason, position=error.position, offset=error.offset)
