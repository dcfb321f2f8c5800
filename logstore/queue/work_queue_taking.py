"""Which jobs a worker gets next: first what is available again, then what nobody has looked at, by priority.

What is decided is written before it is handed out. A store of one process alone writes ahead: that it may have given
away the next so many jobs; so most jobs are taken without a write, and after a crash those count as given away. Jobs
that were delivered too often are buried on the way. Inside the turn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from logstore.errors import OffsetOutOfRangeError
from logstore.log import AppendFuture
from logstore.queue import work_queue_records as records
from logstore.queue.work_queue_files import QueueFiles
from logstore.queue.work_queue_job import own_headers
from logstore.queue.work_queue_records import Kind
from logstore.queue.work_queue_state import PartitionJobs
from logstore.records import Record

_AHEAD = 256  # jobs that may be given away without a word
_CHANGES_MAX = 10_000  # in one write
DELIVERIES_MAX = 0xFFFF


class Taken(NamedTuple):
    """A job that was acquired: its partition, its record, and how often it was delivered."""

    number: int
    record: Record
    deliveries: int


class Taker:
    """Takes jobs from a queue.

    Args:
        files: the queue.
        visibility_ms: how long they are acquired.
        max_deliveries: how often a job is delivered.
        bury: what is done with a job that was delivered more often; takes partition, record, and the reason.
    """

    def __init__(
        self, files: QueueFiles, visibility_ms: int, max_deliveries: int, bury: Callable[[int, Record, str], None]
    ) -> None:
        self._files = files
        self._visibility_ms = visibility_ms
        self._max_deliveries = max_deliveries
        self._bury = bury
        self._order = tuple(reversed(range(len(files.logs))))
        # Where a job may be delivered only once, what is written ahead would bury others with it.
        self._ahead = _AHEAD if max_deliveries > 1 else 0
        self._is_exact = not files.is_alone or not self._ahead
        self._is_plain = not self._is_exact and len(self._order) == 1
        self._clock = files.store.clock
        self._worker = files.worker.number
        self._writes_ahead = files.is_alone or files.durability == "always"

    def __repr__(self) -> str:
        return f"<Taker of {self._files}>"

    def take_next(self) -> Record | None:
        """The next job, delivered the first time, where no word about it is needed; the way of most jobs of one process
        alone. None where it takes a closer look."""
        if not self._is_plain:
            return None
        files = self._files
        jobs = files.state.partitions[0]
        position, due = jobs.position, jobs.due
        if position >= jobs.horizon or jobs.ahead:
            return None
        now = self._clock.now_ms()
        if due and due[0][0] <= now:
            return None
        record = files.backlogs[0].next(position)
        if record is None:
            return None
        if record.offset != position or record.headers or position in jobs.open:
            files.backlogs[0].clear()  # it is looked at again, with more care
            return None
        jobs.position = position + 1
        jobs.set(position, (now + self._visibility_ms, 1, self._worker))
        return record

    def take(self, count: int) -> tuple[list[Taken], AppendFuture | None]:
        """At most `count` jobs; they may be handed out once the future is settled. Raises OSError, LogstoreError."""
        try:
            while True:
                plan, future = self._take(count)
                if plan.taken or not plan.is_full:
                    return plan.taken, future if plan.is_to_wait else None
        except BaseException:
            self._files.undo()
            raise

    def _take(self, count: int) -> tuple[_Plan, AppendFuture | None]:
        files = self._files
        now = files.store.clock.now_ms()
        plan = _Plan(files, now, now + self._visibility_ms)
        for number in self._order:
            jobs = files.state.partitions[number]
            if jobs.due and jobs.due[0][0] <= now:
                self._take_due(plan, number, jobs, count)
            if len(plan.taken) < count and not plan.is_full:
                self._take_fresh(plan, number, jobs, count)
            if len(plan.taken) >= count or plan.is_full:
                break
        future = files.write(plan.changes) if plan.changes else None
        for number, position, horizon in plan.silent:
            files.state.partitions[number].advance(0, position, horizon, plan.entry)
        return plan, future

    def _take_due(self, plan: _Plan, number: int, jobs: PartitionJobs, count: int) -> None:
        """What was released, delayed, or is still acquired by one whose time is up."""
        acquired: list[tuple[int, int]] = []
        dead: list[int] = []
        gone: list[int] = []
        while len(plan.taken) < count and (offset := jobs.pop_due(plan.now)) is not None:
            plan.is_full = len(dead) + len(gone) >= _CHANGES_MAX
            delivered = jobs.open[offset][1]
            record = self._record(number, offset)
            if record is None:
                gone.append(offset)
            elif delivered >= self._max_deliveries:
                self._bury(number, record, f"delivered {delivered} times")
                dead.append(offset)
            else:
                # A delayed one: nothing that is on disk says yet that it was given to anybody.
                plan.is_to_wait = plan.is_to_wait or not delivered
                delivered = min(delivered + 1, DELIVERIES_MAX)
                acquired.append((offset, delivered))
                plan.taken.append(Taken(number, record, delivered))
            if plan.is_full:
                break
        if acquired:
            plan.changes.append(records.encode_acquired(number, plan.owner, plan.until, acquired))
        for kind, offsets in ((Kind.DEAD, dead), (Kind.GONE, gone)):
            if offsets:
                plan.changes.append(records.encode_finished(kind, number, offsets))

    def _record(self, number: int, offset: int) -> Record | None:
        try:
            return self._files.logs[number].get(offset)
        except OffsetOutOfRangeError:
            return None

    def _take_fresh(self, plan: _Plan, number: int, jobs: PartitionJobs, count: int) -> None:
        """What nobody has looked at; in passing, what is not due is told, and what is there twice."""
        backlog, before = self._files.backlogs[number], len(plan.changes)
        # From 0 on: of those before this position, others may not know yet that they were given away.
        first, position, has_gaps = 0, jobs.position, False
        while len(plan.taken) < count and (record := backlog.next(position)) is not None:
            offset = record.offset
            plan.is_full = len(plan.changes) >= _CHANGES_MAX
            if offset > position:  # nothing is there in between
                self._tell(plan, number, first, position, jobs.horizon)
                first, has_gaps = offset, True
            position = offset + 1
            if jobs.is_fresh(offset) and (not record.headers or plan.is_wanted(number, record)):
                plan.taken.append(Taken(number, record, 1))
            if plan.is_full:
                break
        if position == jobs.position:
            return
        horizon = max(jobs.horizon, position)
        if not self._is_exact and not has_gaps and len(plan.changes) == before and position <= jobs.horizon:
            plan.silent.append((number, position, horizon))
            return
        if self._writes_ahead and position > jobs.horizon:
            horizon = position + self._ahead
            plan.is_to_wait = True
        self._tell(plan, number, first, position, horizon)

    def _tell(self, plan: _Plan, number: int, first: int, position: int, horizon: int) -> None:
        plan.changes.append(
            records.encode_advanced(number, first, position, max(position, horizon), plan.owner, plan.until)
        )  # fmt: skip


class _Plan:
    """What one take will do.

    Attributes:
        now, until: its time (ms), and that up to which the jobs are acquired.
        taken: the jobs.
        changes: records that say so.
        silent: partitions whose new positions need not be said: number, position, horizon.
        is_to_wait: whether the records have to be durable before the jobs are handed out.
        is_full: whether it is enough for one write, and there may be more jobs.
    """

    def __init__(self, files: QueueFiles, now: int, until: int) -> None:
        self.now = now
        self.until = until
        self.owner = files.worker.number
        self.taken: list[Taken] = []
        self.changes: list[bytes] = []
        self.silent: list[tuple[int, int, int]] = []
        self.is_to_wait = False
        self.is_full = False
        self._unique = files.state.unique
        self._seen: set[bytes] = set()

    def __repr__(self) -> str:
        return f"<_Plan of {len(self.taken)} jobs>"

    @property
    def entry(self) -> tuple[int, int, int]:
        """Of the jobs that are taken for the first time."""
        return self.until, 1, self.owner

    def is_wanted(self, number: int, record: Record) -> bool:
        """Whether a job that nobody has looked at is to be given away now; what is to be said of it otherwise.

        Who puts a job tells its delay and its unique key in a record of its own, right after it; this is for what came
        without: from other programs, or from one that was killed in between.
        """
        due, unique = own_headers(record)
        if unique is not None:
            known = self._unique.get(unique)
            if unique in self._seen or known not in (None, (number, record.offset)):
                self.changes.append(records.encode_finished(Kind.GONE, number, [record.offset]))
                return False
            if known is None:
                self._seen.add(unique)
                self.changes.append(records.encode_unique(number, record.offset, unique))
        if due > self.now:
            self.changes.append(records.encode_released(number, [(record.offset, due, 0)]))
            return False
        return True


