"""Sends records to the topics of a store: from objects to bytes, to a partition, and into batches.

Invariants: the records that one thread sends to a partition are there in that order, each once; what cannot be taken is
refused by the call that brings it, alone. Thread-safe. There is no thread behind it unless it lingers. See `gathering`
for how batches are written.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, Self, get_args

from logstore.config import INT64_MAX, Durability
from logstore.errors import (
    BatchTooLargeError,
    InvalidTimestampError,
    InvalidTransactionStateError,
    RecordRejectedError,
)
from logstore.log import AppendFuture
from logstore.queue.consumer import Consumer, Offsets
from logstore.queue.gathering import Desk
from logstore.queue.items import (
    Serializer,
    as_bytes,
    average_size,
    codec_of,
    full_item,
    grouped,
    lane_of,
    serialized,
)
from logstore.queue.packs import RECORD_OVERHEAD, Feed, Lane, Pack
from logstore.queue.partitioner import BATCH_SIZE, DefaultPartitioner, Partitioner
from logstore.queue.sending import SendFuture, SentRange
from logstore.queue.stamps import Stamps, TransactionalStamps
from logstore.queue.transaction import Transactions
from logstore.records import Codec, Header
from logstore.store import Store

BUFFER_MEMORY = 32 << 20
"""Kafka's default for `buffer.memory`, in bytes."""
_MANY_RECORDS = 8192  # that `send_many` looks at together
_MANY_BYTES = 128 << 10  # about as large are its batches, if `batch_size` is not larger


class Producer:
    """Sends records; a context manager that ends with `close`.

    A record that was sent is gathered first: in memory of this process, seen by nobody, lost if the process is killed.
    It is written, and seen by all consumers, once the batch of its partition has no room for the next one, after
    `linger_ms` where that is set, and at once by `flush`, `close`, and `result` of its future. What is written survives
    the end of the process. With durability `always` who writes returns only once it is on disk, and it survives a
    power cut; with `os` and `interval` see `Durability`. A future is done once that much is true. A producer that
    nobody closes writes what it has when it is given up or Python ends, with a ResourceWarning; the store must be open
    still.

    Args:
        store: where the topics are.
        key_serializer, value_serializer: make bytes of what is sent; without one, it must be bytes or None.
        partitioner: makes what chooses the partitions of one topic, such as the class `RoundRobinPartitioner`; by
            default as Java's client: by murmur2 of the key, without a key one partition for a batch.
        batch_size: bytes gathered for a partition before they are written.
        linger_ms: how long they may wait for that; 0: for ever. With it, a thread writes what has waited.
        compression: none, gzip, snappy, lz4, zstd, or a `Codec`; by default none.
        buffer_memory: bytes gathered for all partitions together; where these are many, batches are smaller.
        durability: of what is written; by default that of the store.
        enable_idempotence: whether the log is to know which of this producer's batches it has: one whose writing has
            failed or was interrupted is written again then, and is there once.
        transactional_id: names it among all who ever send in transactions, so that a later one of the same name fences
            it and ends what it left. It sends inside `transaction` only then, and is idempotent.
        transaction_timeout_ms: how long a transaction may be open before others may abort it.

    Attributes:
        defers: whether `send` leaves syncs to those who ask its futures; for one whose thread must not wait.

    Raises ValueError for what is no such argument.
    """

    def __init__(
        self,
        store: Store,
        *,
        key_serializer: Serializer | None = None,
        value_serializer: Serializer | None = None,
        partitioner: Callable[[], Partitioner] | None = None,
        batch_size: int = BATCH_SIZE,
        linger_ms: float = 0,
        compression: Codec | str | None = None,
        buffer_memory: int = BUFFER_MEMORY,
        durability: Durability | None = None,
        enable_idempotence: bool = False,
        transactional_id: str | None = None,
        transaction_timeout_ms: int = 60_000,
    ) -> None:
        if batch_size < 0 or linger_ms < 0 or buffer_memory < 1:
            raise ValueError("batch_size and linger_ms are not negative, and buffer_memory is 1 or more")
        if durability is not None and durability not in get_args(Durability):
            raise ValueError(f"{durability!r} is no durability; there are {', '.join(get_args(Durability))}")
        store.check_open()
        self._key_serializer = key_serializer
        self._value_serializer = value_serializer
        self._is_plain = key_serializer is None and value_serializer is None
        self._now_ms = store.clock.now_ms
        self._linger = bool(linger_ms)
        self._batch_bytes_many = max(batch_size, _MANY_BYTES)
        codec = codec_of(compression)
        self._stamps: Stamps | None = None
        if transactional_id is not None:
            self._stamps = TransactionalStamps(store, codec or Codec.NONE, transactional_id, transaction_timeout_ms)
        elif enable_idempotence:
            self._stamps = Stamps(store, codec or Codec.NONE)
        self._desk = Desk(
            store, partitioner or partial(DefaultPartitioner, batch_size=max(batch_size, 1)),
            batch_size=batch_size, linger_ns=int(linger_ms * 1_000_000),
            codec=codec, buffer_memory=buffer_memory, durability=durability, stamps=self._stamps,
        )  # fmt: skip
        self._feeds = self._desk.feeds
        self._transactions: Transactions | None = None
        if isinstance(self._stamps, TransactionalStamps):
            self._transactions = Transactions(
                store, self._desk, self._stamps, durability or store.config.durability
            )
        self.defers = False
        self._end = weakref.finalize(self, self._desk.abandon)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None and self._stamps is not None and self._stamps.is_begun:
                self.abort_transaction()
        finally:
            self.close()

    def __repr__(self) -> str:
        return f"<Producer {self._desk!r}>"

    # ---- one record

    def send(
        self,
        topic: str,
        value: Any,
        key: Any = None,
        *,
        partition: int | None = None,
        timestamp: int | None = None,
        headers: Sequence[Header] = (),
    ) -> SendFuture:
        """Gather a record, to be written as the class says; what will tell where it is.

        Args:
            topic: its topic.
            value, key: for the serializers, or bytes or None.
            partition: where it goes whatever its key.
            timestamp: ms since the epoch; by default now.
            headers: pairs of text and bytes or None.

        Raises, and takes nothing: UnknownTopicError, SerializationError, BatchTooLargeError for a record above
        max.message.bytes, RecordRejectedError for one without a key in a compacted topic, InvalidTimestampError,
        TypeError, ValueError, InvalidTransactionStateError outside of a transaction, ClientClosedError; and what kept
        earlier records from being written, if that shows now.
        """
        if not self._is_plain:
            key, value = self._serialized(topic, key, value)
        if (value is not None and type(value) is not bytes) or (key is not None and type(key) is not bytes):
            key, value = as_bytes(topic, "key", key), as_bytes(topic, "value", value)
        size = RECORD_OVERHEAD + (len(key) if key else 0) + (len(value) if value else 0)
        now = self._now_ms()
        item: Any = (key, value, now)
        if headers or timestamp is not None:
            item, more = full_item(key, value, now if timestamp is None else timestamp, headers)
            size += more
        desk = self._desk
        with desk.lock:
            if self._stamps is not None:
                self._stamps.check_sending()
            feed = self._feeds.get(topic) or desk.feed(topic)
            if size > feed.record_bytes_max or timestamp is not None or (key is None and feed.needs_keys):
                self._check(feed, item, size, now)
            lanes = feed.lanes
            if partition is not None:
                lane = lane_of(feed, partition)
            elif len(lanes) == 1:
                lane = lanes[0]
            else:
                lane = lanes[feed.partitioner.partition(key, len(lanes))]
            pack = lane.pack
            whole = pack.size + size
            if whole <= feed.limit:
                items = pack.items
                future = SendFuture(pack, len(items))
                items.append(item)
                pack.size = whole
                if self._linger and len(items) == 1:
                    desk.begin_linger(pack)
                return future
            taken, packs = desk.add_to_next(feed, lane, item, size)
        return self._after(taken, packs)

    def _after(self, future: SendFuture | None, packs: list[Pack]) -> SendFuture:
        if not self.defers:
            self._desk.conclude(packs)
        if future is None:
            error, packs[0].is_error_seen = packs[0].error, True
            assert error is not None
            error.add_note(f"{packs[0].count} records that were sent before were not written, nor was this one")
            raise error
        return future

    def _check(self, feed: Feed, item: Any, size: int, now: int) -> None:
        """Refuse what the log would refuse, with all that is in a batch with it."""
        config, name = feed.config, feed.topic.name
        if item[0] is None and config.compacted:
            raise RecordRejectedError(f"a record for topic {name!r} has no key; a compacted topic needs one")
        ahead, behind = config.message_timestamp_after_max_ms, config.message_timestamp_before_max_ms
        if config.message_timestamp_type == "CreateTime" and not now - behind <= item[2] <= now + ahead:
            raise InvalidTimestampError(
                f"timestamp {item[2]} of a record for topic {name!r} is too far from now, {now}: by its settings at "
                f"most {ahead} ms after it" + (f" and {behind} ms before it" if behind < INT64_MAX else "")
            )
        if size > feed.record_bytes_max:
            exact = self._desk.exact_size(item)
            if exact > config.max_message_bytes:
                raise BatchTooLargeError(
                    f"a record for topic {name!r} takes {exact} bytes as a batch, above max.message.bytes, "
                    f"{config.max_message_bytes}", remedy="send less, or raise that setting of the topic",
                )  # fmt: skip

    def _serialized(self, topic: str, key: Any, value: Any) -> tuple[Any, Any]:
        """Key and value as the serializers make them. Raises SerializationError."""
        if self._key_serializer is not None and key is not None:
            key = serialized(self._key_serializer, topic, "key", key)
        if self._value_serializer is not None and value is not None:
            value = serialized(self._value_serializer, topic, "value", value)
        return key, value

    # ---- many records

    def send_many(
        self, topic: str, items: Iterable[tuple[Any, ...]], *, partition: int | None = None
    ) -> list[SentRange]:
        """Write many records at once, in large batches: many times as fast as `send`.

        Each is a tuple (key, value), (key, value, timestamp) or (key, value, timestamp, headers). On return they are
        written; with durability `always` they are on disk. Batches are of 128 KiB or so, or of `batch_size` if that is
        more. The ranges are in the order of writing; within a partition the order is that of the items.

        Raises as `send`. Of a RecordRejectedError the attribute `record_errors` tells which items were refused, by
        index: all others are written. After an OSError the first ones are.
        """
        rest = iter(items)
        ranges: list[SentRange] = []
        refused: list[tuple[int, str]] = []
        begin = 0
        while chunk := list(islice(rest, _MANY_RECORDS)):
            if not self._is_plain:
                chunk = [(*self._serialized(topic, one[0], one[1]), *one[2:]) for one in chunk]
            self._write_many(topic, chunk, partition, ranges, refused, begin)
            begin += len(chunk)
        if refused:
            raise RecordRejectedError(
                f"{len(refused)} of {begin} records for topic {topic!r} were refused, the others written; "
                f"the first, number {refused[0][0]}: {refused[0][1]}", record_errors=refused,
            )  # fmt: skip
        return ranges

    def _write_many(
        self, topic: str, chunk: list[tuple[Any, ...]], partition: int | None, ranges: list[SentRange],
        refused: list[tuple[int, str]], begin: int,
    ) -> None:  # fmt: skip
        desk, packs = self._desk, list[Pack]()
        tickets: dict[Lane, AppendFuture] = {}
        try:
            with desk.lock:
                if self._stamps is not None:
                    self._stamps.check_sending()
                feed = self._feeds.get(topic) or desk.feed(topic)
                desk.refresh(feed)
                for lane, group, numbers in grouped(feed, chunk, partition):
                    if lane.pack.items:
                        packs.append(desk.write(feed, lane))
                    for first, count, ticket in self._batches(feed, lane, group, numbers, refused, begin):
                        ranges.append(SentRange(lane.number, first, first + count - 1))
                        if ticket is not None:
                            tickets[lane] = ticket
        finally:
            desk.conclude(packs)
        for lane, ticket in tickets.items():
            desk.sync(lane.name, ticket)

    def _batches(
        self, feed: Feed, lane: Lane, group: list[tuple[Any, ...]], numbers: Sequence[int],
        refused: list[tuple[int, str]], begin: int,
    ) -> Iterator[tuple[int, int, AppendFuture | None]]:  # fmt: skip
        """Write a group for one partition: first offset, count and ticket of each batch.

        Where a batch is refused its halves are tried, until the records are alone that are to blame.
        """
        each = max(self._batch_bytes_many // average_size(group), 1)
        partition = self._desk.partition(lane)
        todo = [(at, min(at + each, len(group))) for at in range(0, len(group), each)][::-1]
        while todo:
            start, end = todo.pop()
            try:
                first, ticket = self._desk.append(partition, group[start:end], feed.config)
            except (BatchTooLargeError, RecordRejectedError, TypeError, ValueError) as error:
                if end - start > 1:
                    middle = (start + end) // 2
                    todo += [(middle, end), (start, middle)]
                else:
                    refused.append((begin + numbers[start], str(error)))
                continue
            feed.partitioner.appended(lane.number, self._batch_bytes_many)
            yield first, end - start, ticket

    # ---- transactions

    def transaction(self, consumer: Consumer | None = None) -> AbstractContextManager[None]:
        """A transaction: what is sent inside a `with` is seen by `read_committed` consumers together, or never.

        It is committed at the end, and aborted where an error goes through. With a `consumer`, what that has handed out
        last and hands out inside is committed for its group along with it; after an error it comes again. So each
        message has its effect once, whatever happens in between.

        On return a killed process takes nothing back. With durability `always` a power cut does not either, and leaves
        all of a transaction or nothing; with `os` and `interval` it may leave it in some partitions only.

        Raises InvalidTransactionStateError without a transactional_id, inside another one, or where records could not
        be written; ProducerFencedError where another producer has taken the id over, or it took longer than the
        timeout; FencedMemberError where the consumer lost partitions; ValueError for one that commits by itself.
        """
        return self._transactional().transaction(consumer)

    def begin_transaction(self) -> None:
        """Begin a transaction. Raises as `transaction`."""
        self._transactional().begin()

    def send_offsets_to_transaction(self, offsets: Offsets, group: Consumer | str) -> None:
        """Let offsets be committed for a group when the transaction is, and only then.

        Args:
            offsets: what is to be read next, by partition.
            group: its consumer, which must own the partitions still; or the id of a group that nobody else works for.

        Raises as `transaction` and `Consumer.commit`; but for InvalidTransactionStateError outside of one, it can only
        be aborted then.
        """
        self._transactional().send_offsets(offsets, group)

    def commit_transaction(self) -> None:
        """Write all that is gathered, and commit. Raises as `transaction`.

        It is open then, and can be aborted; after an OSError it may be decided that it is committed: then to abort is
        refused, and to commit again finishes it.
        """
        self._transactional().commit()

    def abort_transaction(self) -> None:
        """Drop what is gathered, and let nobody see what was written. Raises as `transaction`."""
        self._transactional().abort()

    def _transactional(self) -> Transactions:
        if self._transactions is None:
            raise InvalidTransactionStateError("this producer has no transactional_id, and no transactions")
        return self._transactions

    # ---- the end

    def flush(self) -> None:
        """Write all that is gathered. Raises ClientClosedError, and what kept records from being written, ever since
        somebody was told: of those whose futures nobody has asked, the first one's error, with a note of how many.
        """
        self._desk.flush()

    def close(self) -> None:
        """Write all that is gathered, and take no more. Closing twice is fine. Raises as `flush`; it is closed then."""
        self._end.detach()
        self._desk.close()
