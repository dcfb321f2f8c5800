"""What `torture_sweep` does to a log and its model: steps, and the scripts they make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from logstore.records import BatchOptions, Codec, encode_batch

START_MS = 1_700_000_000_000

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
}  # fmt: skip
