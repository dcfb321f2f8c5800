"""Offsets that go: too old, of deleted topics, or deleted by administrators."""

from __future__ import annotations

import pytest
from helpers.group_clients import GROUP, Clients, answer, subscription

from logstore.groups import ErrorCode, OffsetDeleteRequest
from logstore.names import TopicPartition
from logstore.records import ControlType

DAY_MS = 86_400_000
WEEK_MS = 7 * DAY_MS
ORDERS = (("range", subscription("orders")),)


@pytest.fixture
def clients() -> Clients:
    return Clients()


# ---- expiry


@pytest.mark.kafka("GROUP-72", "GROUP-74")
def test_the_offsets_of_an_empty_group_expire_and_the_group_with_them(clients: Clients) -> None:
    (member,) = clients.stable(protocols=ORDERS)
    clients.committed(member_id=member, generation=1)
    clients.pass_ms(DAY_MS)
    assert clients.state() == "Empty"
    clients.pass_ms(WEEK_MS - DAY_MS)
    clients.coordinator.expire_offsets()
    clients.settle()
    assert clients.offset() == 1
    clients.pass_ms(DAY_MS)
    clients.coordinator.expire_offsets()
    assert clients.offset() == 1
    clients.settle()
    assert clients.offset() == -1
    assert clients.listed() == clients.restarted().listed() == set()


@pytest.mark.kafka("GROUP-72")
def test_a_stable_group_keeps_the_offsets_of_subscribed_topics(clients: Clients) -> None:
    (member,) = clients.stable(protocols=ORDERS, session_ms=1_800_000)
    clients.commit({("orders", 0): 1, ("left", 0): 1}, member_id=member, generation=1)
    for _ in range(8 * 48):
        clients.pass_ms(1_799_999)
        clients.heartbeat(member, 1)
    clients.coordinator.expire_offsets()
    clients.settle()
    assert set(clients.fetch()) == {("orders", 0)}
    assert clients.state() == "Stable"


@pytest.mark.kafka("GROUP-73", "GROUP-74")
def test_in_a_group_without_members_each_offset_expires_after_its_commit(clients: Clients) -> None:
    clients.commit({("t", 0): 1})
    clients.pass_ms(DAY_MS)
    clients.commit({("t", 1): 1})
    clients.pass_ms(WEEK_MS - DAY_MS)
    clients.coordinator.expire_offsets()
    clients.settle()
    assert set(clients.fetch()) == {("t", 1)}
    clients.pass_ms(DAY_MS)
    clients.coordinator.expire_offsets()
    clients.settle()
    assert clients.listed() == set()


def test_what_could_not_be_removed_is_tried_again(clients: Clients) -> None:
    clients.commit({("t", 0): 1})
    clients.pass_ms(WEEK_MS)
    clients.holds_writes = True
    clients.coordinator.expire_offsets()
    clients.settle()
    clients.fail(ErrorCode.NOT_ENOUGH_REPLICAS)
    assert clients.offset() == 1
    clients.holds_writes = False
    clients.coordinator.expire_offsets()
    clients.settle()
    assert clients.listed() == set()


def test_an_expired_offset_that_is_committed_again_before_its_tombstone_is_written_follows_the_log(
    clients: Clients,
) -> None:
    clients.commit({("t", 0): 1})
    clients.pass_ms(WEEK_MS)
    clients.holds_writes = True
    clients.coordinator.expire_offsets()
    clients.commit({("t", 0): 2})
    clients.release()
    assert clients.offset() == clients.restarted().offset() == 2


def test_a_pending_commit_does_not_expire(clients: Clients) -> None:
    clients.commit({("t", 0): 1})
    clients.commit({("t", 0): 2}, producer_id=9)
    clients.pass_ms(WEEK_MS * 2)
    clients.coordinator.expire_offsets()
    clients.settle()
    assert clients.offset() == 1


def test_a_group_with_an_open_transaction_does_not_expire(clients: Clients) -> None:
    (member,) = clients.stable()
    clients.leave(member)
    clients.commit({("t", 0): 2}, producer_id=9)
    clients.coordinator.expire_offsets()
    assert clients.coordinator.take_writes() == []


@pytest.mark.kafka("GROUP-75")
def test_the_offsets_of_a_deleted_topic_disappear_in_all_groups(clients: Clients) -> None:
    for group in ("a", "b", "c"):
        clients.commit({("t", 0): 1, ("t", 1): 1}, group=group)
    clients.commit({("gone", 0): 1}, group="a")
    clients.commit({("gone", 1): 1}, group="b", producer_id=9)
    clients.coordinator.delete_partitions([TopicPartition("gone", 0), TopicPartition("gone", 1)])
    clients.settle()
    clients.end_transaction(9, ControlType.COMMIT, "b")
    for one in (clients, clients.restarted()):
        for group in ("a", "b", "c"):
            assert set(one.fetch(group=group)) == {("t", 0), ("t", 1)}


# ---- deletion by administrators


def delete(clients: Clients, *partitions: tuple[str, int], group: str = GROUP) -> tuple[int, list[int]]:
    request = OffsetDeleteRequest(group, tuple(TopicPartition(*one) for one in partitions))
    pending = clients.coordinator.delete_offsets(request)
    clients.settle()
    response = answer(pending)
    return response.error, list(response.errors.values())


@pytest.mark.kafka("GROUP-79")
def test_offsets_of_an_empty_group_are_deleted(clients: Clients) -> None:
    clients.commit({("t", 0): 1, ("t", 1): 1})
    clients.unknown.add(TopicPartition("u", 0))
    assert delete(clients, ("t", 0), ("u", 0), ("never", 0)) == (0, [0, 3, 0])
    assert set(clients.fetch()) == set(clients.restarted().fetch()) == {("t", 1)}


@pytest.mark.kafka("GROUP-79")
def test_offsets_of_topics_that_members_are_subscribed_to_are_not_deleted(clients: Clients) -> None:
    (member,) = clients.stable(protocols=ORDERS)
    clients.commit({("orders", 0): 1, ("left", 0): 1}, member_id=member, generation=1)
    for one in (clients, clients.restarted()):
        assert delete(one, ("orders", 0), ("left", 0)) == (0, [86, 0])
        assert set(one.fetch()) == {("orders", 0)}


@pytest.mark.kafka("GROUP-79")
def test_where_a_subscription_cannot_be_read_all_topics_count_as_subscribed(clients: Clients) -> None:
    (member,) = clients.stable(protocols=(("range", b"\x00\x00garbage"),))
    clients.committed(member_id=member, generation=1)
    assert delete(clients, ("t", 0)) == (0, [86])


@pytest.mark.kafka("GROUP-79")
def test_what_has_no_offsets_to_delete_is_refused(clients: Clients) -> None:
    assert delete(clients, ("t", 0)) == (ErrorCode.GROUP_ID_NOT_FOUND, [])
    clients.stable(group="connect", protocol_type="connect")
    assert delete(clients, ("t", 0), group="connect") == (ErrorCode.NON_EMPTY_GROUP, [])
    assert delete(clients, ("t", 0), group="") == (ErrorCode.INVALID_GROUP_ID, [])


def test_a_deletion_that_cannot_be_written_deletes_nothing(clients: Clients) -> None:
    clients.committed()
    clients.holds_writes = True
    pending = clients.coordinator.delete_offsets(OffsetDeleteRequest(GROUP, (TopicPartition("t", 0),)))
    clients.settle()
    clients.fail(ErrorCode.NOT_ENOUGH_REPLICAS)
    assert list(answer(pending).errors.values()) == [ErrorCode.COORDINATOR_NOT_AVAILABLE]
    assert clients.offset() == 1
