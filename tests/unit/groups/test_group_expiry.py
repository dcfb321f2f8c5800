"""Which committed offsets are too old, by the state of their group."""

from __future__ import annotations

import pytest

from logstore.groups import GroupFacts, GroupState, OffsetAndMetadata, expired_offsets
from logstore.names import TopicPartition

READ = TopicPartition("read", 0)
LEFT = TopicPartition("left", 0)
RETENTION = 100


def facts(
    state: GroupState = GroupState.EMPTY,
    protocol_type: str | None = "consumer",
    since: int | None = 50,
    topics: frozenset[str] | None = frozenset({"read"}),
    pending: tuple[TopicPartition, ...] = (),
    expiry: int | None = None,
) -> GroupFacts:
    value = OffsetAndMetadata(1, commit_timestamp=20, expire_timestamp=expiry)
    return GroupFacts(state, protocol_type, since, topics, {READ: value, LEFT: value}, pending)


def expired(group: GroupFacts, now_ms: int) -> set[TopicPartition]:
    return expired_offsets(group, now_ms, RETENTION)


@pytest.mark.kafka("GROUP-72")
def test_an_empty_groups_offsets_count_from_when_it_became_empty() -> None:
    assert expired(facts(), 149) == set()
    assert expired(facts(), 150) == {READ, LEFT}


def test_where_nobody_knows_since_when_a_group_is_empty_the_commit_counts() -> None:
    assert expired(facts(since=None), 119) == set()
    assert expired(facts(since=None), 120) == {READ, LEFT}


@pytest.mark.kafka("GROUP-72")
def test_a_stable_consumer_group_keeps_the_topics_it_is_subscribed_to() -> None:
    assert expired(facts(GroupState.STABLE), 119) == set()
    assert expired(facts(GroupState.STABLE), 10_000) == {LEFT}


def test_a_stable_group_of_unknown_subscriptions_keeps_all() -> None:
    assert expired(facts(GroupState.STABLE, topics=None), 10_000) == set()


@pytest.mark.parametrize("state", [GroupState.PREPARING_REBALANCE, GroupState.COMPLETING_REBALANCE])
def test_a_group_in_a_rebalance_keeps_all(state: GroupState) -> None:
    assert expired(facts(state), 10_000) == set()


def test_a_stable_group_of_another_protocol_keeps_all() -> None:
    assert expired(facts(GroupState.STABLE, "connect", topics=None), 10_000) == set()


@pytest.mark.kafka("GROUP-73")
def test_in_a_group_that_only_stores_offsets_each_counts_from_its_commit() -> None:
    group = facts(protocol_type=None, since=10_000)
    assert expired(group, 119) == set()
    assert expired(group, 120) == {READ, LEFT}


def test_an_own_expiry_overrides() -> None:
    assert expired(facts(expiry=90), 90) == {READ, LEFT}
    assert expired(facts(expiry=10_000), 9_999) == set()


def test_a_pending_commit_keeps_the_offset() -> None:
    assert expired(facts(pending=(READ,)), 10_000) == {LEFT}
