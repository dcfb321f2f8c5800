"""Committed offsets: who may commit, what is refused, what a fetch sees, and what transactions leave."""

from __future__ import annotations

import pytest
from helpers.group_clients import BEGIN_MS, GROUP, Clients, answer

from logstore.groups import (
    CommitOffset,
    ErrorCode,
    FetchedOffset,
    OffsetAndMetadata,
    OffsetRecord,
    Write,
    decode,
    group_partition,
)
from logstore.groups.group_offsets import GroupOffsets
from logstore.groups.loading import StoredOffset
from logstore.names import TopicPartition
from logstore.records import ControlType, iter_batches

UNSTABLE = FetchedOffset(error=ErrorCode.UNSTABLE_OFFSET_COMMIT)


@pytest.fixture
def clients() -> Clients:
    return Clients()


def records(clients: Clients, group: str = GROUP) -> list[object]:
    """What the log has of the partition of a group, decoded."""
    log = bytes(clients.logs.get(group_partition(group), b""))
    return [decode(one.key, one.value) for batch in iter_batches(log) for one in batch.records()]


# ---- who may commit


@pytest.mark.kafka("GROUP-52")
def test_a_member_fetches_what_it_committed(clients: Clients) -> None:
    (member,) = clients.stable()
    commit = {("t", 0): CommitOffset(5, 7, "note"), ("t", 1): CommitOffset(6)}
    response = answer(clients.commit(commit, member_id=member, generation=1))
    assert set(response.errors.values()) == {ErrorCode.NONE}
    assert clients.fetch(("t", 0), ("t", 1)) == {("t", 0): FetchedOffset(5, 7, "note"), ("t", 1): FetchedOffset(6)}
    assert clients.restarted().fetch() == clients.fetch()


@pytest.mark.kafka("GROUP-53")
def test_without_a_generation_anybody_commits_to_a_group_without_members(clients: Clients) -> None:
    assert clients.committed() == ErrorCode.NONE
    assert clients.committed(2, member_id="anybody") == ErrorCode.NONE
    assert clients.committed(3, group_instance_id="any") == ErrorCode.NONE
    assert (clients.offset(), clients.state()) == (3, "Empty")


@pytest.mark.kafka("GROUP-54")
def test_without_a_generation_nobody_commits_to_an_active_group(clients: Clients) -> None:
    clients.stable()
    assert clients.committed() == ErrorCode.UNKNOWN_MEMBER_ID
    assert clients.committed(member_id="stranger") == ErrorCode.UNKNOWN_MEMBER_ID


@pytest.mark.kafka("GROUP-55")
def test_a_missing_group_has_no_generation(clients: Clients) -> None:
    assert clients.committed(member_id="m", generation=0) == ErrorCode.ILLEGAL_GENERATION
    assert clients.listed() == set()


@pytest.mark.kafka("GROUP-56")
def test_a_commit_belongs_to_a_member_and_a_generation(clients: Clients) -> None:
    member = clients.joined().member_id
    assert clients.committed(member_id=member, generation=1) == ErrorCode.REBALANCE_IN_PROGRESS
    clients.assign([member])
    assert clients.committed(member_id="m", generation=1) == ErrorCode.UNKNOWN_MEMBER_ID
    assert clients.committed(member_id=member, generation=2) == ErrorCode.ILLEGAL_GENERATION
    clients.join()
    assert clients.committed(member_id=member, generation=1) == ErrorCode.NONE
    clients.coordinator.close()
    assert clients.committed(member_id=member, generation=1) == ErrorCode.COORDINATOR_NOT_AVAILABLE


# ---- what is refused for one partition


@pytest.mark.kafka("GROUP-57")
def test_metadata_that_is_too_long_is_refused_for_its_partition_only(clients: Clients) -> None:
    commits = {
        ("t", 0): CommitOffset(1, metadata="x" * 4_097),
        ("t", 1): CommitOffset(1, metadata="é" * 4_096),
        ("t", 2): CommitOffset(1, metadata="\N{GRINNING FACE}" * 2_049),
        ("t", 3): CommitOffset(1, metadata=None),
        ("t", 4): CommitOffset(1, metadata="\ud800"),
    }
    response = answer(clients.commit(commits))
    assert list(response.errors.values()) == [12, 0, 12, 0, 12]
    assert set(clients.fetch()) == {("t", 1), ("t", 3)}
    assert clients.fetch()[("t", 3)].metadata == ""


@pytest.mark.kafka("GROUP-57")
def test_a_commit_of_which_nothing_is_left_makes_no_group(clients: Clients) -> None:
    response = answer(clients.commit({("t", 0): CommitOffset(1, metadata="x" * 4_097)}))
    assert list(response.errors.values()) == [ErrorCode.OFFSET_METADATA_TOO_LARGE]
    assert clients.listed() == set()


@pytest.mark.kafka("GROUP-58")
def test_an_unknown_partition_is_refused_and_the_others_are_stored(clients: Clients) -> None:
    clients.unknown.add(TopicPartition("t", 0))
    response = answer(clients.commit({("t", 0): 1, ("t", 1): 1}))
    assert list(response.errors.values()) == [ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ErrorCode.NONE]
    assert set(clients.fetch()) == {("t", 1)}


@pytest.mark.kafka("GROUP-59")
@pytest.mark.parametrize(
    ("log_error", "error"), [(3, 15), (19, 15), (20, 15), (6, 16), (56, 16), (7, 7), (10, 28), (18, 28), (-1, -1)]
)
def test_a_commit_that_cannot_be_written_leaves_the_old_offset(clients: Clients, log_error: int, error: int) -> None:
    clients.committed(1)
    clients.holds_writes = True
    failing = clients.commit({("t", 0): 2})
    assert clients.offset() == 1
    clients.fail(ErrorCode(log_error))
    assert list(answer(failing).errors.values()) == [error]
    assert (clients.offset(), clients.fetch(("t", 0), stable=True)[("t", 0)].error) == (1, ErrorCode.NONE)


@pytest.mark.kafka("GROUP-59")
def test_a_group_that_a_failed_commit_would_have_made_is_not_there(clients: Clients) -> None:
    clients.holds_writes = True
    clients.commit({("t", 0): 2})
    clients.fail(ErrorCode.NOT_ENOUGH_REPLICAS)
    assert clients.listed() == set()


@pytest.mark.kafka("GROUP-60")
def test_a_smaller_offset_that_is_committed_later_wins(clients: Clients) -> None:
    clients.committed(9)
    clients.committed(4)
    assert clients.offset() == clients.restarted().offset() == 4


@pytest.mark.kafka("GROUP-60")
def test_the_order_of_the_log_counts_not_that_of_the_news() -> None:
    offsets, partition = GroupOffsets(), TopicPartition("t", 0)
    offsets.begin([partition, partition], -1)
    offsets.end(partition, -1, StoredOffset(8, OffsetAndMetadata(2)))
    offsets.end(partition, -1, StoredOffset(7, OffsetAndMetadata(1)))
    assert offsets.committed[partition].value.offset == 2
    assert not offsets.is_pending(partition)


def test_a_tombstone_removes_what_is_before_it_in_the_log() -> None:
    partition = TopicPartition("t", 0)
    offsets = GroupOffsets({partition: StoredOffset(7, OffsetAndMetadata(1))})
    offsets.load_transaction(9, {partition: StoredOffset(9, OffsetAndMetadata(2))})
    offsets.remove(partition, 7)
    assert partition in offsets.committed
    offsets.remove(partition, 8)
    assert not offsets.committed
    assert offsets.is_pending(partition)
    offsets.remove(partition, 10)
    assert not offsets


def test_what_a_record_cannot_hold_is_the_callers_mistake_and_changes_nothing(clients: Clients) -> None:
    with pytest.raises(ValueError, match="does not fit into 64 bits"):
        clients.commit({("t", 0): 2**63})
    assert clients.listed() == set()


def test_a_commit_says_when_it_was_and_may_have_its_own_expiry(clients: Clients) -> None:
    clients.commit({("t", 0): CommitOffset(1, 5, commit_timestamp=77)})
    clients.commit({("t", 0): CommitOffset(2, 5)}, retention_ms=1_000)
    clients.commit({("t", 0): CommitOffset(3, 5)}, retention_ms=-1)
    partition = TopicPartition("t", 0)
    assert records(clients) == [
        OffsetRecord(GROUP, partition, OffsetAndMetadata(1, 5, "", 77)),
        OffsetRecord(GROUP, partition, OffsetAndMetadata(2, -1, "", BEGIN_MS, BEGIN_MS + 1_000)),
        OffsetRecord(GROUP, partition, OffsetAndMetadata(3, 5, "", BEGIN_MS)),
    ]


# ---- fetch


@pytest.mark.kafka("GROUP-61")
def test_what_nobody_committed_is_no_error(clients: Clients) -> None:
    nothing = {("t", 0): FetchedOffset(-1, -1, "", ErrorCode.NONE)}
    assert clients.fetch(("t", 0)) == nothing
    clients.committed()
    assert clients.fetch(("u", 0)) == {("u", 0): FetchedOffset()}
    assert clients.fetch(("t", 0), group="other") == nothing


@pytest.mark.kafka("GROUP-62")
def test_all_that_is_committed_is_fetched_when_no_partitions_are_named(clients: Clients) -> None:
    assert clients.fetch() == {}
    clients.commit({("t", 0): 1, ("t", 1): 2, ("u", 0): 3})
    assert {one: fetched.offset for one, fetched in clients.fetch().items()} == {
        ("t", 0): 1,
        ("t", 1): 2,
        ("u", 0): 3,
    }


@pytest.mark.parametrize("state", ["CompletingRebalance", "PreparingRebalance"])
def test_offsets_are_fetched_in_any_state(clients: Clients, state: str) -> None:
    clients.committed(3)
    clients.joined()
    if state == "PreparingRebalance":
        clients.join()
    assert (clients.state(), clients.offset()) == (state, 3)


@pytest.mark.kafka("GROUP-64")
def test_a_commit_that_is_not_in_the_log_yet_is_unstable(clients: Clients) -> None:
    clients.committed(1)
    clients.holds_writes = True
    clients.commit({("t", 0): 2})
    assert clients.fetch(("t", 0), stable=True) == {("t", 0): UNSTABLE}
    assert clients.offset() == 1
    clients.release()
    assert clients.offset(stable=True) == 2


@pytest.mark.kafka("GROUP-64")
@pytest.mark.parametrize(("marker", "offset"), [(ControlType.COMMIT, 2), (ControlType.ABORT, 1)])
def test_a_transactions_commit_is_unstable_until_its_marker(clients: Clients, marker: ControlType, offset: int) -> None:
    clients.commit({("t", 0): 1, ("t", 1): 1})
    assert clients.committed(2, producer_id=9) == ErrorCode.NONE
    assert clients.fetch(("t", 0), ("t", 1), stable=True) == {("t", 0): UNSTABLE, ("t", 1): FetchedOffset(1)}
    assert clients.offset() == 1
    clients.end_transaction(9, marker)
    assert clients.offset(stable=True) == clients.restarted().offset(stable=True) == offset


# ---- transactions


@pytest.mark.kafka("GROUP-67")
def test_an_open_transaction_is_found_again_after_a_restart(clients: Clients) -> None:
    clients.committed(2, producer_id=9)
    after = clients.restarted()
    assert after.fetch(("t", 0), stable=True) == {("t", 0): UNSTABLE}
    assert after.offset() == -1
    after.end_transaction(9, ControlType.COMMIT)
    assert after.offset(stable=True) == 2


@pytest.mark.kafka("GROUP-67")
def test_an_aborted_transaction_leaves_nothing(clients: Clients) -> None:
    clients.committed(2, producer_id=9)
    clients.end_transaction(9, ControlType.ABORT)
    assert clients.listed() == clients.restarted().listed() == set()


@pytest.mark.kafka("GROUP-68")
def test_a_plain_commit_after_a_transactional_one_stays(clients: Clients) -> None:
    clients.committed(2, producer_id=9)
    clients.committed(1)
    clients.end_transaction(9, ControlType.COMMIT)
    assert clients.offset() == clients.restarted().offset() == 1


@pytest.mark.kafka("GROUP-68")
def test_a_transactional_commit_after_a_plain_one_wins(clients: Clients) -> None:
    clients.committed(1)
    clients.committed(2, producer_id=9)
    clients.end_transaction(9, ControlType.COMMIT)
    assert clients.offset() == clients.restarted().offset() == 2


def test_a_transactional_commit_that_cannot_be_written_is_not_pending(clients: Clients) -> None:
    clients.holds_writes = True
    clients.commit({("t", 0): 2}, producer_id=9)
    clients.fail(ErrorCode.NOT_LEADER_OR_FOLLOWER)
    assert clients.fetch(("t", 0), stable=True) == {("t", 0): FetchedOffset()}


def test_a_marker_ends_the_transaction_in_its_partitions_only(clients: Clients) -> None:
    other = next(f"g{n}" for n in range(99) if group_partition(f"g{n}") != group_partition(GROUP))
    for group in (GROUP, other):
        clients.committed(2, producer_id=9, group=group)
    clients.end_transaction(9, ControlType.COMMIT)
    clients.end_transaction(8, ControlType.COMMIT)
    assert (clients.offset(), clients.offset(group=other)) == (2, -1)
    clients.end_transaction(9, ControlType.COMMIT, other)
    assert clients.offset(group=other) == 2


def test_a_transactional_commit_says_who_it_is_or_nothing(clients: Clients) -> None:
    (member,) = clients.stable()
    assert clients.committed(producer_id=9) == ErrorCode.NONE
    assert clients.committed(producer_id=9, member_id=member, generation=1) == ErrorCode.NONE
    assert clients.committed(producer_id=9, member_id=member, generation=2) == ErrorCode.ILLEGAL_GENERATION
    assert clients.committed(producer_id=9, member_id="m", generation=1) == ErrorCode.UNKNOWN_MEMBER_ID
    clients.joined(member)
    assert clients.state() == "CompletingRebalance"
    assert clients.committed(producer_id=9, member_id=member, generation=2) == ErrorCode.NONE
    assert clients.committed(producer_id=9, group="") == ErrorCode.INVALID_GROUP_ID


def test_a_write_is_told_its_end_once(clients: Clients) -> None:
    clients.holds_writes = True
    clients.commit({("t", 0): 1})
    write: Write = clients.held[0]
    clients.release()
    assert write.is_ended
    with pytest.raises(ValueError, match="has been told"):
        clients.coordinator.failed(write, ErrorCode.REQUEST_TIMED_OUT)
