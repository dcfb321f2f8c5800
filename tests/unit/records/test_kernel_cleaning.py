"""The kernel's part of the cleaner: keys into the table, records that stay, what is written of their batches."""

from __future__ import annotations

from typing import Any

import by_hand
import pytest
from by_hand import batch, joined, message, record
from hypothesis import given
from hypothesis import strategies as st
from kernel_strategies import INT64_MAX, few

from logstore.errors import InvalidRecordError
from logstore.records import FilterCounts, FilterRule, KeyTable, MapEnd, Record, decode, encode_batch, kernel
from logstore.records.header import FLAW_REASONS, BatchHeader, Flaw

APPEND_TIME, TRANSACTIONAL, CONTROL, HORIZON = 0x08, 0x10, 0x20, 0x40
NOW, NEW_HORIZON = 1_000_000, 1_086_400
LAST = "last_offset_delta"
NO_COUNTS = FilterCounts(*[0] * 12)


def table(**latest: int) -> KeyTable:
    one = KeyTable(bytearray(24 * 100), bytes(range(16)))
    for key, offset in latest.items():
        assert one.put(key.encode(), offset)
    return one


def rule(latest: int = 100, *protected: int, drops: bool = False, now: int = NOW) -> FilterRule:
    return FilterRule(latest, now, NEW_HORIZON, frozenset(protected), drops)


def keyed(*keys: str | None, base: int = 0, **fields: Any) -> bytearray:
    """A batch with one record a key, at the timestamps 500, 501...; a key in capitals has no value."""
    records = [
        record(
            key and key.lower().encode(), None if key and key.isupper() else b"value %d" % (base + delta),
            offset_delta=delta, timestamp_delta=delta, headers=[(b"h\xff", None)] if delta % 2 else (),
        )
        for delta, key in enumerate(keys)
    ]  # fmt: skip
    times = {"base_timestamp": 500, "max_timestamp": 500 + max(len(keys) - 1, 0)}
    return batch(*records, base_offset=base, **(times | fields))


def filtered(
    data: bytes, latest: KeyTable, how: FilterRule, room: int = 10_000
) -> tuple[bytes, list[Any], FilterCounts, int]:
    """What filtering writes, which batches these are, what was counted and why it stopped."""
    out = bytearray(room)
    _, end, written, counts, status = kernel.filter_plain_batches(latest, data, 0, len(data), out, 0, how)
    assert not any(out[end:])
    assert [one.position for one in written] == joined([bytes(one.size) for one in written])[1]
    return bytes(out[:end]), written, counts, status


def offsets(data: bytes) -> list[int]:
    return [one.offset for one in decode(data)]


def header(data: bytes) -> BatchHeader:
    return kernel.parse_header(data, 0, 0)


# ---------------------------------------------------------------- the map


def test_mapping_puts_the_last_offset_of_each_key() -> None:
    one = table()
    data = keyed("a", "b", "a", None) + keyed("b", "C", base=10)
    assert kernel.map_plain_batches(one, data, 0, len(data), 0, 100) == (len(data), 11, 6, 1, MapEnd.END, 12)
    assert [one.get(key) for key in (b"a", b"b", b"c", b"d")] == [2, 10, 11, -1]


def test_mapping_takes_the_records_of_a_range() -> None:
    one = table()
    data = keyed("a", "b", "c", None, "d") + keyed("e", base=10)
    result = kernel.map_plain_batches(one, data, 0, len(data), 1, 4)
    assert result == (len(data) - len(keyed("e", base=10)), 3, 3, 1, MapEnd.RANGE, 5)
    assert [one.get(key) for key in (b"a", b"b", b"c", b"d", b"e")] == [-1, 1, 2, -1, -1]


def test_batches_below_the_range_say_nothing_of_how_far_the_table_is_complete() -> None:
    data = keyed("a", "b")
    assert kernel.map_plain_batches(table(), data, 0, len(data), 2, 9) == (len(data), -1, 0, 0, MapEnd.END, 2)
    assert kernel.map_plain_batches(table(), data, 0, len(data), 1, 9)[1] == 1


def test_a_gap_or_an_empty_batch_at_the_end_counts_as_mapped() -> None:
    data = keyed("a", **{LAST: 7}) + keyed(base=8, **{LAST: 1})
    assert kernel.map_plain_batches(table(), data, 0, len(data), 0, 100)[1] == 9
    assert kernel.map_plain_batches(table(), data, 0, len(data), 0, 9)[1] == 8


def test_a_full_table_stops_inside_a_batch_after_the_last_record_that_was_put() -> None:
    one = KeyTable(bytearray(24 * 3), bytes(16))
    data = keyed("a") + keyed(None, "b", None, "b", base=5)
    result = kernel.map_plain_batches(one, data, 0, len(data), 0, 100)
    assert result == (len(keyed("a")), 6, 1, 0, MapEnd.FULL, 1)
    assert (one.get(b"a"), one.get(b"b"), one.count) == (0, 6, 2)


def test_only_plain_batches_are_taken() -> None:
    first = keyed("a")
    others = [keyed("b", attributes=bits) for bits in (1, 2, 3, 4, TRANSACTIONAL, CONTROL, CONTROL | HORIZON)]
    for other in [*others, message(0, b"b", b"1"), message(1, b"b", b"1")]:
        data = bytes(first + other)
        assert kernel.map_plain_batches(table(), data, 0, len(data), 0, 9) == (len(first), 0, 1, 0, MapEnd.OTHER, 1)
        assert kernel.filter_plain_batches(table(), data, 0, len(data), bytearray(999), 0, rule())[4] == MapEnd.OTHER
        assert kernel.digest_plain_batches(table(), data, 0, len(data), 9)[::5] == (len(first), MapEnd.OTHER)
    for bits in (APPEND_TIME, HORIZON, 0x80, 0x4000):
        data = keyed("a", attributes=bits)
        assert kernel.map_plain_batches(table(), data, 0, len(data), 0, 9)[4] == MapEnd.END


def test_a_damaged_batch_ends_each_walk_before_it_and_none_of_it_is_taken() -> None:
    first, second = keyed("a"), keyed("b", "b", base=1)
    broken = {
        MapEnd.BAD_CRC: [by_hand.flipped(second, -1), by_hand.flipped(second, 30)],
        MapEnd.INCOMPLETE: [second[:-1], second[:16], second[:1]],
        MapEnd.BAD: [
            keyed("b", base=1, magic=3), keyed("b", base=1, length=48), keyed("b", base=1, count=2),
            keyed("b", "b", base=1, count=1), keyed("b", base=1, count=-1), keyed("b", base=1, **{LAST: -1}),
            keyed("b", "c", base=1, **{LAST: 0}), keyed("b", base=-1), keyed("b", base=INT64_MAX - 1, **{LAST: 2}),
            batch(record(b"b", offset_delta=1), record(b"b", offset_delta=1), base_offset=1, **{LAST: 1}),
            batch(record(b"b", offset_delta=-1), base_offset=1), batch(record(b"b", slack=b"x"), base_offset=1),
            batch(body=b"x", base_offset=1), message(1, b"b", size=21),
        ],
    }  # fmt: skip
    for status, tails in broken.items():
        for tail in tails:
            one, data, out = table(), bytes(first + tail), bytearray(999)
            expected = len(first), 0, 1, 0, status, 1
            assert kernel.map_plain_batches(one, data, 0, len(data), 0, INT64_MAX) == expected, tail
            assert (one.count, one.get(b"a")) == (1, 0)
            assert kernel.filter_plain_batches(one, data, 0, len(data), out, 0, rule())[::4] == (len(first), status)
            assert out.rstrip(b"\0") == first.rstrip(b"\0")
            assert kernel.digest_plain_batches(one, data, 0, len(data), INT64_MAX)[::5] == (len(first), status)


def test_mapping_ends_before_a_batch_that_begins_before_the_end_of_the_one_before_it() -> None:
    first, overlapping = keyed("a", base=3), keyed("b", base=3)
    data, one = bytes(first + overlapping), table()
    assert kernel.map_plain_batches(one, data, 0, len(data), 0, 9) == (len(first), 3, 1, 0, MapEnd.ORDER, 4)
    assert (one.get(b"a"), one.get(b"b")) == (3, -1)
    assert kernel.map_plain_batches(table(), data, 0, len(data), 0, 9, 4) == (0, -1, 0, 0, MapEnd.ORDER, 4)
    assert kernel.map_plain_batches(table(), data, 0, len(first), 0, 9, 3)[4:] == (MapEnd.END, 4)
    last = keyed("z", base=INT64_MAX)
    assert kernel.map_plain_batches(table(), last, 0, len(last), 0, INT64_MAX)[4] == MapEnd.RANGE


def test_the_walks_look_at_nothing_outside_their_part_of_the_buffer() -> None:
    data = keyed("a") + keyed("b", base=1) + keyed("c", base=2)
    size = len(keyed("a"))
    assert kernel.map_plain_batches(table(), data, size, 2 * size, 0, 9) == (2 * size, 1, 1, 0, MapEnd.END, 2)
    assert kernel.map_plain_batches(table(), data, size, 3 * size - 1, 0, 9)[::4] == (2 * size, MapEnd.INCOMPLETE)
    out = bytearray(b"?" * (9 + 2 * size + 50))
    result = kernel.filter_plain_batches(table(), data, size, 10**9, out, 9, rule())
    assert result[:2] == (3 * size, 9 + 2 * size) and out == b"?" * 9 + data[size:] + b"?" * 50
    assert [one.position for one in result[2]] == [9, 9 + size]
    assert kernel.filter_plain_batches(table(), data, 10**6, 10**9, out, 9, rule())[:2] == (10**6, 9)
    for start, out_start in ((-1, 0), (0, -1)):
        with pytest.raises(ValueError, match="not below 0"):
            kernel.filter_plain_batches(table(), data, start, 9, out, out_start, rule())
    with pytest.raises(ValueError, match="not below 0"):
        kernel.map_plain_batches(table(), data, -1, 9, 0, 9)


def test_an_output_that_cannot_be_written_is_refused() -> None:
    with pytest.raises((BufferError, TypeError)):
        kernel.filter_plain_batches(table(), keyed("a"), 0, 99, bytes(999), 0, rule())  # type: ignore[arg-type]


# ---------------------------------------------------------------- the filter


def test_a_batch_that_loses_nothing_is_copied_with_every_bit() -> None:
    data = keyed("a", "b", attributes=0x4080, leader_epoch=7) + keyed("c", base=9, attributes=APPEND_TIME | HORIZON)
    out, written, counts, status = filtered(data, table(a=0, b=0), rule())
    assert (out, status) == (data, MapEnd.END)
    assert [one[2:] for one in written] == [(0, 1, 501), (9, 9, 500)]
    assert counts == NO_COUNTS._replace(batches=2, records=3, kept=3, verbatim=2)


def test_records_that_are_superseded_go_and_the_offsets_of_their_batch_stay() -> None:
    fields = {"producer_id": 7, "producer_epoch": 2, "base_sequence": 40, "leader_epoch": 5, "attributes": 0x4080}
    data = keyed("a", "b", "c", "d", base=20, **fields)
    out, written, counts, _ = filtered(data, table(a=21, c=30, d=23), rule())
    before, after = header(data), header(out)
    assert decode(out, verify=True) == [decode(data)[1], decode(data)[3]]
    changed = {"size": len(out), "crc": after.crc, "attributes": 0, "base_timestamp": 501, "count": 2}
    assert after == before._replace(**changed)
    assert [tuple(one) for one in written] == [(0, len(out), 20, 23, 503)]
    assert counts == NO_COUNTS._replace(batches=1, records=4, kept=2, superseded=2, reencoded=1)
    assert out == keyed("a", "b", "c", "d", base=20, **fields | {
        "attributes": 0, "base_timestamp": 501, "length": len(out) - 12, "count": 2, "crc": after.crc,
    })[:61] + record(b"b", b"value 21", offset_delta=1, headers=[(b"h\xff", None)]) + record(
        b"d", b"value 23", offset_delta=3, timestamp_delta=2, headers=[(b"h\xff", None)]
    )  # fmt: skip


def test_the_maximum_is_that_of_the_records_that_stay() -> None:
    data = keyed("a", "b", "c")
    assert header(filtered(data, table(c=9), rule())[0]).max_timestamp == 501
    assert filtered(data, table(c=9), rule())[1][0].max_timestamp == 501


def test_records_above_the_map_stay_whatever_they_are() -> None:
    data = keyed("a", None, "C", "a", "B", base=5, attributes=HORIZON)
    out, _, counts, _ = filtered(data, table(a=99, b=99, c=99), rule(5, drops=True))
    assert offsets(out) == [6, 7, 8, 9]
    assert counts == NO_COUNTS._replace(batches=1, records=5, kept=4, superseded=1, tombstones_kept=2, reencoded=1)


@pytest.mark.parametrize(("drops", "left"), [(False, [0, 1, 2]), (True, [0])])
def test_records_without_a_key_go_only_when_they_may(drops: bool, left: list[int]) -> None:
    out, _, counts, _ = filtered(keyed("a", None, None), table(), rule(drops=drops))
    assert offsets(out) == left
    assert (counts.unkeyed, counts.kept, counts.tombstones_kept, counts.stamped) == (2, len(left), 0, 0)


@pytest.mark.kafka("CLEAN-119")
@pytest.mark.parametrize("times", [(5, 10, 15), (15, 5, 10), (INT64_MAX, -1, 0)])
def test_a_tombstone_that_stays_gives_its_batch_a_delete_horizon_and_all_keep_their_times(
    times: tuple[int, int, int],
) -> None:
    data = encode_batch(
        [(b"a", b"1", times[0]), (b"b", None, times[1]), (b"c", b"2", times[2])], base_offset=0, timestamp=0
    )
    out, _, counts, _ = filtered(data, table(), rule())
    assert (header(out).attributes, header(out).base_timestamp) == (HORIZON, NEW_HORIZON)
    assert decode(out, verify=True) == decode(data)
    assert header(out).max_timestamp == max(times)
    assert counts == NO_COUNTS._replace(batches=1, records=3, kept=3, tombstones_kept=1, reencoded=1, stamped=1)
    again, _, counts, _ = filtered(out, table(), rule())
    assert again == out and counts.verbatim == 1


def test_a_batch_is_stamped_only_when_the_map_reaches_its_end() -> None:
    data = keyed("A", "b", **{LAST: 5})
    assert filtered(data, table(), rule(4))[0] == data
    assert header(filtered(data, table(), rule(5))[0]).base_timestamp == NEW_HORIZON


def test_a_batch_whose_tombstones_are_superseded_is_not_stamped() -> None:
    out, _, counts, _ = filtered(keyed("A", "a"), table(a=1), rule())
    assert (header(out).attributes, header(out).base_timestamp, offsets(out)) == (0, 501, [1])
    assert (counts.superseded, counts.stamped, counts.tombstones_expired) == (1, 0, 0)


def test_a_tombstone_goes_when_its_horizon_has_come() -> None:
    horizon = 700
    data = keyed("A", "b", "C", "d", attributes=HORIZON, base_timestamp=horizon, max_timestamp=703)
    assert filtered(data, table(a=0, d=5), rule(now=horizon - 1))[2].tombstones_kept == 2
    out, _, counts, _ = filtered(data, table(a=0, c=9, d=9), rule(now=horizon))
    assert (counts.tombstones_expired, counts.superseded, counts.kept) == (1, 2, 1)
    assert (header(out).attributes, header(out).base_timestamp, decode(out)) == (HORIZON, horizon, [decode(data)[1]])


def test_an_empty_value_is_no_tombstone() -> None:
    data = batch(record(b"a", b""), attributes=HORIZON, base_timestamp=0)
    out, _, counts, _ = filtered(data, table(), rule())
    assert out == data and counts.tombstones_kept == 0


@pytest.mark.parametrize("stamped", [False, True])
def test_records_of_append_time_have_the_time_of_their_batch(stamped: bool) -> None:
    data = keyed("a", "B" if stamped else "b", "c", attributes=APPEND_TIME, max_timestamp=900)
    out, written, _, _ = filtered(data, table(a=9), rule())
    assert (header(out).max_timestamp, written[0].max_timestamp) == (900, 900)
    assert header(out).attributes == APPEND_TIME | (HORIZON if stamped else 0)
    assert header(out).base_timestamp == (NEW_HORIZON if stamped else 900)
    assert decode(out, verify=True) == decode(data)[1:]


def test_a_batch_that_loses_all_records_goes() -> None:
    out, written, counts, status = filtered(keyed("a", "a") + keyed("b", base=2), table(a=9), rule())
    assert (out, len(written), status) == (keyed("b", base=2), 1, MapEnd.END)
    assert counts == NO_COUNTS._replace(batches=2, records=3, kept=1, superseded=2, verbatim=1, dropped=1)


@pytest.mark.parametrize("append_time", [0, APPEND_TIME])
def test_a_protected_batch_that_loses_all_records_stays_as_its_header(append_time: int) -> None:
    fields = {"producer_id": 7, "producer_epoch": 2, "base_sequence": 40, "leader_epoch": 5, "max_timestamp": 777}
    data = keyed("a", "a", base=3, attributes=HORIZON | 0x80 | append_time, **fields)
    out, written, counts, _ = filtered(data, table(a=9), rule(100, 4))
    assert out == batch(
        base_offset=3, attributes=append_time, base_timestamp=-1, **fields | {LAST: 1},
    )  # fmt: skip
    assert [tuple(one) for one in written] == [(0, 61, 3, 4, 777)]
    assert counts == NO_COUNTS._replace(batches=1, records=2, superseded=2, emptied=1)
    assert filtered(data, table(a=9), rule(100, 3))[0] == b""


@pytest.mark.kafka("CLEAN-117")
def test_an_empty_batch_stays_as_it_is_when_it_is_protected_and_else_goes() -> None:
    data = keyed(base=3, attributes=APPEND_TIME, base_timestamp=-1, **{LAST: 4})
    out, written, counts, _ = filtered(data, table(), rule(100, 7))
    assert (out, len(written)) == (data, 1) and counts == NO_COUNTS._replace(batches=1, verbatim=1)
    out, written, counts, _ = filtered(data, table(), rule())
    assert (out, written) == (b"", []) and counts == NO_COUNTS._replace(batches=1, dropped=1)


@pytest.mark.kafka("CLEAN-120")
@pytest.mark.parametrize("room", [200, 300, 500])
def test_an_output_that_is_filled_is_no_loss(room: int) -> None:
    data = b"".join(bytes(keyed("A", "b", "c", base=number * 3)) for number in range(9))
    one, out, position, rounds = table(b=25), bytearray(), 0, 0
    while position < len(data):
        part = bytearray(room)
        stop, end, _, _, status = kernel.filter_plain_batches(one, data, position, len(data), part, 0, rule())
        assert stop > position and status == (MapEnd.END if stop == len(data) else MapEnd.FILLED)
        assert not any(part[end:])
        out += part[:end]
        position, rounds = stop, rounds + 1
    assert rounds > 1
    assert out == filtered(data, one, rule())[0]
    assert offsets(out) == [number for number in range(27) if number % 3 != 1 or number == 25]


def test_an_output_without_room_for_one_batch_takes_nothing() -> None:
    data = keyed("A", "b")
    for room in (0, len(data), len(data) + 19):
        result = kernel.filter_plain_batches(table(), data, 0, len(data), bytearray(room), 0, rule())
        assert result == (0, 0, [], NO_COUNTS, MapEnd.FILLED)
    assert filtered(data, table(), rule(), len(data) + 20)[3] == MapEnd.END


# ---------------------------------------------------------------- records by themselves, and the digest


def test_records_by_themselves_are_filtered_like_those_of_a_batch() -> None:
    data = keyed("a", "B", "c", base=5)
    result = kernel.filter_records(table(a=9), memoryview(data)[61:], 3, header(data), rule())
    out, _, counts, _ = filtered(data, table(a=9), rule())
    assert result == (out[61:], 2, NEW_HORIZON, 502, True, counts)
    result = kernel.filter_records(table(), memoryview(data)[61:], 3, header(data), rule(6))
    assert result == (None, 3, 500, 502, False, NO_COUNTS._replace(
        batches=1, records=3, kept=3, tombstones_kept=1, verbatim=1
    ))  # fmt: skip
    for protected, fate in ((7, "emptied"), (8, "dropped")):
        result = kernel.filter_records(
            table(a=9, b=9, c=9), memoryview(data)[61:], 3, header(data), rule(100, protected)
        )
        assert result == (b"", 0, -1, 502, False, NO_COUNTS._replace(batches=1, records=3, superseded=3, **{fate: 1}))


def test_records_by_themselves_are_mapped_and_summed_up() -> None:
    data, one = keyed("a", None, "b", "A", base=5), table()
    body = memoryview(data)[61:]
    assert kernel.map_records(one, body, 4, 5, 6, 9) == (8, 3, 1, False)
    assert (one.get(b"a"), one.get(b"b")) == (8, 7)
    digest = kernel.digest_records(one, body, 4, header(data), 99)
    assert digest[:3] == (1, 1, 1) and digest == kernel.digest_plain_batches(one, data, 0, len(data), 99)[1:5]
    assert kernel.map_records(KeyTable(bytearray(48), bytes(16)), body, 4, 5, 0, 99) == (5, 0, 0, True)


@pytest.mark.parametrize(
    ("body", "count", "flaw", "position"),
    [
        (record(b"a") + record(b"b"), 2, Flaw.OFFSET_ORDER, len(record(b"a"))),
        (record(b"a", offset_delta=-1), 1, Flaw.OFFSET_ORDER, 0),
        (record(b"a"), 2, Flaw.RECORDS_END_EARLY, len(record(b"a"))),
        (record(b"a") + b"x", 1, Flaw.BYTES_LEFT, len(record(b"a"))),
        (b"x", 0, Flaw.BYTES_LEFT, 0),
        (record(b"a"), -1, Flaw.COUNT_NEGATIVE, 0),
        (record(b"a", slack=b"x"), 1, Flaw.RECORD_SLACK, 0),
    ],
)
def test_records_that_are_not_well_formed_are_refused_with_nothing_done(
    body: bytes, count: int, flaw: Flaw, position: int
) -> None:
    one, head = table(), header(keyed("a", base=5, **{LAST: 3}))
    calls = (
        lambda: kernel.map_records(one, body, count, 5, 0, 99),
        lambda: kernel.filter_records(one, body, count, head, rule()),
        lambda: kernel.digest_records(one, body, count, head, 99),
    )
    for call in calls:
        with pytest.raises(InvalidRecordError) as caught:
            call()
        assert (caught.value.reason, caught.value.position) == (FLAW_REASONS[flaw], position)
    assert one.count == 0


def test_the_digest_is_that_of_what_readers_see() -> None:
    data = keyed("a", "B", "a", "c", None, base=5)
    one = table(a=7, b=6, c=8)
    before = kernel.digest_plain_batches(one, data, 0, len(data), 99)
    assert before[:4] == (len(data), 2, 1, 1)
    out = filtered(data, one, rule())[0]
    after = kernel.digest_plain_batches(one, out, 0, len(out), 99)
    assert after[1:5] == (2, 1, 0, before[4])
    assert kernel.digest_plain_batches(one, data, 0, len(data), 8)[1:4] == (1, 1, 1)


def test_every_part_of_a_record_is_in_the_digest() -> None:
    def digest(seed: bytes, **change: Any) -> int:
        one = Record(5, 100, b"key", b"value", (("h", b"1"),)).replace(**change)
        target = KeyTable(bytearray(99), seed)
        assert one.key is not None and target.put(one.key, one.offset)
        data = encode_batch([one], base_offset=one.offset, timestamp=0)
        result = kernel.digest_plain_batches(target, data, 0, len(data), 99)
        assert result[1] == 1
        return result[4]

    changes: list[dict[str, Any]] = [{}, {"offset": 6}, {"timestamp": 101}, {"key": b"kex"}, {"value": b"valuf"}]
    changes += [{"headers": ()}, {"headers": (("h", None),)}, {"headers": (("i", b"1"),)}, {"key": b"keyv"}]
    found = [digest(bytes(16), **change) for change in changes] + [digest(bytes(range(16)))]
    assert len(set(found)) == len(found)
    assert digest(bytes(16)) == found[0]


# ---------------------------------------------------------------- against a model

any_keys = st.sampled_from([None, b"", b"a", b"b", b"c", b"0123456789abcdef", b"0123456789abcdeg"])
any_records = st.tuples(any_keys, st.sampled_from([None, b"", b"v", b"w" * 200]), st.integers(-1, 2000))


@given(
    st.lists(st.tuples(st.lists(any_records, min_size=1, max_size=5), st.integers(0, 3)), max_size=5),
    st.integers(-1, 20),
    st.booleans(),
)
@few
def test_what_stays_is_what_the_rules_say(batches: list[tuple[list[Any], int]], latest: int, drops: bool) -> None:
    data, base = b"", 0
    for items, gap in batches:
        data += bytes(encode_batch(items, base_offset=base + gap, timestamp=0))
        base += gap + len(items)
    one = table()
    assert kernel.map_plain_batches(one, data, 0, len(data), 0, latest + 1)[0] <= len(data)
    records = list(decode(data))
    newest = {record.key: record.offset for record in records if record.offset <= latest and record.key is not None}
    expected = [
        record
        for record in records
        if record.offset > latest or (not drops if record.key is None else record.offset == newest[record.key])
    ]
    out, _, counts, status = filtered(data, one, rule(latest, drops=drops))
    assert (list(decode(out, verify=True)), status) == (expected, MapEnd.END)
    assert counts.kept == len(expected) and counts.records == len(records)
    again, _, _, _ = filtered(out, one, rule(latest, drops=drops))
    assert again == out
