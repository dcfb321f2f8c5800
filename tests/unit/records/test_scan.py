"""The scanner gives every batch that can be trusted and every range that cannot, whatever a file holds."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from by_hand import GZIP, LZ4, SNAPPY, ZSTD, batch, flipped, joined, message, message_set, record

from logstore.errors import BatchTooLargeError
from logstore.records import (
    KERNEL_NAME,
    BatchScanner,
    BytesSource,
    Damage,
    DamageCode,
    RecordBatch,
    Source,
    decode,
    encode_batch,
)
from logstore.records.scan import WINDOW_BYTES

INT32_MAX, INT64_MAX = 2**31 - 1, 2**63 - 1
NOISE = random.Random(3)
FIRST_SEARCH = 64 << 20
"""Bytes of CRC that a scan may compute in vain in any file."""


def small_segment() -> list[bytes]:
    """Batches of all formats and codecs, one behind the other, no two of one size and few zeros at their ends."""
    made = []
    kinds = [(2, 0), (2, GZIP), (0, 0), (1, LZ4), (2, SNAPPY), (1, 0), (2, LZ4), (2, ZSTD)]
    for number, (magic, codec) in enumerate(kinds):
        value = b"value of number %d" % number + b"x" * (3 * number)
        if magic == 2:
            producer = {"producer_id": 100 + number, "producer_epoch": number, "base_sequence": 7 * number}
            made.append(batch(record(b"key", value), codec=codec, base_offset=10 + number, max_timestamp=5, **producer))
        elif codec:
            made.append(message_set(magic, codec, message(magic, b"key", value), offset=10 + number))
        else:
            made.append(message(magic, b"key", value, offset=10 + number))
    return [bytes(one) for one in made]


PARTS = small_segment()
SEGMENT, POSITIONS = joined(PARTS)
ENDS = [*POSITIONS[1:], len(SEGMENT)]


class CountingSource(BytesSource):
    """A buffer that knows how much was read of it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.bytes_read = 0
        self.reads = 0

    def read(self, position: int, size: int) -> bytes:
        piece = super().read(position, size)
        self.bytes_read += len(piece)
        self.reads += 1
        return piece


class ChangingSource:
    """A file that is something else from its `when`-th read on; its size is that of the beginning."""

    def __init__(self, before: bytes, after: bytes, when: int) -> None:
        self._contents = [before] * when
        self._after = after
        self.size = len(before)

    def read(self, position: int, size: int) -> bytes:
        content = self._contents.pop() if self._contents else self._after
        return content[position : position + size]


def scan(data: bytes, **options: int | bool | None) -> list[tuple[str, int, int]]:
    """What a scan finds: a word, a position and a size each."""
    return words(BytesSource(data), **options)


def words(source: Source, **options: int | bool | None) -> list[tuple[str, int, int]]:
    found = []
    for one in BatchScanner(source, **options):  # type: ignore[arg-type]
        if isinstance(one, Damage):
            found.append((one.code.value, one.position, one.size))
        else:
            found.append(("batch", one.header.position, one.header.size))
    return found


def batches_at(positions: list[int], parts: list[bytes] = PARTS) -> list[tuple[str, int, int]]:
    return [("batch", position, len(part)) for position, part in zip(positions, parts, strict=False)]


def damages(data: bytes) -> list[Damage]:
    return [one for one in BatchScanner(BytesSource(data)) if isinstance(one, Damage)]


def assert_covers(found: list[tuple[str, int, int]], size: int) -> None:
    """Whatever was found lies back to back and fills the file."""
    end = 0
    for _, position, length in found:
        assert position == end and length > 0
        end += length
    assert end == size


# ---------------------------------------------------------------- healthy files


@pytest.mark.kafka("FILE-10")
def test_batches_of_every_format_and_codec_are_listed() -> None:
    found = [one for one in BatchScanner(BytesSource(SEGMENT)) if isinstance(one, RecordBatch)]
    assert scan(SEGMENT) == batches_at(POSITIONS)
    assert [one.raw for one in found] == PARTS
    assert [one.last_offset for one in found] == [10, 11, 12, 13, 14, 15, 16, 17]
    assert [one.header.producer_id for one in found] == [100, 101, -1, -1, 104, -1, 106, 107]
    assert [one.last_sequence for one in found] == [0, 7, -1, -1, 28, -1, 42, 49]
    assert [one.header.max_timestamp for one in found] == [5, 5, -1, -1, 5, -1, 5, 5]


@pytest.mark.kafka("FILE-10")
def test_a_last_batch_that_lacks_13_bytes_is_a_torn_tail() -> None:
    found = scan(SEGMENT[:-13])
    assert found == [*batches_at(POSITIONS[:-1]), ("torn-tail", POSITIONS[-1], len(PARTS[-1]) - 13)]


@pytest.mark.kafka("FILE-11")
@pytest.mark.parametrize("position", [0, len(SEGMENT), INT32_MAX])
def test_an_empty_range_is_not_read(position: int) -> None:
    source = CountingSource(SEGMENT)
    assert words(source, start=position, end=position) == []
    assert source.reads == 0


def test_an_empty_file_holds_nothing() -> None:
    assert scan(b"") == []


@pytest.mark.kafka("FILE-03")
@pytest.mark.parametrize("count", range(1, 7))
def test_a_few_zeros_at_the_end_do_not_break_what_comes_before(count: int) -> None:
    assert scan(SEGMENT + bytes(count)) == [*batches_at(POSITIONS), ("zero-tail", len(SEGMENT), count)]


def test_a_range_of_a_file_keeps_its_positions() -> None:
    start, end = POSITIONS[2], POSITIONS[5]
    assert scan(SEGMENT, start=start, end=end) == batches_at(POSITIONS[2:5], PARTS[2:5])
    assert scan(SEGMENT, start=start, end=end - 1)[-1] == ("torn-tail", POSITIONS[4], len(PARTS[4]) - 1)


def test_many_batches_are_found_across_windows() -> None:
    parts = [bytes(batch(record(None, NOISE.randbytes(20_000)), base_offset=n)) for n in range(60)]
    data, positions = joined(parts)
    assert len(data) > 2 * WINDOW_BYTES
    assert scan(data) == batches_at(positions, parts)


def test_what_kafka_wrote_has_no_damage_but_the_zeros_of_a_running_broker(kafka_fixtures: Path) -> None:
    logs = [path for path in sorted(kafka_fixtures.rglob("*.log")) if path.stat().st_size]
    codes = {(path.parent.name, one.code) for path in logs for one in damages(path.read_bytes())}
    assert len(logs) > 100
    assert {code for _, code in codes} <= {DamageCode.ZERO_TAIL}
    assert {name for name, _ in codes} <= {"preallocated-0"}


# ---------------------------------------------------------------- damage of every kind


@pytest.mark.parametrize("size", [1, 16, 17, 61, 500, 5000])
@pytest.mark.parametrize("after", [0, 1, 4, 8])
@pytest.mark.parametrize("kind", ["noise", "ff", "text"])
def test_garbage_between_batches_is_one_damage_and_every_batch_comes_out(kind: str, size: int, after: int) -> None:
    garbage = {"noise": NOISE.randbytes(size), "ff": b"\xff" * size, "text": (b"not a batch; " * size)[:size]}[kind]
    parts = [*PARTS[:after], garbage, *PARTS[after:]]
    data, positions = joined(parts)
    found = scan(data)
    assert_covers(found, len(data))
    assert [one for one in found if one[0] == "batch"] == [
        ("batch", position, len(part)) for position, part in zip(positions, parts, strict=True) if part is not garbage
    ]
    assert [one[1:] for one in found if one[0] != "batch"] == [(positions[after], size)]


@pytest.mark.parametrize("size", [17, 100, 4096, 70_000])
@pytest.mark.parametrize("number", [0, 3, 7])
def test_a_zeroed_page_costs_the_batches_in_it_and_no_other(number: int, size: int) -> None:
    parts = [*PARTS[:number], bytes(size), *PARTS[number:]]
    data, positions = joined(parts)
    found = scan(data)
    assert found[number] == ("zeros", positions[number], size)
    assert len(found) == 9 and found[-1][0] == "batch"


@pytest.mark.parametrize("size", [1, 16, 17, 4096, WINDOW_BYTES, 3 * WINDOW_BYTES + 5])
def test_a_tail_of_zeros_is_told_from_damage(size: int) -> None:
    assert scan(SEGMENT + bytes(size)) == [*batches_at(POSITIONS), ("zero-tail", len(SEGMENT), size)]


def test_a_file_of_zeros_is_a_tail_of_zeros() -> None:
    assert scan(bytes(5000)) == [("zero-tail", 0, 5000)]


def test_zeros_over_a_batch_and_what_follows_it_are_found() -> None:
    data = bytearray(SEGMENT)
    data[POSITIONS[3] : POSITIONS[5]] = bytes(POSITIONS[5] - POSITIONS[3])
    assert scan(bytes(data)) == [
        *batches_at(POSITIONS[:3]),
        ("zeros", POSITIONS[3], POSITIONS[5] - POSITIONS[3]),
        *batches_at(POSITIONS[5:], PARTS[5:]),
    ]


@pytest.mark.parametrize("size", range(len(SEGMENT)))
def test_a_file_cut_at_any_byte_gives_its_whole_batches_and_one_torn_tail(size: int) -> None:
    whole = sum(end <= size for end in ENDS)
    found = scan(SEGMENT[:size])
    assert found[:whole] == batches_at(POSITIONS[:whole])
    rest = size - POSITIONS[whole]
    is_zero = not any(SEGMENT[POSITIONS[whole] : size])
    assert found[whole:] == ([("zero-tail" if is_zero else "torn-tail", POSITIONS[whole], rest)] if rest else [])


def bits(position: int) -> Iterator[int]:
    """All bits of a byte; one of them where each takes a thousand times as long."""
    yield from range(8) if KERNEL_NAME == "compiled" else [position % 8]


def is_outside_any_crc(position: int) -> bool:
    """Whether a byte is the offset of a batch or message, or the leader epoch of a batch."""
    number = max(n for n, start in enumerate(POSITIONS) if start <= position)
    at = position - POSITIONS[number]
    return at < 8 or (12 <= at < 16 and PARTS[number][16] == 2)


@pytest.mark.parametrize("number", range(len(PARTS)))
def test_every_flipped_bit_is_damage_to_its_batch_alone(number: int) -> None:
    """Offsets and leader epochs have no checksum: those flips cannot be seen, and must do no harm."""
    others = batches_at(POSITIONS)
    del others[number]
    for position in range(POSITIONS[number], ENDS[number]):
        for bit in bits(position):
            found = scan(bytes(flipped(SEGMENT, position, bit)))
            assert_covers(found, len(SEGMENT))
            if is_outside_any_crc(position):
                assert found == batches_at(POSITIONS)
            else:
                assert [one for one in found if one[0] == "batch"] == others, (position, bit)


def test_two_damaged_batches_behind_each_other_cost_nothing_more() -> None:
    data = flipped(flipped(SEGMENT, ENDS[2] - 1), ENDS[3] - 1)
    found = [one for one in scan(bytes(data)) if one[0] == "batch"]
    assert found == [*batches_at(POSITIONS[:2]), *batches_at(POSITIONS[4:], PARTS[4:])]


def test_a_flipped_base_offset_does_not_hide_what_follows_the_next_damage() -> None:
    """The flip cannot be seen; taken for the least offset still to come it made the rest of the file one damage."""
    data = flipped(flipped(SEGMENT, POSITIONS[3] + 1), ENDS[4] - 1)
    expected = batches_at(POSITIONS)
    expected[4] = ("batch-crc", POSITIONS[4], len(PARTS[4]))
    assert scan(bytes(data)) == expected


def test_the_largest_offset_is_followed_by_a_search_that_still_works() -> None:
    """The offset behind it does not fit 64 bits, which the compiled kernel answered with an OverflowError."""
    parts = [bytes(batch(record(), base_offset=INT64_MAX)), b"garbage" * 5, PARTS[0]]
    data, positions = joined(parts)
    assert scan(data)[:1] == batches_at(positions, parts)[:1]
    assert_covers(scan(data), len(data))


@pytest.mark.parametrize(
    ("length", "code"), [(-1, "batch-size"), (0, "batch-size"), (13, "batch-size"), (INT32_MAX, "batch-size")]
)
@pytest.mark.parametrize("number", range(len(PARTS)))
def test_a_length_that_cannot_be_costs_one_batch(number: int, length: int, code: str) -> None:
    data = bytearray(SEGMENT)
    struct.pack_into(">i", data, POSITIONS[number] + 8, length)
    expected = batches_at(POSITIONS)
    last = number == len(PARTS) - 1
    expected[number] = ("torn-tail" if last and length == INT32_MAX else code, POSITIONS[number], len(PARTS[number]))
    assert scan(bytes(data)) == expected


@pytest.mark.parametrize("magic", [3, 127, 128, 255])
def test_an_unknown_magic_costs_one_batch(magic: int) -> None:
    data = bytearray(SEGMENT)
    data[POSITIONS[1] + 16] = magic
    expected = batches_at(POSITIONS)
    expected[1] = ("batch-magic", POSITIONS[1], len(PARTS[1]))
    assert scan(bytes(data)) == expected


def test_damage_with_a_whole_frame_hands_out_the_batch_it_was() -> None:
    (damage,) = damages(bytes(flipped(SEGMENT, ENDS[4] - 1)))
    assert (damage.code, damage.position, damage.size) == (DamageCode.BATCH_CRC, POSITIONS[4], len(PARTS[4]))
    assert damage.batch is not None and damage.batch.header.base_offset == 14
    assert not damage.batch.crc_is_valid()


@pytest.mark.parametrize("code", DamageCode)
def test_every_damage_says_why_in_words(code: DamageCode) -> None:
    assert len(Damage(0, 1, code).reason) > 20


def test_without_checking_crcs_damage_inside_a_batch_is_not_seen() -> None:
    data = bytes(flipped(SEGMENT, ENDS[4] - 1))
    assert scan(data, verify=False) == batches_at(POSITIONS)


# ---------------------------------------------------------------- batches in batches


INNER = bytes(batch(record(b"inner", b"value"), base_offset=500))
OUTER = [
    bytes(batch(record(b"key", b"before"), base_offset=10)),
    bytes(batch(record(b"a batch in a value", INNER + INNER), base_offset=11)),
    bytes(batch(record(b"key", b"after"), base_offset=12)),
]
OUTER_DATA, OUTER_POSITIONS = joined(OUTER)
INNER_POSITION = OUTER_DATA.index(INNER)


def test_a_batch_in_a_value_is_no_batch_of_the_file() -> None:
    assert scan(OUTER_DATA) == batches_at(OUTER_POSITIONS, OUTER)


@pytest.mark.parametrize("is_last", [False, True])
def test_a_batch_in_a_value_stays_one_when_the_batch_around_it_is_damaged(is_last: bool) -> None:
    parts = OUTER[:2] if is_last else OUTER
    data, positions = joined(parts)
    for position in [*range(positions[1] + 17, INNER_POSITION), INNER_POSITION + 70, positions[1] + len(OUTER[1]) - 1]:
        found = scan(bytes(flipped(data, position, 3)))
        expected = batches_at(positions, parts)
        expected[1] = ("batch-crc", positions[1], len(OUTER[1]))
        assert found == expected, position


def test_batches_found_behind_damage_have_offsets_that_can_follow() -> None:
    """An old batch in a value is not taken for one of the file even where the frame around it is gone."""
    old = bytes(batch(record(b"inner", b"value"), base_offset=3))
    data, positions = joined([OUTER[0], bytes(batch(record(None, old), base_offset=11)), OUTER[2]])
    data = bytes(flipped(data, positions[1] + 8, 7))
    assert [one for one in scan(data, offset_min=10) if one[0] == "batch"] == [
        ("batch", positions[0], len(OUTER[0])), ("batch", positions[2], len(OUTER[2]))
    ]  # fmt: skip


@pytest.mark.parametrize(("bounds", "is_found"), [({}, True), ({"offset_max": 11}, False), ({"offset_min": 13}, False)])
def test_bounds_of_offsets_hold_for_what_is_found_behind_damage(bounds: dict[str, int], is_found: bool) -> None:
    found = scan(b"\xff" * 40 + OUTER[2], **bounds)
    assert (found[-1][0] == "batch") is is_found


# ---------------------------------------------------------------- large batches


def large(size: int, offset: int = 0) -> bytes:
    return bytes(encode_batch([(b"key", NOISE.randbytes(size))], base_offset=offset))


@pytest.mark.parametrize("size", [WINDOW_BYTES - 100, WINDOW_BYTES, WINDOW_BYTES + 1, 3 * WINDOW_BYTES])
def test_a_batch_larger_than_the_window_is_read_whole(size: int) -> None:
    parts = [PARTS[0], large(size, 20), bytes(batch(record(b"k", b"v"), base_offset=21))]
    data, positions = joined(parts)
    assert scan(data) == batches_at(positions, parts)
    assert len(decode(data)) == 3


@pytest.mark.parametrize("position", [8 + 2, 21, 61, WINDOW_BYTES, 2 * WINDOW_BYTES])
def test_damage_in_a_large_batch_costs_that_batch(position: int) -> None:
    parts = [PARTS[0], large(2 * WINDOW_BYTES, 20), bytes(batch(record(b"k", b"v"), base_offset=21))]
    data, positions = joined(parts)
    found = scan(bytes(flipped(data, positions[1] + position, 1)))
    assert_covers(found, len(data))
    assert [one for one in found if one[0] == "batch"] == [batches_at(positions, parts)[number] for number in (0, 2)]


def test_a_batch_above_the_cap_is_checked_but_not_held() -> None:
    parts = [PARTS[0], large(2 * WINDOW_BYTES, 20), bytes(batch(record(b"k", b"v"), base_offset=21))]
    data, positions = joined(parts)
    options = {"batch_bytes_max": WINDOW_BYTES}
    assert scan(data, **options) == batches_at(positions, parts)
    found = list(BatchScanner(BytesSource(data), batch_bytes_max=WINDOW_BYTES))[1]
    assert isinstance(found, RecordBatch) and found.header.base_offset == 20
    with pytest.raises(BatchTooLargeError):
        found.records()
    damaged = bytes(flipped(data, positions[1] + WINDOW_BYTES + 5))
    assert [one[0] for one in scan(damaged, **options)] == ["batch", "batch-crc", "batch"]
    assert scan(damaged, verify=False, **options) == batches_at(positions, parts)


def test_a_batch_above_the_cap_costs_no_memory_for_its_bytes() -> None:
    source = CountingSource(large(3 * WINDOW_BYTES))
    sizes = []
    read = source.read
    source.read = lambda position, size: sizes.append(size) or read(position, size)  # type: ignore[method-assign]
    assert len(words(source, batch_bytes_max=1000)) == 1
    assert max(sizes) <= WINDOW_BYTES


# ---------------------------------------------------------------- files that change


@pytest.mark.parametrize("when", range(4))
@pytest.mark.parametrize("left", [0, 5, 40, 100, len(SEGMENT) - 1])
def test_a_file_that_shrinks_while_it_is_read_says_so(left: int, when: int) -> None:
    found = words(ChangingSource(SEGMENT, SEGMENT[:left], when))
    assert_covers(found, len(SEGMENT))
    if when == 0:
        assert found[-1][0] == "file-shrank"
    else:
        assert found == batches_at(POSITIONS)


@pytest.mark.parametrize("when", range(6))
@pytest.mark.parametrize("left", [0, 1000, WINDOW_BYTES, 2 * WINDOW_BYTES])
@pytest.mark.parametrize("cap", [1000, 32 << 20])
def test_a_file_that_shrinks_inside_a_large_batch_is_covered_to_its_old_end(left: int, when: int, cap: int) -> None:
    data = PARTS[0] + large(2 * WINDOW_BYTES, 20) + PARTS[7]
    found = words(ChangingSource(data, data[:left], when), batch_bytes_max=cap)
    assert_covers(found, len(data))


def test_a_large_batch_that_is_cut_while_it_is_read_is_a_shrunken_file_without_a_batch() -> None:
    data = large(2 * WINDOW_BYTES)
    (found,) = BatchScanner(ChangingSource(data, data[:1000], 1))
    assert isinstance(found, Damage)
    assert (found.code, found.size, found.batch) == (DamageCode.FILE_SHRANK, len(data), None)


@pytest.mark.parametrize("when", range(3))
def test_what_is_appended_while_a_file_is_read_is_not_looked_at(when: int) -> None:
    assert words(ChangingSource(SEGMENT, SEGMENT * 2, when)) == batches_at(POSITIONS)


def test_a_torn_tail_that_is_completed_meanwhile_is_still_torn_in_this_scan() -> None:
    cut = len(SEGMENT) - 5
    found = words(ChangingSource(SEGMENT[:cut], SEGMENT * 2, 0))
    assert found == [*batches_at(POSITIONS[:-1]), ("torn-tail", POSITIONS[-1], len(PARTS[-1]) - 5)]


@pytest.mark.parametrize("when", range(8))
def test_a_file_that_becomes_another_while_it_is_searched_is_covered(when: int) -> None:
    before = PARTS[0] + b"\xff" * 9000 + PARTS[1] + bytes(5000) + PARTS[2]
    for after in (b"", bytes(len(before)), b"\xff" * len(before), NOISE.randbytes(len(before)), SEGMENT * 20):
        assert_covers(words(ChangingSource(before, after, when)), len(before))


# ---------------------------------------------------------------- hostile files


SIZE = (1 << 20) if KERNEL_NAME == "compiled" else (1 << 16)


def lying(size: int) -> bytes:
    """A header of a batch that claims `size` bytes and has a wrong CRC."""
    return bytes(batch(body=b"", length=size - 12, crc=1))


def to_the_end(unit: Callable[[int], bytes]) -> bytes:
    """Units back to back, each made with the number of bytes from its start to the end."""
    out = bytearray()
    while len(out) < SIZE:
        out += unit(SIZE - len(out) + 61)
    return bytes(out)


def bytes_read(data: bytes) -> int:
    source = CountingSource(data)
    assert_covers(words(source), len(data))
    return source.bytes_read


def good(left: int) -> bytes:
    """An empty batch whose offset grows with its position."""
    return bytes(batch(base_offset=SIZE - left + 61))


HOSTILE = {
    "headers that claim the rest": lambda: to_the_end(lying),
    "headers that claim half of the rest": lambda: to_the_end(lambda left: lying(max(left // 2, 61))),
    "good batches, and such headers between": lambda: to_the_end(lambda left: lying(max(left // 2, 200)) + good(left)),
    "good batches, and garbage between": lambda: to_the_end(lambda left: good(left) + b"\xff" * 9),
    "good batches, and zeros between": lambda: to_the_end(lambda left: good(left) + bytes(20)),
    "every other batch of wrong crc": lambda: to_the_end(lambda left: good(left) + lying(61)),
    "headers behind one that lies": lambda: lying(SIZE // 2) + to_the_end(lying),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_read_a_bounded_number_of_times(name: str) -> None:
    """Believing each header in turn would read half a terabyte of a file of 1 MiB."""
    data = HOSTILE[name]()
    assert bytes_read(data) < FIRST_SEARCH + 16 * len(data) + 200 * len(data)


def test_good_batches_between_garbage_are_all_found() -> None:
    data = to_the_end(lambda left: good(left) + b"\xff" * 20)
    found = [word for word, _, _ in scan(data)]
    assert found == ["batch", "batch-size"] * (len(data) // 81)


def test_a_search_that_spent_its_credit_goes_on_from_frame_to_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logstore.records.scan._SEARCH_CREDIT", 0)
    monkeypatch.setattr("logstore.records.scan._SEARCH_CREDIT_PER_BYTE", 0)
    data, positions = joined([lying(61), lying(61), *PARTS])
    found = scan(data)
    assert found == [("batch-crc", 0, 61), ("batch-crc", 61, 61), *batches_at(positions[2:])]
