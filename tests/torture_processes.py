"""Processes that share a store and are killed: writers, readers, and one that rolls and deletes what was cut off.

Each writer numbers its records, puts them into a partition in turn, and tells of each one that was acknowledged.
Readers go along from the begin on: whatever is killed meanwhile, offsets must follow each other, and the numbers of a
writer. In the end every acknowledged record must be there, once, at the offset that was told, and no other one twice.
"""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from torture_crew import Crew, Journal, keep_house, play

from logstore.store import Partition, Store

TOPIC, PARTITIONS = "torture", 2
ROLES = {"writer": 4, "reader": 4, "keeper": 1}


@dataclasses.dataclass(slots=True)
class SharedTally:
    """What came of it."""

    kills: int = 0
    acknowledged: int = 0
    records: int = 0
    segments: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)


class Numbered(NamedTuple):
    """A record: its key, which belongs to one writer, its number, which grows for each key, and its offset."""

    key: str
    number: int
    offset: int


def torture_processes(directory: Path, seed: int, seconds: float) -> SharedTally:
    """Run and kill processes on a store in `directory` for so long; what came of it."""
    crew = Crew(Path(__file__), directory, ROLES, seed)
    crew.look(lambda store: store.create_topic(TOPIC, PARTITIONS))
    with crew:
        crew.run(seconds)
    lines = list(crew.lines())
    contents = crew.look(lambda store: contents_of(store, TOPIC))
    return SharedTally(
        crew.kills,
        acknowledged=sum(line[0] == "ack" for line in lines),
        records=sum(map(len, contents)),
        segments=crew.look(lambda store: sum(len(one.segments) for one in store.partitions(TOPIC))),
        problems=crew.problems + wrongs(lines) + judge_log(contents, lines),
    )


def contents_of(store: Store, topic: str) -> list[list[Numbered]]:
    """The records of all partitions."""
    return [list(numbered(one, 0)) for one in store.partitions(topic)]


def numbered(partition: Partition, start: int) -> Iterator[Numbered]:
    """The records from an offset on."""
    for record in partition.records(start):
        assert record.key is not None and record.value is not None
        yield Numbered(record.key.decode(), int(record.value.split(b" ")[0]), record.offset)


def wrongs(lines: Iterable[list[str]]) -> list[str]:
    """What processes themselves have found wrong."""
    return [" ".join(line[1:]) for line in lines if line[0] == "wrong"]


def judge_log(contents: list[list[Numbered]], lines: Iterable[list[str]]) -> list[str]:
    """Whether all that was acknowledged is there, nothing twice, and each key in order; what is wrong.

    Args:
        contents: of each partition.
        lines: of the journal; `ack KEY NUMBER PARTITION OFFSET` are looked at.
    """
    problems: list[str] = []
    found: dict[tuple[str, int], tuple[int, int]] = {}
    for partition, records in enumerate(contents):
        last: dict[str, int] = {}
        for key, number, offset in records:
            if (key, number) in found:
                problems.append(f"{key} {number} is there twice, at {partition}:{offset} too")
            if number < last.get(key, -1):
                problems.append(f"{key} {number} is at {partition}:{offset}, behind {last[key]}")
            found[key, number] = partition, offset
            last[key] = number
    for line in lines:
        if line[0] == "ack":
            key, (number, partition, offset) = line[1], map(int, line[2:])
            if found.get((key, number)) != (partition, offset):
                problems.append(f"{key} {number} is not at {partition}:{offset}")
    return problems


# ---------------------------------------------------------------- what the processes do


def write(store: Store, journal: Journal, name: str) -> None:
    """Append for ever, and tell what was acknowledged."""
    partitions, chance = store.partitions(TOPIC), random.Random(name)
    for number in range(10**9):
        partition = chance.choice(partitions)
        done = partition.append([(name.encode(), b"%d " % number + b"." * chance.randrange(400))])
        journal.tell("ack", name, number, partition.name.partition, done.first_offset)


def read(store: Store, journal: Journal, name: str) -> None:
    """Follow one partition for ever; tell what must not be."""
    partition = store.partition(TOPIC, int(name.rpartition("-")[2]) % PARTITIONS)
    offset, last = 0, dict[str, int]()
    with store.watch([partition]) as watcher:
        while True:
            for writer, number, at in numbered(partition, offset):
                if at != offset or number <= last.get(writer, -1):
                    journal.tell("wrong", f"{name}: {at} where {offset} was next, {writer} {number} after {last}")
                    raise SystemExit(1)
                offset, last[writer] = at + 1, number
            watcher.wait(1.0, functools.partial(is_more, partition, offset))


def is_more(partition: Partition, offset: int) -> bool:
    return partition.log_end_offset > offset


if __name__ == "__main__":
    play({"writer": write, "reader": read, "keeper": keep_house})
