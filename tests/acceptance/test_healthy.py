"""No false alarm: nothing that a real broker wrote gives damage or a warning, however it is handed over."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.commands import logstore
from helpers.directories import alarms, copied
from helpers.fixtures import log_directories, partition_directories

LOG_DIRECTORIES_MIN, PARTITIONS_MIN, FILES_MIN = 7, 50, 800


def test_every_log_directory_is_healthy(kafka_fixtures: Path) -> None:
    found = log_directories(kafka_fixtures)
    for path in found:
        assert alarms(path) == [], path
        assert logstore("check", "--fail-on", "warning", "--quiet", path).out == b"", path
    assert len(found) >= LOG_DIRECTORIES_MIN


def test_every_partition_is_healthy_where_it_lies_and_copied_out_alone(kafka_fixtures: Path, tmp_path: Path) -> None:
    found = list(partition_directories(kafka_fixtures))
    for number, path in enumerate(found):
        alone = copied(path, tmp_path / str(number))
        assert alarms(path) == [], path
        assert alarms(alone) == [], path
        assert alarms(alone.rename(alone.with_name("renamed"))) == [], path
    assert len(found) >= PARTITIONS_MIN


def test_every_file_is_healthy_where_it_lies_and_every_segment_copied_out_alone(
    kafka_fixtures: Path, tmp_path: Path
) -> None:
    checked = 0
    for path in partition_directories(kafka_fixtures):
        # An index that waits for deletion may be there without its log, which went first.
        for file in (one for one in path.iterdir() if one.with_suffix("").suffix not in (".index", ".timeindex")):
            assert alarms(file) == [], file
            if file.suffix == ".log":
                bare = tmp_path / file.name
                bare.write_bytes(file.read_bytes())
                assert alarms(bare) == [], file
                bare.unlink()
            checked += 1
    assert checked >= FILES_MIN


@pytest.mark.parametrize("command", ["dump", "describe"])
def test_every_log_directory_is_dumped_and_described_without_damage(kafka_fixtures: Path, command: str) -> None:
    for path in log_directories(kafka_fixtures):
        result = logstore(command, "--json", "--quiet", path)
        assert result.code == 0, path
        assert "preallocated" in result.err or result.err == "", path
