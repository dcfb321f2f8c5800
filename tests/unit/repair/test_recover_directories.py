"""Recovering partitions and log directories: what is done, what is said, what a crash in the middle leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.broker_directories import (
    DATA,
    ENDS,
    MARKER,
    checkpoint,
    contents,
    crashes,
    everything,
    in_memory,
    make,
    recover,
    zeros,
)
from helpers.directories import START, append_bytes, flip_bit

from logstore.errors import LogLockedError
from logstore.fs import LocalFileSystem
from logstore.log import Log
from logstore.repair import DryRunFileSystem, PartitionRecovery, Recoverer
from logstore.testing import ManualClock, MemoryFileSystem

RECOVERY_POINTS = "recovery-point-offset-checkpoint"
HIGH_WATERMARKS = "replication-offset-checkpoint"
ACTIVE = "00000000000000000012.log"


@pytest.fixture
def torn(tmp_path: Path) -> Path:
    return make(tmp_path / "torn", is_clean=False, is_torn=True)


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    return make(tmp_path / "clean", is_clean=True)


def recovered(path: Path, **options: Any) -> tuple[list[PartitionRecovery], Recoverer]:
    recoverer = Recoverer(options.pop("fs", LocalFileSystem()), clock=ManualClock(START), **options)
    return list(recoverer.recover_all(path, everything)), recoverer


# ---------------------------------------------------------------- what is done


def test_torn_ends_are_cut_kept_aside_and_the_directory_is_marked_as_clean(torn: Path) -> None:
    found, recoverer = recovered(torn)
    assert [one.path.name for one in found] == ["orders-3", "payments-0"]
    orders, payments = found
    assert (orders.was_clean, orders.ends, orders.damage, orders.error) == (False, (0, 16), None, None)
    assert payments.ends == (0, 4)
    assert [action.kind for action in orders.actions if action.path.name == ACTIVE][:1] == ["cut"]
    assert orders.cut == sum(path.stat().st_size for path in orders.kept_aside) > 0
    assert (torn / MARKER).read_bytes() == b'{"version":0,"brokerEpoch":-1}'
    (directory,) = recoverer.directories
    assert (directory.was_clean, directory.is_clean, directory.unclean_because) == (False, True, None)


def test_checkpoints_say_where_the_logs_end_now_and_entries_of_others_stay(torn: Path) -> None:
    place = torn / RECOVERY_POINTS
    place.write_text("0\n3\norders 3 12\npayments 0 0\nelsewhere 7 5\n")
    (torn / HIGH_WATERMARKS).write_text("0\n2\norders 3 18\nelsewhere 7 9\n")
    (torn / "cleaner-offset-checkpoint").write_text("0\n2\norders 3 17\npayments 0 2\n")
    recovered(torn)
    fs = in_memory(torn)
    assert checkpoint(fs, RECOVERY_POINTS) == {"orders-3": 16, "payments-0": 4, "elsewhere-7": 5}
    assert checkpoint(fs, HIGH_WATERMARKS) == {"orders-3": 16, "elsewhere-7": 9}
    assert checkpoint(fs, "cleaner-offset-checkpoint") == {"orders-3": 12, "payments-0": 2}


def test_a_log_start_within_a_segment_stays_in_its_checkpoint(torn: Path) -> None:
    (torn / "log-start-offset-checkpoint").write_text("0\n2\norders 3 7\nelsewhere 7 9\n")
    found, _ = recovered(torn)
    assert found[0].ends == (7, 16)
    assert checkpoint(in_memory(torn), "log-start-offset-checkpoint") == {"orders-3": 7, "elsewhere-7": 9}


def test_no_file_of_ours_stays_in_a_brokers_directory_but_what_was_cut(torn: Path) -> None:
    recovered(torn)
    ours = [path.name for path in torn.rglob(".*") if path.name != MARKER and not path.name.endswith(".aside")]
    assert ours == []


def test_a_clean_directory_is_not_touched(clean: Path, tree_unchanged: Callable[..., Any]) -> None:
    with tree_unchanged(clean / "orders-3"), tree_unchanged(clean / "payments-0"):
        found, recoverer = recovered(clean)
    assert [(one.was_clean, one.actions, one.ends) for one in found] == [(True, (), (0, 18)), (True, (), (0, 6))]
    assert recoverer.directories[0].is_clean
    assert (clean / MARKER).read_text() == '{"version":0,"brokerEpoch":1}'


def test_a_clean_directory_with_an_index_missing_gets_it_and_its_marker_back(clean: Path) -> None:
    (clean / "orders-3" / "00000000000000000006.index").unlink()
    found, _ = recovered(clean)
    assert [action.kind for action in found[0].actions] == ["recover"]
    assert (clean / "orders-3" / "00000000000000000006.index").exists()
    assert (clean / MARKER).read_text() == '{"version":0,"brokerEpoch":1}'


def test_preallocated_zeros_are_cut_and_nothing_is_kept_of_them(torn: Path) -> None:
    zeros(torn / "payments-0" / "00000000000000000000.log", 5000)
    found, _ = recovered(torn)
    assert found[1].ends == (0, 4)


def test_a_second_run_finds_nothing_to_do(torn: Path) -> None:
    recovered(torn)
    found, _ = recovered(torn)
    assert all(one.was_clean and not one.actions for one in found)


# ---------------------------------------------------------------- damage


@pytest.fixture
def damaged(torn: Path) -> Path:
    """`orders-3` is damaged in its first segment, below the recovery point, and lacks that segment's index."""
    flip_bit(torn / "orders-3" / "00000000000000000000.log", 150, 0)
    (torn / "orders-3" / "00000000000000000000.index").unlink()
    return torn


def test_damage_below_the_recovery_point_is_said_and_left_and_others_go_on(
    damaged: Path, tree_unchanged: Callable[..., Any]
) -> None:
    with tree_unchanged(damaged / "orders-3"):
        found, recoverer = recovered(damaged)
    orders, payments = found
    assert (orders.ends, orders.actions) == (None, ())
    assert orders.damage is not None and orders.damage.position is not None
    assert "--cut-damage" in (orders.damage.remedy or "")
    assert payments.ends == (0, 4)
    assert not (damaged / MARKER).exists()
    assert recoverer.directories[0].unclean_because == "1 of 2 partitions could not be recovered"
    assert checkpoint(in_memory(damaged), RECOVERY_POINTS) == {"orders-3": 12, "payments-0": 4}


def test_damage_is_cut_where_that_is_asked_for_and_all_of_it_kept(damaged: Path) -> None:
    before = sum(path.stat().st_size for path in (damaged / "orders-3").glob("*.log"))
    found, recoverer = recovered(damaged, cut_damage=True)
    orders = found[0]
    assert orders.damage is not None and orders.ends == (0, 2)
    kept = sum(path.stat().st_size for path in (damaged / "orders-3").glob("*.log"))
    assert before - kept == orders.cut == sum(path.stat().st_size for path in orders.kept_aside)
    assert recoverer.directories[0].is_clean
    assert checkpoint(in_memory(damaged), RECOVERY_POINTS)["orders-3"] == 2


# ---------------------------------------------------------------- what is chosen


def test_only_what_is_wanted_is_recovered_and_the_directory_stays_unclean(torn: Path) -> None:
    recoverer = Recoverer(LocalFileSystem(), clock=ManualClock(START))
    found = list(recoverer.recover_all(torn, lambda one: one.topic == "payments"))
    assert [one.path.name for one in found] == ["payments-0"]
    assert not (torn / MARKER).exists()
    assert recoverer.directories[0].unclean_because == "only 1 of 2 partitions were chosen"
    assert checkpoint(in_memory(torn), RECOVERY_POINTS) == {"orders-3": 12, "payments-0": 4}


def test_a_partition_named_itself_is_recovered_by_its_log_directorys_checkpoints(torn: Path) -> None:
    found = Recoverer(LocalFileSystem(), clock=ManualClock(START)).recover_partition(torn / "orders-3")
    assert found.ends == (0, 16)
    assert not (torn / MARKER).exists()
    assert checkpoint(in_memory(torn), RECOVERY_POINTS) == {"orders-3": 16, "payments-0": 0}


def test_a_directory_that_is_being_moved_here_keeps_it_from_being_marked(torn: Path) -> None:
    future = torn / "orders-4.0123456789abcdef0123456789abcdef-future"
    future.mkdir()
    _, recoverer = recovered(torn)
    assert recoverer.directories[0].set_aside == (future,)
    assert "is being moved here" in (recoverer.directories[0].unclean_because or "")
    assert not (torn / MARKER).exists()


def test_the_metadata_log_is_recovered_and_no_checkpoint_speaks_of_it(torn: Path) -> None:
    (torn / "payments-0").rename(torn / "__cluster_metadata-0")
    found, _ = recovered(torn)
    assert [one.path.name for one in found] == ["__cluster_metadata-0", "orders-3"]
    assert "__cluster_metadata-0" not in checkpoint(in_memory(torn), RECOVERY_POINTS)


def test_partitions_beside_each_other_without_a_broker_are_recovered_one_by_one(torn: Path) -> None:
    for path in torn.iterdir():
        if path.is_file():
            path.unlink()
    found, recoverer = recovered(torn)
    assert [one.ends for one in found] == [(0, 16), (0, 4)]
    assert recoverer.directories == []
    assert sorted(path.name for path in torn.iterdir()) == ["orders-3", "payments-0"]
    again, _ = recovered(torn)
    assert all(one.was_clean for one in again)


def test_what_speaks_of_a_log_that_a_broker_has_written_to_since_is_not_believed(torn: Path) -> None:
    state = torn / "orders-3" / ".logstore-state"
    state.write_text("0\n2\nrecovery_point 18\nlog_start_offset 9\n")
    (torn / "orders-3" / ".logstore-clean").write_text("16\n")
    LocalFileSystem().set_modified_ms(state, START)
    LocalFileSystem().set_modified_ms(torn / "orders-3" / ".logstore-clean", START)
    found, _ = recovered(torn)
    assert (found[0].was_clean, found[0].ends) == (False, (0, 16))
    assert not state.exists()


# ---------------------------------------------------------------- in use


@pytest.mark.parametrize("where", [".", "orders-3"])
def test_what_is_in_use_is_left_alone(torn: Path, where: str, tree_unchanged: Callable[..., Any]) -> None:
    held = LocalFileSystem().lock(torn / where / ".lock")
    assert held is not None
    with tree_unchanged(torn / "orders-3"):
        for fs in (LocalFileSystem(), DryRunFileSystem(LocalFileSystem())):
            with pytest.raises(LogLockedError):
                Recoverer(fs).recover_partition(torn / "orders-3")
    if where != ".":
        found, _ = recovered(torn)
        assert isinstance(found[0].error, LogLockedError)
        assert found[1].ends == (0, 4)
        assert not (torn / MARKER).exists()
    held.release()


def test_the_log_directory_is_held_all_the_time(torn: Path) -> None:
    fs = in_memory(torn)
    recoverer = Recoverer(fs, clock=ManualClock(START))
    for _ in recoverer.recover_all(DATA, everything):
        with pytest.raises(LogLockedError):
            Log.open(DATA / "orders-3", fs=fs)
    assert not fs.exists(DATA / ".lock")


# ---------------------------------------------------------------- dry run


@pytest.mark.parametrize("cut_damage", [False, True])
@pytest.mark.parametrize("kind", ["torn", "damaged", "clean"])
def test_a_dry_run_says_what_the_deed_says_and_changes_nothing(
    request: pytest.FixtureRequest, tree_unchanged: Callable[..., Any], kind: str, cut_damage: bool
) -> None:
    path = request.getfixturevalue(kind)
    with tree_unchanged(path):
        tried, trial = recovered(path, cut_damage=cut_damage, fs=DryRunFileSystem(LocalFileSystem()))
    done, deed = recovered(path, cut_damage=cut_damage)
    assert [plain(one) for one in tried] == [plain(one) for one in done]
    assert trial.directories == deed.directories


def plain(one: PartitionRecovery) -> tuple[object, ...]:
    damage = None if one.damage is None else str(one.damage)
    return one.path, one.was_clean, one.actions, one.cut, one.kept_aside, one.ends, damage, one.error


def test_a_dry_run_does_not_hold_what_is_kept_aside(torn: Path) -> None:
    append_bytes(torn / "payments-0" / "00000000000000000000.log", b"\xff" * (4 << 20))
    dry = DryRunFileSystem(LocalFileSystem())
    found, _ = recovered(torn, fs=dry)
    assert found[1].cut > 4 << 20
    assert dry._tray.spool._size < 100_000
    (aside,) = found[1].kept_aside
    with dry.open(aside) as file:
        assert (file.size(), file.read(file.size() - 5, 5)) == (found[1].cut, b"\xff" * 5)


@pytest.mark.parametrize("directory", ["kafka-4.1.1/killed", "kafka-4.1.1/clean", "kafka-2.8.2/clean"])
def test_a_dry_run_on_what_kafka_wrote_changes_nothing(
    kafka_fixtures: Path, tree_unchanged: Callable[..., Any], directory: str
) -> None:
    place = kafka_fixtures / directory
    with tree_unchanged(place):
        found, _ = recovered(place, fs=DryRunFileSystem(LocalFileSystem()))
    assert all(one.ends for one in found)


# ---------------------------------------------------------------- crashes


def test_a_crash_at_any_moment_leaves_what_is_recovered_to_the_same_end(torn: Path) -> None:
    fs = in_memory(torn)
    recover(fs)
    wanted = contents(fs)
    assert {name: len(values) for name, values in wanted.items()} == {"orders-3": 16, "payments-0": 4}
    for after in crashes(lambda: in_memory(torn), recover):
        if after.exists(DATA / MARKER):
            assert checkpoint(after, RECOVERY_POINTS) == {"orders-3": 16, "payments-0": 4}
            assert contents(after) == wanted
        assert all(one.is_clean for one in recover(after).directories)
        assert contents(after) == wanted
        assert checkpoint(after, RECOVERY_POINTS) == {"orders-3": 16, "payments-0": 4}


def test_a_crash_while_a_clean_directory_is_mended_loses_nothing(clean: Path) -> None:
    (clean / "orders-3" / "00000000000000000006.index").unlink()
    wanted = contents(in_memory(clean))
    assert {name: len(values) for name, values in wanted.items()} == ENDS
    for after in crashes(lambda: in_memory(clean), recover):
        recover(after)
        assert contents(after) == wanted


def test_what_cannot_be_written_is_said_and_the_directory_is_not_marked(torn: Path) -> None:
    fs = in_memory(torn)
    fs.fail_on(lambda one: "payments-0" in one.path and one.kind == "write", OSError(28, "No space left on device"))
    recoverer = Recoverer(fs, clock=ManualClock(START))
    found = list(recoverer.recover_all(DATA, everything))
    assert found[0].ends == (0, 16)
    assert isinstance(found[1].error, OSError)
    assert not fs.exists(DATA / MARKER)
    fs.heal()
    recover(fs)
    assert {name: len(values) for name, values in contents(fs).items()} == {"orders-3": 16, "payments-0": 4}


def test_a_checkpoint_that_cannot_be_read_is_set_aside_and_made_anew(torn: Path) -> None:
    (torn / RECOVERY_POINTS).write_bytes(b"\xff nonsense")
    found, _ = recovered(torn)
    assert all(one.ends for one in found)
    assert checkpoint(in_memory(torn), RECOVERY_POINTS) == {"orders-3": 16, "payments-0": 4}
    assert (torn / f".{RECOVERY_POINTS}.aside").read_bytes() == b"\xff nonsense"


def test_reads_are_told(torn: Path) -> None:
    told: list[int] = []
    append_bytes(torn / "payments-0" / "00000000000000000000.log", b"more")
    recovered(torn, on_read=told.append)
    assert sum(told) >= (torn / "payments-0" / "00000000000000000000.log").stat().st_size


def test_an_empty_directory_has_nothing_to_recover() -> None:
    fs = MemoryFileSystem(ManualClock(START))
    fs.write_bytes(DATA / "meta.properties", b"version=1\n")
    assert recover(fs).directories[0].is_clean
