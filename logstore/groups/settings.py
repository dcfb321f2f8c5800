"""The settings of the group coordinator, with Kafka's names and defaults (CLUSTER §9). Immutable: thread-safe."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from logstore.config import dotted_name
from logstore.setting import number


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupConfig:
    """What bounds groups and their offsets; a field's dotted name is Kafka's: `group.max.size`.

    Raises:
        TypeError: a value is not of its setting's type.
        ValueError: a value is out of range; the message has Kafka's name, value and range.
    """

    group_min_session_timeout_ms: int = field(
        default=6_000, metadata=number("int", 0, "The shortest session timeout a member may ask for.")
    )
    group_max_session_timeout_ms: int = field(
        default=1_800_000, metadata=number("int", 0, "The longest session timeout a member may ask for.")
    )
    group_initial_rebalance_delay_ms: int = field(
        default=3_000, metadata=number("int", 0, "How long an empty group waits for further members.")
    )
    group_max_size: int = field(default=2**31 - 1, metadata=number("int", 1, "How many members a group may have."))
    offset_metadata_max_bytes: int = field(
        default=4_096, metadata=number("int", 0, "How long the text of a commit may be, in UTF-16 units.")
    )
    offsets_retention_minutes: int = field(
        default=10_080, metadata=number("int", 1, "How long offsets outlive their group, or their commit.")
    )
    offsets_topic_num_partitions: int = field(
        default=50, metadata=number("int", 1, "How many partitions `__consumer_offsets` has.")
    )

    def __post_init__(self) -> None:
        for one in fields(self):
            one.metadata["setting"].check(dotted_name(one.name), getattr(self, one.name))

    @property
    def offsets_retention_ms(self) -> int:
        """The retention of offsets in milliseconds."""
        return self.offsets_retention_minutes * 60_000
