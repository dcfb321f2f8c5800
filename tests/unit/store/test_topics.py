"""Topics of a store: made, grown, altered, deleted, by one process and seen by the others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.processes import Child, Line
from helpers.stores import MARKER, alarms, contents, fill, is_clean, numbers, values

import logstore
from logstore.config import LogConfig
from logstore.errors import (
    BatchTooLargeError,
    InvalidNameError,
    InvalidPartitionsError,
    LogClosedError,
    LogstoreError,
    TopicExistsError,
    UnknownTopicError,
    UnsupportedFormatError,
)
from logstore.fs import LocalFileSystem
from logstore.log import parse_kafka_uuid, parse_partition_metadata
from logstore.store import Store
from logstore.store.catalog import FILE

SMALL = {"segment.bytes": "600", "index.interval.bytes": "100"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture(params=["shared", "exclusive"])
def store(request: pytest.FixtureRequest, place: Path) -> Iterator[Store]:
    with logstore.open(place, mode=request.param) as found:
        yield found


@pytest.fixture
def two(place: Path) -> Iterator[tuple[Store, Store]]:
    """One store, opened twice: as good as by two processes."""
    with logstore.open(place) as one, logstore.open(place) as other:
        yield one, other


def directories(place: Path) -> list[str]:
    return sorted(one.name for one in place.iterdir() if one.is_dir())


# ---- making


@pytest.mark.kafka("MGR-01")
def test_a_topic_has_its_directories_at_once_and_asking_makes_none(store: Store, place: Path) -> None:
    for ask in (lambda: store.partition("orders"), lambda: store.partitions("orders"), lambda: store.topic("orders")):
        with pytest.raises(UnknownTopicError, match="orders"):
            ask()
    assert not store.has_topic("orders")
    assert directories(place) == []
    topic = store.create_topic("orders", 3, {"retention.ms": "1000"})
    assert directories(place) == ["orders-0", "orders-1", "orders-2"]
    assert store.topics() == [topic] == [store.topic("orders")]
    assert (topic.name, topic.partitions, dict(topic.settings)) == ("orders", 3, {"retention.ms": "1000"})
    for number in (-1, 3):
        with pytest.raises(UnknownTopicError, match="3 partitions"):
            store.partition("orders", number)
    assert [one.name for one in store.partitions("orders")] == [("orders", 0), ("orders", 1), ("orders", 2)]
    assert directories(place) == ["orders-0", "orders-1", "orders-2"]


def test_a_partition_tells_the_id_of_its_topic(store: Store, place: Path) -> None:
    topic = store.create_topic("orders")
    fill(store, "orders", 1)
    found = parse_partition_metadata((place / "orders-0" / "partition.metadata").read_bytes())
    assert found.topic_id == topic.topic_id
    written = json.loads((place / FILE).read_bytes())
    assert parse_kafka_uuid(written["topics"]["orders"]["id"]) == topic.topic_id


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "a/b", "ä", "x" * 250, "__cluster_metadata"])
def test_names_that_are_none_are_refused(store: Store, place: Path, name: str) -> None:
    with pytest.raises(InvalidNameError):
        store.create_topic(name)
    assert directories(place) == []


@pytest.mark.kafka("MGR-15")
def test_the_longest_name_can_be_made_and_deleted(store: Store, place: Path) -> None:
    name = "x" * 249
    store.create_topic(name)
    fill(store, name, 1)
    store.delete_topic(name)
    (left,) = directories(place)
    assert left.endswith("-delete")
    assert len(left) <= 255
    assert not store.has_topic(name)


def test_names_that_collide_in_metrics_are_refused(store: Store) -> None:
    store.create_topic("a.b")
    with pytest.raises(InvalidNameError, match=r"'a\.b'"):
        store.create_topic("a_b")
    with pytest.raises(TopicExistsError):
        store.create_topic("a.b")
    store.create_topic("ab")


def test_counts_that_are_none_are_refused(store: Store, place: Path) -> None:
    for count in (0, -1, 100_001):
        with pytest.raises(InvalidPartitionsError):
            store.create_topic("orders", count)
    assert directories(place) == []
    assert store.topics() == []


def test_settings_that_are_none_are_refused(store: Store, place: Path) -> None:
    for settings in ({"no.such": "1"}, {"retention.ms": "soon"}, {"cleanup.policy": "keep"}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            store.create_topic("orders", settings=settings)
    assert directories(place) == []


def test_one_that_is_there_may_be_asked_for_again(store: Store) -> None:
    topic = store.create_topic("orders", 2)
    with pytest.raises(TopicExistsError, match="orders"):
        store.create_topic("orders", 2)
    assert store.create_topic("orders", 5, exist_ok=True) == topic


def test_internal_topics_have_kafkas_settings_and_are_shown_on_demand(store: Store) -> None:
    store.create_topic("__consumer_offsets", 2)
    store.create_topic("orders")
    assert [one.name for one in store.topics()] == ["orders"]
    assert [one.name for one in store.topics(internal=True)] == ["__consumer_offsets", "orders"]
    config = store.partition("__consumer_offsets", 1).config
    assert config.compacted
    assert config.segment_bytes == 104857600


@pytest.mark.kafka("MGR-02")
def test_partitions_go_to_the_directory_with_the_fewest(tmp_path: Path) -> None:
    places = [tmp_path / name for name in "abc"]
    with logstore.open(places) as store:
        for number in range(20):
            store.create_topic(f"topic-{number}")
            counts = [len(directories(place)) for place in places]
            assert max(counts) - min(counts) <= 1
            fill(store, f"topic-{number}", number)
    with logstore.open(places) as store:
        for number in range(20):
            assert values(store, f"topic-{number}") == numbers(0, number)


@pytest.mark.kafka("MGR-03")
def test_where_one_directory_takes_no_partition_the_next_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [tmp_path / name for name in "abc"]
    original = LocalFileSystem.make_directory

    def make(fs: LocalFileSystem, path: Path) -> None:
        if Path(path).parent in places[:2]:
            raise OSError(28, "No space left on device", str(path))
        original(fs, path)

    with logstore.open(places) as store:
        with monkeypatch.context() as patch:
            patch.setattr(LocalFileSystem, "make_directory", make)
            store.create_topic("orders")
        assert [directories(place) for place in places] == [[], [], ["orders-0"]]
        fill(store, "orders", 3)
        assert values(store, "orders") == numbers(0, 3)


# ---- growing and altering


def test_partitions_are_added_and_never_taken_away(store: Store, place: Path) -> None:
    store.create_topic("orders", 2)
    fill(store, "orders", 3, 1)
    assert store.grow_topic("orders", 4).partitions == 4
    assert directories(place) == [f"orders-{number}" for number in range(4)]
    assert values(store, "orders", 1) == numbers(0, 3)
    fill(store, "orders", 1, 3)
    for count in (4, 3, 0):
        with pytest.raises(InvalidPartitionsError):
            store.grow_topic("orders", count)
    with pytest.raises(UnknownTopicError):
        store.grow_topic("no", 2)
    assert len(store.partitions("orders")) == 4


def test_settings_are_changed_and_unset(store: Store) -> None:
    store.create_topic("orders", settings={"max.message.bytes": "1000"})
    partition = store.partition("orders")
    with pytest.raises(BatchTooLargeError):
        partition.append([(None, bytes(2000))])
    assert dict(store.alter_topic("orders", {"retention.ms": "5"}).settings) == {
        "max.message.bytes": "1000", "retention.ms": "5",
    }  # fmt: skip
    store.alter_topic("orders", {"max.message.bytes": None})
    partition.append([(None, bytes(2000))])
    assert partition.config.retention_ms == 5
    with pytest.raises(ValueError, match=r"no\.such"):
        store.alter_topic("orders", {"no.such": "1"})
    assert "no.such" not in store.topic("orders").settings
    with pytest.raises(UnknownTopicError):
        store.alter_topic("no", {})


@pytest.mark.kafka("MGR-18")
def test_settings_that_are_changed_while_a_log_is_opened_count(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with logstore.open(place) as store, logstore.open(place) as other:
        store.create_topic("orders")
        original = Store._open_log

        def open_late(*arguments: object) -> object:
            found = original(*arguments)  # type: ignore[arg-type]
            other.alter_topic("orders", {"max.message.bytes": "100"})
            return found

        with monkeypatch.context() as patch:
            patch.setattr(Store, "_open_log", open_late)
            store.partition("orders").append([(b"k", b"v")])
        with pytest.raises(BatchTooLargeError):
            store.partition("orders").append([(None, bytes(200))])


# ---- deleting


@pytest.mark.kafka("MGR-14", "MGR-19")
def test_a_deleted_topic_is_gone_at_once_and_its_files_after_a_while(store: Store, place: Path) -> None:
    store.create_topic("orders", 2)
    store.create_topic("other")
    fill(store, "orders", 3)
    partition = store.partition("orders")
    reading = partition.records()
    assert next(reading).value == b"0"
    store.delete_topic("orders")
    assert not store.has_topic("orders")
    left = directories(place)
    assert left[-1] == "other-0"
    assert [name.split(".")[0] for name in left[:-1]] == ["orders-0", "orders-1"]
    assert all(name.endswith("-delete") for name in left[:-1])
    with pytest.raises(LogClosedError):
        partition.append([(b"k", b"v")])
    with pytest.raises(UnknownTopicError):
        store.delete_topic("orders")
    store.maintain()
    assert directories(place) == left
    store.config = LogConfig(file_delete_delay_ms=0)
    store.maintain()
    store.maintain()
    assert directories(place) == ["other-0"]
    with pytest.raises(LogClosedError):
        list(reading)


def test_a_topic_of_the_same_name_has_nothing_of_the_one_before(place: Path) -> None:
    with logstore.open(place) as store:
        store.create_topic("orders", settings=SMALL)
        fill(store, "orders", 60)
        with store.partition("orders").changing() as log:
            log.advance_log_start(40)
    assert (place / "log-start-offset-checkpoint").exists()
    with logstore.open(place) as store, logstore.open(place) as other:
        old = other.partition("orders")
        assert old.log_start_offset == 40
        store.delete_topic("orders")
        store.create_topic("orders")
        with logstore.open(place) as late:
            for one in (store, other, late):
                assert one.partition("orders").log_start_offset == 0
                assert one.partition("orders").log_end_offset == 0
        with pytest.raises(LogClosedError):
            old.append([(b"k", b"v")])
        fill(other, "orders", 2)
        assert values(store, "orders") == numbers(0, 2)
    with logstore.open(place) as store:
        assert values(store, "orders") == numbers(0, 2)
    assert alarms(place) == []


def test_what_checkpoints_say_of_directories_that_somebody_removed_does_not_count(place: Path) -> None:
    with logstore.open(place) as store:
        store.create_topic("other")
    (place / "log-start-offset-checkpoint").write_text("0\n1\norders 0 40\n")
    (place / "recovery-point-offset-checkpoint").write_text("0\n2\norders 0 60\nother 0 0\n")
    with logstore.open(place) as store:
        store.create_topic("orders")
        assert store.partition("orders").log_start_offset == 0
        fill(store, "orders", 2)
    with logstore.open(place) as store:
        assert values(store, "orders") == numbers(0, 2)


# ---- other processes


def test_what_one_does_the_others_see(two: tuple[Store, Store]) -> None:
    one, other = two
    one.create_topic("orders", settings={"max.message.bytes": "1000"})
    assert other.topic("orders") == one.topic("orders")
    partition = other.partition("orders")
    with pytest.raises(BatchTooLargeError):
        partition.append([(None, bytes(2000))])
    one.alter_topic("orders", {"max.message.bytes": "5000"})
    partition.append([(None, bytes(2000))])
    one.grow_topic("orders", 3)
    assert other.partition("orders", 2).log_end_offset == 0
    assert other.partition("orders") is partition
    one.delete_topic("orders")
    assert not other.has_topic("orders")
    for use in (
        lambda: partition.append([(b"k", b"v")]), lambda: partition.log_end_offset, lambda: list(partition.records()),
        partition.flush,
    ):  # fmt: skip
        with pytest.raises(LogClosedError, match="deleted"):
            use()
    with pytest.raises(LogClosedError), partition.changing():
        pass
    one.create_topic("orders")
    fill(one, "orders", 2)
    assert values(other, "orders") == numbers(0, 2)
    with pytest.raises(LogClosedError):
        partition.append([(b"k", b"v")])


def test_a_log_that_is_opened_while_its_topic_is_made_anew_is_not_taken_for_the_old_one(
    two: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two
    one.create_topic("orders")
    old, original = other.partition("orders"), LocalFileSystem.open_lock

    def open_late(fs: LocalFileSystem, path: Path) -> object:
        if Path(path).parent == old.directory:
            monkeypatch.setattr(LocalFileSystem, "open_lock", original)
            one.delete_topic("orders")
            one.create_topic("orders")
        return original(fs, path)

    monkeypatch.setattr(LocalFileSystem, "open_lock", open_late)
    with pytest.raises(LogClosedError, match="deleted"):
        old.append([(b"k", b"v")])
    fill(one, "orders", 2)
    assert values(other, "orders") == numbers(0, 2)


def test_only_one_of_several_makes_a_topic(place: Path) -> None:
    def make(line: Line) -> list[str]:
        made = []
        with logstore.open(place) as store:
            line.tell("ready")
            line.wait()
            for number in range(15):
                try:
                    store.create_topic(f"topic-{number}", 2)
                    made.append(f"topic-{number}")
                except TopicExistsError:
                    pass
        return made

    children = [Child(make) for _ in range(3)]
    for child in children:
        child.hear()
    for child in children:
        child.say()
    made = [name for child in children for name in child.result()]
    assert sorted(made) == sorted(f"topic-{number}" for number in range(15))
    with logstore.open(place) as store:
        assert [one.partitions for one in store.topics()] == [2] * 15


def test_processes_that_are_killed_while_they_change_topics_leave_whole_ones(place: Path) -> None:
    def change(line: Line) -> None:
        store = logstore.open(place)
        number = 0
        while True:
            number += 1
            name = f"topic-{number % 3}"
            line.tell(number)
            if store.has_topic(name):
                store.delete_topic(name)
            else:
                store.create_topic(name, 4)
                store.partition(name, 3).append([(b"k", b"v")])

    with logstore.open(place) as store:
        for round_number in range(12):
            with Child(change) as child:
                for _ in range(round_number + 1):
                    child.hear()
            topics = store.topics()
            found = [name for name in directories(place) if not name.endswith("-delete")]
            assert found == sorted(f"{one.name}-{number}" for one in topics for number in range(4))
            for one in store.partitions():
                one.append([(b"k", b"v")])
    assert is_clean(place)
    assert alarms(place) == []


def test_a_partition_of_a_broker_that_is_not_here_is_not_made(place: Path) -> None:
    for number in (1, 4):
        (place / f"orders-{number}").mkdir(parents=True)
    (place / "notes-1").write_text("a file")
    with logstore.open(place) as store:
        assert [(one.name, one.partitions, one.topic_id) for one in store.topics()] == [("orders", 5, None)]
        assert [one.name.partition for one in store.partitions()] == [1, 4]
        with pytest.raises(UnknownTopicError, match="other brokers"):
            store.partition("orders", 0)
        fill(store, "orders", 2, 4)
        store.create_topic("own")
    with logstore.open(place) as store:
        assert values(store, "orders", 4) == numbers(0, 2)
    assert directories(place) == ["orders-1", "orders-4", "own-0"]


# ---- the list of topics on disk


def test_a_store_of_a_newer_format_is_refused_and_left_as_it_was(place: Path) -> None:
    with logstore.open(place) as store:
        store.create_topic("orders")
    content = json.loads((place / FILE).read_bytes())
    (place / FILE).write_text(json.dumps({**content, "version": 2}))
    before = contents(place)
    with pytest.raises(UnsupportedFormatError, match="newer logstore"):
        logstore.open(place)
    assert contents(place) == before


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"7", b"\xff", b"null", b'{"version": 1}', b'{"version": "x", "topics": {}, "deleting": []}',
        b'{"version": 1, "topics": {"a b": {}}, "deleting": []}', b"[" * 100_000,
        b'{"version": 1, "topics": {"a": {"partitions": 0, "id": null, "settings": {}}}, "deleting": []}',
        b'{"version": 1, "topics": {"a": {"partitions": 1e999, "id": null, "settings": {}}}, "deleting": []}',
        b'{"version": 1, "topics": {"a": {"partitions": 1, "id": "x", "settings": {}}}, "deleting": []}',
        b'{"version": 1, "topics": {"a": {"partitions": 1, "id": null, "settings": []}}, "deleting": []}',
        b'{"version": 1, "topics": {}, "deleting": 7}', b'{"version": 1, "topics": [], "deleting": []}',
    ],
)  # fmt: skip
def test_a_damaged_list_is_told_with_a_remedy_and_nothing_is_changed(place: Path, content: bytes) -> None:
    with logstore.open(place) as store:
        store.create_topic("orders", 2)
        fill(store, "orders", 3)
    (place / FILE).write_bytes(content)
    before = contents(place)
    with pytest.raises(LogstoreError, match="move it away") as caught:
        logstore.open(place)
    assert caught.value.path == str(place / FILE)
    assert contents(place) == before
    (place / FILE).rename(place / ".away")
    with logstore.open(place) as store:
        assert values(store, "orders") == numbers(0, 3)
        assert store.topic("orders").partitions == 2


@pytest.mark.parametrize("step", range(1, 14))
def test_a_crash_at_any_step_of_a_change_leaves_a_whole_topic_or_none(
    place: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with logstore.open(place) as store:
        store.create_topic("kept", 2)
        fill(store, "kept", 2)

    def work(line: Line) -> None:
        count = 0

        def counted(name: str) -> None:
            original = getattr(LocalFileSystem, name)

            def act(*arguments: object) -> object:
                nonlocal count
                count += 1
                if count == step:
                    line.wait()  # for ever
                return original(*arguments)

            monkeypatch.setattr(LocalFileSystem, name, act)

        store = logstore.open(place)
        for name in ("make_directory", "rename", "sync_directory"):
            counted(name)
        line.tell("begins")
        store.create_topic("made", 3)
        store.delete_topic("kept")

    watching = logstore.open(place)
    with Child(work) as child:
        child.hear()
        child._process.join(0.15)
    for store in (watching, logstore.open(place)):
        names = [one.name for one in store.topics() if one.name != "more"]
        assert names in (["kept"], ["kept", "made"], ["made"])
        found = [name for name in directories(place) if not name.endswith("-delete")]
        assert found == [f"{one.name}-{number}" for one in store.topics() for number in range(one.partitions)]
        if "kept" in names:
            assert values(store, "kept") == numbers(0, 2)
        store.create_topic("more", exist_ok=True)
        store.close()
    assert (place / MARKER).exists()
