"""The batches and records of a log one after the other, as consumers want them: CRCs and the order of offsets checked,
around damage where that is wished, and without what was aborted (LOG_SEMANTICS §6, FORMAT §4.4).

Invariant: offsets ascend, whatever the log holds; a batch that would break that is damage. One walk belongs to one
thread; the log may be appended to, truncated and deleted from meanwhile.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator
from itertools import chain
from typing import TYPE_CHECKING

from logstore.config import INT64_MAX
from logstore.errors import DamagedLogError, LogstoreError
from logstore.log.reading import REMEDY, FetchIsolation, LogReader, Stretch
from logstore.log.segment import Segment
from logstore.log.validate import decompressed_size_max
from logstore.records import BatchScanner, Damage, Record, RecordBatch
from logstore.records.header import BatchHeader, WalkEnd
from logstore.records.kernel import decode_plain_batches, parse_header, walk_batches

if TYPE_CHECKING:
    from logstore.log.log_state import LogState

OnDamage = Callable[[DamagedLogError], None]
_COMPRESSED_OR_CONTROL, _TRANSACTIONAL = 0x27, 0x10  # attributes of a v2 batch (FORMAT §2.2); on disk, never change
_LIST_RECORDS = 1024  # decoded at a time: they stay in the processor's cache
_WRONG = {
    WalkEnd.BAD_SIZE: "these bytes are no batch",
    WalkEnd.BAD_MAGIC: "these bytes are no batch",
    WalkEnd.BAD_CRC: "the bytes of a batch do not match its CRC",
}


class BatchWalk:
    """A walk from an offset on, up to the end there is when each read is made.

    Args:
        state, reader: of the log.
        start: the first offset that is wanted.
        bytes_max: how much is read at a time.
        isolation: how far the walk goes; with TXN_COMMITTED aborted batches are left out.
        on_damage: what damage is told to, before the walk goes on behind it; without, it is raised.
    """

    def __init__(
        self,
        state: LogState,
        reader: LogReader,
        start: int,
        bytes_max: int,
        isolation: FetchIsolation,
        on_damage: OnDamage | None,
    ) -> None:
        self._state = state
        self._reader = reader
        self._start = start  # records below are not wanted
        self._bytes_max = bytes_max
        self._isolation = isolation
        self._on_damage = on_damage
        self._batch_bytes_max = decompressed_size_max(state.config)
        self._offset = start  # the next one that is wanted
        self._segment: Segment | None = None  # of the last batch
        self._position = 0  # behind the last batch, in its segment
        self._has_begun = False
        self._cuts = state.cuts
        self._told: tuple[Segment, int] | None = None  # up to where damage was told
        self._mask: int | None = None  # attributes of batches that are not taken as lists of records; None: none is

    def __repr__(self) -> str:
        return f"<BatchWalk at {self._offset} of {self._state.directory}>"

    def records(self) -> Iterator[Record]:
        """The records, without control records. Raises OffsetOutOfRangeError, DamagedLogError, LogstoreError."""
        return chain.from_iterable(self._lists())

    def _lists(self) -> Iterator[list[Record]]:
        is_committed = self._isolation is FetchIsolation.TXN_COMMITTED
        aborted = _Aborted(self._state, self._reader) if is_committed else None
        self._mask = _COMPRESSED_OR_CONTROL | (_TRANSACTIONAL if is_committed else 0)
        for batch in self._walk():
            if isinstance(batch, list):
                yield batch
                continue
            if batch.is_control or (aborted is not None and aborted.has(batch)):
                continue
            try:
                records = batch.records(size_max=self._batch_bytes_max)
            except LogstoreError as error:
                self._raise_or_tell(error)
                continue
            start = self._start
            if batch.header.magic == 2 and batch.header.base_offset >= start:
                yield records
            else:
                yield [record for record in records if record.offset >= start]

    def batches(self) -> Iterator[RecordBatch]:
        """The batches, the first of which may begin below the start. Raises as `records`."""
        is_committed = self._isolation is FetchIsolation.TXN_COMMITTED
        aborted = _Aborted(self._state, self._reader) if is_committed else None
        for batch in self._walk():
            assert isinstance(batch, RecordBatch)  # no lists were asked for
            if aborted is None or not aborted.has(batch):
                yield batch

    def _walk(self) -> Iterator[RecordBatch | list[Record]]:
        is_at_bound = False
        while not is_at_bound:
            if self._cuts != self._state.cuts:
                # What is behind the last batch may be another one now, which begins below its end.
                self._cuts, self._start, self._has_begun = self._state.cuts, self._offset, False
            try:
                stretch = self._reader.stretch(self._offset, self._bytes_max, self._isolation)
            except DamagedLogError:
                segment = self._state.segments.floor(self._offset)
                if self._on_damage is None or segment is None:
                    raise
                is_at_bound = yield from self._around(segment)
                continue
            segment = stretch.segment
            if segment is None or not stretch.data:
                return
            skipped = self._damage_before(segment, stretch)
            if skipped is not None:
                segment, problem = skipped
            else:
                problem = yield from self._take(segment, stretch)
            if problem is not None:
                if self._on_damage is None:
                    raise problem
                is_at_bound = yield from self._around(segment)

    def _damage_before(self, segment: Segment, stretch: Stretch) -> tuple[Segment, DamagedLogError | None] | None:
        """Damage that was taken for batches below the wanted offset, where a stretch begins above it; and its segment.

        Mostly there is just a gap. But a batch may claim to end anywhere, and only its CRC tells.
        """
        _, position, data = stretch
        first = parse_header(data, 0, position)
        if first.magic < 2 or first.base_offset <= self._offset:
            return None
        for one in self._state.segments.from_floor(self._offset):
            end = position if one is segment else one.size
            start = self._position if one is self._segment else one.start_of(self._offset)
            for found in BatchScanner(_SegmentSource(one), start=start, end=end):
                if self._state.cuts != self._cuts:
                    return one, None
                if isinstance(found, Damage):
                    return one, self._damage(found.reason, one, found.position)
            if one is segment:
                break
        return None

    def _take_lists(self, mask: int, segment: Segment, stretch: Stretch) -> Generator[list[Record], None, int]:
        """The records of a stretch, many batches at a time, up to a batch that takes a closer look; its position."""
        _, position, data = stretch
        state, at = self._state, 0
        while at < len(data):
            records, stop, offset = decode_plain_batches(
                data, at, len(data), self._offset, state.next_offset, mask, _LIST_RECORDS
            )
            if stop == at or state.cuts != self._cuts:
                break
            at = stop
            self._segment, self._has_begun, self._offset, self._position = segment, True, offset, position + at
            yield records
        return at

    def _take(
        self, segment: Segment, stretch: Stretch
    ) -> Generator[RecordBatch | list[Record], None, DamagedLogError | None]:
        """The batches of a stretch, up to the first that cannot be trusted; what is wrong with that.

        Where a part of the log was taken away meanwhile, what is left of the stretch is not believed any more.
        """
        _, position, data = stretch
        if self._mask is not None:
            at = yield from self._take_lists(self._mask, segment, stretch)
            if at == len(data) or self._state.cuts != self._cuts:
                return None
            position, data = position + at, data[at:]
        headers, stop, status = walk_batches(data, 0, len(data), position, True)
        self._segment, self._position = segment, position
        state = self._state
        for header in headers:
            if state.cuts != self._cuts:
                return None
            last_offset = header.base_offset + header.last_offset_delta
            if not self._offset <= header.base_offset <= last_offset < state.next_offset:
                problem = self._problem_of(header)
                if state.cuts != self._cuts:
                    return None
                if problem is not None:
                    return self._damage(problem, segment, header.position)
            self._has_begun, self._offset, self._position = True, last_offset + 1, header.position + header.size
            yield RecordBatch(header, data, header.position - position)
        if status in _WRONG:
            return self._damage(_WRONG[WalkEnd(status)], segment, position + stop)
        return None

    def _problem_of(self, header: BatchHeader) -> str | None:
        """What is wrong with the offsets of a batch, which no CRC covers."""
        last_offset = header.base_offset + header.last_offset_delta
        # Of old formats the last offset alone is known; a walk may begin in the middle of a batch.
        first_offset = header.base_offset if self._has_begun and header.magic == 2 else last_offset
        if header.last_offset_delta < 0 or first_offset < self._offset:
            return f"a batch begins at offset {header.base_offset}, where {self._offset} or more belongs"
        if last_offset >= self._state.next_offset:
            with self._state.lock:  # it may be under way
                end_offset = self._state.next_offset
            if last_offset >= end_offset:
                return f"a batch from offset {header.base_offset} on reaches beyond the log end, {end_offset}"
        return None

    # ---- damage

    def _around(self, segment: Segment) -> Generator[RecordBatch, None, bool]:
        """The batches in the rest of a segment that can be trusted; whether the bound was reached.

        The next read is behind the segment then, unless a part of the log was taken away: it is where the walk is.
        """
        bounds = self._state.bounds(self._isolation)
        following = self._state.segments.higher(segment.base_offset)
        if segment is not self._segment:
            self._segment, self._position = segment, 0
        held: list[DamagedLogError] = []  # what lies before the first offset that is wanted is not told
        scan = self._scan(segment, INT64_MAX if following is None else following.base_offset - 1)
        while True:
            try:
                found = next(scan, None)
            except OSError:
                if self._state.cuts == self._cuts:
                    raise
            if self._state.cuts != self._cuts:
                return False
            if found is None:
                break
            if isinstance(found, Damage):
                held.append(self._damage(found.reason, segment, found.position))
                continue
            if not self._has_begun and self._offset > segment.base_offset:
                is_before = found.last_offset < self._offset
                if is_before or (found.header.magic == 2 and found.header.base_offset <= self._offset):
                    held.clear()
                if is_before:
                    continue
            self._tell(segment, held)
            if found.last_offset >= bounds.limit:
                return True
            problem = self._problem_of(found.header)
            if self._state.cuts != self._cuts:
                return False
            if problem is not None:
                held.append(self._damage(problem, segment, found.header.position))
                continue
            header = found.header
            self._has_begun, self._offset, self._position = True, found.next_offset, header.position + header.size
            yield found
        self._tell(segment, held)
        end_offset = bounds.log_end_offset if following is None else following.base_offset
        self._offset = max(self._offset, end_offset)
        return False

    def _scan(self, segment: Segment, offset_max: int) -> Iterator[RecordBatch | Damage]:
        offset_min = self._offset if self._has_begun and self._position else segment.base_offset
        source = _SegmentSource(segment)
        return iter(
            BatchScanner(
                source, start=self._position, offset_min=offset_min, offset_max=offset_max,
                batch_bytes_max=self._batch_bytes_max,
            )
        )  # fmt: skip

    def _damage(self, reason: str, segment: Segment, position: int) -> DamagedLogError:
        return DamagedLogError(reason, path=segment.path, position=position, offset=self._offset, remedy=REMEDY)

    def _tell(self, segment: Segment, held: list[DamagedLogError]) -> None:
        assert self._on_damage is not None
        for error in held:
            if self._told is not None and self._told[0] is segment and (error.position or 0) <= self._told[1]:
                continue
            self._told = segment, error.position or 0
            self._on_damage(error)
        held.clear()

    def _raise_or_tell(self, error: LogstoreError) -> None:
        """A batch with the right CRC whose records cannot be read."""
        assert self._segment is not None
        error.path = str(self._segment.path)
        if self._on_damage is None:
            raise error
        self._on_damage(
            DamagedLogError(error.reason, path=error.path, position=error.position, offset=error.offset, remedy=REMEDY)
        )


class _SegmentSource:
    """The batches of a segment as a scan reads them."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self.size = segment.size

    def read(self, position: int, size: int) -> bytes:
        return bytes(self._segment.slice(position, size))


class _Aborted:
    """Knows which batches belong to aborted transactions."""

    def __init__(self, state: LogState, reader: LogReader) -> None:
        self._state = state
        self._reader = reader
        self._cuts = -1
        self._known_up_to = 0
        self._by_producer: dict[int, list[tuple[int, int]]] = {}

    def has(self, batch: RecordBatch) -> bool:
        """Whether the batch is one of them."""
        if not batch.is_transactional or batch.is_control:
            return False
        offset = batch.header.base_offset
        if offset >= self._known_up_to or self._cuts != self._state.cuts:
            self._load(offset)
        ranges = self._by_producer.get(batch.header.producer_id, [])
        found = bisect_right(ranges, (offset, INT64_MAX)) - 1
        return found >= 0 and offset <= ranges[found][1]

    def _load(self, offset: int) -> None:
        self._cuts = self._state.cuts
        self._known_up_to, transactions = self._reader.aborted_from(offset)
        self._by_producer = {}
        for one in transactions:
            self._by_producer.setdefault(one.producer_id, []).append((one.first_offset, one.last_offset))
