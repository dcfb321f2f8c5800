"""The option and the order of the benchmarks, how they tidy up, and what every saved run says about itself."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--large", action="store_true", help="let the log grow to 2 GB where a benchmark grows it")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "starts_threads: runs after the others, which want a process without threads")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("starts_threads") is not None)


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    from logstore.records.kernel import KERNEL_NAME

    machine_info["logstore_kernel"] = KERNEL_NAME


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[contextlib.ExitStack]:
    """Closes what is entered, then removes the files: pytest keeps those of three runs, and these are gigabytes."""
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, tmp_path)
        yield stack
