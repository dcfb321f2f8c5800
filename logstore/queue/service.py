"""What a store needs now and then, done by a thread: retention, compaction, flushes, deletions, dead transactions.

Invariant: an error of one partition does not keep the others from what is due, and reaches the owner. A log that cannot
be compacted is left alone until the service is made anew, as Kafka does. Of several processes that share a store each
may run one: what one has done, the others find done. Thread-safe.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from logstore.background import Background
from logstore.errors import LogstoreError, StoreClosedError
from logstore.names import TopicPartition
from logstore.store import Store
from logstore.transactions import TransactionCoordinator

OnError = Callable[[LogstoreError | OSError], object]


class Task(NamedTuple):
    """Something that is done again and again, so many seconds after it was done last."""

    name: str
    seconds: float
    run: Callable[[], object]


class StoreService(Background):
    """Runs the tasks of a store; a context manager.

    Args:
        store: whose.
        retention_interval: seconds between two looks for segments that are too many or too old (Kafka's
            log.retention.check.interval.ms); None: never.
        compaction_interval: the same for compacted topics that are dirty enough.
        maintenance_interval: the same for flushes by flush.ms, and for what waits to be deleted.
        transaction_interval: the same for transactions of dead producers, and those that take too long (Kafka's
            transaction.abort.timed.out.transaction.cleanup.interval.ms).
        on_error: is told of each error, in the service's thread; without it, the first is raised by `stop`.

    Raises ValueError for an interval that is not above 0.
    """

    def __init__(
        self,
        store: Store,
        *,
        retention_interval: float | None = 300.0,
        compaction_interval: float | None = 15.0,
        maintenance_interval: float | None = 1.0,
        transaction_interval: float | None = 10.0,
        on_error: OnError | None = None,
    ) -> None:
        super().__init__("the service", "logstore-store")
        wanted = (
            ("retention", retention_interval, self._retain), ("compaction", compaction_interval, self._compact),
            ("maintenance", maintenance_interval, store.maintain),
            ("transactions", transaction_interval, TransactionCoordinator(store).settle_all),
        )  # fmt: skip
        for name, seconds, _ in wanted:
            if seconds is not None and not seconds > 0:
                raise ValueError(f"{name} every {seconds} s")
        self.store = store
        self._tasks = [Task(name, seconds, run) for name, seconds, run in wanted if seconds is not None]
        self._tell = on_error or self._keep
        self._uncleanable: set[TopicPartition] = set()

    def __repr__(self) -> str:
        return f"<StoreService of {self.store} {'running' if self._thread else 'stopped'}>"

    def _retain(self) -> None:
        self.store.retain(on_error=lambda name, error: self._tell(error))

    def _compact(self) -> None:
        def note(name: TopicPartition, error: LogstoreError | OSError) -> None:
            self._uncleanable.add(name)
            self._tell(error)

        self.store.compact(only_due=True, but=self._uncleanable, on_error=note)

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
