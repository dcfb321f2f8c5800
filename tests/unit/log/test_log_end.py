"""What a lock file tells of the end of a log, as bytes."""

from __future__ import annotations

import pytest

from logstore.log.log_end import END_BYTES, LogEnd, parse_end

RAW = bytes(range(16))
END = LogEnd(1000, 50, 400, 3, 1_700_000_000_000, 49)


def test_an_end_is_what_was_told() -> None:
    told = END.pack(RAW)
    assert len(told) == END_BYTES
    assert parse_end(told, RAW) == END
    none = LogEnd(0, 0, 0, -1, -1, 0)
    assert parse_end(none.pack(RAW), RAW) == none


def test_the_bytes_are_those_that_other_processes_read() -> None:
    assert END.pack(RAW).hex() == (
        RAW.hex() + "00000000000003e8" "0000000000000032" "0000000000000190" "0000000000000003" "0000018bcfe56800"
        "0000000000000031" "dab540da"
    )  # fmt: skip


def test_an_end_that_belongs_to_other_numbers_is_none() -> None:
    assert parse_end(END.pack(RAW), bytes(16)) is None


@pytest.mark.parametrize("position", range(END_BYTES))
def test_an_end_with_a_wrong_byte_is_none(position: int) -> None:
    told = bytearray(END.pack(RAW))
    told[position] ^= 1
    assert parse_end(bytes(told), RAW) is None


@pytest.mark.parametrize("told", [b"", b"x", bytes(END_BYTES), END.pack(RAW)[:-1], END.pack(RAW) + b"x"])
def test_what_is_shorter_or_longer_is_no_end(told: bytes) -> None:
    assert parse_end(told, RAW) is None
