"""Which behaviours of Kafka's own tests ours cover: a table from the marks of the collected tests.

    python tests/conformance.py [--group GROUP ...]

An item of conformance_items.txt is covered by a test marked `@pytest.mark.kafka("INDEX-05")`, struck by a reason in
conformance_struck.toml, or open. Tests are collected in this process, not run; one that is always skipped or expected
to fail covers nothing. Exit 1 when a mark or a struck id is not in the list, or an item is both covered and struck.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tomllib
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
ITEMS = TESTS / "conformance_items.txt"
STRUCK = TESTS / "conformance_struck.toml"


@dataclass(slots=True)
class MarkCollector:
    """A pytest plugin: the ids of the tests that carry each conformance mark."""

    tests: dict[str, list[str]] = field(default_factory=dict)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            if any(item.iter_markers("skip")) or any(item.iter_markers("xfail")):
                continue
            name = item.nodeid.partition("[")[0]
            for mark in item.iter_markers("kafka"):
                for identifier in mark.args:
                    covering = self.tests.setdefault(identifier, [])
                    if name not in covering:
                        covering.append(name)


@dataclass(frozen=True, slots=True)
class Conformance:
    """The three lists that the report compares."""

    summaries: dict[str, str]
    struck: dict[str, str]
    tests: dict[str, list[str]]

    def groups(self) -> list[tuple[str, list[str]]]:
        return [(name, list(ids)) for name, ids in groupby(self.summaries, group_of)]

    def faults(self) -> list[str]:
        covered, struck = self.tests.keys(), self.struck.keys()
        faults = [
            f"{identifier}: marked by {self.tests[identifier][0]}, but not in {ITEMS.name}"
            for identifier in sorted(covered - self.summaries.keys())
        ]
        faults += [
            f"{identifier}: in {STRUCK.name}, but not in {ITEMS.name}"
            for identifier in sorted(struck - self.summaries.keys())
        ]
        faults += [
            f"{identifier}: struck, yet {self.tests[identifier][0]} covers it"
            for identifier in sorted(struck & covered)
        ]
        return faults

    def state(self, identifier: str) -> str:
        if identifier in self.tests:
            return "covered"
        return "struck" if identifier in self.struck else "open"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Print which behaviours of Kafka's own tests ours cover.")
    parser.add_argument("--group", action="append", metavar="GROUP", help="only this group, each item with its tests")
    chosen = parser.parse_args(arguments).group
    conformance = Conformance(read_items(), read_struck(), collect_marks())
    known = [name for name, _ in conformance.groups()]
    if unknown := set(chosen or ()) - set(known):
        parser.error(f"no such group: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    for name, ids in conformance.groups():
        if not chosen:
            print_group(conformance, name, ids)
        elif name in chosen:
            print_items(conformance, ids)
    print_table(conformance, chosen or known)
    faults = conformance.faults()
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return 1 if faults else 0


def read_items() -> dict[str, str]:
    """Summaries by id, in the order of the file; an id that stands there twice is an error."""
    summaries: dict[str, str] = {}
    for line in ITEMS.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        identifier, _, summary = line.partition(" ")
        if identifier in summaries:
            raise SystemExit(f"error: {identifier} stands twice in {ITEMS.name}")
        summaries[identifier] = summary
    return summaries


def read_struck() -> dict[str, str]:
    struck: dict[str, str] = tomllib.loads(STRUCK.read_text())
    return struck


def collect_marks() -> dict[str, list[str]]:
    """Collect all tests in this process, and show what pytest said only if it could not."""
    collector = MarkCollector()
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = pytest.main(["--collect-only", "-q", "--rootdir", str(TESTS.parent), str(TESTS)], plugins=[collector])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise SystemExit(f"{said.getvalue()}error: the tests could not be collected")
    return collector.tests


def group_of(identifier: str) -> str:
    return identifier.partition("-")[0]


def print_group(conformance: Conformance, name: str, ids: list[str]) -> None:
    """One line for each state that occurs in the group; a reason for each struck item."""
    states = {state: [one for one in ids if conformance.state(one) == state] for state in ("covered", "struck", "open")}
    print(name)
    for state in ("covered", "open"):
        if states[state]:
            print(f"  {state}: {ranges(states[state])}")
    for identifier in states["struck"]:
        print(f"  struck: {identifier} ({conformance.struck[identifier]})")


def print_items(conformance: Conformance, ids: list[str]) -> None:
    for identifier in ids:
        state = conformance.state(identifier)
        print(f"{identifier:<14}{state:<9}{conformance.summaries[identifier]}")
        if state == "struck":
            print(f"{'':<23}because: {conformance.struck[identifier]}")
        for test in conformance.tests.get(identifier, ()):
            print(f"{'':<23}{test}")


def print_table(conformance: Conformance, names: list[str]) -> None:
    row = "{:<12}{:>7}{:>9}{:>8}{:>7}".format
    print("\n" + row("group", "items", "covered", "struck", "open"))
    totals = [0, 0, 0, 0]
    for name, ids in conformance.groups():
        if name in names:
            states = [conformance.state(identifier) for identifier in ids]
            counts = [len(ids), states.count("covered"), states.count("struck"), states.count("open")]
            totals = [total + count for total, count in zip(totals, counts, strict=True)]
            print(row(name, *counts))
    print(row("total", *totals))


def ranges(ids: list[str]) -> str:
    """`INDEX-01..04, INDEX-07` for ascending ids of one group."""
    numbers = [int(identifier.partition("-")[2]) for identifier in ids]
    runs: list[list[str]] = []
    for position, identifier in enumerate(ids):
        if position and numbers[position] == numbers[position - 1] + 1:
            runs[-1].append(identifier)
        else:
            runs.append([identifier])
    return ", ".join(run[0] if len(run) == 1 else f"{run[0]}..{run[-1].partition('-')[2]}" for run in runs)


if __name__ == "__main__":
    sys.exit(main())
