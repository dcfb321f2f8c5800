"""The part of `torture.py` that cuts the power: scripts are stopped at every file operation, in every mode of a crash.

After each the log is opened: it is as before the step that was cut short, as behind it, or between; what was promised
before is there, nothing is that was not appended, and `check` finds no damage. It goes on from there.
"""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Self

from helpers.model_checks import check_producers
from torture_scripts import START_MS, Step, append, reopen

from logstore.config import LogConfig
from logstore.errors import LogstoreError
from logstore.inspect import CheckOptions, Severity, check, resolve
from logstore.log import FetchIsolation, Log
from logstore.testing import CrashMode, LogModel, ManualClock, MemoryFileSystem, SimulatedCrash

PLACE = Path("/data/orders-0")
CONFIG = LogConfig(segment_bytes=700, index_interval_bytes=150, segment_index_bytes=120, file_delete_delay_ms=0)
SEEDS = 20
MODES: list[tuple[CrashMode, int]] = [
    ("nothing", 0), ("everything", 0), ("torn", 0), ("metadata", 0), *(("subset", seed) for seed in range(SEEDS)),
]  # fmt: skip


@dataclasses.dataclass(slots=True)
class SweepTally:
    """What a sweep came to: places where it stopped, crashes there, and those that left different files."""

    points: int = 0
    crashes: int = 0
    different: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)

    def add(self, other: SweepTally) -> None:
        """Add what another came to."""
        self.points += other.points
        self.crashes += other.crashes
        self.different += other.different
        self.problems += other.problems


# ---------------------------------------------------------------- the sweep


class Stopped(NamedTuple):
    """A script that was cut short: what is on disk, and the model before the step and behind it."""

    operation: str
    fs: MemoryFileSystem
    clock: ManualClock
    step: int
    before: LogModel
    after: LogModel


class Sweep:
    """Stops one script and looks at what is left; `until` says whether to end before all is done.

    A context manager: it writes what it checks into a directory of its own.
    """

    config = CONFIG

    def __init__(self, script: list[Step], until: Callable[[], bool] = lambda: False) -> None:
        self.tally = SweepTally()
        self.script = script
        self.mirror = Mirror()
        self._until = until
        self._seen: set[tuple[int, int]] = set()  # step, and hash of the files a crash has left

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.mirror.remove()

    def operations(self, first: int = 1, every: int = 1) -> SweepTally:
        """Stop the script at every file operation, in the middle of a write too, and crash there in every mode.

        With `every` at some of them only; where that is odd, in the middle of each other.
        """
        for number in itertools.count(2 * first, every):
            stop_at, is_torn = number // 2, bool(number % 2)
            stopped = self._run(stop_at, is_torn)
            if stopped is None or self.is_over:
                return self.tally
            if not is_torn or stopped.operation == "write":
                self._crash(stopped, f"operation {stop_at}{' torn' * is_torn}")
        raise AssertionError("counting does not end")

    def openings(self, every: int, first: int = 0) -> SweepTally:
        """Crash now and then, and stop the opening of what that leaves at every file operation."""
        for stop_at in itertools.count(first or every, every):
            stopped = self._run(stop_at, False)
            if stopped is None or self.is_over:
                return self.tally
            for mode, seed in MODES[:8]:
                self._stop_opening(stopped, stopped.fs.crash(mode, seed), f"operation {stop_at}, {mode} {seed}")
        raise AssertionError("counting does not end")

    def _stop_opening(self, stopped: Stopped, fs: MemoryFileSystem, where: str) -> None:
        if self.is_new(-stopped.step, fs):
            for second in itertools.count(1):
                image = fs.crash("everything")
                image.stop_at = second
                try:
                    self.opened(image, stopped.clock).close()
                    return
                except SimulatedCrash:
                    self._crash(stopped._replace(fs=image), f"{where}, then operation {second}")
                if self.is_over:
                    return

    @property
    def is_over(self) -> bool:
        """Whether something was found, or the time is up."""
        return bool(self.tally.problems) or self._until()

    def is_new(self, step: int, fs: MemoryFileSystem) -> bool:
        """Whether these files were not there yet after a crash in this step."""
        key = step, hash(frozenset(fs.tree().items()))
        is_new = key not in self._seen
        self._seen.add(key)
        return is_new

    def _crash(self, stopped: Stopped, where: str) -> None:
        self.tally.points += 1
        for mode, seed in MODES:
            fs = stopped.fs.crash(mode, seed)
            self.tally.crashes += 1
            if not self.is_new(stopped.step, fs):
                continue
            self.tally.different += 1
            problem = self.problem(fs, stopped)
            if problem is not None:
                self.tally.problems.append(f"{where}, step {stopped.step}, {mode} {seed}: {problem}")
                return

    def problem(self, fs: MemoryFileSystem, stopped: Stopped) -> str | None:
        """What is wrong with what is left, whether it is said or raised."""
        try:
            return self.look(fs, stopped) or (self.mirror.alarm(fs) if self.is_new(0, fs) else None)
        except (AssertionError, LogstoreError, OSError, ValueError) as error:
            return f"{type(error).__name__}: {error}"

    def look(self, fs: MemoryFileSystem, stopped: Stopped) -> str | None:
        """What is wrong with the log that a crash has left."""
        with self.opened(fs, stopped.clock) as log:
            models = [one for one in explanations(log, stopped) if one.records() == list(log.records())]
            if not models:
                return f"{log} {list(log.records())} is not between {stopped.before} and {stopped.after}"
            agreeing = [model for model in models if agrees(log, model)]
            if not agreeing:
                return f"{log}: committed readers or leader epochs are not as in {models}"
            model, first, more = agreeing[0], log.log_end_offset, [(b"k", b"more")]
            done, expected = log.append(more, durability="always"), model.append(more)
            if done != expected or list(log.records()) != model.records():
                return f"{log}: it did not go on at {first}: {done}, not {expected}"
        check_producers(fs, PLACE, model)
        return None

    def did(self, log: Log, model: LogModel) -> None:
        """A step was done."""

    def opened(self, fs: MemoryFileSystem, clock: ManualClock) -> Log:
        """The log, open."""
        return Log.open(PLACE, self.config, fs=fs, clock=clock)

    def _run(self, stop_at: int, is_torn: bool) -> Stopped | None:
        """Run a script up to an operation; None where it ends before."""
        clock = ManualClock(START_MS)
        fs = empty(clock)
        fs.stop_at, fs.stop_torn = fs.operations + stop_at, is_torn
        model = LogModel(self.config, clock=clock)
        before, after, number = model, model, 0
        try:
            log = self.opened(fs, clock)
            for step in self.script:
                number += 1
                clock.advance(300)
                after = before.copy()
                if step is reopen:
                    after.flush()
                    log.close()
                    before = after
                    log = self.opened(fs, clock)
                    before.reopen(log.log_end_offset)
                else:
                    step(after)
                    step(log)
                    self.did(log, after)
                    before = after
            after = before.copy()
            after.flush()
            log.close()
        except SimulatedCrash as crash:
            return Stopped(crash.operation.kind, fs, clock, number, before, after)
        return None


def sweep_damage(until: Callable[[], bool] = lambda: False) -> SweepTally:
    """Stop an opening that cuts at damage in the middle of the log: opened again, it ends at the same place."""
    tally = SweepTally()
    clock = ManualClock(START_MS)
    fs = _damaged(clock)

    def offsets(image: MemoryFileSystem) -> list[int]:
        with Log.open(PLACE, CONFIG, fs=image, clock=clock, damage="cut") as log:
            return [record.offset for record in log.records()]

    expected, seen = offsets(fs.crash("everything")), set[int]()
    for stop_at in itertools.count(1):
        image = fs.crash("everything")
        image.stop_at = stop_at
        try:
            offsets(image)
            return tally
        except SimulatedCrash:
            tally.points += 1
        for mode, seed in MODES:
            tally.crashes += 1
            crashed = image.crash(mode, seed)
            key = hash(frozenset(crashed.tree().items()))
            if key in seen:
                continue
            seen.add(key)
            tally.different += 1
            found = offsets(crashed)
            if found != expected:
                tally.problems.append(f"damage, operation {stop_at}, {mode} {seed}: {found}, not {expected}")
        if until() or tally.problems:
            return tally
    raise AssertionError("counting does not end")


def _damaged(clock: ManualClock) -> MemoryFileSystem:
    """A log of some segments that was not closed, with a batch in the second one that is not what was written."""
    fs = empty(clock)
    log = _opened(fs, clock)
    for number in range(18):
        append(1, "always", name=f"d{number}")(log)
    fs = fs.crash("everything")
    path = PLACE / [name for name in fs.list(PLACE) if name.endswith(".log")][1]
    data = bytearray(fs.read_bytes(path))
    data[len(data) // 2] ^= 1
    fs.write_bytes(path, data)
    for name in (name for name in fs.list(PLACE) if name.startswith(".logstore")):
        fs.unlink(PLACE / name)  # then nobody knows what was on disk, and all is checked
    return fs.crash("everything")


class Mirror:
    """A directory that shows what is in a file system in memory; only what has changed is written."""

    def __init__(self, place: Path = PLACE) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="logstore-torture-"))
        self._place = place.relative_to("/")
        self._written: dict[str, bytes] = {}

    def remove(self) -> None:
        shutil.rmtree(self._directory)

    def alarm(self, fs: MemoryFileSystem) -> str | None:
        """The first damage that `check` finds."""
        root, tree = self._directory, fs.tree()
        for name in self._written.keys() - tree.keys():
            (root / name).unlink()
        for name, data in tree.items():
            if self._written.get(name) != data:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(data)
        self._written = tree
        found = check(resolve(root / self._place), CheckOptions())
        alarms = [one for one in found if one.severity is Severity.DAMAGE]
        return str(alarms[0]) if alarms else None


def empty(clock: ManualClock) -> MemoryFileSystem:
    """A file system with the directory that the log will be in."""
    fs = MemoryFileSystem(clock)
    fs.make_directory(PLACE.parent)
    fs.sync_directory(PLACE.parent.parent)
    return fs


def _opened(fs: MemoryFileSystem, clock: ManualClock) -> Log:
    return Log.open(PLACE, CONFIG, fs=fs, clock=clock)


def explanations(log: Log, stopped: Stopped) -> Iterator[LogModel]:
    """The models that say where it begins and ends: that before the step, the one behind it, or the step half done."""
    for model in (stopped.after, stopped.before, _started(stopped)):
        if model is None:
            continue
        tried = model.copy()
        tried.durable_end = min(stopped.before.durable_end, stopped.after.durable_end)
        if log.log_end_offset in tried.possible_ends():
            tried.crash(log.log_end_offset)
            if tried.log_start_offset == log.log_start_offset:
                yield tried


def _started(stopped: Stopped) -> LogModel | None:
    """A truncation that moves the log start has moved it, and has cut nothing yet."""
    start, model = stopped.after.log_start_offset, stopped.before.copy()
    if not model.log_start_offset < start <= model.log_end_offset:
        return None
    model.advance_log_start(start)
    return model


def agrees(log: Log, model: LogModel) -> bool:
    """Whether committed readers see what a model says, and the bounds are the same."""
    committed = list(log.records(isolation=FetchIsolation.TXN_COMMITTED))
    return bounds_agree(log, model) and committed == model.committed_records(None, log.last_stable_offset)


def bounds_agree(log: Log, model: LogModel) -> bool:
    """Whether leader epochs and last stable offset are as a model says."""
    low, high = model.stable_offsets
    epochs = [tuple(entry) for entry in log.leader_epochs.entries]
    is_empty = log.log_start_offset == log.log_end_offset
    return low <= log.last_stable_offset <= high and (is_empty or epochs == model.epochs)
