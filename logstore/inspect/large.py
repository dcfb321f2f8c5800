"""Lines of records too large to be put together in memory: escaping makes up to six bytes of one.

A large value is written piece by piece; together, the pieces are what the kernel would have written. Pure functions;
safe to call from any thread.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator

from logstore.records import ByteEncoding, Codec, LineMode, LineStyle, Record, RecordBatch, format_records

LARGE_BYTES = 4 << 20
GROUP_BYTES = 1 << 20  # formatted at a time
_CHUNK_BYTES = 3 << 18  # a multiple of 3, as base64 needs
_FEW_RECORDS = 64
# How many bytes one byte of a stream can become, roughly; what is smaller holds nothing large.
_EXPANSION = {Codec.NONE: 1, Codec.GZIP: 1040, Codec.SNAPPY: 22, Codec.LZ4: 256, Codec.ZSTD: 40_000}


def may_hold_large_records(batch: RecordBatch) -> bool:
    """Whether a batch may hold records to be written piece by piece; one with many records is taken not to."""
    size = batch.header.size * _EXPANSION[batch.codec]
    return size > LARGE_BYTES and (batch.codec == Codec.NONE or batch.header.count <= _FEW_RECORDS)


def is_large(record: Record) -> bool:
    """Whether a record is to be written piece by piece."""
    return _size(record) > LARGE_BYTES


def groups(records: list[Record]) -> Iterator[list[Record]]:
    """Split records into groups small enough to be formatted at once; a large one is a group of its own."""
    group: list[Record] = []
    size = 0
    for record in records:
        size += _size(record)
        if group and size > GROUP_BYTES:
            yield group
            group, size = [], _size(record)
        group.append(record)
    if group:
        yield group


def json_pieces(data: bytes | None, encoding: ByteEncoding) -> Iterator[bytes]:
    """A key or value in JSON: null, a string, or an object with base64."""
    if data is None:
        yield b"null"
        return
    if encoding == ByteEncoding.UTF8 and not _is_utf8(data):
        yield b'{"base64":'
        yield from json_pieces(data, ByteEncoding.BASE64)
        yield b"}"
        return
    yield b'"'
    for chunk in _chunks(data, encoding):
        yield _formatted(chunk, LineMode.JSON, encoding)[1:-1]
    yield b'"'


def text_pieces(data: bytes | None, encoding: ByteEncoding) -> Iterator[bytes]:
    """A key or value in text."""
    if data is None:
        yield b"null"
        return
    for chunk in _chunks(data, encoding):
        yield _formatted(chunk, LineMode.TEXT, encoding)


def csv_pieces(data: bytes | None, encoding: ByteEncoding, text: Callable[[bytes], str | None]) -> Iterator[bytes]:
    """A key or value as a quoted CSV field; `text` is how bytes become text."""
    if data is None:
        return
    yield b'"'
    for chunk in _chunks(data, encoding):
        yield (text(chunk) or "").replace('"', '""').encode("utf-8", "backslashreplace")
    yield b'"'


def _size(record: Record) -> int:
    return len(record.key or b"") + len(record.value or b"") + sum(len(value or b"") for _, value in record.headers)


def _chunks(data: bytes, encoding: ByteEncoding) -> Iterator[bytes]:
    """Pieces of a value; in UTF-8 none of them begins inside a character."""
    start = 0
    while start < len(data):
        end = min(start + _CHUNK_BYTES, len(data))
        if end < len(data) and encoding == ByteEncoding.UTF8:
            end -= next((back for back in range(4) if data[end - back] & 0xC0 != 0x80), 0)
        yield data[start:end]
        start = end


def _is_utf8(data: bytes) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(data), _CHUNK_BYTES):
            decoder.decode(data[start : start + _CHUNK_BYTES])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _formatted(data: bytes, mode: LineMode, encoding: ByteEncoding) -> bytes:
    """A value as the kernel writes it, without what is around it."""
    style = LineStyle(mode, encoding, b"", b"", b"")
    around = format_records([Record(0, 0, None, None)], style)
    head, _, tail = around.rpartition(b"null")
    line = format_records([Record(0, 0, None, data)], style)
    return line[len(head) : len(line) - len(tail)]
