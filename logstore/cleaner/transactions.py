"""What becomes of the batches of transactions while a log is cleaned, decided batch by batch (CLEANER §4.5).

Invariant: each batch is shown once, in the order of the log, from its begin on: what is answered for one depends on
those before it. An aborted transaction ends with its marker, also where that is not there any more. One tracker belongs
to one pass over a log, and to one thread.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from logstore.log.transaction_index import AbortedTransaction
from logstore.records import BatchHeader, ControlType

_TRANSACTIONAL = 0x10  # attributes of a v2 batch (FORMAT §2.2); on disk, never change


class _Aborted:
    """An aborted transaction that has begun; `has_data`: a batch of it was seen."""

    __slots__ = ("entry", "has_data")

    def __init__(self, entry: AbortedTransaction) -> None:
        self.entry = entry
        self.has_data = False


class MarkerFate(NamedTuple):
    """What is to be done with a control batch.

    `is_discardable`: no batch of the transaction it ends is left. `aborted`: what the transaction index has to hold of
    it still.
    """

    is_discardable: bool
    aborted: AbortedTransaction | None = None


class TransactionTracker:
    """Follows the transactions of a log.

    Args:
        aborted: the aborted transactions of the log, by its transaction indexes, in any order.
    """

    def __init__(self, aborted: Iterable[AbortedTransaction]) -> None:
        # The next one to begin is last.
        self._coming = sorted(aborted, key=lambda entry: entry.first_offset, reverse=True)
        self._aborted: dict[int, _Aborted] = {}
        self._committed: set[int] = set()  # producers with a batch of a transaction that was not aborted

    def __repr__(self) -> str:
        return f"<TransactionTracker aborted {sorted(self._aborted)} not aborted {sorted(self._committed)}>"

    def is_aborted(self, header: BatchHeader) -> bool:
        """Whether a batch of data belongs to a transaction that was aborted. A batch without records counts, too."""
        if not header.attributes & _TRANSACTIONAL:
            return False
        self._begin(header.base_offset + header.last_offset_delta)
        found = self._aborted.get(header.producer_id)
        if found is not None and header.base_offset > found.entry.last_offset:
            # Its marker was lost: what comes now is no part of it.
            found = None
            del self._aborted[header.producer_id]
        if found is None:
            self._committed.add(header.producer_id)
            return False
        found.has_data = True
        return True

    def see_marker(self, header: BatchHeader, control_type: ControlType | None) -> MarkerFate:
        """What is to be done with a control batch; `control_type` is None for one without records."""
        self._begin(header.base_offset + header.last_offset_delta)
        producer_id = header.producer_id
        if control_type is None:
            return MarkerFate(is_discardable=True)
        if control_type is ControlType.ABORT:
            found = self._aborted.pop(producer_id, None)
            if found is not None and found.has_data:
                return MarkerFate(is_discardable=False, aborted=found.entry)
        elif control_type is not ControlType.COMMIT:
            return MarkerFate(is_discardable=False)
        # Data in front of an ABORT that no index knows of: as long as it is there, the marker tells what it is.
        has_data = producer_id in self._committed
        self._committed.discard(producer_id)
        return MarkerFate(is_discardable=not has_data)

    def _begin(self, last_offset: int) -> None:
        """Take note of the transactions that have begun up to an offset."""
        while self._coming and self._coming[-1].first_offset <= last_offset:
            entry = self._coming.pop()
            known = self._aborted.get(entry.producer_id)
            if known is None or known.entry.last_offset < entry.first_offset:
                self._aborted[entry.producer_id] = _Aborted(entry)
