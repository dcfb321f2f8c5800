from __future__ import annotations

import struct

import pytest

from logstore.errors import InvalidRecordError
from logstore.records.internal import decode_control_value

# FORMAT.md §2.9: leader 1, voters 2 and 3, nobody granted a vote.
LEADER_CHANGE = bytes.fromhex("0000 00000001 03 00000002 00 00000003 00 01 00")


@pytest.mark.parametrize("control_type", [0, 1])
@pytest.mark.parametrize("value", [b"\x00\x00\x00\x00\x00\x05", b"\x00\x01\x00\x00\x00\x05\xff\xff\xff"])
def test_a_marker_of_this_or_a_later_version_has_an_epoch(control_type: int, value: bytes) -> None:
    (version,) = struct.unpack_from(">h", value)
    assert decode_control_value(control_type, value) == {"version": version, "coordinatorEpoch": 5}


@pytest.mark.kafka("DUMP-11")
@pytest.mark.parametrize(
    ("control_type", "value", "fields"),
    [
        (
            2,
            LEADER_CHANGE,
            {"version": 0, "leaderId": 1, "voters": [{"voterId": 2}, {"voterId": 3}], "grantingVoters": []},
        ),
        (
            2,
            struct.pack(">hi", 1, 1) + b"\x02" + struct.pack(">i", 2) + bytes(16) + b"\x00" + b"\x01\x00",
            {
                "version": 1,
                "leaderId": 1,
                "voters": [{"voterId": 2, "voterDirectoryId": "AAAAAAAAAAAAAAAAAAAAAA"}],
                "grantingVoters": [],
            },
        ),
        (3, struct.pack(">hq", 0, 77) + b"\x00", {"version": 0, "lastContainedLogTimestamp": 77}),
        (4, b"\x00\x00\x00", {"version": 0}),
        (5, b"\x00\x00\x00\x01\x00", {"version": 0, "kRaftVersion": 1}),
        (
            6,
            b"\x00\x00\x02"
            + struct.pack(">i", 3)
            + b"\xff" * 16
            + b"\x02\x02c\x02h\xff\xff\x00"
            + struct.pack(">hh", 0, 1)
            + b"\x00\x00\x00",
            {
                "version": 0,
                "voters": [
                    {
                        "voterId": 3,
                        "voterDirectoryId": "_____________________w",
                        "endpoints": [{"name": "c", "host": "h", "port": 65535}],
                        "kRaftVersionFeature": {"minSupportedVersion": 0, "maxSupportedVersion": 1},
                    }
                ],
            },
        ),
    ],
)
def test_a_kraft_control_value_is_read_by_the_version_it_carries(
    control_type: int, value: bytes, fields: dict[str, object]
) -> None:
    assert decode_control_value(control_type, value) == fields


def test_an_unknown_type_or_version_is_shown_as_base64() -> None:
    assert decode_control_value(7, b"\x00\x02\x01") == {"type": 7, "version": 2, "base64": "AAIB"}
    assert decode_control_value(7, b"\x01") == {"type": 7, "version": None, "base64": "AQ=="}
    assert decode_control_value(2, b"\x00\x02\x01") == {"type": 2, "version": 2, "base64": "AAIB"}


@pytest.mark.parametrize(
    ("control_type", "value", "reason", "position"),
    [
        (0, b"", "integer of 2 bytes, but 0 are left", 0),
        (1, b"\x00\x00\x00\x00\x00", "integer of 4 bytes, but 3 are left", 2),
        (1, b"\xff\xff\x00\x00\x00\x00", "version -1 of a control record's value is negative", 0),
        (4, b"\xff\xff\x00", "version -1 of a control record's value is negative", 0),
        (2, LEADER_CHANGE[:-1], "varint without an end", 18),
        (6, b"\x00\x00\x09", "array of size 8, but 0 bytes are left", 2),
    ],
)
def test_a_value_that_does_not_decode_is_invalid(control_type: int, value: bytes, reason: str, position: int) -> None:
    with pytest.raises(InvalidRecordError) as caught:
        decode_control_value(control_type, value)
    assert (caught.value.reason, caught.value.position) == (reason, position)
