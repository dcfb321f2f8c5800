"""A record as a value: what a consumer gets, without its batch.

Immutable, therefore safe to share between threads.
"""

from __future__ import annotations

from typing import NamedTuple

Header = tuple[str, bytes | None]
"""A header: its key (UTF-8 text; bytes that are not UTF-8 are kept as surrogate escapes) and value (None is null)."""


class Record(NamedTuple):
    """One record of a log.

    `offset` is its logical number in the partition, `timestamp` is in milliseconds since the epoch (-1: none, as in
    message format v0), `key` and `value` are bytes or None (a None value is a tombstone in a compacted log).
    """

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...] = ()
