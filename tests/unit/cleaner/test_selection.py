"""What may be cleaned: the range, how dirty it is, how late, and which log comes first."""

from __future__ import annotations

import pytest
from helpers.open_logs import START, Place, Producer, fill
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.cleaner.manager import assess_log
from logstore.cleaner.selection import (
    Cleanability,
    assess,
    clean_and_cleanable_bytes,
    first_dirty_offset,
    first_uncleanable_offset,
    overdue_ms,
    pick_filthiest,
)
from logstore.config import LogConfig
from logstore.log import Log
from logstore.log.segment_view import SegmentView

HOUR = 3_600_000
COMPACT = LogConfig(cleanup_policy=frozenset({"compact"}))
bounded = settings(deadline=None, database=None, max_examples=200)


def segment(base: int, end: int, *, size: int = 100, largest: int = START, first: int = START) -> SegmentView:
    return SegmentView(base, end, size, largest, first, START, 0, 0, False)


def log_of(*segments: SegmentView) -> list[SegmentView]:
    """The segments of a log, the last of which is active."""
    return [*segments[:-1], segments[-1]._replace(is_active=True)]


TEN_EACH = log_of(*(segment(base, base + 10) for base in range(0, 60, 10)))
"""Segments at 0, 10, ... 50, the last one active, the log end at 60."""


def bound(
    segments: list[SegmentView], first_dirty: int = 0, *, stable: int = 1000, watermark: int = 1000, lag: int = 0,
    now: int = START,
) -> tuple[int, int]:  # fmt: skip
    found = first_uncleanable_offset(
        segments, first_dirty, last_stable_offset=stable, high_watermark=watermark, min_lag_ms=lag, now_ms=now
    )
    return found.limit, found.offset


def judged(segments: list[SegmentView], config: LogConfig = COMPACT, **facts: int | None) -> Cleanability:
    end = segments[-1].end_offset
    told = {
        "cleaner_point": None, "log_start_offset": segments[0].base_offset, "log_end_offset": end,
        "last_stable_offset": end, "high_watermark": end, "now_ms": START,
    }  # fmt: skip
    return assess(segments, config, **{**told, **facts})  # type: ignore[arg-type]


def blocks(log: Log, count: int, timestamp: int) -> None:
    """Segments of one record each, and an empty active one behind them."""
    for _ in range(count):
        fill(log, 1, timestamp=timestamp)
        log.roll()


# ---- where cleaning begins


def test_a_log_without_a_cleaner_point_is_dirty_from_its_start_on() -> None:
    assert first_dirty_offset(None, 7, 50)[:2] == (7, False)


def test_a_log_is_dirty_from_its_cleaner_point_on() -> None:
    assert first_dirty_offset(7, 7, 50)[:2] == (7, False)
    assert first_dirty_offset(50, 7, 50)[:2] == (50, False)


@pytest.mark.kafka("CLEAN-34")
def test_a_cleaner_point_outside_of_the_log_is_set_right() -> None:
    assert first_dirty_offset(15, 10, 20)[:2] == (15, False)
    assert first_dirty_offset(15, 20, 20)[:2] == (20, True)
    assert first_dirty_offset(25, 10, 20)[:2] == (10, True)


def test_the_reason_for_the_first_dirty_offset_names_the_numbers() -> None:
    assert first_dirty_offset(None, 7, 50).reason == "the log was never cleaned"
    assert "5" in first_dirty_offset(5, 7, 50).reason
    assert {"60", "50"} <= set(first_dirty_offset(60, 7, 50).reason.replace(",", "").split())


# ---- where it ends


def test_the_active_segment_is_never_cleaned() -> None:
    assert bound(TEN_EACH) == (50, 50)
    assert bound(TEN_EACH[-1:], 0)[1] == 50


def test_a_segment_with_the_bound_inside_is_left_alone_as_a_whole() -> None:
    assert bound(TEN_EACH, stable=29) == (29, 20)
    assert bound(TEN_EACH, stable=30) == (30, 30)


def test_what_is_not_replicated_is_left_alone() -> None:
    assert bound(TEN_EACH, stable=21, watermark=21) == (21, 20)
    assert bound(TEN_EACH, stable=30, watermark=21) == (21, 20)


@pytest.mark.parametrize("stable", [0, 5])
def test_nothing_is_cleaned_where_the_first_dirty_offset_lies_in_a_segment_that_must_not_be(stable: int) -> None:
    assert bound(TEN_EACH, 7, stable=stable) == (7, 0)
    assert clean_and_cleanable_bytes(TEN_EACH, 7, 0) == (100, 0)


def test_a_bound_below_the_first_segment_is_that_segment() -> None:
    assert bound(TEN_EACH[2:], 3, stable=5) == (5, 20)


def test_one_young_record_holds_its_segment_back_and_all_behind_it() -> None:
    segments = [one._replace(largest_timestamp=START - 2 * HOUR) for one in TEN_EACH]
    segments[1] = segments[1]._replace(largest_timestamp=START + HOUR)
    assert bound(segments, lag=HOUR) == (10, 10)
    assert bound(segments, 20, lag=HOUR) == (50, 50)  # what is clean already does not count
    assert bound(segments, 15, lag=HOUR) == (15, 10)
    assert bound(segments, lag=0) == (50, 50)


def test_a_record_as_old_as_the_lag_is_not_young() -> None:
    segments = [one._replace(largest_timestamp=START - HOUR) for one in TEN_EACH]
    assert bound(segments, lag=HOUR) == (50, 50)
    assert bound(segments, lag=HOUR + 1) == (0, 0)


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        ({}, "the active segment begins at offset 50"),
        ({"last_stable_offset": 20}, "a transaction that began at offset 20 is undecided"),
        ({"last_stable_offset": 20, "high_watermark": 20}, "nothing from offset 20 on is known to be replicated"),
    ],
)
def test_the_reason_for_the_end_says_what_holds_it_back(facts: dict[str, int], word: str) -> None:
    assert judged(TEN_EACH, **facts).uncleanable.reason == word


def test_the_reason_names_the_segment_that_is_too_young() -> None:
    config = LogConfig(cleanup_policy=frozenset({"compact"}), min_compaction_lag_ms=1)
    assert judged(TEN_EACH, config).uncleanable.reason == (
        "a record of the segment at 0 is younger than min.compaction.lag.ms"
    )


def test_a_log_has_segments() -> None:
    with pytest.raises(ValueError, match="without segments"):
        bound([])


# ---- with logs


@pytest.mark.kafka("CLEAN-30")
def test_the_high_watermark_bounds_what_is_cleaned() -> None:
    place = Place()
    log = place.open(COMPACT, replicated=True)
    blocks(log, 10, START)
    log.set_high_watermark(5)
    found = assess_log(log, 0, START)
    assert (found.first_dirty.offset, found.uncleanable.limit) == (0, log.last_stable_offset) == (0, 5)


@pytest.mark.kafka("CLEAN-31")
def test_where_all_is_replicated_the_active_segment_is_the_bound() -> None:
    place = Place()
    log = place.open(COMPACT, replicated=True)
    blocks(log, 10, START)
    fill(log, 3)
    log.set_high_watermark(log.log_end_offset)
    found = assess_log(log, 0, START)
    assert (found.first_dirty.offset, found.uncleanable.limit) == (0, 10)


LAGGING = LogConfig(cleanup_policy=frozenset({"compact"}), min_compaction_lag_ms=HOUR)


@pytest.mark.kafka("CLEAN-32")
def test_the_first_segment_within_the_lag_is_the_bound() -> None:
    place = Place()
    log = place.open(LAGGING)
    blocks(log, 4, START)
    second = log.segments[-1].base_offset
    place.clock.advance(HOUR + 1)
    blocks(log, 4, place.clock.now_ms())
    found = assess_log(log, 0, place.clock.now_ms())
    assert (found.first_dirty.offset, found.uncleanable.limit) == (0, second) == (0, 4)


@pytest.mark.kafka("CLEAN-33")
def test_once_the_lag_has_passed_the_active_segment_is_the_bound() -> None:
    place = Place()
    log = place.open(LAGGING)
    blocks(log, 8, START)
    place.clock.advance(HOUR + 1)
    found = assess_log(log, 0, place.clock.now_ms())
    assert (found.first_dirty.offset, found.uncleanable.limit) == (0, 8)


@pytest.mark.kafka("CLEAN-35")
def test_an_undecided_transaction_is_not_cleaned_however_old_it_is() -> None:
    place = Place()
    log = place.open(LAGGING)
    producer = Producer(log, 1)
    for _ in range(3):
        producer.send()
    log.roll()
    place.clock.advance(HOUR + 1)
    found = assess_log(log, None, place.clock.now_ms())
    assert (found.first_dirty.offset, found.uncleanable.limit) == (0, 0)

    producer.abort()
    log.roll()
    found = assess_log(log, None, place.clock.now_ms())
    assert (found.first_dirty.offset, found.uncleanable.limit) == (0, 3)

    place.clock.advance(HOUR + 1)
    found = assess_log(log, None, place.clock.now_ms())
    assert (found.first_dirty.offset, found.uncleanable.limit) == (0, 4)


# ---- how dirty


@pytest.mark.kafka("CLEAN-40")
def test_a_log_that_is_clean_up_to_its_active_segment_has_the_bytes_of_all_others() -> None:
    place = Place()
    log = place.open(COMPACT)
    blocks(log, 5, START)
    fill(log, 1)
    found = assess_log(log, log.segments[-1].base_offset, START)
    assert found.total_bytes == log.size - log.segments[-1].size > 0
    assert (found.cleanable_bytes, found.ratio) == (0, 0)


@pytest.mark.kafka("CLEAN-41")
def test_clean_and_cleanable_bytes_and_the_ratio_are_of_whole_segments() -> None:
    place = Place()
    log = place.open(COMPACT, replicated=True)
    for count in range(1, 7):
        fill(log, count)
        log.roll()
    log.set_high_watermark(log.segments[4].base_offset)
    sizes = [one.size for one in log.segments]
    found = assess_log(log, log.segments[2].base_offset, START)
    assert found.uncleanable.offset == log.segments[4].base_offset
    assert (found.clean_bytes, found.cleanable_bytes) == (sum(sizes[:2]), sum(sizes[2:4]))
    assert found.total_bytes == sum(sizes[:4])
    assert found.ratio == found.cleanable_bytes / found.total_bytes


def test_a_segment_with_the_first_dirty_offset_inside_is_both_clean_and_cleanable() -> None:
    assert clean_and_cleanable_bytes(TEN_EACH, 15, 40) == (200, 300)


def test_a_log_whose_only_segment_is_active_has_nothing_to_clean() -> None:
    for start, point in ((0, None), (50, None), (55, 50), (0, 55)):
        found = judged(TEN_EACH[-1:], log_start_offset=start, cleaner_point=point)
        assert (found.cleanable_bytes, found.is_due) == (0, False)


# ---- how late


def lateness(segments: list[SegmentView], first_dirty: int = 0, *, lag: int = HOUR, now: int = START) -> int:
    return overdue_ms(segments, first_dirty, max_lag_ms=lag, now_ms=now)


def test_a_record_is_overdue_by_what_it_has_waited_beyond_the_lag() -> None:
    assert lateness(TEN_EACH, now=START + HOUR) == 0
    assert lateness(TEN_EACH, now=START + HOUR + 7) == 7


def test_only_dirty_segments_that_are_sealed_can_be_overdue() -> None:
    segments = [segment(0, 10, first=START - 9 * HOUR), *TEN_EACH[1:]]
    segments[-1] = segments[-1]._replace(first_timestamp=START - 9 * HOUR)
    assert lateness(segments) == 8 * HOUR
    assert lateness(segments, 9) == 8 * HOUR
    assert lateness(segments, 10) == 0


@pytest.mark.parametrize("unknown", [-1, 0])
def test_a_segment_whose_first_time_is_unknown_is_never_overdue(unknown: int) -> None:
    assert lateness([one._replace(first_timestamp=unknown) for one in TEN_EACH], now=1 << 60) == 0


def test_by_default_no_record_is_ever_overdue() -> None:
    assert lateness(TEN_EACH, lag=LogConfig().max_compaction_lag_ms, now=1 << 60) == 0


# ---- whether, and which


def with_ratio(ratio: float, **more: int) -> LogConfig:
    return LogConfig(cleanup_policy=frozenset({"compact"}), min_cleanable_dirty_ratio=ratio, **more)  # type: ignore[arg-type]


def test_a_log_is_due_when_more_than_the_ratio_of_it_is_dirty() -> None:
    half = judged(TEN_EACH, with_ratio(0.6), cleaner_point=20)
    assert (half.ratio, half.is_due) == (0.6, False)
    assert half.verdict == "it is not due: 60.0% of it is dirty, min.cleanable.dirty.ratio is 60.0%"
    less = judged(TEN_EACH, with_ratio(0.59), cleaner_point=20)
    assert less.is_due
    assert less.verdict == "it is due: 60.0% of it is dirty, min.cleanable.dirty.ratio is 59.0%"


def test_a_ratio_of_one_is_never_exceeded_and_one_of_nothing_needs_a_dirty_byte() -> None:
    assert not judged(TEN_EACH, with_ratio(1)).is_due
    assert judged(TEN_EACH, with_ratio(0), cleaner_point=40).is_due
    assert not judged(TEN_EACH, with_ratio(0), cleaner_point=50).is_due


def test_an_overdue_log_is_due_whatever_its_ratio_if_something_may_be_cleaned() -> None:
    config = with_ratio(1, max_compaction_lag_ms=HOUR)
    late = judged(TEN_EACH, config, now_ms=START + HOUR + 1)
    assert (late.delay_ms, late.is_due) == (1, True)
    assert late.verdict == "it is due: a record has waited 1 ms longer than max.compaction.lag.ms"
    held = judged(TEN_EACH, config, now_ms=START + HOUR + 1, last_stable_offset=0)
    assert (held.delay_ms, held.is_due) == (1, False)
    assert held.verdict == "nothing of it is dirty and may be cleaned"


@pytest.mark.parametrize(("policy", "due"), [({"compact"}, True), ({"compact", "delete"}, True), ({"delete"}, False)])
def test_only_a_compacted_log_is_due(policy: set[str], due: bool) -> None:
    found = judged(TEN_EACH, LogConfig(cleanup_policy=frozenset(policy)))  # type: ignore[arg-type]
    assert found.is_due == due
    assert ("cleanup.policy" in found.verdict) == (not due)


def test_the_reasons_tell_begin_end_and_verdict() -> None:
    begin, end, verdict = judged(TEN_EACH, cleaner_point=20).reasons
    assert begin == "cleaning begins at offset 20: up to there the log was cleaned before"
    assert end == "it ends at offset 50: the active segment begins at offset 50"
    assert verdict.startswith("it is due: 60.0%")


def test_the_dirtiest_log_that_is_due_is_picked_and_of_equals_the_first() -> None:
    found = {
        "a": judged(TEN_EACH, cleaner_point=20),
        "b": judged(TEN_EACH, cleaner_point=10),
        "c": judged(TEN_EACH, cleaner_point=10),
        "d": judged(TEN_EACH, with_ratio(1)),
    }
    assert found["d"].ratio > found["b"].ratio
    assert pick_filthiest(found) == "b"
    assert pick_filthiest({"d": found["d"]}) is None
    assert pick_filthiest({}) is None


def test_being_overdue_does_not_put_a_log_before_a_dirtier_one() -> None:
    late = judged(TEN_EACH, with_ratio(1, max_compaction_lag_ms=1), cleaner_point=40, now_ms=START + HOUR)
    assert late.is_due
    assert pick_filthiest({"late": late, "dirty": judged(TEN_EACH)}) == "dirty"


# ---- for all logs


@st.composite
def logs(draw: st.DrawFn) -> list[SegmentView]:
    bases = sorted(draw(st.sets(st.integers(0, 60), min_size=1, max_size=8)))
    ends = [*bases[1:], bases[-1] + draw(st.integers(0, 10))]
    return log_of(
        *(
            segment(base, end, size=draw(st.integers(0, 9)), largest=draw(st.integers(0, 30)))
            for base, end in zip(bases, ends, strict=True)
        )
    )


@given(logs(), st.none() | st.integers(0, 80), st.integers(0, 80), st.integers(0, 80), st.integers(0, 20))
@bounded
def test_the_range_is_of_whole_segments_that_nothing_holds_back(
    segments: list[SegmentView], point: int | None, start: int, stable: int, lag: int
) -> None:
    config = LogConfig(cleanup_policy=frozenset({"compact"}), min_compaction_lag_ms=lag, min_cleanable_dirty_ratio=0)
    end = segments[-1].end_offset
    start = max(segments[0].base_offset, min(start, end))
    stable = max(start, min(stable, end))
    found = judged(segments, config, cleaner_point=point, log_start_offset=start, last_stable_offset=stable, now_ms=40)
    first, last = found.first_dirty.offset, found.uncleanable.offset
    assert start <= first <= end
    assert last in [one.base_offset for one in segments]
    touched = [one for one in segments if one.end_offset > first and one.base_offset < last]
    if first < last:
        assert last <= max(stable, first)
        assert not any(one.is_active for one in touched)
        assert found.cleanable_bytes == sum(one.size for one in touched)
        assert not lag or all(one.largest_timestamp <= 40 - lag for one in touched)
    else:
        assert found.cleanable_bytes == 0
    assert found.is_due == (found.cleanable_bytes > 0)
    assert 0 <= found.ratio <= 1
