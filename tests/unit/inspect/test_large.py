"""A line written piece by piece is, put together, the line that is written at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from logstore.inspect import DumpOptions, Format, Renderer, Selection, large
from logstore.inspect.dump import Place
from logstore.inspect.large import GROUP_BYTES, LARGE_BYTES, groups, may_hold_large_records
from logstore.names import TopicPartition
from logstore.records import BatchOptions, ByteEncoding, Codec, Record, encode_batch, iter_batches

START = 1_700_000_000_000
text = st.text(max_size=30).map(str.encode)
data = st.none() | text | st.binary(max_size=30) | st.builds(lambda one, two: one + b"\xff" + two, text, text)
records = st.lists(st.tuples(data, data, st.booleans()), min_size=1, max_size=4)


def lines(raw: bytes | bytearray, line_format: Format, encoding: ByteEncoding) -> bytes:
    place = Place(TopicPartition("orders", 3), Path("0.log"), DumpOptions())
    selection = Selection(place, next(iter(iter_batches(bytes(raw)))), True)
    renderer = Renderer(line_format, encoding, with_batch=line_format in (Format.JSON, Format.TEXT))
    return b"".join(piece for piece, _ in renderer.lines(selection))


@settings(deadline=None, database=None)
@given(
    records,
    st.sampled_from([Format.JSON, Format.TEXT, Format.RAW]),
    st.sampled_from(ByteEncoding),
    st.sampled_from([6, 9]),
)
@example([("값é\U0001f600".encode(), b"\x80\x80\x80\x80\x80\xf0\x9f", True)], Format.TEXT, ByteEncoding.UTF8, 6)
def test_pieces_make_up_the_line_that_the_kernel_writes(
    drawn: list[Any], line_format: Format, encoding: ByteEncoding, chunk: int
) -> None:
    wanted = [(key, value, START, (("h", b"x"),) if has else ()) for key, value, has in drawn]
    raw = encode_batch(wanted, base_offset=5)
    whole = lines(raw, line_format, encoding)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large, "LARGE_BYTES", -1)
        patch.setattr(large, "GROUP_BYTES", -1)
        patch.setattr(large, "_CHUNK_BYTES", chunk)
        assert lines(raw, line_format, encoding) == whole


@settings(deadline=None, database=None)
@given(records, st.sampled_from(ByteEncoding))
def test_pieces_of_csv_are_the_same_fields_all_of_them_quoted(drawn: list[Any], encoding: ByteEncoding) -> None:
    raw = encode_batch([(key, value, START) for key, value, _ in drawn])
    whole = lines(raw, Format.CSV, encoding)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("logstore.inspect.render.csv_field", always_quoted)
        quoted = lines(raw, Format.CSV, encoding)
        patch.undo()
        patch.setattr(large, "LARGE_BYTES", -1)
        patch.setattr(large, "GROUP_BYTES", -1)
        patch.setattr(large, "_CHUNK_BYTES", 6)
        pieces = lines(raw, Format.CSV, encoding)
    assert pieces.replace(b'"', b"") == quoted.replace(b'"', b"") == whole.replace(b'"', b"")


def always_quoted(field: str | None) -> str:
    return "" if field is None else '"' + field.replace('"', '""') + '"'


def test_records_are_formatted_in_groups_and_a_large_one_alone() -> None:
    sizes = [10, GROUP_BYTES // 2, GROUP_BYTES // 2, 5, LARGE_BYTES + 1, 5, 5]
    made = [Record(number, 0, None, bytes(size)) for number, size in enumerate(sizes)]
    found = [[record.offset for record in group] for group in groups(made)]
    assert found == [[0, 1], [2, 3], [4], [5, 6]]
    assert list(groups([])) == []


@pytest.mark.parametrize(
    ("codec", "count", "size", "is_possible"),
    [
        (Codec.NONE, 1, 1000, False),
        (Codec.NONE, 1, LARGE_BYTES, True),
        (Codec.NONE, 1000, LARGE_BYTES // 1000, True),
        (Codec.GZIP, 1, LARGE_BYTES, True),
        (Codec.ZSTD, 1, LARGE_BYTES, True),
        (Codec.ZSTD, 100, LARGE_BYTES // 100, False),
        (Codec.LZ4, 1, 1000, False),
    ],
)
def test_a_batch_may_hold_large_records_by_its_size_and_codec(
    codec: Codec, count: int, size: int, is_possible: bool
) -> None:
    raw = encode_batch([(b"k", bytes(size)) for _ in range(count)], options=BatchOptions(codec=codec))
    assert may_hold_large_records(next(iter(iter_batches(bytes(raw))))) is is_possible
