"""Rewrites one group of segments after the other, in the order of the log (CLEANER §4.2, §4.3).

Invariant: nothing is written for a segment alone before something in it changes; what is in front of that is then
copied as it is. Every CRC is checked again, so that nothing damaged gets a good one. Belongs to one round and thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from logstore.cleaner.batch_filter import BatchFilter, Filtered, RewriteRules
from logstore.cleaner.output import Output, Target
from logstore.cleaner.source import Pace, SourceReader
from logstore.cleaner.stats import Tally
from logstore.cleaner.transactions import TransactionTracker
from logstore.errors import LogstoreError
from logstore.fs import Buffer
from logstore.log.rewriting import SealedSegment
from logstore.log.transaction_index import AbortedTransaction
from logstore.records import RecordBatch
from logstore.records.header import HEADER_V2_SIZE, FilteredBatch, MapEnd
from logstore.records.kernel import filter_plain_batches, parse_header

_GROWTH_MAX = 10  # bytes by which the filter may lengthen a record


class GroupRewriter:
    """Rewrites the groups of one round.

    Args:
        rules: which records stay.
        tracker: follows the transactions; it sees the log from its begin on.
        pace: holds the reading and writing back.
        tally: counts what is done.
        create: makes a segment of a base offset and a largest size.
        segment_bytes: how large a segment may become by configuration.
    """

    def __init__(
        self,
        rules: RewriteRules,
        tracker: TransactionTracker,
        pace: Pace,
        tally: Tally,
        create: Callable[[int, int], Target],
        segment_bytes: int,
    ) -> None:
        self._rules = rules
        self._filter = BatchFilter(rules, tracker, tally)
        self._pace = pace
        self._tally = tally
        self._create = create
        self._segment_bytes = segment_bytes
        self._room = bytearray(2 * pace.window_bytes)

    def __repr__(self) -> str:
        return f"<GroupRewriter {self._filter!r}>"

    def rewrite(self, group: Sequence[SealedSegment]) -> Output | None:
        """What a group becomes, written but not finished; None where it stays as it is.

        Nothing that was written is left where that raises: DamagedLogError, CleaningAbortedError, OSError.
        """
        writing = _Writing(group, self._create, self._segment_bytes, self._pace)
        try:
            for source in group:
                self._segment(source, writing)
        except BaseException:
            writing.discard()
            raise
        return writing.output

    def _segment(self, source: SealedSegment, writing: _Writing) -> None:
        reader = SourceReader(source, self._pace)
        while window := reader.window():
            start, status = 0, MapEnd.FILLED
            while status in (MapEnd.FILLED, MapEnd.OTHER):
                start, status = self._plain(window, start, writing)
                reader.check_end(status, start)
                if status is MapEnd.OTHER:
                    batch = reader.batch_at(window, start)
                    if batch is None:
                        break
                    try:
                        found = self._filter.filter(batch)
                    except LogstoreError as error:
                        raise reader.damage(error.reason, start) from error
                    _put(found, batch, writing)
                    start += batch.header.size
            self._tally.bytes_read += start
            reader.advance(start)

    def _plain(self, window: Buffer, start: int, writing: _Writing) -> tuple[int, MapEnd]:
        """Filter plain batches as far as they come and the room goes."""
        rules = self._rules
        stop, end, batches, counts, status = filter_plain_batches(
            rules.table, window, start, len(window), self._room, 0, rules.filter
        )
        if counts.batches:
            self._tally.add(counts)
            if counts.verbatim == counts.batches:
                writing.keep(window[start:stop], batches)
            else:
                writing.change(memoryview(self._room)[:end], batches)
        elif status == MapEnd.FILLED:
            header = parse_header(window[start : start + HEADER_V2_SIZE], 0, 0)
            self._room = bytearray(header.size + _GROWTH_MAX * header.count)
        return stop, MapEnd(status)


def _put(found: Filtered, batch: RecordBatch, writing: _Writing) -> None:
    size = len(found.data)
    last_offset, timestamp = batch.last_offset, batch.header.max_timestamp
    batches = [FilteredBatch(0, size, found.base_offset, last_offset, timestamp)] if size else []
    if found.is_changed:
        writing.change(found.data, batches)
    else:
        writing.keep(found.data, batches)
    if found.aborted is not None:
        writing.add_aborted(found.aborted)


class _Writing:
    """Where the batches of a group go; of one segment alone nowhere, until one of them changes."""

    def __init__(
        self, group: Sequence[SealedSegment], create: Callable[[int, int], Target], segment_bytes: int, pace: Pace
    ) -> None:
        self.output: Output | None = None
        self._first = group[0]
        self._create = create
        self._size_max = max(segment_bytes, sum(one.facts.size for one in group))
        self._pace = pace
        self._kept = 0  # bytes of the segment alone that stay as they are, from its begin on
        self._aborted: list[AbortedTransaction] = []
        if len(group) > 1:
            self._begin()

    def _begin(self) -> Output:
        if self.output is None:
            self.output = Output(self._first.facts.base_offset, self._size_max, self._create)
            for position in range(0, self._kept, self._pace.window_bytes):
                self._pace.check()
                size = min(self._pace.window_bytes, self._kept - position)
                self.output.copy(self._first.segment.slice(position, size))
                self._pace.take(size)
            for transaction in self._aborted:
                self.output.add_aborted(transaction)
        return self.output

    def keep(self, data: Buffer, batches: Sequence[FilteredBatch]) -> None:
        """Batches that stay as they are."""
        if self.output is None:
            self._kept += len(data)
        else:
            self._write(self.output, data, batches)

    def change(self, data: Buffer, batches: Sequence[FilteredBatch]) -> None:
        """Batches that are other ones now; there may be none left."""
        self._write(self._begin(), data, batches)

    def _write(self, output: Output, data: Buffer, batches: Sequence[FilteredBatch]) -> None:
        if batches:
            output.write(data, batches)
            self._pace.take(len(data))

    def add_aborted(self, transaction: AbortedTransaction) -> None:
        """What the transaction index has to hold of a marker that was kept last."""
        if self.output is None:
            self._aborted.append(transaction)
        else:
            self.output.add_aborted(transaction)

    def discard(self) -> None:
        """Remove what was written."""
        if self.output is not None:
            self.output.discard()
