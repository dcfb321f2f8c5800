"""Anonymous memory stays small however large the file, and descriptors few however many the segments."""

from __future__ import annotations

import re
import resource
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from by_hand import batch, zeros_by_zstd
from helpers.commands import PROGRAM, environment, process
from helpers.directories import START

from logstore.records import BATCH_BYTES_MAX, KERNEL_NAME, BatchOptions, Codec, encode_batch

MIB = 1 << 20
RSS_ANON_MAX = 150 * MIB
IS_COMPILED = KERNEL_NAME == "compiled"
FILE_BYTES = (320 if IS_COMPILED else 24) * MIB
BATCH_BYTES = 16 * 1024
SEGMENTS = 10_000
STATUS = re.compile(rb"^RssAnon:\s+(\d+) kB", re.MULTILINE)
LOG = "00000000000000000000.log"


def peak_rss_anon(*arguments: object) -> tuple[int, int]:
    """Run a command; the most anonymous memory it was seen with, in bytes, and its exit code."""
    command = [*PROGRAM, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()) as running:
        peak = 0
        status = Path(f"/proc/{running.pid}/status")
        while running.poll() is None:
            found = STATUS.search(status.read_bytes())
            peak = max(peak, int(found[1]) * 1024 if found else 0)
            time.sleep(0.002)
    return peak, running.returncode


@pytest.fixture(scope="module")
def _measurable() -> None:
    try:
        is_told = STATUS.search(Path("/proc/self/status").read_bytes()) is not None
    except OSError:
        is_told = False
    if not is_told:
        pytest.skip("this system does not tell anonymous memory")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, _measurable: None) -> Iterator[Path]:
    """A partition with one segment of batches that differ in nothing but their offsets."""
    path = tmp_path_factory.mktemp("large") / "large-0"
    path.mkdir()
    records = [(b"key-%08d" % number, b"v" * 100, START) for number in range(BATCH_BYTES // 122)]
    one = encode_batch(records)
    with open(path / LOG, "wb") as file:
        for first in range(0, FILE_BYTES // len(one), 64):
            many = one * 64
            for number in range(64):
                struct.pack_into(">q", many, number * len(one), (first + number) * len(records))
            file.write(many)
    yield path
    (path / LOG).unlink()


@pytest.mark.parametrize(
    "command",
    [
        ["dump"],
        ["dump", "--json"],
        ["dump", "--tail", "10"],
        ["dump", "--batches", "--json"],
        ["dump", "--count", "--key-regex", "9$"],
        ["dump", "--isolation", "read_committed", "--count"],
        ["check"],
        ["describe"],
    ],
    ids=" ".join,
)
def test_a_large_file_takes_little_memory(large: Path, command: list[str]) -> None:
    peak, code = peak_rss_anon(*command, large)
    assert code == 0
    assert peak < RSS_ANON_MAX, f"{peak / MIB:.0f} MiB"


def write_segment(tmp_path: Path, *batches: bytes | bytearray) -> Path:
    log = tmp_path / LOG
    log.write_bytes(b"".join(batches))
    return log


NEARLY = BATCH_BYTES_MAX - MIB // 16  # what a batch at the cap holds beside its header
LARGE_BATCHES = {
    "one record": lambda: encode_batch([(b"k", b"v" * NEARLY, START)]),
    "one record that grows sixfold as text": lambda: encode_batch([(b"k", bytes(NEARLY), START)]),
    "one record that is not UTF-8": lambda: encode_batch([(b"k", b"\xff" * NEARLY, START)]),
    "many records": lambda: encode_batch([(b"k", b"v" * 1000, START) for _ in range(NEARLY // 1010)]),
    "many small records": lambda: encode_batch([(b"k", b"v", START) for _ in range(NEARLY // 13)]),
    "many compressed records": lambda: encode_batch(
        [(b"k", b"v" * 1000, START) for _ in range(NEARLY // 1010)], options=BatchOptions(codec=Codec.ZSTD)
    ),
    "one compressed record": lambda: encode_batch(
        [(b"k", b"v" * NEARLY, START)], options=BatchOptions(codec=Codec.GZIP)
    ),
    "one snappy record": lambda: encode_batch([(b"k", b"v" * NEARLY, START)], options=BatchOptions(codec=Codec.SNAPPY)),
    "one lz4 record": lambda: encode_batch([(b"k", b"v" * NEARLY, START)], options=BatchOptions(codec=Codec.LZ4)),
}


@pytest.mark.usefixtures("_measurable")
@pytest.mark.parametrize("kind", LARGE_BATCHES)
def test_a_batch_as_large_as_the_cap_takes_little_memory(tmp_path: Path, kind: str) -> None:
    if not IS_COMPILED and kind != "many records":
        pytest.skip("takes a minute in plain Python")
    log = write_segment(tmp_path, LARGE_BATCHES[kind]())
    commands = [["dump"], ["dump", "--json"], ["check"], ["describe"]]
    if kind.startswith("one"):
        commands += [["dump", "--tail", "1"]]
    if kind == "one record":
        commands += [["dump", "--format", "csv"], ["dump", "--format", "raw"]]
    peaks = {}
    for command in commands:
        peak, code = peak_rss_anon(*command, log)
        peaks[" ".join(command)] = f"{peak / MIB:.0f} MiB"
        assert code == 0, command
        assert peak < RSS_ANON_MAX, peaks


BOMBS = {
    "zstd": lambda: batch(body=zeros_by_zstd(4 << 30), attributes=4, count=1),
    "gzip": lambda: encode_batch([(b"k", bytes(400 * MIB), START)], options=BatchOptions(codec=Codec.GZIP)),
    "lz4": lambda: encode_batch([(b"k", bytes(200 * MIB), START)], options=BatchOptions(codec=Codec.LZ4)),
    "snappy": lambda: encode_batch([(b"k", bytes(200 * MIB), START)], options=BatchOptions(codec=Codec.SNAPPY)),
    "a claim of two billion records": lambda: batch(body=b"", count=2**31 - 1, last_offset_delta=2**31 - 2),
}


@pytest.mark.usefixtures("_measurable")
@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_a_clear_error_and_takes_little_memory(tmp_path: Path, kind: str) -> None:
    log = write_segment(tmp_path, BOMBS[kind](), encode_batch([(b"k", b"behind")], base_offset=2**31 - 1))
    for command in (["dump", "--json"], ["check", "--fail-on", "warning"], ["describe"]):
        peak, code = peak_rss_anon(*command, log)
        assert code in (0, 1), command
        assert peak < RSS_ANON_MAX, f"{command}: {peak / MIB:.0f} MiB"
    done = process("dump", "--format", "raw", log)
    assert (done.returncode, done.stdout) == (1, b"behind\n")


@pytest.mark.usefixtures("_measurable")
def test_a_batch_above_the_cap_is_never_held(tmp_path: Path) -> None:
    log = write_segment(tmp_path, encode_batch([(b"k", b"v" * (300 * MIB), START)]))
    for command in ("dump", "check", "describe"):
        peak, _ = peak_rss_anon(command, log)
        assert peak < RSS_ANON_MAX, f"{command}: {peak / MIB:.0f} MiB"


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A partition of ten thousand segments with one record each."""
    path = tmp_path_factory.mktemp("many") / "many-0"
    path.mkdir()
    one = encode_batch([(b"k", b"v", START)])
    for offset in range(SEGMENTS):
        struct.pack_into(">q", one, 0, offset)
        (path / f"{offset:020d}.log").write_bytes(one)
        (path / f"{offset:020d}.index").touch()
        (path / f"{offset:020d}.timeindex").write_bytes(struct.pack(">qi", START, 0))
    return path


def few_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["dump", "--count"], b"10000\n"),
        (["dump", "--isolation", "read_committed", "--count"], b"10000\n"),
        (["dump", "--offsets", "9999:", "--format", "raw"], b"v\n"),
        (["check"], b" 10000 segments, 10000 batches"),
        (["describe"], b"  segments      10000, "),
    ],
    ids=str,
)
def test_ten_thousand_segments_need_few_descriptors_and_seconds(many: Path, command: list[str], said: bytes) -> None:
    began = time.monotonic()
    done = process(*command, many, preexec_fn=few_descriptors)
    assert (done.returncode, done.stderr) == (0, b"")
    assert said in done.stdout
    assert time.monotonic() - began < 20
