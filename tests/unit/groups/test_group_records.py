"""The records of `__consumer_offsets`: as Kafka writes them, where it puts them, and what is refused."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstore.errors import InvalidRecordError, UnsupportedFormatError
from logstore.groups import (
    GroupRecord,
    OffsetAndMetadata,
    OffsetRecord,
    StoredGroup,
    StoredMember,
    decode,
    group_key,
    group_partition,
    group_value,
    offset_key,
    offset_value,
)
from logstore.names import CONSUMER_OFFSETS_TOPIC, TopicPartition
from logstore.records import Record, iter_batches
from logstore.records.internal import decode_internal_key, decode_internal_value

ORDERS = TopicPartition("orders", 3)
COMMIT = OffsetAndMetadata(42, 7, "note", 1_700_000_000_000)
MEMBER = StoredMember("m-1", "i", "c", "/127.0.0.1", 300_000, 45_000, b"sub", b"assigned")
GROUP = StoredGroup("consumer", 5, "range", "m-1", 1_700_000_000_001, (MEMBER,))

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
int32s = st.integers(-(2**31), 2**31 - 1)
int64s = st.integers(-(2**63), 2**63 - 1)
commits = st.builds(OffsetAndMetadata, int64s, int32s, texts, int64s)
members = st.builds(StoredMember, texts, st.none() | texts, texts, texts, int32s, int32s, st.binary(), st.binary())
groups = st.builds(
    StoredGroup, texts, int32s, st.none() | texts, st.none() | texts, int64s, st.lists(members, max_size=3).map(tuple)
)


def kafkas_records(root: Path) -> Iterator[tuple[int, Record]]:
    """The partition and the records that a real broker wrote; its topic has 4 partitions."""
    for log in sorted((root / "kafka-4.1.1" / "clean").glob("__consumer_offsets-*/*.log")):
        for batch in iter_batches(log.read_bytes()):
            for record in batch.records():
                yield int(log.parent.name.rpartition("-")[2]), record


@pytest.mark.kafka("PART-06", "GROUP-82")
@pytest.mark.parametrize(
    ("group_id", "partition"),
    [
        ("", 0),
        ("a", 47),
        ("foo", 24),
        ("group", 47),
        ("my-group", 12),
        ("test-group", 12),
        ("my-transactional-id", 46),
        ("polygenelubricants", 0),
    ],
)
def test_a_group_is_where_javas_hash_puts_it(group_id: str, partition: int) -> None:
    assert group_partition(group_id) == partition


def test_characters_outside_the_basic_plane_count_as_two_utf16_units() -> None:
    high, low = 0xD83D, 0xDE00
    assert group_partition("\N{GRINNING FACE}", 1 << 31) == 31 * high + low
    assert group_partition("\ud83d", 1 << 31) == high


@pytest.mark.kafka("GROUP-82")
def test_real_records_are_in_the_partition_of_their_group(kafka_fixtures: Path) -> None:
    found = set()
    for partition, record in kafkas_records(kafka_fixtures):
        decoded = decode(record.key, record.value)
        assert decoded is not None
        assert group_partition(decoded.group_id, 4) == partition
        found.add(decoded.group_id)
    assert found == {f"group-{number}" for number in range(6)}


def test_real_keys_and_group_values_are_encoded_to_the_same_bytes(kafka_fixtures: Path) -> None:
    group_values = offsets = 0
    for _, record in kafkas_records(kafka_fixtures):
        decoded = decode(record.key, record.value)
        if isinstance(decoded, GroupRecord):
            assert group_key(decoded.group_id) == record.key
            if decoded.value is not None:
                group_values += 1
                assert group_value(decoded.value) == record.value
        else:
            assert decoded is not None
            offsets += 1
            assert offset_key(decoded.group_id, decoded.partition) == record.key
    assert (group_values, offsets) == (6, 38)


def test_real_offsets_of_version_4_hold_what_version_3_does(kafka_fixtures: Path) -> None:
    for _, record in kafkas_records(kafka_fixtures):
        decoded = decode(record.key, record.value)
        if isinstance(decoded, OffsetRecord) and decoded.value is not None:
            assert decoded.value.leader_epoch == -1
            assert decode(record.key, offset_value(decoded.value)) == decoded


def test_an_offset_is_laid_out_as_version_3() -> None:
    assert offset_key("g", ORDERS) == b"\x00\x01\x00\x01g\x00\x06orders\x00\x00\x00\x03"
    assert offset_value(COMMIT) == struct.pack(">hqih4sq", 3, 42, 7, 4, b"note", 1_700_000_000_000)


def test_an_offset_with_its_own_expiry_is_laid_out_as_version_1() -> None:
    value = offset_value(OffsetAndMetadata(42, 7, "note", 10, 20))
    assert value == struct.pack(">hqh4sqq", 1, 42, 4, b"note", 10, 20)
    assert decode(offset_key("g", ORDERS), value) == OffsetRecord(
        "g", ORDERS, OffsetAndMetadata(42, -1, "note", 10, 20)
    )


@pytest.mark.kafka("GROUP-82")
def test_the_decoders_of_the_inspector_read_what_is_written() -> None:
    def read(key: bytes, value: bytes) -> tuple[Any, Any]:
        return (
            decode_internal_key(CONSUMER_OFFSETS_TOPIC, key),
            decode_internal_value(CONSUMER_OFFSETS_TOPIC, key, value),
        )

    key, value = read(offset_key("g", ORDERS), offset_value(COMMIT))
    assert key == {"type": "1", "data": {"group": "g", "topic": "orders", "partition": 3}}
    assert value["data"]["offset"] == 42
    key, value = read(group_key("g"), group_value(GROUP))
    assert key == {"type": "2", "data": {"group": "g"}}
    assert value["data"]["members"][0]["memberId"] == "m-1"


@given(texts, texts, int32s, st.none() | commits)
def test_offsets_come_back(group_id: str, topic: str, partition: int, value: OffsetAndMetadata | None) -> None:
    key = offset_key(group_id, TopicPartition(topic, partition))
    expected = OffsetRecord(group_id, TopicPartition(topic, partition), value)
    assert decode(key, None if value is None else offset_value(value)) == expected


@given(texts, st.none() | groups)
def test_groups_come_back(group_id: str, value: StoredGroup | None) -> None:
    assert decode(group_key(group_id), None if value is None else group_value(value)) == GroupRecord(group_id, value)


def text(value: str) -> bytes:
    return len(value).to_bytes(2, "big") + value.encode()


@pytest.mark.kafka("GROUP-69")
@pytest.mark.parametrize("version", range(4))
def test_groups_of_all_older_versions_are_read(version: int) -> None:
    body = struct.pack(">h", version) + text("consumer") + struct.pack(">i", 5) + text("range") + text("m")
    body += struct.pack(">q", 99) if version >= 2 else b""
    body += struct.pack(">i", 1) + text("m")
    body += b"\xff\xff" if version >= 3 else b""
    body += text("c") + text("/h") + (struct.pack(">i", 300) if version >= 1 else b"") + struct.pack(">i", 45)
    body += struct.pack(">i3si2s", 3, b"sub", 2, b"as")
    member = StoredMember("m", None, "c", "/h", 300 if version else 45, 45, b"sub", b"as")
    expected = StoredGroup("consumer", 5, "range", "m", 99 if version >= 2 else -1, (member,))
    assert decode(group_key("g"), body) == GroupRecord("g", expected)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (struct.pack(">hqhq", 0, 9, 0, 50), OffsetAndMetadata(9, -1, "", 50)),
        (struct.pack(">hqhqq", 1, 9, 0, 50, 60), OffsetAndMetadata(9, -1, "", 50, 60)),
        (struct.pack(">hqhqq", 1, 9, 0, 50, -1), OffsetAndMetadata(9, -1, "", 50)),
        (struct.pack(">hqhq", 2, 9, 0, 50), OffsetAndMetadata(9, -1, "", 50)),
        (struct.pack(">hqihq", 3, 9, 4, 0, 50), OffsetAndMetadata(9, 4, "", 50)),
        (struct.pack(">hqibqb", 4, 9, 4, 1, 50, 0), OffsetAndMetadata(9, 4, "", 50)),
    ],
)
def test_offsets_of_all_versions_are_read(body: bytes, expected: OffsetAndMetadata) -> None:
    assert decode(offset_key("g", ORDERS), body) == OffsetRecord("g", ORDERS, expected)


def test_the_older_key_of_an_offset_is_read() -> None:
    key = b"\x00\x00" + offset_key("g", ORDERS)[2:]
    assert decode(key, offset_value(COMMIT)) == OffsetRecord("g", ORDERS, COMMIT)


@pytest.mark.kafka("GROUP-66")
@pytest.mark.parametrize("number", [3, 8, 16, 99])
def test_a_key_of_another_kind_is_nothing(number: int) -> None:
    assert decode(struct.pack(">h", number) + b"anything", b"\x00\x00") is None


def test_a_newer_value_is_refused() -> None:
    with pytest.raises(UnsupportedFormatError, match="a value of version 5, not 0 to 4"):
        decode(group_key("g"), b"\x00\x05")


@pytest.mark.parametrize("key", [None, b"\x00", b"\x00\x02\x00\x05g"])
def test_a_key_that_is_cut_off_is_refused(key: bytes | None) -> None:
    with pytest.raises(InvalidRecordError):
        decode(key, None)


@given(st.sampled_from([group_key("g"), offset_key("g", ORDERS)]), st.binary(max_size=80))
def test_any_bytes_decode_or_are_refused(key: bytes, value: bytes) -> None:
    try:
        decoded = decode(key, value)
    except (InvalidRecordError, UnsupportedFormatError):
        return
    assert decoded is not None


def test_what_a_record_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="group is a string of 32768 bytes, longer than 32767"):
        group_key("g" * 32768)
    with pytest.raises(ValueError, match="metadata is a string of 65534 bytes"):
        offset_value(OffsetAndMetadata(1, metadata="é" * 32767))
    with pytest.raises(ValueError, match="offset is 9223372036854775808, which does not fit into 64 bits"):
        offset_value(OffsetAndMetadata(2**63))
    with pytest.raises(ValueError, match="surrogates"):
        group_key("\ud83d")
    assert len(group_key("g" * 32767)) == 32771
