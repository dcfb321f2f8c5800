"""What is due in the partitions of a store now and then: retention and compaction, one partition after the other, and
recovery, a few at a time.

Of a partition whose topic is deleted meanwhile nothing is left to be done. Thread-safe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from logstore.cleaner import Cleaner, CleaningStats, assess
from logstore.clock import Clock
from logstore.errors import LogClosedError, LogstoreError, StoreClosedError, UnknownTopicError
from logstore.names import TopicPartition
from logstore.retention import RetentionPlan, plan_retention, retain
from logstore.store.closing import in_parallel
from logstore.store.partition import Partition

_R = TypeVar("_R")


OnPartitionError = Callable[[TopicPartition, LogstoreError | OSError], object]
"""Told of a partition that could not be done; the others are done then."""


def retain_partitions(
    partitions: Iterable[Partition], clock: Clock, on_error: OnPartitionError | None
) -> dict[TopicPartition, RetentionPlan]:
    """Delete the segments that are due; what was done, where anything was. Raises OSError."""

    def work(partition: Partition) -> RetentionPlan | None:
        now = clock.now_ms()
        with partition.using() as log:
            end = log.log_end_offset
            plan = plan_retention(
                log.segments, log.config, log_start_offset=log.log_start_offset, high_watermark=end, now_ms=now
            )
        if not plan.going:
            return None
        with partition.changing() as log:
            return retain(log, now)

    return _each(partitions, work, on_error)


def compact_partitions(
    partitions: Iterable[Partition], cleaner: Cleaner | None, clock: Clock, *, only_due: bool,
    on_error: OnPartitionError | None,
) -> dict[TopicPartition, list[CleaningStats]]:  # fmt: skip
    """Clean logs; what was done. Raises as `Cleaner.clean`."""
    cleaner = cleaner or Cleaner()

    def work(partition: Partition) -> list[CleaningStats] | None:
        if only_due and not _is_dirty_enough(partition, clock.now_ms()):
            return None
        with partition.changing() as log:
            return cleaner.clean_fully(log)

    return _each(partitions, work, on_error)


def _each(
    partitions: Iterable[Partition], work: Callable[[Partition], _R | None], on_error: OnPartitionError | None
) -> dict[TopicPartition, _R]:
    """What `work` gives for each that is there still, and is not None."""
    done: dict[TopicPartition, _R] = {}
    for one in partitions:
        try:
            found = work(one)
        except StoreClosedError:
            raise
        except (LogstoreError, OSError) as error:
            if one.is_gone and isinstance(error, (LogClosedError, UnknownTopicError)):
                continue
            if on_error is None:
                raise
            on_error(one.name, error)
        else:
            if found is not None:
                done[one.name] = found
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
