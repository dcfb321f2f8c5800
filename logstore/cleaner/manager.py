"""Who may clean, delete from or cut which log at a moment, and which one is cleaned next (CLEANER §2.1, §2.6, §2.7).

Invariant: a log is worked on by one at a time. It has no entry here, or is in progress, or in progress and called off,
or paused any number of times:

    none -> in progress -> none
            in progress -> aborted -> paused(1)
    none -> paused(1) <-> paused(2) <-> ...

Only `pick` and `compacted_logs` begin work, and only on logs without an entry. Thread-safe. Do not call it while you
hold a log (`Log.held`): it looks at logs under its own lock.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from logstore.cleaner.checkpoints import CleanerCheckpoints, LogCheckpoints
from logstore.cleaner.selection import Cleanability, assess, pick_filthiest
from logstore.config import LogConfig
from logstore.errors import CleaningAbortedError, LogstoreError
from logstore.log.segment_view import SegmentView
from logstore.names import TopicPartition

Failure: TypeAlias = LogstoreError | OSError
"""What a log can fail with; everything else is a mistake of ours."""
_WAIT_SECONDS = 0.1


class CleanableLog(Protocol):
    """What the manager has to know of a log; `logstore.log.Log` is one."""

    @property
    def directory(self) -> Path: ...
    @property
    def config(self) -> LogConfig: ...
    @property
    def segments(self) -> tuple[SegmentView, ...]: ...
    @property
    def log_start_offset(self) -> int: ...
    @property
    def log_end_offset(self) -> int: ...
    @property
    def last_stable_offset(self) -> int: ...
    @property
    def high_watermark(self) -> int: ...
    @property
    def cleaner_point(self) -> int | None: ...
    def set_cleaner_point(self, offset: int) -> None: ...
    def configure(self, config: LogConfig) -> None: ...


L = TypeVar("L", bound=CleanableLog)


class CleaningStatus(StrEnum):
    """What is going on with a log."""

    IN_PROGRESS = "in progress"
    ABORTED = "aborted"
    PAUSED = "paused"


class CleaningState(NamedTuple):
    """The entry of a log; `pauses` is how many have paused it, 0 unless it is paused."""

    status: CleaningStatus
    pauses: int = 0

    def __str__(self) -> str:
        return f"{self.status}({self.pauses})" if self.pauses else self.status


@dataclasses.dataclass(frozen=True, slots=True)
class LogToClean(Generic[L]):
    """A log that was picked: it is in progress until `done_cleaning`."""

    partition: TopicPartition
    log: L
    cleanability: Cleanability


@dataclasses.dataclass(frozen=True, slots=True)
class CleaningFailure(Generic[L]):
    """A log that could not be looked at, cleaned or shortened, and why; None for both where it is of no one log."""

    partition: TopicPartition | None
    log: L | None
    error: Failure


class LogCleanerManager(Generic[L]):
    """Keeps the states and the cleaner points of an owner's logs.

    Args:
        logs: the owner's, asked anew each time; one that is opened again is another log.
        checkpoints: where cleaner points are remembered; by default by the logs themselves.
    """

    def __init__(self, logs: Mapping[TopicPartition, L], checkpoints: CleanerCheckpoints | None = None) -> None:
        self._logs = logs
        self._checkpoints = LogCheckpoints(logs) if checkpoints is None else checkpoints
        # Guards the states, the marks and the order of writes to checkpoints; taken before the locks of logs and
        # checkpoints. It is notified when a log gets paused.
        self._guard = threading.Condition(threading.Lock())
        self._states: dict[TopicPartition, CleaningState] = {}
        self._uncleanable: dict[TopicPartition, CleaningFailure[L]] = {}
        self._dirtiest_ratio = 0.0
        self._max_delay_ms = 0
        self._last_run_ms: int | None = None

    def __repr__(self) -> str:
        states = ", ".join(f"{partition} {state}" for partition, state in sorted(self._states.items()))
        marked = len(self._uncleanable)
        return f"<LogCleanerManager of {len(self._logs)} logs: {states or 'idle'}; {marked} uncleanable>"

    # ---- picking

    def pick(self, now_ms: int) -> LogToClean[L] | CleaningFailure[L] | None:
        """Begin to clean the dirtiest log that is due; None when there is none.

        Cleaner points that are none of their log any more are set right on the way, whatever is picked. A log that
        cannot be looked at ends the search: that failure is for the caller to mark it with. Raises what the checkpoints
        raise when they cannot be read.
        """
        with self._guard:
            self._last_run_ms = now_ms
            points = self._checkpoints.points()
            found: dict[TopicPartition, Cleanability] = {}
            logs = {partition: log for partition, log in self._compacted() if partition not in self._states}
            for partition, log in logs.items():
                try:
                    found[partition] = assess_log(log, points.get(partition), now_ms)
                    if found[partition].first_dirty.is_reset:
                        self._checkpoints.put(partition, found[partition].first_dirty.offset)
                except (LogstoreError, OSError) as error:
                    return CleaningFailure(partition, log, error)
            self._dirtiest_ratio = max((one.ratio for one in found.values()), default=0.0)
            self._max_delay_ms = max((one.delay_ms for one in found.values()), default=0)
            picked = pick_filthiest(found)
            if picked is None:
                return None
            self._states[picked] = CleaningState(CleaningStatus.IN_PROGRESS)
            return LogToClean(picked, logs[picked], found[picked])

    def compacted_logs(self) -> dict[TopicPartition, L]:
        """Begin to delete from the compacted logs that nobody works on: they are in progress until `done_deleting`."""
        with self._guard:
            logs = {partition: log for partition, log in self._compacted() if partition not in self._states}
            self._states |= dict.fromkeys(logs, CleaningState(CleaningStatus.IN_PROGRESS))
            return logs

    def _compacted(self) -> list[tuple[TopicPartition, L]]:
        """The logs that compaction is for; under the guard."""
        self._drop_old_marks()
        logs = [(partition, log) for partition, log in list(self._logs.items()) if log.config.compacted]
        return [one for one in logs if one[0] not in self._uncleanable]

    # ---- work that ends

    def done_cleaning(self, partition: TopicPartition, end_offset: int | None) -> None:
        """End a cleaning: up to `end_offset` the log is clean, durably; None where that is no further than before.

        Where it was called off meanwhile, the log is paused, and its point stays. Raises RuntimeError for a log that
        is not in progress, and what the checkpoints raise; the log is free then.
        """
        with self._guard:
            if self._finish(partition) and end_offset is not None:
                self._checkpoints.put(partition, end_offset)

    def done_deleting(self, partitions: Iterable[TopicPartition]) -> None:
        """End what `compacted_logs` has begun. Raises RuntimeError for a log that is not in progress."""
        with self._guard:
            for partition in partitions:
                self._finish(partition)

    def _finish(self, partition: TopicPartition) -> bool:
        """Whether the work on a log came to its end without being called off; under the guard."""
        state = self._states.get(partition)
        if state is None or state.status is CleaningStatus.PAUSED:
            raise RuntimeError(f"{partition} is not in progress, but {state or 'idle'}")
        if state.status is CleaningStatus.IN_PROGRESS:
            del self._states[partition]
            return True
        self._states[partition] = CleaningState(CleaningStatus.PAUSED, 1)
        self._guard.notify_all()
        return False

    # ---- work that is called off

    def abort(self, partition: TopicPartition) -> None:
        """End what is done to a log now, and let it be picked again. Raises RuntimeError as `abort_and_pause`."""
        self.abort_and_pause(partition)
        self.resume([partition])

    def abort_and_pause(self, partition: TopicPartition) -> None:
        """Keep the cleaner from a log until `resume`; on return nobody works on it. Waits for who does.

        Raises RuntimeError where another thread waits for that already.
        """
        with self._guard:
            state = self._states.get(partition)
            if state is None:
                self._states[partition] = CleaningState(CleaningStatus.PAUSED, 1)
            elif state.status is CleaningStatus.PAUSED:
                self._states[partition] = state._replace(pauses=state.pauses + 1)
            elif state.status is CleaningStatus.ABORTED:
                raise RuntimeError(f"the work on {partition} is being called off already")
            else:
                self._states[partition] = CleaningState(CleaningStatus.ABORTED)
                while self._states.get(partition) == CleaningState(CleaningStatus.ABORTED):
                    self._guard.wait(_WAIT_SECONDS)

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Undo one pause of each log. Raises RuntimeError for one that is not paused."""
        with self._guard:
            for partition in partitions:
                state = self._states.get(partition)
                if state is None or state.status is not CleaningStatus.PAUSED:
                    raise RuntimeError(f"{partition} is not paused, but {state or 'idle'}")
                if state.pauses > 1:
                    self._states[partition] = state._replace(pauses=state.pauses - 1)
                else:
                    del self._states[partition]

    def pause_for_retention(self) -> dict[TopicPartition, L]:
        """Pause the logs that retention alone is for and that nobody works on; `resume` them after it.

        So a log whose policy is switched meanwhile is not cleaned and shortened at once.
        """
        with self._guard:
            logs = {
                partition: log
                for partition, log in list(self._logs.items())
                if not log.config.compacted and partition not in self._states
            }
            self._states |= dict.fromkeys(logs, CleaningState(CleaningStatus.PAUSED, 1))
            return logs

    def check_aborted(self, partition: TopicPartition) -> None:
        """Raise CleaningAbortedError where the work on a log is to end."""
        if self.is_aborted(partition):
            raise CleaningAbortedError(f"cleaning {partition} was called off")

    def is_aborted(self, partition: TopicPartition) -> bool:
        """Whether the work on a log is to end."""
        with self._guard:
            return self._states.get(partition) == CleaningState(CleaningStatus.ABORTED)

    def state(self, partition: TopicPartition) -> CleaningState | None:
        """What is going on with a log; None for nothing."""
        with self._guard:
            return self._states.get(partition)

    def configure(self, partition: TopicPartition, config: LogConfig) -> None:
        """Give a log other settings; where they end its compaction, what is done to it now is called off.

        Raises KeyError, and RuntimeError as `abort_and_pause`.
        """
        log = self._logs[partition]
        was_compacted = log.config.compacted
        log.configure(config)
        if was_compacted and not config.compacted:
            self.abort(partition)

    # ---- cleaner points

    def points(self) -> Mapping[TopicPartition, int]:
        """The cleaner points of all logs that have one. Raises what the checkpoints raise."""
        with self._guard:
            return self._checkpoints.points()

    def truncate_point(self, partition: TopicPartition, offset: int) -> None:
        """Let the next cleaning of a log begin at `offset` at the latest: it was cut there. Raises as `points`."""
        with self._guard:
            if self._checkpoints.points().get(partition, offset) > offset:
                self._checkpoints.put(partition, offset)

    def forget(self, partition: TopicPartition) -> None:
        """Drop the cleaner point and the mark of a log that its owner has deleted. Raises as `points`."""
        with self._guard:
            self._uncleanable.pop(partition, None)
            self._checkpoints.remove(partition)

    # ---- logs that cannot be cleaned

    def mark_uncleanable(self, failure: CleaningFailure[L]) -> None:
        """Leave a log alone, for compaction and for the retention of compacted logs, until it is opened again."""
        with self._guard:
            if failure.partition is not None:
                self._uncleanable[failure.partition] = failure

    def forgive(self, partition: TopicPartition) -> None:
        """Take the mark of a log away."""
        with self._guard:
            self._uncleanable.pop(partition, None)

    @property
    def uncleanable(self) -> dict[TopicPartition, CleaningFailure[L]]:
        """The logs that are left alone, and why. Those that are closed or were opened again are not among them."""
        with self._guard:
            self._drop_old_marks()
            return dict(self._uncleanable)

    def uncleanable_bytes(self, now_ms: int) -> int:
        """How many bytes could be cleaned of the logs that are left alone, as far as they can be looked at."""
        total = 0
        with self._guard:
            points = self._checkpoints.points()
        for partition, failure in self.uncleanable.items():
            try:
                if failure.log is not None:
                    total += assess_log(failure.log, points.get(partition), now_ms).cleanable_bytes
            except (LogstoreError, OSError):
                continue  # that may be why it is left alone
        return total

    def _drop_old_marks(self) -> None:
        self._uncleanable = {
            partition: failure
            for partition, failure in self._uncleanable.items()
            if self._logs.get(partition) is failure.log
        }

    # ---- numbers

    @property
    def dirtiest_ratio(self) -> float:
        """The highest dirty ratio that the last pick has met, due or not."""
        return self._dirtiest_ratio

    @property
    def max_delay_ms(self) -> int:
        """For how long a record had waited beyond max.compaction.lag.ms, at the last pick."""
        return self._max_delay_ms

    @property
    def last_run_ms(self) -> int | None:
        """When a log was last looked for (ms since the epoch); None for never."""
        return self._last_run_ms


def assess_log(log: CleanableLog, cleaner_point: int | None, now_ms: int) -> Cleanability:
    """Find out what there is to clean in a log. Raises LogstoreError, OSError."""
    return assess(
        log.segments, log.config, cleaner_point=cleaner_point, log_start_offset=log.log_start_offset,
        log_end_offset=log.log_end_offset, last_stable_offset=log.last_stable_offset,
        high_watermark=log.high_watermark, now_ms=now_ms,
    )  # fmt: skip
