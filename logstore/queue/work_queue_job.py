"""A job as its worker sees it, and what is said about jobs. A job belongs to one thread at a time."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from logstore.records import Header, Record

if TYPE_CHECKING:
    from logstore.queue.work_queue import WorkQueue

# Headers of the records of jobs, and of dead letters. On disk; never change.
OWN_PREFIX = "logstore."
NOT_BEFORE = "logstore.not-before"
"""From when on the job is available: i64, big endian, milliseconds since the epoch."""
UNIQUE = "logstore.unique"
"""The unique key of the job."""
DEAD_FROM = "logstore.dead-from"
"""Of a dead letter: topic, partition and offset of the job, as `jobs-0@17`."""
DEAD_REASON = "logstore.dead-reason"
"""Of a dead letter: `rejected`, or `delivered N times`."""
_TIME = struct.Struct(">q")


class JobId(NamedTuple):
    """Which job it is.

    Attributes:
        priority: its priority, which is the number of its partition.
        offset: of its record.
        is_duplicate: there was one of the same unique key, which is this one; nothing was put.
    """

    priority: int
    offset: int
    is_duplicate: bool = False


@dataclass(frozen=True, slots=True)
class QueueStats:
    """How a work queue stands.

    Attributes:
        available: jobs that the next `get` finds.
        delayed: jobs whose time has not come.
        acquired: jobs that workers have.
        acknowledged, dead: jobs that were, since the queue was made.
        size: bytes on disk, of the jobs and of the state.
        oldest_age: seconds since the oldest job was put that is not finished; None where there is none.
    """

    available: int
    delayed: int
    acquired: int
    acknowledged: int
    dead: int
    size: int
    oldest_age: float | None


class Job:
    """A job that was given to this worker; a context manager.

    It is to be acknowledged before its visibility timeout runs out. As a context manager it is at the end, unless that
    was done inside; an exception lets it be available again.

    Attributes:
        record: as it lies in the topic.
        priority: its priority.
        delivery_count: how often it was given to a worker, this time included.
    """

    __slots__ = ("_queue", "delivery_count", "is_settled", "priority", "record")

    def __init__(self, queue: WorkQueue, priority: int, record: Record, delivery_count: int) -> None:
        self._queue = queue
        self.priority = priority
        self.record = record
        self.delivery_count = delivery_count
        self.is_settled = False

    def __repr__(self) -> str:
        state = "settled" if self.is_settled else "acquired"
        return f"<Job {self.priority}@{self.record.offset} {state}, delivery {self.delivery_count}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_settled:
            return
        if kind is None:
            self.ack()
        else:
            self.nack()

    @property
    def id(self) -> JobId:
        """Which it is."""
        return JobId(self.priority, self.record.offset)

    @property
    def value(self) -> Any:
        """What was put: bytes, or what the queue's `deserialize` makes of them, each time it is asked."""
        deserialize, value = self._queue.deserialize, self.record.value
        return value if deserialize is None or value is None else deserialize(value)

    @property
    def key(self) -> bytes | None:
        """The key it was put with."""
        return self.record.key

    @property
    def headers(self) -> tuple[Header, ...]:
        """The headers it was put with."""
        return foreign_headers(self.record)

    @property
    def is_redelivered(self) -> bool:
        """Whether somebody may have worked at it before."""
        return self.delivery_count > 1

    def ack(self) -> None:
        """It is done. As durable on return as the queue says. Raises JobLostError, QueueClosedError, OSError."""
        self._queue.ack(self)

    def nack(self, delay: float | None = None) -> None:
        """Let it be available again, in `delay` seconds; a dead letter after too many deliveries. Raises as `ack`.

        Without `delay` the queue says when: see its `redelivery_delay`.
        """
        self._queue.nack(self, delay)

    def extend(self, seconds: float) -> None:
        """Have it for so many seconds more from now on. Raises as `ack`."""
        self._queue.extend(self, seconds)

    def reject(self) -> None:
        """Give it up: it goes to the dead letters at once. Raises as `ack`."""
        self._queue.reject(self)


def foreign_headers(record: Record) -> tuple[Header, ...]:
    """The headers of a record but for ours."""
    if not record.headers:
        return ()
    return tuple(header for header in record.headers if not header[0].startswith(OWN_PREFIX))


def job_headers(headers: Iterable[Header], due: int | None, unique: bytes | None) -> list[Header]:
    """The headers of a record to put. Raises ValueError for names that are ours."""
    found = list(headers)
    for name, _ in found:
        if name.startswith(OWN_PREFIX):
            raise ValueError(f"the header {name!r} is for the queue's own use")
    if due is not None:
        found.append((NOT_BEFORE, _TIME.pack(due)))
    if unique is not None:
        found.append((UNIQUE, unique))
    return found


def own_headers(record: Record) -> tuple[int, bytes | None]:
    """When a job is due (0: at once), and its unique key. What is not understood counts for nothing."""
    due, unique = 0, None
    for name, value in record.headers:
        if name == NOT_BEFORE and value is not None and len(value) == _TIME.size:
            (due,) = _TIME.unpack(value)
        elif name == UNIQUE:
            unique = value
    return due, unique
