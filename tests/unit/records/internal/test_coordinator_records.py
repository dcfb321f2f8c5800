from __future__ import annotations

import base64
import struct
from typing import Any

import pytest

from logstore.errors import InvalidRecordError
from logstore.records.internal import decode_internal_key, decode_internal_value

OFFSETS = "__consumer_offsets"
TRANSACTIONS = "__transaction_state"


def text(value: str | None) -> bytes:
    return struct.pack(">h", -1) if value is None else struct.pack(">h", len(value.encode())) + value.encode()


def blob(value: bytes) -> bytes:
    return struct.pack(">i", len(value)) + value


def compact(value: bytes) -> bytes:
    return bytes([len(value) + 1]) + value


COMMIT_KEY = struct.pack(">h", 1) + text("g") + text("t") + struct.pack(">i", 7)
GROUP_KEY = struct.pack(">h", 2) + text("g")
TRANSACTION_KEY = struct.pack(">h", 0) + text("tx")


def commit(version: int, body: bytes) -> Any:
    return decode_internal_value(OFFSETS, COMMIT_KEY, struct.pack(">h", version) + body)


def group(version: int, body: bytes) -> Any:
    return decode_internal_value(OFFSETS, GROUP_KEY, struct.pack(">h", version) + body)


def group_with_member(subscription: bytes, assignment: bytes, protocol_type: str = "consumer") -> Any:
    """Decode a version 3 group of one member and return the member."""
    member = text("m") + text("i") + text("c") + text("/h") + struct.pack(">ii", 1, 2)
    member += blob(subscription) + blob(assignment)
    header = text(protocol_type) + struct.pack(">i", 5) + text("range") + text("m") + struct.pack(">q", 99)
    decoded = group(3, header + struct.pack(">i", 1) + member)
    assert decoded["version"] == "3"
    (only,) = decoded["data"]["members"]
    return only


@pytest.mark.parametrize("number", [0, 1])
def test_the_key_of_a_commit_names_group_topic_and_partition(number: int) -> None:
    key = struct.pack(">h", number) + COMMIT_KEY[2:]
    assert decode_internal_key(OFFSETS, key) == {
        "type": str(number),
        "data": {"group": "g", "topic": "t", "partition": 7},
    }


@pytest.mark.parametrize(
    ("version", "body", "data"),
    [
        (
            0,
            struct.pack(">q", 5) + text("n") + struct.pack(">q", 6),
            {"offset": 5, "metadata": "n", "commitTimestamp": 6},
        ),
        (
            1,
            struct.pack(">q", 5) + text("n") + struct.pack(">qq", 6, 7),
            {"offset": 5, "metadata": "n", "commitTimestamp": 6, "expireTimestamp": 7},
        ),
        (
            2,
            struct.pack(">q", 5) + text("") + struct.pack(">q", 6),
            {"offset": 5, "metadata": "", "commitTimestamp": 6},
        ),
        (
            3,
            struct.pack(">qi", 5, 2) + text("n") + struct.pack(">q", 6),
            {"offset": 5, "leaderEpoch": 2, "metadata": "n", "commitTimestamp": 6},
        ),
        (
            4,
            struct.pack(">qi", 5, -1) + compact(b"n") + struct.pack(">q", 6) + b"\x00",
            {"offset": 5, "leaderEpoch": -1, "metadata": "n", "commitTimestamp": 6},
        ),
        (
            4,
            struct.pack(">qi", 5, -1) + compact(b"n") + struct.pack(">q", 6) + b"\x01\x00\x10" + b"\xff" * 16,
            {
                "offset": 5,
                "leaderEpoch": -1,
                "metadata": "n",
                "commitTimestamp": 6,
                "topicId": "_____________________w",
            },
        ),
    ],
)
def test_a_committed_offset_of_any_version_is_decoded(version: int, body: bytes, data: dict[str, object]) -> None:
    assert commit(version, body) == {"version": str(version), "data": data}


def test_a_group_without_members_has_null_protocol_and_leader() -> None:
    body = text("consumer") + struct.pack(">i", 2) + text(None) + text(None) + struct.pack(">q", 9) + bytes(4)
    assert group(3, body) == {
        "version": "3",
        "data": {
            "protocolType": "consumer",
            "generation": 2,
            "protocol": None,
            "leader": None,
            "currentStateTimestamp": 9,
            "members": [],
        },
    }


def test_the_first_versions_of_a_group_lack_what_came_later() -> None:
    head = text("consumer") + struct.pack(">i", 2) + text("range") + text("m") + struct.pack(">i", 1)
    member = text("m") + text("c") + text("/h")
    (first,) = group(0, head + member + struct.pack(">i", 4) + blob(b"") + blob(b""))["data"]["members"]
    assert first == {
        "memberId": "m",
        "clientId": "c",
        "clientHost": "/h",
        "sessionTimeout": 4,
        "subscription": "",
        "assignment": "",
    }
    (second,) = group(1, head + member + struct.pack(">ii", 3, 4) + blob(b"") + blob(b""))["data"]["members"]
    assert (second["rebalanceTimeout"], second["sessionTimeout"]) == (3, 4)


def test_the_flexible_version_of_a_group_ends_each_structure_with_tags() -> None:
    member = compact(b"m") + b"\x00" + compact(b"c") + compact(b"/h") + struct.pack(">ii", 3, 4) + b"\x01\x01\x00"
    body = compact(b"connect") + struct.pack(">i", 1) + b"\x00\x00" + struct.pack(">q", 9) + b"\x02" + member + b"\x00"
    (only,) = group(4, body)["data"]["members"]
    assert (only["groupInstanceId"], only["rebalanceTimeout"], only["subscription"]) == (None, 3, "")


SUBSCRIPTION_BODY = struct.pack(">i", 1) + text("t") + struct.pack(">i", -1)
OWNED = struct.pack(">i", 1) + text("t") + struct.pack(">iii", 2, 0, 1)


@pytest.mark.kafka("DUMP-12")
@pytest.mark.parametrize(
    ("subscription", "fields"),
    [
        (struct.pack(">h", 0) + SUBSCRIPTION_BODY, {"topics": ["t"], "userData": None}),
        (
            struct.pack(">h", 1) + SUBSCRIPTION_BODY + OWNED,
            {"topics": ["t"], "userData": None, "ownedPartitions": [{"topic": "t", "partitions": [0, 1]}]},
        ),
        (
            struct.pack(">h", 3) + SUBSCRIPTION_BODY + bytes(4) + struct.pack(">i", 8) + text("r"),
            {"topics": ["t"], "userData": None, "ownedPartitions": [], "generationId": 8, "rackId": "r"},
        ),
        (
            struct.pack(">h", 9) + SUBSCRIPTION_BODY + bytes(4) + struct.pack(">i", 8) + text(None) + b"more",
            {"topics": ["t"], "userData": None, "ownedPartitions": [], "generationId": 8, "rackId": None},
        ),
    ],
    ids=["version 0", "version 1", "version 3", "a later version"],
)
def test_the_bytes_of_a_consumer_member_are_decoded(subscription: bytes, fields: dict[str, object]) -> None:
    assignment = struct.pack(">h", 0) + OWNED + blob(b"\x01\x02")
    member = group_with_member(subscription, assignment)
    assert member["subscription"] == fields
    assert member["assignment"] == {
        "assignedPartitions": [{"topic": "t", "partitions": [0, 1]}],
        "userData": base64.b64encode(b"\x01\x02").decode(),
    }


@pytest.mark.kafka("DUMP-12")
def test_member_bytes_that_do_not_decode_stay_base64_each_on_its_own() -> None:
    member = group_with_member(b"\x00\x01nonsense", struct.pack(">h", 0) + bytes(4) + blob(b""))
    assert member["subscription"] == base64.b64encode(b"\x00\x01nonsense").decode()
    assert member["assignment"] == {"assignedPartitions": [], "userData": ""}
    assert group_with_member(b"", b"\x00")["assignment"] == base64.b64encode(b"\x00").decode()


def test_member_bytes_of_other_protocols_are_not_looked_into() -> None:
    subscription = struct.pack(">h", 0) + SUBSCRIPTION_BODY
    member = group_with_member(subscription, b"", protocol_type="connect")
    assert member["subscription"] == base64.b64encode(subscription).decode()


def test_a_consumer_group_member_shows_a_null_classic_part_but_not_an_empty_one() -> None:
    key = struct.pack(">h", 5) + text("g") + text("m")
    assert decode_internal_key(OFFSETS, key) == {"type": "5", "data": {"groupId": "g", "memberId": "m"}}
    body = (
        b"\x00\x00"
        + compact(b"c")
        + compact(b"/h")
        + b"\x02"
        + compact(b"t")
        + b"\x00"
        + struct.pack(">i", 1)
        + b"\x00"
    )
    for tagged, classic in (
        (b"\x00", {}),
        (b"\x01\x00\x01\x00", {"classicMemberMetadata": None}),
        (b"\x01\x00\x07\x01" + bytes(4) + b"\x01\x00", {}),
        (
            b"\x01\x00\x0c\x01" + struct.pack(">i", 6) + b"\x02" + compact(b"p") + compact(b"\xff") + b"\x00\x00",
            {
                "classicMemberMetadata": {
                    "sessionTimeoutMs": 6,
                    "supportedProtocols": [{"name": "p", "metadata": "/w=="}],
                }
            },
        ),
    ):
        assert decode_internal_value(OFFSETS, key, b"\x00\x00" + body + tagged) == {
            "version": "0",
            "data": {
                "instanceId": None,
                "rackId": None,
                "clientId": "c",
                "clientHost": "/h",
                "subscribedTopicNames": ["t"],
                "subscribedTopicRegex": None,
                "rebalanceTimeoutMs": 1,
                "serverAssignor": None,
                **classic,
            },
        }


def test_a_share_group_and_a_streams_group_are_decoded() -> None:
    share = struct.pack(">h", 11) + text("s")
    assert decode_internal_value(OFFSETS, share, b"\x00\x00" + struct.pack(">iq", 3, 4) + b"\x00") == {
        "version": "0",
        "data": {"epoch": 3, "metadataHash": 4},
    }
    streams = struct.pack(">h", 20) + text("s")
    assert decode_internal_value(OFFSETS, streams, b"\x00\x00" + struct.pack(">i", 3) + b"\x00") == {
        "version": "0",
        "data": {"assignmentEpoch": 3},
    }


def test_a_transaction_before_its_first_partition_has_null_partitions() -> None:
    value = struct.pack(">hqhibiqq", 0, 12, 1, 60000, 0, -1, 5, -1)
    assert decode_internal_key(TRANSACTIONS, TRANSACTION_KEY) == {"type": "0", "data": {"transactionalId": "tx"}}
    assert decode_internal_value(TRANSACTIONS, TRANSACTION_KEY, value) == {
        "version": "0",
        "data": {
            "producerId": 12,
            "producerEpoch": 1,
            "transactionTimeoutMs": 60000,
            "transactionStatus": 0,
            "transactionPartitions": None,
            "transactionLastUpdateTimestampMs": 5,
            "transactionStartTimestampMs": -1,
        },
    }


def test_the_flexible_version_of_a_transaction_has_tagged_producer_ids() -> None:
    partitions = b"\x02" + compact(b"t") + b"\x03" + struct.pack(">ii", 0, 1) + b"\x00"
    body = struct.pack(">qhib", 12, 1, 60000, 1) + partitions + struct.pack(">qq", 5, 4)
    tagged = b"\x03" + b"\x00\x08" + struct.pack(">q", 11) + b"\x01\x08" + struct.pack(">q", -1) + b"\x02\x02\x00\x02"
    decoded: Any = decode_internal_value(TRANSACTIONS, TRANSACTION_KEY, b"\x00\x01" + body + tagged)
    assert decoded["data"]["previousProducerId"] == 11
    assert "nextProducerId" not in decoded["data"]
    assert decoded["data"]["clientTransactionVersion"] == 2
    assert decoded["data"]["transactionPartitions"] == [{"topic": "t", "partitionIds": [0, 1]}]


@pytest.mark.kafka("DUMP-12")
@pytest.mark.parametrize(("topic", "key"), [(OFFSETS, COMMIT_KEY), (TRANSACTIONS, TRANSACTION_KEY)])
def test_a_null_value_is_none_and_a_null_key_is_invalid(topic: str, key: bytes) -> None:
    assert decode_internal_value(topic, key, None) is None
    with pytest.raises(InvalidRecordError, match="record has no key"):
        decode_internal_key(topic, None)
    with pytest.raises(InvalidRecordError, match="record has no key"):
        decode_internal_value(topic, None, b"\x00\x00")


@pytest.mark.kafka("DUMP-10", "DUMP-12")
@pytest.mark.parametrize("topic", [OFFSETS, TRANSACTIONS])
def test_an_unknown_type_or_version_is_shown_as_base64(topic: str) -> None:
    key = b"\x7f\xff\x00"
    value = b"\x00\x05\x01"
    assert decode_internal_key(topic, key) == {"type": "32767", "base64": base64.b64encode(key).decode()}
    assert decode_internal_value(topic, key, value) == {"type": "32767", "version": "5", "base64": "AAUB"}
    assert decode_internal_value(topic, key, b"\x00") == {"type": "32767", "version": None, "base64": "AA=="}
    assert decode_internal_value(topic, b"\x00\x00", value) == {"type": "0", "version": "5", "base64": "AAUB"}
    assert decode_internal_value(topic, b"\x00\x00", b"\xff\xff") == {"type": "0", "version": "-1", "base64": "//8="}


@pytest.mark.kafka("DUMP-10", "DUMP-12")
@pytest.mark.parametrize(
    ("key", "value", "reason", "position"),
    [
        (b"", b"\x00\x03", "integer of 2 bytes, but 0 are left", 0),
        (COMMIT_KEY, b"", "integer of 2 bytes, but 0 are left", 0),
        (COMMIT_KEY, b"\x00\x03" + bytes(12) + b"\x00\x05abc", "string of size 5, but 3 bytes are left", 14),
        (COMMIT_KEY, b"\x00\x03" + bytes(12) + b"\xff\xff", "string is null where null is not allowed", 14),
        (GROUP_KEY, b"\x00\x03" + text("\N{SNOWMAN}") + bytes(2), "integer of 4 bytes, but 2 are left", 7),
    ],
)
def test_bytes_that_do_not_decode_are_invalid_with_reason_and_position(
    key: bytes, value: bytes, reason: str, position: int
) -> None:
    with pytest.raises(InvalidRecordError) as caught:
        decode_internal_value(OFFSETS, key, value)
    assert (caught.value.reason, caught.value.position) == (reason, position)


def test_bytes_behind_the_fields_are_passed_over_as_a_coordinator_does() -> None:
    assert decode_internal_key(OFFSETS, GROUP_KEY + b"more") == {"type": "2", "data": {"group": "g"}}
