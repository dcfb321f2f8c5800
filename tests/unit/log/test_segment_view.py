"""The facts about segments that retention and the log cleaner decide by, and the segments that are rewritten."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.open_logs import PLACE, SMALL, START, Place, fill, offsets

from logstore.errors import CleaningAbortedError, DamagedLogError, LogClosedError
from logstore.log import Log
from logstore.log.cleaned_segment import CleanedSegment
from logstore.log.rewriting import SealedSegment
from logstore.records import Record, encode_batch

ROOMY = replace(SMALL, segment_bytes=10_000, file_delete_delay_ms=0)


@pytest.fixture
def place() -> Place:
    return Place()


def three(place: Place) -> Log:
    """Segments at 0, 2 and 4, and an empty one at 6."""
    log = place.open(ROOMY)
    for first in (0, 2, 4):
        fill(log, 2, first=first)
        log.roll()
    return log


def sealed(log: Log) -> tuple[SealedSegment, ...]:
    return log.rewriter.facts().sealed


def made(log: Log, base_offset: int, *kept: int) -> CleanedSegment:
    """A finished segment with records of these offsets."""
    segment = log.rewriter.create(base_offset, 10_000)
    for offset in kept:
        segment.write(encode_batch([Record(offset, START, b"k", b"new")], base_offset=offset))
    segment.finish(START - 5000)
    return segment


# ---------------------------------------------------------------- the facts


def test_each_segment_tells_its_range_and_sizes(place: Place) -> None:
    log = three(place)
    fill(log, 1, first=6)
    found = log.segments
    assert [(one.base_offset, one.end_offset, one.is_active) for one in found] == [
        (0, 2, False), (2, 4, False), (4, 6, False), (6, 7, True),
    ]  # fmt: skip
    assert sum(one.size for one in found) == log.size
    assert all(one.largest_timestamp == one.first_timestamp == START for one in found)
    assert [one.index_bytes for one in found] == [0] * 4
    assert [one.time_index_bytes for one in found] == [12, 12, 12, 0]


def test_entries_count_and_not_the_room_for_more(place: Place) -> None:
    log = place.open(ROOMY)
    fill(log, 8)
    active = log.segments[0]
    assert (active.index_bytes > 0, active.index_bytes % 8, active.time_index_bytes % 12) == (True, 0, 0)
    log.roll()
    assert log.segments[0].index_bytes == active.index_bytes == place.fs.file_size(PLACE / "00000000000000000000.index")


def test_without_timestamps_the_file_tells_the_time(place: Place) -> None:
    log = place.open(ROOMY)
    log.roll()
    log.append([(b"k", b"v")], timestamp=-1)
    place.clock.advance(500)
    log.roll()
    first, empty = log.segments
    assert (first.first_timestamp, first.largest_timestamp, first.modified_ms) == (-1, START, START)
    assert (empty.first_timestamp, empty.size, empty.largest_timestamp) == (-1, 0, START + 500)


def test_missing_indexes_have_no_bytes(place: Place) -> None:
    three(place).close()
    log = place.open(ROOMY)
    place.fs.unlink(PLACE / "00000000000000000000.timeindex")
    assert (log.segments[0].time_index_bytes, log.segments[0].index_bytes) == (0, 0)


# ---------------------------------------------------------------- rewriting


def test_a_finished_segment_has_all_that_belongs_to_one(place: Place, tmp_path: Path) -> None:
    log = three(place)
    made(log, 0, 1, 3)
    assert place.names(".cleaned") == [f"{0:020d}.{kind}.cleaned" for kind in ("index", "log", "timeindex")]
    assert place.fs.modified_ms(PLACE / f"{0:020d}.log.cleaned") == START - 5000
    log.close()
    log = place.open(ROOMY)
    assert place.names(".cleaned") == []
    assert offsets(log) == list(range(6))
    log.close()
    assert place.alarms(tmp_path) == []


def test_new_segments_take_the_place_of_old_ones(place: Place) -> None:
    log = three(place)
    log.rewriter.replace([made(log, 0, 1), made(log, 3, 3)], sealed(log)[:2])
    assert [one.base_offset for one in log.segments] == [0, 3, 4, 6]
    assert offsets(log) == [1, 3, 4, 5]
    assert repr(log.rewriter) == f"<LogRewriter of {PLACE}>"


def test_segments_may_go_without_new_ones(place: Place) -> None:
    log = three(place)
    log.rewriter.replace([], sealed(log)[1:])
    assert ([one.base_offset for one in log.segments], offsets(log)) == ([0, 6], [0, 1])
    assert log.log_end_offset == 6
    log.maintain()
    assert place.names(".deleted") == []
    assert [int(name[:20]) for name in place.names(".snapshot")] == [6]


def test_what_was_cut_meanwhile_is_not_replaced(place: Place) -> None:
    log = three(place)
    old = sealed(log)
    assert log.rewriter.is_intact(old)
    log.truncate_to(3)
    assert not log.rewriter.is_intact(old)
    with pytest.raises(CleaningAbortedError, match="not there any more"):
        log.rewriter.replace([made(log, 0, 1)], old)
    assert offsets(log) == [0, 1, 2]
    log.close()
    with pytest.raises(LogClosedError):
        log.rewriter.replace([], old)


def test_what_retention_has_deleted_at_the_begin_is_left_to_it(place: Place) -> None:
    log = three(place)
    old = sealed(log)
    log.advance_log_start(2)
    log.delete_before_log_start()
    assert log.rewriter.is_intact(old)
    log.rewriter.replace([made(log, 0, 3)], old)
    assert ([one.base_offset for one in log.segments], offsets(log)) == ([0, 6], [3])


def test_what_is_no_segment_is_not_finished(place: Place) -> None:
    log = three(place)
    segment = log.rewriter.create(0, 10_000)
    segment.write(b"?" * 100)
    with pytest.raises(DamagedLogError) as caught:
        segment.finish(START)
    assert caught.value.position == 0
    segment.discard()
    assert place.names(".cleaned") == []


def test_a_segment_knows_what_fits(place: Place) -> None:
    segment = three(place).rewriter.create(100, 500)
    assert (segment.fits(100, 5000), segment.fits(100 + 2**31 - 1, 10), segment.fits(100 + 2**31, 10)) == (
        True, True, False,
    )  # fmt: skip
    segment.write(b"x" * 200)
    assert (segment.fits(101, 300), segment.fits(101, 301)) == (True, False)
    assert repr(segment) == "<CleanedSegment 100 size 200>"
