"""The five codecs: what one writes everybody reads, what others write is read, and no stream makes memory grow."""

from __future__ import annotations

import contextlib
import gzip
import random
import struct
import subprocess
import sys
import textwrap
import zlib

import by_hand
import cramjam
import pytest
import zstandard
from by_hand import XERIAL, lz4_frame, xerial, zeros_by_zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.errors import BatchTooLargeError, InvalidRecordError, LogstoreError, UnsupportedFormatError
from logstore.records import Codec, compress, decompress
from logstore.records.compression import codec_of, xxhash32

COMPRESSING = [Codec.GZIP, Codec.SNAPPY, Codec.LZ4, Codec.ZSTD]
SIZES = [0, 1, 32767, 32768, 32769, 65535, 65536, 65537, 1 << 20]
CONTENTS = {
    "zeros": bytes(1 << 20),
    "noise": random.Random(1).randbytes(1 << 20),
    "words": b"".join(b"%d is a number; " % number for number in range(60_000))[: 1 << 20],
}
CAP = 2 << 20


def damage(codec: Codec, data: bytes, magic: int = 2) -> str:
    """Why `data` cannot be decompressed."""
    with pytest.raises(InvalidRecordError) as caught:
        decompress(codec, data, size_max=CAP, magic=magic)
    return caught.value.reason


def plain(codec: Codec, data: bytes, magic: int = 2) -> bytes:
    return bytes(decompress(codec, data, size_max=CAP, magic=magic))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("codec", Codec)
def test_what_is_compressed_reads_back(codec: Codec, content: str, size: int) -> None:
    data = CONTENTS[content][:size]
    assert plain(codec, compress(codec, data)) == data


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("codec", COMPRESSING)
def test_what_others_compress_is_read(codec: Codec, size: int) -> None:
    data = CONTENTS["words"][:size]
    assert plain(codec, by_hand.compressed(codec, data)) == data


@pytest.mark.parametrize("codec", COMPRESSING)
@given(data=st.binary(max_size=300) | st.binary(min_size=1, max_size=8).map(lambda part: part * 5000))
@settings(deadline=None, database=None, max_examples=40)
def test_any_bytes_survive_every_codec(codec: Codec, data: bytes) -> None:
    assert plain(codec, compress(codec, data)) == plain(codec, compress(codec, memoryview(data))) == data


@pytest.mark.parametrize("codec", COMPRESSING)
def test_nothing_is_no_stream(codec: Codec) -> None:
    damage(codec, b"")
    assert plain(codec, compress(codec, b"")) == b""


def test_no_codec_changes_nothing() -> None:
    assert compress(Codec.NONE, b"data") == plain(Codec.NONE, b"data") == b"data"


@pytest.mark.parametrize(("codec", "levels"), [(Codec.GZIP, [1, 9, -1]), (Codec.ZSTD, [-5, 1, 19])])
def test_a_level_changes_the_bytes_and_not_the_content(codec: Codec, levels: list[int]) -> None:
    streams = [compress(codec, CONTENTS["words"][:100_000], level=level) for level in levels]
    assert len(set(streams)) == 3
    assert {plain(codec, stream) for stream in streams} == {CONTENTS["words"][:100_000]}


@pytest.mark.parametrize("magic", [0, 1])
def test_zstd_below_v2_is_refused_both_ways(magic: int) -> None:
    with pytest.raises(UnsupportedFormatError, match=f"message format v{magic}"):
        compress(Codec.ZSTD, b"data", magic=magic)
    with pytest.raises(UnsupportedFormatError, match=f"message format v{magic}"):
        decompress(Codec.ZSTD, compress(Codec.ZSTD, b"data"), size_max=CAP, magic=magic)


def test_the_codec_is_in_the_lowest_three_bits() -> None:
    assert [codec_of(number | 0x78).label for number in range(5)] == ["none", "gzip", "snappy", "lz4", "zstd"]
    for number in (5, 6, 7, -1):
        with pytest.raises(UnsupportedFormatError, match="unknown compression codec"):
            codec_of(number)


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("codec", [Codec.GZIP, Codec.LZ4, Codec.ZSTD])
@pytest.mark.parametrize("is_ours", [True, False], ids=["ours", "other"])
def test_a_stream_cut_at_any_byte_is_damaged(codec: Codec, content: str, is_ours: bool) -> None:
    data = CONTENTS[content][:600]
    for piece in by_hand.torn(compress(codec, data) if is_ours else by_hand.compressed(codec, data)):
        damage(codec, piece)


@pytest.mark.parametrize("size", [100, 3000])
def test_a_raw_snappy_block_cut_at_any_byte_is_damaged(size: int) -> None:
    for piece in by_hand.torn(bytes(cramjam.snappy.compress_raw(CONTENTS["words"][:size]))):
        damage(Codec.SNAPPY, piece)


def test_a_xerial_stream_cut_anywhere_but_behind_a_chunk_is_damaged() -> None:
    first = xerial(b"first")
    whole = xerial(b"first", b"second")
    for size in range(len(whole)):
        if any(0 <= size - end < 4 for end in (len(XERIAL), len(first))):  # up to 3 bytes at the end are ignored
            assert plain(Codec.SNAPPY, whole[:size]) == (b"first" if size >= len(first) else b"")
        else:
            damage(Codec.SNAPPY, whole[:size])


def test_zstd_of_noise_cut_in_a_stored_block_is_damaged() -> None:
    """What is behind the cut must not be taken for the content of the block that was cut."""
    stream = zstandard.ZstdCompressor().compress(CONTENTS["noise"][:3000])
    for size in range(0, len(stream), 7):
        damage(Codec.ZSTD, stream[:size])


def test_zstd_cut_inside_a_frame_header_is_damaged() -> None:
    """The library takes a whole frame that follows in another piece for the one whose header it was reading."""
    frame = zstandard.ZstdCompressor().compress(b"x" * 1000)
    for size in range(1, 12):
        damage(Codec.ZSTD, frame[:size])
        damage(Codec.ZSTD, frame + frame[:size])


@pytest.mark.parametrize("codec", COMPRESSING)
@given(data=st.data())
@settings(deadline=None, database=None, max_examples=150)
def test_damage_of_any_kind_gives_bytes_or_one_of_our_errors(codec: Codec, data: st.DataObject) -> None:
    stream = bytearray(compress(codec, data.draw(st.binary(max_size=200))))
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(LogstoreError):
        assert len(decompress(codec, stream, size_max=5000)) <= 5000


@pytest.mark.parametrize("codec", COMPRESSING)
@given(data=st.binary(max_size=100))
@settings(deadline=None, database=None, max_examples=150)
def test_arbitrary_bytes_give_bytes_or_one_of_our_errors(codec: Codec, data: bytes) -> None:
    head = {Codec.GZIP: b"\x1f\x8b\x08\0\0\0\0\0\0\3", Codec.SNAPPY: XERIAL, Codec.LZ4: lz4_frame(end=b"")}.get(codec)
    for stream in (data, (head or b"\x28\xb5\x2f\xfd") + data):
        with contextlib.suppress(LogstoreError):
            assert len(decompress(codec, stream, size_max=5000)) <= 5000


# ---------------------------------------------------------------- gzip


def test_gzip_members_back_to_back_are_one_stream() -> None:
    assert plain(Codec.GZIP, b"".join(gzip.compress(part) for part in (b"one", b"", b"two"))) == b"onetwo"
    assert plain(Codec.GZIP, gzip.compress(bytes(CAP // 2)) * 2) == bytes(CAP)


def test_what_follows_the_last_gzip_member_is_not_read() -> None:
    assert plain(Codec.GZIP, gzip.compress(b"data") + b"\0\0garbage") == b"data"
    assert plain(Codec.GZIP, gzip.compress(b"data") + b"\x1f") == b"data"


def test_a_gzip_header_with_name_comment_and_checksum_is_read() -> None:
    deflate = zlib.compressobj(wbits=-15)
    body = deflate.compress(b"data") + deflate.flush()
    head = b"\x1f\x8b\x08\x1e\0\0\0\0\0\xff" + b"\x02\0ab" + b"name\0" + b"comment\0"
    head += struct.pack("<H", zlib.crc32(head) & 0xFFFF)
    assert plain(Codec.GZIP, head + body + struct.pack("<II", zlib.crc32(b"data"), 4)) == b"data"


@pytest.mark.parametrize("position", [-1, -5, 0, 2])
def test_a_gzip_trailer_or_header_that_is_wrong_is_damage(position: int) -> None:
    stream = gzip.compress(b"data")
    assert "gzip" in damage(Codec.GZIP, by_hand.flipped(stream, position % len(stream), 3))


def test_many_empty_gzip_members_cost_no_more_than_their_bytes() -> None:
    """Copying what is left behind each member made this quadratic: 4 MiB of them took 8 seconds."""
    assert plain(Codec.GZIP, gzip.compress(b"") * 50_000) == b""


# ---------------------------------------------------------------- snappy


def test_a_raw_snappy_block_is_read_as_a_whole() -> None:
    assert plain(Codec.SNAPPY, cramjam.snappy.compress_raw(CONTENTS["words"])) == CONTENTS["words"]


def test_xerial_streams_back_to_back_are_one_stream() -> None:
    assert plain(Codec.SNAPPY, xerial(b"one") + xerial() + xerial(b"two", b"three")) == b"onetwothree"


def test_the_first_xerial_header_may_name_any_version_a_further_one_may_not() -> None:
    strange = XERIAL[:8] + struct.pack(">ii", -1, 99)
    assert plain(Codec.SNAPPY, strange + xerial(b"one")[16:]) == b"one"
    assert "header is wrong" in damage(Codec.SNAPPY, xerial(b"one") + strange)
    assert "header is cut off" in damage(Codec.SNAPPY, xerial(b"one") + XERIAL[:15])


@pytest.mark.parametrize("size", [-1, 2**31 - 1, 100])
def test_a_xerial_chunk_that_claims_more_than_is_there_is_damage(size: int) -> None:
    assert "a chunk claims" in damage(Codec.SNAPPY, XERIAL + struct.pack(">i", size) + b"chunk")


def test_our_xerial_chunks_hold_32_kib_each() -> None:
    stream = compress(Codec.SNAPPY, bytes(70_000))
    assert stream[:16] == XERIAL
    sizes = []
    while len(stream := stream[16:] if not sizes else stream) >= 4:
        end = 4 + int.from_bytes(stream[:4], "big")
        sizes.append(cramjam.snappy.decompress_raw_len(stream[4:end]))
        stream = stream[end:]
    assert sizes == [32768, 32768, 70_000 - 65536]


def test_an_empty_xerial_chunk_is_damage() -> None:
    assert "empty" in damage(Codec.SNAPPY, XERIAL + bytes(4))


# ---------------------------------------------------------------- lz4


@pytest.mark.parametrize(
    ("data", "digest"),
    [
        (b"", 0x02CC5D05),
        (b"a", 0x550D7456),
        (b"abc", 0x32D153FF),
        (b"Nobody inspects the spammish repetition", 0xE2293B2F),
    ],
)
def test_xxh32_gives_the_published_digests(data: bytes, digest: int) -> None:
    assert xxhash32(data) == digest


def test_xxh32_gives_the_checksum_of_a_frame_that_the_library_made() -> None:
    frame = bytes(cramjam.lz4.compress(b"data"))
    assert frame[6] == xxhash32(frame[4:6]) >> 8 & 0xFF
    assert struct.unpack("<I", frame[-4:])[0] == xxhash32(b"data")


@pytest.mark.parametrize("flags", [0x60, 0x64, 0x68, 0x70, 0x7C], ids=hex)
@pytest.mark.parametrize("sizes", [0x40, 0x50, 0x60, 0x70], ids=hex)
@pytest.mark.parametrize("stored", [False, True])
def test_lz4_frames_with_all_that_kafka_accepts_are_read(flags: int, sizes: int, stored: bool) -> None:
    stream = lz4_frame(b"one", b"two" * 1000, flags=flags, sizes=sizes, stored=stored, content_size=3003)
    assert plain(Codec.LZ4, stream) == b"one" + b"two" * 1000


def test_an_lz4_content_size_and_content_checksum_that_lie_are_not_looked_at() -> None:
    assert plain(Codec.LZ4, lz4_frame(b"data", flags=0x68, content_size=2**60)) == b"data"
    assert plain(Codec.LZ4, lz4_frame(b"data", flags=0x64)[:-4] + b"lies") == b"data"


def test_what_follows_the_lz4_end_mark_is_not_read() -> None:
    assert plain(Codec.LZ4, lz4_frame(b"data") + b"garbage") == b"data"


def test_lz4_frames_of_linked_blocks_are_refused() -> None:
    assert "depend on each other" in damage(Codec.LZ4, lz4_frame(b"data", flags=0x40))
    assert "depend on each other" in damage(Codec.LZ4, bytes(cramjam.lz4.compress(b"data" * 50_000)))


@pytest.mark.parametrize(
    ("flags", "sizes"), [(0x20, 0x40), (0xA0, 0x40), (0x62, 0x40), (0x60, 0x30), (0x60, 0xC0), (0x60, 0x41)], ids=hex
)
def test_an_lz4_header_with_another_version_reserved_bits_or_block_size_is_damage(flags: int, sizes: int) -> None:
    assert "not valid" in damage(Codec.LZ4, lz4_frame(b"data", flags=flags, sizes=sizes))


def test_an_lz4_frame_with_a_dictionary_is_damage() -> None:
    assert "dictionary" in damage(Codec.LZ4, lz4_frame(b"data", flags=0x61))


def test_a_wrong_lz4_block_checksum_is_damage() -> None:
    stream = lz4_frame(b"data", flags=0x70)
    assert "wrong checksum" in damage(Codec.LZ4, by_hand.flipped(stream, len(stream) - 5))


def test_a_wrong_lz4_header_checksum_is_damage_except_in_v0() -> None:
    stream = lz4_frame(b"data", checksum=0x55)
    for magic in (1, 2):
        assert "header has a wrong checksum" in damage(Codec.LZ4, stream, magic)
    assert plain(Codec.LZ4, stream, magic=0) == b"data"


def test_v0_gets_the_lz4_header_checksum_that_its_readers_expect() -> None:
    assert compress(Codec.LZ4, b"data", magic=0)[:7].hex() == "04224d1860401a"
    assert compress(Codec.LZ4, b"data", magic=1)[:7].hex() == "04224d18604082"


@pytest.mark.parametrize("word", [65537, 0x7FFFFFFF, 0x80010001, 0xFFFFFFFF, 1000], ids=hex)
def test_an_lz4_block_that_claims_more_than_is_allowed_or_there_is_damage(word: int) -> None:
    assert "a block claims" in damage(Codec.LZ4, lz4_frame(end=struct.pack("<I", word) + bytes(100)))


def test_an_lz4_block_that_holds_more_than_its_frame_allows_is_damage() -> None:
    damage(Codec.LZ4, lz4_frame(bytes(65537)))
    assert plain(Codec.LZ4, lz4_frame(bytes(65537), sizes=0x50)) == bytes(65537)


def test_our_lz4_frames_have_blocks_of_64_kib_stored_where_they_would_grow() -> None:
    stream = compress(Codec.LZ4, CONTENTS["noise"][:65537])
    assert struct.unpack_from("<I", stream, 7)[0] == 0x80000000 | 65536
    assert struct.unpack_from("<I", stream, 7 + 4 + 65536)[0] == 0x80000001
    assert stream[-4:] == bytes(4)


# ---------------------------------------------------------------- zstd


def test_zstd_frames_back_to_back_are_one_stream() -> None:
    frames = [zstandard.ZstdCompressor(write_checksum=True).compress(part) for part in (b"one", b"", b"two" * 1000)]
    assert plain(Codec.ZSTD, b"".join(frames)) == b"one" + b"two" * 1000


def test_skippable_zstd_frames_are_skipped() -> None:
    frame, skipped = zstandard.ZstdCompressor().compress(b"data"), struct.pack("<II", 0x184D2A50, 4) + b"skip"
    assert plain(Codec.ZSTD, skipped + frame + skipped + frame) == b"datadata"
    damage(Codec.ZSTD, frame + skipped[:-1])


def test_a_zstd_checksum_that_is_wrong_is_damage() -> None:
    stream = zstandard.ZstdCompressor(write_checksum=True).compress(b"data")
    damage(Codec.ZSTD, by_hand.flipped(stream, len(stream) - 1))


def test_bytes_behind_a_zstd_frame_are_damage() -> None:
    damage(Codec.ZSTD, zstandard.ZstdCompressor().compress(b"data") + b"garbage")


def test_a_zstd_window_beyond_the_librarys_limit_is_refused() -> None:
    assert "memory" in damage(Codec.ZSTD, b"\x28\xb5\x2f\xfd\x00\xa8" + bytes(20))


def test_a_stream_that_ends_like_our_mark_reads_back() -> None:
    data = b"logstore: end of stream " * 9
    assert plain(Codec.ZSTD, compress(Codec.ZSTD, data)) == data
    for piece in by_hand.torn(compress(Codec.ZSTD, data)):
        damage(Codec.ZSTD, piece)


# ---------------------------------------------------------------- bounds


@pytest.mark.parametrize("codec", COMPRESSING)
@pytest.mark.parametrize("size", [1, 1000, 65536, 65537, 1 << 20])
def test_a_stream_may_hold_as_much_as_the_cap_and_not_a_byte_more(codec: Codec, size: int) -> None:
    stream = compress(codec, CONTENTS["words"][:size])
    assert len(decompress(codec, stream, size_max=size)) == size
    with pytest.raises(BatchTooLargeError, match=f"{codec.label} stream holds more than {size - 1} bytes") as caught:
        decompress(codec, stream, size_max=size - 1)
    assert caught.value.remedy is not None


@pytest.mark.parametrize("claim", [b"\x80\x80\x80\x80\x04", b"\xff\xff\xff\xff\x0f"], ids=["1 GiB", "4 GiB"])
def test_a_snappy_block_is_not_believed_about_its_size(claim: bytes) -> None:
    with pytest.raises(BatchTooLargeError):
        decompress(Codec.SNAPPY, claim + b"\0a", size_max=CAP)


def test_an_lz4_frame_of_many_tiny_blocks_needs_one_target() -> None:
    """A target of 4 MiB for each block made 1 MiB of them take 6 seconds."""
    assert plain(Codec.LZ4, lz4_frame(*[b"a"] * 20_000, sizes=0x70)) == b"a" * 20_000


BOMBS = """
    import gzip, sys
    sys.path[:0] = sys.argv[1:]
    import by_hand
    from logstore.errors import BatchTooLargeError
    from logstore.records import BATCH_BYTES_MAX, Codec, decompress

    def high_water() -> int:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

    zeros = bytes(4 << 20)
    bombs = {
        "gzip": gzip.compress(zeros) * 256,
        "snappy": by_hand.XERIAL + by_hand.xerial(zeros[:32768])[16:] * 2000,
        "snappy in one block": b"\\x80\\x80\\x80\\x80\\x04" + b"\\xfe\\1\\0" * 1000,
        "lz4": by_hand.lz4_frame(*[zeros] * 256, sizes=0x70),
        "zstd": by_hand.zeros_by_zstd(1 << 30),
    }
    start = high_water()
    for name, bomb in bombs.items():
        try:
            decompress(Codec[name.split()[0].upper()], bomb, size_max=BATCH_BYTES_MAX)
        except BatchTooLargeError:
            print(high_water() - start, name)
"""


def test_a_bomb_of_a_gibibyte_is_refused_and_memory_stays_flat() -> None:
    """The high-water mark of a process of its own: the cap of 32 MiB, a window, and no copy of either."""
    program = [sys.executable, "-c", textwrap.dedent(BOMBS), by_hand.__file__.rpartition("/")[0], *sys.path]
    lines = subprocess.run(program, capture_output=True, text=True, check=True).stdout.splitlines()
    grown = {name: int(kib) for kib, name in (line.split(" ", 1) for line in lines)}
    assert grown.keys() == {"gzip", "snappy", "snappy in one block", "lz4", "zstd"}
    assert max(grown.values()) < 80 << 10, grown


def test_a_small_bomb_by_hand_holds_what_it_says() -> None:
    assert decompress(Codec.ZSTD, zeros_by_zstd(1 << 20), size_max=1 << 20) == bytes(1 << 20)
