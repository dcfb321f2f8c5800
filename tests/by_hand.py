"""Kafka's bytes put together by hand: what the tests hold against the code that they test, and can make wrong at will.

Nothing of `logstore` is used here but its XXH32, which has its own vectors. Fields that are not given are what Kafka
writes for an uncompressed batch of a producer that is not idempotent; sizes and CRCs are right unless they are given.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterable, Sequence

import cramjam
import zstandard
from crc32c import crc32c

from logstore.records.compression import xxhash32

HEADER = struct.Struct(">qiibIhiqqqhii")
FIELDS = (
    "base_offset",
    "length",
    "leader_epoch",
    "magic",
    "crc",
    "attributes",
    "last_offset_delta",
    "base_timestamp",
    "max_timestamp",
    "producer_id",
    "producer_epoch",
    "base_sequence",
    "count",
)
GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
XERIAL = b"\x82SNAPPY\x00" + struct.pack(">ii", 1, 1)

# FORMAT.md §2.11: two records, (283843, "key1" -> "value1") and (1234, "key2" -> "value2"). The CRCs are asserted in
# Kafka's own tests, the bytes are Kafka's.
GOLDEN = {
    "v2 none": bytes.fromhex(
        "000000000000000000000055ffffffff02e58cf1ff00000000000100000000000454c300000000000454c3ffffffffffffffffffffffffffff"
        "0000000220000000086b6579310c76616c756531002400e1bf2202086b6579320c76616c75653200"
    ),
    "v2 lz4": bytes.fromhex(
        "000000000000000000000064ffffffff02a3ac2aa200030000000100000000000454c300000000000454c3ffffffffffffffffffffffffffff"
        "0000000204224d186040822400008020000000086b6579310c76616c756531002400e1bf2202086b6579320c76616c7565320000000000"
    ),
    "v1 none": bytes.fromhex(
        "0000000000000000000000200685b364010000000000000454c3000000046b6579310000000676616c756531"
    ),
    "v1 lz4": bytes.fromhex(
        "00000000000000010000006c53e1bee7010300000000000454c3ffffffff0000005604224d18604082470000001600010062200685b364011000"
        "f0050454c3000000046b6579310000000676616c75650a0000020000230050200509300509000002002304d22c00b0320000000676616c756532"
        "00000000"
    ),
    "v0 none": bytes.fromhex("00000000000000000000001875f0f41d0000000000046b6579310000000676616c756531"),
    "v0 lz4": bytes.fromhex(
        "00000000000000010000005603fd7f3a0003ffffffff0000004804224d1860401a3900000016000100511875f0f41d0f00e0046b657931000000"
        "0676616c75650a0000020011012400301bc3a60d00012400b0320000000676616c75653200000000"
    ),
}
# Made by hand from the layout: COMMIT at offset 7, leader epoch 3, producer 42 epoch 2, coordinator epoch 5, time 1000.
GOLDEN_COMMIT = bytes.fromhex(
    "0000000000000007000000420000000302d1280d4c00300000000000000000000003e800000000000003e8000000000000002a0002ffffffff00000001"
    "2000000008000000010c00000000000500"
)


def varint(number: int, bits: int = 32) -> bytes:
    """A zig-zag number in base-128 groups, lowest first."""
    rest = ((number << 1) ^ (number >> (bits - 1))) & (2**bits - 1)
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*out, rest])


def field(data: bytes | None) -> bytes:
    return varint(-1) if data is None else varint(len(data)) + data


def record(
    key: bytes | None = None,
    value: bytes | None = None,
    *,
    offset_delta: int = 0,
    timestamp_delta: int = 0,
    headers: Iterable[tuple[bytes, bytes | None]] = (),
    headers_count: int | None = None,
    slack: bytes = b"",
    length: int | None = None,
) -> bytes:
    """One record of format v2."""
    pairs = list(headers)
    body = b"\0" + varint(timestamp_delta, 64) + varint(offset_delta) + field(key) + field(value)
    body += varint(len(pairs) if headers_count is None else headers_count)
    body += b"".join(field(name) + field(data) for name, data in pairs) + slack
    return varint(len(body) if length is None else length) + body


def batch(*records: bytes, codec: int = 0, body: bytes | None = None, **fields: int) -> bytearray:
    """A batch of format v2; `body` replaces the (compressed) records, `fields` replace what the header would say."""
    content = compressed(codec, b"".join(records)) if body is None else body
    values = dict.fromkeys(FIELDS, 0) | {
        "length": 49 + len(content),
        "leader_epoch": -1,
        "magic": 2,
        "attributes": codec,
        "last_offset_delta": max(len(records) - 1, 0),
        "producer_id": -1,
        "producer_epoch": -1,
        "base_sequence": -1,
        "count": len(records),
    }
    out = bytearray(HEADER.pack(*(values | fields).values()) + content)
    if "crc" not in fields:
        refresh_crc(out)
    return out


def message(
    magic: int,
    key: bytes | None = None,
    value: bytes | None = None,
    *,
    offset: int = 0,
    timestamp: int = -1,
    attributes: int = 0,
    size: int | None = None,
    crc: int | None = None,
) -> bytearray:
    """A message of format v0 or v1 with its offset and size before it."""
    content = struct.pack(">bb", magic, attributes) + (struct.pack(">q", timestamp) if magic else b"")
    for data in (key, value):
        content += b"\xff\xff\xff\xff" if data is None else struct.pack(">i", len(data)) + data
    crc = zlib.crc32(content) if crc is None else crc
    return bytearray(struct.pack(">qiI", offset, len(content) + 4 if size is None else size, crc) + content)


def message_set(
    magic: int, codec: int, *inner: bytes, offset: int, timestamp: int = -1, attributes: int = 0
) -> bytearray:
    """A compressed wrapper around messages."""
    value = compressed(codec, b"".join(inner), magic=magic)
    return message(magic, None, value, offset=offset, timestamp=timestamp, attributes=codec | attributes)


def refresh_crc(data: bytearray, start: int = 0) -> None:
    """Make the CRC of the batch or message at `start` right for its bytes."""
    end = start + 12 + int.from_bytes(data[start + 8 : start + 12], "big")
    if data[start + 16] == 2:
        struct.pack_into(">I", data, start + 17, crc32c(bytes(data[start + 21 : end])))
    else:
        struct.pack_into(">I", data, start + 12, zlib.crc32(data[start + 16 : end]))


def flipped(data: bytes, position: int, bit: int = 0) -> bytearray:
    """A copy with one bit changed."""
    out = bytearray(data)
    out[position] ^= 1 << bit
    return out


def compressed(codec: int, data: bytes, *, magic: int = 2) -> bytes:
    """A stream of each codec, made by other means than logstore's own."""
    if codec == GZIP:
        return gzip.compress(data, mtime=0)
    if codec == SNAPPY:
        return xerial(*(data[start : start + 32768] for start in range(0, len(data), 32768)))
    if codec == LZ4:
        return lz4_frame(*(data[start : start + 65536] for start in range(0, len(data), 65536)), is_v0=magic == 0)
    if codec == ZSTD:
        stream = zstandard.ZstdCompressor().compressobj()
        return stream.compress(data) + stream.flush()
    return data


def xerial(*blocks: bytes) -> bytes:
    """Blocks as the xerial library frames them."""
    packed = [bytes(cramjam.snappy.compress_raw(block)) for block in blocks]
    return XERIAL + b"".join(struct.pack(">i", len(block)) + block for block in packed)


def lz4_frame(
    *blocks: bytes,
    flags: int = 0x60,
    sizes: int = 0x40,
    stored: bool = False,
    content_size: int = 0,
    checksum: int | None = None,
    is_v0: bool = False,
    end: bytes = b"\0\0\0\0",
) -> bytes:
    """An LZ4 frame; its flags decide whether there are a content size, block checksums and a content checksum."""
    head = bytes([flags, sizes]) + (struct.pack("<q", content_size) if flags & 0x08 else b"")
    hashed = (b"\x04\x22\x4d\x18" if is_v0 else b"") + head
    parts = [b"\x04\x22\x4d\x18", head, bytes([xxhash32(hashed) >> 8 & 0xFF if checksum is None else checksum])]
    for block in blocks:
        packed = block if stored else bytes(cramjam.lz4.compress_block(block, store_size=False))
        parts += [struct.pack("<I", len(packed) | (0x80000000 if stored else 0)), packed]
        if flags & 0x10:
            parts.append(struct.pack("<I", xxhash32(packed)))
    parts.append(end)
    if flags & 0x04:
        parts.append(struct.pack("<I", xxhash32(b"".join(blocks))))
    return b"".join(parts)


def zeros_by_zstd(size: int) -> bytes:
    """`size` zeros (a multiple of 128 KiB) as one frame of blocks that each repeat a byte: four bytes for 128 KiB."""
    block = (131072 << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    last = (0 << 3 | 1).to_bytes(3, "little")
    return b"\x28\xb5\x2f\xfd\x00\x70" + block * (size // 131072) + last  # no checksum, a window of 16 MiB


def torn(data: bytes) -> Iterable[bytes]:
    """`data` cut at every byte, the whole of it left out."""
    return (data[:size] for size in range(len(data)))


def joined(parts: Sequence[bytes]) -> tuple[bytes, list[int]]:
    """Parts back to back, and where each begins."""
    positions = [sum(map(len, parts[:number])) for number in range(len(parts))]
    return b"".join(parts), positions
