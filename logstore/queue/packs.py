"""What a producer holds of records that are not written: packs of them, by partition and topic.

Plain values that `gathering` works on, under its lock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from logstore.config import LogConfig
from logstore.log import AppendFuture
from logstore.names import TopicPartition
from logstore.queue.partitioner import Partitioner
from logstore.queue.sending import SendFuture
from logstore.records.header import HEADER_V2_SIZE
from logstore.store import Topic

if TYPE_CHECKING:
    from logstore.queue.gathering import Desk

RECORD_OVERHEAD = 26
"""What a record takes in a batch beyond key, value and headers, at most (FORMAT §2.5)."""
HEADER_OVERHEAD = 10
Callback = Callable[[SendFuture], object]


class Pack:
    """Records for one partition that are written together.

    Attributes:
        lane: the partition.
        items: the records, while they are gathered.
        size: their bytes, an upper bound.
        first_offset: of the first one, once written; before that -1.
        error: what has kept them from being written.
        is_done: whether it is known what became of them.
        is_error_seen: whether somebody was told the error.
    """

    __slots__ = ("callbacks", "count", "error", "first_offset", "is_done", "is_error_seen", "items", "lane", "size",
                 "ticket")  # fmt: skip

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.items: list[Any] = []
        self.size = HEADER_V2_SIZE
        self.count = 0
        self.first_offset = -1
        self.error: Exception | None = None
        self.is_done = False
        self.is_error_seen = False
        self.ticket: AppendFuture | None = None
        self.callbacks: list[tuple[Callback, SendFuture]] = []

    def __repr__(self) -> str:
        return f"<Pack of {len(self.items) or self.count} for {self.lane.name}>"


class Lane:
    """A partition as a producer sees it: `pack` is being gathered for it."""

    __slots__ = ("desk", "name", "number", "pack")

    def __init__(self, desk: Desk, name: TopicPartition) -> None:
        self.desk = desk
        self.name = name
        self.number = name.partition
        self.pack = Pack(self)

    def __repr__(self) -> str:
        return f"<Lane {self.name} {self.pack!r}>"


class Feed:
    """A topic as a producer sees it.

    Attributes:
        topic: as it was when a batch was written last.
        lanes: by the number of their partitions.
        partitioner: chooses among them.
        limit: how many bytes a pack holds.
        config: the settings.
        record_bytes_max: a record of so many bytes fits a batch in any case.
        needs_keys: whether records have to have one.
    """

    __slots__ = ("config", "lanes", "limit", "needs_keys", "partitioner", "record_bytes_max", "topic")

    def __init__(self, topic: Topic, partitioner: Partitioner) -> None:
        self.topic = topic
        self.lanes: list[Lane] = []
        self.partitioner = partitioner
        self.limit = 0
        self.configure(LogConfig())

    def __repr__(self) -> str:
        return f"<Feed {self.topic.name}>"

    def configure(self, config: LogConfig) -> None:
        """Heed these settings."""
        self.config = config
        self.record_bytes_max = config.max_message_bytes - HEADER_V2_SIZE
        self.needs_keys = config.compacted
