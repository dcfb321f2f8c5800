"""The states of a classic group, and which may follow which (CLUSTER §7.3). Immutable, therefore thread-safe."""

from __future__ import annotations

from enum import StrEnum


class GroupState(StrEnum):
    """What a group is doing; the value is Kafka's word for it.

    EMPTY has no members, and may have offsets. PREPARING_REBALANCE collects joins, COMPLETING_REBALANCE waits for the
    leader's assignment, STABLE has it. DEAD is gone: removed, or coordinated elsewhere.
    """

    EMPTY = "Empty"
    PREPARING_REBALANCE = "PreparingRebalance"
    COMPLETING_REBALANCE = "CompletingRebalance"
    STABLE = "Stable"
    DEAD = "Dead"

    def may_become(self, state: GroupState) -> bool:
        """Whether `state` may follow."""
        return state in _FOLLOWING[self]


_FOLLOWING = {
    GroupState.EMPTY: {GroupState.PREPARING_REBALANCE, GroupState.DEAD},
    GroupState.PREPARING_REBALANCE: {GroupState.COMPLETING_REBALANCE, GroupState.EMPTY, GroupState.DEAD},
    GroupState.COMPLETING_REBALANCE: {GroupState.STABLE, GroupState.PREPARING_REBALANCE, GroupState.DEAD},
    GroupState.STABLE: {GroupState.PREPARING_REBALANCE, GroupState.DEAD},
    GroupState.DEAD: set[GroupState](),
}
