"""The check behind a cleaning: what it takes for the same, and every kind of loss that it has to see."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.cleaning import COMPACTED, Compacted
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.cleaner import NewestRecords, Verifier
from logstore.cleaner.cleaner import Cleaner
from logstore.errors import DamagedLogError, LogstoreError, VerificationError
from logstore.fs import Buffer
from logstore.log.transaction_index import AbortedTransaction
from logstore.records import BatchOptions, Codec, Record, encode_batch
from logstore.records.kernel import KeyTable

SEED = bytes(16)
SLOT = 24


class Bytes:
    """Batches in memory, as a segment shows them."""

    def __init__(self, *batches: bytes | bytearray) -> None:
        self.path = Path("/data/orders-0/00000000000000000000.log")
        self.data = b"".join(batches)
        self.size = len(self.data)

    def slice(self, position: int, size: int) -> Buffer:
        return self.data[position : position + size]


def verifier(slots: int = 4096, aborted: tuple[AbortedTransaction, ...] = ()) -> Verifier:
    return Verifier(KeyTable(bytearray(slots * SLOT), SEED), aborted)


def batch(offset: int, *rows: tuple[bytes | None, bytes | None], codec: Codec = Codec.NONE) -> bytearray:
    records = [Record(offset + number, 1000 + offset, key, value) for number, (key, value) in enumerate(rows)]
    return encode_batch(records, base_offset=offset, options=BatchOptions(codec=codec))


BEFORE = Bytes(
    batch(0, (b"a", b"1"), (b"b", b"1"), (b"c", b"1")),
    batch(3, (b"a", b"2"), (b"b", None), codec=Codec.LZ4),
    batch(5, (b"d", b"")),
)


def test_the_newest_records_are_counted_and_summed_whatever_their_codec() -> None:
    found = verifier().newest([BEFORE])
    assert found[:2] == (3, 1)
    plain = Bytes(
        batch(0, (b"a", b"1"), (b"b", b"1"), (b"c", b"1")), batch(3, (b"a", b"2"), (b"b", None), codec=Codec.GZIP),
        batch(5, (b"d", b""), codec=Codec.SNAPPY),
    )  # fmt: skip
    assert verifier().newest([plain]) == found
    assert found.digest != 0


def test_what_only_lost_what_is_superseded_is_the_same() -> None:
    rows = [Record(2, 1000, b"c", b"1")]
    after = Bytes(
        encode_batch(rows, base_offset=0, last_offset=2), batch(3, (b"a", b"2"), (b"b", None)), batch(5, (b"d", b""))
    )
    assert verifier().compare([BEFORE], [after]) == verifier().newest([after])


def test_a_tombstone_may_be_gone_with_all_that_it_deleted() -> None:
    rows = [Record(3, 1003, b"a", b"2")]
    after = Bytes(
        encode_batch([Record(2, 1000, b"c", b"1")], base_offset=0, last_offset=2),
        encode_batch(rows, base_offset=3, last_offset=4), batch(5, (b"d", b"")),
    )  # fmt: skip
    assert verifier().compare([BEFORE], [after])[:2] == (3, 1)


@pytest.mark.parametrize(
    "after",
    [
        pytest.param([batch(3, (b"a", b"2"), (b"b", None)), batch(5, (b"d", b""))], id="a value is gone"),
        pytest.param(
            [batch(0, (b"a", b"1"), (b"b", b"1"), (b"c", b"1")), batch(3, (b"a", b"2")), batch(5, (b"d", b""))],
            id="a tombstone is gone and an old value is back",
        ),
        pytest.param(
            [batch(0, (b"a", b"1"), (b"b", b"1"), (b"c", b"1")), batch(4, (b"b", None)), batch(5, (b"d", b""))],
            id="an old value instead of the newest",
        ),
        pytest.param(
            [batch(2, (b"c", b"1")), batch(3, (b"a", b"2"), (b"b", None)), batch(5, (b"d", b""))],
            id="another timestamp",
        ),
        pytest.param(
            [batch(0, (b"x", b"1"), (b"c", b"2")), batch(3, (b"a", b"2"), (b"b", None)), batch(5, (b"d", b""))],
            id="another key and another value",
        ),
        pytest.param(
            [batch(0, (b"c", b"1")), batch(3, (b"a", b"2"), (b"b", None)), batch(5, (b"d", b""))],
            id="another offset",
        ),
        pytest.param([], id="nothing is left"),
    ],
)  # fmt: skip
def test_a_loss_is_seen(after: list[bytearray]) -> None:
    with pytest.raises(VerificationError):
        verifier().compare([BEFORE], [Bytes(*after)])


def test_a_deletion_that_was_not_there_is_seen() -> None:
    gone = Bytes(batch(0, (b"a", b"1"), (b"b", b"1"), (b"c", b"1")), batch(3, (b"a", b"2"), (b"b", None)))
    with pytest.raises(VerificationError):
        verifier().compare([gone], [Bytes(gone.data, batch(6, (b"z", None)))])


@pytest.mark.parametrize("slots", [16, 24, 64])
def test_keys_that_do_not_fit_are_gone_through_in_parts(slots: int) -> None:
    many = Bytes(*(batch(10 * n, *((b"key %d" % (7 * n + k), b"%d" % n) for k in range(10))) for n in range(20)))
    whole = verifier().newest([many])
    found = verifier(slots).newest([many])
    assert found._replace(shards=1) == whole
    assert found.shards > 1


def test_memory_for_no_key_at_all_is_said() -> None:
    with pytest.raises(LogstoreError, match="too small"):
        verifier(1).newest([BEFORE])


def test_aborted_transactions_and_markers_are_nothing() -> None:
    log = Compacted()
    producer = log.producer(7, transactional=True)
    log.add(1, 2)
    producer.add(1, 3)
    log.abort(7)
    producer.add(2)
    log.commit(7)
    data = b"".join(bytes(one) for one in log.log.slices())
    aborted = (AbortedTransaction(7, 2, 4, 5),)
    assert verifier(aborted=aborted).newest([Bytes(data)])[:2] == (2, 0)
    assert verifier().newest([Bytes(data)])[:2] == (3, 0)


@pytest.mark.parametrize("codec", [Codec.NONE, Codec.ZSTD])
def test_bytes_that_are_no_batch_are_damage_with_their_position(codec: Codec) -> None:
    first, second = batch(0, (b"a", b"1"), codec=codec), batch(1, (b"b", b"2" * 50), codec=codec)
    for position in range(len(first), len(first) + len(second)):
        data = bytearray(first + second)
        data[position] ^= 0xFF
        if 8 <= position - len(first) < 16 or position - len(first) in (0, 1, 2, 3, 4, 5, 6, 7):
            continue  # a size that cannot be, and what no CRC covers
        with pytest.raises(DamagedLogError) as refused:
            verifier().newest([Bytes(data)])
        assert refused.value.position == len(first)
    with pytest.raises(DamagedLogError):
        verifier().newest([Bytes(first, second[:-1])])


ROUNDS = st.lists(
    st.tuples(st.lists(st.integers(-5, 5).filter(bool), min_size=1, max_size=4), st.sampled_from(list(Codec))),
    min_size=1, max_size=25,
)  # fmt: skip


@given(ROUNDS, st.integers(2, 40))
@settings(deadline=None, database=None, max_examples=60)
def test_what_the_cleaner_does_is_always_found_the_same(rounds: list[tuple[list[int], Codec]], slots: int) -> None:
    log = Compacted()
    for number, (keys, codec) in enumerate(rounds):
        log.add(*keys, codec=codec)
        if number % 4 == 3:
            log.roll()
    log.roll()
    before = Bytes(b"".join(bytes(one) for one in log.log.slices()))
    later = log.place.clock.now_ms() + COMPACTED.delete_retention_ms
    Cleaner(slots * SLOT, seed=SEED).clean_fully(log.log, now_ms=later)
    after = Bytes(b"".join(bytes(one) for one in log.log.slices()))
    assert isinstance(verifier(slots + 20).compare([before], [after]), NewestRecords)
