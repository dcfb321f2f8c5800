"""murmur2 and the partitions of keys: Kafka's values, and the two kernels alike."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_strategies import INT32_MAX, usual
from test_kernel_twins import assert_twins, twins

from logstore.records import kernel

# What Kafka's clients compute: the signed hash, and the partition of twelve.
VECTORS = [
    (b"", 275646681, 9),
    (b"a", -1563381124, 4),
    (b"ab", 316155434, 2),
    (b"abc", 479470107, 3),
    (b"abcd", -1323649548, 8),
    (b"kafka", -798503068, 4),
    (b"logstore", -949467986, 6),
    (b"foobar", -790332482, 6),
    (b"1234567890", 1249327157, 5),
    (b"\x80\xff\x7f", -1765891516, 4),
]
SIGNED = [
    (b"21", -973932308),
    (b"a-little-bit-long-string", -985981536),
    (b"a-little-bit-longer-string", -1486304829),
    (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
]
LEAST = bytes.fromhex("a7d6506c")  # the only key of four bytes with the least hash there is


@pytest.mark.kafka("PART-01")
@pytest.mark.parametrize(("key", "signed", "partition"), VECTORS)
def test_the_hash_and_the_partition_of_a_key_are_kafkas(key: bytes, signed: int, partition: int) -> None:
    assert kernel.murmur2(key) == signed
    assert (kernel.murmur2(key) & INT32_MAX) % 12 == partition
    assert kernel.partition_keys([key], 12) == [partition]


@pytest.mark.kafka("PART-01")
def test_the_masked_hash_is_kafkas() -> None:
    masked = [(key, kernel.partition_keys([key], INT32_MAX)) for key in (b"a", b"abcd", b"kafka", b"\x80\xff\x7f")]
    assert masked == [
        (b"a", [584102524]), (b"abcd", [823834100]), (b"kafka", [1348980580]), (b"\x80\xff\x7f", [381592132]),
    ]  # fmt: skip


@pytest.mark.parametrize(("key", "signed"), SIGNED)
def test_the_hash_of_a_longer_key_is_kafkas(key: bytes, signed: int) -> None:
    assert kernel.murmur2(key) == signed


@pytest.mark.kafka("PART-03")
@pytest.mark.parametrize(
    ("key", "signed", "masked"),
    [(LEAST, -(2**31), 0), (b"\xa5\xd40\\", -1, INT32_MAX), (b"\x02}SC", INT32_MAX, INT32_MAX)],
)
def test_the_sign_is_masked_off_and_not_the_absolute_value_taken(key: bytes, signed: int, masked: int) -> None:
    assert kernel.murmur2(key) == signed
    for partitions in (1, 2, 7, 12, 1000):
        assert kernel.partition_keys([key], partitions) == [masked % partitions]


@pytest.mark.kafka("PART-02")
def test_no_key_has_no_partition_and_an_empty_one_has() -> None:
    assert kernel.partition_keys([None, b"", None, b"a"], 12) == [-1, 9, -1, 4]
    assert kernel.murmur2(b"") == 275646681


def test_bytes_of_any_kind_are_keys() -> None:
    for kind in (bytes, bytearray, memoryview):
        assert kernel.murmur2(kind(b"foobar")) == -790332482
        assert kernel.partition_keys([kind(b"foobar")], 12) == [6]


def test_keys_may_come_from_any_iterable() -> None:
    assert kernel.partition_keys((key for key, _, _ in VECTORS), 12) == [partition for _, _, partition in VECTORS]
    assert kernel.partition_keys((), 12) == []


@pytest.mark.parametrize("partitions", [0, -1, 2**31, 2**70])
def test_a_number_of_partitions_that_no_topic_has_is_refused(partitions: int) -> None:
    with pytest.raises(ValueError, match=f"{partitions} partitions; a topic has 1 to 2147483647"):
        kernel.partition_keys([b"a"], partitions)


def test_a_key_that_is_no_bytes_is_named() -> None:
    text: Any = "text"
    with pytest.raises(TypeError, match="key 1: must be bytes or None, not str"):
        kernel.partition_keys([b"a", text], 12)
    with pytest.raises(TypeError, match="a key must be bytes, not str"):
        kernel.murmur2(text)


keys = st.binary(max_size=40) | st.sampled_from([b"", b"\0", b"\xff" * 7, LEAST, b"k" * 1000])
kinds = st.sampled_from([bytes, bytearray, memoryview])


@twins
@given(keys, kinds)
@usual
def test_twins_hash_alike(key: bytes, kind: Any) -> None:
    assert_twins("murmur2", kind(key))


@twins
@given(st.lists(st.none() | keys, max_size=9), st.integers(1, 40) | st.integers(-2, 2**33))
@usual
def test_twins_choose_the_same_partitions(some: list[bytes | None], partitions: int) -> None:
    assert_twins("partition_keys", some, partitions)


@twins
@pytest.mark.parametrize("wrong", ["text", 7, [b"a"]])
def test_twins_refuse_the_same_keys(wrong: Any) -> None:
    assert_twins("murmur2", wrong)
    assert_twins("murmur2", None)
    assert_twins("partition_keys", [b"a", None, wrong], 3)
