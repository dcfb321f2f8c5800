from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

import logstore.records.internal
from logstore.errors import InvalidRecordError
from logstore.records.internal import INTERNAL_TOPICS, decode_internal_key, decode_internal_value

TOPIC = "__cluster_metadata"
UUID_BYTES = bytes(range(16))
UUID_TEXT = base64.urlsafe_b64encode(UUID_BYTES).decode().rstrip("=")


def decode(number: int, version: int, body: bytes) -> Any:
    return decode_internal_value(TOPIC, None, bytes([1, number, version]) + body)


def text(value: str) -> bytes:
    return bytes([len(value.encode()) + 1]) + value.encode()


def test_a_topic_has_a_name_and_an_id() -> None:
    assert decode(2, 0, text("orders") + UUID_BYTES + b"\x00") == {
        "type": "TOPIC_RECORD",
        "version": 0,
        "data": {"name": "orders", "topicId": UUID_TEXT},
    }


@pytest.mark.parametrize(
    ("version", "directories", "tagged", "more"),
    [
        (0, b"", b"\x00", {}),
        (0, b"", b"\x01\x00\x01\x01", {"leaderRecoveryState": 1}),
        (1, b"\x02" + UUID_BYTES, b"\x00", {"directories": [UUID_TEXT]}),
        (
            2,
            b"\x01",
            b"\x02\x01\x05\x02\x00\x00\x00\x07\x02\x01\x01",
            {"directories": [], "eligibleLeaderReplicas": [7], "lastKnownElr": []},
        ),
        (2, b"\x01", b"\x01\x01\x01\x00", {"directories": []}),
    ],
)
def test_a_partition_of_any_version_is_decoded(
    version: int, directories: bytes, tagged: bytes, more: dict[str, object]
) -> None:
    body = struct.pack(">i", 3) + UUID_BYTES + b"\x02\x00\x00\x00\x01" * 2 + b"\x01\x01" + struct.pack(">iii", 1, 2, 4)
    decoded = decode(3, version, body + directories + tagged)
    assert decoded["type"] == "PARTITION_RECORD"
    assert decoded["data"] == {
        "partitionId": 3,
        "topicId": UUID_TEXT,
        "replicas": [1],
        "isr": [1],
        "removingReplicas": [],
        "addingReplicas": [],
        "leader": 1,
        "leaderEpoch": 2,
        "partitionEpoch": 4,
        **more,
    }


def test_a_partition_change_shows_only_what_changes() -> None:
    body = struct.pack(">i", 3) + UUID_BYTES
    assert decode(5, 2, body + b"\x00")["data"] == {"partitionId": 3, "topicId": UUID_TEXT}
    change = b"\x02\x00\x05\x02\x00\x00\x00\x07\x01\x04\xff\xff\xff\xff"
    assert decode(5, 0, body + change)["data"] == {"partitionId": 3, "topicId": UUID_TEXT, "isr": [7], "leader": -1}


def test_a_broker_has_endpoints_with_unsigned_ports() -> None:
    endpoint = text("PLAINTEXT") + text("h") + struct.pack(">Hh", 65535, 0) + b"\x00"
    feature = text("metadata.version") + struct.pack(">hh", 7, 27) + b"\x00"
    body = struct.pack(">i", 1) + UUID_BYTES + struct.pack(">q", 9) + b"\x02" + endpoint + b"\x02" + feature
    decoded = decode(0, 0, body + b"\x00" + b"\x01" + b"\x00")
    assert decoded["data"]["endPoints"] == [{"name": "PLAINTEXT", "host": "h", "port": 65535, "securityProtocol": 0}]
    assert decoded["data"]["features"][0]["maxSupportedVersion"] == 27
    assert (decoded["data"]["rack"], decoded["data"]["fenced"]) == (None, True)


@pytest.mark.parametrize(
    ("number", "body", "name", "data"),
    [
        (
            4,
            b"\x02" + text("t") + text("cleanup.policy") + text("compact") + b"\x00",
            "CONFIG_RECORD",
            {"resourceType": 2, "resourceName": "t", "name": "cleanup.policy", "value": "compact"},
        ),
        (
            4,
            b"\x02" + text("t") + text("cleanup.policy") + b"\x00" + b"\x00",
            "CONFIG_RECORD",
            {"resourceType": 2, "resourceName": "t", "name": "cleanup.policy", "value": None},
        ),
        (9, UUID_BYTES + b"\x00", "REMOVE_TOPIC_RECORD", {"topicId": UUID_TEXT}),
        (
            14,
            b"\x02" + text("user") + b"\x00\x00" + text("rate") + struct.pack(">d", 0.5) + b"\x00\x00",
            "CLIENT_QUOTA_RECORD",
            {"entity": [{"entityType": "user", "entityName": None}], "key": "rate", "value": 0.5, "remove": False},
        ),
        (
            11,
            text("u") + b"\x01" + b"\x02\xff" + b"\x01" + b"\x02\x00" + struct.pack(">i", 4096) + b"\x00",
            "USER_SCRAM_CREDENTIAL_RECORD",
            {"name": "u", "mechanism": 1, "salt": "/w==", "storedKey": "", "serverKey": "AA==", "iterations": 4096},
        ),
        (20, b"\x00", "NO_OP_RECORD", {}),
        (23, b"\x01\x00\x02\x02b", "BEGIN_TRANSACTION_RECORD", {"name": "b"}),
        (28, text("t") + b"\x00", "CLEAR_ELR_RECORD", {"topicName": "t"}),
    ],
)
def test_a_record_has_the_name_and_the_fields_of_its_type(
    number: int, body: bytes, name: str, data: dict[str, object]
) -> None:
    assert decode(number, 0, body) == {"type": name, "version": 0, "data": data}


def test_a_quota_that_json_has_no_number_for_is_text() -> None:
    for value, shown in ((float("nan"), "NaN"), (float("inf"), "Infinity")):
        decoded = decode(14, 0, b"\x01" + text("rate") + struct.pack(">d", value) + b"\x01\x00")
        assert decoded["data"]["value"] == shown
        json.dumps(decoded, allow_nan=False)


def test_an_unknown_type_has_its_number_and_an_unknown_version_its_name() -> None:
    unknown_type = b"\x01\x90\x4e\x03rest"
    assert decode_internal_value(TOPIC, None, unknown_type) == {
        "type": 10000,
        "version": 3,
        "base64": base64.b64encode(unknown_type).decode(),
    }
    assert decode(2, 1, b"") == {"type": "TOPIC_RECORD", "version": 1, "base64": "AQIB"}


@pytest.mark.kafka("DUMP-10")
@pytest.mark.parametrize(
    ("value", "reason", "position"),
    [
        (b"", "varint without an end", 0),
        (b"\x00\x02\x00", "frame version 0 of a metadata record is not 1", 0),
        (b"\x02\x02\x00", "frame version 2 of a metadata record is not 1", 0),
        (b"\x01\x80\x80\x02\x00", "type 32768 of a metadata record is above 32767", 1),
        (b"\x01\x14\xff\xff\xff\xff\x0f", "version 4294967295 of a metadata record is above 32767", 2),
        (b"\x01\x02", "varint without an end", 2),
        (b"\x01\x02\x00\x04ab", "string of size 3, but 2 bytes are left", 3),
        (b"\x01\x14\x00\x00more", "4 bytes after the end of NO_OP_RECORD version 0", 4),
    ],
)
def test_bytes_that_do_not_decode_are_invalid(value: bytes, reason: str, position: int) -> None:
    with pytest.raises(InvalidRecordError) as caught:
        decode_internal_value(TOPIC, None, value)
    assert (caught.value.reason, caught.value.position) == (reason, position)


def test_keys_are_null_and_so_may_be_values() -> None:
    assert decode_internal_key(TOPIC, None) is None
    assert decode_internal_key(TOPIC, b"\x00") == {"base64": "AA=="}
    assert decode_internal_value(TOPIC, None, None) is None


def test_another_topic_is_refused() -> None:
    with pytest.raises(ValueError, match="'orders' is none of the internal topics"):
        decode_internal_key("orders", b"")
    with pytest.raises(ValueError, match="__cluster_metadata, __consumer_offsets, __transaction_state"):
        decode_internal_value("orders", b"", b"")
    assert frozenset({TOPIC, "__consumer_offsets", "__transaction_state"}) == INTERNAL_TOPICS


def test_the_exported_names_are_sorted_and_exist() -> None:
    names = logstore.records.internal.__all__
    assert names == sorted(names)
    assert all(hasattr(logstore.records.internal, name) for name in names)
