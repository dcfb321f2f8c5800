"""Which segments are cleaned together (CLEANER §4.1)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.cleaner import group_segments
from logstore.config import LogConfig
from logstore.log.segment_view import SegmentView

SPAN = 2**31 - 1
HUGE = LogConfig(segment_bytes=SPAN, segment_index_bytes=SPAN)


def segment(base: int, end: int, size: int = 100, index: int = 8, time_index: int = 12) -> SegmentView:
    return SegmentView(base, end, size, 1, 1, 1, index, time_index, False)


TEN = [segment(base, base + 10) for base in range(0, 100, 10)]


def sizes(segments: list[SegmentView], **limits: int) -> list[int]:
    """How many segments each group has; together they are all, in order."""
    groups = group_segments(segments, replace(HUGE, **limits))
    assert [one for group in groups for one in group] == segments
    return [len(group) for group in groups]


@pytest.mark.kafka("CLEAN-77")
def test_segments_are_grouped_as_long_as_limits_hold() -> None:
    assert sizes(TEN) == [10]
    assert sizes(TEN, segment_bytes=14) == [1] * 10
    assert sizes(TEN, segment_index_bytes=4) == [1] * 10
    assert sizes(TEN, segment_bytes=301) == [3, 3, 3, 1]
    assert sizes(TEN, segment_bytes=300) == [3, 3, 3, 1]
    assert sizes(TEN, segment_bytes=299) == [2] * 5
    assert sizes(TEN, segment_index_bytes=3 * 12 + 1) == [3, 3, 3, 1]
    wide = [one._replace(index_bytes=20) for one in TEN]
    assert sizes(wide, segment_index_bytes=61) == [3, 3, 3, 1]


@pytest.mark.kafka("CLEAN-78")
def test_a_group_has_no_more_offsets_than_a_segment_can_have() -> None:
    first = segment(0, SPAN)
    assert sizes([first, segment(SPAN, SPAN + 1)]) == [2]  # its last offset is 2^31 - 1
    assert sizes([first, segment(SPAN, SPAN + 2)]) == [1, 1]
    more = [segment(SPAN + 2, SPAN + 5), segment(SPAN + 5, SPAN + 9)]
    assert sizes([first, segment(SPAN, SPAN + 2), *more]) == [1, 3]


@pytest.mark.kafka("CLEAN-79")
def test_the_range_of_offsets_is_told_by_bases_and_not_by_indexes() -> None:
    assert sizes([segment(0, SPAN, index=0, time_index=0), segment(SPAN, SPAN + 2, index=0, time_index=0)]) == [1, 1]


def test_empty_segments_join_any_group() -> None:
    empties = [segment(base, base + SPAN, size=0, index=0, time_index=0) for base in range(0, 3 * SPAN, SPAN)]
    assert sizes(empties) == [3]
    assert sizes([*empties[:2], segment(2 * SPAN, 3 * SPAN)]) == [2, 1]


def test_without_segments_there_are_no_groups() -> None:
    assert group_segments([], HUGE) == []


@pytest.mark.kafka("PROP-17")
@settings(deadline=None, database=None, max_examples=200)
@given(
    st.lists(st.tuples(st.integers(1, SPAN), st.integers(0, 500), st.integers(0, 90), st.integers(0, 90)), max_size=20),
    st.integers(14, 1000), st.integers(4, 200),
)  # fmt: skip
def test_groups_are_as_long_as_they_may_be(
    facts: list[tuple[int, int, int, int]], segment_bytes: int, index_bytes: int
) -> None:
    segments, base = [], 0
    for span, size, index, time_index in facts:
        segments.append(segment(base, base + span, size, index, time_index))
        base += span

    def fits(group: tuple[SegmentView, ...]) -> bool:
        return (
            sum(one.size for one in group) <= segment_bytes
            and sum(one.index_bytes for one in group) <= index_bytes
            and sum(one.time_index_bytes for one in group) <= index_bytes
            and (not group[-1].size or group[-1].end_offset - 1 - group[0].base_offset <= SPAN)
        )

    groups = group_segments(segments, LogConfig(segment_bytes=segment_bytes, segment_index_bytes=index_bytes))
    assert [one for group in groups for one in group] == segments
    for group in groups:
        assert all(fits(group[:end]) for end in range(2, len(group) + 1))
    for group, following in pairwise(groups):
        assert not fits((*group, following[0]))
