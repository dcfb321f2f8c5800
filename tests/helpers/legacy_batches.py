"""Record sets of every message format: messages of v0 and v1, plain and in compressed sets, and batches of v2.

For tests only, since the library writes v2 alone. Records are tuples (key, value, timestamp).
"""

from __future__ import annotations

from collections.abc import Sequence

from by_hand import message, message_set

from logstore.records import BatchOptions, Codec, encode_batch

Row = tuple[bytes | None, bytes | None, int]

LEGACY_CODECS = [Codec.NONE, Codec.GZIP, Codec.SNAPPY, Codec.LZ4]
FORMATS = [(magic, codec) for magic in (0, 1, 2) for codec in Codec if magic == 2 or codec in LEGACY_CODECS]
"""Every message format with every codec that it has."""
LOG_APPEND_TIME = 0x08


def record_set(
    magic: int,
    rows: Sequence[Row],
    *,
    codec: Codec = Codec.NONE,
    base_offset: int = 0,
    inner_magic: int | None = None,
    inner_offsets: Sequence[int] | None = None,
    inner_crc: int | None = None,
    attributes: int = 0,
) -> bytearray:
    """The rows as a client of this format sends them: one batch, one compressed set, or one message for each.

    What begins with `inner_` is for the messages inside a compressed set: the format that they claim, their offsets (by
    default absolute in v0, from 0 on in v1), and the CRC of each. `attributes` are added to those of old messages.
    """
    if magic == 2:
        return encode_batch(rows, base_offset=base_offset, options=BatchOptions(codec=codec))
    timed = [(key, value, timestamp if magic else -1) for key, value, timestamp in rows]
    if codec == Codec.NONE:
        plain = [
            message(magic, key, value, offset=base_offset + number, timestamp=timestamp, attributes=attributes)
            for number, (key, value, timestamp) in enumerate(timed)
        ]
        return bytearray(b"".join(plain))
    first = base_offset if magic == 0 else 0
    offsets = range(first, first + len(rows)) if inner_offsets is None else inner_offsets
    inner = [
        message(
            magic if inner_magic is None else inner_magic, key, value,
            offset=offset, timestamp=timestamp, crc=inner_crc,
        )
        for offset, (key, value, timestamp) in zip(offsets, timed, strict=True)
    ]  # fmt: skip
    return message_set(
        magic, codec, *inner, offset=base_offset + len(rows) - 1, attributes=attributes,
        timestamp=max(timestamp for _, _, timestamp in timed),
    )  # fmt: skip
