"""Hypothesis strategies for what goes into a log: records, batches, settings, histories of producers.

Small on purpose: sizes and times are such that segments roll, indexes get entries and fill up, and batches straddle
what is cut, within a few dozen appends. Nothing else of logstore imports Hypothesis.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, TypeAlias

try:
    from hypothesis import strategies as st
except ImportError as error:  # an extra, like all that only tests need
    raise ImportError(
        "logstore.testing.strategies needs Hypothesis: install it, or logstore-kit with its extra `test`"
    ) from error

from logstore.config import LogConfig
from logstore.records import BatchOptions, Codec, encode_batch

RecordTuple: TypeAlias = tuple[bytes | None, bytes | None, int, tuple[tuple[str, bytes | None], ...]]
"""Key, value, timestamp (ms) and headers, as `Log.append` and `encode_batch` take them."""

ProducerAction: TypeAlias = Literal["append", "repeat", "skip", "new epoch", "old epoch", "commit", "abort"]


@dataclasses.dataclass(frozen=True, slots=True)
class ProducerStep:
    """One thing that a producer, or the coordinator of its transactions, does.

    Attributes:
        producer_id: who.
        action: `append` the next batch, `repeat` an earlier one, `skip` sequences, go on in a `new epoch` or come back
            in an `old epoch`, `commit` or `abort`.
        size: records of a batch, sequences that are skipped, or how far back the repeated batch lies.
    """

    producer_id: int
    action: ProducerAction
    size: int


def timestamps(around_ms: int, spread_ms: int = 2_000) -> st.SearchStrategy[int]:
    """Times near one, and -1, which stands for none."""
    near = st.integers(max(around_ms - spread_ms, 0), around_ms + spread_ms)
    return st.one_of(near, near, near, st.just(-1))


def records(
    *, count_max: int = 5, value_size_max: int = 40, around_ms: int = 0, keyed: bool = False
) -> st.SearchStrategy[list[RecordTuple]]:
    """Records of one batch: 1 to `count_max`; with `keyed` each has a key, as compacted logs want it."""
    keys = st.sampled_from([b"", b"a", b"b", b"key", b"\xff"])
    one: st.SearchStrategy[Any] = st.tuples(
        keys if keyed else st.one_of(st.none(), keys),
        st.one_of(st.none(), st.binary(max_size=value_size_max)),
        timestamps(around_ms),
        st.sampled_from([(), (("h", b"1"),), (("h", None), ("trace", b""))]),
    )
    return st.lists(one, min_size=1, max_size=count_max)


def codecs() -> st.SearchStrategy[Codec]:
    """Codecs, most often none."""
    return st.one_of(st.just(Codec.NONE), st.sampled_from(list(Codec)))


@st.composite
def batches(
    draw: st.DrawFn, *, base_offset: int = 0, gap_max: int = 0, leader_epoch: int = 0, around_ms: int = 0
) -> bytes:
    """An encoded batch of no producer, as a client sends it; with `gap_max` as a leader has numbered it: from
    `base_offset` on or a little behind, and with its last offsets compacted away now and then."""
    first = base_offset + draw(st.integers(0, gap_max))
    content = draw(records(around_ms=around_ms))
    last = first + len(content) - 1 + (draw(st.integers(0, 2)) if gap_max else 0)
    options = BatchOptions(codec=draw(codecs()), leader_epoch=leader_epoch)
    return bytes(encode_batch(content, base_offset=first, last_offset=last, timestamp=around_ms, options=options))


@st.composite
def configs(draw: st.DrawFn) -> LogConfig:
    """Settings under which a few appends do much: small segments and indexes, all kinds of flushing."""
    return LogConfig(
        segment_bytes=draw(st.sampled_from([700, 1_500, 4_000, 20_000])),
        segment_ms=draw(st.sampled_from([500, 5_000, 604_800_000])),
        segment_jitter_ms=draw(st.sampled_from([0, 0, 100])),
        segment_index_bytes=draw(st.sampled_from([24, 48, 4_096])),
        index_interval_bytes=draw(st.sampled_from([0, 1, 150, 4_096])),
        flush_messages=draw(st.sampled_from([1, 7, 2**63 - 1, 2**63 - 1])),
        flush_ms=draw(st.sampled_from([0, 300, 2**63 - 1])),
        file_delete_delay_ms=draw(st.sampled_from([0, 1_000])),
        compression_type=draw(st.sampled_from(["producer", "producer", "uncompressed", "gzip", "snappy", "lz4"])),
        message_timestamp_type=draw(st.sampled_from(["CreateTime", "CreateTime", "LogAppendTime"])),
        message_timestamp_after_max_ms=draw(st.sampled_from([1_000, 3_600_000])),
        preallocate=draw(st.sampled_from([False, False, True])),
        producer_id_expiration_ms=draw(st.sampled_from([1_000, 86_400_000])),
        durability=draw(st.sampled_from(["os", "interval", "always"])),
    )


def producer_steps(*, producers: int = 2) -> st.SearchStrategy[ProducerStep]:
    """One step of one of some producers."""
    actions: list[ProducerAction] = [
        "append", "append", "append", "append", "repeat", "skip", "new epoch", "old epoch", "commit", "abort",
    ]  # fmt: skip
    return st.builds(ProducerStep, st.integers(1, producers), st.sampled_from(actions), st.integers(1, 3))


def producer_histories(*, producers: int = 2, steps_max: int = 25) -> st.SearchStrategy[list[ProducerStep]]:
    """What some producers do, one step after the other."""
    return st.lists(producer_steps(producers=producers), max_size=steps_max)
