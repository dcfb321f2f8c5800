"""A record is a value: equal by its fields, hashable, printable, and nothing in it can be changed."""

from __future__ import annotations

import copy
import pickle

import pytest

from logstore.records import Record

HEADERS = (("name", b"data"), ("none", None))


@pytest.fixture
def full() -> Record:
    return Record(7, 1000, b"key", b"value", HEADERS)


def test_a_record_has_the_fields_it_was_made_of(full: Record) -> None:
    assert (full.offset, full.timestamp, full.key, full.value) == (7, 1000, b"key", b"value")
    assert full.headers == HEADERS


def test_a_record_has_no_headers_unless_some_are_given() -> None:
    assert Record(0, -1, None, None).headers == ()


@pytest.mark.parametrize(
    "change", [{"offset": 8}, {"timestamp": 1}, {"key": None}, {"value": b""}, {"headers": ()}], ids=str
)
def test_replace_gives_another_record_that_differs_in_that_field_alone(full: Record, change: dict[str, object]) -> None:
    other = full.replace(**change)
    assert other != full
    assert other.replace(**{name: getattr(full, name) for name in change}) == full


def test_an_empty_key_is_not_a_null_key() -> None:
    assert Record(0, 0, b"", b"") != Record(0, 0, None, b"")
    assert Record(0, 0, b"", b"") != Record(0, 0, b"", None)


def test_equal_records_are_one_in_a_set(full: Record) -> None:
    assert len({full, copy.copy(full), full.replace(key=b"other")}) == 2


def test_a_record_equals_nothing_that_is_no_record(full: Record) -> None:
    assert full != (7, 1000, b"key", b"value", full.headers)
    assert full != None  # noqa: E711  # the comparison itself is what is tested


def test_the_repr_of_a_record_makes_it_again(full: Record) -> None:
    assert eval(repr(full)) == full
    assert repr(Record(0, -1, None, b"x")) == "Record(offset=0, timestamp=-1, key=None, value=b'x', headers=())"


def test_a_record_survives_pickling_and_copying(full: Record) -> None:
    assert pickle.loads(pickle.dumps(full)) == copy.deepcopy(full) == full


@pytest.mark.parametrize("name", ["offset", "timestamp", "key", "value", "headers", "other"])
def test_nothing_in_a_record_can_be_changed(full: Record, name: str) -> None:
    with pytest.raises((AttributeError, TypeError)):
        setattr(full, name, None)
    assert full == Record(7, 1000, b"key", b"value", HEADERS)
