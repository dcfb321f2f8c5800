"""What `torture_story_sweep` stops, continued: a story of transactions, with two processes."""

from __future__ import annotations

import contextlib
import dataclasses

from torture_story_sweep import Stage

from logstore.errors import InvalidTransactionStateError
from logstore.names import CONSUMER_OFFSETS_TOPIC, TRANSACTION_STATE_TOPIC, TopicPartition
from logstore.queue import Consumer, OffsetsStore, Producer
from logstore.store import Store

_COUNT = 6  # records to copy in each of two partitions


@dataclasses.dataclass
class Sent:
    """A transaction: how it ends, and what it sends.

    Attributes:
        is_open: whether it may be there or not.
        is_committed: whether it is promised.
        values: of its records, by partition.
    """

    is_open: bool = True
    is_committed: bool = False
    values: set[tuple[int, bytes]] = dataclasses.field(default_factory=set)


class TransactionStory:
    """One copies in transactions and sends others, and aborts some; a second one does so, too, and takes an id over."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.sent: list[Sent] = []
        self.stores: list[Store] = []
        self.producers: list[Producer] = []
        self.consumers: list[Consumer] = []

    def prepare(self) -> None:
        """The second process has topics, records, and a producer."""
        store = self.stage.open(self.stage.second)
        self.stores.append(store)
        for topic, partitions in (("in", 2), ("out", 2), (CONSUMER_OFFSETS_TOPIC, 1), (TRANSACTION_STATE_TOPIC, 1)):
            store.create_topic(topic, partitions)
        for number in range(2):
            for value in range(_COUNT):
                store.partition("in", number).append([(b"k", b"%d" % value)], durability="always")
        self._producer(store, "two")

    def _producer(self, store: Store, transactional_id: str) -> Producer:
        self.producers.append(Producer(store, transactional_id=transactional_id))
        return self.producers[-1]

    def run(self) -> None:
        two = self.producers[0]
        store = self.stage.open(self.stage.first)
        self.stores.append(store)
        one = self._producer(store, "one")
        reader = Consumer(store, "in", group="g", enable_auto_commit=False, max_poll_records=5)
        self.consumers.append(reader)
        self.copy(one, reader)
        self.send(two)
        self.copy(one, reader, abort=True)
        self.send(one, abort=True)
        self.copy(one, reader)
        open_one = self.begin(two)
        self.send(one)
        self.end(two, open_one)
        left = self.begin(one)  # and never ended
        taken = self._producer(self.stores[0], "one")
        left.is_open = False
        self.send(taken)
        reader.close()
        reader = Consumer(self.stores[0], "in", group="g", enable_auto_commit=False, max_poll_records=5)
        self.consumers.append(reader)
        self.copy(taken, reader)
        self.forget()

    # ---- what is done, and what of it is promised on return

    def begin(self, producer: Producer) -> Sent:
        sent = Sent()
        self.sent.append(sent)
        producer.begin_transaction()
        for number in range(2):
            for count in range(2):
                value = b"sent %d %d" % (len(self.sent), count)
                sent.values.add((number, value))
                producer.send("out", value, partition=number)
        producer.flush()
        return sent

    def end(self, producer: Producer, sent: Sent, *, abort: bool = False) -> None:
        if abort:
            sent.is_open = False
            producer.abort_transaction()
        else:
            producer.commit_transaction()
            sent.is_open, sent.is_committed = False, True

    def send(self, producer: Producer, *, abort: bool = False) -> None:
        self.end(producer, self.begin(producer), abort=abort)

    def copy(self, producer: Producer, reader: Consumer, *, abort: bool = False) -> None:
        sent = Sent()
        try:
            with producer.transaction(reader):
                for one in reader.poll(0):
                    value = b"copy %d %d" % (one.partition, one.offset)
                    sent.values.add((1 - one.partition, value))
                    producer.send("out", value, partition=1 - one.partition)
                if abort:
                    producer.flush()
                    raise _Unlucky
                self.sent.append(sent)
            sent.is_open, sent.is_committed = False, True
        except _Unlucky:
            pass

    # ---- what is left of it

    def leave(self) -> None:
        for one in self.producers[:1] + self.producers[2:]:
            with contextlib.suppress(InvalidTransactionStateError):  # it was in the midst of one
                one.close()
        self.stores[0].close()

    def forget(self) -> None:
        """A producer or consumer that nobody closes would say so."""
        for one in (*self.producers, *self.consumers):
            one._end.detach()

    def check(self, store: Store, *, survived: bool) -> None:
        is_whole = survived or self.stage.durability == "always"
        found = self._found(store)
        for sent in self.sent:
            there = sent.values & found
            assert sent.is_open or sent.is_committed or not there, f"{there} were aborted, and are there"
            assert not (is_whole and sent.is_committed) or there == sent.values, f"{sent.values - there} are lost"
            assert not is_whole or there in (set(), sent.values), f"{there} are there without {sent.values - there}"
        known = {value for sent in self.sent for value in sent.values}
        assert found <= known, f"{found - known} were never committed"
        committed = {name: one.offset for name, one in OffsetsStore(store).committed("g").items()}
        if is_whole:
            for number in range(2):
                copied = {value for where, value in found if where == 1 - number and value.startswith(b"copy")}
                end = committed.get(TopicPartition("in", number), 0)
                assert copied == {b"copy %d %d" % (number, offset) for offset in range(end)}, f"{copied}, not {end}"
        self._go_on(store, found)

    def _found(self, store: Store) -> set[tuple[int, bytes]]:
        """What committed readers get; nothing keeps them waiting."""
        with Consumer(store, "out", isolation="read_committed") as reader:
            rows = [(one.partition, one.value) for one in reader.records(until_end=True)]
        assert len(rows) == len(set(rows)), f"something is there twice: {sorted(rows)}"
        for partition in store.partitions("out"):
            assert partition.last_stable_offset == partition.log_end_offset, f"{partition.name} has an open transaction"
        return set(rows)

    def _go_on(self, store: Store, found: set[tuple[int, bytes]]) -> None:
        more = {(0, b"more"), (1, b"more")}
        for transactional_id in ("one", "two"):
            with Producer(store, transactional_id=transactional_id) as producer, producer.transaction():
                for number, value in more:
                    producer.send("out", value + transactional_id.encode(), partition=number)
        assert len(self._found(store) - found) == 4


class _Unlucky(Exception):
    """A transaction that is to be aborted."""
