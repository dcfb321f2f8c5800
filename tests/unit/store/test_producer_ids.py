"""Ids for producers: each is given once, whatever happens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import logstore
from logstore.errors import CorruptCheckpointError, StoreClosedError, UnsupportedFormatError
from logstore.store import FIRST_PRODUCER_ID, Store

FILE = ".logstore-producer-ids"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with logstore.open(tmp_path / "store") as opened:
        yield opened


def test_they_ascend_and_begin_above_those_of_kafka(store: Store) -> None:
    assert [store.new_producer_id() for _ in range(3)] == [FIRST_PRODUCER_ID + number for number in range(3)]
    assert FIRST_PRODUCER_ID > 2**32


def test_no_two_are_the_same_in_several_processes_and_sessions(store: Store) -> None:
    with logstore.open(store.paths[0]) as theirs:
        found = [one.new_producer_id() for _ in range(1500) for one in (store, theirs)]
    store.close()
    with logstore.open(store.paths[0], mode="exclusive") as later:
        found.append(later.new_producer_id())
    assert len(set(found)) == len(found)
    assert found[-1] == max(found)


def test_a_closed_store_gives_none(store: Store) -> None:
    store.close()
    with pytest.raises(StoreClosedError):
        store.new_producer_id()


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"{}", b'{"version": 1, "next": 5}', b'{"version": 1, "next": []}']
)
def test_a_file_that_does_not_say_which_were_given_is_refused(store: Store, content: bytes) -> None:
    (store.paths[0] / FILE).write_bytes(content)
    with pytest.raises(CorruptCheckpointError, match="producer ids") as raised:
        store.new_producer_id()
    assert raised.value.path == str(store.paths[0] / FILE)
    assert (store.paths[0] / FILE).read_bytes() == content


def test_a_file_of_a_newer_version_is_refused(store: Store) -> None:
    (store.paths[0] / FILE).write_bytes(b'{"version": 2, "next": 9}')
    with pytest.raises(UnsupportedFormatError, match="newer logstore"):
        store.new_producer_id()
