"""What a consumer reads of one partition: where it is, and the next messages.

Invariant: messages come in the order of their offsets, each once, but after `seek`. A cursor belongs to one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from itertools import islice, repeat
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from logstore.errors import LogClosedError, LogstoreError, OffsetOutOfRangeError, SerializationError
from logstore.log import FetchIsolation
from logstore.names import TopicPartition
from logstore.records import Header, Record
from logstore.store import Store

Isolation = Literal["read_uncommitted", "read_committed"]
Reset = Literal["earliest", "latest", "error"]
Deserializer = Callable[[bytes], Any]
"""Makes an object of a key or value; None is never handed to it, and stays None."""

ISOLATIONS = {"read_uncommitted": FetchIsolation.LOG_END, "read_committed": FetchIsolation.TXN_COMMITTED}


class Message:
    """A record as a consumer gets it. Immutable by agreement: nobody checks.

    Attributes:
        topic, partition: where it is.
        record: the rest of it.
    """

    # A class of its own: a tuple of all fields takes twice the time to make, more than to decode the record.
    __slots__ = ("partition", "record", "topic")

    def __init__(self, topic: str, partition: int, record: Record | Decoded) -> None:
        self.topic = topic
        self.partition = partition
        self.record = record

    def __repr__(self) -> str:
        return f"<Message {self.topic}-{self.partition} offset {self.offset} key {self.key!r} value {self.value!r}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        return (self.topic, self.partition, self.record) == (other.topic, other.partition, other.record)

    def __hash__(self) -> int:
        return hash((self.topic, self.partition, self.record.offset))

    @property
    def offset(self) -> int:
        """Its number in the partition."""
        return self.record.offset

    @property
    def timestamp(self) -> int:
        """Milliseconds since the epoch, -1 if it has none."""
        return self.record.timestamp

    @property
    def key(self) -> Any:
        """Bytes or None, or what the deserializer made of them."""
        return self.record.key

    @property
    def value(self) -> Any:
        """Bytes or None, or what the deserializer made of them."""
        return self.record.value

    @property
    def headers(self) -> tuple[Header, ...]:
        """Pairs of text and bytes or None."""
        return self.record.headers


class Decoded(NamedTuple):
    """A record whose key and value are objects."""

    offset: int
    timestamp: int
    key: Any
    value: Any
    headers: tuple[Header, ...]


class Cursor:
    """A place in a partition.

    Args:
        store: where it is.
        name: the partition.
        isolation: what is read.
        position: the offset that comes next.
        reset: says where to go on where there is nothing at the position.
        decoders: make objects of keys and values.

    Attributes:
        position: the offset that comes next; can be set by `seek`.
        is_paused: whether nothing is wanted of it for now.
    """

    def __init__(
        self, store: Store, name: TopicPartition, isolation: FetchIsolation, position: int,
        reset: Callable[[Cursor], int], decoders: tuple[Deserializer | None, Deserializer | None],
    ) -> None:  # fmt: skip
        self.name = name
        self.position = position
        self.is_paused = False
        self._store = store
        self._partition = store.partition(*name)
        self._isolation = isolation
        self._reset = reset
        self._decoders = decoders
        self._records: Iterator[Record] | None = None
        self._bound = -1  # all that lies below it comes of these records

    def __repr__(self) -> str:
        return f"<Cursor of {self.name} at {self.position}{' paused' if self.is_paused else ''}>"

    # ---- where

    def start(self) -> int:
        """The first offset there is."""
        return self._partition.log_start_offset

    def end(self) -> int:
        """The offset behind the last record that may be read now."""
        if self._isolation is FetchIsolation.LOG_END:
            return self._partition.log_end_offset
        return self._partition.last_stable_offset

    def is_undecided(self) -> bool:
        """Whether there is a transaction at the end that has not ended."""
        return self.end() < self._partition.log_end_offset

    def offset_for_time(self, timestamp: int) -> int:
        """The first offset with this time or a later one, or the end."""
        found = self._partition.offset_for_time(timestamp)
        return self.end() if found is None else found.offset

    def seek(self, offset: int) -> None:
        """Go on at `offset`."""
        self.close()
        self.position = offset

    @property
    def directory(self) -> Path:
        """The directory of the partition."""
        return self._partition.directory

    # ---- what

    def take(self, count: int) -> list[Message]:
        """The next messages, at most `count`; none at the end.

        Raises SerializationError for the first one that cannot be made an object, with its offset: the position stays
        there; DamagedLogError, UnknownTopicError, and what `reset` raises.
        """
        try:
            records = self._take(count)
        except (LogClosedError, OSError):
            partition = self._store.partition(*self.name)
            if partition is self._partition:
                raise
            self.close()  # the topic was deleted, and is there again
            self._partition = partition
            return []
        except OffsetOutOfRangeError:
            self.seek(self._reset(self))
            return []
        if self._decoders != (None, None):
            return self._decoded(records)
        topic, number = self.name
        return list(map(Message, repeat(topic), repeat(number), records))

    def _take(self, count: int) -> list[Record]:
        if self._records is None:
            self._bound = self.end()
            if self._bound == self.position:
                return []
            if self._bound < self.position:
                raise OffsetOutOfRangeError(f"{self.name} ends at {self._bound}", offset=self.position)
            self._records = self._partition.records(self.position, isolation=self._isolation)
        records: list[Record] = []
        try:
            records.extend(islice(self._records, count))
        except LogstoreError:
            self.close()
            if not records:
                raise
            self.position = records[-1].offset + 1  # what was read before counts; the next call meets the error
            return records
        if records:
            self.position = records[-1].offset + 1
        if len(records) < count:
            self.close()
            # What no reader gets, such as the markers of transactions, is behind us as well.
            self.position = max(self.position, self._bound)
        return records

    def _decoded(self, records: list[Record]) -> list[Message]:
        key_decoder, value_decoder = self._decoders
        messages: list[Message] = []
        for one in records:
            key, value, what = one.key, one.value, "key"
            try:
                if key_decoder is not None and key is not None:
                    key = key_decoder(key)
                what = "value"
                if value_decoder is not None and value is not None:
                    value = value_decoder(value)
            except Exception as error:
                self.seek(one.offset)
                if messages:  # they come first; the next call meets the error again
                    break
                raise SerializationError(
                    f"the deserializer of the {what} failed on {self.name}: {type(error).__name__}: {error}",
                    offset=one.offset, remedy="seek behind it to go on",
                ) from error  # fmt: skip
            messages.append(Message(*self.name, Decoded(one.offset, one.timestamp, key, value, one.headers)))
        return messages

    def close(self) -> None:
        """Let go of what is being read."""
        records, self._records = self._records, None
        if records is not None:
            cast(Generator[Record], records).close()
