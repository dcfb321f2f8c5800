"""Assignors give what Kafka's give: each partition to one member, evenly, and with as little moving as may be."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.names import TopicPartition
from logstore.queue.assignors import (
    ASSIGNORS,
    Assignor,
    assign_cooperative_sticky,
    assign_range,
    assign_round_robin,
    assign_sticky,
)
from logstore.queue.protocol import Subscription

usual = settings(deadline=None, database=None, max_examples=120)

EAGER = [assign_range, assign_round_robin, assign_sticky]
ALL = [*EAGER, assign_cooperative_sticky]
TOPICS = "abcd"

Members = dict[str, Subscription]
Counts = dict[str, int]


def some(*texts: str) -> tuple[TopicPartition, ...]:
    """Partitions from their texts: a-0, b-1."""
    return tuple(TopicPartition(topic, int(number)) for topic, _, number in (text.rpartition("-") for text in texts))


def wants(topics: str, *owned: str, generation: int = 1, instance: str | None = None) -> Subscription:
    return Subscription(
        tuple(topics), owned_partitions=some(*owned), generation_id=generation if owned else -1,
        group_instance_id=instance,
    )  # fmt: skip


def texts(assigned: Mapping[str, Iterable[TopicPartition]]) -> dict[str, list[str]]:
    return {member: [str(one) for one in partitions] for member, partitions in assigned.items()}


# ---------------------------------------------------------------- range


def test_range_gives_runs_of_each_topic_and_the_first_members_one_more() -> None:
    members = {"m2": wants("ab"), "m1": wants("ab")}
    assert texts(assign_range(members, {"a": 3, "b": 3})) == {
        "m1": ["a-0", "a-1", "b-0", "b-1"], "m2": ["a-2", "b-2"],
    }  # fmt: skip
    assert texts(assign_range({"m1": wants("a"), "m2": wants("ab"), "m3": wants("a")}, {"a": 3, "b": 2})) == {
        "m1": ["a-0"], "m2": ["a-1", "b-0", "b-1"], "m3": ["a-2"],
    }  # fmt: skip


def test_range_leaves_members_without_anything_when_there_are_too_few_partitions() -> None:
    assert texts(assign_range({"m1": wants("a"), "m2": wants("a")}, {"a": 1})) == {"m1": ["a-0"], "m2": []}


@pytest.mark.parametrize("assign", [assign_range, assign_round_robin])
def test_static_members_come_first_and_by_their_instances(assign: Assignor) -> None:
    members = {"m1": wants("a"), "m2": wants("a", instance="z"), "m3": wants("a", instance="b")}
    assert texts(assign(members, {"a": 3})) == {"m3": ["a-0"], "m2": ["a-1"], "m1": ["a-2"]}
    returned = {"m1": wants("a"), "m9": wants("a", instance="z"), "m0": wants("a", instance="b")}
    assert texts(assign(returned, {"a": 3})) == {"m0": ["a-0"], "m9": ["a-1"], "m1": ["a-2"]}


# ---------------------------------------------------------------- round robin


def test_round_robin_deals_out_all_topics_in_one_go() -> None:
    members = {"m1": wants("ab"), "m2": wants("ab")}
    assert texts(assign_round_robin(members, {"a": 3, "b": 3})) == {
        "m1": ["a-0", "a-2", "b-1"], "m2": ["a-1", "b-0", "b-2"],
    }  # fmt: skip


def test_round_robin_skips_members_that_do_not_subscribe() -> None:
    members = {"m1": wants("a"), "m2": wants("ab"), "m3": wants("a")}
    assert texts(assign_round_robin(members, {"a": 3, "b": 2})) == {
        "m1": ["a-0"], "m2": ["a-1", "b-0", "b-1"], "m3": ["a-2"],
    }  # fmt: skip


# ---------------------------------------------------------------- sticky, as in Kafka's own tests


def test_a_member_keeps_its_quota_and_gets_the_one_that_is_over() -> None:
    members = {"m1": wants("ab", "a-0", "b-1"), "m2": wants("ab", "a-1", "b-2")}
    assert texts(assign_sticky(members, {"a": 2, "b": 3})) == {"m1": ["a-0", "b-1", "b-0"], "m2": ["a-1", "b-2"]}


def test_members_below_their_quota_are_filled_up() -> None:
    members = {"m1": wants("ab", "a-0"), "m2": wants("ab", "a-1"), "m3": wants("ab")}
    assert texts(assign_sticky(members, {"a": 2, "b": 3})) == {
        "m1": ["a-0", "b-1"], "m2": ["a-1", "b-2"], "m3": ["b-0"],
    }  # fmt: skip


def test_what_moves_to_new_members_is_spread_over_the_topics() -> None:
    members = {"m1": wants("ab"), "m2": wants("ab")}
    first = assign_sticky(members, {"a": 3, "b": 4})
    assert texts(first) == {"m1": ["a-0", "a-2", "b-1", "b-3"], "m2": ["a-1", "b-0", "b-2"]}
    members = {member: owning(members[member], first[member]) for member in members}
    second = assign_sticky({**members, "m3": wants("ab"), "m4": wants("ab")}, {"a": 3, "b": 4})
    assert {member: set(one) for member, one in texts(second).items()} == {
        "m1": {"a-0", "b-1"}, "m2": {"b-0", "a-1"}, "m3": {"a-2", "b-3"}, "m4": {"b-2"},
    }  # fmt: skip
    left = {member: owning(wants("ab"), second[member]) for member in ("m3", "m4")}
    third = assign_sticky(left, {"a": 3, "b": 4})
    assert set(third["m3"]) >= set(second["m3"])
    assert set(third["m4"]) >= set(second["m4"])


def test_different_subscriptions_are_levelled_where_round_robin_does_poorly() -> None:
    members = {"m1": wants("abcde"), "m2": wants("ace"), "m3": wants("ace"), "m4": wants("abcde")}
    counts = {"a": 2, "b": 1, "c": 2, "d": 1, "e": 2}
    assert texts(assign_sticky(members, counts)) == {
        "m1": ["b-0", "c-0"], "m2": ["a-0", "c-1"], "m3": ["a-1", "e-0"], "m4": ["d-0", "e-1"],
    }  # fmt: skip
    assert texts(assign_round_robin(members, counts))["m3"] == []


def test_the_later_generation_owns_what_two_members_claim() -> None:
    members = {"m1": wants("a", "a-0", "a-1", generation=1), "m2": wants("a", "a-1", "a-2", generation=2)}
    assert texts(assign_sticky(members, {"a": 3})) == {"m1": ["a-0"], "m2": ["a-1", "a-2"]}


def test_of_two_claims_of_one_generation_none_counts() -> None:
    members = {"m1": wants("a", "a-0", "a-1"), "m2": wants("a", "a-1", "a-2")}
    assert texts(assign_sticky(members, {"a": 3})) == {"m1": ["a-0", "a-1"], "m2": ["a-2"]}
    assert texts(assign_cooperative_sticky(members, {"a": 3})) == {"m1": ["a-0"], "m2": ["a-2"]}


def test_what_is_gone_or_not_wanted_any_more_is_not_owned() -> None:
    members = {"m1": wants("a", "a-0", "a-7", "gone-0", "b-0"), "m2": wants("ab")}
    assert texts(assign_sticky(members, {"a": 2, "b": 1})) == {"m1": ["a-0", "a-1"], "m2": ["b-0"]}


def test_a_partition_goes_home_before_another_one_leaves() -> None:
    # On the way m2 takes b-1 from m1; when m1 may have one of that topic again, it is b-1 and not b-2.
    members = {
        "m1": wants("ab", "a-0", "a-1", "b-1", "b-3"), "m2": wants("ab", "b-0"), "m3": wants("a"), "m4": wants("a"),
    }  # fmt: skip
    assert texts(assign_sticky(members, {"a": 2, "b": 4})) == {
        "m1": ["b-3", "b-1"], "m2": ["b-0", "b-2"], "m3": ["a-0"], "m4": ["a-1"],
    }  # fmt: skip


# ---------------------------------------------------------------- cooperative sticky


def test_a_partition_that_changes_hands_goes_to_nobody_at_first() -> None:
    members = {"m1": wants("a", "a-0", "a-1", "a-2"), "m2": wants("a")}
    first = assign_cooperative_sticky(members, {"a": 3})
    assert texts(first) == {"m1": ["a-0", "a-1"], "m2": []}
    members = {"m1": owning(members["m1"], first["m1"]), "m2": members["m2"]}
    assert texts(assign_cooperative_sticky(members, {"a": 3})) == {"m1": ["a-0", "a-1"], "m2": ["a-2"]}


def test_what_nobody_has_is_given_at_once() -> None:
    members = {"m1": wants("a", "a-0"), "m2": wants("a")}
    assert texts(assign_cooperative_sticky(members, {"a": 4})) == {"m1": ["a-0", "a-1"], "m2": ["a-2", "a-3"]}


def test_what_its_holder_no_longer_subscribes_to_waits_for_it_too() -> None:
    members = {"m1": wants("b", "a-0"), "m2": wants("a")}
    assert texts(assign_cooperative_sticky(members, {"a": 1, "b": 1})) == {"m1": ["b-0"], "m2": []}


# ---------------------------------------------------------------- whatever the group


@st.composite
def groups(draw: st.DrawFn, alike: bool = False) -> tuple[Members, Counts]:
    """Members that want something and own something, rightly or not, and how many partitions topics have."""
    counts = draw(st.dictionaries(st.sampled_from(TOPICS), st.integers(0, 7)))
    topics = st.sets(st.sampled_from(TOPICS + "x")).map(lambda found: "".join(sorted(found)))
    same = draw(topics) if alike else None
    owned = st.lists(st.builds(TopicPartition, st.sampled_from(TOPICS + "x"), st.integers(0, 8)), max_size=8)
    members = {}
    for number in range(draw(st.integers(1, 6))):
        members[f"m{number}"] = Subscription(
            tuple(draw(topics) if same is None else same),
            owned_partitions=tuple(draw(owned)),
            generation_id=draw(st.integers(-1, 2)),
        )
    return members, counts


def owning(subscription: Subscription, partitions: Iterable[TopicPartition]) -> Subscription:
    return dataclasses.replace(subscription, owned_partitions=tuple(partitions), generation_id=5)


def wanted(members: Members, counts: Counts) -> set[TopicPartition]:
    topics = {topic for subscription in members.values() for topic in subscription.topics}
    return {TopicPartition(topic, number) for topic in topics for number in range(counts.get(topic, 0))}


def settled(members: Members, counts: Counts) -> Members:
    """The same members, owning what the sticky assignor gave them."""
    assigned = assign_sticky(members, counts)
    return {member: owning(subscription, assigned[member]) for member, subscription in members.items()}


@pytest.mark.parametrize("assign", ALL)
@given(groups(), st.randoms(use_true_random=False))
@usual
def test_each_partition_goes_to_one_member_that_wants_it_in_whatever_order_members_come(
    assign: Assignor, group: tuple[Members, Counts], order: random.Random
) -> None:
    members, counts = group
    assigned = assign(members, counts)
    assert list(assigned) == sorted(members)
    given = [partition for partitions in assigned.values() for partition in partitions]
    assert len(given) == len(set(given))
    assert all(one.topic in members[member].topics for member, partitions in assigned.items() for one in partitions)
    missing = wanted(members, counts) - set(given)
    assert set(given) | missing == wanted(members, counts)
    held = {partition for subscription in members.values() for partition in subscription.owned_partitions}
    assert missing <= (held if assign is assign_cooperative_sticky else set())
    shuffled = list(members.items())
    order.shuffle(shuffled)
    assert assign(dict(shuffled), counts) == assigned


@pytest.mark.parametrize("assign", [assign_round_robin, assign_sticky])
@given(groups(alike=True))
@usual
def test_members_that_want_the_same_get_equally_many(assign: Assignor, group: tuple[Members, Counts]) -> None:
    sizes = [len(partitions) for partitions in assign(*group).values()]
    assert max(sizes) - min(sizes) <= 1


@given(groups())
@usual
def test_range_gives_equally_many_of_each_topic(group: tuple[Members, Counts]) -> None:
    members, counts = group
    assigned = assign_range(members, counts)
    for topic in TOPICS:
        runs = [
            [one.partition for one in assigned[member] if one.topic == topic]
            for member in sorted(members)
            if topic in members[member].topics
        ]
        assert [number for run in runs for number in run] == list(range(counts.get(topic, 0) if runs else 0))
        sizes = [len(run) for run in runs]
        assert sizes == sorted(sizes, reverse=True)
        assert not sizes or sizes[0] - sizes[-1] <= 1


@given(groups())
@usual
def test_no_single_move_would_make_a_sticky_assignment_more_even(group: tuple[Members, Counts]) -> None:
    members, counts = group
    assigned = assign_sticky(members, counts)
    for giver, partitions in assigned.items():
        for taker in members:
            if len(partitions) > len(assigned[taker]) + 1:
                assert not {one.topic for one in partitions} & set(members[taker].topics), giver


@given(groups())
@usual
def test_a_settled_group_stays_as_it_is(group: tuple[Members, Counts]) -> None:
    members, counts = group
    members = settled(members, counts)
    for assign in (assign_sticky, assign_cooperative_sticky):
        again = assign(members, counts)
        assert {member: set(one) for member, one in again.items()} == {
            member: set(subscription.owned_partitions) for member, subscription in members.items()
        }


@given(groups(alike=True), st.data())
@usual
def test_who_stays_keeps_everything_when_one_leaves(group: tuple[Members, Counts], data: st.DataObject) -> None:
    members, counts = group
    members = settled(members, counts)
    del members[data.draw(st.sampled_from(sorted(members)))]
    assigned = assign_sticky(members, counts)
    assert assign_cooperative_sticky(members, counts) == assigned
    for member, subscription in members.items():
        assert set(subscription.owned_partitions) <= set(assigned[member])


@given(groups(alike=True))
@usual
def test_partitions_move_only_to_the_one_who_comes(group: tuple[Members, Counts]) -> None:
    members, counts = group
    members = settled(members, counts)
    newcomer = wants("".join(members["m0"].topics))
    assigned = assign_sticky({**members, "new": newcomer}, counts)
    for member, subscription in members.items():
        assert set(assigned[member]) <= set(subscription.owned_partitions)
    assert len(assigned["new"]) == len(wanted(members, counts)) // (len(members) + 1)


@given(groups(alike=True))
@usual
def test_a_member_keeps_what_it_owns_up_to_its_share(group: tuple[Members, Counts]) -> None:
    members, counts = group
    owner_of: dict[TopicPartition, str] = {}
    for member, subscription in sorted(members.items()):  # make the claims clean: the first one owns
        for partition in subscription.owned_partitions:
            owner_of.setdefault(partition, member)
    clean = {
        member: owning(one, [partition for partition, name in owner_of.items() if name == member])
        for member, one in members.items()
    }
    share = len(wanted(members, counts)) // len(members)
    assigned = assign_sticky(clean, counts)
    for member, subscription in clean.items():
        valid = set(subscription.owned_partitions) & wanted(members, counts)
        assert len(valid & set(assigned[member])) >= min(len(valid), share)


@given(groups())
@usual
def test_a_cooperative_group_settles_and_no_partition_ever_has_two_members(group: tuple[Members, Counts]) -> None:
    members, counts = group
    # Two may claim the same to begin with, which no round makes worse.
    for _ in range(5):
        assigned = assign_cooperative_sticky(members, counts)
        for member, partitions in assigned.items():
            others = {one for name in members if name != member for one in members[name].owned_partitions}
            assert not (set(partitions) - set(members[member].owned_partitions)) & others
        if sum(map(len, assigned.values())) == len(wanted(members, counts)):
            break
        members = {member: owning(members[member], assigned[member]) for member in members}
    else:
        pytest.fail("the group goes on rebalancing")
    for giver, partitions in assigned.items():
        for taker in members:
            if len(partitions) > len(assigned[taker]) + 1:
                assert not {one.topic for one in partitions} & set(members[taker].topics), giver


@pytest.mark.parametrize("assign", ALL)
def test_a_group_without_members_or_topics_gets_nothing(assign: Assignor) -> None:
    assert assign({}, {"a": 3}) == {}
    assert assign({"m": wants("")}, {"a": 3}) == {"m": []}
    assert assign({"m": wants("ax", "a-0")}, {"a": 0}) == {"m": []}


def test_the_assignors_have_kafkas_names() -> None:
    assert list(ASSIGNORS) == ["range", "roundrobin", "sticky", "cooperative-sticky"]
    assert list(ASSIGNORS.values()) == ALL
