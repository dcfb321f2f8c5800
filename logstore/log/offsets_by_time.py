"""Which offset belongs to a time (LOG_SEMANTICS §7).

Takes no lock of its own: the caller has it, or is `LogReader.steadily`. Thread-safe under these.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from logstore.errors import DamagedLogError
from logstore.log.reading import REMEDY, Bounds
from logstore.log.segment import Segment
from logstore.log.segments import Segments
from logstore.records import RecordBatch, TimestampType


class TimestampOffset(NamedTuple):
    """An offset with its record's timestamp (ms) and leader epoch; -1 stands for none."""

    timestamp: int
    offset: int
    leader_epoch: int = -1


def offset_for_time(bounds: Bounds, segments: Segments, timestamp: int, size_max: int) -> TimestampOffset | None:
    """The first record at or behind the log start whose timestamp is `timestamp` or later; None if there is none.

    As in Kafka, only the first segment that holds such a timestamp is searched. `size_max` is what a batch may
    decompress to. Raises DamagedLogError, and LogstoreError for a batch that cannot be decoded.
    """
    for segment in segments:
        if segment.largest_timestamp >= timestamp:
            entry = segment.indexes.time_floor(timestamp)
            position = segment.start_of(max(entry.offset, bounds.log_start_offset))
            for batch in _batches(segment, position):
                if batch.header.max_timestamp >= timestamp and batch.last_offset >= bounds.log_start_offset:
                    record = _first_record(batch, timestamp, bounds.log_start_offset, size_max)
                    if record is not None:
                        return record
            return None
    return None


def max_timestamp_offset(segments: Segments, size_max: int) -> TimestampOffset | None:
    """The first record of the largest timestamp in the log; None where no record has one. Under the log's lock.

    As in Kafka, it may lie below the log start as long as its segment is there. Raises as `offset_for_time`.
    """
    best: Segment | None = None
    for segment in segments:
        if segment.max_timestamp >= 0 and (best is None or segment.max_timestamp > best.max_timestamp):
            best = segment
    if best is None:
        return None
    timestamp = best.max_timestamp
    # The entry may name the last of several batches that were appended together: begin where they do.
    for start in (best.start_of(best.offset_of_max), 0):
        for batch in _batches(best, start):
            if batch.header.max_timestamp == timestamp:
                return _first_record(batch, timestamp, 0, size_max)
    return None


def _batches(segment: Segment, position: int) -> Iterator[RecordBatch]:
    """The batches of a segment from a position on."""
    size = segment.size
    while position < size:
        found = segment.batches(position, size)
        if not found:
            raise DamagedLogError(
                "a batch reaches beyond the end of the segment", path=segment.path, position=position, remedy=REMEDY
            )
        yield from found
        position = found[-1].header.position + found[-1].header.size


def _first_record(batch: RecordBatch, timestamp: int, offset_min: int, size_max: int) -> TimestampOffset | None:
    if batch.timestamp_type is TimestampType.NONE:
        return None
    for record in batch.records(size_max=size_max):
        if record.timestamp >= timestamp and record.offset >= offset_min:
            epoch = batch.header.leader_epoch if batch.header.magic == 2 else -1
            return TimestampOffset(record.timestamp, record.offset, epoch)
    return None
