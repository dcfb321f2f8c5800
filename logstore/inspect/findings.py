"""What a check can find: every code, with its cause and its remedy.

The table is the one source of docs/damage.md. Pure values.
"""

from __future__ import annotations

import dataclasses
import enum
from pathlib import Path
from typing import NamedTuple


class Severity(enum.StrEnum):
    """How bad a finding is.

    Damage: data is lost or wrong, or a broker would refuse or misread the directory. Warning: something is not as Kafka
    leaves it, and repairs itself or wants a look. Note: worth knowing, nothing is wrong.
    """

    DAMAGE = "damage"
    WARNING = "warning"
    NOTE = "note"


class Explanation(NamedTuple):
    """What a code means: usual severity, cause and remedy."""

    severity: Severity
    cause: str
    remedy: str


_D, _W, _N = Severity.DAMAGE, Severity.WARNING, Severity.NOTE
_RECOVER = "`logstore recover` cuts the log here and keeps aside what it cuts (`--cut-damage` below the recovery point)"
_REPLICA = "fetch the partition from a replica or a backup; what `dump` shows can still be read"
_REBUILD = "`logstore reindex` makes it anew from the batches, while the broker is stopped"

CODES: dict[str, Explanation] = {
    # batches
    "batch-crc": Explanation(_D, "bytes of a batch changed after they were written (disk, memory, copy)", _REPLICA),
    "batch-size": Explanation(_D, "a size field is impossible, or other bytes stand where a batch should begin", _REPLICA),
    "batch-magic": Explanation(_D, "bytes that are no batch stand where a batch should begin", _REPLICA),
    "zeros": Explanation(_D, "a page of the file was never written or was zeroed (file system after a power cut)", _REPLICA),
    "zero-tail": Explanation(_D, "a file that is no longer written to ends in zeros", _RECOVER),
    "torn-tail": Explanation(_D, "the file ends inside a batch: a write or a copy was cut short", _RECOVER),
    "file-shrank": Explanation(_D, "the file became shorter while it was read", "check again when nothing writes to it"),
    "batch-offset": Explanation(
        _D, "a batch does not follow the one before, or is not in the range of its segment: its offset field changed, or "
        "segments were mixed", _REPLICA,
    ),
    "batch-count": Explanation(_D, "a batch header claims more records than its offsets allow, or a negative number", _REPLICA),
    "batch-codec": Explanation(_D, "a batch names a compression codec that does not exist", _REPLICA),
    "batch-compression": Explanation(_D, "the compressed records of an intact batch cannot be decompressed", _REPLICA),
    "batch-too-large": Explanation(
        _W, "a batch is larger than the cap, or decompresses to more: its records were not checked",
        "check again with a higher --max-batch-bytes",
    ),
    "batch-timestamp": Explanation(
        _W, "the largest timestamp in a batch header is not that of its records: searches by time go wrong",
        "none needed to read by offset; rewriting the batch mends it",
    ),
    "record-body": Explanation(_D, "the records of an intact batch contradict their header or themselves", _REPLICA),
    "record-offset": Explanation(_D, "offsets of the records inside a batch do not ascend, or leave its range", _REPLICA),
    "legacy-message": Explanation(_D, "a message of format v0 or v1, or one inside a compressed set, is broken", _REPLICA),
    "control-record": Explanation(_D, "a control batch holds a record that is no control record", _REPLICA),
    "leader-epoch": Explanation(
        _D, "the leader epoch of a batch contradicts the batches before it or the leader epoch checkpoint", _REPLICA
    ),
    "offset-gap": Explanation(
        _N, "offsets are missing between two batches: compaction, truncation inside a batch, or a lost batch",
        "compare with a replica if the topic was never compacted",
    ),
    "segment-gap": Explanation(
        _W, "offsets are missing between two segments that show no sign of compaction: a segment may be lost",
        "compare with a replica; a compacted topic without its cleaner checkpoint looks the same",
    ),
    "segment-missing": Explanation(_D, "a snapshot or an index shows that there was a segment, and it is gone", _REPLICA),
    # indexes
    "index-size": Explanation(_D, "an index does not end with a whole entry", _REBUILD),
    "index-order": Explanation(_D, "entries of an offset index do not ascend", _REBUILD),
    "index-mismatch": Explanation(_D, "an offset index points to a place where no such batch is", _REBUILD),
    "index-padding": Explanation(_W, "an index of a segment that is no longer written to was not trimmed", _REBUILD),
    "index-missing": Explanation(_W, "a segment has no offset or time index", "none: the broker builds it at start"),
    "index-orphan": Explanation(_W, "an index has no log beside it", "none: the broker deletes it at start"),
    "time-index-order": Explanation(_D, "entries of a time index do not ascend", _REBUILD),
    "time-index-mismatch": Explanation(_D, "a time index contradicts the batches: searches by time go wrong", _REBUILD),
    "txn-index-entry": Explanation(_D, "an entry of a transaction index is broken or out of its segment", _REBUILD),
    "txn-index-missing": Explanation(
        _D, "an aborted transaction is not in the transaction index: read_committed consumers would see its records", _REBUILD
    ),
    # small files
    "snapshot": Explanation(_D, "a producer snapshot cannot be read", "`logstore reindex` makes it anew from the batches"),
    "snapshot-beyond-end": Explanation(
        _W, "a producer snapshot is newer than the end of the log", "none: the broker deletes it at start"
    ),
    "checkpoint": Explanation(
        _D, "a checkpoint or properties file cannot be read", "restore it, or delete it while the broker is stopped"
    ),
    "epoch-beyond-end": Explanation(
        _W, "the leader epoch checkpoint has entries beyond the end of the log", "none: the broker drops them at start"
    ),
    "checkpoint-beyond-end": Explanation(
        _D, "a checkpoint of the log directory lies beyond the end of the log: flushed records are missing", _REPLICA
    ),
    "checkpoint-behind-end": Explanation(
        _D, "after a clean shutdown the recovery point must be the end of the log, and is below it: the log was changed", _REPLICA
    ),
    "checkpoint-partition": Explanation(_N, "checkpoints name partitions that are not here", "none"),
    # directories
    "foreign-directory": Explanation(
        _D, "a directory whose name is no partition's: Kafka refuses to start on it", "move it out of the log directory"
    ),
    "foreign-file": Explanation(_N, "a file that is none of Kafka's", "none: Kafka ignores it"),
    "leftover": Explanation(
        _N, "files of an unfinished or pending deletion, compaction or replacement", "none: the broker takes care of them"
    ),
    "set-aside": Explanation(_N, "partition directories that wait for deletion, a move, or a decision", "name one to read it"),
    "unclean-shutdown": Explanation(
        _N, "the log directory has no clean-shutdown mark: its broker runs, or was killed, or this is a hot copy",
        "none: the broker recovers it at start",
    ),
    "preallocated": Explanation(_N, "zeros behind the last batch: space set aside by a broker that runs or was killed", "none"),
    "vanished": Explanation(_N, "a file was deleted while the directory was read", "none: brokers delete old segments"),
    "unreadable": Explanation(_D, "the operating system would not let a file be read", "see the message; check permissions"),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing a check found; `position` is a byte in the file, `offset` a record number, None where unknown."""

    severity: Severity
    code: str
    path: Path
    position: int | None
    offset: int | None
    message: str

    @property
    def remedy(self) -> str:
        """What can be done about it."""
        return CODES[self.code].remedy

    def as_json(self) -> dict[str, object]:
        """The finding in the shape of `check --json`."""
        return {
            "severity": self.severity.value,
            "code": self.code,
            "path": str(self.path),
            "position": self.position,
            "offset": self.offset,
            "message": self.message,
            "remedy": self.remedy,
        }


def finding(
    code: str,
    path: Path,
    message: str,
    *,
    position: int | None = None,
    offset: int | None = None,
    severity: Severity | None = None,
) -> Finding:
    """Make a finding of a code, with the code's usual severity unless another is given."""
    return Finding(severity or CODES[code].severity, code, path, position, offset, message)


def codes_table() -> str:
    """The table of docs/damage.md, in Markdown."""
    rows = [f"| `{code}` | {e.severity} | {e.cause} | {e.remedy} |" for code, e in CODES.items()]
    return "\n".join(["| code | usually | cause | remedy |", "|---|---|---|---|", *rows])
