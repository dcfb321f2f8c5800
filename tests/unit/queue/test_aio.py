"""Producer and consumer in an event loop: nothing blocks it, nothing is lost when a wait is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import logstore
from logstore.errors import SerializationError, UnknownTopicError
from logstore.names import TopicPartition
from logstore.queue.aio import AsyncConsumer, AsyncProducer
from logstore.queue.offsets_store import OffsetsStore
from logstore.records import iter_batches
from logstore.store import Store

T = TopicPartition("t", 0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with logstore.open(tmp_path / "store") as opened:
        opened.create_topic("t")
        yield opened


def test_what_is_sent_together_is_written_together(store: Store) -> None:
    async def main() -> None:
        async with AsyncProducer(store, durability="always") as producer:
            places = await asyncio.gather(*(producer.send("t", b"%d" % number) for number in range(50)))
            assert places == [(0, number) for number in range(50)]
            assert (await producer.send_many("t", [(None, b"x")] * 10))[0].last_offset == 59
            await producer.flush()

    asyncio.run(main())
    batches = list(iter_batches(store.partition("t").read(0)))
    assert [batch.header.count for batch in batches] == [50, 10]


def test_errors_reach_those_who_sent(store: Store) -> None:
    async def main() -> None:
        async with AsyncProducer(store, value_serializer=str.encode) as producer:
            with pytest.raises(SerializationError):
                await producer.send("t", 7)
            sending = [asyncio.create_task(producer.send("t", "v")) for _ in range(2)]
            await asyncio.sleep(0)
            store.delete_topic("t")
            for one in sending:
                with contextlib.suppress(UnknownTopicError):
                    await one
            with pytest.raises(UnknownTopicError):
                await producer.send("t", "v")

    asyncio.run(main())


def test_messages_come_while_the_loop_goes_on(store: Store) -> None:
    async def main() -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.005)

        ticking = asyncio.create_task(tick())
        async with await AsyncConsumer.open(store, "t") as consumer, AsyncProducer(store) as producer:
            assert await consumer.poll(0.1) == []
            assert ticks > 5
            polling = asyncio.create_task(consumer.poll(None))
            await asyncio.sleep(0.02)
            begin = time.monotonic()
            await producer.send("t", b"v")
            assert [one.value for one in await polling] == [b"v"]
            assert time.monotonic() - begin < 1
            assert await consumer.lag() == {T: 0}
        ticking.cancel()

    asyncio.run(main())


def test_a_poll_that_is_cancelled_loses_nothing(store: Store) -> None:
    async def main() -> None:
        seen: list[int] = []
        async with await AsyncConsumer.open(store, "t", group="g") as consumer:
            for number in range(20):
                polling = asyncio.create_task(consumer.poll(None))
                await asyncio.sleep(0.002 * (number % 3))
                store.partition("t").append([(None, b"%d" % number)])
                polling.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    seen += [int(one.value) for one in await polling]
            while len(seen) < 20:
                seen += [int(one.value) for one in await consumer.poll(5)]
            assert seen == list(range(20))

    asyncio.run(main())


def test_iteration_ends_by_a_wakeup_and_commits_what_was_dealt_with(store: Store) -> None:
    store.partition("t").append([(None, b"%d" % number) for number in range(10)])

    async def main() -> None:
        async with await AsyncConsumer.open(store, "t", group="g", enable_auto_commit=False) as consumer:
            async for message in consumer:
                if message.offset == 4:
                    break
            await consumer.commit()
            value = await consumer.committed(T)
            assert value is not None and value.offset == 5
            await consumer.commit({T: 6})
            rest = [message.offset async for message in consumer.records(until_end=True)]
            assert rest == [5, 6, 7, 8, 9]
            asyncio.get_running_loop().call_later(0.05, consumer.wakeup)
            assert [message async for message in consumer] == []

    asyncio.run(main())
    assert OffsetsStore(store).committed("g")[T].offset == 6


def test_an_error_in_the_body_leaves_the_message_for_the_next_one(store: Store) -> None:
    store.partition("t").append([(None, b"%d" % number) for number in range(10)])

    async def main() -> None:
        async with await AsyncConsumer.open(store, "t", group="g") as consumer:
            async for message in consumer:
                if message.offset == 4:
                    raise KeyError

    with pytest.raises(KeyError):
        asyncio.run(main())
    assert OffsetsStore(store).committed("g")[T].offset == 4


def test_what_cannot_be_opened_leaves_no_thread(store: Store) -> None:
    async def main() -> None:
        with pytest.raises(UnknownTopicError):
            await AsyncConsumer.open(store, "no")
        consumer = await AsyncConsumer.open(store, "t")
        await consumer.close()

    asyncio.run(main())
