"""An offset, and where it lies in the segments if that is known (LOG_SEMANTICS §1)."""

from __future__ import annotations

from typing import NamedTuple

UNKNOWN = -1


class LogOffsetMetadata(NamedTuple):
    """An offset with the segment and the byte in it where the offset begins; -1 where that is not known."""

    offset: int
    segment_base_offset: int = UNKNOWN
    position: int = UNKNOWN

    @property
    def is_offset_only(self) -> bool:
        """Whether segment and position are not known."""
        return self.segment_base_offset == UNKNOWN
