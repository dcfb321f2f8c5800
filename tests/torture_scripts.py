"""What `torture_sweep` and `torture_compaction` do to a log and its model: steps, and the scripts they make."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

from logstore.cleaner import Cleaner
from logstore.cleaner.offset_map import KEY_SLOT_BYTES
from logstore.records import BatchOptions, Codec, encode_batch
from logstore.retention import retain
from logstore.testing import LogModel

START_MS = 1_700_000_000_000
DAY_MS = 86_400_000
EXPIRED_MS = START_MS + 30 * DAY_MS
"""When all that was appended is older than any limit."""

Step = Callable[[Any], Any]
"""Something that is done to a log and to its model."""


def reopen(log: Any) -> None:
    """Stands for closing the log and opening it again."""


def records(count: int, name: str = "v") -> list[tuple[bytes, bytes]]:
    return [(b"k", b"%s-%d" % (name.encode(), number) + b"." * 40) for number in range(count)]


def append(count: int = 2, durability: Any = "os", codec: Codec = Codec.NONE, name: str = "v") -> Step:
    data = bytes(encode_batch(records(count, name), timestamp=START_MS, options=BatchOptions(codec=codec)))
    return lambda log: log.append_batch(data, durability=durability)


def produce(
    producer_id: int, sequence: int, count: int = 2, durability: Any = "os", is_transactional: bool = True
) -> Step:
    options = BatchOptions(
        producer_id=producer_id, producer_epoch=0, base_sequence=sequence, is_transactional=is_transactional
    )
    data = bytes(encode_batch(records(count, "p"), timestamp=START_MS, options=options))
    return lambda log: log.append_batch(data, durability=durability)


def end(producer_id: int, commit: bool) -> Step:
    return lambda log: log.end_transaction(producer_id, 0, commit=commit)


def follow(offset: int, count: int, epoch: int, durability: Any = "os") -> Step:
    options = BatchOptions(leader_epoch=epoch)
    data = bytes(encode_batch(records(count, "f"), base_offset=offset, timestamp=START_MS, options=options))
    return lambda log: log.append_as_follower(data, durability=durability)


def truncate(offset: int) -> Step:
    return lambda log: log.truncate_to(offset)


def start_at(offset: int) -> Step:
    return lambda log: log.truncate_fully_and_start_at(offset)


def advance(offset: int) -> Step:
    return lambda log: log.advance_log_start(offset)


def roll(log: Any) -> Any:
    return log.roll()


def flush(log: Any) -> Any:
    return log.flush()


def delete(log: Any) -> Any:
    return log.delete_before_log_start()


def maintain(log: Any) -> Any:
    return log.maintain()


def expire(below: int | None = None) -> Step:
    """Retention of a log all of which has expired; what is below an offset where a segment begins, or everything."""

    def step(log: Any) -> Any:
        if isinstance(log, LogModel):
            if below is None:
                log.roll()
            return log.advance_log_start(log.log_end_offset if below is None else below)
        plan = retain(log, EXPIRED_MS, high_watermark=below)
        assert plan.log_start_offset == log.log_start_offset and below in (None, plan.log_start_offset)
        return plan

    return step


_numbers = itertools.count()


def put(
    *keys: int,
    producer: tuple[int, int] | None = None,
    is_transactional: bool = False,
    durability: Any = "os",
    codec: Codec = Codec.NONE,
) -> Step:
    """Append a batch of records with keys, each with a value of its own; tombstones for negative keys: -k deletes k.

    `producer` is an id and a sequence.
    """
    producer_id, sequence = producer or (-1, -1)
    options = BatchOptions(
        producer_id=producer_id, producer_epoch=-1 if producer is None else 0, base_sequence=sequence,
        is_transactional=is_transactional, codec=codec,
    )  # fmt: skip
    rows = [(b"k%d" % abs(key), None if key < 0 else b"v%d" % next(_numbers) + b"." * 30) for key in keys]
    data = bytes(encode_batch(rows, timestamp=START_MS, options=options))
    return lambda log: log.append_batch(data, durability=durability)


@dataclasses.dataclass(frozen=True, slots=True)
class Clean:
    """One round of cleaning so many days after the records; the model keeps all. `keys`: how many the map takes."""

    days: int = 0
    keys: int = 1000
    verifies: bool = False

    def __call__(self, log: Any, is_cancelled: Callable[[], bool] | None = None) -> Any:
        if isinstance(log, LogModel):
            return None
        cleaner = Cleaner(self.keys * 2 * KEY_SLOT_BYTES, seed=bytes(16), is_cancelled=is_cancelled)
        return cleaner.clean(log, now_ms=START_MS + self.days * DAY_MS, verifies=self.verifies)


SCRIPTS: dict[str, list[Step]] = {
    "appends": [
        append(), append(3, "always"), append(2, "interval"), append(1, "os", Codec.LZ4),
        append(4, "always", Codec.GZIP), append(3), append(3), append(2, "always"), flush, append(5), roll, roll,
        append(2), reopen, append(2, "always"), append(4), append(4), append(2, "always"), reopen,
    ],
    "transactions": [
        produce(1, 0), produce(2, 0, 1), append(2, "always"), end(1, False), produce(1, 2), produce(2, 1, 3),
        end(2, True), produce(3, 0, 2, "always", False), produce(1, 4, 2, "always"), roll, end(1, False),
        produce(2, 4), flush, produce(2, 6), reopen, end(2, False), produce(3, 2, 1, "always", False), append(4),
        append(4), end(1, True),
    ],
    "cuts": [
        append(3, "always"), append(3), append(3), append(4, "always"), append(4), append(2, "always"), truncate(13),
        append(2, "always"), append(3), truncate(7), append(4), append(4, "always"), append(4), advance(8), delete,
        maintain, append(2, "always"), start_at(40), append(3), append(3, "always"), start_at(6), append(2, "always"),
        append(4), append(4), advance(7), reopen, append(3), truncate(15), append(2), start_at(12), append(2),
    ],
    "transactions that are cut": [
        produce(1, 0, 2, "always"), end(1, False), produce(2, 0, 3), produce(1, 2, 3, "always"), end(2, False),
        produce(2, 3, 3), roll, produce(2, 6, 3, "always"), end(1, True), truncate(12), produce(2, 3, 2, "always"),
        end(2, False), start_at(3), produce(1, 0, 2, "always"), end(1, False), reopen, produce(1, 2, 2), end(1, True),
        start_at(30), produce(1, 7, 1), append(1, "always"), produce(1, 8, 2), roll, start_at(20), produce(2, 9, 1),
    ],
    "many segments": [
        append(2, "always"), roll, append(2), roll, append(2), roll, append(2, "always"), truncate(1), append(1),
        roll, append(2, "always"), roll, append(2), roll, append(2), roll, append(1, "always"), advance(6), delete,
        maintain, reopen, roll, append(2, "always"), truncate(6), append(2), roll, append(2), start_at(7),
        append(1, "always"),
    ],
    "a follower": [
        follow(0, 3, 0), follow(5, 2, 0, "always"), follow(7, 4, 1), follow(20, 3, 1), follow(23, 4, 3, "always"),
        truncate(20), follow(20, 2, 4), follow(25, 4, 4, "always"), roll, follow(40, 3, 5), advance(20), delete,
        reopen, follow(50, 2, 5, "always"), truncate(40), follow(40, 3, 6, "always"),
    ],
    "retention": [
        append(3, "always"), append(3), roll, append(2), produce(1, 0, 2), roll, append(3, "always"), append(2), roll,
        append(2), expire(6), append(4, "always"), expire(15), produce(2, 0, 3, "always"), roll, end(1, False), reopen,
        append(3), append(3, "always"), expire(24), append(2), expire(), append(3), append(1, "always"), truncate(36),
        expire(), reopen, append(2), roll, append(2, "always"), advance(38), expire(), expire(), append(1),
    ],
}  # fmt: skip

COMPACTIONS: dict[str, list[Step]] = {
    "compaction": [
        put(1, 2, 3, durability="always"), put(1, 4, codec=Codec.LZ4), put(2, -3), roll, put(5, 1, producer=(1, 0)),
        put(6, 2, 5, codec=Codec.ZSTD), roll, put(-4, 7), put(6, 6, 1, durability="always"), Clean(), put(8, 1), roll,
        Clean(days=2, keys=2), put(2, 3, producer=(1, 2), codec=Codec.GZIP), put(-8, 9), put(9, 10, 11, 12), roll,
        Clean(days=3, keys=4), reopen, put(7, 7, 7, codec=Codec.SNAPPY), put(-9), Clean(days=3, verifies=True), roll,
        put(1, durability="always"), Clean(days=9), put(-1, -2), put(13), roll, Clean(days=10, verifies=True),
        Clean(days=12),
    ],
    "compaction of transactions": [
        put(1, 2, 3, producer=(1, 0), is_transactional=True), end(1, True), put(1, 4, durability="always"), roll,
        put(2, 5, producer=(2, 0), is_transactional=True), put(6, producer=(1, 3), is_transactional=True),
        end(2, False), put(-3), roll, put(3, 6, codec=Codec.LZ4), Clean(), end(1, True), put(-4, durability="always"),
        roll, Clean(keys=2), put(7, 1, producer=(2, 2), is_transactional=True, codec=Codec.ZSTD), roll, put(2, 2),
        reopen, end(2, False), put(5, producer=(3, 0), durability="always"), roll, Clean(days=2, verifies=True),
        put(1, -6, producer=(1, 4), is_transactional=True), end(1, True), put(8), roll, Clean(days=5), Clean(days=8),
        advance(9), put(9, producer=(2, 4), is_transactional=True), delete, roll, Clean(days=11, verifies=True),
    ],
    "compaction and cuts": [
        put(1, 2, durability="always"), put(1, 3), roll, put(1, -2), put(4, 1), roll, put(5, 5, codec=Codec.GZIP),
        Clean(keys=3), put(6, 3), roll, put(3, 3, durability="always"), truncate(14), put(7, 1), roll, Clean(days=1),
        put(-7), advance(6), delete, roll, put(8, durability="always"), Clean(days=3), start_at(30), put(1, 2), roll,
        put(1, -2), roll, Clean(days=3), put(2), roll, Clean(days=6, keys=2), Clean(days=9, verifies=True),
    ],
    "compaction of groups": [
        *itertools.chain(*([put(2 * n, 99), put(2 * n + 1, 2 * n, durability="always"), roll] for n in range(9))),
        Clean(verifies=True), put(1, -5), put(-7, 9, 11), roll, Clean(days=2, verifies=True), put(2, 4, 13), roll,
        Clean(days=4), Clean(days=6, verifies=True),
    ],
}  # fmt: skip
"""Scripts for a log whose policy is `compact`."""
