"""The file system in memory: what a power cut leaves of it, and how it fails on cue."""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.fs import FileSystem, SharingFileSystem, replace_atomically
from logstore.testing import CrashMode, ManualClock, MemoryFileSystem, Operation, SimulatedCrash

MODES: list[CrashMode] = ["nothing", "everything", "torn", "metadata", "subset"]
FULL = OSError(errno.ENOSPC, "No space left on device")
BROKEN = OSError(errno.EIO, "Input/output error")
bounded = settings(deadline=None, database=None)


@pytest.fixture
def fs() -> MemoryFileSystem:
    """A file system with one synced file, `kept`, of ten bytes."""
    fs = MemoryFileSystem()
    fs.write_bytes("kept", b"0123456789")
    return fs


def put(fs: FileSystem, path: str, data: bytes, position: int = 0, *, sync: bool = False) -> None:
    with fs.open(path, write=True, create=True) as file:
        file.write(position, data)
        if sync:
            file.sync()


def survivors(fs: MemoryFileSystem, mode: CrashMode, seeds: int = 100) -> set[tuple[tuple[str, bytes], ...]]:
    """All trees that these seeds leave."""
    return {tuple(sorted(fs.crash(mode, seed).tree().items())) for seed in range(seeds)}


# --- what is durable ---


def test_bytes_are_durable_once_their_file_was_synced(fs: MemoryFileSystem) -> None:
    put(fs, "kept", b"AB", sync=True)
    put(fs, "kept", b"CD", position=5)
    assert fs.read_bytes("kept") == b"AB234CD789"
    assert fs.crash("nothing").tree() == {"kept": b"AB23456789"}


def test_a_synced_file_is_lost_unless_its_directory_was_synced_too(fs: MemoryFileSystem) -> None:
    put(fs, "new", b"data", sync=True)
    assert fs.crash("nothing").tree() == {"kept": b"0123456789"}
    fs.sync_directory("/")
    assert fs.crash("nothing").tree() == {"kept": b"0123456789", "new": b"data"}


def test_syncing_a_directory_does_not_sync_the_bytes_of_its_files(fs: MemoryFileSystem) -> None:
    put(fs, "new", b"data")
    fs.sync_directory("/")
    assert fs.crash("nothing").read_bytes("new") == b""


def test_a_directory_is_lost_with_all_in_it_unless_the_one_above_was_synced(fs: MemoryFileSystem) -> None:
    fs.make_directory("a/b")
    put(fs, "a/b/new", b"data", sync=True)
    for path in ("a/b", "a"):
        fs.sync_directory(path)
        assert not fs.crash("nothing").exists("a")
    fs.sync_directory(".")
    assert fs.crash("nothing").read_bytes("a/b/new") == b"data"


def test_an_unsynced_rename_leaves_the_old_name_and_the_replaced_file(fs: MemoryFileSystem) -> None:
    fs.write_bytes("target", b"old")
    fs.rename("kept", "target")
    assert fs.tree() == {"target": b"0123456789"}
    assert fs.crash("nothing").tree() == {"kept": b"0123456789", "target": b"old"}
    fs.sync_directory("/")
    assert fs.crash("nothing").tree() == {"target": b"0123456789"}


def test_an_unsynced_unlink_brings_the_file_back(fs: MemoryFileSystem) -> None:
    fs.unlink("kept")
    assert fs.crash("nothing").tree() == {"kept": b"0123456789"}
    fs.sync_directory("/")
    assert fs.crash("nothing").tree() == {}


def test_between_directories_a_rename_is_durable_in_the_one_that_was_synced(fs: MemoryFileSystem) -> None:
    fs.write_bytes("a/file", b"data")
    fs.write_bytes("b/other", b"")
    fs.rename("a/file", "b/file")
    fs.sync_directory("b")
    assert fs.crash("nothing").tree() == {"a/file": b"data", "b/file": b"data", "b/other": b"", "kept": b"0123456789"}
    fs.sync_directory("a")
    assert fs.crash("nothing").tree() == fs.tree()


def test_truncation_is_durable_once_synced(fs: MemoryFileSystem) -> None:
    with fs.open("kept", write=True) as file:
        file.truncate(3)
        assert fs.crash("nothing").read_bytes("kept") == b"0123456789"
        file.sync()
        file.truncate(5)
    assert fs.crash("nothing").read_bytes("kept") == b"012"
    assert fs.crash("everything").read_bytes("kept") == b"012\0\0"


def test_a_crash_leaves_the_file_system_it_happened_to_alone(fs: MemoryFileSystem) -> None:
    put(fs, "new", b"data")
    after = fs.crash("nothing")
    put(after, "kept", b"changed", sync=True)
    assert fs.tree() == {"kept": b"0123456789", "new": b"data"}


@pytest.mark.parametrize("mode", MODES)
def test_what_was_synced_survives_every_crash_and_so_does_what_a_crash_left(
    fs: MemoryFileSystem, mode: CrashMode
) -> None:
    put(fs, "new", b"data", sync=True)
    fs.sync_directory("/")
    assert fs.crash(mode).tree() == fs.tree()
    put(fs, "kept", b"unsynced")
    after = fs.crash(mode)
    assert [after.crash(other).tree() for other in MODES] == [after.tree()] * len(MODES)


# --- the modes ---


def test_everything_may_survive(fs: MemoryFileSystem) -> None:
    put(fs, "new", b"data")
    fs.rename("kept", "moved")
    assert fs.crash("everything").tree() == {"new": b"data", "moved": b"0123456789"}


def test_the_last_write_of_each_file_may_be_torn(fs: MemoryFileSystem) -> None:
    put(fs, "new", b"first ")
    put(fs, "new", b"second", position=6)
    put(fs, "kept", b"ABCD", position=8)
    assert fs.crash("torn").tree() == {"new": b"first sec", "kept": b"01234567AB"}


def test_nothing_that_follows_a_torn_write_survives_in_its_file(fs: MemoryFileSystem) -> None:
    put(fs, "kept", b"ABCD")
    with fs.open("kept", write=True) as file:
        file.truncate(1)
    assert fs.crash("torn").read_bytes("kept") == b"AB23456789"


def test_without_a_write_a_torn_crash_leaves_everything(fs: MemoryFileSystem) -> None:
    with fs.open("kept", write=True) as file:
        file.truncate(1)
    assert fs.crash("torn").read_bytes("kept") == b"0"


def test_sizes_and_names_may_survive_without_the_bytes(fs: MemoryFileSystem) -> None:
    put(fs, "kept", b"ABCD", position=8)
    put(fs, "new", b"data")
    fs.rename("new", "moved")
    assert fs.crash("metadata").tree() == {"kept": b"0123456789\0\0", "moved": b"\0\0\0\0"}


def test_a_file_cut_and_written_anew_may_come_back_as_zeros(fs: MemoryFileSystem) -> None:
    with fs.open("kept", write=True) as file:
        file.truncate(2)
        file.write(2, b"ABCD")
    assert fs.crash("metadata").read_bytes("kept") == b"01\0\0\0\0"


def test_any_of_the_writes_may_survive_without_those_before_it(fs: MemoryFileSystem) -> None:
    for position, letter in enumerate((b"A", b"B", b"C")):
        put(fs, "kept", letter, position=position)
    found = {after.read_bytes("kept") for seed in range(200) for after in [fs.crash("subset", seed)]}
    assert found == {bytes([a, b, c]) + b"3456789" for a in b"0A" for b in b"1B" for c in b"2C"}


def test_a_write_may_survive_by_blocks_of_512_bytes(fs: MemoryFileSystem) -> None:
    put(fs, "kept", b"x" * 1500, position=10)
    found = {after.read_bytes("kept")[10:] for seed in range(300) for after in [fs.crash("subset", seed)]}
    blocks = [502, 512, 486]
    expected = set()
    for survived in range(8):
        pieces = [(b"x" if survived >> index & 1 else b"\0") * size for index, size in enumerate(blocks)]
        expected.add(b"".join(pieces).rstrip(b"\0"))
    assert found == expected


def test_changes_of_names_may_survive_independently_of_each_other(fs: MemoryFileSystem) -> None:
    put(fs, "a", b"", sync=True)
    fs.unlink("kept")
    put(fs, "b", b"", sync=True)
    found = {tuple(name for name, _ in tree) for tree in survivors(fs, "subset")}
    assert found == {
        tuple(sorted([*a, *b, *kept])) for a in ([], ["a"]) for b in ([], ["b"]) for kept in ([], ["kept"])
    }


def test_a_rename_survives_whole_or_not_at_all(fs: MemoryFileSystem) -> None:
    fs.write_bytes("d/other", b"")
    fs.rename("kept", "d/moved")
    before, after = (("d/other", b""), ("kept", b"0123456789")), (("d/moved", b"0123456789"), ("d/other", b""))
    assert survivors(fs, "subset") == {before, after}


def test_a_seed_always_leaves_the_same(fs: MemoryFileSystem) -> None:
    for index in range(10):
        put(fs, f"file-{index}", bytes([index]) * 2000)
    assert fs.crash("subset", 7).tree() == fs.crash("subset", 7).tree()
    assert len(survivors(fs, "subset")) > 90


# --- operations ---


def every_kind_of_operation(fs: SharingFileSystem) -> None:
    fs.make_directory("a/b")
    with fs.open("a/b/file", write=True, create=True) as file:
        file.write(0, b"hello world")
        file.truncate(5)
        file.sync()
    fs.rename("a/b/file", "a/file")
    fs.sync_directory("a")
    fs.unlink("a/file")
    fs.remove_directory("a/b")
    with contextlib.closing(fs.open_lock("a/turn")) as lock:
        lock.write(b"turn")


OPERATIONS = [
    Operation(1, "make_directory", "a"),
    Operation(2, "make_directory", "a/b"),
    Operation(3, "create", "a/b/file"),
    Operation(4, "write", "a/b/file", size=11),
    Operation(5, "truncate", "a/b/file", size=5),
    Operation(6, "sync", "a/b/file"),
    Operation(7, "rename", "a/b/file", target="a/file"),
    Operation(8, "sync_directory", "a"),
    Operation(9, "unlink", "a/file"),
    Operation(10, "remove_directory", "a/b"),
    Operation(11, "create", "a/turn"),
    Operation(12, "write", "a/turn", size=4),
]


def test_every_operation_that_changes_something_is_numbered() -> None:
    fs = MemoryFileSystem()
    seen: list[Operation] = []

    def see(operation: Operation) -> bool:
        seen.append(operation)
        return False

    fs.fail_on(see, FULL)
    every_kind_of_operation(fs)
    assert seen == OPERATIONS
    assert fs.operations == len(OPERATIONS)


def test_reading_and_asking_for_what_is_there_already_has_no_number(fs: MemoryFileSystem) -> None:
    fs.make_directory("/")
    fs.unlink("none", missing_ok=True)
    fs.rename("kept", "kept")
    fs.set_modified_ms("kept", 5)
    with fs.open("kept", write=True, create=True) as file:
        file.read(0, 10)
        file.write(0, b"")
        file.map().close()
    assert (fs.list("/"), fs.modified_ms("kept"), fs.operations) == (["kept"], 5, 0)


def test_what_is_refused_has_no_number(fs: MemoryFileSystem) -> None:
    with pytest.raises(FileNotFoundError):
        fs.rename("none", "kept")
    with fs.open("kept") as file, pytest.raises(OSError):
        file.write(0, b"x")
    assert fs.operations == 0


@pytest.mark.parametrize("stop_at", range(1, len(OPERATIONS) + 1))
def test_the_power_goes_before_the_operation_that_was_named(stop_at: int) -> None:
    whole, stopped = MemoryFileSystem(), MemoryFileSystem()
    stopped.stop_at = stop_at
    with pytest.raises(SimulatedCrash, match="the power is gone") as caught:
        every_kind_of_operation(stopped)
    assert caught.value.operation == OPERATIONS[stop_at - 1]
    assert stopped.operations == stop_at - 1
    whole.fail_on(lambda operation: operation.number == stop_at, OSError("stop"))
    with pytest.raises(OSError, match="stop"):
        every_kind_of_operation(whole)
    if OPERATIONS[stop_at - 1].kind not in ("sync", "sync_directory"):  # these lose something when they fail
        assert stopped.crash("everything").tree() == whole.crash("everything").tree()


def test_once_the_power_is_gone_nothing_happens_any_more(fs: MemoryFileSystem) -> None:
    fs.stop_at = 1
    file = fs.open("kept", write=True)
    for _ in range(2):
        with pytest.raises(SimulatedCrash):
            file.write(0, b"x")
        with pytest.raises(SimulatedCrash):
            file.sync()
        with pytest.raises(SimulatedCrash):
            fs.unlink("kept")
    file.close()
    assert (fs.tree(), fs.operations) == ({"kept": b"0123456789"}, 0)


def test_no_handler_of_exceptions_takes_a_crash(fs: MemoryFileSystem) -> None:
    fs.stop_at = 1
    with pytest.raises(SimulatedCrash), contextlib.suppress(Exception):
        fs.unlink("kept")


def test_the_power_may_go_in_the_middle_of_a_write(fs: MemoryFileSystem) -> None:
    fs.stop_at, fs.stop_torn = 1, True
    with fs.open("kept", write=True) as file:
        for _ in range(2):
            with pytest.raises(SimulatedCrash):
                file.write(0, b"ABCD")
    assert fs.crash("everything").tree() == {"kept": b"AB23456789"}
    assert fs.crash("nothing").tree() == {"kept": b"0123456789"}


def test_only_a_write_is_torn(fs: MemoryFileSystem) -> None:
    fs.stop_at, fs.stop_torn = 1, True
    with fs.open("kept", write=True) as file, pytest.raises(SimulatedCrash):
        file.truncate(4)
    assert fs.tree() == {"kept": b"0123456789"}


def test_operations_of_many_threads_are_counted(fs: MemoryFileSystem) -> None:
    def work(name: str) -> None:
        with fs.open(name, write=True, create=True) as file:
            for position in range(50):
                file.write(position, b"x")

    threads = [threading.Thread(target=work, args=(str(number),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fs.operations == 8 * 51
    assert fs.crash("everything").tree() == fs.tree()


# --- failures ---


def test_a_full_disk_refuses_writes_until_there_is_room_again(fs: MemoryFileSystem) -> None:
    fs.fail_on(lambda operation: operation.kind in ("write", "create"), FULL)
    with fs.open("kept", write=True) as file:
        for _ in range(2):
            with pytest.raises(OSError) as caught:
                file.write(0, b"ABCD")
            assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "kept")
        with pytest.raises(OSError):
            fs.open("new", write=True, create=True)
        assert (fs.tree(), fs.operations) == ({"kept": b"0123456789"}, 3)
        fs.heal()
        file.write(0, b"ABCD")
    assert fs.tree() == {"kept": b"ABCD456789"}


def test_a_disk_may_be_full_in_the_middle_of_a_write(fs: MemoryFileSystem) -> None:
    fs.fail_on(lambda operation: operation.size == 4, FULL, written=3, times=1)
    with fs.open("kept", write=True) as file:
        with pytest.raises(OSError, match="No space left"):
            file.write(0, b"ABCD")
        assert fs.tree() == {"kept": b"ABC3456789"}
        file.write(4, b"EFGH")
    assert fs.crash("everything").tree() == {"kept": b"ABC3EFGH89"}


def test_a_short_write_goes_on_as_another_operation(fs: MemoryFileSystem) -> None:
    fs.fail_on(lambda operation: operation.kind == "write", written=3)
    put(fs, "kept", b"ABCDEFGH")
    assert (fs.tree(), fs.operations) == ({"kept": b"ABCDEFGH89"}, 3)
    fs.stop_at = 5
    with pytest.raises(SimulatedCrash):
        put(fs, "kept", b"abcd")
    assert fs.tree() == {"kept": b"abcDEFGH89"}


def test_a_short_write_has_to_write_something(fs: MemoryFileSystem) -> None:
    with pytest.raises(ValueError, match="short write"):
        fs.fail_on(lambda operation: True)


def test_a_failed_sync_loses_the_bytes_though_the_next_one_succeeds(fs: MemoryFileSystem) -> None:
    fs.fail_on(lambda operation: operation.kind == "sync", BROKEN, times=1)
    with fs.open("kept", write=True) as file:
        file.write(0, b"lost")
        with pytest.raises(OSError, match="Input/output"):
            file.sync()
        file.write(10, b"good")
        file.sync()
    assert fs.read_bytes("kept") == b"lost456789good"
    assert [fs.crash(mode).read_bytes("kept") for mode in MODES] == [b"0123456789good"] * len(MODES)


def test_a_failed_sync_of_a_directory_loses_the_names_though_the_next_one_succeeds(fs: MemoryFileSystem) -> None:
    put(fs, "lost", b"", sync=True)
    fs.fail_on(lambda operation: operation.kind == "sync_directory", BROKEN, times=1)
    with pytest.raises(OSError, match="Input/output"):
        fs.sync_directory("/")
    put(fs, "good", b"", sync=True)
    fs.sync_directory("/")
    assert fs.list("/") == ["good", "kept", "lost"]
    assert [fs.crash(mode).list("/") for mode in MODES] == [["good", "kept"]] * len(MODES)


def test_an_operation_that_fails_has_changed_nothing(fs: MemoryFileSystem) -> None:
    fs.fail_on(lambda operation: True, BROKEN)
    with fs.open("kept", write=True) as file, pytest.raises(OSError):
        file.truncate(0)
    with pytest.raises(OSError):
        fs.rename("kept", "moved")
    with pytest.raises(OSError):
        fs.unlink("kept")
    with pytest.raises(OSError):
        fs.make_directory("d")
    assert (fs.tree(), fs.list("/"), fs.operations) == ({"kept": b"0123456789"}, ["kept"], 4)
    assert fs.crash("everything").tree() == fs.tree()


# --- maps, locks, times ---


def test_cutting_a_mapped_file_is_a_mistake(fs: MemoryFileSystem) -> None:
    with fs.open("kept", write=True) as file:
        mapped = file.map()
        with pytest.raises(AssertionError, match="kept is cut to 9 bytes while 10 are mapped"):
            file.truncate(9)
        file.truncate(12)
        file.truncate(10)
        mapped.close()
        file.truncate(9)
    assert fs.tree() == {"kept": b"012345678"}


def test_a_slice_of_a_closed_map_is_still_mapped(fs: MemoryFileSystem) -> None:
    with fs.open("kept", write=True) as file:
        mapped = file.map()
        piece = mapped.view[2:4]
        mapped.close()
        with pytest.raises(AssertionError):
            file.truncate(0)
        del piece
        file.truncate(0)


def test_a_map_that_was_dropped_or_is_of_a_replaced_file_does_not_count(fs: MemoryFileSystem) -> None:
    with fs.open("kept") as file:
        mapped = file.map()
        file.map()
    put(fs, "new", b"new")
    fs.rename("new", "kept")
    with fs.open("kept", write=True) as file:
        file.truncate(0)
    assert bytes(mapped.view) == b"0123456789"


def test_a_lock_is_gone_after_a_crash(fs: MemoryFileSystem) -> None:
    lock = fs.lock("kept")
    assert lock is not None and fs.lock("kept") is None
    assert fs.crash("nothing").lock("kept") is not None
    turn = fs.open_lock("turn")
    assert turn.acquire() and fs.crash("everything").open_lock("turn").acquire()


def test_what_is_written_into_a_lock_file_is_durable_only_where_somebody_syncs_it(fs: MemoryFileSystem) -> None:
    fs.open_lock("kept").write(b"AB")
    assert fs.crash("nothing").read_bytes("kept") == b"0123456789"
    assert fs.crash("torn").read_bytes("kept") == b"A123456789"
    with fs.open("kept", write=True) as file:
        file.sync()
    assert fs.crash("nothing").read_bytes("kept") == b"AB23456789"


def test_a_removed_directory_is_back_unless_the_one_above_was_synced(fs: MemoryFileSystem) -> None:
    fs.make_directory("d")
    fs.sync_directory("/")
    fs.remove_directory("d")
    assert not fs.exists("d") and fs.crash("nothing").exists("d")
    fs.sync_directory("/")
    assert not fs.crash("nothing").exists("d")


def test_to_wait_for_a_lock_that_nobody_will_drop_is_a_mistake(fs: MemoryFileSystem) -> None:
    one, other = fs.open_lock("turn"), fs.open_lock("turn")
    assert one.acquire(shared=True)
    with pytest.raises(AssertionError, match="nobody else"):
        other.acquire(wait=True)


# --- processes ---


def test_processes_see_the_same_files_and_keep_each_other_out(fs: MemoryFileSystem) -> None:
    other = fs.process()
    put(fs, "new", b"data")
    assert other.read_bytes("new") == b"data" and other.operations == fs.operations == 2
    lock = fs.lock("kept")
    assert lock is not None and other.lock("kept") is None
    assert not other.open_lock("kept").acquire(shared=True)
    lock.release()
    assert other.lock("kept") is not None
    other.fail_on(lambda operation: True, FULL)
    put(fs, "new", b"more")


def test_a_killed_process_has_no_locks_and_does_nothing_any_more(fs: MemoryFileSystem) -> None:
    other = fs.process()
    file, lock, turn = other.open("kept", write=True), other.lock("a"), other.open_lock("b")
    assert lock is not None and turn.acquire()
    file.write(0, b"AB")
    other.kill()
    assert fs.lock("a") is not None and fs.open_lock("b").acquire()
    with pytest.raises(SimulatedCrash):
        file.write(0, b"CD")
    with pytest.raises(ValueError, match="closed"):
        turn.acquire()
    assert fs.read_bytes("kept") == b"AB23456789", "what it wrote stays"
    assert fs.crash("nothing").read_bytes("kept") == b"0123456789", "and is as durable as it was"
    put(fs, "kept", b"EF")


def test_a_process_may_die_at_any_operation_while_others_go_on(fs: MemoryFileSystem) -> None:
    other = fs.process()
    other.stop_at = fs.operations + 2
    with pytest.raises(SimulatedCrash):
        put(other, "new", b"data")
    put(fs, "new", b"more")
    assert fs.tree()["new"] == b"more"


def test_files_have_the_time_of_the_clock_and_keep_it_in_a_crash() -> None:
    clock = ManualClock(1_000)
    fs = MemoryFileSystem(clock)
    fs.write_bytes("a", b"")
    put(fs, "b", b"")
    clock.advance(5)
    put(fs, "a", b"x")
    assert (fs.modified_ms("a"), fs.modified_ms("b")) == (1_005, 1_000)
    clock.advance(5)
    assert fs.crash("everything").modified_ms("b") == 1_000


# --- helpers ---


def test_bytes_that_a_test_puts_there_are_durable_and_have_no_number(fs: MemoryFileSystem) -> None:
    fs.unlink("kept")
    fs.fail_on(lambda operation: True, FULL)
    fs.write_bytes("/a/b/file", b"data")
    fs.write_bytes("kept", b"again")
    assert fs.operations == 1
    assert fs.crash("nothing").tree() == fs.tree() == {"a/b/file": b"data", "kept": b"again"}
    with pytest.raises(IsADirectoryError):
        fs.write_bytes("a/b", b"")
    with pytest.raises(NotADirectoryError):
        fs.write_bytes("kept/b", b"")
    with pytest.raises(IsADirectoryError):
        fs.read_bytes("a/b")


def test_a_file_system_can_be_exported_and_loaded(fs: MemoryFileSystem, tmp_path: Path) -> None:
    fs.write_bytes("a/b/file", b"data")
    fs.make_directory("a/empty")
    fs.export(tmp_path / "out")
    fs.export(tmp_path / "out")
    loaded = MemoryFileSystem.load(tmp_path / "out")
    assert loaded.tree() == fs.tree() == {"a/b/file": b"data", "kept": b"0123456789"}
    after = loaded.crash("nothing")
    assert (after.list("a"), after.tree(), loaded.operations) == (["b", "empty"], fs.tree(), 0)


def test_it_shows_how_far_it_is(fs: MemoryFileSystem) -> None:
    fs.unlink("kept")
    fs.stop_at = 9
    assert repr(fs) == "<MemoryFileSystem 0 files, operations 1, stop_at 9>"


# --- replacing a file ---


def stops(fs: MemoryFileSystem) -> Iterator[MemoryFileSystem]:
    """The file system as it is, with a stop before each operation of replacing `kept`, torn and not."""
    for number in range(1, 8):
        for torn in (False, True):
            stopped = fs.crash("everything")
            stopped.stop_at, stopped.stop_torn = number, torn
            yield stopped


def test_a_replaced_file_is_the_old_or_the_new_one_wherever_the_power_goes(fs: MemoryFileSystem) -> None:
    fs.write_bytes("kept.tmp", b"left behind")
    replaced = 0
    for stopped in stops(fs):
        try:
            replace_atomically(stopped, "kept", b"new" * 400)
        except SimulatedCrash:
            allowed = {b"0123456789", b"new" * 400}
        else:
            replaced += 1
            allowed = {b"new" * 400}
        for mode in MODES:
            for seed in range(20):
                assert stopped.crash(mode, seed).read_bytes("kept") in allowed
    assert replaced == 4  # truncate, write, sync, rename, sync_directory: five stops of seven are before one


def has_number(number: int, operation: Operation) -> bool:
    return operation.number == number


def test_a_replaced_file_is_the_old_or_the_new_one_whatever_fails(fs: MemoryFileSystem) -> None:
    for number in range(1, 6):
        failing = fs.crash("everything")
        failing.fail_on(partial(has_number, number), FULL, written=1)
        with pytest.raises(OSError, match="No space left"):
            replace_atomically(failing, "kept", b"new")
        assert failing.crash("subset", number).read_bytes("kept") in (b"0123456789", b"new")
        replace_atomically(failing, "kept", b"newer")
        assert failing.crash("nothing").read_bytes("kept") == b"newer"


# --- against a model ---

names = st.sampled_from("abc")
steps = st.one_of(
    st.tuples(st.just("write"), names, st.integers(0, 12), st.binary(min_size=1, max_size=6)),
    st.tuples(st.just("truncate"), names, st.integers(0, 12)),
    st.tuples(st.just("sync"), names),
    st.tuples(st.just("rename"), names, names),
    st.tuples(st.just("unlink"), names),
    st.tuples(st.just("sync_directory")),
)


class Model:
    """One directory, by whole copies: each file's bytes now and as synced, and the names now and as synced."""

    def __init__(self) -> None:
        self.now: list[bytes] = []
        self.synced: list[bytes] = []
        self.names: dict[str, int] = {}
        self.synced_names: dict[str, int] = {}

    def do(self, kind: str, name: str = "", *rest: object) -> None:
        if kind == "sync_directory":
            self.synced_names = dict(self.names)
            return
        if kind == "write" and name not in self.names:
            self.names[name] = len(self.now)
            self.now.append(b"")
            self.synced.append(b"")
        if name not in self.names:
            return
        file = self.names[name]
        match kind, rest:
            case "write", [int(position), bytes(data)]:
                old = self.now[file].ljust(position, b"\0")
                self.now[file] = old[:position] + data + old[position + len(data) :]
            case "truncate", [int(size)]:
                self.now[file] = self.now[file][:size].ljust(size, b"\0")
            case "sync", []:
                self.synced[file] = self.now[file]
            case "rename", [str(target)]:
                self.names[target] = self.names.pop(name)
            case "unlink", []:
                del self.names[name]

    def visible(self) -> dict[str, bytes]:
        return {name: self.now[file] for name, file in self.names.items()}

    def durable(self) -> dict[str, bytes]:
        return {name: self.synced[file] for name, file in self.synced_names.items()}


def do(fs: MemoryFileSystem, kind: str, name: str = "", *rest: object) -> None:
    if kind == "sync_directory":
        fs.sync_directory("/")
    elif kind == "write" or fs.exists(name):
        match kind, rest:
            case "write", [int(position), bytes(data)]:
                put(fs, name, data, position)
            case "truncate", [int(size)]:
                with fs.open(name, write=True) as file:
                    file.truncate(size)
            case "sync", []:
                with fs.open(name) as file:
                    file.sync()
            case "rename", [str(target)]:
                fs.rename(name, target)
            case "unlink", []:
                fs.unlink(name)


@given(st.lists(steps, max_size=30), st.integers(0, 3))
@bounded
def test_a_crash_leaves_at_most_what_was_visible_and_at_least_what_was_synced(
    script: list[tuple[str, ...]], seed: int
) -> None:
    fs, model = MemoryFileSystem(), Model()
    for step in script:
        do(fs, *step)
        model.do(*step)
        assert fs.tree() == model.visible()
        assert fs.crash("everything").tree() == model.visible()
        assert fs.crash("nothing").tree() == model.durable()
    written = {byte for step in script if step[0] == "write" for byte in step[3]} | {0}
    for mode in MODES:
        after = fs.crash(mode, seed).tree()
        assert after.keys() <= {"a", "b", "c"}
        assert all(set(data) <= written for data in after.values())
    assert {name: len(data) for name, data in fs.crash("metadata").tree().items()} == {
        name: len(data) for name, data in fs.tree().items()
    }
