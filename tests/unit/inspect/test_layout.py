"""Paths are taken for what they are: a file, a partition directory or a log directory, however they are written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.directories import LogDirectory, copied, write_checkpoint

from logstore.errors import CorruptCheckpointError, LogstoreError
from logstore.inspect import (
    LogDirectoryFiles,
    PartitionFiles,
    SingleFile,
    context_around,
    iter_partitions,
    read_context,
    resolve,
)
from logstore.inspect.layout import SMALL_FILE_BYTES_MAX, parse_file, read_small, single_file
from logstore.log import parse_offset_checkpoint
from logstore.names import FileKind, TopicPartition

LOG = "00000000000000000000.log"
ORDERS = TopicPartition("orders", 3)


def partition(path: Path) -> PartitionFiles:
    found = resolve(path)
    assert isinstance(found, PartitionFiles)
    return found


def log_directory(path: Path) -> LogDirectoryFiles:
    found = resolve(path)
    assert isinstance(found, LogDirectoryFiles)
    return found


def file(path: Path) -> SingleFile:
    found = resolve(path)
    assert isinstance(found, SingleFile)
    return found


# ---------------------------------------------------------------- files


def test_a_segment_file_knows_its_partition_by_its_directory(orders: Path) -> None:
    found = file(orders / LOG)
    assert (found.kind, found.base_offset, found.partition, found.is_segment) == (FileKind.LOG, 0, ORDERS, True)


@pytest.mark.parametrize("suffix", [".deleted", ".cleaned", ".swap"])
def test_a_segment_file_that_is_set_aside_is_read_as_a_segment_but_not_of_the_log(orders: Path, suffix: str) -> None:
    found = file((orders / LOG).rename(orders / f"{LOG}{suffix}"))
    assert (found.kind, found.holds_batches, found.is_segment) == (FileKind.LOG, True, False)


@pytest.mark.parametrize("name", ["bootstrap.checkpoint", "00000000000000000192-0000000003.checkpoint"])
def test_metadata_snapshots_hold_metadata_records_from_offset_0_on_wherever_they_lie(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    found = file(tmp_path / name)
    assert (found.partition, found.first_offset, found.holds_batches) == (("__cluster_metadata", 0), 0, True)


def test_a_link_to_a_segment_is_that_segment(orders: Path, tmp_path: Path) -> None:
    link = tmp_path / "newest"
    link.symlink_to(orders / LOG)
    found = file(link)
    assert (found.path, found.kind, found.partition, found.directory) == (link, FileKind.LOG, ORDERS, orders)


def test_what_is_neither_file_nor_directory_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / LOG)
    with pytest.raises(LogstoreError, match="neither a file nor a directory"):
        resolve(tmp_path / LOG)


def test_a_path_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        resolve(tmp_path / "orders-3")


# ---------------------------------------------------------------- partition directories


@pytest.mark.parametrize("written_as", [".", "./", "../orders-3", "../orders-3/.", "../orders-3/"])
def test_a_partition_keeps_its_name_however_the_path_is_written(
    orders: Path, written_as: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(orders)
    assert partition(Path(written_as)).topic_partition == ORDERS


def test_a_link_to_a_partition_has_the_partitions_name_and_its_log_directory(orders: Path, tmp_path: Path) -> None:
    write_checkpoint(orders.parent / "log-start-offset-checkpoint", {"orders-3": 4})
    link = tmp_path / "some-link"
    link.symlink_to(orders)
    assert partition(link).topic_partition == ORDERS
    context = context_around(link)
    assert context is not None and context.log_starts == {ORDERS: 4}


def test_a_partition_that_lies_elsewhere_belongs_to_the_log_directory_that_links_to_it(
    directory: LogDirectory, alone: Path
) -> None:
    link = directory.path / "linked-1"
    link.symlink_to(alone)
    context = context_around(link)
    assert partition(link).topic_partition == ("linked", 1)
    assert context is not None and context.path == directory.path


def test_an_empty_directory_with_a_partitions_name_is_a_partition(tmp_path: Path) -> None:
    (tmp_path / "orders-3").mkdir()
    assert partition(tmp_path / "orders-3").segments == ()


def test_a_directory_with_segments_is_a_partition_whatever_its_name(orders: Path, tmp_path: Path) -> None:
    renamed = orders.rename(tmp_path / "copy")
    assert (partition(renamed).topic_partition, len(partition(renamed).segments)) == (None, 3)


def test_a_partition_with_nothing_but_indexes_is_a_partition_and_they_are_orphans(orders: Path) -> None:
    for log in orders.glob("*.log"):
        log.unlink()
    assert partition(orders).segments == ()
    assert {path.suffix for path in partition(orders).orphans} == {".index", ".timeindex"}


def test_what_lies_in_a_partition_is_sorted_and_nothing_is_dropped(orders: Path) -> None:
    for name in (f"{LOG}.deleted", "x.tmp", "notes.txt", "00000000000000000007-0000000001.checkpoint"):
        (orders / name).touch()
    (orders / "sub.log").mkdir()
    found = partition(orders)
    assert [segment.base_offset for segment in found.segments] == [0, 6, 12]
    assert [offset for offset, _ in found.snapshots] == [6, 12, 18]
    assert {path.name for path in found.leftovers} == {f"{LOG}.deleted", "x.tmp"}
    assert {path.name for path in found.others} == {"notes.txt", "sub.log"}
    assert [path.name for path in found.metadata_snapshots] == ["00000000000000000007-0000000001.checkpoint"]
    assert set(found.named) == {"leader-epoch-checkpoint", "partition.metadata"}


def test_a_pipe_named_like_a_segment_is_never_opened(orders: Path) -> None:
    os.mkfifo(orders / "00000000000000000018.log")
    assert [path.name for path in partition(orders).others] == ["00000000000000000018.log"]


def test_of_two_names_for_one_offset_kafkas_own_is_the_segment(orders: Path) -> None:
    (orders / "0.log").touch()
    found = partition(orders)
    assert found.segments[0].log.name == LOG
    assert [path.name for path in found.others] == ["0.log"]


@pytest.mark.parametrize(("kind", "checkpointed"), [("delete", None), ("stray", None), ("future", ORDERS)])
def test_checkpoints_speak_of_future_directories_but_not_of_deleted_and_stray_ones(
    orders: Path, kind: str, checkpointed: TopicPartition | None
) -> None:
    found = partition(orders.rename(orders.with_name(f"orders-3.{'0' * 32}-{kind}")))
    assert (found.topic_partition, found.checkpointed) == (ORDERS, checkpointed)


# ---------------------------------------------------------------- log directories


def test_what_lies_in_a_log_directory_is_sorted_and_nothing_is_dropped(directory: LogDirectory, orders: Path) -> None:
    for name in ("orders-10", "audit-0", f"gone-0.{'0' * 32}-delete", "no partition", "remote-log-index-cache"):
        (directory.path / name).mkdir()
    for name in ("README", "meta.properties.tmp", LOG):
        (directory.path / name).touch()
    found = log_directory(directory.path)
    assert [str(name) for name, _ in found.partitions] == ["audit-0", "orders-3", "orders-10"]
    assert [name.topic for name, _ in found.set_aside] == ["gone"]
    assert [path.name for path, _ in found.foreign] == ["no partition"]
    assert [path.name for path in found.leftovers] == ["meta.properties.tmp"]
    assert {path.name for path in found.others} == {"README", LOG}


@pytest.mark.parametrize("name", ["data-1", "backup-2024"])
def test_a_log_directory_may_be_named_like_a_partition(orders: Path, tmp_path: Path, name: str) -> None:
    orders.parent.rename(tmp_path / name)
    assert [str(found) for found, _ in log_directory(tmp_path / name).partitions] == ["orders-3"]


def test_a_log_directory_without_partitions_is_one_by_its_checkpoints(tmp_path: Path) -> None:
    empty = LogDirectory(tmp_path / "data-1").close()
    assert log_directory(empty).partitions == ()


def test_partitions_without_any_file_beside_them_are_a_log_directory_too(alone: Path) -> None:
    assert [str(name) for name, _ in log_directory(alone.parent).partitions] == ["orders-3"]
    assert read_context(alone.parent) is None


def test_a_directory_without_logs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(LogstoreError, match="holds no log"):
        resolve(tmp_path)


def test_partitions_are_chosen_by_topic_and_number(directory: LogDirectory) -> None:
    for name in ("orders-0", "orders-1", "audit-0"):
        directory.partition(name)
    found = log_directory(directory.close())
    chosen = iter_partitions(found, topic=lambda topic: topic == "orders", partition=1)
    assert [one.path.name for one in chosen] == ["orders-1"]


def test_a_partition_that_vanished_since_it_was_listed_is_left_out(directory: LogDirectory, orders: Path) -> None:
    found = log_directory(directory.path)
    orders.rename(orders.with_name("moved"))
    assert list(iter_partitions(found, topic=lambda _: True, partition=None)) == []


# ---------------------------------------------------------------- what the checkpoints say


def test_checkpoints_are_read_together(directory: LogDirectory, written: object) -> None:
    directory.close(log_starts={"orders-3": 4})
    context = read_context(directory.path)
    assert context is not None and context.is_clean and context.errors == ()
    assert (context.recovery_points, context.log_starts) == ({ORDERS: 18}, {ORDERS: 4})
    assert (context.high_watermarks, context.cleaner_offsets) == ({ORDERS: 18}, {})


def test_a_broken_checkpoint_does_not_keep_the_others_from_being_read(directory: LogDirectory, orders: Path) -> None:
    broken = directory.path / "log-start-offset-checkpoint"
    broken.write_text("7\n")
    context = read_context(directory.path)
    assert context is not None and context.recovery_points == {ORDERS: 18}
    [(path, error)] = context.errors
    assert path == broken and isinstance(error, CorruptCheckpointError)


def test_a_checkpoint_that_the_operating_system_does_not_give_is_an_error_like_any(
    directory: LogDirectory, orders: Path
) -> None:
    unreadable = directory.path / "replication-offset-checkpoint"
    unreadable.unlink()
    unreadable.mkdir()
    context = read_context(directory.path)
    assert context is not None
    [(path, error)] = context.errors
    assert path == unreadable and isinstance(error, IsADirectoryError)


def test_an_error_in_a_small_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    path.write_text("0\n1\n")
    with pytest.raises(CorruptCheckpointError) as caught:
        parse_file(path, parse_offset_checkpoint)
    assert caught.value.path == str(path)


def test_a_small_file_is_read_up_to_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "huge.index"
    with open(path, "wb") as huge:
        huge.truncate(SMALL_FILE_BYTES_MAX + 1)
    with pytest.raises(LogstoreError, match="larger than"):
        read_small(path)


def test_a_file_by_itself_is_copied_with_its_name_alone(orders: Path, tmp_path: Path) -> None:
    found = single_file(copied(orders / LOG, tmp_path / "bare"))
    assert (found.partition, found.base_offset) == (None, 0)
