"""What a work queue must not do: the judge of what its putters and workers tell in `torture_queue`.

One at a time has a job; each delivery of it says that it is a later one; none comes after it was acknowledged; fresh
jobs come in the order in which they were put, those of a higher priority first, delayed ones not early; no unique key
has two jobs; and in the end all that was put is acknowledged or a dead letter, and the queue knows it.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torture_crew import KILL

from logstore.queue.work_queue_job import QueueStats

PRIORITIES, MAX_DELIVERIES = 2, 8
NOTHING = "-"
"""Instead of a unique key."""


@dataclasses.dataclass(slots=True)
class QueueTally:
    """What came of it: kills, jobs, and deliveries.

    Attributes:
        put: jobs that putters were told are there.
        delivered: deliveries, with the later ones.
        again: those.
        unsaid: how often a job says that it was delivered before, and nobody has told so: its worker was killed.
        acknowledged: jobs.
        dead: dead letters.
        deleted: jobs that are gone from the log, for all of a segment were finished.
    """

    kills: int = 0
    put: int = 0
    delivered: int = 0
    again: int = 0
    unsaid: int = 0
    acknowledged: int = 0
    dead: int = 0
    deleted: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)


class Letter(NamedTuple):
    """A dead letter: where its job was, and why it is one."""

    priority: int
    offset: int
    reason: str


def is_done(stats: QueueStats) -> bool:
    return not stats.available + stats.delayed + stats.acquired


Place = tuple[int, int]
"""Of a job: its priority and offset."""


class _Announced(NamedTuple):
    """A job that somebody is about to put."""

    line: int
    priority: int
    due: int
    unique: str


@dataclasses.dataclass(slots=True)
class _Job:
    """What the lines say of a job so far.

    Attributes:
        name: it.
        announced: before it was put.
        put: the line that tells it is there.
        worker: who has it.
        deliveries: the number of the last one.
        asked, got: the lines of the first delivery of all, where its worker asked for it and got it.
        ending: what its worker was about to do to finish it, since it got it.
        was_rejected: whether somebody was about to reject it at some time.
        end: the line after which it is finished.
    """

    name: str
    announced: _Announced
    put: int | None = None
    worker: str | None = None
    deliveries: int = 0
    asked: int = 0
    got: int = 0
    ending: str = ""
    was_rejected: bool = False
    end: int | None = None


class _Judge:
    """Goes through the lines of a journal."""

    def __init__(self, letters: Sequence[Letter]) -> None:
        self.tally = QueueTally(dead=len(letters))
        self.jobs: dict[Place, _Job] = {}
        self._letters = {(one.priority, one.offset) for one in letters}
        self._announced: dict[str, _Announced] = {}
        self._places: dict[str, Place] = {}
        self._unique: dict[str, list[Place]] = {}
        self._killed: set[str] = set()
        self._asked: dict[str, tuple[int, list[int]]] = {}  # by worker: the line, and what was fresh then
        self._fresh = [0] * PRIORITIES  # behind the fresh jobs that somebody has got
        self._had: dict[str, set[Place]] = {}

    def complain(self, problem: str) -> None:
        self.tally.problems.append(problem)

    def judge(self, lines: Iterable[list[str]]) -> None:
        for line, (word, name, *rest) in enumerate(lines):
            if word == KILL:
                self._killed.add(name)
            elif word == "putting":
                priority, due = map(int, rest[:2])
                self._announced |= {job: _Announced(line, priority, due, rest[2]) for job in rest[3:]}
            elif word == "put":
                self._put(line, rest[0], (int(rest[1]), int(rest[2])))
            elif word == "known":
                self._known(rest[0], (int(rest[1]), int(rest[2])))
            elif word == "asking":
                self._asked[name] = line, self._fresh.copy()
            elif word == "got":
                self._got(line, name, int(rest[0]), rest[1:])
            elif word == "closing":
                for place in self._had.pop(name, ()):
                    self.jobs[place].worker = None
            elif word in ("acking", "nacking", "rejecting"):
                for place in map(_place, rest):
                    self._settling(word, name, place)
            elif word in ("acked", "rejected"):
                for place in map(_place, rest):
                    self.jobs[place].end = line
                    self.tally.acknowledged += word == "acked"

    def _seen(self, name: str, place: Place) -> _Job | None:
        """The job of a place, of which somebody tells; None where that cannot be."""
        announced = self._announced.get(name)
        if announced is None or announced.priority != place[0]:
            self.complain(f"{name} at {place} was put by nobody")
            return None
        if self._places.setdefault(name, place) != place:
            self.complain(f"{name} is there twice, at {self._places[name]} and {place}")
        job = self.jobs.get(place)
        if job is not None and job.name != name:
            self.complain(f"{name} is at {place}, and so is {job.name}")
        if job is None:
            job = self.jobs[place] = _Job(name, announced)
            if announced.unique != NOTHING:
                others = self._unique.setdefault(announced.unique, [])
                for one in others:
                    if not self.jobs[one].ending and one not in self._letters:
                        self.complain(f"{name} has the unique key of {self.jobs[one].name}, which is not finished")
                others.append(place)
        return job

    def _put(self, line: int, name: str, place: Place) -> None:
        job = self._seen(name, place)
        if job is not None:
            self.tally.put += 1
            job.put = line

    def _known(self, name: str, place: Place) -> None:
        """Somebody was told that there is a job of the same unique key already."""
        announced, job = self._announced[name], self.jobs.get(place)
        if job is not None and job.announced.unique != announced.unique:
            self.complain(f"instead of {name} there is said to be {job.name}, which has another unique key")
        elif job is not None and job.end is not None and job.end < announced.line:
            self.complain(f"instead of {name} there is said to be {job.name}, which was finished before")

    def _got(self, line: int, worker: str, now: int, words: Iterable[str]) -> None:
        asked, fresh = self._asked[worker]
        for word in words:
            priority, offset, count, name = word.split(":")
            place, deliveries = (int(priority), int(offset)), int(count)
            job = self._seen(name, place)
            if job is None:
                continue
            if job.end is not None:
                self.complain(f"{worker} got {name}, which was finished")
            if job.worker is not None and job.worker not in self._killed:
                self.complain(f"{worker} got {name}, which {job.worker} had")
            if deliveries <= job.deliveries:
                self.complain(f"{worker} got {name} as delivery {deliveries}, after delivery {job.deliveries}")
            if now < job.announced.due:
                self.complain(f"{worker} got {name} {job.announced.due - now} ms too early")
            if deliveries == 1 and not job.announced.due:
                if place[1] < fresh[place[0]]:
                    self.complain(f"{worker} got {name} behind {fresh[place[0]]} of its priority")
                job.asked, job.got = asked, line
                self._fresh[place[0]] = max(self._fresh[place[0]], place[1] + 1)
            self.tally.delivered += 1
            self.tally.again += job.deliveries > 0
            self.tally.unsaid += deliveries - job.deliveries - 1
            job.deliveries, job.worker, job.ending = deliveries, worker, ""
            self._had.setdefault(worker, set()).add(place)

    def _settling(self, word: str, worker: str, place: Place) -> None:
        job = self.jobs[place]
        if job.worker != worker:  # who is about to die may still tell, but not after its heir
            self.complain(f"{worker} has {job.name}, which {job.worker} got")
        if word == "nacking":
            job.worker = None
            self._had[worker].discard(place)
        else:
            job.ending = word
            job.was_rejected = job.was_rejected or word == "rejecting"

    def judge_letters(self, letters: Iterable[Letter]) -> None:
        """Look whether these have died."""
        for one in letters:
            job = self.jobs.get((one.priority, one.offset))
            if one.reason == "rejected":
                has_died = job is not None and job.was_rejected
            else:  # some deliveries nobody has told of, perhaps all
                has_died = one.reason == f"delivered {MAX_DELIVERIES} times" and (job is None or job.end is None)
            if not has_died:
                self.complain(f"{job.name if job else one} is a dead letter: {one.reason}")

    def judge_end(self, stats: QueueStats) -> None:
        """Look whether all jobs are finished, and the queue says so."""
        ending = 0
        for place, job in self.jobs.items():
            ending += job.ending == "acking"
            if job.put is not None and not job.ending and place not in self._letters:
                self.complain(f"{job.name} at {place} was put, and never finished")
            if job.ending == "rejecting" and job.end is not None and place not in self._letters:
                self.complain(f"{job.name} at {place} was rejected, and is no dead letter")
        if not is_done(stats) or not self.tally.acknowledged <= stats.acknowledged <= ending:
            self.complain(f"{self.tally.acknowledged} to {ending} jobs were acknowledged, and the queue says {stats}")

    def judge_priorities(self) -> None:
        """Look whether somebody got a job while a fresh one of a higher priority was there, put before it asked.

        A job was there as long as all workers asked for it later that got it at first.
        """
        for low in range(PRIORITIES - 1):
            asked = sorted((job.asked, job.got) for place, job in self.jobs.items() if place[0] == low and job.got)
            got_first = list(itertools.accumulate(reversed([got for _, got in asked]), min))[::-1]
            for (priority, _), job in self.jobs.items():
                if priority > low and job.put is not None and job.got:
                    at = bisect.bisect_right(asked, (job.put, 0))
                    if at < len(asked) and got_first[at] < job.asked:
                        self.complain(f"{job.name} was there, and a job of a lower priority was given away")


def judge_queue(lines: Iterable[list[str]], letters: Sequence[Letter], stats: QueueStats) -> QueueTally:
    """Whether a queue was what a queue is; what it did, and what was wrong.

    Args:
        lines: of the journal: `putting NAME PRIORITY DUE UNIQUE JOB...` is told before jobs are put (DUE in ms, or 0);
            `put NAME JOB PRIORITY OFFSET` afterwards, or `known` with the place of the one that is there; `asking
            NAME` before a worker asks for jobs, `got NAME NOW PRIORITY:OFFSET:DELIVERIES:JOB...` afterwards; `acking`,
            `nacking`, `rejecting NAME PRIORITY:OFFSET...` before it settles some, `acked`, `rejected` afterwards;
            `closing NAME` before it gives all of them back; `kill NAME`.
        letters: the dead letters.
        stats: of the queue in the end.
    """
    judge = _Judge(letters)
    judge.judge(lines)
    judge.judge_priorities()
    judge.judge_letters(letters)
    judge.judge_end(stats)
    return judge.tally


def _place(word: str) -> Place:
    priority, offset = word.split(":")
    return int(priority), int(offset)
