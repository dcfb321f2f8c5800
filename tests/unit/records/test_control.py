"""Control records: their keys say what they are, and only ABORT and COMMIT end a transaction."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.errors import InvalidRecordError
from logstore.records import (
    ControlType,
    EndTransactionMarker,
    encode_control_key,
    encode_end_transaction_marker,
    parse_control_key,
    parse_end_transaction_marker,
)

ENDING = [ControlType.ABORT, ControlType.COMMIT]
OTHERS = [one for one in ControlType if one not in (*ENDING, ControlType.UNKNOWN)]
COMMIT_KEY = b"\0\0\0\1"


@pytest.mark.kafka("CONTROL-02")
@pytest.mark.parametrize("control_type", [*ENDING, *OTHERS])
def test_each_type_reads_back_from_its_key(control_type: ControlType) -> None:
    assert encode_control_key(control_type) == b"\0\0\0" + bytes([control_type])
    assert parse_control_key(encode_control_key(control_type)) == (control_type, int(control_type))


@pytest.mark.kafka("CONTROL-02")
@pytest.mark.parametrize("number", [337, 7, -1, -2, 32767])
def test_a_type_that_is_not_known_keeps_its_number(number: int) -> None:
    key = b"\0\0" + number.to_bytes(2, "big", signed=True)
    assert parse_control_key(key) == (ControlType.UNKNOWN, number)


@pytest.mark.kafka("CONTROL-02")
def test_a_key_of_a_later_version_with_more_bytes_reads_as_usual() -> None:
    assert parse_control_key(b"\0\5\0\0more") == (ControlType.ABORT, 0)


@pytest.mark.parametrize("key", [None, b"", b"\0\0\0", b"\xff\xff\0\0", b"\x80\0\0\1"], ids=repr)
def test_a_short_key_and_a_negative_version_are_invalid(key: bytes | None) -> None:
    with pytest.raises(InvalidRecordError):
        parse_control_key(key)


@pytest.mark.parametrize("control_type", ENDING)
def test_a_marker_reads_back(control_type: ControlType) -> None:
    marker = EndTransactionMarker(control_type, 5)
    assert parse_end_transaction_marker(*encode_end_transaction_marker(marker)) == marker


@pytest.mark.kafka("CONTROL-01")
@pytest.mark.parametrize("control_type", [*OTHERS, ControlType.UNKNOWN])
def test_a_type_that_ends_no_transaction_makes_no_marker(control_type: ControlType) -> None:
    with pytest.raises(ValueError, match="does not end a transaction"):
        encode_end_transaction_marker(EndTransactionMarker(control_type, 0))


@pytest.mark.kafka("CONTROL-01")
@pytest.mark.parametrize("number", [2, 6, 337])
def test_a_type_that_ends_no_transaction_reads_as_no_marker(number: int) -> None:
    with pytest.raises(InvalidRecordError, match=f"control type {number} does not end"):
        parse_end_transaction_marker(b"\0\0" + number.to_bytes(2, "big"), b"\0\0\0\0\0\5")


def test_an_unknown_type_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="unknown"):
        encode_control_key(ControlType.UNKNOWN)


@pytest.mark.kafka("CONTROL-01")
@pytest.mark.parametrize("value", [None, b"", b"\0\0\0\0\0", b"\xff\xff\0\0\0\5"], ids=repr)
def test_a_marker_of_too_few_bytes_or_a_negative_version_is_invalid(value: bytes | None) -> None:
    with pytest.raises(InvalidRecordError):
        parse_end_transaction_marker(COMMIT_KEY, value)


@pytest.mark.kafka("CONTROL-01")
def test_a_marker_of_a_later_version_with_more_bytes_tells_the_coordinator_epoch() -> None:
    marker = parse_end_transaction_marker(COMMIT_KEY, b"\0\5\0\0\0\x17more")
    assert marker == EndTransactionMarker(ControlType.COMMIT, 23)


@given(st.none() | st.binary(max_size=12), st.none() | st.binary(max_size=12))
@settings(deadline=None, database=None)
def test_any_bytes_are_a_marker_or_invalid(key: bytes | None, value: bytes | None) -> None:
    try:
        marker = parse_end_transaction_marker(key, value)
    except InvalidRecordError:
        return
    assert marker.control_type.ends_transaction
