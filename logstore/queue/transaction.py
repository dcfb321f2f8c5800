"""The transactions of one producer: what it sends, and the offsets it commits for groups, count together or not at all.

Invariant: what is sent between a begin and an end is of that transaction; an end waits for nothing but the disk.
Thread-safe: everything happens under the desk's lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from logstore.config import Durability
from logstore.errors import InvalidTransactionStateError, LogstoreError, TransactionAbortedError
from logstore.names import TopicPartition
from logstore.queue.consumer import Consumer, Offsets
from logstore.queue.gathering import Desk
from logstore.queue.offsets_store import OffsetsStore
from logstore.queue.packs import Pack
from logstore.queue.stamps import TransactionalStamps
from logstore.store import Store


class Transactions:
    """The transactions of a producer.

    Args:
        store: where.
        desk: which gathers and writes for the producer.
        stamps: of its batches.
        durability: of what is committed.
    """

    def __init__(self, store: Store, desk: Desk, stamps: TransactionalStamps, durability: Durability) -> None:
        self._desk = desk
        self._stamps = stamps
        self._is_durable = durability == "always"
        self._offsets = OffsetsStore(store)
        self._is_left = False  # whether one is open that a `with` could not end

    def __repr__(self) -> str:
        return f"<Transactions of {self._desk!r}, {'one' if self._stamps.is_begun else 'none'} open>"

    @contextmanager
    def transaction(self, consumer: Consumer | None) -> Iterator[None]:
        """One transaction, as `Producer.transaction`."""
        progress = None if consumer is None else consumer.progress()
        self.begin()
        try:
            yield
            if progress is not None and consumer is not None:
                self.send_offsets(progress.offsets(), consumer)
            self.commit()
        except BaseException as error:
            is_committed = self._is_committed_after(error)
            if progress is not None:
                (progress.settle if is_committed else progress.rewind)()
            raise
        if progress is not None:
            progress.settle()

    def _is_committed_after(self, error: BaseException) -> bool:
        """Abort what is open after an error, unless it turns out to be committed.

        What cannot be ended now is ended before the next one begins, if it is known how.
        """
        if not self._stamps.is_begun:
            return False
        is_known, is_committed = self._stamps.is_undecided, False
        try:
            try:
                self.abort()
            except InvalidTransactionStateError:
                is_known = is_committed = True
                error.add_note("the transaction is committed; a power cut may take it back")
                self.commit()
        except (LogstoreError, OSError) as problem:
            self._is_left = is_known
            error.add_note(f"{'ending' if is_committed else 'aborting'} the transaction failed, too: {problem}")
        return is_committed

    def begin(self) -> None:
        """As `Producer.begin_transaction`."""
        with self._desk.lock:
            self._desk.check_open()
            if self._is_left and self._stamps.is_begun:
                self._end_left()
            self._is_left = False
            self._stamps.begin()

    def _end_left(self) -> None:
        try:
            self._stamps.abort()
        except InvalidTransactionStateError:
            self._stamps.commit(durable=self._is_durable)

    def commit(self) -> None:
        """As `Producer.commit_transaction`."""
        packs: list[Pack] = []
        try:
            with self._desk.lock:
                self._desk.check_open()
                packs = self._desk.write_all()
                self._stamps.commit(durable=self._is_durable)
        finally:
            self._desk.conclude(packs)

    def abort(self) -> None:
        """As `Producer.abort_transaction`."""
        packs: list[Pack] = []
        try:
            with self._desk.lock:
                self._desk.check_open()
                packs = self._desk.discard(TransactionAbortedError("the transaction was aborted"))
                self._stamps.abort()
        finally:
            self._desk.conclude(packs)

    def send_offsets(self, offsets: Offsets, group: Consumer | str) -> None:
        """As `Producer.send_offsets_to_transaction`."""
        consumer = group if isinstance(group, Consumer) else None
        group_id = group.group if isinstance(group, Consumer) else group
        if not group_id:
            raise ValueError("offsets are committed for a group, and there is none")
        named = {TopicPartition(*name): offset for name, offset in offsets.items()}
        if not named:
            return
        self._offsets.check(named)
        records = self._offsets.records_of(group_id, named)
        partition = self._offsets.partition_of(group_id)
        desk = self._desk
        with desk.lock:
            desk.check_open()
            try:
                self._stamps.announce([partition.name])
                with nullcontext() if consumer is None else consumer.fenced(named):
                    desk.append(partition, records, partition.config)
            except (LogstoreError, OSError) as error:
                self._stamps.failed(error)
                raise
