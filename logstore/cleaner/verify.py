"""The check that a cleaning has lost nothing: the newest value of every key is the same before it and after (PROP-01).

It shares with the cleaner the table of keys and the walk over batches, not what the cleaner has decided: of the old
segments and of the new ones each, a first walk finds the newest offset of every key, and a second one counts the newest
records and adds up a hash of offset, timestamp, key, value and headers of those that have a value. Both sums must be
equal, and there may be fewer tombstones. Memory is bounded: where a table does not hold all keys, they are parted by
their hash, and the walks are made once for each part. Nothing is written. Thread-safe.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from logstore.errors import DamagedLogError, LogstoreError, VerificationError
from logstore.fs import Buffer
from logstore.log.transaction_index import AbortedTransaction
from logstore.records import BATCH_BYTES_MAX, RecordBatch, encode_batch, iter_batches
from logstore.records.header import LOG_OVERHEAD, MapEnd
from logstore.records.kernel import KeyTable, digest_plain_batches, digest_records, map_plain_batches, map_records

_WINDOW_BYTES = 8 << 20
_SHARDS_MAX = 1 << 12


class LogBytes(Protocol):
    """The batches of a segment."""

    @property
    def path(self) -> Path:
        """Where they are."""
        ...

    @property
    def size(self) -> int:
        """Bytes of whole batches."""
        ...

    def slice(self, position: int, size: int) -> Buffer:
        """At most so many bytes from a position on."""
        ...


class NewestRecords(NamedTuple):
    """What the newest records of all keys come to.

    Attributes:
        values, tombstones: how many of them have a value, and how many have none.
        digest: the sum of a hash of each that has a value, modulo 2**64.
        shards: into how many parts the keys were parted to fit into memory.
    """

    values: int
    tombstones: int
    digest: int
    shards: int


class Verifier:
    """Compares what was there before a cleaning with what is there after it.

    Args:
        table: to be used, and left filled with anything.
        larger: makes a larger table of the same seed, where the first is too small and more memory may be had.
        aborted: the aborted transactions of the log before; nobody sees their records.
        batch_bytes_max: how large a batch may be, decompressed.
        on_read: told how many bytes were read each time; what it raises ends the check.
    """

    def __init__(
        self,
        table: KeyTable,
        aborted: Iterable[AbortedTransaction] = (),
        *,
        larger: Callable[[], KeyTable | None] = lambda: None,
        batch_bytes_max: int = BATCH_BYTES_MAX,
        on_read: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._table = table
        self._larger = larger
        self._batch_bytes_max = batch_bytes_max
        self._on_read = on_read
        self._aborted: dict[int, list[tuple[int, int]]] = {}
        for one in sorted(aborted, key=lambda one: one.first_offset):
            self._aborted.setdefault(one.producer_id, []).append((one.first_offset, one.last_offset))

    def __repr__(self) -> str:
        return f"<Verifier with room for {self._table.capacity} keys>"

    def compare(self, before: Sequence[LogBytes], after: Sequence[LogBytes]) -> NewestRecords:
        """What the newest records come to, the same for both. Raises VerificationError where it is not, DamagedLogError
        for bytes that are no batch, OSError."""
        old, new = self.newest(before), self.newest(after)
        path = after[0].path if after else None
        if (old.values, old.digest) != (new.values, new.digest):
            raise VerificationError(
                f"{old.values} keys had a value before, {new.values} have one now, and they are not all the same",
                path=path, remedy="nothing was changed; please report this with the directory",
            )  # fmt: skip
        if new.tombstones > old.tombstones:
            raise VerificationError(f"{new.tombstones} keys are deleted now, {old.tombstones} were before", path=path)
        return old

    def newest(self, segments: Sequence[LogBytes]) -> NewestRecords:
        """What the newest records of these segments come to. Raises DamagedLogError, OSError."""
        shards = 1
        while True:
            with contextlib.suppress(_TableFullError):
                return self._newest(segments, shards)
            table, self._larger = self._larger(), lambda: None
            if table is not None:
                self._table = table
                continue
            if shards >= _SHARDS_MAX:
                raise LogstoreError("the memory for keys is too small to check what was done", remedy="give it more")
            shards *= 2

    def _newest(self, segments: Sequence[LogBytes], shards: int) -> NewestRecords:
        values = tombstones = digest = 0
        for shard in range(shards):
            self._table.restrict(shard, shards)
            for segment in segments:
                self._map(segment)
            for segment in segments:
                found = self._sum(segment)
                values, tombstones, digest = values + found[0], tombstones + found[1], digest + found[2]
        return NewestRecords(values, tombstones, digest % 2**64, shards)

    def _map(self, segment: LogBytes) -> None:
        def take(window: Buffer, start: int, end: int) -> tuple[int, MapEnd]:
            position, _, _, _, status, _ = map_plain_batches(self._table, window, start, end, 0, _END)
            return position, status

        for batch in self._others(segment, take):
            payload, count = self._payload(batch)
            if map_records(self._table, payload, count, batch.header.base_offset, 0, _END)[3]:
                raise _TableFullError

    def _sum(self, segment: LogBytes) -> tuple[int, int, int]:
        values = tombstones = digest = 0

        def take(window: Buffer, start: int, end: int) -> tuple[int, MapEnd]:
            nonlocal values, tombstones, digest
            position, more_values, more_tombstones, _, more, status = digest_plain_batches(
                self._table, window, start, end, _END
            )
            values, tombstones, digest = values + more_values, tombstones + more_tombstones, digest + more
            return position, status

        for batch in self._others(segment, take):
            payload, count = self._payload(batch)
            found = digest_records(self._table, payload, count, batch.header, _END)
            values, tombstones, digest = values + found[0], tombstones + found[1], digest + found[3]
        return values, tombstones, digest

    def _others(
        self, segment: LogBytes, take: Callable[[Buffer, int, int], tuple[int, MapEnd]]
    ) -> Iterator[RecordBatch]:
        """Let `take` have all plain batches, and yield those others that readers see, in format v2."""
        position, window_bytes = 0, _WINDOW_BYTES
        while position < segment.size:
            window, at, status = segment.slice(position, window_bytes), 0, MapEnd.OTHER
            while status == MapEnd.OTHER:
                at, status = take(window, at, len(window))
                if status == MapEnd.OTHER:
                    batch = _batch_at(window, at)
                    if batch is None:
                        break
                    if not batch.crc_is_valid():
                        raise _damage(segment, position + at)
                    yield from self._visible(batch)
                    at += batch.header.size
            if status == MapEnd.FULL:
                raise _TableFullError
            if status in (MapEnd.BAD, MapEnd.BAD_CRC):
                raise _damage(segment, position + at)
            window_bytes = _WINDOW_BYTES
            if not at:
                window_bytes = _size_at(window, 0)
                if not len(window) < window_bytes <= segment.size - position:
                    raise _damage(segment, position)
            self._on_read(at)
            position += at

    def _visible(self, batch: RecordBatch) -> Iterator[RecordBatch]:
        header = batch.header
        if batch.is_control or self._is_aborted(batch):
            return
        if header.magic == 2:
            yield batch
            return
        records = batch.records(size_max=self._batch_bytes_max)
        if records:
            yield next(iter_batches(encode_batch(records, base_offset=records[0].offset), verify=False))

    def _is_aborted(self, batch: RecordBatch) -> bool:
        if not batch.is_transactional:
            return False
        ranges = self._aborted.get(batch.header.producer_id, [])
        offset = batch.header.base_offset
        found = bisect_right(ranges, (offset, _END)) - 1
        return found >= 0 and offset <= ranges[found][1]

    def _payload(self, batch: RecordBatch) -> tuple[Buffer, int]:
        data, start, end = batch.body(size_max=self._batch_bytes_max)
        return memoryview(data)[start:end], batch.header.count


_END = 2**63 - 1


class _TableFullError(Exception):
    """The table does not hold the keys of this part."""


def _size_at(window: Buffer, position: int) -> int:
    """The size that a batch claims; 0 where the window does not hold that much of it."""
    head = bytes(memoryview(window)[position : position + LOG_OVERHEAD])
    return LOG_OVERHEAD + int.from_bytes(head[8:], "big", signed=True) if len(head) == LOG_OVERHEAD else 0


def _batch_at(window: Buffer, position: int) -> RecordBatch | None:
    """The batch at a position; None if it is not there as a whole."""
    size = _size_at(window, position)
    view = memoryview(window)[position : position + size]
    return next(iter_batches(view, verify=False), None) if size > 0 and len(view) == size else None


def _damage(segment: LogBytes, position: int) -> DamagedLogError:
    return DamagedLogError(
        "these bytes are no batch, or not the one that was written", path=segment.path, position=position,
        remedy="`logstore check` tells how much is damaged",
    )  # fmt: skip
