"""Which adjacent segments are cleaned together, into one (CLEANER §4.1). Pure and stateless, therefore thread-safe."""

from __future__ import annotations

from collections.abc import Sequence

from logstore.config import INT32_MAX, LogConfig
from logstore.log.segment_view import SegmentView


def group_segments(segments: Sequence[SegmentView], config: LogConfig) -> list[tuple[SegmentView, ...]]:
    """Put segments, in order, into groups: each takes the next segment as long as all limits hold for the group.

    Those are segment.bytes for the batches, segment.index.bytes for each index, and offsets that a segment can have.
    The last offset of a segment is estimated by where the next one begins: an index may be damaged. One segment alone
    may be above the limits.
    """
    groups: list[tuple[SegmentView, ...]] = []
    group: list[SegmentView] = []
    for segment in segments:
        if group and not _fits(group, segment, config):
            groups.append(tuple(group))
            group = []
        group.append(segment)
    if group:
        groups.append(tuple(group))
    return groups


def _fits(group: Sequence[SegmentView], candidate: SegmentView, config: LogConfig) -> bool:
    together = (*group, candidate)
    return (
        sum(one.size for one in together) <= config.segment_bytes
        and sum(one.index_bytes for one in together) <= config.segment_index_bytes
        and sum(one.time_index_bytes for one in together) <= config.segment_index_bytes
        and (candidate.size == 0 or candidate.end_offset - 1 - group[0].base_offset <= INT32_MAX)
    )
