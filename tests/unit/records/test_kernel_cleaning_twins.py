"""The two kernels clean alike: on valid, arbitrary and damaged bytes they give the same, or the same error."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from by_hand import batch, message, record
from hypothesis import given
from hypothesis import strategies as st
from kernel_strategies import INT64_MAX, damaged, header_lists, int32s, int64s, usual, walks
from test_kernel_twins import fast, twins

from logstore.errors import InvalidRecordError
from logstore.records import FilterRule
from logstore.records.header import BatchHeader, FilterCounts, FilteredBatch

slow: ModuleType = importlib.import_module("logstore.records._cleaning_py")
SEED = bytes(range(16))
PLAIN, OTHER = [0, 0, 0, 0x08, 0x40, 0x48, 0x80, 0x4048], [1, 4, 0x10, 0x20, 0x30, 0x60]

keys = st.sampled_from([None, b"", b"a", b"bb", b"c" * 15, b"d" * 16, b"e" * 40])
values = st.sampled_from([None, None, b"", b"value", b"v" * 130])


@st.composite
def plain_batches(draw: st.DrawFn, base_offset: int) -> tuple[bytes, int]:
    """A batch with ascending offsets, and the offset behind it; its times are anything."""
    deltas = draw(st.lists(st.integers(0, 9) | st.integers(0, 200), max_size=5, unique=True).map(sorted))
    records = [
        record(
            draw(keys), draw(values), offset_delta=delta, timestamp_delta=draw(st.integers(-70, 70) | int64s),
            headers=draw(header_lists),
        )
        for delta in deltas
    ]  # fmt: skip
    last = max(deltas, default=0) + draw(st.integers(0, 2))
    fields = {"base_timestamp": draw(st.integers(0, 99) | int64s), "max_timestamp": draw(st.integers(0, 99) | int64s)}
    fields |= {"leader_epoch": draw(int32s), "producer_id": draw(int64s), "base_sequence": draw(int32s)}
    attributes = draw(st.sampled_from(PLAIN * 3 + OTHER))
    made = batch(*records, base_offset=base_offset, last_offset_delta=last, attributes=attributes, **fields)
    return bytes(made), base_offset + last + 1


@st.composite
def logs(draw: st.DrawFn) -> bytes:
    data, base = b"", 0
    for _ in range(draw(st.integers(0, 4))):
        made, base = draw(plain_batches(base + draw(st.integers(0, 3))))
        data += made
    if draw(st.integers(0, 9)) == 0:
        data += bytes(message(draw(st.integers(0, 1)), b"key", b"value", offset=base))
    return data


@st.composite
def wild_batches(draw: st.DrawFn) -> bytes:
    """A batch whose CRC is right and whose other fields need not be."""
    body, count = draw(
        st.tuples(st.binary(max_size=20), st.integers(-1, 3)) | walks().map(lambda one: (one[0], one[3]))
    )
    return bytes(
        batch(
            body=body,
            count=count,
            base_offset=draw(int64s),
            last_offset_delta=draw(int32s | st.just(2**31 - 1)),
            attributes=draw(st.sampled_from(PLAIN)),
        )
    )


any_logs = logs() | damaged(logs()) | st.tuples(logs(), wild_batches()).map(b"".join) | st.binary(max_size=80)
starts = st.just(0) | st.integers(-1, 90)
ends = st.just(2**40) | st.integers(-1, 400)
offsets = st.integers(-1, 30) | int64s
rules = st.builds(
    FilterRule, st.integers(-1, 30) | int64s, st.integers(-5, 99) | int64s, st.integers(0, 99) | int64s,
    st.frozensets(st.integers(0, 30), max_size=8), st.booleans(),
)  # fmt: skip
puts = st.lists(st.tuples(keys.filter(lambda key: key is not None), st.integers(0, 30)), max_size=6)


class Twins:
    """The same table of both kernels, and calls that must give the same."""

    def __init__(self, slots: int, put: list[tuple[bytes, int]]) -> None:
        assert fast is not None
        self.modules = fast, slow
        self.tables = [module.KeyTable(bytearray(24 * slots), SEED) for module in self.modules]
        for key, offset in put:
            assert len({table.put(key, offset) for table in self.tables}) == 1

    def call(self, name: str, *arguments: Any) -> Any:
        ours, theirs = (self._outcome(number, name, arguments) for number in (0, 1))
        assert ours == theirs
        return ours

    def filter(self, data: bytes, start: int, end: int, room: int, out_start: int, rule: FilterRule) -> None:
        outputs = [bytearray(b"\xa5" * room) for _ in self.modules]
        ours, theirs = (
            self._outcome(number, "filter_plain_batches", (data, start, end, outputs[number], out_start, rule))
            for number in (0, 1)
        )
        assert ours == theirs and outputs[0] == outputs[1]
        if isinstance(ours[1], int):
            assert [type(one) for one in ours[2]] == [FilteredBatch] * len(ours[2])
            assert type(ours[3]) is FilterCounts
            assert outputs[0][:out_start] == b"\xa5" * min(out_start, room)
            assert outputs[0][ours[1] :] == b"\xa5" * max(room - ours[1], 0)

    def assert_same_keys(self) -> None:
        found = [{key: table.get(key) for key in KEYS} for table in self.tables]
        assert found[0] == found[1] and self.tables[0].count == self.tables[1].count

    def _outcome(self, number: int, name: str, arguments: tuple[Any, ...]) -> Any:
        try:
            return getattr(self.modules[number], name)(self.tables[number], *arguments)
        except InvalidRecordError as error:
            return type(error), error.reason, error.position
        except ValueError as error:
            return type(error), str(error)


KEYS = [b"", b"a", b"bb", b"c" * 15, b"d" * 16, b"e" * 40, b"key"]


@twins
@given(any_logs, starts, ends, offsets, offsets, st.sampled_from([0, 2, 3, 4, 90]), st.sampled_from([bytes, bytearray]))
@usual
def test_twins_map_alike(
    data: bytes, start: int, end: int, offset_min: int, offset_end: int, slots: int, kind: type[bytes]
) -> None:
    both = Twins(slots, [])
    both.call("map_plain_batches", kind(data), 0, len(data), 0, INT64_MAX)
    both.assert_same_keys()
    both.call("map_plain_batches", memoryview(kind(data)), start, end, offset_min, offset_end)
    both.call("map_plain_batches", data, 0, len(data), 0, offset_end, offset_min)
    both.assert_same_keys()


@twins
@given(any_logs, puts, rules, starts, ends, st.integers(0, 400), st.integers(-1, 40))
@usual
def test_twins_filter_alike(
    data: bytes, put: list[Any], rule: FilterRule, start: int, end: int, room: int, out_start: int
) -> None:
    both = Twins(90, put)
    both.filter(data, 0, len(data), 2 * len(data) + 100, 0, rule)
    both.filter(data, start, end, room, out_start, rule)


@twins
@given(any_logs, st.booleans(), puts, starts, ends, offsets)
@usual
def test_twins_digest_alike(
    data: bytes, is_mapped: bool, put: list[Any], start: int, end: int, offset_end: int
) -> None:
    both = Twins(90, put)
    if is_mapped:
        both.call("map_plain_batches", data, 0, len(data), 0, INT64_MAX)
    both.call("digest_plain_batches", data, 0, len(data), INT64_MAX)
    both.call("digest_plain_batches", data, start, end, offset_end)


def head_of(base_offset: int, delta: int, attributes: int, base: int, newest: int) -> BatchHeader:
    return BatchHeader(0, 61, base_offset, 0, 2, 0, attributes, delta, base, newest, -1, -1, -1, 0)


heads = st.builds(
    head_of, st.integers(0, 30) | int64s, st.integers(0, 200) | int32s,
    st.sampled_from(PLAIN + OTHER) | st.integers(-(2**15), 2**15 - 1), st.integers(-5, 99) | int64s, int64s,
)  # fmt: skip
bodies = st.tuples(plain_batches(0).map(lambda one: one[0][61:]), st.integers(0, 5)) | walks().map(
    lambda one: (one[0], one[3])
)


@twins
@given(plain_batches(3), heads, bodies, puts, rules, offsets, offsets)
@usual
def test_twins_take_records_by_themselves_alike(
    made: tuple[bytes, int], head: BatchHeader, body: tuple[bytes, int], put: list[Any], rule: FilterRule,
    offset_min: int, offset_end: int,
) -> None:  # fmt: skip
    assert fast is not None
    right = fast.parse_header(made[0], 0, 0)
    for header, payload, count in (
        (right, made[0][61:], right.count),
        (head, *body),
        (head, made[0][61:], right.count),
    ):
        both = Twins(90, put)
        both.call("filter_records", payload, count, header, rule)
        both.call("digest_records", payload, count, header, offset_end)
        both.call("map_records", payload, count, header.base_offset, offset_min, offset_end)
        both.assert_same_keys()


@twins
def test_twins_clean_alike_beyond_the_bytes_of_one_stretch() -> None:
    names = [b"key %d" % (number * 7 % 5000) for number in range(20_000)]
    data = b"".join(
        batch(
            *(
                record(name, b"v" * (base % 300), offset_delta=delta)
                for delta, name in enumerate(names[base : base + 8])
            ),
            base_offset=base,
        )
        for base in range(0, len(names), 8)
    )
    assert len(data) > 2_500_000
    both = Twins(10_000, [])
    assert both.call("map_plain_batches", data, 0, len(data), 0, INT64_MAX)[0] == len(data)
    newest = {name: offset for offset, name in enumerate(names)}
    rule = FilterRule(15_000, 0, 0, frozenset(range(7, 15_000, 80)), False)
    both.filter(data, 0, len(data), 2 * len(data), 0, rule)
    both.filter(data, 0, len(data), 1_500_000, 7, rule)
    seen = sum(offset < 16_000 for offset in newest.values())
    assert seen == 1000
    assert both.call("digest_plain_batches", data, 0, len(data), 16_000)[1:4:2] == (seen, 16_000 - seen)
    torn = bytearray(data)
    torn[2_000_000] ^= 1
    both.filter(torn, 0, len(data), 2 * len(data), 0, rule)
