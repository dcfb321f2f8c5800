"""Indexes in memory that begin as the files are, and leave these alone."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from logstore.fs import LocalFileSystem
from logstore.log.maps import MapCache
from logstore.log.scratch_indexes import ScratchFile, scratch_indexes, scratch_transaction_index
from logstore.log.segment_indexes import SegmentIndexes
from logstore.log.transaction_index import AbortedTransaction

FS = LocalFileSystem()
BYTES_MAX = 12_000


def scratch(directory: Path, base: int = 100) -> SegmentIndexes:
    found = scratch_indexes(FS, MapCache(FS), base, directory / "x.index", directory / "x.timeindex", BYTES_MAX)
    found.open()
    return found


def test_without_files_they_begin_empty_and_make_none(tmp_path: Path) -> None:
    indexes = scratch(tmp_path)
    assert indexes.sizes() == (0, 0)
    for number in range(200):
        indexes.put(100 + number, number * 10, number, 100 + number)
    assert indexes.floor_position(150) == 500
    assert indexes.time_floor(77).offset == 177
    assert list(tmp_path.iterdir()) == []


def test_they_begin_as_the_files_are_and_leave_them_so(tmp_path: Path) -> None:
    on_disk = SegmentIndexes(
        FS, MapCache(FS), 100, tmp_path / "x.index", tmp_path / "x.timeindex", BYTES_MAX
    )  # fmt: skip
    for number in range(50):
        on_disk.put(100 + number, number * 10, number, 100 + number)
    on_disk.trim()
    on_disk.close()
    before = {one: one.read_bytes() for one in tmp_path.iterdir()}
    indexes = scratch(tmp_path)
    assert indexes.last_offset_entry == (149, 490)
    indexes.put(160, 1000, 60, 160)
    assert indexes.last_offset_entry == (160, 1000)
    assert indexes.floor_position(120) == 200
    assert {one: one.read_bytes() for one in tmp_path.iterdir()} == before
    assert scratch(tmp_path).last_offset_entry == (149, 490)


def test_a_transaction_index_takes_more_entries_than_its_file(tmp_path: Path) -> None:
    entries = [AbortedTransaction(1, number, number, number) for number in range(300)]
    (tmp_path / "x.txnindex").write_bytes(entries[0].encode())
    index = scratch_transaction_index(FS, 0, tmp_path / "x.txnindex")
    for entry in entries[1:]:
        index.append(entry)
    index.sync()
    assert index.entries() == entries
    index.truncate_to(200)
    index.append(entries[200])
    assert index.entries() == entries[:201]
    assert (tmp_path / "x.txnindex").read_bytes() == entries[0].encode()


@pytest.mark.parametrize("data", [b"", b"12345"])
def test_a_file_in_memory_is_as_one_on_disk(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    files = (ScratchFile("file", data), FS.open(tmp_path / "file", write=True))
    steps = (
        ("write", 0, b"abc"), ("write", 10, b"behind"), ("truncate", 12), ("truncate", 30), ("write", 29, b"xy"),
        ("truncate", 0), ("truncate", 4), ("write", 2, b"z"), ("reserve", 0, 50), ("sync",),
    )  # fmt: skip
    for name, *arguments in steps:
        for file in files:
            getattr(file, name)(*arguments)
        one, other = ((file.size(), file.read(0, 100), file.read(3, 4), bytes(file.map().view)) for file in files)
        assert one == other, name


def test_a_reader_never_sees_room_that_is_not_written_yet() -> None:
    file, over = ScratchFile("file", b""), threading.Event()
    wrong: list[bytes] = []

    def read() -> None:
        while not over.is_set():
            data = file.read(0, file.size())
            if data.strip(b"x"):
                wrong.append(data)

    reading = threading.Thread(target=read)
    reading.start()
    for number in range(5000):
        file.write(number * 34, b"x" * 34)
    over.set()
    reading.join()
    assert wrong == []
