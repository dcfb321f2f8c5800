"""Mapped files: a bounded number of them, none of them stale."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.segments import FILE_SYSTEMS, Place, read_while

from logstore.fs import File, FileMap
from logstore.log.maps import MapCache
from logstore.testing import MemoryFileSystem


@pytest.fixture(params=FILE_SYSTEMS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place.on(request.param, tmp_path)


def test_a_file_is_mapped_as_it_is_until_it_is_forgotten(place: Place) -> None:
    path = place.path / "a"
    place.write("a", b"one")
    assert place.maps.view(path) == b"one"
    place.write("a", b"another")
    assert place.maps.view(path) == b"one"
    place.maps.forget(path)
    assert place.maps.view(os.fspath(path)) == b"another"
    place.write("a", b"")
    place.maps.clear()
    assert place.maps.view(path) == b""


def test_a_file_that_cannot_be_opened_raises_what_the_system_says_each_time(place: Place) -> None:
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            place.maps.view(place.path / "missing")
    place.maps.forget(place.path / "missing")


def test_the_map_used_longest_ago_gives_way_and_its_slices_stay(place: Place) -> None:
    maps = MapCache(place.fs, maps_max=2)
    for name in "abc":
        place.write(name, name.encode() * 5)
    first = maps.view(place.path / "a")[1:3]
    maps.view(place.path / "b")
    maps.view(place.path / "a")
    maps.view(place.path / "c")
    for name in "abc":
        place.fs.unlink(place.path / name)
    assert (maps.view(place.path / "a"), maps.view(place.path / "c"), first) == (b"aaaaa", b"ccccc", b"aa")
    with pytest.raises(FileNotFoundError):
        maps.view(place.path / "b")
    assert repr(maps) == "<MapCache 2 of 2>"


def test_maps_keep_a_bounded_number_of_descriptors(tmp_path: Path) -> None:
    place = Place.on("local", tmp_path)
    maps = MapCache(place.fs, maps_max=4)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for number in range(50):
        place.write(f"{number}", b"x")
        maps.view(place.path / f"{number}")
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 4
    maps.clear()
    if before:
        assert len(os.listdir("/proc/self/fd")) == before


def test_what_is_forgotten_while_it_is_mapped_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place.on("memory", tmp_path)
    place.write("a", b"old")
    file: File = place.fs.open(place.path / "a")
    original = type(file).map

    def replaced_meanwhile(self: File) -> FileMap:
        mapped = original(self)
        monkeypatch.setattr(type(file), "map", original)
        place.write("a", b"new")
        place.maps.forget(place.path / "a")
        return mapped

    monkeypatch.setattr(type(file), "map", replaced_meanwhile)
    assert place.maps.view(place.path / "a") == b"old"
    assert place.maps.view(place.path / "a") == b"new"


def test_many_threads_may_ask_for_more_files_than_are_kept(place: Place) -> None:
    maps = MapCache(place.fs, maps_max=3)
    names = [f"{number}" for number in range(9)]
    for name in names:
        place.write(name, name.encode())

    def ask() -> None:
        for name in names:
            assert maps.view(place.path / name) == name.encode()

    def forget() -> None:
        for _ in range(200):
            for name in names:
                maps.forget(place.path / name)

    read_while(ask, forget)
    assert len(maps._maps) <= 3


def test_a_map_that_is_kept_forbids_its_file_to_be_cut(tmp_path: Path) -> None:
    """The invariant that everybody relies on; the file system in memory stands guard over it."""
    place = Place.on("memory", tmp_path)
    assert isinstance(place.fs, MemoryFileSystem)
    place.write("a", b"content")
    place.maps.view(place.path / "a")
    with place.fs.open(place.path / "a", write=True) as file:
        with pytest.raises(AssertionError, match="readers would die"):
            file.truncate(3)
        place.maps.forget(place.path / "a")
        file.truncate(3)
