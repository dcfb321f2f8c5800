"""What is known of the jobs of a work queue: which are available, acquired, or finished (the model is KIP-932).

Per partition there is a position: above it nobody has looked. Below it, each job that is not finished is in `open`, all
others are finished; so what is kept is as much as is unfinished, whatever the order of the acknowledgements. An open
job is available from some time on: at once, after a delay, or when the visibility timeout of who has acquired it runs
out. Pure: no I/O, no clock. Belongs to one thread at a time.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Callable, Sequence
from typing import TypeAlias
from uuid import UUID

from logstore.errors import InvalidRecordError
from logstore.queue import work_queue_records as records
from logstore.queue.work_queue_records import Kind

Entry: TypeAlias = tuple[int, int, int]
"""Of a job that is open: from when on it is available (ms), how often it was delivered, and by whom it is acquired."""
NOBODY = 0
_STEP_MAX = 1 << 24  # a position does not jump further over jobs; bounds what one record can ask for
_STALE_MIN = 1024

# A snapshot: u16 format, id of the jobs' topic, acknowledged, dead, partitions, unique keys; then the partitions:
# position, horizon, open jobs, finished ones above the position; then these; then the unique keys. On disk; never
# change.
_FORMAT = 1
_SNAPSHOT = struct.Struct(">H16sQQHI")
_PARTITION = struct.Struct(">qqII")
_OPEN = struct.Struct(">qqHQ")
_AHEAD = struct.Struct(">q")
_UNIQUE = struct.Struct(">HqI")
assert (_SNAPSHOT.size, _PARTITION.size, _OPEN.size, _UNIQUE.size) == (40, 24, 26, 14)


class PartitionJobs:
    """The jobs of one partition.

    Attributes:
        position: from there on nobody has looked for jobs.
        horizon: below it jobs may have been given away that no record speaks of, if all processes died.
        open: the jobs that are not finished, by offset: those below the position, and some above it.
        ahead: the finished ones above the position.
        due: when jobs become available, with their offsets; a heap, with entries that are no longer true.
    """

    __slots__ = ("ahead", "due", "horizon", "open", "position")

    def __init__(self, position: int = 0, horizon: int = 0) -> None:
        self.position = position
        self.horizon = horizon
        self.open: dict[int, Entry] = {}
        self.ahead: set[int] = set()
        self.due: list[tuple[int, int]] = []

    def __repr__(self) -> str:
        return f"<PartitionJobs below {self.position}: {len(self.open)} open, {len(self.ahead)} finished above it>"

    @property
    def first_unfinished(self) -> int:
        """Below it all jobs are finished."""
        return min(min(self.open, default=self.position), self.position)

    @property
    def end(self) -> int:
        """Behind all offsets that are spoken of."""
        return max(self.position, max(self.open, default=-1) + 1, max(self.ahead, default=-1) + 1)

    def set(self, offset: int, entry: Entry) -> None:
        """A job is available from some time on."""
        self.open[offset] = entry
        heapq.heappush(self.due, (entry[0], offset))
        if len(self.due) > 2 * len(self.open) + _STALE_MIN:
            self.rebuild()

    def rebuild(self) -> None:
        """Make the heap anew: what was taken from it and not used, and what is no longer true."""
        self.due = [(entry[0], offset) for offset, entry in self.open.items()]
        heapq.heapify(self.due)

    def finish(self, offset: int) -> None:
        """A job is finished."""
        self.open.pop(offset, None)
        if offset >= self.position:
            self.ahead.add(offset)

    def is_fresh(self, offset: int) -> bool:
        """Whether nothing is known of a job at or above the position."""
        return offset not in self.open and offset not in self.ahead

    def advance(self, first: int, position: int, horizon: int, entry: Entry) -> None:
        """Jobs from `first` to `position` were looked at; `entry` is for those of which nothing else is known."""
        for offset in range(max(first, self.position), position):
            if offset not in self.open and offset not in self.ahead:
                self.set(offset, entry)
        self.position = position
        self.horizon = horizon
        if self.ahead:
            self.ahead = {offset for offset in self.ahead if offset >= position}

    def next_due(self) -> int | None:
        """When the next of the open jobs becomes available."""
        due, jobs = self.due, self.open
        while due:
            time, offset = due[0]
            entry = jobs.get(offset)
            if entry is not None and entry[0] == time:
                return time
            heapq.heappop(due)
        return None

    def pop_due(self, now: int) -> int | None:
        """The next job that is available; it is to be set again, or the heap rebuilt."""
        time = self.next_due()
        if time is None or time > now:
            return None
        first = heapq.heappop(self.due)
        while self.due and self.due[0] == first:  # it was set twice to the same time
            heapq.heappop(self.due)
        return first[1]

    def cut(self, end: int) -> None:
        """Forget what is said of jobs from `end` on: they are no more."""
        self.position = min(self.position, end)
        self.horizon = min(self.horizon, end)
        self.open = {offset: entry for offset, entry in self.open.items() if offset < end}
        self.ahead = {offset for offset in self.ahead if self.position <= offset < end}
        self.rebuild()


class QueueState:
    """All of a work queue.

    Attributes:
        topic_id: of the topic that has the jobs; None before anything was written.
        partitions: by number.
        acknowledged, dead: how many jobs were, since the queue was made.
        unique: the jobs of unique keys, partition and offset, that are not finished.
    """

    def __init__(self, partitions: int = 0, topic_id: UUID | None = None) -> None:
        self.topic_id = topic_id
        self.partitions = [PartitionJobs() for _ in range(partitions)]
        self.acknowledged = 0
        self.dead = 0
        self.unique: dict[bytes, tuple[int, int]] = {}
        self._keys: dict[tuple[int, int], bytes] = {}
        self._parts: list[bytes] = []

    def __repr__(self) -> str:
        return f"<QueueState {self.partitions}>"

    def grow(self, partitions: int) -> None:
        """Have so many partitions, at least."""
        self.partitions += [PartitionJobs() for _ in range(partitions - len(self.partitions))]

    def owners(self) -> set[int]:
        """Who has acquired jobs."""
        return {entry[2] for jobs in self.partitions for entry in jobs.open.values()} - {NOBODY}

    def next_due(self) -> int | None:
        """When the next job becomes available that is not."""
        return min((due for jobs in self.partitions if (due := jobs.next_due()) is not None), default=None)

    # ---- changes

    def clear(self) -> None:
        """Know nothing any more."""
        self.__dict__.update(QueueState(len(self.partitions)).__dict__)

    def cut(self, number: int, end: int) -> bool:
        """Forget what is said of jobs of a partition from `end` on: they are no more. Whether there were any."""
        jobs = self.partitions[number]
        late = [key for key, (of, offset) in self.unique.items() if of == number and offset >= end]
        for key in late:
            self._keys.pop(self.unique.pop(key), None)
        if jobs.end <= end:
            return bool(late)
        jobs.cut(end)
        return True

    def forget_unique(self) -> None:
        """All unique keys are free."""
        self.unique.clear()
        self._keys.clear()

    def finish(self, number: int, offset: int) -> None:
        """A job is finished, and its unique key free."""
        self.partitions[number].finish(offset)
        if self._keys:
            key = self._keys.pop((number, offset), None)
            if key is not None and self.unique.get(key) == (number, offset):
                del self.unique[key]

    def acknowledge(self, number: int, offset: int) -> None:
        """A job is done."""
        self.acknowledged += 1
        if self._keys:
            self.finish(number, offset)
        else:
            self.partitions[number].finish(offset)

    def release_owner(self, is_gone: Callable[[int], bool]) -> bool:
        """Let be available at once what is acquired by those of whom `is_gone` is true; whether there was any."""
        gone = {owner for owner in self.owners() if is_gone(owner)}
        if not gone:
            return False
        for jobs in self.partitions:
            for offset, (_, count, owner) in list(jobs.open.items()):
                if owner in gone:
                    jobs.set(offset, (0, count, NOBODY))
        return True

    def rebuild(self) -> None:
        """Make all heaps anew."""
        for jobs in self.partitions:
            jobs.rebuild()

    def apply(self, value: bytes | None) -> None:
        """Do what a record says. Raises InvalidRecordError, UnsupportedFormatError."""
        kind, number = records.head_of(value)
        assert value is not None
        if kind == Kind.SNAPSHOT:
            self._take_part(value)
            return
        self._parts.clear()
        self.grow(number + 1)
        jobs = self.partitions[number]
        match kind:
            case Kind.ADVANCED:
                first, position, horizon, owner, until = records.decode_advanced(value)
                if not 0 <= position - max(first, jobs.position) <= _STEP_MAX:
                    raise InvalidRecordError(f"a queue's position does not go from {jobs.position} to {position}")
                jobs.advance(first, position, horizon, (until, 1, owner))
            case Kind.ACQUIRED:
                owner, until, acquired = records.decode_acquired(value)
                for offset, count in acquired:
                    jobs.set(offset, (until, count, owner))
            case Kind.RELEASED:
                for offset, due, count in records.decode_released(value):
                    jobs.set(offset, (due, count, NOBODY))
            case Kind.ACKNOWLEDGED | Kind.DEAD | Kind.GONE:
                self._finish_all(kind, number, records.decode_finished(value))
            case Kind.UNIQUE:
                self._set_unique(records.decode_unique(value)[1], number, records.decode_unique(value)[0])
            case _:
                raise InvalidRecordError(f"a record of a queue's state has the kind {kind}")

    def _finish_all(self, kind: int, number: int, offsets: Sequence[int]) -> None:
        for offset in offsets:
            self.finish(number, offset)
        if kind == Kind.ACKNOWLEDGED:
            self.acknowledged += len(offsets)
        elif kind == Kind.DEAD:
            self.dead += len(offsets)

    def _set_unique(self, key: bytes, number: int, offset: int) -> None:
        self.unique[key] = number, offset
        self._keys[number, offset] = key

    # ---- as of a moment

    def dump(self) -> bytes:
        """All of it, for `load`."""
        topic_id = bytes(16) if self.topic_id is None else self.topic_id.bytes
        pieces = [
            _SNAPSHOT.pack(_FORMAT, topic_id, self.acknowledged, self.dead, len(self.partitions), len(self.unique))
        ]
        for jobs in self.partitions:
            pieces.append(_PARTITION.pack(jobs.position, jobs.horizon, len(jobs.open), len(jobs.ahead)))
            pieces += [
                _OPEN.pack(offset, from_ms, count, owner) for offset, (from_ms, count, owner) in jobs.open.items()
            ]
            pieces += [_AHEAD.pack(offset) for offset in sorted(jobs.ahead)]
        for key, (number, offset) in self.unique.items():
            pieces += [_UNIQUE.pack(number, offset, len(key)), key]
        return b"".join(pieces)

    def load(self, data: bytes) -> None:
        """Be what was dumped. Raises InvalidRecordError, UnsupportedFormatError; nothing is changed then."""
        try:
            other = _loaded(memoryview(data))
        except (struct.error, ValueError) as error:
            raise InvalidRecordError(f"a queue's snapshot cannot be read: {error}") from error
        self.__dict__.update(other.__dict__)

    def _take_part(self, value: bytes) -> None:
        """Collect a snapshot; one that is not complete counts for nothing."""
        index, count, data = records.decode_snapshot_part(value)
        if index == 0:
            self._parts.clear()
        if index != len(self._parts):
            raise InvalidRecordError(f"part {index} of a queue's snapshot follows {len(self._parts)} others")
        self._parts.append(data)
        if index + 1 == count:
            whole = b"".join(self._parts)
            self._parts.clear()
            self.load(whole)


def _loaded(view: memoryview) -> QueueState:
    form, topic_id, acknowledged, dead, partitions, unique = _SNAPSHOT.unpack_from(view)
    if form != _FORMAT:
        raise InvalidRecordError(f"a queue's snapshot has the format {form}")
    at = _SNAPSHOT.size
    state = QueueState(0, UUID(bytes=topic_id) if any(topic_id) else None)
    state.acknowledged, state.dead = acknowledged, dead
    for _ in range(partitions):
        position, horizon, opened, ahead = _PARTITION.unpack_from(view, at)
        at += _PARTITION.size
        jobs = PartitionJobs(position, horizon)
        state.partitions.append(jobs)
        for offset, from_ms, count, owner in _OPEN.iter_unpack(_slice(view, at, opened * _OPEN.size)):
            jobs.open[offset] = from_ms, count, owner
        at += opened * _OPEN.size
        jobs.ahead.update(offset for (offset,) in _AHEAD.iter_unpack(_slice(view, at, ahead * _AHEAD.size)))
        at += ahead * _AHEAD.size
        jobs.rebuild()
    for _ in range(unique):
        number, offset, size = _UNIQUE.unpack_from(view, at)
        at += _UNIQUE.size
        state._set_unique(bytes(_slice(view, at, size)), number, offset)
        at += size
    return state


def _slice(view: memoryview, at: int, size: int) -> memoryview:
    if at + size > len(view):
        raise ValueError(f"{size} bytes at {at} are behind its end, {len(view)}")
    return view[at : at + size]
