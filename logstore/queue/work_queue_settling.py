"""What workers say of the jobs they have: done, not now, longer, never.

Each takes the queue's turn, writes what was said, and waits outside of the turn until that is durable, so that those
who come meanwhile share a sync. Thread-safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from logstore.config import Durability
from logstore.log import AppendFuture
from logstore.queue import work_queue_records as records
from logstore.queue.work_queue_errors import JobLostError
from logstore.queue.work_queue_files import QueueFiles
from logstore.queue.work_queue_job import DEAD_FROM, DEAD_REASON, Job, JobId, foreign_headers
from logstore.queue.work_queue_records import Kind
from logstore.records import Record

if TYPE_CHECKING:
    from logstore.queue.work_queue import WorkQueue

_HOUSE_JOBS = 4096  # finished ones between two looks for what can be deleted


class Settler:
    """Settles the jobs of one queue.

    Args:
        files: the queue.
        durability: of dead letters.
        max_deliveries: how often a job is delivered.
        dead_letter: the topic of those that were delivered more often; None: they are only counted.
    """

    def __init__(
        self, files: QueueFiles, durability: Durability, max_deliveries: int, dead_letter: str | None
    ) -> None:  # fmt: skip
        self._files = files
        self._durability = durability
        self._max_deliveries = max_deliveries
        self._dead_letter = dead_letter
        self._turn = files.turn
        self._state = files.state
        self._journal = files.journal
        self._worker = files.worker.number
        self._finished = 0

    def __repr__(self) -> str:
        return f"<Settler of {self._files}>"

    def acquired(self, queue: WorkQueue, job_id: JobId) -> Job:
        """The job of an id, which this worker has. In the turn."""
        number, offset = job_id.priority, job_id.offset
        partitions = self._state.partitions
        entry = partitions[number].open.get(offset) if 0 <= number < len(partitions) else None
        if entry is None or entry[2] != self._worker:
            reason = f"the job {number}@{offset} is finished, or there is none" if entry is None else (
                f"the job {number}@{offset} is available again, or another worker has it"
            )
            raise JobLostError(reason, offset=offset, jobs=[])
        record = self._files.logs[number].get(offset)
        if record is None:
            raise JobLostError(f"the job {number}@{offset} was deleted by retention", offset=offset, jobs=[])
        return Job(queue, number, record, entry[1])

    def acknowledge(self, job: Job) -> None:
        """One job is done."""
        number, offset = job.priority, job.record.offset
        with self._turn:
            entry = self._state.partitions[number].open.get(offset)
            if entry is None or entry[2] != self._worker or entry[1] != job.delivery_count or job.is_settled:
                raise self._lost(job)
            future = self._journal.acknowledge(number, offset)
            self._state.acknowledge(number, offset)
            job.is_settled = True
            self._finished += 1
            if self._finished >= _HOUSE_JOBS:
                self._keep_house()
        if future is not None:
            self._files.settle(future)

    def acknowledge_all(self, jobs: Sequence[Job]) -> None:
        """All of these are done, but for those that are lost, of which JobLostError tells."""
        lost: list[Job] = []
        offsets: dict[int, list[int]] = {}
        with self._turn:
            good: list[Job] = []
            for job in dict.fromkeys(jobs):
                if self._is_mine(job):
                    good.append(job)
                    offsets.setdefault(job.priority, []).append(job.record.offset)
                else:
                    lost.append(job)
            future = self._files.write(
                [records.encode_finished(Kind.ACKNOWLEDGED, number, found) for number, found in offsets.items()]
            )
            for job in good:
                job.is_settled = True
            self._finished += len(good)
            if self._finished >= _HOUSE_JOBS:
                self._keep_house()
        self._files.settle(future)
        if lost:
            raise JobLostError(f"{len(lost)} of {len(jobs)} jobs are not this worker's any more", jobs=lost)

    def give_back(self, job: Job, delay_ms: int) -> None:
        """A job is to be available again."""
        count, offset = job.delivery_count, job.record.offset
        with self._turn:
            self._check_mine(job)
            if count >= self._max_deliveries:
                future = self._give_up(job, f"delivered {count} times")
            else:
                due = self._files.store.clock.now_ms() + delay_ms
                future = self._files.write([records.encode_released(job.priority, [(offset, due, count)])])
            job.is_settled = True
        self._files.settle(future)

    def extend(self, job: Job, for_ms: int) -> None:
        """A job is to be had for longer."""
        files, number, acquired = self._files, job.priority, (job.record.offset, job.delivery_count)
        with self._turn:
            self._check_mine(job)
            until = files.store.clock.now_ms() + for_ms
            if files.is_alone:  # who comes after a crash has it at once, whatever is written
                self._state.partitions[number].set(acquired[0], (until, acquired[1], self._worker))
            else:
                files.write([records.encode_acquired(number, self._worker, until, [acquired])])

    def reject(self, job: Job) -> None:
        """A job will never be done."""
        with self._turn:
            self._check_mine(job)
            future = self._give_up(job, "rejected")
            job.is_settled = True
        self._files.settle(future)

    def _give_up(self, job: Job, reason: str) -> AppendFuture | None:
        self.send_dead(job.priority, job.record, reason)
        return self._files.write([records.encode_finished(Kind.DEAD, job.priority, [job.record.offset])])

    def send_dead(self, number: int, record: Record, reason: str) -> None:
        """Put a dead letter, before it is said that the job is finished. In the turn. Raises OSError."""
        if self._dead_letter is None:
            return
        origin = f"{self._files.name}-{number}@{record.offset}".encode()
        headers = [*foreign_headers(record), (DEAD_FROM, origin), (DEAD_REASON, reason.encode())]
        self._files.store.partition(self._dead_letter).append(
            [(record.key, record.value, record.timestamp, headers)], durability=self._durability
        )

    def _is_mine(self, job: Job) -> bool:
        """Whether a job is this worker's still. In the turn."""
        entry = self._state.partitions[job.priority].open.get(job.record.offset)
        return (
            entry is not None
            and entry[2] == self._worker
            and entry[1] == job.delivery_count
            and not job.is_settled
        )  # fmt: skip

    def _check_mine(self, job: Job) -> None:
        if not self._is_mine(job):
            raise self._lost(job)

    def _lost(self, job: Job) -> JobLostError:
        if job.is_settled:
            reason = "this job was settled already"
        elif job.record.offset in self._state.partitions[job.priority].open:
            reason = "the visibility of this job ran out, and another worker has it"
        else:
            reason = "the visibility of this job ran out, and another worker has finished it; or the queue was purged"
        return JobLostError(reason, offset=job.record.offset, jobs=[job])

    def _keep_house(self) -> None:
        self._finished = 0
        self._files.keep_house()
