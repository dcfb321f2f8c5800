"""The log cleaner in the background: threads that clean the dirtiest log, one after the other (CLEANER §2.5, §2.8, §6).

Threads run only between `start` and `stop`, or inside its context manager; `attempt` does the same once, by hand. What
goes wrong with a log reaches the owner, and that log is left alone until it is opened again; the others are cleaned.
The threads share the limit of bytes, never a log. `start`, `stop` and `reconfigure` are for one thread, the owner's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Protocol, Self, TypeAlias

from logstore.cleaner.cleaner import Cleaner
from logstore.cleaner.manager import CleaningFailure, Failure, LogCleanerManager, LogToClean
from logstore.cleaner.stats import CleaningStats
from logstore.cleaner.throttle import Throttle
from logstore.clock import Clock, SystemClock
from logstore.config import CleanerConfig
from logstore.errors import CleaningAbortedError, LogstoreError, MapTooSmallError
from logstore.log import Log
from logstore.names import TopicPartition


class RoundTerms(NamedTuple):
    """What a round of cleaning has to heed beside its log.

    Attributes:
        now_ms: when the round began (ms since the epoch).
        config: the cleaner's settings.
        throttle: the limit that all threads share.
        is_cancelled: to be asked often; the round ends with CleaningAbortedError once it says so.
    """

    now_ms: int
    config: CleanerConfig
    throttle: Throttle
    is_cancelled: Callable[[], bool]


class CleanedRound(Protocol):
    """What a round says of itself; `CleaningStats` does."""

    @property
    def end_offset(self) -> int:
        """Up to where the log is clean now."""
        ...


CleanRound: TypeAlias = Callable[[LogToClean[Log], RoundTerms], CleanedRound]
OnCleaned: TypeAlias = Callable[[TopicPartition, CleanedRound], object]
OnFailure: TypeAlias = Callable[[CleaningFailure[Log]], object]


def clean_round(work: LogToClean[Log], terms: RoundTerms, *, drops_unkeyed: bool = False) -> CleaningStats:
    """Clean a log in one round, with a map of the configured size. Raises as `Cleaner.clean`."""
    cleaner = Cleaner(
        terms.config.map_memory, throttle=terms.throttle, is_cancelled=terms.is_cancelled, drops_unkeyed=drops_unkeyed
    )
    found = work.cleanability
    return cleaner.clean(
        work.log, now_ms=terms.now_ms, first_dirty_offset=found.first_dirty.offset,
        uncleanable_offset=found.uncleanable.offset,
    )  # fmt: skip


class LogCleaner:
    """Cleans an owner's logs.

    Args:
        manager: which logs there are and what may be done to them.
        config: the settings; see `reconfigure`.
        clock: by which logs are picked and tombstones expire. How long threads wait is real time.
        clean: does one round; one that drops records without a key is
            `functools.partial(clean_round, drops_unkeyed=True)`.
        retain: deletes what is due from a compacted log, as `logstore.retention.retain`; called for each that nobody
            works on, after each attempt. Without it nothing is deleted.
        on_cleaned: is told what each round has done.
        on_failure: is told what went wrong, in the thread that met it; by default `stop` raises the first error.
    """

    def __init__(
        self,
        manager: LogCleanerManager[Log],
        config: CleanerConfig | None = None,
        *,
        clock: Clock | None = None,
        clean: CleanRound = clean_round,
        retain: Callable[[Log], object] | None = None,
        on_cleaned: OnCleaned | None = None,
        on_failure: OnFailure | None = None,
    ) -> None:
        self._manager = manager
        self._config = config or CleanerConfig()
        self._clock = clock or SystemClock()
        self._clean = clean
        self._retain = retain
        self._on_cleaned = on_cleaned
        self._on_failure = on_failure
        self._throttle = Throttle(self._config.io_max_bytes_per_second, self._clock)
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()
        self._guard = threading.Lock()  # guards the first error; innermost
        self._error: Failure | None = None

    def __repr__(self) -> str:
        running, dead = len(self._threads), self.dead_thread_count
        return f"<LogCleaner {f'with {running} threads, {dead} of them dead' if running else 'stopped'}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def config(self) -> CleanerConfig:
        """The settings that count now."""
        return self._config

    @property
    def bytes_per_second(self) -> float:
        """The limit that counts now, for all threads together."""
        return self._throttle.bytes_per_second

    @property
    def dead_thread_count(self) -> int:
        """How many threads have ended though nobody has stopped them; `reconfigure` begins new ones."""
        return sum(not thread.is_alive() for thread in self._threads)

    # ---- threads

    def start(self) -> None:
        """Begin. Raises RuntimeError when it has begun already."""
        if self._threads:
            raise RuntimeError("the log cleaner runs already")
        self._stopping.clear()
        self._threads = [
            threading.Thread(target=self._run, name=f"logstore-cleaner-{number}", daemon=True)
            for number in range(self._config.threads)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End it: rounds are called off, and waited for. Raises the first error that `on_failure` was not there for."""
        self._end()
        with self._guard:
            error, self._error = self._error, None
        if error is not None:
            raise error

    def reconfigure(self, config: CleanerConfig) -> None:
        """Take other settings: running threads are stopped and begun anew, dead ones too.

        Logs that were left alone because their map was too small are cleaned again. Raises ValueError for less than
        one thread, or less than half or more than double as many as now; nothing has changed then.
        """
        now, wanted = self._config.threads, config.threads
        if not max(now // 2, 1) <= wanted <= max(now * 2, 1):
            raise ValueError(
                f"log.cleaner.threads is {wanted}; its range is: {max(now // 2, 1)} to {max(now * 2, 1)}, "
                f"half to double of what it was"
            )
        was_running = bool(self._threads)
        self._end()
        self._config = config
        self._throttle.bytes_per_second = config.io_max_bytes_per_second
        for partition, failure in self._manager.uncleanable.items():
            if isinstance(failure.error, MapTooSmallError):
                self._manager.forgive(partition)
        if was_running:
            self.start()

    def _end(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self._threads = []
        self._stopping.clear()

    def _run(self) -> None:
        while not self._stopping.is_set():
            if not self.attempt():
                self._stopping.wait(self._config.backoff_ms / 1000)

    # ---- work

    def attempt(self) -> bool:
        """Clean the log that needs it most, if one does, then delete from compacted logs; whether one was cleaned."""
        is_cleaned = self._clean_one()
        if self._retain is not None:
            self._delete(self._retain)
        return is_cleaned

    def _clean_one(self) -> bool:
        now = self._clock.now_ms()
        try:
            work = self._manager.pick(now)
        except (LogstoreError, OSError) as error:
            self._fail(CleaningFailure(None, None, error))
            return False
        if isinstance(work, CleaningFailure):
            self._fail(work)
            return False
        if work is None:
            return False
        done: CleanedRound | None = None
        try:
            done = self._round(work, now)
        finally:  # also where a mistake of ours ends the thread: who waits for this log must not wait forever
            self._finish(work, done)
        return done is not None

    def _round(self, work: LogToClean[Log], now_ms: int) -> CleanedRound | None:
        """What a round has done; None where it was called off or has failed."""

        def is_cancelled() -> bool:
            return self._stopping.is_set() or self._manager.is_aborted(work.partition)

        try:
            return self._clean(work, RoundTerms(now_ms, self._config, self._throttle, is_cancelled))
        except CleaningAbortedError:
            return None  # by who has asked for it, or because the log was cut, and is another one now
        except (LogstoreError, OSError) as error:
            self._fail(CleaningFailure(work.partition, work.log, error))
            return None

    def _finish(self, work: LogToClean[Log], done: CleanedRound | None) -> None:
        try:
            self._manager.done_cleaning(work.partition, None if done is None else done.end_offset)
        except (LogstoreError, OSError) as error:
            self._fail(CleaningFailure(work.partition, work.log, error))
            return
        if done is not None and self._on_cleaned is not None:
            self._on_cleaned(work.partition, done)

    def _delete(self, retain: Callable[[Log], object]) -> None:
        """Let retention have all compacted logs that nobody works on (§2.5)."""
        logs = self._manager.compacted_logs()
        try:
            for partition, log in logs.items():
                if self._stopping.is_set() or self._manager.is_aborted(partition):
                    continue
                try:
                    retain(log)
                except (LogstoreError, OSError) as error:
                    self._fail(CleaningFailure(partition, log, error))
        finally:
            self._manager.done_deleting(logs)

    def _fail(self, failure: CleaningFailure[Log]) -> None:
        """Leave a log alone from now on, and tell the owner why."""
        self._manager.mark_uncleanable(failure)
        if self._on_failure is not None:
            self._on_failure(failure)
            return
        with self._guard:
            self._error = self._error or failure.error
