"""The schema engine of Kafka's internal records: tables of fields in, JSON-able values out.

A table is a `Message`: a name, its fields, its versions. A field exists from version `since` to version `until`; in
the flexible versions strings, bytes and arrays have compact lengths, every structure ends with tagged fields, and a
field with a tag lives there. Values come out as Kafka's own tools print them: bytes as base64, a uuid as 22 characters
of URL-safe base64, a tagged field left out where it has its default. How deep decoding nests is fixed by the table, not
by the bytes. Bytes that do not fit the table raise `InvalidRecordError`. Immutable, therefore safe to share.
"""

from __future__ import annotations

import base64
import math
import struct
from dataclasses import dataclass
from typing import Protocol

from logstore.records.internal.reader import STRING_BYTES_MAX, ByteReader

UUID_BYTES = 16
TAGGED_FIELD_BYTES_MIN = 2
"""A tag and a size, each at least one byte."""
NO_UUID = "A" * 22
"""The uuid of sixteen zero bytes, which Kafka uses for 'none'."""


class FieldType(Protocol):
    """How one value is read; `nullable` has a meaning only for the types of variable size and for structures."""

    def read(self, reader: ByteReader, version: int, flexible: bool, nullable: bool) -> object:
        """Return the JSON-able value at the cursor."""


@dataclass(frozen=True, slots=True)
class Field:
    """One row of a table: a field, the versions it exists in (both inclusive), and its tag if it has one.

    `default` matters for tagged fields only: a value equal to it is not shown, whether it was written or not.
    """

    name: str
    type: FieldType
    since: int = 0
    until: int | None = None
    nullable: bool = False
    tag: int | None = None
    default: object = None

    def exists_in(self, version: int) -> bool:
        """Tell whether this version has the field."""
        return self.since <= version and (self.until is None or version <= self.until)


@dataclass(frozen=True, slots=True)
class Message:
    """A table: versions 0 to `latest` of one structure, flexible from version `flexible_since` on (None: never)."""

    name: str
    fields: tuple[Field, ...]
    latest: int = 0
    flexible_since: int | None = None

    def knows(self, version: int) -> bool:
        """Tell whether the table describes this version."""
        return 0 <= version <= self.latest

    def read(self, reader: ByteReader, version: int) -> dict[str, object]:
        """Return the fields of a known `version` by name, in the table's order; what follows them is not looked at."""
        flexible = self.flexible_since is not None and version >= self.flexible_since
        return _read_fields(self.fields, reader, version, flexible)


@dataclass(frozen=True, slots=True)
class Integer:
    """A big-endian integer of `size` bytes."""

    size: int
    signed: bool = True

    def read(self, reader: ByteReader, version: int, flexible: bool, nullable: bool) -> int:
        """Return the integer."""
        return reader.integer(self.size, signed=self.signed)


@dataclass(frozen=True, slots=True)
class Boolean:
    """One byte; as in Kafka everything but 0 is true."""

    def read(self, reader: ByteReader, version: int, flexible: bool, nullable: bool) -> bool:
        """Return the truth value."""
        return reader.integer(1) != 0


@dataclass(frozen=True, slots=True)
class Float:
    """An IEEE 754 number of 8 bytes; what JSON has no number for becomes the text Kafka's tools print."""

    def read(self, reader: ByteReader, version: int, flexible: bool, nullable: bool) -> float | str:
        """Return the number, or `NaN`, `Infinity`, `-Infinity`."""
        (number,) = _FLOAT.unpack(reader.take(_FLOAT.size, "float"))
        if math.isnan(number):
            return "NaN"
        if math.isinf(number):
            return "Infinity" if number > 0 else "-Infinity"
        return float(number)


@dataclass(frozen=True, slots=True)
class Uuid:
    """Sixteen bytes, shown as Kafka shows topic, directory and incarnation ids."""

    def read(self, reader: ByteReader, version: int, flexible: bool, nullable: bool) -> str:
        """Return 22 characters of URL-safe base64."""
        return base64.urlsafe_b64encode(reader.take(UUID_BYTES, "uuid"))[: len(NO_UUID)].decode("ascii")


@dataclass(frozen=True, slots=True)
class String:
    """UTF-8 text, its length an int16 or an unsigned varint of length + 1."""

    def read(self, reader: ByteReader, version: int, flexible: bool, nullable: bool) -> str | None:
        """Return the text, or None for null."""
        start = reader.position
        size = reader.size("string", 2, compact=flexible, nullable=nullable)
        if size is None:
            return None
        if size > STRING_BYTES_MAX:
            reader.fail(f"string of {size} bytes, longer than {STRING_BYTES_MAX}", start)
        text_position = reader.position
        try:
            return reader.take(size, "string").decode("utf-8")
        except UnicodeDecodeError as error:
            reader.fail(f"string is not UTF-8: {error.reason}", text_position + error.start)


@dataclass(frozen=True, slots=True)
class Bytes:
    """Bytes, their length an int32 or an unsigned varint of length + 1."""

    def read(self, reader: ByteReader, version: int, flexible: bool, nullable: bool) -> str | None:
        """Return the bytes in base64, or None for null."""
        size = reader.size("bytes", 4, compact=flexible, nullable=nullable)
        return None if size is None else to_base64(reader.take(size, "bytes"))


@dataclass(frozen=True, slots=True)
class Array:
    """Elements of one type, their count an int32 or an unsigned varint of count + 1."""

    element: FieldType

    def read(self, reader: ByteReader, version: int, flexible: bool, nullable: bool) -> list[object] | None:
        """Return the elements, or None for null."""
        count = reader.size("array", 4, compact=flexible, nullable=nullable)
        if count is None:
            return None
        return [self.element.read(reader, version, flexible, False) for _ in range(count)]


@dataclass(frozen=True, slots=True)
class Struct:
    """Fields in a row; where null is allowed, a byte comes first: 1, or `null_marker` (0 in tagged fields) for null."""

    fields: tuple[Field, ...]
    null_marker: int = -1

    def read(self, reader: ByteReader, version: int, flexible: bool, nullable: bool) -> dict[str, object] | None:
        """Return the fields by name, or None for null."""
        if nullable:
            start = reader.position
            marker = reader.integer(1)
            if marker == self.null_marker:
                return None
            if marker != 1:
                reader.fail(f"structure begins with {marker}, not with 1 or {self.null_marker}", start)
        return _read_fields(self.fields, reader, version, flexible)


BOOLEAN = Boolean()
BYTES = Bytes()
FLOAT64 = Float()
INT8 = Integer(1)
INT16 = Integer(2)
INT32 = Integer(4)
INT64 = Integer(8)
STRING = String()
UINT16 = Integer(2, signed=False)
UUID = Uuid()

_FLOAT = struct.Struct(">d")
assert _FLOAT.size == 8


def to_base64(data: bytes) -> str:
    """Return the bytes as Kafka's tools print them in JSON."""
    return base64.b64encode(data).decode("ascii")


def _read_fields(fields: tuple[Field, ...], reader: ByteReader, version: int, flexible: bool) -> dict[str, object]:
    values: dict[str, object] = {
        field.name: field.type.read(reader, version, flexible, field.nullable)
        for field in fields
        if field.tag is None and field.exists_in(version)
    }
    if not flexible:
        return values
    tagged = _read_tagged_fields(fields, reader, version)
    if not tagged:
        return values
    values |= tagged
    return {field.name: values[field.name] for field in fields if field.name in values}


def _read_tagged_fields(fields: tuple[Field, ...], reader: ByteReader, version: int) -> dict[str, object]:
    """Return the tagged fields that differ from their defaults; tags the table does not know are passed over."""
    known = {field.tag: field for field in fields if field.tag is not None and field.exists_in(version)}
    values: dict[str, object] = {}
    start = reader.position
    count = reader.unsigned_varint()
    if count * TAGGED_FIELD_BYTES_MIN > reader.remaining:
        reader.fail(f"{count} tagged fields, but {reader.remaining} bytes are left", start)
    previous_tag = -1
    for _ in range(count):
        start = reader.position
        tag = reader.unsigned_varint()
        if tag <= previous_tag:
            reader.fail(f"tag {tag} after tag {previous_tag}", start)
        previous_tag = tag
        part = reader.part(reader.unsigned_varint(), "tagged field")
        field = known.get(tag)
        if field is None:
            continue
        value = field.type.read(part, version, True, field.nullable)
        part.expect_end(f"tagged field {field.name}")
        if value != field.default:
            values[field.name] = value
    return values
