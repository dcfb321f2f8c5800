"""Partitions that come and go: what a coordinator takes over from the log, and what it tells those who wait."""

from __future__ import annotations

import pytest
from helpers.group_clients import GROUP, SESSION_MS, Clients, answer, subscription

from logstore.groups import ErrorCode, LoadedGroups, StoredGroup, StoredMember, group_partition

HERE = group_partition(GROUP)


@pytest.fixture
def clients() -> Clients:
    return Clients()


def take_over(clients: Clients, epoch: int) -> bool:
    """Become coordinator of the group's partition."""
    begun = clients.coordinator.begin_load(HERE, epoch)
    return begun and clients.coordinator.finish_load(HERE, epoch, clients.loaded(HERE))


@pytest.mark.kafka("GROUP-65")
def test_members_go_on_after_a_restart(clients: Clients) -> None:
    first, second = clients.stable(2)
    clients.committed(7, member_id=first, generation=2)
    after = clients.restarted()
    assert after.heartbeat(first, 2) == after.heartbeat(second, 2) == ErrorCode.NONE
    assert after.offset() == 7
    assert answer(after.sync(second, 2)).assignment == second.encode()
    assert after.coordinator.describe_groups([GROUP]) == clients.coordinator.describe_groups([GROUP])
    assert not after.join(first).is_answered  # it still leads


@pytest.mark.kafka("GROUP-65")
def test_after_a_restart_a_members_session_begins_anew(clients: Clients) -> None:
    (member,) = clients.stable()
    after = clients.restarted()
    after.pass_ms(SESSION_MS - 1)
    assert after.heartbeat(member, 1) == ErrorCode.NONE
    after.pass_ms(SESSION_MS)
    assert (after.state(), after.generation()) == ("Empty", 2)


@pytest.mark.kafka("GROUP-65")
def test_a_partition_moves_away_and_comes_back(clients: Clients) -> None:
    (member,) = clients.stable()
    assert clients.coordinator.unload(HERE, 1)
    assert clients.heartbeat(member, 1) == ErrorCode.NOT_COORDINATOR
    assert clients.coordinator.next_deadline_ms is None
    assert take_over(clients, 2)
    assert clients.heartbeat(member, 1) == ErrorCode.NONE


@pytest.mark.kafka("GROUP-69")
def test_a_group_without_members_is_loaded_as_empty(clients: Clients) -> None:
    clients.coordinator.unload(HERE, 1)
    clients.coordinator.begin_load(HERE, 2)
    empty = StoredGroup("consumer", 4, None, None, -1)
    assert clients.coordinator.finish_load(HERE, 2, LoadedGroups(groups={GROUP: empty}))
    assert (clients.state(), clients.generation()) == ("Empty", 4)
    assert clients.coordinator._desk.groups[GROUP].state_timestamp is None
    assert clients.joined().generation_id == 5


@pytest.mark.kafka("GROUP-69")
def test_offsets_without_a_group_record_make_an_empty_group(clients: Clients) -> None:
    clients.committed(3)
    after = clients.restarted()
    assert (after.state(), after.offset(), after.generation()) == ("Empty", 3, 0)


def test_a_record_that_names_a_member_twice_has_it_once(clients: Clients) -> None:
    clients.coordinator.unload(HERE, 1)
    clients.coordinator.begin_load(HERE, 2)
    one = StoredMember("m", "i", "c", "/h", 60_000, 10_000, subscription("t"), b"as")
    twin = StoredMember("n", "i", "c", "/h", 60_000, 10_000, subscription("t"), b"as")
    stored = StoredGroup("consumer", 4, "range", "gone", 1, (one, one, twin))
    clients.coordinator.finish_load(HERE, 2, LoadedGroups(groups={GROUP: stored}))
    assert clients.heartbeat("m", 4, instance="i") == ErrorCode.NONE
    assert clients.heartbeat("n", 4) == ErrorCode.UNKNOWN_MEMBER_ID
    clients.pass_ms(10_000)
    assert clients.state() == "Empty"


@pytest.mark.kafka("GROUP-70")
def test_old_news_of_a_partition_are_ignored(clients: Clients) -> None:
    (member,) = clients.stable()
    assert clients.coordinator.unload(HERE, 5)
    assert take_over(clients, 7)
    assert not clients.coordinator.unload(HERE, 6)
    assert clients.heartbeat(member, 1) == ErrorCode.NONE
    assert clients.coordinator.unload(HERE, 8)
    assert not clients.coordinator.begin_load(HERE, 7)
    assert clients.heartbeat(member, 1) == ErrorCode.NOT_COORDINATOR


@pytest.mark.kafka("GROUP-70")
def test_what_was_loaded_for_an_older_epoch_is_not_taken(clients: Clients) -> None:
    (member,) = clients.stable()
    loaded = clients.loaded(HERE)
    clients.coordinator.unload(HERE, 1)
    assert clients.coordinator.begin_load(HERE, 2)
    assert not clients.coordinator.begin_load(HERE, 2)
    assert clients.coordinator.unload(HERE, 3)
    assert not clients.coordinator.finish_load(HERE, 2, loaded)
    assert clients.coordinator.begin_load(HERE, 4)
    assert clients.coordinator.begin_load(HERE, 5)
    assert not clients.coordinator.finish_load(HERE, 4, loaded)
    assert clients.coordinator.finish_load(HERE, 5, loaded)
    assert clients.heartbeat(member, 1) == ErrorCode.NONE


def test_a_newer_epoch_of_a_partition_that_is_here_changes_nothing_but_the_epoch(clients: Clients) -> None:
    clients.stable()
    assert not clients.coordinator.begin_load(HERE, 9)
    clients.holds_writes = True
    clients.commit({("t", 0): 1}, producer_id=9)
    assert [write.leader_epoch for write in clients.held] == [9]
    assert clients.state() == "Stable"
    assert not clients.coordinator.unload(HERE, 8)


def test_a_deleted_partition_is_unloaded_in_any_epoch_and_begins_again_at_the_first(clients: Clients) -> None:
    clients.coordinator.begin_load(HERE, 9)
    clients.stable()
    assert clients.coordinator.unload(HERE)
    assert clients.listed() == set()
    assert take_over(clients, 0)


@pytest.mark.kafka("GROUP-71")
def test_joins_that_wait_are_told_that_the_coordinator_has_moved(clients: Clients) -> None:
    (member,) = clients.stable()
    waiting = clients.join(version=9, instance="s")
    clients.coordinator.unload(HERE, 1)
    response = answer(waiting)
    assert (response.error, response.protocol_name) == (ErrorCode.NOT_COORDINATOR, None)
    assert clients.heartbeat(member, 1) == ErrorCode.NOT_COORDINATOR
    clients.pass_ms(1_000_000)


@pytest.mark.kafka("GROUP-71")
def test_syncs_that_wait_are_told_that_the_coordinator_has_moved(clients: Clients) -> None:
    first, second = clients.stable(2)
    clients.join(first)
    clients.join(second)
    clients.holds_writes = True
    waiting = [clients.sync(second, 3), clients.sync(first, 3, {first: b"1"})]
    clients.coordinator.unload(HERE, 1)
    assert {answer(one).error for one in waiting} == {ErrorCode.NOT_COORDINATOR}
    clients.fail(ErrorCode.NOT_LEADER_OR_FOLLOWER)


def test_writes_that_nobody_has_fetched_fail_when_the_partition_goes(clients: Clients) -> None:
    (member,) = clients.stable(1)
    clients.holds_writes = True
    fetched = clients.commit({("t", 0): 1}, member_id=member, generation=1)
    again = clients.coordinator
    pending = again.delete_groups([GROUP])
    assert answer(pending).errors == {GROUP: ErrorCode.NON_EMPTY_GROUP}
    clients.leave(member)
    pending = again.delete_groups([GROUP])
    again.unload(HERE, 1)
    assert answer(pending).errors == {GROUP: ErrorCode.NOT_COORDINATOR}
    assert not fetched.is_answered
    clients.release()
    assert set(answer(fetched).errors.values()) == {ErrorCode.NONE}
    assert take_over(clients, 2)
    assert clients.offset() == 1


def test_a_write_of_an_older_time_here_changes_nothing_when_it_ends(clients: Clients) -> None:
    clients.holds_writes = True
    late = clients.commit({("t", 0): 1})
    clients.coordinator.unload(HERE, 1)
    clients.holds_writes = False
    held, clients.held = clients.held, []
    assert take_over(clients, 2)
    clients.committed(2)
    for write in held:
        clients.coordinator.failed(write, ErrorCode.REQUEST_TIMED_OUT)
    assert set(answer(late).errors.values()) == {ErrorCode.REQUEST_TIMED_OUT}
    assert clients.offset(stable=True) == 2
