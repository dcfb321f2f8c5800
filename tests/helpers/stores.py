"""Stores in a directory of a test, and what is found in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from logstore.inspect import CheckOptions, Severity, check, resolve
from logstore.log import parse_offset_checkpoint
from logstore.names import TopicPartition
from logstore.store import Store

MARKER = ".kafka_cleanshutdown"


def alarms(directory: Path) -> list[str]:
    """What `check` finds in a store beyond notes."""
    found = check(resolve(directory), CheckOptions())
    return [str(one) for one in found if one.severity != Severity.NOTE]


def checkpoint(directory: Path, name: str) -> dict[TopicPartition, int]:
    """What one of a log directory's checkpoints says."""
    return parse_offset_checkpoint((directory / name).read_bytes())


def ends(directory: Path) -> dict[TopicPartition, int]:
    return checkpoint(directory, "recovery-point-offset-checkpoint")


def is_clean(directory: Path) -> bool:
    """Whether it looks as a broker leaves it that shuts down."""
    return (directory / MARKER).exists()


def contents(directory: Path, *, besides: tuple[str, ...] = ()) -> dict[str, bytes | None]:
    """All that is below a directory."""

    def walk(place: Path) -> Iterator[tuple[str, bytes | None]]:
        for one in sorted(place.rglob("*")):
            if one.name not in besides:
                yield str(one.relative_to(place)), None if one.is_dir() else one.read_bytes()

    return dict(walk(directory))


def fill(store: Store, topic: str, count: int, number: int = 0, *, first: int = 0, **options: Any) -> None:
    """Append records one by one; each has its number as its value."""
    partition = store.partition(topic, number)
    for at in range(first, first + count):
        partition.append([(b"k", b"%d" % at)], **options)


def values(store: Store, topic: str, number: int = 0, **options: Any) -> list[bytes | None]:
    return [record.value for record in store.partition(topic, number).records(**options)]


def numbers(first: int, end: int) -> list[bytes]:
    """The values that `fill` writes."""
    return [b"%d" % number for number in range(first, end)]
