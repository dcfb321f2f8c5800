"""A durable queue of jobs: each is given to one worker at a time, until one of them has acknowledged it.

The jobs lie in an ordinary topic, one partition per priority; what is known of them (who has acquired which, and until
when, how often each was delivered, which are finished) lies in a topic beside it, `__work_queue-NAME`, whose records
`work_queue_records` describes. In a store of one process alone that does not sync, the last few acknowledgements lie in
a dot-file (`work_queue_slate`). Any number of threads and processes may put and get at once. What a worker has acquired
when its process dies is available again at once, or, where that cannot be seen, after its visibility timeout.

Invariants: a job that was put is delivered until it is acknowledged or dead; it is delivered to one at a time; whatever
is delivered again says so, but where a power cut took what was not synced. Thread-safe. The model is that of Kafka's
share groups (KIP-932).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import datetime
from os import getpid
from types import TracebackType
from typing import Any, Self, get_args, overload

from logstore.config import Durability
from logstore.queue.work_queue_files import KEEP_SETTINGS, QueueFiles
from logstore.queue.work_queue_job import Job, JobId, QueueStats, job_headers
from logstore.queue.work_queue_putting import Putter
from logstore.queue.work_queue_settling import Settler
from logstore.queue.work_queue_stats import queue_stats
from logstore.queue.work_queue_taking import DELIVERIES_MAX, Taken, Taker
from logstore.queue.work_queue_waiting import Deadline, Waiting
from logstore.records import Header, Record
from logstore.store import Store

PRIORITIES_MAX = 100
GET_MAX = 10_000
_LOOK_NS = 250_000_000  # between two looks for workers that have died
_FOREVER = 1 << 30
_DOUBLINGS_MAX = 40  # of a delay; nobody waits for longer


class WorkQueue:
    """A queue of jobs on a store; a context manager.

    Args:
        store: where it is. In one that is open as exclusive, a queue is opened once, and used by all threads.
        name: of the topic of the jobs. It is made, with no retention by time or size, where it is not there; one that
            is there keeps its settings, and what its retention deletes is gone.
        durability: of what `put`, `ack` and the like have done when they return.
        visibility_timeout: seconds that a worker has for a job before it is given to another one.
        max_deliveries: how often a job is delivered before it goes to the dead letters; None: for ever. After a
            crash up to 256 jobs that may have been taken count as delivered (only those that were, where it is 1).
        dead_letter: the topic for those, made where it is not there; None: they are only counted, and lost. `{name}`
            in it is the queue's name. A job may be there twice after a crash.
        redelivery_delay, redelivery_delay_max: seconds until a job that is given back, or whose work has raised, comes
            again, unless `nack` says: so many after its first delivery, twice as many after each further one, at most
            the latter.
        priorities: how many; jobs of a higher one are looked at first. The number only grows.
        retention: `keep` all jobs in the topic as its settings say, or delete segments whose jobs are all finished
            (`consumed`): they are gone then for all other readers of the topic, too.
        serialize, deserialize: make bytes of values, and back; by default values are bytes.
        detached: what is acquired here stays so when this is closed or its process ends, until its visibility runs out,
            and is settled by whoever opens the queue as detached and asks for it by `acquired`. Not in an exclusive
            store.

    Attributes:
        name, store: as given.
        deserialize: as given.

    Raises LogLockedError for the second one in an exclusive store, InvalidNameError, StoreClosedError, OSError.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        *,
        durability: Durability = "always",
        visibility_timeout: float = 30.0,
        max_deliveries: int | None = 5,
        dead_letter: str | None = "{name}.dead",
        redelivery_delay: float = 0.0,
        redelivery_delay_max: float = 3600.0,
        priorities: int = 1,
        retention: str = "keep",
        serialize: Callable[[Any], bytes] | None = None,
        deserialize: Callable[[bytes], Any] | None = None,
        detached: bool = False,
    ) -> None:
        if detached and store.mode == "exclusive":
            raise ValueError("in a store of one process alone, nobody else could settle what is acquired as detached")
        _check(durability, visibility_timeout, max_deliveries, priorities, retention)
        if redelivery_delay < 0 or redelivery_delay_max < 0:
            raise ValueError("a delay of redelivery is not negative")
        self.name = name
        self.store = store
        self.deserialize = deserialize
        self._serialize = serialize
        self._durability = durability
        self._redelivery_ms, self._redelivery_max_ms = _ms(redelivery_delay), _ms(redelivery_delay_max)
        deliveries = _FOREVER if max_deliveries is None else max_deliveries
        letters = None if dead_letter is None else dead_letter.replace("{name}", name)
        if letters == name:
            raise ValueError("the dead letters of a queue cannot go to itself")
        files = QueueFiles(store, name, priorities, durability, consumed=retention == "consumed", is_detached=detached)
        self._files = files
        self._pid = getpid()
        self._is_open = True
        self._turn = files.turn
        self._mutex = files.mutex
        self._logs = files.logs
        self._putter = Putter(files, durability)
        self._settler = Settler(files, durability, deliveries, letters)
        self._taker = Taker(files, _ms(visibility_timeout), deliveries, self._settler.send_dead)
        self._waiting = Waiting(store, store.partitions(name) + store.partitions(files.state_topic))
        self._looked_ns = 0
        try:
            if letters is not None:
                store.create_topic(letters, settings=KEEP_SETTINGS, exist_ok=True)
        except BaseException:
            files.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<WorkQueue {self.name} {'open' if self._is_open else 'closed'}>"

    # ---- put

    def put(
        self,
        value: Any,
        *,
        key: bytes | None = None,
        priority: int = 0,
        delay: float = 0.0,
        at: datetime | float | None = None,
        unique: bytes | str | None = None,
        headers: Iterable[Header] = (),
    ) -> JobId:
        """Put a job.

        Args:
            value: bytes, or what `serialize` makes bytes of.
            key: goes with it; no order is kept by it.
            priority: 0 to `priorities` - 1; the highest is looked at first.
            delay, at: not before so many seconds from now, or that moment: a datetime, or seconds since the epoch.
            unique: while a job of the same unique key is not finished, nothing is put, and the id is that job's, with
                `is_duplicate`.
            headers: pairs of text and bytes; names that begin with `logstore.` are taken.

        As durable on return as the queue says. Raises BatchTooLargeError, TypeError for what is not bytes, ValueError,
        QueueClosedError, OSError; where that is of the disk, the job may be there.
        """
        if not self._is_open or getpid() != self._pid:
            self._files.check_open()
        if self._serialize is not None:
            value = self._serialize(value)
        if priority and not 0 <= priority < len(self._logs):
            raise ValueError(f"{priority} is no priority of this queue: it has {len(self._logs)}")
        if delay or at is not None or unique is not None:
            return self._putter.put(value, key, priority, self._due(delay, at), _unique(unique), headers)
        if headers:
            found = tuple(job_headers(headers, None, None))
            item: tuple[Any, ...] = (key, value, self.store.clock.now_ms(), found)
        else:
            found, item = (), (key, value)
        offset, _, timestamp, _ = self._logs[priority].append([item], durability=self._durability)
        with self._mutex:
            self._files.backlogs[priority].push(Record(offset, timestamp, key, value, found))
        return JobId(priority, offset)

    def put_many(
        self, values: Iterable[Any], *, key: bytes | None = None, priority: int = 0, headers: Iterable[Header] = ()
    ) -> list[JobId]:
        """Put many jobs in few batches, each of which is put as a whole; as `put`."""
        self._files.check_open()
        if not 0 <= priority < len(self._logs):
            raise ValueError(f"{priority} is no priority of this queue: it has {len(self._logs)}")
        serialize = self._serialize
        items = list(values) if serialize is None else [serialize(value) for value in values]
        return self._putter.put_many(items, key, priority, headers)

    def _due(self, delay: float, at: datetime | float | None) -> int:
        if at is not None:
            if delay:
                raise ValueError("a job has a delay, or a moment, not both")
            return _ms(at.timestamp() if isinstance(at, datetime) else at)
        if delay < 0:
            raise ValueError(f"a delay of {delay} s is none")
        return self.store.clock.now_ms() + _ms(delay)

    # ---- get

    @overload
    def get(self, timeout: float | None = None, *, n: None = None) -> Job | None: ...

    @overload
    def get(self, timeout: float | None = None, *, n: int) -> list[Job]: ...

    def get(self, timeout: float | None = None, *, n: int | None = None) -> Job | list[Job] | None:
        """Acquire a job, or with `n` as many as there are, up to that; those that are available again come first.

        Waits until there is one, at most `timeout` seconds (None: for ever, 0: not at all); None, or an empty list,
        where there is none then. Raises QueueClosedError, OSError, and as a log's reads.
        """
        if not self._is_open or getpid() != self._pid:
            self._files.check_open()
        if n is None:
            with self._turn:
                record = self._taker.take_next()
            if record is not None:
                return Job(self, 0, record, 1)
        elif n < 1:
            raise ValueError(f"{n} jobs are none")
        found = self._look(min(n or 1, GET_MAX))
        if not found and timeout != 0:
            found = self._wait(min(n or 1, GET_MAX), timeout)
        jobs = [Job(self, *taken) for taken in found]
        return jobs if n is not None else (jobs[0] if jobs else None)

    def _look(self, count: int) -> list[Taken]:
        with self._turn:
            self._files.check_open()
            if time.monotonic_ns() - self._looked_ns >= _LOOK_NS:
                self._release_dead()
            taken, future = self._taker.take(count)
            if not taken and self._release_dead():
                taken, future = self._taker.take(count)
        self._files.settle(future)
        return taken

    def _release_dead(self) -> bool:
        """Let be available what those have acquired whose processes are no more; whether that is any. In the turn."""
        self._looked_ns = time.monotonic_ns()
        return not self._files.is_alone and self._files.state.release_owner(self._files.worker.is_gone)

    def _wait(self, count: int, timeout: float | None) -> list[Taken]:
        deadline = Deadline(timeout)
        found: list[Taken] = []

        def look() -> bool:
            found.extend(self._look(count))
            return bool(found)

        while not found:
            since = self._waiting.round
            if look() or deadline.left <= 0:
                break
            self._waiting.wait(since, self._nap(deadline), look)
        return found

    def _nap(self, deadline: Deadline) -> float:
        """Seconds until there is something to look at, as far as one knows."""
        with self._mutex:
            due = self._files.state.next_due()
        left = max(deadline.left, 0.0)
        return left if due is None else min(left, max(due - self.store.clock.now_ms(), 1) / 1000)

    def acquired(self, job_id: JobId) -> Job:
        """A job that this worker has, by its id; for those that were acquired as `detached`.

        Raises JobLostError where it is not acquired by this worker, or not any more; QueueClosedError, OSError.
        """
        self._files.check_open()
        with self._turn:
            return self._settler.acquired(self, job_id)

    # ---- settle

    def ack(self, jobs: Job | Iterable[Job]) -> None:
        """A job is done, or all of some are. As durable on return as the queue says.

        Raises JobLostError for those that are not this worker's any more (the others are acknowledged),
        QueueClosedError, OSError.
        """
        if not self._is_open or getpid() != self._pid:
            self._files.check_open()
        if isinstance(jobs, Job):
            self._settler.acknowledge(jobs)
        else:
            self._settler.acknowledge_all(list(jobs))

    def nack(self, job: Job, delay: float | None = None) -> None:
        """Let a job be available again, in `delay` seconds or as `redelivery_delay` says. As `Job.nack`."""
        if delay is not None and delay < 0:
            raise ValueError(f"a delay of {delay} s is none")
        self._files.check_open()
        self._settler.give_back(job, self._redelivery(job) if delay is None else _ms(delay))
        self._waiting.wake()

    def _redelivery(self, job: Job) -> int:
        """Milliseconds until a job comes again."""
        doublings = min(job.delivery_count - 1, _DOUBLINGS_MAX)
        return min(self._redelivery_ms << doublings, self._redelivery_max_ms)

    def extend(self, job: Job, seconds: float) -> None:
        """Have a job for so many seconds more from now on. As `Job.extend`."""
        self._files.check_open()
        self._settler.extend(job, _ms(seconds))

    def reject(self, job: Job) -> None:
        """Give a job up: it goes to the dead letters at once. As `Job.reject`."""
        self._files.check_open()
        self._settler.reject(job)

    # ---- the queue as a whole

    def stats(self) -> QueueStats:
        """How it stands. Raises QueueClosedError, OSError."""
        self._files.check_open()
        with self._turn:
            self._release_dead()
            return queue_stats(self._files)

    def purge(self) -> int:
        """Drop all jobs that are not finished, also those that workers have; how many. Durable on return."""
        self._files.check_open()
        with self._turn:
            return self._files.purge()

    def close(self) -> None:
        """Close it; what was acquired here is available again at once. Closing twice is fine. Raises OSError."""
        self._is_open = False
        self._files.close()
        self._waiting.wake()


def _check(
    durability: str, visibility_timeout: float, max_deliveries: int | None, priorities: int, retention: str
) -> None:
    if durability not in get_args(Durability):
        raise ValueError(f"{durability!r} is no durability; there are {', '.join(get_args(Durability))}")
    if visibility_timeout <= 0:
        raise ValueError(f"a visibility timeout of {visibility_timeout} s leaves no time to work")
    if max_deliveries is not None and not 1 <= max_deliveries <= DELIVERIES_MAX:
        raise ValueError(f"{max_deliveries} deliveries are not in 1..{DELIVERIES_MAX}")
    if not 1 <= priorities <= PRIORITIES_MAX:
        raise ValueError(f"{priorities} priorities are not in 1..{PRIORITIES_MAX}")
    if retention not in ("keep", "consumed"):
        raise ValueError(f"{retention!r} is no retention of a queue; there are keep and consumed")


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _unique(key: bytes | str | None) -> bytes | None:
    return key.encode() if isinstance(key, str) else key
