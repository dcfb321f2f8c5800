"""Which files are a log's, and what becomes of those that a crash has left in the middle of something."""

from __future__ import annotations

import pytest
from helpers.stored_logs import PLACE, SMALL, Disk, Writing, crash_points, segments

from logstore.log.leftovers import PartitionListing
from logstore.names import FileKind

LOG, INDEX = FileKind.LOG, FileKind.OFFSET_INDEX


def listing(disk: Disk) -> PartitionListing:
    before = disk.fs.operations
    found = PartitionListing(disk.fs, PLACE, SMALL)
    assert disk.fs.operations == before  # looking changes nothing
    return found


def settle(disk: Disk) -> list[tuple[str, str]]:
    """Settle what is left over; what was done to which file."""
    done: list[tuple[str, str]] = []
    listing(disk).settle(lambda kind, path, _: done.append((kind, path.name)))
    return done


def log(base: int, suffix: str = "") -> str:
    return f"{base:020d}.log{suffix}"


def test_segments_are_listed_in_order_whatever_else_there_is() -> None:
    disk = segments().save().write("notes.log", b"").write("7.log", b"").write(log(3, ".deleted"), b"")
    found = listing(disk)
    assert (found.bases, found.was_replacing) == ([0, 8, 16], False)
    assert found.now(8, LOG) == PLACE / log(8)
    assert (found.has(8, LOG), found.has(8, INDEX)) == (True, False)
    assert repr(found) == f"<PartitionListing 3 segments of {PLACE}>"


def test_what_will_be_renamed_counts_as_what_it_will_be() -> None:
    disk = segments().save()
    disk.rename(log(8), log(8, ".swap")).write("00000000000000000008.index.swap", b"")
    found = listing(disk)
    assert (found.bases, found.was_replacing) == ([0, 8, 16], True)
    assert found.now(8, LOG) == PLACE / log(8, ".swap")
    assert found.now(8, INDEX) == PLACE / "00000000000000000008.index.swap"
    assert settle(disk) == [("rename", "00000000000000000008.index.swap"), ("rename", log(8, ".swap"))]
    assert disk.names() == [log(0), "00000000000000000008.index", log(8), log(16)]


def test_what_a_replacement_covers_goes_and_nothing_else() -> None:
    disk = segments(4).save().settle()
    for name in ("00000000000000000012.snapshot", "00000000000000000023.snapshot"):
        disk.write(name, b"")
    disk.write(log(8, ".swap"), disk.read(log(8)) + disk.read(log(16)))
    settle(disk)
    assert disk.offsets_of(".log") == [0, 8, 24]
    assert disk.offsets_of(".index") == [0, 24]
    assert disk.offsets_of(".snapshot") == [24, 32]


def test_a_replacement_without_batches_takes_the_place_of_its_namesake() -> None:
    disk = segments(2).save().write(log(8, ".swap"), b"")
    settle(disk)
    assert (disk.offsets_of(".log"), disk.read(log(8))) == ([0, 8], b"")


@pytest.mark.parametrize("suffixes", [(".cleaned", ".swap"), (".swap", ".cleaned"), (".cleaned", ".cleaned")])
def test_a_replacement_of_what_is_still_there_is_undone(suffixes: tuple[str, str]) -> None:
    disk = segments(2).save()
    disk.write(log(0, suffixes[0]), disk.read(log(0))[:85]).write(log(2, suffixes[1]), disk.read(log(0))[85:])
    before = {log(base): disk.read(log(base)) for base in (0, 8)}
    settle(disk)
    assert disk.files() == before


def test_an_earlier_replacement_is_finished_though_a_later_one_had_begun() -> None:
    disk = segments(3).save()
    disk.rename(log(0), log(0, ".swap")).write(log(8, ".cleaned"), b"half")
    before = disk.read(log(0, ".swap"))
    settle(disk)
    assert disk.offsets_of(".log") == [0, 8, 16]
    assert (disk.read(log(0)), disk.names(".cleaned", ".swap")) == (before, [])


def test_what_a_foreign_file_is_called_undoes_nothing() -> None:
    disk = segments(2).save().rename(log(0), log(0, ".swap")).write("notes.cleaned", b"mine")
    settle(disk)
    assert disk.offsets_of(".log") == [0, 8]
    assert disk.read("notes.cleaned") == b"mine"


def test_settling_may_be_interrupted_anywhere() -> None:
    def made() -> Disk:
        disk = segments(4).save().settle()
        disk.write(log(0, ".swap"), disk.read(log(0))[:85] + disk.read(log(8)))
        disk.write("00000000000000000000.index.swap", b"").write("00000000000000000000.timeindex.swap", b"")
        disk.write(log(16, ".deleted"), b"old").write("00000000000000000099.index", b"orphan")
        return disk.remove(".lock")

    whole = made()
    settle(whole)
    wanted, points = whole.copy().files(), 0
    for number, stopped in crash_points(made().copy(), settle):
        points += 1
        for mode, seed in (("nothing", 0), ("everything", 0), *(("subset", number * 100 + one) for one in range(10))):
            after = stopped.copy(mode, seed)  # type: ignore[arg-type]
            settle(after)
            assert {name: data for name, data in after.files().items() if "index" not in name} == {
                name: data for name, data in wanted.items() if "index" not in name
            }, f"stopped at {number}, {mode} {seed}"
    assert points > 12


def test_an_undone_replacement_may_be_interrupted_anywhere() -> None:
    def made() -> Disk:
        disk = Writing().plain(2).plain(2).plain(2).save()
        whole = disk.read(log(0))
        size = len(whole) // 3
        disk.write(log(0, ".cleaned"), whole[:size]).write(log(2, ".swap"), whole[size : 2 * size])
        return disk.write(log(4, ".swap"), whole[2 * size :])

    wanted = {log(0): made().read(log(0))}
    for number, stopped in crash_points(made().copy(), settle):
        for seed in range(20):
            after = stopped.copy("subset", number * 100 + seed)
            settle(after)
            assert after.files() == wanted, f"stopped at {number}, {seed}"
