"""What a coordinator cannot do at once: answers that have to wait, and records that have to be written.

Invariant: a request is answered once. A `Write` is told its end once. Not thread-safe: they belong to a coordinator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from logstore.groups.errors import ErrorCode

Response = TypeVar("Response")
Done = Callable[[ErrorCode, int], None]
"""Told how a write ended: NONE with the offset of its first record, or the log's error with -1."""
KeyAndValue = tuple[bytes, bytes | None]


class Pending(Generic[Response]):
    """A request that is being served.

    Attributes:
        version: of the API that it came by.
        response: None until there is one; then it no longer changes.
    """

    __slots__ = ("response", "version")

    def __init__(self, version: int) -> None:
        self.version = version
        self.response: Response | None = None

    def __repr__(self) -> str:
        return f"<Pending v{self.version} {self.response!r}>"

    @property
    def is_answered(self) -> bool:
        """Whether there is a response."""
        return self.response is not None


class Write:
    """Records for one partition of `__consumer_offsets`, to be appended as one batch, with acks from all replicas.

    Attributes:
        partition, leader_epoch: where, and in which leader epoch the coordinator decided on them.
        records: keys and values; the timestamp of all is `timestamp_ms`, create time.
        producer_id, producer_epoch: of a transaction, whose batch is transactional; otherwise -1.
    """

    __slots__ = ("_done", "leader_epoch", "partition", "producer_epoch", "producer_id", "records", "timestamp_ms")

    def __init__(
        self,
        partition: int,
        leader_epoch: int,
        records: Sequence[KeyAndValue],
        timestamp_ms: int,
        done: Done,
        producer: tuple[int, int] = (-1, -1),
    ) -> None:
        self.partition = partition
        self.leader_epoch = leader_epoch
        self.records = tuple(records)
        self.timestamp_ms = timestamp_ms
        self.producer_id, self.producer_epoch = producer
        self._done: Done | None = done

    def __repr__(self) -> str:
        state = "open" if self._done else "ended"
        return f"<Write {state} partition {self.partition} epoch {self.leader_epoch} records {len(self.records)}>"

    @property
    def is_ended(self) -> bool:
        """Whether its end has been told."""
        return self._done is None

    def end(self, error: ErrorCode, base_offset: int) -> None:
        """Tell its end. Raises ValueError where that is known already."""
        if self._done is None:
            raise ValueError(f"the end of {self!r} has been told")
        done, self._done = self._done, None
        done(error, base_offset)


class Outbox:
    """Collects answers and writes until they are fetched."""

    def __init__(self) -> None:
        self._answers: list[Pending[Any]] = []
        self._writes: list[Write] = []

    def answer(self, pending: Pending[Response], response: Response) -> None:
        """Answer a request, which has no answer yet."""
        assert pending.response is None, "a request is answered once"
        pending.response = response
        self._answers.append(pending)

    def write(self, write: Write) -> None:
        """Have records written, behind those handed in before."""
        self._writes.append(write)

    def take_answers(self) -> list[Pending[Any]]:
        """Return the requests answered since the last call, in the order of their answers."""
        answers, self._answers = self._answers, []
        return answers

    def take_writes(self) -> list[Write]:
        """Return the writes since the last call, in their order."""
        writes, self._writes = self._writes, []
        return writes

    def take_writes_of(self, partition: int) -> list[Write]:
        """Return the writes of one partition that nobody has fetched yet."""
        taken = [write for write in self._writes if write.partition == partition]
        self._writes = [write for write in self._writes if write.partition != partition]
        return taken
