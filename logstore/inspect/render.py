"""Turns selected batches and records into lines of JSON, text, CSV or raw values.

The kernel writes whole batches at a time; only what it cannot know (control records, decoded internal records, CSV) is
put together here. The shape of the lines is the contract of the `dump` command. One renderer belongs to one thread.
"""

from __future__ import annotations

import base64
import enum
import functools
import json
from collections.abc import Iterable, Iterator
from typing import Any

from logstore.errors import LogstoreError, UnsupportedFormatError
from logstore.inspect.dump import Selection
from logstore.inspect.large import csv_pieces, groups, is_large, json_pieces, may_hold_large_records, text_pieces
from logstore.inspect.text import json_text, printable
from logstore.names import DECODED_TOPICS, TopicPartition
from logstore.records import (
    BatchHeader,
    ByteEncoding,
    ControlType,
    LineMode,
    LineStyle,
    Record,
    RecordBatch,
    format_records,
    parse_control_key,
    parse_end_transaction_marker,
)

# Decoders are imported where the first internal record is met: their tables take longer to build than a small dump.
CSV_COLUMNS = ("topic", "partition", "offset", "timestamp", "timestamp_type", "key", "value", "headers")


class Format(enum.StrEnum):
    """What a line is."""

    TEXT = "text"
    JSON = "json"
    CSV = "csv"
    RAW = "raw"


class Renderer:
    """Writes lines.

    Args:
        line_format: what a line is.
        encoding: how bytes become text.
        decode: whether records of internal topics are shown decoded.
        with_batch: whether each record line names its batch.
        verified: whether CRCs were checked (a batch is then known to be valid).
        raw_end: what ends a raw value.
    """

    def __init__(
        self,
        line_format: Format,
        encoding: ByteEncoding = ByteEncoding.UTF8,
        *,
        decode: bool = True,
        with_batch: bool = False,
        verified: bool = True,
        raw_end: bytes = b"\n",
    ) -> None:
        self._format = line_format
        self._encoding = encoding
        self._decode = decode
        self._with_batch = with_batch
        self._verified = verified
        self._raw_end = raw_end

    # ---- records

    def lines(self, selection: Selection) -> Iterator[tuple[bytes, int]]:
        """All lines of a selection, in pieces, each with its number of lines. Raises LogstoreError."""
        batch = selection.batch
        by_kernel = self._format != Format.CSV and not batch.is_control and not self._decodes(selection)
        if by_kernel and selection.is_whole and batch.header.magic == 2 and not may_hold_large_records(batch):
            yield from selection.lines(self._style(selection))
            return
        for piece in selection.record_pieces():
            yield from self.some_lines(selection, piece)

    def some_lines(self, selection: Selection, records: list[Record]) -> Iterator[tuple[bytes, int]]:
        """The lines of some records of a selection, in pieces, each with the number of lines that end in it."""
        is_plain = not selection.batch.is_control and not self._decodes(selection)
        for group in groups(records):
            if is_plain and is_large(group[0]):
                yield from ((piece, 0) for piece in self._large_line(selection, group[0]))
                yield b"", 1
            else:
                yield self._group(selection, group)

    def _group(self, selection: Selection, records: list[Record]) -> tuple[bytes, int]:
        if selection.batch.is_control:
            if self._format == Format.RAW:
                return b"", 0
            return b"".join(self._control_line(selection, record) for record in records), len(records)
        if self._decodes(selection):
            return b"".join(self._decoded_line(selection, record) for record in records), len(records)
        if self._format == Format.CSV:
            return b"".join(self._csv_line(selection, record) for record in records), len(records)
        return format_records(records, self._style(selection)), len(records)

    def _large_line(self, selection: Selection, record: Record) -> Iterator[bytes]:
        style, key, value = self._style(selection), record.key, record.value
        if self._format == Format.RAW:
            yield from (value or b"", self._raw_end)
            return
        if self._format == Format.CSV:
            fields = self._csv_fields(selection, record, "", "")
            yield _csv(fields[:5]) + b","
            yield from csv_pieces(key, self._encoding, self.text)
            yield b","
            yield from csv_pieces(value, self._encoding, self.text)
            yield b"," + _csv(fields[7:]) + b"\n"
            return
        head, between, tail = self._around(selection, record)
        pieces = json_pieces if self._format == Format.JSON else text_pieces
        yield head
        yield from pieces(key, self._encoding)
        yield between
        yield from pieces(value, self._encoding)
        yield tail + style.suffix

    def _decodes(self, selection: Selection) -> bool:
        identity = selection.place.partition
        return (
            self._decode and self._format != Format.RAW and identity is not None and identity.topic in DECODED_TOPICS
        )

    def _style(self, selection: Selection) -> LineStyle:
        identity = selection.place.partition
        if self._format == Format.RAW:
            return LineStyle(LineMode.RAW, self._encoding, b"", b"", self._raw_end)
        if self._format == Format.TEXT:
            end = f"\t{self.batch_text(selection, True)}\n" if self._with_batch else "\n"
            return LineStyle(LineMode.TEXT, self._encoding, f"{selection.place.label}\t".encode(), b"", end.encode())
        middle = f',"timestamp_type":"{selection.batch.timestamp_type.value}","key":'
        end = f',"batch":{self.batch_json(selection, True)}}}\n' if self._with_batch else "}\n"
        prefix = f'{{{_identity_json(identity)},"offset":'
        return LineStyle(LineMode.JSON, self._encoding, prefix.encode(), middle.encode(), end.encode())

    def _control_line(self, selection: Selection, record: Record) -> bytes:
        control = control_object(record)
        if self._format == Format.TEXT:
            words = " ".join(f"{key}={_plain(value)}" for key, value in control.items() if key != "type")
            return self._shown(selection, record, None, None, f"\tcontrol {control['type']} {words}".rstrip())
        if self._format == Format.CSV:
            return self._csv_line(selection, Record(record.offset, record.timestamp, None, None))
        return self._shown(selection, record, None, None, f',"control":{json_text(control)}')

    def _decoded_line(self, selection: Selection, record: Record) -> bytes:
        from logstore.records.internal import decode_internal_key, decode_internal_value

        topic = selection.place.partition.topic if selection.place.partition else ""
        key = _decoded(lambda: decode_internal_key(topic, record.key), record.key, record.offset)
        value = _decoded(lambda: decode_internal_value(topic, record.key, record.value), record.value, record.offset)
        if self._format == Format.CSV:
            return self._csv_line(selection, record, json_text(key), json_text(value))
        return self._shown(selection, record, key, value, "")

    def _shown(self, selection: Selection, record: Record, key: Any, value: Any, rest: str) -> bytes:
        """A line of which key and value are plain objects."""
        head, between, tail = self._around(selection, record)
        shown = (head, json_text(key).encode(), between, json_text(value).encode(), tail, rest.encode())
        return b"".join(shown) + self._style(selection).suffix

    def _around(self, selection: Selection, record: Record) -> tuple[bytes, bytes, bytes]:
        """What stands before, between and behind key and value in a line of JSON or text, up to its suffix."""
        style = self._style(selection)._replace(suffix=b"")
        if self._format == Format.TEXT:
            line = format_records([Record(record.offset, record.timestamp, b"", b"", record.headers)], style)
            *first, _, _, headers = (*line.split(b"\t"), b"")[:6]
            return b"\t".join([*first, b""]), b"\t", b"\t" + headers if record.headers else b""
        line = format_records([Record(record.offset, record.timestamp, None, None, record.headers)], style)
        head, _, tail = line.rpartition(b'null,"value":null,')
        return head, b',"value":', b"," + tail

    # ---- CSV

    @property
    def columns(self) -> tuple[str, ...]:
        """What the fields of a record's CSV line are."""
        return (*CSV_COLUMNS, "batch") if self._with_batch else CSV_COLUMNS

    def _csv_line(
        self, selection: Selection, record: Record, key: str | None = None, value: str | None = None
    ) -> bytes:
        return _csv(self._csv_fields(selection, record, key, value)) + b"\n"

    def _csv_fields(
        self, selection: Selection, record: Record, key: str | None, value: str | None
    ) -> tuple[str | None, ...]:
        identity = selection.place.partition
        headers = [[name, self.text(data)] for name, data in record.headers]
        fields: tuple[str | None, ...] = (
            None if identity is None else identity.topic,
            None if identity is None else str(identity.partition),
            str(record.offset),
            str(record.timestamp),
            selection.batch.timestamp_type.value,
            self.text(record.key) if key is None else key,
            self.text(record.value) if value is None else value,
            json_text(headers) if headers else None,
        )
        if self._with_batch:
            fields += (self.batch_json(selection, True),)
        return fields

    def text(self, data: bytes | None) -> str | None:
        """Bytes as text in the chosen encoding; what is not UTF-8 as `\\xNN`."""
        if data is None:
            return None
        if self._encoding == ByteEncoding.BASE64:
            return base64.b64encode(data).decode()
        return data.hex() if self._encoding == ByteEncoding.HEX else data.decode("utf-8", "backslashreplace")

    # ---- batches

    def batch_line(self, selection: Selection, is_valid: bool, *, with_identity: bool) -> bytes:
        """The line that `--batches` prints for a batch."""
        if self._format == Format.JSON:
            identity = _identity_json(selection.place.partition) + "," if with_identity else ""
            return f"{{{identity}{self.batch_json(selection, is_valid)[1:]}\n".encode()
        return f"{selection.place.label}\t{self.batch_text(selection, is_valid)}\n".encode()

    def batch_row(self, selection: Selection, is_valid: bool, *, with_identity: bool) -> dict[str, Any]:
        """A batch as the fields of its CSV line."""
        row: dict[str, Any] = json.loads(self.batch_json(selection, is_valid))
        identity = selection.place.partition
        return {"topic": identity.topic, "partition": identity.partition, **row} if with_identity and identity else row

    def batch_json(self, selection: Selection, is_valid: bool) -> str:
        """A batch as a JSON object."""
        batch, h = selection.batch, selection.batch.header
        base_offset, count = (h.base_offset, h.count) if h.magic == 2 else _range(batch)
        codec, timestamp_type, _ = _words(h.magic, h.attributes)
        horizon = batch.delete_horizon_ms
        valid = "false" if not is_valid else "true" if self._verified else "null"
        return (
            f'{{"segment":{json_text(selection.place.name)},"position":{h.position},"size":{h.size}'
            f',"base_offset":{base_offset},"last_offset":{batch.last_offset},"count":{count},"magic":{h.magic}'
            f',"codec":"{codec}","timestamp_type":"{timestamp_type}","max_timestamp":{h.max_timestamp}'
            f',"producer_id":{h.producer_id},"producer_epoch":{h.producer_epoch},"base_sequence":{h.base_sequence}'
            f',"leader_epoch":{h.leader_epoch},"transactional":{_bool(batch.is_transactional)}'
            f',"control":{_bool(batch.is_control)},"delete_horizon_ms":{"null" if horizon is None else horizon}'
            f',"crc":{h.crc},"valid":{valid}}}'
        )

    def batch_text(self, selection: Selection, is_valid: bool) -> str:
        """A batch as words."""
        batch, h = selection.batch, selection.batch.header
        base_offset, count = (h.base_offset, h.count) if h.magic == 2 else _range(batch)
        position, size, first, leader_epoch, magic, crc, attributes, delta = h[:8]
        base_timestamp, timestamp, producer_id = h[8:11]
        codec, timestamp_type, flags = _words(magic, attributes)
        producer = ""
        if producer_id >= 0:
            producer = f" producer {producer_id} epoch {h.producer_epoch} sequence {h.base_sequence}"
        horizon = f" delete-horizon {base_timestamp}" if magic == 2 and attributes & 0x40 else ""
        epoch = f" epoch {leader_epoch}" if magic == 2 else ""
        verdict = "INVALID" if not is_valid else "valid" if self._verified else "unverified"
        return (
            f"{printable(selection.place.name)} offsets {base_offset}..{first + delta} count {count}"
            f" position {position} size {size} v{magic} {codec} {timestamp_type} {timestamp}"
            f"{epoch}{producer}{flags}{horizon} crc {crc:#010x} {verdict}"
        )

    def row(self, row: dict[str, Any]) -> bytes:
        """An entry of an index, snapshot or checkpoint."""
        if self._format == Format.JSON:
            return json_text(row).encode() + b"\n"
        if self._format == Format.CSV:
            fields = (csv_field(None if value is None else _plain(value)) for value in row.values())
            return ",".join(fields).encode("utf-8", "backslashreplace") + b"\n"
        return "\t".join(f"{key}={printable(_plain(value))}" for key, value in row.items()).encode() + b"\n"


def control_object(record: Record) -> dict[str, Any]:
    """What a control record says, as plain values; one that cannot be read says why."""
    try:
        control_type, number = parse_control_key(record.key)
        if control_type.ends_transaction:
            marker = parse_end_transaction_marker(record.key, record.value)
            return {"type": control_type.name, "coordinator_epoch": marker.coordinator_epoch}
        if control_type == ControlType.UNKNOWN:
            encoded = base64.b64encode(record.value or b"").decode()
            return {"type": control_type.name, "number": number, "base64": encoded}
        from logstore.records.internal import decode_control_value

        return {"type": control_type.name, **decode_control_value(number, record.value or b"")}
    except LogstoreError as error:
        return {"type": ControlType.UNKNOWN.name, "error": error.reason}


def _decoded(decode: Any, data: bytes | None, offset: int) -> Any:
    try:
        return decode()
    except LogstoreError as error:
        encoded = None if data is None else base64.b64encode(data).decode()
        return {"error": f"Error at offset {offset}, skipping. {error.reason}", "base64": encoded}


def _range(batch: RecordBatch) -> tuple[int | str, int | str]:
    """Base offset and count; a compressed set of v0 or v1 has to be opened for them."""
    header = batch.header
    if header.count >= 0 or header.magic == 2:
        return header.base_offset, header.count
    try:
        records = batch.records()
    except LogstoreError:
        return "null", "null"
    return records[0].offset, len(records)


@functools.lru_cache(maxsize=256)
def _words(magic: int, attributes: int) -> tuple[str, str, str]:
    """Codec, timestamp type and flags, as words."""
    header = BatchHeader(0, 0, 0, -1, magic, 0, attributes, 0, -1, -1, -1, -1, -1, 0)
    batch = RecordBatch(header, None)
    try:
        codec = batch.codec.label
    except UnsupportedFormatError:
        codec = f"unknown-{attributes & 7}"
    flags = " transactional" * batch.is_transactional + " control" * batch.is_control
    return codec, batch.timestamp_type.value, flags


def _identity_json(identity: TopicPartition | None) -> str:
    if identity is None:
        return '"topic":null,"partition":null'
    return f'"topic":{json_text(identity.topic)},"partition":{identity.partition}'


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json_text(value)


def _bool(value: bool) -> str:
    return "true" if value else "false"


def _csv(fields: Iterable[str | None]) -> bytes:
    return ",".join(map(csv_field, fields)).encode("utf-8", "backslashreplace")


def csv_field(text: str | None) -> str:
    """A CSV field (RFC 4180): nothing is null, an empty text is quoted."""
    if text is None:
        return ""
    if text == "" or any(char in text for char in ',"\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text
