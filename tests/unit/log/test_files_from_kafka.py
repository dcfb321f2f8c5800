"""Every small file of the directories that real brokers wrote is read; the stock dump tool's words on it are ours.

A subset of the directories will do: each comparison asserts only that there was something to compare.
"""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from logstore.log import (
    LeaderEpochs,
    OffsetIndex,
    ProducerSnapshot,
    ProducerStateEntry,
    TimeIndex,
    TransactionIndex,
    parse_clean_shutdown,
    parse_leader_epoch_checkpoint,
    parse_meta_properties,
    parse_offset_checkpoint,
    parse_partition_metadata,
    parse_quorum_state,
)
from logstore.names import FileKind, classify_file, parse_partition_directory, parse_segment_file

RELEASES = ("kafka-4.1.1", "kafka-2.8.2")


def stock_words(fixtures: Path, extension: str) -> Iterator[tuple[Path, list[str]]]:
    """Yield each fixture file of this extension that the stock tool was run on, with the lines it printed."""
    for release in RELEASES:
        dumped = fixtures / release / "expected" / "dump"
        for words in sorted(dumped.rglob(f"*.{extension}.txt.gz")):
            path = fixtures / release / "clean" / words.relative_to(dumped).parent / words.name.removesuffix(".txt.gz")
            lines = gzip.decompress(words.read_bytes()).decode().splitlines()
            yield path, [line for line in lines if line]


def files_written_by_kafka(fixtures: Path) -> Iterator[Path]:
    for path in sorted(fixtures.rglob("*")):
        if "expected" not in path.parts and "consumer" not in path.parts and path.is_file():
            yield path


def stock_producer_line(entry: ProducerStateEntry) -> str:
    first = f"OptionalLong[{entry.current_transaction_first_offset}]" if entry.in_transaction else "OptionalLong.empty"
    line = (
        f"producerId: {entry.producer_id} producerEpoch: {entry.producer_epoch} "
        f"coordinatorEpoch: {entry.coordinator_epoch} currentTxnFirstOffset: {first} "
        f"lastTimestamp: {entry.last_timestamp} "
    )
    if entry.has_batch:
        line += (
            f"firstSequence: {entry.first_sequence} lastSequence: {entry.last_sequence} "
            f"lastOffset: {entry.last_offset} offsetDelta: {entry.offset_delta} timestamp: {entry.last_timestamp}"
        )
    return line


def test_offset_indexes_hold_what_the_stock_tool_says(kafka_fixtures: Path) -> None:
    compared = 0
    for path, expected in stock_words(kafka_fixtures, "index"):
        index = OffsetIndex(path.read_bytes(), parse_segment_file(path.name).base_offset)
        # Of an index that was preallocated and never used, the stock tool prints slot 0.
        entries = list(index) or [index.last] * bool(index.extent.padding_count)
        assert [f"offset: {offset} position: {position}" for offset, position in entries] == expected, path
        compared += len(expected)
    assert compared


def test_time_indexes_hold_what_the_stock_tool_says(kafka_fixtures: Path) -> None:
    compared = 0
    for path, expected in stock_words(kafka_fixtures, "timeindex"):
        index = TimeIndex(path.read_bytes(), parse_segment_file(path.name).base_offset)
        entries = list(index) or [index.last._replace(timestamp=0)] * bool(index.extent.padding_count)
        assert [f"timestamp: {timestamp} offset: {offset}" for timestamp, offset in entries] == expected, path
        compared += len(expected)
    assert compared


def test_transaction_indexes_hold_what_the_stock_tool_says(kafka_fixtures: Path) -> None:
    compared = 0
    for path, expected in stock_words(kafka_fixtures, "txnindex"):
        index = TransactionIndex(path.read_bytes(), parse_segment_file(path.name).base_offset)
        lines = [
            f"version: 0 producerId: {producer_id} firstOffset: {first} lastOffset: {last} lastStableOffset: {stable}"
            for producer_id, first, last, stable in index
        ]
        assert lines == expected, path
        compared += len(expected)
    assert compared


def test_producer_snapshots_hold_what_the_stock_tool_says(kafka_fixtures: Path) -> None:
    compared = 0
    for path, expected in stock_words(kafka_fixtures, "snapshot"):
        snapshot = ProducerSnapshot.decode(path.read_bytes())
        assert [stock_producer_line(entry) for entry in snapshot.entries] == expected, path
        compared += len(expected)
    assert compared


def read_small_file(path: Path, kind: FileKind, base_offset: int) -> None:
    """Read a file of a healthy directory with its parser and make the checks that its kind allows."""
    data = path.read_bytes()
    match kind:
        case FileKind.OFFSET_INDEX:
            OffsetIndex(data, base_offset).sanity_check()
            offsets = [entry.offset for entry in OffsetIndex(data, base_offset)]
            assert offsets == sorted(set(offsets))
        case FileKind.TIME_INDEX:
            TimeIndex(data, base_offset).sanity_check()
            timestamps = [entry.timestamp for entry in TimeIndex(data, base_offset)]
            assert timestamps == sorted(set(timestamps))
        case FileKind.TRANSACTION_INDEX:
            TransactionIndex(data, base_offset).sanity_check()
            assert TransactionIndex(data, base_offset).trailing_size == 0
        case FileKind.PRODUCER_SNAPSHOT:
            assert ProducerSnapshot.decode(data).encode() == data
        case FileKind.LEADER_EPOCH_CHECKPOINT:
            entries = parse_leader_epoch_checkpoint(data)
            assert LeaderEpochs.of(entries).entries == entries
        case FileKind.OFFSET_CHECKPOINT:
            assert all(offset >= 0 for offset in parse_offset_checkpoint(data).values())
        case FileKind.PARTITION_METADATA:
            assert parse_partition_metadata(data).version == 0
        case FileKind.META_PROPERTIES:
            assert parse_meta_properties(data).cluster_id
        case FileKind.CLEAN_SHUTDOWN:
            assert parse_clean_shutdown(data).version in (0, None)
        case FileKind.QUORUM_STATE:
            assert parse_quorum_state(data).leader_id >= -1


def test_every_file_a_broker_wrote_is_known_by_name_and_can_be_read(kafka_fixtures: Path) -> None:
    counts: Counter[FileKind] = Counter()
    for root in (*kafka_fixtures.glob("kafka-*"), *kafka_fixtures.glob("compaction-*")):
        for path in files_written_by_kafka(root):
            kind, base_offset, _ = classify_file(path.name)
            assert kind is not FileKind.OTHER, path
            read_small_file(path, kind, base_offset or 0)
            counts[kind] += 1
    needed = {FileKind.OFFSET_INDEX, FileKind.TIME_INDEX, FileKind.TRANSACTION_INDEX, FileKind.PRODUCER_SNAPSHOT}
    needed |= {FileKind.LEADER_EPOCH_CHECKPOINT, FileKind.OFFSET_CHECKPOINT, FileKind.PARTITION_METADATA}
    assert needed <= counts.keys(), counts


def test_every_partition_directory_is_known_by_name(kafka_fixtures: Path) -> None:
    directories = [path.name for path in kafka_fixtures.glob("kafka-*/clean/*") if path.is_dir()]
    parsed = [parse_partition_directory(name) for name in directories]
    assert parsed
    assert all(directory.topic and directory.partition < 8 for directory in parsed)
