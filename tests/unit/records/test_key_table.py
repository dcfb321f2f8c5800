"""The table of the latest offset of each key: what it finds, when it is full, and that it stays in its memory."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_strategies import INT64_MAX, usual
from test_kernel_twins import fast, twins

from logstore.records import KeyTable

slow: ModuleType = importlib.import_module("logstore.records._cleaning_py")

SEED = bytes(range(16))
SLOT = 24


def table(slots: int, seed: bytes = SEED) -> KeyTable:
    return KeyTable(bytearray(slots * SLOT), seed)


def keys_of(sizes: range) -> list[bytes]:
    """Two keys of each size, and for each the one that is padded to it with zeros."""
    return sorted({filler * size for size in sizes for filler in (b"\0", b"\x80", b"\xff", b"a")})


@pytest.mark.kafka("CLEAN-01")
@pytest.mark.parametrize("count", [10, 100, 1000, 5000])
def test_a_table_of_48_bytes_a_key_gives_each_key_its_own_offset(count: int) -> None:
    small = KeyTable(bytearray(48 * count), SEED)
    assert all(small.put(b"%d" % number, number) for number in range(count))
    assert [small.get(b"%d" % number) for number in range(count)] == list(range(count))
    assert (small.count, small.slots, small.capacity) == (count, 2 * count, 2 * count * 3 // 4)


@pytest.mark.kafka("CLEAN-02")
def test_a_cleared_table_has_no_keys_and_takes_them_again() -> None:
    one = table(16)
    for number in range(10):
        one.put(b"%d" % number, number)
    one.clear()
    assert one.count == 0
    assert [one.get(b"%d" % number) for number in range(10)] == [-1] * 10
    assert one.put(b"3", 33)
    assert (one.get(b"3"), one.get(b"4"), one.count) == (33, -1, 1)


@pytest.mark.kafka("CLEAN-03")
def test_a_full_table_still_answers_for_absent_and_present_keys() -> None:
    full = table(8)
    assert [full.put(b"%d" % number, number) for number in range(7)] == [True] * 6 + [False]
    assert (full.get(b"absent"), full.get(b"6"), full.get(b"5"), full.count) == (-1, -1, 5, 6)


def test_a_full_table_refuses_even_a_key_that_it_has() -> None:
    full = table(2)
    assert (full.capacity, full.put(b"key", 1), full.put(b"key", 2), full.get(b"key")) == (1, True, False, 1)


def test_the_last_offset_put_for_a_key_is_found() -> None:
    one = table(8)
    for offset in (3, 9, 5, INT64_MAX, 0):
        one.put(b"key", offset)
        assert one.get(b"key") == offset
    assert one.count == 1


@pytest.mark.parametrize(("nbytes", "slots", "capacity"), [(0, 0, 0), (23, 0, 0), (24, 1, 0), (48, 2, 1), (100, 4, 3)])
def test_a_table_uses_three_of_four_slots_of_24_bytes(nbytes: int, slots: int, capacity: int) -> None:
    one = KeyTable(bytearray(nbytes), SEED)
    assert (one.slots, one.capacity, one.get(b"")) == (slots, capacity, -1)
    assert [one.put(b"%d" % number, number) for number in range(capacity + 1)] == [True] * capacity + [False]


@pytest.mark.parametrize("seed", [SEED, bytes(16), b"\xff" * 16])
def test_keys_that_differ_only_in_length_or_in_zeros_are_different_keys(seed: bytes) -> None:
    keys = keys_of(range(40))
    one = table(2 * len(keys), seed)
    for offset, key in enumerate(keys):
        assert one.get(key) == -1
        assert one.put(key, offset)
    assert [one.get(key) for key in keys] == list(range(len(keys))) and one.count == len(keys)


def test_an_empty_key_is_a_key() -> None:
    one = table(4)
    assert (one.get(b""), one.put(b"", 0), one.get(b""), one.get(b"\0")) == (-1, True, 0, -1)


@pytest.mark.parametrize("offset", [-1, -(2**63), 2**63])
def test_what_is_no_offset_is_refused(offset: int) -> None:
    one = table(4)
    with pytest.raises(ValueError, match="no offset"):
        one.put(b"key", offset)
    assert (one.count, one.get(b"key")) == (0, -1)


@pytest.mark.parametrize("size", [0, 15, 17])
def test_a_seed_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"16 bytes, not {size}"):
        KeyTable(bytearray(48), bytes(size))


def test_memory_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(BufferError):
        KeyTable(memoryview(bytes(48)), SEED)


@pytest.mark.parametrize("start", range(8))
def test_a_table_starts_empty_and_stays_within_its_memory_at_any_address(start: int) -> None:
    memory = bytearray(b"\xa5" * (start + 33 * SLOT + 7))
    with memoryview(memory) as whole, whole[start : start + 33 * SLOT] as part:
        one = KeyTable(part, SEED)
        assert one.count == 0 and all(one.get(b"%d" % number) == -1 for number in range(50))
        while one.put(b"%d" % one.count, one.count):
            pass
        assert [one.get(b"%d" % number) for number in range(one.count)] == list(range(24))
        del one
    assert memory[:start] == b"\xa5" * start and memory[start + 33 * SLOT :] == b"\xa5" * 7


def test_the_memory_of_a_table_cannot_shrink_under_it() -> None:
    memory = bytearray(10 * SLOT)
    one = KeyTable(memory, SEED)
    with pytest.raises(BufferError):
        memory.clear()
    del one
    memory.clear()


def test_many_keys_of_all_sizes_are_found_again() -> None:
    keys = [b"%0*d" % (size, number) for size in (4, 7, 8, 9, 12, 15, 16, 17, 24, 31, 64) for number in range(900)]
    one = table(len(keys) * 4 // 3 + 1)
    assert one.capacity >= len(keys)
    assert all(one.put(key, 2 * number) for number, key in enumerate(keys))
    assert [one.get(key) for key in keys] == list(range(0, 2 * len(keys), 2))
    assert all(one.get(b"x" + key) == -1 for key in keys)


some_keys = st.binary(max_size=3) | st.binary(max_size=40) | st.sampled_from(keys_of(range(13, 19)))
operations = st.lists(
    st.tuples(st.just("put"), some_keys, st.integers(0, INT64_MAX) | st.integers(0, 9))
    | st.tuples(st.just("get"), some_keys)
    | st.tuples(st.just("clear")),
    max_size=60,
)


@twins
@given(st.integers(0, 600), st.binary(min_size=16, max_size=16), operations)
@usual
def test_twins_keep_the_same_keys(nbytes: int, seed: bytes, done: list[tuple[str, bytes, int]]) -> None:
    assert fast is not None
    ours, theirs = (module.KeyTable(bytearray(nbytes), seed) for module in (fast, slow))
    for name, *arguments in done:
        assert getattr(ours, name)(*arguments) == getattr(theirs, name)(*arguments)
        assert (ours.count, ours.slots, ours.capacity) == (theirs.count, theirs.slots, theirs.capacity)
    assert {key: ours.get(key) for _, key, *_ in (one for one in done if len(one) > 1)} == {
        key: theirs.get(key) for _, key, *_ in (one for one in done if len(one) > 1)
    }


@pytest.mark.parametrize("kernel", [fast, slow], ids=["compiled", "plain"])
@pytest.mark.parametrize("shards", [1, 2, 3, 7])
def test_each_key_belongs_to_one_part_of_them(kernel: ModuleType, shards: int) -> None:
    one = kernel.KeyTable(bytearray(1000 * SLOT), SEED)
    keys = [b"%d" % number for number in range(200)] + [b"long key number %060d" % number for number in range(200)]
    found = []
    for shard in range(shards):
        one.restrict(shard, shards)
        assert all(one.put(key, number) for number, key in enumerate(keys))
        present = [number for number, key in enumerate(keys) if one.get(key) == number]
        assert one.count == len(present)
        assert 0.5 * 400 / shards < len(present) <= 1.5 * 400 / shards
        found += present
    assert sorted(found) == list(range(400))
    one.clear()
    assert all(one.put(key, 5) for key in keys)
    assert one.count == 400


@pytest.mark.parametrize("kernel", [fast, slow], ids=["compiled", "plain"])
@pytest.mark.parametrize(("shard", "shards"), [(-1, 2), (2, 2), (0, 0), (0, 2**31)])
def test_a_part_that_there_is_not_is_refused(kernel: ModuleType, shard: int, shards: int) -> None:
    with pytest.raises(ValueError, match="there is no part"):
        kernel.KeyTable(bytearray(10 * SLOT), SEED).restrict(shard, shards)


@pytest.mark.parametrize("kernel", [fast, slow], ids=["compiled", "plain"])
def test_a_larger_table_takes_in_a_smaller_one(kernel: ModuleType) -> None:
    small, large = kernel.KeyTable(bytearray(200 * SLOT), SEED), kernel.KeyTable(bytearray(400 * SLOT), SEED)
    keys = [b"%d" % number for number in range(70)] + [b"a long key, number %d" % number for number in range(70)]
    assert all(small.put(key, number) for number, key in enumerate(keys))
    large.put(b"another", 5)
    large.absorb(small)
    assert [large.get(key) for key in keys] == list(range(140))
    assert (large.count, large.get(b"another"), large.get(b"no such key")) == (141, 5, -1)
    with pytest.raises(ValueError, match="room for"):
        small.absorb(large)
    with pytest.raises(ValueError, match="same seed"):
        large.absorb(kernel.KeyTable(bytearray(10 * SLOT), bytes(16)))
