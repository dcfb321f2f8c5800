"""The kernel that runs: chosen by a variable, and right on literal bytes."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import by_hand
import pytest
from by_hand import batch, message, varint
from kernel_strategies import INT32_MAX, INT64_MAX, STYLES

from logstore.errors import CorruptRecordError, InvalidRecordError
from logstore.records import Record, kernel
from logstore.records.header import FLAW_REASONS, Flaw, RecordStats, WalkEnd

# ---------------------------------------------------------------- which kernel runs


def start(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program in an interpreter of its own, with `kernel` imported by it."""
    path = ":".join(filter(None, sys.path))
    return subprocess.run(
        [sys.executable, "-W", "always", "-c", program], env={"PYTHONPATH": path, **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


NAME = "from logstore.records import KERNEL_NAME as name, Record; print(name, Record.__module__)"
HIDDEN = f"import sys; sys.modules['logstore.records._kernel'] = None; {NAME}"


def test_the_plain_kernel_runs_without_a_word_when_it_is_asked_for() -> None:
    ran = start(NAME, LOGSTORE_KERNEL="python")
    assert (ran.stdout, ran.stderr) == ("python logstore.records._kernel_py\n", "")


def test_without_a_compiled_kernel_the_plain_one_runs_with_one_warning() -> None:
    ran = start(HIDDEN)
    assert ran.stdout == "python logstore.records._kernel_py\n"
    assert ran.stderr.count("RuntimeWarning: logstore runs without its compiled kernel") == 1


def test_whoever_insists_on_the_compiled_kernel_gets_an_error_without_it() -> None:
    ran = start(HIDDEN, LOGSTORE_KERNEL="compiled")
    assert ran.returncode == 1
    assert "ModuleNotFoundError: import of logstore.records._kernel halted" in ran.stderr


def test_another_word_for_a_kernel_is_refused() -> None:
    assert "LOGSTORE_KERNEL is 'fast'" in start(NAME, LOGSTORE_KERNEL="fast").stderr


# ---------------------------------------------------------------- records, literally


def flaw(data: bytes, count: int = 1) -> Flaw:
    """What is wrong with records, said by each function that reads them, and at which position."""
    with pytest.raises(InvalidRecordError) as caught:
        kernel.decode_records(data, 0, len(data), count, 0, 0, None)
    for walk in (
        lambda: kernel.check_records(data, 0, len(data), count),
        lambda: kernel.format_body(data, 0, len(data), count, 0, 0, None, STYLES[0], 2**30),
    ):
        with pytest.raises(InvalidRecordError) as again:
            walk()
        assert (again.value.reason, again.value.position) == (caught.value.reason, caught.value.position)
    return next(Flaw(number) for number, reason in FLAW_REASONS.items() if reason == caught.value.reason)


def decode_one(data: bytes, **base: int) -> Record:
    records, position = kernel.decode_records(
        data, 0, len(data), 1, base.get("offset", 0), base.get("timestamp", 0), base.get("append_time")
    )
    assert position == len(data)
    return records[0]


@pytest.mark.kafka("RECORD-01")
@pytest.mark.parametrize("key", [None, b"", b"key"])
@pytest.mark.parametrize("value", [None, b"", b"value"])
@pytest.mark.parametrize("headers", [(), (("k", b"v"),), (("é\u20ac", None), ("", b""), ("é\u20ac", b"again"))])
def test_a_record_of_any_fields_reads_back(key: bytes | None, value: bytes | None, headers: Any) -> None:
    data = by_hand.record(
        key, value, offset_delta=3, timestamp_delta=-40, headers=[(name.encode(), one) for name, one in headers]
    )
    record = decode_one(data, offset=100, timestamp=1000)
    assert record == Record(103, 960, key, value, headers)
    encoded, *deltas = kernel.encode_records([record], 0, 100, 1000, -1)
    assert (encoded, deltas) == (data, [3, 1000, 960])


def test_log_append_time_replaces_every_timestamp() -> None:
    assert decode_one(by_hand.record(timestamp_delta=5), timestamp=7, append_time=99).timestamp == 99


def test_offsets_and_timestamps_wrap_as_java_adds() -> None:
    record = decode_one(by_hand.record(offset_delta=1, timestamp_delta=-1), offset=INT64_MAX, timestamp=-(2**63))
    assert (record.offset, record.timestamp) == (-(2**63), INT64_MAX)


def test_a_header_name_that_is_not_utf_8_is_kept() -> None:
    record = decode_one(by_hand.record(headers=[(b"\xff\xfea", b"")]))
    assert record.headers == (("\udcff\udcfea", b""),)
    assert kernel.encode_records([record], 0, 0, 0, -1)[0] == by_hand.record(headers=[(b"\xff\xfea", b"")])


@pytest.mark.kafka("RECORD-03")
@pytest.mark.parametrize("count", [0, 2])
def test_a_header_count_one_off_is_invalid(count: int) -> None:
    data = by_hand.record(headers=[(b"k", b"v")], headers_count=count)
    assert flaw(data) == (Flaw.RECORD_SLACK if count == 0 else Flaw.FIELD_TOO_LONG)


@pytest.mark.kafka("RECORD-03")
@pytest.mark.parametrize("count", [-1, 5, INT32_MAX, -(2**31)])
def test_a_header_count_that_is_negative_or_huge_is_invalid(count: int) -> None:
    assert flaw(by_hand.record(headers=[(b"k", b"v")], headers_count=count)) == Flaw.HEADER_COUNT


@pytest.mark.kafka("RECORD-04")
@pytest.mark.parametrize("field", ["key", "value", "header key", "header value"])
@pytest.mark.parametrize("size", [6, 1000, INT32_MAX])
def test_a_field_beyond_the_record_is_invalid(field: str, size: int) -> None:
    before = {"key": b"", "value": b"\1", "header key": b"\1\1\2", "header value": b"\1\1\2\0"}[field]
    body = b"\0\0\0" + before + varint(size) + b"12345"
    more = by_hand.record(b"the next record is no part of it")
    assert flaw(varint(len(body)) + body + more, 2) == Flaw.FIELD_TOO_LONG


@pytest.mark.kafka("RECORD-05")
@pytest.mark.parametrize("size", [-1, -2, -(2**31)])
def test_a_header_without_a_key_is_invalid(size: int) -> None:
    body = b"\0\0\0\1\1\2" + varint(size) + b"\1"
    assert flaw(varint(len(body)) + body) == Flaw.HEADER_KEY_NULL


@pytest.mark.parametrize("size", [-1, -2, -(2**31)])
def test_any_negative_length_of_key_value_or_header_value_is_null(size: int) -> None:
    body = b"\0\0\0" + varint(size) * 2 + b"\2\2n" + varint(size)
    assert decode_one(varint(len(body)) + body) == Record(0, 0, None, None, (("n", None),))


@pytest.mark.kafka("RECORD-06")
@pytest.mark.parametrize("length", [7, 100, INT32_MAX, -1])
def test_a_record_larger_than_what_is_there_is_invalid(length: int) -> None:
    assert flaw(by_hand.record(length=length)) == Flaw.RECORD_TOO_LONG


@pytest.mark.kafka("RECORD-06")
@pytest.mark.parametrize("body", [b"", b"\0", b"\0\x80", b"\0\x80\x80\x80"])
def test_a_record_that_ends_before_or_in_its_timestamp_is_invalid(body: bytes) -> None:
    assert flaw(varint(len(body)) + body + bytes(30)) == Flaw.FIELD_TOO_LONG


@pytest.mark.kafka("RECORD-06")
def test_a_number_that_does_not_end_is_invalid() -> None:
    endless = b"\0" + b"\xff" * 9 + b"\x80" + bytes(20)
    assert flaw(varint(len(endless)) + endless) == Flaw.VARINT_ENDLESS
    assert flaw(b"\xff\xff\xff\xff\x80\0") == Flaw.VARINT_ENDLESS


def test_the_last_byte_of_a_number_may_hold_bits_beyond_its_type() -> None:
    body = b"\0" + b"\xfe" + b"\xff" * 8 + b"\x7f" + b"\xfe\xff\xff\xff\x7f" + b"\1\1\0"
    record = decode_one(varint(len(body)) + body)
    assert (record.offset, record.timestamp) == (INT32_MAX, INT64_MAX)


@pytest.mark.parametrize("size", range(13))
def test_a_record_cut_at_any_byte_is_invalid(size: int) -> None:
    data = by_hand.record(b"k", b"v", headers=[(b"h", b"x")])
    assert len(data) == 13
    assert flaw(data[:size]) in (Flaw.RECORDS_END_EARLY, Flaw.FIELD_TOO_LONG, Flaw.RECORD_TOO_LONG)


def test_an_error_names_the_position_of_the_record_and_keeps_the_lines_before_it() -> None:
    good = by_hand.record(None, b"good")
    with pytest.raises(InvalidRecordError) as caught:
        kernel.format_body(b"....." + good + good + b"\x02", 5, 99, 3, 0, 0, None, STYLES[-1], 2**30)
    assert caught.value.position == 5 + 2 * len(good)
    assert (caught.value.lines, caught.value.lines_count) == (b"good\ngood\n", 2)


def test_bytes_behind_the_last_record_are_found_by_a_check_alone() -> None:
    data = by_hand.record() + b"\0"
    assert kernel.decode_records(data, 0, len(data), 1, 0, 0, None)[1] == len(data) - 1
    with pytest.raises(InvalidRecordError, match="bytes are left") as caught:
        kernel.check_records(data, 0, len(data), 1)
    assert caught.value.position == len(data) - 1


def test_a_check_says_what_the_records_hold() -> None:
    data = b"".join([
        by_hand.record(b"key", b"value", offset_delta=2, timestamp_delta=5, headers=[(b"h", None)] * 2),
        by_hand.record(None, b"v", offset_delta=4, timestamp_delta=-3),
        by_hand.record(b"k", None, offset_delta=4, timestamp_delta=9),
    ])  # fmt: skip
    third = len(data) - len(by_hand.record(b"k", None, offset_delta=4, timestamp_delta=9))
    assert kernel.check_records(data, 0, len(data), 3) == RecordStats(3, 2, 4, -3, 9, 1, 1, 2, 4, 6, third)


def test_a_first_offset_below_the_batch_is_out_of_order() -> None:
    data = by_hand.record(offset_delta=-1)
    assert kernel.check_records(data, 0, len(data), 1).disordered == 0


def test_a_check_of_nothing_says_nothing() -> None:
    assert kernel.check_records(b"", 0, 0, 0) == RecordStats(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -1)


# ---------------------------------------------------------------- encoding


@pytest.mark.parametrize(
    ("item", "error", "words"),
    [
        ((b"key",), TypeError, "record 1: expected a tuple of 2 to 4"),
        ([b"key", b"value"], TypeError, "record 1: expected a tuple"),
        (("key", b"value"), TypeError, "record 1: key must be bytes or None, not str"),
        ((b"key", 7), TypeError, "record 1: value must be bytes or None, not int"),
        ((b"key", None, -2), ValueError, "record 1: timestamp -2 is negative"),
        ((b"key", None, 2**63), ValueError, "beyond 64 bits"),
        ((None, None, 0, [(b"name", None)]), TypeError, "record 1: a header name must be text, not bytes"),
        ((None, None, 0, [(None, None)]), TypeError, "record 1: a header name must be text, not NoneType"),
        ((None, None, 0, [("name", "text")]), TypeError, "record 1: header value must be bytes or None, not str"),
        ((None, None, 0, [("\ud800", b"")]), ValueError, "surrogates not allowed"),
        (Record(0, 0, None, None), ValueError, "record 1: its offset does not follow"),
        (Record(2**31, 0, None, None), ValueError, "record 1: its offset does not follow"),
        (Record(5, -2, None, None), ValueError, "record 1: timestamp -2"),
    ],
)
def test_what_no_record_can_hold_is_refused_and_counted(item: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        kernel.encode_records([(b"good", b"one"), item], 0, 0, None, -1)


def test_headers_may_be_any_iterable_of_pairs_or_none() -> None:
    made = [kernel.encode_records([(None, None, 0, headers)], 0, 0, 0, -1)[0] for headers in (None, (), [], iter(()))]
    assert set(map(bytes, made)) == {by_hand.record()}
    pairs = [("h", b"1"), ("h", bytearray(b"2"))]
    made = [kernel.encode_records([(None, None, 0, one)], 0, 0, 0, -1)[0] for one in (pairs, tuple(pairs), iter(pairs))]
    assert set(map(bytes, made)) == {by_hand.record(headers=[(b"h", b"1"), (b"h", b"2")])}


def test_keys_and_values_may_be_any_bytes() -> None:
    one = kernel.encode_records([(bytearray(b"key"), memoryview(b"value")[1:3])], 0, 0, 0, 0)[0]
    assert one == by_hand.record(b"key", b"al")


def test_the_first_timestamp_is_the_base_and_deltas_may_be_negative() -> None:
    made, last, base, latest = kernel.encode_records([(None, None, 50), (None, None, 7), (None, None)], 0, 0, None, 90)
    assert (last, base, latest) == (2, 50, 90)
    assert made == b"".join(
        by_hand.record(offset_delta=number, timestamp_delta=delta) for number, delta in enumerate([0, -43, 40])
    )


def test_bytes_are_kept_free_before_the_records() -> None:
    assert kernel.encode_records([(None, None)], 61, 0, None, 0)[0] == bytes(61) + by_hand.record()
    assert kernel.encode_records([], 3, 0, None, 0) == (bytes(3), -1, -1, -1)


# ---------------------------------------------------------------- batches, literally


def walk_end(data: bytes, verify: bool = True) -> tuple[int, int, WalkEnd]:
    """How many batches a walk takes, where it stops, and why."""
    headers, stop, status = kernel.walk_batches(data, 0, len(data), 0, verify)
    return len(headers), stop, WalkEnd(status)


TWO = bytes(batch(by_hand.record(b"k", b"v")) + message(1, b"k", b"v", offset=1))
FIRST_SIZE = len(batch(by_hand.record(b"k", b"v")))


def test_a_walk_takes_whole_batches_and_says_why_it_ended() -> None:
    assert walk_end(TWO) == (2, len(TWO), WalkEnd.END)
    assert walk_end(b"") == (0, 0, WalkEnd.END)
    for size in range(1, len(TWO)):
        taken = int(size >= FIRST_SIZE)
        ending = WalkEnd.END if size == FIRST_SIZE else WalkEnd.INCOMPLETE
        assert walk_end(TWO[:size]) == (taken, FIRST_SIZE * taken, ending)


@pytest.mark.parametrize(("magic", "smallest"), [(0, 14), (1, 22), (2, 49)])
def test_a_walk_stops_at_a_size_below_the_smallest_of_its_format(magic: int, smallest: int) -> None:
    for size in (-(2**31), -1, 0, 13, smallest - 1):
        data = size.to_bytes(4, "big", signed=True).rjust(12, b"\0") + bytes(4) + bytes([magic]) + bytes(80)
        assert walk_end(data, verify=False) == (0, 0, WalkEnd.BAD_SIZE)
    data = smallest.to_bytes(12, "big") + bytes(4) + bytes([magic]) + bytes(smallest - 5)
    assert walk_end(data, verify=False) == (1, len(data), WalkEnd.END)


@pytest.mark.parametrize("magic", [3, 37, 127, 128, 255])
def test_a_walk_stops_at_a_magic_that_does_not_exist(magic: int) -> None:
    data = bytearray(TWO)
    data[FIRST_SIZE + 16] = magic
    assert walk_end(data) == (1, FIRST_SIZE, WalkEnd.BAD_MAGIC)


def test_a_walk_stops_at_a_wrong_crc_unless_it_is_not_to_look() -> None:
    data = by_hand.flipped(TWO, len(TWO) - 1)
    assert walk_end(data) == (1, FIRST_SIZE, WalkEnd.BAD_CRC)
    assert walk_end(data, verify=False) == (2, len(TWO), WalkEnd.END)


def test_positions_of_headers_are_those_in_the_file() -> None:
    headers, _, _ = kernel.walk_batches(b"skip" + TWO, 4, 4 + len(TWO), 1000, True)
    assert [header.position for header in headers] == [1004, 1004 + FIRST_SIZE]
    assert kernel.parse_header(b"skip" + TWO, 4, 77).position == 77


@pytest.mark.parametrize("data", [TWO[:FIRST_SIZE], TWO[FIRST_SIZE:], bytes(message(0, None, None))], ids=len)
def test_a_header_that_is_cut_off_is_refused(data: bytes) -> None:
    size = {0: 18, 1: 26, 2: 61}[data[16]]
    kernel.parse_header(data[:size], 0, 0)
    for piece in by_hand.torn(data[:size]):
        with pytest.raises(CorruptRecordError, match="inside the header"):
            kernel.parse_header(piece, 0, 0)
    for position in (-1, len(data), 2**40):
        with pytest.raises(CorruptRecordError):
            kernel.parse_header(data, position, 0)


def find(data: bytes, **bounds: int) -> int:
    return kernel.find_candidate(
        data, bounds.get("start", 0), bounds.get("end", len(data)), bounds.get("size_max", len(data)),
        bounds.get("offset_min", 0), bounds.get("offset_max", INT64_MAX),
    )  # fmt: skip


def test_a_candidate_is_found_behind_garbage() -> None:
    garbage = b"\xff" * 33
    assert find(garbage + TWO) == 33
    assert find(garbage + TWO, start=34) == 33 + FIRST_SIZE
    assert find(garbage) == find(b"") == -1


@pytest.mark.parametrize(
    "lie",
    [
        {"attributes": 5}, {"attributes": 128}, {"attributes": -1}, {"last_offset_delta": -1}, {"count": -1},
        {"count": 2}, {"magic": 3}, {"length": 48}, {"length": 1000}, {"length": -1}, {"base_offset": -1},
    ],
    ids=str,
)  # fmt: skip
def test_a_header_that_no_writer_makes_is_no_candidate(lie: dict[str, int]) -> None:
    assert find(b"\xff" * 20 + batch(by_hand.record(b"k", b"v"), crc=0)) == 20
    assert find(b"\xff" * 20 + batch(by_hand.record(b"k", b"v"), crc=0, **lie)) == -1


def test_a_candidate_lies_within_the_bounds_that_were_given() -> None:
    data = b"\xff" * 20 + batch(by_hand.record(b"k", b"v"), base_offset=50)
    assert find(data, offset_min=50, offset_max=50) == 20
    assert find(data, offset_min=51) == find(data, offset_max=49) == -1
    assert find(data, size_max=len(data) - 1) == -1
    assert find(data, end=20 + 60, size_max=len(data)) == -1
    assert find(data, end=20 + 61, size_max=len(data)) == 20
