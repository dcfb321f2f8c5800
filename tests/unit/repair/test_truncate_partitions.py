"""Cutting the end of a log off: what goes, what is said, where it is refused, what a crash leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.broker_directories import (
    DATA,
    MARKER,
    SMALL_INDEXES,
    checkpoint,
    contents,
    crashes,
    in_memory,
    make,
    recover,
)
from helpers.directories import START, alarms, flip_bit

from logstore.errors import DamagedLogError, LogLockedError, LogstoreError, OffsetOutOfRangeError
from logstore.fs import LocalFileSystem
from logstore.log import Log, ProducerSnapshot
from logstore.records import Codec, encode_batch
from logstore.repair import DryRunFileSystem, Reindexer, Truncation, truncate
from logstore.testing import ManualClock, MemoryFileSystem

CLOCK = ManualClock(START)


def truncated(partition: Path, offset: int, fs: Any = None, **options: Any) -> Truncation:
    return truncate(fs or LocalFileSystem(), partition, offset, config=SMALL_INDEXES, clock=CLOCK, **options)


def offsets(partition: Path) -> list[int]:
    with Log.open(partition, fs=DryRunFileSystem(LocalFileSystem()), clock=CLOCK) as log:
        return [record.offset for record in log.records()]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make(tmp_path / "clean", is_clean=True)


# ---------------------------------------------------------------- what goes


@pytest.mark.parametrize(
    ("offset", "segments", "batches"), [(18, 0, 0), (16, 0, 1), (12, 0, 3), (6, 1, 6), (0, 2, 9)]
)
def test_all_records_from_the_offset_on_go(orders: Path, offset: int, segments: int, batches: int) -> None:
    before = sum(path.stat().st_size for path in orders.glob("*.log"))
    found = truncated(orders, offset)
    assert (found.end_before, found.end, found.segments, found.split) == (18, offset, segments, None)
    assert (found.batches, found.records) == (batches, 18 - offset)
    assert found.size == before - sum(path.stat().st_size for path in orders.glob("*.log"))
    assert offsets(orders) == list(range(offset))
    assert alarms(orders.parent) == []
    assert not list(orders.glob("*.deleted"))


def test_a_batch_with_the_offset_in_its_middle_goes_as_a_whole(orders: Path) -> None:
    found = truncated(orders, 9)
    assert (found.split, found.end, found.records) == ((8, 9), 8, 10)
    assert offsets(orders) == list(range(8))
    with Log.open(orders, fs=DryRunFileSystem(LocalFileSystem()), clock=CLOCK) as log:
        assert log.recovered is None
        assert log.append([(None, b"next")]).first_offset == 8


def test_an_offset_in_a_gap_is_cut_behind_the_last_batch_before_it(tmp_path: Path) -> None:
    place = tmp_path / "orders-3"
    with Log.open(place, clock=CLOCK) as log:
        log.append([(None, b"a"), (None, b"b")], timestamp=START)
        batch = encode_batch([(None, b"c")], base_offset=20, timestamp=START)
        batch[12:16] = bytes(4)  # of leader epoch 0
        log.append_as_follower(batch)
    found = truncated(place, 10)
    assert (found.end, found.records, found.split) == (2, 1, None)
    with Log.open(place, clock=CLOCK) as log:
        assert (log.recovered, log.log_end_offset) == (None, 2)


def test_compressed_batches_of_old_formats_are_counted_by_their_records(kafka_fixtures: Path) -> None:
    place = kafka_fixtures / "kafka-2.8.2/clean/v1-gzip-0"
    found = truncated(place, 0, DryRunFileSystem(LocalFileSystem()), force=True)
    assert found.records == found.end_before == 500


def test_checkpoints_are_lowered_and_the_marker_stays(data: Path) -> None:
    (data / "cleaner-offset-checkpoint").write_text("0\n1\norders 3 14\n")
    truncated(data / "orders-3", 8)
    fs = in_memory(data)
    for name in ("recovery-point-offset-checkpoint", "replication-offset-checkpoint"):
        assert checkpoint(fs, name) == {"orders-3": 8, "payments-0": 6}
    assert checkpoint(fs, "cleaner-offset-checkpoint") == {"orders-3": 6}
    assert (data / MARKER).read_text() == '{"version":0,"brokerEpoch":1}'
    assert [path.name for path in data.rglob(".*")] == [MARKER]
    assert alarms(data) == []


def test_producers_and_transactions_are_those_of_what_is_left(transactions: Path) -> None:
    Reindexer(LocalFileSystem(), clock=CLOCK).reindex_partition(transactions)  # for a snapshot that tells of them
    truncated(transactions, 4)
    (snapshot,) = transactions.glob("*.snapshot")
    assert snapshot.name == f"{4:020d}.snapshot"
    entries = {one.producer_id: one for one in ProducerSnapshot.decode(snapshot.read_bytes()).entries}
    assert (entries[1].current_transaction_first_offset, entries[2].current_transaction_first_offset) == (1, 3)
    assert all(path.stat().st_size == 0 for path in transactions.glob("*.txnindex"))


def test_a_log_of_ours_ends_cleanly(tmp_path: Path) -> None:
    place = tmp_path / "queue-0"
    with Log.open(place, clock=CLOCK) as log:
        for _ in range(5):
            log.append([(None, b"x")] * 2, codec=Codec.LZ4)
    assert truncated(place, 6).end == 6
    with Log.open(place, clock=CLOCK) as log:
        assert (log.recovered, log.log_end_offset) == (None, 6)


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize("offset", [19, 2**40])
def test_an_offset_beyond_the_end_is_refused_with_nothing_changed(
    data: Path, offset: int, tree_unchanged: Callable[..., Any]
) -> None:
    with tree_unchanged(data / "orders-3"), pytest.raises(OffsetOutOfRangeError, match=r"offsets 0 to 18 \(next\)"):
        truncated(data / "orders-3", offset)
    assert (data / MARKER).exists()


def test_an_offset_below_the_start_of_the_log_is_refused(data: Path) -> None:
    (data / "log-start-offset-checkpoint").write_text("0\n1\norders 3 7\n")
    with pytest.raises(OffsetOutOfRangeError, match="offsets 7 to 18"):
        truncated(data / "orders-3", 6)
    assert truncated(data / "orders-3", 8).log_start_offset == 7


def test_an_unclean_log_directory_is_for_recovery_unless_forced(tmp_path: Path) -> None:
    data = make(tmp_path / "data", is_clean=False)
    with pytest.raises(LogstoreError, match="logstore recover"):
        truncated(data / "orders-3", 8)
    assert truncated(data / "orders-3", 8, force=True).end == 8
    assert not (data / MARKER).exists()
    recover(fs := in_memory(data))
    assert len(contents(fs)["orders-3"]) == 8


@pytest.mark.parametrize("where", [".", "orders-3"])
def test_what_is_in_use_is_left_alone(data: Path, where: str) -> None:
    held = LocalFileSystem().lock(data / where / ".lock")
    assert held is not None
    for fs in (LocalFileSystem(), DryRunFileSystem(LocalFileSystem())):
        with pytest.raises(LogLockedError):
            truncated(data / "orders-3", 8, fs, force=True)
    held.release()


# ---------------------------------------------------------------- damage


def test_damage_in_what_goes_is_no_hindrance(alone: Path) -> None:
    flip_bit(alone / f"{6:020d}.log", 100, 0)
    found = truncated(alone, 4)
    assert (found.end, found.batches, found.records) == (4, None, None)
    assert offsets(alone) == [0, 1, 2, 3]


def test_damage_in_what_stays_is_refused_with_nothing_changed(alone: Path) -> None:
    flip_bit(alone / f"{6:020d}.log", 100, 0)
    before = {path.name: path.read_bytes() for path in alone.iterdir()}
    with pytest.raises(DamagedLogError):
        truncated(alone, 12)
    assert {path.name: path.read_bytes() for path in alone.iterdir()} == before


# ---------------------------------------------------------------- dry run and crashes


@pytest.mark.parametrize("offset", [18, 13, 6, 0])
def test_a_dry_run_says_what_the_deed_says_and_changes_nothing(
    data: Path, offset: int, tree_unchanged: Callable[..., Any]
) -> None:
    with tree_unchanged(data):
        tried = truncated(data / "orders-3", offset, DryRunFileSystem(LocalFileSystem()))
    assert tried == truncated(data / "orders-3", offset)


@pytest.mark.parametrize("end", [14, 6, 0])
def test_a_crash_at_any_moment_leaves_the_log_before_or_after(data: Path, end: int) -> None:
    def act(fs: MemoryFileSystem) -> object:
        return truncated(DATA / "orders-3", end, fs)

    whole = contents(in_memory(data))["orders-3"]
    for after in crashes(lambda: in_memory(data), act):
        recover(after)
        left = contents(after, "orders-3")["orders-3"]
        assert left == whole[: len(left)]
        assert end <= len(left)
        act(after)
        assert contents(after, "orders-3")["orders-3"] == whole[:end]
        assert checkpoint(after, "recovery-point-offset-checkpoint") == {"orders-3": end, "payments-0": 6}


