"""The part of `torture.py` that cuts the power of stores that processes share, and of their queues, and kills one.

A story is what two processes do with a store, and what of that is promised. It is stopped at every file operation; what
a power cut leaves, in every mode, has to be as promised, and so has what a killed process leaves to the other one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, Self

from torture_scripts import START_MS
from torture_sweep import MODES, Mirror, SweepTally

from logstore.config import Durability, LogConfig
from logstore.errors import LogstoreError
from logstore.store import Store
from logstore.testing import CrashMode, ManualClock, MemoryFileSystem, SimulatedCrash

ROOT = Path("/data")


class Stage(NamedTuple):
    """Where a story plays: two processes on the same files, and how durable what they do is."""

    first: MemoryFileSystem
    second: MemoryFileSystem
    clock: ManualClock
    durability: Durability

    def open(self, fs: MemoryFileSystem) -> Store:
        """Open the store in one of the processes."""
        config = LogConfig(
            segment_bytes=500, index_interval_bytes=100, segment_index_bytes=96, file_delete_delay_ms=0,
            durability=self.durability,
        )  # fmt: skip
        return Store.open(ROOT, fs=fs, clock=self.clock, config=config)


class Story(Protocol):
    """What is told on one stage."""

    def prepare(self) -> None:
        """Do what is not stopped."""

    def run(self) -> None:
        """Do what is stopped, and note what is promised."""

    def leave(self) -> None:
        """Let the second process end, once the first was killed."""

    def forget(self) -> None:
        """Let nobody miss that something was not closed."""

    def check(self, store: Store, *, survived: bool) -> None:
        """Raise AssertionError where what is found is not as promised; `survived`: all that was done is there."""


class StorySweep:
    """Stops one story; `until` says whether to end before all is done. A context manager, for its directory."""

    def __init__(
        self, story: Callable[[Stage], Story], durability: Durability, until: Callable[[], bool] = lambda: False,
        modes: Sequence[tuple[CrashMode, int]] = MODES,
    ) -> None:  # fmt: skip
        self.tally = SweepTally()
        self._modes = modes
        self._story = story
        self._durability = durability
        self._until = until
        self._mirror = Mirror(ROOT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._mirror.remove()

    @property
    def is_over(self) -> bool:
        """Whether something was found, or the time is up."""
        return bool(self.tally.problems) or self._until()

    def cuts(self, first: int = 1, every: int = 1) -> SweepTally:
        """Cut the power at every file operation, in the middle of a write too, in every mode."""
        return self._sweep(first, every, is_kill=False)

    def kills(self, first: int = 1, every: int = 1) -> SweepTally:
        """Kill the first process at every file operation, in the middle of a write too."""
        return self._sweep(first, every, is_kill=True)

    def _sweep(self, first: int, every: int, *, is_kill: bool) -> SweepTally:
        for number in itertools.count(2 * first, every):
            if self.is_over or not self._stop(number // 2, is_torn=bool(number % 2), is_kill=is_kill):
                return self.tally
        raise AssertionError("counting does not end")

    def _stop(self, stop_at: int, *, is_torn: bool, is_kill: bool) -> bool:
        """Tell the story up to an operation; False where it ends before."""
        clock = ManualClock(START_MS)
        fs = MemoryFileSystem(clock)
        stage = Stage(fs.process() if is_kill else fs, fs, clock, self._durability)
        story, where = self._story(stage), f"{self._durability}, operation {stop_at}{' torn' * is_torn}"
        story.prepare()
        stage.first.stop_at, stage.first.stop_torn = fs.operations + stop_at, is_torn
        try:
            story.run()
        except SimulatedCrash as crash:
            if is_torn and crash.operation.kind != "write":
                story.forget()
                return True
            where += f" ({crash.operation.kind} {crash.operation.path})"
        else:
            return False
        self.tally.points += 1
        if is_kill:
            stage.first.kill()
            self._look(story, fs, stage, f"killed, {where}", is_kill=True)
        else:
            self._crash(story, stage, where)
        story.forget()
        return True

    def _crash(self, story: Story, stage: Stage, where: str) -> None:
        seen = set[int]()
        for mode, seed in self._modes:
            image = stage.first.crash(mode, seed)
            self.tally.crashes += 1
            key = hash(frozenset(image.tree().items()))
            if key not in seen:
                seen.add(key)
                self.tally.different += 1
                self._look(story, image, stage, f"{where}, {mode} {seed}", is_kill=False)
            if self.tally.problems:
                return

    def _look(self, story: Story, fs: MemoryFileSystem, stage: Stage, where: str, *, is_kill: bool) -> None:
        now = stage.clock.now_ms()
        try:
            if is_kill:
                story.leave()
            with stage.open(fs) as store:
                story.check(store, survived=is_kill)
            problem = self._mirror.alarm(fs)
        except (AssertionError, LogstoreError, OSError, ValueError) as error:
            problem = f"{type(error).__name__}: {error}"
        stage.clock.set(now)
        if problem is not None:
            self.tally.problems.append(f"{where}: {problem}")
