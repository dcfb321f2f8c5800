"""A data directory of many partitions: topics, their logs, and what is due now and then."""

from logstore.store.catalog import Catalog, Topic, is_store
from logstore.store.following import Followed
from logstore.store.partition import Partition
from logstore.store.producer_ids import FIRST_PRODUCER_ID
from logstore.store.store import Store
from logstore.store.watching import Watcher

open_store = Store.open
"""As `Store.open`."""

__all__ = [
    "FIRST_PRODUCER_ID",
    "Catalog",
    "Followed",
    "Partition",
    "Store",
    "Topic",
    "Watcher",
    "is_store",
    "open_store",
]
