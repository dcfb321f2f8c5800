"""A log whose directory gets another name while it is open: everything goes there from then on."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest
from helpers.open_logs import PLACE, SMALL, Place, Producer, bases, fill, offsets, values

from logstore.errors import LogClosedError, LogLockedError
from logstore.log import FetchIsolation, Log
from logstore.log.renaming import move_segment
from logstore.testing import SimulatedCrash

OTHER = PLACE.with_name("orders-0.a1b2c3-delete")


@pytest.fixture
def place() -> Place:
    return Place()


def fill_all_kinds(log: Log, producer_id: int = 7) -> None:
    producer = Producer(log, producer_id)
    for _ in range(4):
        producer.send(2)
        producer.abort()
        fill(log, 8)


@pytest.mark.kafka("LOCAL-03", "DIR-01", "APPEND-21")
def test_all_files_are_in_the_directory_of_the_new_name_and_so_is_what_follows(place: Place, tmp_path: Path) -> None:
    log = place.open(SMALL, topic_id=UUID(int=7))
    fill_all_kinds(log)
    log.advance_log_start(20)
    assert log.delete_before_log_start() > 0
    names = place.fs.list(PLACE)
    assert "partition.metadata" in names
    assert log.rename(OTHER)
    assert not log.rename(OTHER)
    assert (log.directory, place.fs.exists(PLACE), place.fs.list(OTHER)) == (OTHER, False, names)
    for segment in log._state.segments:
        assert {path.parent for path in segment.files()} == {OTHER}
    assert offsets(log) == [one for one in offsets(log) if one >= 20]
    log.append_epoch(5, log.log_end_offset)
    fill_all_kinds(log, 8)
    log.truncate_to(60)
    fill_all_kinds(log, 9)
    place.clock.advance(60_000)
    log.maintain()
    assert not [name for name in place.fs.list(OTHER) if name.endswith(".deleted")]
    expected = list(log.records())
    committed = offsets(log, isolation=FetchIsolation.TXN_COMMITTED)
    log.close()
    assert not place.fs.exists(PLACE)
    assert b"5 44" in place.fs.read_bytes(OTHER / "leader-epoch-checkpoint")
    with Log.open(OTHER, SMALL, fs=place.fs, clock=place.clock, topic_id=UUID(int=7)) as again:
        assert again.recovered is None
        assert list(again.records()) == expected
        assert offsets(again, isolation=FetchIsolation.TXN_COMMITTED) == committed
        assert again.log_start_offset == 20


def test_the_lock_goes_along(tmp_path: Path) -> None:
    with Log.open(tmp_path / "orders-0") as log:
        fill(log, 3)
        log.rename(str(tmp_path / "orders-1"))
        with pytest.raises(LogLockedError):
            Log.open(tmp_path / "orders-1")
        with Log.open(tmp_path / "orders-0") as other:
            assert other.log_end_offset == 0
        assert values(log) == [b"0", b"1", b"2"]
    with Log.open(tmp_path / "orders-1") as again:
        assert values(again) == [b"0", b"1", b"2"]


@pytest.mark.kafka("SEGMAP-06")
def test_a_segment_is_told_of_its_place_without_touching_the_disk(place: Place) -> None:
    log = place.open(SMALL)
    fill_all_kinds(log)
    before = place.fs.operations, place.fs.tree()
    for segment in log._state.segments:
        names = [path.name for path in segment.files()]
        move_segment(segment, OTHER)
        assert segment.files() == [OTHER / name for name in names]
    assert (place.fs.operations, place.fs.tree()) == before


def test_a_name_elsewhere_or_one_that_is_taken_is_refused(place: Place) -> None:
    log = place.open()
    fill(log, 2)
    place.fs.make_directory(OTHER)
    with pytest.raises(ValueError, match="another name in /data"):
        log.rename("/elsewhere/orders-0")
    with pytest.raises(FileExistsError):
        log.rename(OTHER)
    assert (log.directory, values(log)) == (PLACE, [b"0", b"1"])


def test_a_rename_that_failed_puts_the_log_out_of_use(place: Place) -> None:
    log = place.open()
    fill(log, 2)
    place.fs.fail_on(lambda operation: operation.kind == "rename", OSError(5, "broken"))
    with pytest.raises(OSError, match="broken"):
        log.rename(OTHER)
    place.fs.heal()
    with pytest.raises(LogClosedError, match="open the log again"):
        fill(log, 1)


def test_readers_go_on_and_a_power_cut_leaves_one_name_or_the_other(place: Place) -> None:
    log = place.open(SMALL)
    fill(log, 30)
    log.flush()
    walk = log.records(bytes_max=1)
    assert next(walk).offset == 0
    before = place.fs.operations
    log.rename(OTHER)
    after = place.fs.operations
    assert [record.offset for record in walk] == list(range(1, 30))
    for stop_at in range(before + 1, after + 2):
        place = Place()
        log = place.open(SMALL)
        fill(log, 30)
        log.flush()
        assert place.fs.operations == before
        place.fs.stop_at = stop_at
        if stop_at <= after:
            with pytest.raises(SimulatedCrash):
                log.rename(OTHER)
        else:
            log.rename(OTHER)
        for mode in ("nothing", "everything"):
            fs = place.fs.crash(mode)  # type: ignore[arg-type]
            found = [one for one in (PLACE, OTHER) if fs.exists(one)]
            assert len(found) == 1
            if stop_at > after:
                assert found == [OTHER]
            with Log.open(found[0], SMALL, fs=fs) as again:
                assert (offsets(again), bases(again)) == (list(range(30)), bases(log))
