"""What is told of a segment to those who do not touch it: retention, the log cleaner, reports.

Immutable: the facts are those of the moment they were asked for.
"""

from __future__ import annotations

from typing import NamedTuple

from logstore.log.segment import Segment


class SegmentView(NamedTuple):
    """The facts about a segment that decide whether it is deleted or cleaned.

    Attributes:
        base_offset: its first offset, and its name.
        end_offset: the base offset of the next segment, for the last one the log end offset.
        size: bytes of batches.
        largest_timestamp: of its records (ms since the epoch); where none has one, the time its log file was changed.
        first_timestamp: the largest timestamp of its first batch (ms), -1 when that is unknown or the segment empty.
        modified_ms: when its log file was changed (ms since the epoch).
        index_bytes: bytes of entries in its offset index.
        time_index_bytes: bytes of entries in its time index.
        is_active: whether it is the one that is appended to.
    """

    base_offset: int
    end_offset: int
    size: int
    largest_timestamp: int
    first_timestamp: int
    modified_ms: int
    index_bytes: int
    time_index_bytes: int
    is_active: bool


def view_segment(segment: Segment, end_offset: int, *, is_active: bool) -> SegmentView:
    """The facts about a segment of an open log; under the log's lock. Raises OSError."""
    modified, largest, first = segment.modified_ms, segment.max_timestamp, segment.first_timestamp
    index_bytes, time_index_bytes = segment.indexes.sizes()
    return SegmentView(
        segment.base_offset, end_offset, segment.size, largest if largest >= 0 else modified,
        -1 if first is None else first, modified, index_bytes, time_index_bytes, is_active,
    )  # fmt: skip
