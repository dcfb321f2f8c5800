"""A scan of a segment's log file: what it trusts, and the indexes that it finds the segment should have."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
from by_hand import message, message_set
from helpers.producers import ABORT, COMMIT, Producers, marker, transactional
from helpers.segments import CONFIG, FILE_SYSTEMS, Place, batch, offsets_from, offsets_of, put, put_batches
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.config import LogConfig
from logstore.errors import BatchTooLargeError, InvalidRecordError
from logstore.log import Log
from logstore.log.epoch_file import EpochFile
from logstore.log.replay import Replay
from logstore.log.segment_scan import SegmentScan, scan_segment
from logstore.log.transaction_index import AbortedTransaction
from logstore.records import BatchOptions, BatchScanner, BytesSource, Codec, Damage, RecordBatch, encode_batch
from logstore.records.builder import write_header
from logstore.testing import MemoryFileSystem

BASE = 40
bounded = settings(deadline=None, database=None, max_examples=80)


class Bytes:
    """A file that is nothing but its bytes, and knows what was read of it."""

    def __init__(self, data: bytes, claimed: int | None = None) -> None:
        self._data = data
        self._claimed = len(data) if claimed is None else claimed
        self.largest_read = 0

    def size(self) -> int:
        return self._claimed

    def read(self, position: int, size: int) -> bytes:
        self.largest_read = max(self.largest_read, size)
        return self._data[position : position + size]


class Watcher:
    """Sees batches, and may find fault with one of them."""

    def __init__(self, latest_epoch: int = -1, fault: Exception | None = None, fault_at: int = -1) -> None:
        self.latest_epoch = latest_epoch
        self.seen: list[RecordBatch] = []
        self._fault, self._fault_at = fault, fault_at

    def see(self, batch: RecordBatch) -> None:
        if self._fault is not None and batch.header.base_offset == self._fault_at:
            raise self._fault
        self.seen.append(batch)
        self.latest_epoch = max(self.latest_epoch, batch.header.leader_epoch)


def scan(data: bytes, base_offset: int = BASE, config: LogConfig = CONFIG) -> SegmentScan:
    return scan_segment(Bytes(data), base_offset, config)


def offset_entries(found: SegmentScan) -> list[tuple[int, ...]]:
    return list(struct.iter_unpack(">ii", bytes(found.offset_entries)))


def time_entries(found: SegmentScan) -> list[tuple[int, ...]]:
    return list(struct.iter_unpack(">qi", bytes(found.time_entries)))


@pytest.fixture(params=FILE_SYSTEMS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place.on(request.param, tmp_path)


# ---------------------------------------------------------------- whole files


def test_a_whole_file_is_trusted_to_its_end() -> None:
    data = batch(42, 2, timestamp=7) + batch(44, timestamp=9) + batch(50, 3, timestamp=8)
    found = scan(data)
    assert (found.valid_size, found.file_size, found.cut, found.problem, found.overflows) == (
        len(data), len(data), 0, None, None,
    )  # fmt: skip
    assert (found.count, found.next_offset, found.first_timestamp) == (3, 53, 7)
    assert (found.max_timestamp, found.offset_of_max) == (9, 44)


def test_an_empty_file_has_nothing_and_ends_where_it_begins() -> None:
    found = scan(b"")
    assert (found.count, found.next_offset, found.cut, found.problem) == (0, BASE, 0, None)
    assert (found.max_timestamp, found.offset_of_max, found.first_timestamp) == (-1, BASE, None)
    assert (found.offset_entries, found.time_entries) == (b"", b"")


@pytest.mark.parametrize("magic", [0, 1, 2])
@pytest.mark.parametrize("value_size", [100, 600_000, 1_200_000])
def test_batches_larger_than_a_window_are_taken(magic: int, value_size: int) -> None:
    value = random.Random(1).randbytes(value_size)
    made = []
    for offset in range(BASE, BASE + 6):
        content = value if offset % 2 else b"small"
        if magic == 2:
            made.append(bytes(encode_batch([(None, content)], base_offset=offset, timestamp=5)))
        else:
            made.append(bytes(message(magic, None, content, offset=offset, timestamp=5)))
    found = scan(b"".join(made))
    assert (found.count, found.cut, found.next_offset) == (6, 0, BASE + 6)
    assert found.max_timestamp == (5 if magic else -1)


def test_what_is_read_at_once_is_bounded_by_a_window_or_a_batch() -> None:
    data = b"".join(batch(offset, size=3000) for offset in range(BASE, BASE + 700))
    source = Bytes(data)
    assert scan_segment(source, BASE, CONFIG).cut == 0
    assert source.largest_read <= 1 << 19


def test_records_without_time_have_no_time_entries() -> None:
    found = scan(b"".join(bytes(message(0, None, b"x" * 60, offset=offset)) for offset in range(BASE, BASE + 30)))
    assert len(found.offset_entries) > 80
    assert (found.time_entries, found.max_timestamp) == (b"", -1)


def test_a_compressed_set_of_old_counts_with_its_last_offset() -> None:
    inner = [message(1, None, b"v", offset=number, timestamp=5) for number in range(3)]
    found = scan(bytes(message_set(1, Codec.GZIP, *inner, offset=BASE + 2, timestamp=5)) + batch(BASE + 3))
    assert (found.count, found.next_offset, found.cut) == (2, BASE + 4, 0)


# ---------------------------------------------------------------- entries


BATCHES = st.lists(
    st.tuples(st.integers(1, 4), st.integers(0, 3), st.integers(-1, 60), st.integers(0, 120)), max_size=60
)


def laid_out(steps: Sequence[tuple[int, int, int, int]]) -> list[bytes]:
    """Batches with gaps between them, times up and down, and sizes."""
    made, offset = [], BASE
    for count, gap, timestamp, size in steps:
        made.append(batch(offset + gap, count, timestamp=timestamp, size=size))
        offset += gap + count
    return made


@given(BATCHES, st.sampled_from([0, 1, 100, 333, 10**6]), st.sampled_from([1, 4, 8, 12, 24, 36, 100, 1200]))
@bounded
def test_the_entries_are_those_that_appending_batch_by_batch_makes(
    steps: list[tuple[int, int, int, int]], interval: int, index_bytes: int
) -> None:
    config = LogConfig(index_interval_bytes=interval, segment_index_bytes=max(index_bytes, 4))
    place = Place(MemoryFileSystem(), Path("/data/orders-0"), config)
    segment = place.create(BASE)
    made = laid_out(steps)
    put_batches(segment, *made)
    segment.seal()
    found = place.scan(BASE)
    assert (found.valid_size, found.count, found.problem) == (segment.size, len(made), None)
    assert found.offset_entries == place.read(segment.indexes.offset_path.name)
    assert found.time_entries == place.read(segment.indexes.time_path.name)
    assert (found.max_timestamp, found.offset_of_max) == (segment.max_timestamp, segment.offset_of_max)
    assert found.next_offset == segment.next_offset()
    assert found.first_timestamp == segment.first_timestamp


def test_an_append_of_several_batches_has_one_entry_and_a_rebuilt_index_one_for_each(place: Place) -> None:
    segment = place.create(0, LogConfig(index_interval_bytes=0))
    for offset in range(0, 9, 3):
        three = b"".join(batch(offset + number) for number in range(3))
        segment.append(three, offset + 2, offset + 2, offset + 2)
    place.sealed(segment)
    size = len(batch(0))
    appended = place.read(segment.indexes.offset_path.name)
    assert list(struct.iter_unpack(">ii", appended)) == [(5, 3 * size), (8, 6 * size)]
    found = place.scan(0, LogConfig(index_interval_bytes=0))
    assert offset_entries(found) == [(number, number * size) for number in range(1, 9)]
    assert [offsets_from(segment, offset) for offset in range(9)] == [[offset] for offset in range(9)]


def test_the_final_time_is_added_once() -> None:
    data = batch(40, timestamp=5, size=200) + batch(41, timestamp=9, size=200)
    assert time_entries(scan(data)) == [(9, 1)]
    assert time_entries(scan(data + batch(42, timestamp=9))) == [(9, 1)]
    assert time_entries(scan(data + batch(42, timestamp=12, size=0) + batch(43, timestamp=1))) == [(9, 1), (12, 2)]
    assert time_entries(scan(batch(40, timestamp=0))) == [(0, 0)]


def test_an_index_that_became_smaller_stays_sparse() -> None:
    data = b"".join(batch(offset) for offset in range(BASE, BASE + 100))
    found = scan(data, config=LogConfig(segment_index_bytes=60, index_interval_bytes=100))
    assert (found.count, len(offset_entries(found)), time_entries(found)[-1]) == (100, 4, (BASE + 99, 99))
    assert len(time_entries(found)) == 5


# ---------------------------------------------------------------- damage


def trusted(data: bytes) -> tuple[int, int, str | None]:
    """What a scan may trust, by a scanner that goes batch by batch: bytes, batches, and why they end."""
    end, count, next_offset = 0, 0, BASE
    for one in BatchScanner(BytesSource(data)):
        if isinstance(one, Damage):
            return end, count, one.reason
        if one.header.base_offset < next_offset or one.header.last_offset_delta < 0:
            return end, count, "a batch begins at"
        if one.last_offset - BASE > 2**31 - 1:
            return end, count, None
        end, count, next_offset = one.header.position + one.header.size, count + 1, one.next_offset
    return end, count, None


MUTATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), st.integers(0, 2**16), st.integers(0, 7)),
        st.tuples(st.just("cut"), st.integers(0, 2**16), st.just(0)),
        st.tuples(st.just("zeros"), st.integers(0, 2**16), st.integers(1, 300)),
        st.tuples(st.just("noise"), st.integers(0, 2**16), st.integers(1, 300)),
        st.tuples(st.just("repeat"), st.integers(0, 2**16), st.integers(1, 300)),
        st.tuples(st.just("size"), st.integers(0, 60), st.integers(-(2**31), 2**31 - 1)),
        st.tuples(st.just("base"), st.integers(0, 60), st.integers(-(2**63), 2**63 - 1)),
        st.tuples(st.just("swap"), st.integers(0, 60), st.integers(0, 60)),
        st.tuples(st.just("tail"), st.integers(0, 100), st.just(0)),
    ),
    max_size=4,
)


def mutated(made: list[bytes], mutations: list[tuple[str, int, int]]) -> bytes:
    parts = [bytearray(one) for one in made]
    for what, where, value in mutations:
        if parts and what in ("size", "base", "swap"):
            number = where % len(parts)
            if what == "size":
                parts[number][8:12] = struct.pack(">i", value)
            elif what == "base":
                parts[number][:8] = struct.pack(">q", value)  # no CRC covers it
            else:
                other = value % len(parts)
                parts[number], parts[other] = parts[other], parts[number]
    data = bytearray(b"".join(parts))
    for what, where, value in mutations:
        at = where % (len(data) + 1)
        if what == "flip" and at < len(data):
            data[at] ^= 1 << value
        elif what == "cut":
            del data[at:]
        elif what == "zeros":
            data[at : at + value] = bytes(value)
        elif what == "noise":
            data[at : at + value] = random.Random(where).randbytes(value)
        elif what == "repeat":
            data[at:at] = data[at : at + value]
        elif what == "tail":
            data += bytes(where)
    return bytes(data)


@given(BATCHES, MUTATIONS, st.sampled_from([0, 100, 10**6]))
@settings(deadline=None, database=None, max_examples=300)
def test_the_trusted_prefix_is_that_of_a_scanner_and_its_entries_those_of_the_prefix(
    steps: list[tuple[int, int, int, int]], mutations: list[tuple[str, int, int]], interval: int
) -> None:
    data = mutated(laid_out(steps), mutations)
    config = LogConfig(index_interval_bytes=interval, segment_index_bytes=1200)
    found = scan(data, config=config)
    end, count, reason = trusted(data)
    assert (found.valid_size, found.count, found.cut) == (end, count, len(data) - end)
    assert (found.problem or "").startswith(reason or "")
    assert (found.problem is not None) == (reason is not None)
    assert (found.overflows is not None) == (reason is None and found.cut > 0)
    prefix = scan(data[:end], config=config)
    assert (found.offset_entries, found.time_entries) == (prefix.offset_entries, prefix.time_entries)
    assert (found.next_offset, found.max_timestamp, found.offset_of_max) == (
        prefix.next_offset, prefix.max_timestamp, prefix.offset_of_max,
    )  # fmt: skip
    assert (found.first_timestamp, prefix.problem) == (prefix.first_timestamp, None)


@pytest.mark.parametrize(
    ("tail", "problem"),
    [
        (bytes(3), "nothing but zeros"),
        (bytes(100_000), "nothing but zeros"),
        (b"garbage", "ends inside a batch"),
        (batch(99)[:-1], "ends inside a batch"),
        (b"\xff" * 100, "impossible"),
        (bytes(100) + b"x", "zeros where a batch"),
    ],
)
def test_what_is_behind_the_last_batch_is_told(tail: bytes, problem: str) -> None:
    whole = batch(40) + batch(41)
    found = scan(whole + tail)
    assert (found.valid_size, found.cut, found.count) == (len(whole), len(tail), 2)
    assert problem in (found.problem or "")


@pytest.mark.parametrize("size", [10, 600_000])
def test_a_wrong_crc_ends_the_scan_however_large_the_batch(size: int) -> None:
    good, bad = batch(40), bytearray(batch(41, size=size))
    bad[-1] ^= 1
    found = scan(good + bytes(bad) + batch(42))
    assert (found.valid_size, found.problem) == (len(good), "the bytes of a batch do not match its CRC")


def test_a_batch_whose_offsets_go_back_is_not_believed() -> None:
    first = batch(40, 3)
    found = scan(first + batch(41) + batch(50))
    assert (found.valid_size, found.problem) == (len(first), "a batch begins at offset 41, where 43 or more belongs")
    assert scan(batch(39)).problem == "a batch begins at offset 39, where 40 or more belongs"
    negative = bytearray(batch(40))
    header = next(iter(BatchScanner(BytesSource(bytes(negative))))).header  # type: ignore[union-attr]
    write_header(negative, 0, header._replace(last_offset_delta=-1))
    assert scan(bytes(negative)).valid_size == 0


def test_offsets_out_of_range_are_an_overflow_and_no_damage() -> None:
    good = batch(40) + batch(41)
    far = 40 + 2**31
    found = scan(good + batch(far) + batch(far + 1))
    assert (found.overflows, found.problem, found.valid_size, found.next_offset) == (len(good), None, len(good), 42)
    assert scan(good + batch(far - 1)).overflows is None


def test_a_file_that_became_shorter_ends_the_scan() -> None:
    data = batch(40) + batch(41)
    found = scan_segment(Bytes(data, claimed=len(data) + 500), 40, CONFIG)
    assert (found.valid_size, found.problem) == (len(data), "the file became shorter while it was read")


# ---------------------------------------------------------------- observers


def producer_batch(offset: int, *, producer_id: int = -1, leader_epoch: int = 0) -> bytes:
    known = {"producer_id": producer_id, "producer_epoch": 0, "base_sequence": 0} if producer_id >= 0 else {}
    options = BatchOptions(leader_epoch=leader_epoch, **known)
    return bytes(encode_batch([(b"k", b"v")], base_offset=offset, options=options))


def test_an_observer_sees_batches_of_producers_and_of_later_epochs() -> None:
    data = b"".join(
        [
            producer_batch(40, leader_epoch=0),
            producer_batch(41, leader_epoch=1),
            producer_batch(42, leader_epoch=1),
            producer_batch(43, producer_id=0, leader_epoch=1),
            producer_batch(44, leader_epoch=0),
            producer_batch(45, leader_epoch=3),
            bytes(message(1, None, b"v", offset=46, timestamp=1)),
        ]
    )
    watcher = Watcher(latest_epoch=0)
    assert scan_segment(Bytes(data), 40, CONFIG, watcher).cut == 0
    assert [one.header.base_offset for one in watcher.seen] == [41, 43, 45]
    assert [one.records()[0].offset for one in watcher.seen] == [41, 43, 45]


def test_an_observer_can_read_a_batch_that_is_larger_than_a_window() -> None:
    large = encode_batch(
        [(None, b"x" * 900_000)], base_offset=41,
        options=BatchOptions(producer_id=5, producer_epoch=0, base_sequence=0),
    )  # fmt: skip
    watcher = Watcher()
    scan_segment(Bytes(batch(40) + bytes(large) + batch(42)), 40, CONFIG, watcher)
    assert [len(one.records()[0].value or b"") for one in watcher.seen] == [900_000]


def test_a_batch_that_its_observer_cannot_read_ends_the_scan() -> None:
    data = b"".join(producer_batch(offset, producer_id=1) for offset in range(40, 50))
    fault = InvalidRecordError("a marker of version 9")
    config = LogConfig(index_interval_bytes=0)
    found = scan_segment(Bytes(data), 40, config, Watcher(fault=fault, fault_at=45))
    prefix = scan(data[: found.valid_size], config=config)
    assert (found.count, found.next_offset, found.problem) == (5, 45, "a marker of version 9")
    assert (found.offset_entries, found.time_entries) == (prefix.offset_entries, prefix.time_entries)
    with pytest.raises(BatchTooLargeError):
        scan_segment(Bytes(data), 40, config, Watcher(fault=BatchTooLargeError("too large"), fault_at=45))


@pytest.mark.kafka("SEG-14")
def test_a_scan_replays_transactions() -> None:
    data = b"".join(
        bytes(one)
        for one in [
            transactional(0, 100, count=2, producer=1),
            transactional(0, 102, count=2, producer=2),
            batch(104, 2),
            marker(ABORT, 106, producer=2),
            marker(COMMIT, 107, producer=1),
        ]
    )
    for before, first in (([], 102), ([transactional(0, 75, producer=2)], 75)):
        producers = Producers()
        if before:
            producers.replicate(*before)
        replay = Replay(producers.states, None, 100)
        found = scan_segment(Bytes(data), 100, CONFIG, replay)
        assert (found.next_offset, found.cut) == (108, 0)
        assert replay.aborted == [AbortedTransaction(2, first, 106, 100)]


@pytest.mark.kafka("SEG-15")
def test_a_scan_finds_the_leader_epochs(tmp_path: Path) -> None:
    place = Place.on("memory", tmp_path)
    epochs = EpochFile(place.fs, place.path)
    batches = [(0, 104), (1, 106), (1, 108), (2, 110)]
    data = b"".join(producer_batch(offset, leader_epoch=epoch) for epoch, offset in batches)
    scan_segment(Bytes(data), 100, CONFIG, Replay(Producers().states, epochs, 100))
    assert [tuple(one) for one in epochs.epochs.entries] == [(0, 104), (1, 106), (2, 110)]


# ---------------------------------------------------------------- segments made anew


@pytest.mark.kafka("SEG-11")
def test_a_ruined_offset_index_is_made_anew(place: Place) -> None:
    segment = place.create(0)
    for offset in range(100):
        put(segment, offset)
    place.sealed(segment)
    place.write(segment.indexes.offset_path.name, random.Random(1).randbytes(60))
    again = place.rebuild()
    assert [offsets_from(again, offset) for offset in range(100)] == [[offset] for offset in range(100)]
    assert again.start_of(99) > 0


@pytest.mark.kafka("SEG-12")
def test_a_ruined_time_index_is_made_anew(place: Place) -> None:
    segment = place.create(0)
    for offset in range(100):
        put(segment, offset, timestamp=10 * offset)
    place.sealed(segment)
    place.write(segment.indexes.time_path.name, random.Random(2).randbytes(60))
    place.rebuild()
    with Log.open(place.path, place.config, fs=place.fs) as log:
        for offset in range(100):
            found = [log.offset_for_time(time) for time in (10 * offset, 10 * offset + 1)]
            assert [one and one.offset for one in found] == [offset, offset + 1 if offset < 99 else None]


@pytest.mark.kafka("SEG-13")
def test_a_segment_keeps_the_batches_before_the_one_that_garbage_begins_in(place: Place) -> None:
    dice = random.Random(13)
    segment = place.create(0)
    starts = [0, *(put(segment, offset) and segment.size for offset in range(20))]
    place.sealed(segment)
    whole = place.read(segment.path.name)
    for kept in range(20):
        begin = dice.randrange(starts[kept], starts[kept + 1])
        place.write(segment.path.name, whole[:begin] + dice.randbytes(len(whole) - begin))
        assert place.scan().valid_size == starts[kept]
        again = place.rebuild()
        assert (offsets_of(again), again.next_offset()) == (list(range(kept)), kept)
