"""What is taken out of a log is kept aside whole, under names that are free."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.stored_logs import PLACE, Disk, crash_points

from logstore.log.aside import is_zeros, keep_end, set_aside

NAME = "00000000000000000000.log"


@pytest.fixture
def disk() -> Disk:
    return Disk().write(NAME, b"0123456789")


def keep(disk: Disk, start: int) -> Path:
    with disk.fs.open(PLACE / NAME) as file:
        return keep_end(disk.fs, file, PLACE / NAME, start)


def test_the_end_of_a_file_is_copied_durably_and_the_file_stays(disk: Disk) -> None:
    assert keep(disk, 4) == PLACE / f".{NAME}.4.aside"
    after = disk.copy("nothing")
    assert after.asides() == {f".{NAME}.4.aside": b"456789"}
    assert after.read(NAME) == b"0123456789"


def test_more_than_is_copied_at_a_time_is_copied(disk: Disk) -> None:
    data = bytes(range(256)) * 10_000
    disk.write(NAME, data)
    keep(disk, 3)
    keep(disk, 3)
    assert list(disk.asides().values()) == [data[3:]]


def test_a_name_that_is_taken_by_something_else_gets_a_number(disk: Disk) -> None:
    keep(disk, 4)
    for content, name in ((b"0123abcdef", f".{NAME}.4-2.aside"), (b"0123", f".{NAME}.4-3.aside")):
        disk.write(NAME, content)
        assert keep(disk, 4) == keep(disk, 4) == PLACE / name
    assert disk.asides()[f".{NAME}.4.aside"] == b"456789"


def test_whole_files_are_renamed_and_replace_none(disk: Disk) -> None:
    assert set_aside(disk.fs, PLACE / NAME) == PLACE / f".{NAME}.aside"
    disk.write(NAME, b"another")
    assert set_aside(disk.fs, PLACE / NAME) == PLACE / f".{NAME}-2.aside"
    assert disk.asides() == {f".{NAME}.aside": b"0123456789", f".{NAME}-2.aside": b"another"}


def test_a_file_that_is_kept_aside_is_complete_whenever_a_crash_comes(disk: Disk) -> None:
    points = 0
    for _, stopped in crash_points(disk, lambda one: keep(one, 4)):
        points += 1
        for mode in ("nothing", "everything", "torn", "metadata", "subset"):
            after = stopped.copy(mode)  # type: ignore[arg-type]
            assert set(after.asides().values()) <= {b"456789"}
            keep(after, 4)
            assert after.asides() == {f".{NAME}.4.aside": b"456789"}
    assert points == 5  # create, write, sync, rename, sync of the directory


@pytest.mark.parametrize(("data", "expected"), [(b"", True), (b"\0" * 7, True), (b"\0\0\1", False), (b"\1\0", False)])
def test_zeros_are_told_from_content(disk: Disk, data: bytes, *, expected: bool) -> None:
    disk.write(NAME, b"12" + data)
    with disk.fs.open(PLACE / NAME) as file:
        assert is_zeros(file, 2, 2 + len(data)) is expected


def test_zeros_are_told_in_ranges_larger_than_what_is_read_at_a_time(disk: Disk) -> None:
    disk.write(NAME, bytes((1 << 20) + 5) + b"\1")
    with disk.fs.open(PLACE / NAME) as file:
        assert is_zeros(file, 0, (1 << 20) + 5)
        assert not is_zeros(file, 0, (1 << 20) + 6)
