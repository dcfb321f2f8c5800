"""Opening a partition for writing wherever it lies: who may, and what its log directory says of it afterwards."""

from __future__ import annotations

import os
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

from logstore.errors import DamagedLogError, LogLockedError, LogstoreError
from logstore.fs import LocalFileSystem
from logstore.log import Log
from logstore.repair import DryRunFileSystem, HeldDirectory, locate, opened, refuse_unclean, youngest_file
from logstore.testing import ManualClock, MemoryFileSystem

FS = LocalFileSystem()
CLOCK = ManualClock(START)
NEW = [(None, b"new")]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make(tmp_path / "data", is_clean=True)


def appended(fs: Any, partition: Path, **options: Any) -> int:
    with opened(fs, partition, SMALL_INDEXES, clock=CLOCK, **options) as log:
        return log.append(NEW, timestamp=START).first_offset


# ---------------------------------------------------------------- in a broker's log directory


def test_an_append_is_in_the_checkpoints_and_the_marker_is_as_it_was(data: Path) -> None:
    assert appended(FS, data / "orders-3") == 18
    fs = in_memory(data)
    assert checkpoint(fs, "recovery-point-offset-checkpoint") == {"orders-3": 19, "payments-0": 6}
    assert checkpoint(fs, "replication-offset-checkpoint") == {"orders-3": 18, "payments-0": 6}
    assert (data / MARKER).read_text() == '{"version":0,"brokerEpoch":1}'
    assert [path.name for path in data.rglob(".*")] == [MARKER]
    assert alarms(data) == []


def test_while_it_is_open_the_marker_is_away_and_nobody_else_opens_anything(data: Path) -> None:
    with opened(FS, data / "orders-3", clock=CLOCK):
        assert not (data / MARKER).exists()
        for other in ("orders-3", "payments-0"):
            with pytest.raises(LogLockedError), opened(FS, data / other):
                pass
            with pytest.raises(LogLockedError):
                Log.open(data / other)
    assert (data / MARKER).exists()


def test_an_error_in_between_closes_the_log_and_brings_the_marker_back(data: Path) -> None:
    with pytest.raises(ZeroDivisionError), opened(FS, data / "orders-3", clock=CLOCK) as log:
        log.append(NEW)
        raise ZeroDivisionError
    assert (data / MARKER).exists()
    assert checkpoint(in_memory(data), "recovery-point-offset-checkpoint")["orders-3"] == 19


def test_a_log_put_out_of_use_by_a_failed_sync_leaves_no_marker(data: Path) -> None:
    fs = in_memory(data)
    fs.fail_on(lambda one: one.kind == "sync" and one.path.endswith(".log"), OSError(5, "Input/output error"))
    with pytest.raises(OSError), opened(fs, DATA / "orders-3", SMALL_INDEXES, clock=CLOCK) as log:
        log.append(NEW, durability="always")
    fs.heal()
    assert not fs.exists(DATA / MARKER)
    assert checkpoint(fs, "recovery-point-offset-checkpoint")["orders-3"] == 18
    recover(fs)
    assert contents(fs)["orders-3"][18:] in ([], [b"new"])


def test_a_partition_that_is_not_there_is_not_made(data: Path, tree_unchanged: Callable[..., Any]) -> None:
    with tree_unchanged(data), pytest.raises(LogstoreError, match="cannot be made in a broker's log directory"):
        appended(FS, data / "new-0")


def test_an_unclean_one_is_refused_unless_forced_and_stays_unclean(tmp_path: Path) -> None:
    data = make(tmp_path / "data", is_clean=False)
    with pytest.raises(LogstoreError, match="`logstore recover` brings it back to order"):
        appended(FS, data / "orders-3")
    assert appended(FS, data / "orders-3", force=True) == 18
    assert not (data / MARKER).exists()


def test_damage_leaves_the_marker_where_it_was(data: Path) -> None:
    flip_bit(data / "orders-3" / f"{0:020d}.log", 100, 0)
    (data / "orders-3" / f"{0:020d}.index").unlink()
    with pytest.raises(DamagedLogError):
        appended(FS, data / "orders-3")
    assert (data / MARKER).exists()


def test_what_was_appended_in_full_survives_a_crash_at_any_moment(data: Path) -> None:
    acknowledged: list[int] = []

    def act(fs: MemoryFileSystem) -> None:
        acknowledged.clear()
        with opened(fs, DATA / "orders-3", SMALL_INDEXES, clock=CLOCK) as log:
            for number in range(3):
                if number == 2:
                    log.roll()
                done = log.append(NEW, timestamp=START, durability="always")
                acknowledged.append(done.last_offset)

    whole = contents(in_memory(data))
    for after in crashes(lambda: in_memory(data), act):
        promised = len(acknowledged)
        if after.exists(DATA / MARKER):
            assert checkpoint(after, "recovery-point-offset-checkpoint")["orders-3"] in (18, 21)
        recover(after)
        left = contents(after)
        assert left["payments-0"] == whole["payments-0"]
        assert left["orders-3"][:18] == whole["orders-3"]
        assert len(left["orders-3"]) - 18 >= promised
        assert set(left["orders-3"][18:]) <= {b"new"}


# ---------------------------------------------------------------- alone


def test_a_partition_that_stands_alone_is_made_and_opened_again(tmp_path: Path) -> None:
    place = tmp_path / "below" / "queue-0"
    assert appended(FS, place) == 0
    assert appended(FS, place) == 1
    assert sorted(path.name for path in place.glob(".*")) == [".logstore-clean", ".logstore-state"]


def test_a_new_directorys_name_is_durable_with_what_is_in_it() -> None:
    for after in crashes(lambda: MemoryFileSystem(CLOCK), lambda fs: appended(fs, DATA / "queue-0")):
        assert appended(after, DATA / "queue-0") in (0, 1)
    fs = MemoryFileSystem(CLOCK)
    appended(fs, DATA / "queue-0")
    assert appended(fs.crash("nothing"), DATA / "queue-0") == 1


@pytest.mark.parametrize("where", [".", "queue-0"])
def test_what_is_in_use_is_left_alone(tmp_path: Path, where: str) -> None:
    appended(FS, tmp_path / "queue-0")
    held = FS.lock(tmp_path / where / ".lock")
    assert held is not None
    for fs in (FS, DryRunFileSystem(FS)):
        with pytest.raises(LogLockedError):
            appended(fs, tmp_path / "queue-0", force=True)
    assert where != "." or not (tmp_path / "queue-0" / ".lock").exists()
    held.release()
    assert appended(FS, tmp_path / "queue-0") == 1


def test_an_unclean_end_is_nobodys_business_but_its_own(alone: Path) -> None:
    held = HeldDirectory.take_partition(FS, alone)
    refuse_unclean(held, force=False)
    held.release()
    assert appended(FS, alone) == 18


# ---------------------------------------------------------------- what is young


def test_files_of_others_that_are_young_are_named(alone: Path) -> None:
    newest = max(alone.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    now_ms = int(newest.stat().st_mtime_ns // 1_000_000)
    assert youngest_file(FS, alone, now_ms) is not None
    assert youngest_file(FS, alone, now_ms + 60_001) is None


def test_what_is_ours_or_in_a_broker_s_directory_is_never_young(data: Path, tmp_path: Path) -> None:
    appended(FS, tmp_path / "queue-0")
    assert youngest_file(FS, tmp_path / "queue-0", START) is None
    assert youngest_file(FS, data / "orders-3", START) is None


# ---------------------------------------------------------------- where it is


def test_a_partition_is_found_by_any_path_to_it(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = data / "orders-3"
    (tmp_path / "link-0").symlink_to(place)
    assert locate(FS, tmp_path / "link-0") == place.resolve()
    monkeypatch.chdir(place)
    for path in (".", "../orders-3", os.path.join("..", "..", "data", "orders-3")):
        assert locate(FS, Path(path)).resolve() == place.resolve()
        assert locate(FS, Path(path)).name == "orders-3"
    monkeypatch.chdir(data)
    assert locate(FS, Path("orders-3")) == Path("orders-3")


def test_a_partition_on_another_disk_is_found_where_its_log_directory_names_it(data: Path, tmp_path: Path) -> None:
    (data / "orders-3").rename(tmp_path / "elsewhere")
    (data / "orders-3").symlink_to(tmp_path / "elsewhere")
    assert locate(FS, data / "orders-3") == data / "orders-3"
    assert appended(FS, data / "orders-3") == 18
    assert checkpoint(in_memory(data), "recovery-point-offset-checkpoint")["orders-3"] == 19
