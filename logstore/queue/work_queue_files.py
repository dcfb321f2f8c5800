"""What a work queue has in its store: the topic of its jobs, the one of its state, and its locks.

In a store of one process alone the state is read once; then memory is right. In a shared one each turn begins with
what others have written. After a power cut the topic of the jobs may have lost more than that of the state, and the
other way round: what is said of jobs that are no more is forgotten when the first process comes, before any offset is
used again by this queue. Thread-safe where the turn is taken.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from logstore import names
from logstore.config import Durability
from logstore.errors import InvalidPartitionsError, LogClosedError, StoreClosedError
from logstore.log import AppendFuture, Log, SharedLog
from logstore.queue.work_queue_backlog import Backlog
from logstore.queue.work_queue_errors import QueueClosedError
from logstore.queue.work_queue_journal import SETTINGS, Journal
from logstore.queue.work_queue_presence import DETACHED, TURN_PREFIX, SharedTurn, Users, Worker
from logstore.queue.work_queue_records import encode_advanced
from logstore.queue.work_queue_slate import Slate
from logstore.queue.work_queue_state import NOBODY, PartitionJobs, QueueState
from logstore.store import Partition, Store, Topic

KEEP_SETTINGS = {"retention.ms": "-1", "retention.bytes": "-1"}
"""Of a topic that is made for jobs: they stay until they are finished, however long that takes."""
CONSUMED_SETTINGS = {**KEEP_SETTINGS, "segment.bytes": str(16 << 20), "file.delete.delay.ms": "0"}
_DRAINED_BYTES = 1 << 20  # of an active segment that is worth a roll when all its jobs are finished


class QueueFiles:
    """An open work queue.

    Attributes:
        state: what is known of the jobs; inside the turn.
        turn: a context manager that keeps all others from changing it.
        mutex: the part of it that keeps the threads of this process out.
        logs, backlogs: of the partitions, by number.
        worker: our number.
        state_topic: the name of the topic of its state.
        is_alone: whether no other process can have the store open.
    """

    def __init__(
        self, store: Store, name: str, priorities: int, durability: Durability, *, consumed: bool,
        is_detached: bool = False,
    ) -> None:  # fmt: skip
        self.store = store
        self.name = name
        self.durability = durability
        self.is_alone = store.mode == "exclusive"
        self._pid = os.getpid()
        self._is_open = True
        self._consumed = consumed
        self.mutex = threading.Lock()
        names.check_topic_name(names.WORK_QUEUE_STATE_PREFIX + name)
        topic = _jobs_topic(store, name, priorities, CONSUMED_SETTINGS if consumed else KEEP_SETTINGS)
        self.state = QueueState(topic.partitions, topic.topic_id)
        self.state_topic = names.WORK_QUEUE_STATE_PREFIX + name
        store.create_topic(self.state_topic, settings=SETTINGS, exist_ok=True)
        fs, root = store.fs, store.paths[0]
        with contextlib.ExitStack() as stack:
            self._partitions = store.partitions(name)
            self.logs: list[Log | SharedLog] = [stack.enter_context(one.using()) for one in self._partitions]
            self.backlogs = [Backlog(log) for log in self.logs]
            self._state_partition = store.partition(self.state_topic, 0)
            state_log = stack.enter_context(self._state_partition.using())
            self._slate = Slate(fs, root, name)
            stack.callback(self._slate.close)
            is_noting = self.is_alone and durability == "os"
            self.journal = Journal(self._state_partition, state_log, durability, self._slate if is_noting else None)
            self._lock = fs.open_lock(root / f"{TURN_PREFIX}{name}")
            stack.callback(self._lock.close)
            self._users = Users(fs, root, name)
            stack.callback(self._users.leave)
            self.worker = Worker(fs, root, is_alone=self.is_alone, is_detached=is_detached)
            stack.callback(self.worker.end)
            shared = SharedTurn(self.mutex, self._lock, self.check_open, self._follow)
            with shared:
                self._begin(topic)
            self.turn: AbstractContextManager[Any] = self.mutex if self.is_alone else shared
            self._stack = stack.pop_all()

    def __repr__(self) -> str:
        return f"<QueueFiles {self.name} of {self.store}>"

    def _follow(self) -> None:
        self.journal.follow(self.state)

    # ---- begin

    def _begin(self, topic: Topic) -> None:
        """Come to it. In the turn."""
        is_first = self._users.is_only()
        if is_first:
            self._put_in_order(topic)
        elif self.is_alone:
            raise self._users.refusal()
        if not self.is_alone:
            self._users.join()
            self.worker.sweep()
        self.state.grow(topic.partitions)

    def _put_in_order(self, topic: Topic) -> None:
        """Conclude what those have done who are no more. In the turn, when nobody else is there."""
        state, noted = self.state, self._slate.read(self.journal.end)
        state.grow(topic.partitions)
        for number, offset in noted:
            state.acknowledge(number, offset)
        has_changed = bool(noted) or self.journal.is_empty
        if state.topic_id != topic.topic_id:  # the topic is another one than that of which the state speaks
            state.clear()
            state.topic_id = topic.topic_id
            has_changed = True
        state.grow(topic.partitions)
        for number, log in enumerate(self.logs):
            end = log.log_end_offset
            has_changed |= state.cut(number, end)
            jobs = state.partitions[number]
            given = min(jobs.horizon, end)
            if given > jobs.position:
                jobs.advance(jobs.position, given, given, (0, 1, NOBODY))
                has_changed = True
        state.release_owner(lambda owner: owner != DETACHED)
        if has_changed:
            self.journal.write_snapshot(state)
        self._slate.erase()

    # ---- work

    def check_open(self) -> None:
        """Raise QueueClosedError, or StoreClosedError."""
        self.store.check_open()
        if not self._is_open:
            raise QueueClosedError(f"the work queue {self.name!r} is closed")

    def write(self, changes: Sequence[bytes]) -> AppendFuture | None:
        """Write what is done, and do it. In the turn. Raises OSError, LogClosedError: nothing is done then."""
        future = self.journal.write(list(changes))
        for change in changes:
            self.state.apply(change)
        if self.journal.is_long:
            self.journal.write_snapshot(self.state)
        return future

    def settle(self, future: AppendFuture | None) -> None:
        """Wait until something is as durable as it has to be. Outside the turn. Raises OSError, LogClosedError."""
        if future is None:
            return
        try:
            future.result()
        except FileNotFoundError:  # somebody has put another segment in its place, and has synced that
            self._state_partition.flush()

    def undo(self) -> None:
        """After a failure: what was looked at, and not done, is looked at again. In the turn."""
        self.state.rebuild()
        for backlog in self.backlogs:
            backlog.clear()

    def trim(self) -> None:
        """Delete the segments whose jobs are all finished, if that is wanted. In the turn. Raises OSError."""
        if not self._consumed:
            return
        for number, partition in enumerate(self._partitions):
            start = self.state.partitions[number].first_unfinished
            segments = partition.segments
            is_drained = start >= partition.log_end_offset and segments[-1].size >= _DRAINED_BYTES
            ends = [one.base_offset for one in segments[1:]]
            if is_drained or any(end <= start for end in ends):
                self._delete_below(partition, start, is_drained)

    def _delete_below(self, partition: Partition, start: int, is_drained: bool) -> None:
        with partition.changing() as log:
            if is_drained:
                log.roll()
            log.advance_log_start(min(start, log.log_end_offset))
            log.delete_before_log_start()
            log.maintain()

    def keep_house(self) -> None:
        """What is due after many jobs: a snapshot, and segments that can go. In the turn. Raises OSError."""
        self.trim()
        if self.journal.is_long:
            self.journal.write_snapshot(self.state)

    def purge(self) -> int:
        """Finish all jobs; how many that were. In the turn. Durable on return."""
        state = self.state
        count = sum(len(jobs.open) for jobs in state.partitions)
        for number, (log, jobs) in enumerate(zip(self.logs, state.partitions, strict=True)):
            end = log.log_end_offset
            above = sum(offset >= jobs.position for offset in jobs.open)
            count += max(end - max(jobs.position, log.log_start_offset) - len(jobs.ahead) - above, 0)
            state.partitions[number] = PartitionJobs(end, end)
            self.backlogs[number].clear()
        state.forget_unique()
        self.journal.write_snapshot(state)
        self.trim()
        return count

    @property
    def size(self) -> int:
        """Bytes of jobs and state."""
        return sum(log.size for log in self.logs) + self._state_partition.size

    # ---- end

    def close(self) -> None:
        """Give it up; what was acquired is available again. Closing twice is fine."""
        if not self._is_open:
            return
        if self._pid != os.getpid():  # the locks are the parent's, and closed here already
            self._is_open = False
            return
        try:
            with contextlib.suppress(LogClosedError, StoreClosedError):  # the store was closed first: nothing is lost
                with self.turn:
                    self._is_open = False
                    future = self._end()
                self.settle(future)
        finally:
            self._is_open = False
            self._stack.close()

    def _end(self) -> AppendFuture | None:
        """Leave word, if nobody else is there, that memory and the state topic say the same. In the turn."""
        if not self.is_alone:
            if not self._users.is_only():
                return None
            self._users.join()  # else who comes before we are gone would be refused
        self.trim()
        changes = [
            encode_advanced(number, 0, jobs.position, jobs.position, self.worker.number, 0)
            for number, jobs in enumerate(self.state.partitions)
            if jobs.horizon != jobs.position
        ]
        return self.write(changes)


def _jobs_topic(store: Store, name: str, priorities: int, settings: dict[str, str]) -> Topic:
    """The topic of the jobs, with a partition for each priority."""
    topic = store.create_topic(name, priorities, settings, exist_ok=True)
    if topic.partitions < priorities:
        with contextlib.suppress(InvalidPartitionsError):  # somebody else has done it
            store.grow_topic(name, priorities)
    return store.topic(name)
