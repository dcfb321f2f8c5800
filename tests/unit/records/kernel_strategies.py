"""What the tests of the kernels draw from: numbers, texts that are nearly text, records, ranges of bytes, damage."""

from __future__ import annotations

import itertools

import by_hand
from hypothesis import settings
from hypothesis import strategies as st

from logstore.records import ByteEncoding, LineMode, LineStyle

usual = settings(deadline=None, database=None, max_examples=150)
few = settings(deadline=None, database=None, max_examples=60)

INT32_MAX, INT64_MAX = 2**31 - 1, 2**63 - 1
STYLES = [
    LineStyle(mode, encoding, prefix, b',"key":', suffix)
    for mode, encoding in itertools.product(LineMode, ByteEncoding)
    for prefix, suffix in [(b'{"offset":', b"}\n") if mode == LineMode.JSON else (b"", b"\n")]
]
int32s = st.integers(-(2**31), INT32_MAX) | st.integers(-3, 3)
int64s = st.integers(-(2**63), INT64_MAX) | st.integers(-3, 3)
odd_texts = st.text(alphabet='aZ"\\/\n\r\t\b\f\0\x1f\x7f\x80\x9f\xa0éß\u2027\u2028\u2029\u202e\ufeff\ufffd\U0001f600')
nearly_text = st.binary(max_size=12) | odd_texts.map(str.encode)
nearly_text |= st.sampled_from([b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80", b"\xe2\x80"])
nearly_text |= st.tuples(odd_texts.map(str.encode), st.binary(max_size=3)).map(b"".join)
fields = st.none() | nearly_text
header_lists = st.lists(st.tuples(nearly_text, fields), max_size=3)
record_values = st.tuples(
    int64s, int64s, fields, fields,
    header_lists.map(lambda pairs: tuple((name.decode("utf-8", "surrogateescape"), value) for name, value in pairs)),
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Bytes that were right, and then changed, cut, stretched or put together anew."""
    data = bytearray(draw(whole))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(["set", "set", "cut", "drop", "insert", "repeat"]))
        if kind == "set" and data:
            data[at] = draw(st.sampled_from([0, 1, 2, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
        elif kind == "cut":
            del data[at:]
        elif kind == "drop":
            del data[at : at + draw(st.integers(1, 4))]
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=4))
        elif kind == "repeat":
            data += data[at:]
    return bytes(data)


@st.composite
def record_bodies(draw: st.DrawFn) -> tuple[bytes, int]:
    """Records back to back, in any order and at any time, and how many they are."""
    parts = [
        by_hand.record(
            draw(fields), draw(fields), offset_delta=draw(int32s), timestamp_delta=draw(int64s),
            headers=draw(header_lists),
        )
        for _ in range(draw(st.integers(0, 4)))
    ]  # fmt: skip
    return b"".join(parts), len(parts)


@st.composite
def walks(draw: st.DrawFn) -> tuple[bytes, int, int, int]:
    """Bytes that may be records, a range in them, and a count that may be theirs."""
    body, count = draw(record_bodies())
    data = draw(st.just(body) | damaged(st.just(body)) | st.binary(max_size=60))
    start, end = draw(st.just((0, len(data))) | st.tuples(st.integers(0, 80), st.integers(0, 160)))
    return data, start, end, draw(st.just(count) | st.integers(-2, 6) | st.just(INT32_MAX))
