"""Replicas are placed as Kafka places them: its tables, leaders and replicas spread evenly, racks heeded."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.cluster.assignment import (
    BrokerRack,
    InvalidPartitionsError,
    InvalidReplicationFactorError,
    MissingRackError,
    RackAwareMode,
    add_partitions,
    alternate_racks,
    assign_replicas,
)

usual = settings(deadline=None, database=None, max_examples=150)


def brokers(*racks: str | None) -> list[BrokerRack]:
    return [BrokerRack(number, rack) for number, rack in enumerate(racks)]


def plain(count: int) -> list[BrokerRack]:
    return brokers(*[None] * count)


THREE_RACKS = brokers("r1", "r1", "r1", "r2", "r2", "r2", "r3", "r3", "r3")

KNOWN = [
    [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 0], [4, 0, 1],
    [0, 2, 3], [1, 3, 4], [2, 4, 0], [3, 0, 1], [4, 1, 2],
]  # fmt: skip


@pytest.mark.kafka("PART-07")
def test_five_brokers_and_ten_partitions_give_the_known_table() -> None:
    assert assign_replicas(plain(5), 10, 3, start_index=0, start_shift=0) == KNOWN


def test_the_start_may_be_anywhere() -> None:
    assert assign_replicas(plain(5), 3, 3, start_index=3, start_shift=0) == [[3, 4, 0], [4, 0, 1], [0, 1, 2]]
    assert assign_replicas(plain(5), 2, 3, start_index=0, start_shift=2) == [[0, 3, 4], [1, 4, 0]]
    assert assign_replicas(plain(5), 2, 3, start_index=0, start_shift=3) == [[0, 4, 1], [1, 0, 2]]


def test_ids_have_gaps_and_come_in_any_order() -> None:
    some = [BrokerRack(number) for number in (40, 7, 12)]
    assert assign_replicas(some, 3, 2, start_index=0, start_shift=0) == [[7, 12], [12, 40], [40, 7]]


def leaders(assigned: Sequence[Sequence[int]]) -> Counter[int]:
    return Counter(replicas[0] for replicas in assigned)


@pytest.mark.kafka("PART-08")
@given(st.integers(1, 9), st.integers(1, 6), st.data(), st.booleans())
@usual
def test_with_a_multiple_of_the_brokers_each_leads_as_many(
    count: int, rounds: int, data: st.DataObject, has_racks: bool
) -> None:
    some = [BrokerRack(number, data.draw(st.sampled_from("xyz")) if has_racks else None) for number in range(count)]
    factor = data.draw(st.integers(1, count))
    assigned = assign_replicas(some, rounds * count, factor, random=random.Random(data.draw(st.integers(0, 99))))
    assert leaders(assigned) == dict.fromkeys(range(count), rounds)


@given(st.integers(1, 8), st.integers(1, 40), st.data())
@usual
def test_no_broker_holds_a_partition_twice_and_leaders_are_level(
    count: int, partitions: int, data: st.DataObject
) -> None:
    some = [BrokerRack(number, data.draw(st.sampled_from([None, "x", "y", "z"]))) for number in range(count)]
    factor = data.draw(st.integers(1, count))
    mode = data.draw(st.sampled_from([RackAwareMode.SAFE, RackAwareMode.DISABLED]))
    chosen = random.Random(data.draw(st.integers(0, 99)))
    assigned = assign_replicas(some, partitions, factor, mode=mode, random=chosen)
    assert len(assigned) == partitions
    assert all(len(replicas) == len(set(replicas)) == factor for replicas in assigned)
    led = leaders(assigned)
    assert max(led.values()) - min(led[number] for number in range(count)) <= 1


def test_a_broker_does_not_follow_the_same_leader_for_good() -> None:
    assigned = assign_replicas(plain(5), 20, 2, start_index=0, start_shift=0)
    assert {replicas[1] for replicas in assigned if replicas[0] == 0} == {1, 2, 3, 4}


def test_the_same_seed_gives_the_same_assignment_and_others_give_others() -> None:
    def assigned(seed: int) -> list[list[int]]:
        return assign_replicas(plain(7), 9, 3, random=random.Random(seed))

    assert assigned(1) == assigned(1)
    assert len({str(assigned(seed)) for seed in range(20)}) > 5
    assert len({str(assign_replicas(plain(50), 9, 3)) for _ in range(5)}) > 1


# ---------------------------------------------------------------- racks


@pytest.mark.kafka("PART-13")
def test_brokers_are_taken_from_the_racks_in_turn() -> None:
    assert alternate_racks(THREE_RACKS) == [0, 3, 6, 1, 4, 7, 2, 5, 8]
    assert alternate_racks(reversed(THREE_RACKS)) == [0, 3, 6, 1, 4, 7, 2, 5, 8]


def test_a_rack_that_has_no_more_brokers_is_passed_over() -> None:
    mixed = brokers("rack1", "rack3", "rack3", "rack2", "rack2", "rack1")
    assert alternate_racks(mixed) == [0, 3, 1, 5, 4, 2]
    assert alternate_racks(mixed[:-1]) == [0, 3, 1, 4, 2]
    assert alternate_racks([]) == []


def test_partitions_go_over_the_alternated_list() -> None:
    mixed = brokers("rack1", "rack3", "rack3", "rack2", "rack2", "rack1")
    assert assign_replicas(mixed, 7, 3, start_index=0, start_shift=0) == [
        [0, 3, 1], [3, 1, 5], [1, 5, 4], [5, 4, 2], [4, 2, 0], [2, 0, 3], [0, 4, 2],
    ]  # fmt: skip


@pytest.mark.kafka("PART-09")
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("partitions", [9, 18, 45])
def test_with_as_many_replicas_as_racks_each_rack_has_one_and_leaders_are_level(seed: int, partitions: int) -> None:
    assigned = assign_replicas(THREE_RACKS, partitions, 3, random=random.Random(seed))
    for replicas in assigned:
        assert {THREE_RACKS[number].rack for number in replicas} == {"r1", "r2", "r3"}
    assert leaders(assigned) == dict.fromkeys(range(9), partitions // 9)
    assert Counter(number for replicas in assigned for number in replicas) == dict.fromkeys(range(9), partitions // 3)


@given(st.lists(st.sampled_from("wxyz"), min_size=1, max_size=9), st.integers(1, 30), st.data())
@usual
def test_replicas_are_on_as_many_racks_as_there_can_be(racks: list[str], partitions: int, data: st.DataObject) -> None:
    factor = data.draw(st.integers(1, len(racks)))
    assigned = assign_replicas(brokers(*racks), partitions, factor, random=random.Random(data.draw(st.integers(0, 99))))
    for replicas in assigned:
        assert len(set(replicas)) == factor
        assert len({racks[number] for number in replicas}) == min(factor, len(set(racks)))


@pytest.mark.kafka("PART-10")
def test_racks_of_only_some_brokers_are_refused_or_in_safe_mode_not_looked_at() -> None:
    some = brokers("r1", None, "r2", "r1", None)
    with pytest.raises(MissingRackError, match=r"brokers \[1, 4\] have no rack, others have; set broker.rack"):
        assign_replicas(some, 10, 3)
    for mode in (RackAwareMode.SAFE, RackAwareMode.DISABLED):
        assert assign_replicas(some, 10, 3, start_index=0, start_shift=0, mode=mode) == KNOWN


def test_racks_are_not_looked_at_when_that_is_asked_for() -> None:
    near = brokers("a", "a", "a", "b", "b")
    assigned = assign_replicas(near, 10, 3, start_index=0, start_shift=0, mode=RackAwareMode.DISABLED)
    assert assigned == KNOWN
    assert assign_replicas(near, 10, 3, start_index=0, start_shift=0, mode=RackAwareMode.SAFE) != KNOWN


# ---------------------------------------------------------------- bounds


@pytest.mark.kafka("PART-11")
def test_more_replicas_than_brokers_are_refused_and_one_of_each_works() -> None:
    with pytest.raises(InvalidReplicationFactorError, match="replication factor 4, and 3 brokers are alive; ask for"):
        assign_replicas(plain(3), 1, 4)
    with pytest.raises(InvalidReplicationFactorError):
        assign_replicas(THREE_RACKS, 1, 10)
    assert assign_replicas(plain(1), 3, 1) == [[0], [0], [0]]
    assert assign_replicas(brokers("r"), 3, 1) == [[0], [0], [0]]


@pytest.mark.parametrize("factor", [0, -1])
def test_no_replicas_are_refused(factor: int) -> None:
    with pytest.raises(InvalidReplicationFactorError):
        assign_replicas(plain(3), 1, factor)


def test_without_brokers_nothing_can_be_placed() -> None:
    with pytest.raises(InvalidReplicationFactorError, match="0 brokers are alive"):
        assign_replicas([], 1, 1)


@pytest.mark.parametrize("count", [0, -1])
def test_a_topic_without_partitions_is_refused(count: int) -> None:
    with pytest.raises(InvalidPartitionsError, match=f"{count} partitions; ask for one or more"):
        assign_replicas(plain(3), count, 1)


# ---------------------------------------------------------------- growth


@pytest.mark.kafka("PART-12")
@pytest.mark.parametrize("start", range(5))
def test_new_partitions_continue_from_the_first_replica_of_partition_0(start: int) -> None:
    had = assign_replicas(plain(5), 3, 3, start_index=start, start_shift=start)
    added = add_partitions(plain(5), had, 10)
    assert had + added == assign_replicas(plain(5), 10, 3, start_index=start, start_shift=start)


@pytest.mark.kafka("PART-12")
def test_when_its_first_replica_is_gone_they_continue_from_the_next_live_broker() -> None:
    live = [BrokerRack(number) for number in (1, 3, 5)]
    expected = assign_replicas(live, 2, 2, first_partition=1, start_index=1, start_shift=1)
    assert add_partitions(live, [[2, 1]], 3) == expected == [[5, 3], [1, 5]]
    from_first = assign_replicas(live, 2, 2, first_partition=1, start_index=0, start_shift=0)
    assert add_partitions(live, [[9, 1]], 3) == from_first == [[3, 5], [5, 1]]


@given(st.integers(1, 6), st.integers(1, 12), st.integers(1, 12), st.data())
@usual
def test_growing_in_steps_is_growing_at_once(count: int, had: int, more: int, data: st.DataObject) -> None:
    factor, start = data.draw(st.integers(1, count)), data.draw(st.integers(0, count - 1))
    before = assign_replicas(plain(count), had, factor, start_index=start, start_shift=start)
    at_once = add_partitions(plain(count), before, had + more + 1)
    first = add_partitions(plain(count), before, had + 1)
    # The distance starts again where the topic grows just where the partitions have gone round.
    assert leaders(first + add_partitions(plain(count), before + first, had + more + 1)) == leaders(at_once)
    assert first == at_once[:1]


def test_new_partitions_heed_racks() -> None:
    had = assign_replicas(THREE_RACKS, 4, 3, random=random.Random(3))
    for replicas in add_partitions(THREE_RACKS, had, 20):
        assert {THREE_RACKS[number].rack for number in replicas} == {"r1", "r2", "r3"}
    with pytest.raises(MissingRackError):
        add_partitions(brokers("r1", None), [[0]], 2)
    assert add_partitions(brokers("r1", None), [[0]], 2, mode=RackAwareMode.SAFE) == [[1]]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_topic_cannot_shrink_or_stay_as_it_is(count: int) -> None:
    with pytest.raises(InvalidPartitionsError, match=f"the topic has 2 partitions, and was to get {count}; the number"):
        add_partitions(plain(3), [[0, 1], [1, 2]], count)


def test_too_few_live_brokers_for_the_factor_are_refused() -> None:
    with pytest.raises(InvalidReplicationFactorError):
        add_partitions(plain(1), [[0, 1]], 2)
