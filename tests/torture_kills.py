"""The part of `torture.py` that kills processes: a writer is killed at random, and what it was promised is looked for.

A kill leaves what the operating system has: all that was said to be appended must be there, whatever its durability.
"""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
import time
from pathlib import Path

from torture_writer import CONFIG, batch, content

from logstore.inspect import CheckOptions, Severity, check, resolve
from logstore.log import FetchIsolation, Log
from logstore.records import iter_batches
from logstore.testing import LogModel, ManualClock

WRITER = Path(__file__).with_name("torture_writer.py")
WRITE_SECONDS = 0.6
"""The longest time that a writer has before it is killed."""
OPEN_SECONDS = 0.02
"""The longest time that one has which only opens what the last one has left."""
ALSO_WHILE_OPENING = 0.4
"""How often, after a kill, one that only opens is killed too."""


@dataclasses.dataclass(slots=True)
class KillTally:
    """What the kills came to; all but the first four count records, which are markers too."""

    kills: int = 0
    while_opening: int = 0
    recovered: int = 0
    truncations: int = 0
    acknowledged: int = 0
    in_flight: int = 0
    lost: int = 0
    foreign: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)


class Killer:
    """One directory, its writers, and the model of what is in it."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory / "orders-0"
        self.seed = seed
        self.choices = random.Random(seed)
        self.tally = KillTally()
        self.said = directory / "said"
        self.run = 0
        self.epoch = 0
        self.generation = 0
        self.timestamp = time.time_ns() // 1_000_000
        self.truncating_to: int | None = None
        self.advancing_to: int | None = None
        self.model = LogModel(clock=ManualClock(self.timestamp))

    def kill_one(self) -> None:
        """Start a writer and kill it, perhaps those too that open what it has left, and look at what is there."""
        self.run += 1
        self.epoch += 1  # a marker that nobody has told of may be of the next one
        numbers = [self.seed, self.run, self.epoch, self.timestamp]
        self.listen(self.killed("write", numbers, WRITE_SECONDS))
        while self.choices.random() < ALSO_WHILE_OPENING:
            self.killed("open", [], OPEN_SECONDS)
        self.look()

    def killed(self, what: str, numbers: list[int], seconds: float) -> list[str]:
        """The lines of a process that was killed within some time after it had begun to open the log."""
        with self.said.open("wb") as said:
            arguments = [sys.executable, str(WRITER), what, str(self.directory), *map(str, numbers)]
            process = subprocess.Popen(arguments, stdout=said, stderr=subprocess.PIPE)
        while not self.said.stat().st_size and process.poll() is None:
            time.sleep(0.001)
        time.sleep(self.choices.random() * seconds)
        process.kill()
        complaint = process.communicate()[1].decode()
        lines = self.said.read_text().splitlines()
        self.tally.kills += 1
        self.tally.while_opening += len(lines) == 1
        if process.returncode != -9:
            self.tally.problems.append(f"run {self.run}, {what}: it ended by itself: {complaint}")
        return lines

    # ---- what the writer said

    def listen(self, lines: list[str]) -> None:
        """Tell the model what was acknowledged."""
        self.generation = 0
        for line in lines:
            word, *fields = line.split()
            numbers = [int(field) for field in fields]
            if word == "a":
                self.append(line, *numbers)
            elif word == "e":
                producer_id, epoch, commit = numbers
                self.model.end_transaction(producer_id, epoch, commit=bool(commit))
                self.epoch = max(self.epoch, epoch)
                self.tally.acknowledged += 1
            elif word == "t":
                self.truncating_to = numbers[0]
            elif word == "s":
                self.advancing_to = numbers[0]
            elif word == "T" and self.truncating_to is not None:
                self.model.truncate_to(self.truncating_to)
                self.truncating_to = None
                self.generation += 1
                self.tally.truncations += 1
            elif word == "S" and self.advancing_to is not None:
                self.model.advance_log_start(self.advancing_to)
                self.advancing_to = None

    def append(
        self, line: str, first: int, count: int, generation: int, producer_id: int, epoch: int, sequence: int
    ) -> None:
        data = batch(self.run, generation, first, count, self.timestamp, producer_id, epoch, sequence)
        done = self.model.append_batch(data)
        if done[:2] != (first, first + count - 1):
            self.tally.problems.append(f"run {self.run}: {line}, where the model says {done}")
        self.tally.acknowledged += count

    # ---- what is there

    def look(self) -> None:
        """Open the log, compare it with the model, append here too, and close it."""
        with Log.open(self.directory, CONFIG) as log:
            self.tally.recovered += log.recovered is not None
            try:
                self.take_in_flight(log)
            except ValueError as error:
                self.tally.problems.append(f"run {self.run}: {error}")
            self.compare(log)
            for _ in range(3):
                data = batch(0, 0, log.log_end_offset, 1, self.timestamp)
                if log.append_batch(data, durability="always") != self.model.append_batch(data):
                    self.tally.problems.append(f"run {self.run}: an append went elsewhere, {log}")
        self.model.reopen(self.model.log_end_offset)
        found = check(resolve(self.directory), CheckOptions())
        # Where a truncation has cut inside a batch, offsets are missing.
        alarms = [one for one in found if one.severity is Severity.DAMAGE and one.code != "segment-missing"]
        self.tally.problems += [f"run {self.run}: {one}" for one in alarms]

    def take_in_flight(self, log: Log) -> None:
        """What the writer was at when it was killed may have happened: let it, where it has."""
        if self.advancing_to is not None and log.log_start_offset == self.advancing_to:
            self.model.advance_log_start(self.advancing_to)
        if self.truncating_to is not None:
            self.model.durable_end = self.truncating_to
            self.model.crash(log.log_end_offset)
        elif log.log_end_offset > self.model.log_end_offset:
            data = log.read(self.model.log_end_offset)
            (found,) = iter_batches(data)
            for record in found.records() if not found.is_control else []:
                if record.value != content(self.run, self.generation, record.offset):
                    self.tally.foreign += 1
                    self.tally.problems.append(f"run {self.run}: {record} is of nobody")
            self.tally.in_flight += found.header.count
            self.model.append_as_follower(data)
        if self.truncating_to is None:
            self.model.reopen(log.log_end_offset)
        self.truncating_to = self.advancing_to = None

    def compare(self, log: Log) -> None:
        """Everything acknowledged is there, in order, and nothing else."""
        found, expected = list(log.records()), self.model.records()
        if found != expected or log.log_start_offset != self.model.log_start_offset:
            here, there = {one.offset: one for one in found}, {one.offset: one for one in expected}
            lost = sum(here.get(offset) != one for offset, one in there.items())
            foreign = sum(there.get(offset) != one for offset, one in here.items())
            self.tally.lost += lost
            self.tally.foreign += foreign
            self.tally.problems.append(f"run {self.run}: {lost} lost, {foreign} foreign; {log}, {self.model}")
        end = log.last_stable_offset
        low, high = self.model.stable_offsets
        committed = log.records(isolation=FetchIsolation.TXN_COMMITTED)
        if not low <= end <= high or list(committed) != self.model.committed_records(None, end):
            self.tally.problems.append(f"run {self.run}: committed readers see something else; {log}, {self.model}")


def torture_by_kills(directory: Path, seed: int, count: int, until: float) -> KillTally:
    """Kill writers of one directory, until there were so many, the time (monotonic) is up, or something is wrong."""
    killer = Killer(directory, seed)
    while killer.tally.kills < count and time.monotonic() < until and not killer.tally.problems:
        killer.kill_one()
    return killer.tally
