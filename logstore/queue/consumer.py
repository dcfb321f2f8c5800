"""Reads topics of a store, alone or as a member of a group.

Invariant: of a group, one consumer at a time reads a partition; each message is handed out at least once, and again
only if it was not committed when its reader ended. A consumer belongs to one thread at a time, but for `wakeup`.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Literal, Self

from logstore.errors import (
    ClientClosedError,
    FencedMemberError,
    OffsetOutOfRangeError,
    UnknownTopicError,
)
from logstore.groups import OffsetAndMetadata
from logstore.log import FetchIsolation
from logstore.names import TopicPartition
from logstore.queue.consumer_ends import Ends
from logstore.queue.intake import Intake
from logstore.queue.membership import Member, check_group_id
from logstore.queue.offsets_store import OffsetsStore
from logstore.queue.progress import Progress
from logstore.queue.reading import ISOLATIONS, Cursor, Deserializer, Isolation, Message, Reset
from logstore.store import Store

AssignorName = Literal["range", "roundrobin", "sticky", "cooperative-sticky"]
Offsets = Mapping[TopicPartition, OffsetAndMetadata | int]
Listener = Callable[[list[TopicPartition]], object]

_REVIEW_NS = 50_000_000  # how often a member looks whether another one has died
_SETTLE_NS = 500_000_000  # how often a committed reader looks for transactions that nobody ends
_MS = 1_000_000


class Consumer:
    """Reads topics; a context manager that ends with `close`, and an iterable of messages that waits for more.

    With a group it is a member of it, in whatever process the others are: each partition is read by one of them, and
    where one leaves or dies the others go on where it has committed. It takes part while it is asked for messages:
    who does not poll keeps what it has. Without a group it reads all partitions, and commits nothing. With
    `partitions` it reads these, whoever else does, and commits for the group if there is one.

    Args:
        store: where the topics are.
        topics: their names. Raises UnknownTopicError where there is none.
        group: the id of the group.
        pattern: a regular expression; all topics that it matches as a whole are read, new ones too.
        partitions: topic and number of each, instead of topics.
        auto_offset_reset: where to begin a partition for which nothing was committed, and to go on where retention has
            taken what comes next: `earliest`, `latest`, or `error`.
        isolation: `read_committed` waits for the end of transactions, and leaves out what was aborted.
        assignor: how a group divides its partitions; the same for all its members.
        key_deserializer, value_deserializer: make objects of bytes.
        enable_auto_commit: whether a group's offsets are committed every `auto_commit_interval_ms` and at the end:
            those of the messages that were handed out before the last call for more.
        max_poll_records: how many messages `poll` gives at most.
        metadata_interval_ms: how often it looks for new partitions and topics.
        on_assigned, on_revoked: are told of partitions that it gets, and that it is about to lose; what
            `on_revoked` commits still counts.

    Raises ValueError for what is no such argument.
    """

    def __init__(
        self,
        store: Store,
        *topics: str,
        group: str | None = None,
        pattern: str | re.Pattern[str] | None = None,
        partitions: Iterable[tuple[str, int]] | None = None,
        auto_offset_reset: Reset = "earliest",
        isolation: Isolation = "read_uncommitted",
        assignor: AssignorName = "range",
        key_deserializer: Deserializer | None = None,
        value_deserializer: Deserializer | None = None,
        enable_auto_commit: bool = True,
        auto_commit_interval_ms: int = 5000,
        max_poll_records: int = 500,
        metadata_interval_ms: int = 1000,
        on_assigned: Listener | None = None,
        on_revoked: Listener | None = None,
    ) -> None:
        if sum(map(bool, (topics, pattern is not None, partitions is not None))) != 1:
            raise ValueError("a consumer reads topics, or what matches a pattern, or partitions: one of these")
        if auto_offset_reset not in ("earliest", "latest", "error"):
            raise ValueError(f"{auto_offset_reset!r} is no auto_offset_reset; there are earliest, latest and error")
        if isolation not in ISOLATIONS:
            raise ValueError(f"{isolation!r} is no isolation; there are {', '.join(ISOLATIONS)}")
        if max_poll_records < 1 or auto_commit_interval_ms < 0 or metadata_interval_ms < 0:
            raise ValueError("max_poll_records is 1 or more, and an interval not negative")
        if group is not None:
            check_group_id(group)
        self._store = store
        self._topics = topics
        self._pattern = None if pattern is None else re.compile(pattern)
        self._fixed = None if partitions is None else [TopicPartition(*one) for one in partitions]
        self._group = group
        self._auto_offset_reset: Reset = auto_offset_reset
        self._isolation = ISOLATIONS[isolation]
        self._is_committed = self._isolation is FetchIsolation.TXN_COMMITTED
        self._decoders = (key_deserializer, value_deserializer)
        self._commits_itself = enable_auto_commit and group is not None
        self._commit_ns = auto_commit_interval_ms * _MS
        self._metadata_ns = metadata_interval_ms * _MS
        self._on_assigned, self._on_revoked = on_assigned, on_revoked
        self._offsets = OffsetsStore(store)
        self._intake = Intake(max_poll_records)
        self._cursors = self._intake.cursors
        self._known: dict[TopicPartition, int] = {}  # positions that are committed
        self._is_woken = False
        self._is_watched = False  # all that it reads
        for topic in topics:
            store.topic(topic)
        self._ends = Ends()
        self._end = weakref.finalize(self, self._ends.abandon)
        now = store.clock.monotonic_ns()
        self._committed_ns = self._looked_ns = self._reviewed_ns = self._settled_ns = now
        try:
            if group is not None and self._fixed is None:
                self._ends.member = Member(store, group, self._subscribed(), assignor)
            self._look(is_first=True)
        except BaseException:
            self._give_everything_back()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it; where an error goes through, what it was about is not committed, and comes again."""
        self._close(is_all_done=kind is None)

    def __repr__(self) -> str:
        group = "" if self._group is None else f" of group {self._group!r}"
        return f"<Consumer{group} {', '.join(f'{one} at {self.position(one)}' for one in self.assignment)}>"

    # ---- messages

    def poll(self, timeout: float | None = 0.0) -> list[Message]:
        """The next messages of any partitions; where there are none it waits for some, `timeout` seconds at most.

        None waits for ever. An empty list means that the time is over, or `wakeup` was called. To ask for more says
        that the messages before are dealt with: now their offsets may be committed. Raises what `commit` raises,
        OffsetOutOfRangeError by `auto_offset_reset`, SerializationError, UnknownTopicError, DamagedLogError,
        ClientClosedError, StoreClosedError.
        """
        self._check()
        clock = self._store.clock
        end = None if timeout is None else clock.monotonic_ns() + int(timeout * 1e9)
        self._intake.begin()
        self._look()
        while not self._is_woken:
            messages = self._intake.next(self._take)
            left = None if end is None else end - clock.monotonic_ns()
            if messages or (left is not None and left <= 0):
                return messages
            self._wait(left)
            self._look()
        self._is_woken = False
        return []

    def __iter__(self) -> Iterator[Message]:
        return self.records()

    def records(self, *, until_end: bool = False) -> Iterator[Message]:
        """The messages one by one, and more as they come; with `until_end` only to where the partitions end now.

        `wakeup` ends it. A message counts as dealt with once the next one is asked for, and for `commit` at once.
        """
        for messages in self.batches(until_end=until_end):
            yield from self.one_by_one(messages)

    def batches(self, *, until_end: bool = False) -> Iterator[list[Message]]:
        """The messages as `records`, in the lists that `poll` gives."""
        if not until_end:
            while messages := self.poll(None):
                yield messages
            return
        self._check()
        self._look()
        ends = {name: cursor.end() for name, cursor in self._cursors.items()}
        while not self._is_woken and any(at < ends.get(name, 0) for name, at in self._active_positions()):
            messages = self.poll()
            if messages:
                yield messages
        self._is_woken = False

    def _active_positions(self) -> list[tuple[TopicPartition, int]]:
        return [(name, at) for name, at in self.positions().items() if not self._cursors[name].is_paused]

    def _take(self, cursor: Cursor, count: int) -> list[Message]:
        try:
            return cursor.take(count)
        except UnknownTopicError:
            if self._group is None and self._pattern is None:
                raise
            self._drop([cursor.name])  # its topic was deleted: look soon who has what now
            self._looked_ns -= self._metadata_ns
            return []

    def one_by_one(self, messages: list[Message]) -> Iterator[Message]:
        """Hand out what `poll` has given last one by one, as `records`; it ends where they are to come again."""
        return self._intake.one_by_one(messages)

    def put_back(self, messages: list[Message], handed: int = 0) -> None:
        """Take back what `poll` has given last, but for the first `handed` messages: they come again, before others.

        Of those the last one may not be dealt with yet. A `wakeup` until now is forgotten.
        """
        self._is_woken = False
        if messages:
            self._intake.put_back(messages, handed)

    def wakeup(self) -> None:
        """Let a `poll` that waits return, or the next one, and an iteration end; from any thread."""
        self._is_woken = True
        self._ends.wake()

    def _wait(self, left_ns: int | None) -> None:
        """Sleep until something may have come, or something is due; at most `left_ns`."""
        ends = self._ends
        if not self._is_watched:
            self._is_watched = True
            ends.watch(self._store, self._cursors.values())
            return  # what came before it was watched does not wake anybody
        now = self._store.clock.monotonic_ns()
        due = [self._looked_ns + self._metadata_ns - now]
        if left_ns is not None:
            due.append(left_ns)
        if ends.member is not None:
            due.append(self._reviewed_ns + _REVIEW_NS - now)
        if self._is_committed:
            due.append(self._settled_ns + _SETTLE_NS - now)
        if self._commits_itself:
            due.append(max(self._committed_ns + self._commit_ns - now, _MS))
        if not self._is_woken:
            ends.wait(max(min(due), 0) / 1e9)

    # ---- what it reads

    @property
    def assignment(self) -> list[TopicPartition]:
        """The partitions that it reads."""
        return sorted(self._cursors)

    @property
    def member(self) -> Member | None:
        """What it is in its group."""
        return self._ends.member

    def _subscribed(self) -> list[str]:
        if self._pattern is None:
            return list(self._topics)
        return [topic.name for topic in self._store.topics() if self._pattern.fullmatch(topic.name)]

    def _look(self, *, is_first: bool = False) -> None:
        """Do what is due: offsets to be committed, partitions that come and go."""
        now, member = self._store.clock.monotonic_ns(), self._ends.member
        if self._commits_itself and now - self._committed_ns >= self._commit_ns:
            self._commit_all()
        is_thorough = is_first or now - self._looked_ns >= self._metadata_ns
        is_settling = self._is_committed and (is_first or now - self._settled_ns >= _SETTLE_NS)
        if is_thorough:
            self._looked_ns = now
        if member is None:
            if is_thorough:
                self._look_alone(is_first=is_first)
        elif is_thorough or now - self._reviewed_ns >= _REVIEW_NS or (self._ends.was_woken and member.has_news()):
            self._reviewed_ns = now
            self._look_at_group(member, self._subscribed() if is_thorough else None)
        if is_settling:
            self._settled_ns = now
            self._settle()
        self._ends.was_woken = False

    def _settle(self) -> None:
        """End transactions that keep committed readers waiting, or will, and that nobody else will end."""
        for cursor in self._cursors.values():
            if cursor.is_undecided():
                self._offsets.settle(self._store.partition(*cursor.name))

    def _look_alone(self, *, is_first: bool) -> None:
        """Without a group all partitions are its own; with fixed ones these. Those that come later it reads from the
        begin: they were made while it was there.
        """
        if self._fixed is None:
            topics = [self._store.topic(one) for one in self._subscribed()]
            wanted = {TopicPartition(one.name, number) for one in topics for number in range(one.partitions)}
        else:
            wanted = set(self._fixed)
        self._drop(self._cursors.keys() - wanted)
        new = wanted - self._cursors.keys()
        self._add(new)
        if not is_first and self._group is None:
            for name in new:
                self._cursors[name].seek(self._cursors[name].start())

    def _look_at_group(self, member: Member, topics: list[str] | None) -> None:
        review = member.review(topics)
        gained = review.gained
        if review.lost:
            if review.is_fenced:
                self._drop(review.lost)
            else:
                if self._on_revoked is not None:
                    self._on_revoked(sorted(review.lost))
                if self._commits_itself:
                    self._commit_all(review.lost)
                self._drop(review.lost)
                gained = member.give_up()
        if gained:
            self._add(gained)
            if self._on_assigned is not None:
                self._on_assigned(sorted(gained))

    def _add(self, partitions: Iterable[TopicPartition]) -> None:
        names = sorted(partitions)
        if not names:
            return
        self._is_watched = False
        committed = {} if self._group is None else self._offsets.stable(self._group, names)
        for name in names:
            cursor = Cursor(self._store, name, self._isolation, 0, self._reset, self._decoders)
            known = committed.get(name)
            if known is not None:
                cursor.position = self._known[name] = known.offset
            else:
                cursor.position = self._reset(cursor)
            self._intake.add(cursor)

    def _drop(self, partitions: Iterable[TopicPartition]) -> None:
        for name in tuple(partitions):
            self._intake.drop(name)
            self._known.pop(name, None)

    def _reset(self, cursor: Cursor) -> int:
        """Where to go on where nothing says where, or there is nothing."""
        if self._auto_offset_reset == "earliest":
            return cursor.start()
        if self._auto_offset_reset == "latest":
            return cursor.end()
        raise OffsetOutOfRangeError(
            f"nothing is committed for {cursor.name}, or what comes next is not there: it has "
            f"{cursor.start()}..{cursor.end()}", offset=cursor.position, remedy="seek to where to go on",
        )  # fmt: skip

    # ---- positions

    def _cursor(self, partition: tuple[str, int]) -> Cursor:
        found = self._cursors.get(TopicPartition(*partition))
        if found is None:
            raise UnknownTopicError(f"{TopicPartition(*partition)} is not assigned to this consumer")
        return found

    def _chosen(self, partitions: tuple[tuple[str, int], ...]) -> list[Cursor]:
        return [self._cursor(one) for one in partitions] if partitions else list(self._cursors.values())

    def position(self, partition: tuple[str, int]) -> int:
        """The offset behind the last message of a partition that was handed out. Raises UnknownTopicError."""
        return self._intake.positions()[self._cursor(partition).name]

    def positions(self) -> dict[TopicPartition, int]:
        """The position of each partition."""
        return self._intake.positions()

    def seek(self, partition: tuple[str, int], offset: int) -> None:
        """Go on at an offset. Raises ValueError for a negative one, UnknownTopicError."""
        if offset < 0:
            raise ValueError(f"{offset} is no offset to seek")
        self._intake.seek(self._cursor(partition).name, offset)

    def seek_to_beginning(self, *partitions: tuple[str, int]) -> None:
        """Go on at the first offset there is, of these partitions or of all."""
        for cursor in self._chosen(partitions):
            self.seek(cursor.name, cursor.start())

    def seek_to_end(self, *partitions: tuple[str, int]) -> None:
        """Go on behind what there is now, of these partitions or of all."""
        for cursor in self._chosen(partitions):
            self.seek(cursor.name, cursor.end())

    def seek_to_time(self, timestamp: int, *partitions: tuple[str, int]) -> None:
        """Go on at the first message with this time (ms) or a later one, or at the end; of these partitions or all."""
        for cursor in self._chosen(partitions):
            self.seek(cursor.name, cursor.offset_for_time(timestamp))

    def pause(self, *partitions: tuple[str, int]) -> None:
        """Hand out nothing of these partitions, or of all, until `resume`. They stay assigned."""
        for cursor in self._chosen(partitions):
            cursor.is_paused = True

    def resume(self, *partitions: tuple[str, int]) -> None:
        """Hand out messages of these partitions again, or of all."""
        for cursor in self._chosen(partitions):
            cursor.is_paused = False

    @property
    def paused(self) -> list[TopicPartition]:
        """The partitions that are paused."""
        return sorted(name for name, cursor in self._cursors.items() if cursor.is_paused)

    def lag(self) -> dict[TopicPartition, int]:
        """How many offsets lie ahead in each partition, by what may be read now."""
        return {name: max(self._cursors[name].end() - at, 0) for name, at in self.positions().items()}

    # ---- commit

    @property
    def group(self) -> str | None:
        """The id of its group."""
        return self._group

    def progress(self) -> Progress:
        """What it reads from now on and handed out last, for a transaction; see `Producer.transaction`.

        Raises ValueError without a group, or where it commits by itself: a transaction is to do that.
        """
        self._check()
        if self._group is None or self._commits_itself:
            raise ValueError("the consumer of a transaction has a group, and enable_auto_commit=False")
        return Progress(self._intake, self.seek)

    def fenced(self, partitions: Collection[tuple[str, int]]) -> AbstractContextManager[None]:
        """Keep its group as it is inside, to commit for these partitions. Raises FencedMemberError."""
        self._check()
        member = self._ends.member
        return nullcontext() if member is None else member.fenced([TopicPartition(*one) for one in partitions])

    def commit(self, offsets: Offsets | None = None) -> None:
        """Commit for the group: `offsets` of what is to be read next, or the positions of all partitions.

        Durable as the store is. Raises FencedMemberError where a partition is another member's by now, ValueError
        without a group or for what is no offset, OffsetOutOfRangeError behind the end, UnknownTopicError, OSError.
        """
        self._check()
        if self._group is None:
            raise ValueError("a consumer without a group has nothing to commit for")
        if offsets is None:
            self._commit_all()
        else:
            named = {TopicPartition(*name): offset for name, offset in offsets.items()}
            self._offsets.check(named)
            self._write(named)

    def committed(self, partition: tuple[str, int]) -> OffsetAndMetadata | None:
        """What the group has committed for a partition, by whatever member. Raises ValueError without a group."""
        self._check()
        if self._group is None:
            raise ValueError("a consumer without a group has committed nothing")
        return self._offsets.committed(self._group).get(TopicPartition(*partition))

    def _commit_all(self, partitions: Iterable[TopicPartition] | None = None) -> None:
        self._committed_ns = self._store.clock.monotonic_ns()
        self._commit_positions(self.positions(), partitions)

    def _commit_positions(
        self, positions: dict[TopicPartition, int], partitions: Iterable[TopicPartition] | None = None
    ) -> None:
        chosen = positions.keys() if partitions is None else positions.keys() & set(partitions)
        changed = {name: positions[name] for name in chosen if self._known.get(name) != positions[name]}
        if changed:
            self._write(changed)
            self._known |= changed

    def _write(self, offsets: Offsets) -> None:
        assert self._group is not None
        with self.fenced(offsets.keys()):
            self._offsets.commit(self._group, offsets)

    # ---- the end

    def _check(self) -> None:
        if self._ends.is_closed:
            raise ClientClosedError("this consumer is closed")
        self._store.check_open()

    def close(self) -> None:
        """Commit what was handed out, if it commits by itself, and leave the group. Closing twice is fine.

        Raises as `commit`; it is closed then, too.
        """
        self._close(is_all_done=True)

    def _close(self, *, is_all_done: bool) -> None:
        if self._ends.is_closed:
            return
        try:
            if self._commits_itself:
                intake = self._intake
                self._commit_positions(intake.positions() if is_all_done else intake.settled_positions())
        except FencedMemberError:
            if is_all_done:
                raise
        finally:
            self._give_everything_back()

    def _give_everything_back(self) -> None:
        self._end.detach()
        self._intake.close()
        self._ends.close()
