"""Static members: they come back under a new id without a rebalance, and fence who uses the old one."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.group_clients import REBALANCE_MS, SESSION_MS, Clients, answer

from logstore.groups import ErrorCode, LeavingMember

BOTH = (("range", b"a"), ("roundrobin", b"b"))


@pytest.fixture
def clients() -> Clients:
    return Clients()


def pair(clients: Clients, **more: Any) -> tuple[str, str]:
    """A Stable group of the static leader `one` and the static follower `two`, generation 2."""
    first = clients.joined(instance="one", version=5, **more).member_id
    second = clients.join(instance="two", version=5, **more)
    clients.join(first, instance="one", version=5, **more)
    members = [first, answer(second).member_id]
    generation = clients.generation()
    for number, member in enumerate(members):
        assignments = {} if number else {one: one.encode() for one in members}
        assert answer(clients.sync(member, generation, assignments)).error == ErrorCode.NONE
    return first, members[1]


@pytest.mark.kafka("GROUP-39")
def test_a_static_member_joins_at_once(clients: Clients) -> None:
    response = clients.joined(instance="one", version=5)
    assert (response.error, response.generation_id) == (ErrorCode.NONE, 1)
    assert response.member_id.startswith("one-")
    assert response.members[0].group_instance_id == "one"


@pytest.mark.kafka("GROUP-40")
def test_a_static_member_comes_back_without_a_rebalance(clients: Clients) -> None:
    first, second = pair(clients)
    response = clients.joined(instance="two", version=5)
    assert response.member_id.startswith("two-")
    assert response.member_id != second
    assert (response.error, response.generation_id, response.leader) == (ErrorCode.NONE, 2, first)
    assert clients.heartbeat(first, 2) == ErrorCode.NONE
    assert answer(clients.sync(response.member_id, 2, instance="two")).assignment == second.encode()


@pytest.mark.kafka("GROUP-40")
def test_the_new_id_is_what_a_restart_finds(clients: Clients) -> None:
    _, second = pair(clients)
    new = clients.joined(instance="two", version=5).member_id
    after = clients.restarted()
    assert after.heartbeat(new, 2, instance="two") == ErrorCode.NONE
    assert after.heartbeat(second, 2, instance="two") == ErrorCode.FENCED_INSTANCE_ID


@pytest.mark.kafka("GROUP-41")
def test_a_leader_that_comes_back_is_told_to_skip_the_assignment(clients: Clients) -> None:
    pair(clients)
    response = clients.joined(instance="one", version=9)
    assert (response.skip_assignment, response.leader) == (True, response.member_id)
    assert {member.group_instance_id for member in response.members} == {"one", "two"}
    follower = clients.joined(instance="two", version=9)
    assert (follower.skip_assignment, follower.members) == (False, ())


@pytest.mark.kafka("GROUP-41")
def test_before_version_9_a_leader_that_comes_back_is_told_that_another_leads(clients: Clients) -> None:
    first, _ = pair(clients)
    response = clients.joined(instance="one", version=8)
    assert (response.skip_assignment, response.leader, response.members) == (False, first, ())


@pytest.mark.kafka("GROUP-42")
def test_a_rebalance_starts_when_another_protocol_is_chosen_now(clients: Clients) -> None:
    first, _ = pair(clients, protocols=BOTH)
    waiting = clients.join(instance="two", version=5, protocols=(("roundrobin", b"b"),))
    assert clients.heartbeat(first, 2) == ErrorCode.REBALANCE_IN_PROGRESS
    again = clients.joined(first, instance="one", version=5, protocols=BOTH)
    assert (again.protocol_name, answer(waiting).generation_id) == ("roundrobin", 3)


@pytest.mark.kafka("GROUP-43")
def test_who_uses_the_old_id_is_fenced(clients: Clients) -> None:
    _, second = pair(clients)
    clients.joined(instance="two", version=5)
    fenced = ErrorCode.FENCED_INSTANCE_ID
    assert clients.heartbeat(second, 2, instance="two") == fenced
    assert answer(clients.sync(second, 2, instance="two")).error == fenced
    assert clients.committed(member_id=second, generation=2, group_instance_id="two") == fenced
    assert clients.joined(second, instance="two", version=5).error == fenced


@pytest.mark.kafka("GROUP-44")
def test_a_join_of_the_old_id_that_waits_is_fenced(clients: Clients) -> None:
    first, second = pair(clients)
    old = clients.join(second, instance="two", version=5, protocols=(("range", b"new"),))
    new = clients.join(instance="two", version=5)
    assert (answer(old).error, answer(old).member_id) == (ErrorCode.FENCED_INSTANCE_ID, second)
    assert not new.is_answered
    clients.join(first, instance="one", version=5)
    assert answer(new).generation_id == 3


@pytest.mark.kafka("GROUP-44", "GROUP-46")
def test_a_sync_of_the_old_id_that_waits_is_fenced_and_a_rebalance_starts(clients: Clients) -> None:
    first, second = pair(clients)
    clients.join(first, instance="one", version=5)
    clients.join(second, instance="two", version=5)
    old = clients.sync(second, 3, instance="two")
    new = clients.join(instance="two", version=5)
    assert answer(old).error == ErrorCode.FENCED_INSTANCE_ID
    assert clients.heartbeat(first, 3) == ErrorCode.REBALANCE_IN_PROGRESS
    assert not new.is_answered


@pytest.mark.kafka("GROUP-45")
def test_an_instance_that_nobody_has_is_unknown(clients: Clients) -> None:
    first, _ = pair(clients)
    assert clients.joined(first, instance="three", version=5).error == ErrorCode.UNKNOWN_MEMBER_ID
    assert clients.heartbeat(first, 2, instance="three") == ErrorCode.UNKNOWN_MEMBER_ID


@pytest.mark.kafka("GROUP-46")
def test_in_a_rebalance_one_that_comes_back_waits_with_the_others(clients: Clients) -> None:
    first, _ = pair(clients)
    newcomer = clients.join()
    new = clients.join(instance="two", version=5)
    assert not new.is_answered
    clients.join(first, instance="one", version=5)
    assert answer(new).generation_id == answer(newcomer).generation_id == 3


@pytest.mark.kafka("GROUP-47")
def test_when_the_new_id_cannot_be_written_the_old_one_stays(clients: Clients) -> None:
    first, second = pair(clients)
    clients.holds_writes = True
    new = clients.join(instance="one", version=5)
    assert not new.is_answered
    clients.fail(ErrorCode.NOT_ENOUGH_REPLICAS)
    assert (answer(new).error, answer(new).member_id) == (ErrorCode.COORDINATOR_NOT_AVAILABLE, "")
    clients.release()
    assert clients.heartbeat(first, 2, instance="one") == clients.heartbeat(second, 2) == ErrorCode.NONE
    clients.pass_ms(SESSION_MS)
    assert clients.heartbeat(first, 2) == ErrorCode.UNKNOWN_MEMBER_ID


@pytest.mark.kafka("GROUP-47")
def test_a_rebalance_that_starts_before_the_new_id_is_written_takes_it_along(clients: Clients) -> None:
    first, _ = pair(clients)
    clients.holds_writes = True
    new = clients.join(instance="two", version=5)
    newcomer = clients.join()
    clients.release()
    assert not new.is_answered
    clients.join(first, instance="one", version=5)
    assert answer(new).generation_id == answer(newcomer).generation_id == 3


def test_a_rebalance_that_ended_before_the_new_id_failed_keeps_it(clients: Clients) -> None:
    first, _ = pair(clients)
    clients.holds_writes = True
    new = clients.join(instance="two", version=5)
    clients.join()
    clients.join(first, instance="one", version=5)
    assert answer(new).generation_id == 3
    clients.fail(ErrorCode.REQUEST_TIMED_OUT)
    assert clients.heartbeat(answer(new).member_id, 3, instance="two") == ErrorCode.NONE


@pytest.mark.kafka("GROUP-48")
def test_a_static_member_that_misses_a_rebalance_keeps_its_place(clients: Clients) -> None:
    more = {"session_ms": REBALANCE_MS * 3}
    first, second = pair(clients, **more)
    clients.join(**more)
    again = clients.join(first, instance="one", version=5, **more)
    clients.pass_ms(REBALANCE_MS)
    response = answer(again)
    assert response.generation_id == 3
    assert second in {member.member_id for member in response.members}
    assert clients.heartbeat(second, 3, instance="two") == ErrorCode.NONE


@pytest.mark.kafka("GROUP-48")
def test_a_static_member_goes_with_its_session(clients: Clients) -> None:
    first, second = pair(clients)
    clients.join()
    again = clients.join(first, instance="one", version=5)
    clients.pass_ms(SESSION_MS)
    assert second not in {member.member_id for member in answer(again).members}


@pytest.mark.kafka("GROUP-16", "GROUP-48")
def test_another_leads_while_a_static_leader_misses_a_rebalance(clients: Clients) -> None:
    more = {"session_ms": REBALANCE_MS * 3}
    first, second = pair(clients, **more)
    again = clients.join(second, instance="two", version=5, protocols=(("range", b"new"),), **more)
    clients.pass_ms(REBALANCE_MS)
    assert answer(again).leader == second
    assert {member.member_id for member in answer(again).members} == {first, second}


@pytest.mark.kafka("GROUP-21")
def test_one_that_comes_back_and_never_syncs_is_removed(clients: Clients) -> None:
    first, second = pair(clients)
    for member, instance in ((first, "one"), (second, "two")):
        clients.join(member, instance=instance, version=5)
    clients.sync(first, 3, {first: b"1"}, instance="one")
    new = clients.joined(instance="two", version=5).member_id
    for _ in range(REBALANCE_MS // 3_000):
        assert clients.heartbeat(new, 3) == clients.heartbeat(first, 3) == ErrorCode.NONE
        clients.pass_ms(3_000)
    assert clients.heartbeat(new, 3) == ErrorCode.UNKNOWN_MEMBER_ID


def test_where_only_static_members_are_left_and_none_comes_their_sessions_tell(clients: Clients) -> None:
    more = {"session_ms": 200_000}
    pair(clients, **more)
    newcomer = clients.join(version=3, **more)
    clients.leave("c-id3")
    assert answer(newcomer).error == ErrorCode.UNKNOWN_MEMBER_ID
    clients.pass_ms(REBALANCE_MS * 2)
    assert (clients.state(), clients.generation()) == ("PreparingRebalance", 2)
    clients.pass_ms(200_000)
    assert (clients.state(), clients.generation()) == ("Empty", 3)


@pytest.mark.kafka("GROUP-49")
def test_an_administrator_removes_a_static_member_by_its_instance(clients: Clients) -> None:
    first, second = pair(clients)
    left = clients.leave(LeavingMember("", "two"), LeavingMember("", "three"), LeavingMember("", None))
    assert [one.error for one in left.members] == [0, 25, 25]
    assert clients.heartbeat(second, 2, instance="two") == ErrorCode.UNKNOWN_MEMBER_ID
    assert clients.heartbeat(first, 2) == ErrorCode.REBALANCE_IN_PROGRESS
