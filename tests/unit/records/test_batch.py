"""A batch is a view on a buffer: its header says what stands there, its records are believed only when they add up."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path

import by_hand
import pytest
from by_hand import GOLDEN, GZIP, LZ4, SNAPPY, ZSTD, batch, message, message_set, record
from kernel_strategies import STYLES

from logstore.errors import BatchTooLargeError, CorruptRecordError, InvalidRecordError, UnsupportedFormatError
from logstore.records import (
    BatchHeader,
    Codec,
    ControlType,
    Record,
    RecordBatch,
    TimestampType,
    decode,
    decrement_sequence,
    encode_batch,
    encode_empty_batch,
    first_batch_size,
    increment_sequence,
    iter_batches,
)
from logstore.records.builder import BatchOptions

INT32_MAX = 2**31 - 1
CODECS = [0, GZIP, SNAPPY, LZ4, ZSTD]
LEGACY_CODECS = CODECS[:-1]
THREE = [record(b"k%d" % n, b"v%d" % n, offset_delta=n, timestamp_delta=n) for n in range(3)]
GOLDEN_CRCS = {
    "v2 none": 3851219455,
    "v2 lz4": 2745969314,
    "v1 none": 109425508,
    "v1 lz4": 1407303399,
    "v0 none": 1978725405,
    "v0 lz4": 66944826,
}


def only(data: bytes) -> RecordBatch:
    """The one batch of `data`, its CRC checked."""
    (found,) = iter_batches(data)
    return found


def assert_every_reader_refuses(data: bytes, words: str | None = None) -> None:
    """Listing, streaming, walking and writing lines all raise the same, at the place of the batch."""
    found = only(data)
    readers = [
        found.records,
        lambda: list(found.record_pieces(piece=1)),
        found.stats,
        lambda: list(found.lines(STYLES[0])),
    ]
    for read in readers:
        with pytest.raises(InvalidRecordError, match=words) as caught:
            read()
        assert (caught.value.position, caught.value.offset) == (0, found.header.base_offset)


# ---------------------------------------------------------------- header


@pytest.mark.kafka("BATCH-11")
@pytest.mark.parametrize("name", GOLDEN)
def test_the_published_batches_have_the_published_crcs_and_records(name: str) -> None:
    found = next(iter_batches(GOLDEN[name]))
    assert found.header.crc == GOLDEN_CRCS[name]
    assert found.crc_is_valid()
    times = [-1, -1] if name.startswith("v0") else [283843, 1234]
    wanted = [Record(n, times[n], b"key%d" % (n + 1), b"value%d" % (n + 1)) for n in range(2)]
    assert found.records() == wanted[: 1 if name in ("v1 none", "v0 none") else 2]


@pytest.mark.kafka("BATCH-11")
def test_the_published_batch_without_compression_is_what_we_write() -> None:
    assert encode_batch([(b"key1", b"value1", 283843), (b"key2", b"value2", 1234)]) == GOLDEN["v2 none"]


@pytest.mark.kafka("BATCH-01")
@pytest.mark.parametrize("flags", [0, 0x08, 0x10, 0x20, 0x38], ids=hex)
@pytest.mark.parametrize("base_sequence", [-1, 7, INT32_MAX - 1])
def test_an_empty_batch_keeps_every_field_of_the_header_it_stands_for(flags: int, base_sequence: int) -> None:
    before = only(
        batch(
            *THREE, attributes=flags | 0x40 | GZIP, body=by_hand.compressed(GZIP, b"".join(THREE)), base_offset=5,
            last_offset_delta=9, leader_epoch=3, producer_id=23723, producer_epoch=17, base_sequence=base_sequence,
            base_timestamp=100, max_timestamp=4242,
        )
    )  # fmt: skip
    data = encode_empty_batch(before.header)
    after = only(data)
    assert len(data) == 61
    changed = {"size": 61, "crc": after.header.crc, "attributes": flags, "base_timestamp": -1, "count": 0}
    assert after.header == before.header._replace(**changed)
    assert (after.last_offset, after.last_sequence) == (14, before.last_sequence)
    assert after.timestamp_type == (TimestampType.LOG_APPEND_TIME if flags & 0x08 else TimestampType.CREATE_TIME)
    assert (after.is_transactional, after.is_control) == (bool(flags & 0x10), bool(flags & 0x20))
    assert after.delete_horizon_ms is None
    assert after.records() == decode(data) == [] and after.stats().count == 0


def test_an_empty_batch_has_no_unused_attribute_bits() -> None:
    before = only(batch(*THREE, attributes=0x7FF8))
    assert only(encode_empty_batch(before.header)).header.attributes == 0x38


@pytest.mark.kafka("BATCH-02")
def test_a_batch_without_a_producer_has_none_of_its_fields() -> None:
    found = only(encode_batch([(b"k", b"v", 1), (b"k", b"v", 2)], base_offset=1234567))
    header = found.header
    assert (header.base_offset, found.last_offset, found.next_offset) == (1234567, 1234568, 1234569)
    assert (header.base_timestamp, header.max_timestamp, header.leader_epoch, header.count) == (1, 2, -1, 2)
    assert (header.producer_id, header.producer_epoch, header.base_sequence, found.last_sequence) == (-1, -1, -1, -1)
    assert not found.has_producer_id and not found.is_transactional and not found.is_control


@pytest.mark.kafka("BATCH-02")
def test_a_batch_of_a_producer_has_its_fields() -> None:
    options = BatchOptions(producer_id=4242, producer_epoch=5, base_sequence=10, is_transactional=True)
    found = only(encode_batch([(b"k", b"v", 1), (b"k", b"v", 2)], base_offset=1234567, options=options))
    assert (found.header.producer_id, found.header.producer_epoch, found.header.base_sequence) == (4242, 5, 10)
    assert (found.last_sequence, found.has_producer_id, found.is_transactional) == (11, True, True)


@pytest.mark.kafka("BATCH-03")
def test_sequences_inside_a_batch_wrap_to_zero() -> None:
    found = only(batch(*THREE, producer_id=1, producer_epoch=0, base_sequence=INT32_MAX - 1))
    deltas = [one.offset - found.header.base_offset for one in found.records()]
    wanted = [INT32_MAX - 1, INT32_MAX, 0]
    assert [increment_sequence(found.header.base_sequence, delta) for delta in deltas] == wanted
    assert found.last_sequence == 0


@pytest.mark.kafka("BATCH-04")
def test_sequences_wrap_both_ways() -> None:
    assert [increment_sequence(*one) for one in ((5, 5), (INT32_MAX, 1), (INT32_MAX - 5, 10))] == [10, 0, 4]
    assert [decrement_sequence(*one) for one in ((5, 5), (0, 1), (4, 10))] == [0, INT32_MAX, INT32_MAX - 5]


def test_the_repr_shows_what_a_bug_report_needs() -> None:
    shown = repr(only(batch(*THREE, base_offset=7, attributes=0x10)))
    assert shown == f"<RecordBatch v2 offsets 7..9 count 3 position 0 size {61 + len(b''.join(THREE))} attributes 0x10>"


def test_a_view_copies_nothing() -> None:
    data = bytearray(b"before") + batch(*THREE)
    found = RecordBatch(only(batch(*THREE)).header, data, 6)
    assert found.raw == data[6:]
    data[-1] ^= 1
    assert not found.crc_is_valid()
    assert found.raw.obj is data


def test_a_batch_too_large_to_be_read_has_a_header_alone() -> None:
    found = RecordBatch(only(batch(*THREE, base_offset=7)).header._replace(position=500), None)
    for read in (
        lambda: found.raw,
        found.crc_is_valid,
        found.records,
        found.stats,
        lambda: next(found.lines(STYLES[0])),
    ):
        with pytest.raises(BatchTooLargeError, match="was not read") as caught:
            read()
        assert (caught.value.position, caught.value.offset) == (500, 7)


@pytest.mark.parametrize("codec", [5, 6, 7])
def test_an_unknown_codec_is_found_when_the_records_are_wanted(codec: int) -> None:
    found = only(batch(*THREE, attributes=codec))
    for read in (lambda: found.codec, found.records, found.stats, lambda: list(found.lines(STYLES[0]))):
        with pytest.raises(UnsupportedFormatError, match=f"codec {codec}"):
            read()


# ---------------------------------------------------------------- records


@pytest.mark.kafka("BATCH-19")
@pytest.mark.parametrize("codec", CODECS)
def test_records_of_every_codec_read_back_with_offsets_and_sequences(codec: int) -> None:
    pairs = [(b"k1", b"v1", 5), (None, b"v2", 7), (b"k3", None, 6), (b"", b"", 5)]
    options = BatchOptions(codec=Codec(codec), producer_id=1, producer_epoch=0, base_sequence=100)
    found = only(encode_batch(pairs, base_offset=15, options=options))
    assert (found.codec, found.header.count, found.timestamp_type) == (codec, 4, TimestampType.CREATE_TIME)
    assert found.records() == [Record(15 + n, pair[2], *pair[:2]) for n, pair in enumerate(pairs)]
    assert increment_sequence(found.header.base_sequence, 3) == found.last_sequence == 103


@pytest.mark.kafka("BATCH-19")
@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("codec", LEGACY_CODECS)
def test_records_of_older_formats_read_back_with_offsets(magic: int, codec: int) -> None:
    pairs = [(b"k1", b"v1"), (None, b"v2"), (b"k3", None)]
    first = 15 if codec == 0 or magic == 0 else 0
    data = [message(magic, *pair, offset=first + n, timestamp=n if magic else -1) for n, pair in enumerate(pairs)]
    if codec:
        data = [message_set(magic, codec, *data, offset=17, timestamp=2)]
    found = list(iter_batches(b"".join(data)))
    assert decode(b"".join(data)) == [Record(15 + n, n if magic else -1, *pair) for n, pair in enumerate(pairs)]
    assert [(one.header.count, one.last_offset) for one in found] == (
        [(-1, 17)] if codec else [(1, 15), (1, 16), (1, 17)]
    )


@pytest.mark.kafka("BATCH-09")
@pytest.mark.parametrize("codec", CODECS)
def test_streaming_and_listing_see_the_same_and_a_check_their_sizes(codec: int) -> None:
    pairs = [
        (None, b"v", 7),
        (b"key", None, 5),
        (b"k" * 200_000, b"", 6),
        (b"h", b"v" * 200_000, 9, [("name", b"data"), ("name", None)]),
    ]
    found = only(encode_batch(pairs, base_offset=3, options=BatchOptions(codec=Codec(codec))))
    records = found.records()
    for piece in (1, 3, 100):
        pieces = list(found.record_pieces(piece=piece))
        assert [one for some in pieces for one in some] == records
        assert all(len(some) == piece for some in pieces[:-1])
    assert [one.value for one in records] == [pair[1] for pair in pairs]
    assert found.stats() == (4, 0, 3, -2, 2, 1, 1, 2, 200_004, 200_001, -1)


@pytest.mark.kafka("BATCH-06")
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(("count", "words"), [(5, "end before the count"), (2, "bytes are left"), (-1, "negative")])
def test_a_count_that_lies_is_invalid(codec: int, count: int, words: str) -> None:
    assert_every_reader_refuses(batch(*THREE, codec=codec, count=count, base_offset=9), words)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("count", [INT32_MAX, -(2**31)])
def test_a_monstrous_count_is_invalid_at_no_cost(codec: int, count: int) -> None:
    assert_every_reader_refuses(batch(*THREE, codec=codec, count=count), "count|negative")


@pytest.mark.parametrize("codec", CODECS)
def test_bytes_behind_the_last_record_are_invalid(codec: int) -> None:
    body = by_hand.compressed(codec, b"".join(THREE) + b"\0")
    assert_every_reader_refuses(batch(body=body, attributes=codec, count=3, last_offset_delta=2), "bytes are left")


@pytest.mark.parametrize("codec", CODECS)
def test_what_an_empty_batch_holds_is_not_looked_at(codec: int) -> None:
    found = only(batch(body=b"no stream of any kind", attributes=codec, count=0))
    assert found.records() == list(found.lines(STYLES[0])) == [] and found.stats().count == 0


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("is_compressed_later", [True, False])
def test_a_body_cut_anywhere_is_invalid(codec: int, is_compressed_later: bool) -> None:
    plain = b"".join(THREE)
    whole = plain if is_compressed_later else by_hand.compressed(codec, plain)
    for piece in by_hand.torn(whole):
        body = by_hand.compressed(codec, piece) if is_compressed_later else piece
        assert_every_reader_refuses(batch(body=body, attributes=codec, count=3))


@pytest.mark.parametrize("codec", CODECS)
def test_lines_come_in_pieces_and_those_before_a_flaw_first(codec: int) -> None:
    good = [record(None, b"v" * 1000, offset_delta=n) for n in range(1500)]
    pieces = list(only(batch(*good, codec=codec)).lines(STYLES[-1]))
    assert len(pieces) == 2 and sum(count for _, count in pieces) == 1500
    written = []
    with pytest.raises(InvalidRecordError):
        for piece, count in only(batch(*good, codec=codec, count=1501)).lines(STYLES[-1]):
            written.append((len(piece) // 1001, count))
    assert [count for _, count in written] == [lines for lines, _ in written]
    assert sum(count for _, count in written) == 1500


@pytest.mark.parametrize("codec", CODECS)
def test_a_batch_above_the_cap_is_refused(codec: int) -> None:
    found = only(batch(record(None, bytes(10_000)), codec=codec))
    for read in (found.records, found.stats, lambda **cap: list(found.lines(STYLES[0], **cap))):
        with pytest.raises(BatchTooLargeError) as caught:
            read(size_max=10_000)
        assert caught.value.position == 0
        read(size_max=10_100)


def test_log_append_time_is_what_every_record_reports() -> None:
    found = only(batch(*THREE, attributes=0x08, base_timestamp=1, max_timestamp=99))
    assert found.timestamp_type == TimestampType.LOG_APPEND_TIME
    assert {one.timestamp for one in found.records()} == {99}


def test_a_delete_horizon_is_the_base_timestamp() -> None:
    found = only(batch(record(timestamp_delta=-50), attributes=0x40, base_timestamp=100))
    assert found.delete_horizon_ms == 100
    assert found.records()[0].timestamp == 50
    assert only(batch(record(), base_timestamp=100)).delete_horizon_ms is None


# ---------------------------------------------------------------- control batches


def test_a_control_batch_says_what_it_is_by_its_first_record() -> None:
    found = only(by_hand.GOLDEN_COMMIT)
    assert (found.is_control, found.is_transactional, found.control_type()) == (True, True, ControlType.COMMIT)
    assert decode(by_hand.GOLDEN_COMMIT + batch(*THREE)) == decode(batch(*THREE))


def test_an_empty_control_batch_says_nothing() -> None:
    assert only(batch(attributes=0x20)).control_type() is None


def test_a_control_record_with_a_bad_key_is_invalid_at_the_place_of_its_batch() -> None:
    found = only(batch(record(b"\0"), attributes=0x20, base_offset=7))
    with pytest.raises(InvalidRecordError, match="at least 4 bytes") as caught:
        found.control_type()
    assert (caught.value.position, caught.value.offset) == (0, 7)


# ---------------------------------------------------------------- reading a buffer


@pytest.mark.kafka("BATCH-05")
def test_a_length_below_the_header_is_corrupt() -> None:
    for length in (10, 48):
        with pytest.raises(CorruptRecordError, match="wrong size"):
            decode(batch(*THREE, length=length, crc=0))


@pytest.mark.kafka("BATCH-05")
def test_a_header_that_was_changed_under_its_crc_is_corrupt() -> None:
    data = batch(*THREE)
    data[26] = 23
    with pytest.raises(CorruptRecordError, match="wrong CRC"):
        decode(data)
    assert not next(iter_batches(data, verify=False)).crc_is_valid()


@pytest.mark.parametrize("position", range(17, 61))
def test_every_changed_byte_of_a_header_from_the_crc_on_is_noticed(position: int) -> None:
    with pytest.raises(CorruptRecordError, match="wrong CRC"):
        decode(by_hand.flipped(batch(*THREE), position, position % 8))


@pytest.mark.kafka("BATCH-20")
def test_the_size_of_a_first_batch_is_known_from_17_bytes_on() -> None:
    data = batch(*THREE)
    for size in range(17):
        assert first_batch_size(data[:size]) is None
    assert first_batch_size(data[:17]) == first_batch_size(data + data) == len(data)
    assert first_batch_size(b"skip" + data, 4) == len(data)


@pytest.mark.kafka("BATCH-20")
@pytest.mark.parametrize(("position", "value"), [(16, 10), (16, 255), (11, 13), (11, 48)])
def test_a_first_batch_of_impossible_magic_or_size_is_corrupt(position: int, value: int) -> None:
    data = bytearray(17)
    data[11], data[16] = 49, 2
    assert first_batch_size(data) == 61
    data[position] = value
    with pytest.raises(CorruptRecordError, match="size or magic"):
        first_batch_size(data)


def test_a_last_batch_that_is_cut_off_is_left_out() -> None:
    first, second = batch(*THREE), batch(*THREE, base_offset=3)
    for size in range(len(second)):
        assert decode(first + second[:size]) == decode(first)
    assert len(decode(first + second)) == 6


@pytest.mark.parametrize("magic", [3, 37, -1])
def test_what_comes_before_a_batch_of_unknown_magic_is_handed_out_first(magic: int) -> None:
    data = batch(*THREE) + batch(*THREE, magic=magic, crc=0)
    found = iter_batches(data)
    assert len(next(found).records()) == 3
    with pytest.raises(CorruptRecordError, match="wrong magic") as caught:
        next(found)
    assert caught.value.position == len(batch(*THREE))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_can_be_read(kind: type) -> None:
    assert decode(kind(bytes(batch(*THREE)))) == decode(batch(*THREE))


def test_records_own_their_bytes() -> None:
    for data in (batch(*THREE), message(1, b"k0", b"v0")):
        (first, *_) = decode(data)
        data[:] = bytes(len(data))
        assert (first.key, first.value) == (b"k0", b"v0")


def test_a_header_is_what_stands_in_the_file() -> None:
    values = {
        "base_offset": -(2**63), "leader_epoch": -5, "attributes": -0x8000, "last_offset_delta": -9,
        "base_timestamp": -2, "max_timestamp": 2**63 - 1, "producer_id": -7, "producer_epoch": -(2**15),
        "base_sequence": -3, "count": -1,
    }  # fmt: skip
    data = batch(body=b"", **values)
    header = only(data).header
    assert header == BatchHeader(position=0, size=61, magic=2, crc=int.from_bytes(data[17:21], "big"), **values)


# ---------------------------------------------------------------- what Kafka wrote


def consumed(path: Path) -> tuple[dict[str, int], dict[int, Record]]:
    """What a real consumer saw of a partition: the header of the view, and the records by offset."""
    head, *lines = map(json.loads, gzip.decompress(path.read_bytes()).splitlines())

    def data(text: str | None) -> bytes | None:
        return None if text is None else base64.b64decode(text)

    records = [
        Record(
            one["offset"], one["timestamp"] if one["timestamp_type"] != "NoTimestampType" else -1, data(one["key"]),
            data(one["value"]), tuple((name, data(value)) for name, value in one["headers"]),
        )
        for one in lines
    ]  # fmt: skip
    return head, {one.offset: one for one in records}


@pytest.mark.kafka("BATCH-19")
@pytest.mark.parametrize("release", ["kafka-4.1.1", "kafka-2.8.2"])
def test_what_a_consumer_saw_is_what_we_decode(kafka_fixtures: Path, release: str) -> None:
    views = sorted((kafka_fixtures / release / "expected" / "consumer").glob("*.read_uncommitted.jsonl.gz"))
    seen = 0
    for view in views:
        partition = kafka_fixtures / release / "clean" / view.name.partition(".")[0]
        if not partition.is_dir():
            continue
        head, wanted = consumed(view)
        ours = [one for path in sorted(partition.glob("*.log")) for one in decode(path.read_bytes())]
        assert {one.offset: one for one in ours if one.offset >= head["low"]} == wanted, partition.name
        seen += len(wanted)
    assert seen > 1000
