"""Processes that share a store, are killed at random and started again; and the journal in which they tell what they
do.

A module that has such a process ends with `play`, and is run again by `Crew` as

    python tests/MODULE.py ROLE DIRECTORY NAME

The journal is one file to which all append, each line by one write. So its order is one in which things may have
happened: what was told before something began stands before what that has told. A kill is told before it is done.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self, TypeVar

from logstore.config import LogConfig
from logstore.names import CONSUMER_OFFSETS_TOPIC
from logstore.store import Store

CONFIG = LogConfig(segment_bytes=200_000, file_delete_delay_ms=0)
KILL = "kill"
"""The first word of a line that tells of a kill; the second one is the name."""
PATIENCE_S = 60.0
_PAUSE_S = 0.3
_ALL_SHARE = 0.03  # of the kills are of all at once
_LOOK_S = 0.05
_LINE_END = " ;"


class Journal:
    """Takes lines of words; those that are read are whole, whenever their writer was killed.

    Args:
        path: the file; several processes may have it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def tell(self, *words: object) -> None:
        """Write a line."""
        os.write(self._file, ("\n" + " ".join(map(str, words)) + _LINE_END).encode())

    def lines(self) -> Iterator[list[str]]:
        """The words of each line so far. What a kill has cut off is left out."""
        with self._path.open() as file:
            for line in file:
                if line.rstrip("\n").endswith(_LINE_END):
                    yield line.split()[:-1]

    def close(self) -> None:
        """Write no more; what is there can be read."""
        os.close(self._file)


_T = TypeVar("_T")
Role = Callable[[Store, Journal, str], None]
"""What a process does for ever; it is given the store, the journal and its name."""


class Crew:
    """The processes; a context manager, at the end of which all of them are killed.

    Args:
        script: what they run.
        directory: has the store, and what they tell.
        roles: how many there are of each, all the time.
        seed: of the kills.

    Attributes:
        kills: how many were killed.
        problems: who ended by itself, and why.
    """

    def __init__(self, script: Path, directory: Path, roles: dict[str, int], seed: int) -> None:
        self._journal = Journal(directory / "journal")
        self.kills = 0
        self.problems: list[str] = []
        self._script = script
        self._directory = directory
        self._roles = roles
        self._chance = random.Random(seed)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._started = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill_all()
        self._journal.close()

    def run(self, seconds: float) -> None:
        """Kill one after the other, seldom all, for so long from when all are at work; the last are left at it."""
        self._fill()
        self._wait_for_ready()
        end = time.monotonic() + seconds
        while True:
            time.sleep(self._chance.random() * _PAUSE_S)
            if time.monotonic() >= end:
                return
            if self._chance.random() < _ALL_SHARE:
                self.kill_all()
            else:
                self._kill(self._chance.choice(list(self._running)))
            self._fill()

    def _fill(self) -> None:
        roles = [name.split("-")[0] for name in self._running]
        for role, wanted in self._roles.items():
            for _ in range(wanted - roles.count(role)):
                self._started += 1
                name = f"{role}-{self._started}"
                with (self._directory / f"{name}.complaint").open("wb") as complaint:
                    command = [sys.executable, "-X", "faulthandler", str(self._script)]
                    arguments = [role, str(self._directory), name]
                    self._running[name] = subprocess.Popen(command + arguments, stderr=complaint)

    def _wait_for_ready(self) -> None:
        end = time.monotonic() + PATIENCE_S
        while self._running.keys() - {line[1] for line in self.lines() if line[0] == "ready"}:
            if time.monotonic() > end or any(one.poll() is not None for one in self._running.values()):
                self.problems.append("some were never ready")
                return
            time.sleep(_LOOK_S)

    def wait(self, what: str, is_done: Callable[[Store], bool]) -> None:
        """Let those who are left work until something is done; it is a problem if that never happens."""
        end = time.monotonic() + PATIENCE_S
        while not self.look(is_done):
            if time.monotonic() > end:
                self.problems.append(f"after {PATIENCE_S:.0f} s without kills there was still to do: {what}")
                return
            time.sleep(_LOOK_S)

    def look(self, work: Callable[[Store], _T]) -> _T:
        """What `work` gives on the store, which is open here only meanwhile: so the last one can die."""
        with Store.open(self._directory / "store", config=CONFIG) as store:
            return work(store)

    def kill_all(self, but: str = "") -> None:
        """Kill all but those of one role."""
        for name in [one for one in self._running if one.split("-")[0] != but]:
            self._kill(name)

    def _kill(self, name: str) -> None:
        process = self._running.pop(name)
        complaint = self._directory / f"{name}.complaint"
        if process.poll() is not None:
            self.problems.append(f"{name} ended by itself with {process.returncode}: {complaint.read_text()}")
        self._journal.tell(KILL, name)
        process.kill()
        process.wait(PATIENCE_S)
        complaint.unlink()
        self.kills += 1

    def lines(self) -> Iterator[list[str]]:
        """What they have told."""
        return self._journal.lines()


def play(roles: dict[str, Role]) -> None:
    """What a process of a crew does: its role, by its arguments."""
    role, directory, name = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    journal = Journal(directory / "journal")
    with Store.open(directory / "store", config=CONFIG) as store:
        journal.tell("ready", name)
        roles[role](store, journal, name)


def keep_house(store: Store, journal: Journal, name: str) -> None:
    """Change more than the ends of logs, for ever: roll, compact, delete."""
    while True:
        for partition in store.partitions():
            if partition.name.topic != CONSUMER_OFFSETS_TOPIC or partition.log_end_offset:
                with partition.changing() as log:
                    log.roll()
            store.maintain()
            time.sleep(0.05)
        store.compact()
