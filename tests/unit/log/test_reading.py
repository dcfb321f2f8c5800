"""Reading a log: slices, fetches and single records, how far each goes, and what damage and others' cuts do to them."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from by_hand import GZIP, LZ4, message, message_set, refresh_crc
from helpers.directories import Partition, alarms, codes, copied, findings, flip_bit, overwrite
from helpers.open_logs import PLACE, SMALL, START, Place, bases, fill, from_leader, offsets, values
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.config import LogConfig
from logstore.errors import DamagedLogError, OffsetOutOfRangeError
from logstore.inspect import DumpOptions, Problem, select_partition
from logstore.inspect.layout import partition_files
from logstore.log import FetchIsolation, Log, LogOffsetMetadata
from logstore.records import BatchOptions, Codec, Record, encode_batch, iter_batches
from logstore.testing import MemoryFileSystem

HIGH_WATERMARK = FetchIsolation.HIGH_WATERMARK
COMMITTED = FetchIsolation.TXN_COMMITTED


@pytest.fixture
def place() -> Place:
    return Place()


@pytest.fixture
def log(place: Place) -> Log:
    return place.open()


# ---------------------------------------------------------------- how far


@pytest.mark.kafka("APPEND-03", "READ-01")
def test_each_offset_reads_its_own_record_and_the_end_reads_nothing(place: Place) -> None:
    log = place.open(SMALL)
    for number in range(50):
        log.append([(None, b"%d" % (2 * number))])
    for offset in range(50):
        first = next(iter_batches(log.read(offset, bytes_max=1)))
        assert [(r.offset, r.key, r.value) for r in first.records()] == [(offset, None, b"%d" % (2 * offset))]
    assert log.read(50) == b""
    assert list(iter_batches(log.read(50))) == list(log.slices(50)) == list(log.records(50)) == []


@pytest.mark.kafka("READ-04")
def test_an_offset_beyond_the_end_or_below_the_start_is_refused(log: Log) -> None:
    fill(log, 3)
    log.advance_log_start(1)
    reads: list[Callable[[int], object]] = [
        log.read,
        lambda offset: log.fetch(offset).data,
        log.get,
        lambda offset: list(log.slices(offset)),
        lambda offset: list(log.records(offset)),
        lambda offset: log.fetch(offset, isolation=HIGH_WATERMARK).data,
    ]
    for read in reads:
        for offset in (-1, 0, 4):
            with pytest.raises(OffsetOutOfRangeError, match=r"not in 1\.\.3"):
                read(offset)
        assert not read(3)
    assert values(log) == [b"1", b"2"]


@pytest.mark.kafka("READ-05")
def test_a_read_in_the_gap_at_the_end_of_a_segment_gives_the_first_batch_of_the_next(place: Place) -> None:
    log = place.open(LogConfig(segment_bytes=2 * len(from_leader(10, 3))))
    for offset in (0, 10, 20):
        log.append_as_follower(from_leader(offset, 3))
    log.roll()
    assert bases(log) == [0, 20, 23]
    for offset in range(13, 23):
        assert next(iter_batches(log.read(offset))).header.base_offset == 20
        assert log.fetch(offset).metadata == (offset, 20, 0)
    assert [log.get(offset) for offset in (3, 9, 13, 19)] == [None] * 4
    assert offsets(log, 13) == [20, 21, 22]


@pytest.mark.kafka("READ-06")
def test_a_read_gives_at_least_one_whole_batch_and_never_part_of_one(log: Log) -> None:
    sizes = [len(log.read(log.append([(None, b"x" * 50)]).first_offset)) for _ in range(3)]
    assert len(log.read(0, bytes_max=1)) == sizes[0]
    assert len(log.read(0, bytes_max=2 * sizes[0] + 5)) == 2 * sizes[0]
    for limit in range(3 * sizes[0] + 10):
        found = log.fetch(0, limit)
        assert len(found.data) == min(max(limit, sizes[0]), sum(sizes))
        assert not found.is_first_entry_incomplete


@pytest.mark.kafka("READ-07")
def test_without_at_least_one_a_fetch_may_end_inside_the_first_batch(log: Log) -> None:
    size = len(log.read(log.append([(None, b"x" * 50)]).first_offset))
    log.append([(None, b"y")])
    whole = log.read(0)
    for limit in range(len(whole) + 1):
        found = log.fetch(0, limit, at_least_one=False)
        assert found.data == whole[:limit]
        assert found.is_first_entry_incomplete == (0 < limit < size)


@pytest.mark.kafka("READ-08")
@pytest.mark.parametrize("codec", [Codec.GZIP, Codec.SNAPPY, Codec.LZ4, Codec.ZSTD])
def test_a_read_inside_a_compressed_batch_begins_with_that_batch(log: Log, codec: Codec) -> None:
    log.append([(None, b"%d" % n) for n in range(2)], codec=codec)
    log.append([(None, b"%d" % n) for n in range(2, 4)], codec=codec)
    assert next(iter_batches(log.read(1))).header.base_offset == 0
    assert next(iter_batches(log.read(3))).header.base_offset == 2
    assert values(log, 3) == [b"3"]
    assert [record.offset for batch in iter_batches(log.read(1)) for record in batch.records()] == [0, 1, 2, 3]


@pytest.mark.kafka("READ-09")
def test_an_offset_is_found_with_its_place_and_one_that_is_not_there_is_not(place: Place) -> None:
    log = place.open()
    fill(log, 3)
    size = log.size // 3
    log.roll()
    fill(log, 2, first=3)
    log.advance_log_start(1)
    find = log._reader.metadata_of
    assert [find(offset) for offset in (1, 2, 3, 4, 5)] == [
        (1, 0, size), (2, 0, 2 * size), (3, 3, 0), (4, 3, size), (5, 3, 2 * size),
    ]  # fmt: skip
    for offset in (-1, 0, 6):
        assert find(offset) == LogOffsetMetadata(offset)
        assert find(offset).is_offset_only


@pytest.mark.kafka("READ-10", "LOCAL-12")
def test_segments_are_found_by_the_range_of_offsets_they_hold(log: Log) -> None:
    for _ in range(2):
        fill(log, 10)
        log.roll()
    segments = log._state.segments

    def found(first: int, end: int) -> list[int]:
        return [segment.base_offset for segment in segments.values(first, end)]

    assert found(10, 10) == []
    assert found(0, 21) == [0, 10, 20]
    assert found(1, 5) == [0]
    assert found(13, 21) == [10, 20]
    assert found(13, 17) == [10]
    with pytest.raises(ValueError, match="ends before it begins"):
        found(10, 0)
    assert [one.base_offset for one in segments.non_active_from(0)] == [0, 10]
    assert [one.base_offset for one in segments.non_active_from(12)] == [10]
    assert segments.non_active_from(20) == segments.non_active_from(25) == ()


@pytest.mark.kafka("LOCAL-10")
def test_a_bounded_fetch_knows_where_the_offset_lies_also_when_it_gives_nothing(place: Place) -> None:
    log = place.open(LogConfig(segment_bytes=2 * 69), replicated=True)
    for number in range(5):
        log.append([(None, b"%d" % number)])
    assert (bases(log), log.size) == ([0, 2, 4], 5 * 69)
    log.set_high_watermark(4)
    found = log.fetch(3, isolation=HIGH_WATERMARK)
    assert [record.offset for batch in iter_batches(found.data) for record in batch.records()] == [3]
    assert found.metadata == (3, 2, 69)
    assert log.fetch(4, isolation=HIGH_WATERMARK)[:2] == ((4, 4, 0), b"")
    assert log.fetch(5, isolation=HIGH_WATERMARK)[:2] == ((5, 4, 69), b"")
    log.set_high_watermark(3)
    assert log.fetch(3, isolation=HIGH_WATERMARK)[:2] == ((3, 2, 69), b"")
    assert log.fetch(4, isolation=HIGH_WATERMARK)[:2] == ((4, 4, 0), b"")


@given(
    counts=st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2), st.booleans()), min_size=1, max_size=12),
    bytes_max=st.integers(0, 400),
)
@settings(deadline=None)
def test_slices_are_all_bytes_and_end_where_batches_end(
    counts: list[tuple[int, int, bool]], bytes_max: int
) -> None:
    log, whole, next_offset = Place().open(LogConfig(index_interval_bytes=100)), bytearray(), 0
    for count, gap, rolls in counts:
        batch = from_leader(next_offset + gap, count)
        log.append_as_follower(batch)
        whole += batch
        next_offset += gap + count
        if rolls:
            log.roll()
    for isolation in FetchIsolation:
        pieces = [bytes(piece) for piece in log.slices(bytes_max=bytes_max, isolation=isolation)]
        assert b"".join(pieces) == whole
        sizes = [[batch.header.size for batch in iter_batches(piece)] for piece in pieces]
        assert [sum(one) for one in sizes] == [len(piece) for piece in pieces]
        assert all(len(one) == 1 or sum(one) <= bytes_max for one in sizes)


# ---------------------------------------------------------------- one record


def test_a_single_record_of_every_codec_format_and_kind(place: Place) -> None:
    log = place.open()
    inner = [message(1, b"k", b"v1", offset=number, timestamp=START) for number in range(3)]
    formats = [
        (message(0, b"k", b"v0", offset=0), 0),
        (message(1, b"k", b"v1", offset=1, timestamp=START), 1),
        (message_set(0, LZ4, *[message(0, b"k", b"v0", offset=n) for n in (2, 3, 4)], offset=4), 4),
        (message_set(1, GZIP, *inner, offset=7, timestamp=START), 7),
    ]
    for data, last in formats:
        log.append_as_follower(data)
        assert log.log_end_offset == last + 1
    for codec in Codec:
        log.append([(b"k", b"%d" % n, START + n) for n in range(3)], codec=codec)
    log.append_batch(encode_batch([(b"k", b"t")], options=_transactional()))
    marker = log.end_transaction(7, 0, commit=True).first_offset
    log.append([(b"k", b"late", 5)], timestamp=5)
    records = {record.offset: record for record in log.records()}
    assert sorted(records) == [*range(marker), marker + 1]
    assert [log.get(offset) for offset in range(log.log_end_offset)] == [
        records.get(offset) for offset in range(log.log_end_offset)
    ]
    assert log.get(marker) is None
    assert [log.get(offset).value for offset in range(8)] == [b"v0", b"v1", b"v0", b"v0", b"v0", b"v1", b"v1", b"v1"]  # type: ignore[union-attr]


def test_a_record_of_a_batch_with_log_append_time_has_that_time(place: Place) -> None:
    log = place.open(LogConfig(message_timestamp_type="LogAppendTime"))
    log.append([(None, b"a", 5), (None, b"b", 6)])
    assert log.get(1) == Record(1, place.clock.now_ms(), None, b"b")
    assert log.get(1) == next(log.records(1))


def test_an_offset_that_compaction_has_taken_from_a_batch_has_no_record(log: Log) -> None:
    kept = [Record(2, START, b"k", b"2"), Record(5, START, b"k", b"5")]
    batch = encode_batch(kept, base_offset=0, last_offset=7, options=BatchOptions(leader_epoch=0))
    log.append_as_follower(batch)
    assert [log.get(offset) for offset in range(8)] == [None, None, kept[0], None, None, kept[1], None, None]
    assert (offsets(log), offsets(log, 3), offsets(log, 6)) == ([2, 5], [5], [])
    assert log.get(8) is None


def test_records_from_the_middle_of_a_compressed_set_of_an_old_format(log: Log) -> None:
    inner = [message(1, b"k", b"%d" % n, offset=n, timestamp=START) for n in range(4)]
    log.append_as_follower(message_set(1, GZIP, *inner, offset=3, timestamp=START))
    assert [offsets(log, offset) for offset in range(5)] == [[0, 1, 2, 3], [1, 2, 3], [2, 3], [3], []]


def _transactional() -> BatchOptions:
    return BatchOptions(producer_id=7, producer_epoch=0, base_sequence=0, is_transactional=True)


# ---------------------------------------------------------------- damage


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A clean directory of three segments of nine batches of two records; the last one is the active one."""
    partition = Partition(tmp_path / "data" / "orders-0")
    for number in range(27):
        if number in (9, 18):
            partition.roll()
        partition.append(b"%d" % (2 * number), b"%d" % (2 * number + 1))
    partition.close()
    return partition.path


def batch_positions(path: Path) -> list[tuple[int, int]]:
    """Position and size of each batch of a log."""
    return [(batch.header.position, batch.header.size) for batch in iter_batches(path.read_bytes(), verify=False)]


def told_and_found(path: Path) -> tuple[list[tuple[str, int]], list[int]]:
    """Damage and offsets as a dump shows them."""
    told, found = [], []
    for one in select_partition(partition_files(path), None, DumpOptions()):
        if isinstance(one, Problem):
            told.append((one.path.name, one.position or 0))
        else:
            found += [record.offset for piece in one.record_pieces() for record in piece]
    return told, found


def open_clean(path: Path, directory: Path) -> Log:
    """A copy of a directory, opened as if it had been closed cleanly: nothing is checked."""
    place = copied(path, directory)
    end = max(offset for offset in range(54)) + 1
    (place / ".logstore-clean").write_text(f"{end}\n")
    (place / ".logstore-state").write_text(f"0\n2\nrecovery_point {end}\nlog_start_offset 0\n")
    log = Log.open(place)
    assert log.recovered is None
    assert log.log_end_offset == end
    return log


@pytest.mark.parametrize("field", ["offset", "size", "magic", "crc", "delta", "body"])
@pytest.mark.parametrize("number", [0, 4, 8])
@pytest.mark.parametrize("segment", [0, 18, 36])
def test_reading_goes_around_damage_as_a_dump_does(
    damaged: Path, tmp_path: Path, segment: int, number: int, field: str
) -> None:
    name = f"{segment:020d}.log"
    log = open_clean(damaged, tmp_path / "copy")
    position, _ = batch_positions(damaged / name)[number]
    byte = {"offset": 0, "size": 8, "magic": 16, "crc": 17, "delta": 23, "body": 70}[field]
    for place in (damaged, log.directory):
        flip_bit(place / name, position + byte, 7 if field == "delta" else 6)  # a last offset below the first
    told: list[DamagedLogError] = []
    found = offsets(log, on_damage=told.append)
    expected_told, expected = told_and_found(damaged)
    if field == "offset":  # of that a dump says nothing
        assert not expected_told
        expected = [offset for offset in expected if offset < 54]
        assert [error.position for error in told] == [position]
    else:
        assert [(Path(error.path or "").name, error.position) for error in told] == expected_told
    assert found == expected
    assert set(range(54)) - set(found) == {segment + 2 * number, segment + 2 * number + 1}
    with pytest.raises(DamagedLogError, match=name):
        values(log)


def test_several_damages_each_are_told_once_and_appending_goes_on_behind_them(damaged: Path, tmp_path: Path) -> None:
    log = open_clean(damaged, tmp_path / "copy")
    chosen = random.Random(7)
    for segment in (0, 18, 36):
        name = f"{segment:020d}.log"
        for position, size in chosen.sample(batch_positions(damaged / name), 4):
            at = position + chosen.choice([8, 12, 16, 17, size - 1])
            for place in (damaged, log.directory):
                overwrite(place / name, at, bytes([(place / name).read_bytes()[at] ^ 0x55]))
    told: list[DamagedLogError] = []
    found = offsets(log, on_damage=told.append)
    expected_told, expected = told_and_found(damaged)
    assert (found, [(Path(error.path or "").name, error.position) for error in told]) == (expected, expected_told)
    log.append([(None, b"behind")])
    assert offsets(log, on_damage=told.append) == [*expected, 54]


def test_a_walk_that_begins_behind_damage_is_not_told_of_it(damaged: Path, tmp_path: Path) -> None:
    log = open_clean(damaged, tmp_path / "copy")
    positions = batch_positions(damaged / "00000000000000000018.log")
    flip_bit(log.directory / "00000000000000000018.log", positions[3][0] + 16, 6)
    told: list[DamagedLogError] = []
    for offset in range(18, 54):
        assert offsets(log, offset, on_damage=told.append)[:1] == [26 if offset in (24, 25) else offset]
        assert [error.position for error in told] == [positions[3][0]] * (offset < 26)
        told.clear()


def test_a_sealed_segment_that_ends_inside_a_batch_is_damage_and_not_a_gap(damaged: Path, tmp_path: Path) -> None:
    log = open_clean(damaged, tmp_path / "copy")
    name = "00000000000000000018.log"
    position, _ = batch_positions(damaged / name)[-1]
    overwrite(log.directory / name, position + 8, (2**20).to_bytes(4, "big"))
    assert log.get(33).offset == 33  # type: ignore[union-attr]
    for read in (
        lambda: values(log),
        lambda: values(log, 34),
        lambda: log.read(35),
        lambda: log.fetch(35),
        lambda: log.get(35),
    ):
        with pytest.raises(DamagedLogError):
            read()
    told: list[DamagedLogError] = []
    assert offsets(log, on_damage=told.append) == [*range(34), *range(36, 54)]
    assert [error.position for error in told] == [position]


@pytest.mark.parametrize("isolation", [HIGH_WATERMARK, COMMITTED])
def test_going_around_damage_ends_at_the_bound(damaged: Path, tmp_path: Path, isolation: FetchIsolation) -> None:
    open_clean(damaged, tmp_path / "copy").close()
    with Log.open(tmp_path / "copy" / "orders-0", replicated=True) as log:
        position, _ = batch_positions(damaged / "00000000000000000036.log")[2]
        flip_bit(log.directory / "00000000000000000036.log", position + 16, 6)
        for watermark in range(30, 55):
            log.set_high_watermark(watermark)
            told: list[DamagedLogError] = []
            found = offsets(log, isolation=isolation, on_damage=told.append)
            # A batch with the high watermark in its middle is not read.
            assert found == [offset for offset in range(watermark // 2 * 2) if offset not in (40, 41)]
            assert len(told) == (watermark > 40)


def test_a_batch_whose_records_contradict_it_is_told_with_its_place(place: Place) -> None:
    log = place.open()
    fill(log, 2)
    bad = bytearray(encode_batch([(b"k", b"v")], base_offset=2, options=BatchOptions(leader_epoch=0)))
    bad[61] ^= 0x02  # the length of the record
    refresh_crc(bad)
    log.append_as_follower(bad)
    fill(log, 1, first=3)
    told: list[DamagedLogError] = []
    assert offsets(log, on_damage=told.append) == [0, 1, 3]
    [error] = told
    assert (error.path, error.offset) == (str(PLACE / "00000000000000000000.log"), 2)
    assert error.position == len(log.read(0, bytes_max=1)) * 2
    for read in (lambda: offsets(log), lambda: log.get(2)):
        with pytest.raises(Exception, match=r"0\.log.*offset 2"):
            read()


def test_reading_does_not_alarm_where_there_is_no_damage(damaged: Path, tmp_path: Path) -> None:
    log = open_clean(damaged, tmp_path / "copy")
    assert offsets(log, on_damage=pytest.fail) == list(range(54))
    log.close()
    assert alarms(log.directory) == []
    assert not [one for one in findings(log.directory) if one.code == "bytes-left"]


# ---------------------------------------------------------------- with others


@pytest.mark.parametrize("seed", range(2))
def test_readers_see_whole_records_or_that_their_offset_is_gone_whatever_others_do(tmp_path: Path, seed: int) -> None:
    """Appends, rolls, truncations and deletions in one thread; reads of every kind in others."""
    config = LogConfig(segment_bytes=4000, index_interval_bytes=200, segment_index_bytes=4096, file_delete_delay_ms=0)
    log = Log.open(tmp_path / "orders-0", config)
    errors: list[BaseException] = []
    done = threading.Event()

    def check(record: Record | None) -> None:
        if record is not None:
            assert record.key == b"%d" % record.offset
            assert record.value == b"%d" % record.offset * 20

    def read_forever(kind: int) -> None:
        chosen = random.Random(kind)
        try:
            while not done.is_set():
                start = log.log_start_offset
                offset = chosen.randint(start, max(start, log.log_end_offset))
                try:
                    _read(log, kind, offset, check)
                except OffsetOutOfRangeError:
                    continue
        except BaseException as error:  # noqa: BLE001  # told by the thread that looks
            errors.append(error)

    threads = [threading.Thread(target=read_forever, args=(kind,)) for kind in range(5)]
    for thread in threads:
        thread.start()
    try:
        _change(log, random.Random(seed), errors)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not errors, repr(errors[0])
    for record in log.records():
        check(record)
    log.append([(None, b"last")])
    log.close()
    assert codes(alarms(log.directory)) <= {"segment-gap"}  # as a cut in the middle of a batch leaves it


def _read(log: Log, kind: int, offset: int, check: Callable[[Record | None], None]) -> None:
    if kind == 0:
        check(log.get(offset))
    elif kind == 1:
        expected = offset
        for record in log.records(offset, bytes_max=2000):
            assert record.offset >= expected
            expected = record.offset + 1
            check(record)
    elif kind == 2:
        for piece in log.slices(offset, bytes_max=3000):
            for batch in iter_batches(piece):
                for record in batch.records():
                    check(record)
    elif kind == 3:
        found = log.fetch(offset, 2000, isolation=HIGH_WATERMARK)
        for batch in iter_batches(found.data):
            for record in batch.records():
                check(record)
    else:
        at = log.offset_for_time(START + offset)
        assert at is None or at.offset == at.timestamp - START
        newest = log.max_timestamp()
        assert newest is None or newest.offset == newest.timestamp - START


def _change(log: Log, chosen: random.Random, errors: list[BaseException]) -> None:
    for _ in range(300):
        if errors:
            return
        what = chosen.random()
        end = log.log_end_offset
        if what < 0.85:
            new = range(end, end + chosen.randint(1, 5))
            log.append([(b"%d" % offset, b"%d" % offset * 20, START + offset) for offset in new])
        elif what < 0.90:
            log.truncate_to(chosen.randint(max(log.log_start_offset, end - 40), end))
        elif what < 0.91:
            log.truncate_fully_and_start_at(chosen.randint(0, end + 5))
        elif what < 0.94:
            log.roll()
        elif what < 0.97:
            log.advance_log_start(chosen.randint(log.log_start_offset, end))
            log.delete_before_log_start()
        else:
            log.maintain()


def test_a_walk_goes_on_over_rolls_and_appends_and_ends_where_the_rest_was_cut(place: Place) -> None:
    log = place.open(SMALL)
    fill(log, 10)
    walk = log.records(bytes_max=1)
    assert [next(walk).offset for _ in range(5)] == [0, 1, 2, 3, 4]
    log.roll()
    fill(log, 10, first=10)
    assert [next(walk).offset for _ in range(7)] == [5, 6, 7, 8, 9, 10, 11]
    log.truncate_to(8)
    with pytest.raises(OffsetOutOfRangeError):
        next(walk)
    walk = log.records(bytes_max=1)
    next(walk)
    log.truncate_to(1)
    fill(log, 3, first=100)
    assert [record.value for record in walk] == [b"100", b"101", b"102"]


def test_what_was_read_stays_as_it_was_when_the_log_is_cut_closed_or_deleted(tmp_path: Path) -> None:
    log = Log.open(tmp_path / "orders-0", LogConfig(segment_bytes=3 << 20, file_delete_delay_ms=0))
    for number in range(60):
        log.append([(None, b"%02d" % number * 50_000)])
    pieces = list(log.slices(bytes_max=1 << 19))
    copies = [bytes(piece) for piece in pieces]
    assert any(isinstance(piece, memoryview) for piece in pieces)
    log.truncate_to(30)
    fill(log, 50)
    log.advance_log_start(20)
    log.delete_before_log_start()
    log.maintain()
    log.close()
    assert pieces == copies


def test_no_more_is_read_than_was_asked_for_where_the_log_grows(place: Place) -> None:
    """What is appended between the look at the bound and the read is not given to a bounded reader."""
    log = place.open(replicated=True)
    fill(log, 3)
    log.set_high_watermark(3)
    state = log._state
    bounds = state.bounds

    def growing(isolation: FetchIsolation) -> object:
        found = bounds(isolation)
        fill(log, 1, first=log.log_end_offset)
        return found

    state.__class__.bounds, kept = (lambda self, isolation: growing(isolation)), state.__class__.bounds
    try:
        for isolation in (HIGH_WATERMARK, COMMITTED):
            assert len(list(iter_batches(log.read(0, isolation=isolation)))) == 3
            assert len(list(iter_batches(log.fetch(0, isolation=isolation).data))) == 3
    finally:
        state.__class__.bounds = kept
    assert isinstance(place.fs, MemoryFileSystem)
