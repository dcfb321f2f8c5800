"""Producers of a log that is not there: batches are checked and applied, and only snapshots are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from logstore.log.origin import AppendOrigin
from logstore.log.producer_state import (
    CompletedTransaction,
    DuplicateBatch,
    PendingAppend,
    ProducerState,
    ProducerStates,
)
from logstore.records import (
    BatchOptions,
    ControlType,
    EndTransactionMarker,
    RecordBatch,
    encode_batch,
    encode_end_transaction_batch,
    iter_batches,
)
from logstore.records.builder import write_header
from logstore.testing import MemoryFileSystem

DIRECTORY = Path("/data/orders-3")
PRODUCER = 1
COMMIT, ABORT = ControlType.COMMIT, ControlType.ABORT
CLIENT, COORDINATOR, REPLICATION = AppendOrigin.CLIENT, AppendOrigin.COORDINATOR, AppendOrigin.REPLICATION


def data(
    sequence: int,
    offset: int,
    *,
    count: int = 1,
    producer: int = PRODUCER,
    epoch: int = 0,
    transactional: bool = False,
    timestamp: int = 0,
) -> bytearray:
    """A batch of a producer; a `sequence` of -1 is that of a coordinator's offset commits."""
    options = BatchOptions(
        producer_id=producer, producer_epoch=epoch, base_sequence=max(sequence, 0), is_transactional=transactional
    )
    batch = encode_batch([(b"k", b"v")] * count, base_offset=offset, timestamp=timestamp, options=options)
    return batch if sequence >= 0 else with_header(batch, base_sequence=sequence)


def transactional(sequence: int, offset: int, **fields: Any) -> bytearray:
    """A batch of a producer's transaction."""
    return data(sequence, offset, transactional=True, **fields)


def marker(
    control_type: ControlType,
    offset: int,
    *,
    producer: int = PRODUCER,
    epoch: int = 0,
    coordinator_epoch: int = 0,
    timestamp: int = 0,
) -> bytearray:
    """A marker that ends a transaction."""
    return encode_end_transaction_batch(
        EndTransactionMarker(control_type, coordinator_epoch),
        offset=offset,
        timestamp=timestamp,
        producer_id=producer,
        producer_epoch=epoch,
    )


def with_header(batch: bytearray, **fields: int) -> bytearray:
    """The batch with other values in its header."""
    header = next(iter_batches(batch)).header
    write_header(batch, 0, header._replace(**fields))
    return batch


def views(*batches: bytearray) -> list[RecordBatch]:
    """The batches of one append."""
    return list(iter_batches(b"".join(batches)))


class Producers:
    """Verbs on a `ProducerStates` and its directory in memory."""

    def __init__(self, fs: MemoryFileSystem | None = None, **options: int) -> None:
        self.fs = fs or MemoryFileSystem()
        self.fs.make_directory(DIRECTORY)
        self.options = options
        self.states = ProducerStates(self.fs, DIRECTORY, **options)

    def check(self, *batches: bytearray, origin: AppendOrigin = CLIENT, **facts: Any) -> PendingAppend | DuplicateBatch:
        return self.states.check(views(*batches), origin, **facts)

    def append(
        self, *batches: bytearray, origin: AppendOrigin = CLIENT, **facts: Any
    ) -> tuple[CompletedTransaction, ...]:
        """Check and apply, as a log that writes in between; return what the append has completed."""
        found = views(*batches)
        pending = self.states.check(found, origin, **facts)
        assert isinstance(pending, PendingAppend)
        completed = self.states.apply(pending)
        for one in completed:
            self.states.complete(one)
        self.states.update_map_end_offset(found[-1].next_offset)
        return completed

    def replicate(self, *batches: bytearray) -> tuple[CompletedTransaction, ...]:
        return self.append(*batches, origin=REPLICATION)

    def snapshot_at(self, *offsets: int) -> None:
        for offset in offsets:
            self.states.update_map_end_offset(offset)
            self.states.take_snapshot()

    def reload(self, log_start_offset: int, log_end_offset: int, now_ms: int = 0) -> Self:
        """The same directory opened anew, as far as snapshots reach."""
        again = type(self)(self.fs, **self.options)
        again.states.truncate_and_reload(log_start_offset, log_end_offset, now_ms)
        return again

    @property
    def entry(self) -> ProducerState:
        return self.states.entries[PRODUCER]

    @property
    def unstable(self) -> int | None:
        found = self.states.first_unstable_offset
        return None if found is None else found.offset

    @property
    def undecided(self) -> int | None:
        return self.states.first_undecided_offset

    @property
    def files(self) -> list[str]:
        return self.fs.list(DIRECTORY)
