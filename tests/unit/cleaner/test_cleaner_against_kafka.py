"""What Kafka's own cleaner has left of a log, ours leaves too: the same records for consumers, pass by pass."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers.fixtures import View, consumer_views

from logstore.cleaner import Cleaner
from logstore.config import LogConfig
from logstore.inspect import CheckOptions, Severity, check, resolve
from logstore.log import FetchIsolation, Log, parse_offset_checkpoint
from logstore.names import parse_partition_directory

PASSES = {"0-before": "1-cleaned", "2-more-written": "3-cleaned-again"}
CONFIG = LogConfig(segment_bytes=16384, index_interval_bytes=512, file_delete_delay_ms=0)
ISOLATIONS = {"read_uncommitted": FetchIsolation.LOG_END, "read_committed": FetchIsolation.TXN_COMMITTED}
LONG_AGO, LONG_AFTER = 1, 10**14  # no delete horizon has passed, and each


def cleanings(root: Path) -> Iterator[tuple[Path, View]]:
    """Each partition before a pass of Kafka's cleaner, and a consumer's view of it behind that."""
    for view in consumer_views(root):
        release = view.partition.parent.parent
        for before, after in PASSES.items():
            partition = release.parent / before / "data" / view.partition.name
            if release.name == after and partition.is_dir():
                yield partition, view


def copied(partition: Path, target: Path) -> Path:
    """A partition with the checkpoints of its log directory, to be worked on."""
    target.mkdir()
    for file in partition.parent.iterdir():
        if file.is_file():
            shutil.copyfile(file, target / file.name)
    shutil.copytree(partition, target / partition.name, copy_function=shutil.copyfile)
    return target / partition.name


def as_consumed(log: Log, isolation: FetchIsolation) -> list[dict[str, Any]]:
    def text(data: bytes | None) -> str | None:
        return None if data is None else base64.b64encode(data).decode()

    return [
        {"offset": one.offset, "timestamp": one.timestamp, "key": text(one.key), "value": text(one.value)}
        for one in log.records(isolation=isolation)
    ]


def test_consumers_see_what_they_see_after_kafkas_cleaner(kafka_fixtures: Path, tmp_path: Path) -> None:
    compared = 0
    for number, (partition, view) in enumerate(cleanings(kafka_fixtures)):
        place = copied(partition, tmp_path / str(number))
        expires = partition.name.startswith("expire")
        config = replace(CONFIG, delete_retention_ms=1500 if expires else 86_400_000)
        with Log.open(place, config) as log:
            stats = Cleaner(drops_unkeyed=True).clean(log, now_ms=LONG_AFTER if expires else LONG_AGO)
            found = as_consumed(log, ISOLATIONS[view.isolation])
        wanted = [{name: one[name] for name in found[0]} for one in view.records]
        assert found == wanted, partition
        points = parse_offset_checkpoint((view.partition.parent / "cleaner-offset-checkpoint").read_bytes())
        identity = parse_partition_directory(partition.name).topic_partition
        assert stats.end_offset == stats.uncleanable_offset == points[identity]
        ours = parse_offset_checkpoint((place.parent / "cleaner-offset-checkpoint").read_bytes())
        assert ours[identity] == stats.end_offset
        alarms = [str(one) for one in check(resolve(place), CheckOptions()) if one.severity != Severity.NOTE]
        assert alarms == [], partition
        compared += len(found)
    assert compared
