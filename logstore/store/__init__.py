"""A data directory of many partitions: topics, their logs, and what is due now and then."""

from logstore.store.catalog import Topic
from logstore.store.partition import Partition
from logstore.store.store import Store
from logstore.store.watching import Watcher

open_store = Store.open
"""As `Store.open`."""

__all__ = ["Partition", "Store", "Topic", "Watcher", "open_store"]
