"""What opening a log has to do, found out before anything is changed (LOG_SEMANTICS §11).

Invariant: nothing is written here, so that a directory with damage that is refused stays as it was. Damage is what does
not belong below the limit: the recovery point, or after a clean close the log end. At or above it, it is what a power
cut leaves. Runs before anybody else has the log.
"""

from __future__ import annotations

import itertools
from pathlib import Path

from logstore import names
from logstore.config import INT64_MAX, LogConfig
from logstore.errors import CorruptCheckpointError, CorruptSnapshotError, DamagedLogError, LogstoreError
from logstore.fs import File, FileSystem
from logstore.log.aside import is_zeros
from logstore.log.epoch_file import EpochFile
from logstore.log.index_file import OFFSET_ENTRY_BYTES, TIME_ENTRY_BYTES
from logstore.log.leftovers import PartitionListing
from logstore.log.maps import MapCache
from logstore.log.partition_state import PartitionFacts
from logstore.log.producers import ProducerSnapshot
from logstore.log.segment import Segment
from logstore.log.segment_scan import Observer, SegmentScan, SizedSource, scan_segment
from logstore.log.transaction_index_file import TransactionIndexFile
from logstore.names import FileKind
from logstore.records import BatchScanner, RecordBatch

REMEDY = (
    "`logstore check` tells how much is damaged, `logstore read` reads around it, and `logstore recover --cut-damage`"
    " cuts the log there and keeps aside what it cuts"
)
_BLOCK_BYTES = 512  # what a disk writes as a whole, at least; larger blocks begin where these do
_OFFSET_BYTES = 8  # of a batch, at its begin
_KEPT_ENTRIES_MAX = 32 << 20  # bytes of index entries in scans that are kept for the recovery


class Diagnosis:
    """What is to be done about a partition directory.

    Args:
        fs, directory, config: as of the log.
        facts: what the small files say.
        epochs: the leader epochs, not loaded yet.
        refuses_damage: whether damage is an error.

    Attributes:
        listing: the files, and what a crash has left over.
        epoch_problem: why the leader epochs cannot be read, if so.
        was_clean: whether the log was closed cleanly, or is new.
        limit: what is wrong below this offset is damage.
        unsound: the base offsets of the segments to be recovered, and why.
        scans: of segments that were scanned already, where a scan tells all.

    Raises DamagedLogError for damage that is refused, and OSError.
    """

    def __init__(
        self,
        fs: FileSystem,
        directory: Path,
        config: LogConfig,
        facts: PartitionFacts,
        epochs: EpochFile,
        *,
        refuses_damage: bool,
    ) -> None:
        self._fs = fs
        self._directory = directory
        self._config = config
        self._facts = facts
        self._refuses_damage = refuses_damage
        self.listing = PartitionListing(fs, directory, config)
        self.epoch_problem: CorruptCheckpointError | None = epochs.load()
        self.scans: dict[int, SegmentScan] = {}
        self.unsound = {base: problem for base in self.listing.bases if (problem := self._index_problem(base))}
        end = self._clean_end()
        self.was_clean = end is not None
        if end is not None:
            self.limit = end
        else:
            # Where nobody says what is on disk, all is checked, and only the active segment may have been torn.
            point = facts.recovery_point
            self.limit = self.listing.bases[-1] if point is None else point
            floor = max((base for base in self.listing.bases if point is not None and base <= point), default=-1)
            self.unsound |= {base: "the log was not closed cleanly" for base in self.listing.bases if base >= floor}
        if refuses_damage and not self.is_new:
            self._look_for_damage(epochs)
            self._look_at_what_is_replayed()

    def __repr__(self) -> str:
        return f"<Diagnosis of {self._directory} limit {self.limit} unsound {self.unsound}>"

    @property
    def is_new(self) -> bool:
        """Whether there is no segment yet."""
        return not self.listing.bases

    def check_damage(self, path: Path, file: File, scan: SegmentScan, following: int | None) -> None:
        """Raise DamagedLogError where bytes that a segment would lose lie below the limit, unless they may be cut.

        `following` is the base offset of the next segment.
        """
        if not self._refuses_damage or not scan.cut or scan.overflows is not None or is_spare(file, scan, following):
            return
        is_sealed_below = following is not None and following <= self.limit
        if scan.next_offset < self.limit or is_sealed_below or self._is_any_below(file, scan):
            raise DamagedLogError(
                f"{scan.problem}; all before offset {scan.next_offset} is whole", path=path,
                position=scan.valid_size, offset=scan.next_offset, remedy=REMEDY,
            )  # fmt: skip

    def _is_any_below(self, file: File, scan: SegmentScan) -> bool:
        """Whether a batch that would be lost begins below the limit: offsets before it may be too high, by damage."""
        rest = BatchScanner(SizedSource(file), start=scan.valid_size, end=scan.file_size, offset_min=scan.base_offset)
        found = (one.header for one in rest if isinstance(one, RecordBatch))
        return any(one.base_offset < self.limit and not _has_lost_its_offset(file, one.position) for one in found)

    # ---- inside

    def _index_problem(self, base: int) -> str | None:
        """What about the indexes of a segment makes it one to recover, as far as names tell (§11 step 4)."""
        kinds = (FileKind.OFFSET_INDEX, FileKind.TIME_INDEX)
        missing = [kind for kind in kinds if not self.listing.has(base, kind)]
        if missing and self._fs.file_size(self.listing.now(base, FileKind.LOG)):
            return f"{' and '.join(names.segment_file_name(base, kind) for kind in missing)} missing"
        if self.listing.has(base, FileKind.TRANSACTION_INDEX):
            try:
                place = self.listing.now(base, FileKind.TRANSACTION_INDEX)
                TransactionIndexFile(self._fs, place, base).sanity_check()
            except LogstoreError as error:
                return error.reason
        return None

    def _clean_end(self) -> int | None:
        """Where the log ends, if it is new or was closed cleanly; None if not.

        Who closed it cleanly left whole batches to the end of the file, and of ours the mark says the offset. In a log
        directory only its marker counts: a broker that was killed since may have left our mark where it was. Indexes
        that are not as a close leaves them make the segment one to recover.
        """
        facts = self._facts
        if self.is_new:
            return 0
        if self.listing.was_replacing or not (facts.is_vouched_for or (facts.is_alone and facts.clean_end is not None)):
            return None
        base = self.listing.bases[-1]
        active = Segment.existing(self._fs, self._directory, base, self._config, MapCache(self._fs), 0)
        try:
            end = active.next_offset()
            problem = _index_tail_problem(self._fs, active, end)
        except DamagedLogError:
            return None
        finally:
            active.close()
        if end != facts.clean_end and not facts.is_vouched_for:
            return None
        if problem is not None:
            self.unsound.setdefault(base, problem)
        return end

    def _look_for_damage(self, epochs: EpochFile) -> None:
        bases, kept = self.listing.bases, 0
        for number, base in enumerate(bases):
            if base >= self.limit:
                return
            if base not in self.unsound:
                continue
            path = self.listing.now(base, FileKind.LOG)
            following = bases[number + 1] if number + 1 < len(bases) else None
            watch = _Watch(epochs)
            with self._fs.open(path) as file:
                scan = scan_segment(file, base, self._config, watch)
                misplaced = find_misplaced(file, scan, following)
                if misplaced is not None:
                    scan = scan_beginning(file, base, self._config, *misplaced)
                self.check_damage(path, file, scan, following)
            entries_size = len(scan.offset_entries) + len(scan.time_entries)
            if scan.overflows is None and not watch.has_seen and kept + entries_size <= _KEPT_ENTRIES_MAX:
                self.scans[base] = scan
                kept += entries_size


    def _look_at_what_is_replayed(self) -> None:
        """Raise DamagedLogError where a trusted segment cannot be read through that the producers' state needs."""
        if self.listing.was_replacing:
            return  # which segments there will be is not on disk yet
        bases, maps = self.listing.bases, MapCache(self._fs)
        end = min(self.unsound, default=self.limit)
        snapshot = next((one for one in reversed(self.listing.snapshots) if one <= end and self._is_whole(one)), None)
        if self.was_clean and not self.unsound and not self.listing.snapshots:
            return
        for base, following in itertools.zip_longest(bases, bases[1:], fillvalue=INT64_MAX):
            is_needed = (snapshot or 0) < following and self._facts.log_start_offset < following
            if base in self.unsound or not is_needed or (snapshot == end and not self.unsound):
                continue
            segment = Segment.existing(self._fs, self._directory, base, self._config, maps, 0)
            try:
                located = segment.locate(snapshot or 0, segment.size)
                position = segment.size if located is None else located.position
                while position < segment.size and (found := segment.batches(position, segment.size)):
                    position = found[-1].header.position + found[-1].header.size
            except DamagedLogError as error:
                error.remedy = REMEDY
                raise
            finally:
                segment.close()

    def _is_whole(self, snapshot: int) -> bool:
        try:
            with self._fs.open(self.listing.now(snapshot, FileKind.PRODUCER_SNAPSHOT)) as file:
                ProducerSnapshot.decode(file.read(0, file.size()))
        except (CorruptSnapshotError, IsADirectoryError):
            return False
        return True


class _Watch:
    """Sees in a scan whether there is anything that a replay has to see."""

    def __init__(self, epochs: EpochFile) -> None:
        self.has_seen = False
        self.latest_epoch = epochs.latest_epoch if epochs.is_trusted else 2**31

    def see(self, batch: RecordBatch) -> None:
        self.has_seen = True


class _Beginning:
    """A file up to a position, as a scan wants it."""

    def __init__(self, file: File, size: int) -> None:
        self._file = file
        self._size = size

    def read(self, position: int, size: int) -> bytes:
        return self._file.read(position, min(size, self._size - position))

    def size(self) -> int:
        return self._size


def _has_lost_its_offset(file: File, position: int) -> bool:
    """Whether a power cut may have lost the end of a block, and with it the begin of a batch's offset.

    Its CRC is right all the same, and what is left of the offset is too low.
    """
    lost = -position % _BLOCK_BYTES
    return 0 < lost <= _OFFSET_BYTES and position > 0 and not any(file.read(position, lost))


def scan_beginning(
    file: File, base_offset: int, config: LogConfig, end: int, problem: str, observer: Observer | None = None
) -> SegmentScan:
    """Scan a segment up to a position where it ends to be trusted, for the reason given."""
    scan = scan_segment(_Beginning(file, end), base_offset, config, observer)
    if scan.problem is None and scan.overflows is None:
        scan.problem = problem
    scan.file_size = file.size()
    return scan


def find_misplaced(file: File, scan: SegmentScan, following: int | None) -> tuple[int, str] | None:
    """Where the first batch begins whose offsets are wrong, and why; None when a scan has not come upon one.

    No CRC covers the offset of a batch. It is too high where it reaches into the next segment, where the batch behind
    it goes on as if it was not there, or where it alone, the last one of all, does not fit its segment: it would have
    begun a new one.
    """
    expected, behind = scan.base_offset, _batch_at(file, scan.valid_size, scan.file_size)
    if scan.overflows is not None:
        assert behind is not None
        after = _batch_at(file, scan.valid_size + behind.header.size, scan.file_size)
        is_passed = after is not None and scan.next_offset <= after.header.base_offset <= behind.last_offset
        is_alone = after is None and scan.valid_size > 0
        if is_passed or (is_alone if following is None else behind.last_offset >= following):
            return scan.valid_size, f"a batch of offset {behind.header.base_offset} does not belong there"
        return None
    is_too_long = following is not None and scan.next_offset > following
    if not is_too_long and (behind is None or behind.header.base_offset >= scan.next_offset):
        return None
    for found in BatchScanner(SizedSource(file), end=scan.valid_size, verify=False, offset_min=scan.base_offset):
        if not isinstance(found, RecordBatch):
            return None
        is_in_next = following is not None and found.next_offset > following
        is_last = found.header.position + found.header.size == scan.valid_size
        if is_in_next or (is_last and behind is not None and expected <= behind.header.base_offset):
            where = "in the next segment" if is_in_next else "behind that of the next batch"
            return found.header.position, f"a batch ends at offset {found.last_offset}, {where}"
        expected = found.next_offset
    return None


def _batch_at(file: File, position: int, end: int) -> RecordBatch | None:
    """The batch that begins at a position, if there is one that can be trusted but for its offset."""
    found = next(iter(BatchScanner(SizedSource(file), start=position, end=end)), None) if position < end else None
    return found if isinstance(found, RecordBatch) else None


def is_spare(file: File, scan: SegmentScan, following: int | None) -> bool:
    """Whether what a segment ends in is room that was not used: zeros, and the next segment goes on where it ends."""
    return following == scan.next_offset and is_zeros(file, scan.valid_size, scan.file_size)


def _index_tail_problem(fs: FileSystem, active: Segment, end: int) -> str | None:
    """What is wrong with the last entries of the indexes of a closed segment; None if nothing is."""
    in_range = range(active.base_offset, end)
    for path, size in ((active.indexes.offset_path, OFFSET_ENTRY_BYTES), (active.indexes.time_path, TIME_ENTRY_BYTES)):
        count, rest = divmod(fs.file_size(path) if fs.exists(path) else 0, size)
        if size == OFFSET_ENTRY_BYTES:
            last = active.indexes.last_offset_entry
            is_sound = 0 < last.position < active.size and last.offset in in_range
        else:
            last_time = active.indexes.last_time_entry
            is_sound = last_time.offset in in_range and (last_time.timestamp > 0 or count == 1)
        if rest or (count and not is_sound):
            return f"{path.name} does not end in an entry of this segment"
    return None
