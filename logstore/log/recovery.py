"""Opening what is on disk: leftovers, segments, recovery after a crash, epochs, producer state (LOG_SEMANTICS §11).

Invariants: at or above the recovery point a bad or missing piece is what a power cut leaves, and is cut there; below
it, it is damage, and unless it may be cut nothing is changed. What is cut is kept aside, in dot-files that Kafka
ignores. A crash while this runs leaves a directory that is recovered again, from the same recovery point, to the same
end. Runs before anybody else has the log.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal, NamedTuple

from logstore import names
from logstore.config import LogConfig
from logstore.errors import DamagedLogError, LogstoreError
from logstore.fs import File, FileSystem, replace_atomically
from logstore.log.aside import is_zeros, keep_end, set_aside
from logstore.log.diagnosis import REMEDY, Diagnosis, find_misplaced, is_spare, scan_beginning
from logstore.log.epoch_file import EpochFile
from logstore.log.leftovers import INDEX_KINDS
from logstore.log.maps import MapCache
from logstore.log.partition_state import PartitionFacts
from logstore.log.producer_state import ProducerStates
from logstore.log.replay import Replay, rebuild_epochs, rebuild_producers, take_snapshot
from logstore.log.segment import Segment
from logstore.log.segment_scan import SegmentScan, scan_segment
from logstore.log.segments import Segments
from logstore.log.split import split_segment

DamagePolicy = Literal["refuse", "cut"]


class RecoveryAction(NamedTuple):
    """One thing that opening a log has done: a word for it, the file, and what in detail."""

    kind: str
    path: Path
    detail: str


@dataclasses.dataclass(slots=True)
class Recovered:
    """What opening a log has found and done.

    Attributes:
        was_clean: whether the log was closed cleanly, so that nothing was checked.
        actions: what was done, in order; empty when there was nothing to do.
        cut: bytes taken out of the log, all of them kept aside; zeros behind the last batch do not count.
        kept_aside: where they are kept.
    """

    was_clean: bool = True
    actions: list[RecoveryAction] = dataclasses.field(default_factory=list)
    cut: int = 0
    kept_aside: list[Path] = dataclasses.field(default_factory=list)

    def note(self, kind: str, path: Path, detail: str) -> None:
        """Add an action."""
        self.actions.append(RecoveryAction(kind, path, detail))


class Loaded(NamedTuple):
    """What the log goes on with."""

    log_start_offset: int
    log_end_offset: int
    recovery_point: int
    report: Recovered


class LogLoader:
    """Brings a partition directory into memory, and into order: `inspect` it, then `load` it.

    Args:
        fs, directory, config, maps: as of the log.
        now_ms: the time, for what is stamped.
        damage: what is done about damage below the recovery point: `refuse` raises, `cut` is Kafka's own rule.

    Attributes:
        segments, epochs, producers: of the log, once loaded.
        report: what was found and done.
    """

    producers: ProducerStates

    def __init__(
        self, fs: FileSystem, directory: Path, config: LogConfig, maps: MapCache, *, now_ms: int, damage: DamagePolicy
    ) -> None:
        self._fs = fs
        self._directory = directory
        self._config = config
        self._maps = maps
        self._now_ms = now_ms
        self._damage = damage
        self.segments = Segments(fs, directory)
        self.epochs = EpochFile(fs, directory)
        self.report = Recovered()
        self._replayed: int | None = None  # the segment at whose end the producers' state is
        self._log_start_offset = 0

    def __repr__(self) -> str:
        return f"<LogLoader of {self._directory} segments {len(self.segments)}>"

    def inspect(self, facts: PartitionFacts) -> Diagnosis:
        """Find out what has to be done; changes nothing. Raises DamagedLogError for what is refused, and OSError."""
        return Diagnosis(
            self._fs, self._directory, self._config, facts, self.epochs, refuses_damage=self._damage == "refuse"
        )

    def load(self, facts: PartitionFacts, diagnosis: Diagnosis) -> Loaded:
        """Do what has to be done, and open all segments.

        Raises OSError, and DamagedLogError for damage that shows only now; nothing is lost then, and the log can be
        opened again.
        """
        diagnosis.listing.settle(self.report.note)
        if diagnosis.epoch_problem is not None:
            target = set_aside(self._fs, self.epochs.path)
            self._fs.sync_directory(self._directory)
            self.report.note("set aside", self.epochs.path, f"to {target.name}: {diagnosis.epoch_problem.reason}")
        self.segments.load([self._existing(base) for base in diagnosis.listing.bases])
        self.report.was_clean = diagnosis.was_clean
        self._log_start_offset = facts.log_start_offset
        while True:
            try:
                return self._load(facts, diagnosis)
            except DamagedLogError as error:
                # A segment that was trusted cannot be read through, and what follows from it is needed.
                damaged = {str(one.path): one.base_offset for one in self.segments}.get(error.path or "")
                if self._damage == "refuse" or damaged is None or damaged in diagnosis.unsound:
                    error.remedy = REMEDY
                    raise
                diagnosis.unsound[damaged] = error.reason

    def _load(self, facts: PartitionFacts, diagnosis: Diagnosis) -> Loaded:
        self.producers, self._replayed = self._new_producers(), None
        self._recover_all(diagnosis)
        start = facts.log_start_offset
        end = self.segments.active.next_offset() if len(self.segments) else start
        if end < start:
            for segment in reversed(tuple(self.segments)):
                self._set_aside(segment, f"the log ends at {end}, below its start {start}")
            self._fs.sync_directory(self._directory)
            end = start
        if not len(self.segments):
            self._begin(start)
        start = max(start, self.segments.first.base_offset)
        if self.epochs.is_trusted:
            self.epochs.save()
        else:
            rebuild_epochs(self.segments, self.epochs)
        self.epochs.truncate_from_end(end)
        self.epochs.truncate_from_start(start)
        self.producers.remove_stray_snapshots(self.segments.bases)
        rebuild_producers(
            self.segments, self.producers, end, self._now_ms,
            is_clean=diagnosis.was_clean and not diagnosis.is_new, log_start_offset=start,
        )  # fmt: skip
        if not diagnosis.was_clean and facts.recovery_point is None:
            self._sync_sealed()
        self.segments.active.resume()
        return Loaded(start, end, end if diagnosis.was_clean else min(diagnosis.limit, end), self.report)

    def _existing(self, base: int) -> Segment:
        return Segment.existing(self._fs, self._directory, base, self._config, self._maps, self._now_ms)

    def _new_producers(self) -> ProducerStates:
        return ProducerStates(
            self._fs, self._directory, producer_id_expiration_ms=self._config.producer_id_expiration_ms,
            transaction_max_timeout_ms=self._config.transaction_max_timeout_ms,
        )  # fmt: skip

    def _begin(self, base_offset: int) -> None:
        """Make the first segment, of a log without any; what is left of another one is forgotten."""
        if self.epochs.epochs.entries:
            self.epochs.clear()
        self.producers.truncate_fully_and_start_at(0)
        for kind in INDEX_KINDS:
            self._fs.unlink(self._directory / names.segment_file_name(base_offset, kind), missing_ok=True)
        self.segments.add(
            Segment.create(self._fs, self._directory, base_offset, self._config, self._maps, self._now_ms)
        )
        self._fs.sync_directory(self._directory)

    def _sync_sealed(self) -> None:
        """Make true what the recovery point will say, where nobody has said it: sealed segments are on disk."""
        for segment in tuple(self.segments)[:-1]:
            for path in segment.files():
                if self._fs.exists(path):
                    with self._fs.open(path, write=True) as file:
                        file.sync()

    # ---- recovery

    def _recover_all(self, diagnosis: Diagnosis) -> None:
        """Recover segments in order, until one is cut: nothing behind that can follow it."""
        for base in sorted(diagnosis.unsound):
            segment = self.segments.get(base)
            if segment is not None and not self._recover_segment(segment, diagnosis.unsound[base], diagnosis):
                return

    def _recover_segment(self, segment: Segment, why: str, diagnosis: Diagnosis) -> bool:
        """Check all of a segment and make its indexes anew (§11.1); whether what lies behind it is still there."""
        base, goes_on = segment.base_offset, True
        with self._fs.open(segment.path) as file:
            scan, replay = self._scan(segment, file, diagnosis)
            if scan.overflows is None and scan.cut:
                goes_on = self._cut(segment, file, scan, diagnosis)
        if scan.overflows is not None:
            return self._split(segment, diagnosis)
        self.producers.update_map_end_offset(scan.next_offset)
        take_snapshot(self.producers)
        self._replayed = base
        self._write_indexes(segment, scan, replay)
        self.segments.add(self._existing(base))
        self.report.note("recover", segment.path, f"{why}: {scan.count} batches checked, indexes made anew")
        return goes_on

    def _scan(self, segment: Segment, file: File, diagnosis: Diagnosis) -> tuple[SegmentScan, Replay]:
        """What can be trusted of a segment, and what it says; the producers' state is that at its end then."""
        base, following = segment.base_offset, self.segments.higher(segment.base_offset)
        replay = self._new_replay(base)
        scan = diagnosis.scans.pop(base, None) or scan_segment(file, base, self._config, replay)
        misplaced = find_misplaced(file, scan, None if following is None else following.base_offset)
        if misplaced is not None:
            self._replayed = None
            replay = self._new_replay(base)
            scan = scan_beginning(file, base, self._config, *misplaced, observer=replay)
        if replay.problem is not None:
            scan = scan_beginning(file, base, self._config, replay.position, replay.problem)
        return scan, replay

    def _new_replay(self, base: int) -> Replay:
        """One of a segment, with the producers' state as of its begin."""
        lower = self.segments.lower(base)
        if lower is not None and lower.base_offset == self._replayed:
            self.producers.update_map_end_offset(base)
        else:
            self._rebuild_producers(base)
        return Replay(self.producers, self.epochs if self.epochs.is_trusted else None, base)

    def _rebuild_producers(self, end_offset: int) -> None:
        """Let the producers' state be that below an offset, by snapshots and the batches of earlier segments."""
        # A snapshot below the first segment is what a truncation, or a deletion, has left that was cut off: producers
        # that it knows have written more since, of which nothing is there.
        first = self.segments.first.base_offset if len(self.segments) else end_offset
        start = max(first - 1, 0)
        while True:
            self.producers = self._new_producers()
            try:
                rebuild_producers(
                    self.segments, self.producers, end_offset, self._now_ms, is_clean=False, log_start_offset=start
                )
                return
            except DamagedLogError as error:
                # What lies below the log start is nobody's any more: nothing has to follow from it.
                following = self._following(error)
                if following is None or not start < following <= self._log_start_offset:
                    raise
                start = following

    def _following(self, error: DamagedLogError) -> int | None:
        """The base offset of the segment behind the damaged one."""
        damaged = {str(one.path): one.base_offset for one in self.segments}.get(error.path or "")
        following = None if damaged is None else self.segments.higher(damaged)
        return None if following is None else following.base_offset

    def _split(self, segment: Segment, diagnosis: Diagnosis) -> bool:
        path, goes_on = segment.path, True
        try:
            new = split_segment(self._fs, segment, self._config, self._maps, self._now_ms)
        except LogstoreError as error:
            if error.position is None:
                raise
            scan = SegmentScan(
                segment.base_offset, segment.size, segment.base_offset, error.position, problem=error.reason
            )
            with self._fs.open(segment.path) as file:
                goes_on = self._cut(segment, file, scan, diagnosis)
            segment = self._existing(segment.base_offset)
            self.segments.add(segment)
            new = split_segment(self._fs, segment, self._config, self._maps, self._now_ms)
        self.segments.replace(new, [segment], self._now_ms)
        self.segments.purge(self._now_ms)
        self.report.note("split", path, f"into {len(new)}: it held offsets out of its range")
        self._replayed = None
        return all(self._recover_segment(one, "it was split off", diagnosis) for one in new) and goes_on

    def _write_indexes(self, segment: Segment, scan: SegmentScan, replay: Replay) -> None:
        # The offset index last: as long as it is missing, what a crash has left of this is made anew.
        self._renew_transaction_index(segment.transaction_index.path, replay)
        self._renew(segment.indexes.time_path, bytes(scan.time_entries))
        self._renew(segment.indexes.offset_path, bytes(scan.offset_entries))

    def _renew(self, path: Path, data: bytes) -> None:
        """Let an index hold these bytes, durably."""
        if self._fs.exists(path):
            with self._fs.open(path, write=True) as file:
                if file.size() == len(data) and file.read(0, len(data)) == data:
                    file.sync()
                    return
        self._maps.forget(path)
        replace_atomically(self._fs, path, data)

    def _renew_transaction_index(self, path: Path, replay: Replay) -> None:
        if replay.aborted:
            self._renew(path, b"".join(one.encode() for one in replay.aborted))
        else:
            self._fs.unlink(path, missing_ok=True)

    def _cut(self, segment: Segment, file: File, scan: SegmentScan, diagnosis: Diagnosis) -> bool:
        """Cut a segment behind its last good batch; whether what lies behind it is still there."""
        following = self.segments.higher(segment.base_offset)
        following_base = None if following is None else following.base_offset
        diagnosis.check_damage(segment.path, file, scan, following_base)
        goes_on = following is None or is_spare(file, scan, following_base)
        if not goes_on:
            # Before the cut: a crash between the two must not leave segments behind one that looks whole.
            for later in reversed(self.segments.above(segment.base_offset)):
                self._set_aside(later, "it lies behind a cut")
            self._fs.sync_directory(self._directory)
        if is_zeros(file, scan.valid_size, scan.file_size):
            detail = f"{scan.cut} zeros from position {scan.valid_size}"
        else:
            kept = keep_end(self._fs, file, segment.path, scan.valid_size)
            self.report.kept_aside.append(kept)
            self.report.cut += scan.cut
            detail = f"{scan.cut} bytes from position {scan.valid_size}: {scan.problem}; kept in {kept.name}"
        segment.close()  # a mapped file is not cut
        with self._fs.open(segment.path, write=True) as writable:
            writable.truncate(scan.valid_size)
            writable.sync()
        self.report.note("cut", segment.path, detail)
        return goes_on

    def _set_aside(self, segment: Segment, why: str) -> None:
        """Rename the files of a segment to dot-files, and take it out of the log."""
        self.segments.remove(segment.base_offset)
        segment.close()
        self.report.cut += segment.size
        for path in reversed(segment.files()):
            if self._fs.exists(path):
                target = set_aside(self._fs, path)
                self.report.note("set aside", path, f"to {target.name}: {why}")
        self.report.kept_aside.append(target)
