"""A segment whose indexes or bytes are not to be believed: it finds everything, or says where it cannot."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from helpers.segments import (
    FILE_SYSTEMS,
    Place,
    batch,
    offsets_from,
    offsets_of,
    put,
    put_batches,
)

from logstore.errors import DamagedLogError
from logstore.log.segment import Segment
from logstore.records import encode_batch

COMMON_SIZE = len(batch(40))


@pytest.fixture(params=FILE_SYSTEMS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place.on(request.param, tmp_path)


@pytest.fixture
def segment(place: Place) -> Segment:
    return place.create(40)


def hostile_entries(segment: Segment) -> list[tuple[int, int]]:
    """Entries for a segment from 0 on, of batches of one size: far beyond, before, and between the batches."""
    size = segment.size
    places = [-1, -(2**31), 1, 7, 60, 61, 62, COMMON_SIZE - 1, COMMON_SIZE + 1, size - 1, size, size + 1, 2**31 - 1]
    return [(relative, position) for relative in (0, 3, 2**31 - 1) for position in places]


@pytest.mark.parametrize("entries", [1, 2])
def test_a_damaged_offset_index_never_hides_a_batch(place: Place, entries: int) -> None:
    segment = place.create(0)
    for offset in range(20):
        put(segment, offset)
    place.sealed(segment)
    for relative, position in hostile_entries(segment):
        entry = struct.pack(">ii", relative, position)
        place.write(segment.indexes.offset_path.name, (struct.pack(">ii", 0, 0) + entry)[-8 * entries :])
        for again in (place.existing(), place.resumed()):
            assert [offsets_from(again, offset) for offset in range(20)] == [[offset] for offset in range(20)]
            assert again.locate(20, again.size) is None
            assert again.next_offset() == 20
            assert all(again.start_of(offset) % COMMON_SIZE == 0 for offset in range(20))
            again.close()


def test_an_index_that_points_into_zeros_or_a_batch_within_a_batch_is_not_followed(place: Place) -> None:
    segment = place.create(100)
    inner = batch(100, 5)  # as a mirror of this log would hold it
    data = bytes(encode_batch([(bytes(200), inner)], base_offset=100, timestamp=1))
    put_batches(segment, data, batch(101))
    place.sealed(segment)
    at = data.index(bytes(100))
    place.write(segment.indexes.offset_path.name, struct.pack(">ii", 0, at + 20))
    again = place.existing(100)
    assert [offsets_from(again, offset) for offset in (100, 101, 102)] == [[100], [101], None]


def test_an_index_that_is_not_in_order_still_finds_everything(place: Place) -> None:
    segment = place.create(0)
    for offset in range(60):
        put(segment, offset)
    place.sealed(segment)
    name = segment.indexes.offset_path.name
    entries = place.read(name)
    order = [struct.unpack_from(">ii", entries, at) for at in range(0, len(entries), 8)]
    for shuffled in (order[::-1], order[5:] + order[:5], [*order[:7], (0, 0), (0, 0), *order[9:]], order[:3] * 4):
        place.write(name, b"".join(struct.pack(">ii", *entry) for entry in shuffled))
        again = place.existing()
        assert [offsets_from(again, offset) for offset in range(60)] == [[offset] for offset in range(60)]
        assert again.next_offset() == 60


@pytest.mark.parametrize("tail", [8, 800, 5, 3])
def test_zeros_behind_the_entries_of_an_index_cost_time_only(place: Place, tail: int) -> None:
    segment = place.create(0)
    for offset in range(30):
        put(segment, offset)
    place.sealed(segment)
    for path in (segment.indexes.offset_path, segment.indexes.time_path):
        place.write(path.name, place.read(path.name) + bytes(tail))
    for again in (place.existing(), place.resumed()):
        assert [offsets_from(again, offset) for offset in range(30)] == [[offset] for offset in range(30)]
        assert again.next_offset() == 30
    for offset in range(30, 60):
        put(again, offset)
    assert offsets_of(again) == list(range(60))


def test_a_segment_goes_on_behind_an_index_that_holds_something_else(place: Place) -> None:
    segment = place.create(0)
    for offset in range(10):
        put(segment, offset)
    place.sealed(segment)
    place.write(segment.indexes.offset_path.name, struct.pack(">ii", 10**6, 2**31 - 1))
    place.write(segment.indexes.time_path.name, struct.pack(">qi", 2**62, 10**6))
    again = place.resumed()
    for offset in range(10, 40):
        put(again, offset)
    place.sealed(again)
    assert [offsets_from(again, offset) for offset in range(40)] == [[offset] for offset in range(40)]


@pytest.mark.parametrize("name", ["index", "timeindex"])
def test_without_an_index_everything_is_found(place: Place, name: str) -> None:
    segment = place.create(0)
    for offset in range(30):
        put(segment, offset)
    place.sealed(segment)
    place.fs.unlink(place.path / f"{0:020d}.{name}")
    again = place.existing()
    assert [offsets_from(again, offset) for offset in range(30)] == [[offset] for offset in range(30)]
    assert again.next_offset() == 30
    assert name not in place.sizes()


def test_bytes_that_are_no_batch_are_told_with_their_place(place: Place, segment: Segment) -> None:
    size = len(put(segment, 40))
    put(segment, 41)
    put(segment, 42)
    place.sealed(segment)
    whole = place.read(segment.path.name)
    for what, position in ((b"\x25", 16), (b"\0\0\0\x09", 8)):  # magic 37, size 9
        data = bytearray(whole)
        data[size + position : size + position + len(what)] = what
        place.write(segment.path.name, data)
        for name in (segment.indexes.offset_path.name, segment.indexes.time_path.name):
            place.write(name, b"")
        again = place.existing(40)
        for reading in (lambda s: s.locate(42, s.size), lambda s: s.batches(size, s.size), Segment.next_offset):
            with pytest.raises(DamagedLogError, match="no batch") as caught:
                reading(again)
            assert caught.value.position == size
        assert offsets_from(again, 40) == [40]
        assert [one.last_offset for one in again.batches(0, again.size)] == [40]


@pytest.mark.parametrize("tail", [b"\0", bytes(6), b"garbage", batch(41)[:20], batch(41)[:-1]])
def test_a_file_that_does_not_end_with_a_whole_batch_has_no_end(place: Place, segment: Segment, tail: bytes) -> None:
    put(segment, 40)
    place.sealed(segment)
    place.write(segment.path.name, place.read(segment.path.name) + tail)
    again = place.existing(40)
    assert [one.last_offset for one in again.batches(0, again.size)] == [40]
    assert offsets_from(again, 41) is None
    with pytest.raises(DamagedLogError, match="ends inside a batch"):
        again.next_offset()
