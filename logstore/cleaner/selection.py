"""Which part of a log may be cleaned, how dirty it is, and which log comes first (CLEANER §2.1-§2.4).

Invariant: nothing is judged by more than it was given; each answer says its reason in words, for people to read. What
is called dirty and cleanable are whole segments but for the first, in which the cleaner point may lie. Immutable values
and pure functions: thread-safe.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from logstore.config import INT64_MAX, LogConfig
from logstore.log.segment_view import SegmentView

K = TypeVar("K")


class FirstDirty(NamedTuple):
    """Where the next cleaning begins.

    Attributes:
        offset: the first one that was not cleaned yet.
        is_reset: whether the cleaner point is none of this log any more, and has to be set to `offset` now.
        reason: why it is that one.
    """

    offset: int
    is_reset: bool
    reason: str


class FirstUncleanable(NamedTuple):
    """Where the part of a log begins that must not be cleaned yet.

    Attributes:
        limit: the lowest offset that something holds back, at least the first dirty one.
        offset: the base offset of the segment that begins there or holds it: where cleaning ends. It may lie below the
            first dirty offset; then there is nothing to clean.
        reason: what holds it back.
    """

    limit: int
    offset: int
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Cleanability:
    """What there is to clean in a log at one moment, and whether it is time for that.

    Attributes:
        first_dirty, uncleanable: the range.
        clean_bytes: of the segments that begin below the first dirty offset.
        cleanable_bytes: of those in the range. One with the first dirty offset inside is counted in both, as in Kafka.
        delay_ms: for how long the oldest record has waited beyond max.compaction.lag.ms; 0 if none has.
        is_due: whether the log is to be cleaned.
        verdict: why, or why not.
    """

    first_dirty: FirstDirty
    uncleanable: FirstUncleanable
    clean_bytes: int
    cleanable_bytes: int
    delay_ms: int
    is_due: bool
    verdict: str

    @property
    def total_bytes(self) -> int:
        """The clean and the cleanable ones."""
        return self.clean_bytes + self.cleanable_bytes

    @property
    def ratio(self) -> float:
        """The share of the cleanable bytes: the dirty ratio, from 0 to 1."""
        return _ratio(self.cleanable_bytes, self.total_bytes)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Sentences without a full stop: where cleaning begins, where it ends, and whether it is time."""
        return (
            f"cleaning begins at offset {self.first_dirty.offset}: {self.first_dirty.reason}",
            f"it ends at offset {self.uncleanable.offset}: {self.uncleanable.reason}",
            self.verdict,
        )


def assess(
    segments: Sequence[SegmentView],
    config: LogConfig,
    *,
    cleaner_point: int | None,
    log_start_offset: int,
    log_end_offset: int,
    last_stable_offset: int,
    high_watermark: int,
    now_ms: int,
) -> Cleanability:
    """Find out what there is to clean in a log. `segments` are all it has, in order, the active one last.

    Raises ValueError where there are none.
    """
    first_dirty = first_dirty_offset(cleaner_point, log_start_offset, log_end_offset)
    uncleanable = first_uncleanable_offset(
        segments, first_dirty.offset, last_stable_offset=last_stable_offset, high_watermark=high_watermark,
        min_lag_ms=config.min_compaction_lag_ms, now_ms=now_ms,
    )  # fmt: skip
    clean_bytes, cleanable_bytes = clean_and_cleanable_bytes(segments, first_dirty.offset, uncleanable.offset)
    delay_ms = overdue_ms(segments, first_dirty.offset, max_lag_ms=config.max_compaction_lag_ms, now_ms=now_ms)
    is_due, verdict = _judge(config, clean_bytes, cleanable_bytes, delay_ms)
    return Cleanability(first_dirty, uncleanable, clean_bytes, cleanable_bytes, delay_ms, is_due, verdict)


def pick_filthiest(found: Mapping[K, Cleanability]) -> K | None:
    """The log to be cleaned next: of those that are due the one with the highest ratio, of equals the first.

    Being overdue makes a log due; it does not put it before a dirtier one (§2.1).
    """
    due = [name for name, one in found.items() if one.is_due]
    return max(due, key=lambda name: found[name].ratio, default=None)


# ---- the range


def first_dirty_offset(cleaner_point: int | None, log_start_offset: int, log_end_offset: int) -> FirstDirty:
    """Where cleaning begins: at the cleaner point, unless there is none in this log (§2.2)."""
    if cleaner_point is None:
        return FirstDirty(log_start_offset, False, "the log was never cleaned")
    if cleaner_point < log_start_offset:
        return FirstDirty(
            log_start_offset, True, f"the cleaner point, {cleaner_point}, lies below it, and there the log starts"
        )
    if cleaner_point > log_end_offset:
        return FirstDirty(
            log_start_offset, True,
            f"the cleaner point, {cleaner_point}, lies behind the log end, {log_end_offset}, so all of it is dirty",
        )  # fmt: skip
    return FirstDirty(cleaner_point, False, "up to there the log was cleaned before")


def first_uncleanable_offset(
    segments: Sequence[SegmentView],
    first_dirty: int,
    *,
    last_stable_offset: int,
    high_watermark: int,
    min_lag_ms: int,
    now_ms: int,
) -> FirstUncleanable:
    """Where cleaning has to end: before what is undecided, not replicated, active, or too young (§2.3).

    Raises ValueError where there are no segments.
    """
    if not segments:
        raise ValueError("a log without segments")
    active, stable = segments[-1].base_offset, min(last_stable_offset, high_watermark)
    limits = [(active, f"the active segment begins at offset {active}")]
    if stable < high_watermark:
        limits.append((stable, f"a transaction that began at offset {stable} is undecided"))
    else:
        limits.append((stable, f"nothing from offset {stable} on is known to be replicated"))
    if min_lag_ms > 0:
        young = [one for one in _sealed_from(segments, first_dirty) if one.largest_timestamp > now_ms - min_lag_ms]
        limits += [
            (one.base_offset, f"a record of the segment at {one.base_offset} is younger than min.compaction.lag.ms")
            for one in young[:1]
        ]
    lowest, reason = min(limits, key=lambda one: one[0])
    limit = max(first_dirty, lowest)
    end = next((one.base_offset for one in _sealed_from(segments, limit)), active)
    return FirstUncleanable(limit, end, reason)


def _sealed_from(segments: Sequence[SegmentView], offset: int) -> Sequence[SegmentView]:
    """The segments but the active one, from that on which holds `offset`; all where `offset` lies below them."""
    first = sum(one.base_offset <= offset for one in segments) - 1
    return segments[max(first, 0) : -1]


# ---- how dirty, how late


def clean_and_cleanable_bytes(segments: Sequence[SegmentView], first_dirty: int, uncleanable: int) -> tuple[int, int]:
    """Bytes of the segments below the first dirty offset, and of those from its own to the uncleanable one (§2.4)."""
    clean = sum(one.size for one in segments if one.base_offset < first_dirty)
    dirty = [one for one in _sealed_from(segments, first_dirty) if one.base_offset < uncleanable]
    return clean, sum(one.size for one in dirty)


def overdue_ms(segments: Sequence[SegmentView], first_dirty: int, *, max_lag_ms: int, now_ms: int) -> int:
    """For how long the oldest dirty record has waited beyond `max_lag_ms`; 0 if none has, or nobody can tell (§2.4).

    A segment's age is that of its first batch. Milliseconds.
    """
    first_timestamps = (one.first_timestamp for one in _sealed_from(segments, first_dirty))
    earliest = min((one for one in first_timestamps if one > 0), default=INT64_MAX)
    return max(now_ms - max(max_lag_ms, 0) - earliest, 0)


def _judge(config: LogConfig, clean_bytes: int, cleanable_bytes: int, delay_ms: int) -> tuple[bool, str]:
    """Whether it is time to clean a log, and why (§2.1)."""
    least, share = config.min_cleanable_dirty_ratio, _ratio(cleanable_bytes, clean_bytes + cleanable_bytes)
    if not config.compacted:
        return False, "it is not cleaned: its cleanup.policy has no `compact`"
    if not cleanable_bytes:
        return False, "nothing of it is dirty and may be cleaned"
    if delay_ms:
        return True, f"it is due: a record has waited {delay_ms} ms longer than max.compaction.lag.ms"
    shown = f"{share:.1%} of it is dirty, min.cleanable.dirty.ratio is {least:.1%}"
    return (True, f"it is due: {shown}") if share > least else (False, f"it is not due: {shown}")


def _ratio(cleanable_bytes: int, total_bytes: int) -> float:
    return cleanable_bytes / total_bytes if total_bytes else 0.0
