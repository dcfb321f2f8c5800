"""Membership in a consumer group, across processes and without a server: locked files in the store's directory.

Three kinds of dot-files: the group's, which is locked for a moment by who looks at it or changes it; its state beside
it; and one for each member, locked as long as that lives, so that the kernel tells the others of its death. Invariants:
each partition is owned by at most one live member: it is taken under the lock, after its old owner has given it up or
is dead; a member commits for what it owns only. A member belongs to one thread at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from logstore.errors import FencedMemberError, LogstoreError
from logstore.fs import OpenLock, SharingFileSystem
from logstore.names import TEMPORARY_FILE_SUFFIX, TopicPartition
from logstore.queue.assignors import ASSIGNORS
from logstore.queue.group_state import GroupMember, GroupState, Partitions
from logstore.store import Store

# On disk; never change.
PREFIX = ".logstore-group-"
STATE_SUFFIX = ".state"
MEMBER_SUFFIX = ".member"

DEFAULT_ASSIGNOR = "range"
GROUP_ID_LENGTH_MAX = 32_767
"""Bytes in UTF-8: what a record of `__consumer_offsets` can hold."""
_STATE_BYTES_MAX = 64 << 20
_SLUG_LENGTH = 40
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")
_NONE: Partitions = frozenset()


class Review(NamedTuple):
    """What has changed for a member.

    Attributes:
        lost: what it has to give up, by `give_up`, once its offsets are committed.
        gained: what it owns since now.
        is_fenced: whether the others took it for dead: `lost` belongs to somebody else already.
    """

    lost: Partitions = _NONE
    gained: Partitions = _NONE
    is_fenced: bool = False


class Member:
    """A member of a group, from its making until `leave`.

    Args:
        store: where the topics are.
        group: the group's id, any text but none.
        topics: what it subscribes to; they need not exist.
        assignor: the name of what assigns, the same for all members: see `ASSIGNORS`.

    Attributes:
        member_id: drawn anew for each.
        owned: the partitions that it reads.
        generation: the last assignment that it has seen.

    Raises ValueError for an id or assignor that is none, LogstoreError where the group uses another assignor, OSError.
    """

    def __init__(
        self, store: Store, group: str, topics: Collection[str], assignor: str = DEFAULT_ASSIGNOR
    ) -> None:
        if assignor not in ASSIGNORS:
            raise ValueError(f"{assignor!r} is no assignor; there are {', '.join(ASSIGNORS)}")
        check_group_id(group)
        self.group = group
        self.member_id = uuid4().hex
        self.owned: Partitions = _NONE
        self.generation = -1
        self._store = store
        self._assignor = assignor
        self._topics = tuple(sorted(topics))
        self._files = _Files(store.fs, store.paths[0], group)
        self._losing: Partitions = _NONE
        self._life: OpenLock | None = None
        self._seen_ms: int | None = None
        try:
            with self._files.locked():
                self._life = self._files.begin_life(self.member_id)
        except BaseException:
            self.abandon()
            raise

    def __repr__(self) -> str:
        return f"<Member {self.member_id} of {self.group!r}, generation {self.generation}, owns {len(self.owned)}>"

    # ---- partitions

    def review(self, topics: Collection[str] | None = None) -> Review:
        """See what the others have done, and who of them is dead; assign anew where that is due.

        Args:
            topics: what it subscribes to from now on; with it, partitions that were added are seen as well.

        What it is to lose it owns until `give_up`; it gains something only once it has nothing to lose.
        """
        with self._changing() as state:
            before, is_new = self.owned, self.member_id not in state.members
            is_fenced = is_new and self.generation >= 0
            if is_new:
                self._join(state)
            me = state.members[self.member_id]
            is_due = self._bury(state) or is_new
            if topics is not None and tuple(sorted(topics)) != me.topics:
                me.topics = self._topics = tuple(sorted(topics))
                is_due = True
            self._assign_if_due(state, is_due=is_due, is_thorough=topics is not None)
            me.generation = state.generation
            lost = self._losing = me.owned - me.wanted
            gained = _NONE if lost else state.take(self.member_id)
        self.owned, self.generation = me.owned, me.generation
        return Review(before if is_fenced else lost, gained, is_fenced)

    def _join(self, state: GroupState) -> None:
        others = [one for one in state.members if not self._files.is_dead(one)]
        if others and state.assignor != self._assignor:
            raise LogstoreError(
                f"group {self.group!r} has members that use the assignor {state.assignor}, not {self._assignor}",
                remedy="use the same in all members",
            )
        if self.generation >= 0 and self._life is not None:  # taken for dead: its file is gone, too
            self._life.close()
            self._life = self._files.begin_life(self.member_id)
        state.assignor = self._assignor
        state.members[self.member_id] = GroupMember(self._topics)

    def has_news(self) -> bool:
        """Whether the group was changed since the last review, as far as can be told without locking anything.

        Deaths do not show here, and not all changes within a millisecond: review now and then, too.
        """
        return self._files.changed_ms() != self._seen_ms

    def give_up(self) -> Partitions:
        """Let others have what the last review has said it is to lose; what it gains now, which may be of that.

        What others have made it lose since then the next review tells. Raises FencedMemberError.
        """
        with self._changing() as state:
            me = self._checked(state)
            me.owned -= self._losing
            is_due = self._bury(state)
            self._assign_if_due(state, is_due=is_due, is_thorough=False)
            gained = state.take(self.member_id) if me.owned <= me.wanted else _NONE
        self.owned = me.owned
        return gained

    @contextlib.contextmanager
    def fenced(self, partitions: Collection[TopicPartition], generation: int | None = None) -> Iterator[None]:
        """Keep the group as it is inside, to commit for `partitions`.

        Args:
            generation: the one in which the offsets were come to, if that matters.

        Raises FencedMemberError unless it is a member, owns these, and the generation is the group's.
        """
        with self._changing() as state:
            me = self._checked(state)
            if generation is not None and generation != state.generation:
                raise FencedMemberError(
                    f"generation {generation} of group {self.group!r} is past; it is at {state.generation}"
                )
            foreign = sorted(frozenset(partitions) - me.owned)
            if foreign:
                raise FencedMemberError(
                    f"member {self.member_id} of group {self.group!r} does not own {', '.join(map(str, foreign))} any "
                    f"more, in generation {state.generation}"
                )
            yield

    def _checked(self, state: GroupState) -> GroupMember:
        me = state.members.get(self.member_id)
        if me is None:
            raise FencedMemberError(
                f"{self.member_id} is no member of group {self.group!r} any more: its generation, {self.generation}, "
                f"is past, the group is at {state.generation}"
            )
        return me

    def _bury(self, state: GroupState) -> bool:
        """Remove members that are dead, with their files; whether there were any."""
        dead = [one for one in state.members if one != self.member_id and self._files.is_dead(one)]
        for one in dead:
            del state.members[one]
        return bool(dead)

    def _assign_if_due(self, state: GroupState, *, is_due: bool, is_thorough: bool) -> None:
        """Assign anew where members came or went, or something is nobody's; if thorough, where there are more."""
        is_due = is_due or state.has_unassigned()
        if is_due or is_thorough:
            store = self._store
            topics = [topic for topic in sorted(state.topics()) if store.has_topic(topic)]
            counts = {topic: store.topic(topic).partitions for topic in topics}
            if is_due or counts != state.counts:
                state.assign(counts)

    # ---- the end

    def leave(self) -> None:
        """Be no member any more: the others take over what it owned. Raises OSError. Leaving twice is fine."""
        if self._life is None:
            return
        try:
            with self._changing() as state:
                self._bury(state)
                if state.members.pop(self.member_id, None) is not None and state.members:
                    self._assign_if_due(state, is_due=True, is_thorough=True)
                self._files.end_life(self.member_id)
        finally:
            self.abandon()
            self.owned = _NONE

    def abandon(self) -> None:
        """End as if the process were killed: the others will notice."""
        life, self._life = self._life, None
        if life is not None:
            life.close()
        self._files.close()

    @contextlib.contextmanager
    def _changing(self) -> Iterator[GroupState]:
        """The state, under the lock; written if it was changed inside without an error."""
        self._store.check_open()
        if self._life is None:
            raise FencedMemberError(f"{self.member_id} has left group {self.group!r}")
        with self._files.locked():
            data = self._files.read_state()
            state = GroupState.parse(data, self.group)
            yield state
            if (changed := state.format()) != data:
                self._files.write_state(changed)
            self._seen_ms = self._files.changed_ms()


class _Files:
    """The files of a group."""

    def __init__(self, fs: SharingFileSystem, root: Path, group: str) -> None:
        self._fs = fs
        self._root = root
        self._name = _file_name(group)
        self._lock = fs.open_lock(root / self._name)

    def __repr__(self) -> str:
        return f"<_Files {self._root / self._name}>"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep all others from looking at the group, inside."""
        self._lock.acquire(wait=True)
        try:
            yield
        finally:
            self._lock.release()

    def read_state(self) -> bytes:
        """The state, nothing where there is none."""
        path = self._root / (self._name + STATE_SUFFIX)
        if not self._fs.exists(path):
            return b""
        with self._fs.open(path) as file:
            return file.read(0, _STATE_BYTES_MAX)

    def changed_ms(self) -> int | None:
        """When the state was written."""
        try:
            return self._fs.modified_ms(self._root / (self._name + STATE_SUFFIX))
        except FileNotFoundError:
            return None

    def write_state(self, data: bytes) -> None:
        """Replace the state. It need not survive a power cut, since no member does; so nothing is synced."""
        path = self._root / (self._name + STATE_SUFFIX)
        temporary = path.with_name(path.name + TEMPORARY_FILE_SUFFIX)
        with self._fs.open(temporary, write=True, create=True) as file:
            file.truncate(0)
            file.write(0, data)
        self._fs.rename(temporary, path)

    def begin_life(self, member_id: str) -> OpenLock:
        """Lock the file of a new member, and remove those of members that died before anybody knew them."""
        for name in self._fs.list(self._root):
            if name.startswith(self._name + ".") and name.endswith(MEMBER_SUFFIX):
                self.is_dead(name[len(self._name) + 1 : -len(MEMBER_SUFFIX)])
        lock = self._fs.open_lock(self._member_path(member_id))
        lock.acquire(wait=True)
        return lock

    def is_dead(self, member_id: str) -> bool:
        """Whether nobody holds a member's file; it is removed then. Under the lock."""
        path = self._member_path(member_id)
        if not self._fs.exists(path):
            return True
        lock = self._fs.open_lock(path)
        try:
            if not lock.acquire():
                return False
            self.end_life(member_id)
            return True
        finally:
            lock.close()

    def end_life(self, member_id: str) -> None:
        """Remove a member's file."""
        self._fs.unlink(self._member_path(member_id), missing_ok=True)

    def _member_path(self, member_id: str) -> Path:
        return self._root / f"{self._name}.{member_id}{MEMBER_SUFFIX}"

    def close(self) -> None:
        """Give the lock file up."""
        self._lock.close()


def check_group_id(group: str) -> None:
    """Raise ValueError for what is no id of a group with members (CLUSTER §7.2)."""
    if not isinstance(group, str) or not group:
        raise ValueError(f"{group!r} is no group id: it is text, and not empty")
    if len(group.encode("utf-8", "surrogatepass")) > GROUP_ID_LENGTH_MAX:
        raise ValueError(f"a group id has at most {GROUP_ID_LENGTH_MAX} bytes")


def group_state(store: Store, group: str) -> GroupState:
    """A group as it is, dead members left out; nothing is changed but for their files. Raises OSError."""
    files = _Files(store.fs, store.paths[0], group)
    try:
        with files.locked():
            state = GroupState.parse(files.read_state(), group)
            for one in [one for one in state.members if files.is_dead(one)]:
                del state.members[one]
            return state
    finally:
        files.close()


def group_ids(store: Store) -> Sequence[str]:
    """The ids of all groups that had members at some time. Raises OSError."""
    found, fs = [], store.fs
    for name in fs.list(store.paths[0]):
        if name.startswith(PREFIX) and name.endswith(STATE_SUFFIX):
            with contextlib.suppress(FileNotFoundError), fs.open(store.paths[0] / name) as file:
                group = GroupState.parse_id(file.read(0, _STATE_BYTES_MAX))
                if group is not None:
                    found.append(group)
    return sorted(found)


def _file_name(group: str) -> str:
    """A name that any file system takes, whatever the id, and that another id does not get."""
    digest = hashlib.sha256(group.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{PREFIX}{_UNSAFE.sub('_', group[:_SLUG_LENGTH])}-{digest}"
