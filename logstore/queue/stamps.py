"""What tells a log which producer a batch is of, and whether it has that batch already: id, epoch and sequences.

Invariants: the batches of a partition have ascending sequences within an epoch, each batch once; a sequence is not used
for other records while it may be in the log. Belongs to a producer, under whose lock it is used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

from logstore.errors import InvalidTransactionStateError, LogstoreError, ProducerFencedError
from logstore.names import TopicPartition
from logstore.records import BatchOptions, Codec, increment_sequence
from logstore.store import Store
from logstore.transactions import EPOCH_MAX, TransactionCoordinator


class Stamps:
    """The id of a producer, and what its next batches are stamped with (CLUSTER §8.2).

    Args:
        store: which gives the id.
        codec: of the batches.
    """

    is_transactional = False
    is_begun = False

    def __init__(self, store: Store, codec: Codec) -> None:
        self._store = store
        self._codec = codec
        self._producer_id, self._epoch = self._new_producer()
        self._sequences: dict[TopicPartition, int] = {}
        self._unsure: dict[TopicPartition, Sequence[object]] = {}  # that may be in the log or not

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of producer {self._producer_id}, epoch {self._epoch}>"

    def _new_producer(self) -> tuple[int, int]:
        return self._store.new_producer_id(), 0

    # ---- batches

    def announce(self, partitions: Iterable[TopicPartition]) -> None:
        """Say that batches will be written there. Raises as what they are for."""

    @contextlib.contextmanager
    def stamped(self, partition: TopicPartition, items: Sequence[object]) -> Iterator[BatchOptions]:
        """What the next batch of a partition says; inside it is appended.

        Where that was interrupted the same items get the same stamp again: the log tells whether it has them.
        """
        unsure = self._unsure.get(partition)
        if unsure is not None and unsure is not items:
            self.lost(LogstoreError(f"writing to {partition} was interrupted"))
            self.announce(())
        sequence = self._sequences.get(partition, 0)
        self._unsure[partition] = items
        try:
            yield BatchOptions(
                codec=self._codec, producer_id=self._producer_id, producer_epoch=self._epoch, base_sequence=sequence,
                is_transactional=self.is_transactional,
            )  # fmt: skip
        except OSError as error:
            self.lost(error)
            raise
        except Exception:
            del self._unsure[partition]  # it was refused, and is not there
            raise
        self._sequences[partition] = increment_sequence(sequence, len(items))
        del self._unsure[partition]

    def lost(self, error: BaseException) -> None:
        """Note that nobody knows whether a batch is in its log: in a new epoch sequences begin anew."""
        self._forget_sequences()
        if self._epoch < EPOCH_MAX:
            self._epoch += 1
        else:
            self._producer_id, self._epoch = self._new_producer()

    def _forget_sequences(self) -> None:
        self._sequences.clear()
        self._unsure.clear()

    # ---- what only a transactional one does

    def check_sending(self) -> None:
        """Raise InvalidTransactionStateError where nothing may be sent now."""

    def failed(self, error: Exception) -> None:
        """Note that records were not written."""

    def abort(self) -> None:
        """Abort the transaction that is open."""

    def release(self) -> None:
        """Let go of the id."""


class TransactionalStamps(Stamps):
    """The same for a producer that has a transactional id, and its transaction.

    Args:
        timeout_ms: how long a transaction may be open before anybody may abort it.

    Attributes:
        is_begun: whether a transaction is open.
    """

    is_transactional = True

    def __init__(self, store: Store, codec: Codec, transactional_id: str, timeout_ms: int) -> None:
        self._coordinator = TransactionCoordinator(store)
        self._transactional_id = transactional_id
        self._timeout_ms = timeout_ms
        self.is_begun = False
        self._announced: set[TopicPartition] = set()
        self._failure: BaseException | None = None
        self._is_ending = False  # whether its commit was tried
        self._is_in_doubt = False  # whether a batch is in its log
        super().__init__(store, codec)

    def _new_producer(self) -> tuple[int, int]:
        self._owner = self._coordinator.init_producer(self._transactional_id, self._timeout_ms)
        return self._owner.producer_id, self._owner.producer_epoch

    def announce(self, partitions: Iterable[TopicPartition]) -> None:
        """Let partitions take part in the transaction."""
        self.check_sending()
        new = set(partitions) - self._announced
        if new:
            try:
                self._coordinator.add_partitions(self._owner, new)
            except (LogstoreError, OSError) as error:
                self.failed(error)
                raise
            self._announced |= new

    def lost(self, error: BaseException) -> None:
        """Note that the transaction has to be aborted, and a new epoch to begin."""
        self._is_in_doubt = True
        self._failure = self._failure or error

    def check_sending(self) -> None:
        """Raise InvalidTransactionStateError outside of a transaction, or in one that can only be ended."""
        if not self.is_begun:
            raise InvalidTransactionStateError(
                f"no transaction of {self._transactional_id!r} is open: send inside `with producer.transaction():`"
            )
        if self._is_ending:
            raise InvalidTransactionStateError(
                f"committing the transaction of {self._transactional_id!r} has failed: commit it again, or abort it"
            )
        self.check_sound()

    def check_sound(self) -> None:
        """Raise InvalidTransactionStateError where the transaction has failed, ProducerFencedError if by another."""
        if isinstance(self._failure, ProducerFencedError):
            raise ProducerFencedError(self._failure.reason) from self._failure
        if self._failure is not None:
            raise InvalidTransactionStateError(
                f"the transaction of {self._transactional_id!r} has failed and can only be aborted: {self._failure}"
            ) from self._failure

    def failed(self, error: Exception) -> None:
        """Note that the transaction has to be aborted."""
        self._failure = self._failure or error

    # ---- the transaction

    def begin(self) -> None:
        """Begin one. Raises InvalidTransactionStateError, ProducerFencedError."""
        if self.is_begun:
            raise InvalidTransactionStateError(f"a transaction of {self._transactional_id!r} is open already")
        if self._is_in_doubt:
            self._renew()
        self.check_sound()
        self.is_begun = True

    @property
    def is_undecided(self) -> bool:
        """Whether one is open that cannot be committed yet."""
        return self.is_begun and not self._is_ending

    def commit(self, *, durable: bool) -> None:
        """Commit it. Raises as `TransactionCoordinator.end`; after an OSError it is open still, or decided."""
        if not self._is_ending:
            self.check_sending()
        self.check_sound()
        self._is_ending = True
        try:
            self._coordinator.end(self._owner, commit=True, durable=durable, is_begun=bool(self._announced))
        except ProducerFencedError as error:
            self.failed(error)
            raise
        self._ended()

    def abort(self) -> None:
        """Abort it. Raises as `TransactionCoordinator.end`."""
        if not self.is_begun:
            raise InvalidTransactionStateError(f"no transaction of {self._transactional_id!r} is open")
        if isinstance(self._failure, ProducerFencedError):
            self.is_begun = False  # whoever has fenced it has aborted it
            return
        try:
            self._coordinator.end(self._owner, commit=False, durable=False, is_begun=bool(self._announced))
        except ProducerFencedError as error:
            self.is_begun = False
            self.failed(error)
            raise
        except OSError as error:
            self.failed(error)  # what was gathered is dropped: it must not be committed without that
            raise
        self._ended()

    def _ended(self) -> None:
        self.is_begun = self._is_ending = False
        self._announced.clear()
        if self._is_in_doubt:
            self._renew()
        self._failure = None

    def _renew(self) -> None:
        """Begin a new epoch, in which sequences begin anew."""
        self._coordinator.release(self._owner)
        self._producer_id, self._epoch = self._new_producer()
        self._forget_sequences()
        self._is_in_doubt, self._failure = False, None

    def release(self) -> None:
        """Let go of the transactional id."""
        self._coordinator.release(self._owner)
