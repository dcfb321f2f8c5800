"""A cursor over the bytes of one internal record, which believes no length before it has bounded it.

Whatever the bytes say, the cursor never passes its end: a read that does not fit raises `InvalidRecordError` with the
position (in the given buffer) of the item that did not fit. Not thread-safe; a cursor lives for one decoding.
"""

from __future__ import annotations

from typing import NoReturn

from logstore.errors import InvalidRecordError

UNSIGNED_VARINT_BYTES_MAX = 5
UNSIGNED_VARINT_MAX = 2**32 - 1
STRING_BYTES_MAX = 2**15 - 1
"""Kafka's own bound on a string, whichever way its length is written."""


class ByteReader:
    """Reads big-endian integers, varints and slices of `data`, from `position` up to `end` (exclusive)."""

    __slots__ = ("_data", "_end", "position")

    def __init__(self, data: bytes, position: int = 0, end: int | None = None) -> None:
        self._data = data
        self._end = len(data) if end is None else end
        self.position = position

    def __repr__(self) -> str:
        return f"ByteReader(position={self.position}, remaining={self.remaining})"

    @property
    def remaining(self) -> int:
        """How many bytes are left."""
        return self._end - self.position

    def fail(self, reason: str, position: int | None = None) -> NoReturn:
        """Raise `InvalidRecordError` for what was found at `position` (default: here)."""
        raise InvalidRecordError(reason, position=self.position if position is None else position)

    def take(self, size: int, what: str) -> bytes:
        """Return the next `size` bytes; `what` names the item in the error when they are not there."""
        if size > self.remaining:
            self.fail(f"{what} of {size} bytes, but {self.remaining} are left")
        start = self.position
        self.position = start + size
        return self._data[start : self.position]

    def integer(self, size: int, *, signed: bool = True) -> int:
        """Return a big-endian integer of `size` bytes."""
        return int.from_bytes(self.take(size, "integer"), "big", signed=signed)

    def unsigned_varint(self) -> int:
        """Return an unsigned varint: 7 bits a byte, the lowest first, the high bit says that another byte follows."""
        start = self.position
        value = 0
        for index in range(UNSIGNED_VARINT_BYTES_MAX):
            if not self.remaining:
                self.fail("varint without an end", start)
            byte = self._data[self.position]
            self.position += 1
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                if value > UNSIGNED_VARINT_MAX:
                    self.fail("varint does not fit into 32 bits", start)
                return value
        self.fail(f"varint longer than {UNSIGNED_VARINT_BYTES_MAX} bytes", start)

    def size(self, what: str, prefix_size: int, *, compact: bool, nullable: bool) -> int | None:
        """Return the length or count written before an item, or None where the item is null.

        The compact form is an unsigned varint of size + 1, where 0 is null; the other one a signed integer of
        `prefix_size` bytes, where -1 is null. The size never exceeds the bytes left, which bounds a count too: no
        element is smaller than a byte.
        """
        start = self.position
        size = self.unsigned_varint() - 1 if compact else self.integer(prefix_size)
        if size == -1 and nullable:
            return None
        if size == -1:
            self.fail(f"{what} is null where null is not allowed", start)
        if size < 0:
            self.fail(f"{what} of size {size}", start)
        if size > self.remaining:
            self.fail(f"{what} of size {size}, but {self.remaining} bytes are left", start)
        return size

    def part(self, size: int, what: str) -> ByteReader:
        """Return a cursor over the next `size` bytes alone and pass over them."""
        start = self.position
        if size > self.remaining:
            self.fail(f"{what} of {size} bytes, but {self.remaining} are left")
        self.position = start + size
        return ByteReader(self._data, start, self.position)

    def expect_end(self, what: str) -> None:
        """Raise when bytes are left."""
        if self.remaining:
            self.fail(f"{self.remaining} bytes after the end of {what}")
