"""Which committed offsets are too old: the rules of CLUSTER §7.9 as a pure function."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from logstore.groups.offsets import OffsetAndMetadata
from logstore.groups.states import GroupState
from logstore.names import TopicPartition
from logstore.records.internal.consumer_protocol import CONSUMER_PROTOCOL_TYPE


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """What decides over the offsets of one group.

    Attributes:
        protocol_type: None for a group that only stores offsets.
        state_timestamp: since when it is in its state, in milliseconds since the epoch; None where nobody knows.
        subscribed_topics: of its members; None where they could not be read, so that every topic counts as subscribed.
        pending: partitions with a commit that is not in the log yet, or belongs to an open transaction.
    """

    state: GroupState
    protocol_type: str | None
    state_timestamp: int | None
    subscribed_topics: Collection[str] | None
    offsets: Mapping[TopicPartition, OffsetAndMetadata]
    pending: Collection[TopicPartition] = ()


def expired_offsets(group: GroupFacts, now_ms: int, retention_ms: int) -> set[TopicPartition]:
    """Return the partitions whose offsets have to go.

    Those of an Empty group count from when it became Empty, those of unsubscribed topics of a Stable consumer group
    and of a group that only stores offsets from their commit; an offset's own expiry overrides. Pending ones stay.
    """
    is_empty = group.protocol_type is not None and group.state is GroupState.EMPTY
    spared: Collection[str] = ()
    if group.protocol_type == CONSUMER_PROTOCOL_TYPE and group.state is GroupState.STABLE:
        if group.subscribed_topics is None:
            return set()
        spared = group.subscribed_topics
    elif group.protocol_type is not None and not is_empty:
        return set()
    since = group.state_timestamp if is_empty else None
    return {
        partition
        for partition, value in group.offsets.items()
        if partition.topic not in spared
        and partition not in group.pending
        and now_ms >= _expiry(value, since, retention_ms)
    }


def _expiry(value: OffsetAndMetadata, since: int | None, retention_ms: int) -> int:
    if value.expire_timestamp is not None:
        return value.expire_timestamp
    return (value.commit_timestamp if since is None else since) + retention_ms
