"""Lines: JSON is what `json.dumps` writes, text stays on its line, and both tell the bytes they were made of."""

from __future__ import annotations

import base64
import datetime
import json
import re
from typing import Any

import by_hand
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kernel_strategies import INT64_MAX, STYLES, few, record_values, usual, walks

from logstore.errors import InvalidRecordError
from logstore.records import ByteEncoding, LineMode, LineStyle, Record, kernel


def lines(records: list[Record], mode: LineMode, encoding: ByteEncoding) -> bytes:
    style = next(style for style in STYLES if (style.mode, style.encoding) == (mode, encoding))
    return kernel.format_records(records, style)


def as_json(data: bytes | None, encoding: ByteEncoding) -> object:
    if data is None:
        return None
    if encoding == ByteEncoding.BASE64:
        return base64.b64encode(data).decode()
    if encoding == ByteEncoding.HEX:
        return data.hex()
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


@pytest.mark.parametrize("encoding", ByteEncoding)
@given(record_values)
@example((0, 0, b'"\\/\n\r\t\b\f\0\x1f\x7f', "é\u2028\U0001f600".encode(), (("\udcff", b"\xff"), ("name", None))))
@usual
def test_a_json_line_is_what_json_dumps_writes(encoding: ByteEncoding, fields: tuple[Any, ...]) -> None:
    offset, timestamp, key, value, headers = fields
    wanted = {
        "offset": offset,
        "timestamp": timestamp,
        "key": as_json(key, encoding),
        "value": as_json(value, encoding),
        "headers": [
            [as_json(name.encode("utf-8", "surrogateescape"), ByteEncoding.UTF8), as_json(data, encoding)]
            for name, data in headers
        ],
    }
    line = lines([Record(*fields)], LineMode.JSON, encoding)
    assert line.decode() == json.dumps(wanted, ensure_ascii=False, separators=(",", ":")) + "\n"
    assert json.loads(line) == wanted
    assert line.count(b"\n") == 1


def unescaped(text: bytes) -> bytes:
    plain = {b"\\n": b"\n", b"\\t": b"\t", b"\\\\": b"\\"}
    return re.sub(
        rb"\\(x([0-9a-f]{2})|.)", lambda found: plain.get(found[0]) or bytes([int(found[2], 16)]), text, flags=re.DOTALL
    )


@given(record_values)
@usual
def test_a_text_line_has_no_control_character_and_gives_the_bytes_back(fields: tuple[Any, ...]) -> None:
    offset, _, key, value, headers = fields
    line = lines([Record(*fields)], LineMode.TEXT, ByteEncoding.UTF8)
    assert not re.search("[\0-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]", line.decode()[:-1])
    first, _, *parts = line[:-1].split(b"\t")
    assert int(first) == offset and len(parts) == 2 + bool(headers)
    assert [b"null" if one is None else one for one in (key, value)] == [unescaped(part) for part in parts[:2]]


@pytest.mark.parametrize("encoding", [ByteEncoding.BASE64, ByteEncoding.HEX])
@given(record_values)
@few
def test_a_text_line_shows_bytes_in_the_encoding_that_was_asked_for(encoding: Any, fields: tuple[Any, ...]) -> None:
    encode = base64.b64encode if encoding == ByteEncoding.BASE64 else lambda data: data.hex().encode()
    parts = lines([Record(*fields)], LineMode.TEXT, encoding)[:-1].split(b"\t")
    assert parts[2:4] == [b"null" if data is None else encode(data) for data in fields[2:4]]


def test_a_text_line_shows_headers_as_pairs_and_leaves_the_field_out_without_any() -> None:
    record = Record(5, 0, b"k", None, (("a", b"1"), ("b", None)))
    shown = lines([record, record.replace(headers=())], LineMode.TEXT, ByteEncoding.UTF8)
    time = b"1970-01-01T00:00:00.000Z"
    assert shown == b"5\t%s\tk\tnull\ta=1 b=null\n5\t%s\tk\tnull\n" % (time, time)


def test_raw_lines_are_values_alone() -> None:
    records = [Record(0, 0, b"k", value) for value in (b"one", None, b"", b"\0\n\xff")]
    assert lines(records, LineMode.RAW, ByteEncoding.HEX) == b"one\n\n\n\0\n\xff\n"


LAST_MOMENT = 253_402_300_799_999
FIRST_MOMENT = -62_135_596_800_000


@given(st.integers(FIRST_MOMENT, LAST_MOMENT))
@example(FIRST_MOMENT)
@example(LAST_MOMENT)
@example(951_782_399_999)  # 28 February 2000
@example(951_782_400_000)
@usual
def test_times_are_those_of_the_calendar(timestamp: int) -> None:
    if timestamp == -1:
        return
    moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(milliseconds=timestamp)
    shown = lines([Record(0, timestamp, None, None)], LineMode.TEXT, ByteEncoding.UTF8).split(b"\t")[1]
    assert shown.decode() == moment.isoformat(timespec="milliseconds") + "Z"


@pytest.mark.parametrize("timestamp", [FIRST_MOMENT - 1, LAST_MOMENT + 1, INT64_MAX, -(2**63)])
def test_a_time_that_no_calendar_has_is_shown_as_its_number(timestamp: int) -> None:
    line = lines([Record(0, timestamp, None, None)], LineMode.TEXT, ByteEncoding.UTF8)
    assert line == b"0\t%d\tnull\tnull\n" % timestamp


def test_no_time_is_a_dash() -> None:
    assert lines([Record(0, -1, b"", b"")], LineMode.TEXT, ByteEncoding.UTF8) == b"0\t-\t\t\n"


@given(walks(), st.sampled_from(STYLES))
@usual
def test_lines_from_bytes_are_those_of_their_records(walk: tuple[bytes, int, int, int], style: LineStyle) -> None:
    data, start, end, count = walk
    try:
        records, position = kernel.decode_records(data, start, end, count, 10, 20, None)
    except InvalidRecordError:
        return
    written = kernel.format_body(data, start, end, count, 10, 20, None, style, 2**40)
    assert written == (kernel.format_records(records, style), position, max(count, 0))


def test_lines_stop_at_the_piece_that_was_wanted_and_go_on_from_there() -> None:
    data = b"".join(by_hand.record(None, b"12345", offset_delta=number) for number in range(10))
    position, done, pieces = 0, 0, []
    while done < 10:
        piece, position, count = kernel.format_body(data, position, len(data), 10 - done, 0, 0, None, STYLES[-1], 20)
        pieces.append(piece)
        done += count
    assert pieces == [b"12345\n" * 4, b"12345\n" * 4, b"12345\n" * 2]
