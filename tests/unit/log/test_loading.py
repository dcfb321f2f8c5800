"""Opening directories: those that real brokers wrote, those with odd things in them, those that cannot be opened."""

from __future__ import annotations

import base64
import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from by_hand import GZIP, message, message_set
from helpers.directories import alarms
from helpers.fixtures import View, consumer_views, log_directories
from helpers.open_logs import from_leader
from helpers.stored_logs import PLACE, SMALL, START, Disk, Writing, offsets, segments, values, watch

from logstore import names
from logstore.config import LogConfig
from logstore.errors import DamagedLogError
from logstore.log import FetchIsolation, Log, ProducerSnapshot, parse_leader_epoch_checkpoint
from logstore.names import FileKind
from logstore.records import encode_batch
from logstore.testing import ManualClock, MemoryFileSystem

ISOLATION = {"read_committed": FetchIsolation.TXN_COMMITTED, "read_uncommitted": FetchIsolation.LOG_END}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each partition directory of each log directory that a broker wrote."""
    if "partition" in metafunc.fixturenames:
        root = Path(metafunc.config.getoption("kafka_fixtures")).resolve()
        found = [path for log in log_directories(root) for path in sorted(log.iterdir()) if path.is_dir()]
        metafunc.parametrize("partition", found, ids=[str(path.relative_to(root)) for path in found])


def copied(partition: Path, into: Path, *, is_alone: bool) -> Path:
    """A copy of a partition directory that can be written to, alone or with its log directory around it."""
    into.mkdir()
    if not is_alone:
        for path in partition.parent.iterdir():
            if path.is_file():
                shutil.copyfile(path, into / path.name)
    shutil.copytree(partition, into / partition.name, copy_function=shutil.copyfile)
    for path in (into / partition.name, *(into / partition.name).iterdir()):
        path.chmod(path.stat().st_mode | 0o200)
    return into / partition.name


def contents(directory: Path) -> dict[str, bytes]:
    """What Kafka would see in a partition directory."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if not path.name.startswith(".")}


def as_viewed(log: Log, view: View) -> list[dict[str, Any]]:
    """The records as a view tells them, without what batches say of them."""
    def encoded(data: bytes | None) -> str | None:
        return None if data is None else base64.b64encode(data).decode()

    return [
        {
            "offset": record.offset,
            "timestamp": record.timestamp,
            "key": encoded(record.key),
            "value": encoded(record.value),
            "headers": [[key, encoded(value)] for key, value in record.headers],
        }
        for record in log.records(isolation=ISOLATION[view.isolation])
    ]


# ---------------------------------------------------------------- what brokers wrote


@pytest.mark.parametrize("is_alone", [False, True], ids=["in its log directory", "alone"])
def test_a_directory_of_a_broker_opens_serves_its_records_and_closes_whole(
    partition: Path, kafka_fixtures: Path, tmp_path: Path, *, is_alone: bool
) -> None:
    directory = copied(partition, tmp_path / "data", is_alone=is_alone)
    views = [view for view in consumer_views(kafka_fixtures) if view.partition == partition]
    with Log.open(directory) as log:
        end = log.log_end_offset
        for view in views:
            head = view.head
            wanted = [{key: record[key] for key in record if key != "timestamp_type"} for record in view.records]
            found = as_viewed(log, view)
            if is_alone:  # nobody says then where it starts
                found = [record for record in found if record["offset"] >= head["low"]]
            else:
                assert log.log_start_offset == head["low"]
            assert found == wanted
            assert head["high"] == (log.last_stable_offset if view.isolation == "read_committed" else end)
        assert log.recovered is None or (log.recovered.cut, log.recovered.kept_aside) == (0, [])
        # It can be written to.
        if log._state.segments.active.size:
            assert log.append([(b"k", b"more")], timestamp=START).first_offset == end
    assert alarms(directory) == []
    with Log.open(directory) as log:
        assert log.log_end_offset in (end, end + 1)


@pytest.mark.kafka("RECOVER-28")
def test_a_directory_that_a_broker_closed_cleanly_stays_as_it_is(partition: Path, tmp_path: Path) -> None:
    if not (partition.parent / names.CLEAN_SHUTDOWN).exists() or partition.name.endswith("-delete"):
        pytest.skip("it was not closed cleanly")
    directory = copied(partition, tmp_path / "data", is_alone=False)
    wanted = contents(directory)
    with Log.open(directory) as log:
        assert log.recovered is None
        end = log.log_end_offset
    # What every loading does, Kafka's too: an epoch without records is forgotten, and a snapshot at no segment's base.
    epochs = names.LEADER_EPOCH_CHECKPOINT
    if epochs in wanted:
        kept = [f"{epoch} {start}" for epoch, start in parse_leader_epoch_checkpoint(wanted[epochs]) if start < end]
        wanted[epochs] = "".join(f"{line}\n" for line in (0, len(kept), *kept)).encode()
    bases = {int(name[:20]) for name in wanted if name.endswith(".log")}
    for name in [name for name in wanted if name.endswith(".snapshot")]:
        if int(name[:20]) not in bases | {end}:
            del wanted[name]
    assert contents(directory) == wanted
    for path in partition.parent.iterdir():
        if path.is_file():
            assert (directory.parent / path.name).read_bytes() == path.read_bytes(), path.name
    with Log.open(directory) as log:
        assert log.recovered is None
    assert contents(directory) == wanted


def test_after_a_kill_nothing_but_zeros_is_cut_from_what_a_broker_left(kafka_fixtures: Path, tmp_path: Path) -> None:
    for number, partition in enumerate(["killed/segments-0", "live/preallocated-0", "live/txn-0"]):
        source = kafka_fixtures / "kafka-4.1.1" / partition
        directory = copied(source, tmp_path / str(number), is_alone=False)
        before = contents(directory)
        with Log.open(directory) as log:
            assert log.recovered is not None
            assert not log.recovered.was_clean
        for name, data in contents(directory).items():
            if name.endswith((".log", ".txnindex")):
                assert before[name].startswith(data)
                assert not any(before[name][len(data) :])


# ---------------------------------------------------------------- new, empty, odd


def test_a_new_directory_is_made_and_is_durable() -> None:
    for made in (0, 1, 2):
        fs = MemoryFileSystem()
        for directory in ("/data", "/data/orders-0")[:made]:
            fs.make_directory(directory)  # by somebody who was killed before he synced it
            if made == 2 and directory == "/data":
                fs.sync_directory("/")
        if made == 1:
            fs.sync_directory("/")
        with Log.open(PLACE, fs=fs, clock=ManualClock(START)) as log:
            assert log.recovered is None
            log.append([(None, b"a")], durability="always")
            assert values(Disk(fs).copy("nothing").open()) == [b"a"]


@pytest.mark.kafka("DIR-10")
def test_files_of_no_size_are_an_empty_segment_that_can_be_written_to() -> None:
    disk = Disk().write("00000000000000000007.log", b"").write("00000000000000000007.index", b"")
    log = disk.open()
    assert (log.log_start_offset, log.log_end_offset) == (7, 7)
    assert log.append([(None, b"a")]).first_offset == 7
    assert values(log) == [b"a"]


@pytest.mark.kafka("DIR-03")
def test_a_directory_that_waits_for_its_deletion_opens() -> None:
    fs = MemoryFileSystem(ManualClock(START))
    place = Path("/data/topic-0.0123456789abcdef0123456789abcdef-delete")
    fs.make_directory(place)
    log = Log.open(place, fs=fs, clock=ManualClock(START))
    assert (log.log_start_offset, log.log_end_offset) == (0, 0)
    assert [name for name in fs.list(place) if name.endswith(".log")] == ["00000000000000000000.log"]
    log.close()


ODD = {
    "notes.txt": b"mine",
    "notes.txt.deleted": b"mine",
    "notes.swap": b"mine",
    "notes.cleaned": b"mine",
    ".notes.swp": b"mine",
    "5.log": b"not named as a segment is",
    "+5.log": b"nor this",
    "000000000000000000005.log": b"nor this",
    "99999999999999999999.log": b"an offset that is too large",
    "00000000000000000005.logs": b"mine",
    "00000000000000000005-0000000001.checkpoint": b"of a metadata log",
    "00000000000000000005-0000000001.checkpoint.deleted": b"of a metadata log",
    "quorum-state": b"{}",
}
DIRECTORIES = [
    "lost+found", "00000000000000000003.log", "00000000000000000004.log.deleted", "00000000000000000000.log.swap",
    "00000000000000000000.log.cleaned", "00000000000000000005.index", "00000000000000000006.snapshot", "notes.swap.d",
]  # fmt: skip


@pytest.mark.parametrize("is_clean", [True, False])
def test_what_is_not_a_logs_own_is_left_alone(*, is_clean: bool) -> None:
    disk = segments().save().settle()
    before = disk.files()
    if not is_clean:
        disk.unclean()
    for name, data in ODD.items():
        disk.write(name, data)
    for name in DIRECTORIES:
        disk.write(f"{name}/inside", b"mine")
    with disk.open() as log:
        assert offsets(log) == list(range(24))
    tree = disk.fs.tree()
    found = {name.removeprefix("data/orders-0/"): data for name, data in tree.items()}
    assert {name: found.get(name) for name in ODD} == ODD
    assert {name: found.get(f"{name}/inside") for name in DIRECTORIES} == dict.fromkeys(DIRECTORIES, b"mine")
    assert {name: data for name, data in disk.files().items() if name not in ODD} == before


def test_files_that_an_interrupted_write_left_are_removed_where_they_are_ours() -> None:
    disk = segments().save().settle()
    base = "00000000000000000008"
    ours = [f"{base}.index.tmp", f"{base}.timeindex.tmp", f".{base}.log.5.aside.tmp"]
    for name in [*ours, "mine.tmp", f"{base}.index.tmp.tmp"]:
        disk.write(name, b"half")
    disk.settle()
    assert disk.names(".tmp") == [f"{base}.index.tmp.tmp", "mine.tmp"]


def test_a_file_in_the_place_of_the_directory_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "orders-0").write_bytes(b"")
    for path in (tmp_path / "orders-0", tmp_path / "orders-0" / "inside"):
        with pytest.raises(OSError, match="orders-0"):
            Log.open(path)
    disk = Disk().write("../orders-1", b"")
    with pytest.raises(FileExistsError, match="orders-1"):
        Log.open("/data/orders-1", fs=disk.fs)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_directory_that_cannot_be_written_to_is_an_error_and_stays_as_it_is(number: int) -> None:
    disk = segments().save().settle().remove(".lock")
    before = disk.fs.tree()
    disk.fs.fail_on(lambda _: True, OSError(number, os.strerror(number)))
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        disk.open()
    assert (caught.value.errno, caught.value.filename) == (number, str(PLACE / ".lock"))
    assert disk.fs.tree() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission_is_an_error(tmp_path: Path) -> None:
    directory = tmp_path / "orders-0"
    Log.open(directory).close()
    directory.chmod(0o500)
    with pytest.raises(PermissionError, match="orders-0"):
        Log.open(directory)
    directory.chmod(0o700)


@pytest.mark.parametrize("name", [".logstore-state", "leader-epoch-checkpoint", "00000000000000000016.index"])
def test_a_directory_in_the_place_of_a_file_is_an_error_that_names_it(name: str) -> None:
    disk = segments().save().settle().remove(name).unclean(0)
    disk.remove(name).write(f"{name}/inside", b"mine")
    with pytest.raises(IsADirectoryError) as caught:
        disk.open()
    assert name in str(caught.value.filename)
    disk.fs.unlink(PLACE / name / "inside")
    disk.fs.rename(PLACE / name, "/data/elsewhere")
    assert offsets(disk.open()) == list(range(24))


def test_a_file_larger_than_any_segment_is_refused(tmp_path: Path) -> None:
    Log.open(tmp_path / "orders-0").close()
    with open(tmp_path / "orders-0" / "00000000000000000005.log", "wb") as file:
        file.truncate(2**31)
    with pytest.raises(DamagedLogError, match="larger than any"):
        Log.open(tmp_path / "orders-0")


# ---------------------------------------------------------------- with the log


@pytest.mark.kafka("RECOVER-09")
def test_a_log_of_many_segments_is_opened_and_truncated() -> None:
    disk = segments(20, 1).save().settle()
    log = disk.open()
    assert len(log._state.segments) == 20
    log.truncate_to(4)
    log.truncate_to(3)
    assert (log.log_end_offset, len(log._state.segments)) == (3, 2)
    log.truncate_to(1)
    assert (log.log_end_offset, len(log._state.segments)) == (1, 1)
    assert log.append([(None, b"a")]).first_offset == 1


@pytest.mark.kafka("RECOVER-11")
def test_a_follower_rolls_where_offsets_do_not_fit_the_segment() -> None:
    big = 2**31
    for encode in (_v2, _v2_gzip):
        disk = Disk()
        log = disk.open()
        for offset in (0, big + 1, big + 9):
            log.append_as_follower(encode(offset))
        assert disk.offsets_of(".log") == [0, big + 1]
        assert disk.offsets_of(".snapshot") == [big + 1]
        log.close()
        assert disk.alarms("segment-gap") == []


@pytest.mark.kafka("RECOVER-11")
def test_a_follower_rolls_compressed_sets_of_old_formats_by_their_last_offset() -> None:
    disk, first_last, second_last = Disk(), 2**31 + 2, 2**32 + 10
    log = disk.open()
    log.append_as_follower(message(1, b"k", b"v", offset=0, timestamp=START))
    for last in (first_last, second_last):
        inner = [bytes(message(1, b"k", b"v", offset=number, timestamp=START)) for number in range(2)]
        log.append_as_follower(message_set(1, GZIP, *inner, offset=last, timestamp=START))
    assert disk.offsets_of(".log") == [0, 3, second_last - (2**31 - 1)]
    assert disk.offsets_of(".snapshot") == [3, second_last - (2**31 - 1)]
    assert offsets(log) == [0, first_last - 1, first_last, second_last - 1, second_last]
    log.close()
    assert disk.alarms("segment-gap") == []


def _v2(offset: int) -> bytearray:
    return from_leader(offset, 2)


def _v2_gzip(offset: int) -> bytearray:
    from logstore.records import BatchOptions, Codec, Record

    records = [Record(offset + number, START, b"k", b"v") for number in range(2)]
    return encode_batch(records, base_offset=offset, options=BatchOptions(codec=Codec.GZIP, leader_epoch=0))


@pytest.mark.kafka("ROLL-11")
def test_a_snapshot_that_cannot_be_synced_raises_no_recovery_point() -> None:
    disk = Disk()
    log = disk.open()
    log.append([(None, b"a")])
    before = log.recovery_point
    disk.fs.fail_on(
        lambda one: one.kind == "sync" and one.path.endswith(".snapshot"), OSError(errno.EIO, "Input/output error")
    )
    with pytest.raises(OSError, match="Input/output"):
        log.roll()
    assert log.recovery_point == before
    assert b"recovery_point 0\n" in disk.read(".logstore-state")


def test_a_segment_that_becomes_too_large_by_configuration_is_opened() -> None:
    disk = segments().save().settle(LogConfig())
    with disk.open(LogConfig(segment_bytes=14, segment_index_bytes=4)) as log:
        assert offsets(log) == list(range(24))


# ---------------------------------------------------------------- how much it takes


def many(count: int) -> Disk:
    """A log of so many segments, closed cleanly, made without a log."""
    disk = Disk()
    for base in range(count):
        disk.write(names.log_file_name(base), encode_batch([(b"k", b"v")], base_offset=base, timestamp=START + base))
        disk.write(names.offset_index_file_name(base), b"")
        disk.write(names.time_index_file_name(base), (START + base).to_bytes(8, "big") + bytes(4))
        if base:
            disk.write(names.producer_snapshot_file_name(base), ProducerSnapshot().encode())
    disk.write("leader-epoch-checkpoint", "0\n0\n").state(count).write(".logstore-clean", f"{count}\n")
    return disk.settle()


def test_a_clean_open_takes_as_many_operations_and_open_files_whatever_the_number_of_segments() -> None:
    costs = []
    for count in (5, 50):
        disk = many(count)
        opened, before = watch(disk), disk.fs.operations
        assert disk.open().recovered is None
        of_sealed = [name for name in opened if name[:20].isdigit() and int(name[:20]) < count - 1]
        assert of_sealed == []
        costs.append((len(opened), disk.fs.operations - before))
    assert costs[0] == costs[1]


def test_a_recovery_reads_each_segment_once() -> None:
    disk = segments(8).save().settle().unclean(0)
    opened = watch(disk)
    disk.open()
    for base in disk.offsets_of(".log")[:-1]:
        assert opened.count(names.segment_file_name(base, FileKind.LOG)) == 1


def test_damage_is_looked_for_without_reading_twice_what_has_no_producers() -> None:
    disk = segments(3).save().settle().unclean(24)
    opened = watch(disk)
    disk.open(SMALL)
    assert opened.count("00000000000000000016.log") <= 4  # looked at, taken over, its end found, and written to
    assert opened.count("00000000000000000000.log") == 0


def test_a_directory_is_opened_by_a_relative_path_too() -> None:
    fs = MemoryFileSystem(ManualClock(START))
    with Log.open("orders-0", fs=fs, clock=ManualClock(START)) as log:
        log.append([(None, b"a")])
    assert values(Log.open("/orders-0", fs=fs)) == [b"a"]


def test_opening_from_a_writing_without_anything_beside_it_gives_a_whole_log() -> None:
    disk = Writing().plain(2).roll().plain(2).save().settle()
    assert disk.alarms() == []
    assert disk.open().recovered is None
