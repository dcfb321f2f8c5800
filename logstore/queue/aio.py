"""Producer and consumer for asyncio: the same ones, whose calls that may wait run in a thread of their own.

Invariant: the loop is never kept waiting for a sync or for messages, and nothing looks again and again: who waits is
woken. A batch that is full is written by the call that brings the next record; that takes a lock which others have for
a moment. An object belongs to one loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from logstore.errors import LogstoreError
from logstore.groups import OffsetAndMetadata
from logstore.names import TopicPartition
from logstore.queue.consumer import Consumer, Offsets
from logstore.queue.producer import Producer
from logstore.queue.reading import Message
from logstore.queue.sending import RecordPlace, SendFuture, SentRange
from logstore.store import Store

_T = TypeVar("_T")


class AsyncProducer:
    """A `Producer` for asyncio; an async context manager.

    What is sent in one turn of the loop, and while a write is under way, is written together.

    Args:
        store: where the topics are.
        options: those of `Producer`.
    """

    def __init__(self, store: Store, **options: Any) -> None:
        self._producer = Producer(store, **options)
        self._producer.defers = True
        self._thread = ThreadPoolExecutor(1, "logstore-producer")
        self._sent: list[tuple[SendFuture, asyncio.Future[RecordPlace]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncProducer {self._producer!r}>"

    async def send(self, topic: str, value: Any, key: Any = None, **options: Any) -> RecordPlace:
        """Send a record; where it is, once it is as durable as the producer has it. As `Producer.send`."""
        future = self._producer.send(topic, value, key, **options)
        waiting: asyncio.Future[RecordPlace] = asyncio.get_running_loop().create_future()
        self._sent.append((future, waiting))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        return await waiting

    async def _write(self) -> None:
        while self._sent:
            sent, self._sent = self._sent, []
            places = await self._run(partial(_outcomes, [future for future, _ in sent]))
            for (_, waiting), (place, error) in zip(sent, places, strict=True):
                if waiting.cancelled():
                    continue
                if error is not None:
                    waiting.set_exception(error)
                elif place is not None:
                    waiting.set_result(place)
        self._writing = None

    async def send_many(
        self, topic: str, items: Iterable[tuple[Any, ...]], *, partition: int | None = None
    ) -> list[SentRange]:
        """As `Producer.send_many`; `items` is gone through in another thread."""
        return await self._run(lambda: self._producer.send_many(topic, items, partition=partition))

    @asynccontextmanager
    async def transaction(self, consumer: AsyncConsumer | None = None) -> AsyncIterator[None]:
        """As `Producer.transaction`, for an `async with`; what is not awaited inside is sent in it all the same."""
        whole = self._producer.transaction(None if consumer is None else consumer.consumer)
        await self._run(whole.__enter__)
        try:
            yield
        except BaseException as error:
            await self._run(partial(whole.__exit__, type(error), error, error.__traceback__))
            raise
        await self._run(partial(whole.__exit__, None, None, None))

    async def flush(self) -> None:
        """As `Producer.flush`."""
        await self._run(self._producer.flush)

    async def close(self) -> None:
        """As `Producer.close`."""
        if self._writing is not None:
            await self._writing
        try:
            await self._run(self._producer.close)
        finally:
            self._thread.shutdown()

    async def _run(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _outcomes(futures: list[SendFuture]) -> list[tuple[RecordPlace | None, Exception | None]]:
    return [_outcome(future) for future in futures]


def _outcome(future: SendFuture) -> tuple[RecordPlace | None, Exception | None]:
    try:
        return future.result(), None
    except (LogstoreError, OSError, ValueError, TypeError) as error:
        return None, error


class AsyncConsumer:
    """A `Consumer` for asyncio; an async context manager, and an async iterable of messages. Make it by `open`.

    Calls that look at nothing but memory are those of `consumer`, while no other call is under way.

    Attributes:
        consumer: the one behind it.
    """

    def __init__(self, consumer: Consumer, thread: ThreadPoolExecutor) -> None:
        self.consumer = consumer
        self._thread = thread

    @classmethod
    async def open(cls, store: Store, *topics: str, **options: Any) -> Self:
        """Make one; `options` are those of `Consumer`. Raises as that."""
        thread = ThreadPoolExecutor(1, "logstore-consumer")
        try:
            consumer = await asyncio.get_running_loop().run_in_executor(
                thread, lambda: Consumer(store, *topics, **options)
            )
        except BaseException:
            thread.shutdown(wait=False)
            raise
        return cls(consumer, thread)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end(lambda: self.consumer.__exit__(kind, error, trace))

    def __repr__(self) -> str:
        return f"<AsyncConsumer {self.consumer!r}>"

    async def poll(self, timeout: float | None = 0.0) -> list[Message]:
        """As `Consumer.poll`. Where it is cancelled, messages that were there already come the next time."""
        polling = asyncio.get_running_loop().run_in_executor(self._thread, self.consumer.poll, timeout)
        try:
            return await asyncio.shield(polling)
        except asyncio.CancelledError:
            self.consumer.wakeup()
            messages = await polling
            await self._run(lambda: self.consumer.put_back(messages))
            raise

    def __aiter__(self) -> AsyncIterator[Message]:
        return self.records()

    async def records(self, *, until_end: bool = False) -> AsyncIterator[Message]:
        """The messages one by one, as `Consumer.records`; a message counts as dealt with once the next is asked for."""
        async for messages in self.batches(until_end=until_end):
            for message in self.consumer.one_by_one(messages):
                yield message

    async def batches(self, *, until_end: bool = False) -> AsyncIterator[list[Message]]:
        """The messages in lists, as `Consumer.batches`."""
        if not until_end:
            while messages := await self.poll(None):
                yield messages
            return
        batches = self.consumer.batches(until_end=True)
        while messages := await self._run(lambda: next(batches, [])):
            yield messages

    async def commit(self, offsets: Offsets | None = None) -> None:
        """As `Consumer.commit`."""
        await self._run(lambda: self.consumer.commit(offsets))

    async def committed(self, partition: tuple[str, int]) -> OffsetAndMetadata | None:
        """As `Consumer.committed`."""
        return await self._run(lambda: self.consumer.committed(partition))

    async def lag(self) -> dict[TopicPartition, int]:
        """As `Consumer.lag`."""
        return await self._run(self.consumer.lag)

    async def close(self) -> None:
        """As `Consumer.close`."""
        await self._end(self.consumer.close)

    def wakeup(self) -> None:
        """As `Consumer.wakeup`."""
        self.consumer.wakeup()

    async def _run(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _end(self, work: Callable[[], None]) -> None:
        try:
            await self._run(work)
        finally:
            self._thread.shutdown()
