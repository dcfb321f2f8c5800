"""A thread that gives logs what is due now and then: flushes by `flush.ms`, files to unlink, producers to forget.

It runs only between `start` and `stop`, or inside its context manager. What goes wrong reaches the owner: an error
ends the upkeep of that log, and the first one is raised by `stop`. Thread-safe.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from logstore.errors import LogstoreError
from logstore.log.log import Log

INTERVAL_MS = 100


class Upkeep:
    """Calls `Log.maintain` for each of its logs.

    Args:
        logs: whose upkeep it is; more can be added.
        interval_ms: how often, in milliseconds of the real clock.
    """

    def __init__(self, logs: Iterable[Log] = (), *, interval_ms: int = INTERVAL_MS) -> None:
        if interval_ms < 1:
            raise ValueError(f"an interval of {interval_ms} ms")
        self._logs = list(logs)
        self._seconds = interval_ms / 1000
        self._guard = threading.Lock()  # guards the list and the errors; innermost
        self._errors: list[LogstoreError | OSError] = []
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<Upkeep of {len(self._logs)} logs {'running' if self._thread else 'stopped'}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def add(self, log: Log) -> None:
        """Take one more log into its care."""
        with self._guard:
            self._logs.append(log)

    def start(self) -> None:
        """Begin. Raises RuntimeError when it has begun already."""
        if self._thread is not None:
            raise RuntimeError("the upkeep runs already")
        self._ended.clear()
        self._thread = threading.Thread(target=self._run, name="logstore-upkeep", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it and wait for the last round. Raises the first error that a round has met."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._ended.set()
        thread.join()
        with self._guard:
            errors, self._errors = self._errors, []
        if errors:
            raise errors[0]

    def _run(self) -> None:
        while not self._ended.wait(self._seconds):
            with self._guard:
                logs = list(self._logs)
            for log in logs:
                try:
                    log.maintain()
                except (LogstoreError, OSError) as error:
                    with self._guard:
                        self._errors.append(error)
                        self._logs.remove(log)
