"""The process that `torture.py` kills: it appends, cuts and rolls at random, and says what it was promised.

    python tests/torture_writer.py open DIRECTORY                           open the log, and wait
    python tests/torture_writer.py write DIRECTORY SEED RUN EPOCH TIMESTAMP  open it and go on

One line each on standard output, written at once: what was said before the kill was promised, what was not may have
happened or not; the intent to cut is said before. What it writes follows from run, generation and offset, so that no
record can be taken for another.

    ready                                              it begins to open the log
    open START END                                     the log is open
    a FIRST COUNT GENERATION PRODUCER EPOCH SEQUENCE   a batch was appended; producer -1 for none
    e PRODUCER EPOCH COMMIT                            a transaction was ended
    t OFFSET, T                                        it begins to truncate to OFFSET; it has
    s OFFSET, S                                        it begins to advance the log start to OFFSET; it has
"""

from __future__ import annotations

import os
import random
import signal
import sys

from logstore.config import Durability, LogConfig
from logstore.log import Log
from logstore.records import BatchOptions, Codec, encode_batch

CONFIG = LogConfig(
    segment_bytes=24_000, index_interval_bytes=500, flush_ms=20, file_delete_delay_ms=0, segment_index_bytes=2_000
)
PRODUCERS = (0, 1)
KEPT = 2_000
"""About how many offsets are kept: the rest goes by the log start."""
DURABILITIES: tuple[Durability, ...] = ("os", "os", "os", "os", "interval", "interval", "always")


def content(run: int, generation: int, offset: int) -> bytes:
    """The value that this offset gets in this run, after so many truncations."""
    return b"%d.%d.%d" % (run, generation, offset) + b"." * (offset * 31 % 120)


def batch(
    run: int,
    generation: int,
    first: int,
    count: int,
    timestamp: int,
    producer_id: int = -1,
    epoch: int = -1,
    sequence: int = -1,
) -> bytes:
    """A client's batch for these offsets; one of a producer belongs to its transaction."""
    records = [(b"k", content(run, generation, offset)) for offset in range(first, first + count)]
    options = BatchOptions(
        codec=(Codec.NONE, Codec.NONE, Codec.LZ4)[first % 3], producer_id=producer_id, producer_epoch=epoch,
        base_sequence=sequence, is_transactional=producer_id >= 0,
    )  # fmt: skip
    return bytes(encode_batch(records, timestamp=timestamp, options=options))


class Writer:
    """One run of this process: a log, and what is said of it."""

    def __init__(self, log: Log, choices: random.Random, run: int, epoch: int, timestamp: int) -> None:
        self.log = log
        self.choices = choices
        self.run = run
        self.epoch = epoch
        self.timestamp = timestamp
        self.generation = 0
        self.sequences: dict[int, int] = {}

    def step(self) -> None:
        """Do one thing."""
        chance = self.choices.random()
        if chance < 0.93:
            self.append()
        elif chance < 0.98:
            self.end_transaction(self.choices.choice(PRODUCERS), commit=self.choices.random() < 0.5)
        elif chance < 0.984:
            self.truncate()
        elif chance < 0.990:
            self.advance_log_start()
        else:
            self.choices.choice([self.log.roll, self.log.flush, self.log.maintain])()

    def append(self) -> None:
        first, count = self.log.log_end_offset, self.choices.randint(1, 5)
        producer_id = self.choices.choice([-1, -1, -1, *PRODUCERS])
        sequence = self.sequences.get(producer_id, 0) if producer_id >= 0 else -1
        epoch = self.epoch if producer_id >= 0 else -1
        data = batch(self.run, self.generation, first, count, self.timestamp, producer_id, epoch, sequence)
        self.log.append_batch(data, durability=self.choices.choice(DURABILITIES))
        self.sequences[producer_id] = sequence + count
        say(f"a {first} {count} {self.generation} {producer_id} {epoch} {sequence}")

    def begin_epoch(self) -> None:
        """Fence off what the producers sent before: their sequences begin anew."""
        self.epoch += 1
        self.sequences.clear()
        for producer_id in PRODUCERS:
            self.end_transaction(producer_id, commit=False)

    def end_transaction(self, producer_id: int, *, commit: bool) -> None:
        self.log.end_transaction(producer_id, self.epoch, commit=commit)
        say(f"e {producer_id} {self.epoch} {commit:d}")

    def truncate(self) -> None:
        offset = max(self.log.log_end_offset - self.choices.randint(0, 400), self.log.log_start_offset)
        say(f"t {offset}")
        self.log.truncate_to(offset)
        say("T")
        self.generation += 1
        self.begin_epoch()

    def advance_log_start(self) -> None:
        offset = self.log.log_end_offset - KEPT
        if offset > self.log.log_start_offset:
            say(f"s {offset}")
            self.log.advance_log_start(offset)
            say("S")
            self.log.delete_before_log_start()


def say(line: str) -> None:
    """One write, which a kill cannot tear."""
    os.write(1, line.encode() + b"\n")


def main(what: str, directory: str, *numbers: str) -> None:
    say("ready")
    log = Log.open(directory, CONFIG)
    say(f"open {log.log_start_offset} {log.log_end_offset}")
    if what == "open":
        signal.pause()
    seed, run, epoch, timestamp = map(int, numbers)
    writer = Writer(log, random.Random(f"{seed}.{run}"), run, epoch, timestamp)
    writer.begin_epoch()
    while True:
        writer.step()


if __name__ == "__main__":
    main(*sys.argv[1:])
