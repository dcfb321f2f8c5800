"""The data of all benchmarks: distinct keyed records with 12-byte keys and 100-byte values, the same on every run.

Values are printable ASCII, so that every output format shows them plainly. Pure; safe to share between threads.
"""

from __future__ import annotations

import random

KEY_SIZE = 12
VALUE_SIZE = 100
BATCH_BYTES = {"128KiB": 128 * 1024, "16KiB": 16 * 1024}
TIMESTAMP = 1_700_000_000_000

HEADER_SIZE = 61
RECORD_SIZE = KEY_SIZE + VALUE_SIZE + 10
"""Bytes of one record in a batch, at most: 9 or 10 are its lengths, deltas and attributes."""

_PRINTABLE = bytes(random.Random(1).choices(b"abcdefghijklmnopqrstuvwxyz0123456789 -_.:/", k=4096 + VALUE_SIZE))

Pair = tuple[bytes | None, bytes | None]


def pairs(first: int, count: int) -> list[Pair]:
    """`count` distinct (key, value) pairs, numbered from `first` on."""
    return [(b"key-%08d" % number, _value(number)) for number in range(first, first + count)]


def recent_pairs(first: int, count: int) -> list[Pair]:
    """As `pairs`, but the values come from 64, each an object of its own.

    A program appends what it has just made, which is in the processor's cache. Half a million values made beforehand
    are not, and fetching them from memory would be most of what is measured, for every library.
    """
    return [(b"key-%08d" % number, _RECENT[number % 64]) for number in range(first, first + count)]


def _value(number: int) -> bytes:
    start = number % 4096
    return b"%08d " % number + _PRINTABLE[start : start + VALUE_SIZE - 9]


_RECENT = [_value(number) for number in range(64)]


def records_per_batch(batch_bytes: int) -> int:
    """How many of these records surely fit a batch of `batch_bytes`."""
    return (batch_bytes - HEADER_SIZE) // RECORD_SIZE
