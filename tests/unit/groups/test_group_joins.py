"""JoinGroup: who gets in, when the answer comes, who leads, which protocol is chosen."""

from __future__ import annotations

import pytest
from helpers.group_clients import GROUP, REBALANCE_MS, SESSION_MS, Clients, answer

from logstore.groups import ErrorCode, JoinGroupResponse
from logstore.groups.rebalancing import NEW_MEMBER_JOIN_TIMEOUT_MS

BOTH = (("range", b"a"), ("roundrobin", b"b"))
OTHER_ORDER = (("roundrobin", b"b"), ("range", b"a"))


@pytest.fixture
def clients() -> Clients:
    return Clients()


@pytest.mark.kafka("GROUP-04")
def test_a_session_timeout_out_of_bounds_is_refused(clients: Clients) -> None:
    for session, error in ((5_999, 26), (6_000, 0), (1_800_000, 0), (1_800_001, 26)):
        assert clients.joined(group=f"g{session}", session_ms=session).error == error


@pytest.mark.kafka("GROUP-05")
def test_an_unknown_member_id_is_refused(clients: Clients) -> None:
    refused = clients.joined("me")
    assert (refused.error, refused.member_id) == (ErrorCode.UNKNOWN_MEMBER_ID, "me")
    assert clients.listed() == set()
    clients.stable()
    assert clients.joined("me").error == ErrorCode.UNKNOWN_MEMBER_ID


@pytest.mark.kafka("GROUP-06")
@pytest.mark.parametrize("version", range(4))
def test_the_first_member_of_older_versions_joins_at_once(clients: Clients, version: int) -> None:
    response = clients.joined(version=version, client_id="client")
    assert response.error == ErrorCode.NONE
    assert response.member_id.startswith("client-")
    assert (response.generation_id, response.leader) == (1, response.member_id)


@pytest.mark.kafka("GROUP-07")
def test_from_version_4_on_an_id_is_handed_out_first(clients: Clients) -> None:
    first = clients.joined(version=4)
    assert (first.error, first.generation_id) == (ErrorCode.MEMBER_ID_REQUIRED, -1)
    assert first.member_id.startswith("c-")
    second = clients.joined(first.member_id, version=4)
    assert (second.error, second.member_id, second.generation_id) == (ErrorCode.NONE, first.member_id, 1)


@pytest.mark.kafka("GROUP-07")
def test_an_id_that_nobody_comes_back_with_expires_after_the_session_timeout(clients: Clients) -> None:
    member = clients.joined(version=4).member_id
    clients.pass_ms(SESSION_MS - 1)
    assert clients.listed() == {GROUP}
    clients.pass_ms(1)
    assert clients.joined(member, version=4).error == ErrorCode.UNKNOWN_MEMBER_ID
    assert clients.listed() == set()


def test_a_rebalance_waits_for_ids_that_were_handed_out(clients: Clients) -> None:
    (member,) = clients.stable()
    clients.joined(version=4)
    waiting = clients.join(member)
    assert not waiting.is_answered
    clients.pass_ms(SESSION_MS)
    assert answer(waiting).generation_id == 2


@pytest.mark.kafka("GROUP-08")
def test_an_empty_group_takes_any_protocol_but_none(clients: Clients) -> None:
    assert clients.joined(protocols=()).error == ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert clients.joined(protocol_type="").error == ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert clients.listed() == set()
    assert clients.joined(protocol_type="connect").error == ErrorCode.NONE


@pytest.mark.kafka("GROUP-09")
def test_who_shares_no_protocol_with_all_is_refused_and_changes_nothing(clients: Clients) -> None:
    (member,) = clients.stable(protocols=BOTH)
    assert clients.joined(protocol_type="connect").error == ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert clients.joined(protocols=(("sticky", b""),)).error == ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert clients.heartbeat(member, 1) == ErrorCode.NONE
    assert (clients.state(), clients.generation()) == ("Stable", 1)


@pytest.mark.kafka("GROUP-10")
def test_a_member_that_comes_back_with_foreign_protocols_is_refused_and_stays(clients: Clients) -> None:
    first, second = clients.stable(2)
    assert clients.joined(second, protocols=(("sticky", b""),)).error == ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert clients.heartbeat(second, 2) == clients.heartbeat(first, 2) == ErrorCode.NONE


@pytest.mark.kafka("GROUP-11")
def test_members_vote_among_the_protocols_that_all_support() -> None:
    three = (("range", b"1"), ("sticky", b"2"), ("roundrobin", b"3"))
    for offers, chosen in (
        ((BOTH, OTHER_ORDER, (("roundrobin", b"b"),)), "roundrobin"),
        ((BOTH, OTHER_ORDER, BOTH), "range"),
        ((OTHER_ORDER, BOTH, OTHER_ORDER), "roundrobin"),
        ((three, BOTH), "range"),
    ):
        clients = Clients(group_initial_rebalance_delay_ms=3_000)
        pendings = [clients.join(protocols=protocols) for protocols in offers]
        clients.pass_ms(6_000)
        assert {answer(one).protocol_name for one in pendings} == {chosen}
        leading = answer(pendings[0])
        expected = [dict(protocols)[chosen] for protocols in offers]
        assert [member.metadata for member in leading.members] == expected


@pytest.mark.kafka("GROUP-12")
def test_an_empty_group_waits_for_the_initial_delay() -> None:
    clients = Clients(group_initial_rebalance_delay_ms=3_000)
    waiting = clients.join()
    clients.pass_ms(2_999)
    assert not waiting.is_answered
    clients.pass_ms(1)
    assert answer(waiting).generation_id == 1


@pytest.mark.kafka("GROUP-12")
def test_a_newcomer_extends_the_initial_delay_at_most_to_the_rebalance_timeout() -> None:
    clients = Clients(group_initial_rebalance_delay_ms=3_000)
    first = clients.join(rebalance_ms=7_000)
    for _ in range(3):
        clients.pass_ms(2_000)
        clients.join(rebalance_ms=7_000)
    assert not first.is_answered
    clients.pass_ms(999)
    assert not first.is_answered
    clients.pass_ms(1)
    assert len(answer(first).members) == 4


@pytest.mark.kafka("GROUP-12")
def test_one_newcomer_extends_the_initial_delay_once() -> None:
    clients = Clients(group_initial_rebalance_delay_ms=3_000)
    first = clients.join()
    clients.pass_ms(1_000)
    second = clients.join()
    clients.pass_ms(4_999)
    assert not first.is_answered
    clients.pass_ms(1)
    assert answer(first).generation_id == answer(second).generation_id == 1


@pytest.mark.kafka("GROUP-13")
def test_without_a_delay_the_first_join_completes_at_once(clients: Clients) -> None:
    assert clients.joined(version=3).generation_id == 1
    first, second = (clients.joined(version=4, group="v4").member_id for _ in range(2))
    assert clients.joined(first, version=4, group="v4").generation_id == 1
    assert not clients.join(second, version=4, group="v4").is_answered


@pytest.mark.kafka("GROUP-14", "GROUP-76", "GROUP-77")
def test_a_new_member_makes_all_others_join_again(clients: Clients) -> None:
    first, second = clients.stable(2)
    third = clients.join()
    assert clients.state() == "PreparingRebalance"
    assert clients.heartbeat(first, 2) == clients.heartbeat(second, 2) == ErrorCode.REBALANCE_IN_PROGRESS
    joins = [third, clients.join(first)]
    assert not any(one.is_answered for one in joins)
    joins.append(clients.join(second))
    assert {answer(one).generation_id for one in joins} == {3}


@pytest.mark.kafka("GROUP-15")
def test_a_member_that_does_not_join_again_in_time_is_removed(clients: Clients) -> None:
    first, second = clients.stable(2)
    third = clients.join()
    again = clients.join(first)
    for _ in range(REBALANCE_MS // 3_000):
        assert clients.heartbeat(second, 2) == ErrorCode.REBALANCE_IN_PROGRESS
        clients.pass_ms(3_000)
    assert answer(third).generation_id == answer(again).generation_id == 3
    assert [member.member_id for member in answer(again).members] == [first, answer(third).member_id]
    assert clients.heartbeat(second, 2) == ErrorCode.UNKNOWN_MEMBER_ID


@pytest.mark.kafka("GROUP-16")
def test_another_member_leads_when_the_leader_does_not_join_again(clients: Clients) -> None:
    first, second = clients.stable(2)
    clients.join()
    again = clients.join(second)
    clients.pass_ms(SESSION_MS)
    assert answer(again).leader == second
    assert clients.heartbeat(first, 2) == ErrorCode.UNKNOWN_MEMBER_ID


@pytest.mark.kafka("GROUP-17")
def test_a_follower_that_joins_again_unchanged_gets_the_current_generation(clients: Clients) -> None:
    first, second = clients.stable(2)
    again = clients.joined(second)
    assert (again.generation_id, again.leader, again.members) == (2, first, ())
    assert clients.state() == "Stable"


@pytest.mark.kafka("GROUP-17")
def test_a_leader_that_joins_again_unchanged_starts_a_rebalance(clients: Clients) -> None:
    first, second = clients.stable(2)
    assert not clients.join(first).is_answered
    assert clients.heartbeat(second, 2) == ErrorCode.REBALANCE_IN_PROGRESS


@pytest.mark.kafka("GROUP-18")
def test_a_follower_that_joins_again_changed_starts_a_rebalance(clients: Clients) -> None:
    first, second = clients.stable(2)
    assert not clients.join(second, protocols=(("range", b"new"),)).is_answered
    assert clients.heartbeat(first, 2) == ErrorCode.REBALANCE_IN_PROGRESS


@pytest.mark.kafka("GROUP-19")
def test_only_the_leader_is_told_of_the_members() -> None:
    clients = Clients(group_initial_rebalance_delay_ms=10)
    joins = [clients.join(protocols=(("range", b"%d" % number),)) for number in range(3)]
    clients.pass_ms(20)
    answers: list[JoinGroupResponse] = [answer(one) for one in joins]
    assert [len(one.members) for one in answers] == [3, 0, 0]
    assert [member.metadata for member in answers[0].members] == [b"0", b"1", b"2"]
    assert {one.leader for one in answers} == {answers[0].member_id}


@pytest.mark.kafka("GROUP-20")
def test_a_member_that_joins_again_before_the_assignment_gets_the_same_answer(clients: Clients) -> None:
    first = clients.joined()
    assert clients.joined(first.member_id) == first
    assert clients.state() == "CompletingRebalance"


def test_a_member_that_joins_again_changed_before_the_assignment_starts_a_rebalance(clients: Clients) -> None:
    member = clients.joined().member_id
    assert clients.joined(member, protocols=(("range", b"new"),)).generation_id == 2


def test_a_join_that_was_given_up_for_another_is_answered_too(clients: Clients) -> None:
    first, _ = clients.stable(2)
    clients.join()
    before = clients.join(first)
    clients.join(first)
    assert answer(before).error == ErrorCode.REBALANCE_IN_PROGRESS


@pytest.mark.kafka("GROUP-34")
def test_members_that_wait_in_join_do_not_expire(clients: Clients) -> None:
    first, second = clients.stable(2, session_ms=6_000, rebalance_ms=600_000)
    waiting = clients.join(second, protocols=(("range", b"new"),), rebalance_ms=600_000)
    for _ in range(60):
        clients.pass_ms(5_000)
        clients.heartbeat(first, 2)
    assert not waiting.is_answered
    assert answer(clients.join(first)).generation_id == answer(waiting).generation_id == 3


@pytest.mark.kafka("GROUP-34")
def test_a_new_member_waits_at_most_five_minutes(clients: Clients) -> None:
    (first,) = clients.stable(rebalance_ms=600_000)
    waiting = clients.join(rebalance_ms=600_000)
    for _ in range(NEW_MEMBER_JOIN_TIMEOUT_MS // 3_000):
        assert not waiting.is_answered
        clients.pass_ms(3_000)
        clients.heartbeat(first, 1)
    assert answer(waiting).error == ErrorCode.UNKNOWN_MEMBER_ID
    assert clients.joined(first).members[0].member_id == first


@pytest.mark.kafka("GROUP-50", "GROUP-51")
def test_no_more_members_than_the_maximum_are_admitted() -> None:
    clients = Clients(group_max_size=2, group_initial_rebalance_delay_ms=1_000)
    joins = [clients.join() for _ in range(5)]
    refused = [answer(one) for one in joins[2:]]
    assert {(one.error, one.member_id) for one in refused} == {(ErrorCode.GROUP_MAX_SIZE_REACHED, "")}
    clients.pass_ms(2_000)
    members = [answer(one).member_id for one in joins[:2]]
    clients.assign(members)
    assert clients.joined().error == ErrorCode.GROUP_MAX_SIZE_REACHED
    assert clients.heartbeat(members[0], 1) == ErrorCode.NONE
    again = [clients.join(member) for member in members]
    assert {answer(one).error for one in again} == {ErrorCode.NONE}


@pytest.mark.kafka("GROUP-51")
def test_ids_that_were_handed_out_above_the_maximum_find_no_room() -> None:
    clients = Clients(group_max_size=1)
    ids = [clients.joined(version=4).member_id for _ in range(3)]
    answers = [clients.joined(one, version=4) for one in ids]
    assert [one.error for one in answers] == [0, 81, 81]
    assert clients.joined(ids[1], version=4).error == ErrorCode.GROUP_MAX_SIZE_REACHED
    clients.assign(ids[:1])
    assert clients.leave(ids[2]).members[0].error == ErrorCode.UNKNOWN_MEMBER_ID


@pytest.mark.kafka("GROUP-50")
def test_the_surplus_of_a_group_that_was_loaded_is_turned_away() -> None:
    members = (clients := Clients()).stable(3)
    smaller = Clients(logs=clients.logs, group_max_size=2)
    assert smaller.heartbeat(members[0], 3) == ErrorCode.ILLEGAL_GENERATION
    assert smaller.heartbeat(members[0], 2) == ErrorCode.REBALANCE_IN_PROGRESS
    joins = [smaller.join(member) for member in members]
    assert [answer(one).error for one in joins] == [0, 0, ErrorCode.GROUP_MAX_SIZE_REACHED]
    assert {answer(one).generation_id for one in joins[:2]} == {3}


@pytest.mark.kafka("GROUP-83")
def test_in_version_0_the_session_timeout_is_the_rebalance_timeout(clients: Clients) -> None:
    first, _ = clients.stable(2, version=0, session_ms=20_000, rebalance_ms=600_000)
    waiting = clients.join(first, version=0, session_ms=20_000, protocols=(("range", b"new"),))
    clients.pass_ms(19_999)
    assert not waiting.is_answered
    clients.pass_ms(1)
    assert answer(waiting).generation_id == 3


@pytest.mark.kafka("GROUP-84")
@pytest.mark.parametrize(("version", "name"), [(5, ""), (6, ""), (7, None), (9, None)])
def test_errors_have_no_protocol(clients: Clients, version: int, name: str | None) -> None:
    refused = clients.joined("unknown", version=version)
    assert refused == JoinGroupResponse(
        error=ErrorCode.UNKNOWN_MEMBER_ID, member_id="unknown", protocol_name=name, protocol_type=None
    )


@pytest.mark.kafka("GROUP-86")
def test_the_longest_rebalance_timeout_counts(clients: Clients) -> None:
    first = clients.stable(rebalance_ms=10_000)[0]
    waiting = clients.join(rebalance_ms=30_000)
    for _ in range(9):
        clients.pass_ms(3_000)
        clients.heartbeat(first, 1)
    assert not waiting.is_answered
    clients.pass_ms(3_000)
    assert answer(waiting).generation_id == 2


def test_what_a_groups_record_cannot_hold_is_refused(clients: Clients) -> None:
    assert clients.joined(client_id="c" * 32_768).error == ErrorCode.INVALID_REQUEST
    assert clients.joined(rebalance_ms=2**31).error == ErrorCode.INVALID_REQUEST
    assert clients.joined(protocols=(("\ud800", b""),)).error == ErrorCode.INVALID_REQUEST
    assert clients.joined(group="g" * 32_768).error == ErrorCode.INVALID_GROUP_ID
    longest = clients.joined(client_id="\N{GRINNING FACE}" * 8_191)
    assert len(longest.member_id.encode()) <= 32_767
    clients.assign([longest.member_id])
    assert clients.restarted().state() == "Stable"


def test_a_new_protocol_type_can_come_once_all_have_left(clients: Clients) -> None:
    (member,) = clients.stable()
    clients.leave(member)
    response = clients.joined(protocol_type="connect", protocols=(("default", b""),))
    assert (response.generation_id, response.protocol_type, response.protocol_name) == (3, "connect", "default")
