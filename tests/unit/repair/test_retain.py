"""Retention offline: what goes in a partition and in a log directory, what is left alone, what a crash leaves."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.broker_directories import DATA, MARKER, checkpoint, contents, crashes, in_memory, make, recover
from helpers.directories import START, LogDirectory, alarms, flip_bit, write_checkpoint
from helpers.metadata_logs import BROKER, METADATA, setting, write_metadata

from logstore.errors import CorruptRecordError, DamagedLogError, LogLockedError, LogstoreError
from logstore.fs import FileSystem, LocalFileSystem
from logstore.log import Log
from logstore.names import TopicPartition
from logstore.repair import DryRunFileSystem, Limits, PartitionRetention, Retainer
from logstore.retention import Rule, Stay
from logstore.testing import ManualClock, MemoryFileSystem

CLOCK = ManualClock(START)
LATER = START + 86_400_000
STARTS = "log-start-offset-checkpoint"
HOUR = Limits(retention_ms=3_600_000)


def retainer(limits: Limits = HOUR, fs: FileSystem | None = None, **options: Any) -> Retainer:
    return Retainer(fs or LocalFileSystem(), limits, **{"clock": CLOCK, "now_ms": LATER, **options})


def retained(path: Path, limits: Limits = HOUR, fs: FileSystem | None = None, **options: Any) -> PartitionRetention:
    return retainer(limits, fs, **options).retain_partition(path)


def all_retained(path: Path, limits: Limits = HOUR, **options: Any) -> dict[str, PartitionRetention]:
    """What became of each partition of a log directory that was chosen."""
    one = retainer(limits, **options)
    chosen, _ = one.choose(path, lambda _: True)
    return {found.path.name: found for found in one.retain_all(path, chosen)}


def offsets(partition: Path) -> list[int]:
    with Log.open(partition, fs=DryRunFileSystem(LocalFileSystem()), clock=CLOCK) as log:
        return [record.offset for record in log.records()]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """`orders-3` (segments at 0, 6 and 12, up to 17) and `payments-0`, shut down cleanly."""
    return make(tmp_path / "data", is_clean=True)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Topics of all kinds, a partition of two segments of each; `old` and `both` have a limit of their own."""
    directory = LogDirectory(tmp_path / "data")
    topics = ("plain", "old", "both", "compacted", "cleaned", "__consumer_offsets", "__share_group_state", "kept")
    for name in topics:
        partition = directory.partition(f"{name}-0")
        partition.append(b"1")
        partition.roll().append(b"2")
    path = directory.close()
    write_checkpoint(path / "cleaner-offset-checkpoint", {"cleaned-0": 1})
    write_metadata(
        path,
        [
            setting("old", "retention.ms", "1000"), setting("both", "retention.bytes", "1"),
            setting("both", "cleanup.policy", "compact,delete"), setting("compacted", "cleanup.policy", "compact"),
            setting("compacted", "retention.ms", "1000"), setting("kept", "retention.ms", "-1"),
        ],
    )  # fmt: skip
    return path


# ---------------------------------------------------------------- one partition


def test_what_is_too_old_goes_and_an_empty_segment_is_left(orders: Path) -> None:
    found = retained(orders)
    assert found.plan is not None and found.config is not None
    assert [one.reason for one in found.plan.decisions] == [Rule.TIME] * 3
    assert (found.before, found.plan.log_start_offset, found.error) == ((0, 18), 18, None)
    assert [path.name for path in orders.glob("*.log")] == [f"{18:020d}.log"]
    assert alarms(orders.parent) == []
    with Log.open(orders, fs=DryRunFileSystem(LocalFileSystem()), clock=CLOCK) as log:
        assert (log.recovered, log.append([(None, b"next")]).first_offset) == (None, 18)


def test_by_size_the_oldest_go_and_their_files_with_them(orders: Path) -> None:
    size = sum(path.stat().st_size for path in orders.glob("*.log"))
    found = retained(orders, Limits(retention_bytes=size // 3))
    assert found.plan is not None
    assert [one.reason for one in found.plan.decisions] == [Rule.SIZE, Rule.SIZE, Stay.LIMITS]
    assert found.plan.size == size * 2 // 3
    assert {path.name.partition(".")[0] for path in orders.glob("0*.*")} == {f"{12:020d}", f"{18:020d}"}
    assert offsets(orders) == list(range(12, 18))


def test_what_loses_nothing_is_not_touched(data: Path, tree_unchanged: Callable[..., Any]) -> None:
    with tree_unchanged(data / "orders-3"):
        found = retained(data / "orders-3", now_ms=START + 3_600_000)
    assert found.plan is not None
    assert (found.plan.going, found.plan.next_due_ms) == ((), START + 4 + 3_600_001)
    assert (data / MARKER).read_text() == '{"version":0,"brokerEpoch":1}'


def test_checkpoints_and_marker_say_what_became_of_it(data: Path) -> None:
    write_checkpoint(data / STARTS, {"orders-3": 7, "payments-0": 1})
    retained(data / "orders-3", Limits(retention_bytes=0), now_ms=START)
    fs = in_memory(data)
    assert checkpoint(fs, STARTS) == {"payments-0": 1}  # the others begin inside their first segment
    assert checkpoint(fs, "recovery-point-offset-checkpoint") == {"orders-3": 18, "payments-0": 6}
    assert [path.name for path in data.rglob(".*")] == [MARKER]
    assert (data / MARKER).read_text() == '{"version":0,"brokerEpoch":1}'
    assert alarms(data) == []


@pytest.mark.parametrize(("watermark", "first"), [(5, 0), (6, 6), (17, 12), (18, 18)])
def test_nothing_goes_that_its_broker_does_not_know_to_be_replicated(data: Path, watermark: int, first: int) -> None:
    write_checkpoint(data / "replication-offset-checkpoint", {"orders-3": watermark})
    retained(data / "orders-3")
    assert offsets(data / "orders-3") == list(range(first, 18))


def test_a_broken_checkpoint_of_high_watermarks_keeps_all(data: Path) -> None:
    (data / "replication-offset-checkpoint").write_text("0\n7\n")
    found = retained(data / "orders-3")
    assert found.plan is not None
    assert found.plan.decisions[0].reason is Stay.HIGH_WATERMARK


def test_a_log_of_ours_goes_on(tmp_path: Path) -> None:
    place = tmp_path / "queue-0"
    with Log.open(place, clock=CLOCK) as log:
        for _ in range(3):
            log.append([(None, b"x")] * 2)
            log.roll()
        log.append([(None, b"y")], timestamp=START + 10)
    assert retained(place, now_ms=START + 3_600_001).plan is not None
    with Log.open(place, clock=CLOCK) as log:
        assert (log.recovered, log.log_start_offset, log.log_end_offset) == (None, 6, 7)


def test_limits_that_are_given_take_the_place_of_known_ones_and_the_others_stay(mixed: Path) -> None:
    found = retained(mixed / "old-0", Limits(retention_ms=-1, retention_bytes=1000))
    assert found.config is not None and found.plan is not None
    assert (found.config.retention_ms, found.config.retention_bytes, found.plan.going) == (-1, 1000, ())
    found = retained(mixed / "old-0", Limits(retention_bytes=1000))
    assert found.config is not None and found.plan is not None
    assert (found.config.retention_ms, len(found.plan.going)) == (1000, 2)


def test_kafkas_default_of_seven_days_is_never_a_limit(alone: Path) -> None:
    found = retained(alone, Limits(retention_bytes=10**6), now_ms=START + 10**12)
    assert found.config is not None and found.plan is not None
    assert (found.config.retention_ms, found.plan.going) == (-1, ())
    assert not retainer(Limits()).has_limit(alone)


@pytest.mark.parametrize("name", ["compacted-0", "cleaned-0", "__consumer_offsets-0"])
def test_what_is_compacted_loses_nothing_but_what_lies_below_its_log_start(mixed: Path, name: str) -> None:
    found = retained(mixed / name, Limits(retention_ms=0, retention_bytes=0))
    assert found.plan is not None
    assert [one.reason for one in found.plan.decisions] == [Stay.POLICY, Stay.POLICY]
    write_checkpoint(mixed / STARTS, {name: 1})
    found = retained(mixed / name, Limits(retention_ms=0, retention_bytes=0))
    assert found.plan is not None
    assert [one.reason for one in found.plan.decisions] == [Rule.LOG_START, Stay.POLICY]
    assert offsets(mixed / name) == [1]


# ---------------------------------------------------------------- a log directory


def chosen(path: Path, limits: Limits) -> tuple[set[str], set[str]]:
    """The names of partitions that are done, and of those left alone."""
    done, left = retainer(limits).choose(path, lambda _: True)
    return {one.name for one in done}, {one.name for one in left}


def test_without_a_limit_only_topics_that_have_one_are_chosen(mixed: Path) -> None:
    done, left = chosen(mixed, Limits())
    assert done == {"old-0", "both-0", "kept-0"}
    assert left == {
        "plain-0", "compacted-0", "cleaned-0", "__consumer_offsets-0", "__share_group_state-0", METADATA
    }  # fmt: skip


def test_with_a_limit_all_but_the_internal_and_the_compacted_are_chosen(mixed: Path) -> None:
    done, left = chosen(mixed, HOUR)
    assert done == {"plain-0", "old-0", "both-0", "kept-0"}
    assert left == {"compacted-0", "cleaned-0", "__consumer_offsets-0", "__share_group_state-0", METADATA}


def test_the_chosen_are_done_and_the_others_not_touched(mixed: Path, tree_unchanged: Callable[..., Any]) -> None:
    with tree_unchanged(mixed / "plain-0"), tree_unchanged(mixed / "compacted-0"), tree_unchanged(mixed / METADATA):
        found = all_retained(mixed, Limits())
    assert {name: len(one.plan.going) for name, one in found.items() if one.plan} == {
        "old-0": 2, "both-0": 1, "kept-0": 0
    }  # fmt: skip
    assert alarms(mixed) == []
    assert (mixed / MARKER).exists()


def test_partitions_are_chosen_by_topic_and_number(data: Path) -> None:
    done, left = retainer().choose(data, lambda one: one == TopicPartition("orders", 3))
    assert ([one.name for one in done], left) == (["orders-3"], [])


def test_the_metadata_log_is_refused_by_its_own_name(mixed: Path, tree_unchanged: Callable[..., Any]) -> None:
    with tree_unchanged(mixed / METADATA), pytest.raises(LogstoreError, match="retention is not for it"):
        retained(mixed / METADATA)


def test_a_directory_of_partitions_that_is_no_brokers_is_done_one_by_one(data: Path) -> None:
    for path in [*data.glob("*checkpoint"), data / MARKER, data / "meta.properties"]:
        path.unlink()
    lock = LocalFileSystem().lock(data / "orders-3" / ".lock")
    assert lock is not None
    found = all_retained(data)
    assert isinstance(found["orders-3"].error, LogLockedError)
    assert found["payments-0"].plan is not None
    assert offsets(data / "payments-0") == []
    lock.release()


# ---------------------------------------------------------------- what fails


def test_one_that_is_locked_is_said_and_the_others_go_on(data: Path) -> None:
    lock = LocalFileSystem().lock(data / "orders-3" / ".lock")
    assert lock is not None
    found = all_retained(data)
    lock.release()
    assert isinstance(found["orders-3"].error, LogLockedError)
    assert (found["orders-3"].plan, found["payments-0"].error) == (None, None)
    (data / "orders-3" / ".lock").unlink()
    assert (len(offsets(data / "orders-3")), offsets(data / "payments-0")) == (18, [])
    assert (data / MARKER).exists()


def test_one_that_is_damaged_is_said_and_left_and_the_others_go_on(
    tmp_path: Path, tree_unchanged: Callable[..., Any]
) -> None:
    data = make(tmp_path / "data", is_clean=False)
    flip_bit(data / "orders-3" / f"{12:020d}.log", 100, 0)
    with tree_unchanged(data / "orders-3"):
        found = all_retained(data, force=True)
    assert isinstance(found["orders-3"].error, DamagedLogError)
    assert found["payments-0"].plan is not None
    assert not (data / MARKER).exists()


def test_one_that_failed_half_way_keeps_the_directory_from_looking_clean(data: Path) -> None:
    fs = in_memory(data)
    fs.fail_on(
        lambda one: one.kind == "rename" and one.path.endswith("orders-3/00000000000000000000.log"),
        OSError(errno.EIO, "Input/output error"),
    )
    found = {one.path.name: one for one in _all_in(fs)}
    assert isinstance(found["orders-3"].error, OSError)
    assert found["payments-0"].error is None
    assert not fs.exists(DATA / MARKER)
    fs.heal()
    recover(fs)
    assert fs.exists(DATA / MARKER)
    assert len(contents(fs)["orders-3"]) in (0, 18)


def test_an_unclean_log_directory_is_for_recovery_unless_forced(tmp_path: Path) -> None:
    data = make(tmp_path / "data", is_clean=False)
    for act in (lambda: retained(data / "orders-3"), lambda: all_retained(data)):
        with pytest.raises(LogstoreError, match="logstore recover"):
            act()
    assert retained(data / "orders-3", force=True).plan is not None
    assert not (data / MARKER).exists()


def test_a_log_directory_in_use_is_left_alone(data: Path, tree_unchanged: Callable[..., Any]) -> None:
    lock = LocalFileSystem().lock(data / ".lock")
    assert lock is not None
    with tree_unchanged(data):
        for act in (lambda: retained(data / "orders-3", force=True), lambda: all_retained(data, force=True)):
            with pytest.raises(LogLockedError):
                act()
    lock.release()


def test_where_the_metadata_log_is_damaged_nothing_is_done(mixed: Path, tree_unchanged: Callable[..., Any]) -> None:
    flip_bit(mixed / METADATA / f"{0:020d}.log", 80, 0)
    with tree_unchanged(mixed):
        for act in (lambda: retained(mixed / "plain-0"), lambda: all_retained(mixed)):
            with pytest.raises((DamagedLogError, CorruptRecordError)):
                act()


# ---------------------------------------------------------------- dry run and crashes


@pytest.mark.parametrize("limits", [HOUR, Limits(retention_bytes=500), Limits(retention_bytes=10**6)])
def test_a_dry_run_says_what_the_deed_says_and_changes_nothing(
    data: Path, limits: Limits, tree_unchanged: Callable[..., Any]
) -> None:
    with tree_unchanged(data):
        tried = all_retained(data, limits, fs=DryRunFileSystem(LocalFileSystem()))
    assert tried == all_retained(data, limits)


def _all_in(fs: MemoryFileSystem, limits: Limits = HOUR) -> list[PartitionRetention]:
    one = retainer(limits, fs)
    return list(one.retain_all(DATA, one.choose(DATA, lambda _: True)[0]))


@pytest.mark.parametrize(("limits", "first"), [(HOUR, 18), (Limits(retention_bytes=270), 12)])
def test_a_crash_at_any_moment_leaves_the_log_before_or_after(data: Path, limits: Limits, first: int) -> None:
    # Files in memory are copied often: their indexes shall be small.
    write_metadata(data, [setting("", "log.index.size.max.bytes", "1024", kind=BROKER)])
    whole = contents(in_memory(data))["orders-3"]
    begin, seen = in_memory(data), set[int]()
    for after in crashes(lambda: begin.crash("everything"), lambda fs: _all_in(fs, limits)):
        left = hash(frozenset(after.tree().items()))
        if left in seen:
            continue
        seen.add(left)
        assert contents(after, "orders-3")["orders-3"] in (whole, whole[first:])
        recover(after)
        assert contents(after, "orders-3")["orders-3"] in (whole, whole[first:])
        _all_in(after, limits)
        assert contents(after, "orders-3")["orders-3"] == whole[first:]
        assert checkpoint(after, STARTS) == {}
        assert after.exists(DATA / MARKER)
    assert len(seen) > 20
