"""Whether a log need not be opened to be complete."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.open_logs import from_leader
from helpers.shared_logs import SMALL, SharedPlace, fill

from logstore.config import LogConfig
from logstore.fs import LocalFileSystem
from logstore.log import ClosedLog, PartitionFacts, find_closed_log


@pytest.fixture
def place(tmp_path: Path) -> SharedPlace:
    return SharedPlace(tmp_path / "orders-0")


def find(place: SharedPlace, known: PartitionFacts | None = None) -> ClosedLog | None:
    before = {one.name: one.read_bytes() for one in place.directory.iterdir()}
    found = find_closed_log(LocalFileSystem(), place.directory, LogConfig(), known or PartitionFacts())
    assert {one.name: one.read_bytes() for one in place.directory.iterdir()} == before
    return found


def test_a_directory_without_a_log_has_one_that_ends_at_0(place: SharedPlace) -> None:
    assert find(place) == (0, 0, 0, None)


def test_a_log_that_was_closed_is_found_with_its_bounds(place: SharedPlace) -> None:
    with place.alone(SMALL) as log:
        fill(log, 60)
        first = log.segments[2].base_offset
        log.advance_log_start(first + 1)
        log.delete_before_log_start()
        log.set_cleaner_point(first)
    assert find(place) == (first + 1, first, 60, first)
    assert find(place, PartitionFacts(log_start_offset=first + 3)) == (first + 3, first, 60, first)


def test_one_that_was_appended_to_since_is_not(place: SharedPlace) -> None:
    place.alone().close()
    with place.open() as log:
        assert find(place) == (0, 0, 0, None)
        fill(log, 1)
        assert find(place) is None


@pytest.mark.parametrize("torn", [b"torn", bytes(from_leader(0))[:70]])
def test_one_with_anything_behind_its_last_batch_is_not(place: SharedPlace, torn: bytes) -> None:
    with place.alone() as log:
        fill(log, 3)
    with place.path(0).open("ab") as file:
        file.write(torn)
    assert find(place) is None


@pytest.mark.parametrize("suffix", [".index", ".timeindex"])
def test_one_without_an_index_or_with_room_in_it_is_not(place: SharedPlace, suffix: str) -> None:
    with place.alone(LogConfig(index_interval_bytes=100)) as log:
        fill(log, 30)
    index = place.path(0, suffix)
    content = index.read_bytes()
    index.write_bytes(content + bytes(24))
    assert find(place) is None
    index.unlink()
    assert find(place) is None
    index.write_bytes(content)
    assert find(place) == (0, 0, 30, None)


def test_one_that_nobody_has_closed_is_not_unless_somebody_vouches_for_it(place: SharedPlace) -> None:
    with place.alone() as log:
        fill(log, 3)
    (place.directory / ".logstore-clean").unlink()
    assert find(place) is None
    assert find(place, PartitionFacts(recovery_point=3, is_vouched_for=True)) == (0, 0, 3, None)
