"""A segment log whose directories are Kafka's, and durable queues on it.

`open` opens a store: topics, their partitions, queues on them. The floors below can be used by themselves:
`logstore.records` (bytes and records), `logstore.log` (one partition on disk), `logstore.inspect` (read-only tools).
Importing this package imports none of them; that is left for the first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from logstore.errors import LogstoreError
    from logstore.queue import Consumer, Job, JobLostError, Producer, StoreService, WorkQueue
    from logstore.queue.aio import AsyncConsumer, AsyncProducer
    from logstore.store import Partition, Store, Topic
    from logstore.store import open_store as open

__version__ = "0.1.0"

__all__ = [
    "AsyncConsumer",
    "AsyncProducer",
    "Consumer",
    "Job",
    "JobLostError",
    "LogstoreError",
    "Partition",
    "Producer",
    "Store",
    "StoreService",
    "Topic",
    "WorkQueue",
    "__version__",
    "open",
]

_PLACES = {
    "AsyncConsumer": "logstore.queue.aio",
    "AsyncProducer": "logstore.queue.aio",
    "Consumer": "logstore.queue",
    "Job": "logstore.queue",
    "JobLostError": "logstore.queue",
    "LogstoreError": "logstore.errors",
    "Partition": "logstore.store",
    "Producer": "logstore.queue",
    "Store": "logstore.store",
    "StoreService": "logstore.queue",
    "Topic": "logstore.store",
    "WorkQueue": "logstore.queue",
    "open": "logstore.store",
}
_NAMES_THERE = {"open": "open_store"}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_PLACES[name]), _NAMES_THERE.get(name, name))


def __dir__() -> list[str]:
    return __all__
