"""`logstore queue`."""

from __future__ import annotations

import base64
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from logstore.config import Durability
from logstore.errors import LogstoreError, UnknownTopicError
from logstore.inspect import printable
from logstore.queue import Job, JobId, WorkQueue
from logstore_cli.lines import InputLines
from logstore_cli.options import Outcome, parse_span, say
from logstore_cli.stores import json_option, open_store, store_argument
from logstore_cli.writing import print_object

EPILOG = """\b
Examples:
  logstore queue put /srv/queue mails 'to anna'
  logstore queue put --delay 1h --unique daily /srv/queue mails < jobs
  logstore queue get --json --visibility 5m /srv/queue mails
  logstore queue ack /srv/queue mails 0-17-1
"""

_ID = re.compile(r"([0-9]{1,3})-([0-9]{1,19})-([0-9]{1,5})")

_name_argument = click.argument("name", metavar="QUEUE")
_ids_argument = click.argument("ids", nargs=-1, required=True, metavar="ID...")
_durability_option = click.option(
    "--durability", type=click.Choice(["os", "interval", "always"]), default="always", show_default=True,
    help="When it counts as done.",
)  # fmt: skip


@click.group("queue", epilog=EPILOG)
def command() -> None:
    """Jobs of a work queue: put, get, acknowledge or give back, count.

    A job that `get` has printed is not given to others until its visibility runs out, or `nack` gives it back; `ack`
    and `nack` take the ids that `get` has printed. Works beside programs that have the queue open.
    """


@command.command("put")
@store_argument
@_name_argument
@click.argument("value", required=False)
@click.option("--delay", type=parse_span, default="0s", metavar="T", help="Not before so long: 90s, 2h, 7d.")
@click.option("--priority", type=click.IntRange(0, 99), default=0, metavar="N", help="Higher ones are given first.")
@click.option("--unique", metavar="KEY", help="Not while an unfinished job has this key.")
@_durability_option
@json_option
def put(
    path: Path, name: str, value: str | None, delay: int, priority: int, unique: str | None, durability: Durability,
    as_json: bool,
) -> int:  # fmt: skip
    """Put VALUE, or each line of stdin, as a job; the queue and the store are made where there are none."""
    outcome = Outcome()
    with (
        outcome.reported(path),
        open_store(path, create=True) as store,
        WorkQueue(store, name, durability=durability, priorities=priority + 1, detached=True) as queue,
    ):
        for content in InputLines.of_stdin() if value is None else [value.encode("utf-8", "surrogateescape")]:
            done = queue.put(content, delay=delay / 1000, priority=priority, unique=unique)
            if as_json:
                print_object({"id": f"{done.priority}-{done.offset}", "duplicate": done.is_duplicate})
            else:
                print(f"{done.priority}-{done.offset}{' is there already' * done.is_duplicate}")
    return outcome.exit_code


@command.command("get")
@store_argument
@_name_argument
@click.option(
    "--max", "limit", type=click.IntRange(1, 10_000), default=1, show_default=True, metavar="N", help="How many."
)
@click.option("--timeout", type=click.FloatRange(min=0), default=0.0, metavar="SECONDS", help="Wait so long for one.")
@click.option("--visibility", type=parse_span, default="30s", show_default=True, metavar="T", help="For how long.")
@click.option(
    "--max-deliveries", type=click.IntRange(1, 65_535), default=5, show_default=True, metavar="N",
    help="More often delivered, a job goes to the topic QUEUE.dead.",
)  # fmt: skip
@_durability_option
@json_option
def get(
    path: Path, name: str, limit: int, timeout: float, visibility: int, max_deliveries: int, durability: Durability,
    as_json: bool,
) -> int:  # fmt: skip
    """Take jobs, and print each with its id. Nothing is printed where there are none."""
    if not visibility:
        raise click.BadParameter("no time is left to work", param_hint="--visibility")
    outcome = Outcome()
    options = {"visibility_timeout": visibility / 1000, "max_deliveries": max_deliveries}
    with outcome.reported(path), _opened(path, name, durability=durability, **options) as queue:
        for job in queue.get(timeout, n=limit):
            identity = f"{job.priority}-{job.record.offset}-{job.delivery_count}"
            if as_json:
                print_object({"id": identity, "value": _text(job.value), "attempt": job.delivery_count})
            else:
                print(f"{identity}\t{printable((job.value or b'').decode('utf-8', 'surrogateescape'))}")
            sys.stdout.flush()
    return outcome.exit_code


@command.command("ack")
@store_argument
@_name_argument
@_ids_argument
@_durability_option
def ack(path: Path, name: str, ids: tuple[str, ...], durability: Durability) -> int:
    """Jobs are done. Exit code 3 where one was given to somebody else meanwhile, or is finished."""
    outcome = Outcome()
    with outcome.reported(path), _opened(path, name, durability=durability) as queue:
        _settle(outcome, queue, ids, lambda job: job.ack())
    return outcome.exit_code


@command.command("nack")
@store_argument
@_name_argument
@_ids_argument
@click.option("--delay", type=parse_span, default="0s", metavar="T", help="Available again only after so long.")
@click.option("--reject", is_flag=True, help="To the dead letters, at once.")
@_durability_option
def nack(path: Path, name: str, ids: tuple[str, ...], delay: int, reject: bool, durability: Durability) -> int:
    """Give jobs back, for others to take. Exit codes as `ack`."""
    outcome = Outcome()
    with outcome.reported(path), _opened(path, name, durability=durability) as queue:
        _settle(outcome, queue, ids, lambda job: job.reject() if reject else job.nack(delay / 1000))
    return outcome.exit_code


@command.command("stats")
@store_argument
@_name_argument
@json_option
def stats(path: Path, name: str, as_json: bool) -> int:
    """Count the jobs of a queue."""
    outcome = Outcome()
    with outcome.reported(path), _opened(path, name) as queue:
        found = queue.stats()
        if as_json:
            print_object({
                "queue": name, "available": found.available, "delayed": found.delayed, "acquired": found.acquired,
                "acknowledged": found.acknowledged, "dead": found.dead, "bytes": found.size,
                "oldest_seconds": found.oldest_age,
            })  # fmt: skip
        else:
            print(
                f"{name}  {found.available} available, {found.delayed} delayed, {found.acquired} acquired,"
                f" {found.acknowledged} acknowledged, {found.dead} dead, {found.size} bytes"
            )
    return outcome.exit_code


@contextmanager
def _opened(path: Path, name: str, **options: Any) -> Iterator[WorkQueue]:
    """A queue that is there. Raises UnknownTopicError."""
    with open_store(path) as store:
        if not store.has_topic(name):
            raise UnknownTopicError(f"there is no queue {name!r}", path=path)
        with WorkQueue(store, name, detached=True, **options) as queue:
            yield queue


def _settle(outcome: Outcome, queue: WorkQueue, ids: tuple[str, ...], settle: Any) -> None:
    for text in ids:
        match = _ID.fullmatch(text)
        if match is None:
            raise click.BadParameter(f"{text!r} is no id as `get` prints it", param_hint="ID")
        priority, offset, attempt = map(int, match.groups())
        try:
            job: Job = queue.acquired(JobId(priority, offset))
            if job.delivery_count != attempt:
                raise LogstoreError(f"the job {text} was given to somebody else since")
            settle(job)
        except LogstoreError as error:  # the others are settled all the same
            outcome.has_failed = True
            say(error)


def _text(value: bytes | None) -> Any:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}
