"""A segment: where batches are found, what is written when, and under which names."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from by_hand import message, message_set
from helpers.segments import (
    FILE_SYSTEMS,
    NOW,
    Place,
    batch,
    offsets_from,
    offsets_of,
    put,
    put_batches,
)

from logstore.config import LogConfig
from logstore.errors import BatchTooLargeError, CorruptRecordError, DamagedLogError, InvalidNameError
from logstore.log import Log, log_file
from logstore.log.segment import FILE_SIZE_MAX, Segment
from logstore.log.transaction_index import AbortedTransaction
from logstore.records import Codec, encode_batch, iter_batches

COMMON_SIZE = len(batch(40))


@pytest.fixture(params=FILE_SYSTEMS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place.on(request.param, tmp_path)


@pytest.fixture
def memory(tmp_path: Path) -> Place:
    return Place.on("memory", tmp_path)


@pytest.fixture
def segment(place: Place) -> Segment:
    return place.create(40)


# ---------------------------------------------------------------- finding batches


@pytest.mark.kafka("SEG-01")
def test_an_empty_segment_has_nothing_to_read(segment: Segment) -> None:
    assert offsets_from(segment, 40) is None
    assert segment.batches(0, segment.size) == []


@pytest.mark.kafka("SEG-02", "SEG-03")
def test_a_read_below_the_first_batch_begins_with_it_and_one_behind_the_last_finds_nothing(segment: Segment) -> None:
    put(segment, 50, 4)
    assert offsets_from(segment, 41) == [50, 51, 52, 53]
    assert [offsets_from(segment, offset) for offset in (54, 99)] == [None, None]


@pytest.mark.kafka("SEG-04")
def test_a_read_in_a_gap_begins_with_the_next_batch(segment: Segment) -> None:
    put(segment, 50, 2)
    put(segment, 60, 2)
    assert offsets_from(segment, 55) == [60, 61]


@pytest.mark.kafka("SEG-05")
def test_without_bytes_a_read_still_tells_the_place(segment: Segment) -> None:
    put_batches(segment, *(message(1, None, b"hello", offset=offset, timestamp=1) for offset in (50, 51)))
    assert segment.size == 78
    assert [segment.locate(offset, 78) for offset in (48, 50, 51)] == [(0, 39), (0, 39), (39, 39)]
    assert [segment.locate(offset, 78) for offset in (52, 53)] == [None, None]
    assert segment.slice(39, 0) == b""


@pytest.mark.kafka("FILE-05")
@pytest.mark.parametrize("interval", [0, 10**6])
def test_every_offset_finds_its_batch_or_the_next_one(place: Place, interval: int) -> None:
    segment = place.create(0, LogConfig(index_interval_bytes=interval))
    ranges = [(3, 4), (7, 7), (8, 20), (30, 31), (2000, 2000)]
    for first, last in ranges:
        put(segment, first, last - first + 1)
    for state in ("active", "sealed"):
        for offset in range(2002):
            expected = next((r for r in ranges if r[1] >= offset), None)
            found = offsets_from(segment, offset)
            assert (found and (found[0], found[-1])) == expected, state
        place.sealed(segment)


def test_nothing_is_found_at_or_above_the_limit(segment: Segment) -> None:
    first, _ = put(segment, 40), put(segment, 41)
    assert segment.locate(40, len(first)) == (0, len(first))
    assert segment.locate(41, len(first)) is None
    assert segment.locate(41, len(first) + 70) is None
    assert segment.locate(40, len(first) - 1) is None


@pytest.mark.parametrize("interval", [0, 10**6])
@pytest.mark.parametrize("magic", [0, 1, 2])
def test_batches_larger_than_what_is_read_at_a_time_are_found(place: Place, interval: int, magic: int) -> None:
    segment = place.create(40, LogConfig(index_interval_bytes=interval, segment_index_bytes=1200))
    made = []
    for offset in range(80, 104, 2):
        value = b"v" * (100_000 if offset % 3 == 0 else 10)
        if magic == 2:
            made.append(encode_batch([(None, value)] * 2, base_offset=offset, timestamp=1))
        else:
            made.append(message(magic, None, value, offset=offset + 1, timestamp=1))
    put_batches(segment, *made)
    last = [one.last_offset for one in segment.batches(0, segment.size)]
    assert last == [81, 83]  # the third one is large: it comes with the next stretch
    for _ in ("active", "sealed"):
        position = 0
        for number, data in enumerate(made):
            for offset in (80 + 2 * number, 81 + 2 * number):
                assert segment.locate(offset, segment.size) == (position, len(data))
            assert bytes(segment.batches(position, segment.size)[0].raw) == data
            position += len(data)
        assert segment.locate(104, segment.size) is None
        assert segment.next_offset() == 104
        place.sealed(segment)


def test_a_large_batch_at_the_limit_is_not_given_in_part(segment: Segment) -> None:
    data = put(segment, 40, size=200_000)
    assert segment.batches(0, len(data) - 1) == []
    assert segment.locate(40, len(data) - 1) is None
    assert len(segment.batches(0, len(data))) == 1


def test_batches_of_all_formats_stand_side_by_side(segment: Segment) -> None:
    old = message_set(1, Codec.GZIP, *(message(1, b"k", b"v", offset=n, timestamp=5) for n in range(3)), offset=44)
    put_batches(segment, batch(40), message(0, b"k", b"v", offset=41), old, batch(45, 2))
    assert [offsets_from(segment, offset) for offset in (41, 42, 43, 44, 45)] == [
        [41], [42, 43, 44], [42, 43, 44], [42, 43, 44], [45, 46],
    ]  # fmt: skip
    assert offsets_of(segment) == list(range(40, 47))


@pytest.mark.kafka("SEG-09")
def test_the_end_of_a_segment_is_behind_its_last_batch(place: Place, segment: Segment) -> None:
    assert segment.next_offset() == 40
    put(segment, 50, 3)
    assert segment.next_offset() == 53
    place.sealed(segment)
    again = place.existing(40)
    assert again.next_offset() == 53
    assert (again.max_timestamp, again.offset_of_max, again.first_timestamp) == (50, 52, 50)


@pytest.mark.kafka("SEG-19")
def test_a_segment_has_a_first_timestamp_once_something_was_appended(place: Place, segment: Segment) -> None:
    assert segment.first_timestamp is None
    put(segment, 40, timestamp=1000)
    put(segment, 41, timestamp=900)
    assert segment.first_timestamp == 1000
    assert place.sealed(segment).first_timestamp == 1000
    assert place.existing(40).first_timestamp == 1000


def test_a_segment_without_time_is_as_old_as_its_file(place: Place, segment: Segment) -> None:
    put(segment, 40, timestamp=-1)
    assert segment.largest_timestamp == place.fs.modified_ms(segment.path)
    put(segment, 41, timestamp=7)
    assert segment.largest_timestamp == 7


# ---------------------------------------------------------------- slices


@pytest.mark.kafka("FILE-13")
def test_a_slice_stops_at_the_bytes_that_are_there(place: Place, segment: Segment) -> None:
    data = put(segment, 40) + put(segment, 41)
    for _ in ("active", "sealed"):
        assert segment.slice(10, 2**40) == data[10:]
        assert segment.slice(len(data) - 3, 2**31 - 1) == data[-3:]
        assert [bytes(segment.slice(start, 10)) for start in (len(data), len(data) + 1, 2**40, -1)] == [b""] * 4
        assert memoryview(segment.slice(10, 50))[5:20] == data[15:30]
        place.sealed(segment)


def test_half_a_batch_is_no_batch(place: Place, segment: Segment) -> None:
    size = len(put(segment, 40))
    put(segment, 41)
    for _ in ("active", "sealed"):
        assert segment.batches(0, size - 1) == []
        assert [one.last_offset for one in segment.batches(0, 2 * size - 1)] == [40]
        place.sealed(segment)


@pytest.mark.kafka("FILE-12")
def test_batches_in_memory_are_taken_up_to_a_cut_one_and_no_further_than_what_is_none(memory: Place) -> None:
    first, second = batch(40), batch(41)
    for end in (0, 11, 16, 17, 40, len(second) - 1):
        assert [one.last_offset for one in iter_batches(first + second[:end])] == [40]
    for what, position in ((struct.pack(">i", 9), 8), (b"\x25", 16), (b"\xff", 16)):  # size 9, magic 37 and -1
        wrong = second[:position] + what + second[position + len(what) :]
        with pytest.raises(CorruptRecordError, match=r"wrong (size|magic)"):
            list(iter_batches(first + wrong))
    with Log.open(memory.path, LogConfig(max_message_bytes=500), fs=memory.fs) as log:
        with pytest.raises(BatchTooLargeError, match=r"above max\.message\.bytes, 500"):
            log.append_batch(batch(0, size=500, timestamp=-1))
        assert log.log_end_offset == 0


@pytest.mark.kafka("FILE-02")
def test_the_size_follows_the_appends_whatever_is_read(segment: Segment) -> None:
    size = 0
    for offset in range(40, 60):
        size += len(put(segment, offset))
        assert segment.size == size
        assert offsets_of(segment) == list(range(40, offset + 1))


def test_what_is_behind_the_last_batch_is_nobodys(place: Place) -> None:
    segment = place.create(0, LogConfig(preallocate=True, segment_bytes=4000))
    put(segment, 0)
    assert len(segment.slice(0, 4000)) == segment.size
    assert segment.locate(1, segment.size) is None


@pytest.mark.parametrize("preallocate", [False, True])
def test_slices_stay_what_they_were_whatever_becomes_of_the_segment(
    place: Place, preallocate: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_file, "_MAP_STEP", 300)
    segment = place.create(0, LogConfig(preallocate=preallocate, segment_bytes=60_000, segment_index_bytes=1200))
    whole = b"".join(put(segment, offset) for offset in range(40))
    slices = [segment.slice(0, segment.size)]
    segment.truncate_to(30, NOW)
    slices.append(segment.slice(0, segment.size))
    put(segment, 30, timestamp=999)
    place.sealed(segment)
    slices.append(segment.slice(0, segment.size))
    segment.truncate_to(10, NOW)
    segment.rename(".deleted")
    for path in segment.files():
        place.fs.unlink(path, missing_ok=True)
    assert slices[0] == whole
    assert slices[1] == whole[: len(slices[1])]
    assert slices[2][: len(slices[1])] == slices[1]


# ---------------------------------------------------------------- writing


@pytest.mark.kafka("INDEX-11", "CLEAN-101")
@pytest.mark.parametrize(("base", "last"), [(0, -(2**31)), (0, 2**31), (1, 0), (100, 10), (2**31, 0), (2**31, 2**32)])
def test_an_offset_out_of_range_of_its_segment_is_refused_and_nothing_written(
    place: Place, base: int, last: int
) -> None:
    segment = place.create(base)
    with pytest.raises(ValueError, match="not in the range"):
        segment.append(batch(0), last, 0, last)
    assert segment.should_roll(10, last, 0, NOW)
    assert segment.size == 0
    assert place.sizes() == {"log": 0}


def test_no_segment_begins_below_zero(place: Place) -> None:
    with pytest.raises(InvalidNameError):
        place.create(-(2**31))
    assert place.fs.list(place.path) == []


def test_a_segment_that_is_there_is_not_made_again(place: Place, segment: Segment) -> None:
    put(segment, 40)
    with pytest.raises(FileExistsError):
        place.create(40)
    assert offsets_from(segment, 40) == [40]


@pytest.mark.kafka("FILE-01")
def test_a_file_does_not_grow_beyond_31_bits_and_a_larger_one_is_no_segment(tmp_path: Path) -> None:
    place = Place.on("local", tmp_path)
    path = place.create(0).path
    with place.fs.open(path, write=True) as file:
        file.truncate(FILE_SIZE_MAX - 10)  # a hole
    segment = place.existing()
    with pytest.raises(ValueError, match="beyond 2147483647"):
        put(segment, 0)
    assert segment.size == place.fs.file_size(path) == FILE_SIZE_MAX - 10
    with place.fs.open(path, write=True) as file:
        file.truncate(FILE_SIZE_MAX + 1)
    with pytest.raises(DamagedLogError, match="larger than any can be"):
        place.existing()


@pytest.mark.kafka("TIME-08")
def test_entries_are_made_once_more_than_the_interval_was_written(place: Place) -> None:
    config = LogConfig(index_interval_bytes=2 * COMMON_SIZE - 1, segment_index_bytes=1200)
    segment = place.create(40, config)
    for offset in range(40, 70):
        put(segment, offset)
    segment.sync()
    for name, entry in (("index", 8), ("timeindex", 12)):
        data = place.read(f"{40:020d}.{name}")
        assert (any(data[13 * entry : 14 * entry]), any(data[14 * entry :])) == (True, False)
    assert segment.next_offset() == 70
    segment.truncate_to(41, NOW)
    assert segment.indexes.last_time_entry == (-1, 40)
    assert (segment.max_timestamp, segment.next_offset()) == (40, 41)


def test_no_index_exists_before_the_first_append(place: Place, segment: Segment) -> None:
    assert place.sizes() == {"log": 0}
    put(segment, 40)
    assert place.sizes() == {"log": segment.size, "index": 1200, "timeindex": 1200}


def test_a_sync_makes_the_indexes_of_an_active_segment(place: Place, segment: Segment) -> None:
    segment.sync_log()
    assert place.sizes() == {"log": 0}
    segment.sync()
    assert place.sizes() == {"log": 0, "index": 1200, "timeindex": 1200}


def test_a_sync_leaves_sealed_segments_as_they_are(place: Place, segment: Segment) -> None:
    for offset in range(40, 60):
        put(segment, offset)
    place.sealed(segment)
    before = place.sizes()
    segment.sync()
    place.fs.unlink(segment.indexes.offset_path)
    segment.sync()
    del before["index"]
    assert place.sizes() == before
    assert not segment.indexes.is_open


def test_sealing_writes_the_last_time_and_cuts_everything_to_what_is_used(place: Place, segment: Segment) -> None:
    for offset in range(40, 50):
        put(segment, offset)
    segment.seal()
    assert segment.indexes.last_time_entry == (49, 49)
    assert place.sizes() == {"log": segment.size, "index": 4 * 8, "timeindex": 5 * 12}


def test_a_sealed_segment_passes_every_check(place: Place, tmp_path: Path) -> None:
    segment = place.create(0)
    for offset in range(0, 90, 3):
        put(segment, offset, 3)
    place.sealed(segment)
    assert place.alarms(tmp_path / "exported") == []


def test_the_largest_time_is_that_of_the_first_batch_that_had_it(segment: Segment) -> None:
    for offset, timestamp in ((40, 5), (41, 9), (42, 9), (43, -1), (44, 3)):
        put(segment, offset, timestamp=timestamp)
    assert (segment.max_timestamp, segment.offset_of_max) == (9, 41)


@pytest.mark.kafka("SEG-16", "FILE-07")
def test_a_preallocated_log_is_full_size_while_open_and_cut_when_sealed(place: Place) -> None:
    config = LogConfig(preallocate=True, segment_bytes=512 << 10, segment_index_bytes=1200)
    segment = place.create(40, config)
    assert (segment.size, place.sizes()) == (0, {"log": 512 << 10})
    data = put(segment, 40)
    assert place.sizes()["log"] == 512 << 10
    assert offsets_from(segment, 40) == [40]
    place.sealed(segment)
    assert place.read(segment.path.name) == data
    again = place.resumed(40, config)
    assert (again.size, place.sizes()["log"], offsets_from(again, 40)) == (len(data), len(data), [40])
    put(again, 41)
    assert offsets_of(again) == [40, 41]


def test_without_preallocation_a_new_log_is_empty(place: Place) -> None:
    place.create(0, LogConfig(segment_bytes=512 << 10))
    assert place.sizes() == {"log": 0}


def test_a_large_preallocated_log_is_read_without_maps_that_would_hinder_its_being_cut(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_file, "_MAP_STEP", 300)
    segment = place.create(0, LogConfig(preallocate=True, segment_bytes=20_000))
    for offset in range(50):
        put(segment, offset)
    kept = segment.slice(0, segment.size)
    place.sealed(segment)
    assert kept == place.read(segment.path.name)


# ---------------------------------------------------------------- names


@pytest.mark.kafka("SEG-10")
def test_a_suffix_renames_what_is_there_and_indexes_are_made_under_the_new_name(place: Place, segment: Segment) -> None:
    assert segment.rename(".deleted") == [segment.path]
    assert place.sizes() == {"log.deleted": 0}
    assert [path.name[20:] for path in segment.files()] == [
        ".log.deleted", ".index.deleted", ".timeindex.deleted", ".txnindex.deleted",
    ]  # fmt: skip
    segment.resume()
    assert place.sizes() == {"log.deleted": 0, "index.deleted": 1200, "timeindex.deleted": 1200}


def test_a_segment_is_read_and_written_under_its_new_name(place: Place, segment: Segment) -> None:
    put(segment, 40)
    segment.transaction_index.append(AbortedTransaction(1, 40, 40, 40))
    place.sealed(segment)
    for suffix in (".cleaned", ".swap", ""):
        assert len(segment.rename(suffix)) == 4
        assert offsets_of(segment) == [40]
        assert len(segment.transaction_index.entries()) == 1
    segment.resume()
    put(segment, 41)
    assert offsets_of(place.existing(40)) == [40, 41]


def test_a_segment_follows_its_directory(place: Place, segment: Segment) -> None:
    put(segment, 40)
    target = place.path.with_name("orders-0-moved")
    place.fs.rename(place.path, target)
    segment.move_to(target)
    put(segment, 41)
    segment.sync()
    segment.transaction_index.append(AbortedTransaction(1, 40, 40, 40))
    place.sealed(segment)
    assert offsets_of(segment) == [40, 41]
    assert all(path.parent == target and place.fs.exists(path) for path in segment.files())


def test_a_segment_says_what_it_is(place: Place, segment: Segment) -> None:
    put(segment, 40)
    assert repr(segment) == f"<Segment 40 active size {segment.size} of {place.path}>"
    assert " sealed " in repr(place.sealed(segment))
