"""Which brokers hold the replicas of a new topic's partitions: Kafka's automatic assignment (CLUSTER §2.4, §2.5).

Invariant: no broker holds two replicas of a partition, and the first of each list, the preferred leader, goes round
over the brokers, so each leads as many partitions as any other, give or take one. With racks, replicas of a partition
are on different ones as far as there are enough.

Pure functions: thread-safe but for the `random.Random` that is given.
"""

from __future__ import annotations

import random as chance
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from logstore.errors import InvalidPartitionsError, LogstoreError

Replicas = list[int]
"""The ids of the brokers that hold a partition, the preferred leader first."""


class InvalidReplicationFactorError(LogstoreError):
    """A partition has one replica or more, each on a broker of its own: Kafka's INVALID_REPLICATION_FACTOR (38)."""


class MissingRackError(LogstoreError):
    """Some brokers say which rack they are in and others do not, so replicas cannot be spread over the racks."""


class RackAwareMode(StrEnum):
    """What racks mean for an assignment."""

    ENFORCED = "enforced"
    """Heeded; an error where only some brokers have one."""
    SAFE = "safe"
    """Heeded where all brokers have one."""
    DISABLED = "disabled"
    """Not looked at."""


@dataclass(frozen=True, slots=True)
class BrokerRack:
    """A live broker and the rack it is in; None where it does not say."""

    id: int
    rack: str | None = None


def assign_replicas(
    brokers: Iterable[BrokerRack],
    partition_count: int,
    replication_factor: int,
    *,
    first_partition: int = 0,
    start_index: int | None = None,
    start_shift: int | None = None,
    mode: RackAwareMode = RackAwareMode.ENFORCED,
    random: chance.Random | None = None,
) -> list[Replicas]:
    """Assign replicas to `partition_count` partitions, numbered from `first_partition` on; their lists, in that order.

    Args:
        brokers: the live ones, in any order.
        start_index: which of them, by ascending id or in the order of `alternate_racks`, partition 0 would begin with.
        start_shift: how far from the first replica of partition 0 the second one would be, less one.
        mode: what racks mean.
        random: where `start_index` and `start_shift` come from when they are None.

    Raises InvalidPartitionsError, InvalidReplicationFactorError, and MissingRackError in mode ENFORCED.
    """
    ordered, racks = _arrange(brokers, mode)
    if partition_count < 1:
        raise InvalidPartitionsError(f"{partition_count} partitions", remedy="ask for one or more")
    if not 1 <= replication_factor <= len(ordered):
        raise InvalidReplicationFactorError(
            f"replication factor {replication_factor}, and {len(ordered)} brokers are alive",
            remedy="ask for at least 1 and at most as many as there are brokers",
        )
    random = random or chance.Random()
    index = random.randrange(len(ordered)) if start_index is None else start_index
    shift = random.randrange(len(ordered)) if start_shift is None else start_shift
    assigned = []
    for partition in range(first_partition, first_partition + partition_count):
        # Another distance each time the partitions have gone round, so that brokers are not paired up for good.
        if partition > 0 and partition % len(ordered) == 0:
            shift += 1
        assigned.append(_replicas_of(ordered, racks, (partition + index) % len(ordered), shift, replication_factor))
    return assigned


def add_partitions(
    brokers: Iterable[BrokerRack],
    replicas: Sequence[Sequence[int]],
    partition_count: int,
    *,
    mode: RackAwareMode = RackAwareMode.ENFORCED,
) -> list[Replicas]:
    """Assign replicas to the partitions that a topic gets when it grows to `partition_count`; the new ones alone.

    `replicas` are those that the topic has, in the order of its partitions. The new ones have as many replicas as
    partition 0 and continue its pattern: from the first live broker whose id is not below that of partition 0's
    preferred leader. (With racks brokers go in another order, and leaders are level among the new partitions only; as
    with Kafka.) Raises InvalidPartitionsError unless there are more partitions than now, and as `assign_replicas`.
    """
    brokers = list(brokers)
    if not replicas or partition_count <= len(replicas):
        raise InvalidPartitionsError(
            f"the topic has {len(replicas)} partitions, and was to get {partition_count}",
            remedy="the number of partitions can only grow",
        )
    ids = sorted(broker.id for broker in brokers)
    start = next((index for index, broker in enumerate(ids) if broker >= replicas[0][0]), 0)
    return assign_replicas(
        brokers, partition_count - len(replicas), len(replicas[0]), first_partition=len(replicas), start_index=start,
        start_shift=start, mode=mode,
    )  # fmt: skip


def alternate_racks(brokers: Iterable[BrokerRack]) -> list[int]:
    """The ids of brokers that all have a rack: one from each rack in turn, racks by name, brokers by id."""
    by_rack: dict[str, list[int]] = {}
    for broker in sorted(brokers, key=lambda broker: broker.id):
        assert broker.rack is not None
        by_rack.setdefault(broker.rack, []).append(broker.id)
    turns = max(map(len, by_rack.values()), default=0)
    return [by_rack[rack][turn] for turn in range(turns) for rack in sorted(by_rack) if turn < len(by_rack[rack])]


def _arrange(brokers: Iterable[BrokerRack], mode: RackAwareMode) -> tuple[list[int], dict[int, str]]:
    """The brokers in the order in which partitions go over them, and their racks; without racks that count, none."""
    brokers = sorted(brokers, key=lambda broker: broker.id)
    racks = {broker.id: broker.rack for broker in brokers if broker.rack is not None}
    if mode == RackAwareMode.ENFORCED and 0 < len(racks) < len(brokers):
        lacking = [broker.id for broker in brokers if broker.rack is None]
        raise MissingRackError(
            f"brokers {lacking} have no rack, others have",
            remedy="set broker.rack on all brokers or on none, or assign without racks",
        )
    if mode == RackAwareMode.DISABLED or not racks or len(racks) < len(brokers):
        return [broker.id for broker in brokers], {}
    return alternate_racks(brokers), racks


def _replicas_of(
    ordered: Sequence[int], racks: dict[int, str], first: int, shift: int, replication_factor: int
) -> Replicas:
    """The broker at place `first` and those behind it, by `shift` places more; without `racks` they do not count."""
    replicas = [ordered[first]]
    rack_count = len(set(racks.values()))
    used = {racks[ordered[first]]} if racks else set()
    distance = shift * rack_count if racks else shift
    while len(replicas) < replication_factor:
        broker = ordered[(first + 1 + distance % (len(ordered) - 1)) % len(ordered)]
        distance += 1
        if broker in replicas or (racks and racks[broker] in used and len(used) < rack_count):
            continue
        replicas.append(broker)
        if racks:
            used.add(racks[broker])
    return replicas
