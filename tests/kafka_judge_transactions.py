"""Let a real Kafka broker judge the transactions of a store, and go on with them, and the store with the broker's.

A store copies records from one topic to another in transactions, some of which are aborted; one is left open by a
killed process, and one decided and not told to any partition. The broker gets the files, `__transaction_state` and
`__consumer_offsets` among them: it has to finish the one, to abort the other, and to show committed readers what a
store would. Then a producer of Kafka's takes our transactional id over, and at last a store opens what the broker left.
"""

from __future__ import annotations

import base64
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers.processes import Child, Line
from kafka_judge_store import OFFSETS_PARTITIONS, PATIENCE_S, committed_offsets, patiently, replace_files

from logstore.names import CONSUMER_OFFSETS_TOPIC, TRANSACTION_STATE_TOPIC, TopicPartition
from logstore.queue import Consumer, OffsetsStore, Producer
from logstore.store import Store
from logstore.transactions import TransactionCoordinator

SOURCE, TARGET, GROUP, ID = "tx-in", "tx-out", "tx-group", "tx-copier"
TOPICS = {SOURCE: 2, TARGET: 3}
COUNT = 300
_TIMEOUT_MS = 2000


def write_transactions(place: Path) -> None:
    """Write a store whose transactions have ended in all ways."""
    with Store.open(place) as store:
        for name, partitions in TOPICS.items():
            store.create_topic(name, partitions)
        with Producer(store, enable_idempotence=True, compression="zstd") as producer:
            producer.send_many(SOURCE, [(b"k%d" % number, b"%d" % number) for number in range(COUNT)])
        with (
            Producer(store, transactional_id=ID, compression="lz4") as producer,
            Consumer(store, SOURCE, group=GROUP, enable_auto_commit=False, max_poll_records=40) as consumer,
        ):
            for turn, batch in enumerate(consumer.batches(until_end=True)):
                try:
                    with producer.transaction(consumer):
                        for one in batch:
                            producer.send(TARGET, one.value, one.key)
                        if turn % 3 == 1:
                            producer.flush()
                            raise _Unlucky
                except _Unlucky:
                    continue
        for name, is_decided in (("tx-decided", True), ("tx-open", False)):
            with Child(lambda line, name=name, is_decided=is_decided: _die(line, place, name, is_decided)) as child:
                child.hear()


class _Unlucky(Exception):
    """A turn that is to be aborted."""


def _die(line: Line, place: Path, name: str, is_decided: bool) -> None:
    store = Store.open(place)
    producer = Producer(store, transactional_id=name, transaction_timeout_ms=_TIMEOUT_MS)
    producer.begin_transaction()
    for number in range(TOPICS[TARGET]):
        producer.send(TARGET, name.encode(), partition=number)
    producer.flush()
    if is_decided:
        TransactionCoordinator._completed = lambda *_, **__: line.tell("decided") or line.wait()  # type: ignore[assignment, func-returns-value, method-assign]
        producer.commit_transaction()
    line.tell("open")
    line.wait()


def wanted() -> dict[bytes, int]:
    """How often a committed reader has to find each value."""
    return {b"%d" % number: 1 for number in range(COUNT)} | {b"tx-decided": TOPICS[TARGET]}


def judge_transactions(work: Path, version: str) -> list[str]:
    """What is wrong with transactions that go from a store to a broker and back."""
    from broker import Broker
    from content import consume, create

    write_transactions(work / "transactions")
    problems: list[str] = []
    properties = {
        "log.retention.ms": -1, "log.cleaner.enable": "false", "offsets.topic.num.partitions": OFFSETS_PARTITIONS,
        "offsets.topic.replication.factor": 1, "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1, "transaction.abort.timed.out.transaction.cleanup.interval.ms": 200,
    }  # fmt: skip
    broker = Broker(version, work / "transactions-broker", port=19892, props=properties)
    try:
        broker.start()
        for name, partitions in (TOPICS | {CONSUMER_OFFSETS_TOPIC: 50, TRANSACTION_STATE_TOPIC: 50}).items():
            create(broker, name, partitions, **({"cleanup__policy": "compact"} if name.startswith("__") else {}))
        broker.stop()
        for directory in sorted(one for one in (work / "transactions").iterdir() if one.is_dir()):
            replace_files(directory, broker.data / directory.name)
        broker.start()
        end = time.monotonic() + PATIENCE_S
        while (found := _committed(broker, consume)) != wanted() and time.monotonic() < end:
            time.sleep(1)
        problems += _differences("the broker's committed reader", found, wanted())
        with Store.open(work / "transactions") as store:
            ours = {one: value.offset for one, value in OffsetsStore(store).committed(GROUP).items()}
        if (answer := patiently(committed_offsets, broker, GROUP)) != ours or len(ours) != TOPICS[SOURCE]:
            problems.append(f"group {GROUP}: the broker says {answer}, the store {ours}")
        _go_on(broker)
        broker.stop()
    finally:
        broker.end()
    return problems + _back(work, broker.data)


def _committed(broker: Any, consume: Callable[..., Any]) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    for number in range(TOPICS[TARGET]):
        for row in patiently(consume, broker, TARGET, partition=number, isolation="read_committed")["records"]:
            value = base64.b64decode(row["value"])
            found[value] = found.get(value, 0) + 1
    return found


def _differences(who: str, found: dict[bytes, int], right: dict[bytes, int]) -> list[str]:
    wrong = sorted(one for one in found.keys() | right.keys() if found.get(one) != right.get(one))
    return [f"{who}: {len(wrong)} values, {wrong[:3]!r} among them, are there too often or not"] if wrong else []


def _go_on(broker: Any) -> None:
    """Let a producer of Kafka's take our transactional id over: one transaction is committed, one aborted."""
    from confluent_kafka import Producer as Theirs

    theirs = Theirs({"bootstrap.servers": broker.bootstrap, "transactional.id": ID, "log_level": 0})
    theirs.init_transactions(PATIENCE_S)
    for value, end in ((b"theirs", theirs.commit_transaction), (b"theirs, aborted", theirs.abort_transaction)):
        theirs.begin_transaction()
        for number in range(TOPICS[TARGET]):
            theirs.produce(TARGET, value, partition=number)
        theirs.flush()
        end()


def _back(work: Path, data: Path) -> list[str]:
    """Let a store open what the broker left, and a producer of ours take the id over again."""
    place = work / "transactions-back"
    shutil.copytree(data, place)
    right = wanted() | {b"theirs": TOPICS[TARGET], b"ours again": 1}
    with Store.open(place) as store:
        known = TransactionCoordinator(store).transactions()[ID]
        with Producer(store, transactional_id=ID) as producer:
            with producer.transaction():
                producer.send(TARGET, b"ours again")
            after = TransactionCoordinator(store).transactions()[ID]
        found: dict[bytes, int] = {}
        with Consumer(store, TARGET, isolation="read_committed") as consumer:
            for one in consumer.records(until_end=True):
                found[one.value] = found.get(one.value, 0) + 1
        stuck = [
            TopicPartition(*one.name) for one in store.partitions(TARGET) if one.last_stable_offset < one.log_end_offset
        ]
    problems = _differences("a store that opens what the broker left", found, right)
    if (after.producer_id, after.producer_epoch) != (known.producer_id, known.producer_epoch + 1):
        problems.append(f"{ID} went from {known} to {after}")
    return problems + [f"{one} has an open transaction" for one in stuck]
