"""What is left of a segment when it is cut, on disk and for those who read it."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.segments import (
    FILE_SYSTEMS,
    NOW,
    Place,
    offsets_from,
    offsets_of,
    put,
)

from logstore.config import LogConfig
from logstore.log import log_file
from logstore.log.segment import Segment
from logstore.log.transaction_index import AbortedTransaction
from logstore.testing import MemoryFileSystem


@pytest.fixture(params=FILE_SYSTEMS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place.on(request.param, tmp_path)


@pytest.fixture
def memory(tmp_path: Path) -> Place:
    return Place.on("memory", tmp_path)


@pytest.fixture
def segment(place: Place) -> Segment:
    return place.create(40)


@pytest.mark.kafka("SEG-06")
def test_appending_two_and_taking_one_back_can_go_on_for_ever(segment: Segment) -> None:
    for offset in range(40, 70):
        put(segment, offset)
        put(segment, offset + 1)
        segment.truncate_to(offset + 1, NOW)
        assert (offsets_from(segment, offset), offsets_from(segment, offset + 1)) == ([offset], None)
    assert offsets_of(segment) == list(range(40, 70))


@pytest.mark.kafka("SEG-07")
def test_a_closed_empty_segment_is_active_and_has_indexes_after_a_truncation(place: Place, segment: Segment) -> None:
    place.sealed(segment)
    assert place.sizes() == {"log": 0, "index": 0, "timeindex": 0}
    again = place.existing(40, LogConfig(segment_index_bytes=1200, segment_ms=500))
    assert again.truncate_to(57, NOW + 100) == 0
    assert place.sizes() == {"log": 0, "index": 1200, "timeindex": 1200}
    assert not again.indexes.are_full
    assert again.is_active
    assert again.waited_ms(-1, NOW + 100) == 0
    assert not again.should_roll(10, 40, -1, NOW + 10_000)
    assert again.should_roll(10, 40 + 2**31, -1, NOW)


@pytest.mark.kafka("SEG-08")
def test_truncating_to_nothing_begins_anew(place: Place, segment: Segment) -> None:
    put(segment, 40, 2, timestamp=-1)
    assert segment.waited_ms(-1, NOW + 500) == 500
    assert segment.truncate_to(0, NOW + 500) > 0
    assert (segment.size, place.sizes()["log"]) == (0, 0)
    assert segment.waited_ms(-1, NOW + 500) == 0
    assert not segment.indexes.are_full
    assert (offsets_from(segment, 0), segment.first_timestamp) == (None, None)
    put(segment, 40, 2)
    assert offsets_from(segment, 40) == [40, 41]


@pytest.mark.kafka("SEG-17")
def test_truncating_in_a_gap_drops_what_is_above(segment: Segment) -> None:
    put(segment, 40)
    put(segment, 43)
    segment.truncate_to(41, NOW)
    assert offsets_of(segment) == [40]


def test_a_batch_that_holds_the_offset_goes_as_a_whole(segment: Segment) -> None:
    put(segment, 40, 3)
    dropped = len(put(segment, 43, 3))
    assert segment.truncate_to(44, NOW) == dropped
    assert (offsets_of(segment), segment.next_offset()) == ([40, 41, 42], 43)


@pytest.mark.kafka("FILE-06")
def test_truncating_at_or_behind_the_end_touches_no_batch(memory: Place) -> None:
    segment = memory.create(0)
    first = put(segment, 0)
    put(segment, 1)
    seen: list[str] = []
    assert isinstance(memory.fs, MemoryFileSystem)
    memory.fs.fail_on(lambda one: bool(seen.append(one.path)), OSError(5, "never raised"))
    for offset in (2, 3, 2**40):
        assert segment.truncate_to(offset, NOW) == 0
    assert seen == []
    segment.truncate_to(1, NOW)
    assert memory.read(segment.path.name) == first


@pytest.mark.parametrize("state", ["active", "mapped", "sealed", "reopened"])
def test_every_truncation_leaves_exactly_what_is_below(
    place: Place, state: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if state == "mapped":
        monkeypatch.setattr(log_file, "_MAP_STEP", 1)
    for cut in range(38, 62):
        segment = place.create(40)
        data = b"".join(put(segment, offset, 3, timestamp=1000 - offset) for offset in range(40, 61, 3))
        views = [segment.slice(0, segment.size)]
        if state in ("sealed", "reopened"):
            place.sealed(segment)
            views.append(segment.slice(0, segment.size))
        if state == "reopened":
            segment = place.existing(40)
            views.append(segment.slice(0, segment.size))
        kept = max((cut - 40) // 3, 0) * 3 if cut < 61 else 21
        segment.truncate_to(cut, NOW)
        assert segment.is_active
        assert offsets_of(segment) == list(range(40, 40 + kept))
        assert (segment.max_timestamp, segment.offset_of_max) == ((960, 42) if kept else (-1, 40))
        assert all(view == data for view in views)
        for offset in range(40 + kept, 70):
            put(segment, offset, timestamp=2000 + offset)
        place.sealed(segment)
        assert offsets_of(segment) == list(range(40, 70))
        assert (segment.max_timestamp, place.existing(40).max_timestamp) == (2069, 2069)
        assert place.alarms(tmp_path / f"{cut}") == []
        for path in segment.files():
            place.fs.unlink(path, missing_ok=True)


def test_a_truncated_segment_finds_its_largest_time_again_without_entries_for_it(place: Place) -> None:
    segment = place.create(0, LogConfig(index_interval_bytes=10**6))
    for offset, timestamp in enumerate((5, 9, 7, 20, 1)):
        put(segment, offset, timestamp=timestamp)
    segment.truncate_to(3, NOW)
    assert (segment.max_timestamp, segment.offset_of_max) == (9, 1)
    segment.truncate_to(1, NOW)
    assert (segment.max_timestamp, segment.offset_of_max) == (5, 0)


def test_truncation_drops_aborted_transactions_too(segment: Segment) -> None:
    put(segment, 40)
    put(segment, 41)
    segment.transaction_index.append(AbortedTransaction(1, 40, 40, 40))
    segment.transaction_index.append(AbortedTransaction(1, 41, 41, 41))
    segment.truncate_to(41, NOW)
    assert [one.last_offset for one in segment.transaction_index.entries()] == [40]


def test_a_truncation_that_replaces_the_file_is_durable(memory: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file, "_MAP_STEP", 1)
    segment = memory.create(0)
    first = put(segment, 0)
    put(segment, 1)
    segment.sync()
    memory.fs.sync_directory(memory.path)
    view = segment.slice(0, segment.size)
    segment.truncate_to(1, NOW)
    assert isinstance(memory.fs, MemoryFileSystem)
    assert memory.fs.crash("nothing").read_bytes(segment.path) == first
    assert len(view) == 2 * len(first)
