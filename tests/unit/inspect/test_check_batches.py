"""Each thing that can be wrong with a batch is found, under its own code, at its own place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from by_hand import GZIP, LZ4, ZSTD, batch, message, message_set, record, varint
from helpers.directories import LogDirectory, append_bytes, codes, findings, flip_bit, insert, overwrite, shorten

from logstore.inspect import Finding, Severity
from logstore.records import BatchOptions, encode_batch, encode_control_key

Write = Callable[..., Path]
TIMESTAMP = 1_700_000_000_000
ABORT_KEY, ABORT_VALUE = b"\0\0\0\0", b"\0\0\0\0\0\0"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A verb: write batches back to back as a segment by itself."""

    def write(*batches: bytes | bytearray, base_offset: int = 0) -> Path:
        path = tmp_path / f"{base_offset:020d}.log"
        path.write_bytes(b"".join(batches))
        return path

    return write


def one(offset: int = 0, **fields: int) -> bytearray:
    """A batch of two records."""
    return batch(record(b"k", b"v"), record(b"k", b"v", offset_delta=1), base_offset=offset, **fields)


def two_batches() -> bytes:
    return bytes(one(0) + one(2))


def only(path: Path) -> Finding:
    [found] = findings(path)
    return found


# ---------------------------------------------------------------- frames


def test_intact_batches_give_no_finding(write: Write) -> None:
    assert findings(write(one(0), one(2), one(4))) == []


@pytest.mark.parametrize("position", [17, 21, 30, 45, 61, 70])
def test_a_changed_byte_is_a_wrong_crc(write: Write, position: int) -> None:
    path = write(one(0), one(2), one(4))
    flip_bit(path, len(one()) + position, 0)
    found = only(path)
    assert (found.code, found.severity, found.position) == ("batch-crc", Severity.DAMAGE, len(one()))


@pytest.mark.parametrize("size", [-1, 0, 13, 48, 2**31 - 1])
def test_an_impossible_length_is_found_and_the_next_batch_too(write: Write, size: int) -> None:
    path = write(one(0), one(2), one(4))
    overwrite(path, len(one()) + 8, size.to_bytes(4, "big", signed=True))
    found = only(path)
    assert (found.code, found.position, found.severity) == ("batch-size", len(one()), Severity.DAMAGE)


@pytest.mark.parametrize("magic", [3, 127, 255])
def test_an_unknown_magic_is_found(write: Write, magic: int) -> None:
    path = write(one(0), one(2), one(4))
    overwrite(path, len(one()) + 16, bytes([magic]))
    assert (only(path).code, only(path).position) == ("batch-magic", len(one()))


def test_zeros_between_batches_are_found(write: Write) -> None:
    found = only(write(one(0), bytes(4096), one(2)))
    assert (found.code, found.severity, found.position) == ("zeros", Severity.DAMAGE, len(one()))


@pytest.mark.parametrize("garbage", [b"\1" * 5, b"garbage" * 20, b"\xff" * 100])
def test_garbage_between_batches_is_damage(write: Write, garbage: bytes) -> None:
    path = write(two_batches())
    insert(path, len(one()), garbage)
    assert [(found.severity, found.position) for found in findings(path)] == [(Severity.DAMAGE, len(one()))]


@pytest.mark.parametrize("garbage", [b"\1" * 5, b"garbage" * 20, b"\xff" * 100])
def test_garbage_behind_the_last_batch_is_damage(write: Write, garbage: bytes) -> None:
    path = write(two_batches(), garbage)
    assert [(found.severity, found.position) for found in findings(path)] == [(Severity.DAMAGE, 2 * len(one()))]


def test_a_batch_that_is_cut_off_is_a_torn_tail(write: Write) -> None:
    path = write(two_batches())
    shorten(path, 2 * len(one()) - 1)
    assert (only(path).code, only(path).position) == ("torn-tail", len(one()))


def test_zeros_behind_the_last_batch_are_preallocated_space(write: Write) -> None:
    path = write(two_batches(), bytes(1000))
    assert (only(path).code, only(path).severity) == ("preallocated", Severity.NOTE)


def test_a_few_zeros_behind_the_last_batch_may_be_a_batch_cut_off(write: Write) -> None:
    path = write(two_batches(), bytes(8))
    assert (only(path).code, only(path).severity) == ("zero-tail", Severity.WARNING)


# ---------------------------------------------------------------- offsets and epochs


def test_a_batch_that_comes_too_early_is_found(write: Write) -> None:
    assert only(write(one(0), one(1))).code == "batch-offset"


def test_a_batch_below_its_segment_is_found(write: Write) -> None:
    assert only(write(one(3), base_offset=4)).code == "batch-offset"


def test_a_batch_too_far_from_its_segments_base_is_found(write: Write) -> None:
    assert codes(findings(write(one(0), one(2**31 - 1)))) == {"batch-offset"}


def test_missing_offsets_are_worth_a_note(write: Write) -> None:
    found = only(write(one(0), one(9)))
    assert (found.code, found.severity, found.offset) == ("offset-gap", Severity.NOTE, 9)


def test_a_log_that_shows_compaction_has_no_gaps(write: Write) -> None:
    compacted = batch(record(b"k", b"v"), base_offset=0, last_offset_delta=4)
    assert findings(write(compacted, one(9))) == []


@pytest.mark.parametrize("epochs", [(3, 2), (3, -1), (-2, 0)])
def test_a_leader_epoch_that_goes_back_or_is_impossible_is_found(write: Write, epochs: tuple[int, int]) -> None:
    path = write(one(0, leader_epoch=epochs[0]), one(2, leader_epoch=epochs[1]))
    assert codes(findings(path)) == {"leader-epoch"}


def test_batches_without_leader_epoch_may_be_followed_by_some_with_one(write: Write) -> None:
    assert findings(write(one(0, leader_epoch=-1), one(2, leader_epoch=0), one(4, leader_epoch=3))) == []


@pytest.mark.parametrize("epoch", [-1, 0, 2])
def test_a_leader_epoch_is_held_against_the_checkpoint(directory: LogDirectory, epoch: int) -> None:
    partition = directory.partition("orders-3")
    partition.append(b"v", leader_epoch=1)
    directory.close()
    assert findings(partition.path) == []
    overwrite(partition.log, 12, epoch.to_bytes(4, "big", signed=True))
    assert codes(findings(partition.path)) == {"leader-epoch"}


# ---------------------------------------------------------------- bodies of intact batches


@pytest.mark.parametrize("count", [-1, 3, 2**31 - 1])
def test_a_count_that_does_not_fit_the_offsets_is_found(write: Write, count: int) -> None:
    assert "batch-count" in codes(findings(write(one(0, count=count))))


@pytest.mark.parametrize(
    ("body", "count"),
    [
        (record(b"k", b"v") + b"more", 1),
        (record(b"k", b"v"), 2),
        (record(b"k", b"v", length=100), 1),
        (record(b"k", b"v", length=2), 1),
        (record(b"k", b"v", length=-3), 1),
        (record(b"k", b"v", headers_count=-1), 1),
        (record(b"k", b"v", headers_count=1000), 1),
        (record(b"k", b"v", slack=b"rest"), 1),
        (b"\xff" * 40, 1),
        (varint(30) + b"\0" + b"\xff" * 30, 1),
        (b"", 1),
    ],
)
def test_records_that_contradict_themselves_are_found(write: Write, body: bytes, count: int) -> None:
    path = write(batch(body=body, count=count, last_offset_delta=max(count - 1, 0)))
    found = only(path)
    assert (found.code, found.severity, found.position) == ("record-body", Severity.DAMAGE, 0)


@pytest.mark.parametrize("codec", [GZIP, LZ4, ZSTD])
def test_a_compressed_body_that_lies_about_its_count_is_found(write: Write, codec: int) -> None:
    path = write(batch(record(b"k", b"v"), codec=codec, count=2, last_offset_delta=1))
    assert codes(findings(path)) == {"record-body"}


@pytest.mark.parametrize("codec", [1, 2, 3, 4])
def test_a_body_that_is_no_stream_of_its_codec_is_found(write: Write, codec: int) -> None:
    path = write(batch(body=b"these bytes are no stream", attributes=codec, count=1))
    assert codes(findings(path)) == {"batch-compression"}


@pytest.mark.parametrize("codec", [5, 6, 7])
def test_an_unknown_codec_is_found(write: Write, codec: int) -> None:
    assert codes(findings(write(batch(body=b"?", attributes=codec, count=1)))) == {"batch-codec"}


def test_a_batch_above_the_cap_is_said_not_to_be_checked(write: Write) -> None:
    path = write(batch(record(b"k", bytes(10_000)), codec=GZIP))
    [found] = findings(path, batch_bytes_max=5_000)
    assert (found.code, found.severity) == ("batch-too-large", Severity.WARNING)


def test_records_out_of_order_are_found(write: Write) -> None:
    disordered = batch(record(b"k", b"v", offset_delta=1), record(b"k", b"v", offset_delta=0))
    assert codes(findings(write(disordered))) == {"record-offset"}


def test_a_record_beyond_the_last_offset_is_found(write: Write) -> None:
    assert "record-offset" in codes(findings(write(batch(record(b"k", b"v", offset_delta=5)))))


@pytest.mark.parametrize("timestamp", [TIMESTAMP - 1, TIMESTAMP + 1, -1])
def test_a_largest_timestamp_that_no_record_has_is_found(write: Write, timestamp: int) -> None:
    path = write(one(0, base_timestamp=TIMESTAMP, max_timestamp=timestamp))
    found = only(path)
    assert (found.code, found.severity) == ("batch-timestamp", Severity.WARNING)


def test_the_timestamp_of_an_append_is_none_of_its_records(write: Write) -> None:
    assert findings(write(one(0, base_timestamp=TIMESTAMP, max_timestamp=TIMESTAMP + 9, attributes=0x08))) == []


# ---------------------------------------------------------------- control batches


def control(key: bytes | None, value: bytes | None) -> bytearray:
    fields = {"attributes": 0x30, "producer_id": 1, "producer_epoch": 0}
    return batch(record(key, value), **fields)


@pytest.mark.parametrize("record_of", [(b"\0\0", ABORT_VALUE), (None, ABORT_VALUE), (b"\xff\xff\0\0", ABORT_VALUE)])
def test_a_control_batch_without_a_control_record_is_found(write: Write, record_of: tuple[bytes | None, bytes]) -> None:
    assert codes(findings(write(control(*record_of)))) == {"control-record"}


def test_a_control_record_of_an_unknown_type_is_worth_a_note(write: Write) -> None:
    found = only(write(control(b"\0\0\0\x63", b"?")))
    assert (found.code, found.severity) == ("control-record", Severity.NOTE)


def test_markers_and_leader_changes_are_no_finding(write: Write) -> None:
    leader = BatchOptions(is_control=True, leader_epoch=1)
    change = encode_batch([(encode_control_key(2), b"\0\0\0\0\0\1\1\1\0", 0)], base_offset=1, options=leader)
    marker = control(ABORT_KEY, ABORT_VALUE)
    assert findings(write(marker, change)) == []


# ---------------------------------------------------------------- formats v0 and v1


@pytest.mark.parametrize("magic", [0, 1])
def test_intact_messages_of_the_old_formats_give_no_finding(write: Write, magic: int) -> None:
    inner = [message(magic, b"k", b"v", offset=o + (1 - magic)) for o in range(3)]
    assert findings(write(message(magic, b"k", b"v"), message_set(magic, GZIP, *inner, offset=3))) == []


@pytest.mark.parametrize("magic", [0, 1])
def test_a_changed_byte_in_an_old_message_is_a_wrong_crc(write: Write, magic: int) -> None:
    path = write(message(magic, b"k", b"v"), message(magic, b"k", b"value", offset=1))
    flip_bit(path, 20, 2)
    assert codes(findings(path)) == {"batch-crc"}


@pytest.mark.parametrize("magic", [0, 1])
def test_a_wrapper_with_broken_contents_is_found(write: Write, magic: int) -> None:
    inner = message(magic, b"k", b"v")
    inner[-1] ^= 1  # the inner message's own CRC is wrong now
    path = write(message_set(magic, LZ4, inner, offset=0))
    found = only(path)
    assert (found.code, found.severity) == ("legacy-message", Severity.DAMAGE)


def test_an_empty_wrapper_is_found(write: Write) -> None:
    assert codes(findings(write(message_set(1, GZIP, offset=0)))) == {"legacy-message"}


def test_inner_offsets_that_do_not_ascend_are_found(write: Write) -> None:
    inner = [message(0, b"k", b"v", offset=offset) for offset in (0, 2, 1)]
    assert "record-offset" in codes(findings(write(message_set(0, GZIP, *inner, offset=2))))


@pytest.mark.parametrize(("magic", "offset"), [(0, 1), (0, 3), (0, -(2**63) + 2), (1, 0)])
def test_a_set_whose_offset_is_not_that_of_its_last_message_is_found(write: Write, magic: int, offset: int) -> None:
    inner = [message(magic, b"k", b"v", offset=number) for number in range(3)]
    assert "record-offset" in codes(findings(write(message_set(magic, GZIP, *inner, offset=offset))))


def test_a_log_goes_on_in_a_new_format(write: Write) -> None:
    path = write(message(0, b"k", b"v"), message(1, b"k", b"v", offset=1, timestamp=5))
    append_bytes(path, one(2, leader_epoch=0))
    assert findings(path) == []
