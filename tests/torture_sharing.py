"""The part of `torture.py` that cuts the power of a log that two processes share, and kills one of them.

The scripts are those of `torture_sweep`; the processes do a step in turn. After a power cut the log is opened in a new
session. Where one of them was killed the other goes on, and a third one comes; then all that was appended is there,
synced or not.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from torture_scripts import START_MS, Step, reopen
from torture_sweep import PLACE, Stopped, Sweep, SweepTally, empty

from logstore.log import Log, SharedLog
from logstore.log.log_view import LogView
from logstore.testing import LogModel, ManualClock, MemoryFileSystem, SimulatedCrash

_SESSIONS = itertools.count(1)


class SharedPair:
    """A log that some processes have open together, as one: each operation is done by the next of them.

    What a `SharedLog` cannot do itself is done to the `Log` that it opens for a moment. At the end the log is
    completed, as the last process to close a store does.
    """

    def __init__(self, logs: list[SharedLog], complete: Callable[[], object]) -> None:
        self.logs = logs
        self.was_changed = False
        self._complete = complete
        self._turns = itertools.cycle(logs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            self.close()

    def __repr__(self) -> str:
        return repr(self.logs)

    def __getattr__(self, name: str) -> Any:
        log = next(self._turns)
        if hasattr(SharedLog, name):
            return getattr(log, name)
        if not callable(getattr(LogView, name, None)) and hasattr(LogView, name):
            return log._seen(lambda view: getattr(view, name))
        self.was_changed = True

        def changed(*arguments: Any, **options: Any) -> Any:
            with log.changing() as inner:
                return getattr(inner, name)(*arguments, **options)

        return changed

    def close(self) -> None:
        """Close all, and complete the log."""
        for log in self.logs:
            log.close()
        self._complete()


class SharedSweep(Sweep):
    """Stops a script that two processes do in turn."""

    def opened(self, fs: MemoryFileSystem, clock: ManualClock) -> Any:
        """The log, open in a new session; or what a killed process has left, as the others see it."""
        return self._survivors.pop() if self._survivors else self._pair(fs, clock, [fs, fs])

    def __init__(self, script: list[Step], until: Callable[[], bool] = lambda: False) -> None:
        super().__init__(script, until)
        self._survivors: list[SharedPair] = []

    def _pair(
        self, fs: MemoryFileSystem, clock: ManualClock, processes: list[MemoryFileSystem], *others: SharedLog
    ) -> SharedPair:
        """Open the log by some processes, in the session of others if there are any."""
        if not fs.exists(PLACE):
            fs.make_directory(PLACE)
            fs.sync_directory(PLACE.parent)
        if not others:
            self._session = next(_SESSIONS)
        logs = [SharedLog.open(PLACE, self.config, session=self._session, fs=one, clock=clock) for one in processes]
        return SharedPair([*logs, *others], lambda: Log.open(PLACE, self.config, fs=fs, clock=clock).close())

    def did(self, log: Any, model: LogModel) -> None:
        """Where it was a change, the log was opened for it, and closed."""
        if log.was_changed:
            log.was_changed = False
            model.reopen(log.log_end_offset)

    def kills(self, first: int = 1, every: int = 1) -> SweepTally:
        """Kill one of the processes at every file operation, in the middle of a write too; others come, or do not."""
        for number in itertools.count(2 * first, every):
            if self.is_over or not self._kill(number // 2, is_torn=bool(number % 2), comes=bool(number % 4 < 2)):
                return self.tally
        raise AssertionError("counting does not end")

    def _kill(self, stop_at: int, *, is_torn: bool, comes: bool) -> bool:
        """Kill one at an operation, and look at what the others find; False where the script ends before."""
        clock = ManualClock(START_MS)
        fs = empty(clock)
        doomed = fs.process()
        pair = self._pair(fs, clock, [doomed, fs])
        doomed.stop_at, doomed.stop_torn = fs.operations + stop_at, is_torn
        model = LogModel(self.config, clock=clock)
        for number, step in enumerate((one for one in self.script if one is not reopen), 1):
            clock.advance(300)
            before, model = model, model.copy()
            step(model)
            try:
                step(pair)
            except SimulatedCrash as crash:
                doomed.kill()
                stopped = Stopped(crash.operation.kind, fs, clock, number, _durable(before), _durable(model))
                self._survivors.append(self._pair(fs, clock, [fs] * comes, pair.logs[1]))
                self._look_on(stopped, f"killed at {stop_at}{' torn' * is_torn}, step {number}")
                return True
            self.did(pair, model)
        pair.close()
        return False

    def _look_on(self, stopped: Stopped, where: str) -> None:
        self.tally.points += 1
        problem = self.problem(stopped.fs, stopped)
        if problem is not None:
            self.tally.problems.append(f"{where}: {problem}")


def _durable(model: LogModel) -> LogModel:
    """The same, with all of it on disk: what a killed process has written stays."""
    copy = model.copy()
    copy.durable_end = copy.log_end_offset
    return copy
