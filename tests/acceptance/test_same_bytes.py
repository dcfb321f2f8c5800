"""The same batches in the same appends give the files that a broker wrote, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from logstore.config import LogConfig
from logstore.log import Log, ProducerSnapshot, parse_leader_epoch_checkpoint
from logstore.names import FileKind, classify_file
from logstore.records import BatchScanner, BytesSource, RecordBatch

CLEAN = Path(__file__).resolve().parents[2] / "fixtures" / "kafka-4.1.1" / "clean"
SMALL = {"segment_bytes": 16384, "index_interval_bytes": 512}
# Topics whose batches were all appended between one start of their broker and its stop, each in an append of its own.
SETTINGS = {
    "plain-0": {},
    "append-time-0": {},
    "idempotent-0": {},
    "segments-0": SMALL,
    "txn-0": SMALL,
    **{f"{codec}-{who}-0": {} for codec in ("gzip", "snappy", "lz4", "zstd") for who in ("client", "broker")},
}


def batches_of(directory: Path) -> list[bytes]:
    found = []
    for path in sorted(directory.glob("*.log")):
        for one in BatchScanner(BytesSource(path.read_bytes())):
            assert isinstance(one, RecordBatch)
            found.append(bytes(one.raw))
    return found


def content(directory: Path) -> dict[str, object]:
    """The files that Kafka knows, by name; snapshots without the order of their entries, which means nothing."""
    found: dict[str, object] = {}
    for path in sorted(directory.iterdir()):
        kind = classify_file(path.name).kind
        if kind in (FileKind.OTHER, FileKind.LOCK, FileKind.PARTITION_METADATA):
            continue
        data = path.read_bytes()
        found[path.name] = set(ProducerSnapshot.decode(data).entries) if kind == FileKind.PRODUCER_SNAPSHOT else data
    return found


def reign_on(log: Log, directory: Path) -> None:
    """Begin the epochs of leaders that came later and appended nothing."""
    for epoch, start in parse_leader_epoch_checkpoint((directory / "leader-epoch-checkpoint").read_bytes()):
        if start >= log.log_end_offset:
            log.append_epoch(epoch, start)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_follower_writes_the_files_that_the_broker_wrote(name: str, tmp_path: Path) -> None:
    config = LogConfig(segment_index_bytes=65536, **SETTINGS[name])  # type: ignore[arg-type]
    with Log.open(tmp_path / name, config) as log:
        for batch in batches_of(CLEAN / name):
            log.append_as_follower(batch)
        reign_on(log, CLEAN / name)
    ours, theirs = content(tmp_path / name), content(CLEAN / name)
    assert ours.keys() == theirs.keys()
    for file, data in theirs.items():
        assert ours[file] == data, file


@pytest.mark.parametrize("name", ["plain-0", "segments-0", "lz4-client-0"])
def test_a_leader_numbers_and_stamps_batches_as_the_broker_did(name: str, tmp_path: Path) -> None:
    config = LogConfig(
        segment_index_bytes=65536, message_timestamp_after_max_ms=2**63 - 1, **SETTINGS[name]  # type: ignore[arg-type]
    )
    with Log.open(tmp_path / name, config) as log:
        for batch in batches_of(CLEAN / name):
            # As its producer sent it: base offset 0 and no leader epoch, neither of which the CRC covers.
            log.append_batch(bytes(8) + batch[8:12] + b"\xff" * 4 + batch[16:])
        reign_on(log, CLEAN / name)
    ours, theirs = content(tmp_path / name), content(CLEAN / name)
    assert ours == theirs
