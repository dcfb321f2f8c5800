"""Partitioners choose what Kafka's clients choose; by chance, but with a seed, where those do."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.queue.partitioner import (
    ConsistentPartitioner,
    ConsistentRandomPartitioner,
    DefaultPartitioner,
    Fnv1aPartitioner,
    Fnv1aRandomPartitioner,
    HashPartitioner,
    Murmur2Partitioner,
    Murmur2RandomPartitioner,
    Partitioner,
    RandomPartitioner,
    RoundRobinPartitioner,
    UniformStickyPartitioner,
    absolute_fnv1a,
    positive_murmur2,
)
from logstore.testing.manual_clock import ManualClock

MAKERS: list[Callable[[], Partitioner]] = [
    DefaultPartitioner, ConsistentPartitioner, ConsistentRandomPartitioner, Murmur2Partitioner,
    Murmur2RandomPartitioner, Fnv1aPartitioner, Fnv1aRandomPartitioner, RoundRobinPartitioner, RandomPartitioner,
    UniformStickyPartitioner,
]  # fmt: skip

# To which of 4 partitions librdkafka 2.16, through confluent-kafka, produced the keys key-0 to key-31.
BY_CRC32 = "02021313200202131320313120201320"
BY_MURMUR2 = "10231003312101031012331002333103"
BY_FNV1A = "12301230122301230123123012301203"
KEYS = [b"key-%d" % number for number in range(32)]


@pytest.mark.kafka("PART-04")
@pytest.mark.parametrize(
    ("partitioner", "chosen"),
    [
        (ConsistentPartitioner(), BY_CRC32),
        (ConsistentRandomPartitioner(), BY_CRC32),
        (Murmur2Partitioner(), BY_MURMUR2),
        (Murmur2RandomPartitioner(), BY_MURMUR2),
        (DefaultPartitioner(), BY_MURMUR2),
        (Fnv1aPartitioner(), BY_FNV1A),
        (Fnv1aRandomPartitioner(), BY_FNV1A),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, HashPartitioner) else "",
)
def test_keys_go_where_librdkafka_sends_them(partitioner: Partitioner, chosen: str) -> None:
    assert "".join(str(partitioner.partition(key, 4)) for key in KEYS) == chosen
    assert "".join(map(str, partitioner.partition_many(KEYS, 4))) == chosen
    assert [partitioner.partition(key, 4, [3]) for key in KEYS] == [int(one) for one in chosen]


def seen(partitioner: Partitioner, key: bytes | None, count: int = 200) -> set[int]:
    return {partitioner.partition(key, 4) for _ in range(count)}


def sticky_choices(partitioner: Partitioner, count: int, partitions: int, size: int = 1) -> list[int]:
    """Where records of a size go that have no key, one after the other."""
    chosen = []
    for _ in range(count):
        chosen.append(partitioner.partition(None, partitions))
        partitioner.appended(chosen[-1], size)
    return chosen


def at_random(seed: int = 1) -> RandomPartitioner:
    return RandomPartitioner(linger_ms=0, random=random.Random(seed))


@pytest.mark.kafka("PART-04")
def test_librdkafkas_default_takes_an_empty_key_for_none() -> None:
    partitioner = ConsistentRandomPartitioner(at_random())
    assert seen(partitioner, b"") == seen(partitioner, None) == {0, 1, 2, 3}
    assert set(partitioner.partition_many([b"", None] * 100, 4)) == {0, 1, 2, 3}


@pytest.mark.kafka("PART-02")
def test_java_takes_an_empty_key_for_a_key_and_null_for_none() -> None:
    partitioner = DefaultPartitioner(batch_size=1, random=random.Random(1))
    assert seen(partitioner, b"") == {275646681 % 4}
    assert set(sticky_choices(partitioner, 100, 4)) == {0, 1, 2, 3}


def test_the_other_random_ones_hash_an_empty_key() -> None:
    assert seen(Murmur2RandomPartitioner(at_random()), b"") == {1}
    assert seen(Fnv1aRandomPartitioner(at_random()), b"") == {3}
    assert seen(Murmur2RandomPartitioner(at_random()), None) == {0, 1, 2, 3}
    assert seen(Fnv1aRandomPartitioner(at_random()), None) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("partitioner", "partition"), [(ConsistentPartitioner(), 0), (Murmur2Partitioner(), 1), (Fnv1aPartitioner(), 3)]
)
def test_the_consistent_ones_treat_no_key_as_an_empty_one(partitioner: Partitioner, partition: int) -> None:
    assert partitioner.partition(None, 4) == partitioner.partition(b"", 4) == partition
    assert partitioner.partition_many([None, b"", b"key-0"], 4)[:2] == [partition, partition]


@pytest.mark.kafka("PART-03")
def test_the_least_hash_is_masked() -> None:
    least = bytes.fromhex("a7d6506c")
    assert positive_murmur2(least) == 0
    assert DefaultPartitioner().partition(least, 7) == 0
    assert DefaultPartitioner().partition_many([least], 7) == [0]


def test_the_fnv_hash_loses_its_sign_by_its_absolute_value() -> None:
    assert absolute_fnv1a(b"") == 2**32 - 0x811C9DC5
    assert absolute_fnv1a(b"a") == 2**32 - 0xE40C292C
    assert absolute_fnv1a(b"foobar") == 2**32 - 0xBF9CF968
    assert absolute_fnv1a(b"b") == 2**32 - 0xE70C2DE5


def test_keys_move_once_partitions_are_added_and_only_then() -> None:
    partitioner = DefaultPartitioner()
    before = partitioner.partition_many(KEYS, 4)
    after = partitioner.partition_many(KEYS, 6)
    assert after == [positive_murmur2(key) % 6 for key in KEYS] != before
    assert partitioner.partition_many(KEYS, 4) == before


# ---------------------------------------------------------------- uniform sticky


def test_a_batch_is_filled_before_the_next_partition_is_taken() -> None:
    partitioner = UniformStickyPartitioner(batch_size=100, random=random.Random(1))
    chosen = sticky_choices(partitioner, 60, 1000, size=10)
    assert [len(set(chosen[at : at + 10])) for at in range(0, 60, 10)] == [1] * 6
    assert len(set(chosen)) == 6


def test_a_batch_that_is_not_complete_is_stayed_with_up_to_twice_its_size() -> None:
    partitioner = UniformStickyPartitioner(batch_size=100, random=random.Random(1))
    first = partitioner.partition(None, 1000)
    partitioner.appended(first, 199, is_complete=False)
    assert partitioner.partition(None, 1000) == first
    partitioner.appended(first, 1, is_complete=False)
    assert partitioner.partition(None, 1000) != first


def test_a_complete_batch_that_is_too_small_is_no_reason_to_go_on() -> None:
    partitioner = UniformStickyPartitioner(batch_size=100, random=random.Random(1))
    first = partitioner.partition(None, 1000)
    partitioner.appended(first, 99, is_complete=True)
    assert partitioner.partition(None, 1000) == first
    partitioner.appended(first, 1, is_complete=False)
    assert partitioner.partition(None, 1000) == first
    partitioner.appended(first, 0, is_complete=True)
    assert partitioner.partition(None, 1000) != first


def test_what_goes_to_another_partition_does_not_count() -> None:
    partitioner = UniformStickyPartitioner(batch_size=100, random=random.Random(1))
    first = partitioner.partition(None, 1000)
    partitioner.appended((first + 1) % 1000, 500)
    assert partitioner.partition(None, 1000) == first


def test_partitions_get_equally_much_in_the_long_run() -> None:
    counts = Counter(sticky_choices(DefaultPartitioner(batch_size=10, random=random.Random(7)), 4000, 4, size=10))
    assert all(900 <= counts[partition] <= 1100 for partition in range(4))


def test_the_default_fills_in_the_sticky_partition_between_keys() -> None:
    partitioner = DefaultPartitioner(random=random.Random(3))
    sticky = partitioner.partition(None, 12)
    assert partitioner.partition_many([b"a", None, b"", None, b"kafka"], 12) == [4, sticky, 9, sticky, 4]


def test_a_batch_size_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size is 0"):
        UniformStickyPartitioner(batch_size=0)


# ---------------------------------------------------------------- random and round robin


def test_a_random_partition_lingers() -> None:
    clock = ManualClock()
    partitioner = RandomPartitioner(linger_ms=10, random=random.Random(1), clock=clock)
    first = partitioner.partition(None, 1000)
    clock.advance(9)
    assert partitioner.partition(None, 1000) == first
    assert partitioner.partition_many([None] * 3, 1000) == [first] * 3
    partitioner.appended(first, 10**6)
    assert partitioner.partition(None, 1000) == first
    clock.advance(1)
    assert partitioner.partition(None, 1000) != first


def test_round_robin_takes_available_partitions_in_turn_whatever_the_key() -> None:
    partitioner = RoundRobinPartitioner()
    assert [partitioner.partition(key, 3) for key in (b"a", b"a", None, b"")] == [0, 1, 2, 0]
    assert partitioner.partition_many([b"a"] * 4, 3, [2, 0]) == [2, 0, 2, 0]
    partitioner.appended(0, 10**6)
    assert partitioner.partition(None, 3) == 8 % 3


@pytest.mark.parametrize("keyless", [UniformStickyPartitioner(batch_size=1), at_random(), RandomPartitioner()])
def test_without_a_key_only_available_partitions_are_taken(keyless: Partitioner) -> None:
    partitioner = HashPartitioner(positive_murmur2, keyless)
    for _ in range(50):
        partition = partitioner.partition(None, 9, [5, 7])
        assert partition in (5, 7)
        partitioner.appended(partition, 1)


# ---------------------------------------------------------------- all of them

many_keys = st.lists(st.none() | st.binary(max_size=9), max_size=8)


@pytest.mark.parametrize("make", MAKERS)
@given(many_keys, st.integers(1, 30), st.data())
@settings(deadline=None, database=None, max_examples=40)
def test_every_partition_chosen_exists_and_many_are_chosen_as_one_by_one(
    make: Callable[[], Partitioner], keys: Sequence[bytes | None], count: int, data: st.DataObject
) -> None:
    available = data.draw(st.lists(st.integers(0, count - 1), unique=True, max_size=count))
    partitioner = make()
    chosen = partitioner.partition_many(keys, count, available)
    assert len(chosen) == len(keys)
    assert all(0 <= partition < count for partition in chosen)
    if isinstance(partitioner, HashPartitioner):
        hashed = [(key, partition) for key, partition in zip(keys, chosen, strict=True) if key]
        assert [partitioner.partition(key, count) for key, _ in hashed] == [partition for _, partition in hashed]


@pytest.mark.parametrize("seed", range(3))
def test_the_same_seed_gives_the_same_choices(seed: int) -> None:
    one, other = (DefaultPartitioner(batch_size=1, random=random.Random(seed)) for _ in range(2))
    choices = sticky_choices(one, 20, 100)
    assert sticky_choices(other, 20, 100) == choices
    assert len(set(choices)) > 10


@pytest.mark.parametrize("make", MAKERS)
def test_a_partitioner_shows_what_it_is(make: Callable[[], Partitioner]) -> None:
    assert repr(make()).startswith(f"<{type(make()).__name__} ")
