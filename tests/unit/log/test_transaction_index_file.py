"""A transaction index that is written: what is in its file, and that there is none without an abort."""

from __future__ import annotations

import errno
import random
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.errors import CorruptIndexError
from logstore.fs import LocalFileSystem
from logstore.log import transaction_index_file
from logstore.log.transaction_index import AbortedTransaction
from logstore.log.transaction_index_file import TransactionIndexFile
from logstore.testing import MemoryFileSystem, SimulatedCrash

PLACE = Path("/data/00000000000000000000.txnindex")
FOUR = [
    AbortedTransaction(0, 0, 10, 11),
    AbortedTransaction(1, 5, 15, 13),
    AbortedTransaction(2, 18, 35, 25),
    AbortedTransaction(3, 32, 50, 40),
]
FIFTH = AbortedTransaction(3, 50, 60, 55)
bounded = settings(deadline=None, database=None, max_examples=60)


@pytest.fixture
def fs() -> MemoryFileSystem:
    fs = MemoryFileSystem()
    fs.make_directory(PLACE.parent)
    fs.sync_directory("/")
    return fs


def index_of(fs: MemoryFileSystem, *transactions: AbortedTransaction, base_offset: int = 0) -> TransactionIndexFile:
    index = TransactionIndexFile(fs, PLACE, base_offset)
    for transaction in transactions:
        index.append(transaction)
    return index


def reopened(fs: MemoryFileSystem, base_offset: int = 0) -> TransactionIndexFile:
    return TransactionIndexFile(fs, PLACE, base_offset)


# ---------------------------------------------------------------- appending


@pytest.mark.kafka("TXN-01")
def test_an_index_that_is_opened_again_goes_on_behind_its_entries(fs: MemoryFileSystem) -> None:
    index_of(fs, *FOUR).close()
    index = reopened(fs)
    index.append(FIFTH)
    assert index.entries() == [*FOUR, FIFTH]
    assert len(index) == 5


@pytest.mark.kafka("TXN-03", "CLEAN-76")
@pytest.mark.parametrize("last_offset", [10, 15])
def test_markers_have_to_ascend(fs: MemoryFileSystem, last_offset: int) -> None:
    index = index_of(fs, *FOUR[:2])
    with pytest.raises(ValueError, match=f"{last_offset} is not behind the one at 15"):
        index.append(AbortedTransaction(1, 5, last_offset, 13))
    assert index.entries() == FOUR[:2]


def test_markers_are_not_compared_with_those_from_before_it_was_opened(fs: MemoryFileSystem) -> None:
    index_of(fs, *FOUR)
    again = reopened(fs)
    again.append(FOUR[0])
    assert again.entries() == [*FOUR, FOUR[0]]


@pytest.mark.parametrize("size", [1, 33])
def test_a_piece_of_an_entry_is_not_read_and_is_written_over(fs: MemoryFileSystem, size: int) -> None:
    whole = FOUR[0].encode()
    fs.write_bytes(PLACE, whole + FOUR[1].encode()[:size])
    index = reopened(fs)
    assert (index.entries(), len(index)) == (FOUR[:1], 1)
    index.append(FOUR[2])
    assert fs.read_bytes(PLACE) == whole + FOUR[2].encode()


def test_what_a_failed_append_left_is_not_read_and_is_written_over(fs: MemoryFileSystem) -> None:
    index = index_of(fs, FOUR[0])
    fs.fail_on(lambda operation: operation.kind == "write", OSError(errno.ENOSPC, "full"), written=20, times=1)
    with pytest.raises(OSError, match="full"):
        index.append(FOUR[1])
    assert index.entries() == FOUR[:1]
    index.append(FOUR[1])
    assert index.entries() == FOUR[:2]


# ---------------------------------------------------------------- the file


@pytest.mark.kafka("TXN-08")
def test_without_an_entry_there_is_no_file_and_nothing_to_sync(fs: MemoryFileSystem) -> None:
    index = index_of(fs)
    before = fs.operations
    index.sync()
    index.truncate_to(0)
    index.reset()
    index.sanity_check()
    index.delete()
    assert (index.entries(), len(index), index.collect(0, 100)) == ([], 0, ((), False))
    assert (fs.operations, fs.exists(PLACE)) == (before, False)

    index.append(FOUR[0])
    index.sync()
    assert fs.read_bytes(PLACE) == FOUR[0].encode()
    index.delete()
    assert not fs.exists(PLACE)
    assert index.entries() == []
    index.append(FOUR[0])
    assert index.entries() == FOUR[:1]


def test_entries_are_durable_once_synced_and_the_name_once_the_directory_is(fs: MemoryFileSystem) -> None:
    index = index_of(fs, *FOUR[:2])
    fs.sync_directory(PLACE.parent)
    assert reopened(fs.crash("nothing")).entries() == []
    index.sync()
    index.append(FOUR[2])
    assert reopened(fs.crash("nothing")).entries() == FOUR[:2]
    assert reopened(fs.crash("everything")).entries() == FOUR[:3]
    assert reopened(fs.crash("torn")).entries() == FOUR[:2]


def test_entries_of_before_it_was_opened_are_made_durable_too(fs: MemoryFileSystem) -> None:
    index_of(fs, *FOUR).close()
    fs.sync_directory(PLACE.parent)
    reopened(fs).sync()
    assert reopened(fs.crash("nothing")).entries() == FOUR


def test_a_power_cut_at_any_operation_leaves_a_beginning_of_the_entries(fs: MemoryFileSystem) -> None:
    def write(index: TransactionIndexFile) -> None:
        for transaction in FOUR:
            index.append(transaction)
            index.sync()
        index.truncate_to(35)
        index.sync()

    for number in range(1, 13):
        for torn in (False, True):
            cut = MemoryFileSystem()
            cut.make_directory(PLACE.parent)
            cut.stop_at, cut.stop_torn = cut.operations + number, torn
            try:
                write(reopened(cut))
            except SimulatedCrash:
                found = reopened(cut.crash("everything"))
                assert found.entries() == FOUR[: len(found)]
            else:
                assert reopened(cut).entries() == FOUR[:2]


@pytest.mark.kafka("TXN-07")
def test_a_renamed_index_goes_on_under_its_new_name(fs: MemoryFileSystem) -> None:
    index = index_of(fs, *FOUR[:2])
    renamed = PLACE.with_name(PLACE.name + ".swap")
    index.rename(renamed)
    index.append(FOUR[2])
    index.close()
    index.append(FOUR[3])
    assert (index.path, fs.list(PLACE.parent)) == (renamed, [renamed.name])
    assert index.entries() == TransactionIndexFile(fs, renamed, 0).entries() == FOUR


def test_an_index_without_a_file_is_made_under_its_new_name(fs: MemoryFileSystem) -> None:
    index = index_of(fs)
    renamed = PLACE.with_name(PLACE.name + ".cleaned")
    index.rename(renamed)
    index.append(FOUR[0])
    assert fs.list(PLACE.parent) == [renamed.name]


def test_an_index_follows_its_directory_to_a_new_name(fs: MemoryFileSystem) -> None:
    index = index_of(fs, *FOUR[:2])
    fs.rename(PLACE.parent, "/moved")
    index.rename(Path("/moved") / PLACE.name)
    index.append(FOUR[2])
    assert index.entries() == FOUR[:3]


def test_a_file_that_vanished_is_not_taken_for_an_index_without_entries(fs: MemoryFileSystem) -> None:
    index = index_of(fs, *FOUR)
    fs.unlink(PLACE)
    with pytest.raises(FileNotFoundError):
        index.collect(0, 100)


def test_closing_twice_is_fine_and_what_is_closed_can_be_used(fs: MemoryFileSystem) -> None:
    index = index_of(fs, *FOUR[:2])
    index.close()
    index.close()
    index.append(FOUR[2])
    assert index.entries() == FOUR[:3]
    assert "exists" in repr(index)


# ---------------------------------------------------------------- cutting


@pytest.mark.kafka("TXN-05")
def test_truncation_drops_the_entries_whose_marker_is_not_below_the_offset(fs: MemoryFileSystem) -> None:
    index = index_of(fs, *FOUR)
    index.truncate_to(51)
    assert index.entries() == FOUR
    index.truncate_to(50)
    assert index.entries() == FOUR[:3]
    index.reset()
    assert (index.entries(), fs.read_bytes(PLACE)) == ([], b"")


def test_after_truncation_a_marker_has_to_be_behind_the_last_one_that_is_left(fs: MemoryFileSystem) -> None:
    index = index_of(fs, *FOUR)
    index.truncate_to(20)
    with pytest.raises(ValueError, match="not behind the one at 15"):
        index.append(AbortedTransaction(1, 5, 15, 13))
    index.append(AbortedTransaction(1, 5, 16, 13))
    index.reset()
    index.append(FOUR[0])
    assert index.entries() == FOUR[:1]


@given(st.lists(st.one_of(st.integers(1, 9), st.tuples(st.integers(0, 40)), st.sampled_from(["reset", "reopen"]))))
@bounded
def test_appends_and_truncations_leave_what_a_list_would_hold(steps: list[object]) -> None:
    fs = MemoryFileSystem()
    fs.make_directory(PLACE.parent)
    index = reopened(fs)
    expected: list[AbortedTransaction] = []
    for step in steps:
        if isinstance(step, int):
            last_offset = (expected[-1].last_offset if expected else 0) + step
            expected.append(AbortedTransaction(step, last_offset - 1, last_offset, last_offset + 1))
            index.append(expected[-1])
        elif isinstance(step, tuple):
            index.truncate_to(step[0])
            expected = [one for one in expected if one.last_offset < step[0]]
        elif step == "reset":
            index.reset()
            expected = []
        else:
            index.close()
            index = reopened(fs)
        assert index.entries() == expected


# ---------------------------------------------------------------- reading


@pytest.mark.kafka("TXN-04")
@pytest.mark.parametrize(
    ("fetch_offset", "upper_bound_offset", "found", "complete"),
    [
        (0, 100, FOUR, False),
        (0, 32, FOUR[:3], True),
        (0, 35, FOUR, True),
        (10, 35, FOUR, True),
        (11, 35, FOUR[1:], True),
        (20, 41, FOUR[2:], False),
    ],
)
def test_what_was_written_is_found_by_the_range_of_a_fetch(
    fs: MemoryFileSystem, fetch_offset: int, upper_bound_offset: int, found: list[AbortedTransaction], complete: bool
) -> None:
    assert index_of(fs, *FOUR).collect(fetch_offset, upper_bound_offset) == (tuple(found), complete)


@pytest.mark.kafka("TXN-02")
def test_a_marker_below_the_base_offset_is_not_sane(fs: MemoryFileSystem) -> None:
    index_of(fs, *FOUR, base_offset=10).sanity_check()
    with pytest.raises(CorruptIndexError, match="below its base offset 100") as caught:
        reopened(fs, base_offset=100).sanity_check()
    assert caught.value.path == str(PLACE)


def test_an_unknown_version_is_reported_with_its_file(fs: MemoryFileSystem) -> None:
    fs.write_bytes(PLACE, FOUR[0].encode() + b"\0\1" + FOUR[1].encode()[2:])
    index = reopened(fs)
    for read in (index.entries, lambda: index.collect(0, 100), lambda: index.truncate_to(12), index.sanity_check):
        with pytest.raises(CorruptIndexError, match="entry 1") as caught:
            read()
        assert (caught.value.path, caught.value.position) == (str(PLACE), 34)
    index.reset()
    assert index.entries() == []


def test_a_file_too_large_to_be_an_index_is_refused(fs: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction_index_file, "BYTES_MAX", 34 * 3)
    index = index_of(fs, *FOUR[:3])
    assert index.entries() == FOUR[:3]
    index.append(FOUR[3])
    with pytest.raises(CorruptIndexError, match="136 bytes is larger than 102"):
        index.entries()


def test_who_reads_beside_appends_and_renames_sees_a_beginning_of_the_entries(tmp_path: Path) -> None:
    index = TransactionIndexFile(LocalFileSystem(), tmp_path / PLACE.name, 0)
    expected = [AbortedTransaction(number, number, number + 1, number) for number in range(200)]
    done, wrong = threading.Event(), []

    def read() -> None:
        seen = 0
        while not done.is_set():
            found = index.entries()
            if found != expected[: len(found)] or len(found) < seen:
                wrong.append(found)
            seen = len(found)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    choices = random.Random(3)
    for transaction in expected:
        index.append(transaction)
        if choices.random() < 0.1:
            index.rename(tmp_path / f"{transaction.last_offset:020d}.txnindex")
    done.set()
    for reader in readers:
        reader.join()
    index.close()
    assert not wrong
    assert index.entries() == expected
