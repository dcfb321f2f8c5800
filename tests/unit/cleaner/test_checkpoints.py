"""Cleaner points: in the logs themselves, and in the checkpoint files of log directories."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.many_logs import COMPACT, ManyLogs, tp

from logstore.cleaner.checkpoints import DirectoryCheckpoints, LogCheckpoints
from logstore.errors import CorruptCheckpointError
from logstore.names import CLEANER_CHECKPOINT
from logstore.testing import SimulatedCrash

A, B = Path("/disk1"), Path("/disk2")


class Disks(ManyLogs):
    """Log directories A and B."""

    def __init__(self) -> None:
        super().__init__()
        for directory in (A, B):
            self.fs.make_directory(directory)
        self.fs.sync_directory(Path("/"))
        self.checkpoints = DirectoryCheckpoints(self.fs, [A, B], self.logs)

    def text(self, directory: Path) -> str:
        return self.fs.read_bytes(directory / CLEANER_CHECKPOINT).decode()


def test_a_log_that_stands_alone_remembers_its_point_itself() -> None:
    logs = ManyLogs()
    log = logs.open("one")
    logs.open("two")
    checkpoints = LogCheckpoints(logs.logs)
    assert checkpoints.points() == {}
    log.append([(b"k", b"v")] * 7)
    checkpoints.put(tp("one"), 5)
    assert checkpoints.points() == {tp("one"): 5}
    log.close()
    assert logs.open("one").cleaner_point == 5


def test_a_point_of_a_log_that_is_no_more_is_not_remembered() -> None:
    logs = ManyLogs()
    checkpoints = LogCheckpoints(logs.logs)
    checkpoints.put(tp("gone"), 5)
    checkpoints.remove(tp("gone"))
    assert checkpoints.points() == {}


@pytest.mark.kafka("CLEAN-24")
def test_a_point_that_was_put_is_read_back_until_it_is_removed() -> None:
    disks = Disks()
    disks.open("one", directory=A)
    assert disks.checkpoints.points() == {}
    disks.checkpoints.put(tp("one"), 100)
    assert disks.checkpoints.points() == {tp("one"): 100}
    assert disks.text(A) == "0\n1\none 0 100\n"
    disks.checkpoints.remove(tp("one"))
    assert disks.checkpoints.points() == {}
    assert disks.text(A) == "0\n0\n"


def test_a_point_is_durable_on_return_and_in_the_directory_of_its_log() -> None:
    disks = Disks()
    disks.open("one", directory=A)
    disks.open("two", directory=B)
    disks.checkpoints.put(tp("one"), 1)
    disks.checkpoints.put(tp("two"), 2)
    disks.fs = disks.fs.crash("nothing")
    assert [disks.text(directory) for directory in (A, B)] == ["0\n1\none 0 1\n", "0\n1\ntwo 0 2\n"]


@pytest.mark.kafka("CLEAN-25")
def test_the_points_of_a_directory_that_has_failed_are_gone_and_the_others_stay() -> None:
    disks = Disks()
    disks.open("one", directory=A)
    disks.open("two", directory=B)
    disks.checkpoints.put(tp("one"), 1)
    disks.checkpoints.put(tp("two"), 2)
    disks.checkpoints.fail(A)
    assert disks.checkpoints.points() == {tp("two"): 2}
    before = disks.text(A)
    disks.checkpoints.put(tp("one"), 9)
    disks.checkpoints.remove(tp("one"))
    assert disks.text(A) == before


@pytest.mark.kafka("CLEAN-27")
def test_a_point_moves_with_its_log_to_another_directory() -> None:
    disks = Disks()
    disks.open("one", directory=A)
    disks.checkpoints.put(tp("one"), 7)
    disks.checkpoints.move(tp("one"), A, B)
    assert disks.checkpoints.points() == {tp("one"): 7}
    assert disks.text(A) == "0\n0\n"
    disks.checkpoints.fail(B)
    assert disks.checkpoints.points() == {}


def test_a_log_without_a_point_moves_without_one() -> None:
    disks = Disks()
    disks.open("one", directory=A)
    disks.checkpoints.move(tp("one"), A, B)
    assert not disks.fs.exists(A / CLEANER_CHECKPOINT) and not disks.fs.exists(B / CLEANER_CHECKPOINT)


def test_a_crash_while_a_point_moves_loses_none() -> None:
    reference = Disks()
    reference.open("one", directory=A)
    reference.checkpoints.put(tp("one"), 7)
    before = reference.fs.operations
    reference.checkpoints.move(tp("one"), A, B)
    steps = reference.fs.operations - before
    assert steps > 8
    for step in range(1, steps + 1):
        disks = Disks()
        disks.open("one", directory=A)
        disks.checkpoints.put(tp("one"), 7)
        disks.fs.stop_at = disks.fs.operations + step
        with pytest.raises(SimulatedCrash):
            disks.checkpoints.move(tp("one"), A, B)
        for mode in ("nothing", "everything"):
            after = DirectoryCheckpoints(disks.fs.crash(mode), [A, B], disks.logs)
            assert after.points() == {tp("one"): 7}


@pytest.mark.kafka("CLEAN-111")
def test_writing_a_file_drops_the_entries_of_logs_that_are_no_more() -> None:
    disks = Disks()
    for topic, point in (("one", 1), ("two", 2)):
        disks.open(topic, directory=A)
        disks.checkpoints.put(tp(topic), point)
    del disks.logs[tp("one")]
    assert disks.checkpoints.points() == {tp("one"): 1, tp("two"): 2}
    disks.checkpoints.put(tp("two"), 3)
    assert disks.text(A) == "0\n1\ntwo 0 3\n"


@pytest.mark.parametrize(("lower", "higher"), [(A, B), (B, A)])
def test_of_two_points_of_one_log_the_lower_counts(lower: Path, higher: Path) -> None:
    disks = Disks()
    for directory, point in ((lower, 4), (higher, 9)):
        disks.fs.write_bytes(directory / CLEANER_CHECKPOINT, b"0\n1\none 0 %d\n" % point)
    assert disks.checkpoints.points() == {tp("one"): 4}


def test_a_file_is_written_only_when_something_changes() -> None:
    disks = Disks()
    disks.open("one", directory=A)
    disks.checkpoints.put(tp("one"), 5)
    before = disks.fs.tree()
    disks.fs.fail_on(lambda operation: operation.kind in ("write", "rename"), OSError(5, "Input/output error"))
    disks.checkpoints.put(tp("one"), 5)
    disks.checkpoints.remove(tp("two"))
    assert disks.fs.tree() == before


@pytest.mark.parametrize("text", [b"1\n0\n", b"0\n2\none 0 5\n", b"0\n1\none 5\n", b"\xff"])
def test_a_file_that_cannot_be_read_is_an_error_with_its_path_and_stays_as_it_is(text: bytes) -> None:
    disks = Disks()
    disks.open("one", COMPACT, directory=A)
    disks.fs.write_bytes(A / CLEANER_CHECKPOINT, text)
    for use in (disks.checkpoints.points, lambda: disks.checkpoints.put(tp("one"), 5)):
        with pytest.raises(CorruptCheckpointError) as caught:
            use()
        assert caught.value.path == str(A / CLEANER_CHECKPOINT)
    assert disks.fs.read_bytes(A / CLEANER_CHECKPOINT) == text
