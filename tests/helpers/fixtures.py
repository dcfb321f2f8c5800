"""What is where in the directories that real brokers wrote: log directories, and what Kafka said of them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A consumer's views of one folder belong to the log directories beside it.
VIEWS = {
    "kafka-4.1.1/expected/consumer": ("kafka-4.1.1/clean", "kafka-4.1.1/live"),
    "kafka-4.1.1/expected/consumer-after-kill": ("kafka-4.1.1/killed",),
    "kafka-2.8.2/expected/consumer": ("kafka-2.8.2/clean",),
    "kafka-2.8.2/expected/consumer-after-compaction": ("kafka-2.8.2/compacted",),
}
RELEASES = ("kafka-4.1.1", "kafka-2.8.2")


@dataclass(frozen=True, slots=True)
class View:
    """What a real consumer was given of a partition."""

    file: Path
    partition: Path
    isolation: str

    @property
    def head(self) -> dict[str, Any]:
        """Low and high offset, count and isolation level."""
        return self._read()[0]

    @property
    def records(self) -> list[dict[str, Any]]:
        return self._read()[1:]

    def _read(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in gzip.decompress(self.file.read_bytes()).splitlines()]


def consumer_views(root: Path) -> Iterator[View]:
    """Each view, with each partition directory it speaks of that is there."""
    places = {root / view: [root / log for log in logs] for view, logs in VIEWS.items()}
    places |= {view: [view.parent / "data"] for view in root.glob("compaction-*/*/consumer")}
    for folder, logs in sorted(places.items()):
        for file in sorted(folder.glob("*.jsonl.gz")):
            name, _, isolation = file.name.removesuffix(".jsonl.gz").rpartition(".")
            for log in logs:
                if (log / name).is_dir():
                    yield View(file, log / name, isolation)


def log_directories(root: Path) -> list[Path]:
    """Every log directory that a broker wrote."""
    return sorted(path.parent for path in root.rglob("meta.properties"))


def partition_directories(root: Path) -> Iterator[Path]:
    """Every partition directory, those waiting for deletion included."""
    for directory in log_directories(root):
        yield from sorted(path for path in directory.iterdir() if path.is_dir())


def stock_words(root: Path, suffix: str) -> Iterator[tuple[Path, list[str]]]:
    """Each file of this suffix that the stock tool was run on, with the lines it printed."""
    for release in RELEASES:
        folder = root / release / "expected" / "dump"
        for words in sorted(folder.rglob(f"*{suffix}.txt.gz")):
            path = root / release / "clean" / words.relative_to(folder).parent / words.name.removesuffix(".txt.gz")
            yield path, [line for line in gzip.decompress(words.read_bytes()).decode().split("\n") if line]
