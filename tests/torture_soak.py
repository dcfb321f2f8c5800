"""The part of `torture.py` that does everything at once: threads append to two logs, clean, delete and read.

Every key has one writer, and its records a counter, so that each reader can tell by itself: within a pass no key goes
back, nothing of an aborted transaction is seen, and what was acknowledged before the pass is there, or something newer.
A tombstone may be gone once its time has passed; then nothing older may be there either.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from traceback import format_exception
from typing import Any, NamedTuple

from logstore.cleaner import Cleaner
from logstore.cleaner.offset_map import KEY_SLOT_BYTES
from logstore.config import LogConfig
from logstore.errors import CleaningAbortedError, OffsetOutOfRangeError
from logstore.inspect import CheckOptions, Severity, check, resolve
from logstore.log import FetchIsolation, Log
from logstore.records import BatchOptions, Codec, Record, encode_batch
from logstore.retention import retain

KEYS = 150
"""Of each appender in each log."""
SMALL_MAP = 40 * KEY_SLOT_BYTES
READ_ON_MAX = 200
COMPACTED = LogConfig(
    cleanup_policy=frozenset({"compact"}), segment_bytes=24_000, index_interval_bytes=600, delete_retention_ms=1_500,
    file_delete_delay_ms=50,
)  # fmt: skip
DELETED = dataclasses.replace(
    COMPACTED, cleanup_policy=frozenset({"compact", "delete"}), retention_bytes=40_000, file_delete_delay_ms=0
)


@dataclasses.dataclass(slots=True)
class SoakTally:
    """What a soak came to.

    Attributes:
        appended: records, those of aborted transactions among them. acknowledged: those that were to stay.
        passes, gets, read: of readers; `read` counts records.
        overtaken: passes that retention has cut off.
        slow: passes that took so long that tombstones may have gone meanwhile.
        rounds, verified, called_off, superseded: of the cleaner; `superseded` counts records.
        deleted: segments that retention has deleted.
    """

    appended: int = 0
    acknowledged: int = 0
    passes: int = 0
    gets: int = 0
    read: int = 0
    overtaken: int = 0
    slow: int = 0
    rounds: int = 0
    verified: int = 0
    called_off: int = 0
    superseded: int = 0
    deleted: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)


class Newest(NamedTuple):
    """The last record of a key that was acknowledged."""

    number: int
    offset: int
    is_tombstone: bool


class Place:
    """One log, and what its writers have said of it; their words count from when they say them."""

    def __init__(self, directory: Path, config: LogConfig) -> None:
        self.config = config
        self.log = Log.open(directory, config)
        # By key: the number of the last record that is to stay; perhaps it is not there yet.
        self.begun: dict[bytes, int] = {}
        self.cleaning_since: float | None = None
        self._longest_round = 0.0
        self._newest: dict[bytes, Newest] = {}
        self._guard = threading.Lock()

    def __repr__(self) -> str:
        return f"<Place of {self.log!r}>"

    def acknowledge(self, said: dict[bytes, Newest]) -> None:
        """Note what has to be there from now on."""
        with self._guard:
            self._newest |= said

    def newest(self) -> dict[bytes, Newest]:
        """What has to be there."""
        with self._guard:
            return self._newest.copy()

    @property
    def round_seconds(self) -> float:
        """How long the longest round of cleaning took, up to now."""
        since = self.cleaning_since
        return max(self._longest_round, 0.0 if since is None else time.monotonic() - since)

    def end_round(self) -> None:
        """Note how long a round took."""
        self._longest_round, self.cleaning_since = self.round_seconds, None


class Soak:
    """Threads on two logs; `run` once."""

    def __init__(self, directory: Path, seconds: float, seed: int) -> None:
        self.tally = SoakTally()
        self.places = [Place(directory / "kept-0", COMPACTED), Place(directory / "kept-1", DELETED)]
        self._seconds = seconds
        self._seed = seed
        self._is_over = threading.Event()
        self._guard = threading.Lock()  # guards the tally

    def run(self) -> SoakTally:
        """Let them run, and look at what is there in the end."""
        readers = [Reader(self, number) for number in (4, 5)]
        work = [Appender(self, 0), Appender(self, 1), Cleaning(self, 2), Retention(self, 3), *readers]
        with switching_often(), ThreadPoolExecutor(len(work)) as pool:
            running = [pool.submit(self._go_on, one.turn) for one in work]
            for one in running:
                one.add_done_callback(lambda _: self._is_over.set())
            self._is_over.wait(self._seconds)
            self._is_over.set()
        with ThreadPoolExecutor(1) as pool:
            running += [pool.submit(self._finish, place) for place in self.places]
        self.tally.problems += ["".join(format_exception(error)) for one in running if (error := one.exception())]
        return self.tally

    def count(self, **numbers: int) -> None:
        """Add to the tally."""
        with self._guard:
            for name, number in numbers.items():
                setattr(self.tally, name, getattr(self.tally, name) + number)

    def random(self, number: int) -> random.Random:
        """The chance of a thread."""
        return random.Random(self._seed * 100 + number)

    def _go_on(self, turn: Callable[[], object]) -> None:
        while not self._is_over.is_set():
            turn()

    def _finish(self, place: Place) -> None:
        """Close the log and open it again; cleaned once more it has the newest records alone."""
        log = place.log
        log.close()
        place.log = log = Log.open(log.directory, place.config)
        with log:
            assert log.recovered is None or log.recovered.was_clean, f"{log} was closed: {log.recovered}"
            Reader(self, 6).full_pass(place)
            log.roll()
            Cleaner().clean(log, first_dirty_offset=0, verifies=True)
            there = [record.key for record in log.records()]
            assert len(there) == len(set(there)), f"{log} has keys twice"
            Reader(self, 7).full_pass(place)
        alarms = [one for one in check(resolve(log.directory), CheckOptions()) if one.severity is Severity.DAMAGE]
        assert not alarms, str(alarms[0])


class Appender:
    """Appends to keys of its own; sometimes in transactions, which it sometimes aborts."""

    def __init__(self, soak: Soak, number: int) -> None:
        self._soak = soak
        self._chance = soak.random(number)
        self._name = number
        self._numbers = itertools.count(1)
        self._sequences = [0, 0]

    def turn(self) -> None:
        chance, index = self._chance, int(self._chance.random() < 0.3)
        place = self._soak.places[index]
        if chance.random() < 0.25:
            self._transaction(place, index)
        else:
            self._plain(place)
        time.sleep(chance.random() * 0.002)

    def _plain(self, place: Place) -> None:
        chance = self._chance
        rows, said = self._rows(place, chance.randrange(1, 12))
        durability = chance.choices(("os", "interval", "always"), (20, 10, 1))[0]
        if chance.random() < 0.05:
            later = place.log.append_later(rows)
            later.result()
            first = later.first_offset
        else:
            codec = chance.choice(list(Codec))
            first = place.log.append(rows, codec=codec, durability=durability).first_offset
        self._acknowledge(place, said, first)

    def _transaction(self, place: Place, index: int) -> None:
        """Some batches, and a marker."""
        chance, gathered = self._chance, dict[bytes, Newest]()
        is_committed, producer_id = chance.random() < 0.6, 10 + self._name
        for _ in range(chance.randrange(1, 4)):
            rows, said = self._rows(place, chance.randrange(1, 6), is_doomed=not is_committed)
            options = BatchOptions(
                producer_id=producer_id, producer_epoch=0, base_sequence=self._sequences[index], is_transactional=True,
                codec=chance.choice(list(Codec)),
            )  # fmt: skip
            data = encode_batch(rows, options=options)
            first = place.log.append_batch(data).first_offset
            self._sequences[index] += len(rows)
            gathered |= {key: one._replace(offset=one.offset + first) for key, one in said.items()}
        place.log.end_transaction(producer_id, 0, commit=is_committed)
        if is_committed:
            self._acknowledge(place, gathered, 0)

    def _rows(self, place: Place, count: int, *, is_doomed: bool = False) -> tuple[list[Any], dict[bytes, Newest]]:
        """Records, and what they say of their keys with offsets in the batch."""
        chance, rows, said, now = self._chance, list[Any](), dict[bytes, Newest](), int(time.time() * 1000)
        for at in range(count):
            key = b"%d-%d" % (self._name, min(int(chance.expovariate(6) * KEYS), KEYS - 1))
            number, is_tombstone = next(self._numbers), chance.random() < 0.1
            value = None if is_tombstone else b"." * chance.randrange(200)
            if not is_doomed:
                place.begun[key] = number
            rows.append((key, value, now, [("number", b"%d" % number), ("doomed", b"1" if is_doomed else b"")]))
            said[key] = Newest(number, at, is_tombstone)
        self._soak.count(appended=count)
        return rows, said

    def _acknowledge(self, place: Place, said: dict[bytes, Newest], first: int) -> None:
        place.acknowledge({key: one._replace(offset=one.offset + first) for key, one in said.items()})
        self._soak.count(acknowledged=len(said))


class Cleaning:
    """Cleans one log after the other, in all ways there are."""

    def __init__(self, soak: Soak, number: int) -> None:
        self._soak = soak
        self._chance = soak.random(number)

    def turn(self) -> None:
        chance, place = self._chance, self._soak.places[self._chance.random() < 0.4]
        polls = itertools.count() if chance.random() < 0.1 else None
        limit, verifies = chance.randrange(1, 60), chance.random() < 0.3
        cleaner = Cleaner(
            SMALL_MAP if chance.random() < 0.3 else 1 << 20, has_helper=chance.random() < 0.5,
            is_cancelled=None if polls is None else lambda: next(polls) >= limit,
            window_bytes=chance.choice((200, 4096, 1 << 20)),
        )  # fmt: skip
        place.cleaning_since = time.monotonic()
        try:
            first_dirty = 0 if chance.random() < 0.2 else None
            done = cleaner.clean(place.log, verifies=verifies, first_dirty_offset=first_dirty)
        except CleaningAbortedError:
            # Of the other log retention may take all that was to be cleaned.
            assert polls is not None or "delete" in place.config.cleanup_policy, "a round ended though nobody asked"
            self._soak.count(called_off=1)
        else:
            self._soak.count(rounds=1, verified=int(verifies), superseded=done.superseded)
        place.end_round()
        time.sleep(chance.random() * 0.02)


class Retention:
    """Deletes old segments of one log, and does upkeep of both."""

    def __init__(self, soak: Soak, number: int) -> None:
        self._soak = soak
        self._chance = soak.random(number)

    def turn(self) -> None:
        kept, deleted = self._soak.places
        kept.log.maintain()
        with deleted.log.held():
            plan = retain(deleted.log)
        self._soak.count(deleted=len(plan.going))
        time.sleep(self._chance.random() * 0.03)


class Reader:
    """Reads from the begin, from anywhere, and single records."""

    def __init__(self, soak: Soak, number: int) -> None:
        self._soak = soak
        self._chance = soak.random(number)

    def turn(self) -> None:
        place = self._soak.places[self._chance.random() < 0.3]
        try:
            self._chance.choice((self.full_pass, self._part, self._singles))(place)
        except OffsetOutOfRangeError:
            assert "delete" in place.config.cleanup_policy, "nothing is deleted here"
            self._soak.count(overtaken=1)

    def full_pass(self, place: Place) -> None:
        """From the log start on: all that was acknowledged before is there, or something newer."""
        log, began = place.log, time.monotonic()
        isolation = self._chance.choice((FetchIsolation.LOG_END, FetchIsolation.TXN_COMMITTED))
        expected = place.newest()
        end = _end(log, isolation)
        expected = {key: one for key, one in expected.items() if one.offset < end}
        seen = self._read(place, log.log_start_offset, end, isolation, {})
        for _ in range(READ_ON_MAX):
            missing = {key: one for key, one in expected.items() if not _is_answered(place, seen, key, one)}
            # Cleaning takes a record only for a newer one, which is further on.
            waiting = [key for key, one in missing.items() if place.begun[key] > one.number]
            if not waiting:
                break
            begin, end = end, _end(log, isolation)
            seen = self._read(place, begin, end, isolation, seen)
        if time.monotonic() - began + place.round_seconds > place.config.delete_retention_ms / 1000:
            self._soak.count(slow=1)
            missing = {key: one for key, one in missing.items() if not one.is_tombstone}
        assert not missing, f"{log}, {isolation.name} up to {end}: {list(missing.items())[:3]} missing"
        self._soak.count(passes=1)

    def _part(self, place: Place) -> None:
        log = place.log
        isolation = self._chance.choice((FetchIsolation.LOG_END, FetchIsolation.TXN_COMMITTED))
        start, end = log.log_start_offset, _end(log, isolation)
        self._read(place, self._chance.randint(min(start, end), end), end, isolation, {})
        self._soak.count(passes=1)

    def _singles(self, place: Place) -> None:
        """The newest records of some keys, and whatever lies at some offsets."""
        log, chance = place.log, self._chance
        newest = list(place.newest().items())
        for key, one in chance.sample(newest, min(20, len(newest))):
            if one.offset < log.log_start_offset:
                continue
            record = log.get(one.offset)
            if record is None:
                is_newer = place.begun[key] > one.number or one.is_tombstone or one.offset < log.log_start_offset
                assert is_newer, f"{log}: offset {one.offset} has gone, the newest of {key!r}"
            else:
                assert (record.offset, record.key, _number(record)) == (one.offset, key, one.number), f"{log}: {record}"
        for _ in range(20):
            offset = chance.randint(log.log_start_offset, log.log_end_offset - 1) if log.log_end_offset else 0
            found = log.get(offset) if log.log_end_offset else None
            assert found is None or found.offset == offset, f"{log}: {found} at {offset}"
        self._soak.count(gets=40)

    def _read(
        self, place: Place, start: int, end: int, isolation: FetchIsolation, seen: dict[bytes, int]
    ) -> dict[bytes, int]:
        """Read up to an offset; the last number of each key that was committed, as far as that can be told."""
        count, last, highest = 0, start - 1, dict(seen)
        for record in itertools.takewhile(lambda one: one.offset < end, self._records(place.log, start, isolation)):
            key, number, is_doomed = record.key or b"", _number(record), dict(record.headers)["doomed"] == b"1"
            assert record.offset > last, f"offset {record.offset} behind {last}"
            assert number > highest.get(key, 0), f"{key!r} goes from {highest.get(key)} back to {number} at {record}"
            assert not (is_doomed and isolation is FetchIsolation.TXN_COMMITTED), f"{record} was aborted"
            count, last, highest[key] = count + 1, record.offset, number
            if not is_doomed:
                seen[key] = number
        self._soak.count(read=count)
        return seen

    def _records(self, log: Log, start: int, isolation: FetchIsolation) -> Iterator[Record]:
        return log.records(start, bytes_max=self._chance.choice((1, 3000, 1 << 20)), isolation=isolation)


def _number(record: Record) -> int:
    return int(dict(record.headers)["number"] or b"0")


def _end(log: Log, isolation: FetchIsolation) -> int:
    return log.last_stable_offset if isolation is FetchIsolation.TXN_COMMITTED else log.log_end_offset


def _is_answered(place: Place, seen: dict[bytes, int], key: bytes, one: Newest) -> bool:
    """Whether a record was seen, or a newer one; or need not be there: retention has deleted it, or it is a tombstone
    with nothing before it."""
    is_gone = one.offset < place.log.log_start_offset or (one.is_tombstone and key not in seen)
    return seen.get(key, 0) >= one.number or is_gone


@contextmanager
def switching_often() -> Iterator[None]:
    """Let threads take turns much more often than they would."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0002)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def soak(directory: Path, seconds: float, seed: int) -> SoakTally:
    """Append, clean, delete and read for some seconds; what came of it."""
    return Soak(directory, seconds, seed).run()
