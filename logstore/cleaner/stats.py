"""What one round of cleaning has done, in numbers."""

from __future__ import annotations

import dataclasses

from logstore.cleaner.verify import NewestRecords
from logstore.records.header import FilterCounts


@dataclasses.dataclass(slots=True)
class Tally:
    """Counts while a round goes on; the words are those of `CleaningStats`."""

    bytes_read: int = 0
    records_before: int = 0
    records_after: int = 0
    superseded: int = 0
    tombstones_expired: int = 0
    tombstones_kept: int = 0
    unkeyed: int = 0
    aborted: int = 0
    markers_dropped: int = 0
    batches_verbatim: int = 0
    batches_reencoded: int = 0
    batches_emptied: int = 0
    batches_dropped: int = 0
    batches_stamped: int = 0
    batches_converted: int = 0

    def add(self, counts: FilterCounts) -> None:
        """Add what the filter of the kernel has counted."""
        self.records_before += counts.records
        self.records_after += counts.kept
        self.superseded += counts.superseded
        self.tombstones_expired += counts.tombstones_expired
        self.tombstones_kept += counts.tombstones_kept
        self.unkeyed += counts.unkeyed
        self.batches_verbatim += counts.verbatim
        self.batches_reencoded += counts.reencoded
        self.batches_emptied += counts.emptied
        self.batches_dropped += counts.dropped
        self.batches_stamped += counts.stamped


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CleaningStats:
    """One round of cleaning.

    Attributes:
        log_start_offset: the log's.
        first_dirty_offset: where the round began.
        uncleanable_offset: the base of the first segment that it had to leave alone.
        end_offset: up to where the log is clean now.
        map_keys, map_capacity: keys in the offset map, and how many it takes.
        map_records: records that were looked at for it.
        map_bytes: bytes that were read to build it and to check what is rewritten.
        bytes_read: bytes that were read to rewrite them.
        bytes_before, bytes_after: of the segments that were gone through, as they were and as they are.
        records_before, records_after: their records, without control records.
        superseded: records that went because their key has a later one.
        tombstones_expired: tombstones that went because their delete horizon has passed.
        tombstones_kept: tombstones that stay.
        unkeyed: records without a key in the cleaned range; whether they went was for the caller to say.
        aborted: records that went because their transaction was aborted.
        markers_dropped: markers of transactions that went.
        batches_verbatim, batches_reencoded, batches_emptied, batches_dropped: what became of batches: they stay as they
            were, with fewer or changed records, without records, or not at all.
        batches_stamped: batches that have got a delete horizon.
        batches_converted: batches of message formats v0 and v1 that are v2 now.
        segments_before, segments_after: how many there were and are, of those that were gone through.
        segments_untouched: those whose files are the ones they were.
        groups: how many groups the segments made.
        map_seconds, rewrite_seconds: how long both passes took.
        is_dry_run: whether all this was only found out.
        verified: the newest records, the same before and after; None where they were not compared.
    """

    log_start_offset: int
    first_dirty_offset: int
    uncleanable_offset: int
    end_offset: int
    map_keys: int = 0
    map_capacity: int = 0
    map_records: int = 0
    map_bytes: int = 0
    bytes_read: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    records_before: int = 0
    records_after: int = 0
    superseded: int = 0
    tombstones_expired: int = 0
    tombstones_kept: int = 0
    unkeyed: int = 0
    aborted: int = 0
    markers_dropped: int = 0
    batches_verbatim: int = 0
    batches_reencoded: int = 0
    batches_emptied: int = 0
    batches_dropped: int = 0
    batches_stamped: int = 0
    batches_converted: int = 0
    segments_before: int = 0
    segments_after: int = 0
    segments_untouched: int = 0
    groups: int = 0
    map_seconds: float = 0.0
    rewrite_seconds: float = 0.0
    is_dry_run: bool = False
    verified: NewestRecords | None = None

    @property
    def is_complete(self) -> bool:
        """Whether nothing that may be cleaned is left; else the map was full, and another round goes on."""
        return self.end_offset >= self.uncleanable_offset

    @property
    def has_changed(self) -> bool:
        """Whether any segment was rewritten, merged or removed."""
        return self.segments_untouched < self.segments_before
