"""A work queue and a plain model of it are given the same to do, with crashes, and agree.

A crash is a copy of the store as it is at that moment, which is what a killed process leaves; the copy is opened. On a
file system in memory it is a power cut as well: with durability `always` the model loses nothing by it.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

import logstore
from logstore.config import Durability
from logstore.queue.work_queue import WorkQueue
from logstore.queue.work_queue_errors import JobLostError
from logstore.queue.work_queue_job import Job, JobId
from logstore.testing import CrashMode, ManualClock, MemoryFileSystem

# Without shrinking, which takes minutes: the steps of a failure are few enough to be read.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
VISIBILITY_MS = 10_000
DELIVERIES = 3


@dataclass
class ModelJob:
    """What a job is to be."""

    value: bytes
    unique: str | None
    available: int
    delivered: int = 0
    is_doubtful: bool = False  # whether it may count as delivered once more: its process died
    is_vague: bool = False  # whether deliveries but the first may be forgotten: the power went
    holder: Job | None = None


class QueueMachine(RuleBasedStateMachine):
    """One or two workers, in one store."""

    mode: Literal["shared", "exclusive"] = "shared"
    durability: Durability = "os"
    max_deliveries: int | None = DELIVERIES
    jobs = Bundle("jobs")

    @initialize()
    def begin(self) -> None:
        self.clock = ManualClock(1_000_000)
        self.make_place()
        self.model: dict[tuple[int, int], ModelJob] = {}
        self.acknowledged = self.values = self.dead = 0
        self._open()

    def make_place(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.path, self.copies = self.root / "0", 0

    def opened(self) -> logstore.Store:
        return logstore.open(self.path, mode=self.mode, clock=self.clock)

    def _open(self) -> None:
        self.store = self.opened()
        self.workers = [self._worker() for _ in range(1 if self.mode == "exclusive" else 2)]

    def _worker(self) -> WorkQueue:
        return WorkQueue(
            self.store, "jobs", durability=self.durability, visibility_timeout=VISIBILITY_MS / 1000, priorities=2,
            max_deliveries=self.max_deliveries,
        )  # fmt: skip

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            for worker in self.workers:
                worker.close()
            self.remove_place()

    def remove_place(self) -> None:
        shutil.rmtree(self.root)

    # ---- put

    def _new(self, id: JobId, value: bytes, available: int = 0, unique: str | None = None) -> None:
        assert (id.priority, id.offset) not in self.model
        self.model[id.priority, id.offset] = ModelJob(value, unique, available)

    @rule(
        priority=st.integers(0, 1), delay=st.sampled_from([0, 0, 3, 20]),
        unique=st.sampled_from([None, None, "a", "b"]), worker=st.integers(0, 1),
    )  # fmt: skip
    def put(self, priority: int, delay: int, unique: str | None, worker: int) -> None:
        self.values += 1
        value = b"%d" % self.values
        same = [id for id, job in self.model.items() if unique is not None and job.unique == unique]
        done = self.workers[worker % len(self.workers)].put(value, priority=priority, delay=delay, unique=unique)
        if same:
            assert done.is_duplicate and same == [(done.priority, done.offset)]
        else:
            self._new(done, value, self.clock.now_ms() + delay * 1000 if delay else 0, unique)

    @rule(priority=st.integers(0, 1), count=st.integers(1, 6))
    def put_many(self, priority: int, count: int) -> None:
        values = [b"%d" % (self.values + index) for index in range(1, count + 1)]
        self.values += count
        for id, value in zip(self.workers[0].put_many(values, priority=priority), values, strict=True):
            self._new(id, value)

    # ---- get

    @rule(target=jobs, count=st.integers(1, 5), worker=st.integers(0, 1))
    def get(self, count: int, worker: int) -> object:
        now = self.clock.now_ms()
        found = self.workers[worker % len(self.workers)].get(0, n=count)
        ready = {id for id, job in self.model.items() if job.available <= now}
        limit = self.max_deliveries or 1 << 30
        expired = {id for id in ready if self.model[id].delivered >= limit}
        assert len(found) == min(count, len(ready - expired))
        for job in found:
            id = job.id.priority, job.id.offset
            known = self.model[id]
            assert id in ready - expired and job.value == known.value
            least = min(known.delivered, 1) if known.is_vague else known.delivered
            assert least < job.delivery_count <= known.delivered + 1 + known.is_doubtful
            assert job.is_redelivered or not known.delivered
            known.delivered, known.is_doubtful, known.is_vague = job.delivery_count, False, False
            known.available, known.holder = now + VISIBILITY_MS, job
        if len(found) < count:  # all were looked at, and those buried that came too often
            for id in expired:
                del self.model[id]
                self.dead += 1
        else:
            self._see_buried(expired)
        return multiple(*found)

    def _see_buried(self, expired: set[tuple[int, int]]) -> None:
        """Which of them were on the way to what was found is the queue's affair."""
        letters = {record.value for record in self.store.partition("jobs.dead").records()}
        for id in expired:
            if self.model[id].value in letters:
                del self.model[id]
                self.dead += 1

    # ---- settle

    def _mine(self, job: Job) -> ModelJob | None:
        known = self.model.get((job.id.priority, job.id.offset))
        return known if known is not None and known.holder is job else None

    @rule(job=consumes(jobs))
    def ack(self, job: Job) -> None:
        if self._mine(job) is None:
            self._lost(job.ack)
            return
        job.ack()
        del self.model[job.id.priority, job.id.offset]
        self.acknowledged += 1

    @rule(chosen=st.lists(consumes(jobs), max_size=4))
    def ack_many(self, chosen: list[Job]) -> None:
        good = [job for job in chosen if job._queue is self.workers[0] and self._mine(job) is not None]
        self.workers[0].ack(good)
        for job in good:
            del self.model[job.id.priority, job.id.offset]
        self.acknowledged += len(good)

    @rule(job=consumes(jobs), delay=st.sampled_from([0, 5]))
    def nack(self, job: Job, delay: int) -> None:
        known = self._mine(job)
        if known is None:
            self._lost(job.nack)
            return
        job.nack(delay)
        known.holder = None
        known.available = self.clock.now_ms() + delay * 1000
        if self.max_deliveries is not None and known.delivered >= self.max_deliveries:
            del self.model[job.id.priority, job.id.offset]
            self.dead += 1

    @rule(job=jobs, seconds=st.sampled_from([1, 15]))
    def extend(self, job: Job, seconds: int) -> None:
        known = self._mine(job)
        if known is None:
            self._lost(lambda: job.extend(seconds))
            return
        job.extend(seconds)
        known.available = self.clock.now_ms() + seconds * 1000

    @rule(job=consumes(jobs))
    def reject(self, job: Job) -> None:
        if self._mine(job) is None:
            self._lost(job.reject)
            return
        job.reject()
        del self.model[job.id.priority, job.id.offset]
        self.dead += 1

    def _lost(self, settle: object) -> None:
        try:
            settle()  # type: ignore[operator]
        except (JobLostError, logstore.LogstoreError):
            return
        raise AssertionError("a job that was lost could be settled")

    # ---- time, snapshots, ends

    @rule(ms=st.sampled_from([1, 3_000, 10_000, 20_000]))
    def pass_time(self, ms: int) -> None:
        self.clock.advance(ms)

    @rule()
    def write_snapshot(self) -> None:
        queue = self.workers[-1]
        with queue._turn:
            queue._files.journal.write_snapshot(queue._files.state)

    @rule()
    def reopen(self) -> None:
        for worker in self.workers:
            worker.close()
        self.store.close()
        self._begin_anew(has_crashed=False)

    @rule()
    def crash(self) -> None:
        self.copies += 1
        copy = self.root / str(self.copies)
        shutil.copytree(self.path, copy)
        self.store.close()
        for worker in self.workers:
            worker.close()
        shutil.rmtree(self.path)
        self.path = copy
        self._begin_anew(has_crashed=True)

    def _begin_anew(self, *, has_crashed: bool) -> None:
        writes_ahead = self.mode == "exclusive" or self.durability == "always"
        for job in self.model.values():
            if job.holder is not None:
                job.holder, job.available = None, 0
            job.is_doubtful = job.is_doubtful or (has_crashed and writes_ahead and not job.delivered)
        self._open()

    @rule()
    def purge(self) -> None:
        doomed = len(self.model)
        assert self.workers[0].purge() == doomed
        self.model.clear()

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "store"):
            return
        now = self.clock.now_ms()
        stats = self.workers[0].stats()
        available = sum(job.available <= now for job in self.model.values())
        held = sum(job.available > now and job.holder is not None for job in self.model.values())
        assert (stats.available, stats.acquired) == (available, held)
        assert stats.delayed == len(self.model) - available - held
        assert (stats.acknowledged, stats.dead) == (self.acknowledged, self.dead)


class ExclusiveMachine(QueueMachine):
    """One process alone: after a crash, what it may have given away counts as delivered."""

    mode = "exclusive"
    max_deliveries = None


class PowerMachine(QueueMachine):
    """On a disk that forgets what was not synced."""

    durability = "always"
    max_deliveries = None  # where deliveries may be forgotten, nobody knows when there were too many

    def make_place(self) -> None:
        self.fs = MemoryFileSystem(self.clock)

    def opened(self) -> logstore.Store:
        return logstore.open("/store", mode=self.mode, clock=self.clock, fs=self.fs)

    def remove_place(self) -> None:
        pass

    @rule(mode=st.sampled_from(["nothing", "everything", "torn", "metadata", "subset"]), seed=st.integers(0, 9))
    def crash(self, mode: CrashMode, seed: int) -> None:  # type: ignore[override]
        after = self.fs.crash(mode, seed)
        self.store.close()
        for worker in self.workers:
            worker.close()
        self.fs = after
        for job in self.model.values():
            job.is_vague = True
        self._begin_anew(has_crashed=True)


class ExclusivePowerMachine(PowerMachine):
    """The same, with one process alone."""

    mode = "exclusive"


TestSharedQueue = QueueMachine.TestCase
TestSharedQueue.settings = settings(max_examples=8, stateful_step_count=30, deadline=None, phases=PHASES)
TestExclusiveQueue = ExclusiveMachine.TestCase
TestExclusiveQueue.settings = settings(max_examples=10, stateful_step_count=30, deadline=None, phases=PHASES)
TestPower = PowerMachine.TestCase
TestPower.settings = settings(max_examples=10, stateful_step_count=30, deadline=None, phases=PHASES)
TestExclusivePower = ExclusivePowerMachine.TestCase
TestExclusivePower.settings = settings(max_examples=10, stateful_step_count=30, deadline=None, phases=PHASES)
