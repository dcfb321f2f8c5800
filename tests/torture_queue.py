"""A work queue whose putters and workers are killed.

Putters put jobs: single ones and many, of two priorities, delayed, with unique keys. Workers tell which jobs they get,
and before and after they settle them: they acknowledge most, give some back, reject a few, and keep some until they
close the queue or are killed. `torture_queue_judge` says whether that was what a queue may do.
"""

from __future__ import annotations

import itertools
import random
import time
from pathlib import Path

from torture_crew import Crew, Journal, keep_house, play
from torture_queue_judge import MAX_DELIVERIES, NOTHING, PRIORITIES, Letter, QueueTally, is_done, judge_queue

from logstore.queue import WorkQueue
from logstore.queue.work_queue_job import DEAD_FROM, DEAD_REASON, Job, QueueStats
from logstore.store import Store

QUEUE = "jobs"
ROLES = {"putter": 4, "worker": 4, "keeper": 1}
_SETTINGS = {"segment.bytes": "200000", "file.delete.delay.ms": "0", "retention.ms": "-1", "retention.bytes": "-1"}
_VISIBILITY_S = 3600.0  # nobody loses a job by being slow
_BACKLOG_MAX = 3000  # then putters are slower


def torture_queue(directory: Path, seed: int, seconds: float) -> QueueTally:
    """Run and kill putters and workers on a store in `directory` for so long; what came of it."""
    crew = Crew(Path(__file__), directory, ROLES, seed)
    crew.look(lambda store: store.create_topic(QUEUE, PRIORITIES, _SETTINGS))
    with crew:
        crew.run(seconds)
        crew.kill_all(but="worker")
        crew.wait("jobs that are not finished", lambda store: is_done(stats_of(store)))
    lines = list(crew.lines())
    stats, letters = crew.look(stats_of), crew.look(dead_letters)
    tally = judge_queue(lines, letters, stats)
    tally.kills = crew.kills
    tally.deleted = crew.look(lambda store: sum(one.log_start_offset for one in store.partitions(QUEUE)))
    tally.problems += crew.problems
    if not tally.acknowledged:
        tally.problems.append("no job was acknowledged")
    return tally


def open_queue(store: Store, chance: random.Random | None = None) -> WorkQueue:
    return WorkQueue(
        store, QUEUE, priorities=PRIORITIES, max_deliveries=MAX_DELIVERIES, visibility_timeout=_VISIBILITY_S,
        retention="consumed", durability="os" if chance is None else chance.choice(("os", "always", "interval")),
    )  # fmt: skip


def stats_of(store: Store) -> QueueStats:
    with open_queue(store) as queue:
        return queue.stats()


def dead_letters(store: Store) -> list[Letter]:
    found = []
    for record in store.partition(f"{QUEUE}.dead").records():
        headers = dict(record.headers)
        origin, reason = headers[DEAD_FROM], headers[DEAD_REASON]
        assert origin is not None and reason is not None
        priority, offset = origin.decode().rpartition("-")[2].split("@")
        found.append(Letter(int(priority), int(offset), reason.decode()))
    return found


# ---------------------------------------------------------------- what the processes do


def put(store: Store, journal: Journal, name: str) -> None:
    """Put jobs for ever."""
    chance, numbers = random.Random(name), itertools.count()
    with open_queue(store, chance) as queue:
        while True:
            priority = chance.randrange(PRIORITIES)
            jobs = [f"{name}/{next(numbers)}" for _ in range(chance.choice((1, 1, 1, 1, 1, 20, 200)))]
            due, unique = 0, NOTHING
            if len(jobs) == 1 and chance.random() < 0.2:
                due = int(time.time() * 1000) + chance.randrange(1, 300)
            if len(jobs) == 1 and chance.random() < 0.2:
                unique = f"u{chance.randrange(10)}"
            journal.tell("putting", name, priority, due, unique, *jobs)
            values = [f"{job} ".encode() + b"." * chance.randrange(300) for job in jobs]
            if len(jobs) > 1:
                ids = queue.put_many(values, priority=priority)
                if queue.stats().available > _BACKLOG_MAX:
                    time.sleep(1)
            else:
                at, key = due / 1000 if due else None, None if unique == NOTHING else unique
                ids = [queue.put(values[0], priority=priority, at=at, unique=key)]
            for job, job_id in zip(jobs, ids, strict=True):
                journal.tell("known" if job_id.is_duplicate else "put", name, job, job_id.priority, job_id.offset)
            time.sleep(chance.random() * 0.01)


def work(store: Store, journal: Journal, name: str) -> None:
    """Work for ever, and open the queue anew now and then."""
    chance = random.Random(name)
    while True:
        with open_queue(store, chance) as queue:
            for _ in range(chance.randrange(10, 500)):
                journal.tell("asking", name)
                jobs = queue.get(0.2, n=chance.choice((1, 3, 10, 50, 300)))
                now = int(time.time() * 1000)
                journal.tell("got", name, now, *(f"{_told(one)}:{one.delivery_count}:{_name(one)}" for one in jobs))
                if not jobs:
                    break
                settle(queue, journal, name, jobs, chance)
            journal.tell("closing", name)


def settle(queue: WorkQueue, journal: Journal, name: str, jobs: list[Job], chance: random.Random) -> None:
    """Do something with most of these, and keep the others."""
    chance.shuffle(jobs)
    if chance.random() < 0.5:
        chosen = jobs[: chance.randrange(1, len(jobs) + 1)]
        places = [_told(one) for one in chosen]
        journal.tell("acking", name, *places)
        queue.ack(chosen)
        journal.tell("acked", name, *places)
        jobs = jobs[len(chosen) :]
    for job in jobs:
        choice, place = chance.random(), _told(job)
        if choice < 0.8:
            journal.tell("acking", name, place)
            job.ack()
            journal.tell("acked", name, place)
        elif choice < 0.95:
            journal.tell("nacking", name, place)
            job.nack(delay=chance.choice((0.0, 0.0, 0.1)))
        elif choice < 0.97:
            journal.tell("rejecting", name, place)
            job.reject()
            journal.tell("rejected", name, place)


def _told(job: Job) -> str:
    return f"{job.priority}:{job.record.offset}"


def _name(job: Job) -> str:
    value: bytes = job.value
    return value.split(b" ")[0].decode()


if __name__ == "__main__":
    play({"putter": put, "worker": work, "keeper": keep_house})
