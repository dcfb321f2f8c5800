"""`TransactionIndex` reads aborted transactions and finds those that overlap a fetch."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.errors import CorruptIndexError
from logstore.log import AbortedTransaction, TransactionIndex

FOUR = [
    AbortedTransaction(0, 0, 10, 11),
    AbortedTransaction(1, 5, 15, 13),
    AbortedTransaction(2, 18, 35, 25),
    AbortedTransaction(3, 32, 50, 40),
]
int64 = st.integers(-(2**63), 2**63 - 1)
bounded = settings(deadline=None, database=None)


def file_of(transactions: list[AbortedTransaction]) -> bytes:
    return b"".join(transaction.encode() for transaction in transactions)


@pytest.mark.kafka("TXN-02", "CLEAN-76")
def test_a_marker_below_the_base_offset_is_corrupt() -> None:
    TransactionIndex(file_of(FOUR), 10).sanity_check()
    with pytest.raises(CorruptIndexError, match="below its base offset 100") as caught:
        TransactionIndex(file_of(FOUR), 100).sanity_check()
    assert caught.value.position == 0


@pytest.mark.kafka("TXN-04", "CLEAN-76")
@pytest.mark.parametrize(
    ("fetch_offset", "upper_bound_offset", "found", "complete"),
    [
        (0, 100, FOUR, False),
        (0, 32, FOUR[:3], True),
        (0, 35, FOUR, True),
        (10, 35, FOUR, True),
        (11, 35, FOUR[1:], True),
        (20, 41, FOUR[2:], False),
    ],
)
def test_collect_finds_the_transactions_that_overlap_a_fetch(
    fetch_offset: int, upper_bound_offset: int, found: list[AbortedTransaction], complete: bool
) -> None:
    search = TransactionIndex(file_of(FOUR), 0).collect(fetch_offset, upper_bound_offset)
    assert search == (tuple(found), complete)


@pytest.mark.kafka("TXN-06")
@given(st.lists(st.builds(AbortedTransaction, int64, int64, int64, int64), max_size=20))
@bounded
def test_entries_round_trip_with_version_0(transactions: list[AbortedTransaction]) -> None:
    content = file_of(transactions)
    assert list(TransactionIndex(content, 0)) == transactions
    assert all(content[34 * n : 34 * n + 2] == b"\0\0" for n in range(len(transactions)))


def test_an_entry_has_the_fields_of_the_format_in_order() -> None:
    layout = "0000 0000000000000003 0000000000000020 0000000000000032 0000000000000028"
    assert AbortedTransaction(3, 32, 50, 40).encode() == bytes.fromhex(layout)


@pytest.mark.parametrize("version", [b"\0\1", b"\0\xff", b"\1\0", b"\xff\xff"])
def test_every_version_but_0_is_refused_where_it_stands(version: bytes) -> None:
    index = TransactionIndex(FOUR[0].encode() + version + FOUR[1].encode()[2:], 0)
    assert len(index) == 2
    for read in (lambda: list(index), lambda: index.collect(0, 100), index.sanity_check):
        with pytest.raises(CorruptIndexError, match=r"entry 1 .* has version") as caught:
            read()
        assert caught.value.position == 34


@pytest.mark.parametrize("size", [1, 33])
def test_a_partial_entry_at_the_end_is_left_out_and_counted(size: int) -> None:
    index = TransactionIndex(file_of(FOUR) + bytes(size), 0)
    assert (list(index), index.trailing_size) == (FOUR, size)
    assert f"{size} over" in repr(index)


@given(st.binary(max_size=300), int64, int64)
@bounded
def test_any_bytes_are_entries_or_corrupt(content: bytes, base_offset: int, offset: int) -> None:
    index = TransactionIndex(content, base_offset)
    assert len(index) * 34 + index.trailing_size == len(content)
    try:
        index.sanity_check()
        index.collect(offset, offset + 1)
    except CorruptIndexError as error:
        assert error.position is not None
