"""SyncGroup, Heartbeat and LeaveGroup: assignments, sessions, and members that go."""

from __future__ import annotations

import pytest
from helpers.group_clients import GROUP, REBALANCE_MS, SESSION_MS, Clients, answer

from logstore.groups import ErrorCode, LeavingMember


@pytest.fixture
def clients() -> Clients:
    return Clients()


def completing(clients: Clients) -> tuple[str, str]:
    """A leader and a follower who know of generation 3 and have not synced."""
    first, second = clients.stable(2)
    follower = clients.join(second, protocols=(("range", b"new"),))
    clients.join(first)
    assert answer(follower).generation_id == 3
    return first, second


# ---- sync


@pytest.mark.kafka("GROUP-21")
def test_a_member_that_never_syncs_is_removed_after_the_rebalance_timeout(clients: Clients) -> None:
    first, second = completing(clients)
    assert answer(clients.sync(first, 3, {first: b"all"})).assignment == b"all"
    for _ in range(REBALANCE_MS // 3_000):
        assert clients.heartbeat(first, 3) == clients.heartbeat(second, 3) == ErrorCode.NONE
        clients.pass_ms(3_000)
    assert clients.heartbeat(second, 3) == ErrorCode.UNKNOWN_MEMBER_ID
    assert clients.heartbeat(first, 3) == ErrorCode.REBALANCE_IN_PROGRESS


@pytest.mark.kafka("GROUP-21")
def test_a_leader_that_never_syncs_is_removed_after_the_rebalance_timeout(clients: Clients) -> None:
    first, second = completing(clients)
    waiting = clients.sync(second, 3)
    for _ in range(REBALANCE_MS // 3_000):
        assert not waiting.is_answered
        assert clients.heartbeat(first, 3) == ErrorCode.NONE
        clients.pass_ms(3_000)
    assert answer(waiting).error == ErrorCode.REBALANCE_IN_PROGRESS
    assert clients.joined(second).leader == second


@pytest.mark.kafka("GROUP-22")
def test_when_all_have_synced_nobody_is_removed(clients: Clients) -> None:
    members = clients.stable(3)
    assert clients.live(REBALANCE_MS * 2, members) == {ErrorCode.NONE}


@pytest.mark.kafka("GROUP-23")
def test_a_follower_waits_for_its_leader(clients: Clients) -> None:
    first, second = completing(clients)
    waiting = clients.sync(second, 3)
    assert not waiting.is_answered
    assert answer(clients.sync(first, 3, {first: b"1", second: b"2"})).assignment == b"1"
    assert answer(waiting).assignment == b"2"


@pytest.mark.kafka("GROUP-24")
def test_after_its_leader_a_follower_does_not_wait(clients: Clients) -> None:
    first, second = completing(clients)
    clients.sync(first, 3, {first: b"1", second: b"2", "unknown": b"3"})
    assert answer(clients.sync(second, 3)).assignment == b"2"


@pytest.mark.kafka("GROUP-25")
def test_who_is_assigned_nothing_gets_empty_bytes(clients: Clients) -> None:
    first, second = completing(clients)
    clients.sync(first, 3, {first: b"1"})
    response = answer(clients.sync(second, 3))
    assert (response.error, response.assignment) == (ErrorCode.NONE, b"")


@pytest.mark.kafka("GROUP-26")
def test_who_does_not_belong_to_the_generation_cannot_sync(clients: Clients) -> None:
    assert answer(clients.sync("m", 1)).error == ErrorCode.UNKNOWN_MEMBER_ID
    first, _ = clients.stable(2)
    assert answer(clients.sync("m", 2)).error == ErrorCode.UNKNOWN_MEMBER_ID
    assert answer(clients.sync(first, 1)).error == ErrorCode.ILLEGAL_GENERATION
    clients.join()
    assert answer(clients.sync(first, 2)).error == ErrorCode.REBALANCE_IN_PROGRESS


@pytest.mark.kafka("GROUP-27")
def test_a_sync_of_another_protocol_is_refused(clients: Clients) -> None:
    (member,) = clients.stable()
    wrong = ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    for protocol, error in (
        (("consumer", "range"), ErrorCode.NONE),
        (("connect", "range"), wrong),
        (("consumer", "sticky"), wrong),
        ((None, None), wrong),
        (("consumer", None), wrong),
    ):
        assert answer(clients.sync(member, 1, version=5, protocol=protocol)).error == error
    assert answer(clients.sync(member, 1, version=4)).error == ErrorCode.NONE
    assert answer(clients.sync(member, 1)).protocol_name == "range"


@pytest.mark.kafka("GROUP-28")
@pytest.mark.parametrize(
    ("log_error", "error"), [(7, 27), (3, 15), (19, 15), (20, 15), (6, 16), (56, 16), (10, -1), (18, -1)]
)
def test_an_assignment_that_cannot_be_written_fails_all_syncs(clients: Clients, log_error: int, error: int) -> None:
    first, second = completing(clients)
    clients.holds_writes = True
    syncs = [clients.sync(second, 3), clients.sync(first, 3, {first: b"1", second: b"2"})]
    assert not any(one.is_answered for one in syncs)
    clients.fail(ErrorCode(log_error))
    assert {answer(one).error for one in syncs} == {error}
    assert clients.state() == "PreparingRebalance"
    assert clients.heartbeat(first, 3) == ErrorCode.REBALANCE_IN_PROGRESS


@pytest.mark.kafka("GROUP-28")
def test_an_assignment_that_was_written_too_late_counts_for_nothing(clients: Clients) -> None:
    first, second = completing(clients)
    clients.holds_writes = True
    waiting = clients.sync(first, 3, {first: b"1", second: b"2"})
    clients.join(second, protocols=(("range", b"newer"),))
    assert answer(waiting).error == ErrorCode.REBALANCE_IN_PROGRESS
    clients.join(first)
    clients.release()
    assert (clients.state(), clients.generation()) == ("CompletingRebalance", 4)
    clients.assign([first, second])


def test_of_two_assignments_of_a_leader_the_first_counts_here_and_in_the_log(clients: Clients) -> None:
    (member,) = clients.stable()
    clients.join(member)
    clients.holds_writes = True
    before = clients.sync(member, 2, {member: b"first"})
    after = clients.sync(member, 2, {member: b"second"})
    clients.release()
    assert answer(before).error == ErrorCode.REBALANCE_IN_PROGRESS
    assert answer(after).assignment == b"first"
    assert answer(clients.restarted().sync(member, 2)).assignment == b"first"


@pytest.mark.kafka("GROUP-29")
def test_when_the_leader_fails_those_who_wait_for_it_join_again(clients: Clients) -> None:
    first, second = completing(clients)
    waiting = clients.sync(second, 3)
    clients.pass_ms(SESSION_MS)
    assert answer(waiting).error == ErrorCode.REBALANCE_IN_PROGRESS
    again = clients.joined(second)
    assert [member.member_id for member in again.members] == [second]
    assert clients.heartbeat(first, 3) == ErrorCode.UNKNOWN_MEMBER_ID


def test_a_sync_that_was_given_up_for_another_is_answered_too(clients: Clients) -> None:
    first, second = completing(clients)
    before, after = clients.sync(second, 3), clients.sync(second, 3)
    assert answer(before).error == ErrorCode.REBALANCE_IN_PROGRESS
    clients.sync(first, 3, {second: b"2"})
    assert answer(after).assignment == b"2"


@pytest.mark.kafka("GROUP-32")
def test_who_waits_in_sync_does_not_expire(clients: Clients) -> None:
    first, second = completing(clients)
    waiting = clients.sync(second, 3)
    assert clients.heartbeat(second, 3) == ErrorCode.NONE
    for _ in range(9):
        clients.pass_ms(6_000)
        clients.heartbeat(first, 3)
    clients.sync(first, 3, {second: b"2"})
    assert answer(waiting).assignment == b"2"
    assert clients.heartbeat(second, 3) == ErrorCode.NONE


# ---- heartbeat


@pytest.mark.kafka("GROUP-30")
def test_what_a_heartbeat_is_told(clients: Clients) -> None:
    assert clients.heartbeat("m", 1) == ErrorCode.UNKNOWN_MEMBER_ID
    clients.committed(group="offsets only")
    assert clients.heartbeat("m", 1, group="offsets only") == ErrorCode.UNKNOWN_MEMBER_ID
    member = clients.joined().member_id
    assert clients.state() == "CompletingRebalance"
    assert clients.heartbeat(member, 1) == ErrorCode.NONE
    clients.assign([member])
    assert clients.heartbeat(member, 1) == ErrorCode.NONE
    assert clients.heartbeat("m", 1) == ErrorCode.UNKNOWN_MEMBER_ID
    assert clients.heartbeat(member, 0) == clients.heartbeat(member, 2) == ErrorCode.ILLEGAL_GENERATION
    clients.join()
    assert clients.heartbeat(member, 1) == ErrorCode.REBALANCE_IN_PROGRESS
    clients.leave(member)
    assert clients.heartbeat(member, 1) == ErrorCode.UNKNOWN_MEMBER_ID
    clients.coordinator.close()
    assert clients.heartbeat(member, 1) == ErrorCode.COORDINATOR_NOT_AVAILABLE


@pytest.mark.kafka("GROUP-31")
def test_a_member_without_heartbeats_is_removed(clients: Clients) -> None:
    first, second = clients.stable(2)
    clients.pass_ms(SESSION_MS - 1)
    assert clients.heartbeat(first, 2) == ErrorCode.NONE
    clients.pass_ms(1)
    assert clients.heartbeat(second, 2) == ErrorCode.UNKNOWN_MEMBER_ID
    assert clients.heartbeat(first, 2) == ErrorCode.REBALANCE_IN_PROGRESS


@pytest.mark.kafka("GROUP-32")
@pytest.mark.parametrize("what", ["heartbeat", "commit", "join", "sync"])
def test_each_sign_of_life_begins_the_session_anew(clients: Clients, what: str) -> None:
    first, second = clients.stable(2)
    signs = {
        "heartbeat": lambda: clients.heartbeat(second, 2),
        "commit": lambda: clients.committed(member_id=second, generation=2),
        "join": lambda: clients.joined(second).error,
        "sync": lambda: answer(clients.sync(second, 2)).error,
    }
    for _ in range(3):
        clients.pass_ms(SESSION_MS - 1)
        assert signs[what]() == ErrorCode.NONE
        clients.heartbeat(first, 2)
    clients.pass_ms(SESSION_MS)
    assert clients.heartbeat(second, 2) == ErrorCode.UNKNOWN_MEMBER_ID


@pytest.mark.kafka("GROUP-33")
def test_a_member_that_sends_heartbeats_is_kept_while_the_others_join(clients: Clients) -> None:
    first, _ = clients.stable(2)
    clients.join()
    assert clients.live(SESSION_MS * 3, [first]) == {ErrorCode.REBALANCE_IN_PROGRESS}
    assert clients.joined(first).generation_id == 3


# ---- leave


@pytest.mark.kafka("GROUP-35")
def test_a_member_that_leaves_is_gone_and_the_others_join_again(clients: Clients) -> None:
    first, second = clients.stable(2)
    assert clients.leave(second).members[0].error == ErrorCode.NONE
    assert clients.heartbeat(second, 2) == ErrorCode.UNKNOWN_MEMBER_ID
    assert clients.heartbeat(first, 2) == ErrorCode.REBALANCE_IN_PROGRESS
    assert clients.joined(first).generation_id == 3


@pytest.mark.kafka("GROUP-35")
def test_a_group_that_all_have_left_is_empty_and_goes_on_counting(clients: Clients) -> None:
    (member,) = clients.stable()
    clients.leave(member)
    assert (clients.state(), clients.generation()) == ("Empty", 2)
    after = clients.restarted()
    assert (after.state(), after.generation()) == ("Empty", 2)
    assert after.joined().generation_id == clients.joined().generation_id == 3


def test_who_leaves_while_it_waits_is_answered(clients: Clients) -> None:
    _, second = completing(clients)
    waiting = clients.sync(second, 3)
    clients.leave(second)
    assert answer(waiting).error == ErrorCode.UNKNOWN_MEMBER_ID


@pytest.mark.kafka("GROUP-36")
def test_each_of_several_that_leave_has_its_own_error(clients: Clients) -> None:
    first, second = clients.stable(2)
    clients.join(instance="s", version=5)
    response = clients.leave(
        LeavingMember(second), LeavingMember("unknown"), LeavingMember(first, "s"), LeavingMember(first, "other")
    )
    assert response.error == ErrorCode.NONE
    assert [one.error for one in response.members] == [0, 25, 82, 25]
    assert clients.heartbeat(first, 2) == ErrorCode.REBALANCE_IN_PROGRESS


@pytest.mark.kafka("GROUP-37")
def test_an_id_that_was_handed_out_can_leave(clients: Clients) -> None:
    member = clients.joined(version=4).member_id
    assert clients.leave(LeavingMember(member, "s")).members[0].error == ErrorCode.UNKNOWN_MEMBER_ID
    assert clients.leave(member).members[0].error == ErrorCode.NONE
    assert clients.joined(member, version=4).error == ErrorCode.UNKNOWN_MEMBER_ID


@pytest.mark.kafka("GROUP-37")
def test_a_rebalance_goes_on_when_an_id_that_it_waits_for_leaves(clients: Clients) -> None:
    (member,) = clients.stable()
    pending = clients.joined(version=4).member_id
    waiting = clients.join(member)
    clients.leave(pending)
    assert answer(waiting).generation_id == 2


@pytest.mark.kafka("GROUP-38")
def test_an_unknown_group_cannot_be_left(clients: Clients) -> None:
    response = clients.leave("a", "b")
    assert response.error == ErrorCode.NONE
    assert [one.error for one in response.members] == [25, 25]
    for version in range(3):
        assert clients.leave("a", version=version).error == ErrorCode.UNKNOWN_MEMBER_ID


def test_up_to_version_2_one_member_leaves(clients: Clients) -> None:
    first, second = clients.stable(2)
    assert clients.leave(first, second, version=2).error == ErrorCode.INVALID_REQUEST
    assert clients.leave(second, version=2).error == ErrorCode.NONE
    assert clients.listed() == {GROUP}
