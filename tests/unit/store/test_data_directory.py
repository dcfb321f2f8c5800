"""A directory of a store as a broker sees it: marks, checkpoints, and what a real Kafka has left there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.open_logs import from_producer, marker
from helpers.processes import Child, Line
from helpers.stores import MARKER, alarms, checkpoint, contents, ends, fill, is_clean, numbers, values

import logstore
from logstore.errors import LogstoreError
from logstore.fs import LocalFile, LocalFileSystem
from logstore.log import AppendOrigin, FetchIsolation, parse_clean_shutdown, parse_meta_properties
from logstore.names import TopicPartition
from logstore.store.data_directory import SESSION, DataDirectory

FS = LocalFileSystem()
STARTS, POINTS = "log-start-offset-checkpoint", "recovery-point-offset-checkpoint"
CLEANED, WATERMARKS = "cleaner-offset-checkpoint", "replication-offset-checkpoint"
SMALL = {"segment.bytes": "600", "index.interval.bytes": "100"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def kafka(kafka_fixtures: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of what a real broker has left."""
    shutil.copytree(kafka_fixtures / "kafka-4.1.1" / "clean", tmp_path / "kafka")
    yield tmp_path / "kafka"


# ---- marks


def test_the_marks_of_a_log_directory_are_there(place: Path) -> None:
    store = logstore.open(place)
    properties = parse_meta_properties((place / "meta.properties").read_bytes())
    assert properties.version == 1
    assert properties.directory_id is not None
    assert not is_clean(place)
    store.close()
    assert parse_clean_shutdown((place / MARKER).read_bytes()).version == 0
    with logstore.open(place):
        assert parse_meta_properties((place / "meta.properties").read_bytes()) == properties


@pytest.mark.parametrize("mode", ["shared", "exclusive"])
def test_the_marker_is_away_while_anybody_has_it_open(place: Path, mode: str) -> None:
    logstore.open(place).close()
    assert is_clean(place)
    with logstore.open(place, mode=mode):  # type: ignore[arg-type]
        assert not is_clean(place)
        with Child(lambda line: line.tell("up")) as child:
            assert child.hear() == "up"
        assert not is_clean(place)
    assert is_clean(place)


def test_no_directory_of_our_own_is_in_it(place: Path) -> None:
    with logstore.open(place) as store:
        store.create_topic("orders", 2)
        fill(store, "orders", 1)
        assert sorted(one.name for one in place.iterdir() if one.is_dir()) == ["orders-0", "orders-1"]
    own = [one.name for one in place.iterdir() if "logstore" in one.name]
    assert own
    assert all(name.startswith(".logstore-") for name in own)


@pytest.mark.kafka("MGR-16")
def test_what_is_no_partition_is_left_alone(place: Path) -> None:
    for name in ("remote-log-index-cache", "lost+found", "__cluster_metadata-0", "orders-0.abc-stray"):
        (place / name).mkdir(parents=True)
        (place / name / "file").write_text("as it was")
    (place / "orders-7").write_text("a file")
    with logstore.open(place) as store:
        assert store.topics(internal=True) == []
        store.create_topic("orders")
        store.maintain()
    assert (place / "orders-7").read_text() == "a file"
    for name in ("remote-log-index-cache", "lost+found", "__cluster_metadata-0", "orders-0.abc-stray"):
        assert (place / name / "file").read_text() == "as it was"


def test_a_partition_in_two_directories_is_refused_by_name(tmp_path: Path) -> None:
    places = [tmp_path / "a", tmp_path / "b"]
    with logstore.open(places) as store:
        store.create_topic("orders", 2)
    shutil.copytree(places[0] / "orders-0", places[1] / "orders-0")
    with pytest.raises(LogstoreError, match="orders-0") as caught:
        logstore.open(places)
    assert all(str(one) in str(caught.value) for one in places)
    assert all(map(is_clean, places))


def test_directories_are_found_in_any_order_and_none_may_be_missing(tmp_path: Path) -> None:
    places = [tmp_path / name for name in "abc"]
    with logstore.open(places) as store:
        store.create_topic("orders", 3, SMALL)
        for number in range(3):
            fill(store, "orders", 3, number)
    with logstore.open(reversed(places)) as store:
        assert store.paths[0] == places[0]
        assert dict(store.topic("orders").settings) == SMALL
        assert values(store, "orders", 2) == numbers(0, 3)
    before = [contents(one) for one in places]
    with pytest.raises(LogstoreError, match="3 directories"):
        logstore.open(places[:2])
    assert [contents(one) for one in places] == before
    other = tmp_path / "other"
    with logstore.open(other) as store:
        store.create_topic("x")
    with pytest.raises(LogstoreError, match="two stores"):
        logstore.open([*places, other])


def test_a_session_that_nobody_can_read_is_refused(place: Path) -> None:
    with logstore.open(place):
        (place / SESSION).write_bytes(b"7 1")
        with pytest.raises(LogstoreError, match="session"):
            DataDirectory.hold(FS, place, "shared")


# ---- checkpoints


@pytest.mark.kafka("MGR-13")
def test_the_log_start_is_in_the_checkpoint_only_inside_a_segment(place: Path) -> None:
    with logstore.open(place) as store:
        store.create_topic("orders", settings=SMALL)
        fill(store, "orders", 60)
        with store.partition("orders").changing() as log:
            inside, behind = log.segments[2].base_offset + 1, log.segments[4].base_offset
            log.advance_log_start(inside)
            log.delete_before_log_start()
    assert checkpoint(place, STARTS) == {("orders", 0): inside}
    with logstore.open(place) as store, store.partition("orders").changing() as log:
        assert log.log_start_offset == inside
        log.advance_log_start(behind)
        log.delete_before_log_start()
    assert checkpoint(place, STARTS) == {}
    with logstore.open(place) as store:
        assert store.partition("orders").log_start_offset == behind
    assert alarms(place) == []


@pytest.mark.kafka("MGR-12")
@pytest.mark.parametrize("mode", ["shared", "exclusive"])
def test_checkpoints_have_all_logs_of_their_directory_whoever_was_used(tmp_path: Path, mode: str) -> None:
    places = [tmp_path / "a", tmp_path / "b"]
    with logstore.open(places, mode=mode) as store:  # type: ignore[arg-type]
        store.create_topic("orders", 6)
        for number in range(6):
            fill(store, "orders", number, number)
    found = {**ends(places[0]), **ends(places[1])}
    assert found == {("orders", number): number for number in range(6)}
    assert len(ends(places[0])) == 3
    with logstore.open(places, mode=mode) as store:  # type: ignore[arg-type]
        fill(store, "orders", 1, 2, first=2)
    found = {**ends(places[0]), **ends(places[1])}
    assert found == {("orders", number): number + (number == 2) for number in range(6)}
    for one in places:
        assert checkpoint(one, WATERMARKS) == ends(one)
        assert alarms(one) == []


def test_logs_that_nobody_has_opened_are_not_touched_by_closing(place: Path) -> None:
    with logstore.open(place) as store:
        store.create_topic("orders", 3)
        for number in range(3):
            fill(store, "orders", 3, number)
    before = {number: contents(place / f"orders-{number}") for number in range(3)}
    times = {one: one.stat().st_mtime_ns for number in (0, 2) for one in (place / f"orders-{number}").iterdir()}
    with logstore.open(place) as store:
        fill(store, "orders", 1, 1)
    assert {one: one.stat().st_mtime_ns for one in times} == times
    assert [contents(place / f"orders-{number}") == before[number] for number in range(3)] == [True, False, True]
    assert is_clean(place)


def test_a_checkpoint_that_cannot_be_read_says_nothing(place: Path) -> None:
    with logstore.open(place) as store:
        store.create_topic("orders")
        fill(store, "orders", 3)
    for name in (POINTS, STARTS):
        (place / name).write_bytes(b"\xff\n")
    with logstore.open(place) as store:
        assert values(store, "orders") == numbers(0, 3)
    assert ends(place) == {("orders", 0): 3}


def test_indexes_are_complete_though_another_session_vouched_for_them(place: Path) -> None:
    with logstore.open(place) as store:
        store.create_topic("orders")
        fill(store, "orders", 1)
    with logstore.open(place) as store:
        for number in range(100):
            store.partition("orders").append([(b"k", b"%d" % number * 200)])
    assert (place / "orders-0" / "00000000000000000000.index").stat().st_size > 8
    assert alarms(place) == []


def test_a_damaged_log_keeps_the_marker_away_and_is_left_as_it_is(place: Path) -> None:
    with logstore.open(place) as store:
        store.create_topic("orders", 2, SMALL)
        fill(store, "orders", 30)
        fill(store, "orders", 30, 1)
    (place / MARKER).unlink()
    (place / "orders-0" / ".logstore-clean").unlink()
    log = max((place / "orders-0").glob("*.log"))
    content = bytearray(log.read_bytes())
    content[80] ^= 1
    log.write_bytes(content)
    with logstore.open(place) as store:
        fill(store, "orders", 1, 1, first=30)
    assert not is_clean(place)
    assert log.read_bytes() == content
    with logstore.open(place) as store:
        assert values(store, "orders", 1) == numbers(0, 31)


def test_what_a_killed_store_leaves_is_no_clean_directory_of_a_broker(place: Path) -> None:
    def work(line: Line) -> None:
        store = logstore.open(place)
        fill(store, "orders", 30)
        line.tell("up")
        line.wait()

    with logstore.open(place) as store:
        store.create_topic("orders", settings=SMALL)
    with Child(work) as child:
        child.hear()
    assert not is_clean(place)
    assert ends(place) == {("orders", 0): 0}  # so a broker checks all of it
    with logstore.open(place, mode="exclusive") as store:
        assert values(store, "orders") == numbers(0, 30)


# ---- a directory that a real Kafka wrote


def present(place: Path, name: str) -> dict[TopicPartition, int]:
    """What a checkpoint says of the partitions that are there: of some, the copy has no files."""
    return {one: offset for one, offset in checkpoint(place, name).items() if (place / str(one)).is_dir()}


@pytest.mark.parametrize("mode", ["shared", "exclusive"])
def test_a_clean_directory_of_kafka_is_left_as_kafka_left_it(kafka: Path, mode: str) -> None:
    before, names = contents(kafka), (POINTS, STARTS, CLEANED, WATERMARKS)
    offsets = {name: present(kafka, name) for name in names}
    with logstore.open(kafka, mode=mode):  # type: ignore[arg-type]
        assert not is_clean(kafka)
    after = contents(kafka)
    for name in before:
        assert name in names or after[name] == before[name], name
    assert all(name.startswith(".logstore-") or name == ".lock" for name in after if name not in before)
    assert {name: checkpoint(kafka, name) for name in names} == offsets
    assert is_clean(kafka)


@pytest.mark.parametrize("mode", ["shared", "exclusive"])
def test_topics_and_records_of_kafka_are_read_and_appended_to(kafka: Path, mode: str) -> None:
    before, starts, cleaned = (present(kafka, name) for name in (POINTS, STARTS, CLEANED))
    with logstore.open(kafka, mode=mode) as store:  # type: ignore[arg-type]
        found = {one.name: one.partitions for one in store.topics(internal=True)}
        assert found["__consumer_offsets"] == 4
        assert found["plain"] == 1
        assert "__cluster_metadata" not in found
        assert "gone" not in found
        for one in store.partitions():
            if one.name in before:
                assert one.log_end_offset == before[one.name]
            assert one.log_start_offset >= starts.get(one.name, 0)
            offsets = [record.offset for record in one.records()]
            assert offsets == sorted(set(offsets))
            done = one.append([(b"k", b"from us")])
            assert one.get(done.first_offset) is not None
    assert is_clean(kafka)
    assert ends(kafka) == {name: end + 1 for name, end in before.items()}
    assert checkpoint(kafka, STARTS) == starts
    assert checkpoint(kafka, CLEANED) == cleaned
    assert alarms(kafka) == []


@pytest.mark.parametrize("mode", ["shared", "exclusive"])
def test_what_a_killed_kafka_left_is_recovered_and_clean_then(
    kafka_fixtures: Path, tmp_path: Path, mode: str
) -> None:
    place = tmp_path / "kafka"
    shutil.copytree(kafka_fixtures / "kafka-4.1.1" / "killed", place)
    assert not is_clean(place)
    with logstore.open(place, mode=mode) as store:  # type: ignore[arg-type]
        counts = {one.name: sum(1 for _ in one.records()) for one in store.partitions()}
        assert sum(counts.values()) > 0
    assert is_clean(place)
    assert set(ends(place)) == set(counts)
    assert alarms(place) == []


def test_directories_that_kafka_has_deleted_go_by_and_by(kafka: Path) -> None:
    with logstore.open(kafka) as store:
        doomed = [one.name for one in kafka.iterdir() if one.name.endswith("-delete")]
        assert doomed
        store.maintain()
        assert [one.name for one in kafka.iterdir() if one.name.endswith("-delete")] == []


@pytest.mark.kafka("MGR-05")
@pytest.mark.parametrize("mode", ["shared", "exclusive"])
def test_the_marker_has_the_broker_epoch_again_but_where_a_log_could_not_be_closed(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [tmp_path / "a", tmp_path / "b"]
    with logstore.open(places) as store:
        store.create_topic("orders", 4)
    assert epochs(places) == [-1, -1]
    for place in places:
        (place / MARKER).write_text('{"version":0,"brokerEpoch":41}')
    with logstore.open(places, mode=mode) as store:  # type: ignore[arg-type]
        for number in range(4):
            fill(store, "orders", 3, number)
        if mode == "shared":
            with logstore.open(places) as other:
                fill(other, "orders", 1)
    assert epochs(places) == [41, 41]
    store, original = logstore.open(places, mode=mode), LocalFile.sync  # type: ignore[arg-type]

    def fail(file: LocalFile) -> None:
        if file.path.startswith(str(places[1] / "orders")):
            raise OSError(5, "Input/output error", file.path)
        original(file)

    for number in range(4):
        fill(store, "orders", 1, number)
    with monkeypatch.context() as patch:
        patch.setattr(LocalFile, "sync", fail)
        with pytest.raises(OSError, match="Input/output"):
            store.close()
    assert epochs(places) == [41, None]


def epochs(places: list[Path]) -> list[int | None]:
    """The broker epochs in the markers."""
    markers = [place / MARKER for place in places]
    return [parse_clean_shutdown(one.read_bytes()).broker_epoch if one.exists() else None for one in markers]


# ---- transactions to the end of a session


def test_transactions_are_right_in_every_process_and_in_the_files_that_are_left(place: Path) -> None:
    committed = FetchIsolation.TXN_COMMITTED

    def transact(line: Line) -> None:
        with logstore.open(place) as store:
            partition = store.partition("orders")
            for number in range(4):
                partition.append_batch(from_producer(1, 2 * number, 2, transactional=True))
                line.tell(number)
                line.wait()
                origin = AppendOrigin.COORDINATOR
                partition.append_batch(marker(1, commit=number % 2 == 1), origin=origin)
                line.tell(number)
                line.wait()

    with logstore.open(place) as store:
        store.create_topic("orders", settings=SMALL)
        partition, expected = store.partition("orders"), list[bytes]()
        with Child(transact) as child:
            for number in range(4):
                assert child.hear() == number
                assert partition.last_stable_offset == 3 * number
                assert partition.log_end_offset == 3 * number + 2
                assert values(store, "orders", isolation=committed) == expected
                child.say()
                assert child.hear() == number
                if number % 2:
                    expected += [b"1:%d" % (2 * number), b"1:%d" % (2 * number + 1)]
                assert partition.last_stable_offset == 3 * number + 3
                assert values(store, "orders", isolation=committed) == expected
                child.say()
            child.result()
    assert alarms(place) == []
    for mode in ("exclusive", "shared"):
        with logstore.open(place, mode=mode) as store:  # type: ignore[arg-type]
            assert values(store, "orders", isolation=committed) == expected
    assert TopicPartition("orders", 0) in ends(place)
