"""Metadata logs of a cluster, made for one test: records as a KRaft controller writes them, and where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from helpers.directories import START, Partition

from logstore.names import metadata_snapshot_file_name
from logstore.records import encode_batch

METADATA = "__cluster_metadata-0"
TOPIC, BROKER = 2, 4

BEGIN, END, ABORT = (bytes((1, kind, 0, 0)) for kind in (23, 24, 25))
"""A metadata transaction begins, ends, is given up."""


def topic(name: str, number: int) -> bytes:
    """A topic is made, with this number for its id."""
    return bytes((1, 2, 0)) + _text(name) + UUID(int=number).bytes + b"\0"


def topic_removed(number: int) -> bytes:
    return bytes((1, 9, 0)) + UUID(int=number).bytes + b"\0"


def setting(resource: str, name: str, value: str | None, *, kind: int = TOPIC, version: int = 0) -> bytes:
    """A setting of a topic or broker is set, or (None) taken back."""
    return bytes((1, 4, version, kind)) + _text(resource) + _text(name) + _text(value) + b"\0"


def write_metadata(log_directory: Path, *segments: Sequence[bytes], first_offset: int = 0) -> Path:
    """Write a metadata log; every record is a batch, every sequence a segment."""
    partition = Partition(log_directory / METADATA, first_offset=first_offset)
    for number, values in enumerate(segments):
        if number:
            partition.roll()
        for value in values:
            partition.append(value)
    return partition.close()


def write_metadata_snapshot(log_directory: Path, end_offset: int, values: Sequence[bytes], suffix: str = "") -> Path:
    """Write a snapshot of everything below an offset, as one batch."""
    place = log_directory / METADATA / f"{metadata_snapshot_file_name(end_offset, 1)}{suffix}"
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(encode_batch([(None, value) for value in values], timestamp=START))
    return place


def _text(text: str | None) -> bytes:
    assert text is None or len(text) < 127  # one byte of length
    return b"\0" if text is None else bytes((len(text) + 1,)) + text.encode()
