"""What Kafka's own dump tool printed of logs that a broker wrote, record for record, against what we decode.

The reader of batches below is ours alone for this test: it shares nothing with `logstore.records`.
"""

from __future__ import annotations

import gzip
import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from logstore.records.internal import INTERNAL_TOPICS, decode_control_value, decode_internal_key, decode_internal_value

BATCH_HEADER = struct.Struct(">qiibIhiqqqhii")
RECORD_LINE = re.compile(r"\| offset: (?P<offset>\d+) .*? headerKeys: \[.*?\] ?(?P<rest>.*)")
CONTROL_BIT = 0x20
CODEC_BITS = 0x07
CONTROL_TYPES = {
    "ABORT": 0,
    "COMMIT": 1,
    "LeaderChange:": 2,
    "SnapshotHeader": 3,
    "SnapshotFooter": 4,
    "KRaftVersion": 5,
    "KRaftVoters": 6,
}


class StoredRecord(NamedTuple):
    offset: int
    control: bool
    key: bytes | None
    value: bytes | None


def stored_records(log: bytes) -> Iterator[StoredRecord]:
    position = 0
    while position + BATCH_HEADER.size <= len(log):
        base_offset, size, _, magic, _, attributes, *_, count = BATCH_HEADER.unpack_from(log, position)
        assert magic == 2 and not attributes & CODEC_BITS
        record_position = position + BATCH_HEADER.size
        for _ in range(count):
            record_size, start = varint(log, record_position)
            _, cursor = varint(log, start + 1)
            offset_delta, cursor = varint(log, cursor)
            key, cursor = field(log, cursor)
            value, cursor = field(log, cursor)
            yield StoredRecord(base_offset + offset_delta, bool(attributes & CONTROL_BIT), key, value)
            record_position = start + record_size
        position += 12 + size


def varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), position


def field(data: bytes, position: int) -> tuple[bytes | None, int]:
    size, position = varint(data, position)
    return (None, position) if size < 0 else (data[position : position + size], position + size)


def dumped_lines(dump: Path) -> dict[int, str]:
    """What the tool printed of each record, by offset, from behind the header keys."""
    lines = gzip.decompress(dump.read_bytes()).decode("utf-8").splitlines()
    matches = (RECORD_LINE.match(line) for line in lines)
    return {int(match["offset"]): match["rest"] for match in matches if match}


def dumped_key_and_value(line: str) -> tuple[Any, Any]:
    decoder = json.JSONDecoder()
    key = None
    if line.startswith("key: "):
        key, end = decoder.raw_decode(line, len("key: "))
        line = line[end + 1 :]
    assert line.startswith("payload: ")
    text = line.removeprefix("payload: ")
    return key, None if text == "<DELETE>" else json.loads(text)


def dumped_control(line: str) -> tuple[int, dict[str, Any]]:
    name, rest = line.split(" ", 1)
    if name == "endTxnMarker:":
        control_type, _, epoch = rest.split(" ")
        return CONTROL_TYPES[control_type], {"version": 0, "coordinatorEpoch": int(epoch)}
    return CONTROL_TYPES[name], json.loads(rest)


def logs_with_dump(kafka_fixtures: Path, directories: str) -> list[tuple[Path, Path]]:
    pairs = []
    for dump in sorted(kafka_fixtures.glob(f"*/expected/dump/{directories}/*.log.txt.gz")):
        log = dump.parents[3] / "clean" / dump.parent.name / dump.name.removesuffix(".txt.gz")
        if log.exists():
            pairs.append((log, dump))
    return pairs


def same(ours: object, theirs: object) -> bool:
    """Equal, and the fields in the same order."""
    return json.dumps(ours, allow_nan=False) == json.dumps(theirs)


@pytest.mark.parametrize("topic", sorted(INTERNAL_TOPICS))
def test_every_record_of_an_internal_topic_is_decoded_as_the_stock_tool_prints_it(
    topic: str, kafka_fixtures: Path
) -> None:
    compared = 0
    for log, dump in logs_with_dump(kafka_fixtures, f"{topic}-*"):
        lines = dumped_lines(dump)
        for record in stored_records(log.read_bytes()):
            line = lines.pop(record.offset)
            if record.control:
                continue
            key, value = dumped_key_and_value(line)
            where = f"{log} offset {record.offset}"
            assert same(decode_internal_key(topic, record.key), key), where
            assert same(decode_internal_value(topic, record.key, record.value), value), where
            compared += 1
        assert not lines, f"{log}: the tool saw more records"
    assert compared > 0


@pytest.mark.parametrize(("directories", "control_types"), [("__cluster_metadata-*", {2}), ("txn-*", {0, 1})])
@pytest.mark.kafka("DUMP-11")
def test_control_records_are_decoded_as_the_stock_tool_prints_them(
    directories: str, control_types: set[int], kafka_fixtures: Path
) -> None:
    seen = set()
    for log, dump in logs_with_dump(kafka_fixtures, directories):
        lines = dumped_lines(dump)
        for record in stored_records(log.read_bytes()):
            if not record.control:
                continue
            assert record.key is not None and record.value is not None
            control_type, body = dumped_control(lines[record.offset])
            assert struct.unpack(">hh", record.key) == (0, control_type)
            assert same(decode_control_value(control_type, record.value), body), f"{log} offset {record.offset}"
            seen.add(control_type)
    assert seen == control_types


@pytest.mark.kafka("DUMP-11")
def test_a_metadata_snapshot_begins_and_ends_as_the_stock_tool_prints_it(kafka_fixtures: Path) -> None:
    snapshot = kafka_fixtures / "kafka-4.1.1" / "clean" / "bootstrap.checkpoint"
    records = list(stored_records(snapshot.read_bytes()))
    bodies = {}
    for record in records:
        if record.control and record.key and record.value:
            _, control_type = struct.unpack(">hh", record.key)
            bodies[control_type] = decode_control_value(control_type, record.value)
    assert bodies == {3: {"version": 0, "lastContainedLogTimestamp": 0}, 4: {"version": 0}}
    features = [decode_internal_value("__cluster_metadata", None, record.value) for record in records[1:-1]]
    assert features[0] == {
        "type": "FEATURE_LEVEL_RECORD",
        "version": 0,
        "data": {"name": "metadata.version", "featureLevel": 27},
    }
