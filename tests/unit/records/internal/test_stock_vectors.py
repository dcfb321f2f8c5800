"""One record of every type and version, as the decoders of Kafka 4.1.1's own dump tool show it; and the same, damaged.

`stock_decoded_4_1_1.jsonl` has a row for each: bytes drawn at random after the schemas in Kafka's jars, and what
`DumpLogSegments` 4.1.1 (for control values: the JSON converters it prints with) made of them. Our code had no part in
either, and never writes the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstore.errors import InvalidRecordError
from logstore.records.internal import INTERNAL_TOPICS, decode_control_value, decode_internal_key, decode_internal_value
from logstore.records.internal.cluster_metadata import METADATA_TYPES
from logstore.records.internal.consumer_offsets import CONSUMER_OFFSETS_TYPES
from logstore.records.internal.control_values import KRAFT_CONTROL_VALUES
from logstore.records.internal.transaction_state import TRANSACTION_STATE_TYPES

VECTORS: list[dict[str, Any]] = [
    json.loads(line)
    for line in Path(__file__).with_name("stock_decoded_4_1_1.jsonl").read_text(encoding="ascii").splitlines()
]


def vector_name(vector: dict[str, Any]) -> str:
    if "control_type" in vector:
        return f"control-{vector['control_type']}-version-{vector['decoded_value']['version']}"
    record_type = vector["decoded_key"]["type"] if vector["decoded_key"] else vector["decoded_value"]["type"]
    return f"{vector['topic']}-{record_type}-version-{vector['decoded_value']['version']}"


def vector_bytes(vector: dict[str, Any]) -> tuple[bytes | None, bytes]:
    key = vector.get("key")
    return None if key is None else bytes.fromhex(key), bytes.fromhex(vector["value"])


def decode(vector: dict[str, Any], key: bytes | None, value: bytes) -> object:
    if "control_type" in vector:
        return decode_control_value(vector["control_type"], value)
    return [decode_internal_key(vector["topic"], key), decode_internal_value(vector["topic"], key, value)]


def assert_json_or_invalid(vector: dict[str, Any], key: bytes | None, value: bytes) -> None:
    try:
        decoded = decode(vector, key, value)
    except InvalidRecordError as error:
        assert error.reason
        assert error.position is not None
        assert 0 <= error.position <= max(len(key or b""), len(value))
    else:
        json.dumps(decoded, allow_nan=False)


@pytest.mark.parametrize("vector", VECTORS, ids=vector_name)
@pytest.mark.kafka("DUMP-11", "DUMP-12")
def test_a_record_of_every_type_and_version_is_decoded_as_the_stock_tool_does(vector: dict[str, Any]) -> None:
    key, value = vector_bytes(vector)
    theirs = vector["decoded_value"] if "control_type" in vector else [vector["decoded_key"], vector["decoded_value"]]
    assert json.dumps(decode(vector, key, value), allow_nan=False) == json.dumps(theirs)


def test_the_vectors_cover_every_type_and_version_of_the_tables() -> None:
    named = {vector_name(vector) for vector in VECTORS}
    expected = {
        f"control-{number}-version-{version}"
        for number, message in KRAFT_CONTROL_VALUES.items()
        for version in range(message.latest + 1)
    }
    for message in METADATA_TYPES.values():
        expected |= {f"__cluster_metadata-{message.name}-version-{version}" for version in range(message.latest + 1)}
    for topic, types in (
        ("__consumer_offsets", CONSUMER_OFFSETS_TYPES),
        ("__transaction_state", TRANSACTION_STATE_TYPES),
    ):
        for number, record_type in types.items():
            versions = range(1 if number == 0 and topic == "__consumer_offsets" else record_type.value.latest + 1)
            expected |= {f"{topic}-{number}-version-{version}" for version in versions}
    assert named == expected


@pytest.mark.parametrize("vector", VECTORS, ids=vector_name)
def test_a_value_cut_at_any_byte_is_invalid_or_decodes(vector: dict[str, Any]) -> None:
    key, value = vector_bytes(vector)
    for size in range(len(value)):
        assert_json_or_invalid(vector, key, value[:size])
    for size in range(len(key or b"")):
        assert_json_or_invalid(vector, (key or b"")[:size], value)


@pytest.mark.parametrize("vector", VECTORS, ids=vector_name)
def test_a_value_with_any_byte_changed_is_invalid_or_decodes(vector: dict[str, Any]) -> None:
    key, value = vector_bytes(vector)
    for index in range(len(value)):
        for byte in (0x00, 0x7F, 0x80, 0xFF):
            assert_json_or_invalid(vector, key, value[:index] + bytes([byte]) + value[index + 1 :])


@given(st.sampled_from(VECTORS), st.integers(0, 40), st.binary(max_size=60))
def test_arbitrary_bytes_behind_a_valid_beginning_are_invalid_or_decode(
    vector: dict[str, Any], kept: int, tail: bytes
) -> None:
    key, value = vector_bytes(vector)
    assert_json_or_invalid(vector, key, value[:kept] + tail)


@given(st.sampled_from(sorted(INTERNAL_TOPICS)), st.none() | st.binary(max_size=60), st.binary(max_size=100))
def test_arbitrary_bytes_are_invalid_or_decode(topic: str, key: bytes | None, value: bytes) -> None:
    try:
        json.dumps(decode_internal_key(topic, key), allow_nan=False)
        json.dumps(decode_internal_value(topic, key, value), allow_nan=False)
    except InvalidRecordError as error:
        assert error.reason


@given(st.sampled_from(sorted(INTERNAL_TOPICS)), st.integers(0, 24), st.binary(max_size=100))
def test_arbitrary_values_of_a_known_type_are_invalid_or_decode(topic: str, number: int, value: bytes) -> None:
    try:
        json.dumps(decode_internal_value(topic, bytes([0, number]), value), allow_nan=False)
    except InvalidRecordError as error:
        assert error.position is not None


@given(st.integers(-1, 8), st.binary(max_size=100))
def test_arbitrary_control_values_are_invalid_or_decode(control_type: int, value: bytes) -> None:
    try:
        json.dumps(decode_control_value(control_type, value), allow_nan=False)
    except InvalidRecordError as error:
        assert error.position is not None
