"""What becomes of batches, of every format: headers, offsets, timestamps, counts (CLEANER §4.3, §4.7, §10)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from helpers.cleaning import SLOT, Compacted, key
from helpers.legacy_batches import LEGACY_CODECS, LOG_APPEND_TIME, record_set
from helpers.open_logs import PLACE, START

from logstore.cleaner.batch_filter import RewriteRules
from logstore.cleaner.offset_map import OffsetMap
from logstore.cleaner.output import CountedSegment, Output, Target
from logstore.cleaner.rewrite import GroupRewriter
from logstore.cleaner.source import Pace
from logstore.cleaner.stats import Tally
from logstore.cleaner.transactions import TransactionTracker
from logstore.errors import DamagedLogError
from logstore.log.cleaned_segment import CleanedSegment
from logstore.records import BatchOptions, Codec, Record, RecordBatch, TimestampType, encode_batch, encode_empty_batch
from logstore.records.builder import write_header
from logstore.records.header import FilterRule

NOW, HORIZON = START + 1000, START + 5000
FAR = 2**40
FORMATS = [(2, codec) for codec in Codec] + [(magic, codec) for magic in (0, 1) for codec in LEGACY_CODECS]


def rewrite(
    log: Compacted,
    *gone: bytes,
    protected: Sequence[int] = (),
    latest: int = FAR,
    count: int | None = None,
    segment_bytes: int = 1 << 30,
    window_bytes: int = 1 << 16,
) -> Tally:
    """Rewrite the first `count` segments as one group; the map knows later records of the keys that are gone.

    A dry run goes first, and finds the same sizes.
    """
    table = OffsetMap(1000 * SLOT, bytes(16))
    for one in gone:
        table.put(one, FAR)
    rule = FilterRule(latest, NOW, HORIZON, frozenset(protected), drops_unkeyed=True)
    rules = RewriteRules(table.table, rule, {}, 1 << 20)
    facts, pace = log.log.rewriter.facts(), Pace(lambda _: None, lambda: False, window_bytes)
    group = facts.sealed[:count]

    def run(create: Callable[[int, int], Target]) -> tuple[Output | None, Tally]:
        tally = Tally()
        tracker = TransactionTracker(facts.aborted)
        return GroupRewriter(rules, tracker, pace, tally, create, segment_bytes).rewrite(group), tally

    counted, dry = run(CountedSegment)
    output, tally = run(log.log.rewriter.create)
    assert tally == dry
    if output is None or counted is None:
        assert output is counted is None
        return tally
    assert [one.size for one in output.segments] == [one.size for one in counted.segments]
    made = [one for one in output.segments if isinstance(one, CleanedSegment)]
    for segment in made:
        segment.finish(START)
    log.log.rewriter.replace(made, group)
    return tally


def stored(*sets: bytes | bytearray) -> Compacted:
    """A log with these batches, in a segment of their own."""
    log = Compacted()
    for one in sets:
        log.replicate(one)
    return log.roll()


def rows(first: int, *keys: bytes | None, at: int = START) -> list[tuple[bytes | None, bytes | None, int]]:
    return [(one, b"v%d" % (first + place), at + first + place) for place, one in enumerate(keys)]


def batch(first: int, *keys: bytes | None, magic: int = 2, codec: Codec = Codec.NONE, **options: Any) -> bytearray:
    if magic == 2:
        fields = BatchOptions(leader_epoch=0, codec=codec, **options)
        return encode_batch(rows(first, *keys), base_offset=first, options=fields)
    return record_set(magic, rows(first, *keys), codec=codec, base_offset=first)


def only(log: Compacted) -> RecordBatch:
    (found,) = log.batches()
    assert found.crc_is_valid()
    return found


# ---------------------------------------------------------------- which records stay


@pytest.mark.kafka("CLEAN-45")
def test_records_whose_keys_have_later_ones_go_from_the_segments_cleaned() -> None:
    log = Compacted()
    for start in range(0, 12, 3):
        log.each(*range(start, start + 3)).roll()
    size = sum(one.size for one in log.log.segments[:3])
    tally = rewrite(log, *(key(number) for number in (1, 3, 5, 7, 9)), count=3)
    assert log.keys == [0, 2, 4, 6, 8, 9, 10, 11]
    assert tally.bytes_read == size


def test_a_segment_in_which_nothing_changes_is_not_written() -> None:
    transaction = {"producer_id": 4, "producer_epoch": 1, "base_sequence": 0, "is_transactional": True}
    log = stored(batch(0, b"a", b"b"), batch(2, b"c", codec=Codec.ZSTD), batch(3, b"d", **transaction))
    before = log.files("0.log")
    tally = rewrite(log, b"z")
    assert (tally.batches_verbatim, tally.records_after, log.files("0.log")) == (3, 4, before)


@pytest.mark.kafka("CLEAN-118", "COMPACT-04")
def test_batches_of_aborted_transactions_go_without_a_look_at_their_records() -> None:
    log = Compacted()
    log.producer(1, transactional=True).add(1)
    fields = log.batches()[0].header._replace(base_offset=1, attributes=0x10 | Codec.GZIP, base_sequence=1, size=61)
    broken = bytearray(61)  # a gzip stream of no bytes cannot be decoded
    write_header(broken, 0, fields)
    log.replicate(broken).abort(1).add(3).roll()
    tally = rewrite(log)
    assert (log.ends, tally.batches_dropped, tally.aborted) == ([2, 3], 2, 2)


# ---------------------------------------------------------------- headers


@pytest.mark.parametrize("codec", list(Codec))
@pytest.mark.kafka("CLEAN-112", "COMPACT-01", "COMPACT-06")
def test_what_a_header_says_of_epoch_producer_and_sequence_stays(codec: Codec) -> None:
    options = BatchOptions(
        leader_epoch=5, codec=codec, producer_id=23, producer_epoch=7, base_sequence=984, is_transactional=True
    )
    log = stored(encode_batch(rows(0, b"a", None, b"c"), options=options)).commit(23).roll()
    rewrite(log)
    found, marker = log.batches()
    header = found.header
    assert (header.leader_epoch, header.producer_id, header.producer_epoch, header.base_sequence) == (5, 23, 7, 984)
    assert (found.is_transactional, found.codec, found.last_sequence) == (True, codec, 986)
    assert [one.offset for one in found.records()] == [0, 2]
    assert (header.base_offset, found.last_offset) == (0, 2)
    assert marker.is_control


@pytest.mark.parametrize(("magic", "codec"), FORMATS)
@pytest.mark.parametrize("sent", [(0, 1, 2), (5, 8, 10)])
@pytest.mark.kafka("CLEAN-113", "COMPACT-05")
def test_a_batch_keeps_its_offsets_when_records_go(magic: int, codec: Codec, sent: tuple[int, ...]) -> None:
    options = BatchOptions(leader_epoch=0, codec=codec)
    if magic == 2:
        records = [Record(offset, START, b"%d" % offset, b"v") for offset in sent]
        data = encode_batch(records, base_offset=0, options=options)
    elif codec is Codec.NONE:
        data = bytearray().join(record_set(magic, [(b"%d" % one, b"v", START)], base_offset=one) for one in sent)
    else:
        relative = [one - (0 if magic == 0 else sent[0]) for one in sent]
        data = record_set(
            magic, [(b"%d" % one, b"v", START) for one in sent], codec=codec, base_offset=sent[-1] - 2,
            inner_offsets=relative,
        )  # fmt: skip
    log = stored(data)
    rewrite(log, b"%d" % sent[0], b"%d" % sent[2])
    found = only(log)
    assert [one.offset for one in found.records()] == [sent[1]]
    first = 0 if magic == 2 else sent[1]  # of the old formats, batches begin with the first record there is
    last = sent[1] if codec is Codec.NONE and magic < 2 else sent[2]
    assert (found.header.magic, found.header.base_offset, found.last_offset) == (2, first, last)


@pytest.mark.parametrize(("magic", "codec"), FORMATS)
@pytest.mark.kafka("CLEAN-114", "COMPACT-08", "COMPACT-09")
def test_what_is_left_is_counted(magic: int, codec: Codec) -> None:
    sets = [(None,), (b"a", None), (None, b"b", b"c"), (b"d",)]
    data, offset = [], 0
    for keys in sets:
        data.append(batch(offset, *keys, magic=magic, codec=codec))
        offset += len(keys)
    log = stored(*data)
    size = log.log.size
    tally = rewrite(log)
    assert (tally.records_before, tally.records_after, tally.unkeyed, tally.bytes_read) == (7, 4, 3, size)
    ranges = [(one.header.base_offset, one.last_offset) for one in log.batches()]
    if magic == 2:
        assert ranges == [(1, 2), (3, 5), (6, 6)]
    else:
        assert ranges == ([(1, 1), (4, 4), (5, 5), (6, 6)] if codec is Codec.NONE else [(1, 2), (4, 5), (6, 6)])
    times = [START + 1, START + 4, START + 5, START + 6] if magic else [-1] * 4
    assert [one.timestamp for one in log.log.records()] == times
    assert max(one.header.max_timestamp for one in log.batches()) == times[-1]


@pytest.mark.parametrize("codec", list(Codec))
@pytest.mark.kafka("CLEAN-115", "COMPACT-10")
def test_log_append_time_stays(codec: Codec) -> None:
    times = {"timestamp_type": TimestampType.LOG_APPEND_TIME, "append_time": START + 77}
    log = stored(batch(0, b"a", b"b", codec=codec, **times))
    rewrite(log, b"b")
    found = only(log)
    assert (found.timestamp_type, found.header.max_timestamp) == (TimestampType.LOG_APPEND_TIME, START + 77)
    assert [(one.key, one.timestamp) for one in found.records()] == [(b"a", START + 77)]
    assert found.codec is codec


def test_log_append_time_of_old_formats_stays() -> None:
    log = stored(record_set(1, rows(0, b"a", b"b"), codec=Codec.GZIP, attributes=LOG_APPEND_TIME))
    rewrite(log, b"a")
    found = only(log)
    assert (found.timestamp_type, found.header.max_timestamp) == (TimestampType.LOG_APPEND_TIME, START + 1)
    assert [one.timestamp for one in found.records()] == [START + 1]


@pytest.mark.parametrize("codec", [Codec.NONE, Codec.ZSTD])
@pytest.mark.parametrize("is_transactional", [False, True])
@pytest.mark.kafka("CLEAN-116", "COMPACT-02")
def test_an_empty_batch_remembers_offsets_and_sequences(codec: Codec, is_transactional: bool) -> None:
    options = BatchOptions(
        leader_epoch=3, codec=codec, producer_id=9, producer_epoch=2, base_sequence=40,
        is_transactional=is_transactional,
    )  # fmt: skip
    log = stored(encode_batch(rows(0, b"a", b"b", b"c"), options=options))
    tally = rewrite(log, b"a", b"b", b"c", protected=[2])
    found = only(log)
    header = found.header
    assert (header.size, header.count, header.base_offset, found.last_offset) == (61, 0, 0, 2)
    assert (header.base_sequence, found.last_sequence, header.producer_id, header.producer_epoch) == (40, 42, 9, 2)
    assert (header.max_timestamp, header.leader_epoch, header.base_timestamp) == (START + 2, 3, -1)
    assert (found.is_transactional, found.codec) == (is_transactional, Codec.NONE)
    assert (tally.records_before, tally.records_after, tally.batches_emptied) == (3, 0, 1)


@pytest.mark.parametrize("is_transactional", [False, True])
@pytest.mark.kafka("CLEAN-117", "COMPACT-03")
def test_an_empty_batch_stays_or_goes_by_the_same_rule(is_transactional: bool) -> None:
    options = {"producer_id": 9, "producer_epoch": 2, "base_sequence": 40, "is_transactional": is_transactional}
    empty = encode_empty_batch(only(stored(batch(0, b"a", **options))).header)
    log = stored(empty, batch(1, b"b"))
    rewrite(log, protected=[0])
    assert log.batches()[0].raw == empty
    rewrite(log)
    assert log.ends == [1]


@pytest.mark.parametrize("codec", list(Codec))
@pytest.mark.kafka("CLEAN-119", "COMPACT-11")
def test_a_tombstone_that_stays_gives_its_batch_a_delete_horizon(codec: Codec) -> None:
    records = [(b"a", b"1", 5), (b"b", None, 10), (b"c", b"3", 15)]
    log = stored(encode_batch(records, options=BatchOptions(leader_epoch=0, codec=codec)))
    tally = rewrite(log)
    found = only(log)
    assert (found.delete_horizon_ms, found.header.base_timestamp) == (HORIZON, HORIZON)
    assert [one.timestamp for one in found.records()] == [5, 10, 15]
    assert (tally.batches_stamped, tally.tombstones_kept) == (1, 1)
    before = found.raw.tobytes()
    rewrite(log)
    assert only(log).raw.tobytes() == before


@pytest.mark.parametrize("window_bytes", [61, 200, 1 << 16])
@pytest.mark.kafka("CLEAN-120", "COMPACT-07")
def test_results_larger_than_what_is_read_at_a_time_are_written_once(window_bytes: int) -> None:
    large = [(b"%d" % number, None if number % 2 else b"v" * 50, 2**40) for number in range(400)]
    log = stored(encode_batch(large, options=BatchOptions(leader_epoch=0)), batch(400, b"x", b"y"))
    rewrite(log, b"0", window_bytes=window_bytes)
    assert [one.offset for one in log.log.records()] == list(range(1, 402))


# ---------------------------------------------------------------- old formats


@pytest.mark.parametrize(("magic", "codec"), [one for one in FORMATS if one[0] < 2])
def test_old_formats_become_batches_of_format_v2(magic: int, codec: Codec) -> None:
    log = stored(batch(0, b"a", b"b", magic=magic, codec=codec))
    before = [one.replace(headers=()) for one in log.log.records()]
    tally = rewrite(log)
    assert list(log.log.records()) == before
    assert {(one.header.magic, one.codec, one.timestamp_type) for one in log.batches()} == {
        (2, codec, TimestampType.CREATE_TIME)
    }
    assert tally.batches_converted == (2 if codec is Codec.NONE else 1)


def test_a_tombstone_of_an_old_format_gets_a_delete_horizon_when_it_is_converted() -> None:
    log = stored(record_set(1, [(b"a", None, START)]))
    rewrite(log, latest=-1)
    assert only(log).delete_horizon_ms is None  # it lies behind what is mapped
    log = stored(record_set(1, [(b"a", None, START)]))
    rewrite(log)
    found = only(log)
    assert (found.delete_horizon_ms, found.records()[0].timestamp) == (HORIZON, START)


def test_a_protected_set_of_an_old_format_becomes_an_empty_batch() -> None:
    log = stored(record_set(1, rows(0, b"a", b"b"), codec=Codec.GZIP))
    rewrite(log, b"a", b"b", protected=[1])
    found = only(log)
    assert (found.header.magic, found.header.size, found.last_offset, found.header.count) == (2, 61, 1, 0)


@pytest.mark.kafka("CLEAN-56")
@pytest.mark.parametrize("gone", [[], [b"a"]])
def test_a_set_with_messages_of_another_format_becomes_one_batch(gone: list[bytes]) -> None:
    data = record_set(1, rows(0, b"a", b"b", b"c"), codec=Codec.GZIP, inner_magic=0, inner_offsets=[0, 1, 2])
    log = stored(data)
    rewrite(log, *gone)
    found = only(log)
    assert found.header.magic == 2
    assert [(one.offset, one.key) for one in found.records()] == [
        (place, name) for place, name in enumerate((b"a", b"b", b"c")) if name not in gone
    ]


# ---------------------------------------------------------------- several segments


def test_what_one_segment_does_not_hold_goes_on_in_the_next() -> None:
    log = stored(*(record_set(0, [(b"%d" % one, b"", -1)], base_offset=one) for one in range(20)))
    size = log.log.size
    before = list(log.log.records())
    rewrite(log, segment_bytes=100)
    assert log.bases == [0, 7, 14, 20]
    assert all(one.size <= size for one in log.log.segments)
    assert list(log.log.records()) == before
    assert [one.offset for one in log.reopen(forgets=True).log.records()] == list(range(20))


@pytest.mark.kafka("CLEAN-98")
def test_offsets_that_one_segment_cannot_have_go_on_in_the_next() -> None:
    log = Compacted()
    offsets = [0, 1000, 2**31 + 5, 2**31 + 9]
    for offset in offsets:
        log.replicate(batch(offset, b"%d" % offset))
    log.roll()
    parts = log.files(".log")
    log.log.close()
    # As brokers of old have left it: all in one segment.
    first, second = (parts[f"{base:020d}.log"] for base in (0, 2**31 + 5))
    log.place.fs.write_bytes(PLACE / "00000000000000000000.log", first + second)
    for name in log.place.names():
        if name.startswith(f"{2**31 + 5:020d}"):
            log.place.fs.unlink(PLACE / name)
    log.log = log.place.open(log.config)
    assert log.log.segments[0].end_offset == 2**31 + 10
    assert log.offsets == offsets
    rewrite(log, b"0")
    assert log.offsets == offsets[1:]
    assert log.bases == [0, 2**31 + 5, 2**31 + 10]
    assert log.reopen(forgets=True).offsets == offsets[1:]
    log.each(7, 7).roll().clean()
    assert log.offsets == [*offsets[1:], 2**31 + 11]


def test_a_batch_that_cannot_be_decoded_is_damage() -> None:
    broken = bytearray(61) + b"no gzip"
    header = only(stored(batch(0, b"a"))).header
    write_header(broken, 0, header._replace(size=len(broken), attributes=Codec.GZIP))
    log = stored(broken)
    before = log.files("0.log")
    with pytest.raises(DamagedLogError, match="gzip"):
        rewrite(log)
    assert log.files("0.log") == before
