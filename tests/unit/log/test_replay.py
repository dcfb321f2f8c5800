"""What batches on disk say of producers and leader epochs, and which snapshots opening a log leaves."""

from __future__ import annotations

import pytest
from helpers.stored_logs import PLACE, SMALL, START, Disk, Writing, interleaved, offsets, segments, watch

from logstore.config import LogConfig
from logstore.errors import DamagedLogError
from logstore.log import EpochEntry, Log, ProducerSnapshot
from logstore.log.epoch_file import EpochFile
from logstore.log.maps import MapCache
from logstore.log.producer_state import ProducerStates
from logstore.log.replay import Replay, rebuild_epochs, rebuild_producers
from logstore.log.segment import Segment
from logstore.log.segments import Segments
from logstore.records import iter_batches


def six() -> Disk:
    """Six segments of one record of a producer each, closed cleanly."""
    writing = Writing()
    for number in range(6):
        if number:
            writing.roll()
        writing.produce(number % 2 + 1, is_transactional=False)
    return writing.save().settle()


def log_name(base_offset: int) -> str:
    return f"{base_offset:020d}.log"


def producers(log: Log) -> dict[int, int]:
    """The producers that are known, and their last offsets."""
    return {one.producer_id: one.last_offset for one in log._state.producers.active_producers()}


# ---------------------------------------------------------------- which snapshots there are


def test_each_segment_but_the_first_has_a_snapshot_and_so_has_the_end() -> None:
    assert six().offsets_of(".snapshot") == [1, 2, 3, 4, 5, 6]


@pytest.mark.kafka("DIR-08", "RECOVER-23")
def test_a_clean_log_without_snapshots_gets_empty_ones_and_is_not_read() -> None:
    disk = six().remove(".snapshot")
    opened = watch(disk)
    log = disk.open()
    assert disk.offsets_of(".snapshot") == [4, 5, 6]
    assert {disk.read(name) for name in disk.names(".snapshot")} == {ProducerSnapshot().encode()}
    assert [name for name in opened if name in [log_name(base) for base in range(5)]] == []
    assert producers(log) == {}


@pytest.mark.kafka("DIR-08")
def test_an_unclean_log_without_snapshots_gets_the_same_ones_with_what_the_batches_say() -> None:
    disk = six().remove(".snapshot").unclean(6)
    log = disk.open()
    assert disk.offsets_of(".snapshot") == [4, 5, 6]
    assert producers(log) == {1: 4, 2: 5}


@pytest.mark.kafka("DIR-08")
def test_a_log_recovered_from_its_begin_gets_a_snapshot_for_each_segment_but_the_first() -> None:
    disk = six().remove(".snapshot").unclean(0)
    log = disk.open()
    assert disk.offsets_of(".snapshot") == [1, 2, 3, 4, 5, 6]
    assert producers(log) == {1: 4, 2: 5}


@pytest.mark.kafka("DIR-06")
@pytest.mark.parametrize("is_clean", [True, False])
def test_a_snapshot_behind_the_log_end_is_removed(*, is_clean: bool) -> None:
    disk = six()
    disk.write("00000000000000000042.snapshot", disk.read("00000000000000000006.snapshot"))
    if not is_clean:
        disk.unclean(5)
    log = disk.open()
    assert disk.offsets_of(".snapshot") == [1, 2, 3, 4, 5, 6]
    assert producers(log) == {1: 4, 2: 5}


@pytest.mark.kafka("RECOVER-27", "CLEAN-104")
def test_closing_leaves_a_snapshot_at_the_end_and_opening_removes_a_stray_one() -> None:
    disk = Writing().plain().roll().plain().roll().plain(2).save().settle()
    assert disk.offsets_of(".snapshot") == [1, 2, 4]
    disk.write("00000000000000000003.snapshot", ProducerSnapshot().encode())
    disk.settle()
    assert disk.offsets_of(".snapshot") == [1, 2, 4]


@pytest.mark.kafka("RECOVER-22")
def test_recovery_reads_earlier_segments_only_as_far_as_no_snapshot_tells_of_them() -> None:
    disk = six()
    for offset in (1, 2, 3, 4):
        disk.remove(f"{offset:020d}.snapshot")
    without = disk.copy().unclean(2)
    opened = watch(without)
    log = without.open()
    assert {log_name(0), log_name(1)} <= set(opened)
    assert without.offsets_of(".snapshot") == [2, 3, 4, 5, 6]
    assert producers(log) == {1: 4, 2: 5}

    disk = six().unclean(2)
    opened = watch(disk)
    log = disk.open()
    assert [name for name in opened if name in (log_name(0), log_name(1))] == []
    assert disk.offsets_of(".snapshot") == [1, 2, 3, 4, 5, 6]
    assert producers(log) == {1: 4, 2: 5}


@pytest.mark.parametrize("garbage", [b"", b"\0\1", b"\xff" * 100])
def test_a_snapshot_that_cannot_be_trusted_is_replaced_by_what_the_batches_say(garbage: bytes) -> None:
    disk = six()
    before = disk.files()
    disk.write("00000000000000000006.snapshot", garbage).write("00000000000000000005.snapshot", garbage)
    log = disk.open()
    assert producers(log) == {1: 4, 2: 5}
    log.close()
    assert disk.files() == before


def test_a_snapshot_is_durable_before_the_log_relies_on_it() -> None:
    disk = six().remove(".snapshot").unclean(0)
    disk.open()
    after = disk.copy("nothing")
    assert {name: after.read(name) for name in after.names(".snapshot")} == {
        name: disk.read(name) for name in disk.names(".snapshot")
    }


@pytest.mark.kafka("RECOVER-24")
def test_a_truncation_of_a_log_without_producers_reads_nothing_again() -> None:
    disk = segments().save().settle()
    log = disk.open()
    disk.remove(".snapshot")
    opened = watch(disk)
    log.truncate_to(20)
    assert log.log_end_offset == 20
    assert [name for name in opened if name in (log_name(0), log_name(8))] == []


# ---------------------------------------------------------------- what is known then


@pytest.mark.kafka("RECOVER-25")
def test_a_marker_of_an_older_coordinator_is_taken_as_it_stands_there() -> None:
    writing = Writing().produce(1).end(1, commit=True, coordinator_epoch=5)
    disk = writing.produce(1).end(1, commit=True, coordinator_epoch=3).save().state(0)
    (entry,) = disk.open()._state.producers.active_producers()
    assert (entry.coordinator_epoch, entry.last_offset) == (3, 2)


def two_producers() -> Writing:
    return Writing().produce(1, is_transactional=False).produce(2, is_transactional=False)


@pytest.mark.kafka("RECOVER-26")
def test_producers_below_the_log_start_are_known_as_long_as_their_batches_are_there() -> None:
    disk = two_producers().save().settle().unclean(0, 1)
    log = disk.open()
    assert log.log_start_offset == 1
    assert producers(log) == {1: 0, 2: 1}


@pytest.mark.kafka("RECOVER-26")
def test_a_producer_whose_segment_was_deleted_is_forgotten_when_the_log_is_recovered() -> None:
    writing = Writing().produce(1, is_transactional=False).roll().produce(2, is_transactional=False)
    disk = writing.save().settle()
    log = disk.open()
    log.advance_log_start(1)
    assert log.delete_before_log_start() == 1
    log.maintain()
    assert producers(log) == {1: 0, 2: 1}
    log.close()
    disk.remove(".snapshot").unclean(1, 1)
    assert producers(disk.open()) == {2: 1}


def test_an_open_transaction_is_open_again() -> None:
    disk = interleaved((17, 49)).produce(5, 2).plain(3).save().settle()
    for marks in (disk.copy(), disk.copy().unclean(0), disk.copy().remove(".snapshot").unclean(49)):
        assert marks.open().last_stable_offset == 90


# ---------------------------------------------------------------- the parts


class Parts:
    """The segments of a disk, and nothing known of them."""

    def __init__(self, disk: Disk) -> None:
        self.segments = Segments(disk.fs, PLACE)
        maps = MapCache(disk.fs)
        self.segments.load(
            [Segment.existing(disk.fs, PLACE, base, SMALL, maps, START) for base in disk.offsets_of(".log")]
        )
        self.producers = ProducerStates(disk.fs, PLACE)
        self.epochs = EpochFile(disk.fs, PLACE)

    def rebuild(self, end_offset: int, *, is_clean: bool = False, log_start_offset: int = 0) -> None:
        rebuild_producers(
            self.segments, self.producers, end_offset, START, is_clean=is_clean, log_start_offset=log_start_offset
        )


def test_the_state_is_brought_to_any_offset_between_batches() -> None:
    for end in (0, 1, 8, 17, 30, 49, 75, 90):
        parts = Parts(interleaved((17, 49)).save())
        parts.rebuild(end)
        assert parts.producers.map_end_offset == end
        wanted = interleaved((17, 49)).save()
        batches = [batch for name in wanted.names(".log") for batch in iter_batches(wanted.read(name))]
        replay = Replay(fresh := ProducerStates(Disk().fs, PLACE), None, 0)
        for batch in batches:
            if batch.header.producer_id >= 0 and batch.header.base_offset < end:
                replay.see(batch)
        assert parts.producers.active_producers() == fresh.active_producers()


def test_what_lies_below_the_log_start_is_not_replayed() -> None:
    parts = Parts(two_producers().save())
    parts.rebuild(2, log_start_offset=1)
    assert [one.producer_id for one in parts.producers.active_producers()] == [2]


def test_a_segment_that_cannot_be_read_through_is_told() -> None:
    disk = two_producers().roll().plain().save()
    disk.flip(log_name(0), 8)
    with pytest.raises(DamagedLogError) as caught:
        Parts(disk).rebuild(3)
    assert caught.value.path == str(PLACE / log_name(0))


def test_a_batch_that_cannot_be_taken_ends_a_replay() -> None:
    disk = two_producers().produce(1).produce(1, is_transactional=False).produce(2).save()
    batches = list(iter_batches(disk.read(log_name(0))))
    replay = Replay(states := ProducerStates(disk.fs, PLACE), None, 0)
    for batch in batches:
        replay.see(batch)
    assert replay.position == batches[3].header.position
    assert "outside of its transaction" in (replay.problem or "")
    assert states.entries[2].last_sequence == 0
    with pytest.raises(DamagedLogError, match="outside of its transaction"):
        Parts(disk).rebuild(5)


def test_epochs_are_taken_from_all_segments_but_damaged_parts() -> None:
    writing = Writing()
    for epoch in range(6):
        if epoch in (2, 4):
            writing.roll()
        writing.plain(leader_epoch=epoch)
    disk = writing.save()
    parts = Parts(disk)
    rebuild_epochs(parts.segments, parts.epochs)
    assert parts.epochs.epochs.entries == tuple(EpochEntry(epoch, epoch) for epoch in range(6))
    disk.flip(log_name(2), 8)
    parts = Parts(disk)
    rebuild_epochs(parts.segments, parts.epochs)
    assert [entry.epoch for entry in parts.epochs.epochs.entries] == [0, 1, 4, 5]
    assert disk.read("leader-epoch-checkpoint").startswith(b"0\n4\n")


@pytest.mark.parametrize("roll", [False, True])
def test_a_log_that_ends_in_an_old_format_has_no_epochs(*, roll: bool) -> None:
    writing = Writing().plain(leader_epoch=3).old(1)
    if roll:
        writing.roll()
    disk = writing.save()
    parts = Parts(disk)
    rebuild_epochs(parts.segments, parts.epochs)
    assert parts.epochs.epochs.entries == ()
    assert not disk.exists("leader-epoch-checkpoint")
    disk.settle(LogConfig())
    assert not disk.exists("leader-epoch-checkpoint")


def test_a_log_without_batches_has_no_epochs() -> None:
    parts = Parts(Writing().save())
    rebuild_epochs(parts.segments, parts.epochs)
    assert parts.epochs.epochs.entries == ()
    assert offsets(Writing().save().open()) == []


def test_a_replay_says_what_it_is() -> None:
    assert repr(Replay(ProducerStates(Disk().fs, PLACE), None, 7)) == "<Replay of segment 7 aborted 0>"
