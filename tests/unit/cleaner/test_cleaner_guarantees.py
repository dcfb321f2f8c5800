"""What a cleaning promises of time, tombstones, bytes, damage and its own numbers, for any log (CLEANER §9.11)."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from helpers.cleaning import RETENTION_MS, SLOT, Compacted
from helpers.legacy_batches import LEGACY_CODECS, record_set
from helpers.open_logs import PLACE, START
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.cleaner import Cleaner, CleaningStats, batch_filter, offset_map, rewrite, verify
from logstore.config import LogConfig
from logstore.errors import DamagedLogError, LogstoreError
from logstore.log import FetchIsolation
from logstore.records import (
    BatchOptions,
    Codec,
    Record,
    RecordBatch,
    TimestampType,
    encode_batch,
    iter_batches,
    kernel,
)
from logstore.records.builder import write_header
from logstore.records.kernel import KERNEL_NAME, KeyTable

CONFIG = LogConfig(
    cleanup_policy=frozenset({"compact"}), segment_bytes=900, index_interval_bytes=100, segment_index_bytes=1200,
    file_delete_delay_ms=0,
)
SEED = bytes(16)
KNOWN_ATTRIBUTES, HORIZON = 0x7F, 0x40

KEYS = [b"", b"a", b"b", b"a key of 15 byt", b"a key of 16 byte", b"a longer key, nearly like the next, 1",
        b"a longer key, nearly like the next, 2"]  # fmt: skip
TIMES = [START - 1000, START, START, START + 1, START + 500, START + 100_000, 0]
HEADERS = [(), (("h", b"1"),), (("h", None), ("h", b"\xff"))]
ROW = st.tuples(
    st.sampled_from(KEYS), st.sampled_from([b"", b"v", b"v" * 20, None]), st.sampled_from(TIMES),
    st.sampled_from(HEADERS),
)  # fmt: skip
ROWS = st.lists(ROW, min_size=1, max_size=4).map(tuple)


@dataclasses.dataclass(frozen=True, slots=True)
class Draft:
    """A batch as its leader has it, or the end of a transaction, or a roll.

    `spare`: how many offsets of it are left behind the last record. `unknown`: attributes that mean nothing.
    """

    kind: str
    rows: tuple[tuple[bytes, bytes | None, int, Any], ...] = ()
    producer: int = 0
    codec: Codec = Codec.NONE
    level: int | None = None
    append_time: int | None = None
    horizon_ms: int | None = None
    spare: int = 0
    unknown: int = 0
    magic: int = 2


def batches(kind: str, producers: Any) -> Any:
    return st.builds(
        Draft, st.just(kind), ROWS, producers, st.sampled_from([Codec.NONE, Codec.NONE, *Codec]),
        append_time=st.sampled_from([None, None, START + 7]),
        horizon_ms=st.sampled_from([None, None, None, START, START + 1]), spare=st.sampled_from([0, 0, 2]),
        unknown=st.sampled_from([0, 0, 0x80, 0x4100]),
    )  # fmt: skip


LEGACY = st.builds(
    Draft, st.just("legacy"), ROWS, codec=st.sampled_from(LEGACY_CODECS), magic=st.sampled_from([0, 1])
)
DRAFT = st.one_of(
    batches("data", st.just(0)),
    batches("data", st.sampled_from([0, 9])),
    batches("data", st.sampled_from([1, 2])),
    st.builds(Draft, st.sampled_from(["commit", "abort"]), producer=st.sampled_from([1, 2])),
    st.just(Draft("roll")),
    LEGACY,
)
DRAFTS = st.lists(DRAFT, min_size=3, max_size=25)


class Drafted(Compacted):
    """A log of drafts, its transactions ended whenever `settle` was called."""

    def __init__(self, config: LogConfig = CONFIG) -> None:
        super().__init__(config)
        self.sequences_sent: dict[int, int] = {}
        self.open: set[int] = set()

    def write(self, drafts: list[Draft]) -> Drafted:
        for draft in drafts:
            if draft.kind == "roll":
                self.roll()
            elif draft.kind in ("commit", "abort"):
                if draft.producer in self.open:
                    self.end(draft.producer, commit=draft.kind == "commit")
                    self.open.discard(draft.producer)
            else:
                self.replicate(self.encoded(draft))
        return self

    def settle(self) -> Drafted:
        """Abort what is open, and seal the last segment."""
        self.write([Draft("abort", producer=number) for number in sorted(self.open)])
        if self.log.segments[-1].size:
            self.roll()
        return self

    def encoded(self, draft: Draft) -> bytearray:
        first = self.log.log_end_offset
        rows = [
            (key, None if value is None else value + b"%d" % (first + place), timestamp, headers)
            for place, (key, value, timestamp, headers) in enumerate(draft.rows)
        ]
        if draft.magic < 2:
            return record_set(
                draft.magic, [row[:3] for row in rows], codec=draft.codec, base_offset=first
            )
        fields = {}
        last_offset = first + len(rows) - 1 + draft.spare
        if draft.producer:
            sequence = self.sequences_sent.get(draft.producer, 0)
            fields = {"producer_id": draft.producer, "producer_epoch": 0, "base_sequence": sequence}
            self.sequences_sent[draft.producer] = sequence + last_offset - first + 1
            if draft.producer < 9:
                self.open.add(draft.producer)
        options = BatchOptions(
            codec=draft.codec, level=draft.level, leader_epoch=0, is_transactional=0 < draft.producer < 9,
            append_time=draft.append_time, delete_horizon_ms=draft.horizon_ms,
            timestamp_type=TimestampType.CREATE_TIME if draft.append_time is None else TimestampType.LOG_APPEND_TIME,
            **fields,
        )  # fmt: skip
        data = encode_batch(rows, base_offset=first, last_offset=last_offset, options=options)
        if draft.unknown:
            header = next(iter_batches(bytes(data))).header
            write_header(data, 0, header._replace(attributes=header.attributes | draft.unknown))
        return data

    def tree(self) -> dict[str, tuple[bytes, int]]:
        """All files, with the time of their last change."""
        fs = self.place.fs
        return {name: (data, fs.modified_ms("/" + name)) for name, data in fs.tree().items()}


def made(drafts: list[Draft]) -> Drafted:
    return Drafted().write(drafts).settle()


def visible(log: Compacted) -> list[Record]:
    return list(log.log.records(isolation=FetchIsolation.TXN_COMMITTED))


# ---------------------------------------------------------------- times


@pytest.mark.kafka("PROP-09")
@settings(deadline=None, database=None, max_examples=60)
@given(DRAFTS, st.integers(2, 40))
def test_a_time_is_found_where_looking_at_every_record_that_is_left_finds_it(drafts: list[Draft], room: int) -> None:
    log = made(drafts)
    known = {one.timestamp for batch in log.batches() for one in batch.records()}
    asked = sorted({max(time + delta, 0) for time in known for delta in (-1, 0, 1)})
    for at in (START, START + RETENTION_MS + 1):
        log.clean(at=at, room=room)
        scanned = scan_segments(log)
        for time in asked:
            found = log.log.offset_for_time(time)
            first = next((pair for _, pairs, _ in scanned for pair in pairs if pair[0] >= time), None)
            # Only the first segment that says it has the time is looked into, as in Kafka (LOG_SEMANTICS §7); one with
            # batches that were emptied may say so for a record that has gone.
            pairs, is_whole = next(((pairs, whole) for most, pairs, whole in scanned if most >= time), ([], True))
            there = next((pair for pair in pairs if pair[0] >= time), None)
            assert (None if found is None else found[:2]) == there
            assert there == first or not is_whole


def scan_segments(log: Compacted) -> list[tuple[int, list[tuple[int, int]], bool]]:
    """Of each segment its largest timestamp, those of its records with offsets, and whether no batch is empty."""
    found = []
    for segment, view in zip(log.log._state.segments, log.log.segments, strict=True):
        inside = [one for one in log.batches() if view.base_offset <= one.header.base_offset < view.end_offset]
        most = max((one.header.max_timestamp for one in inside), default=-1)
        pairs = [(record.timestamp, record.offset) for one in inside for record in one.records()]
        is_whole = bool(inside) and all(one.header.count for one in inside if one.header.magic == 2)
        found.append((most if most >= 0 else segment.modified_ms, pairs, is_whole))
    return found


# ---------------------------------------------------------------- tombstones

PHASES = st.lists(
    st.tuples(
        st.lists(DRAFT.map(lambda draft: dataclasses.replace(draft, horizon_ms=None)), min_size=2, max_size=12),
        st.lists(st.tuples(st.sampled_from([1, 2, 4]), st.integers(2, 8)), min_size=1, max_size=5),
    ),
    min_size=1, max_size=3,
)  # fmt: skip


@pytest.mark.kafka("PROP-13")
@settings(deadline=None, database=None, max_examples=100)
@given(PHASES)
def test_a_deletion_can_be_read_for_its_time_after_the_last_older_record_went(phases: list[Any]) -> None:
    log, now = Drafted(), START
    alone_since: dict[bytes | None, int] = {}
    for drafts, rounds in phases:
        log.write(drafts).settle()
        for halves, room in rounds:
            now += halves * RETENTION_MS // 2
            before = by_key(log)
            log.clean(at=now, room=room)
            after = by_key(log)
            for key, records in before.items():
                newest, left = records[-1], after.get(key, [])
                if len(records) > 1:
                    alone_since.pop(key, None)
                    assert left and left[-1] == newest  # it does not go with what it deletes
                    if len(left) == 1:
                        alone_since[key] = now
                elif not left:
                    assert newest.value is None
                    assert now >= alone_since.get(key, START) + RETENTION_MS
    for _ in range(3):
        now += RETENTION_MS
        Cleaner(seed=SEED).clean_fully(log.log, now_ms=now, first_dirty_offset=0)
    assert all(one.value is not None for one in visible(log))


def by_key(log: Compacted) -> dict[bytes | None, list[Record]]:
    found: dict[bytes | None, list[Record]] = {}
    for record in visible(log):
        found.setdefault(record.key, []).append(record)
    return found


@pytest.mark.kafka("PROP-14")
@settings(deadline=None, database=None, max_examples=80)
@given(PHASES)
def test_a_delete_horizon_once_there_stays_what_it_is(phases: list[Any]) -> None:
    log, now = Drafted(), START
    known: dict[int, int] = {}
    for number, (drafts, rounds) in enumerate(phases):
        log.write(drafts).settle().reconfigure(delete_retention_ms=RETENTION_MS >> number)
        for halves, room in rounds:
            now += halves * RETENTION_MS // 4
            log.clean(at=now, room=room)
            found = {one.last_offset: one.delete_horizon_ms for one in log.batches() if one.header.count}
            for last_offset, horizon in found.items():
                assert horizon == known.get(last_offset, horizon)
                assert horizon is not None or last_offset not in known
                if horizon is not None:
                    new = now + log.config.delete_retention_ms
                    assert known.setdefault(last_offset, horizon) in (horizon, new)
            known = {offset: horizon for offset, horizon in known.items() if offset in found}


# ---------------------------------------------------------------- bytes


class Fate(NamedTuple):
    """What has to become of a batch: what it keeps, and the horizon that it has then."""

    kept: list[Record]
    horizon_ms: int | None
    is_untouched: bool


def fates(log: Compacted, now: int) -> dict[int, Fate]:
    """By last offset what a round over everything makes of batches of data, found record by record."""
    all_batches, newest = log.batches(), dict[bytes | None, int]()
    pending: dict[int, list[int]] = {}
    aborted: set[int] = set()
    for batch in all_batches:
        producer = batch.header.producer_id
        if batch.is_control:
            ended = pending.pop(producer, [])
            aborted |= set(ended) if batch.control_type() == 0 else set()
        elif batch.is_transactional:
            pending.setdefault(producer, []).append(batch.last_offset)
    data = [one for one in all_batches if not one.is_control]
    for batch in data:
        if batch.last_offset not in aborted:
            newest |= {record.key: record.offset for record in batch.records()}
    found = {}
    for batch in data:
        records, horizon = batch.records(), batch.delete_horizon_ms
        expired = horizon is not None and horizon <= now
        kept = [
            one for one in records
            if batch.last_offset not in aborted and newest[one.key] == one.offset
            and not (expired and one.value is None)
        ]  # fmt: skip
        if horizon is None and any(one.value is None for one in kept):
            new_horizon: int | None = now + RETENTION_MS
        else:
            new_horizon = horizon
        is_untouched = kept == records and new_horizon == horizon and batch.header.magic == 2
        found[batch.last_offset] = Fate(kept, new_horizon, is_untouched)
    return found


@pytest.mark.kafka("PROP-15", "PROP-16")
@settings(deadline=None, database=None, max_examples=200)
@given(st.lists(DRAFT | batches("data", st.just(0)), min_size=3, max_size=25))
def test_batches_stay_as_bytes_or_say_the_same_of_what_they_keep(drafts: list[Draft]) -> None:
    # A level that the library does not take by itself: a batch that is encoded again has other bytes.
    log = made([dataclasses.replace(one, level=1) if one.codec in (Codec.GZIP, Codec.ZSTD) else one for one in drafts])
    for now in (START, START + RETENTION_MS):
        before, wanted = {one.last_offset: one for one in log.batches()}, fates(log, now)
        log.clean_all(at=now)
        after = {one.last_offset: one for one in log.batches()}
        assert after.keys() <= before.keys()
        assert all(one.crc_is_valid() for one in after.values())
        for last_offset, fate in wanted.items():
            old, new = before[last_offset], after.get(last_offset)
            if not fate.kept:
                assert new is None or new.header.count == 0
            elif fate.is_untouched:
                assert new is not None and new.raw.tobytes() == old.raw.tobytes()
            else:
                assert new is not None
                check_encoded_again(old, new, fate)
        for last_offset in before.keys() - wanted.keys():  # markers
            old, new = before[last_offset], after.get(last_offset)
            if new is not None and old.delete_horizon_ms == new.delete_horizon_ms and new.header.count:
                assert new.raw.tobytes() == old.raw.tobytes()


def check_encoded_again(old: RecordBatch, new: RecordBatch, fate: Fate) -> None:
    attributes = old.header.attributes & (0x3F if old.header.magic == 2 else 0x0F if old.header.magic == 1 else 0x07)
    assert new.records() == fate.kept
    assert new.header.attributes == attributes | (0 if fate.horizon_ms is None else HORIZON)
    assert new.header.attributes & ~KNOWN_ATTRIBUTES == 0
    assert new.delete_horizon_ms == fate.horizon_ms
    said = ("last_offset_delta", "base_offset", "leader_epoch", "producer_id", "producer_epoch", "base_sequence")
    if old.header.magic == 2:
        assert [getattr(new.header, name) for name in said] == [getattr(old.header, name) for name in said]
    times = [one.timestamp for one in fate.kept]
    is_appended = new.timestamp_type is TimestampType.LOG_APPEND_TIME
    assert new.header.max_timestamp == (old.header.max_timestamp if is_appended else max(times))


# ---------------------------------------------------------------- damage

ONCE: list[tuple[bytes, bytes | None]] = [(b"x", b"1"), (b"y", None), (b"z", b"3")]


def rows(*items: tuple[bytes, bytes | None]) -> tuple[tuple[bytes, bytes | None, int, Any], ...]:
    return tuple((key, value, START + place, ()) for place, (key, value) in enumerate(items))


def of_every_kind() -> Drafted:
    """Batches that lose something, lose nothing, are stamped, and go, of every kind, in five segments."""
    first, last = rows((b"a", b"1"), (b"k1", b"12345678" * 3)), rows((b"a", b"2"))
    some = [Draft("data", first, codec=codec) for codec in Codec]
    log = Drafted(dataclasses.replace(CONFIG, segment_bytes=1 << 20))
    log.write([Draft("legacy", first, magic=magic, codec=codec) for magic in (0, 1) for codec in LEGACY_CODECS[:4:3]])
    log.write([Draft("legacy", last, magic=0), Draft("roll"), *some, Draft("roll")])
    log.write([Draft("data", first, 1), Draft("data", first, 2), Draft("data", first, 9), Draft("roll")])
    log.write([Draft("commit", producer=1), Draft("abort", producer=2), Draft("data", rows(*ONCE)), Draft("roll")])
    log.write([Draft("data", rows((b"once", b"1"))), Draft("data", last, codec=Codec.ZSTD)])
    return log.settle()


def starts(log: Compacted) -> list[tuple[str, RecordBatch]]:
    """Each batch of the sealed segments, with its file; `position` in its header is that in the file."""
    files = list(log.files(".log").items())[:-1]
    return [(name, batch) for name, data in files for batch in iter_batches(data, verify=False)]


def change(log: Compacted, name: str, position: int, bits: int) -> None:
    """Change a byte of a file that is open."""
    with log.place.fs.open(PLACE / name, write=True) as file:
        (byte,) = file.read(position, 1)
        file.write(position, bytes([byte ^ bits]))


@pytest.mark.kafka("PROP-22")
def test_a_round_changes_nothing_where_a_crc_tells_of_damage() -> None:
    log = of_every_kind()
    kinds, tried = set(), 0
    for name, batch in starts(log):
        kinds.add((batch.header.magic, batch.codec, batch.is_control, batch.header.producer_id))
        for at in range(8, batch.header.size):
            if batch.header.magic == 2 and 12 <= at < 16:
                continue  # the leader epoch
            position, bits = batch.header.position + at, (1 << at % 8, 0xFF)[at % 2]
            change(log, name, position, bits)
            before = log.tree()
            with pytest.raises(LogstoreError):
                log.clean()
            assert log.tree() == before, (batch, at)
            assert log.log.cleaner_point is None
            change(log, name, position, bits)
            tried += 1
    assert len(kinds) >= 13 and tried > 1000
    found = visible(log)
    stats = log.clean()
    assert (stats.superseded > 10, stats.aborted, stats.batches_stamped > 0) == (True, 2, True)
    assert {one.key: one.value for one in visible(log)} == {one.key: one.value for one in found}


def content(data: bytes) -> Iterator[tuple[Any, ...]]:
    """What CRCs vouch for: each record of the batches with a right one, without its offset."""
    for batch in iter_batches(data, verify=False):
        if batch.crc_is_valid():
            header = batch.header
            for one in batch.records():
                yield one.timestamp, one.key, one.value, one.headers, header.producer_id, header.attributes & 0x38


@pytest.mark.kafka("PROP-22")
def test_damage_that_no_crc_tells_of_never_changes_a_record() -> None:
    places, log = starts(of_every_kind()), of_every_kind()
    whole = set(content(b"".join(log.files(".log").values())))
    outcomes = set()
    for number, (name, batch) in enumerate(places):
        for at in [*range(8), *((12, 15) if batch.header.magic == 2 else ())]:  # base offset, leader epoch
            position, bits = batch.header.position + at, 1 << (at + number) % 8
            change(log, name, position, bits)
            before = log.tree()
            try:
                log.clean()
            except LogstoreError:
                outcomes.add(("refused", at < 8))
                assert log.tree() == before
                change(log, name, position, bits)
            else:
                outcomes.add(("cleaned", at < 8))
                assert set(content(b"".join(log.files(".log").values()))) <= whole
                log = of_every_kind()
    assert outcomes == {("refused", True), ("cleaned", False)}  # there are no gaps to move a batch to


@pytest.mark.parametrize("magic", [0, 1])
def test_an_old_message_with_an_offset_from_before_its_segment_is_damage(magic: int) -> None:
    log = Drafted().write([Draft("data", rows((b"x", b"0"))), Draft("legacy", rows((b"only", b"1")), magic=magic)])
    log.settle()
    name, batch = starts(log)[-1]
    change(log, name, batch.header.position, 0x80)
    before = log.tree()
    with pytest.raises(DamagedLogError, match="belong before it"):
        log.clean()
    assert log.tree() == before


# ---------------------------------------------------------------- numbers


@pytest.mark.kafka("PROP-23")
@settings(deadline=None, database=None, max_examples=60)
@given(DRAFTS, st.integers(2, 30))
def test_a_dry_run_tells_all_that_a_run_does_and_does_nothing(drafts: list[Draft], room: int) -> None:
    log = made(drafts)
    for number in range(4):
        now = START + number * RETENTION_MS
        log.place.clock.advance(1000)  # so that whatever is touched has another time
        before, operations, point = log.tree(), log.place.fs.operations, log.log.cleaner_point
        dry = log.clean(at=now, room=room, dry_run=True)
        assert (log.tree(), log.place.fs.operations, log.log.cleaner_point) == (before, operations, point)
        stats = log.clean(at=now, room=room)
        assert numbers(dry) == numbers(stats)
        sizes = [one.size for one in log.log.segments if one.base_offset < stats.end_offset]
        assert (sum(sizes), len(sizes)) == (stats.bytes_after, stats.segments_after)
        assert log.log.cleaner_point == stats.end_offset


def numbers(stats: CleaningStats) -> dict[str, Any]:
    """All but times, and what only says whether it was a dry run."""
    found = dataclasses.asdict(stats)
    return {name: value for name, value in found.items() if "seconds" not in name and name != "is_dry_run"}


# ---------------------------------------------------------------- two ways, and bad luck

PLAIN = importlib.import_module("logstore.records._cleaning_py")
compiled = pytest.mark.skipif(KERNEL_NAME != "compiled", reason="no compiled kernel to be compared, or attacked")


@contextmanager
def plain_kernel() -> Iterator[None]:
    """Let the cleaner use the plain-Python twin of its part of the kernel."""
    names = [name for name in kernel.__all__ if vars(kernel)[name] is getattr(kernel._cleaning, name, None)]
    with pytest.MonkeyPatch.context() as patch:
        for module in (batch_filter, offset_map, rewrite, verify):
            for name in names:
                if hasattr(module, name) and hasattr(PLAIN, name):
                    patch.setattr(module, name, getattr(PLAIN, name))
        yield


@compiled
@pytest.mark.kafka("PROP-24")
@settings(deadline=None, database=None, max_examples=60)
@given(DRAFTS, st.integers(2, 30), st.sampled_from([61, 300, 4096]))
def test_the_fast_way_and_record_by_record_lead_to_the_same_bytes(
    drafts: list[Draft], room: int, window_bytes: int
) -> None:
    fast, slow = made(drafts), made(drafts)
    for number in range(4):
        now = START + number * RETENTION_MS
        options = {"now_ms": now, "verifies": number == 3}
        done = Cleaner(room * SLOT, seed=SEED, window_bytes=window_bytes, has_helper=True).clean(fast.log, **options)
        with plain_kernel():
            stats = slow.clean(at=now, room=room, verifies=number == 3)
        assert numbers(done) == numbers(stats)
        assert fast.tree() == slow.tree()


def colliding(count: int, slots: int) -> list[bytes]:
    """Keys, short and long, whose search in an empty table of this size and seed begins at one and the same slot."""
    found: list[bytes] = []
    for number in range(1_000_000):
        key = b"%d" % number if number % 2 else b"a long key that is hashed, number %d" % number
        memory = bytearray(slots * SLOT)
        KeyTable(memory, SEED).put(key, 1)
        if any(memory[-SLOT:]):  # the last one: from there it goes on at the begin
            found.append(key)
            if len(found) == count:
                break
    return found


@compiled
@pytest.mark.kafka("PROP-25")
def test_keys_that_all_collide_are_still_told_apart() -> None:
    keys, slots = colliding(40, 64), 64
    assert len(keys) == 40 and len({len(key) > 15 for key in keys}) == 2

    @settings(deadline=None, database=None, max_examples=60)
    @given(st.lists(st.lists(st.integers(-40, 39), min_size=1, max_size=12), min_size=8, max_size=16))
    def check(written: list[list[int]]) -> None:
        log, newest = Drafted(), dict[bytes | None, Record]()
        for number, picks in enumerate(written):
            picked = tuple((keys[pick], None if pick < 0 else b"v", START, ()) for pick in picks)
            codec = (Codec.NONE, Codec.NONE, Codec.LZ4)[number % 3]
            log.write([Draft("data", picked, codec=codec, spare=slots // 8)])
        log.settle()
        for record in visible(log):
            newest[record.key] = record
        stats = log.clean(room=slots)
        assert (stats.map_capacity, stats.map_keys, stats.is_complete) == (slots * 3 // 4, len(newest), True)
        assert {one.key: one for one in visible(log)} == newest
        assert len(visible(log)) == len(newest)

    check()
