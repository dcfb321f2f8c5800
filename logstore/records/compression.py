"""The five codecs of Kafka, both ways, bounded.

Invariant: no call makes more than `size_max` bytes, whatever the compressed bytes claim; beyond the result memory is
needed for one block (lz4: at most 4 MiB, snappy: `size_max`) or window (zstd: what of it was used). The framing of
snappy (xerial) and lz4 is Kafka's own and written here; the compression itself is cramjam's, zstandard's and zlib's.
Thread-safe: contexts of zstd belong to their thread.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import struct
import threading
import zlib
from typing import TYPE_CHECKING

import cramjam

from logstore.errors import BatchTooLargeError, InvalidRecordError, UnsupportedFormatError

if TYPE_CHECKING:
    import zstandard

Buffer = bytes | bytearray | memoryview

_PIECE = 1 << 20  # bytes made at a time by the streaming codecs
_GZIP_CHUNK = 1 << 16  # bytes given to zlib at a time: it copies what is left of them at the end of each member

# snappy as the xerial library frames it (FORMAT §2.10). On disk; never change.
_XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEADER = struct.Struct(">8sii")  # magic, version, least compatible version
_XERIAL_BLOCK = 32 * 1024
_XERIAL_CHUNK_MAX = 512 << 20

# LZ4 frame as Kafka writes it (FORMAT §2.10). On disk; never change.
_LZ4_MAGIC = b"\x04\x22\x4d\x18"
_LZ4_HEADER = _LZ4_MAGIC + b"\x60\x40\x82"  # version 1, independent blocks; 64 KiB blocks; header checksum
_LZ4_HEADER_V0 = _LZ4_MAGIC + b"\x60\x40\x1a"  # message format v0 hashes the magic too, and so must its writers
_LZ4_BLOCK = 64 * 1024
_LZ4_STORED = 0x80000000


class Codec(enum.IntEnum):
    """The compression codec in the lowest three bits of a batch's attributes. On disk; never change."""

    NONE = 0
    GZIP = 1
    SNAPPY = 2
    LZ4 = 3
    ZSTD = 4

    @property
    def label(self) -> str:
        """Kafka's name of the codec: none, gzip, snappy, lz4, zstd."""
        return self.name.lower()


_CODECS = tuple(Codec)


def codec_of(attributes: int) -> Codec:
    """The codec named by a batch's attributes. Raises UnsupportedFormatError for 5 to 7 (FORMAT §2.6)."""
    number = attributes & 7
    if number >= len(_CODECS):
        raise UnsupportedFormatError(f"unknown compression codec {number}")
    return _CODECS[number]


def compress(codec: Codec, data: Buffer, *, level: int | None = None, magic: int = 2) -> bytes:
    """Compress `data` into one stream that every Kafka reads.

    `level` is the codec's own (gzip 1 to 9, zstd -131072 to 22; None is its default) and unused by the others.
    `magic` 0 gives lz4 the header checksum that message format v0 needs. Raises UnsupportedFormatError for zstd below
    magic 2.
    """
    if codec == Codec.NONE:
        return bytes(data)
    if codec == Codec.GZIP:
        stream = zlib.compressobj(-1 if level is None else level, zlib.DEFLATED, 31)
        return stream.compress(data) + stream.flush()
    if codec == Codec.SNAPPY:
        return _snappy_compress(memoryview(data))
    if codec == Codec.LZ4:
        return _lz4_compress(memoryview(data), magic)
    if magic < 2:
        raise UnsupportedFormatError(f"zstd does not exist in message format v{magic}")
    return _zstd.compressor(3 if level is None else level).compress(data)


def decompress(codec: Codec, data: Buffer, *, size_max: int, magic: int = 2) -> Buffer:
    """Decompress one stream, at most `size_max` bytes of it.

    Raises InvalidRecordError where the stream is damaged, BatchTooLargeError where it holds more than `size_max`
    bytes, UnsupportedFormatError for zstd below magic 2.
    """
    if codec == Codec.NONE:
        return data
    if codec == Codec.ZSTD and magic < 2:
        raise UnsupportedFormatError(f"zstd does not exist in message format v{magic}")
    if codec == Codec.GZIP:
        return _gzip_decompress(data, size_max)
    if codec == Codec.SNAPPY:
        return _snappy_decompress(memoryview(data), size_max)
    if codec == Codec.LZ4:
        return _lz4_decompress(memoryview(data), size_max, magic)
    return _zstd_decompress(data, size_max)


def _damaged(codec: Codec, reason: object) -> InvalidRecordError:
    return InvalidRecordError(f"the {codec.label} stream cannot be decompressed: {reason}")


def _bounded(size: int, codec: Codec, size_max: int) -> None:
    if size > size_max:
        raise BatchTooLargeError(
            f"the {codec.label} stream holds more than {size_max} bytes", remedy="raise the cap on a decompressed batch"
        )


def _gzip_decompress(data: Buffer, size_max: int) -> bytearray:
    out = bytearray()
    view = memoryview(data)
    if not len(view):
        raise _damaged(Codec.GZIP, "it is empty")
    position = 0
    while True:
        member = zlib.decompressobj(31)
        while not member.eof:
            chunk = view[position : position + _GZIP_CHUNK]
            try:
                piece = member.decompress(chunk, _PIECE)
            except zlib.error as error:
                raise _damaged(Codec.GZIP, error) from None
            used = len(chunk) - len(member.unused_data if member.eof else member.unconsumed_tail)
            if not (used or piece or member.eof):
                raise _damaged(Codec.GZIP, "it ends early")
            _bounded(len(out) + len(piece), Codec.GZIP, size_max)
            out += piece
            position += used
        if bytes(view[position : position + 2]) != b"\x1f\x8b":
            return out  # what follows the last member is not read, as in Java


# ---------------------------------------------------------------- snappy


def _snappy_compress(data: memoryview) -> bytes:
    parts = [_XERIAL_HEADER.pack(_XERIAL_MAGIC, 1, 1)]
    for start in range(0, len(data), _XERIAL_BLOCK):
        block = bytes(cramjam.snappy.compress_raw(bytes(data[start : start + _XERIAL_BLOCK])))
        parts += (len(block).to_bytes(4, "big"), block)
    return b"".join(parts)


def _snappy_decompress(data: memoryview, size_max: int) -> bytearray:
    if len(data) < _XERIAL_HEADER.size or data[:8] != _XERIAL_MAGIC:
        return _snappy_block(data, 0, size_max)
    out = bytearray()
    position = _XERIAL_HEADER.size
    while len(data) - position >= 4:
        if data[position : position + 4] == _XERIAL_MAGIC[:4]:  # a further stream begins
            if len(data) - position < _XERIAL_HEADER.size:
                raise _damaged(Codec.SNAPPY, "a stream header is cut off")
            magic, version, _ = _XERIAL_HEADER.unpack_from(data, position)
            if magic != _XERIAL_MAGIC or version < 1:
                raise _damaged(Codec.SNAPPY, "a stream header is wrong")
            position += _XERIAL_HEADER.size
            continue
        size = int.from_bytes(data[position : position + 4], "big")
        position += 4
        if size > min(_XERIAL_CHUNK_MAX, len(data) - position):
            raise _damaged(Codec.SNAPPY, f"a chunk claims {size} bytes where {len(data) - position} are left")
        out += _snappy_block(data[position : position + size], len(out), size_max)
        position += size
    return out


def _snappy_block(block: memoryview, before: int, size_max: int) -> bytearray:
    if not len(block):
        raise _damaged(Codec.SNAPPY, "a block is empty")
    try:
        size = cramjam.snappy.decompress_raw_len(block)
        _bounded(before + size, Codec.SNAPPY, size_max)
        out = bytearray(size)
        cramjam.snappy.decompress_raw_into(block, out)
    except cramjam.DecompressionError as error:
        raise _damaged(Codec.SNAPPY, error) from None
    return out


# ---------------------------------------------------------------- lz4


def _lz4_compress(data: memoryview, magic: int) -> bytes:
    parts = [_LZ4_HEADER if magic else _LZ4_HEADER_V0]
    for start in range(0, len(data), _LZ4_BLOCK):
        plain = bytes(data[start : start + _LZ4_BLOCK])
        block = bytes(cramjam.lz4.compress_block(plain, store_size=False))
        if len(block) < len(plain):
            parts += (len(block).to_bytes(4, "little"), block)
        else:
            parts += ((len(plain) | _LZ4_STORED).to_bytes(4, "little"), plain)
    parts.append(b"\0\0\0\0")  # end mark
    return b"".join(parts)


def _lz4_decompress(data: memoryview, size_max: int, magic: int) -> bytearray:
    position, block_max, has_checksums = _lz4_header(data, magic)
    out = bytearray()
    target = bytearray(block_max)  # one for all blocks: a new one for each would cost more than a small block does
    while True:
        if len(data) - position < 4:
            raise _damaged(Codec.LZ4, "it ends without its end mark")
        word = int.from_bytes(data[position : position + 4], "little")
        position += 4
        if word == 0:
            return out  # a content checksum may follow: read by nobody
        size = word & ~_LZ4_STORED
        if size > block_max or size > len(data) - position:
            raise _damaged(Codec.LZ4, f"a block claims {size} bytes")
        block = data[position : position + size]
        position += size
        if has_checksums:
            if int.from_bytes(data[position : position + 4], "little") != xxhash32(bytes(block)):
                raise _damaged(Codec.LZ4, "a block has a wrong checksum")
            position += 4
        size = len(block) if word & _LZ4_STORED else _lz4_block(block, target)
        _bounded(len(out) + size, Codec.LZ4, size_max)
        out += block if word & _LZ4_STORED else memoryview(target)[:size]


def _lz4_block(block: memoryview, target: bytearray) -> int:
    try:
        return int(cramjam.lz4.decompress_block_into(block, target, output_len=len(target)))
    except cramjam.DecompressionError as error:
        raise _damaged(Codec.LZ4, error) from None


def _lz4_header(data: memoryview, magic: int) -> tuple[int, int, bool]:
    """Where the blocks begin, how large one may be, and whether each is followed by a checksum."""
    if len(data) < 7 or data[:4] != _LZ4_MAGIC:
        raise _damaged(Codec.LZ4, "it does not begin with an LZ4 frame")
    flags, sizes = data[4], data[5]
    if flags >> 6 != 1 or flags & 0x02 or sizes & 0x8F or not 4 <= sizes >> 4 <= 7:
        raise _damaged(Codec.LZ4, f"its frame header {flags:#04x} {sizes:#04x} is not valid")
    if flags & 0x01:
        raise _damaged(Codec.LZ4, "it needs a dictionary, which Kafka never uses")
    if not flags & 0x20:
        raise _damaged(Codec.LZ4, "its blocks depend on each other, which Kafka refuses")
    end = 6 + (8 if flags & 0x08 else 0)
    if len(data) <= end:
        raise _damaged(Codec.LZ4, "its frame header is cut off")
    if magic > 0 and data[end] != xxhash32(bytes(data[4:end])) >> 8 & 0xFF:
        raise _damaged(Codec.LZ4, "its frame header has a wrong checksum")
    return end + 1, 1 << (2 * (sizes >> 4) + 8), bool(flags & 0x10)


_PRIME = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1)
_MASK = 0xFFFFFFFF


def xxhash32(data: bytes) -> int:
    """The XXH32 of `data` with seed 0, as LZ4 frames use it for their few header bytes."""
    position = 0
    if len(data) >= 16:
        lanes = [_PRIME[0] + _PRIME[1] & _MASK, _PRIME[1], 0, -_PRIME[0] & _MASK]
        while len(data) - position >= 16:
            for i, word in enumerate(struct.unpack_from("<4I", data, position)):
                lanes[i] = _rotate(lanes[i] + word * _PRIME[1], 13) * _PRIME[0] & _MASK
            position += 16
        state = sum(_rotate(lane, turn) for lane, turn in zip(lanes, (1, 7, 12, 18), strict=True))
    else:
        state = _PRIME[4]
    state = state + len(data) & _MASK
    while len(data) - position >= 4:
        state = _rotate(state + int.from_bytes(data[position : position + 4], "little") * _PRIME[2], 17) * _PRIME[3]
        position += 4
    for byte in data[position:]:
        state = _rotate(state + byte * _PRIME[4], 11) * _PRIME[0]
    state &= _MASK
    state = (state ^ state >> 15) * _PRIME[1] & _MASK
    state = (state ^ state >> 13) * _PRIME[2] & _MASK
    return state ^ state >> 16


def _rotate(number: int, turn: int) -> int:
    number &= _MASK
    return (number << turn | number >> 32 - turn) & _MASK


# ---------------------------------------------------------------- zstd


# It must not stand in its own compressed form: a cut-off block would swallow that as its content. Hence the repetition.
_ZSTD_MARK = b"logstore: end of stream " * 8


_ZSTD_HEADER_MAX = 18
_ZSTD_KEPT_MAX = 6  # levels up to this one take a few MB
_ZSTD_RATIO = 64  # what says that it holds more than this many times its size is not believed


class _Zstd(threading.local):
    """What each thread compresses with: to make one takes longer than to compress a small batch."""

    def __init__(self) -> None:
        self._compressors: dict[int, zstandard.ZstdCompressor] = {}
        self._decompressor: zstandard.ZstdDecompressor | None = None

    def compressor(self, level: int) -> zstandard.ZstdCompressor:
        """One of a level; those that take much memory are not kept."""
        import zstandard

        found = self._compressors.get(level)
        if found is None:
            found = zstandard.ZstdCompressor(level=level)
            if 0 < level <= _ZSTD_KEPT_MAX:
                self._compressors[level] = found
        return found

    def decompressor(self) -> zstandard.ZstdDecompressor:
        import zstandard

        if self._decompressor is None:
            self._decompressor = zstandard.ZstdDecompressor()
        return self._decompressor


_zstd = _Zstd()


@functools.cache
def _zstd_mark() -> bytes:
    import zstandard

    return zstandard.ZstdCompressor().compress(_ZSTD_MARK)


def _zstd_decompress(data: Buffer, size_max: int) -> Buffer:
    """All frames of `data`.

    One frame that says how much is in it, and may be believed, is taken at once. Else the library ends quietly where a
    frame is cut off. Therefore an end is told from a cut by a frame of our own behind the data: if its bytes do not
    come out last, a frame before it has swallowed them.
    """
    import zstandard

    out = bytearray()
    try:
        size = zstandard.get_frame_parameters(data).content_size if len(data) >= _ZSTD_HEADER_MAX else 0
        if 0 < size <= min(size_max, _PIECE + _ZSTD_RATIO * len(data)):
            with contextlib.suppress(zstandard.ZstdError):  # also where another frame follows
                return _zstd.decompressor().decompress(data, allow_extra_data=False)
        source = _Marked(memoryview(data), _zstd_mark())
        decompressor = zstandard.ZstdDecompressor()
        reader = decompressor.stream_reader(source, read_across_frames=True)  # type: ignore[arg-type]  # only read()
        while piece := reader.read(_PIECE):
            _bounded(len(out) + len(piece) - len(_ZSTD_MARK), Codec.ZSTD, size_max)
            out += piece
    except zstandard.ZstdError as error:
        raise _damaged(Codec.ZSTD, error) from None
    if not len(data) or not out.endswith(_ZSTD_MARK):
        raise _damaged(Codec.ZSTD, "it ends early")
    del out[-len(_ZSTD_MARK) :]
    return out


class _Marked:
    """What the library reads from: the data, its last piece in one with the mark, and no copy of all of it.

    A piece that began with the mark would be taken for a frame of its own, even inside the header of another.
    """

    __slots__ = ("_data", "_mark", "_position")

    def __init__(self, data: memoryview, mark: bytes) -> None:
        self._data = data
        self._mark = mark
        self._position = 0

    def read(self, size: int) -> bytes:
        """The next piece, nothing at the end."""
        piece = bytes(self._data[self._position : self._position + size])
        self._position += len(piece)
        return piece + self._mark if piece and self._position == len(self._data) else piece
