"""Retention: which segments go and which stay, by which rule; and that a log does what the plan says."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
from helpers.open_logs import START, Place, Producer, bases, fill, from_leader, offsets
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.config import LogConfig
from logstore.errors import OffsetOutOfRangeError
from logstore.log import Log, SegmentView
from logstore.records import encode_batch
from logstore.retention import RetentionPlan, Rule, Stay, count_deletable, plan_retention, retain
from logstore.testing import SimulatedCrash

FOREVER = LogConfig(retention_ms=-1)
OLD = LogConfig(retention_ms=10_000)
LATER = START + 3_600_000
"""An hour behind what the clock says when records are appended."""


@pytest.fixture
def place() -> Place:
    return Place()


def filled(place: Place, config: LogConfig = FOREVER, segments: int = 3, count: int = 5, **options: Any) -> Log:
    """A log of some segments, of so many records each, in batches of one and of the same size."""
    log = place.open(config, **options)
    for number in range(segments):
        if number:
            log.roll()
        for offset in range(number * count, (number + 1) * count):
            log.append([(b"k", b"%04d" % offset)])
    return log


def configured(log: Log, **changes: Any) -> Log:
    log.configure(dataclasses.replace(log.config, **changes))
    return log


def reasons(plan: RetentionPlan) -> list[Rule | Stay]:
    return [one.reason for one in plan.decisions]


# ---------------------------------------------------------------- by size and time


@pytest.mark.kafka("RETAIN-01")
def test_the_oldest_segments_go_while_the_log_stays_as_large_as_it_may(place: Place) -> None:
    log = filled(place)
    whole = log.size
    assert retain(configured(log, retention_bytes=whole)).going == ()
    found = retain(configured(log, retention_bytes=whole * 2 // 3))
    assert reasons(found) == [Rule.SIZE, Stay.LIMITS, Stay.LIMITS]
    assert (found.size, found.log_start_offset, found.next_due_bytes) == (whole // 3, 5, whole // 3)
    assert (bases(log), log.log_start_offset, offsets(log)) == ([5, 10], 5, list(range(5, 15)))


@pytest.mark.kafka("MGR-09")
def test_what_does_not_fill_a_segment_keeps_one_more(place: Place) -> None:
    log = filled(place, segments=20)
    retain(configured(log, retention_bytes=log.size // 4 + 10))
    assert len(bases(log)) == 6


@pytest.mark.kafka("RETAIN-02")
def test_a_segment_goes_once_all_its_records_are_older_than_the_limit(place: Place) -> None:
    log = filled(place, OLD)
    for now in (START, START + 10_000):
        plan = retain(log, now)
        assert reasons(plan) == [Stay.LIMITS] * 3
        assert (plan.next_due_ms, plan.next_due_bytes) == (START + 10_001, None)
    plan = retain(log, START + 10_001)
    assert reasons(plan) == [Rule.TIME] * 3
    assert plan.takes_all
    assert (bases(log), log.size, log.log_start_offset, log.log_end_offset) == ([15], 0, 15, 15)
    assert reasons(retain(log, LATER)) == [Stay.EMPTY]


def test_the_logs_own_clock_tells_the_time(place: Place) -> None:
    log = filled(place, OLD)
    place.clock.advance(10_000)
    assert retain(log).going == ()
    place.clock.advance(1)
    assert retain(log).now_ms == START + 10_001
    assert bases(log) == [15]


@pytest.mark.kafka("RETAIN-08")
@pytest.mark.parametrize("count", [0, 1, 25])
def test_a_log_of_which_everything_went_goes_on_where_it_ended(place: Place, count: int) -> None:
    log = place.open(dataclasses.replace(OLD, file_delete_delay_ms=0))
    for number in range(count):
        if number and number % 5 == 0:
            log.roll()
        fill(log, 1, first=number)
    assert len(retain(log, LATER).going) == -(-count // 5)
    assert (len(bases(log)), log.log_end_offset) == (1, count)
    assert retain(log, LATER).going == ()
    assert log.append([(None, b"more")]).first_offset == count
    log.close()
    with place.open(OLD) as again:
        assert (again.recovered, offsets(again)) == (None, [count])


def test_a_segment_without_timestamps_is_as_old_as_its_file(place: Place) -> None:
    log = place.open(OLD)
    for _ in range(2):
        log.append_batch(encode_batch([(None, b"x")], timestamp=-1))
        log.roll()
    first = log.segments[0]
    assert first.largest_timestamp == first.modified_ms
    place.fs.set_modified_ms(log.directory / place.names(".log")[0], START - 20_000)
    assert reasons(retain(log, START)) == [Rule.TIME, Stay.LIMITS, Stay.EMPTY]


@pytest.mark.kafka("RETAIN-03", "CLEAN-109")
def test_without_delete_in_the_policy_neither_size_nor_time_makes_a_segment_go(place: Place) -> None:
    log = filled(place, dataclasses.replace(OLD, retention_bytes=0, cleanup_policy=frozenset({"compact"})))
    plan = retain(log, LATER)
    assert reasons(plan) == [Stay.POLICY] * 3
    assert (plan.next_due_ms, plan.next_due_bytes) == (None, None)
    assert bases(log) == [0, 5, 10]
    configured(log, cleanup_policy=frozenset({"compact", "delete"}), retention_bytes=-1)
    assert reasons(retain(log, LATER)) == [Rule.TIME] * 3
    assert (bases(log), log.log_start_offset) == ([15], 15)


# ---------------------------------------------------------------- by log start


@pytest.mark.kafka("RETAIN-04", "CLEAN-109")
def test_what_lies_below_the_log_start_goes_whatever_the_policy(place: Place) -> None:
    log = filled(place, dataclasses.replace(FOREVER, cleanup_policy=frozenset({"compact"})))
    log.advance_log_start(5)
    assert reasons(retain(log)) == [Rule.LOG_START, Stay.POLICY, Stay.POLICY]
    assert bases(log) == [5, 10]
    log.advance_log_start(8)
    assert retain(log).going == ()
    assert (bases(log), log.log_start_offset) == ([5, 10], 8)


@pytest.mark.kafka("RETAIN-05")
def test_deleted_records_take_the_segments_with_them_that_hold_nothing_else(place: Place) -> None:
    log = filled(place)
    for start, left in ((1, 3), (6, 2), (15, 1)):
        log.advance_log_start(start)
        retain(log)
        assert (len(bases(log)), log.log_start_offset) == (left, start)
    with pytest.raises(OffsetOutOfRangeError):
        log.advance_log_start(16)


@pytest.mark.kafka("RETAIN-10")
def test_a_segment_from_the_future_holds_back_those_behind_it_until_the_log_start_has_passed_it(place: Place) -> None:
    log = place.open(dataclasses.replace(OLD, message_timestamp_after_max_ms=2**62))
    log.append([(None, b"young")] * 5, timestamp=LATER + 60_000)
    log.roll()
    log.append([(None, b"old")] * 5, timestamp=START)
    log.roll()
    plan = retain(log, LATER)
    assert reasons(plan) == [Stay.LIMITS, Stay.ORDER, Stay.EMPTY]
    assert plan.next_due_ms == LATER + 70_001
    log.advance_log_start(5)
    assert reasons(retain(log, LATER)) == [Rule.LOG_START, Rule.TIME, Stay.EMPTY]
    assert reasons(retain(log, LATER)) == [Stay.EMPTY]


@pytest.mark.kafka("RETAIN-16")
@pytest.mark.parametrize(
    ("starts", "left"), [((0, 5, 10), [(1, 5), (2, 10)]), ((0, 7, 10), [(0, 5), (1, 7), (2, 10)])]
)
def test_leader_epochs_begin_with_the_log(place: Place, starts: tuple[int, ...], left: list[tuple[int, int]]) -> None:
    log = place.open(FOREVER)
    for offset in range(15):
        if offset in (5, 10):
            log.roll()
        epoch = sum(offset >= start for start in starts) - 1
        log.append_as_follower(from_leader(offset, leader_epoch=epoch))
    retain(configured(log, retention_bytes=log.size * 2 // 3))
    assert (bases(log), [tuple(one) for one in log.leader_epochs.entries]) == ([5, 10], left)


# ---------------------------------------------------------------- the high watermark


@pytest.mark.kafka("RETAIN-06")
def test_nothing_goes_that_is_not_replicated_as_a_whole() -> None:
    for watermark in (0, *range(25, 31), 100):
        log = filled(Place(), OLD, segments=20, replicated=True, leader_epoch=1)
        log.set_high_watermark(watermark)
        plan = retain(log, LATER)
        assert log.log_start_offset <= watermark
        if watermark < 100:
            assert bases(log)[0] == watermark // 5 * 5 == log.log_start_offset
            assert reasons(plan)[watermark // 5] is Stay.HIGH_WATERMARK
            assert plan.next_due_ms == START + 10_001
    assert (bases(log), [tuple(one) for one in log.leader_epochs.entries]) == ([100], [(1, 100)])


@pytest.mark.kafka("RETAIN-07")
def test_as_the_high_watermark_rises_the_first_segment_is_the_only_one_that_begins_below_it(place: Place) -> None:
    log = filled(place, OLD, segments=20, replicated=True)
    for watermark in range(101):
        log.set_high_watermark(watermark)
        retain(log, LATER)
        first, *others = bases(log)
        assert first <= watermark < min(others, default=watermark + 1)
    assert (bases(log), log.log_start_offset, log.size) == ([100], 100, 0)


def test_the_caller_may_know_a_lower_one(place: Place) -> None:
    log = filled(place, OLD)
    assert reasons(retain(log, LATER, high_watermark=9)) == [Rule.TIME, Stay.HIGH_WATERMARK, Stay.ORDER]
    assert retain(log, LATER, high_watermark=2).going == ()
    assert len(retain(log, LATER, high_watermark=99).going) == 2


# ---------------------------------------------------------------- files and producers


@pytest.mark.kafka("RETAIN-09", "RETAIN-11")
def test_files_are_renamed_at_once_and_unlinked_after_the_delay(place: Place) -> None:
    log = place.open(OLD)
    producer = Producer(log, 7)
    for _ in range(2):
        producer.send(3, transactional=False)
        log.roll()
    retain(log, LATER)
    gone = [f"{base:020d}.{suffix}.deleted" for base in (0, 3) for suffix in ("index", "log", "timeindex")]
    assert set(place.names(".deleted")) == {*gone, f"{3:020d}.snapshot.deleted"}
    place.clock.advance(59_999)
    retain(log)
    assert len(place.names(".deleted")) == 7
    place.clock.advance(1)
    retain(log)
    assert place.names(".deleted") == []
    assert [one.producer_id for one in log.producers] == [7]  # in memory they stay


@pytest.mark.kafka("RETAIN-12")
@pytest.mark.parametrize("is_empty", [True, False])
def test_one_snapshot_is_left_when_everything_went(place: Place, is_empty: bool) -> None:
    log = place.open(OLD)
    producer = Producer(log, 7)
    for _ in range(3):
        producer.send(3, transactional=False)
        log.roll()
    if not is_empty:
        producer.send(2, transactional=False)
    retain(log, LATER)
    end = 9 if is_empty else 11
    assert place.names(".snapshot") == [f"{end:020d}.snapshot"]
    assert (log.log_start_offset, log.log_end_offset, bases(log)) == (end, end, [end])


@pytest.mark.kafka("RETAIN-14")
def test_the_first_unstable_offset_is_never_below_the_log_start(place: Place) -> None:
    log = place.open(FOREVER)
    Producer(log, 7).send(3)
    log.roll()
    fill(log, 5)
    log.roll()
    assert log.first_unstable_offset == 0
    retain(configured(log, retention_ms=10_000), LATER)
    assert log.first_unstable_offset == log.log_start_offset == 8


@pytest.mark.kafka("RETAIN-17")
@pytest.mark.parametrize("is_closed", [False, True])
def test_of_a_deleted_log_nothing_goes(place: Place, is_closed: bool) -> None:
    log = filled(place, OLD)
    if is_closed:
        log.close()
    log.delete()
    assert place.names() == []
    assert retain(log, LATER).decisions == ()


# ---------------------------------------------------------------- a power cut


def test_a_power_cut_at_any_moment_leaves_the_log_as_before_or_as_planned() -> None:
    for config, start, left in (
        (dataclasses.replace(OLD, file_delete_delay_ms=0), 15, []),
        (LogConfig(retention_ms=-1, retention_bytes=300, file_delete_delay_ms=0), 10, list(range(10, 15))),
    ):
        for stopped in stopped_retentions(config):
            for mode in ("nothing", "everything", "torn", "metadata", "subset"):
                after = stopped.crashed(mode, 7)  # type: ignore[arg-type]
                with after.open(FOREVER) as log:
                    assert offsets(log) in (list(range(15)), left)
                    assert (log.log_start_offset, log.log_end_offset) in ((0, 15), (start, 15))
                with after.open(config) as log:
                    retain(log, LATER)
                    assert (log.log_start_offset, bases(log), offsets(log)) == (start, [start], left)


def stopped_retentions(config: LogConfig) -> Iterator[Place]:
    """Retention stopped at each of its file operations."""
    for stop_at in range(1, 100):
        place = Place()
        log = filled(place, config)
        log.flush()
        place.fs.stop_at = place.fs.operations + stop_at
        try:
            retain(log, LATER)
        except SimulatedCrash:
            yield place
        else:
            assert stop_at > 10
            return


# ---------------------------------------------------------------- the plan


def view(base: int, end: int, size: int, timestamp: int = START) -> SegmentView:
    return SegmentView(base, end, size, timestamp, timestamp, timestamp, 0, 0, is_active=False)


@pytest.mark.kafka("RETAIN-15")
def test_segments_are_asked_for_in_order_each_with_the_next_up_to_the_first_that_is_not_due() -> None:
    segments = [view(base, base + 5, 100) for base in (0, 5, 10)]
    asked: list[tuple[SegmentView, SegmentView | None]] = []

    def is_due(segment: SegmentView, following: SegmentView | None) -> bool:
        asked.append((segment, following))
        return segment.base_offset != 5

    assert count_deletable(segments, 15, is_due) == 1
    assert asked == [(segments[0], segments[1]), (segments[1], segments[2])]
    assert count_deletable(segments, 15, lambda *_: True) == 3  # the active one, too
    assert count_deletable(segments, 14, lambda *_: True) == 2
    assert count_deletable([*segments[:2], view(10, 10, 0)], 15, lambda *_: True) == 2
    assert count_deletable([], 15, lambda *_: True) == 0


@st.composite
def plans(draw: st.DrawFn) -> tuple[list[SegmentView], LogConfig, int, int]:
    """Segments, settings, log start, high watermark."""
    segments, base = [], draw(st.integers(0, 3))
    for _ in range(draw(st.integers(1, 6))):
        size = draw(st.sampled_from([0, 1, 50, 100]))
        end = base + draw(st.integers(1, 5))
        segments.append(view(base, end, size, START + draw(st.integers(-50, 50))))
        base = end
    config = LogConfig(
        retention_bytes=draw(st.integers(-2, 400)), retention_ms=draw(st.integers(-1, 60)),
        cleanup_policy=draw(st.sampled_from([frozenset({"delete"}), frozenset({"compact", "delete"})])),
    )  # fmt: skip
    start = draw(st.integers(segments[0].base_offset, base))
    return segments, config, start, draw(st.integers(start, base))


@given(plans())
@settings(deadline=None, database=None, max_examples=300)
def test_a_plan_is_what_one_pass_after_the_other_comes_to(case: tuple[list[SegmentView], LogConfig, int, int]) -> None:
    segments, config, start, watermark = case
    left, expected = list(segments), []

    def take(rule: Rule, is_due: Any) -> None:
        while left and (len(left) > 1 or left[0].size) and watermark >= left[0].end_offset and is_due(left[0]):
            expected.append((left.pop(0), rule))

    take(Rule.LOG_START, lambda _: len(left) > 1 and left[1].base_offset <= start)
    if config.retention_bytes >= 0:
        take(Rule.SIZE, lambda one: sum(each.size for each in left) - one.size >= config.retention_bytes)
    if config.retention_ms >= 0:
        take(Rule.TIME, lambda one: START - one.largest_timestamp > config.retention_ms)
    plan = plan_retention(segments, config, log_start_offset=start, high_watermark=watermark, now_ms=START)
    assert [tuple(one) for one in plan.decisions if one.goes] == expected
    assert [one.segment for one in plan.decisions] == segments
    assert plan.log_start_offset == max([start, *(one.end_offset for one, _ in expected)])
    assert plan.takes_all == (not left)


@given(plans())
@settings(deadline=None, database=None, max_examples=300)
def test_a_plan_says_when_and_with_how_many_more_bytes_the_next_one_goes(
    case: tuple[list[SegmentView], LogConfig, int, int],
) -> None:
    segments, config, _, _ = case
    start, end = segments[0].base_offset, segments[-1].end_offset

    def going(changed: list[SegmentView], now_ms: int = START) -> int:
        plan = plan_retention(changed, config, log_start_offset=start, high_watermark=end, now_ms=now_ms)
        return len(plan.going)

    plan = plan_retention(segments, config, log_start_offset=start, high_watermark=end, now_ms=START)
    count = len(plan.going)
    assert (plan.next_due_ms is None) == (config.retention_ms < 0 or not sum(one.size for one in segments[count:]))
    if plan.next_due_ms is not None:
        assert going(segments, plan.next_due_ms - 1) == count
        assert going(segments, plan.next_due_ms) > count
    if plan.next_due_bytes is not None:
        for more, is_enough in ((plan.next_due_bytes - 1, False), (plan.next_due_bytes, True)):
            if more > 0:
                changed = [*segments, view(end, end, more, START + 1000)]
                assert (going(changed) > count) == is_enough
