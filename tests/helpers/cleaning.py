"""A compacted log in memory, written batch by batch, and what is left of it: offsets, keys, batches, transactions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from helpers.open_logs import PLACE, START, Place

from logstore.cleaner import Cleaner, CleaningStats
from logstore.config import LogConfig
from logstore.log import FetchIsolation, Log
from logstore.log.transaction_index import AbortedTransaction
from logstore.records import BatchOptions, ControlType, EndTransactionMarker, RecordBatch, encode_batch, iter_batches
from logstore.records.builder import encode_end_transaction_batch

COMPACTED = LogConfig(cleanup_policy=frozenset({"compact"}))
RETENTION_MS = COMPACTED.delete_retention_ms
SLOT = 24
"""Bytes of the offset map for a slot; three of four are used."""


def key(number: int) -> bytes:
    return b"%d" % number


class Compacted:
    """An open log; records have numbers as keys, and their offset as value."""

    def __init__(self, config: LogConfig = COMPACTED, place: Place | None = None, **options: Any) -> None:
        self.place = place or Place()
        self.config = config
        self.log: Log = self.place.open(config, **options)

    # ---- writing

    def add(self, *keys: int | None, **options: Any) -> Self:
        """Append records as one batch, or its tombstones for negative keys: -k deletes k."""
        rows = [record(number, self.log.log_end_offset + at) for at, number in enumerate(keys)]
        self.log.append(rows, **options)
        return self

    def each(self, *keys: int | None, **options: Any) -> Self:
        """Append each record as a batch of its own."""
        for number in keys:
            self.add(number, **options)
        return self

    def roll(self) -> Self:
        self.log.roll()
        return self

    def producer(self, producer_id: int, *, transactional: bool = False, epoch: int = 0) -> Writer:
        return Writer(self, producer_id, epoch, transactional)

    def end(self, producer_id: int, *, commit: bool, epoch: int = 0) -> Self:
        """The marker of a transaction, as a follower takes it."""
        control_type = ControlType.COMMIT if commit else ControlType.ABORT
        marker = EndTransactionMarker(control_type, 0)
        batch = encode_end_transaction_batch(
            marker, offset=self.log.log_end_offset, timestamp=START, producer_id=producer_id, producer_epoch=epoch,
            leader_epoch=0,
        )  # fmt: skip
        return self.replicate(batch)

    def commit(self, producer_id: int, **options: Any) -> Self:
        return self.end(producer_id, commit=True, **options)

    def abort(self, producer_id: int, **options: Any) -> Self:
        return self.end(producer_id, commit=False, **options)

    def replicate(self, batch: bytes | bytearray) -> Self:
        """Append a batch as a follower does."""
        self.log.append_as_follower(bytearray(batch))
        return self

    # ---- cleaning

    def clean(self, *, at: int = START, room: int = 1 << 20, **options: Any) -> CleaningStats:
        """One round, with the map as large as `room` slots say; `at` is the time."""
        names = ("is_cancelled", "window_bytes", "drops_unkeyed", "on_progress", "bytes_per_second")
        own = {name: options.pop(name) for name in names if name in options}
        return Cleaner(room * SLOT, seed=bytes(16), **own).clean(self.log, now_ms=at, **options)

    def clean_all(self, *, at: int = START) -> CleaningStats:
        """One round over everything, the clean part too."""
        return self.clean(at=at, first_dirty_offset=0)

    def clean_twice(self, *, at: int = START) -> Self:
        """A round over everything, and one when all that it has stamped has expired."""
        self.clean_all(at=at)
        self.clean_all(at=at + RETENTION_MS + 1)
        return self

    # ---- looking

    def batches(self) -> list[RecordBatch]:
        return [batch for data in self.log.slices(self.log.log_start_offset) for batch in iter_batches(data)]

    @property
    def ends(self) -> list[int]:
        """The last offsets of all batches."""
        return [batch.last_offset for batch in self.batches()]

    @property
    def offsets(self) -> list[int]:
        """Of all records with key and value, control records among them."""
        return [
            one.offset for batch in self.batches() for one in batch.records()
            if one.key is not None and one.value is not None
        ]  # fmt: skip

    @property
    def keys(self) -> list[int]:
        """Of all records with a value, without control records."""
        return [int(one.key or b"-1") for one in self.log.records() if one.value is not None]

    @property
    def found(self) -> dict[int, bytes | None]:
        """The last record of each key, as a committed reader finds it."""
        found = {int(one.key or b"-1"): one.value for one in self.log.records(isolation=FetchIsolation.TXN_COMMITTED)}
        return {number: value for number, value in found.items() if value is not None}

    @property
    def sequences(self) -> dict[int, int]:
        """The last sequence of each producer, as the log knows it."""
        return {one.producer_id: one.last_sequence for one in self.log.producers}

    @property
    def aborted(self) -> list[AbortedTransaction]:
        """What all transaction indexes hold."""
        return [one for segment in self.log._state.segments for one in segment.transaction_index.entries()]

    @property
    def bases(self) -> list[int]:
        return list(self.log._state.segments.bases)

    def files(self, suffix: str = "") -> dict[str, bytes]:
        """The content of the files whose names end so."""
        return {name: self.place.fs.read_bytes(PLACE / name) for name in self.place.names(suffix)}

    def reopen(self, *, forgets: bool = False, **options: Any) -> Self:
        """Close and open it; with `forgets` all that is known of producers comes from the batches."""
        self.log.close()
        if forgets:
            for name in self.place.names(".snapshot"):
                self.place.fs.unlink(PLACE / name)
            self.place.fs.unlink(PLACE / ".logstore-clean")
        self.log = self.place.open(self.config, **options)
        return self

    def reconfigure(self, **settings: Any) -> Self:
        self.config = replace(self.config, **settings)
        self.log.configure(self.config)
        return self


@dataclass
class Writer:
    """A producer that counts its sequences."""

    home: Compacted
    producer_id: int
    epoch: int
    transactional: bool
    sequence: int = 0

    def add(self, *keys: int, at: int = START) -> Self:
        batch = self.batch(*keys, at=at)
        self.home.log.append_batch(batch)
        return self

    def batch(self, *keys: int, offset: int | None = None, sequence: int | None = None, at: int = START) -> bytearray:
        """The next batch, or a batch as a leader has it at an offset with a sequence of its own."""
        first = self.home.log.log_end_offset if offset is None else offset
        options = BatchOptions(
            producer_id=self.producer_id, producer_epoch=self.epoch, is_transactional=self.transactional,
            base_sequence=self.sequence if sequence is None else sequence,
            leader_epoch=-1 if offset is None else 0,
        )  # fmt: skip
        if sequence is None:
            self.sequence += len(keys)
        rows = [record(number, first + place) for place, number in enumerate(keys)]
        return encode_batch(rows, base_offset=offset or 0, timestamp=at, options=options)


def record(number: int | None, offset: int) -> tuple[bytes | None, bytes | None]:
    if number is None:
        return None, b"%d" % offset
    return (key(-number), None) if number < 0 else (key(number), b"%d" % offset)
