"""Which member of a consumer group reads which partitions: Kafka's four assignors, by the names that they have there.

Invariant: every partition of a topic that somebody subscribes to goes to exactly one member, which subscribes to it;
only from `cooperative-sticky` one that changes hands goes to nobody until the member that has it has given it up. The
result has an entry for every member. It depends on what is given alone, not on its order, so every leader of a group
would come to the same. Racks are not looked at: all partitions of a store are equally near. Pure functions:
thread-safe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import cycle
from types import MappingProxyType

from logstore.names import TopicPartition
from logstore.queue.protocol import Subscription
from logstore.queue.sticky import Assignments, owners, partitions_of, plan

Assignor = Callable[[Mapping[str, Subscription], Mapping[str, int]], Assignments]
"""From the subscriptions by member id, and how many partitions each topic has, to the partitions by member id.

A topic without an entry, or with 0, does not exist: who subscribes to it gets nothing of it.
"""


def assign_range(members: Mapping[str, Subscription], partitions_per_topic: Mapping[str, int]) -> Assignments:
    """Give each subscriber of a topic a run of its partitions; the first ones get one more if they do not divide.

    With several topics of as many partitions, a member gets the same numbers of each: they can be joined.
    """
    assigned: Assignments = {member: [] for member in sorted(members)}
    for topic in _topics(members):
        takers = [member for member in _in_order(members) if topic in members[member].topics]
        size, longer = divmod(partitions_per_topic.get(topic, 0), len(takers))
        start = 0
        for index, member in enumerate(takers):
            end = start + size + (index < longer)
            assigned[member] += [TopicPartition(topic, number) for number in range(start, end)]
            start = end
    return assigned


def assign_round_robin(members: Mapping[str, Subscription], partitions_per_topic: Mapping[str, int]) -> Assignments:
    """Deal out all partitions of all topics, one by one, to the members in turn; who does not subscribe is skipped."""
    assigned: Assignments = {member: [] for member in sorted(members)}
    turns = cycle(_in_order(members))
    for partition in partitions_of(_topics(members), partitions_per_topic):
        member = next(member for member in turns if partition.topic in members[member].topics)
        assigned[member].append(partition)
    return assigned


def assign_sticky(members: Mapping[str, Subscription], partitions_per_topic: Mapping[str, int]) -> Assignments:
    """Balance as well as can be, and let each member keep as much as that allows of what it owns.

    What members own is taken from their subscriptions; of two that own the same the later generation counts. For the
    eager protocol: all have given up everything when the result reaches them.
    """
    return plan(members, partitions_per_topic)


def assign_cooperative_sticky(
    members: Mapping[str, Subscription], partitions_per_topic: Mapping[str, int]
) -> Assignments:
    """Assign as `assign_sticky`, but to nobody what another member still has.

    The member that loses it sees that it is not in its assignment, gives it up and joins again; the round after that
    gives it to its new owner. What two members of one generation claim is given to neither.
    """
    owner = owners(members, partitions_per_topic)
    holders: dict[TopicPartition, set[str]] = {}
    for member, subscription in members.items():
        for partition in subscription.owned_partitions:
            holders.setdefault(partition, set()).add(member)
    return {
        member: [
            partition
            for partition in partitions
            if owner.get(partition) == member or not holders.get(partition, set()) - {member}
        ]
        for member, partitions in plan(members, partitions_per_topic).items()
    }


ASSIGNORS: Mapping[str, Assignor] = MappingProxyType(
    {
        "range": assign_range,
        "roundrobin": assign_round_robin,
        "sticky": assign_sticky,
        "cooperative-sticky": assign_cooperative_sticky,
    }
)
"""The assignors by the names that members exchange when they join; never change."""


def _in_order(members: Mapping[str, Subscription]) -> list[str]:
    """Static members by their instance ids, then the others by their member ids.

    A static member comes back with another member id, and is to get the same again.
    """

    def place(member: str) -> tuple[bool, str, str]:
        instance = members[member].group_instance_id
        return instance is None, instance or "", member

    return sorted(members, key=place)


def _topics(members: Mapping[str, Subscription]) -> list[str]:
    return sorted({topic for subscription in members.values() for topic in subscription.topics})
