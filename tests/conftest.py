"""What every test may ask for: the directories that real brokers wrote, and proof that a directory was left alone.

One run tests one kernel: `LOGSTORE_KERNEL=compiled|python` chooses it, the header names it, `make check` runs both.
"""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from helpers.trees import snapshot
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parent.parent

# The same examples in every run, so that what passes once passes again; `make fuzz` looks for new ones.
settings.register_profile("repeatable", derandomize=not os.environ.get("LOGSTORE_NEW_EXAMPLES"), print_blob=True)
settings.load_profile("repeatable")

TreeUnchanged = Callable[[Path], AbstractContextManager[None]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kafka-fixtures",
        type=Path,
        default=REPOSITORY / "fixtures",
        metavar="PATH",
        help="directories that Kafka wrote, laid out as in fixtures/ (default: %(default)s)",
    )


def pytest_configure(config: pytest.Config) -> None:
    path: Path = config.getoption("kafka_fixtures")
    if not (path / "kafka-4.1.1" / "clean").is_dir():
        raise pytest.UsageError(f"--kafka-fixtures {path}: there is no kafka-4.1.1/clean in it")
    wanted = os.environ.get("LOGSTORE_KERNEL")
    try:
        used = kernel_name()
    except ImportError as error:
        raise pytest.UsageError(f"no kernel: {error}; is this tree installed, with a C compiler if it must?") from error
    if wanted and used != wanted:
        raise pytest.UsageError(f"LOGSTORE_KERNEL={wanted}, but the kernel that runs is {used}")
    # Processes that tests start use the same kernel, and do not warn of a missing compiler again.
    os.environ["LOGSTORE_KERNEL"] = used
    # What a shell starts in the background ignores Ctrl-C, and so would all that tests start and interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header(config: pytest.Config) -> list[str]:
    return [f"kernel: {kernel_name()}", f"kafka fixtures: {config.getoption('kafka_fixtures')}"]


def kernel_name() -> str:
    """The kernel in use. Where none was compiled its first import warns: here, not as an error of the first test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        from logstore.records.kernel import KERNEL_NAME
    return KERNEL_NAME


@pytest.fixture(scope="session")
def kafka_fixtures(pytestconfig: pytest.Config) -> Path:
    """The root of the directories that real brokers wrote; read only."""
    path: Path = pytestconfig.getoption("kafka_fixtures")
    return path.resolve()


@pytest.fixture(scope="session")
def tree_unchanged() -> TreeUnchanged:
    """A context manager for read-only work: `with tree_unchanged(directory): ...` fails if anything in it changed."""

    @contextmanager
    def unchanged(directory: Path) -> Iterator[None]:
        before = snapshot(directory)
        yield
        after = snapshot(directory)
        names = sorted(before.keys() | after.keys())
        changes = {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}
        assert not changes, f"{directory} was changed: {changes}"

    return unchanged
