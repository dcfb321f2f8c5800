"""A small segment cut at every byte, and with a bit flipped in every byte: `check` finds it, or the list below says why
it cannot. Found is damage or a warning.

What nothing in a file contradicts is a file that Kafka itself could have written. Base offset and leader epoch of a v2
batch, and the offset of a v0 or v1 message, lie outside every CRC; and a file that ends with a batch ends well.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from by_hand import GZIP, LZ4, message, message_set
from helpers.commands import logstore
from helpers.directories import START, LogDirectory, Partition, alarms, batches_of, copied

from logstore.records import BatchOptions, Codec, ControlType, RecordBatch

OFFSET_RANGE = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Undetectable:
    """A change that `check` cannot find, where it cannot, and why."""

    what: str
    where: str
    reason: str


UNDETECTABLE = (
    Undetectable(
        "the base offset of the last batch raised",
        "a segment by itself; the active segment after a kill",
        "it looks like a gap, as compaction leaves before any batch (a note says so), and nothing behind it overlaps",
    ),
    Undetectable(
        "the leader epoch of the last batch raised",
        "a segment by itself",
        "a new leader may have written it; only leader-epoch-checkpoint knows",
    ),
    Undetectable(
        "the file cut exactly between two batches",
        "a segment by itself; the active segment after a kill, at or above what the checkpoints call flushed",
        "a shorter log is a log; only indexes, snapshots, later segments and checkpoints know of the rest",
    ),
    Undetectable(
        "the offset of a batch moved into a gap next to it",
        "a compacted log",
        "compaction leaves gaps of any size, so an offset between its neighbours' is as good as another",
    ),
)


# ---------------------------------------------------------------- segments to damage


def plain(partition: Partition) -> None:
    partition.append((b"k", b"value", START, (("h", b"x"),)), (None, None))
    partition.append(b"more")
    partition.append(b"last")


def compressed(codec: Codec) -> Callable[[Partition], None]:
    def write(partition: Partition) -> None:
        for _ in range(2):
            partition.append((b"k", b"value" * 3), (b"k", b"value" * 3), options=BatchOptions(codec=codec))

    return write


def transactional(partition: Partition) -> None:
    partition.append_transactional(1, b"v")
    partition.end_transaction(1, ControlType.ABORT)
    partition.append(b"last")


def legacy(magic: int) -> Callable[[Partition], None]:
    def write(partition: Partition) -> None:
        for offset in range(3):
            partition.append_bytes(message(magic, b"k", b"value", offset=offset, timestamp=START + offset))

    return write


def legacy_sets(magic: int, codec: int) -> Callable[[Partition], None]:
    def write(partition: Partition) -> None:
        for last in (1, 3):
            first = 0 if magic else last - 1
            inner = [message(magic, b"k", b"v", offset=first + n, timestamp=START) for n in range(2)]
            partition.append_bytes(message_set(magic, codec, *inner, offset=last, timestamp=START))

    return write


SEGMENTS = {
    "v2": plain,
    "v2 gzip": compressed(Codec.GZIP),
    "v2 lz4": compressed(Codec.LZ4),
    "v2 zstd": compressed(Codec.ZSTD),
    "v2 transaction": transactional,
    "v1": legacy(1),
    "v0": legacy(0),
    "v1 gzip": legacy_sets(1, GZIP),
    "v0 lz4": legacy_sets(0, LZ4),
}


@pytest.fixture
def bare(tmp_path: Path) -> Callable[[str], Path]:
    """A verb: write one of the segments above as a file by itself."""

    def write(kind: str) -> Path:
        partition = Partition(tmp_path / "orders-3")
        SEGMENTS[kind](partition)
        return copied(partition.log, tmp_path / "bare")

    return write


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A partition of three small segments in a log directory that was shut down cleanly."""
    directory = LogDirectory(tmp_path_factory.mktemp("clean"))
    partition = directory.partition("orders-3")
    plain(partition)
    transactional(partition.roll())
    plain(partition.roll())
    directory.close()
    return partition.path


# ---------------------------------------------------------------- every bit, every cut


def flips(log: Path, *, all_bits: bool) -> Iterator[tuple[int, int]]:
    """Positions and bits: all of them, or one bit a byte where the CRC finds them and all where it does not look."""
    seeded = random.Random(log.name)
    heads = {batch.header.position + byte for batch in batches_of(log) for byte in range(17)}
    for position in range(log.stat().st_size):
        if all_bits or position in heads:
            yield from ((position, bit) for bit in range(8))
        else:
            yield position, seeded.randrange(8)


def missed_flips(log: Path, checked: Path, *, all_bits: bool) -> set[tuple[int, int]]:
    """The flips in `log` that a check of `checked` does not find."""
    content = log.read_bytes()
    missed = set()
    for position, bit in flips(log, all_bits=all_bits):
        log.write_bytes(content[:position] + bytes([content[position] ^ 1 << bit]) + content[position + 1 :])
        if not alarms(checked):
            missed.add((position, bit))
        log.write_bytes(content)
    return missed


def missed_cuts(log: Path, checked: Path) -> list[int]:
    """The sizes to which `log` can be cut without a check of `checked` finding it."""
    content = log.read_bytes()
    missed = []
    for size in range(len(content)):
        log.write_bytes(content[:size])
        if not alarms(checked):
            missed.append(size)
    log.write_bytes(content)
    return missed


def raised(batch: RecordBatch, field: str) -> set[tuple[int, int]]:
    """The flips that raise the base offset or the leader epoch of a batch, within what a segment can hold."""
    header = batch.header
    value, start, size = {"base_offset": (header.base_offset, 0, 8), "leader_epoch": (header.leader_epoch, 12, 4)}[
        field
    ]
    bits = {(start + size - 1 - power // 8, power % 8): value ^ 1 << power for power in range(8 * size - 1)}
    limit = OFFSET_RANGE - header.last_offset_delta if field == "base_offset" else OFFSET_RANGE
    return {(header.position + byte, bit) for (byte, bit), changed in bits.items() if value < changed <= limit}


@pytest.mark.parametrize("kind", SEGMENTS)
def test_every_flipped_bit_of_a_segment_by_itself_is_found_or_listed(bare: Callable[[str], Path], kind: str) -> None:
    log = bare(kind)
    last = batches_of(log)[-1]
    expected = raised(last, "base_offset")
    if last.header.magic == 2:
        expected |= raised(last, "leader_epoch")
    if kind == "v0 lz4":
        expected = set()  # the messages inside have whole offsets of their own
    assert missed_flips(log, log, all_bits=True) == expected


@pytest.mark.parametrize("kind", SEGMENTS)
def test_every_cut_of_a_segment_by_itself_is_found_or_listed(bare: Callable[[str], Path], kind: str) -> None:
    log = bare(kind)
    assert missed_cuts(log, log) == [batch.header.position for batch in batches_of(log)]


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("where", ["log directory", "partition", "copy"])
def test_every_flipped_bit_in_a_closed_partition_is_found(clean: Path, tmp_path: Path, number: int, where: str) -> None:
    partition = copied(clean.parent, tmp_path) / clean.name
    partition = copied(clean, tmp_path / "copy") if where == "copy" else partition
    checked = partition.parent if where == "log directory" else partition
    log = sorted(partition.glob("*.log"))[number]
    assert alarms(checked) == []
    assert missed_flips(log, checked, all_bits=False) == set()


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("where", ["log directory", "partition", "copy"])
def test_every_cut_in_a_closed_partition_is_found(clean: Path, tmp_path: Path, number: int, where: str) -> None:
    partition = copied(clean.parent, tmp_path) / clean.name
    partition = copied(clean, tmp_path / "copy") if where == "copy" else partition
    checked = partition.parent if where == "log directory" else partition
    assert missed_cuts(sorted(partition.glob("*.log"))[number], checked) == []


def test_every_flipped_bit_and_cut_in_a_segment_of_a_real_broker_is_found(kafka_fixtures: Path, tmp_path: Path) -> None:
    name = "00000000000000000157.log"
    partition = copied(kafka_fixtures / "kafka-4.1.1" / "clean" / "txn-0", tmp_path)
    for path in (kafka_fixtures / "kafka-4.1.1" / "clean").iterdir():
        if path.is_file():
            copied(path, tmp_path)
    assert alarms(tmp_path) == []
    assert missed_flips(partition / name, partition, all_bits=False) == set()
    assert missed_cuts(partition / name, partition) == []


def test_of_the_active_segment_after_a_kill_only_its_end_can_change_unnoticed(tmp_path: Path) -> None:
    directory = LogDirectory(tmp_path / "data")
    partition = directory.partition("orders-3")
    plain(partition)
    partition.roll()
    directory.close(is_clean=False)  # the checkpoints of before
    flushed = partition.next_offset
    plain(partition)
    for name in (f"{partition.next_offset:020d}.snapshot", f"{flushed:020d}.timeindex", f"{flushed:020d}.index"):
        (partition.path / name).unlink(missing_ok=True)
    (partition.path / f"{flushed:020d}.index").write_bytes(bytes(800))
    (partition.path / f"{flushed:020d}.timeindex").write_bytes(bytes(1200))
    batches = batches_of(partition.log)
    assert alarms(directory.path) == []
    assert missed_flips(partition.log, directory.path, all_bits=False) == raised(batches[-1], "base_offset")
    assert missed_cuts(partition.log, directory.path) == [batch.header.position for batch in batches]


def test_the_commands_read_on_whatever_bit_is_flipped(bare: Callable[[str], Path]) -> None:
    log = bare("v2 transaction")
    content = log.read_bytes()
    for position, bit in flips(log, all_bits=False):
        log.write_bytes(content[:position] + bytes([content[position] ^ 1 << bit]) + content[position + 1 :])
        for command in (["dump", "--json"], ["dump", "--batches"], ["describe"]):
            assert logstore(*command, log).code in (0, 1)


def test_the_list_of_what_cannot_be_found_is_complete_and_has_reasons() -> None:
    assert len({one.what for one in UNDETECTABLE}) == len(UNDETECTABLE) == 4
    assert all(one.where and one.reason for one in UNDETECTABLE)
