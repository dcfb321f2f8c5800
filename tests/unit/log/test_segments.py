"""The segments of a log: a map by base offset, files that are deleted or replaced, and a log that consists of them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from helpers.segments import FILE_SYSTEMS, NOW, Place, batch, offsets_from, offsets_of, put, read_while

from logstore import names
from logstore.config import INT64_MAX, LogConfig
from logstore.errors import LogLockedError
from logstore.log import Log
from logstore.log.segment import Segment
from logstore.log.segments import Segments
from logstore.log.transaction_index import AbortedTransaction
from logstore.records import iter_batches
from logstore.testing import ManualClock, MemoryFileSystem, SimulatedCrash

FULL = OSError(28, "No space left on device")


@pytest.fixture(params=FILE_SYSTEMS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place.on(request.param, tmp_path)


@pytest.fixture
def memory(tmp_path: Path) -> Place:
    return Place.on("memory", tmp_path)


def segments_of(place: Place, *bases: int) -> Segments:
    segments = Segments(place.fs, place.path)
    for base in bases:
        segments.add(place.create(base))
    return segments


def bases_of(found: Segments | tuple[Segment, ...]) -> list[int]:
    return [segment.base_offset for segment in found]


def base_of(segment: Segment | None) -> int | None:
    return None if segment is None else segment.base_offset


# ---------------------------------------------------------------- the map


@pytest.mark.kafka("SEGMAP-01")
def test_segments_are_a_map_by_base_offset_in_order(place: Place) -> None:
    segments = segments_of(place, 5, 1, 3)
    assert (bases_of(segments), segments.bases, len(segments)) == ([1, 3, 5], (1, 3, 5), 3)
    assert (segments.first.base_offset, segments.active.base_offset) == (1, 5)
    assert (3 in segments, 2 in segments, base_of(segments.get(3)), segments.get(4)) == (True, False, 3, None)
    other = place.existing(3)
    old = segments.get(3)
    assert segments.add(other) is old
    assert (segments.get(3), len(segments)) == (other, 3)
    assert segments.remove(3) is other
    assert (segments.remove(3), segments.remove(9), bases_of(segments)) == (None, None, [1, 5])
    segments.load([])
    assert (len(segments), bases_of(segments)) == (0, [])
    for ask in (lambda: segments.first, lambda: segments.active):
        with pytest.raises(IndexError):
            ask()


@pytest.mark.kafka("SEGMAP-02")
def test_a_range_of_offsets_has_the_segments_it_touches(place: Place) -> None:
    segments = segments_of(place, 1, 2, 3, 4)
    ranges = {(1, 2): [1], (1, 4): [1, 2, 3], (2, 4): [2, 3], (4, 4): [], (4, 5): [4], (0, 3): [1, 2], (0, 1): []}
    assert {wanted: bases_of(segments.values(*wanted)) for wanted in ranges} == ranges
    with pytest.raises(ValueError, match="ends before it begins"):
        segments.values(2, 1)


@pytest.mark.kafka("READ-10")
def test_the_segments_of_a_range_begin_with_the_one_that_holds_its_first_offset(place: Place) -> None:
    segments = segments_of(place, 0, 10, 20)
    ranges = {(10, 10): [], (0, 21): [0, 10, 20], (1, 5): [0], (13, 21): [10, 20], (13, 17): [10]}
    assert {wanted: bases_of(segments.values(*wanted)) for wanted in ranges} == ranges


@pytest.mark.kafka("SEGMAP-03", "LOCAL-12")
def test_the_segments_that_are_not_active_begin_with_the_one_of_an_offset(place: Place) -> None:
    segments = segments_of(place, *range(6))
    found = [bases_of(segments.non_active_from(offset)) for offset in (0, 2, 5, 6)]
    assert found == [[0, 1, 2, 3, 4], [2, 3, 4], [], []]
    assert segments_of(place).non_active_from(0) == ()


@pytest.mark.kafka("SEGMAP-04")
def test_neighbours_are_found_by_offset(place: Place) -> None:
    segments = segments_of(place, 1, 3, 5, 7)
    assert [base_of(segments.floor(offset)) for offset in (0, 1, 2, 3, 99)] == [None, 1, 1, 3, 7]
    assert [base_of(segments.lower(offset)) for offset in (1, 3, 4, 99)] == [None, 1, 3, 7]
    assert [base_of(segments.higher(offset)) for offset in (0, 4, 5, 7)] == [1, 5, 7, None]
    assert [bases_of(segments.above(offset)) for offset in (0, 3, 7)] == [[1, 3, 5, 7], [5, 7], []]
    assert [bases_of(segments.from_floor(offset)) for offset in (0, 4, 7, 8)] == [[1, 3, 5, 7], [3, 5, 7], [7], [7]]


@pytest.mark.kafka("SEGMAP-05")
def test_sizes_add_up_beyond_32_bits(place: Place) -> None:
    segments = segments_of(place, 0, 1)
    for segment in segments:
        segment.size = 2**31 - 1
    assert segments.size == 2**32 - 2


@pytest.mark.kafka("SEGMAP-06")
def test_segments_follow_their_directory(place: Place) -> None:
    segments = segments_of(place, 0, 3)
    put(segments.first, 0)
    segments.doom(gone := place.create(9), NOW)
    target = place.path.with_name("orders-1")
    place.fs.rename(place.path, target)
    files = place.fs.list(target)
    segments.move_to(target)
    assert place.fs.list(target) == files
    assert segments.directory == target
    assert {path.parent for segment in segments for path in segment.files()} == {target}
    assert offsets_of(segments.first) == [0]
    assert segments.purge(NOW) == 1
    assert gone.path.name not in place.fs.list(target)


def test_a_walk_over_segments_is_not_disturbed_by_changes(place: Place) -> None:
    segments = segments_of(place, 0, 3, 6)
    seen = []
    for segment in segments:
        segments.remove(segment.base_offset)
        seen.append(segment.base_offset)
    assert (seen, len(segments)) == ([0, 3, 6], 0)
    assert repr(segments) == f"<Segments 0 of {place.path}>"


# ---------------------------------------------------------------- deletion


@pytest.mark.kafka("LOCAL-07")
def test_what_is_deleted_is_renamed_at_once_and_unlinked_when_it_is_due(place: Place) -> None:
    segments = segments_of(place, 0, 3)
    for segment in tuple(segments):
        put(segment, segment.base_offset)
        segments.remove(segment.base_offset)
        renamed = [path.name for path in segments.doom(segment, NOW + 100 * segment.base_offset)]
        assert [name[20:] for name in renamed] == [".log.deleted", ".index.deleted", ".timeindex.deleted"]
    assert len(segments) == 0
    assert all(name.endswith(".deleted") for name in place.fs.list(place.path))
    assert (segments.purge(NOW - 1), segments.purge(NOW), segments.purge(NOW + 299)) == (0, 3, 0)
    assert len(place.fs.list(place.path)) == 3
    assert segments.purge(NOW + 300) == 3
    assert place.fs.list(place.path) == []


@pytest.mark.kafka("SEG-20")
def test_files_that_are_not_there_do_not_hinder_deletion(place: Place) -> None:
    segments = segments_of(place)
    with_transactions, without = place.create(0), place.create(1)
    for segment in (with_transactions, without):
        put(segment, segment.base_offset)
    with_transactions.transaction_index.append(AbortedTransaction(1, 0, 0, 0))
    assert len(segments.doom(with_transactions, NOW)) == 4
    assert len(segments.doom(without, NOW)) == 3
    place.fs.unlink(without.path)
    segments.purge(NOW)
    assert place.fs.list(place.path) == []


def test_a_purge_that_fails_goes_on_where_it_was(memory: Place) -> None:
    assert isinstance(memory.fs, MemoryFileSystem)
    segments = segments_of(memory)
    for base in (0, 1):
        segments.doom(memory.create(base), NOW)
    memory.fs.fail_on(lambda one: one.kind == "unlink", OSError(5, "Input/output error"), times=1)
    with pytest.raises(OSError, match="Input/output"):
        segments.purge(NOW)
    segments.purge(NOW)
    assert memory.fs.list(memory.path) == []


def test_who_has_a_segment_reads_on_when_it_is_deleted_and_unlinked(place: Place) -> None:
    segments = segments_of(place, 0, 100)
    for segment in segments:
        for offset in range(segment.base_offset, segment.base_offset + 50):
            put(segment, offset)
    place.sealed(segments.first)
    held = tuple(segments)

    def read() -> None:
        for segment in held:
            for offset in (0, 17, 49):
                assert offsets_from(segment, segment.base_offset + offset) == [segment.base_offset + offset]

    def write() -> None:
        for segment in held:
            for _ in range(20):
                put(segments.active, segments.active.base_offset + 50 + _)
            segments.remove(segment.base_offset)
            segments.doom(segment, NOW)
            segments.purge(NOW)
            segments.add(place.create(segment.base_offset))  # another of the same name
            place.maps.clear()

    read_while(read, write)
    read()


# ---------------------------------------------------------------- replacement


def cleaned(place: Place, base_offset: int, *batches: bytes) -> Segment:
    place.write(names.log_file_name(base_offset, names.CLEANED_SUFFIX), b"".join(batches))
    return place.existing(base_offset, suffix=names.CLEANED_SUFFIX)


def test_segments_take_the_place_of_others(place: Place) -> None:
    segments = segments_of(place, 0, 10, 20)
    for segment in segments:
        put(segment, segment.base_offset)
    old = [one for one in segments if one.base_offset < 20]
    new = [cleaned(place, 0, batch(5)), cleaned(place, 7, batch(10))]
    segments.replace(new, old, NOW)
    assert bases_of(segments) == [0, 7, 20]
    assert [offsets_of(segment) for segment in segments] == [[5], [10], [20]]
    assert [offsets_of(segment) for segment in old] == [[0], [10]]
    assert segments.purge(NOW) == 6
    assert [name for name in place.fs.list(place.path) if name.endswith(".log")] == [
        f"{base:020d}.log" for base in (0, 7, 20)
    ]


def test_a_crash_in_a_replacement_leaves_the_old_or_the_new_ones_to_be_found(tmp_path: Path) -> None:
    """What is on disk then is one of the states that a load knows (LOG_SEMANTICS §12)."""
    phases = set()
    for number in range(1, 100):
        place = Place.on("memory", tmp_path)
        fs = place.fs
        assert isinstance(fs, MemoryFileSystem)
        segments = segments_of(place, 0, 10)
        for segment in segments:
            put(segment, segment.base_offset)
            place.sealed(segment)
            segment.sync()
        new = [cleaned(place, 0, batch(0)), cleaned(place, 5, batch(10))]
        fs.sync_directory(place.path)
        fs.stop_at = fs.operations + number
        try:
            segments.replace(new, list(segments), NOW)
        except SimulatedCrash:
            pass
        else:
            assert phases == {"cleaned", "swap", "final"}
            return
        for mode in ("nothing", "everything"):
            after = fs.crash(mode)  # type: ignore[arg-type]
            logs = [name.partition(".")[::2] for name in after.list(place.path) if ".log" in name]
            suffixes = {suffix for _, suffix in logs}
            live = [(int(base), suffix) for base, suffix in logs if suffix in ("log", "log.swap")]
            if "log.cleaned" in suffixes:
                assert [base for base, suffix in live if suffix == "log"] == [0, 10]
                phases.add("cleaned")
            else:
                assert {0, 5} <= {base for base, _ in live}
                phases.add("swap" if "log.swap" in suffixes else "final")


# ---------------------------------------------------------------- a log that consists of them


def open_log(place: Place, config: LogConfig | None = None, clock: ManualClock | None = None) -> Log:
    return Log.open(place.path, config or place.config, fs=place.fs, clock=clock or ManualClock(NOW))


def logs_in(place: Place) -> int:
    return sum(name.endswith(".log") for name in place.fs.list(place.path))


@pytest.mark.kafka("ROLL-01")
def test_records_without_time_roll_by_the_clock_since_the_segment_was_made(place: Place) -> None:
    clock = ManualClock(NOW)
    with open_log(place, LogConfig(segment_ms=1000), clock) as log:
        clock.advance(1001)
        log.append([(None, b"into the empty segment", -1)])
        assert logs_in(place) == 1
        log.append([(None, b"too late", -1)])
        assert logs_in(place) == 2
        for expected in (3, 4, 5):
            clock.advance(1000)
            log.append([(None, b"just in time", -1)])
            assert logs_in(place) == expected - 1
            clock.advance(1)
            log.append([(None, b"too late", -1)])
            assert logs_in(place) == expected


@pytest.mark.kafka("ROLL-02")
def test_a_far_future_time_does_not_roll_a_log_whose_first_batch_has_none(place: Place) -> None:
    with open_log(place, LogConfig(segment_ms=1000, message_timestamp_after_max_ms=INT64_MAX)) as log:
        log.append([(None, b"a", -1)])
        log.append([(None, b"b", NOW + 10**9)])
        assert logs_in(place) == 1


@pytest.mark.kafka("READ-05")
def test_a_read_in_a_gap_at_the_end_of_a_segment_begins_with_the_next_segment(place: Place) -> None:
    for base, last in ((0, 3), (10, 12)):
        place.write(f"{base:020d}.log", batch(base, last - base + 1))
    with open_log(place) as log:
        assert next(iter_batches(log.read(7))).header.base_offset == 10
        assert [record.offset for record in log.records(2)] == [2, 3, 10, 11, 12]


@pytest.mark.parametrize("index_bytes", [4, 12, 24])
def test_indexes_too_small_for_an_entry_still_roll_and_close(place: Place, index_bytes: int, tmp_path: Path) -> None:
    config = LogConfig(segment_index_bytes=index_bytes, index_interval_bytes=0)
    for start in (0, 5):
        with open_log(place, config) as log:
            for number in range(start, start + 5):
                assert log.append([(None, b"x")]).first_offset == number
    assert place.alarms(tmp_path / "exported") == []


def test_a_flush_behind_a_recovery_leaves_sealed_indexes_cut(place: Place) -> None:
    config = LogConfig(segment_bytes=400, index_interval_bytes=0, segment_index_bytes=240)
    log = open_log(place, config)
    for _ in range(20):
        log.append([(None, b"x" * 50)])
    log.flush()
    log._state.hold.release()  # the process is gone
    place.fs.unlink(place.path / ".logstore-state", missing_ok=True)
    log = open_log(place, config)
    log.append([(None, b"x" * 50)])
    log.flush()
    log.roll()
    for segment in log._state.segments.non_active_from(0):
        entries = {path.suffix: place.read(path.name) for path in segment.files()[1:3]}
        assert len(entries[".index"]) < 240 > len(entries[".timeindex"])
        assert any(entries[".timeindex"][-12:])
        assert not segment.indexes.is_open
    log.close()


@pytest.mark.parametrize("mode", ["nothing", "everything", "torn", "metadata", "subset"])
def test_a_power_cut_while_a_closed_log_is_opened_and_written_again_loses_nothing(mode: str, tmp_path: Path) -> None:
    config = LogConfig(segment_bytes=600, index_interval_bytes=100, segment_index_bytes=96)
    for stop_at in range(1, 60):
        place, more = Place.on("memory", tmp_path), 0
        fs = place.fs
        assert isinstance(fs, MemoryFileSystem)
        with open_log(place, config) as log:
            for number in range(9):
                log.append([(b"k", b"value-%d" % number)])
        fs.stop_at = fs.operations + stop_at
        try:
            log = open_log(place, config)
            for _ in range(6):
                log.append([(b"k", b"more")], durability="always")
                more += 1
            log.close()
        except SimulatedCrash:
            pass
        after = Place(fs.crash(mode, seed=stop_at), place.path)  # type: ignore[arg-type]
        with open_log(after, config) as log:
            found = [record.value for record in log.records()]
        assert found[:9] == [b"value-%d" % number for number in range(9)], f"stopped at operation {stop_at}"
        assert 9 + more <= len(found) <= 10 + more, f"stopped at operation {stop_at}"
        assert after.alarms(tmp_path / str(stop_at)) == [], f"stopped at operation {stop_at}"


def test_a_close_that_fails_still_gives_the_lock_back(memory: Place) -> None:
    assert isinstance(memory.fs, MemoryFileSystem)
    log = open_log(memory, LogConfig(index_interval_bytes=0))
    for _ in range(3):
        log.append([(None, b"a")])
    memory.fs.fail_on(lambda operation: operation.kind == "write", FULL)
    with pytest.raises(OSError, match="No space"):
        log.close()
    memory.fs.heal()
    with open_log(memory) as again:
        assert len(list(again.records())) == 3


def test_an_open_that_fails_gives_the_lock_back(memory: Place) -> None:
    assert isinstance(memory.fs, MemoryFileSystem)
    memory.fs.fail_on(lambda operation: operation.path.endswith(".log"), FULL)
    with pytest.raises(OSError, match="No space"):
        open_log(memory)
    memory.fs.heal()
    with open_log(memory) as log, pytest.raises(LogLockedError):
        open_log(memory)
    assert log.log_end_offset == 0


def test_reads_go_on_while_segments_are_rolled(place: Place) -> None:
    log = open_log(place, LogConfig(segment_bytes=200, segment_index_bytes=96))
    log.append([(None, b"x" * 50)])

    def read() -> None:
        end = log.log_end_offset
        for offset in (0, end // 2, end - 1):
            assert next(iter_batches(log.read(offset))).last_offset == offset

    read_while(read, lambda: [log.append([(None, b"x" * 50)]) for _ in range(40)])
    log.close()


def test_reads_go_on_while_the_oldest_segments_are_deleted_at_once(place: Place) -> None:
    log = open_log(place, LogConfig(segment_bytes=200, segment_index_bytes=96, file_delete_delay_ms=0))
    for _ in range(40):
        log.append([(None, b"x" * 50)])
    start = log.log_start_offset
    lock = threading.Lock()

    def read() -> None:
        with lock:
            known = start
        found = log._state.segments.from_floor(known)
        for segment in found[:3]:
            assert offsets_from(segment, segment.base_offset) == [segment.base_offset]

    def write() -> None:
        nonlocal start
        for offset in range(1, 40):
            log.advance_log_start(offset)
            log.delete_before_log_start()
            log.maintain()
            with lock:
                start = offset

    read_while(read, write)
    log.close()
