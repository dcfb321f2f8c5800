"""Who is in a consumer group, and who owns which partitions: what its members write into the group's file.

Invariants: no partition is owned by two members; generations only grow. An assignment is a wish: a partition is taken
by its new owner once the old one has given it up, or is gone. Pure, no I/O; not thread-safe.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from logstore.errors import LogstoreError, UnsupportedFormatError
from logstore.names import TopicPartition
from logstore.queue.assignors import ASSIGNORS
from logstore.queue.protocol import Subscription

VERSION = 1  # of the file. On disk; what is newer is refused.

Partitions = frozenset[TopicPartition]


@dataclasses.dataclass(slots=True)
class GroupMember:
    """A member as the others see it.

    Attributes:
        topics: what it subscribes to.
        owned: what it reads now, and nobody else does.
        wanted: what it is to read.
        generation: the last one that it has seen.
    """

    topics: tuple[str, ...]
    owned: Partitions = frozenset()
    wanted: Partitions = frozenset()
    generation: int = -1


@dataclasses.dataclass(slots=True)
class GroupState:
    """A group.

    Attributes:
        group: its id.
        assignor: the name of what assigns its partitions, as long as it has members.
        generation: the number of the last assignment; 0 before the first.
        members: by their ids.
        counts: how many partitions topics had in that assignment; without those that there were not.
    """

    group: str
    assignor: str = ""
    generation: int = 0
    members: dict[str, GroupMember] = dataclasses.field(default_factory=dict)
    counts: dict[str, int] = dataclasses.field(default_factory=dict)

    # ---- bytes

    @classmethod
    def parse(cls, data: bytes, group: str) -> GroupState:
        """Read it; a group without members where nothing can be read. Raises UnsupportedFormatError, LogstoreError.

        The file is not synced: a power cut may leave anything of it, but no members either.
        """
        try:
            found = json.loads(data)
            version, name = int(found["version"]), str(found["group"])
            if version > VERSION:
                raise UnsupportedFormatError(
                    f"group {group!r} was written by a newer logstore: format {version}, known is {VERSION}",
                    remedy="use a newer logstore",
                )
            members = {str(one): _member(fields) for one, fields in found["members"].items()}
            counts = {str(topic): int(count) for topic, count in found["counts"].items()}
            state = cls(name, str(found["assignor"]), int(found["generation"]), members, counts)
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls(group)
        if name != group:
            raise LogstoreError(f"the file of group {group!r} is that of group {name!r}", remedy="rename the group")
        return state

    @staticmethod
    def parse_id(data: bytes) -> str | None:
        """The id of the group whose file this is; None where it cannot be read."""
        try:
            return str(json.loads(data)["group"])
        except (ValueError, KeyError, TypeError):
            return None

    def format(self) -> bytes:
        """The bytes of the file."""
        members = {
            one: {
                "topics": list(member.topics),
                "owned": _numbers(member.owned),
                "wanted": _numbers(member.wanted),
                "generation": member.generation,
            }
            for one, member in self.members.items()
        }
        content = {
            "version": VERSION, "group": self.group, "assignor": self.assignor, "generation": self.generation,
            "counts": self.counts, "members": members,
        }  # fmt: skip
        return (json.dumps(content) + "\n").encode()

    # ---- decisions

    def topics(self) -> set[str]:
        """What any of the members subscribes to."""
        return {topic for member in self.members.values() for topic in member.topics}

    def assign(self, counts: Mapping[str, int]) -> None:
        """Begin a generation: say anew who is to read what.

        Args:
            counts: how many partitions each topic has.
        """
        self.generation += 1
        self.counts = dict(counts)
        wishes = {
            one: Subscription(
                member.topics, owned_partitions=tuple(sorted(member.owned)), generation_id=member.generation
            )
            for one, member in self.members.items()
        }
        for one, partitions in ASSIGNORS[self.assignor](wishes, counts).items():
            self.members[one].wanted = frozenset(partitions)

    def has_unassigned(self) -> bool:
        """Whether a partition is nobody's and nobody is to read it: its old owner has given it up (cooperative)."""
        taken = {one for member in self.members.values() for one in member.wanted | member.owned}
        topics = self.topics()
        return len(taken) < sum(count for topic, count in self.counts.items() if topic in topics)

    def take(self, member_id: str) -> Partitions:
        """Let a member own what it is to read and nobody owns; what is new."""
        member = self.members[member_id]
        others = (other.owned for one, other in self.members.items() if one != member_id)
        gained = member.wanted - member.owned - frozenset[TopicPartition]().union(*others)
        member.owned |= gained
        return gained


def _member(fields: Mapping[str, Any]) -> GroupMember:
    topics = tuple(map(str, fields["topics"]))
    return GroupMember(topics, _partitions(fields["owned"]), _partitions(fields["wanted"]), int(fields["generation"]))


def _partitions(numbers: Mapping[str, Iterable[int]]) -> Partitions:
    return frozenset(TopicPartition(str(topic), int(one)) for topic, some in numbers.items() for one in some)


def _numbers(partitions: Partitions) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for topic, number in sorted(partitions):
        found.setdefault(topic, []).append(number)
    return found
