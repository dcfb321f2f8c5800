"""Where a producer's records wait to be written, and how they are: one gathering pack for each partition.

Invariant: the records of a partition are written in the order in which they were sent, each once; a pack is written as
one batch or not at all. What is gathered and could not be written is told: by its futures, or by the next call that
writes. Thread-safe: everything here happens under `Desk.lock`, but for syncs and callbacks, which may take long.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from logstore.config import Durability, LogConfig
from logstore.errors import (
    ClientClosedError,
    InvalidTransactionStateError,
    LogstoreError,
    TransactionAbortedError,
    UnknownTopicError,
)
from logstore.log import AppendFuture
from logstore.names import TopicPartition
from logstore.queue.packs import Callback, Feed, Lane, Pack
from logstore.queue.partitioner import Partitioner
from logstore.queue.sending import SendFuture
from logstore.queue.stamps import Stamps
from logstore.records import BatchOptions, Codec, encode_batch
from logstore.store import Partition, Store, Topic

_ORPHAN_WAIT_S = 1.0
_RETRIES = 2
_T = TypeVar("_T")
_logger = logging.getLogger("logstore.queue")


class Desk:
    """Gathers and writes for one producer, and outlives it until all is written.

    Args:
        store: where to.
        new_partitioner: makes one for each topic.
        batch_size: how many bytes a pack holds.
        linger_ns: how long a pack may wait; 0: until it is full.
        codec: what batches are compressed with.
        buffer_memory: how many bytes all packs hold together.
        durability: of what is written; None: as the topic says.
        stamps: what batches say of the producer; None: nothing.

    Attributes:
        lock: guards all of it; taken before the store's own.
        feeds: the topics by name; none once it is closed.
    """

    def __init__(
        self, store: Store, new_partitioner: Callable[[], Partitioner], *, batch_size: int, linger_ns: int,
        codec: Codec | None, buffer_memory: int, durability: Durability | None, stamps: Stamps | None = None,
    ) -> None:  # fmt: skip
        self.lock = threading.Lock()
        self.feeds: dict[str, Feed] = {}
        self.linger_ns = linger_ns
        self._store = store
        self._new_partitioner = new_partitioner
        self._batch_size = batch_size
        self._codec = codec
        self._buffer_memory = buffer_memory
        self._durability = durability
        self._stamps = stamps
        self._refusal: str | None = None
        self._failed: list[Pack] = []  # written in vain, and nobody knows
        self._is_orphaned = False
        self._lingering: deque[tuple[int, Pack]] = deque()  # when each is due
        self._due = threading.Condition(self.lock)
        self._thread: threading.Thread | None = None
        _desks.add(self)
        store.close_first(self)

    def __repr__(self) -> str:
        return f"<Desk of {self._store!r}, {len(self.feeds)} topics>"

    def check_open(self) -> None:
        """Raise ClientClosedError once it is closed, or in a child of its process."""
        if self._refusal is not None:
            raise ClientClosedError(f"this producer {self._refusal}")

    # ---- topics

    def feed(self, topic: str) -> Feed:
        """A topic, under the lock. Raises ClientClosedError, UnknownTopicError."""
        found = self.feeds.get(topic)
        if found is None:
            self.check_open()
            found = Feed(self._store.topic(topic), self._new_partitioner())
            self._fit(found, found.topic)
            self.feeds[topic] = found
            self._set_limits()
        return found

    def refresh(self, feed: Feed) -> None:
        """See what became of a topic: more partitions, other settings. Raises UnknownTopicError."""
        topic = self._store.topic(feed.topic.name)
        if topic is not feed.topic and (topic != feed.topic or len(feed.lanes) != topic.partitions):
            self._fit(feed, topic)
            self._set_limits()

    def _fit(self, feed: Feed, topic: Topic) -> None:
        feed.topic = topic
        feed.configure(topic.config(self._store.config))
        for number in range(len(feed.lanes), topic.partitions):
            feed.lanes.append(Lane(self, TopicPartition(topic.name, number)))

    def _set_limits(self) -> None:
        """With so many partitions that full packs would take too much memory, they are full sooner."""
        count = sum(len(feed.lanes) for feed in self.feeds.values())
        share = max(self._buffer_memory // count, 1)
        for feed in self.feeds.values():
            feed.limit = min(self._batch_size, feed.config.max_message_bytes, share)

    # ---- gathering

    def add_to_next(self, feed: Feed, lane: Lane, item: Any, size: int) -> tuple[SendFuture | None, list[Pack]]:
        """Put a record into a new pack, since the one that is gathered has no room; and what to `conclude`.

        A record above the limit of a pack is written by itself. Where the pack before it could not be written it is
        not taken: there is no future then.
        """
        done = [self.write(feed, lane)] if lane.pack.items else []
        if done and done[0].error is not None:
            return None, [*done, *self._dropped()]
        pack = lane.pack
        future = SendFuture(pack, 0)
        pack.items.append(item)
        pack.size += size
        if pack.size > feed.limit:
            done.append(self.write(feed, lane))
        elif self.linger_ns:
            self.begin_linger(pack)
        return future, done

    def exact_size(self, item: Any) -> int:
        """Bytes of a batch of this record alone, compressed if the producer's are."""
        return len(encode_batch([item], options=BatchOptions(codec=self._codec or Codec.NONE)))

    # ---- writing

    def write(self, feed: Feed, lane: Lane) -> Pack:
        """Write what is gathered for a partition, under the lock; the pack says what became of it."""
        pack, lane.pack = lane.pack, Pack(lane)
        pack.count = len(pack.items)
        try:
            self.refresh(feed)
            partition = self.partition(lane)
            pack.first_offset, pack.ticket = self.append(partition, pack.items, feed.config)
            feed.partitioner.appended(lane.number, pack.size)
        except (LogstoreError, OSError, ValueError, TypeError) as error:
            pack.error = error
            self._failed.append(pack)
            if self._stamps is not None:
                self._stamps.failed(error)
            if isinstance(error, UnknownTopicError) and lane.number < feed.topic.partitions:
                self._drop(feed, error)
        finally:
            if pack.first_offset < 0 and pack.error is None:  # Ctrl-C
                self._interrupted(feed, lane, pack)
            if pack is not lane.pack:
                pack.items = []
        return pack

    def _interrupted(self, feed: Feed, lane: Lane, pack: Pack) -> None:
        """Nobody knows whether a pack was written: with stamps the log does, so it is written again, as it is."""
        if self._stamps is not None:
            lane.pack = pack
            pack.size = feed.limit + 1  # nothing more fits
        else:
            pack.error = LogstoreError(f"writing to {lane.name} was interrupted; the records may be there or not")

    def partition(self, lane: Lane) -> Partition:
        """The partition of a lane. Raises UnknownTopicError."""
        return self._store.partition(*lane.name)

    def append(
        self, partition: Partition, items: list[Any], config: LogConfig
    ) -> tuple[int, AppendFuture | None]:
        """Append records as one batch: the first offset, and what to wait for where it is to be on disk."""
        if self._stamps is not None:
            return self._append_stamped(self._stamps, partition, items, config)
        if (self._durability or config.durability) == "always":
            ticket = partition.append_later(items, codec=self._codec)
            return ticket.first_offset, ticket
        return partition.append(items, codec=self._codec, durability=self._durability).first_offset, None

    def _append_stamped(
        self, stamps: Stamps, partition: Partition, items: list[Any], config: LogConfig
    ) -> tuple[int, AppendFuture | None]:
        """The same, told apart from all other batches; where it fails it is tried again, and written once."""
        name = partition.name
        stamps.announce([name])
        with stamps.stamped(name, items) as options:
            if (self._durability or config.durability) == "always" and not stamps.is_transactional:
                ticket = _again(lambda: partition.append_later(items, options=options))
                return ticket.first_offset, ticket
            data = encode_batch(items, timestamp=self._store.clock.now_ms(), options=options)
            durability = "os" if stamps.is_transactional else self._durability
            return _again(lambda: partition.append_batch(data, durability=durability)).first_offset, None

    def sync(self, name: TopicPartition, ticket: AppendFuture) -> None:
        """Wait until an append is on disk; not under the lock, so that many wait for one sync. Raises OSError."""
        try:
            ticket.result()
        except FileNotFoundError:
            # Another process has put another segment in the place of this one, and synced that.
            self._store.partition(*name).flush()

    def _drop(self, feed: Feed, error: LogstoreError) -> None:
        """Forget a topic, which was deleted, with all that waits for it."""
        self.feeds.pop(feed.topic.name, None)
        for lane in feed.lanes:
            pack, lane.pack = lane.pack, Pack(lane)
            if pack.items:
                pack.count, pack.items, pack.error = len(pack.items), [], error
                self._failed.append(pack)

    def discard(self, error: LogstoreError) -> list[Pack]:
        """Give up all that is gathered, under the lock, and tell those who ask its futures; what to `conclude`."""
        for feed in tuple(self.feeds.values()):
            self._drop(feed, error)
        packs, self._failed = self._failed, []
        for pack in packs:
            pack.is_error_seen = True
        return [pack for pack in packs if not pack.is_done]

    def conclude(self, packs: list[Pack]) -> None:
        """See written packs through: sync where that is wanted, and tell who asked. Not under the lock."""
        for pack in packs:
            problem: Exception | None = None
            if pack.ticket is not None and not pack.is_done:
                try:
                    self.sync(pack.lane.name, pack.ticket)
                except (LogstoreError, OSError) as error:
                    problem = error
            with self.lock:
                if problem is not None and not pack.is_done:
                    pack.error = problem
                    self._failed.append(pack)
                pack.is_done = True
                callbacks, pack.callbacks = pack.callbacks, []
            for callback, future in callbacks:
                _call(callback, future)
        if self._is_orphaned:
            self.abandon()

    def finish(self, pack: Pack, timeout: float | None) -> None:
        """Write a pack if it is gathered still, and see it through. Raises TimeoutError, ClientClosedError."""
        if self._refusal is not None and not pack.is_done and pack.items:
            self.check_open()
        if not self.lock.acquire(timeout=-1 if timeout is None else max(timeout, 0.0)):
            raise TimeoutError(f"others were writing for {timeout} s")
        try:
            packs = [pack]
            if pack.lane.pack is pack:
                packs = [self.write(self.feed(pack.lane.name.topic), pack.lane)]
            packs += self._dropped()
        finally:
            self.lock.release()
        self.conclude(packs)

    def _dropped(self) -> list[Pack]:
        return [pack for pack in self._failed if not pack.is_done]

    def call_when_done(self, pack: Pack, callback: Callback, future: SendFuture) -> None:
        """Note a callback, or call it where the pack is done."""
        with self.lock:
            if not pack.is_done:
                pack.callbacks.append((callback, future))
                return
        _call(callback, future)

    def flush(self) -> None:
        """Write and see through all that is gathered. Raises what was not told yet of what could not be written."""
        with self.lock:
            self.check_open()
            packs = self.write_all()
        self.conclude(packs)
        self.raise_untold()

    def write_all(self) -> list[Pack]:
        """Write all that is gathered, under the lock; what to `conclude`."""
        gathered = [(feed, lane) for feed in self.feeds.values() for lane in feed.lanes if lane.pack.items]
        if self._stamps is not None and gathered:
            with contextlib.suppress(LogstoreError, OSError):  # each of them will tell
                self._stamps.announce([lane.name for _, lane in gathered])
        packs = [self.write(feed, lane) for feed, lane in gathered if lane.pack.items]
        return [*packs, *(one for one in self._dropped() if one not in packs)]

    def raise_untold(self) -> None:
        """Raise the first error of records that were written in vain, where nobody has seen it."""
        with self.lock:
            failed, self._failed = self._failed, []
        untold = [pack for pack in failed if not pack.is_error_seen]
        for pack in untold:
            pack.is_error_seen = True
        if untold:
            error = untold[0].error
            assert error is not None
            error.add_note(f"{sum(pack.count for pack in untold)} records that were sent before were not written")
            raise error

    # ---- lingering

    def begin_linger(self, pack: Pack) -> None:
        """Let a pack that has its first record now be written after a while; under the lock."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._linger, name="logstore-linger", daemon=True)
            self._thread.start()
        self._lingering.append((self._store.clock.monotonic_ns() + self.linger_ns, pack))
        if len(self._lingering) == 1:
            self._due.notify()

    def _linger(self) -> None:
        while True:
            with self._due:
                while not self._lingering:
                    if self._refusal is not None:
                        return
                    self._due.wait()
                due, pack = self._lingering[0]
                left = due - self._store.clock.monotonic_ns()
                if left > 0 and pack.lane.pack is pack and self._refusal is None:
                    self._due.wait(left / 1e9)
                    continue
                self._lingering.popleft()
                feed = self.feeds.get(pack.lane.name.topic)
                if pack.lane.pack is not pack or feed is None or not pack.items:
                    continue
                packs = [self.write(feed, pack.lane), *self._dropped()]
            self.conclude(packs)

    # ---- the end

    def close(self) -> None:
        """Write all, and take no more. Raises as `flush`; it is closed then, too.

        A transaction that is open is aborted, and that is an InvalidTransactionStateError.
        """
        self._shut("is closed")
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        self.raise_untold()

    def _shut(self, refusal: str, *, is_given_up: bool = False) -> None:
        packs: list[Pack] = []
        try:
            with self.lock:
                if self._refusal is not None:
                    return
                self._refusal = refusal
                try:
                    if self._stamps is not None and self._stamps.is_begun:
                        packs = self.discard(TransactionAbortedError("the transaction was aborted"))
                        if not is_given_up:  # else this thread may have the locks for that: who comes next does it
                            self._stamps.abort()
                        raise InvalidTransactionStateError(
                            "the producer was closed in a transaction, which was aborted"
                        )
                    packs = self.write_all()
                finally:
                    self.feeds.clear()
                    self._due.notify_all()
                    if self._stamps is not None:
                        self._stamps.release()
        finally:
            self.conclude(packs)

    def abandon(self) -> None:
        """Write what is gathered by a producer that nobody closed, and say so; at the latest when Python ends."""
        if self._refusal is not None:
            return
        if not self.lock.acquire(timeout=_ORPHAN_WAIT_S):
            self._is_orphaned = True  # whoever has the lock, maybe in this thread, sees to it
            return
        try:
            count = sum(len(lane.pack.items) for feed in self.feeds.values() for lane in feed.lanes)
            is_begun = self._stamps is not None and self._stamps.is_begun
        finally:
            self.lock.release()
        try:
            self._shut("was not closed before it was given up", is_given_up=True)
        except InvalidTransactionStateError:
            pass  # that is said below
        except (LogstoreError, OSError) as problem:
            _logger.error("a producer that was not closed could not let go of its transactional id: %s", problem)
        for pack in self._failed:
            if not pack.is_error_seen:
                _logger.error("%d records for %s were lost: %s", pack.count, pack.lane.name, pack.error)
        if count:
            became = "written only now" if not is_begun else "aborted with their transaction"
            warnings.warn(
                f"a producer was not closed; it had {count} records gathered, {became}", ResourceWarning, source=self,
                stacklevel=2,
            )  # fmt: skip

    def disown(self) -> None:
        """Belong to the parent of this process: what is gathered is for that to write."""
        self.feeds.clear()
        self.lock = threading.Lock()
        self._refusal = f"belongs to the parent of process {os.getpid()}; make one after the fork"


def _again(append: Callable[[], _T]) -> _T:
    """Append a batch that the log recognises, and try again where that fails."""
    for _ in range(_RETRIES):
        with contextlib.suppress(OSError):
            return append()
    return append()


def _call(callback: Callback, future: SendFuture) -> None:
    try:
        callback(future)
    except Exception:
        _logger.exception("a callback of a send raised: %r", callback)


# All that there are in this process, for its children.
_desks: weakref.WeakSet[Desk] = weakref.WeakSet()


def _disown_all() -> None:
    for desk in tuple(_desks):
        desk.disown()


os.register_at_fork(after_in_child=_disown_all)
