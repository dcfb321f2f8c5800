"""DescribeGroups, ListGroups and DeleteGroups, and the checks in front of every request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from helpers.group_clients import GROUP, SESSION_MS, Clients, answer

from logstore.groups import (
    CommitOffset,
    DescribedGroup,
    ErrorCode,
    GroupConfig,
    LoadedGroups,
    OffsetCommitRequest,
    OffsetDeleteRequest,
    OffsetFetchRequest,
    group_partition,
)
from logstore.names import TopicPartition

PARTITION = TopicPartition("t", 0)


@pytest.fixture
def clients() -> Clients:
    return Clients()


def _committed(clients: Clients, group: str | None) -> int:
    request = OffsetCommitRequest(group_id=group, offsets={PARTITION: CommitOffset(1)})
    pending = clients.coordinator.commit_offsets(request)
    clients.settle()
    return int(answer(pending).errors[PARTITION])


Ask = Callable[[Clients, str | None], int]
MEMBERS: dict[str, Ask] = {
    "join": lambda clients, group: answer(clients.join(group=group)).error,
    "sync": lambda clients, group: answer(clients.sync("m", 1, group=group)).error,
    "heartbeat": lambda clients, group: clients.heartbeat("m", 1, group=group),
    "leave": lambda clients, group: clients.leave("m", group=group).error,
}
OTHERS: dict[str, Ask] = {
    "commit": _committed,
    "fetch": lambda clients, group: clients.coordinator.fetch_offsets(OffsetFetchRequest(group)).error,
    "describe": lambda clients, group: clients.coordinator.describe_groups([group], 5)[0].error,
    "delete": lambda clients, group: deleted(clients, group or "")[group or ""],
    "delete offsets": lambda clients, group: (
        answer(clients.coordinator.delete_offsets(OffsetDeleteRequest(group, (PARTITION,)))).error
    ),
}


def deleted(clients: Clients, *groups: str) -> dict[str, int]:
    pending = clients.coordinator.delete_groups(groups)
    clients.settle()
    return dict(answer(pending).errors)


# ---- the checks in front


@pytest.mark.kafka("GROUP-01")
@pytest.mark.parametrize("what", MEMBERS)
@pytest.mark.parametrize("group", ["", None])
def test_members_need_a_group_id(clients: Clients, what: str, group: str | None) -> None:
    assert MEMBERS[what](clients, group) == ErrorCode.INVALID_GROUP_ID


@pytest.mark.kafka("GROUP-01")
@pytest.mark.parametrize(("what", "error"), [("commit", 0), ("fetch", 0), ("describe", 0), ("delete", 69)])
def test_an_empty_group_id_is_legal_for_offsets_and_administrators(clients: Clients, what: str, error: int) -> None:
    assert OTHERS[what](clients, "") == error
    if what != "delete":
        assert OTHERS[what](clients, None) == ErrorCode.INVALID_GROUP_ID


@pytest.mark.kafka("GROUP-02")
@pytest.mark.parametrize("what", [*MEMBERS, *OTHERS])
def test_the_wrong_broker_says_so(clients: Clients, what: str) -> None:
    clients.stable()
    clients.coordinator.unload(group_partition(GROUP), 1)
    assert (MEMBERS | OTHERS)[what](clients, GROUP) == ErrorCode.NOT_COORDINATOR


@pytest.mark.kafka("GROUP-03")
@pytest.mark.parametrize("what", [*MEMBERS, *OTHERS])
def test_while_a_partition_is_loaded_its_groups_wait(clients: Clients, what: str) -> None:
    clients.coordinator.unload(group_partition(GROUP), 1)
    clients.coordinator.begin_load(group_partition(GROUP), 2)
    expected = {"sync": ErrorCode.REBALANCE_IN_PROGRESS, "heartbeat": ErrorCode.NONE}
    assert (MEMBERS | OTHERS)[what](clients, GROUP) == expected.get(what, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)


@pytest.mark.parametrize("what", [*MEMBERS, *OTHERS])
def test_a_closed_coordinator_is_not_available(clients: Clients, what: str) -> None:
    clients.coordinator.close()
    assert (MEMBERS | OTHERS)[what](clients, GROUP) == ErrorCode.COORDINATOR_NOT_AVAILABLE
    assert clients.coordinator.list_groups().error == ErrorCode.COORDINATOR_NOT_AVAILABLE


# ---- list


@pytest.mark.kafka("GROUP-76")
def test_groups_are_listed_with_protocol_type_and_state(clients: Clients) -> None:
    clients.stable(group="stable")
    clients.stable(group="rebalancing", protocol_type="connect")
    clients.join(group="rebalancing", protocol_type="connect")
    clients.committed(group="offsets")
    response = clients.coordinator.list_groups()
    assert response.error == ErrorCode.NONE
    assert [(one.group_id, one.protocol_type, one.state, one.group_type) for one in response.groups] == [
        ("stable", "consumer", "Stable", "classic"),
        ("rebalancing", "connect", "PreparingRebalance", "classic"),
        ("offsets", "", "Empty", "classic"),
    ]


@pytest.mark.kafka("GROUP-76")
def test_groups_are_listed_by_state_and_type_in_any_case(clients: Clients) -> None:
    clients.stable(group="stable")
    clients.committed(group="offsets")

    def listed(*arguments: Any) -> list[str]:
        return [one.group_id for one in clients.coordinator.list_groups(*arguments).groups]

    assert listed(["sTABLE"]) == ["stable"]
    assert listed(["Empty", "stable"]) == ["stable", "offsets"]
    assert listed(["Dead", "nonsense"]) == []
    assert listed([], ["Classic"]) == ["stable", "offsets"]
    assert listed([], ["consumer"]) == []


@pytest.mark.kafka("GROUP-76")
def test_while_a_partition_is_loaded_the_known_groups_are_listed(clients: Clients) -> None:
    clients.stable()
    other = (group_partition(GROUP) + 1) % 50
    clients.coordinator.unload(other, 1)
    clients.coordinator.begin_load(other, 2)
    response = clients.coordinator.list_groups()
    assert response.error == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
    assert [one.group_id for one in response.groups] == [GROUP]


# ---- describe


@pytest.mark.kafka("GROUP-77")
@pytest.mark.parametrize(("version", "error"), [(0, 0), (5, 0), (6, 69)])
def test_an_unknown_group_is_dead(clients: Clients, version: int, error: int) -> None:
    (described,) = clients.coordinator.describe_groups(["unknown"], version)
    assert described == DescribedGroup(error=ErrorCode(error), group_id="unknown", state="Dead")


@pytest.mark.kafka("GROUP-77")
def test_a_stable_group_is_described_with_metadata_and_assignments(clients: Clients) -> None:
    first, second = clients.stable(2)
    (described,) = clients.coordinator.describe_groups([GROUP])
    assert (described.state, described.protocol_type, described.protocol_name) == ("Stable", "consumer", "range")
    assert [(one.member_id, one.metadata, one.assignment) for one in described.members] == [
        (first, b"r", first.encode()),
        (second, b"r", second.encode()),
    ]
    assert {(one.client_id, one.client_host) for one in described.members} == {("c", "/127.0.0.1")}


@pytest.mark.kafka("GROUP-77")
def test_a_group_in_a_rebalance_is_described_without_them(clients: Clients) -> None:
    clients.stable(2)
    clients.join()
    (described,) = clients.coordinator.describe_groups([GROUP])
    assert (described.state, described.protocol_name, len(described.members)) == ("PreparingRebalance", "", 3)
    assert {(one.metadata, one.assignment) for one in described.members} == {(b"", b"")}


# ---- delete


@pytest.mark.kafka("GROUP-78")
def test_empty_groups_are_deleted_with_their_offsets(clients: Clients) -> None:
    (member,) = clients.stable()
    clients.committed(member_id=member, generation=1)
    clients.leave(member)
    clients.committed(group="offsets")
    clients.committed(group="")
    clients.stable(group="active")
    assert deleted(clients, GROUP, "offsets", "active", "unknown", "") == {
        GROUP: 0,
        "offsets": 0,
        "active": ErrorCode.NON_EMPTY_GROUP,
        "unknown": ErrorCode.GROUP_ID_NOT_FOUND,
        "": 0,
    }
    assert clients.listed() == clients.restarted().listed() == {"active"}
    assert clients.offset() == -1
    assert deleted(clients) == {}


@pytest.mark.kafka("GROUP-78")
def test_a_group_that_cannot_be_deleted_in_the_log_stays(clients: Clients) -> None:
    clients.committed()
    clients.holds_writes = True
    pending = clients.coordinator.delete_groups([GROUP, "unknown"])
    clients.settle()
    assert not pending.is_answered
    clients.fail(ErrorCode.NOT_LEADER_OR_FOLLOWER)
    assert answer(pending).errors == {GROUP: ErrorCode.NOT_COORDINATOR, "unknown": ErrorCode.GROUP_ID_NOT_FOUND}
    assert clients.offset() == 1


def test_a_commit_under_way_is_deleted_with_its_group(clients: Clients) -> None:
    clients.committed()
    clients.holds_writes = True
    clients.commit({("t", 1): 1})
    clients.commit({("t", 2): 1}, producer_id=9)
    pending = clients.coordinator.delete_groups([GROUP])
    clients.release()
    assert answer(pending).errors == {GROUP: ErrorCode.NONE}
    assert clients.listed() == clients.restarted().listed() == set()


def test_a_member_that_joins_before_its_group_is_deleted_stays(clients: Clients) -> None:
    clients.committed()
    clients.holds_writes = True
    pending = clients.coordinator.delete_groups([GROUP])
    member = clients.joined().member_id
    clients.release()
    assert answer(pending).errors == {GROUP: ErrorCode.NONE}
    clients.assign([member])
    assert clients.fetch() == clients.restarted().fetch() == {}
    assert clients.restarted().state() == "Stable"


def test_an_id_that_was_handed_out_does_not_outlive_its_group_in_the_timers(clients: Clients) -> None:
    clients.joined(version=4)
    assert deleted(clients, GROUP) == {GROUP: 0}
    clients.pass_ms(SESSION_MS)
    assert clients.listed() == set()
    assert clients.coordinator.next_deadline_ms is None


# ---- settings


def test_settings_are_checked_under_kafkas_names() -> None:
    with pytest.raises(ValueError, match=r"group\.max\.size is 0; its range is: 1 to 2147483647"):
        GroupConfig(group_max_size=0)
    with pytest.raises(TypeError, match=r"offset\.metadata\.max\.bytes"):
        GroupConfig(offset_metadata_max_bytes="4096")  # type: ignore[arg-type]


def test_reprs_say_what_one_would_ask(clients: Clients) -> None:
    clients.stable()
    assert "groups 1" in repr(clients.coordinator)
    group = clients.coordinator._desk.groups[GROUP]
    assert repr(group) == "<Group g Stable generation 1 members 1 joined 0 pending 0>"
    assert repr(clients.join()) == "<Pending v3 None>"
    assert LoadedGroups().group_ids() == set()
