"""Who may write to a partition directory, what its small files say, and what becomes of the marks of a clean close."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest
from helpers.stored_logs import LOG_DIRECTORY, PLACE, Disk, offsets, segments

from logstore.errors import CorruptCheckpointError, InconsistentTopicIdError, LogLockedError
from logstore.log import PartitionFacts, find_log_directory, parse_offset_checkpoint, read_facts
from logstore.log.partition_state import PartitionHold
from logstore.names import TopicPartition

MARKER = "../.kafka_cleanshutdown"
STATE, CLEAN = ".logstore-state", ".logstore-clean"
TOPIC, OTHER = UUID("01234567-89ab-cdef-0123-456789abcdef"), UUID(int=1)


@pytest.fixture
def disk() -> Disk:
    return Disk()


def facts(disk: Disk, place: Path = PLACE) -> PartitionFacts:
    before = disk.fs.operations
    found = read_facts(disk.fs, place)
    assert disk.fs.operations == before  # it only reads
    return found


# ---------------------------------------------------------------- locks


def test_one_at_a_time_holds_a_partition(disk: Disk) -> None:
    hold = PartitionHold.take(disk.fs, PLACE)
    with pytest.raises(LogLockedError, match="another process") as caught:
        PartitionHold.take(disk.fs, PLACE)
    assert caught.value.path == str(PLACE)
    hold.release()
    hold.release()
    PartitionHold.take(disk.fs, PLACE).release()


def test_a_partition_is_not_held_while_somebody_has_its_log_directory(disk: Disk) -> None:
    disk.broker()
    broker = disk.fs.lock(LOG_DIRECTORY / ".lock")
    assert broker is not None
    with pytest.raises(LogLockedError, match="a broker") as caught:
        disk.open()
    assert caught.value.path == str(LOG_DIRECTORY)
    broker.release()
    with disk.open():
        assert disk.fs.lock(LOG_DIRECTORY / ".lock") is None
    assert disk.fs.lock(LOG_DIRECTORY / ".lock") is not None


@pytest.mark.parametrize("sign", ["meta.properties", "recovery-point-offset-checkpoint", ".kafka_cleanshutdown"])
def test_a_log_directory_has_a_file_that_only_one_has(disk: Disk, sign: str) -> None:
    assert find_log_directory(disk.fs, PLACE) is None
    disk.write(f"../{sign}", b"")
    assert find_log_directory(disk.fs, PLACE) == LOG_DIRECTORY


def test_what_fails_while_opening_gives_the_locks_back(disk: Disk) -> None:
    segments().save(disk).broker()
    disk.fs.fail_on(lambda one: one.path.endswith(STATE + ".tmp"), OSError(28, "No space left"))
    with pytest.raises(OSError, match="No space left"):
        disk.open()
    disk.fs.heal()
    assert offsets(disk.open()) == list(range(24))


# ---------------------------------------------------------------- what the small files say


def test_nothing_is_known_of_a_directory_without_small_files(disk: Disk) -> None:
    assert facts(disk) == (None, None, 0, False, True, None)


def test_what_an_open_log_has_written_is_known(disk: Disk) -> None:
    hold = PartitionHold.take(disk.fs, PLACE)
    hold.write_state(42, 7)
    assert facts(disk.copy("nothing")) == (None, 42, 7, False, True, None)
    hold.mark_clean(50)
    assert facts(disk.copy("nothing")) == (50, 42, 7, False, True, None)
    hold.begin()
    assert facts(disk.copy("nothing")) == (None, 42, 7, False, True, None)


@pytest.mark.parametrize(
    "content",
    [
        "", "0\n", "0\n0\n", "1\n0\n", "garbage", "0\n3\nrecovery_point 5\nlog_start_offset 3\n", "\xff",
        "0\n2\nrecovery_point five\nlog_start_offset 3\n", "0\n2\nrecovery_point -5\nlog_start_offset 3\n",
        "0\n2\nrecovery_point 5\nlog_start_offset -3\n", "0\n1\nrecovery_point 9223372036854775808\n",
        "0\n2\nrecovery_point 5\nlog_start_off", "\0" * 40,
    ],
)  # fmt: skip
def test_a_state_that_cannot_be_read_says_nothing(disk: Disk, content: str) -> None:
    disk.write(STATE, content.encode("latin-1"))
    assert facts(disk) == (None, None, 0, False, True, None)
    segments().save(disk)
    assert offsets(disk.open()) == list(range(24))


@pytest.mark.parametrize("content", [b"", b"twelve", b"-1", b"1.5", b"\xff", b"\0" * 8])
def test_a_mark_that_cannot_be_read_is_none(disk: Disk, content: bytes) -> None:
    assert facts(disk.write(CLEAN, content)).clean_end is None


def test_a_brokers_checkpoints_speak_of_the_partition_in_its_log_directory(disk: Disk) -> None:
    disk.broker(recovery_point=42, log_start=7)
    assert facts(disk) == (None, 42, 7, False, False, None)
    assert facts(disk, LOG_DIRECTORY / "orders-1") == (None, None, 0, False, False, None)
    assert facts(disk, LOG_DIRECTORY / "no partition") == (None, None, 0, False, False, None)
    disk.broker(recovery_point=42, log_start=7, is_clean=True)
    assert facts(disk) == (None, 42, 7, True, False, None)


def test_the_lower_recovery_point_and_the_higher_log_start_count(disk: Disk) -> None:
    disk.broker(recovery_point=42, log_start=7)
    assert facts(disk.state(50, 3)) == (None, 42, 7, False, False, None)
    assert facts(disk.state(40, 9)) == (None, 40, 9, False, False, None)


@pytest.mark.parametrize("content", ["", "garbage", "1\n0\n", "0\n2\norders 0 5\n", "0\n1\norders 0 -5\n"])
def test_a_checkpoint_that_cannot_be_read_says_nothing(disk: Disk, content: str) -> None:
    disk.broker().write("../recovery-point-offset-checkpoint", content)
    disk.write("../log-start-offset-checkpoint", content)
    assert facts(disk) == (None, None, 0, False, False, None)


def test_nobody_vouches_for_a_log_that_waits_for_its_deletion(disk: Disk) -> None:
    waiting = LOG_DIRECTORY / "orders-0.0123456789abcdef0123456789abcdef-delete"
    disk.broker(is_clean=True, recovery_point=42)
    assert facts(disk, waiting) == (None, 42, 0, False, False, None)


def test_a_stale_checkpoint_above_the_log_end_does_no_harm(disk: Disk) -> None:
    segments().save(disk).settle().unclean()
    disk.broker(recovery_point=1000, log_start=0)
    log = disk.open()
    assert (offsets(log), log.recovery_point) == (list(range(24)), 24)


def test_a_broker_that_has_cut_the_log_since_is_believed(disk: Disk) -> None:
    # We said that all below 24 is on disk; a broker cut the log to 8 since, wrote it anew, and was killed.
    segments().save(disk).settle().broker(recovery_point=8)
    disk.flip("00000000000000000016.log", 150)
    log = disk.open()
    assert offsets(log) == list(range(18))
    assert log.recovered is not None
    assert log.recovered.kept_aside


# ---------------------------------------------------------------- the marks of a clean close


@pytest.mark.kafka("RECOVER-01")
def test_a_brokers_marker_is_believed_once_and_gone_while_the_log_is_open(disk: Disk) -> None:
    segments().save(disk).settle().remove(".logstore-clean", ".logstore-state")
    disk.broker(is_clean=True, recovery_point=24)
    marker = disk.read(MARKER)
    log = disk.open()
    assert log.recovered is None
    for mode in ("nothing", "everything"):
        after = disk.copy(mode)  # type: ignore[arg-type]
        assert not after.exists(MARKER)
        again = after.open()
        assert again.recovered is not None
        assert not again.recovered.was_clean
        again.close()
        assert not after.exists(MARKER)  # a broker that finds no marker checks what we have left
    log.append([(None, b"more")])
    log.close()
    after = disk.copy("nothing")
    assert after.read(MARKER) == marker
    assert after.open().recovered is None


def test_a_marker_vouches_for_a_log_that_a_broker_has_written_to_since(disk: Disk) -> None:
    segments().save(disk).settle().broker(is_clean=True, recovery_point=24)
    disk.state(8).write(CLEAN, "8\n")
    log = disk.open()
    assert (log.recovered, log.log_end_offset) == (None, 24)


def test_a_marker_does_not_vouch_for_a_log_that_does_not_end_with_a_batch(disk: Disk) -> None:
    segments().save(disk).settle().remove(".logstore-clean", ".logstore-state")
    disk.broker(is_clean=True, recovery_point=24).add("00000000000000000016.log", b"?" * 30)
    log = disk.open()
    assert log.log_end_offset == 24
    assert log.recovered is not None
    assert not log.recovered.was_clean


def checkpoint(disk: Disk, name: str) -> dict[TopicPartition, int]:
    return parse_offset_checkpoint(disk.read(f"../{name}"))


ORDERS, OTHERS = TopicPartition("orders", 0), TopicPartition("others", 3)
POINTS, STARTS = "recovery-point-offset-checkpoint", "log-start-offset-checkpoint"
WATERMARKS, CLEANED = "replication-offset-checkpoint", "cleaner-offset-checkpoint"


def in_a_log_directory(*, is_clean: bool = True) -> Disk:
    disk = segments().save().broker(is_clean=is_clean)
    for name, offset in ((POINTS, 24), (STARTS, 3), (WATERMARKS, 24), (CLEANED, 20)):
        disk.write(f"../{name}", f"0\n2\norders 0 {offset}\nothers 3 99\n")
    return disk


def test_with_the_marker_the_checkpoints_say_what_has_become_of_the_log() -> None:
    disk = in_a_log_directory()
    with disk.open() as log:
        log.append([(None, b"more")])
        log.advance_log_start(9)
    after = disk.copy("nothing")
    assert [checkpoint(after, name)[ORDERS] for name in (POINTS, STARTS, WATERMARKS, CLEANED)] == [25, 9, 24, 20]
    with after.open() as log:
        assert log.recovered is None
        log.truncate_to(18)
        log.delete_before_log_start()
        log.advance_log_start(16)
        log.delete_before_log_start()
        log.maintain()
    after = after.copy("nothing")
    assert [checkpoint(after, name).get(ORDERS) for name in (POINTS, STARTS, WATERMARKS, CLEANED)] == [18, None, 18, 16]
    assert {name: checkpoint(after, name)[OTHERS] for name in (POINTS, STARTS, WATERMARKS, CLEANED)} == dict.fromkeys(
        (POINTS, STARTS, WATERMARKS, CLEANED), 99
    )


def test_without_a_marker_the_checkpoints_stay_as_they_are() -> None:
    disk = in_a_log_directory(is_clean=False)
    before = {name: disk.read(f"../{name}") for name in (POINTS, STARTS, WATERMARKS, CLEANED)}
    with disk.open() as log:
        log.append([(None, b"more")])
        log.advance_log_start(9)
    assert {name: disk.read(f"../{name}") for name in before} == before


def test_checkpoints_that_cannot_be_read_or_do_not_know_the_partition_stay_as_they_are() -> None:
    disk = in_a_log_directory()
    disk.write(f"../{POINTS}", "garbage").write(f"../{WATERMARKS}", "0\n0\n").write(f"../{STARTS}", "0\n0\n")
    before = {name: disk.read(f"../{name}") for name in (POINTS, STARTS, WATERMARKS)}
    with disk.open() as log:
        log.append([(None, b"more")])
    assert {name: disk.read(f"../{name}") for name in before} == before


def test_a_close_that_fails_leaves_no_mark(disk: Disk) -> None:
    segments().save(disk).broker(is_clean=True, recovery_point=24)
    log = disk.open()
    log.append([(None, b"more")])
    disk.fs.fail_on(lambda one: one.kind == "sync", OSError(5, "Input/output error"))
    with pytest.raises(OSError, match="Input/output"):
        log.close()
    disk.fs.heal()
    assert not disk.exists(MARKER)
    assert not disk.exists(CLEAN)


def test_the_mark_is_written_when_all_else_is_durable(disk: Disk) -> None:
    log = segments().save(disk).open()
    log.append([(None, b"more")])
    log.close()
    after = disk.copy("nothing")
    assert after.files() == disk.files()
    assert after.read(CLEAN) == b"25\n"


# ---------------------------------------------------------------- the topic id


@pytest.mark.kafka("CHECKPOINT-04", "DIR-02")
def test_a_topic_id_is_recorded_once_and_must_be_the_same_then(disk: Disk) -> None:
    disk.open(topic_id=TOPIC).close()
    assert disk.copy("nothing").read("partition.metadata") == b"version: 0\ntopic_id: ASNFZ4mrze8BI0VniavN7w"
    disk.open(topic_id=TOPIC).close()
    disk.open().close()
    before = disk.fs.tree()
    with pytest.raises(InconsistentTopicIdError, match="ASNFZ4mrze8BI0VniavN7w") as caught:
        disk.open(topic_id=OTHER)
    assert caught.value.path == str(PLACE / "partition.metadata")
    assert disk.fs.tree() == before


@pytest.mark.kafka("DIR-02")
def test_without_a_topic_id_nothing_is_recorded(disk: Disk) -> None:
    disk.open().close()
    assert not disk.exists("partition.metadata")


def test_a_topic_id_that_cannot_be_read_is_in_the_way_of_those_only_who_ask(disk: Disk) -> None:
    disk.write("partition.metadata", "garbage")
    disk.open().close()
    before = disk.fs.tree()
    with pytest.raises(CorruptCheckpointError, match=r"partition\.metadata"):
        disk.open(topic_id=TOPIC)
    assert disk.fs.tree() == before


def test_a_hold_says_what_it_is(disk: Disk) -> None:
    hold = PartitionHold.take(disk.fs, PLACE)
    assert repr(hold) == f"<PartitionHold {PLACE} held>"
    hold.release()
    assert repr(hold) == f"<PartitionHold {PLACE} released>"


# ---------------------------------------------------------------- the cleaner point


def test_a_log_that_stands_alone_remembers_its_cleaner_point() -> None:
    disk = segments().save()
    with disk.open() as log:
        assert (log.cleaner_point, facts(disk.copy("nothing")).cleaner_point) == (None, None)
        log.set_cleaner_point(8)
        assert facts(disk.copy("nothing"))[1:3] == (log.recovery_point, 0)
        assert facts(disk.copy("nothing")).cleaner_point == 8
        log.advance_log_start(4)
        log.append([(None, b"more")])
        log.flush()
    with disk.open() as log:
        assert (log.cleaner_point, log.log_start_offset) == (8, 4)
        log.truncate_fully_and_start_at(2)
        assert log.cleaner_point == 2
    assert facts(disk).cleaner_point == 2


def test_in_a_log_directory_the_cleaner_point_is_in_the_brokers_checkpoint() -> None:
    disk = in_a_log_directory()
    with disk.open() as log:
        assert log.cleaner_point == 20
        log.set_cleaner_point(16)
        assert checkpoint(disk.copy("nothing"), CLEANED) == {ORDERS: 16, OTHERS: 99}
        assert b"cleaner_point" not in disk.read(STATE)
        log.truncate_to(10)
    assert checkpoint(disk.copy("nothing"), CLEANED) == {ORDERS: 8, OTHERS: 99}


def test_a_broker_that_never_cleaned_gets_a_checkpoint_and_one_that_cannot_be_read_stays() -> None:
    disk = segments().save().broker(is_clean=True, recovery_point=24)
    with disk.open() as log:
        log.set_cleaner_point(8)
        assert checkpoint(disk, CLEANED) == {ORDERS: 8}
        disk.write(f"../{CLEANED}", "garbage")
        log.set_cleaner_point(16)
        assert (disk.read(f"../{CLEANED}"), log.cleaner_point) == (b"garbage", 16)


def test_a_cleaner_point_beyond_the_log_end_falls_back_to_the_active_segment() -> None:
    disk = in_a_log_directory()
    disk.write(f"../{CLEANED}", "0\n1\norders 0 25\n")
    with disk.open() as log:
        assert log.cleaner_point == 16
    assert checkpoint(disk, CLEANED) == {ORDERS: 16}


def test_a_cleaner_point_is_a_plain_number() -> None:
    with segments().save().open() as log, pytest.raises(ValueError, match="a cleaner point of -1"):
        log.set_cleaner_point(-1)
