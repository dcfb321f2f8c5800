"""Segments that are written: where batches are found, what recovery believes, and a log that consists of them."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.config import INT64_MAX, LogConfig
from logstore.errors import InvalidNameError, LogLockedError
from logstore.fs import LocalFile
from logstore.inspect import CheckOptions, Severity, check, resolve
from logstore.log import Log
from logstore.log.segment import Segment
from logstore.records import Codec, DamageCode, encode_batch, iter_batches
from logstore.testing import ManualClock, MemoryFileSystem, SimulatedCrash

PLACE = Path("/data/orders-0")
BASE = 40
CONFIG = LogConfig(segment_index_bytes=1200, index_interval_bytes=100)
NOW = 1_700_000_000_000


@pytest.fixture
def fs() -> MemoryFileSystem:
    return new_file_system()


@pytest.fixture
def segment(fs: MemoryFileSystem) -> Segment:
    return new_segment(fs)


def new_file_system() -> MemoryFileSystem:
    found = MemoryFileSystem()
    found.make_directory(PLACE)
    for directory in ("/", PLACE.parent, PLACE):
        found.sync_directory(directory)
    return found


def new_segment(fs: MemoryFileSystem, base_offset: int = BASE, config: LogConfig = CONFIG) -> Segment:
    return Segment(fs, PLACE, base_offset, config, NOW, is_new=True)


def opened(fs: MemoryFileSystem, base_offset: int = BASE, config: LogConfig = CONFIG) -> Segment:
    return Segment(fs, PLACE, base_offset, config, NOW, is_new=False)


def put(segment: Segment, offset: int, count: int = 1, *, timestamp: int | None = None) -> bytes:
    """Append a batch with the offsets from `offset` on."""
    at = offset if timestamp is None else timestamp
    data = encode_batch([(b"k", b"value %04d" % (offset + n)) for n in range(count)], base_offset=offset, timestamp=at)
    segment.append(data, offset + count - 1, at, offset + count - 1)
    return bytes(data)


def offsets_from(segment: Segment, offset: int) -> list[int] | None:
    """The offsets of the batch that a read at `offset` begins with, or None."""
    located = segment.locate(offset, segment.size)
    if located is None:
        return None
    batch = next(iter_batches(segment.read_bytes(*located)))
    return [record.offset for record in batch.records()]


def sizes(fs: MemoryFileSystem) -> dict[str, int]:
    """The size of each file of the segment, by what its name ends in."""
    return {name.partition(".")[2]: len(fs.read_bytes(PLACE / name)) for name in fs.list(PLACE) if name[0] != "."}


def alarms(fs: MemoryFileSystem, directory: Path) -> list[str]:
    fs.export(directory)
    found = check(resolve(directory / PLACE.relative_to("/")), CheckOptions())
    return [str(one) for one in found if one.severity != Severity.NOTE]


# ---------------------------------------------------------------- reading


@pytest.mark.kafka("SEG-01")
def test_an_empty_segment_has_nothing_to_read(segment: Segment) -> None:
    assert offsets_from(segment, BASE) is None


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


def test_nothing_is_found_at_or_above_the_limit(segment: Segment) -> None:
    first, _ = put(segment, 40), put(segment, 41)
    assert segment.locate(40, len(first)) == (0, len(first))
    assert segment.locate(41, len(first)) is None
    assert segment.locate(41, len(first) + 70) is None


@pytest.mark.parametrize("interval", [0, 10**6])
def test_batches_larger_than_what_is_read_at_a_time_are_found(fs: MemoryFileSystem, interval: int) -> None:
    segment = new_segment(fs, config=LogConfig(index_interval_bytes=interval, segment_index_bytes=1200))
    for offset in range(40, 52):
        size = 100_000 if offset % 3 == 0 else 10
        data = encode_batch([(None, b"v" * size)] * 2, base_offset=2 * offset, timestamp=1)
        segment.append(data, 2 * offset + 1, 1, 2 * offset + 1)
    assert [offsets_from(segment, offset) for offset in (80, 85, 102)] == [[80, 81], [84, 85], [102, 103]]
    assert offsets_from(segment, 104) is None


# ---------------------------------------------------------------- writing


@pytest.mark.kafka("INDEX-11")
@pytest.mark.parametrize(
    ("base", "last"),
    [(0, -(2**31)), (0, 2**31), (1, 0), (100, 10), (2**31, 0), (2**31, 2**32)],
)
def test_an_offset_out_of_range_of_its_segment_is_refused_and_nothing_written(
    fs: MemoryFileSystem, base: int, last: int
) -> None:
    segment = new_segment(fs, base)
    with pytest.raises(ValueError, match="not in the range"):
        segment.append(encode_batch([(None, b"x")]), last, 0, last)
    assert segment.size == 0
    assert set(sizes(fs).values()) == {0}


def test_no_segment_begins_below_zero(fs: MemoryFileSystem) -> None:
    with pytest.raises(InvalidNameError):
        new_segment(fs, -(2**31))
    assert fs.list(PLACE) == []


def test_entries_are_made_once_more_than_the_interval_was_written(fs: MemoryFileSystem) -> None:
    size = len(encode_batch([(b"k", b"value 0040")], base_offset=40, timestamp=40))
    config = LogConfig(index_interval_bytes=2 * size - 1, segment_index_bytes=1200)
    segment = new_segment(fs, config=config)
    for offset in range(40, 70):
        put(segment, offset)
    assert len(segment.time_index) == len(segment.offset_index) == 14
    segment.sync()
    assert opened(fs, config=config).load_end() == 70


def test_no_index_exists_before_the_first_append(fs: MemoryFileSystem, segment: Segment) -> None:
    assert sizes(fs) == {"log": 0}
    put(segment, 40)
    assert sizes(fs) == {"log": segment.size, "index": 1200, "timeindex": 1200}


def test_sealing_writes_the_last_time_and_cuts_everything_to_what_is_used(
    fs: MemoryFileSystem, segment: Segment
) -> None:
    for offset in range(40, 50):
        put(segment, offset)
    entries = len(segment.offset_index)
    segment.seal()
    assert segment.time_index.last == (49, 49)
    assert sizes(fs) == {"log": segment.size, "index": 8 * entries, "timeindex": 12 * len(segment.time_index)}


@pytest.mark.kafka("SEG-09")
def test_the_end_of_a_segment_is_behind_its_last_batch(fs: MemoryFileSystem, segment: Segment) -> None:
    assert segment.load_end() == 40
    put(segment, 50, 3)
    segment.seal()
    segment.close()
    again = opened(fs)
    assert again.load_end() == 53
    assert (again.max_timestamp, again.max_timestamp_offset, again.first_timestamp) == (50, 52, 50)


@pytest.mark.kafka("SEG-16")
def test_a_preallocated_log_is_full_size_while_open_and_cut_when_sealed(fs: MemoryFileSystem) -> None:
    config = LogConfig(preallocate=True, segment_bytes=512 << 10, segment_index_bytes=1200)
    segment = new_segment(fs, config=config)
    data = put(segment, 40)
    assert sizes(fs)["log"] == 512 << 10
    assert offsets_from(segment, 40) == [40]
    segment.seal()
    segment.close()
    assert fs.read_bytes(segment.path) == data
    assert (opened(fs, config=config).size, offsets_from(opened(fs, config=config), 40)) == (len(data), [40])


def test_a_failed_write_leaves_the_segment_as_it_was(fs: MemoryFileSystem, segment: Segment) -> None:
    put(segment, 40)
    fs.fail_on(lambda operation: operation.kind == "write", OSError(28, "No space left on device"), written=30)
    with pytest.raises(OSError, match="No space"):
        put(segment, 41, timestamp=999)
    fs.heal()
    assert (segment.max_timestamp, offsets_from(segment, 41)) == (40, None)
    put(segment, 41)
    assert offsets_from(segment, 41) == [41]


def test_indexes_that_cannot_be_made_leave_the_segment_empty(fs: MemoryFileSystem, segment: Segment) -> None:
    fs.fail_on(lambda operation: operation.kind == "create", OSError(28, "No space left on device"))
    with pytest.raises(OSError, match="No space"):
        put(segment, 40, timestamp=999)
    fs.heal()
    assert (segment.size, segment.max_timestamp, segment.first_timestamp) == (0, -1, None)
    put(segment, 40)
    assert offsets_from(segment, 40) == [40]


# ---------------------------------------------------------------- recovery


@pytest.mark.kafka("SEG-11")
def test_recovery_makes_a_ruined_offset_index_anew(fs: MemoryFileSystem) -> None:
    segment = new_segment(fs, 0)
    for offset in range(100):
        put(segment, offset)
    segment.close()
    for path in segment.index_paths:
        fs.write_bytes(path, random.Random(1).randbytes(60))
    again = opened(fs, 0)
    found = again.recover()
    assert (found.kept, found.cut, found.reason) == (segment.size, 0, None)
    assert [offsets_from(again, offset) for offset in range(100)] == [[offset] for offset in range(100)]
    assert len(again.offset_index) > 10


@pytest.mark.kafka("SEG-13")
def test_recovery_ends_before_the_batch_that_garbage_begins_in(fs: MemoryFileSystem) -> None:
    dice = random.Random(13)
    segment = new_segment(fs, 0)
    starts = [0, *(put(segment, offset) and segment.size for offset in range(20))]
    whole = fs.read_bytes(segment.path)
    for kept in range(20):
        begin = dice.randrange(starts[kept], starts[kept + 1])
        fs.write_bytes(segment.path, whole[:begin] + dice.randbytes(len(whole) - begin))
        again = opened(fs, 0)
        found = again.recover()
        assert (found.kept, found.cut) == (starts[kept], len(whole) - starts[kept])
        assert found.reason is not None
        assert again.load_end() == kept
        again.close()


def test_a_batch_whose_offsets_go_back_is_not_believed(fs: MemoryFileSystem, segment: Segment) -> None:
    first = put(segment, 40, 3)
    put(segment, 41)
    segment.close()
    found = opened(fs).recover()
    assert (found.kept, found.reason) == (len(first), DamageCode.BATCH_SIZE)


def test_recovery_makes_the_entries_that_appending_made(fs: MemoryFileSystem, segment: Segment) -> None:
    for offset in range(40, 80, 2):
        put(segment, offset, 2)
    segment.sync()
    before = [fs.read_bytes(path) for path in segment.index_paths]
    segment.close()
    again = opened(fs)
    again.recover()
    again.sync()
    assert [fs.read_bytes(path) for path in segment.index_paths] == before


def test_recovery_into_smaller_indexes_leaves_them_sparse(fs: MemoryFileSystem, segment: Segment) -> None:
    for offset in range(40, 140):
        put(segment, offset)
    segment.close()
    again = opened(fs, config=LogConfig(segment_index_bytes=60, index_interval_bytes=100))
    assert again.recover().cut == 0
    assert again.load_end() == 140
    assert [offsets_from(again, offset) for offset in (40, 90, 139)] == [[40], [90], [139]]
    again.seal()
    assert again.time_index.last == (139, 139)


# ---------------------------------------------------------------- a log of segments


def open_log(fs: MemoryFileSystem, config: LogConfig, clock: ManualClock | None = None) -> Log:
    return Log.open(PLACE, config, fs=fs, clock=clock or ManualClock(NOW))


def segments_of(fs: MemoryFileSystem) -> int:
    return sum(name.endswith(".log") for name in fs.list(PLACE))


@pytest.mark.kafka("ROLL-01")
def test_records_without_time_roll_by_the_clock_since_the_segment_was_made(fs: MemoryFileSystem) -> None:
    clock = ManualClock(NOW)
    log = open_log(fs, LogConfig(segment_ms=1000), clock)
    clock.advance(1001)
    log.append([(None, b"into the empty segment", -1)])
    assert segments_of(fs) == 1
    log.append([(None, b"too late", -1)])
    assert segments_of(fs) == 2
    for expected in (3, 4, 5):
        clock.advance(1000)
        log.append([(None, b"just in time", -1)])
        assert segments_of(fs) == expected - 1
        clock.advance(1)
        log.append([(None, b"too late", -1)])
        assert segments_of(fs) == expected


@pytest.mark.kafka("ROLL-02")
def test_a_far_future_timestamp_does_not_roll_where_the_first_batch_has_none(fs: MemoryFileSystem) -> None:
    log = open_log(fs, LogConfig(segment_ms=1000, message_timestamp_after_max_ms=INT64_MAX))
    log.append([(None, b"a", -1)])
    log.append([(None, b"b", NOW + 10**9)])
    assert segments_of(fs) == 1


@pytest.mark.kafka("ROLL-04")
def test_jitter_rolls_earlier_by_at_most_what_is_set(fs: MemoryFileSystem) -> None:
    clock = ManualClock(NOW)
    log = open_log(fs, LogConfig(segment_ms=10_000, segment_jitter_ms=2_000), clock)
    jitter = log._jitter_ms
    log.append([(None, b"a", -1)])
    clock.advance(8_000)
    log.append([(None, b"b", -1)])
    assert segments_of(fs) == 1
    clock.advance(2_000 - jitter + 1)
    log.append([(None, b"c", -1)])
    assert segments_of(fs) == 2


@pytest.mark.kafka("READ-05")
def test_a_read_in_a_gap_at_the_end_of_a_segment_begins_with_the_next_segment(fs: MemoryFileSystem) -> None:
    for base, last in ((0, 3), (10, 12)):
        batch = encode_batch([(None, b"v")] * (last - base + 1), base_offset=base, timestamp=1)
        fs.write_bytes(PLACE / f"{base:020d}.log", batch)
    log = open_log(fs, CONFIG)
    assert next(iter_batches(log.read(7))).header.base_offset == 10
    assert [record.offset for record in log.records(2)] == [2, 3, 10, 11, 12]


@pytest.mark.parametrize("index_bytes", [4, 12, 24])
def test_indexes_too_small_for_an_entry_still_roll_and_close(
    fs: MemoryFileSystem, index_bytes: int, tmp_path: Path
) -> None:
    config = LogConfig(segment_index_bytes=index_bytes, index_interval_bytes=0)
    for start in (0, 5):
        with open_log(fs, config) as log:
            for number in range(start, start + 5):
                assert log.append([(None, b"x")]).first_offset == number
    assert alarms(fs, tmp_path) == []


@pytest.mark.parametrize("mode", ["nothing", "everything", "torn", "metadata", "subset"])
def test_a_power_cut_while_a_closed_log_is_opened_and_written_again_loses_nothing(mode: str, tmp_path: Path) -> None:
    config = LogConfig(segment_bytes=600, index_interval_bytes=100, segment_index_bytes=96)
    for stop_at in range(1, 45):
        fs, more = new_file_system(), 0
        with open_log(fs, config) as log:
            for number in range(9):
                log.append([(b"k", b"value-%d" % number)])
        fs.stop_at = fs.operations + stop_at
        try:
            log = open_log(fs, config)
            for _ in range(6):
                log.append([(b"k", b"more")], durability="always")
                more += 1
            log.close()
        except SimulatedCrash:
            pass
        after = fs.crash(mode, seed=stop_at)  # type: ignore[arg-type]
        with open_log(after, config) as log:
            found = [record.value for record in log.records()]
        assert found[:9] == [b"value-%d" % number for number in range(9)], f"stopped at operation {stop_at}"
        assert 9 + more <= len(found) <= 10 + more, f"stopped at operation {stop_at}"
        assert alarms(after, tmp_path / str(stop_at)) == [], f"stopped at operation {stop_at}"


def test_the_mark_of_a_clean_close_goes_before_anything_else_changes(fs: MemoryFileSystem) -> None:
    with open_log(fs, CONFIG) as log:
        log.append([(None, b"a")])
    kinds: list[tuple[str, str]] = []
    fs.fail_on(lambda one: bool(kinds.append((one.kind, Path(one.path).name))), OSError(5, "never raised"))
    open_log(fs, CONFIG)
    assert kinds[:2] == [("unlink", ".logstore-clean"), ("sync_directory", "orders-0")]


def test_the_names_of_all_directories_that_were_made_are_durable() -> None:
    fs = MemoryFileSystem()
    log = Log.open("/srv/queue/orders-0", fs=fs)
    log.append([(None, b"a")], durability="always")
    again = Log.open("/srv/queue/orders-0", fs=fs.crash("nothing"))
    assert [record.value for record in again.records()] == [b"a"]


def test_a_close_that_fails_still_gives_the_lock_back(fs: MemoryFileSystem) -> None:
    log = open_log(fs, LogConfig(index_interval_bytes=0))
    for _ in range(3):
        log.append([(None, b"a")])
    fs.fail_on(lambda operation: operation.kind == "write", OSError(28, "No space left on device"))
    with pytest.raises(OSError, match="No space"):
        log.close()
    fs.heal()
    with open_log(fs, CONFIG) as again:
        assert again.recovered is not None
        assert len(list(again.records())) == 3


def test_an_open_that_fails_gives_the_lock_back(fs: MemoryFileSystem) -> None:
    fs.fail_on(lambda operation: operation.path.endswith(".log"), OSError(28, "No space left on device"))
    with pytest.raises(OSError, match="No space"):
        open_log(fs, CONFIG)
    fs.heal()
    with open_log(fs, CONFIG) as log, pytest.raises(LogLockedError):
        open_log(fs, CONFIG)
    assert log.log_end_offset == 0


def test_reads_go_on_while_segments_are_rolled(tmp_path: Path) -> None:
    log = Log.open(tmp_path / "orders-0", LogConfig(segment_bytes=200, segment_index_bytes=96))
    log.append([(None, b"x" * 50)])
    failures: list[BaseException] = []
    is_done = threading.Event()

    def read() -> None:
        try:
            while not is_done.is_set():
                assert log.read(log.log_end_offset - 1)
        except BaseException as error:  # noqa: BLE001 - told below, in the thread of the test
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for _ in range(200):
        log.append([(None, b"x" * 50)])
    is_done.set()
    for reader in readers:
        reader.join(10)
    log.close()
    assert failures == []


def test_a_roll_waits_for_a_read_of_the_file_that_it_closes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log.open(tmp_path / "orders-0", LogConfig(segment_bytes=200, segment_index_bytes=96))
    log.append([(None, b"x" * 100)])
    other = threading.Thread(target=log.append, args=([(None, b"y" * 100)],))
    read, read_bytes = LocalFile.read, Segment.read_bytes
    is_last_read = False

    def reading(self: LocalFile, position: int, size: int) -> bytes:
        if is_last_read and other.ident is None:
            other.start()
            other.join(0.2)
        return read(self, position, size)

    def last_read(self: Segment, position: int, size: int) -> bytes:
        nonlocal is_last_read
        is_last_read = True
        return read_bytes(self, position, size)

    monkeypatch.setattr(LocalFile, "read", reading)
    monkeypatch.setattr(Segment, "read_bytes", last_read)
    assert next(iter_batches(log.read(0))).last_offset == 0
    other.join(10)
    assert log.log_end_offset == 2
    log.close()


STEP = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 5), st.sampled_from(list(Codec))),
    st.tuples(st.sampled_from(["sync", "reopen", "crash", "crash", "roll"]), st.none(), st.none()),
    st.tuples(st.just("read"), st.integers(0, 60), st.none()),
)


@given(st.lists(STEP, max_size=25), st.sampled_from([150, 400, 10**6]), st.sampled_from([4, 96, 4096]))
@settings(deadline=None, database=None, max_examples=120)
def test_a_log_behaves_as_a_list_of_which_a_crash_leaves_at_least_what_was_synced(
    steps: list[tuple[str, int | None, Codec | None]], segment_bytes: int, index_bytes: int
) -> None:
    config = LogConfig(segment_bytes=segment_bytes, index_interval_bytes=50, segment_index_bytes=index_bytes)
    fs = new_file_system()
    log, model, synced = open_log(fs, config), list[bytes](), 0
    for what, number, codec in steps:
        if what == "append" and number is not None and codec is not None:
            values = [b"v%d" % (len(model) + n) for n in range(number)]
            assert log.append([(b"k", value) for value in values], codec=codec)[0] == len(model)
            model += values
        elif what == "sync":
            log.flush()
            synced = len(model)
        elif what == "roll" and log._segments[-1].size:
            log._roll()
            synced = len(model)
        elif what == "reopen":
            log.close()
            log, synced = open_log(fs, config), len(model)
            assert log.recovered is None
        elif what == "crash":
            fs = fs.crash("nothing")
            log = open_log(fs, config)
            survived = log.log_end_offset
            assert synced <= survived <= len(model)
            del model[survived:]
        elif what == "read" and number is not None and number <= len(model):
            assert [record.value for record in log.records(number)] == model[number:]
        assert log.log_end_offset == len(model)
    assert [(r.offset, r.value) for r in log.records()] == list(enumerate(model))
