"""Several processes work at one queue, and are killed at any moment: no job is lost, none comes twice unsaid."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import logstore
from logstore.queue.work_queue import WorkQueue

# Each event is one short write, so a line is there as a whole or not at all, however its process ends.
PRELUDE = """
import os, random, sys, time
import logstore
from logstore.queue.work_queue import WorkQueue
path, events, mode, seed = sys.argv[1], os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT), sys.argv[3], 0
chance = random.Random(int(sys.argv[4]))
def tell(*words):
    os.write(events, (" ".join(map(str, (time.monotonic_ns(), *words))) + "\\n").encode())
store = logstore.open(path, mode=mode)
queue = WorkQueue(store, "jobs", durability="os", max_deliveries=None)
def work(jobs):
    for job in jobs:
        tell("got", job.id.offset, int(job.is_redelivered))
    chance.shuffle(jobs)
    for job in jobs:
        if chance.random() < 0.1:
            job.nack()
        else:
            job.ack()
            tell("acked", job.id.offset)
def put():
    tell("put", queue.put(b"x" * chance.randrange(200)).offset)
tell("ready")
"""
WORKER = PRELUDE + "while True:\n    work(queue.get(n=chance.randrange(1, 8)))\n"
PRODUCER = PRELUDE + "while True:\n    put()\n    time.sleep(0.0005)\n"
ALONE = PRELUDE + "while True:\n    put()\n    put()\n    work(queue.get(0, n=chance.randrange(1, 3)))\n"


class Crew:
    """Processes that work at a queue, and what they have told."""

    def __init__(self, path: Path) -> None:
        self.store_path = path / "store"
        self._events = path / "events"
        self._seed = 0
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, script: str, mode: str = "shared") -> subprocess.Popen[bytes]:
        self._seed += 1
        arguments = [str(self.store_path), str(self._events), mode, str(self._seed)]
        process = subprocess.Popen([sys.executable, "-c", script, *arguments])
        self.processes.append(process)
        return process

    def wait_for_ready(self, count: int) -> None:
        end = time.monotonic() + 20
        while sum(event[1] == "ready" for event in self.events()) < count:
            assert time.monotonic() < end and all(one.poll() in (None, -signal.SIGKILL) for one in self.processes)
            time.sleep(0.01)

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        assert process.poll() is None, "it has failed by itself"
        process.kill()
        process.wait()

    def events(self) -> list[list[str]]:
        if not self._events.exists():
            return []
        return sorted((line.split() for line in self._events.read_text().splitlines()), key=lambda one: int(one[0]))

    def check(self) -> None:
        """Whether what they told is what a queue may do."""
        times = defaultdict[str, int](int)
        acked = set[str]()
        for _, kind, *words in self.events():
            if kind == "got":
                offset, is_redelivered = words
                assert offset not in acked, f"{offset} came after it was acknowledged"
                assert is_redelivered == "1" or not times[offset], f"{offset} came again, and nothing said so"
                times[offset] += 1
            elif kind == "acked":
                acked.add(words[0])

    def told(self, kind: str) -> set[int]:
        return {int(event[2]) for event in self.events() if event[1] == kind}


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    found = Crew(tmp_path)
    yield found
    for one in found.processes:
        one.kill()
        one.wait()


def drained(path: Path) -> set[int]:
    """The offsets of all jobs that are not finished, each of which comes once."""
    found: list[int] = []
    with logstore.open(path) as store, WorkQueue(store, "jobs", durability="os", max_deliveries=None) as queue:
        while jobs := queue.get(0, n=100):
            found += [job.id.offset for job in jobs]
            queue.ack(jobs)
        stats = queue.stats()
        assert (stats.available, stats.delayed, stats.acquired) == (0, 0, 0)
        assert len(found) == len(set(found))
    return set(found)


def test_workers_and_producers_are_killed_at_random_and_no_job_is_lost(crew: Crew) -> None:
    chance = random.Random(1)
    running = [crew.start(WORKER), crew.start(WORKER), crew.start(PRODUCER)]
    crew.wait_for_ready(3)
    for count in range(6):
        time.sleep(chance.uniform(0.02, 0.3))
        at = chance.randrange(3)
        crew.kill(running[at])
        running[at] = crew.start(PRODUCER if at == 2 else WORKER)
        crew.wait_for_ready(4 + count)
    for process in running:
        crew.kill(process)
    crew.check()
    left, put, acked = drained(crew.store_path), crew.told("put"), crew.told("acked")
    assert len(acked) > 50
    assert not left & acked
    assert put <= left | acked | crew.told("got")
    # What was acknowledged, and could not say so any more: at most one job of each process that was killed.
    assert len(put - left - acked) <= len(crew.processes)
    # Neither are there files of those who are no more.
    assert not [name for name in os.listdir(crew.store_path) if name.startswith(".logstore-worker-")]


def test_a_process_that_has_the_store_alone_is_killed_and_no_job_is_lost(crew: Crew) -> None:
    chance = random.Random(2)
    for count in range(5):
        process = crew.start(ALONE, "exclusive")
        crew.wait_for_ready(count + 1)
        time.sleep(chance.uniform(0.0, 0.15))
        crew.kill(process)
    crew.check()
    left, put, acked = drained(crew.store_path), crew.told("put"), crew.told("acked")
    assert len(acked) > 50
    assert not left & acked
    assert len(put - left - acked) <= len(crew.processes)


def test_what_a_killed_process_had_is_available_at_once(crew: Crew) -> None:
    process = crew.start(PRELUDE + "queue.put(b'a')\nqueue.get()\ntell('got', 0, 0)\ntime.sleep(60)\n")
    with logstore.open(crew.store_path) as store, WorkQueue(store, "jobs", durability="os") as queue:
        crew.wait_for_ready(1)
        while not crew.told("got"):
            time.sleep(0.01)
        assert queue.get(0) is None
        crew.kill(process)
        begun = time.monotonic()
        job = queue.get(20)
        assert job is not None and job.is_redelivered
        assert time.monotonic() - begun < 5


def test_a_worker_that_waits_is_woken_by_another_process(crew: Crew) -> None:
    crew.start(PRELUDE + "work(queue.get(n=1))\nqueue.put(b'answer')\n")
    with logstore.open(crew.store_path) as store, WorkQueue(store, "jobs", durability="os") as queue:
        crew.wait_for_ready(1)
        time.sleep(0.1)
        queue.put(b"question")
        end = time.monotonic() + 20
        while queue.stats().acknowledged == 0 or queue.stats().available == 0:
            assert time.monotonic() < end
            time.sleep(0.01)
        with queue.get(20) as job:  # type: ignore[union-attr]
            assert job.value == b"answer"
