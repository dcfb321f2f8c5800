"""Open a log in a process of its own, and print as JSON what that took.

    python benchmarks/measure_open.py memory DIRECTORY
    python benchmarks/measure_open.py read DIRECTORY DESCRIPTORS

`memory`: the anonymous memory of the process before and after opening, in KiB. `read`: how long opening and reading
through took, in seconds, with at most so many open descriptors, and how many records there were.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import time
from pathlib import Path

from logstore.config import LogConfig
from logstore.log.log import Log

CONFIG = LogConfig(retention_ms=-1)


def main(mode: str, directory: str, descriptors: int = 0) -> None:
    if mode == "memory":
        print(json.dumps(memory_of(directory)))
    else:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
        print(json.dumps(time_to_read(directory)))


def memory_of(directory: str) -> dict[str, int]:
    gc.collect()
    before = anonymous_kib()
    log = Log.open(directory, CONFIG)
    gc.collect()
    after = anonymous_kib()
    log.close()
    return {"before_kib": before, "after_kib": after}


def time_to_read(directory: str) -> dict[str, float]:
    start = time.perf_counter()
    log = Log.open(directory, CONFIG)
    opened = time.perf_counter()
    records = sum(1 for _ in log.records(0))
    read = time.perf_counter()
    log.close()
    return {"open_s": opened - start, "read_s": read - opened, "records": records}


def anonymous_kib() -> int:
    """Pages of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
