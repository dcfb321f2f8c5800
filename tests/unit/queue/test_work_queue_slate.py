"""What is noted on the slate counts until the state topic is written again, and no longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from logstore.fs import LocalFileSystem
from logstore.queue.work_queue_slate import PREFIX, Slate


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


def opened(root: Path) -> Slate:
    return Slate(LocalFileSystem(), root, "jobs")


def file_of(root: Path) -> Path:
    return root / f"{PREFIX}jobs"


def test_what_was_noted_is_read_by_the_next(root: Path) -> None:
    slate = opened(root)
    slate.write(7, 0, 5)
    slate.write(7, 2, 3)
    assert slate.pending == [(0, 5), (2, 3)]
    assert opened(root).read(7) == [(0, 5), (2, 3)]
    slate.close()


def test_what_the_state_topic_has_taken_in_is_void(root: Path) -> None:
    slate = opened(root)
    for offset in range(3):
        slate.write(7, 0, offset)
    slate.pending.clear()
    assert opened(root).read(8) == []
    slate.write(8, 0, 9)
    assert opened(root).read(8) == [(0, 9)]


def test_an_entry_that_is_not_whole_ends_it(root: Path) -> None:
    slate = opened(root)
    for offset in range(3):
        slate.write(7, 0, offset)
    data = file_of(root).read_bytes()
    assert len(data) == 66
    file_of(root).write_bytes(data[:-1])
    assert opened(root).read(7) == [(0, 0), (0, 1)]
    file_of(root).write_bytes(data[:30] + b"\x63" + data[31:])
    assert opened(root).read(7) == [(0, 0)]


def test_it_is_empty_once_it_was_erased(root: Path) -> None:
    slate = opened(root)
    slate.write(7, 0, 1)
    opened(root).erase()
    assert opened(root).read(7) == []


def test_the_bytes_are_those_of_the_layout(root: Path) -> None:
    opened(root).write(1, 2, 3)
    assert file_of(root).read_bytes().hex()[:36] == f"{1:016x}{3:016x}0002"
