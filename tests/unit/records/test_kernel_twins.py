"""The two kernels are equal: on valid, arbitrary and damaged bytes they give the same, or the same error."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import pytest
from by_hand import batch, message
from hypothesis import given
from hypothesis import strategies as st
from kernel_strategies import (
    INT64_MAX,
    STYLES,
    damaged,
    few,
    fields,
    int32s,
    int64s,
    odd_texts,
    record_bodies,
    record_values,
    usual,
    walks,
)

from logstore.errors import LogstoreError
from logstore.records import LineStyle
from logstore.records import _kernel_py as slow
from logstore.records.header import BatchHeader, RecordStats

try:
    fast: ModuleType | None = importlib.import_module("logstore.records._kernel")
except ImportError:
    fast = None
twins = pytest.mark.skipif(fast is None, reason="no compiled kernel was built, so there is nothing to compare with")


def outcome(module: ModuleType, name: str, *arguments: Any) -> object:
    """What a kernel's function gives, without the types that differ; or what it raises, with all it says."""
    try:
        return plain(getattr(module, name)(*arguments))
    except LogstoreError as error:
        lines = getattr(error, "lines", None), getattr(error, "lines_count", None)
        return type(error), error.reason, error.position, *lines
    except (TypeError, ValueError) as error:
        return type(error), str(error)


def plain(value: Any) -> object:
    if isinstance(value, list | tuple):
        kind = type(value) if isinstance(value, BatchHeader | RecordStats) else ()
        return kind, *(plain(one) for one in value)
    if type(value).__name__ == "Record":
        return value.offset, value.timestamp, value.key, value.value, value.headers
    return bytes(value) if isinstance(value, bytearray) else value


def assert_twins(name: str, *arguments: Any) -> object:
    assert fast is not None
    ours, theirs = outcome(fast, name, *arguments), outcome(slow, name, *arguments)
    assert ours == theirs
    return ours


@st.composite
def batches(draw: st.DrawFn) -> bytes:
    """A batch or message of any format with any header; its CRC is right."""
    magic = draw(st.sampled_from([0, 1, 2, 2]))
    if magic < 2:
        attributes = draw(st.integers(-128, 127))
        return message(
            magic, draw(fields), draw(fields), offset=draw(int64s), timestamp=draw(int64s), attributes=attributes
        )
    body, count = draw(record_bodies())
    chosen = {"base_offset": int64s, "leader_epoch": int32s, "last_offset_delta": int32s, "base_timestamp": int64s}
    chosen |= {"max_timestamp": int64s, "producer_id": int64s, "base_sequence": int32s}
    chosen |= {"count": st.just(count) | int32s, "attributes": st.integers(0, 127) | st.integers(-(2**15), 2**15 - 1)}
    return batch(body=body, **{name: draw(values) for name, values in chosen.items()})


segments = st.lists(batches(), max_size=4).map(b"".join)
any_segments = st.binary(max_size=120) | damaged(segments) | st.binary(min_size=1, max_size=3).map(lambda one: one * 90)
buffers = st.sampled_from([bytes, bytearray, memoryview])


@twins
@given(any_segments, st.integers(0, 200), st.integers(0, 400), st.integers(0, 2**40), st.booleans(), buffers)
@usual
def test_twins_walk_batches_alike(
    data: bytes, start: int, end: int, base: int, verify: bool, kind: type[memoryview]
) -> None:
    assert_twins("walk_batches", kind(data), 0, len(data), base, verify)
    assert_twins("walk_batches", kind(data), start, end, base, verify)


@twins
@given(any_segments, st.integers(-2, 200), st.integers(0, 2**40))
@usual
def test_twins_read_headers_alike(data: bytes, position: int, file_position: int) -> None:
    assert_twins("parse_header", data, position, file_position)
    assert_twins("parse_header", data, 0, file_position)


@twins
@given(any_segments, st.integers(0, 200), st.integers(0, 400), st.integers(0, 500), int64s, int64s)
@usual
def test_twins_find_the_same_candidates(
    data: bytes, start: int, end: int, size_max: int, offset_min: int, offset_max: int
) -> None:
    assert_twins("find_candidate", data, 0, len(data), len(data), 0, INT64_MAX)
    assert_twins("find_candidate", b"\1" * 30 + data, 0, len(data) + 30, 2**40, 0, INT64_MAX)
    assert_twins("find_candidate", data, start, end, size_max, offset_min, offset_max)


@twins
@given(walks(), int64s, int64s, st.none() | int64s, buffers)
@usual
def test_twins_decode_alike(
    walk: tuple[bytes, int, int, int], base_offset: int, base: int, append: int | None, kind: type[memoryview]
) -> None:
    assert_twins("decode_records", kind(walk[0]), *walk[1:], base_offset, base, append)


@twins
@given(walks(), buffers)
@usual
def test_twins_check_alike(walk: tuple[bytes, int, int, int], kind: type[memoryview]) -> None:
    assert_twins("check_records", kind(walk[0]), *walk[1:])


@twins
@pytest.mark.parametrize("style", STYLES, ids=lambda style: f"{style.mode.name}-{style.encoding.name}")
@given(walks(), int64s, int64s, st.none() | int64s, st.sampled_from([0, 1, 40, 2**40]))
@few
def test_twins_write_the_same_lines_from_bytes(
    style: LineStyle, walk: tuple[bytes, int, int, int], base_offset: int, base: int, append: int | None, wanted: int
) -> None:
    assert_twins("format_body", *walk, base_offset, base, append, style, wanted)


@twins
@pytest.mark.parametrize("style", STYLES, ids=lambda style: f"{style.mode.name}-{style.encoding.name}")
@given(st.lists(record_values, max_size=3))
@few
def test_twins_write_the_same_lines_from_records(style: LineStyle, values: list[tuple[Any, ...]]) -> None:
    assert fast is not None
    records = [[module.Record(*one) for one in values] for module in (fast, slow)]
    assert fast.format_records(records[0], style) == slow.format_records(records[1], style)


sloppy = fields | st.sampled_from([bytearray(b"key"), memoryview(b"value")[1:3], "text", 7])
names = odd_texts | st.just("\udc80") | st.just("\ud800") | st.just(b"name") | st.none()
header_items = st.lists(st.tuples(names, sloppy), max_size=2)
items = (
    st.tuples(sloppy, sloppy)
    | st.tuples(sloppy, sloppy, int64s | st.just(2**63))
    | st.tuples(sloppy, sloppy, st.integers(-1, INT64_MAX), header_items | st.none() | header_items.map(tuple))
    | st.sampled_from([(), (b"key",), (b"key", b"value", 0, (), b"more"), [b"key", b"value"], None])
)
good_items = st.tuples(fields, fields, st.integers(-1, INT64_MAX), st.lists(st.tuples(odd_texts, fields), max_size=2))


@twins
@given(st.lists(good_items, max_size=4) | st.lists(items, max_size=3), int64s, st.none() | int64s, int64s)
@usual
def test_twins_encode_tuples_alike(
    made: list[Any], base_offset: int, base_timestamp: int | None, timestamp: int
) -> None:
    assert_twins("encode_records", made, 5, base_offset, base_timestamp, timestamp)
    assert_twins("encode_records", tuple(made), 0, base_offset, base_timestamp, -1)


@twins
@given(st.lists(record_values, max_size=4), st.booleans(), int64s, st.none() | int64s)
@usual
def test_twins_encode_records_alike(
    values: list[tuple[Any, ...]], is_sorted: bool, base_offset: int, base_timestamp: int | None
) -> None:
    assert fast is not None
    if is_sorted:
        values = [(number, abs(one[1]) % INT64_MAX, *one[2:]) for number, one in enumerate(values)]
        base_offset = 0
    ours, theirs = (
        outcome(module, "encode_records", [module.Record(*one) for one in values], 0, base_offset, base_timestamp, 0)
        for module in (fast, slow)
    )
    assert ours == theirs
    assert not is_sorted or (isinstance(ours, tuple) and ours[0] == ())


@twins
def test_twins_have_the_same_functions_and_records() -> None:
    assert fast is not None
    for name in ("Record", "check_records", "decode_records", "encode_records", "find_candidate", "format_body",
                 "format_records", "parse_header", "walk_batches"):  # fmt: skip
        assert callable(getattr(fast, name)) and callable(getattr(slow, name))
    one, other = (module.Record(1, 2, b"k", None, (("h", None),)) for module in (fast, slow))
    assert repr(one) == repr(other) and hash(one) == hash(other)
