"""Which partition a record goes to: the partitioners of Kafka's clients (CLUSTER §3).

Invariant: as long as the number of partitions stays the same, equal keys go to equal partitions, and to the same one as
with the client that a partitioner is named after. Clients do not agree with each other: Java and Python hash keys with
murmur2, librdkafka by default with CRC-32. Once partitions are added, keys may move; records written before do not.

A partitioner serves one topic of one producer. Those that go by keys alone are thread-safe, the others are not: what
they stay on is their state. Chance comes from the `random.Random` that is given, time from the clock.
"""

from __future__ import annotations

import random as chance
import zlib
from collections.abc import Callable, Sequence
from typing import Protocol

from logstore.clock import Clock, SystemClock
from logstore.records import murmur2, partition_keys

BATCH_SIZE = 16384
"""Kafka's default for `batch.size`, in bytes."""
STICKY_PARTITIONING_LINGER_MS = 10
"""librdkafka's default for `sticky.partitioning.linger.ms`."""

_POSITIVE = 0x7FFFFFFF
_FNV1A_START, _FNV1A_FACTOR = 0x811C9DC5, 0x01000193

KeyHash = Callable[[bytes], int]
"""A hash of a key, 0 or greater; its partition is the rest of dividing it by their number."""


class Partitioner(Protocol):
    """Chooses the partitions of the records of one topic.

    `partition_count` is how many partitions the topic has, 1 or more. `available` are the numbers of those that have a
    leader; without any, all count as available. Where a key decides, it decides among all.
    """

    def partition(self, key: bytes | None, partition_count: int, available: Sequence[int] = ()) -> int:
        """The partition of a record with this key."""
        ...

    def partition_many(
        self, keys: Sequence[bytes | None], partition_count: int, available: Sequence[int] = ()
    ) -> list[int]:
        """The partition of each of several records, as `partition` for one after the other."""
        ...

    def appended(self, partition: int, size: int, *, is_complete: bool = True) -> None:
        """Tell that records without a key, of `size` bytes, went into a batch of `partition`.

        `is_complete` says that the batch takes no more: the moment to go on to another partition.
        """
        ...


class HashPartitioner:
    """Keys by a hash; records without a key by another partitioner, or without one as if their key were empty.

    Args:
        key_hash: the hash of a key.
        keyless: what decides for records without a key.
        is_empty_keyless: whether an empty key counts as none.
    """

    def __init__(self, key_hash: KeyHash, keyless: Partitioner | None, *, is_empty_keyless: bool = False) -> None:
        self._hash = key_hash
        self._keyless = keyless
        self._is_empty_keyless = is_empty_keyless

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._hash.__name__}, without a key: {self._keyless or 'as if it were empty'}>"

    def partition(self, key: bytes | None, partition_count: int, available: Sequence[int] = ()) -> int:
        if self._keyless is not None and (key is None or (self._is_empty_keyless and not key)):
            return self._keyless.partition(None, partition_count, available)
        return self._hash(key or b"") % partition_count

    def partition_many(
        self, keys: Sequence[bytes | None], partition_count: int, available: Sequence[int] = ()
    ) -> list[int]:
        if self._hash is positive_murmur2:
            return self._by_murmur2(keys, partition_count, available)
        return [self.partition(key, partition_count, available) for key in keys]

    def _by_murmur2(self, keys: Sequence[bytes | None], partition_count: int, available: Sequence[int]) -> list[int]:
        chosen = partition_keys(keys, partition_count)
        count = chosen.count(-1)
        if not count:
            return chosen
        if self._keyless is None:
            rest = iter(partition_keys([b""], partition_count) * count)
        else:
            rest = iter(self._keyless.partition_many([None] * count, partition_count, available))
        return [next(rest) if partition < 0 else partition for partition in chosen]

    def appended(self, partition: int, size: int, *, is_complete: bool = True) -> None:
        if self._keyless is not None:
            self._keyless.appended(partition, size, is_complete=is_complete)


class UniformStickyPartitioner:
    """Java's choice for records without a key (KIP-794), and for all with `partitioner.ignore.keys`.

    It stays on a partition until `batch_size` bytes were appended there and the batch is complete, or twice as many in
    any case, and takes the next one at random: so batches are full, and in the long run partitions get equally much.
    The queues of brokers, which may weigh in at Java's, do not.
    """

    def __init__(self, *, batch_size: int = BATCH_SIZE, random: chance.Random | None = None) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it is 1 or more")
        self._batch_size = batch_size
        self._random = random or chance.Random()
        self._partition: int | None = None
        self._appended = 0  # bytes, since it stays on this partition

    def __repr__(self) -> str:
        return f"<UniformStickyPartitioner on {self._partition}: {self._appended} of {self._batch_size} bytes>"

    def partition(self, key: bytes | None, partition_count: int, available: Sequence[int] = ()) -> int:
        if self._partition is None:
            self._partition = _any_of(self._random, partition_count, available)
        return self._partition

    def partition_many(
        self, keys: Sequence[bytes | None], partition_count: int, available: Sequence[int] = ()
    ) -> list[int]:
        return [self.partition(None, partition_count, available)] * len(keys) if keys else []

    def appended(self, partition: int, size: int, *, is_complete: bool = True) -> None:
        if partition != self._partition:
            return
        self._appended += size
        if self._appended >= (self._batch_size if is_complete else 2 * self._batch_size):
            self._partition, self._appended = None, 0


class RandomPartitioner:
    """librdkafka's choice for records without a key: at random, and for `linger_ms` the same one again.

    With `linger_ms` 0 it is that of kafka-python and aiokafka.
    """

    def __init__(
        self,
        *,
        linger_ms: int = STICKY_PARTITIONING_LINGER_MS,
        random: chance.Random | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._linger_ms = linger_ms
        self._random = random or chance.Random()
        self._clock = clock or SystemClock()
        self._partition = 0
        self._until_ns: int | None = None

    def __repr__(self) -> str:
        return f"<RandomPartitioner lingering for {self._linger_ms} ms>"

    def partition(self, key: bytes | None, partition_count: int, available: Sequence[int] = ()) -> int:
        if not self._linger_ms:
            return _any_of(self._random, partition_count, available)
        now = self._clock.monotonic_ns()
        if self._until_ns is None or now >= self._until_ns:
            self._partition = _any_of(self._random, partition_count, available)
            self._until_ns = now + self._linger_ms * 1_000_000
        return self._partition

    def partition_many(
        self, keys: Sequence[bytes | None], partition_count: int, available: Sequence[int] = ()
    ) -> list[int]:
        if self._linger_ms and keys:
            return [self.partition(None, partition_count, available)] * len(keys)
        return [_any_of(self._random, partition_count, available) for _ in keys]

    def appended(self, partition: int, size: int, *, is_complete: bool = True) -> None:
        """Do nothing: only time counts."""


class RoundRobinPartitioner:
    """Java's RoundRobinPartitioner: one available partition after the other, whatever the keys."""

    def __init__(self) -> None:
        self._turn = 0

    def __repr__(self) -> str:
        return f"<RoundRobinPartitioner at turn {self._turn}>"

    def partition(self, key: bytes | None, partition_count: int, available: Sequence[int] = ()) -> int:
        turn = self._turn
        self._turn += 1
        return available[turn % len(available)] if available else turn % partition_count

    def partition_many(
        self, keys: Sequence[bytes | None], partition_count: int, available: Sequence[int] = ()
    ) -> list[int]:
        return [self.partition(None, partition_count, available) for _ in keys]

    def appended(self, partition: int, size: int, *, is_complete: bool = True) -> None:
        """Do nothing: only records count."""


class DefaultPartitioner(HashPartitioner):
    """Java's default since 3.3: keys by murmur2, an empty one too; without a key uniform sticky."""

    def __init__(self, *, batch_size: int = BATCH_SIZE, random: chance.Random | None = None) -> None:
        super().__init__(positive_murmur2, UniformStickyPartitioner(batch_size=batch_size, random=random))


class ConsistentPartitioner(HashPartitioner):
    """librdkafka's `consistent`: keys by CRC-32; without a key partition 0."""

    def __init__(self) -> None:
        super().__init__(zlib.crc32, None)


class ConsistentRandomPartitioner(HashPartitioner):
    """librdkafka's default, `consistent_random`: keys by CRC-32; with an empty key or none at random."""

    def __init__(self, keyless: Partitioner | None = None) -> None:
        super().__init__(zlib.crc32, keyless or RandomPartitioner(), is_empty_keyless=True)


class Murmur2Partitioner(HashPartitioner):
    """librdkafka's `murmur2`: keys as Java; without a key as with an empty one."""

    def __init__(self) -> None:
        super().__init__(positive_murmur2, None)


class Murmur2RandomPartitioner(HashPartitioner):
    """librdkafka's `murmur2_random`: keys as Java, an empty one too; without a key at random.

    With a `RandomPartitioner(linger_ms=0)` it is the default of kafka-python and aiokafka, with a
    `RoundRobinPartitioner()` that of Java before 2.4.
    """

    def __init__(self, keyless: Partitioner | None = None) -> None:
        super().__init__(positive_murmur2, keyless or RandomPartitioner())


class Fnv1aPartitioner(HashPartitioner):
    """librdkafka's `fnv1a`: keys as Sarama; without a key as with an empty one."""

    def __init__(self) -> None:
        super().__init__(absolute_fnv1a, None)


class Fnv1aRandomPartitioner(HashPartitioner):
    """librdkafka's `fnv1a_random`: keys as Sarama, an empty one too; without a key at random."""

    def __init__(self, keyless: Partitioner | None = None) -> None:
        super().__init__(absolute_fnv1a, keyless or RandomPartitioner())


def positive_murmur2(key: bytes) -> int:
    """Kafka's hash without its sign bit, which is no absolute value."""
    return murmur2(key) & _POSITIVE


def absolute_fnv1a(key: bytes) -> int:
    """The absolute value of the 32-bit FNV-1a hash, taken for signed."""
    value = _FNV1A_START
    for byte in key:
        value = (value ^ byte) * _FNV1A_FACTOR & 0xFFFFFFFF
    return 2**32 - value if value >= 2**31 else value


def _any_of(random: chance.Random, partition_count: int, available: Sequence[int]) -> int:
    return available[random.randrange(len(available))] if available else random.randrange(partition_count)
