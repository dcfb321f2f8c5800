"""Processes that share a store and are killed: writers, readers, and one that rolls and deletes what was cut off.

    python tests/torture_processes.py ROLE DIRECTORY NAME     what a killed process runs

Each writer numbers its records, puts them into a partition in turn, and notes each one that was acknowledged. Readers
go along from the begin on: whatever is killed meanwhile, offsets must follow each other, and the numbers of a writer.
In the end every acknowledged record must be there, once, at the offset that was told, and no other one twice.
"""

from __future__ import annotations

import dataclasses
import functools
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from logstore.config import LogConfig
from logstore.store import Partition, Store

TOPIC, PARTITIONS = "torture", 2
CONFIG = LogConfig(segment_bytes=200_000, file_delete_delay_ms=0)
WRITERS = READERS = 4
_PATIENCE_S = 60


@dataclasses.dataclass(slots=True)
class SharedTally:
    """What came of it."""

    kills: int = 0
    acknowledged: int = 0
    records: int = 0
    segments: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)


def torture_processes(directory: Path, seed: int, seconds: float) -> SharedTally:
    """Run and kill processes on a store in `directory` for so long; what came of it."""
    tally, chance = SharedTally(), random.Random(seed)
    notes = directory / "notes"
    notes.mkdir()
    with Store.open(directory / "store", config=CONFIG) as store:
        store.create_topic(TOPIC, PARTITIONS)
        running: dict[str, subprocess.Popen[bytes]] = {}
        end = time.monotonic() + seconds
        for number in range(10**9):
            roles = [name.split("-")[0] for name in running]
            for role, wanted in (("writer", WRITERS), ("reader", READERS), ("roller", 1)):
                for extra in range(wanted - roles.count(role)):
                    name = f"{role}-{number}-{extra}"
                    running[name] = subprocess.Popen([sys.executable, __file__, role, str(directory), name])
            time.sleep(chance.random() * 0.3)
            if time.monotonic() >= end:
                break
            name = chance.choice(list(running))
            process = running.pop(name)
            if process.poll() is not None:
                tally.problems.append(f"{name} ended by itself with {process.returncode}")
            process.kill()
            process.wait(_PATIENCE_S)
            tally.kills += 1
        for process in running.values():
            process.kill()
        for process in running.values():
            process.wait(_PATIENCE_S)
        tally.problems += [f"{one.name}: {one.read_text()}" for one in sorted(notes.glob("*.problem"))]
        check(store, notes, tally)
    return tally


def check(store: Store, notes: Path, tally: SharedTally) -> None:
    """Look whether all that was acknowledged is there, and nothing twice."""
    found: dict[tuple[str, int], tuple[int, int]] = {}
    for partition in store.partitions(TOPIC):
        tally.segments += len(partition.segments)
        for name, number, offset in numbered(partition, 0):
            if (name, number) in found:
                tally.problems.append(f"{name} {number} is there twice, at {offset} too")
            found[name, number] = partition.name.partition, offset
    tally.records = len(found)
    for file in notes.glob("*.acks"):
        for line in file.read_bytes().split(b"\n")[:-1]:
            number, partition_number, offset = map(int, line.split())
            tally.acknowledged += 1
            if found.get((file.stem, number)) != (partition_number, offset):
                tally.problems.append(f"{file.stem} {number} is not at {partition_number}:{offset}")


def numbered(partition: Partition, start: int) -> Iterator[tuple[str, int, int]]:
    """The writer, number and offset of each record from an offset on."""
    for record in partition.records(start):
        assert record.key is not None and record.value is not None
        yield record.key.decode(), int(record.value.split(b" ")[0]), record.offset


# ---------------------------------------------------------------- what the processes do


def write(store: Store, notes: Path, name: str) -> None:
    """Append for ever, and note what was acknowledged."""
    partitions, chance = store.partitions(TOPIC), random.Random(name)
    with (notes / f"{name}.acks").open("ab", buffering=0) as acks:
        for number in range(10**9):
            partition = chance.choice(partitions)
            value = b"%d " % number + b"." * chance.randrange(400)
            done = partition.append([(name.encode(), value)])
            acks.write(b"%d %d %d\n" % (number, partition.name.partition, done.first_offset))


def read(store: Store, notes: Path, name: str) -> None:
    """Follow one partition for ever; note what must not be."""
    partition = store.partition(TOPIC, int(name.rpartition("-")[2]) % PARTITIONS)
    offset, last = 0, dict[str, int]()
    with store.watch([partition]) as watcher:
        while True:
            for writer, number, at in numbered(partition, offset):
                if at != offset or number <= last.get(writer, -1):
                    problem = f"offset {at} where {offset} was next, {writer} {number} behind {last.get(writer)}"
                    (notes / f"{name}.problem").write_text(problem)
                    raise SystemExit(1)
                offset, last[writer] = at + 1, number
            watcher.wait(1.0, functools.partial(is_more, partition, offset))


def is_more(partition: Partition, offset: int) -> bool:
    return partition.log_end_offset > offset


def roll(store: Store) -> None:
    """Change more than the end of logs, for ever."""
    while True:
        for partition in store.partitions(TOPIC):
            with partition.changing() as log:
                log.roll()
            store.maintain()
            time.sleep(0.05)


def main(role: str, directory: Path, name: str) -> None:
    with Store.open(directory / "store", config=CONFIG) as store:
        if role == "writer":
            write(store, directory / "notes", name)
        elif role == "reader":
            read(store, directory / "notes", name)
        else:
            roll(store)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
