"""What a store needs now and then, done by a thread of its own: retention, compaction, flushes, deletions.

Invariant: nothing runs but between `start` and `stop`; an error of one task does not keep the others from running, and
reaches the owner. Of several processes that share a store each may run one: what one has done, the others find done.
Thread-safe.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from logstore.errors import LogstoreError, StoreClosedError
from logstore.store.store import Store

_ERRORS_MAX = 100
OnError = Callable[[LogstoreError | OSError], object]


class Task(NamedTuple):
    """Something that is done again and again, so many seconds after it was done last."""

    name: str
    seconds: float
    run: Callable[[], object]


class StoreService:
    """Runs the tasks of a store; a context manager.

    Args:
        store: whose.
        retention_interval: seconds between two looks for segments that are too many or too old (Kafka's
            log.retention.check.interval.ms); None: never.
        compaction_interval: the same for compacted topics that are dirty enough.
        maintenance_interval: the same for flushes by flush.ms, and for what waits to be deleted.
        on_error: is told of each error, in the service's thread; without it, they are raised by `stop`.

    Raises ValueError for an interval that is not above 0.
    """

    def __init__(
        self,
        store: Store,
        *,
        retention_interval: float | None = 300.0,
        compaction_interval: float | None = 15.0,
        maintenance_interval: float | None = 1.0,
        on_error: OnError | None = None,
    ) -> None:
        wanted = (
            ("retention", retention_interval, store.retain),
            ("compaction", compaction_interval, functools.partial(store.compact, only_due=True)),
            ("maintenance", maintenance_interval, store.maintain),
        )  # fmt: skip
        for name, seconds, _ in wanted:
            if seconds is not None and not seconds > 0:
                raise ValueError(f"{name} every {seconds} s")
        self.store = store
        self._tasks = [Task(name, seconds, run) for name, seconds, run in wanted if seconds is not None]
        self._on_error = on_error
        self._guard = threading.Lock()  # guards thread and errors; innermost
        self._errors: list[LogstoreError | OSError] = []
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<StoreService of {self.store} {'running' if self._thread else 'stopped'}>"

    @property
    def errors(self) -> Sequence[LogstoreError | OSError]:
        """What tasks have raised and nobody was told of, the oldest first; of very many, the first."""
        with self._guard:
            return tuple(self._errors)

    def start(self) -> None:
        """Begin. Raises RuntimeError where it runs already."""
        with self._guard:
            if self._thread is not None:
                raise RuntimeError("the service runs already")
            self._ended.clear()
            self._thread = threading.Thread(target=self._run, name="logstore-store", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End it, once the task is done that is under way. Raises the first error that nobody was told of."""
        with self._guard:
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
        due = {task.name: time.monotonic() + task.seconds for task in self._tasks}
        while not self._ended.wait(max(min(due.values(), default=1e9) - time.monotonic(), 0.0)):
            for task in self._tasks:
                if time.monotonic() >= due[task.name] and not self._ended.is_set():
                    try:
                        task.run()
                    except StoreClosedError:
                        return
                    except (LogstoreError, OSError) as error:
                        self._tell(error)
                    due[task.name] = time.monotonic() + task.seconds

    def _tell(self, error: LogstoreError | OSError) -> None:
        if self._on_error is not None:
            self._on_error(error)
            return
        with self._guard:
            if len(self._errors) < _ERRORS_MAX:
                self._errors.append(error)
