"""Make the segment that the whole-process benchmarks read.

    python benchmarks/make_segment.py OUT_DIR [--mib 256] [--batch-bytes 16384]

Writes OUT_DIR/bench-0/00000000000000000000.log: uncompressed v2 batches of distinct keyed records, each batch a
millisecond after the one before. 256 MiB hold about 2.2 million records. There are no indexes: nothing here needs them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from workload import BATCH_BYTES, TIMESTAMP, pairs, records_per_batch

from logstore.records import encode_batch


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the segment that the whole-process benchmarks read.")
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR")
    parser.add_argument("--mib", type=int, default=256, help="size of the segment (default: %(default)s)")
    parser.add_argument("--batch-bytes", type=int, default=BATCH_BYTES["16KiB"], help="default: %(default)s")
    arguments = parser.parse_args()
    path, records = make_segment(arguments.out_dir, arguments.mib * 1024 * 1024, arguments.batch_bytes)
    print(f"{path}: {path.stat().st_size:,} bytes, {records:,} records")
    return 0


def make_segment(out_dir: Path, segment_bytes: int, batch_bytes: int) -> tuple[Path, int]:
    """Write the segment; returns its path and how many records it holds. A complete file appears, or none."""
    path = out_dir / "bench-0" / "00000000000000000000.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    count = records_per_batch(batch_bytes)
    offset = size = 0
    with unfinished.open("wb") as file:
        while True:
            batch = encode_batch(pairs(offset, count), base_offset=offset, timestamp=TIMESTAMP + offset // count)
            if size + len(batch) > segment_bytes:
                break
            size += file.write(batch)
            offset += count
    unfinished.replace(path)
    return path, offset


if __name__ == "__main__":
    sys.exit(main())
