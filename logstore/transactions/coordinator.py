"""Begins and ends transactions in a store, for all of its processes (CLUSTER §8.3).

There is no server: who needs something done does it, under the lock of the partition of `__transaction_state` that has
the transactional id. What is decided is written there before anybody acts upon it, so that whoever comes next finishes
what one who died has left. Invariants: a transaction ends in the same way in all its partitions; a producer that was
fenced changes nothing; an epoch is on disk before anything is written in it. Thread-safe.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from logstore.errors import (
    InvalidTransactionStateError,
    LogstoreError,
    ProducerFencedError,
    UnknownTopicError,
)
from logstore.fs import OpenLock
from logstore.log import AppendOrigin, ProducerStateEntry
from logstore.names import OWN_PREFIX, TRANSACTION_STATE_TOPIC, TopicPartition
from logstore.records import ControlType, EndTransactionMarker, encode_end_transaction_batch
from logstore.store import FIRST_PRODUCER_ID, Partition, Store
from logstore.transactions.metadata import (
    EPOCH_MAX,
    TransactionMetadata,
    TransactionStatus,
    check_transactional_id,
    transaction_partition,
)
from logstore.transactions.transaction_log import TransactionLog

PARTITIONS = 50
"""How many partitions the topic gets where it is made here; they must never become more (CLUSTER §9)."""
TIMEOUT_MAX_MS = 900_000
"""Kafka's default for `transaction.max.timeout.ms`."""
_LIFE_PREFIX = f"{OWN_PREFIX}producer-"
"""Of the files that live producers have locked, by id and epoch. On disk; never change."""


class TransactionOwner(NamedTuple):
    """A producer that may change the transaction of its id, until another one fences it."""

    transactional_id: str
    producer_id: int
    producer_epoch: int


class TransactionCoordinator:
    """What a process does for transactions.

    Args:
        store: where.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._guard = threading.RLock()  # taken before the files' locks and those of partitions
        self._logs: dict[int, TransactionLog] = {}
        self._lives: dict[TransactionOwner, OpenLock] = {}

    def __repr__(self) -> str:
        return f"<TransactionCoordinator of {self._store!r} with {len(self._lives)} producers>"

    # ---- for producers

    def init_producer(self, transactional_id: str, timeout_ms: int) -> TransactionOwner:
        """Make somebody the owner of a transactional id, and end what an earlier one has left.

        An open transaction of that one is aborted, one that was decided is finished. It is fenced from now on, durably.
        Raises ValueError for what is no such id or timeout, OSError.
        """
        check_transactional_id(transactional_id)
        if not 0 < timeout_ms <= TIMEOUT_MAX_MS:
            raise ValueError(f"a transaction timeout is between 1 and {TIMEOUT_MAX_MS} ms, not {timeout_ms!r}")
        self._make_topic()
        with self._changing(transactional_id) as log:
            known = self._ended(log, log.ids().get(transactional_id))
            now = self._store.clock.now_ms()
            if known is not None:
                self._end_life(known.producer_id, known.producer_epoch)
            if known is None or known.producer_epoch >= EPOCH_MAX:
                producer_id, epoch = self._store.new_producer_id(), 0
            else:
                producer_id, epoch = known.producer_id, known.producer_epoch + 1
            owner = TransactionOwner(transactional_id, producer_id, epoch)
            self._begin_life(owner)
            before = known or TransactionMetadata(transactional_id, producer_id, epoch, 0, TransactionStatus.EMPTY)
            try:
                log.write(before.with_producer(producer_id, epoch, timeout_ms, now), durable=True)
            except BaseException:  # who tries again gets the same epoch, and must not wait for this one
                self.release(owner)
                raise
            return owner

    def add_partitions(self, owner: TransactionOwner, partitions: Iterable[TopicPartition]) -> None:
        """Let partitions take part in a transaction, before anything is written there; the first begin it.

        Raises ProducerFencedError, OSError.
        """
        with self._changing(owner.transactional_id) as log:
            known = self._owned(log, owner)
            added = frozenset(partitions)
            if known.status.is_prepared:
                known = self._completed(log, known, durable=True)
            if known.status is not TransactionStatus.ONGOING or not added <= known.partitions:
                log.write(known.with_partitions(added, self._store.clock.now_ms()), durable=False)

    def end(self, owner: TransactionOwner, *, commit: bool, durable: bool, is_begun: bool = False) -> None:
        """Commit or abort a transaction, in all its partitions; where none is open nothing is done.

        With `is_begun` there was one: where it has ended meanwhile, it has to have ended so.

        Once it is decided, a transaction ends so whatever becomes of this process. With `durable`, what it wrote is on
        disk before it is committed, and so is that on return: a power cut leaves all of it or nothing. Raises
        ProducerFencedError, InvalidTransactionStateError where it was decided otherwise, OSError: then it may be
        decided or not.
        """
        with self._changing(owner.transactional_id) as log:
            known = self._owned(log, owner)
            if known.status is TransactionStatus.ONGOING:
                durable = durable and commit
                if durable:
                    self._flush(known.partitions)
                known = known.prepared(commit=commit, now_ms=self._store.clock.now_ms())
                log.write(known, durable=durable)
            elif (is_begun or known.status.is_prepared) and known.status.is_commit != commit:
                raise InvalidTransactionStateError(
                    f"the transaction of {owner.transactional_id!r} was {'aborted' if commit else 'committed'} already"
                )
            if known.status.is_prepared:
                self._completed(log, known, durable=durable)

    def release(self, owner: TransactionOwner) -> None:
        """Let go of an id: who waits for its transaction need not wait any longer. Doing so twice is fine."""
        with self._guard:
            life = self._lives.pop(owner, None)
        if life is not None:
            try:
                self._end_life(owner.producer_id, owner.producer_epoch)
            finally:
                life.close()

    # ---- for those who wait for a transaction to end

    def settle(self, partition: Partition) -> bool:
        """End the transactions that are open in a partition and that nobody else will end.

        These are those of dead processes, those open for longer than their timeout, and what a power cut has left of
        one that was not decided. Returns whether there are others, which live producers are to end. Raises OSError,
        DamagedLogError.
        """
        opened = [one for one in partition.producers if one.in_transaction]
        if not opened:
            return False
        owners = {known.producer_id: known for known in self.transactions().values()}
        is_any_left = False
        for entry in opened:
            known = owners.get(entry.producer_id)
            if known is not None and known.status.is_open and partition.name in known.partitions:
                is_any_left |= not self._settle_id(known.transactional_id)
            elif entry.producer_id >= FIRST_PRODUCER_ID and self._is_still_open(partition, entry):
                # Whoever began it has said so before; a power cut has taken that back.
                coordinator_epoch = max(entry.coordinator_epoch, 0)
                self._mark(
                    partition, entry.producer_id, entry.producer_epoch, ControlType.ABORT, coordinator_epoch
                )
        return is_any_left

    def settle_all(self) -> None:
        """End all transactions of dead processes and all that take too long. Raises OSError, DamagedLogError."""
        for known in self.transactions().values():
            if known.status.is_open:
                self._settle_id(known.transactional_id)

    def transactions(self) -> dict[str, TransactionMetadata]:
        """What is known of all transactional ids. Raises OSError, DamagedLogError."""
        if not self._store.has_topic(TRANSACTION_STATE_TOPIC):
            return {}
        with self._guard:
            count = self._store.topic(TRANSACTION_STATE_TOPIC).partitions
            found: dict[str, TransactionMetadata] = {}
            for number in range(count):
                found.update(self._log(number).ids())
            return found

    def _settle_id(self, transactional_id: str) -> bool:
        """End a transaction unless its producer lives, or somebody is at it; whether it has ended."""
        log = self._log_of(transactional_id)
        with self._guard, log.locked(wait=False) as is_mine:
            if not is_mine:
                return False
            known = log.ids().get(transactional_id)
            if known is None or not known.status.is_open:
                return True
            is_ours = known.producer_id >= FIRST_PRODUCER_ID
            is_due = known.status.is_prepared or known.is_late(self._store.clock.now_ms())
            if not is_due and not (is_ours and self._is_dead(known.producer_id, known.producer_epoch)):
                return False
            self._ended(log, known)
            return True

    def _is_still_open(self, partition: Partition, entry: ProducerStateEntry) -> bool:
        began = entry.current_transaction_first_offset
        return any(
            one.producer_id == entry.producer_id and one.current_transaction_first_offset == began
            for one in partition.producers
        )

    # ---- under the lock of an id

    @contextlib.contextmanager
    def _changing(self, transactional_id: str) -> Iterator[TransactionLog]:
        with self._guard:
            log = self._log_of(transactional_id)
            with log.locked():
                yield log

    def _log_of(self, transactional_id: str) -> TransactionLog:
        count = self._store.topic(TRANSACTION_STATE_TOPIC).partitions
        return self._log(transaction_partition(transactional_id, count))

    def _log(self, number: int) -> TransactionLog:
        if number not in self._logs:
            self._logs[number] = TransactionLog(self._store, number)
        return self._logs[number]

    def _make_topic(self) -> None:
        if not self._store.has_topic(TRANSACTION_STATE_TOPIC):
            self._store.create_topic(TRANSACTION_STATE_TOPIC, PARTITIONS, exist_ok=True)

    def _owned(self, log: TransactionLog, owner: TransactionOwner) -> TransactionMetadata:
        known = log.ids().get(owner.transactional_id)
        if known is None or (known.producer_id, known.producer_epoch) != owner[1:]:
            raise ProducerFencedError(
                f"producer {owner.producer_id} of epoch {owner.producer_epoch} does not own transactional id "
                f"{owner.transactional_id!r} any more: another one has taken it over, or its transaction took too long"
            )
        return known

    def _ended(self, log: TransactionLog, known: TransactionMetadata | None) -> TransactionMetadata | None:
        """An id whose transaction has ended: finished where it was decided, else its producer is fenced, durably."""
        if known is None or not known.status.is_open:
            return known
        if known.status is TransactionStatus.ONGOING:
            self._end_life(known.producer_id, known.producer_epoch)
            known = known.fenced().prepared(commit=False, now_ms=self._store.clock.now_ms())
            log.write(known, durable=True)
        return self._completed(log, known, durable=True)

    def _completed(
        self, log: TransactionLog, prepared: TransactionMetadata, *, durable: bool
    ) -> TransactionMetadata:
        """Tell all partitions how a transaction ends; they know it durably before that is said to be so."""
        is_commit = prepared.status is TransactionStatus.PREPARE_COMMIT
        control_type = ControlType.COMMIT if is_commit else ControlType.ABORT
        for name in sorted(prepared.partitions):
            with self._unless_deleted(name):
                self._mark(
                    self._store.partition(*name), prepared.producer_id, prepared.producer_epoch, control_type,
                    log.coordinator_epoch,
                )  # fmt: skip
        if durable and is_commit:  # where nobody is told, it counts as aborted
            self._flush(prepared.partitions)
        done = prepared.completed(self._store.clock.now_ms())
        log.write(done, durable=False)
        return done

    def _mark(
        self, partition: Partition, producer_id: int, epoch: int, control_type: ControlType, coordinator_epoch: int
    ) -> None:
        data = encode_end_transaction_batch(
            EndTransactionMarker(control_type, coordinator_epoch), offset=0, timestamp=self._store.clock.now_ms(),
            producer_id=producer_id, producer_epoch=epoch,
        )  # fmt: skip
        with contextlib.suppress(ProducerFencedError):  # a later producer has written there: it has ended long ago
            partition.append_batch(data, origin=AppendOrigin.COORDINATOR, durability="os")

    def _flush(self, names: Iterable[TopicPartition]) -> None:
        for name in sorted(names):
            with self._unless_deleted(name):
                self._store.partition(*name).flush()

    @contextlib.contextmanager
    def _unless_deleted(self, name: TopicPartition) -> Iterator[None]:
        """A topic that is deleted takes what was written there along."""
        try:
            yield
        except (LogstoreError, OSError) as error:
            if not isinstance(error, UnknownTopicError) and self._store.has_topic(name.topic):
                raise

    # ---- who lives

    def _life_path(self, producer_id: int, epoch: int) -> str:
        return str(self._store.paths[0] / f"{_LIFE_PREFIX}{producer_id}-{epoch}")

    def _begin_life(self, owner: TransactionOwner) -> None:
        lock = self._store.fs.open_lock(self._life_path(owner.producer_id, owner.producer_epoch))
        lock.acquire(wait=True)
        self._lives[owner] = lock

    def _is_dead(self, producer_id: int, epoch: int) -> bool:
        path = self._life_path(producer_id, epoch)
        if not self._store.fs.exists(path):
            return True
        lock = self._store.fs.open_lock(path)
        try:
            return lock.acquire()
        finally:
            lock.close()

    def _end_life(self, producer_id: int, epoch: int) -> None:
        self._store.fs.unlink(self._life_path(producer_id, epoch), missing_ok=True)
