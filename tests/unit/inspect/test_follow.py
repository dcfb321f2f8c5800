"""Following a partition: each poll gives what has come, once; damage is told when something follows it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.directories import LogDirectory, Partition, append_bytes, flip_bit, shorten, values

from logstore.inspect import DumpOptions, Follower, Isolation, PartitionFiles, Problem, RecordFilter, resolve
from logstore.log import Log, RecordFile
from logstore.records import ControlType, encode_batch

BOTH = list(Isolation)


class Following:
    """A follower, and what it was given so far."""

    def __init__(
        self, path: Path, isolation: Isolation = Isolation.READ_UNCOMMITTED, first_offset: int | None = None
    ) -> None:
        target = resolve(path)
        assert isinstance(target, PartitionFiles)
        where = RecordFilter(first_offset=first_offset)
        self._follower = Follower(target, None, DumpOptions(where=where, isolation=isolation))
        self.problems: list[Problem] = []

    def poll(self) -> list[int]:
        """The offsets that have come."""
        return list(self._offsets())

    def _offsets(self) -> Iterator[int]:
        for found in self._follower.poll():
            if isinstance(found, Problem):
                self.problems.append(found)
            else:
                yield from (record.offset for piece in found.record_pieces() for record in piece)


@pytest.fixture
def partition(directory: LogDirectory) -> Partition:
    """`orders-3` with offsets 0 to 3."""
    partition = directory.partition("orders-3")
    partition.append(*values(2))
    partition.append(*values(2))
    return partition


@pytest.mark.parametrize("isolation", BOTH)
def test_what_comes_is_given_once_also_in_the_next_segments(partition: Partition, isolation: Isolation) -> None:
    following = Following(partition.path, isolation)
    assert following.poll() == [0, 1, 2, 3]
    assert following.poll() == []
    partition.append(*values(2))
    assert following.poll() == [4, 5]
    partition.append(b"6")
    partition.roll().append(b"7")
    assert following.poll() == [6, 7]
    partition.roll()
    assert following.poll() == []
    partition.append(b"8")
    partition.roll().append(b"9")
    partition.roll().append(b"10")
    assert following.poll() == [8, 9, 10]
    assert following.problems == []


def test_it_begins_at_an_offset_also_one_that_is_not_there_yet(partition: Partition) -> None:
    assert Following(partition.path, first_offset=3).poll() == [3]
    following = Following(partition.path, first_offset=5)
    assert following.poll() == []
    partition.append(*values(3))
    assert following.poll() == [5, 6]


def test_bytes_that_were_passed_are_not_read_again(partition: Partition, monkeypatch: pytest.MonkeyPatch) -> None:
    lowest: list[int] = []
    read = RecordFile.read

    def noting(self: RecordFile, position: int, size: int) -> bytes:
        lowest.append(position)
        return read(self, position, size)

    monkeypatch.setattr(RecordFile, "read", noting)
    following = Following(partition.path)
    following.poll()
    size = partition.log.stat().st_size
    lowest.clear()
    assert following.poll() == []
    assert lowest == []
    partition.append(b"more")
    assert following.poll() == [4]
    assert min(lowest) == size


def test_the_directory_is_listed_again_only_when_it_has_changed(
    partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    following = Following(partition.path)
    os.utime(partition.path, ns=(1, 1))
    following.poll()
    with monkeypatch.context() as patch:
        patch.setattr("logstore.inspect.follow.partition_files", None)
        partition.append(b"more")
        os.utime(partition.path, ns=(1, 1))
        assert following.poll() == [4]


# ---------------------------------------------------------------- transactions


def test_committed_records_come_when_they_are_decided(directory: LogDirectory) -> None:
    partition = directory.partition("payments-0")
    committed = Following(partition.path, Isolation.READ_COMMITTED)
    uncommitted = Following(partition.path)
    partition.append(b"0")
    partition.append_transactional(1, b"1")
    partition.append(b"2")
    assert (committed.poll(), uncommitted.poll()) == ([0], [0, 1, 2])
    partition.append_transactional(2, b"3")
    partition.end_transaction(1, ControlType.COMMIT)
    assert (committed.poll(), uncommitted.poll()) == ([1, 2], [3])
    partition.roll().append(b"5")
    partition.end_transaction(2, ControlType.ABORT)
    partition.append(b"7")
    assert (committed.poll(), uncommitted.poll()) == ([5, 7], [5, 7])


# ---------------------------------------------------------------- bad bytes


def test_a_batch_in_the_making_is_waited_for(partition: Partition) -> None:
    following = Following(partition.path)
    following.poll()
    batch = encode_batch([(None, b"x" * 200)], base_offset=4)
    size = partition.log.stat().st_size
    for end in (1, 13, 70, len(batch)):
        shorten(partition.log, size)
        append_bytes(partition.log, batch[:end])
        assert following.poll() == ([4] if end == len(batch) else [])
    assert following.problems == []


def test_a_batch_that_is_written_over_zeros_is_waited_for(partition: Partition) -> None:
    size = partition.log.stat().st_size
    append_bytes(partition.log, bytes(4000))
    following = Following(partition.path)
    assert following.poll() == [0, 1, 2, 3]
    batch = encode_batch([(None, b"x" * 200)], base_offset=4)
    for end in (20, 100, len(batch)):
        with open(partition.log, "r+b") as file:
            file.seek(size)
            file.write(batch[:end])
        os.truncate(partition.log, size + 4000 + end)  # its size is what is looked at
        assert following.poll() == ([4] if end == len(batch) else [])
    assert following.problems == []


def test_damage_is_told_once_a_batch_follows_it(partition: Partition) -> None:
    following = Following(partition.path)
    following.poll()
    size = partition.log.stat().st_size
    partition.append(b"damaged")
    flip_bit(partition.log, size + 70, 0)
    assert (following.poll(), following.problems) == ([], [])
    partition.append(b"sound")
    assert following.poll() == [5]
    (problem,) = following.problems
    assert (problem.position, problem.is_damage) == (size, True)
    assert following.poll() == []
    assert len(following.problems) == 1


def test_a_torn_end_is_told_once_the_next_segment_is_begun(partition: Partition) -> None:
    append_bytes(partition.log, b"torn")
    following = Following(partition.path)
    assert (following.poll(), following.problems) == ([0, 1, 2, 3], [])
    partition.roll()
    assert following.poll() == []
    assert [problem.is_damage for problem in following.problems] == [True]
    partition.append(b"4")
    assert following.poll() == [4]
    assert len(following.problems) == 1


# ---------------------------------------------------------------- files that go and come


def test_segments_that_retention_deletes_are_passed_by(partition: Partition) -> None:
    following = Following(partition.path)
    following.poll()
    first = partition.log
    partition.append(b"lost")
    partition.roll().append(b"kept")
    first.unlink()
    assert following.poll() == [5]
    assert not any(problem.is_damage or problem.is_failure for problem in following.problems)


def test_a_segment_that_is_replaced_is_gone_through_from_its_start(partition: Partition) -> None:
    following = Following(partition.path)
    following.poll()
    content = partition.log.read_bytes()
    swapped = partition.log.with_suffix(".swap")
    swapped.write_bytes(content[len(content) // 2 :] + encode_batch([(None, b"x")], base_offset=4))
    swapped.rename(partition.log)
    assert following.poll() == [4]


def test_a_log_that_is_cut_goes_on_at_its_new_end(partition: Partition) -> None:
    following = Following(partition.path)
    following.poll()
    shorten(partition.log, partition.log.stat().st_size // 2)
    assert following.poll() == []
    assert ["became shorter" in problem.message for problem in following.problems] == [True]
    append_bytes(partition.log, encode_batch([(None, b"x")], base_offset=2))
    assert following.poll() == [2]


def test_a_directory_that_is_gone_is_an_error(tmp_path: Path) -> None:
    place = tmp_path / "orders-3"
    with Log.open(place) as log:
        log.append([(None, b"x")])
    following = Following(place)
    assert following.poll() == [0]
    place.rename(tmp_path / "gone-3")
    with pytest.raises(FileNotFoundError):
        following.poll()


def test_a_segment_that_cannot_be_read_is_told_as_such(
    partition: Partition, failing_reads: Callable[[str], None]
) -> None:
    partition.roll().append(b"4")
    following = Following(partition.path)
    failing_reads(f"{0:020d}.log")
    assert following.poll() == [4]
    assert [problem.is_failure for problem in following.problems] == [True]
