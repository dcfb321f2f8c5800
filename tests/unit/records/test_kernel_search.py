"""Searches of the kernel: an entry of an index, a batch by its last offset, one record by its offset."""

from __future__ import annotations

import struct
from bisect import bisect_right
from typing import Any

import by_hand
import pytest
from by_hand import batch, message, varint
from hypothesis import given
from hypothesis import strategies as st
from kernel_strategies import INT32_MAX, INT64_MAX, damaged, int64s, record_bodies, usual, walks
from test_kernel_twins import any_segments, assert_twins, buffers, twins

from logstore.errors import InvalidRecordError
from logstore.records import (
    BatchOptions,
    Codec,
    ControlType,
    EndTransactionMarker,
    Record,
    TimestampType,
    encode_batch,
    encode_end_transaction_batch,
    kernel,
)
from logstore.records.header import FLAW_REASONS, Flaw, WalkEnd

# ---------------------------------------------------------------- entries of an index

LAYOUTS = [(8, 4, 0), (8, 4, 4), (12, 8, 0), (12, 4, 8), (9, 8, 1), (4, 4, 0), (8, 8, 0)]  # entry, key, key's place


def entries(keys: list[int], entry_bytes: int, key_bytes: int, key_position: int) -> bytes:
    """Index entries with these keys; what else is in them would be wrong as a key."""
    rest = entry_bytes - key_bytes - key_position
    packed = (key.to_bytes(key_bytes, "big", signed=True) for key in keys)
    return b"".join(b"\xa5" * key_position + key + b"\x5a" * rest for key in packed)


def floor(keys: list[int], target: int, layout: tuple[int, int, int] = (8, 4, 0)) -> int:
    return kernel.floor_entry(entries(keys, *layout), len(keys), *layout, target)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_the_floor_is_the_last_entry_at_or_below_the_target(layout: tuple[int, int, int]) -> None:
    keys = [-7, 0, 10, 11, 300]
    found = [floor(keys, target, layout) for target in (-8, -7, -1, 0, 9, 10, 11, 12, 299, 300, 301)]
    assert found == [-1, 0, 0, 1, 1, 2, 3, 3, 3, 4, 4]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_keys_and_targets_may_be_the_smallest_and_the_largest(layout: tuple[int, int, int]) -> None:
    largest = 2 ** (8 * layout[1] - 1) - 1
    keys = [-largest - 1, largest]
    found = [floor(keys, target, layout) for target in (-(2**63), -largest - 1, 0, largest, INT64_MAX)]
    assert found == ([0] if layout[1] == 8 else [-1]) + [0, 0, 1, 1]


def test_of_equal_keys_the_last_is_found() -> None:
    assert floor([1, 5, 5, 5, 9], 5) == 3
    assert floor([0] * 100, 0) == 99


@pytest.mark.parametrize("count", [0, -1, -(2**63)])
def test_no_entries_have_no_floor(count: int) -> None:
    assert kernel.floor_entry(bytes(8), count, 8, 4, 0, INT64_MAX) == -1
    assert kernel.floor_entry(b"", count, 8, 4, 0, INT64_MAX) == -1


def test_entries_beyond_the_count_are_not_searched() -> None:
    data = entries([1, 2, 3, 4], 8, 4, 0)
    assert kernel.floor_entry(data, 2, 8, 4, 0, 9) == 1
    assert kernel.floor_entry(data + b"part", 4, 8, 4, 0, 9) == 3


@pytest.mark.parametrize("count", [3, 2**61 + 1, INT64_MAX])
def test_more_entries_than_there_are_bytes_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=rf"{count} entries of 8 bytes are more than 23 bytes"):
        kernel.floor_entry(bytes(23), count, 8, 4, 0, 0)


@pytest.mark.parametrize(
    ("entry_bytes", "key_bytes", "key_position"),
    [(8, 0, 0), (8, 2, 0), (8, 5, 0), (8, 16, 0), (8, -4, 0), (8, 4, 5), (8, 8, 1), (8, 4, -1), (8, 4, INT64_MAX),
     (3, 4, 0), (0, 4, 0), (-8, 4, 0), (-(2**63), 8, 0)],
)  # fmt: skip
def test_a_key_of_another_width_or_beyond_its_entry_is_refused(
    entry_bytes: int, key_bytes: int, key_position: int
) -> None:
    with pytest.raises(ValueError, match=rf"no key of {key_bytes} bytes at {key_position} in an entry of"):
        kernel.floor_entry(bytes(64), 1, entry_bytes, key_bytes, key_position, 0)


@given(st.sampled_from(LAYOUTS), st.lists(st.integers(-(2**31), INT32_MAX)), int64s, st.booleans())
@usual
def test_the_floor_is_what_bisection_of_the_keys_says(
    layout: tuple[int, int, int], keys: list[int], target: int, is_sorted: bool
) -> None:
    if is_sorted:
        keys.sort()
    for one in (target, *keys[:3]):
        assert floor(keys, one, layout) == bisect_right(keys, one) - 1


@twins
@given(
    st.binary(max_size=80),
    st.integers(-2, 12),
    st.sampled_from(LAYOUTS) | st.tuples(st.integers(-1, 14), st.integers(-1, 9), st.integers(-1, 9)),
    int64s,
    buffers,
)
@usual
def test_twins_find_the_same_entries(
    data: bytes, count: int, layout: tuple[int, int, int], target: int, kind: type[memoryview]
) -> None:
    assert_twins("floor_entry", kind(data), count, *layout, target)


# ---------------------------------------------------------------- a batch

FIRST = bytes(batch(by_hand.record(b"k", b"v"), base_offset=10, last_offset_delta=5))
SECOND = bytes(batch(by_hand.record(b"k", b"v" * 40), base_offset=20, last_offset_delta=0))
SEGMENT, (AT_FIRST, AT_SECOND) = by_hand.joined([FIRST, SECOND])


def find(data: bytes | bytearray, offset: int, start: int = 0, end: int | None = None) -> tuple[int, int, int]:
    return kernel.find_batch(data, start, len(data) if end is None else end, offset)


def test_the_first_batch_that_ends_at_the_offset_or_behind_it_is_found() -> None:
    for offset in (-(2**63), -1, 0, 10, 12, 15):
        assert find(SEGMENT, offset) == (AT_FIRST, len(FIRST), 10)
    for offset in (16, 19, 20):
        assert find(SEGMENT, offset) == (AT_SECOND, len(SECOND), 20)


def test_beyond_the_last_batch_the_walk_ends_where_the_bytes_end() -> None:
    assert find(SEGMENT, 21) == find(SEGMENT, INT64_MAX) == (len(SEGMENT), 0, WalkEnd.END)
    assert find(SEGMENT, 16, end=AT_SECOND) == (AT_SECOND, 0, WalkEnd.END)
    assert find(SEGMENT, 21, end=2**40) == (len(SEGMENT), 0, WalkEnd.END)


@pytest.mark.parametrize("start", [0, 1, len(SEGMENT), 2**40])
def test_a_walk_of_no_bytes_ends_where_it_starts(start: int) -> None:
    assert find(SEGMENT, 0, start=start, end=min(start, len(SEGMENT))) == (start, 0, WalkEnd.END)
    assert find(SEGMENT, 0, start=start, end=-1) == (start, 0, WalkEnd.END)


def test_positions_are_those_in_the_buffer() -> None:
    assert find(b"skip" + SEGMENT, 16, start=4) == (4 + AT_SECOND, len(SECOND), 20)
    assert find(b"skip" + SEGMENT, 10, start=4 + AT_SECOND) == (4 + AT_SECOND, len(SECOND), 20)


def test_a_start_below_the_buffer_is_refused() -> None:
    with pytest.raises(ValueError, match="not below 0"):
        find(SEGMENT, 0, start=-1)


@pytest.mark.parametrize("magic", [0, 1])
def test_a_message_of_an_old_format_ends_at_the_offset_in_its_header(magic: int) -> None:
    # Of a compressed set that is the last offset in it.
    one = bytes(message(magic, b"k", b"v", offset=30))
    other = bytes(by_hand.message_set(magic, by_hand.GZIP, bytes(message(magic, None, b"v")), offset=40))
    data = one + other + SEGMENT
    assert find(data, 30) == (0, len(one), 30)
    assert find(data, 31) == find(data, 40) == (len(one), len(other), 40)
    assert find(data, 41) == (len(data), 0, WalkEnd.END)


def test_a_batch_is_found_with_its_header_alone() -> None:
    for end in range(AT_SECOND + 1, len(SEGMENT) + 1):
        found = find(SEGMENT, 20, end=end)
        assert found == find(SEGMENT[:end], 20)
        is_whole = end - AT_SECOND >= 61
        assert found == ((AT_SECOND, len(SECOND), 20) if is_whole else (AT_SECOND, 0, WalkEnd.INCOMPLETE))


@pytest.mark.parametrize("magic", [0, 1])
def test_a_message_of_an_old_format_is_found_with_what_comes_up_to_its_magic(magic: int) -> None:
    data = bytes(message(magic, b"k", b"v", offset=30))
    for end in range(1, len(data) + 1):
        assert find(data, 30, end=end) == ((0, len(data), 30) if end >= 17 else (0, 0, WalkEnd.INCOMPLETE))


def test_a_batch_before_the_offset_that_is_not_all_there_ends_the_walk() -> None:
    for end in range(AT_SECOND + 1, len(SEGMENT)):
        assert find(SEGMENT, 21, end=end) == (AT_SECOND, 0, WalkEnd.INCOMPLETE)
    huge = bytes(batch(by_hand.record(), length=INT32_MAX))
    assert find(huge, 1) == (0, 0, WalkEnd.INCOMPLETE)
    assert find(huge, 0) == (0, INT32_MAX + 12, 0)


@pytest.mark.parametrize(("magic", "smallest"), [(0, 14), (1, 22), (2, 49)])
def test_a_size_below_the_smallest_of_its_format_ends_the_walk(magic: int, smallest: int) -> None:
    for size in (-(2**31), -1, 0, 13, smallest - 1):
        header = struct.pack(">qiIb", 99, size, 0, magic)
        assert find(FIRST + header + bytes(80), 16) == (len(FIRST), 0, WalkEnd.BAD_SIZE)
        assert find(FIRST + header, 16) == (len(FIRST), 0, WalkEnd.BAD_SIZE)
    header = struct.pack(">qiIb", 99, smallest, 0, magic)
    assert find(FIRST + header + bytes(80), 16) == (len(FIRST), smallest + 12, 99)


@pytest.mark.parametrize("magic", [3, 127, 128, 255])
def test_a_magic_that_does_not_exist_ends_the_walk(magic: int) -> None:
    data = bytearray(SEGMENT)
    data[AT_SECOND + 16] = magic
    assert find(data, 20) == (AT_SECOND, 0, WalkEnd.BAD_MAGIC)
    assert find(data, 15) == (AT_FIRST, len(FIRST), 10)


def test_a_last_offset_wraps_as_java_adds() -> None:
    data = bytes(batch(by_hand.record(), base_offset=INT64_MAX, last_offset_delta=1))
    assert find(data, -(2**63)) == (0, len(data), INT64_MAX)
    assert find(data, 0) == (len(data), 0, WalkEnd.END)


def test_a_walk_over_megabytes_finds_what_a_short_one_finds() -> None:
    filler = bytes(batch(by_hand.record(None, bytes(2000))))
    data = filler * 1000 + SECOND
    assert find(data, 20) == (len(filler) * 1000, len(SECOND), 20)
    assert find(data, 21) == (len(data), 0, WalkEnd.END)
    assert find(data, 21, end=len(data) - 1) == (len(filler) * 1000, 0, WalkEnd.INCOMPLETE)


@given(any_segments, st.sampled_from([INT64_MAX, 0, 1]) | int64s)
@usual
def test_a_batch_is_found_where_a_walk_over_all_of_them_has_it(data: bytes, offset: int) -> None:
    headers, stop, status = kernel.walk_batches(data, 0, len(data), 0, False)
    for header in headers:
        last = header.base_offset + (header.last_offset_delta if header.magic == 2 else 0)
        if (last + 2**63) % 2**64 - 2**63 >= offset:
            assert find(data, offset) == (header.position, header.size, header.base_offset)
            return
    position, size, base_offset = find(data, offset)
    assert position == stop
    assert (size, base_offset) == (0, status) or (status == WalkEnd.INCOMPLETE and size > len(data) - position)


@given(any_segments, st.integers(0, 200), st.sampled_from([INT64_MAX, 0]) | int64s)
@usual
def test_what_lies_behind_the_end_does_not_matter_to_a_walk(data: bytes, end: int, offset: int) -> None:
    assert find(data, offset, end=end) == find(data[:end], offset)


@twins
@given(any_segments, st.integers(-2, 200), st.integers(-2, 400), int64s, buffers)
@usual
def test_twins_find_the_same_batches(data: bytes, start: int, end: int, offset: int, kind: type[memoryview]) -> None:
    for one in (offset, INT64_MAX):
        assert_twins("find_batch", kind(data), 0, len(data), one)
        assert_twins("find_batch", kind(data), 0, end, one)
        assert_twins("find_batch", kind(data), start, end, one)


# ---------------------------------------------------------------- a record


def at(data: bytes, offset: int, **given: Any) -> Record | None:
    return kernel.decode_at(
        data, given.get("position", 0), given.get("end", len(data)), given.get("count", 3),
        given.get("base_offset", 100), given.get("base_timestamp", 1000), given.get("append_time"), offset,
    )  # fmt: skip


PARTS = [
    by_hand.record(b"first", b"1", offset_delta=0, timestamp_delta=5),
    by_hand.record(None, None, offset_delta=2, timestamp_delta=-5, headers=[(b"\xff", None), (b"", b"h")]),
    by_hand.record(b"last", b"x" * 300, offset_delta=70000, timestamp_delta=2**40),
]
BODY, PLACES = by_hand.joined(PARTS)
RECORDS = [
    Record(100, 1005, b"first", b"1"),
    Record(102, 995, None, None, (("\udcff", None), ("", b"h"))),
    Record(70100, 1000 + 2**40, b"last", b"x" * 300),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.offset)
def test_the_record_with_the_offset_is_decoded(record: Record) -> None:
    assert at(BODY, record.offset) == record
    assert at(b"before" + BODY + b"behind", record.offset, position=6, end=6 + len(BODY)) == record


@pytest.mark.parametrize("offset", [-(2**63), -1, 0, 99, 101, 103, 70099, 70101, 100 + 2**32, INT64_MAX])
def test_without_a_record_of_the_offset_there_is_none(offset: int) -> None:
    assert at(BODY, offset) is None


def test_records_beyond_the_count_are_not_looked_at() -> None:
    assert at(BODY, 102, count=2) == RECORDS[1]
    for count in (1, 0, -1, -(2**63)):
        assert at(BODY, 102, count=count) is None
        assert at(PARTS[0] + b"\xff" * 20, 102, count=count) is None
    assert at(b"", 0, count=0) is None


def test_of_records_with_one_offset_the_first_is_decoded() -> None:
    data = b"".join(by_hand.record(value=value, offset_delta=7) for value in (b"one", b"other"))
    found = at(data, 107, count=2)
    assert found is not None and found.value == b"one"


def test_the_append_time_replaces_the_timestamp() -> None:
    assert at(BODY, 102, append_time=7) == RECORDS[1].replace(timestamp=7)


def test_the_offset_and_timestamp_of_one_record_wrap_as_java_adds() -> None:
    data = by_hand.record(offset_delta=1, timestamp_delta=-1)
    found = at(data, -(2**63), count=1, base_offset=INT64_MAX, base_timestamp=-(2**63))
    assert found == Record(-(2**63), INT64_MAX, None, None)
    data = by_hand.record(offset_delta=-1)
    found = at(data, INT64_MAX, count=1, base_offset=-(2**63), base_timestamp=3)
    assert found == Record(INT64_MAX, 3, None, None)


def test_a_position_below_the_buffer_is_refused() -> None:
    with pytest.raises(ValueError, match="not below 0"):
        at(BODY, 100, position=-1)


def flaw(data: bytes, offset: int, **given: Any) -> tuple[Flaw, int | None]:
    with pytest.raises(InvalidRecordError) as caught:
        at(data, offset, **given)
    return next(Flaw(one) for one, text in FLAW_REASONS.items() if text == caught.value.reason), caught.value.position


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (b"", Flaw.RECORDS_END_EARLY),
        (b"\x80", Flaw.FIELD_TOO_LONG),
        (b"\xff" * 5, Flaw.VARINT_ENDLESS),
        (varint(-1) + bytes(9), Flaw.RECORD_TOO_LONG),
        (varint(10) + bytes(9), Flaw.RECORD_TOO_LONG),
        (varint(0) + bytes(9), Flaw.FIELD_TOO_LONG),
        (varint(1) + bytes(9), Flaw.FIELD_TOO_LONG),
        (varint(2) + bytes(9), Flaw.FIELD_TOO_LONG),
        (varint(3) + b"\0\0\x80" + bytes(9), Flaw.FIELD_TOO_LONG),
        (varint(20) + b"\0" + b"\xff" * 10 + bytes(9), Flaw.VARINT_ENDLESS),
        (varint(15) + b"\0\0" + b"\xff" * 5 + bytes(9), Flaw.VARINT_ENDLESS),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_record_on_the_way_is_named_as_a_whole_decoding_names_it(wrong: bytes, expected: Flaw) -> None:
    data = PARTS[0] + wrong
    assert flaw(data, 105) == (expected, len(PARTS[0]))
    with pytest.raises(InvalidRecordError) as caught:
        kernel.decode_records(data, 0, len(data), 3, 100, 1000, None)
    assert (caught.value.reason, caught.value.position) == (FLAW_REASONS[expected], len(PARTS[0]))
    assert at(data, 100) == RECORDS[0]


@pytest.mark.parametrize(
    ("lie", "expected"),
    [
        ({"slack": b"."}, Flaw.RECORD_SLACK),
        ({"headers_count": 2}, Flaw.HEADER_COUNT),
        ({"headers_count": -1}, Flaw.HEADER_COUNT),
        ({"headers": [(b"k", b"v")], "headers_count": 2}, Flaw.FIELD_TOO_LONG),
    ],
    ids=str,
)  # fmt: skip
def test_a_record_wrong_behind_its_offset_is_refused_only_when_it_is_wanted(
    lie: dict[str, Any], expected: Flaw
) -> None:
    data = PARTS[0] + by_hand.record(offset_delta=1, **lie) + PARTS[2]
    assert flaw(data, 101) == (expected, len(PARTS[0]))
    assert at(data, 70100) == RECORDS[2]


@pytest.mark.parametrize("end", range(len(BODY)))
def test_a_record_cut_at_any_byte_is_not_read_beyond_it(end: int) -> None:
    for offset, place in zip((100, 102, 70100), (*PLACES[1:], len(BODY)), strict=True):
        if place <= end:
            assert at(BODY, offset, end=end) == at(BODY[:end], offset)
        else:
            assert flaw(BODY, offset, end=end) == flaw(BODY[:end], offset)


@given(record_bodies(), int64s, int64s, st.none() | int64s)
@usual
def test_each_record_is_found_as_decoding_them_all_shows_it(
    made: tuple[bytes, int], base_offset: int, base_timestamp: int, append_time: int | None
) -> None:
    data, count = made
    records, _ = kernel.decode_records(data, 0, len(data), count, base_offset, base_timestamp, append_time)
    for record in records:
        first = next(one for one in records if one.offset == record.offset)
        assert kernel.decode_at(
            data, 0, len(data), count, base_offset, base_timestamp, append_time, record.offset
        ) == first  # fmt: skip


@twins
@given(walks(), int64s, int64s, st.none() | int64s, int64s, buffers)
@usual
def test_twins_decode_one_record_alike(
    walk: tuple[bytes, int, int, int], base_offset: int, base: int, append: int | None, offset: int,
    kind: type[memoryview],
) -> None:  # fmt: skip
    assert_twins("decode_at", kind(walk[0]), *walk[1:], base_offset, base, append, offset)
    assert_twins("decode_at", kind(walk[0]), *walk[1:], 0, base, append, offset)


@twins
@given(damaged(st.just(BODY)), st.sampled_from([100, 102, 70100, 7]), st.integers(-1, 400), st.integers(-1, 400))
@usual
def test_twins_decode_one_record_of_damaged_ones_alike(data: bytes, offset: int, start: int, end: int) -> None:
    assert_twins("decode_at", data, 0, len(data), 3, 100, 0, None, offset)
    assert_twins("decode_at", data, 0, end, 3, 100, 0, None, offset)
    assert_twins("decode_at", data, start, end, 3, 100, 0, None, offset)


# ---------------------------------------------------------------- a record by its offset, from a batch boundary


def test_a_record_is_found_in_its_batch_behind_others() -> None:
    data = b"".join(encode_batch([(b"k", b"%d" % n, 100 + n)] * 3, base_offset=3 * n) for n in range(20))
    for offset in range(60):
        found = kernel.find_record(data, 0, len(data), offset)
        assert found == Record(offset, 100 + offset // 3, b"k", b"%d" % (offset // 3))
    assert kernel.find_record(data, 0, len(data), 60) is None
    assert kernel.find_record(data, 0, len(data) - 1, 59) is None


def test_with_append_time_the_records_have_the_time_of_the_append() -> None:
    options = BatchOptions(timestamp_type=TimestampType.LOG_APPEND_TIME, append_time=77)
    data = encode_batch([(None, b"v", 5)], options=options)
    assert kernel.find_record(data, 0, len(data), 0) == Record(0, 77, None, b"v")


def test_what_takes_a_closer_look_is_not_found() -> None:
    compressed = encode_batch([(None, b"v")], options=BatchOptions(codec=Codec.ZSTD))
    marker = encode_end_transaction_batch(
        EndTransactionMarker(ControlType.ABORT, 0), offset=0, timestamp=1, producer_id=1, producer_epoch=0
    )
    old = message(0, b"k", b"v")
    later = encode_batch([(None, b"v")], base_offset=5)
    for data in (compressed, marker, old, later, b"", b"x" * 100):
        assert kernel.find_record(data, 0, len(data), 0) is None
    with pytest.raises(ValueError, match="below 0"):
        kernel.find_record(later, -1, len(later), 0)


@twins
@given(any_segments, st.integers(-1, 40), st.integers(0, 300))
@usual
def test_twins_find_the_same_record(data: bytes, offset: int, end: int) -> None:
    assert_twins("find_record", data, 0, len(data) - end, offset)


# ---------------------------------------------------------------- many batches at a time


def test_batches_are_decoded_one_after_the_other_up_to_one_that_takes_a_closer_look() -> None:
    plain = [encode_batch([(b"k", b"%d" % n, n)] * 2, base_offset=2 * n) for n in range(5)]
    data = b"".join(plain) + encode_batch([(None, b"v")], base_offset=10, options=BatchOptions(codec=Codec.LZ4))
    stop = sum(map(len, plain))
    records, position, following = kernel.decode_plain_batches(data, 0, len(data), 0, 99, 0x27, 1000)
    assert [record.offset for record in records] == list(range(10))
    assert records[5] == Record(5, 2, b"k", b"2")
    assert (position, following) == (stop, 10)
    for wrong in (data[: stop - 1], data[: stop - 3] + b"?" + data[stop - 2 :]):
        assert kernel.decode_plain_batches(wrong, 0, len(wrong), 0, 99, 0x27, 1000)[1] == stop - len(plain[-1])
    assert kernel.decode_plain_batches(data, 0, len(data), 0, 7, 0x27, 1000)[1:] == (3 * len(plain[0]), 6)
    assert kernel.decode_plain_batches(data, 0, len(data), 1, 99, 0x27, 1000) == ([], 0, 1)
    assert len(kernel.decode_plain_batches(data, 0, len(data), 0, 99, 0x27, 3)[0]) == 4
    with pytest.raises(ValueError, match="below 0"):
        kernel.decode_plain_batches(data, -1, len(data), 0, 99, 0x27, 3)


@twins
@given(any_segments, st.integers(-3, 20), st.integers(0, 2**40), st.sampled_from([0x27, 0x37]), st.integers(0, 50))
@usual
def test_twins_decode_the_same_batches(data: bytes, offset_min: int, offset_end: int, mask: int, most: int) -> None:
    assert_twins("decode_plain_batches", data, 0, len(data), offset_min, offset_end, mask, most)
