"""What is on disk beside the records, held against a `LogModel`."""

from __future__ import annotations

from pathlib import Path

from logstore.log import ProducerSnapshot
from logstore.names import producer_snapshot_file_name
from logstore.testing import LogModel, MemoryFileSystem


def check_producers(fs: MemoryFileSystem, directory: Path, model: LogModel) -> None:
    """The snapshot that a close has left has the producers of the model, as far as that is certain."""
    path = directory / producer_snapshot_file_name(model.log_end_offset)
    if not fs.exists(path):
        return
    found = {one.producer_id: one for one in ProducerSnapshot.decode(fs.read_bytes(path)).entries}
    known = model.producers.known
    strangers = found.keys() - known.keys() - model.producers.expired.keys()
    assert not strangers, f"{strangers} are not known"
    for producer_id, one in known.items():
        if one.certain:
            entry = found[producer_id]
            state = one.epoch, one.last_sequence, one.coordinator_epoch, one.transaction_start
            assert state == (
                entry.producer_epoch, entry.last_sequence, entry.coordinator_epoch,
                entry.current_transaction_first_offset,
            ), f"{entry}, not {one}"  # fmt: skip
