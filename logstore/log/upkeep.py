"""A thread that gives logs what is due now and then: flushes by `flush.ms`, files to unlink, producers to forget.

It runs only between `start` and `stop`, or inside its context manager. What goes wrong reaches the owner: an error
ends the upkeep of that log, and the first one is raised by `stop`. Thread-safe.
"""

from __future__ import annotations

from collections.abc import Iterable

from logstore.background import Background
from logstore.errors import LogstoreError
from logstore.log.log import Log

INTERVAL_MS = 100


class Upkeep(Background):
    """Calls `Log.maintain` for each of its logs.

    Args:
        logs: whose upkeep it is; more can be added.
        interval_ms: how often, in milliseconds of the real clock.
    """

    def __init__(self, logs: Iterable[Log] = (), *, interval_ms: int = INTERVAL_MS) -> None:
        if interval_ms < 1:
            raise ValueError(f"an interval of {interval_ms} ms")
        super().__init__("the upkeep", "logstore-upkeep")
        self._logs = list(logs)
        self._seconds = interval_ms / 1000

    def __repr__(self) -> str:
        return f"<Upkeep of {len(self._logs)} logs {'running' if self._thread else 'stopped'}>"

    def add(self, log: Log) -> None:
        """Take one more log into its care."""
        with self._guard:
            self._logs.append(log)

    def _run(self) -> None:
        while not self._ended.wait(self._seconds):
            with self._guard:
                logs = list(self._logs)
            for log in logs:
                try:
                    log.maintain()
                except (LogstoreError, OSError) as error:
                    self._keep(error)
                    with self._guard:
                        self._logs.remove(log)
