"""Rounds of cleaning over plain data: what stays, how far a round gets, what it reports, and what ends it."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.cleaning import COMPACTED, RETENTION_MS, SLOT, Compacted, key
from helpers.open_logs import PLACE, START, from_leader

from logstore.cleaner import Cleaner, CleaningStats
from logstore.config import LogConfig
from logstore.errors import CleaningAbortedError, DamagedLogError, MapTooSmallError, UnkeyedRecordsError
from logstore.log import Log
from logstore.records import Codec

CODECS = list(Codec)


@pytest.fixture
def log() -> Compacted:
    return Compacted()


# ---------------------------------------------------------------- data


@pytest.mark.kafka("CLEAN-42")
def test_of_the_segment_that_holds_the_bound_nothing_is_cleaned(log: Compacted) -> None:
    for number in range(4):
        log.each(1, 2, number + 10).roll()
    before = log.files(".log")
    stats = log.clean(uncleanable_offset=7)
    assert (stats.uncleanable_offset, stats.end_offset) == (6, 6)
    assert log.keys[:4] == [10, 1, 2, 11]
    for base in (6, 9, 12):
        name = f"{base:020d}.log"
        assert log.files(".log")[name] == before[name]


@pytest.mark.kafka("CLEAN-43")
def test_gaps_do_not_hold_a_round_up(log: Compacted) -> None:
    for start in (0, 15):
        log.replicate(from_leader(start, 10))
        log.log._writer.roll(start + 15)
    log.replicate(from_leader(30))
    stats = log.clean(drops_unkeyed=True)
    assert (log.bases, stats.end_offset, log.log.cleaner_point) == ([0, 30], 30, 30)


@pytest.mark.kafka("CLEAN-46")
def test_a_round_tells_what_it_has_read_and_written(log: Compacted) -> None:
    log.each(0, 1, 0, 1, 0).roll()
    size = log.log.size
    stats = log.clean(room=4, first_dirty_offset=2)
    assert (stats.first_dirty_offset, stats.end_offset, stats.is_complete) == (2, 5, True)
    assert (stats.records_before, stats.records_after, stats.superseded, stats.unkeyed) == (5, 2, 3, 0)
    assert (stats.bytes_read, stats.bytes_before, stats.bytes_after) == (size, size, log.log.size)
    assert (stats.map_keys, stats.map_records, stats.map_bytes) == (2, 3, size)
    assert (stats.batches_verbatim, stats.batches_dropped, stats.batches_reencoded) == (2, 3, 0)
    assert (stats.segments_before, stats.segments_after, stats.segments_untouched, stats.groups) == (1, 1, 0, 1)
    assert stats.has_changed


@pytest.mark.kafka("CLEAN-47")
def test_a_small_map_takes_more_rounds(log: Compacted) -> None:
    log.each(0, 1, 0, 1, 0).roll()
    for first, left in ((2, [1, 2, 3, 4]), (3, [2, 3, 4]), (4, [3, 4])):
        stats = log.clean(room=2, first_dirty_offset=first)
        assert (stats.end_offset, log.offsets) == (first + 1, left)


def test_rounds_follow_each_other_until_all_is_clean(log: Compacted) -> None:
    log.each(*range(10), *range(10)).roll()
    rounds = Cleaner(5 * SLOT).clean_fully(log.log, now_ms=START)
    assert [one.end_offset for one in rounds] == [3, 6, 9, 12, 15, 18, 20]
    assert [one.is_complete for one in rounds] == [False] * 6 + [True]
    assert (log.offsets, log.log.cleaner_point) == (list(range(10, 20)), 20)


@pytest.mark.kafka("CLEAN-48")
def test_of_deleted_keys_no_value_is_left(log: Compacted) -> None:
    log.each(*range(1, 20)).roll().each(*(-number for number in range(2, 20, 2))).roll().each(*range(100, 120)).roll()
    log.clean()
    assert log.keys == [*range(1, 20, 2), *range(100, 120)]


@pytest.mark.kafka("CLEAN-49")
def test_record_timestamps_do_not_say_when_a_tombstone_goes(log: Compacted) -> None:
    log.add(1, timestamp=START + 3_000_000).roll()
    log.clean()
    log.add(-1, timestamp=1).add(2).roll()
    for _ in range(3):
        log.clean()
        first = next(iter(log.log.records()))
        assert (first.key, first.value, first.timestamp) == (key(1), None, 1)


def test_a_tombstone_goes_in_a_round_after_its_horizon(log: Compacted) -> None:
    log.each(1, -1, 2).roll()
    assert log.clean().tombstones_kept == 1
    assert log.batches()[0].delete_horizon_ms == START + RETENTION_MS
    stats = log.clean(at=START + RETENTION_MS - 1)
    assert (stats.tombstones_kept, stats.has_changed, stats.end_offset) == (1, False, 3)
    stats = log.clean(at=START + RETENTION_MS)
    assert (stats.tombstones_expired, log.offsets, log.ends) == (1, [2], [2])


def test_a_tombstone_in_front_of_what_is_mapped_gets_no_horizon_yet(log: Compacted) -> None:
    # Else it might go in the round that removes the value it deletes (Q1).
    log.each(1, 2, -3).roll()
    log.clean(room=2)
    assert [one.delete_horizon_ms for one in log.batches()] == [None] * 3
    log.clean(room=4)
    assert [one.delete_horizon_ms for one in log.batches()] == [None, None, START + RETENTION_MS]


@pytest.mark.kafka("CLEAN-50")
def test_records_without_a_key_go_only_where_that_is_wished() -> None:
    log = Compacted(LogConfig()).each(None, None).roll().each(None, 1).roll().each(1, 2).roll()
    before = log.files(".log")
    with pytest.raises(UnkeyedRecordsError, match="3 records have no key"):
        log.clean()
    assert log.files(".log") == before
    unkeyed = sum(one.header.size for one in log.batches() if one.records()[0].key is None)
    stats = log.clean(drops_unkeyed=True)
    assert (stats.unkeyed, log.keys) == (3, [1, 2])
    assert stats.bytes_before - stats.bytes_after == unkeyed + 70  # and a superseded one


@pytest.mark.kafka("CLEAN-51")
def test_where_no_record_is_left_the_last_batch_stays_empty(log: Compacted) -> None:
    for _ in range(3):
        log.each(-1, -2).roll()
    log.clean_twice()
    (left,) = log.batches()
    assert (left.header.count, left.last_offset, left.header.size) == (0, log.log.segments[-1].base_offset - 1, 61)
    assert log.reopen(forgets=True).log.log_end_offset == 6


@pytest.mark.kafka("CLEAN-52")
def test_preallocated_segments_are_cut_to_what_is_in_them() -> None:
    log = Compacted(LogConfig(cleanup_policy=frozenset({"compact"}), preallocate=True, segment_bytes=10_000))
    log.each(1, 1, 2).roll().clean()
    assert len(log.files(".log")["00000000000000000000.log"]) == log.log.size == sum(
        one.header.size for one in log.batches()
    )


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.kafka("CLEAN-53")
def test_what_readers_find_is_the_same_with_every_codec(codec: Codec) -> None:
    log = Compacted(LogConfig(cleanup_policy=frozenset({"compact"}), segment_bytes=6000))
    for _ in range(3):
        for start in range(1, 101, 10):
            log.add(*range(start, start + 10), codec=codec)
    for _ in range(2):
        found, size = log.found, log.log.size
        log.roll()
        stats = log.clean()
        assert log.found == found
        assert log.log.size < size
        assert stats.batches_reencoded + stats.batches_verbatim >= 10
        log.log.append([(key(7), b"x" * 5000)], codec=codec)
        log.add(1, 2, 3, codec=codec)
        found = log.found
    assert {batch.codec for batch in log.batches()} == {codec}
    log.log.close()


def test_nothing_is_written_where_nothing_changes(log: Compacted) -> None:
    log.each(1, 2, 3).roll()
    before = log.files("0.log")
    log.place.fs.fail_on(lambda one: ".cleaned" in one.path, OSError(28, "No space left"))
    stats = log.clean()
    assert (stats.has_changed, stats.segments_untouched, log.files("0.log")) == (False, 1, before)


def test_a_segment_that_changes_in_its_middle_keeps_what_is_in_front(log: Compacted) -> None:
    log.each(*range(1, 200)).each(5000, 5000, 6000).roll()
    before = [one.raw.tobytes() for one in log.batches()]
    log.clean(window_bytes=300)
    assert [one.raw.tobytes() for one in log.batches()] == before[:199] + before[200:]


# ---------------------------------------------------------------- ranges


def test_what_is_not_decided_and_not_replicated_is_left_alone() -> None:
    log = Compacted(replicated=True)
    log.each(1, 1).roll().each(1, 1).roll()
    log.log.set_high_watermark(3)
    assert log.clean().uncleanable_offset == 2
    log.log.set_high_watermark(4)
    log.producer(1, transactional=True).add(1)
    log.roll().each(1).roll()
    log.log.set_high_watermark(6)
    assert log.clean().uncleanable_offset == 4
    assert log.offsets == [3, 4, 5]


def test_young_segments_are_left_alone(log: Compacted) -> None:
    log.each(1, 1, timestamp=START - 1000).roll().each(1, timestamp=START).roll()
    log.reconfigure(min_compaction_lag_ms=500)
    assert log.clean().end_offset == 2
    assert log.offsets == [1, 2]


def test_the_cleaner_point_is_remembered_and_lowered_by_a_truncation(log: Compacted) -> None:
    log.each(1, 2).roll().each(3).roll()
    assert log.log.cleaner_point is None
    log.clean()
    assert log.log.cleaner_point == 3
    assert log.reopen().log.cleaner_point == 3
    log.log.truncate_to(1)
    assert log.log.cleaner_point == 0
    assert log.reopen().log.cleaner_point == 0


def test_a_log_with_nothing_to_clean_stays_as_it_is(log: Compacted) -> None:
    stats = log.each(1, 1).clean()
    assert (stats.end_offset, stats.segments_before, log.log.cleaner_point) == (0, 0, None)
    stats = log.clean(first_dirty_offset=2)
    assert (stats.segments_before, stats.has_changed, log.offsets) == (0, False, [0, 1])


def test_a_dry_run_finds_out_what_a_round_would_do_and_changes_nothing(log: Compacted) -> None:
    one = log.producer(1, transactional=True)
    one.add(1, 2)
    log.abort(1).each(1, -2, 3, 3, codec=Codec.ZSTD).roll().each(1, 3).roll()
    before = log.files()
    dry = log.clean(dry_run=True)
    assert log.files() == before
    real = log.clean()
    assert log.files() != before
    assert dry.is_dry_run
    names = [name for name in CleaningStats.__slots__ if not name.endswith(("seconds", "dry_run"))]
    assert {name: getattr(dry, name) for name in names} == {name: getattr(real, name) for name in names}


# ---------------------------------------------------------------- what ends a round


@pytest.mark.kafka("CLEAN-81", "CLEAN-82")
def test_batches_larger_than_what_is_read_at_a_time_are_cleaned(log: Compacted) -> None:
    large = b"x" * (1 << 20)
    log.reconfigure(max_message_bytes=2 << 20)
    for number in (1, 1, 2):
        log.log.append([(key(number), large)])
    log.roll()
    stats = log.clean(window_bytes=1024)
    assert (stats.records_after, log.offsets) == (2, [1, 2])
    log.reconfigure(max_message_bytes=1000)
    log.add(2).roll().clean(window_bytes=1024)
    assert log.offsets == [1, 3]


@pytest.mark.parametrize("position", [16, 40, 65], ids=["magic", "header", "record"])
@pytest.mark.parametrize("codec", [Codec.NONE, Codec.GZIP])
@pytest.mark.kafka("CLEAN-83")
def test_a_damaged_batch_leaves_the_whole_log_as_it_is(log: Compacted, position: int, codec: Codec) -> None:
    log.each(1, 1).roll().each(2, 2, codec=codec).roll().each(1, 2).roll()
    log.log.close()
    log.place.flip("00000000000000000002.log", position)
    log.log = log.place.open(log.config)
    before = log.files(".log")
    with pytest.raises(DamagedLogError, match="cannot be cleaned") as caught:
        log.clean()
    assert (caught.value.path, caught.value.position) == (str(PLACE / "00000000000000000002.log"), 0)
    assert log.files(".log") == before
    assert log.log.cleaner_point is None
    assert log.place.names(".cleaned") == []


@pytest.mark.kafka("CLEAN-84")
def test_a_segment_that_ends_inside_a_batch_is_damage(log: Compacted) -> None:
    log.log.append([(b"1", b"x" * 5000)])
    log.roll().add(1).roll()
    log.log.close()
    log.place.fs.write_bytes(PLACE / "00000000000000000000.log", log.files(".log")["00000000000000000000.log"][:1024])
    log.log = log.place.open(log.config)
    with pytest.raises(DamagedLogError, match="inside a batch"):
        log.clean()


@pytest.mark.kafka("CLEAN-85")
@pytest.mark.parametrize("after", range(12))
def test_a_round_that_is_called_off_leaves_no_file_behind(log: Compacted, after: int) -> None:
    log.each(1, 2, 1).roll().each(2, 3).roll().reconfigure(segment_bytes=100)
    found, polls = log.found, iter(range(after))
    with pytest.raises(CleaningAbortedError, match="called off"):
        log.clean(is_cancelled=lambda: next(polls, None) is None, window_bytes=61)
    assert (log.place.names(".cleaned"), log.found, log.log.cleaner_point) == ([], found, None)
    log.clean()
    assert log.found == found


def test_too_little_memory_is_refused(log: Compacted) -> None:
    before = log.each(1, 1).roll().files()
    with pytest.raises(MapTooSmallError):
        log.clean(room=1)
    with pytest.raises(ValueError, match="60 bytes do not hold"):
        Cleaner(window_bytes=60)
    assert log.files() == before


def test_a_log_that_is_cut_meanwhile_is_left_alone(log: Compacted) -> None:
    log.each(1, 1, 2).roll().each(1).roll()
    done: list[int] = []

    def cut(size: int) -> None:
        if not done:
            log.log.truncate_to(1)
        done.append(size)

    with pytest.raises(CleaningAbortedError):
        log.clean(on_progress=cut)
    assert (log.offsets, log.place.names(".cleaned")) == ([0], [])


def test_progress_and_limit_count_what_is_read_and_written(log: Compacted) -> None:
    log.each(1, 1, 2).roll()
    told: list[int] = []
    stats = log.clean(on_progress=told.append, bytes_per_second=1e9)
    assert sum(told) == stats.map_bytes + stats.bytes_read + stats.bytes_after


def test_indexes_of_cleaned_segments_are_those_of_a_recovery(tmp_path: Path) -> None:
    log = Compacted(LogConfig(cleanup_policy=frozenset({"compact"}), index_interval_bytes=200))
    log.each(*range(1, 40), *range(20, 60)).roll()
    modified = log.log.segments[0].modified_ms
    log.place.clock.advance(5000)
    log.clean()
    assert log.log.segments[0].modified_ms == modified
    before = log.files("0000.index") | log.files("0000.timeindex")
    assert len(before["00000000000000000000.index"]) > 8
    log.log.close()
    for name in before:
        log.place.fs.unlink(PLACE / name)
    log.place.open(log.config).close()
    assert log.files("0000.index") | log.files("0000.timeindex") == before
    assert log.place.alarms(tmp_path) == []


def test_a_log_shows_what_it_is() -> None:
    assert repr(Cleaner(1000)) == "<Cleaner with 1000 bytes for the map>"
    assert isinstance(Compacted(COMPACTED).log, Log)
