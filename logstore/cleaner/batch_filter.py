"""What becomes of one batch that takes more than the kernel's filter: compressed, of a transaction, with control
records, or of an old format (CLEANER §4.3, §4.5, §4.7, §10).

Invariant: what is written has the batch's own offsets, producer and sequence; a batch is decoded only where a record of
it may stay. The batches of a log come in order; one filter belongs to one round and one thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from logstore.cleaner.stats import Tally
from logstore.cleaner.transactions import TransactionTracker
from logstore.errors import BatchTooLargeError, InvalidRecordError
from logstore.fs import Buffer
from logstore.log.transaction_index import AbortedTransaction
from logstore.records import BatchHeader, Record, RecordBatch, compress, encode_empty_batch
from logstore.records.builder import write_header
from logstore.records.compression import codec_of
from logstore.records.header import HEADER_V2_SIZE, INT32_MAX, NONE, FilterRule
from logstore.records.kernel import KeyTable, encode_records, filter_records

# Attributes of a v2 batch (FORMAT §2.2). On disk; never change.
_APPEND_TIME, _HORIZON, _KNOWN = 0x08, 0x40, 0x7F
_CODEC = 0x07


class RewriteRules(NamedTuple):
    """What decides in one round.

    Attributes:
        table: the offset map.
        filter: what the kernel's filter goes by, and all others.
        marker_epochs: by producer of which no batch of data is known, its epoch: control batches of it stay.
        size_max: bytes that a batch may hold decompressed.
    """

    table: KeyTable
    filter: FilterRule
    marker_epochs: Mapping[int, int]
    size_max: int


class Filtered(NamedTuple):
    """What becomes of a batch: `data` with the offset it begins at, empty where it goes.

    `aborted` is what the transaction index has to hold of a marker that stays.
    """

    data: Buffer
    base_offset: int
    is_changed: bool
    aborted: AbortedTransaction | None = None


class BatchFilter:
    """Decides batch by batch.

    Args:
        rules: by what.
        tracker: of this pass over the log.
        tally: counts what is done.
    """

    def __init__(self, rules: RewriteRules, tracker: TransactionTracker, tally: Tally) -> None:
        self._rules = rules
        self._rule = rules.filter
        self._tracker = tracker
        self._tally = tally

    def __repr__(self) -> str:
        return f"<BatchFilter {self._tracker!r}>"

    def filter(self, batch: RecordBatch) -> Filtered:
        """What becomes of a batch. Raises what a batch raises that cannot be decoded."""
        if batch.header.magic < 2:
            return self._convert(batch)
        return self._control(batch) if batch.is_control else self._data(batch)

    # ---- format v2

    def _control(self, batch: RecordBatch) -> Filtered:
        header, now = batch.header, self._rule.now_ms
        control_type = batch.control_type(size_max=self._rules.size_max)
        fate = self._tracker.see_marker(header, control_type)
        epoch = self._rules.marker_epochs.get(header.producer_id)
        stays = self._must_stay(batch) or (epoch is not None and epoch == header.producer_epoch)
        if control_type is None:
            return self._verbatim(batch) if stays else self._drop(batch)
        horizon = batch.delete_horizon_ms
        if not fate.is_discardable or (horizon is not None and horizon > now):
            return self._verbatim(batch, fate.aborted)
        if horizon is not None:
            self._tally.markers_dropped += 1
            return self._empty(batch) if stays else self._drop(batch)
        self._tally.batches_reencoded += 1
        self._tally.batches_stamped += 1
        records = batch.records(size_max=self._rules.size_max)
        return Filtered(_encode(header, records, self._rule.new_horizon_ms), header.base_offset, True)

    def _data(self, batch: RecordBatch) -> Filtered:
        header = batch.header
        if self._tracker.is_aborted(header):
            count = max(header.count, 0)
            self._tally.records_before += count
            self._tally.aborted += count
            if not self._must_stay(batch):
                return self._drop(batch)
            return self._empty(batch) if header.count else self._verbatim(batch)
        body, start, end = batch.body(size_max=self._rules.size_max)
        payload = memoryview(body)[start:end]
        kept, count, base_timestamp, max_timestamp, is_stamped, counts = filter_records(
            self._rules.table, payload, header.count, header, self._rule
        )
        self._tally.add(counts)
        if kept is None:
            return Filtered(batch.raw, header.base_offset, False)
        if not count:
            data: Buffer = encode_empty_batch(header) if counts.emptied else b""
            return Filtered(data, header.base_offset, True)
        attributes = header.attributes & _KNOWN | (_HORIZON if is_stamped else 0)
        changed = header._replace(
            attributes=attributes, base_timestamp=base_timestamp, max_timestamp=max_timestamp, count=count
        )
        return Filtered(_assemble(changed, kept), header.base_offset, True)

    # ---- formats v0 and v1

    def _convert(self, batch: RecordBatch) -> Filtered:
        """Make a batch of format v2 of it, with what stays; tombstones get a delete horizon at once.

        Kafka lets those go by the age of files; here they live as long as any other.
        """
        header, rule, tally = batch.header, self._rule, self._tally
        records = batch.records(size_max=self._rules.size_max)
        kept = [record for record in records if self._keeps(record)]
        tally.records_before += len(records)
        tally.records_after += len(kept)
        attributes = header.attributes & _APPEND_TIME if header.magic else 0
        if not kept:
            if not self._must_stay(batch):
                return self._drop(batch)
            tally.batches_emptied += 1
            return Filtered(encode_empty_batch(header._replace(attributes=attributes)), header.base_offset, True)
        tombstones = sum(record.value is None for record in kept if record.key is not None)
        tally.tombstones_kept += tombstones
        tally.batches_reencoded += 1
        tally.batches_converted += 1
        is_stamped = tombstones > 0 and batch.last_offset <= rule.latest
        tally.batches_stamped += is_stamped
        base = kept[0].offset
        converted = header._replace(
            magic=2, base_offset=base, last_offset_delta=batch.last_offset - base,
            attributes=header.attributes & _CODEC | attributes,
        )  # fmt: skip
        return Filtered(_encode(converted, kept, rule.new_horizon_ms if is_stamped else None), base, True)

    def _keeps(self, record: Record) -> bool:
        rule = self._rule
        if record.offset > rule.latest:
            return True
        if record.key is None:
            self._tally.unkeyed += 1
            return not rule.drops_unkeyed
        stays = record.offset >= self._rules.table.get(record.key)
        self._tally.superseded += not stays
        return stays

    # ---- outcomes

    def _must_stay(self, batch: RecordBatch) -> bool:
        return batch.last_offset in self._rule.protected

    def _verbatim(self, batch: RecordBatch, aborted: AbortedTransaction | None = None) -> Filtered:
        self._tally.batches_verbatim += 1
        return Filtered(batch.raw, batch.header.base_offset, False, aborted)

    def _empty(self, batch: RecordBatch) -> Filtered:
        self._tally.batches_emptied += 1
        return Filtered(encode_empty_batch(batch.header), batch.header.base_offset, True)

    def _drop(self, batch: RecordBatch) -> Filtered:
        self._tally.batches_dropped += 1
        return Filtered(b"", batch.header.base_offset, True)


def _encode(header: BatchHeader, records: Sequence[Record], horizon_ms: int | None) -> bytearray:
    """A batch of these records with the offsets, codec and producer of a header, and with a delete horizon if given."""
    try:
        buffer, _, base_timestamp, max_timestamp = encode_records(
            list(records), HEADER_V2_SIZE, header.base_offset, horizon_ms, NONE
        )
    except ValueError as error:  # offsets or timestamps that the format cannot say
        raise InvalidRecordError(str(error)) from error
    if header.attributes & _APPEND_TIME:
        max_timestamp = header.max_timestamp
    attributes = header.attributes & _KNOWN | (0 if horizon_ms is None else _HORIZON)
    changed = header._replace(
        attributes=attributes, base_timestamp=base_timestamp, max_timestamp=max_timestamp, count=len(records)
    )
    return _assemble(changed, memoryview(buffer)[HEADER_V2_SIZE:])


def _assemble(header: BatchHeader, records: Buffer) -> bytearray:
    """A batch of a header and encoded records, compressed with its codec at that one's own level."""
    buffer = bytearray(HEADER_V2_SIZE)
    buffer += compress(codec_of(header.attributes), records)
    if len(buffer) > INT32_MAX:
        raise BatchTooLargeError(f"a batch would become {len(buffer)} bytes large")
    write_header(buffer, 0, header._replace(size=len(buffer)))
    return buffer
