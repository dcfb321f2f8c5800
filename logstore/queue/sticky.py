"""The plan of Kafka's sticky assignors: balanced, and of what each member has it keeps as much as that allows.

Invariant: every partition that somebody subscribes to has exactly one member, which subscribes to its topic. Where all
subscribe to the same topics, no member has two partitions more than another; otherwise none could be taken from one
member and given to another that would still have fewer than the first had. What comes out depends on what is given
alone, not on its order: between members that have equally much, the lower id decides. Pure functions: thread-safe.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from logstore.names import TopicPartition
from logstore.queue.protocol import Subscription

Assignments = dict[str, list[TopicPartition]]
"""What each member of a group gets, by member id."""


def plan(members: Mapping[str, Subscription], partitions_per_topic: Mapping[str, int]) -> Assignments:
    """Assign partitions to members; each gets first those that it keeps."""
    if not members:
        return {}
    owned: Assignments = {member: [] for member in sorted(members)}
    for partition, member in owners(members, partitions_per_topic).items():
        owned[member].append(partition)
    topics = {frozenset(subscription.topics) for subscription in members.values()}
    if len(topics) == 1:
        return _share_alike(owned, partitions_of(topics.pop(), partitions_per_topic))
    return _Sharing(members, partitions_per_topic, owned).result()


def owners(members: Mapping[str, Subscription], partitions_per_topic: Mapping[str, int]) -> dict[TopicPartition, str]:
    """The member that owns each partition, of those that say so: the one of the latest generation.

    Where two of that generation say so, none does. What a member does not subscribe to, or what does not exist any
    more, it does not own.
    """
    claims: dict[TopicPartition, list[tuple[int, str]]] = {}
    for member in sorted(members):
        subscription = members[member]
        for partition in sorted(set(subscription.owned_partitions)):
            exists = 0 <= partition.partition < partitions_per_topic.get(partition.topic, 0)
            if exists and partition.topic in subscription.topics:
                claims.setdefault(partition, []).append((subscription.generation_id, member))
    found = {}
    for partition, claimants in claims.items():
        latest = max(generation for generation, _ in claimants)
        best = [member for generation, member in claimants if generation == latest]
        if len(best) == 1:
            found[partition] = best[0]
    return found


def partitions_of(topics: Iterable[str], partitions_per_topic: Mapping[str, int]) -> list[TopicPartition]:
    """All partitions of those topics that exist, by the name of the topic and their number."""
    counts = [(topic, partitions_per_topic.get(topic, 0)) for topic in sorted(topics)]
    return [TopicPartition(topic, number) for topic, count in counts for number in range(count)]


def _share_alike(owned: Assignments, partitions: Sequence[TopicPartition]) -> Assignments:
    """Share among members who all subscribe to the same topics."""
    quota, extra = divmod(len(partitions), len(owned))  # `extra` members get one more than the quota
    assigned: Assignments = {}
    for member, having in owned.items():
        # By number first, so that what is given up is spread over the topics.
        keeping = sorted(having, key=lambda partition: (partition.partition, partition.topic))
        if len(keeping) > quota and extra:
            extra -= 1
            assigned[member] = keeping[: quota + 1]
        else:
            assigned[member] = keeping[:quota]
    kept = {partition for having in assigned.values() for partition in having}
    free = iter([partition for partition in partitions if partition not in kept])
    short = [member for member, having in assigned.items() if len(having) < quota]
    full = [member for member, having in assigned.items() if len(having) == quota]
    while short:
        for member in short:
            assigned[member].append(next(free))
        full += [member for member in short if len(assigned[member]) == quota]
        short = [member for member in short if len(assigned[member]) < quota]
    for partition, member in zip(free, full, strict=False):
        assigned[member].append(partition)
    return assigned


class _Sharing:
    """Shares among members who subscribe to different topics. Used once."""

    def __init__(
        self, members: Mapping[str, Subscription], partitions_per_topic: Mapping[str, int], owned: Assignments
    ) -> None:
        self._assigned = owned
        self._member_of = {partition: member for member, having in owned.items() for partition in having}
        self._home = dict(self._member_of)
        self._subscribers: dict[str, list[str]] = {}
        for member in owned:
            for topic in set(members[member].topics):
                self._subscribers.setdefault(topic, []).append(member)
        # Those with the fewest takers first: they leave the least choice.
        topics = sorted(self._subscribers, key=lambda topic: (len(self._subscribers[topic]), topic))
        self._partitions = [one for topic in topics for one in partitions_of([topic], partitions_per_topic)]

    def result(self) -> Assignments:
        """Share what nobody has, and then level: first with what was nobody's, then with all."""
        free = [partition for partition in self._partitions if partition not in self._member_of]
        for partition in free:
            self._give(partition, self._neediest(partition.topic))
        self._level(free)
        self._level(self._partitions)
        return self._assigned

    def _neediest(self, topic: str) -> str:
        return min(self._subscribers[topic], key=lambda member: (len(self._assigned[member]), member))

    def _level(self, partitions: Sequence[TopicPartition]) -> None:
        """Move partitions while that helps. It ends: each move lessens the sum of the squares of what members have."""
        is_level = False
        while not is_level:
            is_level = True
            for partition in partitions:
                giver, taker = self._member_of[partition], self._neediest(partition.topic)
                if len(self._assigned[giver]) > len(self._assigned[taker]) + 1:
                    self._move(partition, giver, taker)
                    is_level = False

    def _move(self, partition: TopicPartition, giver: str, taker: str) -> None:
        """Move this partition; or, better, another one of its topic that the taker had before."""
        returning = [
            one for one in self._assigned[giver] if one.topic == partition.topic and self._home.get(one) == taker
        ]
        moved = min(returning, default=partition)
        self._assigned[giver].remove(moved)
        self._give(moved, taker)

    def _give(self, partition: TopicPartition, member: str) -> None:
        self._assigned[member].append(partition)
        self._member_of[partition] = member
