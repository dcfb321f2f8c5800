"""New segments in the place of old ones: a crash at any moment, a full disk, readers and retention meanwhile
(CLEANER §5)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import get_args

import pytest
from helpers.cleaning import RETENTION_MS, Compacted
from helpers.open_logs import PLACE, START, Place, from_leader

from logstore.config import LogConfig
from logstore.errors import CleaningAbortedError, LogClosedError
from logstore.log import Log
from logstore.names import classify_file
from logstore.records import BatchOptions, Record, encode_batch
from logstore.testing import CrashMode, SimulatedCrash

CONFIG = LogConfig(cleanup_policy=frozenset({"compact"}), segment_bytes=400, file_delete_delay_ms=1000)
LATER = START + RETENTION_MS + 1
MODES: tuple[CrashMode, ...] = get_args(CrashMode)
LEADER = BatchOptions(leader_epoch=0)


def written(place: Place | None = None) -> Compacted:
    """Groups of several segments, some that nothing is left of, aborted data, markers and tombstones that expire."""
    log = Compacted(CONFIG, place)
    one, two = log.producer(1, transactional=True), log.producer(2, transactional=True)
    for number in range(3):
        log.each(1, 2, 3).roll()
        one.add(4, number + 10)
        log.abort(1) if number % 2 else log.commit(1)
        log.each(-2, 5).roll()
    two.add(1, 20)
    log.commit(2).each(-3).roll()
    log.clean()  # stamps horizons
    log.each(*range(30, 36)).roll()
    log.add(1).log.flush()
    return log


def temporary(log: Compacted) -> list[str]:
    return [name for name in log.place.names() if classify_file(name).temporary_suffix is not None]


def test_a_crash_at_any_moment_leaves_what_readers_see(tmp_path: Path) -> None:
    log = written()
    found = log.found
    log.clean(at=LATER)
    assert log.found == found
    cleaned, bases = log.offsets, log.bases
    number = 0
    while True:
        number += 1
        log = written()
        fs = log.place.fs
        fs.stop_at = fs.operations + number
        try:
            log.clean(at=LATER)
        except SimulatedCrash:
            pass
        else:
            break
        for mode in ("nothing", "subset", MODES[number % len(MODES)]):
            after = Compacted(CONFIG, log.place.crashed(mode, number))
            assert after.found == found, (number, mode)
            assert temporary(after) == []
            assert after.log.log_end_offset == log.log.log_end_offset
            assert after.log.cleaner_point is not None
            after.clean(at=LATER, first_dirty_offset=0)
            assert (after.found, after.offsets) == (found, cleaned), (number, mode)
            after.log.close()
        if number % 10 == 0:
            after = Compacted(CONFIG, log.place.crashed())
            after.log.close()
            assert after.place.alarms(tmp_path / str(number)) == []
    assert number > 60
    assert len(bases) > 2


# ---------------------------------------------------------------- the states that a crash may leave


def states() -> tuple[dict[str, bytes], dict[str, bytes], list[int], list[int]]:
    """The files of three segments and of the one they become, and the offsets in them."""
    log = Compacted(dataclasses.replace(CONFIG, segment_bytes=2000, index_interval_bytes=100))
    for _ in range(3):
        log.each(1, 2, 3).roll()
    log.add(9)
    before, old = log.offsets, segment_files(log, 9)
    log.clean()
    after, new = log.offsets, segment_files(log, 9)
    assert len(old) == 9
    assert len(new) == 3
    log.log.close()
    return old, new, before, after


def segment_files(log: Compacted, end: int) -> dict[str, bytes]:
    kinds = (".log", ".index", ".timeindex")
    return {name: data for name, data in log.files().items() if name.endswith(kinds) and int(name[:20]) < end}


@pytest.mark.parametrize(
    ("old", "log_suffix", "index_suffix", "time_suffix", "is_new"),
    [
        pytest.param("", ".cleaned", ".cleaned", ".cleaned", False, marks=pytest.mark.kafka("CLEAN-91")),
        pytest.param("", ".swap", ".cleaned", ".cleaned", False, marks=pytest.mark.kafka("CLEAN-92")),
        pytest.param("", ".swap", ".swap", ".swap", True, marks=pytest.mark.kafka("CLEAN-93")),
        pytest.param(".deleted", ".swap", ".swap", ".swap", True, marks=pytest.mark.kafka("CLEAN-94")),
        pytest.param(".deleted", "", "", ".swap", True, marks=pytest.mark.kafka("CLEAN-95")),
        pytest.param(".deleted", "", "", "", True, marks=pytest.mark.kafka("CLEAN-96")),
    ],
)
def test_a_load_finishes_a_swap_or_drops_it(
    old: str, log_suffix: str, index_suffix: str, time_suffix: str, is_new: bool, tmp_path: Path
) -> None:
    before, cleaned, all_offsets, left = states()
    log = Compacted(CONFIG)
    for _ in range(3):
        log.each(1, 2, 3).roll()
    log.add(9)
    log.log.close()
    fs = log.place.fs
    fs.unlink(PLACE / ".logstore-clean")
    for name in before:
        fs.unlink(PLACE / name)
        fs.write_bytes(PLACE / (name + old), before[name])
    suffixes = {"log": log_suffix, "index": index_suffix, "timeindex": time_suffix}
    for name, data in cleaned.items():
        fs.write_bytes(PLACE / (name + suffixes[name.partition(".")[2]]), data)
    log.log = log.place.open(log.config)
    assert log.offsets == (left if is_new else all_offsets)
    assert temporary(log) == []
    assert log.reopen().place.alarms(tmp_path) == []


def test_what_lies_between_two_new_segments_is_replaced_too() -> None:
    log = Compacted(CONFIG)
    sets = [(0, 5), (100, 105), (200, 205)]
    for offsets in sets:
        for offset in offsets:
            log.replicate(encode_batch([Record(offset, START, b"k", b"v")], base_offset=offset, options=LEADER))
        log.roll()
    names = [f"{base:020d}.log" for base in log.bases]
    parts = [log.files(".log")[name] for name in names[:3]]
    log.log.close()
    fs = log.place.fs
    fs.unlink(PLACE / ".logstore-clean")
    # The first one ends within the first old segment, the second begins within the last.
    fs.write_bytes(PLACE / (names[0] + ".swap"), parts[0][: len(parts[0]) // 2])
    fs.write_bytes(PLACE / "00000000000000000205.log.swap", parts[2][len(parts[2]) // 2 :])
    log.log = log.place.open(log.config)
    assert log.offsets == [0, 205]


# ---------------------------------------------------------------- others meanwhile


@pytest.mark.kafka("CLEAN-97")
def test_segments_that_retention_deletes_meanwhile_are_left_to_it() -> None:
    log = Compacted(dataclasses.replace(CONFIG, segment_bytes=2000))
    for _ in range(3):
        log.each(1, 2, 3).roll()
    log.each(4).roll()
    found, done = {**log.found}, []

    def delete(size: int) -> None:
        if not done:
            log.log.advance_log_start(6)
            log.log.delete_before_log_start()
        done.append(size)

    log.clean(on_progress=delete)
    assert (log.found, log.offsets) == (found, [6, 7, 8, 9])
    deleted = log.place.names(".log.deleted")
    assert [int(name[:20]) for name in deleted] == [0, 3, 6, 9]
    assert log.reopen().found == found
    assert log.log.log_start_offset == 6


def test_where_retention_deletes_all_of_them_the_round_ends() -> None:
    log = Compacted(CONFIG).each(1, 1).roll().each(1).roll()
    done: list[int] = []

    def delete(size: int) -> None:
        if not done:
            log.log.advance_log_start(3)
            log.log.delete_before_log_start()
        done.append(size)

    with pytest.raises(CleaningAbortedError, match="not there any more"):
        log.clean(on_progress=delete)
    assert (log.bases, log.place.names(".cleaned")) == ([3], [])


def test_readers_in_the_middle_go_on_undisturbed() -> None:
    log = Compacted(dataclasses.replace(CONFIG, segment_bytes=2000))
    for _ in range(4):
        log.each(1, 2, 3).roll()
    records = log.log.records(bytes_max=70)
    data = log.log.fetch(0).data
    before = [next(records).offset for _ in range(2)]
    log.clean()
    log.place.clock.advance(1000)
    log.log.maintain()
    assert bytes(data).count(b"v") == 0
    assert len(bytes(data)) == 210
    after = [one.offset for one in records]
    assert after == sorted(after)
    assert after[-3:] == [9, 10, 11]
    assert before == [0, 1]


def test_deleted_files_wait_for_their_delay() -> None:
    log = Compacted(CONFIG).each(1, 1).roll()
    log.clean()
    assert log.place.names(".deleted")
    log.place.clock.advance(999)
    log.log.maintain()
    assert log.place.names(".deleted")
    log.place.clock.advance(1)
    log.log.maintain()
    assert log.place.names(".deleted") == []


# ---------------------------------------------------------------- failures


@pytest.mark.parametrize("kind", ["write", "sync", "create"])
def test_a_full_disk_leaves_everything_as_it_was(kind: str) -> None:
    log = written()
    found, before, point = log.found, log.files(".log"), log.log.cleaner_point
    log.place.fs.fail_on(
        lambda one: one.kind == kind and ".cleaned" in one.path, OSError(28, "No space left on device")
    )
    with pytest.raises(OSError, match="No space left"):
        log.clean(at=LATER)
    log.place.fs.heal()
    assert (log.files(".log"), log.found, log.log.cleaner_point) == (before, found, point)
    assert [name for name in log.place.names() if ".cleaned" in name] == []
    log.add(1)
    log.roll().clean(at=LATER)
    assert temporary(log) == log.place.names(".deleted")


def test_a_swap_that_fails_takes_the_log_out_of_use_until_it_is_opened_again() -> None:
    log = Compacted(CONFIG).each(1, 1, 2).roll()
    log.place.fs.fail_on(lambda one: one.kind == "rename", OSError(5, "Input/output error"))
    with pytest.raises(OSError, match="Input/output"):
        log.clean()
    log.place.fs.heal()
    with pytest.raises(LogClosedError):
        log.add(1)
    with pytest.raises(LogClosedError):
        log.log.close()
    log.log = log.place.open(CONFIG)
    assert (log.found, temporary(log)) == ({1: b"1", 2: b"2"}, [])


# ---------------------------------------------------------------- segments of no records


@pytest.mark.kafka("CLEAN-80")
def test_segments_that_become_empty_go_but_for_the_first() -> None:
    span = 2**31 - 1
    log = Compacted(CONFIG)
    for number in range(3):
        for offset in (number * span, number * span + span - 1):
            log.replicate(encode_batch([Record(offset, START, b"k", b"v")], base_offset=offset, options=LEADER))
        log.roll()
    assert log.bases == [0, span, 2 * span, 3 * span]
    stats = log.clean()
    assert (stats.groups, stats.segments_before, stats.segments_after) == (3, 3, 2)
    assert [(one.base_offset, one.size > 0) for one in log.log.segments] == [
        (0, False), (2 * span, True), (3 * span, False),
    ]  # fmt: skip
    assert log.offsets == [3 * span - 1]
    assert log.log.log_start_offset == 0
    assert log.reopen().log.log_start_offset == 0
    assert log.offsets == [3 * span - 1]


def test_the_first_segment_says_where_the_log_begins_though_it_is_empty() -> None:
    log = Compacted(dataclasses.replace(CONFIG, segment_bytes=450)).each(*[1] * 6).roll().each(*[1] * 6).roll()
    log.clean()
    assert (log.bases, log.offsets) == ([0, 6, 12], [11])
    assert next(iter(log.log.records(0))).offset == 11
    log.clean()
    assert log.bases == [0, 12]
    assert log.reopen(forgets=True).log.log_start_offset == 0
    assert isinstance(log.log, Log)
    assert log.replicate(from_leader(13)).log.log_end_offset == 14
