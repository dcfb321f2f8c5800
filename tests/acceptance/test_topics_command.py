"""`logstore topics`: what it makes, shows, changes and deletes, in stores and beside a broker's files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers.commands import logstore, objects
from helpers.trees import snapshot

import logstore as library


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with one topic of three partitions and ten records in the second of them."""
    with library.open(tmp_path / "store") as made:
        made.create_topic("orders", 3, {"retention.ms": "86400000"})
        for number in range(10):
            made.partition("orders", 1).append([(b"k", b"%d" % number)])
    return tmp_path / "store"


def test_a_topic_is_made_and_the_store_with_it(tmp_path: Path) -> None:
    options = ("--partitions", 2, "--config", "segment.bytes=2000000")
    assert logstore("topics", "create", *options, tmp_path / "s", "a").code == 0
    (found,) = objects("topics", "list", "--json", tmp_path / "s")
    assert (found["topic"], found["partitions"], found["settings"]) == ("a", 2, {"segment.bytes": "2000000"})
    assert {"a-0", "a-1"} <= {path.name for path in (tmp_path / "s").iterdir()}
    with library.open(tmp_path / "s") as opened:
        assert opened.partition("a", 1).config.segment_bytes == 2_000_000


def test_it_is_made_once(store: Path) -> None:
    result = logstore("topics", "create", store, "orders")
    assert (result.code, "already" in result.err) == (3, True)
    assert logstore("topics", "create", "--if-not-exists", store, "orders").lines == ["orders: 3 partitions"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "x" * 250, "__cluster_metadata", "or.ders_"])
def test_names_follow_kafkas_rules(store: Path, name: str) -> None:
    if name == "or.ders_":
        assert logstore("topics", "create", store, "or_ders.").code == 0  # '.' and '_' are the same in metrics
    before = snapshot(store)
    assert logstore("topics", "create", store, name).code == 3
    assert snapshot(store).keys() == before.keys()


def test_it_shows_where_the_logs_of_a_topic_begin_and_end(store: Path) -> None:
    (found,) = objects("topics", "describe", "--json", store, "orders")
    ends = [(one["partition"], one["log_start_offset"], one["log_end_offset"]) for one in found["partition_list"]]
    assert ends == [(0, 0, 0), (1, 0, 10), (2, 0, 0)]
    text = logstore("topics", "describe", store, "orders").lines
    assert text[0].startswith("orders  3 partitions  id ") and "retention.ms=86400000" in text[0]
    assert text[2].startswith("  1: offsets 0 to 10, ")


def test_settings_and_partitions_are_changed_beside_a_program_that_has_the_store_open(store: Path) -> None:
    with library.open(store) as opened:
        partition = opened.partition("orders", 1)
        assert partition.config.retention_ms == 86_400_000
        result = logstore(
            "topics", "alter", "--partitions", 4, "--config", "cleanup.policy=compact", "--unset", "retention.ms",
            store, "orders",
        )  # fmt: skip
        assert result.code == 0, result.err
        assert opened.topic("orders").partitions == 4
        assert opened.topic("orders").settings == {"cleanup.policy": "compact"}
        assert partition.config.compacted
        assert opened.partition("orders", 3).log_end_offset == 0


def test_partitions_never_become_fewer(store: Path) -> None:
    for count in (2, 3):
        result = logstore("topics", "alter", "--partitions", count, store, "orders")
        assert (result.code, "only grows" in result.err) == (3, True)


def test_a_deleted_topic_is_gone_for_who_has_it_open(store: Path) -> None:
    with library.open(store) as opened:
        partition = opened.partition("orders", 1)
        assert logstore("topics", "delete", store, "orders").code == 0
        assert opened.topics() == []
        with pytest.raises(library.LogstoreError):
            partition.append([(b"k", b"late")])
    assert not any(path.name in ("orders-0", "orders-1", "orders-2") for path in store.iterdir())


def test_a_dry_run_changes_nothing_and_says_the_same(store: Path) -> None:
    before = snapshot(store)
    for arguments in (
        ("create", "--dry-run", "--json", store, "new"), ("delete", "--dry-run", "--json", store, "orders"),
        ("alter", "--dry-run", "--json", "--partitions", 9, store, "orders"),
    ):  # fmt: skip
        assert logstore("topics", *arguments).code == 0
    assert logstore("topics", "create", "--dry-run", store, "orders").code == 3
    assert snapshot(store) == before


def test_a_brokers_directory_is_read_and_not_changed(kafka_fixtures: Path, tmp_path: Path) -> None:
    data = kafka_fixtures / "kafka-4.1.1" / "clean"
    found = {one["topic"]: one for one in objects("topics", "list", "--internal", "--json", data)}
    assert found["plain"]["partitions"] == 1 and found["__consumer_offsets"]["internal"]
    (plain,) = objects("topics", "describe", "--json", data, "plain")
    assert plain["partition_list"][0]["log_end_offset"] == 240
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    before = snapshot(copy)
    for arguments in (("create", copy, "new"), ("delete", copy, "plain"), ("alter", "--partitions", 2, copy, "plain")):
        result = logstore("topics", *arguments)
        assert (result.code, "by its broker" in result.err) == (3, True)
    assert snapshot(copy) == before


@pytest.mark.parametrize(
    "arguments",
    [("create", "--config", "no.such.setting=1"), ("create", "--config", "segment.bytes=x"),
     ("create", "--config", "x"), ("alter",), ("create", "--partitions", "0")],
)  # fmt: skip
def test_wrong_usage_is_exit_code_2(store: Path, arguments: tuple[str, ...]) -> None:
    before = snapshot(store)
    assert logstore("topics", *arguments, store, "orders").code == 2
    assert snapshot(store) == before


def test_what_is_not_there_is_said(store: Path, tmp_path: Path) -> None:
    for arguments in (
        ("describe", store, "nope"), ("delete", store, "nope"), ("alter", "--partitions", 2, store, "nope"),
        ("list", tmp_path / "nowhere"), ("delete", tmp_path / "nowhere", "orders"),
    ):  # fmt: skip
        assert logstore("topics", *arguments).code == 3
    assert not (tmp_path / "nowhere").exists()


def test_compact_and_retain_know_the_settings_of_a_stores_topics(tmp_path: Path) -> None:
    with library.open(tmp_path / "store") as made:
        small = {"segment.bytes": "1000", "file.delete.delay.ms": "0"}
        made.create_topic("keyed", 1, {**small, "cleanup.policy": "compact"})
        made.create_topic("short", 1, {**small, "retention.bytes": "2000"})
        made.create_topic("plain", 1, small)
        for number in range(60):
            for topic in ("keyed", "short", "plain"):
                made.partition(topic).append([(b"k%d" % (number % 3), b"." * 100)])
    (compacted,) = objects("compact", "--json", tmp_path / "store")
    states = {one["topic"]: one["state"] for one in compacted["partitions"]}
    assert states == {"keyed": "compacted", "short": "left alone", "plain": "left alone"}
    assert logstore("retain", tmp_path / "store").code == 0
    with library.open(tmp_path / "store") as opened:
        assert opened.partition("short").log_start_offset > 0
        assert opened.partition("plain").log_start_offset == 0
        assert opened.partition("keyed").size < opened.partition("plain").size
