"""What has to be done about a directory is found out without changing it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from helpers.stored_logs import PLACE, SMALL, START, Disk, Writing, interleaved, segments

from logstore.errors import DamagedLogError
from logstore.log import read_facts
from logstore.log.diagnosis import Diagnosis
from logstore.log.epoch_file import EpochFile
from logstore.records import encode_batch

FIRST, SECOND, THIRD = (f"{base:020d}" for base in (0, 8, 16))


def diagnose(disk: Disk, *, refuses_damage: bool = True) -> Diagnosis:
    before = disk.fs.tree()
    epochs = EpochFile(disk.fs, PLACE)
    facts = read_facts(disk.fs, PLACE)
    try:
        return Diagnosis(disk.fs, PLACE, SMALL, facts, epochs, refuses_damage=refuses_damage)
    finally:
        assert disk.fs.tree() == before


def test_a_new_directory_needs_nothing() -> None:
    found = diagnose(Disk())
    assert (found.is_new, found.was_clean, found.unsound) == (True, True, {})


def test_a_log_that_was_closed_cleanly_needs_nothing_and_all_of_it_is_relied_on() -> None:
    found = diagnose(segments().save().settle())
    assert (found.is_new, found.was_clean, found.unsound, found.limit) == (False, True, {}, 24)


@pytest.mark.parametrize(
    ("recovery_point", "limit", "bases"),
    [
        (None, 16, [0, 8, 16]), (0, 0, [0, 8, 16]), (7, 7, [0, 8, 16]), (8, 8, [8, 16]), (15, 15, [8, 16]),
        (16, 16, [16]), (24, 24, [16]), (99, 99, [16]),
    ],
)  # fmt: skip
def test_after_a_crash_the_segment_of_the_recovery_point_and_all_behind_it_are_checked(
    recovery_point: int | None, limit: int, bases: list[int]
) -> None:
    found = diagnose(segments().save().settle().unclean(recovery_point))
    assert (found.was_clean, found.limit, sorted(found.unsound)) == (False, limit, bases)
    assert set(found.unsound.values()) == {"the log was not closed cleanly"}


def test_a_log_that_begins_behind_the_recovery_point_is_checked_as_a_whole() -> None:
    found = diagnose(Writing(100).plain().roll().plain().save().state(5))
    assert sorted(found.unsound) == [100, 101]


UNSOUND: dict[str, tuple[Callable[[Disk], object], str]] = {
    "no offset index": (lambda disk: disk.remove(f"{SECOND}.index"), f"{SECOND}.index missing"),
    "no time index": (lambda disk: disk.remove(f"{SECOND}.timeindex"), f"{SECOND}.timeindex missing"),
    "neither": (
        lambda disk: disk.remove(f"{SECOND}.timeindex", f"{SECOND}.index"),
        f"{SECOND}.index and {SECOND}.timeindex missing",
    ),
    "a transaction of before": (
        lambda disk: disk.write(f"{SECOND}.txnindex", b"\0\0" + bytes(32)),
        "entry 0 of the transaction index ends at offset 0, below its base offset 8",
    ),
}


@pytest.mark.parametrize("what", UNSOUND)
def test_a_segment_without_its_indexes_is_recovered_also_after_a_clean_close(what: str) -> None:
    disk = segments().save().settle()
    act, why = UNSOUND[what]
    act(disk)
    found = diagnose(disk)
    assert (found.was_clean, found.unsound) == (True, {8: why})


def test_an_empty_segment_needs_no_indexes() -> None:
    disk = segments().roll().save().settle().remove("24.index", "24.timeindex")
    assert diagnose(disk).unsound == {}


@pytest.mark.parametrize("leftover", [f"{FIRST}.log.cleaned", f"{FIRST}.log.swap"])
def test_a_log_in_the_middle_of_a_replacement_was_not_closed_cleanly(leftover: str) -> None:
    disk = segments().save().settle()
    disk.write(leftover, disk.read(f"{FIRST}.log"))
    assert not diagnose(disk).was_clean


def test_damage_is_named_before_anything_is_done_unless_it_may_be_cut() -> None:
    disk = segments().save().settle().unclean().flip(f"{FIRST}.log", 150)
    with pytest.raises(DamagedLogError, match="do not match") as caught:
        diagnose(disk)
    assert (caught.value.position, caught.value.offset) == (85, 2)
    assert sorted(diagnose(disk, refuses_damage=False).unsound) == [0, 8, 16]


def test_what_a_power_cut_may_have_done_is_no_damage() -> None:
    for recovery_point in (0, 8):
        disk = segments().save().settle().unclean(recovery_point).flip(f"{SECOND}.log", 20)
        diagnose(disk)
    disk = segments().save().settle().unclean(16).add(f"{THIRD}.log", b"?" * 99)
    diagnose(disk)


def test_scans_are_kept_for_the_recovery_where_no_batch_has_to_be_seen_again() -> None:
    disk = segments().save().settle().unclean()
    assert sorted(diagnose(disk).scans) == [0, 8]
    assert sorted(diagnose(interleaved((17, 49)).save().settle().unclean()).scans) == []
    assert diagnose(disk, refuses_damage=False).scans == {}


def test_leader_epochs_that_are_not_known_yet_have_to_be_seen() -> None:
    disk = Writing().plain(leader_epoch=3).roll().plain(leader_epoch=4).roll().plain().save()
    disk.write("leader-epoch-checkpoint", "0\n1\n3 0\n")
    assert sorted(diagnose(disk).scans) == [0]
    disk.write("leader-epoch-checkpoint", "garbage")
    found = diagnose(disk)
    assert sorted(found.scans) == [0, 1]  # they are taken from all batches later
    assert found.epoch_problem is not None


def test_offsets_that_do_not_fit_are_no_damage() -> None:
    writing = Writing()
    for offset in (0, 2**31 + 5):
        writing.put(encode_batch([(b"k", b"v")], base_offset=offset, timestamp=START))
    disk = writing.roll(2**31 + 50).plain().save()
    found = diagnose(disk)
    assert sorted(found.unsound) == [0, 2**31 + 50]
    assert found.scans == {}


def test_a_diagnosis_says_what_it_is() -> None:
    assert repr(diagnose(segments().save().settle())) == f"<Diagnosis of {PLACE} limit 24 unsound {{}}>"
