"""Turns selected batches and records into lines of JSON, text, CSV or raw values.

The kernel writes whole batches at a time; only what it cannot know (control records, decoded internal records, CSV) is
put together here. The shape of the lines is the contract of the `dump` command. One renderer belongs to one thread.
"""

from __future__ import annotations

import base64
import enum
import json
from collections.abc import Iterator
from typing import Any

from logstore.errors import LogstoreError, UnsupportedFormatError
from logstore.inspect.dump import Selection
from logstore.names import TopicPartition
from logstore.records import (
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
from logstore.records.internal import INTERNAL_TOPICS, decode_control_value, decode_internal_key, decode_internal_value

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
        if by_kernel and selection.is_whole and batch.header.magic == 2:
            yield from selection.lines(self._style(selection))
            return
        for piece in selection.record_pieces():
            yield self.records(selection, piece)

    def records(self, selection: Selection, records: list[Record]) -> tuple[bytes, int]:
        """The lines of some records of a selection, and how many."""
        if selection.batch.is_control:
            if self._format == Format.RAW:
                return b"", 0
            return b"".join(self._control_line(selection, record) for record in records), len(records)
        if self._decodes(selection):
            return b"".join(self._decoded_line(selection, record) for record in records), len(records)
        if self._format == Format.CSV:
            return b"".join(self._csv_line(selection, record) for record in records), len(records)
        return format_records(records, self._style(selection)), len(records)

    def _decodes(self, selection: Selection) -> bool:
        identity = selection.partition
        return (
            self._decode and self._format != Format.RAW and identity is not None and identity.topic in INTERNAL_TOPICS
        )

    def _style(self, selection: Selection) -> LineStyle:
        identity = selection.partition
        if self._format == Format.RAW:
            return LineStyle(LineMode.RAW, self._encoding, b"", b"", self._raw_end)
        if self._format == Format.TEXT:
            name = "-" if identity is None else str(identity)
            end = f"\t{self.batch_text(selection, True)}\n" if self._with_batch else "\n"
            return LineStyle(LineMode.TEXT, self._encoding, f"{name}\t".encode(), b"", end.encode())
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
        return self._shown(selection, record, None, None, f',"control":{_dumps(control)}')

    def _decoded_line(self, selection: Selection, record: Record) -> bytes:
        topic = selection.partition.topic if selection.partition else ""
        key = _decoded(lambda: decode_internal_key(topic, record.key), record.key, record.offset)
        value = _decoded(lambda: decode_internal_value(topic, record.key, record.value), record.value, record.offset)
        if self._format == Format.CSV:
            return self._csv_line(selection, record, _dumps(key), _dumps(value))
        return self._shown(selection, record, key, value, "")

    def _shown(self, selection: Selection, record: Record, key: Any, value: Any, rest: str) -> bytes:
        """A line of which key and value are plain objects."""
        bare = Record(record.offset, record.timestamp, None, None, record.headers)
        style = self._style(selection)
        if self._format == Format.TEXT:
            line = format_records(
                [Record(record.offset, record.timestamp, b"", b"", record.headers)], style._replace(suffix=b"")
            )
            fields = line.split(b"\t")
            fields[3:5] = [_dumps(key).encode(), _dumps(value).encode()]
            return b"\t".join(fields) + rest.encode() + style.suffix
        line = format_records([bare], style._replace(suffix=b""))
        head, _, tail = line.rpartition(b',"key":null,"value":null,')
        return b'%s,"key":%s,"value":%s,%s%s%s' % (
            head, _dumps(key).encode(), _dumps(value).encode(), tail, rest.encode(), style.suffix,
        )  # fmt: skip

    # ---- CSV

    def header(self) -> bytes:
        """What stands before the first line."""
        return ",".join(CSV_COLUMNS).encode() + b"\n" if self._format == Format.CSV else b""

    def _csv_line(
        self, selection: Selection, record: Record, key: str | None = None, value: str | None = None
    ) -> bytes:
        identity = selection.partition
        headers = [[name, self.text(data)] for name, data in record.headers]
        fields = (
            None if identity is None else identity.topic,
            None if identity is None else str(identity.partition),
            str(record.offset),
            str(record.timestamp),
            selection.batch.timestamp_type.value,
            self.text(record.key) if key is None else key,
            self.text(record.value) if value is None else value,
            _dumps(headers) if headers else None,
        )
        return ",".join(map(csv_field, fields)).encode("utf-8", "backslashreplace") + b"\n"

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
            identity = _identity_json(selection.partition) + "," if with_identity else ""
            return f"{{{identity}{self.batch_json(selection, is_valid)[1:]}\n".encode()
        return f"{selection.partition or '-'}\t{self.batch_text(selection, is_valid)}\n".encode()

    def batch_json(self, selection: Selection, is_valid: bool) -> str:
        """A batch as a JSON object."""
        batch, h = selection.batch, selection.batch.header
        base_offset, count = _range(batch)
        horizon = batch.delete_horizon_ms
        valid = "false" if not is_valid else "true" if self._verified else "null"
        return (
            f'{{"segment":{_dumps(selection.path.name)},"position":{h.position},"size":{h.size},"base_offset":{base_offset}'
            f',"last_offset":{batch.last_offset},"count":{count},"magic":{h.magic},"codec":"{_codec(batch)}"'
            f',"timestamp_type":"{batch.timestamp_type.value}","max_timestamp":{h.max_timestamp}'
            f',"producer_id":{h.producer_id},"producer_epoch":{h.producer_epoch},"base_sequence":{h.base_sequence}'
            f',"leader_epoch":{h.leader_epoch},"transactional":{_bool(batch.is_transactional)}'
            f',"control":{_bool(batch.is_control)},"delete_horizon_ms":{"null" if horizon is None else horizon}'
            f',"crc":{h.crc},"valid":{valid}}}'
        )

    def batch_text(self, selection: Selection, is_valid: bool) -> str:
        """A batch as words."""
        batch, h = selection.batch, selection.batch.header
        base_offset, count = _range(batch)
        words = [
            f"offsets {base_offset}..{batch.last_offset} count {count} position {h.position} size {h.size} v{h.magic}",
            f"{_codec(batch)} {batch.timestamp_type.value} {h.max_timestamp}",
        ]
        if h.magic == 2:
            words.append(f"epoch {h.leader_epoch}")
        if batch.has_producer_id:
            words.append(f"producer {h.producer_id} epoch {h.producer_epoch} sequence {h.base_sequence}")
        words += [
            word for word, said in (("transactional", batch.is_transactional), ("control", batch.is_control)) if said
        ]
        if batch.delete_horizon_ms is not None:
            words.append(f"delete-horizon {batch.delete_horizon_ms}")
        words.append(f"crc {h.crc:#010x} {'INVALID' if not is_valid else 'valid' if self._verified else 'unverified'}")
        return f"{selection.path.name} " + " ".join(words)

    def row(self, row: dict[str, Any]) -> bytes:
        """An entry of an index, snapshot or checkpoint."""
        if self._format == Format.JSON:
            return _dumps(row).encode() + b"\n"
        if self._format == Format.CSV:
            return ",".join(csv_field(_plain(value)) for value in row.values()).encode() + b"\n"
        return "\t".join(f"{key}={_plain(value)}" for key, value in row.items()).encode() + b"\n"


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


def _codec(batch: RecordBatch) -> str:
    try:
        return batch.codec.label
    except UnsupportedFormatError:
        return f"unknown-{batch.header.attributes & 7}"


def _identity_json(identity: TopicPartition | None) -> str:
    if identity is None:
        return '"topic":null,"partition":null'
    return f'"topic":{_dumps(identity.topic)},"partition":{identity.partition}'


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else _dumps(value)


def _bool(value: bool) -> str:
    return "true" if value else "false"


def csv_field(text: str | None) -> str:
    """A CSV field (RFC 4180): nothing is null, an empty text is quoted."""
    if text is None:
        return ""
    if text == "" or any(char in text for char in ',"\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text
