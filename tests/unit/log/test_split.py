"""Splitting a segment whose offsets are out of its range, and crashes at every step of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from by_hand import message, message_set
from helpers.segments import FILE_SYSTEMS, NOW, Place, batch, offsets_of

from logstore import names
from logstore.errors import LogstoreError
from logstore.log import Log
from logstore.log.segment import Segment
from logstore.log.segments import Segments
from logstore.log.split import split_segment
from logstore.records import Codec, encode_batch
from logstore.testing import ManualClock, MemoryFileSystem, SimulatedCrash

FAR = 2**31
FULL = OSError(28, "No space left on device")


@pytest.fixture(params=FILE_SYSTEMS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place.on(request.param, tmp_path)


def written(place: Place, base_offset: int, *batches: bytes) -> Segment:
    """A segment as an old broker's compaction has left it."""
    place.write(names.log_file_name(base_offset), b"".join(batches))
    return place.existing(base_offset)


def split(place: Place, segment: Segment) -> list[Segment]:
    return split_segment(place.fs, segment, place.config, place.maps, NOW)


def overflowing(place: Place) -> Segment:
    return written(place, 0, batch(0), batch(500, size=9), batch(FAR + 4, 2), batch(FAR + 900), batch(3 * FAR))


OFFSETS = [0, 500, FAR + 4, FAR + 5, FAR + 900, 3 * FAR]


@pytest.mark.kafka("SEG-18", "CLEAN-102")
def test_batches_are_copied_up_to_the_first_whose_offsets_do_not_fit(place: Place) -> None:
    large = bytes(encode_batch([(None, b"x" * (1 << 20))], base_offset=500, timestamp=5))
    segment = written(place, 0, batch(0, size=1000), large, batch(FAR + 4, size=1000))
    first, second = split(place, segment)
    assert (first.base_offset, first.size) == (0, len(batch(0, size=1000)) + len(large))
    assert (second.base_offset, second.size) == (FAR + 4, len(batch(FAR + 4, size=1000)))
    assert place.read(first.path.name) + place.read(second.path.name) == place.read(segment.path.name)


@pytest.mark.kafka("RECOVER-12", "CLEAN-99")
def test_all_batches_are_kept_in_segments_that_fit(place: Place) -> None:
    segment = overflowing(place)
    place.fs.set_modified_ms(segment.path, 1_234_567_000)
    pieces = split(place, segment)
    assert [(piece.base_offset, offsets_of(piece)) for piece in pieces] == [
        (0, [0, 500]), (FAR + 4, [FAR + 4, FAR + 5, FAR + 900]), (3 * FAR, [3 * FAR]),
    ]  # fmt: skip
    assert sum(piece.size for piece in pieces) == segment.size
    assert all(piece.path.name.endswith(".log.cleaned") for piece in pieces)
    assert {place.fs.modified_ms(piece.path) for piece in pieces} == {1_234_567_000}
    for piece in pieces:
        piece.rename("")
        assert place.scan(piece.base_offset).overflows is None


def test_the_first_piece_has_the_old_name_so_that_a_crash_can_be_completed(place: Place) -> None:
    segment = written(place, 7, batch(500), batch(7 + FAR))
    assert [piece.base_offset for piece in split(place, segment)] == [7, 7 + FAR]


def test_where_no_batch_fits_the_name_all_pieces_have_others(place: Place) -> None:
    segment = written(place, 0, batch(FAR), batch(2 * FAR - 1), batch(2 * FAR))
    pieces = split(place, segment)
    assert [(piece.base_offset, offsets_of(piece)) for piece in pieces] == [
        (FAR, [FAR, 2 * FAR - 1]), (2 * FAR, [2 * FAR]),
    ]  # fmt: skip


def test_a_batch_that_ends_where_the_range_ends_fits(place: Place) -> None:
    segment = written(place, 0, batch(0), batch(FAR - 3, 3), batch(FAR, 3))
    assert [offsets_of(piece) for piece in split(place, segment)] == [
        [0, FAR - 3, FAR - 2, FAR - 1], [FAR, FAR + 1, FAR + 2],
    ]  # fmt: skip


def test_a_compressed_set_of_old_begins_a_piece_with_its_first_offset(place: Place) -> None:
    inner = [message(1, None, b"v", offset=number, timestamp=5) for number in range(3)]
    far = bytes(message_set(1, Codec.GZIP, *inner, offset=FAR + 12, timestamp=5))
    segment = written(place, 0, bytes(message(1, None, b"v", offset=3)), far)
    assert [(piece.base_offset, offsets_of(piece)) for piece in split(place, segment)] == [
        (0, [3]), (FAR + 10, [FAR + 10, FAR + 11, FAR + 12]),
    ]  # fmt: skip


@pytest.mark.kafka("RECOVER-12", "CLEAN-99")
def test_a_segment_whose_offsets_fit_is_not_split(place: Place) -> None:
    for batches in ([], [batch(0), batch(FAR - 1)]):
        segment = written(place, 0, *batches)
        with pytest.raises(LogstoreError, match="no offset in this segment is out of its range"):
            split(place, segment)
        assert place.sizes() == {"log": segment.size}


def test_a_damaged_segment_is_not_split(place: Place) -> None:
    segment = written(place, 0, batch(0), batch(FAR), b"garbage")
    with pytest.raises(LogstoreError, match="cannot be split: the file ends inside a batch"):
        split(place, segment)
    assert place.sizes() == {"log": segment.size}


def test_a_split_that_fails_anywhere_leaves_nothing_but_the_segment(tmp_path: Path) -> None:
    for number in range(1, 100):
        place = Place.on("memory", tmp_path)
        fs = place.fs
        assert isinstance(fs, MemoryFileSystem)
        segment = overflowing(place)
        target = fs.operations + number
        fs.fail_on(lambda one, n=target: one.number == n and one.kind != "sync_directory", FULL, written=5)  # type: ignore[misc]
        try:
            split(place, segment)
        except OSError as error:
            assert "No space" in str(error)
            assert place.sizes() == {"log": segment.size}
            assert offsets_of(place.existing()) == OFFSETS
        else:
            assert number > 10
            return


# ---------------------------------------------------------------- in the place of the segment


def test_the_pieces_take_the_place_of_the_segment(place: Place) -> None:
    segments = Segments(place.fs, place.path)
    segments.add(segment := overflowing(place))
    segments.replace(split(place, segment), [segment], NOW)
    assert segments.bases == (0, FAR + 4, 3 * FAR)
    assert [offset for one in segments for offset in offsets_of(one)] == OFFSETS
    assert offsets_of(segment) == OFFSETS  # for who has it still
    segments.purge(NOW)
    assert place.fs.list(place.path) == [f"{base:020d}.log" for base in segments.bases]


def opened(place: Place) -> Log:
    return Log.open(place.path, place.config, fs=place.fs, clock=ManualClock(NOW))


def assert_split(place: Place) -> None:
    with opened(place) as log:
        assert [record.offset for record in log.records()] == OFFSETS
        assert log._state.segments.bases == (0, FAR + 4, 3 * FAR)
    found = place.fs.list(place.path)
    assert not [name for name in found if name.endswith((".cleaned", ".swap", ".deleted"))]


@pytest.mark.kafka("RECOVER-12", "CLEAN-99")
def test_a_log_with_such_a_segment_is_opened_with_all_records(place: Place, tmp_path: Path) -> None:
    overflowing(place)
    assert_split(place)
    assert place.alarms(tmp_path / "exported") == []
    assert_split(place)


@pytest.mark.kafka("RECOVER-13", "RECOVER-14", "RECOVER-15", "RECOVER-16", "CLEAN-100")
@pytest.mark.parametrize("mode", ["nothing", "everything", "torn", "metadata", "subset"])
def test_a_power_cut_at_any_moment_of_the_split_loses_nothing(mode: str, tmp_path: Path) -> None:
    phases = set()
    for number in range(1, 200):
        place = Place.on("memory", tmp_path)
        fs = place.fs
        assert isinstance(fs, MemoryFileSystem)
        overflowing(place)
        fs.stop_at = fs.operations + number
        try:
            opened(place)
        except SimulatedCrash:
            pass
        else:
            break
        for seed in range(5 if mode == "subset" else 1):
            after = Place(fs.crash(mode, seed=seed), place.path)  # type: ignore[arg-type]
            suffixes = {name.partition(".log")[2] for name in after.fs.list(place.path) if ".log" in name}
            phases.add(frozenset(suffixes & {"", ".cleaned", ".swap"}))
            assert_split(after)
    else:
        raise AssertionError("it never ends")
    assert {frozenset([""]), frozenset(["", ".cleaned"]), frozenset(["", ".swap"])} <= phases or mode == "nothing"


def state_of(place: Place, *live: int, cleaned: tuple[int, ...] = (), swap: tuple[int, ...] = ()) -> None:
    """Files as a broker that died leaves them: all of the old segment, and pieces of it."""
    pieces = {0: batch(0) + batch(500), FAR + 4: batch(FAR + 4, 2) + batch(FAR + 900), 3 * FAR: batch(3 * FAR)}
    whole = b"".join(pieces.values())
    for base in live:
        place.write(names.log_file_name(base), whole if base == 0 and live == (0,) else pieces[base])
    for base in cleaned:
        place.write(names.log_file_name(base, names.CLEANED_SUFFIX), pieces[base])
    for base in swap:
        place.write(names.log_file_name(base, names.SWAP_SUFFIX), pieces[base])


@pytest.mark.kafka("RECOVER-13", "RECOVER-14", "RECOVER-15", "RECOVER-16", "CLEAN-100")
@pytest.mark.parametrize(
    ("live", "cleaned", "swap"),
    [
        pytest.param((0,), (0, FAR + 4), (), id="phase 1, all cleaned"),
        pytest.param((0,), (0,), (), id="phase 1, one cleaned"),
        pytest.param((0,), (0, FAR + 4), (3 * FAR,), id="phase 2"),
        pytest.param((0,), (), (0, FAR + 4, 3 * FAR), id="phase 3"),
        pytest.param((), (), (0, FAR + 4, 3 * FAR), id="phase 4"),
        pytest.param((0,), (), (FAR + 4, 3 * FAR), id="phase 5, the first is final"),
        pytest.param((0, FAR + 4), (), (3 * FAR,), id="phase 5, the last is swapped"),
    ],
)
def test_every_state_of_a_split_that_a_broker_leaves_ends_with_all_records(
    place: Place, live: tuple[int, ...], cleaned: tuple[int, ...], swap: tuple[int, ...]
) -> None:
    if live == (0,) and swap and not cleaned and 0 not in swap:
        state_of(place, swap=swap)
        place.write(names.log_file_name(0), batch(0) + batch(500))
    else:
        state_of(place, *live, cleaned=cleaned, swap=swap)
    assert_split(place)
