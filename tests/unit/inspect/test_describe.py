"""A description counts what is there, says what the checkpoints say, and is not stopped by damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from by_hand import GZIP, message, message_set
from helpers.directories import LogDirectory, Partition, append_bytes, copied, flip_bit, write_checkpoint
from helpers.fixtures import consumer_views

from logstore.errors import CorruptCheckpointError, CorruptIndexError, UnsupportedFormatError
from logstore.inspect import DescribeOptions, Description, PartitionDescription, describe, resolve
from logstore.names import FileKind

FIRST = "00000000000000000000"


def described(path: Path, **options: Any) -> Description:
    return describe(resolve(path), DescribeOptions(**options))


def partition(path: Path) -> PartitionDescription:
    [one] = described(path).partitions
    return one


def test_a_partition_is_counted(orders: Path) -> None:
    one = partition(orders)
    assert (one.topic, one.partition, one.segments, one.batches, one.records) == ("orders", 3, 3, 9, 18)
    assert (one.log_start_offset, one.log_end_offset, one.damages, one.unreadable_files) == (0, 18, 0, [])
    assert one.log_bytes == sum(path.stat().st_size for path in orders.glob("*.log"))
    assert one.index_bytes == sum(path.stat().st_size for path in orders.glob("*index"))


def test_a_real_partition_holds_what_a_real_consumer_was_given(kafka_fixtures: Path) -> None:
    compared = 0
    for view in consumer_views(kafka_fixtures):
        if view.isolation == "read_uncommitted" and view.head["low"] == 0 and "deleted" not in view.partition.name:
            assert partition(view.partition).records == view.head["count"], view
            compared += 1
    assert compared > 20


def test_the_first_and_last_time_are_those_of_records_however_they_are_ordered(kafka_fixtures: Path) -> None:
    compared = 0
    for view in consumer_views(kafka_fixtures):
        times = [record["timestamp"] for record in view.records if record["timestamp"] >= 0]
        if times and view.head["low"] == 0 and not view.partition.name.startswith("txn"):  # markers have times too
            one = partition(view.partition)
            assert (one.first_timestamp, one.last_timestamp) == (min(times), max(times)), view
            compared += 1
    assert compared > 20


def test_times_codecs_and_formats_are_told(kafka_fixtures: Path) -> None:
    one = partition(kafka_fixtures / "kafka-2.8.2" / "clean" / "mixed-0")
    assert set(one.formats) == {"v0", "v1", "v2"}
    assert set(one.timestamp_types) == {"NoTimestampType", "CreateTime"}
    assert one.first_timestamp is not None and one.last_timestamp is not None
    assert one.first_timestamp <= one.last_timestamp


def test_a_log_of_format_v0_has_no_times(tmp_path: Path) -> None:
    log = tmp_path / f"{FIRST}.log"
    log.write_bytes(message(0, b"k", b"v"))
    assert (partition(log).first_timestamp, partition(log).last_timestamp) == (None, None)


def test_the_records_of_a_compressed_set_are_counted(tmp_path: Path) -> None:
    log = tmp_path / f"{FIRST}.log"
    log.write_bytes(message_set(1, GZIP, *(message(1, b"k", b"v", offset=o, timestamp=o) for o in range(3)), offset=2))
    assert (partition(log).records, partition(log).batches, partition(log).log_end_offset) == (3, 1, 3)


def test_transactions_and_producers_are_counted(transactions: Path) -> None:
    one = partition(transactions)
    assert (one.transactions_committed, one.transactions_aborted, one.transactions_open) == (1, 1, 1)
    assert (one.producers, one.records, one.control_records) == (2, 8, 2)


def test_checkpoints_are_told(directory: LogDirectory, written: Partition) -> None:
    directory.close(log_starts={"orders-3": 4})
    one = partition(written.path)
    assert (one.log_start_offset, one.high_watermark, one.recovery_point) == (4, 18, 18)
    assert one.leader_epochs == [(0, 0)]


def test_the_clean_part_lies_below_the_cleaners_checkpoint(orders: Path) -> None:
    write_checkpoint(orders.parent / "cleaner-offset-checkpoint", {"orders-3": 6})
    one = partition(orders)
    sizes = [path.stat().st_size for path in sorted(orders.glob("*.log"))]
    assert (one.clean_bytes, one.dirty_bytes) == (sizes[0], sizes[1])  # the active segment counts for neither
    assert one.dirty_ratio == sizes[1] / (sizes[0] + sizes[1])


@pytest.mark.parametrize(("is_clean", "word"), [(True, "clean"), (False, "unclean")])
def test_the_shutdown_is_told(directory: LogDirectory, written: Partition, is_clean: bool, word: str) -> None:
    directory.close(is_clean=is_clean)
    assert described(directory.path).shutdown == described(written.path).shutdown == word


def test_without_a_log_directory_the_shutdown_is_unknown(alone: Path) -> None:
    assert described(alone).shutdown == "unknown"


def test_a_log_directory_is_all_of_its_partitions(directory: LogDirectory, written: Partition) -> None:
    directory.partition("audit-0").append(b"v")
    (directory.path / f"old-0.{'0' * 32}-delete").mkdir()
    (directory.path / "lost+found").mkdir()
    directory.close()
    found = described(directory.path)
    assert [one.topic for one in found.partitions] == ["audit", "orders"]
    assert (found.set_aside, found.foreign) == ([f"old-0.{'0' * 32}-delete"], ["lost+found"])
    assert found.properties["cluster.id"] == "c"


def test_topic_and_partition_choose(directory: LogDirectory, written: Partition) -> None:
    directory.partition("audit-0").append(b"v")
    directory.close()
    assert [one.topic for one in described(directory.path, partition=3).partitions] == ["orders"]


def test_a_segment_is_described_by_itself(orders: Path) -> None:
    one = partition(orders / "00000000000000000006.log")
    assert (one.topic, one.log_start_offset, one.log_end_offset, one.records) == ("orders", 6, 12, 6)


@pytest.mark.kafka("DUMP-08")
def test_a_log_without_batches_tells_where_it_starts(tmp_path: Path) -> None:
    for offset in (0, 1, 42):
        log = tmp_path / f"{offset:020d}.log"
        log.touch()
        assert (partition(log).log_start_offset, partition(log).log_end_offset) == (offset, offset)
    assert (partition(tmp_path).segments, partition(tmp_path).log_end_offset) == (3, 42)


@pytest.mark.kafka("DUMP-06")
def test_an_index_of_length_0_is_called_empty(orders: Path) -> None:
    (orders / f"{FIRST}.index").write_bytes(b"")
    found = described(orders / f"{FIRST}.index")
    assert (found.kind, found.entries, found.first_entry) == (FileKind.OFFSET_INDEX.value, 0, None)


def test_small_files_are_described_by_their_first_and_last_entry(orders: Path) -> None:
    found = described(orders / "00000000000000000006.index")
    assert (found.entries, found.first_entry, found.last_entry) == (
        2, {"offset": 9, "position": 91}, {"offset": 11, "position": 182},
    )  # fmt: skip


@pytest.mark.kafka("DUMP-11")
def test_a_metadata_snapshot_tells_its_end_offset_and_epoch(kafka_fixtures: Path, tmp_path: Path) -> None:
    source = kafka_fixtures / "kafka-4.1.1" / "clean" / "bootstrap.checkpoint"
    path = copied(source, tmp_path).rename(tmp_path / "00000000000000000012-0000000007.checkpoint")
    found = described(path)
    assert found.properties == {"end offset": "12", "epoch": "7"}
    assert (found.partitions[0].topic, found.partitions[0].log_start_offset) == ("__cluster_metadata", 0)


# ---------------------------------------------------------------- damage


def test_damage_is_counted_and_stops_nothing(orders: Path) -> None:
    flip_bit(orders / f"{FIRST}.log", 70, 0)
    flip_bit(orders / "00000000000000000012.log", 70, 0)
    one = partition(orders)
    assert (one.damages, one.records, one.log_end_offset) == (2, 14, 18)


def test_preallocated_space_is_no_damage(written: Partition) -> None:
    append_bytes(written.log, bytes(4096))
    assert partition(written.path).damages == 0


def test_broken_checkpoints_are_told_and_counted(directory: LogDirectory, orders: Path) -> None:
    (directory.path / "recovery-point-offset-checkpoint").write_text("broken")
    (directory.path / "meta.properties").write_bytes(b"\xff\xfe\\u12")
    (orders / "leader-epoch-checkpoint").write_text("broken")
    found = described(directory.path)
    assert found.damages == 1 + len(found.errors)
    assert any(isinstance(error, CorruptCheckpointError) for error in found.errors)


def test_what_the_operating_system_does_not_give_is_counted(orders: Path, failing_reads: Callable[[str], None]) -> None:
    failing_reads("00000000000000000006.log")
    one = partition(orders)
    assert (len(one.unreadable_files), one.damages, one.records) == (1, 0, 12)
    assert one.unreadable_files[0].endswith("00000000000000000006.log: Input/output error")


def test_a_segment_deleted_since_it_was_listed_is_left_out(orders: Path) -> None:
    target = resolve(orders)
    (orders / f"{FIRST}.log").unlink()
    [one] = describe(target, DescribeOptions()).partitions
    assert (one.records, one.unreadable_files) == (12, [])


def test_a_small_file_that_cannot_be_read_is_an_error(orders: Path) -> None:
    append_bytes(orders / f"{FIRST}.index", b"\1")
    with pytest.raises(CorruptIndexError):
        described(orders / f"{FIRST}.index")
    (orders / "notes.txt").touch()
    with pytest.raises(UnsupportedFormatError):
        described(orders / "notes.txt")


def test_checkpoints_say_nothing_of_a_partition_that_waits_for_deletion(orders: Path) -> None:
    deleted = orders.rename(orders.with_name(f"orders-3.{'0' * 32}-delete"))
    assert (partition(deleted).topic, partition(deleted).high_watermark) == ("orders", None)


def test_the_description_as_json_has_plain_values_only(orders: Path) -> None:
    found = described(orders.parent).as_json()
    assert found["totals"]["records"] == 18 and found["totals"]["damages"] == 0
    assert found["partitions"][0]["codecs"] == {"none": 9}
    assert isinstance(found["path"], str)
