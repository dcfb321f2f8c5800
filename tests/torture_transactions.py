"""Processes that copy from one topic to another in transactions, and are killed, as are those who write and look on.

Copiers are members of a group; each sends what it was handed and the offsets of it in one transaction, aborts some of
these, and takes its transactional id from others now and then. Whatever happens, a committed reader must find each
record once, those of a key in order (`judge_copies`), also one who looks on all the time. In the end the copiers alone
must come to the end.
"""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

from torture_crew import Crew, Journal, keep_house, play
from torture_groups import write
from torture_processes import Numbered, contents_of, judge_log, wrongs

from logstore.errors import FencedMemberError, InvalidTransactionStateError, ProducerFencedError
from logstore.groups import OffsetAndMetadata
from logstore.queue import Consumer, OffsetsStore, Producer
from logstore.store import Store
from logstore.transactions import TransactionCoordinator

SOURCE, TARGET, PARTITIONS, GROUP = "torture", "copies", 4, "copiers"
ROLES = {"writer": 2, "copier": 4, "reader": 2, "keeper": 1}
IDS = 5
"""So many transactional ids; more than copiers, so that not all fence each other all the time."""


@dataclasses.dataclass(slots=True)
class TransactionTally:
    """What came of it.

    Attributes:
        copied: records that are there once.
        written: records in the target, with those of aborted transactions.
        committed, aborted: transactions whose end was told.
        fenced: how often a copier had lost its id or its partitions.
    """

    kills: int = 0
    acknowledged: int = 0
    copied: int = 0
    written: int = 0
    committed: int = 0
    aborted: int = 0
    fenced: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)


def torture_transactions(directory: Path, seed: int, seconds: float) -> TransactionTally:
    """Run and kill copiers on a store in `directory` for so long; what came of it."""
    crew = Crew(Path(__file__), directory, ROLES, seed)
    crew.look(lambda store: [store.create_topic(one, PARTITIONS) for one in (SOURCE, TARGET)])
    with crew:
        crew.run(seconds)
        crew.kill_all(but="copier")
        crew.wait("records that were not copied", is_all_copied)
    lines = list(crew.lines())
    source = crew.look(lambda store: contents_of(store, SOURCE))
    target = crew.look(committed_of)
    told = [line[0] for line in lines]
    written = crew.look(lambda store: sum(map(len, contents_of(store, TARGET))))
    tally = TransactionTally(
        crew.kills, told.count("ack"), sum(map(len, target)), written, told.count("committed"), told.count("aborted"),
        told.count("fenced"),
    )  # fmt: skip
    tally.problems += crew.problems + judge_log(source, lines) + judge_copies(source, target) + wrongs(lines)
    tally.problems += crew.look(stuck)
    if not tally.copied:
        tally.problems.append("nothing was copied")
    return tally


def is_all_copied(store: Store) -> bool:
    """Whether the group has committed the ends of all partitions."""
    committed = OffsetsStore(store).committed(GROUP)
    nothing = OffsetAndMetadata(0)
    return all(committed.get(one.name, nothing).offset == one.log_end_offset for one in store.partitions(SOURCE))


def committed_of(store: Store) -> list[list[Numbered]]:
    """What committed readers find in the target, by partition."""
    found: list[list[Numbered]] = [[] for _ in range(PARTITIONS)]
    with Consumer(store, TARGET, isolation="read_committed") as consumer:
        for one in consumer.records(until_end=True):
            found[one.partition].append(Numbered(one.key.decode(), int(one.value.split()[0]), one.offset))
    return found


def stuck(store: Store) -> list[str]:
    """The partitions that keep committed readers waiting, though nobody is at work any more."""
    coordinator = TransactionCoordinator(store)
    for one in store.partitions(TARGET):
        coordinator.settle(one)
    return [
        f"{one.name} is open from {one.last_stable_offset} on, of {one.log_end_offset}"
        for one in store.partitions(TARGET)
        if one.last_stable_offset != one.log_end_offset
    ]


def judge_copies(source: list[list[Numbered]], target: list[list[Numbered]]) -> list[str]:
    """Whether each record of the source is in the target once, and nothing else; what is wrong.

    Args:
        source, target: the contents of each partition, of the latter what was committed.
    """
    wanted = {(one.key, one.number) for records in source for one in records}
    found = {(one.key, one.number) for records in target for one in records}
    lost = [f"{key} {number} was never copied" for key, number in sorted(wanted - found)]
    foreign = [f"{key} {number} was copied, and is not in the source" for key, number in sorted(found - wanted)]
    return judge_log(target, []) + lost + foreign


# ---------------------------------------------------------------- what the processes do


class _Unlucky(Exception):
    """A transaction that is to be aborted."""


def copy(store: Store, journal: Journal, name: str) -> None:
    """Copy for ever, as one member and one producer after the other."""
    chance = random.Random(name)
    while True:
        try:
            _copy_for_a_while(store, journal, name, chance)
        except (ProducerFencedError, InvalidTransactionStateError) as error:
            journal.tell("fenced", name, type(error).__name__)


def _copy_for_a_while(store: Store, journal: Journal, name: str, chance: random.Random) -> None:
    transactional_id = f"copier {chance.randrange(IDS)}"
    with (
        Producer(store, transactional_id=transactional_id, batch_size=chance.choice((500, 100_000))) as producer,
        Consumer(
            store, SOURCE, group=GROUP, enable_auto_commit=False, max_poll_records=chance.choice((1, 20, 500))
        ) as consumer,
    ):
        for _ in range(chance.randrange(10, 1000)):
            messages = consumer.poll(0.1) if chance.random() < 0.5 else []
            try:
                with producer.transaction(consumer):
                    for one in messages or consumer.poll(0.1):
                        producer.send(TARGET, one.value, key=one.key)
                    if chance.random() < 0.1:
                        producer.flush()
                        raise _Unlucky
                journal.tell("committed", name)
            except _Unlucky:
                journal.tell("aborted", name)
            except FencedMemberError:
                journal.tell("fenced", name, "member")


def look_on(store: Store, journal: Journal, name: str) -> None:
    """Read what was committed, for ever, and complain of what is there twice or not in order."""
    with Consumer(store, TARGET, isolation="read_committed", metadata_interval_ms=50) as consumer:
        last: dict[bytes, int] = {}
        for one in consumer:
            number = int(one.value.split()[0])
            if number <= last.get(one.key, -1):
                where = f"{one.partition}:{one.offset}"
                journal.tell("wrong", name, f"{one.key.decode()} {number} at {where}, behind {last[one.key]}")
            last[one.key] = number


if __name__ == "__main__":
    play({"writer": write, "copier": copy, "reader": look_on, "keeper": keep_house})
