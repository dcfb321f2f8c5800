"""The part of `torture.py` that stops the log cleaner: at every file operation, and wherever it asks whether to go on.

After each the log is opened. Up to some segment it holds what the step leaves, from there on what was there before it;
committed readers find the newest value of every key; no file has a temporary name, `check` finds no damage; and cleaned
again as long as something expires, it holds those values alone.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from typing import NamedTuple

from helpers.model_checks import check_producers
from torture_scripts import DAY_MS, START_MS, Clean, Step, reopen
from torture_sweep import CONFIG, PLACE, Stopped, Sweep, SweepTally, bounds_agree, empty, explanations

from logstore.cleaner import Cleaner
from logstore.errors import CleaningAbortedError
from logstore.log import FetchIsolation, Log
from logstore.names import CLEANED_SUFFIX, SWAP_SUFFIX
from logstore.records import Record
from logstore.testing import LogModel, ManualClock, MemoryFileSystem

_MUCH_LATER = (100, 102, 104)
"""Days after the records: two rounds to let all go that can, and one more, which finds nothing."""


class Found(NamedTuple):
    """What is in a log after a step of a script that nothing has stopped."""

    offsets: list[int]
    bases: list[int]
    cleaner_point: int | None


class CompactionSweep(Sweep):
    """Stops a script that cleans."""

    config = dataclasses.replace(CONFIG, cleanup_policy=frozenset({"compact"}))

    def __init__(self, script: list[Step], until: Callable[[], bool] = lambda: False) -> None:
        super().__init__(script, until)
        self._converged: set[int] = set()  # hashes of batches from where cleaning has come to the right end
        self._found: list[Found] = []  # after each step, and before the first one
        _, _, log, _ = self._play(script, self._found.append)
        log.close()

    def cancellations(self) -> SweepTally:
        """Call every round of the script off wherever it asks, and look at what is there."""
        for number, step in enumerate(self.script, 1):
            if isinstance(step, Clean):
                for polls in itertools.count():
                    if self.is_over or not self._call_off(number, step, polls):
                        break
        return self.tally

    def look(self, fs: MemoryFileSystem, stopped: Stopped) -> str | None:
        """What is wrong with the log that a crash has left."""
        with self.opened(fs, stopped.clock) as log:
            names = _temporary(fs)
            if names:
                return f"{names} are still there"
            models = [model for model in explanations(log, stopped) if bounds_agree(log, model)]
            if not models:
                return f"{log} does not end between {stopped.before} and {stopped.after}"
            problems = [self._compare(log, model, stopped.step) for model in models]
            if all(problems):
                return problems[0]
            model, first, more = models[problems.index(None)], log.log_end_offset, [(b"k", b"more")]
            done, expected = log.append(more, durability="always"), model.append(more)
            if done != expected:
                return f"{log}: it did not go on at {first}: {done}, not {expected}"
        check_producers(fs, PLACE, model)
        return self._converge(fs, stopped.clock, model)

    def _compare(self, log: Log, model: LogModel, step: int) -> str | None:
        """What a log has that is neither of before the step nor of behind it."""
        before, after = self._found[max(step - 1, 0)], self._found[step]
        records = list(log.records())
        there, written = [one.offset for one in records], {one.offset: one for one in model.records()}
        for bound in (0, *before.bases[1:], log.log_end_offset):
            mixed = [*(one for one in after.offsets if one < bound), *(one for one in before.offsets if one >= bound)]
            if there == [one for one in mixed if one in written]:
                break
        else:
            return f"{log}: offsets {there} are neither {before.offsets} nor {after.offsets}"
        changed = [one for one in records if one != written[one.offset]]
        if changed:
            return f"{log}: {changed} were appended otherwise"
        if log.cleaner_point not in (before.cleaner_point, after.cleaner_point):
            return f"{log}: cleaner point {log.cleaner_point}, not {before.cleaner_point} or {after.cleaner_point}"
        seen = newest(log.records(isolation=FetchIsolation.TXN_COMMITTED))
        expected = newest(model.committed_records(None, log.last_stable_offset))
        return None if seen == expected else f"{log}: the newest values are {seen}, not {expected}"

    def _converge(self, fs: MemoryFileSystem, clock: ManualClock, model: LogModel) -> str | None:
        """Clean a copy of the log until nothing expires any more: what it holds that it should not, or lacks."""
        key = hash(frozenset((name, data) for name, data in fs.tree().items() if name.endswith(".log")))
        if key in self._converged:
            return None
        self._converged.add(key)
        fs, model = fs.crash("everything"), model.copy()
        with self.opened(fs, clock) as log:
            for producer in log.producers:
                if producer.current_transaction_first_offset >= 0:
                    log.end_transaction(producer.producer_id, producer.producer_epoch, commit=False)
                    model.end_transaction(producer.producer_id, producer.producer_epoch, commit=False)
            log.roll()
            for days in _MUCH_LATER:
                Cleaner(1 << 16).clean(log, now_ms=START_MS + days * DAY_MS, first_dirty_offset=0)
            there, expected = list(log.records()), newest(model.committed_records(None, model.log_end_offset))
            if there != expected or log.log_end_offset != model.log_end_offset:
                return f"{log}: cleaned again it has {there}, not {expected}"
        return f"{log}: {_temporary(fs)} are still there" if _temporary(fs) else self.mirror.alarm(fs)

    def _call_off(self, number: int, step: Clean, polls: int) -> bool:
        """Let a round end when it has asked so often; False if it ends before."""
        fs, clock, log, model = self._play(self.script[: number - 1])
        point, asked = log.cleaner_point, itertools.count()
        with log:
            try:
                step(log, lambda: next(asked) >= polls)
                return False
            except CleaningAbortedError:
                pass
            problem = self._compare(log, model, number)
            if log.cleaner_point != point or _temporary(fs):
                problem = f"{log}: cleaner point {log.cleaner_point}, not {point}; {_temporary(fs)} are still there"
        self.tally.points += 1
        problem = problem or self._converge(fs, clock, model) or self.mirror.alarm(fs)
        if problem is not None:
            self.tally.problems.append(f"step {number}, called off after {polls} times: {problem}")
        return True

    def _play(
        self, script: list[Step], tell: Callable[[Found], object] = lambda _: None
    ) -> tuple[MemoryFileSystem, ManualClock, Log, LogModel]:
        """Do a script from begin to end, and leave the log open; `tell` hears of each step."""
        clock = ManualClock(START_MS)
        fs, model = empty(clock), LogModel(self.config, clock=clock)
        log = self.opened(fs, clock)
        tell(_found(log))
        for step in script:
            clock.advance(300)
            if step is reopen:
                log.close()
                log = self.opened(fs, clock)
                model.flush()
                model.reopen(log.log_end_offset)
            else:
                step(model)
                step(log)
            tell(_found(log))
        return fs, clock, log, model


def newest(records: Iterable[Record]) -> list[Record]:
    """The last record of each key, in their order; those that are tombstones are left out."""
    found = {one.key: one for one in records}
    return sorted((one for one in found.values() if one.value is not None), key=lambda one: one.offset)


def _found(log: Log) -> Found:
    return Found(
        [one.offset for one in log.records()], [one.base_offset for one in log.segments], log.cleaner_point
    )  # fmt: skip


def _temporary(fs: MemoryFileSystem) -> list[str]:
    return [name for name in fs.list(PLACE) if name.endswith((CLEANED_SUFFIX, SWAP_SUFFIX))]
