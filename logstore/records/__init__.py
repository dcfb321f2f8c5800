"""Bytes and records: Kafka's message formats both ways, without I/O."""

from logstore.records.batch import (
    BATCH_BYTES_MAX,
    RecordBatch,
    TimestampType,
    decode,
    decrement_sequence,
    first_batch_size,
    increment_sequence,
    iter_batches,
)
from logstore.records.builder import (
    BatchBuilder,
    BatchOptions,
    encode_batch,
    encode_empty_batch,
    encode_end_transaction_batch,
)
from logstore.records.compression import Codec, compress, decompress
from logstore.records.control import (
    ControlType,
    EndTransactionMarker,
    encode_control_key,
    encode_end_transaction_marker,
    parse_control_key,
    parse_end_transaction_marker,
)
from logstore.records.header import (
    BatchHeader,
    ByteEncoding,
    FilterCounts,
    FilteredBatch,
    FilterRule,
    LineMode,
    LineStyle,
    MapEnd,
    RecordStats,
)
from logstore.records.kernel import KERNEL_NAME, KeyTable, format_records, murmur2, partition_keys
from logstore.records.patch import set_last_offset, set_leader_epoch, set_max_timestamp
from logstore.records.record import Header, Record
from logstore.records.scan import BatchScanner, BytesSource, Damage, DamageCode, Source

__all__ = [
    "BATCH_BYTES_MAX",
    "KERNEL_NAME",
    "BatchBuilder",
    "BatchHeader",
    "BatchOptions",
    "BatchScanner",
    "ByteEncoding",
    "BytesSource",
    "Codec",
    "ControlType",
    "Damage",
    "DamageCode",
    "EndTransactionMarker",
    "FilterCounts",
    "FilterRule",
    "FilteredBatch",
    "Header",
    "KeyTable",
    "LineMode",
    "LineStyle",
    "MapEnd",
    "Record",
    "RecordBatch",
    "RecordStats",
    "Source",
    "TimestampType",
    "compress",
    "decode",
    "decompress",
    "decrement_sequence",
    "encode_batch",
    "encode_control_key",
    "encode_empty_batch",
    "encode_end_transaction_batch",
    "encode_end_transaction_marker",
    "first_batch_size",
    "format_records",
    "increment_sequence",
    "iter_batches",
    "murmur2",
    "parse_control_key",
    "parse_end_transaction_marker",
    "partition_keys",
    "set_last_offset",
    "set_leader_epoch",
    "set_max_timestamp",
]
