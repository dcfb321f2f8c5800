"""The snapshot files of a log's producers: when they are written, which of them stay, and what a bad one costs."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from helpers.producers import ABORT, DIRECTORY, PRODUCER, Producers, data, marker, transactional
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.log import producer_snapshots
from logstore.log.producer_snapshots import ProducerSnapshots
from logstore.log.producers import ProducerSnapshot, ProducerStateEntry
from logstore.names import log_file_name
from logstore.names import producer_snapshot_file_name as snapshot_name
from logstore.testing import CrashMode, MemoryFileSystem, SimulatedCrash

bounded = settings(deadline=None, database=None, max_examples=60)


@pytest.fixture
def log() -> Producers:
    return Producers()


@pytest.mark.kafka("PROD-14")
def test_a_snapshot_is_named_by_where_the_state_ends_and_written_once(log: Producers) -> None:
    log.append(data(0, 0))
    assert log.states.take_snapshot() == DIRECTORY / snapshot_name(1)
    log.append(data(1, 1))
    assert log.states.take_snapshot() == DIRECTORY / snapshot_name(2)
    before = log.fs.operations
    assert log.states.take_snapshot() is None
    assert (log.files, log.fs.operations) == ([snapshot_name(1), snapshot_name(2)], before)
    assert (log.states.oldest_snapshot_offset, log.states.latest_snapshot_offset) == (1, 2)


def test_a_log_without_records_has_no_snapshot(log: Producers) -> None:
    assert log.states.take_snapshot() is None
    assert (log.files, log.states.latest_snapshot_offset, log.states.oldest_snapshot_offset) == ([], None, None)


def test_a_snapshot_replaces_a_longer_file_of_its_name(log: Producers) -> None:
    log.fs.write_bytes(DIRECTORY / snapshot_name(5), bytes(1000))
    log.append(data(0, 4))
    log.states.take_snapshot()
    assert log.reload(0, 5).entry.last_offset == 4


@pytest.mark.kafka("PROD-13")
def test_truncation_removes_the_snapshots_outside_of_the_log(log: Producers) -> None:
    log.snapshot_at(1, 2, 3, 4, 5)
    log.states.truncate_and_reload(1, 3, 0)
    assert log.states.snapshot_offsets == (2, 3)
    assert log.files == [snapshot_name(2), snapshot_name(3)]


@pytest.mark.kafka("PROD-21")
def test_snapshots_before_an_offset_are_removed(log: Producers) -> None:
    log.snapshot_at(2, 4)
    log.states.delete_snapshots_before(4)
    assert log.files == [snapshot_name(4)]
    log.states.delete_snapshots_before(5)
    assert (log.files, log.states.snapshot_offsets) == ([], ())


@pytest.mark.kafka("PROD-22")
def test_truncating_fully_removes_all_snapshots_and_producers(log: Producers) -> None:
    for number in range(3):
        log.append(transactional(number, number))
        log.states.take_snapshot()
    log.states.truncate_fully_and_start_at(0)
    assert (log.files, log.states.is_empty, log.unstable, log.states.map_end_offset) == ([], True, None, 0)
    log.append(data(0, 0))
    log.states.take_snapshot()
    assert log.files == [snapshot_name(1)]


@pytest.mark.parametrize(("log_start_offset", "files"), [(29, []), (20, [snapshot_name(29)])])
def test_after_truncating_fully_a_snapshot_is_due_only_above_the_log_start(
    log: Producers, log_start_offset: int, files: list[str]
) -> None:
    log.snapshot_at(10, 40)
    log.states.truncate_fully_and_start_at(29)
    log.states.truncate_and_reload(log_start_offset, 29, 0)
    log.states.take_snapshot()
    assert (log.files, log.states.map_end_offset) == (files, 29)


@pytest.mark.kafka("PROD-23")
def test_snapshots_that_others_have_written_are_found_when_they_are_listed_anew(log: Producers) -> None:
    log.append(data(0, 2))
    log.states.take_snapshot()
    kept = log.fs.read_bytes(DIRECTORY / snapshot_name(3))
    log.append(data(1, 4))
    log.states.take_snapshot()
    log.states.truncate_and_reload(3, 5, 0)
    assert log.states.snapshot_offsets == (5,)
    log.fs.write_bytes(DIRECTORY / snapshot_name(3), kept)
    log.states.truncate_fully_and_reload_snapshots()
    assert (log.states.snapshot_offsets, log.states.is_empty) == ((3,), True)


@pytest.mark.kafka("PROD-32")
@pytest.mark.parametrize(
    ("base_offsets", "kept"), [([5], (5, 42)), ([42], (42,)), ([2, 5, 42], (2, 5, 42)), ([0, 50], ()), ([], (42,))]
)
def test_of_the_snapshots_at_no_segments_base_only_the_last_may_stay(
    log: Producers, base_offsets: list[int], kept: tuple[int, ...]
) -> None:
    for offset in (5, 2, 42):
        log.fs.write_bytes(DIRECTORY / snapshot_name(offset), ProducerSnapshot().encode())
    log.states.remove_stray_snapshots(base_offsets)
    assert log.states.snapshot_offsets == kept
    assert log.files == [snapshot_name(offset) for offset in kept]


@pytest.mark.kafka("PROD-33")
def test_a_snapshot_is_renamed_for_deletion_and_forgotten(log: Producers) -> None:
    log.snapshot_at(1, 2)
    renamed = log.states.remove_and_mark_for_deletion(1)
    assert renamed == DIRECTORY / (snapshot_name(1) + ".deleted")
    assert log.files == [snapshot_name(1) + ".deleted", snapshot_name(2)]
    log.fs.unlink(DIRECTORY / snapshot_name(2))
    assert log.states.remove_and_mark_for_deletion(2) is None
    assert log.states.snapshot_offsets == ()
    assert log.states.remove_and_mark_for_deletion(3) is None


def test_only_snapshots_in_use_are_listed_whatever_the_length_of_their_numbers(log: Producers) -> None:
    log.append(data(0, 6))
    log.states.take_snapshot()
    content = log.fs.read_bytes(DIRECTORY / snapshot_name(7))
    for name in ("9.snapshot", snapshot_name(8) + ".deleted", "x.snapshot", log_file_name(8)):
        log.fs.write_bytes(DIRECTORY / name, content)
    log.fs.write_bytes(DIRECTORY / "7.snapshot", b"not the one that would be written")
    log.fs.make_directory(DIRECTORY / snapshot_name(12))
    again = Producers(log.fs)
    assert again.states.snapshot_offsets == (7, 9)
    again.states.truncate_and_reload(0, 8, 0)
    assert again.entry.last_offset == 6
    assert "9.snapshot" not in again.files
    assert again.states.discarded == ()


def test_snapshots_follow_their_directory_to_a_new_name(log: Producers) -> None:
    log.append(data(0, 0))
    log.states.take_snapshot()
    moved = Path("/data/orders-3.0123-delete")
    log.fs.rename(DIRECTORY, moved)
    log.states.move_to(moved)
    log.append(data(1, 1))
    assert log.states.take_snapshot() == moved / snapshot_name(2)
    log.states.sync_snapshot(1)
    log.states.truncate_and_reload(0, 1, 0)
    assert log.entry.last_offset == 0


# ---------------------------------------------------------------- files that cannot be trusted


def emptied(content: bytes) -> bytes:
    return b""


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def overwritten(content: bytes) -> bytes:
    return content[:20] + b"\xff" * 8 + content[28:]


def of_another_version(content: bytes) -> bytes:
    return b"\0\2" + content[2:]


@pytest.mark.kafka("PROD-30")
@pytest.mark.parametrize("damage", [emptied, cut, overwritten, of_another_version])
def test_a_corrupt_snapshot_is_removed_told_and_the_one_before_it_taken(log: Producers, damage: object) -> None:
    assert callable(damage)
    log.append(data(0, 0))
    log.states.take_snapshot()
    log.append(data(1, 1))
    log.states.take_snapshot()
    path = DIRECTORY / snapshot_name(2)
    log.fs.write_bytes(path, damage(log.fs.read_bytes(path)))
    again = log.reload(0, 2)
    assert (again.states.map_end_offset, again.entry.last_offset) == (1, 0)
    assert again.files == [snapshot_name(1)]
    (told,) = again.states.discarded
    assert told.path == str(path)


def test_when_no_snapshot_can_be_trusted_the_state_begins_at_the_log_start(log: Producers) -> None:
    for offset in (5, 6):
        log.fs.write_bytes(DIRECTORY / snapshot_name(offset), b"\0")
    again = log.reload(4, 8)
    assert (again.states.map_end_offset, again.files, len(again.states.discarded)) == (4, [], 2)


def test_a_file_too_large_to_be_a_snapshot_is_not_read(log: Producers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer_snapshots, "BYTES_MAX", 56)
    log.append(data(0, 0, producer=1))
    log.states.take_snapshot()
    log.append(data(0, 1, producer=2))
    log.states.take_snapshot()
    again = log.reload(0, 2)
    assert list(again.states.entries) == [1]
    assert again.states.discarded[0].reason == "a producer snapshot of 102 bytes is larger than 56"


def test_a_snapshot_that_vanished_is_passed_over(log: Producers) -> None:
    log.append(data(0, 0))
    log.snapshot_at(1, 2)
    log.fs.unlink(DIRECTORY / snapshot_name(2))
    log.states.truncate_and_reload(0, 3, 0)
    assert (log.states.map_end_offset, log.states.snapshot_offsets, log.states.discarded) == (1, (1,), ())


def test_a_snapshot_that_cannot_be_read_is_not_taken_for_a_corrupt_one(
    log: Producers, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.snapshot_at(1)
    monkeypatch.setattr(ProducerSnapshots, "_read", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    with pytest.raises(OSError, match="broken"):
        log.states.truncate_and_reload(0, 3, 0)
    assert log.files == [snapshot_name(1)]


# ---------------------------------------------------------------- durability


def test_a_snapshot_is_durable_once_synced_and_its_directory_too(log: Producers) -> None:
    log.fs.sync_directory("/")
    log.fs.sync_directory("/data")
    log.append(data(0, 0))
    log.states.take_snapshot()
    log.fs.sync_directory(DIRECTORY)
    assert Producers(log.fs.crash("nothing")).reload(0, 1).states.is_empty
    log.states.sync_snapshot(1)
    assert Producers(log.fs.crash("nothing")).reload(0, 1).entry.last_offset == 0


def test_syncing_a_snapshot_that_is_gone_does_nothing(log: Producers) -> None:
    log.snapshot_at(1)
    log.fs.unlink(DIRECTORY / snapshot_name(1))
    log.states.sync_snapshot(1)
    log.states.sync_snapshot(2)
    assert log.files == []


def test_a_snapshot_that_cannot_be_written_is_not_counted(log: Producers) -> None:
    log.snapshot_at(1)
    log.append(data(0, 1))
    log.fs.fail_on(lambda operation: operation.kind == "write", OSError(errno.ENOSPC, "full"), written=9)
    with pytest.raises(OSError, match="full"):
        log.states.take_snapshot()
    assert log.states.latest_snapshot_offset == 1
    log.fs.heal()
    log.states.take_snapshot()
    assert log.reload(0, 2).entry.last_offset == 1


@pytest.mark.parametrize("mode", ["nothing", "everything", "torn", "metadata", "subset"])
def test_whatever_a_power_cut_leaves_of_a_snapshot_one_that_is_right_is_loaded(mode: CrashMode) -> None:
    for number in range(1, 10):
        for seed in range(4 if mode == "subset" else 1):
            log = Producers()
            log.append(data(0, 0))
            log.states.take_snapshot()
            log.states.sync_snapshot(1)
            for directory in ("/", "/data", DIRECTORY):
                log.fs.sync_directory(directory)
            log.fs.stop_at = log.fs.operations + number
            log.fs.stop_torn = seed % 2 == 1
            log.append(data(1, 1))
            try:
                log.states.take_snapshot()
                log.states.sync_snapshot(2)
                log.states.delete_snapshots_before(2)
            except SimulatedCrash:
                pass
            again = Producers(log.fs.crash(mode, seed)).reload(0, 2)
            end = again.states.map_end_offset
            assert (end > 0) == (PRODUCER in again.states.entries)
            assert end == 0 or again.entry.last_offset == end - 1


# ---------------------------------------------------------------- content

entries = st.builds(
    ProducerStateEntry,
    producer_id=st.integers(0, 2**63 - 1),
    producer_epoch=st.integers(-1, 2**15 - 1),
    last_sequence=st.integers(0, 2**31 - 1),
    last_offset=st.integers(0, 2**63 - 1),
    offset_delta=st.integers(0, 2**31 - 1),
    last_timestamp=st.integers(-1, 2**63 - 1),
    coordinator_epoch=st.integers(-1, 2**31 - 1),
    current_transaction_first_offset=st.integers(-1, 2**63 - 1),
)
without_batch = entries.map(lambda entry: entry._replace(last_sequence=-1, last_offset=-1, offset_delta=0))


@pytest.mark.kafka("PROD-38")
@given(st.lists(entries | without_batch, unique_by=lambda entry: entry.producer_id, max_size=8))
@bounded
def test_what_a_snapshot_says_is_what_the_next_one_says(written: list[ProducerStateEntry]) -> None:
    fs = MemoryFileSystem()
    fs.write_bytes(DIRECTORY / snapshot_name(9), ProducerSnapshot(tuple(written)).encode())
    log = Producers(fs, producer_id_expiration_ms=2**63).reload(0, 9)
    assert log.states.active_producers() == tuple(written)
    log.states.update_map_end_offset(10)
    log.states.take_snapshot()
    assert fs.read_bytes(DIRECTORY / snapshot_name(10)) == fs.read_bytes(DIRECTORY / snapshot_name(9))
    opened = [one.current_transaction_first_offset for one in written if one.in_transaction]
    assert log.undecided == min(opened, default=None)


@given(st.binary(max_size=200), st.booleans())
@bounded
def test_no_content_of_a_snapshot_does_harm(content: bytes, framed: bool) -> None:
    fs = MemoryFileSystem()
    if framed:  # let it pass as far as the entries
        whole = [ProducerStateEntry(*range(number, number + 8)) for number in range(len(content) % 4)]
        content = ProducerSnapshot(tuple(whole)).encode() + content[:3]
    fs.write_bytes(DIRECTORY / snapshot_name(9), content)
    log = Producers(fs).reload(0, 9)
    assert (log.states.map_end_offset == 9) == (log.states.snapshot_offsets == (9,))
    log.replicate(transactional(0, 9), marker(ABORT, 10))


def test_a_producer_that_a_snapshot_names_twice_has_its_last_entry(log: Producers) -> None:
    twice = ProducerSnapshot((ProducerStateEntry(1, 0, current_transaction_first_offset=3), ProducerStateEntry(1, 4)))
    log.fs.write_bytes(DIRECTORY / snapshot_name(9), twice.encode())
    log = log.reload(0, 9)
    assert (log.entry.epoch, log.undecided) == (4, None)
