from __future__ import annotations

import base64
import struct
from collections.abc import Iterator

import pytest

from logstore.errors import InvalidRecordError
from logstore.records.internal.cluster_metadata import METADATA_TYPES
from logstore.records.internal.consumer_offsets import CONSUMER_OFFSETS_TYPES
from logstore.records.internal.consumer_protocol import ASSIGNMENT, SUBSCRIPTION
from logstore.records.internal.control_values import KRAFT_CONTROL_VALUES
from logstore.records.internal.reader import ByteReader
from logstore.records.internal.schema import (
    BOOLEAN,
    BYTES,
    FLOAT64,
    INT8,
    INT16,
    INT32,
    INT64,
    NO_UUID,
    STRING,
    UINT16,
    UUID,
    Array,
    Field,
    FieldType,
    Message,
    Struct,
)
from logstore.records.internal.transaction_state import TRANSACTION_STATE_TYPES


def read(field_type: FieldType, data: bytes, *, flexible: bool = False, nullable: bool = False) -> object:
    return field_type.read(ByteReader(data), 0, flexible, nullable)


def all_messages() -> Iterator[Message]:
    for record_type in (*CONSUMER_OFFSETS_TYPES.values(), *TRANSACTION_STATE_TYPES.values()):
        yield record_type.key
        yield record_type.value
    yield from (*METADATA_TYPES.values(), *KRAFT_CONTROL_VALUES.values(), SUBSCRIPTION, ASSIGNMENT)


@pytest.mark.parametrize(
    ("field_type", "data", "value"),
    [
        (INT8, b"\xff", -1),
        (INT16, b"\x80\x00", -32768),
        (UINT16, b"\xff\xff", 65535),
        (INT32, b"\x7f\xff\xff\xff", 2**31 - 1),
        (INT64, b"\x80" + bytes(7), -(2**63)),
        (BOOLEAN, b"\x00", False),
        (BOOLEAN, b"\x02", True),
        (FLOAT64, struct.pack(">d", 1048576.5), 1048576.5),
        (FLOAT64, struct.pack(">d", float("nan")), "NaN"),
        (FLOAT64, struct.pack(">d", float("-inf")), "-Infinity"),
        (UUID, bytes(16), NO_UUID),
        (UUID, b"\xff" * 16, "_____________________w"),
    ],
)
def test_a_value_of_fixed_size_is_big_endian(field_type: FieldType, data: bytes, value: object) -> None:
    assert read(field_type, data) == value
    with pytest.raises(InvalidRecordError, match="are left"):
        read(field_type, data[:-1])


@pytest.mark.parametrize(
    ("flexible", "data", "value"),
    [
        (False, b"\x00\x02hi", "hi"),
        (True, b"\x03hi", "hi"),
        (False, b"\x00\x00", ""),
        (True, b"\x01", ""),
        (False, b"\xff\xff", None),
        (True, b"\x00", None),
    ],
)
def test_a_string_has_an_int16_or_a_compact_length(flexible: bool, data: bytes, value: str | None) -> None:
    assert read(STRING, data, flexible=flexible, nullable=True) == value
    if value is None:
        with pytest.raises(InvalidRecordError, match="null is not allowed"):
            read(STRING, data, flexible=flexible)


def test_bytes_become_base64_and_arrays_lists() -> None:
    assert read(BYTES, b"\x00\x00\x00\x03\x00\xff\x10") == base64.b64encode(b"\x00\xff\x10").decode()
    assert read(Array(INT16), b"\x03\x00\x01\xff\xff", flexible=True) == [1, -1]
    assert read(Array(STRING), b"\x00\x00\x00\x00") == []
    assert read(Array(INT8), b"\xff\xff\xff\xff", nullable=True) is None


def test_a_structure_that_may_be_null_begins_with_a_byte() -> None:
    pair = Struct((Field("a", INT8), Field("b", INT8)))
    assert read(pair, b"\x01\x05\x06", nullable=True) == {"a": 5, "b": 6}
    assert read(pair, b"\xff", nullable=True) is None
    with pytest.raises(InvalidRecordError, match="begins with 2"):
        read(pair, b"\x02\x05\x06", nullable=True)


@pytest.mark.parametrize(
    ("field_type", "data", "flexible", "reason", "position"),
    [
        (STRING, b"\x00\x09abc", False, "string of size 9, but 3 bytes are left", 0),
        (STRING, b"\xff\xfeabc", False, "string of size -2", 0),
        (STRING, b"\x00\x03a\xffc", False, "string is not UTF-8: invalid start byte", 3),
        (STRING, b"\x00\x03\xed\xa0\x80", False, "string is not UTF-8: invalid continuation byte", 2),
        (STRING, b"\x81\x80\x02" + bytes(32768), True, "string of 32768 bytes, longer than 32767", 0),
        (BYTES, b"\x7f\xff\xff\xff", False, "bytes of size 2147483647, but 0 bytes are left", 0),
        (Array(INT32), b"\x00\x00\x00\x09" + bytes(8), False, "array of size 9, but 8 bytes are left", 0),
        (Array(INT32), b"\xff\xff\xff\xff\x0f", True, "array of size 4294967294, but 0 bytes are left", 0),
        (Array(INT8), b"\xff\xff\xff\xff\x10", True, "varint does not fit into 32 bits", 0),
        (Array(INT8), b"\x80\x80\x80\x80\x80\x01", True, "varint longer than 5 bytes", 0),
        (Array(INT8), b"\x80\x80", True, "varint without an end", 0),
        (Array(INT16), b"\x03\x00\x01", True, "integer of 2 bytes, but 0 are left", 3),
    ],
)
def test_a_size_is_bounded_before_it_is_believed(
    field_type: FieldType, data: bytes, flexible: bool, reason: str, position: int
) -> None:
    with pytest.raises(InvalidRecordError) as caught:
        read(field_type, data, flexible=flexible)
    assert (caught.value.reason, caught.value.position) == (reason, position)


MESSAGE = Message(
    "Example",
    (
        Field("first", INT8),
        Field("old", INT8, until=0),
        Field("mark", INT16, since=1, tag=0, default=-1),
        Field("name", STRING, since=1, nullable=True, tag=2),
        Field("last", INT8),
    ),
    latest=2,
    flexible_since=1,
)


@pytest.mark.parametrize(
    ("version", "data", "values"),
    [
        (0, b"\x01\x02\x03", {"first": 1, "old": 2, "last": 3}),
        (1, b"\x01\x03\x00", {"first": 1, "last": 3}),
        (1, b"\x01\x03\x01\x00\x02\x00\x07", {"first": 1, "mark": 7, "last": 3}),
        (1, b"\x01\x03\x01\x00\x02\xff\xff", {"first": 1, "last": 3}),
        (2, b"\x01\x03\x02\x02\x02\x02a\x09\x01\xee", {"first": 1, "name": "a", "last": 3}),
        (2, b"\x01\x03\x01\x02\x01\x00", {"first": 1, "last": 3}),
    ],
    ids=["not flexible", "no tags", "a tag", "a tag with its default", "an unknown tag", "a null"],
)
def test_a_message_has_the_fields_of_its_version(version: int, data: bytes, values: dict[str, object]) -> None:
    decoded = MESSAGE.read(ByteReader(data), version)
    assert list(decoded.items()) == list(values.items())


@pytest.mark.parametrize(
    ("tagged", "reason", "position"),
    [
        (b"\xff\xff\x03", "65535 tagged fields, but 0 bytes are left", 2),
        (b"\x01\x00\x05\x00\x07", "tagged field of 5 bytes, but 2 are left", 5),
        (b"\x01\x00\x03\x00\x07\x00", "1 bytes after the end of tagged field mark", 7),
        (b"\x01\x00\x01\x00\x07", "integer of 2 bytes, but 1 are left", 5),
        (b"\x02\x02\x01\x00\x00\x02\x00\x07", "tag 0 after tag 2", 6),
        (b"\x02\x00\x02\x00\x07\x00\x02\x00\x07", "tag 0 after tag 0", 7),
    ],
)
def test_tagged_fields_stay_within_their_own_bytes(tagged: bytes, reason: str, position: int) -> None:
    with pytest.raises(InvalidRecordError) as caught:
        MESSAGE.read(ByteReader(b"\x01\x03" + tagged), 1)
    assert (caught.value.reason, caught.value.position) == (reason, position)


def test_every_table_is_consistent() -> None:
    for message in all_messages():
        names = [field.name for field in message.fields]
        tags = [field.tag for field in message.fields if field.tag is not None]
        assert len(set(names)) == len(names), message.name
        assert len(set(tags)) == len(tags), message.name
        for field in message.fields:
            assert field.since <= message.latest, message.name
            if field.tag is not None:
                assert message.flexible_since is not None, message.name
                assert field.since >= message.flexible_since, message.name
