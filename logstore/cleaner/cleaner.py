"""The log cleaner: keeps the last record of each key, and removes what aborted transactions and old tombstones leave
(CLEANER §3 to §5).

Invariant: a round reads and checks everything that it may rewrite before it changes anything; then it replaces one
group of segments after the other, each for itself crash-safe, and notes how far the log is clean. Readers and appends
go on meanwhile. A cleaner belongs to one thread at a time; several may clean different logs.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from logstore.cleaner.batch_filter import RewriteRules
from logstore.cleaner.grouping import group_segments
from logstore.cleaner.offset_map import KEY_SLOT_BYTES, MapBuild, OffsetMap, build_map, memory_for
from logstore.cleaner.output import CountedSegment, Output, Target
from logstore.cleaner.rewrite import GroupRewriter
from logstore.cleaner.selection import first_dirty_offset, first_uncleanable_offset
from logstore.cleaner.source import WINDOW_BYTES, Pace
from logstore.cleaner.stats import CleaningStats, Tally
from logstore.cleaner.swaps import Swap, Swaps
from logstore.cleaner.throttle import Throttle
from logstore.cleaner.transactions import TransactionTracker
from logstore.cleaner.verify import LogBytes, NewestRecords, Verifier
from logstore.config import INT64_MAX, LogConfig
from logstore.errors import CleaningAbortedError, LogstoreError, UnkeyedRecordsError
from logstore.log import Log
from logstore.log.cleaned_segment import CleanedSegment
from logstore.log.rewriting import RewritingFacts, SealedSegment
from logstore.log.validate import decompressed_size_max
from logstore.records.header import HEADER_V2_SIZE, FilterRule

MAP_MEMORY = 128 << 20
_CHECK_MEMORY_MIN = 1 << 20  # keys that do not fit are gone through in parts, but there has to be room for some
_NAP_SECONDS = 0.1  # a cleaner that is held back looks so often whether it is called off


class _Span(NamedTuple):
    """Where a round begins, and the base of the first segment that it leaves alone."""

    first_dirty_offset: int
    uncleanable_offset: int


class Cleaner:
    """Cleans logs, one at a time.

    Args:
        map_memory: bytes for the offset map at most; 32 a key. What does not fit is left for the next round.
        bytes_per_second: limit of reading and writing together.
        seed: 16 bytes that key the hashes of long keys, by default random.
        drops_unkeyed: whether records without a key may go, as in Kafka; otherwise a log that has some is left alone.
        is_cancelled: asked often; a round ends with CleaningAbortedError once it says so.
        on_progress: is told how many bytes were read or written.
        throttle: the limit itself, for cleaners that share one.
        window_bytes: how much is read at a time; a batch that is larger is read whole. Raises ValueError below 61.
        has_helper: whether groups of segments are made durable and swapped by a thread of their own.
    """

    def __init__(
        self,
        map_memory: int = MAP_MEMORY,
        *,
        bytes_per_second: float = math.inf,
        seed: bytes | None = None,
        drops_unkeyed: bool = False,
        is_cancelled: Callable[[], bool] | None = None,
        on_progress: Callable[[int], object] | None = None,
        throttle: Throttle | None = None,
        window_bytes: int = WINDOW_BYTES,
        has_helper: bool = False,
    ) -> None:
        if window_bytes < HEADER_V2_SIZE:
            raise ValueError(f"{window_bytes} bytes do not hold the header of a batch")
        self._map_memory = map_memory
        self._bytes_per_second = bytes_per_second
        self._seed = seed
        self._drops_unkeyed = drops_unkeyed
        self._is_cancelled = is_cancelled or (lambda: False)
        self._on_progress = on_progress
        self._throttle = throttle
        self._window_bytes = window_bytes
        self._has_helper = has_helper

    def __repr__(self) -> str:
        return f"<Cleaner with {self._map_memory} bytes for the map>"

    def clean(
        self,
        log: Log,
        *,
        now_ms: int | None = None,
        first_dirty_offset: int | None = None,
        uncleanable_offset: int | None = None,
        dry_run: bool = False,
        verifies: bool = False,
        checks_all: bool = False,
    ) -> CleaningStats:
        """Clean a log in one round; durable on return, and the log's cleaner point moved.

        The active segment stays as it is, and what is not decided, not replicated, or younger than
        min.compaction.lag.ms. Where nothing is dirty, the clean part is gone through for what has expired.

        Args:
            log: an open log; whether its policy says `compact` is for the caller to ask.
            now_ms: the time by which tombstones and markers expire (ms since the epoch), by default the clock's.
            first_dirty_offset: where keys are looked for from, by default the log's cleaner point.
            uncleanable_offset: where to end at the latest.
            dry_run: find out everything, and change nothing.
            verifies: write everything first, compare the newest value of every key before with that after (`verify`),
                and only then change the log; takes as much more disk as the log will have.
            checks_all: also check what is left for the rounds that follow where the map becomes full.

        Raises VerificationError (that comparison failed: nothing has changed), DamagedLogError (a batch cannot be
        read: likewise), UnkeyedRecordsError and MapTooSmallError (likewise), CleaningAbortedError, OSError, as with a
        full disk. What ends a round in its middle leaves no file behind; groups of segments that were replaced stay so,
        which readers cannot tell from before.
        """
        facts = log.rewriter.facts()
        now = log.clock.now_ms() if now_ms is None else now_ms
        span = _span(facts, log.config, now, first_dirty_offset, uncleanable_offset)
        done = _Round(self, log, facts, span, now, is_dry=dry_run, verifies=verifies, checks_all=checks_all)
        is_empty, facts = not done.left, facts._replace(sealed=())
        try:
            stats = done.run()
        except CleaningAbortedError:
            raise
        except LogstoreError as error:
            if log.rewriter.is_intact(done.left):
                raise
            raise CleaningAbortedError("the log was cut or closed while it was cleaned", path=log.directory) from error
        if not dry_run and not is_empty and _moves(facts, stats.end_offset, log.log_end_offset):
            log.set_cleaner_point(stats.end_offset)
        return stats

    def clean_fully(
        self,
        log: Log,
        *,
        now_ms: int | None = None,
        first_dirty_offset: int | None = None,
        uncleanable_offset: int | None = None,
        verifies: bool = False,
    ) -> list[CleaningStats]:
        """Clean a log in as many rounds as the map needs, and one at least; what each has done.

        All of it is checked before the first round changes anything. Raises as `clean`.
        """
        rounds: list[CleaningStats] = []
        while not rounds or not rounds[-1].is_complete:
            rounds.append(
                self.clean(
                    log, now_ms=now_ms, first_dirty_offset=first_dirty_offset, uncleanable_offset=uncleanable_offset,
                    verifies=verifies, checks_all=not rounds,
                )
            )
            first_dirty_offset, uncleanable_offset = rounds[-1].end_offset, rounds[-1].uncleanable_offset
        return rounds

    # ---- for a round

    def _new_map(self, offsets: int) -> OffsetMap:
        return OffsetMap(memory_for(offsets, self._map_memory), self._seed)

    def _pace(self, log: Log) -> Pace:
        throttle = self._throttle
        if throttle is None and self._bytes_per_second != math.inf:
            throttle = Throttle(self._bytes_per_second, log.clock)
        return Pace(functools.partial(self._take, throttle), self._is_cancelled, self._window_bytes)

    def _take(self, throttle: Throttle | None, size: int) -> None:
        if self._on_progress is not None:
            self._on_progress(size)
        left = 0.0 if throttle is None else throttle.delay(size)
        while left > 0 and not self._is_cancelled():
            time.sleep(min(left, _NAP_SECONDS))
            left -= _NAP_SECONDS


class _Round:
    """One round over one log.

    Attributes:
        left: the segments that it goes through, but for those that are done. Who holds a segment keeps its file on disk
            and in memory.
    """

    def __init__(
        self, cleaner: Cleaner, log: Log, facts: RewritingFacts, span: _Span, now_ms: int, *, is_dry: bool,
        verifies: bool, checks_all: bool,
    ) -> None:  # fmt: skip
        self._cleaner = cleaner
        self._log = log
        self.left = _sources(facts, span)
        self._facts = facts._replace(sealed=())
        self._span = span
        self._now_ms = now_ms
        self._is_dry = is_dry
        self._verifies = verifies and not is_dry
        self._checks_all = checks_all
        self._verified: NewestRecords | None = None
        self._pace = cleaner._pace(log)
        self._map = cleaner._new_map(max(span.uncleanable_offset - span.first_dirty_offset, 0))
        self._tally = Tally()
        self._bytes_before = self._bytes_after = 0
        self._segments_after = self._untouched = self._groups = 0

    def run(self) -> CleaningStats:
        clock = self._log.clock
        began = clock.monotonic_ns()
        build = self._build()
        mapped = clock.monotonic_ns()
        rules = self._rules(build.end_offset)
        self.left = [one for one in self.left if one.facts.base_offset < build.end_offset]
        segments = len(self.left)
        self._rewrite(rules)
        return self._stats(build, segments, mapped - began, clock.monotonic_ns() - mapped)

    def _build(self) -> MapBuild:
        first, end = self._span
        build = build_map(
            self._map, self.left, first, max(first, end), self._facts.aborted, self._pace,
            decompressed_size_max(self._log.config), self._checks_all,
        )  # fmt: skip
        if build.unkeyed and not self._cleaner._drops_unkeyed:
            raise UnkeyedRecordsError(
                f"{build.unkeyed} records have no key, and would be lost", path=self._log.directory
            )
        return build

    def _rewrite(self, rules: RewriteRules) -> None:
        config = self._log.config
        create: Callable[[int, int], Target] = CountedSegment if self._is_dry else self._log.rewriter.create
        rewriter = GroupRewriter(
            rules, TransactionTracker(self._facts.aborted), self._pace, self._tally, create,
            config.segment_bytes,
        )  # fmt: skip
        check = functools.partial(self._verify, tuple(self.left)) if self._verifies else None
        groups = [len(views) for views in group_segments([one.facts for one in self.left], config)]
        with Swaps(self._log, self._pace, check, has_helper=self._cleaner._has_helper) as swaps:
            for count in groups:
                group = self.left[:count]
                self._settle(group, rewriter.rewrite(group), swaps)
                del self.left[:count], group
                self._groups += 1
            swaps.complete()

    def _verify(self, sources: Sequence[SealedSegment], swaps: Sequence[Swap]) -> None:
        """Raise VerificationError unless every key has the newest value that it had."""
        replaced = {one.facts.base_offset: swap for swap in swaps for one in swap.old}
        after: list[LogBytes] = []
        for one in sources:
            swap = replaced.get(one.facts.base_offset)
            if swap is None:
                after.append(one.segment)
            elif one is swap.old[0]:
                after += [new.written() for new in swap.new]
        found = self._map
        if found.table.slots * KEY_SLOT_BYTES < _CHECK_MEMORY_MIN:
            found = OffsetMap(_CHECK_MEMORY_MIN, self._cleaner._seed)
        verifier = Verifier(
            found.table, self._facts.aborted, larger=found.larger,
            batch_bytes_max=decompressed_size_max(self._log.config), on_read=self._pace.take_and_check,
        )  # fmt: skip
        self._verified = verifier.compare([one.segment for one in sources], after)

    def _rules(self, end_offset: int) -> RewriteRules:
        config, producers = self._log.config, self._facts.producers
        protected = {entry.last_offset for entry in producers if entry.has_batch}
        # The log end offset has to follow from what is left, should the segments behind have nothing (Q4).
        last = next((one for one in reversed(self.left) if one.facts.size), None)
        if last is not None:
            protected.add(last.segment.next_offset() - 1)
        rule = FilterRule(
            latest=end_offset - 1,
            now_ms=self._now_ms,
            new_horizon_ms=min(self._now_ms + config.delete_retention_ms, INT64_MAX),
            protected=frozenset(protected),
            drops_unkeyed=self._cleaner._drops_unkeyed,
        )
        markers = {entry.producer_id: entry.producer_epoch for entry in producers if not entry.has_batch}
        return RewriteRules(self._map.table, rule, markers, decompressed_size_max(config))

    def _settle(self, group: Sequence[SealedSegment], output: Output | None, swaps: Swaps) -> None:
        """Let what a group became take its place."""
        size = sum(one.facts.size for one in group)
        is_first = not self._groups
        self._bytes_before += size
        if output is None and (size or is_first):
            self._bytes_after += size
            self._segments_after += len(group)
            self._untouched += len(group)
            return
        made = [] if output is None else output.segments
        self._bytes_after += sum(one.size for one in made)
        if not is_first and not any(one.size for one in made):
            # Nobody needs an empty segment but at the begin, where it says from which offset on the log goes.
            for one in made:
                one.discard()
            made = []
        self._segments_after += len(made)
        if not self._is_dry:
            swaps.add(Swap(group, [one for one in made if isinstance(one, CleanedSegment)]))

    def _stats(self, build: MapBuild, segments: int, map_ns: int, rewrite_ns: int) -> CleaningStats:
        counts = {name: getattr(self._tally, name) for name in Tally.__slots__}
        return CleaningStats(
            log_start_offset=self._facts.log_start_offset,
            first_dirty_offset=self._span.first_dirty_offset,
            uncleanable_offset=self._span.uncleanable_offset,
            end_offset=build.end_offset,
            map_keys=len(self._map),
            map_capacity=self._map.table.capacity,
            map_records=build.records,
            map_bytes=build.bytes_read,
            bytes_before=self._bytes_before,
            bytes_after=self._bytes_after,
            segments_before=segments,
            segments_after=self._segments_after,
            segments_untouched=self._untouched,
            groups=self._groups,
            map_seconds=map_ns / 1e9,
            rewrite_seconds=rewrite_ns / 1e9,
            is_dry_run=self._is_dry,
            verified=self._verified,
            **counts,
        )


def _span(
    facts: RewritingFacts, config: LogConfig, now_ms: int, first_dirty: int | None, uncleanable: int | None
) -> _Span:
    """Where a round begins and ends; what the caller wishes narrows it."""
    start = facts.log_start_offset
    if first_dirty is None:
        first_dirty = first_dirty_offset(facts.cleaner_point, start, facts.log_end_offset).offset
    first = max(first_dirty, start)
    views = [*(one.facts for one in facts.sealed), facts.active]
    end = first_uncleanable_offset(
        views, first, last_stable_offset=facts.last_stable_offset, high_watermark=facts.high_watermark,
        min_lag_ms=config.min_compaction_lag_ms, now_ms=now_ms,
    ).offset  # fmt: skip
    if uncleanable is not None:
        # Of the segment that holds the bound, nothing is cleaned.
        end = min(end, max((one.base_offset for one in views if one.base_offset <= uncleanable), default=0))
    return _Span(first, end)


def _sources(facts: RewritingFacts, span: _Span) -> list[SealedSegment]:
    """The segments that a round goes through."""
    is_any = span.first_dirty_offset <= span.uncleanable_offset
    return [one for one in facts.sealed if one.facts.base_offset < span.uncleanable_offset] if is_any else []


def _moves(facts: RewritingFacts, end_offset: int, log_end_offset: int) -> bool:
    """Whether a cleaner point has to follow: forward, or back from where it cannot be."""
    point = facts.cleaner_point
    return point is None or end_offset > point or point > log_end_offset
