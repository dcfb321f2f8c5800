"""A store as its owner has it: partitions, what is due now and then, the two modes, forks, closing, many partitions."""

from __future__ import annotations

import gc
import os
import resource
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers.processes import Child, Line, run
from helpers.stores import alarms, ends, fill, is_clean, numbers, values

import logstore
from logstore.config import LogConfig
from logstore.errors import LogClosedError, LogLockedError, StoreClosedError
from logstore.fs import LocalFile, LocalFileSystem
from logstore.log import Log, SharedLog
from logstore.store import Store
from logstore.store.partition import LogPool, Partition, open_logs_max
from logstore.testing import ManualClock

HOUR = 3_600_000
SMALL = {"segment.bytes": "600", "index.interval.bytes": "100"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture(params=["shared", "exclusive"])
def store(request: pytest.FixtureRequest, place: Path) -> Iterator[Store]:
    with logstore.open(place, mode=request.param) as found:
        yield found


# ---- partitions


def test_a_partition_appends_and_reads_as_a_log(store: Store) -> None:
    store.create_topic("orders", 2)
    partition = store.partition("orders", 1)
    assert partition is store.partition("orders", 1)
    done = partition.append([(b"k", b"0"), (b"k", b"1")], durability="always")
    assert (done.first_offset, done.last_offset) == (0, 1)
    assert partition.append_later([(b"k", b"2")]).result() == (2, 2)
    partition.flush()
    assert (partition.log_start_offset, partition.log_end_offset, partition.last_stable_offset) == (0, 3, 3)
    assert [record.value for record in partition.records(1)] == numbers(1, 3)
    record = partition.get(2)
    assert record is not None
    assert record.value == b"2"
    assert len(partition.read(0)) == len(bytes(partition.fetch(0).data)) == partition.size
    assert partition.segments[0].size == partition.size
    found = partition.offset_for_time(0)
    assert found is not None
    assert found.offset == 0
    with partition.changing() as log:
        assert isinstance(log, Log)
        log.roll()
    assert len(partition.segments) == 2
    with partition.using() as log:
        assert isinstance(log, SharedLog if store.mode == "shared" else Log)
    assert "orders-1" in repr(partition)


def test_records_are_there_when_it_is_opened_again(place: Path) -> None:
    for number, mode in enumerate(("shared", "exclusive", "shared", "exclusive")):
        with logstore.open(place, mode=mode) as store:  # type: ignore[arg-type]
            store.create_topic("orders", exist_ok=True)
            fill(store, "orders", 5, first=5 * number)
            assert values(store, "orders") == numbers(0, 5 * number + 5)
        assert is_clean(place)
    assert alarms(place) == []


def test_no_such_mode_and_no_such_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mode"):
        logstore.open(tmp_path / "store", mode="both")  # type: ignore[arg-type]
    for paths in ([], [tmp_path, tmp_path / "."], [tmp_path / "a", tmp_path / "b" / ".." / "a"]):
        with pytest.raises(ValueError, match="each of them once"):
            logstore.open(paths)
    with pytest.raises((FileExistsError, NotADirectoryError)):
        (tmp_path / "file").write_text("")
        logstore.open(tmp_path / "file")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file"]


@pytest.mark.kafka("MGR-12")
def test_a_path_may_be_relative_or_end_in_a_slash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with logstore.open("store/") as store:
        monkeypatch.chdir(tmp_path / "elsewhere")
        store.create_topic("orders", 2)
        fill(store, "orders", 3, 1)
        assert values(store, "orders", 1) == numbers(0, 3)
    assert ends(tmp_path / "store") == {("orders", 0): 0, ("orders", 1): 3}


# ---- what is due now and then


@pytest.mark.kafka("MGR-08")
@pytest.mark.parametrize("mode", ["shared", "exclusive"])
def test_records_that_are_too_old_go_and_appends_go_on(place: Path, mode: str) -> None:
    clock = ManualClock(time.time_ns() // 1_000_000)
    with logstore.open(place, mode=mode, clock=clock) as store:  # type: ignore[arg-type]
        store.create_topic("orders", settings={**SMALL, "retention.ms": str(HOUR), "file.delete.delay.ms": "0"})
        partition = store.partition("orders")
        for number in range(200):
            partition.append([(b"k", b"%d" % number, -1)])  # without a timestamp: when the file was changed counts
        assert store.retain() == {}
        names = {one.suffix for one in (place / "orders-0").iterdir() if one.name.startswith("0000")}
        assert names <= {".log", ".index", ".timeindex", ".snapshot"}
        clock.advance(2 * HOUR)
        plan = store.retain()["orders", 0]
        assert len(plan.going) > 10
        store.maintain()
        assert len(partition.segments) == 1
        assert (partition.log_start_offset, partition.log_end_offset) == (200, 200)
        assert list(partition.records()) == []
        assert list((place / "orders-0").glob("*.deleted")) == []
        partition.append([(b"k", b"new")])
        assert store.retain() == {}
        assert values(store, "orders") == [b"new"]
    assert alarms(place) == []


@pytest.mark.kafka("MGR-10")
@pytest.mark.parametrize("policy", ["compact", "compact,delete"])
def test_retention_leaves_compacted_topics_what_it_may_not_take(place: Path, policy: str) -> None:
    clock = ManualClock(time.time_ns() // 1_000_000)
    with logstore.open(place, clock=clock) as store:
        store.create_topic("orders", settings={**SMALL, "cleanup.policy": policy, "retention.ms": str(HOUR)})
        fill(store, "orders", 60)
        clock.advance(2 * HOUR)
        assert bool(store.retain()) == (policy == "compact,delete")


def test_compaction_keeps_the_newest_of_each_key(store: Store) -> None:
    store.create_topic("keyed", settings={**SMALL, "cleanup.policy": "compact"})
    store.create_topic("plain", settings=SMALL)
    for number in range(100):
        store.partition("keyed").append([(b"%d" % (number % 4), b"%d" % number)])
    fill(store, "plain", 50)
    done = store.compact()
    assert list(done) == [("keyed", 0)]
    found = {record.key: record.value for record in store.partition("keyed").records()}
    assert found == {b"%d" % key: b"%d" % (96 + key) for key in range(4)}
    assert store.partition("keyed").size < 2000
    assert len(values(store, "plain")) == 50


def test_what_is_not_dirty_enough_is_left_alone_on_demand(store: Store) -> None:
    store.create_topic("keyed", settings={**SMALL, "cleanup.policy": "compact"})
    partition = store.partition("keyed")
    for number in range(100):
        partition.append([(b"%d" % (number % 4), b"%d" % number)])
    assert list(store.compact(only_due=True)) == [("keyed", 0)]
    assert store.compact(only_due=True) == {}
    partition.append([(b"0", b"new")])
    assert store.compact(only_due=True) == {}
    assert list(store.compact()) == [("keyed", 0)]


@pytest.mark.parametrize("mode", ["shared", "exclusive"])
def test_after_a_crash_all_logs_are_put_in_order_by_some_threads(place: Path, mode: str) -> None:
    def work(line: Line) -> None:
        store = logstore.open(place, mode=mode)  # type: ignore[arg-type]
        store.create_topic("orders", 10, SMALL)
        for number in range(10):
            fill(store, "orders", 30, number)
        line.tell("up")
        line.wait()

    with Child(work) as child:
        child.hear()
    for number in range(10):
        with max((place / f"orders-{number}").glob("*.log")).open("ab") as file:
            file.write(b"torn")
    damaged = min((place / "orders-3").glob("*.log"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    (place / "orders-3" / ".logstore-state").unlink()
    with logstore.open(place, mode=mode) as store:  # type: ignore[arg-type]
        assert list(store.recover(threads=4)) == [("orders", 3)]
        torn = [one for one in place.glob("orders-*/*.log") if one.read_bytes().endswith(b"torn")]
        assert [one.parent.name for one in torn] == ["orders-3"]
        assert values(store, "orders", 4) == numbers(0, 30)
    assert not is_clean(place)
    shutil.rmtree(place / "orders-3")
    logstore.open(place).close()
    with logstore.open(place, mode=mode) as store:  # type: ignore[arg-type]
        assert store.recover() == {}


def test_a_topic_that_is_deleted_meanwhile_stops_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock(time.time_ns() // 1_000_000)
    with logstore.open(place, clock=clock) as store, logstore.open(place, clock=clock) as other:
        for name in ("a", "b", "c"):
            store.create_topic(name, settings={**SMALL, "retention.ms": "1000", "cleanup.policy": "compact,delete"})
            fill(store, name, 40)
        clock.advance(HOUR)
        original = Store.partitions

        def look(store: Store, topic: str | None = None) -> list[Partition]:
            found = original(store, topic)
            if other.has_topic("b"):
                other.delete_topic("b")
            return found

        monkeypatch.setattr(Store, "partitions", look)
        assert sorted(name.topic for name in store.retain()) == ["a", "c"]
        assert sorted(name.topic for name in store.compact()) == ["a", "c"]


@pytest.mark.parametrize("mode", ["shared", "exclusive"])
def test_flushes_by_time_are_done_when_they_are_due(
    place: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock(1_700_000_000_000)
    config = LogConfig(durability="interval", flush_ms=1000)
    with logstore.open(place, mode=mode, config=config, clock=clock) as store:  # type: ignore[arg-type]
        store.create_topic("orders")
        store.partition("orders").append([(b"k", b"v")])
        done: list[str] = []
        original = LocalFile.sync
        monkeypatch.setattr(LocalFile, "sync", lambda file: (done.append(file.path), original(file))[-1])
        store.maintain()
        assert done == []
        clock.advance(1500)
        store.maintain()
        assert [Path(one).suffix for one in done] == [".log"]


# ---- the two modes, and brokers


def hold_as_a_broker(place: Path) -> Callable[[Line], None]:
    def hold(line: Line) -> None:
        import fcntl

        with (place / ".lock").open("a") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            line.tell("held")
            line.wait()

    return hold


def test_a_store_that_a_broker_has_is_refused_in_both_modes(place: Path) -> None:
    logstore.open(place).close()
    with Child(hold_as_a_broker(place)) as broker:
        broker.hear()
        for mode in ("shared", "exclusive"):
            with pytest.raises(LogLockedError, match="broker"):
                logstore.open(place, mode=mode)  # type: ignore[arg-type]
    assert is_clean(place)
    logstore.open(place).close()


@pytest.mark.parametrize("mode", ["shared", "exclusive"])
def test_a_broker_is_kept_out(place: Path, mode: str) -> None:
    store = logstore.open(place, mode=mode)  # type: ignore[arg-type]
    with Child(hold_as_a_broker(place)) as broker, pytest.raises(AssertionError, match="BlockingIOError"):
        broker.hear()
    store.close()
    with Child(hold_as_a_broker(place)) as broker:
        assert broker.hear() == "held"


@pytest.mark.kafka("MGR-07")
def test_one_that_is_exclusive_keeps_all_others_out_until_it_is_closed(place: Path) -> None:
    def opened(mode: str) -> Callable[[Line], str]:
        def work(line: Line) -> str:
            try:
                logstore.open(place, mode=mode).close()  # type: ignore[arg-type]
            except LogLockedError:
                return "locked"
            return "open"

        return work

    with logstore.open(place, mode="exclusive"):
        assert run(opened("exclusive")) == "locked"
        assert run(opened("shared")) == "locked"
    with logstore.open(place):
        assert run(opened("exclusive")) == "locked"
        assert run(opened("shared")) == "open"
        assert run(opened("exclusive")) == "locked"  # the end of the second one lets go of its lock alone
    assert run(opened("exclusive")) == "open"


def test_a_second_try_in_one_process_does_not_end_its_lock(place: Path) -> None:
    with logstore.open(place, mode="exclusive"):
        for mode in ("shared", "exclusive"):
            with pytest.raises(LogLockedError):
                logstore.open(place, mode=mode)  # type: ignore[arg-type]
        with Child(hold_as_a_broker(place)) as broker, pytest.raises(AssertionError, match="BlockingIOError"):
            broker.hear()


def test_a_store_that_could_not_be_opened_is_as_it_was(tmp_path: Path) -> None:
    places = [tmp_path / "a", tmp_path / "b"]
    with logstore.open(places) as store:
        store.create_topic("orders", 2)
    with Child(hold_as_a_broker(places[1])) as broker:
        broker.hear()
        for mode in ("shared", "exclusive"):
            with pytest.raises(LogLockedError):
                logstore.open(places, mode=mode)  # type: ignore[arg-type]
            assert is_clean(places[0])
    with logstore.open(places) as store:
        assert store.partition("orders", 1).log_end_offset == 0


# ---- forks


def test_a_store_of_the_parent_is_refused_in_a_child_with_a_remedy(store: Store, place: Path) -> None:
    store.create_topic("orders")
    fill(store, "orders", 3)
    partition = store.partition("orders")

    def use(line: Line) -> list[str]:
        found = []
        for work in (
            lambda: store.topics(), lambda: store.create_topic("other"), lambda: store.partition("orders"),
            lambda: partition.append([(b"k", b"v")]), lambda: partition.log_end_offset, store.retain,
            lambda: next(partition.records()), store.maintain,
        ):  # fmt: skip
            with pytest.raises(StoreClosedError, match="after the fork") as caught:
                work()
            found.append(str(caught.value))
        store.close()
        return found

    assert len(run(use)) == 8
    # And nothing has happened to the parent's.
    assert partition.append([(b"k", b"3")]).first_offset == 3
    assert not is_clean(place)
    with Child(hold_as_a_broker(place)) as broker, pytest.raises(AssertionError, match="BlockingIOError"):
        broker.hear()


def test_a_child_opens_the_store_again_beside_its_parent(place: Path) -> None:
    with logstore.open(place) as store:
        store.create_topic("orders")
        fill(store, "orders", 3)

        def use(line: Line) -> int:
            with logstore.open(place) as mine:
                fill(mine, "orders", 3, first=3)
                return mine.partition("orders").log_end_offset

        assert run(use) == 6
        assert not is_clean(place)
        assert values(store, "orders") == numbers(0, 6)
    assert is_clean(place)


def test_a_fork_while_threads_are_at_work_is_no_trap(place: Path) -> None:
    with logstore.open(place) as store, ThreadPoolExecutor(2) as threads:
        store.create_topic("orders")
        partition, over = store.partition("orders"), threading.Event()

        def work() -> None:
            while not over.is_set():
                partition.append([(b"k", b"v")])

        working = [threads.submit(work) for _ in range(2)]
        for _ in range(10):
            pid = os.fork()
            if pid == 0:
                try:
                    partition.append([(b"k", b"v")])
                except StoreClosedError:
                    store.close()
                    os._exit(7)
                os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        over.set()
        for future in working:
            future.result(10)
        assert partition.log_end_offset == len(values(store, "orders"))
    assert alarms(place) == []


# ---- closing


def test_a_closed_store_says_so(store: Store, place: Path) -> None:
    store.create_topic("orders")
    partition = store.partition("orders")
    reading = (partition.append([(b"k", b"v")]), partition.records())[1]
    store.close()
    store.close()
    for use in (
        store.topics, store.partitions, store.retain, store.compact, store.maintain, store.check_open, partition.flush,
        lambda: store.create_topic("x"), lambda: store.delete_topic("orders"), lambda: partition.append([(b"k", b"v")]),
        lambda: list(reading), lambda: store.partition("orders"), lambda: store.grow_topic("orders", 9),
        lambda: store.alter_topic("orders", {}), lambda: partition.config,
    ):  # fmt: skip
        with pytest.raises(StoreClosedError, match="closed"):
            use()
    assert repr(store).endswith("closed>")
    assert is_clean(place)


def test_the_last_to_close_leaves_it_as_a_broker_does(place: Path) -> None:
    with logstore.open(place) as one:
        one.create_topic("orders", 3)
        with logstore.open(place) as other:
            fill(one, "orders", 4, 0)
            fill(other, "orders", 5, 1)
        assert not is_clean(place)
        fill(one, "orders", 1, 0, first=4)
    assert is_clean(place)
    assert ends(place) == {("orders", 0): 5, ("orders", 1): 5, ("orders", 2): 0}
    assert alarms(place) == []


def test_two_that_close_at_once_leave_it_clean(place: Path) -> None:
    def work(line: Line) -> None:
        store = logstore.open(place)
        store.partition("orders").append([(b"k", b"v")])
        line.tell("ready")
        line.wait()
        store.close()

    with logstore.open(place) as store:
        store.create_topic("orders")
    for _ in range(8):
        children = [Child(work) for _ in range(3)]
        for child in children:
            child.hear()
        assert not is_clean(place)
        for child in children:
            child.say()
        for child in children:
            child.result()
        assert is_clean(place)
    assert ends(place) == {("orders", 0): 24}
    assert alarms(place) == []


def test_after_a_kill_the_next_one_to_close_leaves_it_clean(place: Path) -> None:
    def work(line: Line) -> None:
        store = logstore.open(place)
        store.create_topic("orders", 2, SMALL)
        fill(store, "orders", 30)
        line.tell("ready")
        line.wait()

    with Child(work) as child:
        child.hear()
    assert not is_clean(place)
    with (place / "orders-0" / "00000000000000000000.log").open("ab"):
        pass
    with logstore.open(place) as store:
        assert values(store, "orders") == numbers(0, 30)
    assert is_clean(place)
    assert ends(place) == {("orders", 0): 30, ("orders", 1): 0}
    assert alarms(place) == []


@pytest.mark.kafka("MGR-21")
@pytest.mark.parametrize("mode", ["shared", "exclusive"])
def test_where_one_log_cannot_be_completed_no_marker_is_left_but_all_others_are_closed(
    place: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = logstore.open(place, mode=mode)  # type: ignore[arg-type]
    store.create_topic("orders", 4)
    for number in range(4):
        fill(store, "orders", 3, number)
    original = LocalFile.sync

    def fail(file: LocalFile) -> None:
        if "orders-1/" in file.path:
            raise OSError(5, "Input/output error", file.path)
        original(file)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFile, "sync", fail)
        with pytest.raises(OSError, match="Input/output"):
            store.close()
    assert not is_clean(place)
    assert [number for number in range(4) if not (place / f"orders-{number}" / ".logstore-clean").exists()] == [1]
    with logstore.open(place, mode="exclusive") as store:  # and nobody has a lock on it
        assert values(store, "orders", 1) == numbers(0, 3)
    assert is_clean(place)
    assert alarms(place) == []


@pytest.mark.parametrize("mode", ["shared", "exclusive"])
def test_a_sync_that_has_failed_is_not_forgotten_at_the_end(
    place: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = logstore.open(place, mode=mode)  # type: ignore[arg-type]
    store.create_topic("orders")
    fill(store, "orders", 3)

    def fail(file: LocalFile) -> None:
        raise OSError(5, "Input/output error", file.path)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFile, "sync", fail)
        with pytest.raises(OSError, match="Input/output"):
            store.partition("orders").append([(b"k", b"v")], durability="always")
    if mode == "shared":
        store.close()
    else:
        with pytest.raises(LogClosedError):
            store.close()
    assert not is_clean(place)


def test_closing_a_store_that_threads_use_gives_clear_errors(store: Store) -> None:
    store.create_topic("orders")
    partition = store.partition("orders")
    partition.append([(b"k", b"v")])

    def use(work: Callable[[], object]) -> None:
        while True:
            work()

    works = (lambda: partition.append([(b"k", b"v")]), lambda: list(partition.records()), lambda: partition.get(0))
    with ThreadPoolExecutor(3) as threads:
        using = [threads.submit(use, work) for work in works]
        time.sleep(0.03)
        store.close()
        for future in using:
            with pytest.raises((StoreClosedError, LogClosedError)):
                future.result(10)


def test_descriptors_are_given_back(tmp_path: Path) -> None:
    def count() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    def use(number: int) -> None:
        mode = "exclusive" if number % 2 else "shared"
        with logstore.open([tmp_path / "a", tmp_path / "b"], mode=mode) as store:  # type: ignore[arg-type]
            store.create_topic("orders", 4, exist_ok=True)
            for partition in range(4):
                fill(store, "orders", 3, partition)
                values(store, "orders", partition)
        with pytest.raises(ValueError, match="mode"):
            logstore.open(tmp_path / "a", mode="no")  # type: ignore[arg-type]

    use(0)
    before = count()
    for number in range(4):
        use(number)
    assert count() == before


# ---- many partitions


def test_logs_that_are_used_stay_open_and_others_give_way(place: Path) -> None:
    with logstore.open(place) as store:
        store._pool = LogPool(4)
        store.create_topic("orders", 12)
        favourite, partitions = store.partition("orders", 0), store.partitions("orders")
        for one in partitions[1:]:
            favourite.append([(b"k", b"v")])
            one.append([(b"k", b"v")])
            favourite.append([(b"k", b"v")])
            assert "not open" not in repr(favourite)
        is_open = [one for one in partitions if "not open" not in repr(one)]
        assert 3 <= len(is_open) <= 5
        reading = partitions[5].records()
        assert next(reading).offset == 0  # it is in use as long as somebody reads
        for one in partitions:
            one.append([(b"k", b"v")])
        assert "not open" not in repr(partitions[5])
        assert [record.offset for record in reading] == [1]


def test_how_many_logs_are_open_depends_on_the_descriptors_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {256: (14, 9), 1024: (84, 57), 65536: (200, 200), resource.RLIM_INFINITY: (200, 200), 64: (8, 8)}
    for limit, counts in expected.items():
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        assert (open_logs_max(is_shared=True), open_logs_max(is_shared=False)) == counts


def test_logs_of_many_segments_are_read_with_a_thousand_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalFile, "sync", lambda file: None)
    monkeypatch.setattr(LocalFileSystem, "sync_directory", lambda fs, path: None)

    def work(line: Line) -> int:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
        with logstore.open(tmp_path / "store", mode="exclusive") as store:
            store.create_topic("t", 60, {"segment.bytes": "1000"})
            for one in store.partitions():
                for _ in range(25):
                    one.append([(b"k", b"v" * 900)])
            return sum(len(list(one.records())) for one in store.partitions())

    assert run(work) == 60 * 25


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with 1,000 partitions; made without syncs, for nobody cuts the power here."""
    place = tmp_path_factory.mktemp("many") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalFile, "sync", lambda file: None)
        patch.setattr(LocalFileSystem, "sync_directory", lambda fs, path: None)
        with logstore.open(place) as store:
            for number in range(10):
                store.create_topic(f"topic-{number}", 100)
            for one in store.partitions():
                one.append([(b"k", b"%d" % one.name.partition)])
    assert is_clean(place)
    return place


@pytest.mark.parametrize("mode", ["shared", "exclusive"])
def test_a_clean_store_of_a_thousand_partitions_opens_and_closes_at_once(thousand: Path, mode: str) -> None:
    def work(line: Line) -> tuple[float, float, int]:
        begun = time.perf_counter()
        store = logstore.open(thousand, mode=mode)  # type: ignore[arg-type]
        opened = time.perf_counter()
        count = len(store.partitions())
        store.partition("topic-3", 7).append([(b"k", b"v")])
        using = time.perf_counter()
        store.close()
        return opened - begun, time.perf_counter() - using, count

    opening, closing, count = run(work)
    assert count == 1000
    assert opening < 1
    assert closing < 1
    assert is_clean(thousand)


@pytest.mark.parametrize("mode", ["shared", "exclusive"])
def test_a_thousand_partitions_are_used_with_a_thousand_descriptors(
    thousand: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalFile, "sync", lambda file: None)
    monkeypatch.setattr(LocalFileSystem, "sync_directory", lambda fs, path: None)

    def work(line: Line) -> int:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
        count = 0
        with logstore.open(thousand, mode=mode) as store:  # type: ignore[arg-type]
            for one in store.partitions():
                end = one.log_end_offset
                assert one.append([(b"k", b"new")]).first_offset == end
                *_, last = one.records()
                assert last.value == b"new"
                count += 1
        return count

    assert run(work) == 1000
    assert is_clean(thousand)
