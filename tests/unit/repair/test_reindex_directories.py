"""Reindexing: what follows from the batches is made anew, log files are never touched, damage is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.broker_directories import DATA, crashes, everything, in_memory, make
from helpers.directories import (
    START,
    LogDirectory,
    Partition,
    alarms,
    append_bytes,
    flip_bit,
    overwrite,
    shorten,
    values,
)

from logstore.config import LogConfig
from logstore.errors import DamagedLogError, LogLockedError, LogstoreError
from logstore.fs import LocalFileSystem
from logstore.log import Log, ProducerSnapshot
from logstore.records import BatchOptions, ControlType, encode_batch
from logstore.repair import DryRunFileSystem, Reindexer, Reindexing
from logstore.testing import ManualClock, MemoryFileSystem

# As the directories of these tests are indexed: an entry for each append.
DENSE = LogConfig(index_interval_bytes=0, segment_index_bytes=1024)
FIRST, MIDDLE, LAST = (f"{base:020d}" for base in (0, 6, 12))


def reindexer(fs: Any = None, **options: Any) -> Reindexer:
    return Reindexer(fs or LocalFileSystem(), config=DENSE, clock=ManualClock(START), **options)


def reindexed(partition: Path, base_offset: int | None = None, **options: Any) -> Reindexing:
    return reindexer(**options).reindex_partition(partition, base_offset)


def actions(found: Reindexing) -> dict[str, str]:
    assert found.damage is None and found.error is None
    return {change.path.name: change.action for change in found.changes}


def made_files(partition: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in partition.iterdir() if path.suffix != ".log"}


def logs(partition: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in partition.glob("*.log")}


@pytest.fixture
def sound(transactions: Path) -> Path:
    """`payments-0`, in a clean log directory, with the indexes that it should have."""
    reindexed(transactions)
    assert alarms(transactions.parent) == []
    return transactions


# ---------------------------------------------------------------- what is made


def test_a_sound_directory_is_left_as_it_is(sound: Path, tree_unchanged: Callable[..., Any]) -> None:
    with tree_unchanged(sound):
        assert actions(reindexed(sound)) == {}
    assert [path.name for path in sound.parent.glob(".*")] == [".kafka_cleanshutdown"]


@pytest.mark.parametrize("suffix", ["index", "timeindex", "txnindex", "snapshot"])
@pytest.mark.parametrize("how", ["missing", "garbage", "short", "empty"])
def test_a_bad_file_is_made_as_it_was(sound: Path, suffix: str, how: str) -> None:
    wanted, before = made_files(sound), logs(sound)
    place = sorted(sound.glob(f"*.{suffix}"))[-1]
    if how == "missing":
        place.unlink()
    else:
        place.write_bytes({"garbage": b"\x07" * 23, "short": place.read_bytes()[:-3], "empty": b""}[how])
    found = reindexed(sound)
    if suffix == "snapshot" and how == "missing":
        return  # that of the log end is written by whoever closes the log
    assert actions(found) == {place.name: "create" if how == "missing" else "rewrite"}
    assert made_files(sound) == wanted
    assert logs(sound) == before
    assert alarms(sound.parent) == []


def test_all_files_of_a_log_with_segments_are_made_from_nothing(written: Partition, tmp_path: Path) -> None:
    written.append_transactional(7, *values(2))
    written.roll().append(*values(2))
    written.end_transaction(7, ControlType.ABORT)
    written.append(*values(2), leader_epoch=4)
    directory = written.close()
    reindexed(directory)
    wanted = made_files(directory)
    for path in directory.iterdir():
        if path.suffix != ".log" and path.name != "partition.metadata":
            path.unlink()
    found = reindexed(directory)
    assert set(actions(found).values()) == {"create"}
    end = f"{found.log_end_offset:020d}.snapshot"
    assert made_files(directory) == {name: data for name, data in wanted.items() if name != end}
    assert alarms(directory) == []


def test_what_kafka_wrote_with_its_default_settings_is_as_it_should_be(kafka_fixtures: Path) -> None:
    fs = DryRunFileSystem(LocalFileSystem())
    found = {one.path.name: one for one in Reindexer(fs).reindex_all(kafka_fixtures / "kafka-4.1.1/clean", everything)}
    assert len(found) > 20
    different = {"segments-0", "txn-0", "retained-0", "deleted-prefix-0", "epochs-0", "__cluster_metadata-0"}
    for name, one in found.items():
        changed = {change.path.suffix for change in one.changes}
        # These have an index interval of their own, or were appended to several batches at a time.
        assert changed <= ({".index", ".timeindex"} if name in different else set()), (name, one.changes)


def test_spare_room_of_an_active_index_is_trimmed(sound: Path) -> None:
    place = sound / f"{FIRST}.index"
    wanted = place.read_bytes()
    append_bytes(place, bytes(8000))
    (change,) = reindexed(sound).changes
    assert (change.action, change.size_before, change.size) == ("trim", len(wanted) + 8000, len(wanted))
    assert place.read_bytes() == wanted


def test_an_index_without_its_log_is_removed(sound: Path) -> None:
    (sound / f"{99:020d}.timeindex").write_bytes(bytes(12))
    assert actions(reindexed(sound)) == {f"{99:020d}.timeindex": "remove"}


def test_a_snapshot_that_knows_more_is_kept_one_that_knows_less_is_not(sound: Path) -> None:
    place = sorted(sound.glob("*.snapshot"))[-1]
    entries = ProducerSnapshot.decode(place.read_bytes()).entries
    assert len(entries) == 2
    more = (*entries, entries[0]._replace(producer_id=99, current_transaction_first_offset=-1))
    place.write_bytes(ProducerSnapshot(more).encode())
    assert actions(reindexed(sound)) == {}
    for worse in (entries[:1], (entries[0]._replace(last_offset=1), *entries[1:])):
        place.write_bytes(ProducerSnapshot(worse).encode())
        assert actions(reindexed(sound)) == {place.name: "rewrite"}


def test_a_snapshot_beyond_the_end_is_removed_and_one_between_bases_kept(sound: Path) -> None:
    empty = ProducerSnapshot().encode()
    (sound / f"{3:020d}.snapshot").write_bytes(empty)
    (sound / f"{77:020d}.snapshot").write_bytes(empty)
    assert actions(reindexed(sound)) == {f"{77:020d}.snapshot": "remove"}


@pytest.mark.parametrize(
    ("text", "is_good"),
    [
        ("0\n2\n0 0\n4 12\n", True),
        ("0\n3\n0 0\n4 12\n9 14\n", True),  # begun at the end, without a batch yet
        ("0\n2\n0 0\n4 9\n", True),  # begun without a batch
        ("0\n2\n0 0\n4 13\n", False),
        ("0\n2\n0 0\n5 12\n", False),
        ("0\n1\n4 12\n", False),
        ("0\n3\n0 0\n4 12\n", False),
        ("", False),
    ],
)
def test_leader_epochs_are_kept_where_they_fit_the_batches(directory: LogDirectory, text: str, is_good: bool) -> None:
    partition = directory.partition("orders-3")
    for epoch in (0, 0, 0, 4):
        partition.append(*values(4 if epoch == 0 else 2), leader_epoch=epoch)
    directory.close()
    reindexed(partition.path)
    place = partition.path / "leader-epoch-checkpoint"
    place.write_text(text)
    assert actions(reindexed(partition.path)) == ({} if is_good else {"leader-epoch-checkpoint": "rewrite"})
    assert is_good or place.read_text() == "0\n2\n0 0\n4 12\n"


def test_one_segment_alone_gets_its_indexes_whatever_the_others_are(orders: Path) -> None:
    reindexed(orders)
    wanted = made_files(orders)
    for base in (FIRST, MIDDLE):
        (orders / f"{base}.index").write_bytes(b"garbage!")
        (orders / f"{base}.timeindex").unlink()
    flip_bit(orders / f"{LAST}.log", 70, 0)
    found = reindexed(orders, 6)
    assert actions(found) == {f"{MIDDLE}.index": "rewrite", f"{MIDDLE}.timeindex": "create"}
    assert made_files(orders) == {
        name: b"garbage!" if name == f"{FIRST}.index" else data
        for name, data in wanted.items()
        if name != f"{FIRST}.timeindex"
    }


def test_the_transaction_index_of_one_segment_heeds_those_before(directory: LogDirectory) -> None:
    partition = directory.partition("payments-0")
    partition.append_transactional(1, *values(2))
    partition.roll().append(*values(2))
    partition.end_transaction(1, ControlType.ABORT)
    path = partition.path
    directory.close()
    reindexed(path)  # its snapshot at the second segment tells of the open transaction now
    place = path / f"{2:020d}.txnindex"
    wanted = place.read_bytes()
    place.unlink()
    assert actions(reindexed(path, 2))[place.name] == "create"
    assert place.read_bytes() == wanted


# ---------------------------------------------------------------- damage


def damage_of(found: Reindexing) -> DamagedLogError:
    assert found.damage is not None and found.changes == ()
    return found.damage


@pytest.mark.parametrize("base", [FIRST, MIDDLE])
@pytest.mark.parametrize("how", ["crc", "size", "garbage behind", "torn"])
def test_damage_in_a_sealed_segment_is_refused_with_its_position(
    orders: Path, base: str, how: str, tree_unchanged: Callable[..., Any]
) -> None:
    log = orders / f"{base}.log"
    size = log.stat().st_size
    if how == "crc":
        flip_bit(log, size // 3 + 70, 0)
    elif how == "size":
        overwrite(log, size // 3 + 8, b"\xff\xff\xff\xff")
    elif how == "torn":
        shorten(log, size - 5)
    else:
        append_bytes(log, b"garbage")
    (orders / f"{base}.index").unlink()
    with tree_unchanged(orders):
        error = damage_of(reindexed(orders))
    assert error.path == str(log)
    assert error.position == {"torn": size * 2 // 3, "garbage behind": size}.get(how, size // 3)


def test_damage_within_the_active_segment_is_refused(orders: Path, tree_unchanged: Callable[..., Any]) -> None:
    flip_bit(orders / f"{LAST}.log", 70, 0)
    (orders / f"{LAST}.index").unlink()
    with tree_unchanged(orders):
        error = damage_of(reindexed(orders))
    assert (error.path, error.position) == (str(orders / f"{LAST}.log"), 0)


@pytest.mark.parametrize("tail", [b"torn", bytes(5000)], ids=["torn", "zeros"])
def test_the_torn_end_of_the_active_segment_is_in_no_index_and_stays(orders: Path, tail: bytes) -> None:
    reindexed(orders)
    wanted = made_files(orders)
    append_bytes(orders / f"{LAST}.log", tail)
    before = logs(orders)
    (orders / f"{LAST}.index").unlink()
    found = reindexed(orders)
    assert actions(found) == {f"{LAST}.index": "create"}
    assert (found.torn, found.log_end_offset) == (len(tail), 18)
    assert (made_files(orders), logs(orders)) == (wanted, before)


def test_a_replacement_that_was_not_finished_is_for_recovery(orders: Path) -> None:
    (orders / f"{FIRST}.log.swap").write_bytes((orders / f"{FIRST}.log").read_bytes())
    with pytest.raises(LogstoreError, match="recover"):
        reindexed(orders)


def test_offsets_out_of_a_segments_range_are_for_recovery(tmp_path: Path) -> None:
    partition = Partition(tmp_path / "wide-0")
    partition.append(b"first")
    with open(partition.log, "ab") as file:
        file.write(encode_batch([(None, b"second")], base_offset=2**31 + 7))
    error = damage_of(reindexed(partition.path))
    assert error.path == str(partition.log)


# ---------------------------------------------------------------- whole directories, and what is in use


def test_all_wanted_partitions_of_a_directory_are_taken_and_damage_keeps_none_back(tmp_path: Path) -> None:
    data = make(tmp_path / "data", is_clean=True)
    flip_bit(data / "orders-3" / f"{FIRST}.log", 70, 0)
    (data / "payments-0" / f"{FIRST}.index").unlink()
    orders, payments = reindexer().reindex_all(data, everything)
    assert damage_of(orders)
    assert actions(payments)[f"{FIRST}.index"] == "create"
    assert [one.path.name for one in reindexer().reindex_all(data, lambda one: one.topic == "payments")] == [
        "payments-0"
    ]


def test_an_unclean_log_directory_is_for_recovery_unless_forced(tmp_path: Path) -> None:
    data = make(tmp_path / "data", is_clean=False)
    with pytest.raises(LogstoreError, match="logstore recover"):
        list(reindexer().reindex_all(data, everything))
    with pytest.raises(LogstoreError, match="logstore recover"):
        reindexed(data / "orders-3")
    assert [one.damage for one in reindexer(force=True).reindex_all(data, everything)] == [None, None]


def test_partitions_without_a_broker_are_taken_as_they_are(tmp_path: Path) -> None:
    data = make(tmp_path / "data", is_clean=False)
    for path in data.iterdir():
        if path.is_file():
            path.unlink()
    assert [one.error for one in reindexer().reindex_all(data, everything)] == [None, None]
    assert sorted(path.name for path in data.rglob(".*")) == []


@pytest.mark.parametrize("where", [".", "orders-3"])
def test_what_is_in_use_is_left_alone(tmp_path: Path, where: str) -> None:
    data = make(tmp_path / "data", is_clean=True)
    held = LocalFileSystem().lock(data / where / ".lock")
    assert held is not None
    for fs in (LocalFileSystem(), DryRunFileSystem(LocalFileSystem())):
        with pytest.raises(LogLockedError):
            reindexer(fs, force=True).reindex_partition(data / "orders-3")
    if where != ".":
        assert isinstance(next(iter(reindexer().reindex_all(data, everything))).error, LogLockedError)
    held.release()


# ---------------------------------------------------------------- dry run and crashes


def test_a_dry_run_says_what_the_deed_says_and_changes_nothing(
    tmp_path: Path, tree_unchanged: Callable[..., Any]
) -> None:
    data = make(tmp_path / "data", is_clean=True)
    (data / "orders-3" / f"{MIDDLE}.index").write_bytes(b"garbage!")
    (data / "orders-3" / "leader-epoch-checkpoint").unlink()
    with tree_unchanged(data):
        tried = list(reindexer(DryRunFileSystem(LocalFileSystem())).reindex_all(data, everything))
    assert tried == list(reindexer().reindex_all(data, everything))
    assert sum(len(one.changes) for one in tried) == 2


def test_a_crash_at_any_moment_leaves_old_and_new_files_and_what_opens(tmp_path: Path) -> None:
    data = make(tmp_path / "data", is_clean=True)
    (data / "orders-3" / f"{MIDDLE}.index").write_bytes(bytes(16))
    (data / "payments-0" / f"{FIRST}.timeindex").unlink()

    def act(fs: MemoryFileSystem) -> object:
        return list(reindexer(fs).reindex_all(DATA, everything))

    fs = in_memory(data)
    act(fs)
    wanted = {name: content for name, content in fs.tree().items() if not name.endswith((".tmp", ".lock"))}
    for after in crashes(lambda: in_memory(data), act):
        act(after)
        assert {name: one for name, one in after.tree().items() if not name.endswith((".tmp", ".lock"))} == wanted
        with Log.open(DATA / "orders-3", fs=after, clock=ManualClock(START)) as log:
            assert len(list(log.records())) == 18


def test_an_idempotent_producer_that_is_forgotten_by_now_need_not_be_in_a_snapshot(directory: LogDirectory) -> None:
    partition = directory.partition("orders-3")
    partition.append(b"x", options=BatchOptions(producer_id=5, producer_epoch=0, base_sequence=0))
    partition.roll().append(b"y")
    directory.close()
    place = partition.path / f"{1:020d}.snapshot"
    assert actions(reindexed(partition.path))[place.name] == "rewrite"
    place.write_bytes(ProducerSnapshot().encode())
    late = Reindexer(LocalFileSystem(), config=DENSE, clock=ManualClock(START + 100_000_000))
    assert place.name not in actions(late.reindex_partition(partition.path))
