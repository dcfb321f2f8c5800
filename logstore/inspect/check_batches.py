"""Checks the batches of one segment, one after the other: offsets, counts, bodies, epochs, control records.

The state carried from batch to batch is that of a `LogWalk`, which lives for a whole partition. One thread.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

from logstore.errors import (
    BatchTooLargeError,
    CorruptRecordError,
    InvalidRecordError,
    LogstoreError,
    UnsupportedFormatError,
)
from logstore.inspect.findings import Finding, Severity, finding
from logstore.inspect.transactions import TransactionTracker
from logstore.log import EpochEntry
from logstore.records import ControlType, RecordBatch, RecordStats, TimestampType
from logstore.records.legacy import decode_legacy

OFFSET_RANGE = 2**31 - 1  # offsets of a segment lie within 31 bits of its base


@dataclasses.dataclass(slots=True)
class LogWalk:
    """What is known of a log up to the batch that comes next.

    `next_offset` is the first offset that may follow, None before the first batch; `gaps` counts the places where
    offsets are missing between batches, `is_compacted` tells that they are no surprise.
    """

    is_compacted: bool
    epochs: tuple[EpochEntry, ...]
    batch_bytes_max: int
    reread_epochs: Callable[[], tuple[EpochEntry, ...]] = lambda: ()  # a live broker may have begun a new one meanwhile
    transactions: TransactionTracker = dataclasses.field(default_factory=TransactionTracker)
    first_offset: int | None = None
    next_offset: int | None = None
    leader_epoch: int = -1
    gaps: int = 0
    is_complete: bool = True  # False once a segment could not be read: then the end of the log is not known
    batches: int = 0
    records: int = 0
    size: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether every offset from 0 on has been seen."""
        return self.first_offset == 0 and self.gaps == 0 and self.is_complete and not self.is_compacted


def check_batch(batch: RecordBatch, path: Path, base_offset: int, walk: LogWalk) -> Iterator[Finding]:
    """Check one batch whose CRC is right, and move the walk behind it."""
    header = batch.header
    first_offset = header.base_offset
    yield from _check_epoch(batch, path, walk)
    try:
        if header.magic == 2:
            yield from _check_body(batch, path, walk)
        else:
            records = decode_legacy(batch.raw, 0, header, size_max=walk.batch_bytes_max, verify=True)
            walk.records += len(records)
            first_offset = records[0].offset
            if any(one.offset >= other.offset for one, other in itertools.pairwise(records)):
                yield found("record-offset", path, batch, "the offsets inside a compressed set do not ascend")
            elif records[-1].offset != header.base_offset:
                message = f"the last offset inside a compressed set is {records[-1].offset}, not that of the set"
                yield found("record-offset", path, batch, message)
    except BatchTooLargeError as error:
        yield found("batch-too-large", path, batch, error.reason)
    except UnsupportedFormatError as error:
        yield found("batch-codec", path, batch, error.reason)
    except (InvalidRecordError, CorruptRecordError) as error:
        code = (
            "legacy-message" if header.magic < 2 else "batch-compression" if "stream" in error.reason else "record-body"
        )
        yield found(code, path, batch, error.reason)
    yield from _check_offsets(batch, first_offset, path, base_offset, walk)
    yield from _check_control(batch, path, walk)
    if walk.first_offset is None:
        walk.first_offset = first_offset
    walk.batches += 1
    walk.size += header.size
    walk.next_offset = max(walk.next_offset or 0, batch.next_offset)


def _check_offsets(
    batch: RecordBatch, first_offset: int, path: Path, base_offset: int, walk: LogWalk
) -> Iterator[Finding]:
    """`first_offset` is the batch's first as far as one can tell: a compressed set of v0 or v1 names only its last."""
    header = batch.header
    expected = base_offset if walk.next_offset is None else walk.next_offset
    if first_offset < base_offset or batch.last_offset - base_offset > OFFSET_RANGE:
        message = f"offsets {first_offset} to {batch.last_offset} are not in the range of segment {base_offset}"
        yield found("batch-offset", path, batch, message)
    elif first_offset < expected:
        yield found("batch-offset", path, batch, f"offset {first_offset} comes where {expected} is next")
    elif first_offset > expected and walk.next_offset is not None:
        walk.gaps += 1
        if not walk.is_compacted:
            message = f"offsets {expected} to {first_offset - 1} are missing before this batch"
            yield found("offset-gap", path, batch, message)
    if header.magic == 2 and not 0 <= header.count <= header.last_offset_delta + 1:
        message = f"the header claims {header.count} records for {header.last_offset_delta + 1} offsets"
        yield found("batch-count", path, batch, message)


def _check_epoch(batch: RecordBatch, path: Path, walk: LogWalk) -> Iterator[Finding]:
    """Leader epochs never go back, and the checkpoint knows where each began (LOG_SEMANTICS §10)."""
    if batch.header.magic < 2:
        return
    flaw = _epoch_flaw(batch, walk)
    if flaw and (epochs := walk.reread_epochs()) and epochs != walk.epochs:
        walk.epochs = epochs
        flaw = _epoch_flaw(batch, walk)
    if flaw:
        yield found("leader-epoch", path, batch, flaw)
    else:
        walk.leader_epoch = max(batch.header.leader_epoch, walk.leader_epoch)


def _epoch_flaw(batch: RecordBatch, walk: LogWalk) -> str:
    epoch, offset = batch.header.leader_epoch, batch.header.base_offset
    number = bisect.bisect_right(walk.epochs, offset, key=lambda entry: entry.start_offset)
    known = walk.epochs[number - 1].epoch if number else None
    if epoch < -1:
        return f"leader epoch {epoch} is impossible"
    if epoch < 0:
        is_expected = walk.leader_epoch >= 0 or known is not None
        return (
            f"no leader epoch where {walk.leader_epoch if known is None else known} is expected" if is_expected else ""
        )
    if epoch < walk.leader_epoch:
        return f"leader epoch {epoch} behind batches of epoch {walk.leader_epoch}"
    if known is not None and known != epoch:
        return f"leader epoch {epoch} where the checkpoint says {known}"
    if known is None and walk.epochs and epoch > walk.epochs[0].epoch:
        return f"leader epoch {epoch} before the checkpoint's first, {walk.epochs[0].epoch}"
    return ""


def _check_body(batch: RecordBatch, path: Path, walk: LogWalk) -> Iterator[Finding]:
    header = batch.header
    stats = batch.stats(size_max=walk.batch_bytes_max)
    walk.records += stats.count
    if stats.count <= header.last_offset_delta or batch.delete_horizon_ms is not None:
        walk.is_compacted = True  # only compaction takes records out of a batch
    if not stats.count:
        return
    if stats.disordered >= 0 or stats.last_offset_delta > header.last_offset_delta:
        message = "the offsets of the records in this batch do not ascend within its range"
        yield found("record-offset", path, batch, message)
    if batch.timestamp_type == TimestampType.CREATE_TIME and (newest := _newest(batch, stats)) != header.max_timestamp:
        message = f"the header says {header.max_timestamp} is the largest timestamp, the records {newest}"
        yield found("batch-timestamp", path, batch, message)


def _newest(batch: RecordBatch, stats: RecordStats) -> int:
    return batch.header.base_timestamp + stats.timestamp_delta_max


def _check_control(batch: RecordBatch, path: Path, walk: LogWalk) -> Iterator[Finding]:
    try:
        control_type = walk.transactions.add(batch)
        if batch.is_control and control_type is None and batch.header.count:
            control_type = batch.control_type(size_max=walk.batch_bytes_max)
    except BatchTooLargeError:
        return
    except LogstoreError as error:
        if batch.is_control:
            yield found("control-record", path, batch, error.reason)
        return
    if control_type == ControlType.UNKNOWN:
        yield found("control-record", path, batch, "a control record of an unknown type", Severity.NOTE)


def found(code: str, path: Path, batch: RecordBatch, message: str, severity: Severity | None = None) -> Finding:
    """A finding at the place of a batch."""
    header = batch.header
    return finding(code, path, message, position=header.position, offset=header.base_offset, severity=severity)
