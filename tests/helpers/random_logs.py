"""Logs of every kind of batch, drawn by Hypothesis, with the records that are in them as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from by_hand import GZIP, LZ4, message, message_set
from helpers.directories import START, Partition
from hypothesis import strategies as st

from logstore.records import BatchOptions, Codec, ControlType, Record, encode_batch

KEYS = (None, b"", b"a", b"b", b"key", b"\xff")
VALUES = (None, b"", b"x", b"value one", b"value two", b"\x00\xfe")
HEADERS = ((), (("h", b"1"),), (("h", None), ("trace", b"x")), (("trace", b""),))
PRODUCERS = (-1, 5, 6)


@dataclass(frozen=True, slots=True)
class Known:
    """A record and what its batch says of it."""

    record: Record
    producer_id: int
    is_control: bool = False

    @property
    def offset(self) -> int:
        return self.record.offset


records = st.lists(
    st.tuples(
        st.integers(1, 3),  # offsets to go on by: gaps as compaction leaves them
        st.integers(START, START + 20),
        st.sampled_from(KEYS),
        st.sampled_from(VALUES),
        st.sampled_from(HEADERS),
    ),
    min_size=1,
    max_size=4,
)
kinds = st.sampled_from(["v2", "v2 gzip", "v2 zstd", "producer", "transaction", "end"])
legacy_kinds = st.sampled_from(["v0", "v1", "v1 gzip", "v0 lz4"])
rolls = st.booleans()
plans = st.tuples(
    st.lists(st.tuples(legacy_kinds, records, rolls), max_size=3),
    st.lists(st.tuples(kinds, records, rolls), max_size=8),
).map(lambda parts: parts[0] + parts[1])


def write_log(
    path: Path, plan: list[tuple[str, list[tuple[int, int, bytes | None, bytes | None, tuple], bool]]]
) -> list[Known]:
    """Write a partition as planned; all of its records in order."""
    partition, known = Partition(path), list[Known]()
    for kind, drawn, rolls_before in plan:
        if rolls_before and partition.log.stat().st_size:
            partition.roll()
        known += _append(partition, kind, drawn)
    partition.close()
    return known


def _append(partition: Partition, kind: str, drawn: list) -> list[Known]:
    if kind == "end":
        return _end_transactions(partition)
    offset, wanted = partition.next_offset - 1, list[Record]()
    for step, timestamp, key, value, headers in drawn:
        offset += step
        wanted.append(Record(offset, timestamp, key, value, headers))
    if kind.startswith(("v0", "v1")):
        return _append_legacy(partition, kind, wanted)
    producer_id = {"producer": PRODUCERS[1], "transaction": PRODUCERS[2]}.get(kind, -1)
    options = BatchOptions(
        codec={"v2 gzip": Codec.GZIP, "v2 zstd": Codec.ZSTD}.get(kind, Codec.NONE),
        leader_epoch=0,
        producer_id=producer_id,
        producer_epoch=min(producer_id, 0),
        base_sequence=min(producer_id, 0),
        is_transactional=kind == "transaction",
    )
    partition.append_bytes(encode_batch(wanted, base_offset=partition.next_offset, options=options))
    return [Known(record, producer_id) for record in wanted]


def _append_legacy(partition: Partition, kind: str, wanted: list[Record]) -> list[Known]:
    magic = int(kind[1])
    plain = [Record(one.offset, one.timestamp if magic else -1, one.key, one.value, ()) for one in wanted]
    codec = {"gzip": GZIP, "lz4": LZ4}.get(kind[3:], 0)
    if codec:
        first = plain[0].offset if magic else 0
        inner = [message(magic, r.key, r.value, offset=r.offset - first, timestamp=r.timestamp) for r in plain]
        newest = max(record.timestamp for record in plain)
        wrapper = message_set(magic, codec, *inner, offset=plain[-1].offset, timestamp=newest)
        partition.append_bytes(wrapper)
    else:
        for one in plain:
            partition.append_bytes(message(magic, one.key, one.value, offset=one.offset, timestamp=one.timestamp))
    return [Known(record, -1) for record in plain]


def _end_transactions(partition: Partition) -> list[Known]:
    known = []
    for producer_id in list(partition.open_transactions):
        how = ControlType.ABORT if partition.next_offset % 2 else ControlType.COMMIT
        batch = partition.end_transaction(producer_id, how)
        known += [Known(record, producer_id, is_control=True) for record in batch.records()]
    return known
