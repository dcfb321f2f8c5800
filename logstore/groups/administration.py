"""DescribeGroups, ListGroups, DeleteGroups, OffsetDelete: what administrators ask (CLUSTER §7.6). Not thread-safe."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from logstore.groups.committing import Offsets
from logstore.groups.errors import ErrorCode
from logstore.groups.group import Group
from logstore.groups.messages import (
    CLASSIC,
    DeleteGroupsResponse,
    DescribedGroup,
    DescribedMember,
    ListedGroup,
    OffsetDeleteRequest,
    OffsetDeleteResponse,
)
from logstore.groups.pending import Pending
from logstore.groups.rebalancing import Desk
from logstore.groups.states import GroupState
from logstore.records.internal.consumer_protocol import CONSUMER_PROTOCOL_TYPE

UNKNOWN_GROUP_VERSION = 6
"""From this version of DescribeGroups on an unknown group is an error."""


class Administration:
    """Serves administrators."""

    def __init__(self, desk: Desk, offsets: Offsets) -> None:
        self._desk = desk
        self._offsets = offsets

    def __repr__(self) -> str:
        return f"<Administration of {len(self._desk.groups)} groups>"

    def list_groups(self, states: Collection[str], types: Collection[str]) -> tuple[ListedGroup, ...]:
        """Return the groups in these states and of these types, in any case; none given: all."""
        wanted = {state.lower() for state in states}
        if types and CLASSIC not in {one.lower() for one in types}:
            return ()
        return tuple(
            ListedGroup(group.group_id, group.protocol_type or "", group.state)
            for group in self._desk.groups.values()
            if not wanted or group.state.lower() in wanted
        )

    def describe(self, group_id: str, group: Group | None, version: int) -> DescribedGroup:
        """Return a group, with what its members said and got if it is Stable."""
        if group is None:
            error = ErrorCode.GROUP_ID_NOT_FOUND if version >= UNKNOWN_GROUP_VERSION else ErrorCode.NONE
            return DescribedGroup(error=error, group_id=group_id, state=GroupState.DEAD)
        is_stable = group.state is GroupState.STABLE
        return DescribedGroup(
            error=ErrorCode.NONE,
            group_id=group_id,
            state=group.state,
            protocol_type=group.protocol_type or "",
            protocol_name=(group.protocol_name or "") if is_stable else "",
            members=tuple(
                DescribedMember(
                    member.member_id,
                    member.group_instance_id,
                    member.client_id,
                    member.client_host,
                    member.metadata(group.protocol_name) if is_stable else b"",
                    member.assignment if is_stable else b"",
                )
                for member in group.members.values()
            ),
        )

    def delete_offsets(
        self, request: OffsetDeleteRequest, group: Group | None, pending: Pending[OffsetDeleteResponse]
    ) -> None:
        """Delete offsets that no member may be using."""
        outbox = self._desk.outbox
        if group is None:
            outbox.answer(pending, OffsetDeleteResponse(ErrorCode.GROUP_ID_NOT_FOUND))
        elif group.state is not GroupState.EMPTY and group.protocol_type != CONSUMER_PROTOCOL_TYPE:
            outbox.answer(pending, OffsetDeleteResponse(ErrorCode.NON_EMPTY_GROUP))
        else:
            self._offsets.delete(
                group,
                request.partitions,
                lambda errors: outbox.answer(pending, OffsetDeleteResponse(ErrorCode.NONE, errors)),
            )

    def delete_groups(self, groups: dict[str, Group | ErrorCode], pending: Pending[DeleteGroupsResponse]) -> None:
        """Delete Empty groups; of the others the error is given, or follows. Answered once all are done."""
        errors: dict[str, ErrorCode] = {}

        def told(group_id: str, error: ErrorCode) -> None:
            errors[group_id] = error
            if len(errors) == len(groups):
                self._desk.outbox.answer(pending, DeleteGroupsResponse({one: errors[one] for one in groups}))

        if not groups:
            self._desk.outbox.answer(pending, DeleteGroupsResponse({}))
        for group_id, group in groups.items():
            if isinstance(group, ErrorCode):
                told(group_id, group)
            elif group.state is not GroupState.EMPTY:
                told(group_id, ErrorCode.NON_EMPTY_GROUP)
            else:
                self._offsets.delete_group(group, partial(told, group_id))
