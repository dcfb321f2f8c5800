"""A whole partition or log directory is healthy, or each thing that is wrong with it is found under its own code."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from by_hand import batch, record
from helpers.directories import (
    LogDirectory,
    Partition,
    alarms,
    append_bytes,
    codes,
    copied,
    findings,
    flip_bit,
    overwrite,
    shorten,
    write_checkpoint,
)

from logstore.errors import UnsupportedFormatError
from logstore.inspect import CODES, CheckOptions, Finding, PartitionFiles, Severity, check, resolve

SEGMENTS = ["00000000000000000000", "00000000000000000006", "00000000000000000012"]


def only(path: Path) -> Finding:
    [found] = findings(path)
    return found


def remove_segment(partition: Path, stem: str, *, keep: str = "") -> None:
    for path in partition.glob(f"{stem}.*"):
        if path.suffix != keep:
            path.unlink()


# ---------------------------------------------------------------- healthy


def test_a_clean_directory_gives_no_finding(orders: Path, transactions: Path) -> None:
    assert findings(orders.parent) == findings(orders) == findings(transactions) == []


def test_a_partition_by_itself_gives_no_finding(alone: Path) -> None:
    assert findings(alone) == []


def test_every_file_of_it_by_itself_gives_no_finding(orders: Path, transactions: Path) -> None:
    for path in [*orders.iterdir(), *transactions.iterdir(), *orders.parent.iterdir()]:
        assert path.is_dir() or findings(path) == [], path


def test_what_was_looked_at_is_counted(orders: Path) -> None:
    options = CheckOptions()
    assert list(check(resolve(orders.parent), options)) == []
    totals = options.totals
    assert (totals.partitions, totals.segments, totals.batches, totals.records) == (1, 3, 9, 18)
    assert totals.bytes == sum(log.stat().st_size for log in orders.glob("*.log"))


def test_progress_is_told_every_byte(orders: Path) -> None:
    done: list[int] = []
    list(check(resolve(orders), CheckOptions(progress=done.append)))
    assert sum(done) == sum(log.stat().st_size for log in orders.glob("*.log"))


def test_an_unclean_shutdown_is_worth_a_note(directory: LogDirectory, written: Partition) -> None:
    directory.close(is_clean=False)
    assert (only(directory.path).code, only(written.path).code) == ("unclean-shutdown", "unclean-shutdown")


def test_topic_and_partition_choose_what_is_checked(directory: LogDirectory, written: Partition) -> None:
    directory.partition("audit-0").append(b"v")
    flip_bit(written.log, 70, 0)
    directory.close()
    assert findings(directory.path, topic=lambda topic: topic == "audit") == []
    assert findings(directory.path, partition=0) == []
    assert codes(findings(directory.path, partition=3)) == {"batch-crc"}


# ---------------------------------------------------------------- segments


def test_zeros_at_the_end_of_a_segment_that_is_closed_are_damage(orders: Path) -> None:
    append_bytes(orders / f"{SEGMENTS[0]}.log", bytes(100))
    assert (only(orders).code, only(orders).severity) == ("zero-tail", Severity.DAMAGE)


def test_a_torn_batch_in_an_unclean_directory_is_what_a_kill_leaves(
    directory: LogDirectory, written: Partition
) -> None:
    append_bytes(written.log, batch(record(b"k", b"v"), base_offset=18)[:-1])
    directory.close(is_clean=False)
    assert [(one.code, one.severity) for one in alarms(directory.path)] == [("torn-tail", Severity.WARNING)]


@pytest.mark.parametrize("is_clean", [True, False])
def test_a_segment_missing_from_the_middle_is_found(
    directory: LogDirectory, written: Partition, is_clean: bool
) -> None:
    directory.close(is_clean=is_clean)
    remove_segment(written.path, SEGMENTS[1])
    [found] = alarms(written.path)
    assert (found.code, found.offset) == ("segment-gap", 6)


def test_a_segment_whose_snapshot_is_left_was_there(orders: Path) -> None:
    remove_segment(orders, SEGMENTS[1], keep=".snapshot")
    assert [(one.code, one.severity) for one in alarms(orders)] == [("segment-missing", Severity.DAMAGE)]


def test_a_log_file_missing_from_the_middle_leaves_orphans(orders: Path) -> None:
    (orders / f"{SEGMENTS[1]}.log").unlink()
    assert {"segment-missing", "index-orphan"} <= codes(alarms(orders))


def test_two_segments_missing_in_different_places_are_both_found(directory: LogDirectory) -> None:
    partition = directory.partition("orders-3")
    for _ in range(5):
        partition.append(b"v", b"v")
        partition.roll()
    directory.close()
    for stem in ("00000000000000000002", "00000000000000000006"):
        remove_segment(partition.path, stem)
    assert [one.offset for one in alarms(partition.path)] == [2, 6]


def test_the_first_segments_may_be_missing_because_retention_took_them(orders: Path) -> None:
    remove_segment(orders, SEGMENTS[0])
    assert findings(orders) == []


def test_the_last_segment_missing_is_found_by_checkpoints(orders: Path) -> None:
    remove_segment(orders, SEGMENTS[2])
    assert {"checkpoint-beyond-end", "snapshot-beyond-end"} <= codes(alarms(orders))


def test_a_compacted_topic_may_have_gaps(directory: LogDirectory, written: Partition) -> None:
    directory.close()
    remove_segment(written.path, SEGMENTS[1])
    write_checkpoint(directory.path / "cleaner-offset-checkpoint", {"orders-3": 12})
    assert alarms(written.path) == []


@pytest.mark.parametrize("stem", SEGMENTS)
@pytest.mark.parametrize("extension", ["index", "timeindex"])
def test_a_missing_index_is_a_warning_in_every_segment(orders: Path, stem: str, extension: str) -> None:
    (orders / f"{stem}.{extension}").unlink()
    assert [(one.code, one.severity) for one in alarms(orders)] == [("index-missing", Severity.WARNING)]


def test_an_empty_active_segment_needs_no_index(directory: LogDirectory, written: Partition) -> None:
    written.roll()
    for extension in (".index", ".timeindex"):
        written.log.with_suffix(extension).unlink()
    directory.close()
    written.log.with_suffix(".timeindex").unlink(missing_ok=True)
    assert alarms(directory.path) == []


# ---------------------------------------------------------------- small files and checkpoints


def test_a_broken_snapshot_is_damage(orders: Path) -> None:
    flip_bit(orders / "00000000000000000006.snapshot", 3, 3)
    assert (only(orders).code, only(orders).path.name) == ("snapshot", "00000000000000000006.snapshot")


def test_a_snapshot_beyond_the_end_is_a_warning(orders: Path) -> None:
    shutil.copy(orders / "00000000000000000018.snapshot", orders / "00000000000000000019.snapshot")
    assert (only(orders).code, only(orders).severity) == ("snapshot-beyond-end", Severity.WARNING)


@pytest.mark.parametrize("text", ["0\n2\n0 0\n", "1\n0\n", "0\n1\n0 x\n", "0\n2\n1 0\n0 6\n", "\xff"])
def test_broken_leader_epochs_are_damage(orders: Path, text: str) -> None:
    (orders / "leader-epoch-checkpoint").write_text(text, encoding="latin-1")
    assert "checkpoint" in codes(findings(orders))


def test_an_epoch_that_begins_beyond_the_end_is_a_warning(orders: Path) -> None:
    (orders / "leader-epoch-checkpoint").write_text("0\n2\n0 0\n1 19\n")
    assert (only(orders).code, only(orders).severity) == ("epoch-beyond-end", Severity.WARNING)


@pytest.mark.parametrize(
    "name",
    [
        "recovery-point-offset-checkpoint",
        "log-start-offset-checkpoint",
        "replication-offset-checkpoint",
        "cleaner-offset-checkpoint",
    ],
)
@pytest.mark.parametrize("text", ["x\n", "1\n0\n", "0\n2\norders 3 18\n", "0\n1\norders 3\n", "0\n1\norders 3 x\n"])
def test_a_broken_checkpoint_is_damage(directory: LogDirectory, orders: Path, name: str, text: str) -> None:
    (directory.path / name).write_text(text)
    found = only(directory.path)
    assert (found.code, found.severity, found.path) == ("checkpoint", Severity.DAMAGE, directory.path / name)


@pytest.mark.parametrize("text", ["version=2\n", "version=1\nnode.id=one\ncluster.id=c\n", "version=1\n"])
def test_broken_properties_are_damage(directory: LogDirectory, orders: Path, text: str) -> None:
    (directory.path / "meta.properties").write_text(text)
    assert only(directory.path).code == "checkpoint"


@pytest.mark.parametrize(
    "text", ["version: 0\ntopic_id: \n", "nonsense", "version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAA\n"]
)
def test_broken_partition_metadata_is_damage(orders: Path, text: str) -> None:
    (orders / "partition.metadata").write_text(text)
    assert only(orders).code == "checkpoint"


@pytest.mark.parametrize("name", ["recovery-point-offset-checkpoint", "log-start-offset-checkpoint"])
def test_a_checkpoint_beyond_the_end_is_damage(directory: LogDirectory, orders: Path, name: str) -> None:
    write_checkpoint(directory.path / name, {"orders-3": 19})
    assert "checkpoint-beyond-end" in codes(alarms(directory.path))


def test_a_high_watermark_beyond_the_end_of_an_unclean_directory_is_a_warning(
    directory: LogDirectory, written: Partition
) -> None:
    directory.close(is_clean=False)
    write_checkpoint(directory.path / "replication-offset-checkpoint", {"orders-3": 19})
    assert [(one.code, one.severity) for one in alarms(directory.path)] == [("checkpoint-beyond-end", Severity.WARNING)]


def test_after_a_clean_shutdown_a_recovery_point_below_the_end_is_damage(directory: LogDirectory, orders: Path) -> None:
    write_checkpoint(directory.path / "recovery-point-offset-checkpoint", {"orders-3": 17})
    assert only(directory.path).code == "checkpoint-behind-end"


def test_checkpoints_that_name_absent_partitions_are_worth_one_note(directory: LogDirectory, orders: Path) -> None:
    write_checkpoint(directory.path / "recovery-point-offset-checkpoint", {"orders-3": 18, "gone-0": 5, "gone-1": 5})
    assert (only(directory.path).code, only(directory.path).severity) == ("checkpoint-partition", Severity.NOTE)


def test_checkpoints_say_nothing_of_a_partition_that_is_set_aside(directory: LogDirectory, orders: Path) -> None:
    deleted = orders.rename(orders.with_name(f"orders-3.{'0' * 32}-delete"))
    write_checkpoint(directory.path / "recovery-point-offset-checkpoint", {"orders-3": 500})
    assert alarms(deleted) == []


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("name", ["lost+found", "orders", "orders-x", "orders-3-delete", "-3"])
def test_a_directory_that_is_no_partition_is_damage(directory: LogDirectory, orders: Path, name: str) -> None:
    (directory.path / name).mkdir()
    found = only(directory.path)
    assert (found.code, found.path.name) == ("foreign-directory", name)


@pytest.mark.parametrize("kind", ["delete", "future", "stray"])
def test_directories_set_aside_are_counted_and_not_read(directory: LogDirectory, orders: Path, kind: str) -> None:
    aside = copied(orders, directory.path / "x").rename(directory.path / f"old-0.{'0' * 32}-{kind}")
    (directory.path / "x").rmdir()
    flip_bit(aside / f"{SEGMENTS[0]}.log", 70, 0)
    assert (only(directory.path).code, only(directory.path).severity) == ("set-aside", Severity.NOTE)
    assert codes(alarms(aside)) == {"batch-crc"}


@pytest.mark.parametrize("suffix", [".deleted", ".cleaned", ".swap"])
def test_files_set_aside_are_counted_and_not_read(orders: Path, suffix: str) -> None:
    aside = orders / f"{SEGMENTS[0]}.log{suffix}"
    aside.write_bytes(b"never looked at")
    assert (only(orders).code, only(orders).severity) == ("leftover", Severity.NOTE)
    assert alarms(aside) != []


@pytest.mark.parametrize("suffix", [".deleted", ".cleaned", ".swap"])
def test_files_set_aside_are_held_against_each_other_when_named(orders: Path, suffix: str) -> None:
    for path in orders.glob(f"{SEGMENTS[1]}.*"):
        path.rename(f"{path}{suffix}")
    for extension in ("log", "index", "timeindex"):
        assert alarms(orders / f"{SEGMENTS[1]}.{extension}{suffix}") == []
    overwrite(orders / f"{SEGMENTS[1]}.index{suffix}", 4, b"\0\0\0\1")
    assert codes(alarms(orders / f"{SEGMENTS[1]}.index{suffix}")) == {"index-mismatch"}


def test_foreign_files_are_worth_a_note(directory: LogDirectory, orders: Path) -> None:
    (orders / "notes.txt").touch()
    (directory.path / "README").touch()
    assert [(one.code, one.severity) for one in findings(directory.path)] == [("foreign-file", Severity.NOTE)] * 2


def test_our_own_dot_files_are_not_even_that(orders: Path) -> None:
    (orders / ".logstore-lock").touch()
    assert findings(orders) == []


# ---------------------------------------------------------------- single files


def test_a_segment_by_itself_is_held_against_its_neighbours(orders: Path) -> None:
    append_bytes(orders / f"{SEGMENTS[0]}.log", bytes(100))
    assert codes(alarms(orders / f"{SEGMENTS[0]}.log")) == {"zero-tail"}


def test_an_index_by_itself_is_held_against_its_log(orders: Path) -> None:
    path = orders / f"{SEGMENTS[1]}.index"
    overwrite(path, 4, b"\0\0\0\1")
    assert codes(alarms(path)) == {"index-mismatch"}
    assert alarms(path.with_suffix(".timeindex")) == []


def test_an_index_without_its_log_is_an_orphan_and_still_read(orders: Path) -> None:
    path = orders / f"{SEGMENTS[1]}.index"
    path.with_suffix(".log").unlink()
    append_bytes(path, b"\1")
    assert codes(alarms(path)) == {"index-orphan", "index-size"}


def test_a_file_of_an_unknown_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UnsupportedFormatError):
        findings(tmp_path / "notes.txt")


def test_findings_name_the_path_as_it_was_given(orders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip_bit(orders / f"{SEGMENTS[0]}.log", 70, 0)
    monkeypatch.chdir(orders)
    assert only(Path(f"{SEGMENTS[0]}.log")).path == Path(f"{SEGMENTS[0]}.log")
    assert only(Path(".")).path == Path(f"{SEGMENTS[0]}.log")


# ---------------------------------------------------------------- while others are at work


def test_a_segment_deleted_since_it_was_listed_is_worth_a_note(orders: Path) -> None:
    target = resolve(orders)
    remove_segment(orders, SEGMENTS[1])
    found = list(check(target, CheckOptions()))
    assert [(one.code, one.severity) for one in found if one.severity != Severity.NOTE] == []
    assert "vanished" in codes(found)


def test_indexes_deleted_since_they_were_listed_are_worth_a_note(orders: Path) -> None:
    target = resolve(orders)
    assert isinstance(target, PartitionFiles)
    (orders / f"{SEGMENTS[1]}.index").unlink()
    assert [one.code for one in check(target, CheckOptions())] == ["vanished"]


def test_a_file_that_shrinks_while_it_is_read_is_at_work(tmp_path: Path) -> None:
    partition = Partition(tmp_path / "orders-3")
    for _ in range(40):
        partition.append(bytes(20_000))
    flip_bit(partition.log, 70, 0)
    checking = check(resolve(partition.log), CheckOptions())
    assert next(checking).code == "batch-crc"
    shorten(partition.log, 700_000)
    assert [(one.code, one.severity) for one in checking] == [("file-shrank", Severity.NOTE)]


def test_a_link_that_leads_nowhere_cannot_be_read(orders: Path) -> None:
    log = orders / f"{SEGMENTS[1]}.log"
    log.unlink()
    log.symlink_to("nowhere")
    assert [one.code for one in alarms(orders)] == ["unreadable"]


def test_an_input_output_error_stops_that_segment_only(orders: Path, failing_reads: Callable[[str], None]) -> None:
    failing_reads(f"{SEGMENTS[1]}.log")
    flip_bit(orders / f"{SEGMENTS[2]}.log", 70, 0)
    assert [one.code for one in alarms(orders)] == ["unreadable", "batch-crc"]


def test_a_pipe_among_the_segments_does_not_hold_the_check_up(orders: Path) -> None:
    os.mkfifo(orders / "00000000000000000018.log")
    assert [one.code for one in findings(orders)] == ["foreign-file"]


def test_each_code_is_looked_for_in_these_tests() -> None:
    here = Path(__file__).parent
    looked_for = "".join(path.read_text() for path in here.glob("test_check*.py"))
    assert {code for code in CODES if f'"{code}"' not in looked_for} == set()
