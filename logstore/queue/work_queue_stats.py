"""How a work queue stands. Inside its turn."""

from __future__ import annotations

from logstore.errors import OffsetOutOfRangeError
from logstore.log import Log, SharedLog
from logstore.queue.work_queue_files import QueueFiles
from logstore.queue.work_queue_job import QueueStats
from logstore.queue.work_queue_state import NOBODY


def queue_stats(files: QueueFiles) -> QueueStats:
    """Count what is known. What lies above the position counts as available, unless it is known to be delayed."""
    now = files.store.clock.now_ms()
    available = delayed = acquired = 0
    oldest: list[int] = []
    for log, jobs in zip(files.logs, files.state.partitions, strict=True):
        start, end = max(jobs.position, log.log_start_offset), log.last_stable_offset
        known = sum(offset >= start for offset in jobs.open) + len(jobs.ahead)
        available += max(end - start - known, 0)
        for from_ms, _, owner in jobs.open.values():
            if from_ms <= now:
                available += 1
            elif owner == NOBODY:
                delayed += 1
            else:
                acquired += 1
        first = min(jobs.first_unfinished, start) if jobs.open else start
        timestamp = _timestamp(log, max(first, log.log_start_offset), end)
        if timestamp is not None:
            oldest.append(timestamp)
    age = None if not oldest else max(now - min(oldest), 0) / 1000
    return QueueStats(available, delayed, acquired, files.state.acknowledged, files.state.dead, files.size, age)


def _timestamp(log: Log | SharedLog, offset: int, end: int) -> int | None:
    """Of the first record from an offset on."""
    if offset >= end:
        return None
    try:
        record = next(iter(log.records(offset)), None)
    except OffsetOutOfRangeError:
        return None
    return None if record is None else record.timestamp
