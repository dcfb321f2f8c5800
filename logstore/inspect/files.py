"""The entries of the small files - indexes, snapshots, checkpoints - as rows of plain values.

A file that contradicts itself still gives what can be read of it: the error comes after the rows. Pure but for reading
the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from logstore.errors import CorruptIndexError, LogstoreError, UnsupportedFormatError
from logstore.inspect.layout import SingleFile, read_small
from logstore.log import (
    OffsetIndex,
    ProducerSnapshot,
    TimeIndex,
    TransactionIndex,
    format_kafka_uuid,
    parse_clean_shutdown,
    parse_leader_epoch_checkpoint,
    parse_meta_properties,
    parse_offset_checkpoint,
    parse_partition_metadata,
    parse_properties,
    parse_quorum_state,
)
from logstore.names import FileKind

Row = dict[str, Any]


def file_rows(file: SingleFile) -> Iterator[Row]:
    """The entries of a file that holds no batches, in order.

    Raises OSError, and LogstoreError (with the path) where the content is not what the name says.
    """
    reader = _READERS.get(file.kind)
    if reader is None:
        raise UnsupportedFormatError(
            "no reader for a file of this name", path=file.path,
            remedy="name a .log, .index, .timeindex, .txnindex, .snapshot or checkpoint file",
        )  # fmt: skip
    data = read_small(file.path)
    try:
        yield from reader(data, file)
    except LogstoreError as error:
        error.path = str(file.path)
        raise


def _offset_index(data: bytes, file: SingleFile) -> Iterator[Row]:
    index = OffsetIndex(data, file.base_offset or 0)
    yield from ({"offset": entry.offset, "position": entry.position} for entry in index)
    _check_trailing(index.extent.trailing_size, len(data))


def _time_index(data: bytes, file: SingleFile) -> Iterator[Row]:
    index = TimeIndex(data, file.base_offset or 0)
    yield from ({"timestamp": entry.timestamp, "offset": entry.offset} for entry in index)
    _check_trailing(index.extent.trailing_size, len(data))


def _transaction_index(data: bytes, file: SingleFile) -> Iterator[Row]:
    index = TransactionIndex(data, file.base_offset or 0)
    yield from (entry._asdict() for entry in index)
    _check_trailing(index.trailing_size, len(data))


def _check_trailing(trailing: int, size: int) -> None:
    if trailing:
        raise CorruptIndexError(f"the index ends with {trailing} bytes of an entry", position=size - trailing)


def _snapshot(data: bytes, file: SingleFile) -> Iterator[Row]:
    if file.base_offset is None:
        raise UnsupportedFormatError("a snapshot is named by its offset")
    for entry in ProducerSnapshot.decode(data).entries:
        yield {
            **entry._asdict(),
            "first_sequence": entry.first_sequence if entry.has_batch else -1,
        }


def _offset_checkpoint(data: bytes, _: SingleFile) -> Iterator[Row]:
    for (topic, partition), offset in sorted(parse_offset_checkpoint(data).items()):
        yield {"topic": topic, "partition": partition, "offset": offset}


def _leader_epochs(data: bytes, _: SingleFile) -> Iterator[Row]:
    yield from (entry._asdict() for entry in parse_leader_epoch_checkpoint(data))


def _partition_metadata(data: bytes, _: SingleFile) -> Iterator[Row]:
    metadata = parse_partition_metadata(data)
    yield {"version": metadata.version, "topic_id": format_kafka_uuid(metadata.topic_id)}


def _meta_properties(data: bytes, _: SingleFile) -> Iterator[Row]:
    properties = parse_properties(data)
    yield dict(sorted(properties.items()))
    parse_meta_properties(data)  # says what is wrong with them


def _clean_shutdown(data: bytes, _: SingleFile) -> Iterator[Row]:
    yield {"broker_epoch": parse_clean_shutdown(data).broker_epoch}


def _quorum_state(data: bytes, _: SingleFile) -> Iterator[Row]:
    parse_quorum_state(data)
    yield json.loads(data)


_READERS: dict[FileKind, Callable[[bytes, SingleFile], Iterator[Row]]] = {
    FileKind.OFFSET_INDEX: _offset_index,
    FileKind.TIME_INDEX: _time_index,
    FileKind.TRANSACTION_INDEX: _transaction_index,
    FileKind.PRODUCER_SNAPSHOT: _snapshot,
    FileKind.OFFSET_CHECKPOINT: _offset_checkpoint,
    FileKind.LEADER_EPOCH_CHECKPOINT: _leader_epochs,
    FileKind.PARTITION_METADATA: _partition_metadata,
    FileKind.META_PROPERTIES: _meta_properties,
    FileKind.CLEAN_SHUTDOWN: _clean_shutdown,
    FileKind.QUORUM_STATE: _quorum_state,
}
