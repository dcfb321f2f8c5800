"""What opening makes of a directory that a crash or somebody else has left: cut, kept aside, made anew, or refused."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.open_logs import from_producer
from helpers.stored_logs import (
    ABORTED,
    PLACE,
    START,
    Disk,
    Writing,
    crash_points,
    interleaved,
    offsets,
    operations_of,
    outcome,
    segments,
    values,
)

from logstore.config import LogConfig
from logstore.errors import DamagedLogError
from logstore.log import Log
from logstore.log.recovery import RecoveryAction
from logstore.records import ControlType, encode_batch, iter_batches
from logstore.testing import CrashMode, ManualClock, MemoryFileSystem, Operation

FIRST, SECOND, THIRD = "00000000000000000000", "00000000000000000008", "00000000000000000016"
"""The segments of `segments()`: four batches of two records each."""
FULL = OSError(errno.ENOSPC, "No space left on device")


def actions(log: Log) -> list[tuple[str, str]]:
    """What opening has done, and to which file."""
    found: list[RecoveryAction] = [] if log.recovered is None else log.recovered.actions
    return [(one.kind, one.path.name) for one in found]


def batches_of(disk: Disk, name: str) -> list[bytes]:
    """The batches of a log file, each as bytes."""
    data = disk.read(name)
    return [data[one.header.position : one.header.position + one.header.size] for one in iter_batches(data)]


# ---------------------------------------------------------------- clean or not


@pytest.mark.kafka("RECOVER-28")
def test_after_a_clean_close_nothing_is_checked_whatever_the_recovery_point() -> None:
    disk = segments().save().settle().state(0)
    disk.flip(f"{FIRST}.log", 100)
    log = disk.open()
    assert (log.recovered, log.log_end_offset, log.recovery_point) == (None, 24, 24)


def test_a_mark_of_a_clean_close_that_names_another_end_is_not_believed() -> None:
    disk = segments().save().settle().write(".logstore-clean", "25\n")
    log = disk.open()
    assert log.recovered is not None
    assert not log.recovered.was_clean
    assert offsets(log) == list(range(24))


@pytest.mark.parametrize("tail", [b"\0" * 40, b"\0\0\0\0\0\0\0\x18\0\0\0\x49\0\0\0\0\x02" + b"?" * 20, b"?" * 61])
def test_a_mark_of_a_clean_close_is_not_believed_when_something_was_written_behind_it(tail: bytes) -> None:
    disk = segments().save().settle().add(f"{THIRD}.log", tail)
    log = disk.open()
    assert ("cut", f"{THIRD}.log") in actions(log)
    assert log.append([(None, b"more")]).first_offset == 24
    assert values(log)[-2:] == [b"0023", b"more"]


@pytest.mark.kafka("RECOVER-03")
@pytest.mark.parametrize("recovery_point", [100, 10])
def test_an_unclean_open_finds_the_same_log_and_raises_no_recovery_point_before_a_flush(recovery_point: int) -> None:
    disk, config = Disk(), LogConfig(segment_bytes=700, index_interval_bytes=300)
    with disk.open(config) as log:
        for number in range(100):
            log.append([(None, b"%d" % number)], timestamp=START + 10 * number)
    before = disk.files()
    disk.unclean(recovery_point)
    log = disk.open(config)
    assert log.log_end_offset == 100
    assert log.recovery_point == recovery_point
    active = log._state.segments.active
    assert active.indexes.last_time_entry == (START + 990, 99)
    assert values(log) == [b"%d" % number for number in range(100)]
    log.flush()
    assert log.recovery_point == 100
    log.close()
    assert disk.files() == before


@pytest.mark.kafka("RECOVER-21")
def test_an_active_segment_without_index_files_gets_them_when_it_is_opened() -> None:
    disk = Disk()
    log = disk.open()
    log.append([(None, b"a")])
    log.roll()
    assert disk.offsets_of(".index") == [0]
    disk = disk.copy("nothing").state(1)
    log = disk.open()
    assert log.recovery_point == 1
    assert disk.offsets_of(".index") == disk.offsets_of(".timeindex") == [0, 1]
    log.close()
    assert disk.files()["00000000000000000001.timeindex"] == b""


@pytest.mark.kafka("RECOVER-21")
def test_a_flush_makes_the_index_files_of_an_empty_active_segment() -> None:
    disk = Disk()
    log = disk.open()
    log.append([(None, b"a")])
    log.roll()
    log.flush()
    assert disk.offsets_of(".index") == [0, 1]


# ---------------------------------------------------------------- indexes


@pytest.fixture
def timed() -> Disk:
    """Offsets 0 to 99 in 20 segments, record n at time START + 10 n."""
    writing = Writing()
    for number in range(100):
        if number and number % 5 == 0:
            writing.roll()
        writing.plain()
    return writing.save().settle()


def assert_every_lookup(log: Log) -> None:
    for number in range(100):
        first = next(iter_batches(log.read(number, bytes_max=1)))
        assert first.header.base_offset == number
        found = log.offset_for_time(START + 10 * number)
        assert found is not None
        assert found.offset == number
        later = log.offset_for_time(START + 10 * number + 1)
        assert (None if later is None else later.offset) == (number + 1 if number < 99 else None)


@pytest.mark.kafka("RECOVER-04", "SEG-11", "SEG-12")
def test_missing_indexes_are_made_anew(timed: Disk) -> None:
    before = timed.files()
    log = timed.remove(".index", ".timeindex").open()
    assert_every_lookup(log)
    log.close()
    assert timed.files() == before


@pytest.mark.kafka("RECOVER-05", "SEG-11", "SEG-12")
@pytest.mark.parametrize("garbage", [b"  ", b"\xff" * 24, bytes(96), b"\0\0\0\1" * 6])
def test_indexes_full_of_garbage_are_made_anew_from_the_recovery_point_on(timed: Disk, garbage: bytes) -> None:
    before = timed.files()
    for name in timed.names(".index", ".timeindex"):
        timed.write(name, garbage)
    log = timed.unclean(0).open()
    assert_every_lookup(log)
    log.close()
    assert timed.files() == before


@pytest.mark.parametrize("ending", [".index", ".timeindex"])
@pytest.mark.parametrize("garbage", [b"  ", b"\xff" * 24, bytes(240), b"\0\0\0\1\x7f\xff\xff\xff" * 3])
def test_after_a_clean_close_the_active_indexes_are_made_anew_where_they_end_in_garbage(
    timed: Disk, ending: str, garbage: bytes
) -> None:
    before = timed.files()
    timed.write(timed.names(ending)[-1], garbage)
    log = timed.open()
    assert log.recovered is not None
    assert log.recovered.was_clean
    assert_every_lookup(log)
    log.close()
    assert timed.files() == before


@pytest.mark.kafka("RECOVER-06")
def test_the_time_index_of_messages_without_a_time_is_made_anew_as_an_empty_file() -> None:
    writing = Writing()
    for base in (0, 3, 6):
        if base:
            writing.roll()
        for _ in range(3):
            writing.old(0)
    disk = writing.save().settle().remove(".timeindex")
    log = disk.open()
    assert [disk.fs.file_size(PLACE / name) for name in disk.names(".timeindex")] == [0, 0, 240]
    assert log._state.segments.active.indexes.last_time_entry == (-1, 6)
    assert offsets(log) == list(range(9))


@pytest.mark.kafka("RECOVER-07")
def test_indexes_without_a_log_file_are_removed_and_those_of_a_segment_have_room_to_grow() -> None:
    disk = Disk()
    for base in (0, 5):
        for ending in ("index", "timeindex", "txnindex"):
            disk.write(f"{base:020d}.{ending}", b"")
    log = disk.open()
    assert [(kind, int(name.partition(".")[0])) for kind, name in actions(log)] == [("remove", 0)] * 3 + [
        ("remove", 5)
    ] * 3
    log.append([(None, b"a")])
    assert disk.names(".index") == [f"{FIRST}.index"]
    assert [disk.fs.file_size(PLACE / f"{FIRST}.{ending}") for ending in ("index", "timeindex")] == [240, 240]


@pytest.mark.kafka("RECOVER-08", "SEG-13")
def test_random_bytes_behind_the_last_batch_are_cut_and_kept_aside() -> None:
    chance = random.Random(1)
    for _ in range(10):
        count = chance.randrange(10, 50)
        disk = Disk()
        with disk.open(LogConfig()) as log:
            for number in range(count):
                log.append([(b"key %d" % number, b"value", START + number)])
            before = list(log.records())
        whole, torn = disk.read(f"{FIRST}.log"), chance.randbytes(chance.randrange(1, 200))
        disk.add(f"{FIRST}.log", torn).add(f"{FIRST}.index", chance.randbytes(chance.randrange(1, 200)))
        disk.unclean(chance.randrange(count))
        log = disk.open()
        assert log.log_end_offset == count
        assert list(log.records()) == before
        assert disk.read(f"{FIRST}.log") == whole
        assert disk.asides() == {f".{FIRST}.log.{len(whole)}.aside": torn}


# ---------------------------------------------------------------- leftovers


@pytest.mark.kafka("RECOVER-10", "CLEAN-103")
def test_files_that_were_deleted_already_are_removed() -> None:
    disk = segments().save().settle()
    before = disk.files()
    for name in list(before):
        if name != "leader-epoch-checkpoint":
            disk.write(f"{name}.deleted", before[name])
    log = disk.open()
    assert offsets(log) == list(range(24))
    log.close()
    assert disk.files() == before


BIG = 2**31
"""Beyond what fits a segment that begins at 0."""


def overflowing() -> Writing:
    """A segment whose offsets need three, and one behind it."""
    writing = Writing()
    for offset in (0, 1, BIG + 5, BIG + 6, 2 * BIG + 7):
        writing.put(encode_batch([(b"k", b"%d" % offset)], base_offset=offset, timestamp=START))
    return writing.roll(2 * BIG + 20).plain()


SPLIT = [0, BIG + 5, 2 * BIG + 7]
ALL = [0, 1, BIG + 5, BIG + 6, 2 * BIG + 7, 2 * BIG + 20]


@pytest.mark.kafka("RECOVER-12", "DIR-09")
def test_a_segment_whose_offsets_do_not_fit_is_split() -> None:
    disk = overflowing().save().state(0)
    log = disk.open()
    assert offsets(log) == ALL
    assert disk.offsets_of(".log") == [*SPLIT, 2 * BIG + 20]
    assert disk.names(".deleted", ".cleaned", ".swap") == []
    assert ("split", f"{FIRST}.log") in actions(log)
    log.close()
    assert disk.alarms("segment-gap") == []


@pytest.mark.kafka("DIR-09")
@pytest.mark.parametrize("batch", [(BIG + 5, 2), (BIG - 1, 2)])
def test_a_segment_of_which_no_batch_fits_gets_the_base_offset_of_its_first(batch: tuple[int, int]) -> None:
    first, count = batch
    writing = Writing().put(encode_batch([(b"k", b"v")] * count, base_offset=first, timestamp=START))
    disk = writing.save().state(0)
    log = disk.open()
    assert disk.offsets_of(".log") == [first]
    assert offsets(log) == [first, first + 1]


def phases() -> dict[str, Callable[[], Disk]]:
    """A split that has come to each of the phases that a crash may leave (§12)."""

    def parts(*suffixes: str, old: bool) -> Disk:
        disk = overflowing().save().state(0)
        whole = batches_of(disk, f"{FIRST}.log")
        for base, suffix, part in zip(SPLIT, suffixes, (whole[:2], whole[2:4], whole[4:]), strict=True):
            if suffix or not old or base:
                disk.write(f"{base:020d}.log{suffix}", b"".join(part))
        return disk if old or not suffixes[0] else disk.remove(f"{FIRST}.log")

    cleaned, swap = ".cleaned", ".swap"
    return {
        "all cleaned": lambda: parts(cleaned, cleaned, cleaned, old=True),
        "the last renamed": lambda: parts(cleaned, cleaned, swap, old=True),
        "all but the first renamed": lambda: parts(cleaned, swap, swap, old=True),
        "a rename lost": lambda: parts(swap, cleaned, swap, old=True),
        "all renamed": lambda: parts(swap, swap, swap, old=True),
        "the old one gone": lambda: parts(swap, swap, swap, old=False),
        "one of them final": lambda: parts("", swap, swap, old=False),
        "two of them final": lambda: parts("", "", swap, old=False),
    }


@pytest.mark.kafka("RECOVER-13", "RECOVER-14", "RECOVER-15", "RECOVER-16")
@pytest.mark.parametrize("phase", phases())
def test_a_replacement_that_a_crash_has_interrupted_is_finished_or_undone_and_made_again(phase: str) -> None:
    disk = phases()[phase]()
    if "final" in phase:
        disk.write("00000000002147483653.index.deleted", b"of the old one")
    log = disk.open()
    assert offsets(log) == ALL
    assert disk.offsets_of(".log") == [*SPLIT, 2 * BIG + 20]
    assert disk.names(".deleted", ".cleaned", ".swap") == []
    log.close()
    assert disk.alarms("segment-gap") == []


@pytest.mark.kafka("RECOVER-15")
def test_several_segments_are_replaced_by_one_with_its_indexes() -> None:
    disk = segments().save().settle().unclean(16)
    kept = b"".join(batches_of(disk, f"{FIRST}.log")[:1] + batches_of(disk, f"{SECOND}.log")[3:])
    disk.write(f"{FIRST}.log.swap", kept).write(f"{FIRST}.index.swap", b"").write(f"{FIRST}.timeindex.swap", b"")
    log = disk.open()
    assert offsets(log) == [0, 1, 14, 15, *range(16, 24)]
    assert disk.offsets_of(".log") == [0, 16]
    assert disk.offsets_of(".index") == [0, 16]
    assert disk.offsets_of(".snapshot") == [16, 24]


# ---------------------------------------------------------------- epochs and producers


@pytest.mark.kafka("RECOVER-17", "SEG-15")
def test_leader_epochs_are_found_again_in_the_batches() -> None:
    writing = Writing()
    for epoch in (1, 2, 2, 3):
        writing.plain(leader_epoch=epoch)
    disk = writing.save().write("leader-epoch-checkpoint", "0\n1\n1 0\n").state(0)
    log = disk.open()
    assert log.leader_epochs.entries == ((1, 0), (2, 1), (3, 3))
    assert disk.read("leader-epoch-checkpoint") == b"0\n3\n1 0\n2 1\n3 3\n"


@pytest.mark.kafka("SEG-15")
@pytest.mark.parametrize("content", [None, b"", b"0\n1\n", b"1\n0\n", b"\xff\xfe", b"0\n1\n-1 5\n"])
@pytest.mark.parametrize("recovery_point", [0, 108, None])
def test_leader_epochs_come_from_all_batches_where_their_file_says_nothing(
    content: bytes | None, recovery_point: int | None
) -> None:
    writing = Writing(104)
    for offset, epoch in ((104, 0), (106, 1), (108, 1), (110, 2)):
        if offset == 108:
            writing.roll()
        writing.plain(2, leader_epoch=epoch)
    disk = writing.save().settle().unclean(recovery_point).remove("leader-epoch-checkpoint")
    if content is not None:
        disk.write("leader-epoch-checkpoint", content)
    log = disk.open()
    if content == b"" and recovery_point == 108:  # an empty file is one that says there are none
        assert log.leader_epochs.entries == ((1, 108), (2, 110))
    else:
        assert log.leader_epochs.entries == ((0, 104), (1, 106), (2, 110))
    if content:
        assert disk.asides() == {".leader-epoch-checkpoint.aside": content}


def test_leader_epochs_behind_the_log_end_are_forgotten() -> None:
    disk = segments().save().settle().write("leader-epoch-checkpoint", "0\n3\n0 0\n3 24\n4 99\n")
    log = disk.open()
    assert log.leader_epochs.entries == ((0, 0),)
    assert disk.read("leader-epoch-checkpoint") == b"0\n1\n0 0\n"


def test_a_log_of_an_old_format_gets_no_file_of_leader_epochs() -> None:
    disk = Writing().old(1).old(0).save().settle()
    assert not disk.exists("leader-epoch-checkpoint")


@pytest.mark.kafka("SEG-14")
def test_a_transaction_index_is_made_anew_as_of_what_is_known_of_earlier_segments() -> None:
    def rest(writing: Writing) -> Disk:
        writing.produce(1, 2).produce(2, 2).plain(2).end(2).end(1, commit=True)
        disk = writing.save().settle(LogConfig(segment_index_bytes=240))
        return disk.remove(".txnindex", ".index")

    disk = rest(Writing(100))
    log = disk.open()
    assert disk.aborted(100) == [(2, 102, 106, 100)]
    assert log._state.producers.map_end_offset == 108
    disk = rest(Writing(75).produce(2).roll(100))
    disk.open()
    assert disk.aborted(100) == [(2, 75, 106, 100)]


@pytest.mark.kafka("RECOVER-18")
@pytest.mark.parametrize("roll_at", [(), (17, 49, 75), (30, 59)])
def test_missing_transaction_indexes_are_made_anew_with_the_offset_indexes(roll_at: tuple[int, ...]) -> None:
    disk = interleaved(roll_at).save().settle()
    before = disk.files()
    disk.remove(".index", ".txnindex")
    log = disk.open()
    found = [entry for base in disk.offsets_of(".log") for entry in disk.aborted(base)]
    assert found == ABORTED
    log.close()
    assert disk.files() == before


@pytest.mark.kafka("RECOVER-19")
@pytest.mark.parametrize("endings", [(), (".snapshot",)])
def test_the_transaction_index_of_the_last_segment_needs_the_state_of_those_before(endings: tuple[str, ...]) -> None:
    disk = interleaved((17, 49)).save().settle()
    before = disk.files()
    disk.remove("49.index", "49.txnindex", *endings).unclean(49)
    log = disk.open()
    assert disk.aborted(49) == [(2, 8, 74, 36)]
    log.close()
    assert {name: data for name, data in disk.files().items() if "snapshot" not in name} == {
        name: data for name, data in before.items() if "snapshot" not in name
    }


@pytest.mark.parametrize("garbage", [b"\0\1" * 17, b"\0\0" + bytes(32) * 3, b"x" * 10, b"x" * 34])
def test_a_transaction_index_full_of_garbage_is_made_anew(garbage: bytes) -> None:
    disk = interleaved((17, 49)).save().settle()
    before = disk.files()
    name = disk.names(".txnindex")[-1]
    disk.write(name, garbage).unclean(90 if len(garbage) % 34 == 0 else 49)
    disk.settle()
    assert disk.files() == before


@pytest.mark.kafka("TXNLOG-07")
def test_a_finished_transaction_leaves_nothing_unstable_behind_after_a_crash() -> None:
    disk = Writing().produce(1, 3).end(1).produce(1).end(1, commit=True).plain().save().state(0)
    log = disk.open(replicated=True)
    assert log.last_stable_offset == 0
    log.set_high_watermark(7)
    assert log._state.first_unstable is None
    assert log.last_stable_offset == 7


# ---------------------------------------------------------------- damage: cut or refused


def test_a_damaged_batch_above_the_recovery_point_is_cut_with_all_behind_it_and_kept_aside() -> None:
    disk = segments(4).save().settle().unclean(8)
    before = disk.files()
    position = len(batches_of(disk, f"{SECOND}.log")[0])
    disk.flip(f"{SECOND}.log", position + 70)
    torn = disk.read(f"{SECOND}.log")[position:]
    log = disk.open()
    assert offsets(log) == list(range(10))
    kept = {name: data for name, data in disk.asides().items() if ".log" in name}
    assert kept == {
        f".{SECOND}.log.{position}.aside": torn,
        f".{THIRD}.log.aside": before[f"{THIRD}.log"],
        ".00000000000000000024.log.aside": before["00000000000000000024.log"],
    }
    recovered = log.recovered
    assert recovered is not None
    assert recovered.cut == sum(map(len, kept.values()))
    assert sorted(path.name for path in recovered.kept_aside) == sorted(kept)
    log.close()
    assert disk.offsets_of(".snapshot") == [8, 10]
    assert disk.settle().open().recovered is None


DAMAGE: dict[str, tuple[Callable[[Disk], object], int]] = {
    "a byte": (lambda disk: disk.flip(f"{SECOND}.log", 150), 10),
    "a size": (lambda disk: disk.flip(f"{SECOND}.log", 8), 8),
    "a magic": (lambda disk: disk.flip(f"{SECOND}.log", 16), 8),
    "the end": (lambda disk: disk.write(f"{SECOND}.log", disk.read(f"{SECOND}.log")[:-10]), 14),
    "zeros": (lambda disk: disk.write(f"{SECOND}.log", disk.read(f"{SECOND}.log")[:100] + bytes(400)), 10),
    "an offset that is too high": (lambda disk: disk.flip(f"{SECOND}.log", 6), 8),
    "an offset that is too low": (lambda disk: disk.write(f"{SECOND}.log", disk.read(f"{SECOND}.log") * 2), 16),
}
"""What becomes of the second segment, and the offset before which all is whole."""


@pytest.mark.parametrize("marks", ["clean", "unclean", "unknown", "broker"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_below_the_recovery_point_is_refused_and_nothing_is_changed(damage: str, marks: str) -> None:
    disk = segments().save().settle()
    if marks != "unknown":
        disk.remove(f"{SECOND}.index")  # so that it is looked at
    act, whole = DAMAGE[damage]
    act(disk)
    disk.write("leader-epoch-checkpoint", "garbage").write(f"{FIRST}.log.deleted", b"old")
    disk.write("00000000000000000005.index", b"").write("00000000000000000003.snapshot", b"stray")
    if marks == "unclean":
        disk.unclean(24)
    elif marks == "unknown":
        disk.unclean()
    elif marks == "broker":
        disk.unclean().broker(is_clean=True, recovery_point=24)
    before = disk.remove(".lock").fs.tree()
    with pytest.raises(DamagedLogError, match="--cut-damage") as caught:
        disk.open()
    assert (caught.value.path, caught.value.offset) == (str(PLACE / f"{SECOND}.log"), whole)
    assert {name: data for name, data in disk.fs.tree().items() if not name.endswith("/.lock")} == before
    log = disk.open(damage="cut")
    assert offsets(log) == list(range(whole))
    kept = b"".join(data for name, data in disk.asides().items() if f".{SECOND}.log." in name)
    was = before[str(PLACE / f"{SECOND}.log").lstrip("/")]
    assert was == disk.read(f"{SECOND}.log") + (kept or bytes(400))


@pytest.mark.parametrize("recovery_point", [22, 24])
def test_an_offset_that_is_too_high_hides_no_damage_in_the_active_segment(recovery_point: int) -> None:
    disk = segments().save().settle().unclean(recovery_point)
    disk.flip(f"{THIRD}.log", len(batches_of(disk, f"{THIRD}.log")[0]) + 6)
    with pytest.raises(DamagedLogError, match="--cut-damage"):
        disk.open()


def test_batches_of_the_next_segment_are_cut() -> None:
    disk = segments().save().settle().unclean(8)
    whole = batches_of(disk, f"{SECOND}.log")
    disk.write(f"{SECOND}.log", b"".join([*whole, *batches_of(disk, f"{THIRD}.log")[:2]]))
    log = disk.open()
    assert offsets(log) == list(range(16))
    details = [] if log.recovered is None else [one.detail for one in log.recovered.actions if one.kind == "cut"]
    assert "a batch ends at offset 17, in the next segment" in details[0]


def test_bytes_that_are_lost_below_the_recovery_point_are_damage_too() -> None:
    disk = segments().save().settle().unclean(24)
    disk.write(f"{THIRD}.log", disk.read(f"{THIRD}.log")[:-10])
    with pytest.raises(DamagedLogError, match="all before offset 22 is whole"):
        disk.open()
    log = disk.open(damage="cut")
    assert (log.log_end_offset, log.recovery_point) == (22, 22)


def test_a_marker_that_cannot_be_read_is_cut_as_a_damaged_batch_is() -> None:
    writing = Writing().produce(1).plain()
    marker = bytearray(Writing(2).end(1).save().read("00000000000000000002.log"))
    writing.put(_with_marker_type(marker, 77)).plain().roll().plain()
    disk = writing.save().state(2)
    log = disk.open()
    assert offsets(log) == [0, 1]
    assert log.last_stable_offset == 0
    kept = [name for name in disk.asides() if ".log" in name]
    assert len(kept) == 2
    log.close()
    disk = writing.save().state(4)
    with pytest.raises(DamagedLogError, match="all before offset 2 is whole"):
        disk.open()


def _with_marker_type(batch: bytearray, control_type: int) -> bytes:
    """The batch with another type in the key of its one record, and the right CRC."""
    from by_hand import refresh_crc

    at = bytes(batch).index(b"\0\0\0" + bytes([ControlType.ABORT]), 61)
    batch[at + 3] = control_type
    refresh_crc(batch)
    return bytes(batch)


def test_zeros_behind_the_last_batch_are_room_that_was_not_used() -> None:
    disk = segments().save().settle().unclean(20).add(f"{THIRD}.log", bytes(2000))
    log = disk.open()
    assert log.recovered is not None
    assert (log.recovered.cut, disk.asides(), log.log_end_offset) == (0, {}, 24)


@pytest.mark.parametrize("recovery_point", [0, 16, 24, None])
def test_zeros_at_the_end_of_a_segment_that_the_next_one_continues_are_room_that_was_not_used(
    recovery_point: int | None,
) -> None:
    disk = segments().save().settle().remove(f"{SECOND}.index").unclean(recovery_point)
    disk.add(f"{SECOND}.log", bytes(2000))
    log = disk.open()
    assert offsets(log) == list(range(24))
    assert disk.asides() == {}


def test_zeros_where_batches_were_are_a_cut() -> None:
    disk = segments().save().settle().unclean(8)
    whole = disk.read(f"{SECOND}.log")
    disk.write(f"{SECOND}.log", whole[:-50] + bytes(50))
    log = disk.open()
    assert offsets(log) == list(range(14))
    assert [name for name in disk.asides() if ".log." in name] == [
        f".{SECOND}.log.{3 * len(whole) // 4}.aside", f".{THIRD}.log.aside",
    ]  # fmt: skip


def test_a_batch_whose_offset_was_lost_with_the_block_before_is_a_cut() -> None:
    fs, lost = MemoryFileSystem(), 8
    fs.make_directory("/data")
    with Log.open(PLACE, fs=fs) as log:
        log.append([(None, b"kept")])
        log.append([(None, b"kept")])
    log = Log.open(PLACE, fs=fs)
    kept, around = log.size, log.size // 2 - len(b"kept")
    log.append([(None, bytes(512 - lost - kept - around - 2))])  # a length of two bytes, twice
    start = log.size
    log.append([(None, b"there, but for the begin of its offset")])
    fs = fs.crash("everything")
    data = bytearray(fs.read_bytes(PLACE / f"{FIRST}.log"))
    assert start == 512 - lost
    data[kept:512] = bytes(512 - kept)
    fs.write_bytes(PLACE / f"{FIRST}.log", data)
    with Log.open(PLACE, fs=fs) as log:
        assert values(log) == [b"kept", b"kept"]


def test_what_was_kept_aside_is_never_written_over() -> None:
    disk = segments().save().settle()
    size = len(disk.read(f"{THIRD}.log"))
    for content in (b"first", b"second", b"second"):
        disk.add(f"{THIRD}.log", content).unclean(16).settle()
    assert disk.asides() == {
        f".{THIRD}.log.{size}.aside": b"first", f".{THIRD}.log.{size}-2.aside": b"second",
    }  # fmt: skip


def test_a_segment_that_was_trusted_but_cannot_be_read_through_is_refused_or_cut() -> None:
    disk = interleaved((17, 49)).save().settle()
    disk.remove(".snapshot").flip("00000000000000000017.log", 8).unclean(49)
    with pytest.raises(DamagedLogError, match=r"no batch.*--cut-damage"):
        disk.copy().open()
    log = disk.open(damage="cut")
    assert log.log_end_offset == 17
    assert [name for name in disk.asides() if ".log." in name] == [
        ".00000000000000000017.log.0.aside", ".00000000000000000049.log.aside",
    ]  # fmt: skip


def test_a_damaged_segment_is_split_once_it_is_cut() -> None:
    disk = overflowing().save().state(0)
    whole = disk.read(f"{FIRST}.log")
    disk.write(f"{FIRST}.log", whole[:-30])
    log = disk.open()
    assert offsets(log) == ALL[:4]


# ---------------------------------------------------------------- the log start


@pytest.mark.kafka("RECOVER-20")
def test_a_log_that_ends_below_its_start_begins_there_anew() -> None:
    disk, config = Disk(), LogConfig(segment_bytes=80, file_delete_delay_ms=1000)
    with disk.open(config) as log:
        for _ in range(9):
            log.append([(None, b"v")])
    disk.unclean(0, 4).add("00000000000000000001.log", b"garbage")
    log = disk.open(config)
    assert (log.log_start_offset, log.log_end_offset) == (4, 4)
    assert disk.offsets_of(".log") == disk.offsets_of(".index") == disk.offsets_of(".timeindex") == [4]
    assert [offset for offset in disk.offsets_of(".snapshot") if offset <= 4] == []
    for _ in range(5):
        log.append([(None, b"v")])
    log._state.clock.advance(2000)
    log.maintain()
    assert disk.offsets_of(".snapshot") == [5, 6, 7, 8]
    log.close()
    assert disk.offsets_of(".snapshot") == [5, 6, 7, 8, 9]


@pytest.mark.kafka("RECOVER-29")
def test_a_log_starts_at_its_first_segment_at_least() -> None:
    disk = Writing(5).plain(3).save().state(0, 0)
    assert disk.open().log_start_offset == 5


def test_a_log_that_ends_below_its_start_is_kept_aside() -> None:
    disk = segments().save().settle()
    before = disk.files()
    log = disk.open(log_start_offset=1000)
    assert (log.log_start_offset, log.log_end_offset, log.leader_epochs.entries) == (1000, 1000, ())
    assert log.recovered is not None
    kept = {name[1:].removesuffix(".aside"): data for name, data in disk.asides().items()}
    assert kept == {name: data for name, data in before.items() if "snapshot" not in name and "leader" not in name}


@pytest.mark.kafka("DIR-05")
def test_a_new_log_begins_where_it_is_told() -> None:
    disk = Disk()
    log = disk.open(log_start_offset=500)
    assert (log.log_start_offset, log.log_end_offset) == (500, 500)
    assert disk.offsets_of(".log") == [500]
    assert log.recovered is None


# ---------------------------------------------------------------- interrupted


def torn() -> Disk:
    disk = segments().save().settle().unclean(16)
    return disk.add(f"{THIRD}.log", disk.read(f"{THIRD}.log")[:50])


def damaged() -> Disk:
    return segments(4).save().settle().unclean(8).flip(f"{SECOND}.log", 200)


def without_indexes() -> Disk:
    return interleaved((17, 49, 75)).save().settle().remove(".index", ".timeindex", ".txnindex")


def without_some_indexes() -> Disk:
    return interleaved((17, 49, 75)).save().settle().remove("17.index", "17.txnindex", f"{FIRST}.index")


def bad_transaction_index() -> Disk:
    disk = interleaved((17, 49, 75)).save().settle()
    return disk.write(disk.names(".txnindex")[0], b"\1" * 34)


def unknown() -> Disk:
    return interleaved((17, 49, 75)).save()


def splitting() -> Disk:
    return overflowing().save().state(0)


def below_its_start() -> Disk:
    return segments().save().settle().unclean(0, 500)


def bad_epochs() -> Disk:
    writing = Writing()
    for epoch in (1, 2, 2, 3):
        writing.plain(leader_epoch=epoch)
    disk = writing.roll().plain(leader_epoch=5).save().settle()
    return disk.write("leader-epoch-checkpoint", "garbage")


def vouched_for() -> Disk:
    return segments().save().broker(is_clean=True, recovery_point=24, log_start=3)


def of_a_broker() -> Disk:
    disk = segments().save().broker(recovery_point=8, log_start=3)
    return disk.add(f"{THIRD}.log", b"x" * 99)


INTERRUPTED: list[Callable[[], Disk]] = [
    Disk, torn, damaged, without_indexes, without_some_indexes, bad_transaction_index, unknown, splitting,
    below_its_start, bad_epochs, vouched_for, of_a_broker, *phases().values(),
]  # fmt: skip
IDS = [*(one.__name__ for one in INTERRUPTED[: -len(phases())]), *phases()]


Settled = tuple[dict[str, object], dict[str, bytes], dict[str, bytes]]


def settled(disk: Disk) -> Settled:
    """What a log holds once it was opened, and what a close leaves of it and of what was cut."""
    log = disk.open()
    found = outcome(log)
    log.close()
    kept = {name: data for name, data in disk.asides().items() if ".log." in name or "epoch" in name}
    return found, disk.files(), kept


def without_lost_snapshots(found: Settled, wanted: Settled) -> Settled:
    """What was wanted, but for snapshots that are not there: a power cut may lose them, and they are not missed."""
    lost = {name for name in wanted[1].keys() - found[1].keys() if name.endswith(".snapshot")}
    end = f"{wanted[0]['end']:020d}.snapshot"
    return wanted[0], {name: data for name, data in wanted[1].items() if name not in lost - {end}}, wanted[2]


@pytest.mark.parametrize("make", INTERRUPTED, ids=IDS)
def test_a_crash_at_any_operation_of_opening_changes_nothing_of_what_it_comes_to(make: Callable[[], Disk]) -> None:
    disk = make().copy()
    wanted = settled(disk.copy())
    points = 0
    for number, stopped in crash_points(disk, Disk.open):
        points += 1
        modes: list[tuple[CrashMode, int]] = [("nothing", 0), ("torn", 0), ("metadata", 0)]
        for mode, seed in [*modes, ("subset", number), ("subset", number + 1000)]:
            found = settled(stopped.copy(mode, seed))
            assert found == without_lost_snapshots(found, wanted), f"stopped at operation {number}, {mode} {seed}"
    assert points >= 12


@pytest.mark.parametrize("make", INTERRUPTED, ids=IDS)
def test_a_kill_at_any_operation_of_opening_changes_nothing_of_what_it_comes_to(make: Callable[[], Disk]) -> None:
    disk = make().copy()
    wanted = settled(disk.copy())
    for number, stopped in crash_points(disk, Disk.open):
        # What was seen by the next process, and relied on, is durable when that has closed the log.
        assert settled(stopped) == wanted, f"killed at operation {number}"
        assert stopped.copy("nothing").files() == wanted[1], f"killed at operation {number}, then a power cut"


@pytest.mark.parametrize("make", INTERRUPTED, ids=IDS)
def test_a_full_disk_while_opening_is_an_error_and_loses_nothing(make: Callable[[], Disk]) -> None:
    disk = make().copy()
    wanted = settled(disk.copy())
    numbers = [one.number for one in operations_of(disk.copy(), Disk.open) if needs_room(one)]
    for first in numbers:
        full = disk.copy()
        full.fs.fail_on(lambda one, first=first: needs_room(one) and one.number >= first, FULL)  # type: ignore[misc]
        with pytest.raises(OSError, match="No space left") as caught:
            full.open()
        assert caught.value.filename is not None
        full.fs.heal()
        assert settled(full) == wanted, f"full from operation {first} on"
    assert len(numbers) > 2


def needs_room(operation: Operation) -> bool:
    return operation.kind in ("create", "write") or (operation.kind == "truncate" and operation.size > 0)


@pytest.mark.parametrize("make", INTERRUPTED, ids=IDS)
def test_an_operation_that_fails_while_opening_is_an_error_and_loses_nothing(make: Callable[[], Disk]) -> None:
    disk = make().copy()
    wanted = settled(disk.copy())
    kinds = ("sync", "sync_directory", "rename", "unlink")
    numbers = [one.number for one in operations_of(disk.copy(), Disk.open) if one.kind in kinds]
    for number in numbers:
        failing = disk.copy()
        failing.fs.fail_on(
            lambda one, number=number: one.number == number, OSError(errno.EIO, "Input/output error")  # type: ignore[misc]
        )
        with pytest.raises(OSError, match="Input/output"):
            failing.open()
        failing.fs.heal()
        for after in (failing.copy("everything"), failing.copy("nothing")):
            found = settled(after)
            assert found == without_lost_snapshots(found, wanted), f"operation {number} failed"
    assert len(numbers) > 2


def test_what_recovery_says_can_be_read() -> None:
    log = torn().open()
    assert log.recovered is not None
    (path,) = log.recovered.kept_aside
    assert path == Path(PLACE, path.name)
    details = [one.detail for one in log.recovered.actions]
    assert details[0].startswith("50 bytes from position ")
    assert "the file ends inside a batch; kept in" in details[0]
    assert details[1] == "the log was not closed cleanly: 4 batches checked, indexes made anew"


def test_a_snapshot_below_the_first_segment_says_nothing_of_what_comes_behind_it(tmp_path: Path) -> None:
    """A truncation to a later offset that two crashes have stopped leaves one."""
    clock = ManualClock(START)
    with Log.open(tmp_path / "before-0", clock=clock) as log:
        log.append_batch(from_producer(1, 0))
    snapshot = f"{1:020}.snapshot"
    place = tmp_path / "after-0"
    Log.open(place, clock=clock, log_start_offset=30).close()
    for one in place.iterdir():  # as far as the first crash came
        if one.suffix != ".log":
            one.unlink()
    (place / snapshot).write_bytes((tmp_path / "before-0" / snapshot).read_bytes())
    (place / ".logstore-state").write_text("0\n2\nrecovery_point 1\nlog_start_offset 30\n")
    with Log.open(place, clock=clock) as log:
        assert (log.log_start_offset, log.log_end_offset, log.producers) == (30, 30, ())
        assert log.append_batch(from_producer(1, 7)).first_offset == 30
    assert not (place / snapshot).exists()
