"""The map from keys to their latest offsets: its memory, and how it is built from a log (CLEANER §3)."""

from __future__ import annotations

import pytest
from helpers.cleaning import SLOT, Compacted, key
from helpers.open_logs import PLACE, from_leader

from logstore.cleaner import offset_map
from logstore.cleaner.offset_map import MapBuild, OffsetMap, build_map, memory_for
from logstore.cleaner.source import Pace
from logstore.config import LogConfig
from logstore.errors import CleaningAbortedError, DamagedLogError, MapTooSmallError
from logstore.records import BatchOptions, Codec, Record, encode_batch

LEADER = BatchOptions(leader_epoch=0)
PACE = Pace(lambda _: None, lambda: False)


def build(log: Compacted, start: int, end: int, room: int = 1000, pace: Pace = PACE) -> tuple[OffsetMap, MapBuild]:
    """A map of a range, of so many slots."""
    facts = log.log.rewriter.facts()
    sources = [one for one in facts.sealed if one.facts.base_offset < end]
    found = OffsetMap(room * SLOT, bytes(16))
    return found, build_map(found, sources, start, end, facts.aborted, pace, 1 << 20)


# ---------------------------------------------------------------- the memory


@pytest.mark.parametrize("count", [10, 100, 1000, 5000])
@pytest.mark.kafka("CLEAN-01")
def test_every_key_has_its_offset(count: int) -> None:
    found = OffsetMap(48 * count)
    assert all(found.put(key(number), number) for number in range(count))
    assert [found.get(key(number)) for number in range(count)] == list(range(count))
    assert len(found) == count


@pytest.mark.kafka("CLEAN-02")
def test_a_cleared_map_has_no_keys() -> None:
    found = OffsetMap(4000)
    for number in range(10):
        found.put(key(number), number)
    found.clear()
    assert ([found.get(key(number)) for number in range(10)], found.latest, len(found)) == ([-1] * 10, -1, 0)


@pytest.mark.kafka("CLEAN-03", "CLEAN-04")
def test_a_full_map_still_answers_and_its_latest_offset_may_be_raised() -> None:
    found = OffsetMap(32 * SLOT)
    count = found.table.capacity
    assert [found.put(key(number), number) for number in range(count + 1)] == [True] * count + [False]
    assert (found.get(b"absent"), found.get(key(count - 1))) == (-1, count - 1)
    found.latest = 999
    assert [found.get(key(number)) for number in range(count)] == list(range(count))
    assert repr(found) == f"<OffsetMap {count} of {count} keys, complete up to 999>"


@pytest.mark.kafka("CLEAN-05")
def test_the_latest_offset_is_that_of_the_last_put() -> None:
    found = OffsetMap(1000)
    for offset in (5, 7, 30):
        found.put(b"same", offset)
        assert found.latest == offset


@pytest.mark.kafka("CLEAN-06")
def test_utilization_is_the_share_of_slots() -> None:
    found = OffsetMap(10 * SLOT)
    assert found.utilization == 0.0
    for number in range(5):
        found.put(key(number), number)
        assert found.utilization == (number + 1) / 10


@pytest.mark.parametrize("size", [0, 24, 47])
def test_a_map_that_would_not_hold_a_key_is_refused(size: int) -> None:
    with pytest.raises(MapTooSmallError, match="48 bytes or more"):
        OffsetMap(size)


def test_a_map_takes_no_more_memory_than_there_are_offsets() -> None:
    assert memory_for(10**9, 1 << 20) == 1 << 20
    for offsets in (0, 1, 2, 3, 7, 100):
        assert OffsetMap(memory_for(offsets, 1 << 20)).table.capacity >= max(offsets, 1)


# ---------------------------------------------------------------- building


@pytest.mark.kafka("CLEAN-07")
def test_a_map_has_the_keys_of_its_range_and_no_others() -> None:
    log = Compacted()
    for number in range(500):
        log.add(number)
        if number % 100 == 99:
            log.roll()
    for start, end in ((0, 100), (100, 300), (300, 500)):
        found, what = build(log, start, end)
        assert [found.get(key(number)) for number in range(start, end)] == list(range(start, end))
        assert (found.get(key(start - 1)), found.get(key(end))) == (-1, -1)
        assert (len(found), what.end_offset, what.records, what.is_full) == (end - start, end, end - start, False)


@pytest.mark.kafka("CLEAN-08")
def test_offsets_may_lie_far_apart() -> None:
    log = Compacted()
    for offset in (0, 7_206_178):
        log.replicate(encode_batch([Record(offset, 1, key(offset), b"")], base_offset=offset, options=LEADER))
    log.roll()
    found, what = build(log, 0, 7_206_179)
    assert (found.get(key(0)), found.get(key(7_206_178)), found.latest) == (0, 7_206_178, 7_206_178)
    assert what.end_offset == 7_206_179


@pytest.mark.parametrize("codec", [Codec.NONE, Codec.ZSTD])
@pytest.mark.kafka("CLEAN-09")
def test_a_map_that_becomes_full_ends_in_front_of_the_key_it_does_not_hold(codec: Codec) -> None:
    log = Compacted().each(0, 1, 2, 3, 4, codec=codec).roll()
    found, what = build(log, 2, 5, room=3)
    assert [found.get(key(number)) for number in range(5)] == [-1, -1, 2, 3, -1]
    assert (what.end_offset, what.records, what.is_full) == (4, 2, True)


@pytest.mark.parametrize("codec", [Codec.NONE, Codec.GZIP])
def test_a_map_may_become_full_in_the_middle_of_a_batch(codec: Codec) -> None:
    log = Compacted().add(0, 1, 2, 3, codec=codec).roll()
    found, what = build(log, 0, 4, room=3)
    assert (len(found), what.end_offset, what.is_full) == (2, 2, True)
    found, what = build(log, 2, 4, room=4)
    assert ([found.get(key(number)) for number in range(4)], what.end_offset) == ([-1, -1, 2, 3], 4)


def test_a_full_map_takes_not_even_a_key_it_has() -> None:
    log = Compacted().each(1, 1).roll()
    assert build(log, 0, 2, room=2)[1].end_offset == 1


def test_gaps_between_segments_belong_to_what_is_known() -> None:
    log = Compacted()
    log.replicate(from_leader(0)).replicate(from_leader(100)).roll()
    log.log.truncate_to(50)
    log.roll().replicate(from_leader(50, 2)).roll()
    assert log.bases[-2:] == [50, 52]
    assert build(log, 0, 50)[0].latest == 49


def test_records_without_a_key_are_counted() -> None:
    log = Compacted(LogConfig()).add(1, None, 2).each(None, codec=Codec.LZ4).roll()
    found, what = build(log, 0, 4)
    assert (len(found), what.records, what.unkeyed, what.end_offset) == (2, 4, 2, 4)


def test_records_of_aborted_transactions_and_markers_do_not_count() -> None:
    log = Compacted()
    one, two = log.producer(1, transactional=True), log.producer(2, transactional=True)
    one.add(1)
    two.add(2)
    log.abort(1).commit(2).roll()
    found, what = build(log, 0, 4)
    assert ([found.get(key(number)) for number in (1, 2)], len(found), what.end_offset) == ([-1, 1], 1, 4)


@pytest.mark.parametrize("codec", [Codec.NONE, Codec.ZSTD])
def test_damage_below_the_dirty_part_is_found_too(codec: Codec) -> None:
    log = Compacted().each(1, 2, codec=codec).roll().each(3).roll()
    second = log.batches()[0].header.size
    log.log.close()
    log.place.flip("00000000000000000000.log", 100)
    log.log = log.place.open(log.config)
    with pytest.raises(DamagedLogError, match="CRC") as caught:
        build(log, 2, 3)
    assert (caught.value.path, caught.value.position) == (str(PLACE / "00000000000000000000.log"), second)


def test_damage_behind_where_the_map_is_full_is_found_too() -> None:
    log = Compacted().each(1, 2, 3).roll()
    log.log.close()
    log.place.flip("00000000000000000000.log", 200)
    log.log = log.place.open(log.config)
    with pytest.raises(DamagedLogError, match="CRC"):
        build(log, 0, 3, room=2)


def test_building_ends_when_it_is_called_off() -> None:
    log = Compacted().each(1, 2).roll()
    with pytest.raises(CleaningAbortedError, match="called off"):
        build(log, 0, 2, pace=Pace(lambda _: None, lambda: True))


def test_it_begins_small_and_grows_to_what_it_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offset_map, "MEMORY_AT_FIRST", 16 * SLOT)
    found = OffsetMap(64 * SLOT, bytes(16))
    assert found.table.capacity == 12
    assert [found.put(b"%d" % number, number) for number in range(49)] == [True] * 48 + [False]
    assert [found.get(b"%d" % number) for number in range(48)] == list(range(48))
    assert (found.table.capacity, found.larger()) == (48, None)


@pytest.mark.parametrize("codec", [Codec.NONE, Codec.LZ4])
def test_a_map_that_grows_is_the_one_that_was_large_from_the_first(
    codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Compacted()
    for number in range(40):
        log.add(*range(3 * number, 3 * number + 7), codec=codec)
    log.roll()
    at_once = log.clean(dry_run=True)
    monkeypatch.setattr(offset_map, "MEMORY_AT_FIRST", 16 * SLOT)
    grown = log.clean(dry_run=True)
    assert (grown.map_keys, grown.map_records) == (at_once.map_keys, at_once.map_records) == (124, 280)
    assert grown.records_after == at_once.records_after == 124
