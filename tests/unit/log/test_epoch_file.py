"""The leader epochs of a log on disk: kept, told, cut, and durable before anything relies on them."""

from __future__ import annotations

import errno

import pytest
from helpers.open_logs import from_leader
from helpers.stored_logs import PLACE, Disk, segments

from logstore.errors import CorruptCheckpointError
from logstore.log import EpochEntry
from logstore.log.epoch_file import EpochFile

NAME = "leader-epoch-checkpoint"


@pytest.fixture
def disk() -> Disk:
    return Disk()


def loaded(disk: Disk) -> EpochFile:
    file = EpochFile(disk.fs, PLACE)
    assert file.load() is None
    return file


def entries(file: EpochFile) -> list[tuple[int, int]]:
    return [tuple(entry) for entry in file.epochs.entries]


@pytest.fixture
def file(disk: Disk) -> EpochFile:
    found = EpochFile(disk.fs, PLACE)
    for epoch, start in ((2, 6), (3, 8), (4, 11)):
        found.assign(epoch, start)
    return found


@pytest.mark.kafka("EPOCH-08")
def test_epochs_are_read_again_as_they_were_assigned(disk: Disk, file: EpochFile) -> None:
    assert disk.read(NAME) == b"0\n3\n2 6\n3 8\n4 11\n"
    again = loaded(disk)
    assert entries(again) == entries(file) == [(2, 6), (3, 8), (4, 11)]
    assert (again.latest_epoch, again.is_trusted) == (4, True)


@pytest.mark.kafka("EPOCH-08")
def test_truncations_are_written(disk: Disk, file: EpochFile) -> None:
    file.truncate_from_end(11)
    assert entries(loaded(disk)) == [(2, 6), (3, 8)]
    file.truncate_from_start(7)
    assert entries(loaded(disk)) == entries(file) == [(2, 7), (3, 8)]
    assert file.latest_epoch == 3


@pytest.mark.kafka("EPOCH-08")
def test_cleared_epochs_are_gone(disk: Disk, file: EpochFile) -> None:
    file.clear()
    assert entries(file) == entries(loaded(disk)) == []
    assert (file.latest_epoch, disk.read(NAME)) == (-1, b"0\n0\n")


def test_every_change_is_durable_on_return(disk: Disk, file: EpochFile) -> None:
    file.assign(7, 20)
    file.truncate_from_start(9)
    assert disk.copy("nothing").read(NAME) == b"0\n3\n3 9\n4 11\n7 20\n"


def test_nothing_is_written_when_nothing_changes(disk: Disk, file: EpochFile) -> None:
    before = disk.fs.operations
    file.assign(4, 12)
    file.truncate_from_end(12)
    file.truncate_from_start(6)
    file.save()
    assert disk.fs.operations == before


def test_what_is_noted_is_written_when_it_is_saved(disk: Disk, file: EpochFile) -> None:
    file.note(EpochEntry(5, 15))
    file.note(EpochEntry(6, 17))
    assert (entries(file)[-1], entries(loaded(disk))[-1]) == ((6, 17), (4, 11))
    file.save()
    assert entries(loaded(disk)) == entries(file)


def test_a_change_that_cannot_be_written_is_not_made(disk: Disk, file: EpochFile) -> None:
    for kind in ("create", "write", "sync", "rename"):
        disk.fs.fail_on(lambda one, kind=kind: one.kind == kind, OSError(errno.ENOSPC, "No space left"))  # type: ignore[misc]
        with pytest.raises(OSError, match="No space left"):
            file.assign(9, 30)
        disk.fs.heal()
        assert entries(file) == entries(loaded(disk)) == [(2, 6), (3, 8), (4, 11)]
    file.assign(9, 30)
    assert entries(loaded(disk))[-1] == (9, 30)


def test_the_file_may_know_too_much_never_too_little(disk: Disk, file: EpochFile) -> None:
    disk.fs.fail_on(lambda one: one.kind == "sync_directory", OSError(errno.EIO, "Input/output error"))
    with pytest.raises(OSError, match="Input/output"):
        file.assign(9, 30)
    disk.fs.heal()
    assert entries(file)[-1] == (4, 11)
    assert entries(loaded(disk))[-1] == (9, 30)


def test_no_file_says_nothing(disk: Disk) -> None:
    file = loaded(disk)
    assert (entries(file), file.latest_epoch, file.is_trusted) == ([], -1, False)


def test_an_empty_file_says_that_there_are_none(disk: Disk) -> None:
    file = loaded(disk.write(NAME, b""))
    assert (entries(file), file.is_trusted) == ([], True)


@pytest.mark.parametrize("content", [b"1\n0\n", b"0\n2\n0 0\n", b"0\n1\n0 -1\n", b"\xff", b"0\n1\n0 0 0\n", b"garbage"])
def test_a_file_that_cannot_be_read_is_told_with_its_path(disk: Disk, content: bytes) -> None:
    file = EpochFile(disk.write(NAME, content).fs, PLACE)
    problem = file.load()
    assert isinstance(problem, CorruptCheckpointError)
    assert problem.path == str(PLACE / NAME)
    assert (entries(file), file.is_trusted) == ([], False)
    assert disk.read(NAME) == content


def test_an_entry_that_is_not_above_those_before_it_removes_them(disk: Disk) -> None:
    file = loaded(disk.write(NAME, "0\n3\n1 0\n5 9\n3 7\n"))
    assert entries(file) == [(1, 0), (3, 7)]
    file.save()
    assert disk.read(NAME) == b"0\n2\n1 0\n3 7\n"


def test_a_log_has_its_epochs_when_it_is_opened_again(disk: Disk) -> None:
    with disk.open() as log:
        for offset, epoch in ((0, 0), (1, 2), (2, 5)):
            log.append_as_follower(from_leader(offset, leader_epoch=epoch))
    assert disk.open().leader_epochs.entries == ((0, 0), (2, 1), (5, 2))


@pytest.mark.kafka("DIR-04")
def test_a_followed_batch_of_an_old_format_forgets_the_epochs(disk: Disk) -> None:
    from by_hand import message

    log = segments(1).save(disk).open()
    assert log.leader_epochs.entries == ((0, 0),)
    log.append_as_follower(message(1, b"k", b"v", offset=8))
    assert log.leader_epochs.entries == ()
    assert disk.read(NAME) == b"0\n0\n"


def test_it_says_what_it_is(file: EpochFile) -> None:
    assert repr(file).startswith(f"<EpochFile {PLACE / NAME} (EpochEntry(epoch=2, start_offset=6), ")
