"""Retention by segment: which segments of a log go, by which rule, and carrying that out (LOG_SEMANTICS §8.1, §8.2).

`plan_retention` is pure: it takes facts about segments and gives a plan. `retain` makes the plan for an open log and
does what it says. Invariants: segments go from the oldest on, none that is not replicated as a whole, never the active
one itself; the log start is durable before the first file goes, so that a crash leaves the log as before or as planned.
Thread-safe.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from logstore.config import LogConfig
from logstore.log import Log, SegmentView

IsDue: TypeAlias = Callable[[SegmentView, SegmentView | None], bool]
"""Whether a segment is due, told with the one behind it (None for the last)."""


class Rule(StrEnum):
    """Why a segment goes."""

    LOG_START = "log start"
    """All of it lies below the log start offset."""
    SIZE = "size"
    """Without it the log still has `retention.bytes`."""
    TIME = "time"
    """Its largest timestamp is older than `retention.ms`."""


class Stay(StrEnum):
    """Why a segment stays."""

    LIMITS = "limits"
    """It is within `retention.bytes` and `retention.ms`, or they are off."""
    ORDER = "order"
    """It is older than `retention.ms`, but one before it stays."""
    HIGH_WATERMARK = "high watermark"
    """It is due, but not all of it is replicated."""
    POLICY = "policy"
    """`cleanup.policy` has no `delete`: only what lies below the log start goes."""
    EMPTY = "empty"
    """It is the active segment, and nothing is in it."""


class Decision(NamedTuple):
    """What becomes of a segment."""

    segment: SegmentView
    reason: Rule | Stay

    @property
    def goes(self) -> bool:
        """Whether it is deleted."""
        return isinstance(self.reason, Rule)


@dataclasses.dataclass(frozen=True, slots=True)
class RetentionPlan:
    """What retention does to a log at one moment.

    Attributes:
        now_ms: that moment (ms since the epoch).
        decisions: one for each segment, in order; those that go come first.
        log_start_offset: where the log starts then.
        next_due_ms: from when on the first segment that stays would go by time (ms since the epoch); in the past where
            it is only not replicated yet. None if no time makes it go.
        next_due_bytes: how many more bytes of log make it go by size; None if none do.
    """

    now_ms: int
    decisions: tuple[Decision, ...]
    log_start_offset: int
    next_due_ms: int | None = None
    next_due_bytes: int | None = None

    @property
    def going(self) -> tuple[SegmentView, ...]:
        """The segments that go, oldest first."""
        return tuple(one.segment for one in self.decisions if one.goes)

    @property
    def size(self) -> int:
        """Bytes of log that go."""
        return sum(segment.size for segment in self.going)

    @property
    def takes_all(self) -> bool:
        """Whether every segment goes, so that an empty one has to be begun before."""
        return bool(self.decisions) and all(one.goes for one in self.decisions)


def retain(log: Log, now_ms: int | None = None, *, high_watermark: int | None = None) -> RetentionPlan:
    """Delete the segments that are due by the log's own settings; what was done. The new log start is durable then.

    Their files are renamed, and unlinked by this or a later `log.maintain()`, once file.delete.delay.ms has passed.
    Stopped at any moment, it has deleted nothing, or goes on when it is called again. Nobody appends meanwhile.

    Args:
        log: open, whatever its policy; by `compact` alone only segments below its log start go.
        now_ms: the time that ages are reckoned from; the log's clock unless given.
        high_watermark: nothing above it goes, where it is lower than the log's own.

    Raises LogClosedError, OSError.
    """
    with log.held():
        start, watermark = log.log_start_offset, log.high_watermark
        if high_watermark is not None:
            watermark = min(max(high_watermark, start), watermark)
        now = log.clock.now_ms() if now_ms is None else now_ms
        plan = plan_retention(log.segments, log.config, log_start_offset=start, high_watermark=watermark, now_ms=now)
        if plan.takes_all:
            log.roll()  # the active segment becomes one that can go
        if plan.log_start_offset > start:
            log.advance_log_start(plan.log_start_offset)
        if plan.going:
            log.delete_before_log_start()
    log.maintain()
    return plan


def plan_retention(
    segments: Sequence[SegmentView], config: LogConfig, *, log_start_offset: int, high_watermark: int, now_ms: int
) -> RetentionPlan:
    """Decide what becomes of each segment of a log: three passes, by log start, size and time (LOG_SEMANTICS §8.1).

    Without `delete` in the policy there is only the first. `segments` are all of the log, in order.
    """
    rules: list[Rule] = []
    for rule in Rule if "delete" in config.cleanup_policy else (Rule.LOG_START,):
        left = segments[len(rules) :]
        is_due = _is_due(rule, left, config, log_start_offset, now_ms)
        rules += [rule] * count_deletable(left, high_watermark, is_due)
    going, staying = segments[: len(rules)], segments[len(rules) :]
    decisions = [Decision(*one) for one in zip(going, rules, strict=True)]
    decisions += [Decision(one, _why_it_stays(one, staying, config, now_ms)) for one in staying]
    start = max([log_start_offset, *(one.end_offset for one in going[-1:])])
    return RetentionPlan(now_ms, tuple(decisions), start, *_next(staying, config))


def count_deletable(segments: Sequence[SegmentView], high_watermark: int, is_due: IsDue) -> int:
    """How many segments may be deleted: from the oldest on, up to the first that is not due or not replicated.

    The last one is never among them when it is empty.
    """
    for number, (segment, following) in enumerate(zip(segments, [*segments[1:], None], strict=False)):
        is_empty = following is None and not segment.size
        if is_empty or high_watermark < segment.end_offset or not is_due(segment, following):
            return number
    return len(segments)


# ---- the rules


def _is_due(
    rule: Rule, segments: Sequence[SegmentView], config: LogConfig, log_start_offset: int, now_ms: int
) -> IsDue:
    """The condition of one pass over the segments that the passes before it have left."""
    if rule is Rule.LOG_START:
        return lambda _, following: following is not None and following.base_offset <= log_start_offset
    if rule is Rule.TIME:
        return lambda segment, _: _is_too_old(segment, config, now_ms)
    return _too_much(segments, config.retention_bytes)


def _too_much(segments: Sequence[SegmentView], retention_bytes: int) -> IsDue:
    """Whether the log is large enough without a segment; asked for each in order, as each lowers the excess."""
    excess = sum(one.size for one in segments) - retention_bytes

    def is_due(segment: SegmentView, _: SegmentView | None) -> bool:
        nonlocal excess
        if retention_bytes < 0 or excess < segment.size:
            return False
        excess -= segment.size
        return True

    return is_due


def _is_too_old(segment: SegmentView, config: LogConfig, now_ms: int) -> bool:
    return 0 <= config.retention_ms < now_ms - segment.largest_timestamp


# ---- what stays


def _why_it_stays(segment: SegmentView, staying: Sequence[SegmentView], config: LogConfig, now_ms: int) -> Stay:
    if segment is staying[-1] and not segment.size:
        return Stay.EMPTY
    if "delete" not in config.cleanup_policy:
        return Stay.POLICY
    is_too_old = _is_too_old(segment, config, now_ms)
    # Whatever is due and first, and stays nevertheless, is kept by the high watermark.
    if segment is staying[0] and (is_too_old or _too_much(staying, config.retention_bytes)(segment, None)):
        return Stay.HIGH_WATERMARK
    return Stay.ORDER if is_too_old else Stay.LIMITS


def _next(staying: Sequence[SegmentView], config: LogConfig) -> tuple[int | None, int | None]:
    """When the first segment that stays goes by time, and with how many more bytes behind it by size."""
    if "delete" not in config.cleanup_policy or not sum(one.size for one in staying):
        return None, None
    first, behind = staying[0], sum(one.size for one in staying[1:])
    due_ms = first.largest_timestamp + config.retention_ms + 1 if config.retention_ms >= 0 else None
    due_bytes = max(config.retention_bytes - behind, 0) if config.retention_bytes >= 0 else None
    return due_ms, due_bytes
