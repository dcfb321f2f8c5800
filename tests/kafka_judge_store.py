"""Let a real Kafka broker judge a store: topics of several partitions, and the offsets that groups have committed.

The broker makes the topics, `__consumer_offsets` among them, and is stopped; our files take the place of its own. Then
a consumer has to get what was appended, and the broker's own answer to what a group has committed has to be ours.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from logstore.groups.offsets import OffsetAndMetadata, group_partition, offset_key, offset_value
from logstore.names import CONSUMER_OFFSETS_TOPIC, TopicPartition
from logstore.records import Codec, Record
from logstore.store import Store

TOPICS = {"store-orders": 4, "store-audit": 1}
GROUPS = ("billing", "audit", "a group of 2", "größe")
OFFSETS_PARTITIONS = 50
PATIENCE_S = 60
Rows = Callable[[int, int], list[tuple[Any, ...]]]


def write_store(place: Path, rows: Rows) -> dict[TopicPartition, list[Record]]:
    """Write a store from two hands at once; the records of each partition."""
    chance = random.Random(3)
    with Store.open(place) as store, Store.open(place) as other:
        for name, partitions in TOPICS.items():
            store.create_topic(name, partitions, {"message.timestamp.after.max.ms": str(2**63 - 1)})
        for turn in range(80):
            hand = chance.choice([store, other])
            name = chance.choice(list(TOPICS))
            partition = hand.partition(name, chance.randrange(TOPICS[name]))
            partition.append(rows(chance.randrange(1, 12), turn), codec=chance.choice(list(Codec)))
            if turn % 20 == 19:
                with partition.changing() as log:
                    log.roll()
        store.create_topic(CONSUMER_OFFSETS_TOPIC, OFFSETS_PARTITIONS)
        for group, committed in commits().items():
            offsets = store.partition(CONSUMER_OFFSETS_TOPIC, group_partition(group, OFFSETS_PARTITIONS))
            offsets.append([(offset_key(group, one), offset_value(value)) for one, value in committed.items()])
        return {one.name: list(one.records()) for topic in TOPICS for one in store.partitions(topic)}


def commits() -> dict[str, dict[TopicPartition, OffsetAndMetadata]]:
    """What each group has committed."""
    return {
        group: {
            TopicPartition("store-orders", number): OffsetAndMetadata(
                number * 10 + at, metadata=f"by {group}", commit_timestamp=1_700_000_000_000 + at
            )
            for number in range(at + 1)
        }
        for at, group in enumerate(GROUPS)
    }


def judge_store(work: Path, version: str, rows: Rows, told: Callable[[dict[str, Any]], object],
                shown: Callable[[Record], object]) -> list[str]:  # fmt: skip
    """What a broker, and a consumer of it, find wrong with a store of ours."""
    from broker import Broker
    from content import consume, create

    written = write_store(work / "store", rows)
    problems: list[str] = []
    properties = {
        "log.retention.ms": -1, "log.cleaner.enable": "false", "offsets.retention.minutes": 2_000_000_000,
        "offsets.topic.num.partitions": OFFSETS_PARTITIONS, "offsets.topic.replication.factor": 1,
    }  # fmt: skip
    broker = Broker(version, work / "store-broker", port=19792, props=properties)
    try:
        broker.start()
        for name, partitions in TOPICS.items():
            create(broker, name, partitions)
        create(broker, CONSUMER_OFFSETS_TOPIC, OFFSETS_PARTITIONS, cleanup__policy="compact")
        broker.stop()
        for directory in sorted(one for one in (work / "store").iterdir() if one.is_dir()):
            replace_files(directory, broker.data / directory.name)
        broker.start()
        for (topic, number), records in written.items():
            found = patiently(consume, broker, topic, partition=number)["records"]
            if [shown(one) for one in records] != [told(row) for row in found]:
                problems.append(f"{topic}-{number}: {len(found)} records, not the {len(records)} written")
        for group, committed in commits().items():
            wanted = {one: value.offset for one, value in committed.items()}
            if (answer := patiently(committed_offsets, broker, group)) != wanted:
                problems.append(f"group {group}: {answer}, not {wanted}")
        broker.stop()
    finally:
        broker.end()
    return problems


def patiently(work: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Until the broker leads all of its partitions, it refuses."""
    from confluent_kafka import KafkaException

    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return work(*arguments, **options)
        except KafkaException:
            if time.monotonic() >= end:
                raise
            time.sleep(0.5)


def committed_offsets(broker: Any, group: str) -> dict[TopicPartition, int]:
    """What the broker says a group has committed."""
    from confluent_kafka import ConsumerGroupTopicPartitions
    from confluent_kafka.admin import AdminClient

    client = AdminClient({"bootstrap.servers": broker.bootstrap})
    (future,) = client.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]).values()
    found = future.result(30).topic_partitions
    return {TopicPartition(one.topic, one.partition): one.offset for one in found if one.offset >= 0}


def replace_files(source: Path, home: Path) -> None:
    """Put our files in the place of a broker's, but for what says which topic it is."""
    for file in home.iterdir():
        if file.name != "partition.metadata":
            file.unlink()
    for file in source.iterdir():
        if file.name != "partition.metadata" and not file.name.startswith("."):
            shutil.copy2(file, home / file.name)
