"""What is sent, as a producer takes it: from objects to bytes, and to the partitions that they belong to.

Pure functions: thread-safe, but for the partitioner of a topic, which is its producer's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from logstore.config import INT64_MAX
from logstore.errors import LogstoreError, SerializationError, UnknownTopicError
from logstore.queue.packs import HEADER_OVERHEAD, RECORD_OVERHEAD, Feed, Lane
from logstore.records import Codec, Header

Serializer = Callable[[Any], bytes | None]
"""Makes bytes of a key or value; None is never handed to it, and stays None."""

_SAMPLES = 32


def codec_of(compression: Codec | str | None) -> Codec | None:
    if compression is None or isinstance(compression, Codec):
        return compression or None
    known = {codec.label: codec for codec in Codec}
    if compression not in known:
        raise ValueError(f"{compression!r} is no compression; there are {', '.join(known)}")
    return known[compression] or None


def serialized(serializer: Serializer, topic: str, what: str, thing: Any) -> bytes | None:
    try:
        made = serializer(thing)
    except Exception as error:
        reason = f"the serializer of the {what} for topic {topic!r} failed: {type(error).__name__}: {error}"
        raise SerializationError(reason) from error
    if made is not None and not isinstance(made, (bytes, bytearray, memoryview)):
        reason = f"the serializer of the {what} for topic {topic!r} gave {type(made).__name__}, not bytes"
        raise SerializationError(reason)
    return made if made is None or type(made) is bytes else bytes(made)


def as_bytes(topic: str, what: str, thing: Any) -> bytes | None:
    if thing is None or type(thing) is bytes:
        return thing
    if isinstance(thing, (bytes, bytearray, memoryview)):
        return bytes(thing)
    raise TypeError(
        f"the {what} for topic {topic!r} is {type(thing).__name__}: give bytes, or the producer a {what}_serializer"
    )


def full_item(
    key: bytes | None, value: bytes | None, timestamp: int, headers: Sequence[Header]
) -> tuple[tuple[Any, ...], int]:
    """A record with its own time, or with headers, and how many bytes the latter take at most."""
    if not isinstance(timestamp, int):
        raise TypeError(f"a timestamp is a whole number of milliseconds, not {timestamp!r}")
    if not 0 <= timestamp <= INT64_MAX:
        raise ValueError(f"timestamp {timestamp} is negative, or beyond 64 bits")
    size, pairs = 0, tuple(headers)
    for name, value_ in pairs:
        if not isinstance(name, str) or not (value_ is None or isinstance(value_, (bytes, bytearray, memoryview))):
            raise TypeError(f"a header is a pair of text and bytes or None, not {(name, value_)!r}")
        size += HEADER_OVERHEAD + len(name.encode("utf-8", "surrogateescape")) + len(value_ or b"")
    return (key, value, timestamp, pairs), size


def lane_of(feed: Feed, partition: int) -> Lane:
    if not 0 <= partition < len(feed.lanes):
        raise UnknownTopicError(
            f"topic {feed.topic.name!r} has {len(feed.lanes)} partitions, and none with number {partition}"
        )
    return feed.lanes[partition]


def grouped(
    feed: Feed, chunk: list[tuple[Any, ...]], partition: int | None
) -> Iterator[tuple[Lane, list[tuple[Any, ...]], Sequence[int]]]:
    """Records by their partitions, with their numbers in the chunk."""
    if partition is not None or len(feed.lanes) == 1:
        yield lane_of(feed, partition or 0), chunk, range(len(chunk))
        return
    try:
        keys = [item[0] for item in chunk]
        chosen = feed.partitioner.partition_many(keys, len(feed.lanes))
    except (TypeError, IndexError, LogstoreError):
        chosen = [_number(feed, item) for item in chunk]
    numbers: list[list[int]] = [[] for _ in feed.lanes]
    for index, number in enumerate(chosen):
        numbers[number].append(index)
    for lane, indexes in zip(feed.lanes, numbers, strict=True):
        if indexes:
            yield lane, [chunk[index] for index in indexes], indexes


def _number(feed: Feed, item: Any) -> int:
    """The partition of one record, of several among which one is none; for that any will do: it is refused there."""
    key = item[0] if isinstance(item, tuple) and item else None
    is_key = key is None or isinstance(key, (bytes, bytearray, memoryview))
    return feed.partitioner.partition(key, len(feed.lanes)) if is_key else 0


def average_size(group: list[tuple[Any, ...]]) -> int:
    """About how many bytes a record of these takes, by a few of them."""
    some = group[:: max(len(group) // _SAMPLES, 1)]
    sizes = (len(part) for item in some for part in item[:2] if isinstance(part, (bytes, bytearray, memoryview)))
    return sum(sizes) // len(some) + RECORD_OVERHEAD // 2
