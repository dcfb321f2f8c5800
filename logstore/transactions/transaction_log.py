"""One partition of `__transaction_state`: what it says of its transactional ids, and how that is changed.

Invariants: the last record of an id counts; what cannot be read leaves what earlier records of its id said. Who changes
something holds the partition's lock, which all processes share. Belongs to one thread at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from logstore.errors import InvalidRecordError, UnsupportedFormatError
from logstore.names import OWN_PREFIX, TRANSACTION_STATE_TOPIC
from logstore.records import RecordBatch
from logstore.store import Followed, Store
from logstore.transactions.metadata import TransactionMetadata, decode_transaction, transaction_key

_LOCK_PREFIX = f"{OWN_PREFIX}transactions-"
"""Of the lock files, one for each partition. On disk; never change."""


@dataclasses.dataclass(slots=True)
class _Known:
    """What the records say.

    Attributes:
        ids: by transactional id.
        epoch: the highest leader epoch: that of who coordinates.
    """

    ids: dict[str, TransactionMetadata] = dataclasses.field(default_factory=dict)
    epoch: int = 0


class TransactionLog:
    """A partition of the topic.

    Args:
        store: where it is; it has the topic.
        number: its number.
    """

    def __init__(self, store: Store, number: int) -> None:
        self._store = store
        self._number = number
        self._followed = Followed(store.partition(TRANSACTION_STATE_TOPIC, number), _Known, _take)

    def __repr__(self) -> str:
        return f"<TransactionLog {self._followed.partition.name}>"

    @contextmanager
    def locked(self, *, wait: bool = True) -> Iterator[bool]:
        """Keep all others from changing anything, inside; whether that is so: without `wait` others may be at it.

        Raises OSError.
        """
        lock = self._store.fs.open_lock(self._store.paths[0] / f"{_LOCK_PREFIX}{self._number}")
        try:
            yield lock.acquire(wait=wait)
        finally:
            lock.close()

    def ids(self) -> Mapping[str, TransactionMetadata]:
        """What is known now of each transactional id. Raises DamagedLogError, OSError."""
        return self._known().ids

    @property
    def coordinator_epoch(self) -> int:
        """What markers are stamped with: the leader epoch of the partition (CLUSTER §8.3)."""
        return self._known().epoch

    def _known(self) -> _Known:
        partition = self._store.partition(TRANSACTION_STATE_TOPIC, self._number)
        if partition is not self._followed.partition:  # the topic was deleted, and is there again
            self._followed = Followed(partition, _Known, _take)
        return self._followed.caught_up()

    def write(self, metadata: TransactionMetadata, *, durable: bool) -> None:
        """Let this be known from now on, and after a power cut if `durable`. Inside `locked`. Raises OSError."""
        record = (transaction_key(metadata.transactional_id), metadata.value(), max(metadata.last_update_ms, 0))
        self._followed.partition.append([record], durability="always" if durable else "os")


def _take(known: _Known, batches: Iterable[RecordBatch]) -> None:
    for batch in batches:
        known.epoch = max(known.epoch, batch.header.leader_epoch)
        if batch.is_control:
            continue
        for record in batch.records():
            try:
                read = decode_transaction(record.key, record.value)
            except (InvalidRecordError, UnsupportedFormatError):
                continue  # written by a broker that is newer, or damaged: the other ids must not suffer
            if read is None:
                continue
            transactional_id, metadata = read
            if metadata is None:
                known.ids.pop(transactional_id, None)
            else:
                known.ids[transactional_id] = metadata
