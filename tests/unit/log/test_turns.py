"""Taking turns at a partition: numbers that tell others of changes, and a lock that goes with the process."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from helpers.processes import Child, Line, run

from logstore.fs import LocalFileSystem
from logstore.log import Turn, Turns, parse_turn, read_turn

FS = LocalFileSystem()


def opened(directory: Path, session: int = 7) -> Turns:
    return Turns(FS.open_lock(directory / ".lock"), session)


def test_a_new_lock_file_says_nothing(tmp_path: Path) -> None:
    turns = opened(tmp_path)
    assert turns.raw() == b""
    assert turns.read() == Turn(0, 0)
    assert turns.read().is_settled
    assert not turns.is_good(turns.read())


def test_a_change_is_seen_before_and_after_it(tmp_path: Path) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    before = other.raw()
    with one.taken(), one.changing():
        assert other.raw() != before
        assert not other.read().is_settled
        during = other.raw()
    assert other.raw() not in (before, during)
    assert other.is_good(other.read())


def test_each_change_gives_other_numbers(tmp_path: Path) -> None:
    turns, seen = opened(tmp_path), set()
    for _ in range(5):
        with turns.taken(), turns.changing():
            seen.add(turns.raw())
        seen.add(turns.raw())
    assert len(seen) == 10


def test_a_change_that_fails_does_not_count_as_in_order(tmp_path: Path) -> None:
    turns = opened(tmp_path)
    with pytest.raises(RuntimeError), turns.taken(), turns.changing():
        raise RuntimeError
    assert not turns.read().is_settled
    with turns.taken(), turns.changing():  # and is let go of the lock
        pass
    assert turns.is_good(turns.read())


def test_what_another_session_has_left_is_not_good(tmp_path: Path) -> None:
    one, other = opened(tmp_path, 7), opened(tmp_path, 8)
    one.end()
    assert one.is_good(one.read())
    assert not other.is_good(other.read())
    other.end()
    assert not one.is_good(one.read())


def test_a_deleted_partition_is_neither_good_nor_settled(tmp_path: Path) -> None:
    turns = opened(tmp_path)
    turns.delete()
    assert turns.read().is_deleted
    assert not turns.read().is_settled
    assert not turns.is_good(turns.read())


def test_only_one_has_the_turn(tmp_path: Path) -> None:
    one, other, got = opened(tmp_path), opened(tmp_path), threading.Event()

    def wait() -> None:
        with other.taken():
            got.set()

    waiting = threading.Thread(target=wait)
    with one.taken():
        with other.tried() as has_it:
            assert not has_it
        waiting.start()
        assert not got.wait(0.05)
    waiting.join()
    assert got.is_set()
    with other.tried() as has_it:
        assert has_it


def test_the_turn_of_a_killed_process_is_free_and_its_change_unfinished(tmp_path: Path) -> None:
    def die(line: Line) -> None:
        turns = opened(tmp_path)
        with turns.taken(), turns.changing():
            line.tell("at it")
            line.wait()

    turns = opened(tmp_path)
    with Child(die) as child:
        assert child.hear() == "at it"
        with turns.tried() as has_it:
            assert not has_it
    with turns.taken():
        assert not turns.read().is_settled


def test_a_child_neither_has_nor_ends_the_turn_of_its_parent(tmp_path: Path) -> None:
    turns = opened(tmp_path)

    def try_it(line: Line) -> bool:
        with opened(tmp_path).tried() as has_it:
            return has_it

    with turns.taken():
        assert run(try_it) is False
        assert run(try_it) is False  # the end of the first one has changed nothing
    assert run(try_it) is True


@pytest.mark.parametrize("content", [b"", b"x", b"0" * 15, b"anything else that is a little longer"])
def test_a_lock_file_of_somebody_else_says_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".lock").write_bytes(content)
    assert read_turn(FS, tmp_path / ".lock") == (Turn() if len(content) < 16 else parse_turn(content[:16]))


def test_a_lock_file_that_is_not_there_is_not_made_by_looking(tmp_path: Path) -> None:
    assert read_turn(FS, tmp_path / ".lock") == Turn()
    assert list(tmp_path.iterdir()) == []
