"""A consumer group whose members are killed, as are those who write what it reads.

Writers send through producers, with keys of their own, and tell of each record that was acknowledged. Members tell what
they get of the partitions and what they lose, which messages they were handed, and before and after they commit. By
that (`judge_group`) one at a time has a partition; each goes on where the last one has committed, so that none is left
out, and nothing comes again but what was not committed; and each hands out what is in the log, in that order, which for
a key is that of its writer. In the end the members alone must come to the end of all partitions.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from torture_crew import KILL, Crew, Journal, keep_house, play
from torture_processes import Numbered, contents_of, judge_log

from logstore.names import TopicPartition
from logstore.queue import Consumer, Message, Producer
from logstore.queue.assignors import ASSIGNORS
from logstore.queue.offsets_store import OffsetsStore
from logstore.store import Store

TOPIC, PARTITIONS, GROUP = "torture", 6, "members"
ROLES = {"writer": 4, "member": 4, "keeper": 1}
_KEYS = 5  # of each writer


@dataclasses.dataclass(slots=True)
class GroupTally:
    """What came of it.

    Attributes:
        assignor: of the group.
        delivered: messages, with those that came again.
        again: those.
        assigned: how often a member got a partition.
        moved: how often it got it from one that was alive.
    """

    assignor: str = ""
    kills: int = 0
    acknowledged: int = 0
    records: int = 0
    delivered: int = 0
    again: int = 0
    assigned: int = 0
    moved: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)


def torture_groups(directory: Path, seed: int, seconds: float) -> GroupTally:
    """Run and kill members and writers on a store in `directory` for so long; what came of it."""
    assignor = random.Random(seed).choice(sorted(ASSIGNORS))
    crew = Crew(Path(__file__), directory, ROLES, seed)
    crew.look(lambda store: store.create_topic(TOPIC, PARTITIONS))
    crew.look(lambda store: store.create_topic(assignor))  # tells the members
    with crew:
        crew.run(seconds)
        crew.kill_all(but="member")
        crew.wait("messages that the group has not committed", is_all_committed)
    lines = list(crew.lines())
    contents = crew.look(lambda store: contents_of(store, TOPIC))
    tally = judge_group(contents, lines)
    tally.assignor, tally.kills = assignor, crew.kills
    tally.acknowledged = sum(line[0] == "ack" for line in lines)
    tally.records = sum(map(len, contents))
    tally.problems += crew.problems + judge_log(contents, lines)
    if not tally.delivered:
        tally.problems.append("nothing was delivered")
    return tally


def is_all_committed(store: Store) -> bool:
    """Whether the group has committed the ends of all partitions."""
    committed = OffsetsStore(store).committed(GROUP)
    ends = {one.name: one.log_end_offset for one in store.partitions(TOPIC)}
    return all(name in committed and committed[name].offset == end for name, end in ends.items() if end)


# ---------------------------------------------------------------- the judge


@dataclasses.dataclass(slots=True)
class _Partition:
    """What the lines say of a partition so far.

    Attributes:
        reader: who has it.
        next: what the reader gets next; None before it has got anything.
        low, high: between them is what was committed.
        end: behind all that was ever delivered.
    """

    reader: str | None = None
    next: int | None = None
    low: int = 0
    high: int = 0
    end: int = 0


class _Judge:
    """Goes through the lines of a journal.

    Args:
        contents: of each partition.
    """

    def __init__(self, contents: list[list[Numbered]]) -> None:
        self.tally = GroupTally()
        self.partitions = [_Partition() for _ in contents]
        self._contents = contents
        self._killed: set[str] = set()
        self._auto: set[str] = set()

    def judge(self, lines: Iterable[list[str]]) -> None:
        """Look at all lines, and at what was left over in the end."""
        for word, name, *rest in lines:
            if word == KILL:
                self._killed.add(name)
            elif word == "own":
                self._auto.discard(name)
                if rest[0] == "auto":
                    self._auto.add(name)
                for number in map(int, rest[1:]):
                    self._own(name, number)
            elif word == "free":
                for number in map(int, rest):
                    self._free(name, number)
            elif word == "got":
                number, first, last, digest = map(int, rest)
                self._got(name, number, first, last, digest)
            elif word in ("commit", "committed"):
                for number, offset in (map(int, one.split(":")) for one in rest):
                    self._commit(name, number, offset, is_done=word == "committed")
        for number, (one, records) in enumerate(zip(self.partitions, self._contents, strict=True)):
            if one.end != len(records):
                self._complain(f"of partition {number} {len(records) - one.end} records were never delivered")

    def _complain(self, problem: str) -> None:
        self.tally.problems.append(problem)

    def _own(self, name: str, number: int) -> None:
        one = self.partitions[number]
        if one.reader is not None and one.reader not in self._killed:
            self._complain(f"{name} got partition {number}, which {one.reader} had")
        self.tally.assigned += 1
        self.tally.moved += one.reader is None and one.end > 0
        one.reader, one.next = name, None

    def _free(self, name: str, number: int) -> None:
        one = self._owned(name, number, "lost")
        if one is not None:
            one.reader = None

    def _owned(self, name: str, number: int, what: str) -> _Partition | None:
        """A partition, if it is its reader who tells of it: who is to die may tell more, but not after its heir."""
        one = self.partitions[number]
        if one.reader == name:
            return one
        self._complain(f"{name} {what} partition {number}, which {one.reader} had")
        return None

    def _got(self, name: str, number: int, first: int, last: int, digest: int) -> None:
        one = self._owned(name, number, "was handed messages of")
        if one is None:
            return
        if one.next is None:
            if not one.low <= first <= one.high:
                self._complain(
                    f"{name} began partition {number} at {first}; what was committed is in {one.low}..{one.high}"
                )
            one.low = one.high = first
        elif first != one.next:
            self._complain(f"{name} was handed {number}:{first} where {one.next} was next")
        if digest != digest_of(self._contents[number][first : last + 1]):
            self._complain(f"{name} was handed {number}:{first}..{last}, and there is something else")
        self.tally.delivered += last + 1 - first
        self.tally.again += max(min(one.end, last + 1) - first, 0)
        one.next = last + 1
        one.end = max(one.end, one.next)
        if name in self._auto:  # it may commit that at any time
            one.high = one.next

    def _commit(self, name: str, number: int, offset: int, *, is_done: bool) -> None:
        one = self._owned(name, number, "committed for")
        if one is None:
            return
        known = (one.low, one.high) if one.next is None else (one.next, one.next)
        if not known[0] <= offset <= known[1]:
            self._complain(f"{name} committed {number}:{offset}, which is not in {known[0]}..{known[1]}")
        one.high = offset
        if is_done:
            one.low = offset


def judge_group(contents: list[list[Numbered]], lines: Iterable[list[str]]) -> GroupTally:
    """Whether a group was what a group is; what it did, and what was wrong.

    Args:
        contents: of each partition.
        lines: of the journal: `own NAME auto|manual PARTITION...`, told when a member has got partitions; `free NAME
            PARTITION...`, before it gives some up; `got NAME PARTITION FIRST LAST DIGEST`; `commit NAME
            PARTITION:OFFSET...` before it commits, and `committed` with the same afterwards; `kill NAME`.
    """
    judge = _Judge(contents)
    judge.judge(lines)
    return judge.tally


def digest_of(records: Iterable[Numbered]) -> int:
    """A number that tells one row of records from another."""
    found = 0
    for one in records:
        found = zlib.crc32(b"%s %d %d" % (one.key.encode(), one.number, one.offset), found)
    return found


# ---------------------------------------------------------------- what the processes do


def write(store: Store, journal: Journal, name: str) -> None:
    """Send for ever, some at a time, and tell what was acknowledged."""
    chance, numbers = random.Random(name), itertools.count()
    with Producer(store, batch_size=chance.choice((500, 4000, 100_000))) as producer:
        while True:
            sent = []
            for number in itertools.islice(numbers, chance.randrange(1, 30)):
                key = f"{name}/{chance.randrange(_KEYS)}"
                value = b"%d " % number + b"." * chance.randrange(300)
                sent.append((key, number, producer.send(TOPIC, value, key=key.encode())))
            for key, number, future in sent:
                journal.tell("ack", key, number, *future.result())


def read(store: Store, journal: Journal, name: str) -> None:
    """Be a member for a while, and then another one, for ever."""
    chance = random.Random(name)
    (assignor,) = {topic.name for topic in store.topics()} - {TOPIC}
    while True:
        _Reader(store, journal, name, chance, assignor).read(chance.randrange(10, 1000))


class _Reader:
    """A member that tells what it does."""

    def __init__(self, store: Store, journal: Journal, name: str, chance: random.Random, assignor: str) -> None:
        self._journal = journal
        self._name = name
        self._chance = chance
        self._is_auto = chance.random() < 0.3
        self._consumer = Consumer(
            store, TOPIC, group=GROUP, assignor=assignor, enable_auto_commit=self._is_auto, auto_commit_interval_ms=20,
            max_poll_records=chance.choice((1, 20, 500)), on_assigned=self._assigned, on_revoked=self._revoked,
        )  # fmt: skip

    def _tell(self, word: str, *rest: object) -> None:
        self._journal.tell(word, self._name, *rest)

    def read(self, polls: int) -> None:
        """Poll so often, and leave."""
        for _ in range(polls):
            messages = self._consumer.poll(0.1)
            for run in runs(messages):
                first, last = run[0], run[-1]
                digest = digest_of(Numbered(one.key.decode(), int(one.value.split()[0]), one.offset) for one in run)
                self._tell("got", first.partition, first.offset, last.offset, digest)
            if not self._is_auto and (not messages or self._chance.random() < 0.5):
                self._commit()
        self._revoked(self._consumer.assignment)
        self._consumer.close()

    def _assigned(self, partitions: list[TopicPartition]) -> None:
        self._tell("own", "auto" if self._is_auto else "manual", *(one.partition for one in partitions))

    def _revoked(self, partitions: list[TopicPartition]) -> None:
        if not self._is_auto and self._chance.random() < 0.7:
            self._commit()
        self._tell("free", *(one.partition for one in partitions))

    def _commit(self) -> None:
        positions = [f"{name.partition}:{offset}" for name, offset in self._consumer.positions().items()]
        self._tell("commit", *positions)
        self._consumer.commit()
        self._tell("committed", *positions)


def runs(messages: Iterable[Message]) -> Iterator[list[Message]]:
    """Messages of one partition whose offsets follow each other, together."""
    found: list[Message] = []
    for one in messages:
        if found and (one.partition, one.offset) != (found[-1].partition, found[-1].offset + 1):
            yield found
            found = []
        found.append(one)
    if found:
        yield found


if __name__ == "__main__":
    play({"writer": write, "member": read, "keeper": keep_house})
