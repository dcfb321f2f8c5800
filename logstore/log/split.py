"""Splits a segment whose offsets are out of its range (LOG_SEMANTICS §12).

Such segments were made by old brokers' compaction: a relative offset in an index has 32 bits, and theirs had not. Only
files ending in `.cleaned` are written; the caller lets them take the segment's place.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from logstore import names
from logstore.config import LogConfig
from logstore.errors import LogstoreError
from logstore.fs import File, FileSystem
from logstore.log.index_file import RELATIVE_OFFSET_MAX
from logstore.log.maps import MapCache
from logstore.log.segment import Segment
from logstore.log.segment_scan import SizedSource
from logstore.records import BatchScanner, Codec, RecordBatch

_COPY_BYTES = 1 << 20


def split_segment(
    fs: FileSystem, segment: Segment, config: LogConfig, maps: MapCache, now_ms: int
) -> list[Segment]:
    """Copy the batches of a segment into `.cleaned` segments whose offsets fit, durably; indexes are made later.

    Raises LogstoreError when its offsets do not overflow, or when it is damaged; nothing is left behind then.
    """
    directory = segment.path.parent
    made: list[Path] = []
    try:
        with fs.open(segment.path) as source:
            pieces = _pieces(source, segment)
            for base, start, end in pieces:
                path = directory / names.log_file_name(base, names.CLEANED_SUFFIX)
                made.append(path)
                _copy(fs, source, start, end, path)
                fs.set_modified_ms(path, fs.modified_ms(segment.path))
    except BaseException:
        for path in made:
            with contextlib.suppress(OSError):
                fs.unlink(path, missing_ok=True)
        raise
    fs.sync_directory(directory)
    return [
        Segment.existing(fs, directory, base, config, maps, now_ms, suffix=names.CLEANED_SUFFIX)
        for base, _, _ in pieces
    ]


def _pieces(source: File, segment: Segment) -> list[tuple[int, int, int]]:
    """Base offset and byte range of each new segment: that of its first batch, for the first one the old if it can be.

    A crash while they are swapped in is completed by names: the old segment must have the name of a new one.
    """
    pieces: list[tuple[int, int, int]] = []
    overflows = False
    for found in BatchScanner(SizedSource(source, segment.size), verify=False):
        if not isinstance(found, RecordBatch):
            raise LogstoreError(f"it cannot be split: {found.reason}", path=segment.path, position=found.position)
        header = found.header
        overflows = overflows or found.last_offset - segment.base_offset > RELATIVE_OFFSET_MAX
        base = pieces[-1][0] if pieces else segment.base_offset
        if found.last_offset - base > RELATIVE_OFFSET_MAX:
            base = _first_offset(found)
        if not pieces or base != pieces[-1][0]:
            pieces.append((base, header.position, header.position))
        base, start, _ = pieces[-1]
        pieces[-1] = (base, start, header.position + header.size)
    if not overflows:
        raise LogstoreError("no offset in this segment is out of its range", path=segment.path)
    return pieces


def _first_offset(batch: RecordBatch) -> int:
    """The first offset of a batch: in the header, but for a compressed set of old, which has its last one there."""
    is_set = batch.header.magic < 2 and batch.codec is not Codec.NONE
    return batch.records()[0].offset if is_set else batch.header.base_offset


def _copy(fs: FileSystem, source: File, start: int, end: int, path: Path) -> None:
    with fs.open(path, write=True, create=True) as copy:
        copy.truncate(0)
        for position in range(start, end, _COPY_BYTES):
            copy.write(position - start, source.read(position, min(_COPY_BYTES, end - position)))
        copy.sync()
