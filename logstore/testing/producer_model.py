"""What a log knows of its producers, as plain values: the part of `LogModel` that idempotence and transactions need.

Invariant: it is the fold of the batches it was shown, in order; nothing is read from files. What a log may have
forgotten when it was opened again or truncated (it depends on where its snapshots lie) is marked as not certain.
Rules: LOG_SEMANTICS §4. Not thread-safe.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from logstore.errors import InvalidTransactionStateError, OutOfOrderSequenceError, ProducerFencedError
from logstore.log import AppendOrigin
from logstore.records import ControlType, Record, RecordBatch, increment_sequence, parse_end_transaction_marker

INT32_MAX = 2**31 - 1
REMEMBERED = 5  # batches of one producer that are known as duplicates


@dataclasses.dataclass(frozen=True, slots=True)
class ModelBatch:
    """One batch as a plain value; `marker` is what a control batch does to its producer's transaction."""

    base_offset: int
    last_offset: int
    records: tuple[Record, ...]
    max_timestamp: int
    leader_epoch: int
    producer_id: int = -1
    producer_epoch: int = -1
    base_sequence: int = -1
    is_transactional: bool = False
    marker: ControlType | None = None
    coordinator_epoch: int = -1

    @classmethod
    def of(cls, batch: RecordBatch) -> ModelBatch:
        """The value of an encoded batch of format v2."""
        header, records = batch.header, tuple(batch.records())
        marker, coordinator_epoch = None, -1
        if batch.is_control:
            found = parse_end_transaction_marker(records[0].key, records[0].value)
            marker, coordinator_epoch = found.control_type, found.coordinator_epoch
        return cls(
            header.base_offset, batch.last_offset, records, header.max_timestamp, header.leader_epoch,
            header.producer_id, header.producer_epoch, header.base_sequence, batch.is_transactional,
            marker, coordinator_epoch,
        )  # fmt: skip

    @property
    def last_sequence(self) -> int:
        """The sequence of its last record; -1 if it has none."""
        if self.base_sequence < 0:
            return -1
        return increment_sequence(self.base_sequence, self.last_offset - self.base_offset)


@dataclasses.dataclass(frozen=True, slots=True)
class ModelProducer:
    """What is known of one producer; -1 stands for none.

    Attributes:
        batches: its last ones, oldest first, that the log is sure to know as duplicates.
        transaction_start: the first offset of its open transaction.
        certain: whether the log is sure to know all of this.
    """

    epoch: int = -1
    batches: tuple[ModelBatch, ...] = ()
    coordinator_epoch: int = -1
    last_timestamp: int = -1
    transaction_start: int = -1
    certain: bool = True

    @property
    def last_sequence(self) -> int:
        """The sequence that the next batch of this epoch has to follow."""
        return self.batches[-1].last_sequence if self.batches else -1


@dataclasses.dataclass(frozen=True, slots=True)
class EndedTransaction:
    """A transaction whose marker may not be replicated yet."""

    first_offset: int
    marker_offset: int
    certain: bool = True


class ModelProducers:
    """The producers of one log.

    Attributes:
        known: by id.
        ended: transactions that still hold the last stable offset back, until the high watermark passes their markers.
        expired: the log end when a producer was forgotten; a snapshot from before may still have it, and bring it back.
    """

    def __init__(self) -> None:
        self.known: dict[int, ModelProducer] = {}
        self.ended: list[EndedTransaction] = []
        self._dropped: dict[int, ModelProducer] = {}  # as of the batches that are no longer in the model
        self.expired: dict[int, int] = {}

    def copy(self) -> ModelProducers:
        """One that goes its own way."""
        other = ModelProducers()
        other.known, other.ended = dict(self.known), list(self.ended)
        other._dropped, other.expired = dict(self._dropped), dict(self.expired)
        return other

    def is_certain(self, producer_id: int) -> bool:
        """Whether all that the model says of this producer holds for the log too."""
        producer = self.known.get(producer_id)
        return producer is None or producer.certain

    def find_duplicate(self, batch: ModelBatch) -> ModelBatch | None:
        """The batch that this one repeats."""
        producer = self.known.get(batch.producer_id)
        if producer is None or producer.epoch != batch.producer_epoch:
            return None
        wanted = batch.base_sequence, batch.last_sequence
        return next((one for one in producer.batches if (one.base_sequence, one.last_sequence) == wanted), None)

    def append(self, batches: Sequence[ModelBatch], origin: AppendOrigin) -> None:
        """Take in the batches of one append, all or none; raises what the log raises."""
        after, ended = dict(self.known), list(self.ended)
        for batch in batches:
            if batch.producer_id >= 0:
                _apply(after, ended, batch, origin)
        self.known, self.ended = after, ended

    def expire(self, now_ms: int, expiration_ms: int, log_end_offset: int) -> None:
        """Forget producers that are silent for too long and have no transaction open."""
        for producer_id, state in list(self.known.items()):
            if state.transaction_start < 0 and now_ms - state.last_timestamp >= expiration_ms:
                del self.known[producer_id]
                self.expired[producer_id] = log_end_offset

    def drop(self, batches: Iterable[ModelBatch]) -> None:
        """Take note that these batches, the oldest, leave the model: the log has dropped them."""
        for batch in batches:
            if batch.producer_id >= 0:
                _apply(self._dropped, [], batch, AppendOrigin.REPLICATION)

    def on_high_watermark(self, offset: int) -> None:
        """Let the transactions go whose markers are replicated."""
        self.ended = [one for one in self.ended if one.marker_offset >= offset]

    def stable_limits(self) -> tuple[int | None, int | None]:
        """Where the oldest transaction begins that holds committed readers back: with those that are not certain, and
        without them."""
        held = [(state.transaction_start, state.certain) for state in self.known.values()]
        held = [one for one in held if one[0] >= 0] + [(one.first_offset, one.certain) for one in self.ended]
        sure = [first for first, certain in held if certain]
        return min((first for first, _ in held), default=None), min(sure, default=None)

    def clear(self) -> None:
        """Forget all, as a log does that is truncated fully."""
        self.known, self.ended, self._dropped, self.expired = {}, [], {}, {}

    def reload(
        self, batches: Sequence[ModelBatch], high_watermark: int, is_doubtful: Callable[[ModelBatch], bool]
    ) -> None:
        """Know what the log knows once it was opened again or truncated, and holds these batches.

        `is_doubtful` says of a batch that the log may have forgotten what it said of its producer.
        """
        known = {one: dataclasses.replace(state, certain=False) for one, state in self._dropped.items()}
        ended = list[EndedTransaction]()
        for batch in batches:
            producer_id = batch.producer_id
            if producer_id < 0:
                continue
            _apply(known, ended, batch, AppendOrigin.REPLICATION)
            if is_doubtful(batch) or batch.base_offset < self.expired.get(producer_id, 0):
                known[producer_id] = dataclasses.replace(known[producer_id], certain=False)
        # A snapshot remembers the last batch alone.
        self.known = {one: dataclasses.replace(state, batches=state.batches[-1:]) for one, state in known.items()}
        self.ended = [dataclasses.replace(one, certain=False) for one in ended if one.marker_offset >= high_watermark]

    def doubt_all(self) -> None:
        """Be certain of nothing any more."""
        self.known = {one: dataclasses.replace(state, certain=False) for one, state in self.known.items()}


def _apply(
    known: dict[int, ModelProducer], ended: list[EndedTransaction], batch: ModelBatch, origin: AppendOrigin
) -> None:
    before = known.get(batch.producer_id, ModelProducer())
    if batch.producer_epoch < before.epoch and origin is not AppendOrigin.REPLICATION:
        raise ProducerFencedError(f"epoch {batch.producer_epoch} after {before.epoch}")
    batches = before.batches if before.epoch == batch.producer_epoch else ()
    if batch.marker is not None:
        if batch.coordinator_epoch < before.coordinator_epoch and origin is not AppendOrigin.REPLICATION:
            raise ProducerFencedError(f"coordinator epoch {batch.coordinator_epoch} after {before.coordinator_epoch}")
        if before.transaction_start >= 0:
            ended.append(EndedTransaction(before.transaction_start, batch.base_offset, before.certain))
        # A marker of a higher epoch leaves nothing of what was before.
        certain = before.certain or batch.producer_epoch > before.epoch
        known[batch.producer_id] = ModelProducer(
            batch.producer_epoch, batches, batch.coordinator_epoch, batch.records[0].timestamp, -1, certain
        )
        return
    if origin is AppendOrigin.CLIENT:
        _check_sequence(before, batch)
    start = before.transaction_start
    if not batch.is_transactional and start >= 0:
        raise InvalidTransactionStateError(f"a transaction is open since {start}")
    if batch.is_transactional and start < 0:
        start = batch.base_offset
    known[batch.producer_id] = ModelProducer(
        batch.producer_epoch, (*batches, batch)[-REMEMBERED:], before.coordinator_epoch, batch.max_timestamp, start,
        before.certain,
    )  # fmt: skip


def _check_sequence(before: ModelProducer, batch: ModelBatch) -> None:
    if before.epoch < 0:  # unknown: it may begin anywhere
        return
    if before.epoch != batch.producer_epoch:
        fits = batch.base_sequence == 0
    else:
        last = before.last_sequence
        fits = batch.base_sequence == last + 1 or (batch.base_sequence == 0 and last == INT32_MAX)
    if not fits:
        raise OutOfOrderSequenceError(f"sequence {batch.base_sequence} after {before.last_sequence}")
