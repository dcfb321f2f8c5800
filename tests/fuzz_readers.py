"""What the fuzzer reads with: every reader of logstore, and what must hold whatever it is given.

A reader takes bytes and says whether it found them right. Only LogstoreError may come out of logstore, and is caught
where it may; everything else, and every broken invariant, goes through.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from fuzz_inputs import SMALL_KINDS, TOPICS

from logstore import names
from logstore.errors import LogstoreError
from logstore.inspect import (
    CheckOptions,
    DescribeOptions,
    DumpOptions,
    Format,
    Isolation,
    PartitionFiles,
    Problem,
    Renderer,
    check,
    describe,
    file_rows,
    resolve,
    select_partition,
)
from logstore.inspect.layout import single_file
from logstore.log import (
    LeaderEpochs,
    OffsetIndex,
    ProducerSnapshot,
    TimeIndex,
    TransactionIndex,
    parse_clean_shutdown,
    parse_leader_epoch_checkpoint,
    parse_meta_properties,
    parse_offset_checkpoint,
    parse_partition_metadata,
    parse_quorum_state,
)
from logstore.names import FileKind
from logstore.records import (
    BATCH_BYTES_MAX,
    BatchScanner,
    ByteEncoding,
    BytesSource,
    Codec,
    ControlType,
    Damage,
    LineMode,
    LineStyle,
    RecordBatch,
    TimestampType,
    decode,
    decompress,
    encode_batch,
    first_batch_size,
    format_records,
    iter_batches,
    kernel,
    parse_control_key,
    parse_end_transaction_marker,
    set_last_offset,
    set_leader_epoch,
    set_max_timestamp,
)
from logstore.records import _kernel_py as slow
from logstore.records.internal import decode_control_value, decode_internal_key, decode_internal_value

INT64_MAX = 2**63 - 1
STYLES = [
    LineStyle(LineMode.JSON, ByteEncoding.UTF8, b'{"offset":', b',"key":', b"}\n"),
    LineStyle(LineMode.JSON, ByteEncoding.BASE64, b'{"offset":', b',"key":', b"}\n"),
    LineStyle(LineMode.TEXT, ByteEncoding.UTF8, b"", b"", b"\n"),
    LineStyle(LineMode.RAW, ByteEncoding.HEX, b"", b"", b"\0"),
]
CAPS = [1000, 1 << 20, 1 << 20, BATCH_BYTES_MAX]
PARSERS: dict[FileKind, Callable[[bytes], object]] = {
    FileKind.OFFSET_CHECKPOINT: parse_offset_checkpoint,
    FileKind.PARTITION_METADATA: parse_partition_metadata,
    FileKind.META_PROPERTIES: parse_meta_properties,
    FileKind.CLEAN_SHUTDOWN: parse_clean_shutdown,
    FileKind.QUORUM_STATE: parse_quorum_state,
}
BASE_OFFSETS = [0, 1000, INT64_MAX]
_NUMBER = struct.Struct(">I")


class BrokenError(Exception):
    """Something that must hold does not."""


def must(holds: bool, what: object) -> None:
    """Raise BrokenError, with what was seen, unless it holds."""
    if not holds:
        raise BrokenError(what)


def outcome(read: Callable[[], Any]) -> tuple[type[LogstoreError], str] | Any:
    """What was read, or the kind of refusal and its reason."""
    try:
        return read()
    except LogstoreError as error:
        str(error)
        return type(error), error.reason


def is_refusal(value: object) -> bool:
    return isinstance(value, tuple) and isinstance(value[0], type)


# ---------------------------------------------------------------- batches


def read_segment(data: bytes) -> bool:
    """Scan, decode, walk, write lines, patch; what is found lies back to back and all readers agree."""
    choice = zlib.crc32(data)
    cap = CAPS[choice % 4]
    is_right = True
    end = 0
    for found in BatchScanner(BytesSource(data), verify=choice & 16 == 0, batch_bytes_max=cap):
        repr(found)
        if isinstance(found, Damage):
            must(found.size > 0 and bool(found.reason), found)
            position, size, batch, is_right = found.position, found.size, found.batch, False
        else:
            position, size, batch = found.header.position, found.header.size, found
        must(position == end, (found, end))
        end += size
        if batch is not None:
            is_right &= read_batch(batch, choice, cap)
    must(end == len(data), end)
    for read in (lambda: decode(data, size_max=cap), lambda: decode(data, verify=False, size_max=cap)):
        outcome(read)
    patch_first(data)
    return is_right


def read_batch(batch: RecordBatch, choice: int, cap: int) -> bool:
    """All ways to the records of a batch: they give the same records, or the same refusal."""
    style = STYLES[choice >> 8 & 3]
    records = outcome(lambda: batch.records(size_max=cap))
    pieces = outcome(lambda: [one for piece in batch.record_pieces(size_max=cap, piece=2) for one in piece])
    must(records == pieces, (records, pieces))
    facts = (
        batch.next_offset,
        batch.last_sequence,
        batch.timestamp_type,
        batch.delete_horizon_ms,
        batch.has_producer_id,
    )
    must(all(fact is not None or batch.delete_horizon_ms is None for fact in facts), facts)
    outcome(batch.crc_is_valid)
    if batch.header.magic == 2:
        written = outcome(lambda: list(batch.lines(style, size_max=cap)))
        stats = outcome(lambda: batch.stats(size_max=cap))
        if is_refusal(records):
            must(records == written == stats, (records, written, stats))
        else:
            check_lines(records, written, style)
            seen = (len(records), sum(r.key is None for r in records), sum(len(r.value or b"") for r in records))
            must(seen == (stats.count, stats.null_keys, stats.value_bytes), (seen, stats))
    if is_refusal(records):
        return False
    encode_again(batch, records)
    if batch.is_control:
        read_control(batch, records, cap)
    return True


def check_lines(records: list[Any], written: list[tuple[bytes, int]], style: LineStyle) -> None:
    lines = b"".join(piece for piece, _ in written)
    must(sum(count for _, count in written) == len(records), written)
    must(lines == format_records(records, style), lines)
    if style.mode == LineMode.JSON:
        offsets = [json.loads(line)["offset"] for line in lines.split(b"\n")[:-1]]
        must(offsets == [one.offset for one in records], offsets)


def encode_again(batch: RecordBatch, records: list[Any]) -> None:
    """Records that can be written read back as they are."""
    if not records or len(records) > 100:
        return
    with contextlib.suppress(ValueError):
        data = encode_batch(records, base_offset=records[0].offset)
        must(next(iter_batches(data)).records() == records, records)


def read_control(batch: RecordBatch, records: list[Any], cap: int) -> None:
    outcome(lambda: batch.control_type(size_max=cap))
    for one in records[:10]:
        outcome(lambda one=one: parse_end_transaction_marker(one.key, one.value))
        kind = outcome(lambda one=one: parse_control_key(one.key))
        if isinstance(kind[0], ControlType):
            decoded = outcome(lambda one=one, kind=kind: decode_control_value(kind[1], one.value or b""))
            must(is_refusal(decoded) or bool(json.dumps(decoded)), decoded)


def patch_first(data: bytes) -> None:
    """A leader's changes either are refused and change nothing, or leave the CRC as right as it was."""
    buffer = bytearray(data)
    outcome(lambda: first_batch_size(data))
    for patch in (
        lambda: set_last_offset(buffer, 500),
        lambda: set_leader_epoch(buffer, 7),
        lambda: set_max_timestamp(buffer, TimestampType.LOG_APPEND_TIME, 99),
    ):
        before = bytes(buffer)
        if is_refusal(outcome(patch)):
            must(buffer == before, before)
    if buffer != data:
        batch = next(iter_batches(buffer, verify=False))
        must(batch.header.magic == 0 or batch.header.max_timestamp == 99, batch)


# ---------------------------------------------------------------- everything else


def read_stream(data: bytes) -> bool:
    """A stream gives at most as many bytes as the cap allows."""
    cap = CAPS[zlib.crc32(data) % 4]
    plain = outcome(lambda: decompress(Codec(data[0]), data[2:], size_max=cap, magic=data[1]))
    must(is_refusal(plain) or len(plain) <= cap, len(plain))
    return not is_refusal(plain)


def read_internal(data: bytes) -> bool:
    """What a decoder gives can be written as JSON."""
    (record,), _ = kernel.decode_records(data, 1, len(data), 1, 0, 0, None)
    if data[0] >= len(TOPICS):
        decoded = [outcome(lambda: decode_control_value(data[0] - len(TOPICS), record.value or b""))]
    else:
        topic = TOPICS[data[0]]
        decoded = [outcome(lambda: decode_internal_key(topic, record.key))]
        decoded.append(outcome(lambda: decode_internal_value(topic, record.key, record.value)))
    must(all(is_refusal(one) or bool(json.dumps(one)) for one in decoded), decoded)
    return not any(map(is_refusal, decoded))


def read_file(data: bytes) -> bool:
    """An index, a snapshot, a checkpoint or properties."""
    kind, content = SMALL_KINDS[data[0]], data[1:]
    base_offset = BASE_OFFSETS[zlib.crc32(data) % 3]
    if kind == FileKind.OFFSET_INDEX:
        return not is_refusal(outcome(lambda: read_offset_index(OffsetIndex(content, base_offset))))
    if kind == FileKind.TIME_INDEX:
        return not is_refusal(outcome(lambda: read_time_index(TimeIndex(content, base_offset))))
    if kind == FileKind.TRANSACTION_INDEX:
        return not is_refusal(outcome(lambda: read_transaction_index(TransactionIndex(content, base_offset))))
    if kind == FileKind.PRODUCER_SNAPSHOT:
        snapshot = outcome(lambda: ProducerSnapshot.decode(content))
        must(is_refusal(snapshot) or snapshot.encode() == content, snapshot)
        return not is_refusal(snapshot)
    if kind == FileKind.LEADER_EPOCH_CHECKPOINT:
        return not is_refusal(outcome(lambda: LeaderEpochs.of(parse_leader_epoch_checkpoint(content)).latest))
    return not is_refusal(outcome(lambda: repr(PARSERS[kind](content))))


def read_offset_index(index: OffsetIndex) -> None:
    entries = list(index)
    must(len(entries) == len(index), index)
    for number in range(0, len(entries), 7):
        must(index.entry(number) == entries[number], number)
        must(index.lookup(entries[number].offset) is not None, number)
        index.upper_bound(entries[number].position, 100)
    index.sanity_check()


def read_time_index(index: TimeIndex) -> None:
    entries = list(index)
    must(len(entries) == len(index), index)
    for entry in entries[::7]:
        index.lookup(entry.timestamp)
    index.sanity_check()


def read_transaction_index(index: TransactionIndex) -> None:
    index.sanity_check()
    index.collect(0, INT64_MAX)
    must(b"".join(one.encode() for one in index) == bytes(index._entries), index)


def read_name(data: bytes) -> bool:
    """A name says what it is, or is refused; what was read can be built again."""
    name = data.decode("utf-8", "surrogatepass")
    must(names.classify_file(name).kind in FileKind, name)
    segment = outcome(lambda: names.parse_segment_file(name))
    found = outcome(lambda: names.parse_partition_directory(name))
    outcome(lambda: names.check_topic_name(name))
    if not is_refusal(found) and names.is_valid_topic_name(found.topic):
        built = names.partition_directory_name(found.topic, found.partition)
        must(names.parse_partition_directory(built).topic_partition == found.topic_partition, (name, built))
    return not (is_refusal(segment) and is_refusal(found))


def read_directory(data: bytes) -> bool:
    """Check, describe and dump a partition directory."""
    parts = []
    while data:
        (size,) = _NUMBER.unpack_from(data)
        parts.append(data[4 : 4 + size])
        data = data[4 + size :]
    with tempfile.TemporaryDirectory() as above:
        place = Path(above) / f"{parts[0].decode()}-0"
        place.mkdir()
        for name, content in zip(parts[1::2], parts[2::2], strict=True):
            (place / name.decode()).write_bytes(content)
        return inspect_directory(place)


def inspect_directory(place: Path) -> bool:
    target = resolve(place)
    must(isinstance(target, PartitionFiles), target)
    findings = list(check(target, CheckOptions()))
    for one in findings:
        str(one)
    json.dumps(describe(target, DescribeOptions()).as_json(), default=str)
    problems = 0
    for isolation in (None, Isolation.READ_COMMITTED):
        renderer = Renderer(Format.JSON if isolation is None else Format.TEXT, with_batch=isolation is None)
        for found in select_partition(target, None, DumpOptions(isolation=isolation)):  # type: ignore[arg-type]
            if isinstance(found, Problem):
                problems += bool(str(found))
            else:
                outcome(lambda found=found, renderer=renderer: list(renderer.lines(found)))
    for path in sorted(place.iterdir()):
        if not path.name.endswith(".log"):
            outcome(lambda path=path: list(file_rows(single_file(path))))
    return not findings and not problems


READERS: dict[str, Callable[[bytes], bool]] = {
    "segment": read_segment,
    "stream": read_stream,
    "internal": read_internal,
    "file": read_file,
    "name": read_name,
    "directory": read_directory,
}


# ---------------------------------------------------------------- both kernels


def compare_kernels(data: bytes) -> bool:
    """Both kernels give the same on these bytes; False where there is only one."""
    try:
        fast = importlib.import_module("logstore.records._kernel")
    except ImportError:
        return False
    headers, stop, _ = walk = fast.walk_batches(data, 0, len(data), 0, True)
    must(walk == slow.walk_batches(data, 0, len(data), 0, True), walk)
    found = [
        one.find_candidate(data, stop, min(len(data), stop + 500), len(data), 0, INT64_MAX) for one in (fast, slow)
    ]
    must(found[0] == found[1], found)
    for header in headers[:3]:
        if header.magic == 2:
            body, start, end = data[header.position : header.position + header.size], 61, header.size
            with contextlib.suppress(LogstoreError):
                body, start, end = RecordBatch(header, body).body(size_max=20_000)
            arguments = (body, start, end, min(header.count, 500))
            deltas = (header.base_offset, header.base_timestamp, None)
            same(fast, "decode_records", *arguments, *deltas)
            same(fast, "check_records", *arguments)
            same(fast, "format_body", *arguments, *deltas, STYLES[header.crc & 3], 1 << 20)
    return True


def same(fast: ModuleType, name: str, *arguments: Any) -> None:
    results = [outcome(lambda one=one: getattr(one, name)(*arguments)) for one in (fast, slow)]
    must(repr(results[0]) == repr(results[1]), (name, results))
