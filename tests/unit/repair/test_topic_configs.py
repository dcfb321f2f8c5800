"""What is known of the configuration of topics: from the metadata log of their directory, and what else tells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.directories import append_bytes, flip_bit, shorten
from helpers.metadata_logs import (
    ABORT,
    BEGIN,
    BROKER,
    END,
    METADATA,
    setting,
    topic,
    topic_removed,
    write_metadata,
    write_metadata_snapshot,
)

from logstore.config import LogConfig
from logstore.errors import CorruptCheckpointError, DamagedLogError, LogstoreError, UnsupportedFormatError
from logstore.fs import LocalFileSystem
from logstore.repair import TopicConfigs

HOUR = setting("orders", "retention.ms", "3600000")
DAY = setting("orders", "retention.ms", "86400000")


def read(directory: Path) -> TopicConfigs:
    return TopicConfigs.read(LocalFileSystem(), directory)


def replayed(directory: Path, *values: bytes) -> TopicConfigs:
    write_metadata(directory, values)
    return read(directory)


# ---------------------------------------------------------------- the metadata log


def test_a_real_brokers_directory_tells_what_its_topics_were_made_with(
    kafka_fixtures: Path, tree_unchanged: Callable[..., Any]
) -> None:
    clean = kafka_fixtures / "kafka-4.1.1" / "clean"
    with tree_unchanged(clean):
        configs = read(clean)
    assert configs.settings("retained") == {
        "file.delete.delay.ms": "3600000", "index.interval.bytes": "512", "retention.bytes": "40000",
        "internal.segment.bytes": "16384",
    }  # fmt: skip
    assert configs.config_of("retained") == LogConfig(
        file_delete_delay_ms=3_600_000, index_interval_bytes=512, retention_bytes=40_000, segment_bytes=16_384,
        retention_ms=-1,
    )  # fmt: skip
    assert configs.config_of("append-time").message_timestamp_type == "LogAppendTime"
    assert configs.config_of("__consumer_offsets").cleanup_policy == {"compact"}
    assert configs.settings("plain") == {}
    known = [configs.is_compacted(one) for one in ("plain", "__consumer_offsets", "__transaction_state")]
    assert known == [None, True, True]


def test_the_last_word_counts_and_what_was_taken_back_is_not_known(tmp_path: Path) -> None:
    configs = replayed(
        tmp_path, topic("orders", 1), DAY, HOUR, setting("orders", "retention.bytes", "7"),
        setting("orders", "retention.bytes", None), setting("orders", "cleanup.policy", None), setting("x", "a", "b"),
    )  # fmt: skip
    assert configs.settings("orders") == {"retention.ms": "3600000"}


def test_a_topic_that_was_removed_leaves_nothing_to_one_of_its_name(tmp_path: Path) -> None:
    configs = replayed(tmp_path, topic("orders", 1), DAY, topic_removed(1), topic("orders", 2))
    assert configs.settings("orders") == {}
    assert configs.config_of("orders").retention_ms == -1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([BEGIN, HOUR, END], "3600000"),
        ([BEGIN, HOUR, ABORT], "86400000"),
        ([BEGIN, HOUR], "86400000"),
        ([BEGIN, HOUR, ABORT, BEGIN, setting("orders", "retention.ms", "1"), END], "1"),
        ([BEGIN, topic_removed(1), ABORT], "86400000"),
    ],
)
def test_records_of_a_transaction_count_once_it_has_ended(tmp_path: Path, values: list[bytes], expected: str) -> None:
    configs = replayed(tmp_path, topic("orders", 1), DAY, *values)
    assert configs.settings("orders") == {"retention.ms": expected}


def test_the_cluster_has_defaults_and_a_broker_its_own(tmp_path: Path) -> None:
    (tmp_path / "meta.properties").write_text("version=1\ncluster.id=c\nnode.id=3\n")
    configs = replayed(
        tmp_path,
        setting("", "log.retention.hours", "2", kind=BROKER),
        setting("", "log.retention.bytes", "5000", kind=BROKER),
        setting("3", "log.retention.bytes", "6000", kind=BROKER),
        setting("4", "log.retention.bytes", "7000", kind=BROKER),
        setting("", "min.insync.replicas", "1", kind=BROKER),
        HOUR,
    )
    assert configs.settings("any") == {"retention.ms": "7200000", "retention.bytes": "6000"}
    assert configs.settings("orders") == {"retention.ms": "3600000", "retention.bytes": "6000"}
    assert configs.config_of("orders").retention_bytes == 6000


def test_a_snapshot_comes_first_and_then_the_log_from_there_on(tmp_path: Path) -> None:
    later = setting("orders", "retention.bytes", "5")
    write_metadata(tmp_path, [DAY, later, later], first_offset=10)  # 10, 11, 12
    write_metadata_snapshot(tmp_path, 5, [DAY])
    write_metadata_snapshot(tmp_path, 11, [topic("orders", 1), HOUR])
    for suffix in (".part", ".deleted"):
        write_metadata_snapshot(tmp_path, 20, [setting("orders", "retention.ms", "1")], suffix)
    assert read(tmp_path).settings("orders") == {"retention.ms": "3600000", "retention.bytes": "5"}


def test_a_log_that_does_not_begin_where_a_snapshot_ends_is_not_known(tmp_path: Path) -> None:
    write_metadata(tmp_path, [DAY], first_offset=10)
    with pytest.raises(DamagedLogError, match="begins at 10"):
        read(tmp_path)
    write_metadata_snapshot(tmp_path, 9, [DAY])
    with pytest.raises(DamagedLogError, match="begins at 10"):
        read(tmp_path)


# ---------------------------------------------------------------- damage


def test_a_torn_end_is_where_the_log_ends(tmp_path: Path) -> None:
    partition = write_metadata(tmp_path, [DAY], [HOUR, setting("orders", "retention.ms", "1")])
    last = sorted(partition.glob("*.log"))[-1]
    shorten(last, last.stat().st_size - 5)
    assert read(tmp_path).settings("orders") == {"retention.ms": "3600000"}
    append_bytes(last, bytes(5000))
    assert read(tmp_path).settings("orders") == {"retention.ms": "3600000"}
    append_bytes(sorted(partition.glob("*.log"))[0], bytes(10))
    with pytest.raises(DamagedLogError):
        read(tmp_path)


@pytest.mark.parametrize("segment", [0, 1])
def test_damage_before_the_end_is_said_with_its_place(tmp_path: Path, segment: int) -> None:
    partition = write_metadata(tmp_path, [DAY, HOUR], [HOUR, DAY])
    damaged = sorted(partition.glob("*.log"))[segment]
    flip_bit(damaged, 80, 0)
    with pytest.raises(DamagedLogError) as caught:
        read(tmp_path)
    assert (caught.value.path, caught.value.position) == (str(damaged), 0)


def test_a_snapshot_must_be_whole(tmp_path: Path) -> None:
    place = write_metadata_snapshot(tmp_path, 5, [DAY])
    shorten(place, place.stat().st_size - 1)
    with pytest.raises(DamagedLogError):
        read(tmp_path)


def test_a_version_that_is_not_known_is_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFormatError, match="version 7 of a CONFIG_RECORD") as caught:
        replayed(tmp_path, setting("orders", "retention.ms", "1", version=7))
    assert caught.value.path is not None and METADATA in caught.value.path


# ---------------------------------------------------------------- what is made of it


def test_what_is_compacted_is_told_by_configuration_then_by_the_cleaner_then_by_name(tmp_path: Path) -> None:
    (tmp_path / "cleaner-offset-checkpoint").write_text("0\n3\ncleaned 0 4\nswitched 1 4\nboth 0 1\n")
    configs = replayed(
        tmp_path, setting("compacted", "cleanup.policy", "compact"), setting("switched", "cleanup.policy", "delete"),
        setting("both", "cleanup.policy", " Delete , COMPACT"),
        setting("__consumer_offsets", "cleanup.policy", "delete"),
    )  # fmt: skip
    topics = ("compacted", "switched", "both", "cleaned", "__consumer_offsets", "__transaction_state", "orders")
    assert [configs.is_compacted(one) for one in topics] == [True, False, True, True, False, True, None]
    assert configs.policy("both") == {"compact", "delete"}
    assert configs.policy("cleaned") is None
    policies = {one: set(configs.config_of(one).cleanup_policy) for one in ("cleaned", "switched", "orders")}
    assert policies == {"cleaned": {"compact"}, "switched": {"delete"}, "orders": {"delete"}}


def test_settings_that_a_log_has_no_use_for_are_left_out_of_its_configuration(tmp_path: Path) -> None:
    configs = replayed(
        tmp_path, setting("orders", "min.insync.replicas", "2"), setting("orders", "remote.storage.enable", "true"),
        setting("orders", "segment.bytes", "1048576"), setting("orders", "internal.segment.bytes", "20000"),
    )  # fmt: skip
    assert configs.config_of("orders") == LogConfig(segment_bytes=20_000, retention_ms=-1)


def test_a_value_that_is_none_is_said(tmp_path: Path) -> None:
    configs = replayed(tmp_path, setting("orders", "retention.ms", "soon"))
    with pytest.raises(LogstoreError, match=r"configuration of topic orders .* retention\.ms is 'soon'"):
        configs.config_of("orders")
    with pytest.raises(LogstoreError, match="a setting of the brokers"):
        replayed(tmp_path / "other", setting("", "log.retention.hours", "soon", kind=BROKER))


def test_without_a_metadata_log_nothing_is_known(tmp_path: Path) -> None:
    assert read(tmp_path) == TopicConfigs()
    (tmp_path / "cleaner-offset-checkpoint").write_text("0\n1\nbroken\n")
    with pytest.raises(CorruptCheckpointError) as caught:
        read(tmp_path)
    assert caught.value.path == str(tmp_path / "cleaner-offset-checkpoint")
