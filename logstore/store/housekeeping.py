"""What is due in the partitions of a store now and then: retention and compaction, one partition after the other, and
recovery, a few at a time.

Of a partition whose topic is deleted meanwhile nothing is left to be done. Thread-safe.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from logstore.cleaner import Cleaner, CleaningStats, assess
from logstore.clock import Clock
from logstore.errors import LogClosedError, LogstoreError, UnknownTopicError
from logstore.names import TopicPartition
from logstore.retention import RetentionPlan, plan_retention, retain
from logstore.store.closing import in_parallel
from logstore.store.partition import Partition


def retain_partition(partition: Partition, clock: Clock) -> RetentionPlan | None:
    """Delete the segments that are due; what was done, None where nothing was. Raises OSError."""
    now = clock.now_ms()
    try:
        with partition.using() as log:
            end = log.log_end_offset
            plan = plan_retention(
                log.segments, log.config, log_start_offset=log.log_start_offset, high_watermark=end, now_ms=now
            )
        if not plan.going:
            return None
        with partition.changing() as log:
            return retain(log, now)
    except (LogClosedError, UnknownTopicError):
        if not partition.is_gone:
            raise
        return None


def compact_partitions(
    partitions: Iterable[Partition], cleaner: Cleaner | None, clock: Clock, *, only_due: bool
) -> dict[TopicPartition, list[CleaningStats]]:
    """Clean logs; what was done. Raises as `Cleaner.clean`."""
    cleaner, done = cleaner or Cleaner(), {}
    for one in partitions:
        try:
            if only_due and not _is_dirty_enough(one, clock.now_ms()):
                continue
            with one.changing() as log:
                done[one.name] = cleaner.clean_fully(log)
        except (LogClosedError, UnknownTopicError):
            if not one.is_gone:
                raise
    return done


def _is_dirty_enough(partition: Partition, now_ms: int) -> bool:
    with partition.using() as log:
        end = log.log_end_offset
        return assess(
            log.segments, log.config, cleaner_point=log.cleaner_point, log_start_offset=log.log_start_offset,
            log_end_offset=end, last_stable_offset=log.last_stable_offset, high_watermark=end, now_ms=now_ms,
        ).is_due  # fmt: skip


def recover_partitions(partitions: Sequence[Partition], threads: int) -> dict[TopicPartition, LogstoreError]:
    """Open logs once; those that cannot be opened, and why. Raises OSError."""

    def recover(partition: Partition) -> LogstoreError | None:
        try:
            with partition.using():
                return None
        except LogstoreError as error:
            return error

    found = in_parallel(recover, partitions, threads)
    return {one.name: error for one, error in zip(partitions, found, strict=True) if error is not None}
