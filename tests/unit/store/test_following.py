"""What keeps a state made of a partition's records."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

import logstore
from logstore.records import RecordBatch
from logstore.store import Followed, Store


@pytest.fixture
def store(tmp_path: Path) -> Iterable[Store]:
    with logstore.open(tmp_path / "store") as opened:
        opened.create_topic("t", settings={"segment.bytes": "1000"})
        yield opened


def take(values: list[bytes | None], batches: Iterable[RecordBatch]) -> None:
    values.extend(record.value for batch in batches for record in batch.records())


def followed(store: Store) -> Followed[list[bytes | None]]:
    return Followed(store.partition("t"), list, take)


def fill(store: Store, first: int, end: int) -> None:
    for number in range(first, end):
        store.partition("t").append([(b"k", b"%d" % number)])


def test_an_empty_partition_gives_an_empty_state(store: Store) -> None:
    assert followed(store).caught_up() == []


def test_a_state_takes_in_what_is_new_and_is_the_same_object(store: Store) -> None:
    one = followed(store)
    fill(store, 0, 3)
    before = one.caught_up()
    fill(store, 3, 5)
    assert one.caught_up() is before
    assert before == [b"0", b"1", b"2", b"3", b"4"]


def test_a_state_is_made_anew_where_what_comes_next_was_deleted(store: Store) -> None:
    one = followed(store)
    fill(store, 0, 3)
    before = one.caught_up()
    fill(store, 3, 60)
    with store.partition("t").changing() as log:
        log.advance_log_start(50)
    assert one.caught_up() == [b"%d" % number for number in range(50, 60)]
    assert one.caught_up() is not before


def test_a_state_is_made_anew_where_the_end_was_cut(store: Store) -> None:
    one = followed(store)
    fill(store, 0, 5)
    one.caught_up()
    with store.partition("t").changing() as log:
        log.truncate_to(2)
    assert one.caught_up() == [b"0", b"1"]
