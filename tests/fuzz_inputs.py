"""What the fuzzer feeds: real files and batches put together by hand, changed in ways that know their structure.

A case is a reader's name and the bytes for it, and follows from the seed and its number alone. Changed batches mostly
get the right CRC again, so that what lies behind the checksum is reached; compressed ones are changed inside.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import by_hand

from logstore.errors import LogstoreError
from logstore.names import LEADER_EPOCH_CHECKPOINT, PARTITION_METADATA, FileKind, classify_file
from logstore.records import decode, iter_batches

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
SEGMENT_BYTES = 4000
"""Bytes of a segment before it is changed: enough for several batches, little enough for hundreds of cases a second."""

BYTES = [0, 1, 2, 3, 0x7F, 0x80, 0x81, 0xFE, 0xFF]
NUMBERS = [0, 1, -1, 2, -2, 13, 14, 48, 49, 61, 127, 128, 2**15, 2**31 - 1, -(2**31), 2**31, 2**32, 2**63 - 1, -(2**63)]
WIDTHS = {
    "base_offset": 8,
    "base_timestamp": 8,
    "max_timestamp": 8,
    "producer_id": 8,
    "attributes": 2,
    "producer_epoch": 2,
}
TEXTS = [b"", b"text", "\u00e9\u2028\U0001f600".encode(), b"\xff\xfe", b'\0\n\t\\"', b"x" * 300]
TOPICS = ["__cluster_metadata", "__consumer_offsets", "__transaction_state"]
SMALL_KINDS = [
    FileKind.OFFSET_INDEX,
    FileKind.TIME_INDEX,
    FileKind.TRANSACTION_INDEX,
    FileKind.PRODUCER_SNAPSHOT,
    FileKind.LEADER_EPOCH_CHECKPOINT,
    FileKind.OFFSET_CHECKPOINT,
    FileKind.PARTITION_METADATA,
    FileKind.META_PROPERTIES,
    FileKind.CLEAN_SHUTDOWN,
    FileKind.QUORUM_STATE,
]
EXTENSIONS = {
    FileKind.OFFSET_INDEX: "index",
    FileKind.TIME_INDEX: "timeindex",
    FileKind.TRANSACTION_INDEX: "txnindex",
    FileKind.PRODUCER_SNAPSHOT: "snapshot",
}
SMALL_FILES = {
    FileKind.LEADER_EPOCH_CHECKPOINT: LEADER_EPOCH_CHECKPOINT,
    FileKind.PARTITION_METADATA: PARTITION_METADATA,
}
PARTS_OF_NAMES = [
    *("-delete", "-future", "-stray", ".deleted", ".cleaned", ".swap", ".tmp", ".part", ".log", ".index", ".snapshot"),
    *("-", ".", "+", "0" * 20, "9" * 19, "9" * 5000, "2147483648", "\u0663", "\n", " ", "/", "a" * 260, "\udc80", ""),
]

Batch = bytearray


@dataclass(frozen=True, slots=True)
class Case:
    """What one reader is to read."""

    reader: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Corpus:
    """What real brokers wrote, in pieces that are quick to read."""

    batches: tuple[bytes, ...]
    small_files: dict[FileKind, tuple[bytes, ...]]
    internal_records: tuple[tuple[int, bytes | None, bytes | None], ...]
    names: tuple[str, ...]


@cache
def corpus() -> Corpus:
    """The fixtures, read once in a process."""
    batches: set[bytes] = set()
    small: dict[FileKind, set[bytes]] = {kind: {b""} for kind in SMALL_KINDS}
    internal: set[tuple[int, bytes | None, bytes | None]] = set()
    names: set[str] = set()
    for path in sorted(FIXTURES.rglob("*")):
        names.add(path.name)
        kind = classify_file(path.name).kind
        if not path.is_file() or path.stat().st_size > 70_000:
            continue
        if kind in small:
            small[kind].add(path.read_bytes())
        if kind == FileKind.LOG:
            data = path.read_bytes().rstrip(b"\0") + bytes(4)
            batches |= {bytes(one.raw) for one in iter_batches(data, verify=False) if one.header.size <= SEGMENT_BYTES}
            topic = path.parent.name.rpartition("-")[0]
            if topic in TOPICS:
                internal |= {(TOPICS.index(topic), one.key, one.value) for one in decode(data, verify=False)}
    return Corpus(
        tuple(sorted(batches)),
        {kind: tuple(sorted(found)) for kind, found in small.items()},
        tuple(sorted(internal, key=repr)),
        tuple(sorted(names)),
    )


def make_case(seed: int, number: int) -> Case:
    """The case of this number."""
    rng = random.Random(f"{seed}/{number}")
    (reader,) = rng.choices(list(MAKERS), [weight for weight, _ in MAKERS.values()])
    return Case(reader, bytes(MAKERS[reader][1](rng)))


# ---------------------------------------------------------------- bytes of any kind


def mangled(rng: random.Random, data: bytes, changes: int | None = None) -> bytearray:
    """Bytes changed in one to four places."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4]) if changes is None else changes):
        at = rng.randrange(len(out) + 1)
        size = rng.choice([1, 1, 2, 4, 8, 16, 64])
        kind = rng.randrange(10)
        if kind < 3 and at < len(out):
            out[at] = rng.choice(BYTES)
        elif kind == 3 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 4:
            width = rng.choice([2, 4, 8])
            out[at : at + width] = (rng.choice(NUMBERS) % 256**width).to_bytes(width, "big")
        elif kind == 5:
            del out[at : at + size]
        elif kind == 6:
            out[at:at] = rng.choice([rng.randbytes(size), bytes(size), b"\xff" * size, b"\x80" * size])
        elif kind == 7:
            out[at:at] = out[at : at + size]
        elif kind == 8:
            del out[at:]
        else:
            out[at : at + size] = bytes(size)
    return out


def number_for(rng: random.Random, width: int) -> int:
    """A number that is likely to matter, in `width` bytes with sign."""
    number = rng.choice([*NUMBERS, rng.randrange(100), rng.randrange(2**31)])
    return (number + 256**width // 2) % 256**width - 256**width // 2


# ---------------------------------------------------------------- batches


def made_record(rng: random.Random, offset_delta: int) -> bytes:
    """A record that may lie about itself."""
    headers = [(rng.choice(TEXTS), rng.choice([None, *TEXTS])) for _ in range(rng.choice([0, 0, 0, 1, 3]))]
    lies: dict[str, int | bytes] = {}
    if rng.random() < 0.1:
        lies = {rng.choice(["headers_count", "length"]): number_for(rng, 4)}
    elif rng.random() < 0.05:
        lies = {"slack": rng.randbytes(rng.randrange(1, 4))}
    if rng.random() < 0.1:
        offset_delta = number_for(rng, 4)
    key, value = rng.choice([None, *TEXTS]), rng.choice([None, *TEXTS])
    return by_hand.record(
        key, value, offset_delta=offset_delta, timestamp_delta=number_for(rng, 8), headers=headers, **lies
    )  # type: ignore[arg-type]


def made_batch(rng: random.Random) -> Batch:
    """A batch or message of any format, by hand, with one or two fields that may be wrong."""
    codec = rng.choice([0, 0, 1, 2, 3, 4])
    magic = rng.choice([0, 1, 2, 2, 2])
    offset = rng.choice([0, 5, 1000, 2**40, 2**63 - 1])
    if magic == 2:
        records = [made_record(rng, number) for number in range(rng.choice([0, 1, 2, 5]))]
        names = rng.sample(
            [name for name in by_hand.FIELDS if name not in ("magic", "crc", "length")], rng.choice([0, 1, 2])
        )
        lies = {name: number_for(rng, WIDTHS.get(name, 4)) for name in names}
        return by_hand.batch(*records, codec=codec, **{"base_offset": offset, **lies})
    inner = [
        by_hand.message(
            rng.choice([magic, magic, magic, 1 - magic]), rng.choice([None, *TEXTS]), rng.choice([None, *TEXTS]),
            offset=rng.choice([number, number, number_for(rng, 8)]), timestamp=number_for(rng, 8),
            attributes=rng.choice([0, 0, 0, number_for(rng, 1)]),
        )
        for number in range(rng.choice([0, 1, 3]))
    ]  # fmt: skip
    if codec in (0, by_hand.ZSTD):
        return inner[0] if inner else by_hand.message(magic, None, None, attributes=codec)
    return by_hand.message_set(magic, codec, *inner, offset=rng.choice([offset, len(inner) - 1]), timestamp=5)


def changed_header(rng: random.Random, batch: Batch) -> Batch:
    """A field set to a number that matters."""
    if len(batch) >= by_hand.HEADER.size and batch[16] == 2:
        name = rng.choice(by_hand.FIELDS)
        values = dict(zip(by_hand.FIELDS, by_hand.HEADER.unpack_from(batch), strict=True))
        width = WIDTHS.get(name, 1 if name == "magic" else 4)
        values[name] = number_for(rng, width) if name != "crc" else rng.randrange(2**32)
        by_hand.HEADER.pack_into(batch, 0, *values.values())
    else:
        at = rng.choice([0, 8, 12, 16, 17, 18, 22, 26])
        batch[at : at + 4] = struct.pack(">i", number_for(rng, 4))
    return batch


def changed_body(rng: random.Random, batch: Batch) -> Batch:
    """Records or the compressed stream changed, the length made right again."""
    start = 61 if batch[16] == 2 else 18
    return resized(batch[:start] + mangled(rng, batch[start:]))


def changed_inside(rng: random.Random, batch: Batch) -> Batch:
    """Records changed behind the compression, which may become another one."""
    found = next(iter_batches(batch, verify=False), None)
    if found is None or found.header.magic != 2:
        return changed_body(rng, batch)
    try:
        body, start, end = found.body()
    except LogstoreError:  # changed before
        return changed_body(rng, batch)
    plain = mangled(rng, bytes(memoryview(body)[start:end]))
    codec = rng.choice([0, 1, 2, 3, 4, found.header.attributes & 7])
    batch[22] = batch[22] & 0xF8 | codec
    return resized(batch[:61] + by_hand.compressed(codec, bytes(plain)))


def with_inner_batch(rng: random.Random, batch: Batch) -> Batch:
    """A batch in the value of a record of another."""
    return by_hand.batch(
        by_hand.record(None, bytes(batch)), base_offset=rng.choice([0, 1000]), codec=rng.choice([0, 0, 2])
    )


def resized(batch: Batch) -> Batch:
    batch[8:12] = struct.pack(">i", len(batch) - 12)
    return batch


BATCH_CHANGES: list[Callable[[random.Random, Batch], Batch]] = [
    lambda rng, batch: mangled(rng, batch),
    changed_header,
    changed_header,
    changed_body,
    changed_body,
    changed_inside,
    changed_inside,
    with_inner_batch,
]


def changed_batch(rng: random.Random, batch: Batch) -> Batch:
    """A batch changed by structure, mostly with the right CRC again."""
    batch = rng.choice(BATCH_CHANGES)(rng, batch)
    if rng.random() < 0.8 and len(batch) >= 18 and (batch[16] != 2 or len(batch) >= 61):
        if rng.random() < 0.5:
            resized(batch)
        by_hand.refresh_crc(batch)
    return batch


def segment(rng: random.Random) -> bytes:
    """A few batches, some changed, with something between them at times."""
    out = b""
    for _ in range(rng.choice([1, 1, 2, 3, 5])):
        batch = made_batch(rng) if rng.random() < 0.4 else bytearray(rng.choice(corpus().batches))
        if len(batch) >= 18 and rng.random() < 0.7:
            batch = changed_batch(rng, batch)
        out += batch
        if rng.random() < 0.1:
            out += rng.choice([bytes(rng.randrange(80)), rng.randbytes(rng.randrange(80)), b"\xff" * 20])
        if len(out) > SEGMENT_BYTES:
            break
    if out and rng.random() < 0.01:
        out = (out * (40_000 // len(out) + 1))[:40_000]  # more than the first windows behind damage
    return bytes(mangled(rng, out)) if rng.random() < 0.1 else out


# ---------------------------------------------------------------- everything else


def stream(rng: random.Random) -> bytes:
    """A codec, a message format, and a compressed stream that may be damaged, doubled or a bomb."""
    codec, magic = rng.choice([1, 2, 3, 4]), rng.choice([0, 1, 2, 2])
    plain = rng.choice(
        [b"", b"a", bytes(70_000), rng.randbytes(rng.randrange(3000)), b"some words; " * rng.randrange(900)]
    )
    made = by_hand.compressed(codec, plain, magic=magic)
    if codec == by_hand.LZ4 and rng.random() < 0.5:
        flags, sizes = rng.choice([0x60, 0x64, 0x68, 0x70, 0x7C]), rng.choice([0x40, 0x50, 0x60, 0x70])
        made = by_hand.lz4_frame(plain[:65536], flags=flags, sizes=sizes, stored=rng.random() < 0.5)
    if codec == by_hand.ZSTD and rng.random() < 0.01:
        made = by_hand.zeros_by_zstd(64 << 20)
    if codec == by_hand.SNAPPY and rng.random() < 0.3:
        made = by_hand.xerial(plain[:30_000])[20:]
    made = made * rng.choice([1, 1, 1, 2, 3]) if len(made) < 5000 else made
    return bytes([codec, magic]) + (mangled(rng, made) if rng.random() < 0.9 else made)


def internal_record(rng: random.Random) -> bytes:
    """A topic (or a control type) and a record of it, with types and versions that may not exist."""
    topic, key, value = rng.choice(corpus().internal_records)
    if rng.random() < 0.2:
        topic, value = 3 + rng.randrange(8), rng.choice([b"\0\0\0\0\0\5", bytes(40), rng.randbytes(30)])
    if key is not None and rng.random() < 0.5:
        key = bytes(mangled(rng, key))
    if key is not None and rng.random() < 0.3:
        key = struct.pack(">h", rng.randrange(-1, 30)) + key[2:]
    if value is not None and rng.random() < 0.8:
        value = bytes(mangled(rng, value))
    if value is not None and rng.random() < 0.3:
        head = (
            bytes([1, rng.randrange(32), rng.randrange(3)]) if topic == 0 else struct.pack(">h", rng.randrange(-1, 6))
        )
        value = head + (value[len(head) :] if rng.random() < 0.5 else rng.randbytes(rng.randrange(60)))
    return bytes([topic]) + by_hand.record(key, value)


def small_file(rng: random.Random) -> bytes:
    """A kind of file and what may stand in it."""
    kind = rng.choice(SMALL_KINDS)
    data = mangled(rng, rng.choice(corpus().small_files[kind])[:5000])
    if kind in (FileKind.OFFSET_INDEX, FileKind.TIME_INDEX) and rng.random() < 0.3:
        data += bytes(rng.choice([4, 8, 12, 4096]))
    if kind == FileKind.PRODUCER_SNAPSHOT and len(data) >= 10 and rng.random() < 0.7:
        if rng.random() < 0.7:
            data[6:10] = struct.pack(">i", (len(data) - 10) // 46)
        data[2:6] = struct.pack(">I", by_hand.crc32c(bytes(data[6:])))
    return bytes([SMALL_KINDS.index(kind)]) + data


def name(rng: random.Random) -> bytes:
    """The name of a file or directory, with parts of other names in it."""
    text = rng.choice(corpus().names)
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(PARTS_OF_NAMES) + text[at + rng.choice([0, 0, 1, 5]) :]
    return text.encode("utf-8", "surrogatepass")


def directory(rng: random.Random) -> bytes:
    """The files of one partition, some changed: its topic, then names and contents, each behind its length."""
    files = {"00000000000000000000.log": segment(rng), f"{rng.choice([5, 1000]):020d}.log": segment(rng)}
    for kind, extension in EXTENSIONS.items():
        if rng.random() < 0.6:
            files[f"{rng.choice([0, 0, 5]):020d}.{extension}"] = rng.choice(corpus().small_files[kind])
    for kind, name in SMALL_FILES.items():
        if rng.random() < 0.6:
            files[name] = rng.choice(corpus().small_files[kind])
    changed = {name: bytes(mangled(rng, data)) if rng.random() < 0.4 else data for name, data in files.items()}
    parts = [rng.choice([*TOPICS, "topic", "topic"]).encode()]
    parts += [part for name, data in changed.items() for part in (name.encode(), data)]
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


MAKERS: dict[str, tuple[int, Callable[[random.Random], bytes]]] = {
    "segment": (54, segment),
    "stream": (10, stream),
    "internal": (12, internal_record),
    "file": (16, small_file),
    "name": (6, name),
    "directory": (2, directory),
}
