"""`logstore groups`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click

from logstore.errors import LogstoreError
from logstore.groups import LoadedGroups, OffsetAndMetadata, StoredGroup, load_groups
from logstore.inspect import DumpOptions, PartitionFiles, Problem, Selection, printable, select_partition
from logstore.names import CONSUMER_OFFSETS_TOPIC, TopicPartition
from logstore.queue import OffsetsStore, decode_assignment
from logstore.queue.membership import group_state
from logstore.records import RecordBatch
from logstore.store import Store
from logstore_cli.describe import moment
from logstore_cli.options import Outcome, count_of, is_number, is_time, parse_time, say
from logstore_cli.stores import (
    Ends,
    dry_run_option,
    ends_of,
    json_option,
    open_store,
    partitions_of,
    read_topics,
    store_argument,
    would,
)
from logstore_cli.writing import print_object

EPILOG = """\b
Examples:
  logstore groups list /var/lib/kafka/data
  logstore groups describe --json /srv/queue billing
  logstore groups reset-offsets --to earliest --dry-run /srv/queue billing
  logstore groups reset-offsets --shift -100 --topic orders /srv/queue billing
"""

_group_argument = click.argument("group")


class Lag(NamedTuple):
    """How far a group has come in a partition; ends are None where the partition is not there."""

    partition: TopicPartition
    committed: OffsetAndMetadata
    ends: Ends | None

    @property
    def lag(self) -> int | None:
        """How many offsets there are behind the committed one."""
        return None if self.ends is None else max(self.ends.log_end_offset - self.committed.offset, 0)


@click.group("groups", epilog=EPILOG)
def command() -> None:
    """Consumer groups: what they have committed, how far they are behind; set it anew; delete them.

    list and describe take no lock and work on a broker's log directory, too. The others refuse a group with members.
    """


@command.command("list")
@store_argument
@json_option
def list_groups(path: Path, as_json: bool) -> int:
    """List the groups that have committed something, or had members."""
    outcome = Outcome()
    with outcome.reported(path):
        for group, loaded in sorted(_read(path, outcome).items()):
            found, offsets = loaded.groups.get(group), loaded.offsets.get(group, {})
            state, members = _state(found), 0 if found is None else len(found.members)
            if as_json:
                print_object({"group": group, "state": state, "members": members, "partitions": len(offsets)})
            else:
                count = count_of(members, "member")
                print(f"{printable(group)}  {state}, {count}, offsets of {count_of(len(offsets), 'partition')}")
    return outcome.exit_code


@command.command("describe")
@store_argument
@click.argument("group", required=False)
@json_option
def describe(path: Path, group: str | None, as_json: bool) -> int:
    """Show what a group has committed, partition by partition, and how far it is behind; of all groups without one."""
    outcome = Outcome()
    with outcome.reported(path):
        found = _read(path, outcome)
        if group is not None and group not in found:
            raise LogstoreError(f"there is no group {group!r}", path=path)
        for name in sorted(found) if group is None else [group]:
            lags = list(_lags(path, found[name], name))
            stored = found[name].groups.get(name)
            if as_json:
                print_object({"group": name, "state": _state(stored), "members": _members(stored), **_lag_object(lags)})
            else:
                _print_group(name, stored, lags)
    return outcome.exit_code


@command.command("reset-offsets")
@store_argument
@_group_argument
@click.option("--to", "target", metavar="earliest|latest|OFFSET|TIME", help="Where the group is to go on.")
@click.option("--shift", type=int, metavar="N", help="Go on by so many offsets, or back.")
@click.option("--topic", "topics", multiple=True, help="Only this topic; repeatable. Default: all it has committed.")
@click.option("--partition", type=click.IntRange(min=0), metavar="N", help="Only the partitions with this number.")
@json_option
@dry_run_option
def reset_offsets(
    path: Path, group: str, target: str | None, shift: int | None, topics: tuple[str, ...], partition: int | None,
    as_json: bool, dry_run: bool,
) -> int:  # fmt: skip
    """Set the committed offsets of a group anew.

    An offset or shift that leads out of the log means its begin or end. A number of twelve digits or more is a time.
    """
    if (target is None) == (shift is None):
        raise click.UsageError("give either --to or --shift")
    outcome = Outcome()
    with outcome.reported(path):
        _check_target(target)
        with open_store(path) as store:
            _check_empty(store, group)
            offsets = OffsetsStore(store)
            before = offsets.committed(group)
            chosen = _chosen(store, before, topics, partition)
            if not chosen:
                raise LogstoreError(f"group {group!r} has committed nothing; name a topic", path=path)
            after = {one: _offset(store, one, before.get(one), target, shift) for one in chosen}
            if not dry_run:
                offsets.commit(group, after)
        for one, offset in after.items():
            was = before[one].offset if one in before else None
            if as_json:
                row = {"topic": one.topic, "partition": one.partition, "from": was, "to": offset}
                print_object({**row, "dry_run": dry_run})
            else:
                print(f"{one}: {'nothing' if was is None else was} to {offset}{would(dry_run)}")
    return outcome.exit_code


@command.command("delete")
@store_argument
@_group_argument
@json_option
@dry_run_option
def delete(path: Path, group: str, as_json: bool, dry_run: bool) -> int:
    """Delete a group and all that it has committed."""
    outcome = Outcome()
    with outcome.reported(path):
        with open_store(path) as store:
            _check_empty(store, group)
            offsets = OffsetsStore(store)
            count = len(offsets.committed(group))
            if not count and group not in offsets.groups():
                raise LogstoreError(f"there is no group {group!r}", path=path)
            if not dry_run:
                offsets.delete(group)
        if as_json:
            print_object({"group": group, "partitions": count, "dry_run": dry_run})
        else:
            print(f"{printable(group)}: deleted, with the offsets of {count_of(count, 'partition')}{would(dry_run)}")
    return outcome.exit_code


# ---------------------------------------------------------------- reading


def _read(path: Path, outcome: Outcome) -> dict[str, LoadedGroups]:
    """What `__consumer_offsets` says, by group; problems are told."""
    read_topics(path)  # says what is no store
    found: dict[str, LoadedGroups] = {}
    for files in partitions_of(path, CONSUMER_OFFSETS_TOPIC).values():
        loaded = load_groups(_batches(files, outcome))
        if loaded.malformed_count:
            say(f"{files.path}: {loaded.malformed_count} records cannot be read: {loaded.flaws[0][1]}")
            outcome.has_damage = True
        found |= dict.fromkeys(loaded.group_ids(), loaded)
    return found


def _batches(files: PartitionFiles, outcome: Outcome) -> Iterator[RecordBatch]:
    for one in select_partition(files, None, DumpOptions()):
        if isinstance(one, Selection):
            yield one.batch
        else:
            _tell(one, outcome)


def _tell(problem: Problem, outcome: Outcome) -> None:
    outcome.has_failed |= problem.is_failure
    outcome.has_damage |= problem.is_damage
    say(problem)


def _lags(path: Path, loaded: LoadedGroups, group: str) -> Iterator[Lag]:
    topics: dict[str, Mapping[int, PartitionFiles]] = {}
    for partition, stored in sorted(loaded.offsets.get(group, {}).items()):
        if partition.topic not in topics:
            topics[partition.topic] = partitions_of(path, partition.topic)
        files = topics[partition.topic].get(partition.partition)
        yield Lag(partition, stored.value, None if files is None else ends_of(files))


def _state(group: StoredGroup | None) -> str:
    """Kafka's word, as far as records tell: a group with members is taken for stable when it is loaded."""
    return "Stable" if group is not None and group.members else "Empty"


def _members(group: StoredGroup | None) -> list[dict[str, Any]]:
    rows = []
    for one in () if group is None else group.members:
        try:
            partitions = [str(partition) for partition in decode_assignment(one.assignment).partitions]
        except LogstoreError:
            partitions = []  # not of a consumer
        rows.append({
            "member": one.member_id, "client": one.client_id, "host": one.client_host, "partitions": partitions,
        })  # fmt: skip
    return rows


def _lag_object(lags: list[Lag]) -> dict[str, Any]:
    rows = [
        {
            "topic": one.partition.topic, "partition": one.partition.partition, "offset": one.committed.offset,
            "log_start_offset": None if one.ends is None else one.ends.log_start_offset,
            "log_end_offset": None if one.ends is None else one.ends.log_end_offset,
            "lag": one.lag, "metadata": one.committed.metadata, "timestamp": one.committed.commit_timestamp,
        }
        for one in lags
    ]  # fmt: skip
    return {"offsets": rows, "lag": sum(one.lag or 0 for one in lags)}


def _print_group(name: str, group: StoredGroup | None, lags: list[Lag]) -> None:
    print(f"{printable(name)}  {_state(group)}, lag {sum(one.lag or 0 for one in lags)}")
    for one in lags:
        behind = "the partition is not here" if one.ends is None else f"of {one.ends.log_end_offset}, lag {one.lag}"
        note = f", {printable(one.committed.metadata)}" if one.committed.metadata else ""
        print(f"  {one.partition}: {one.committed.offset} {behind}, {moment(one.committed.commit_timestamp)}{note}")
    for member in _members(group):
        who, where = printable(member["member"]), printable(member["host"])
        print(f"  member {who} at {where}: {' '.join(member['partitions']) or 'nothing'}")


# ---------------------------------------------------------------- writing


def _check_empty(store: Store, group: str) -> None:
    """Raise LogstoreError where a group has members that are alive."""
    members = group_state(store, group).members
    if members:
        raise LogstoreError(
            f"group {group!r} has {count_of(len(members), 'member')}", path=store.paths[0], remedy="close its consumers"
        )


def _chosen(
    store: Store, committed: Mapping[TopicPartition, OffsetAndMetadata], topics: tuple[str, ...], number: int | None
) -> list[TopicPartition]:
    """The partitions to be set: those of the named topics, else what was committed. Raises UnknownTopicError."""
    named = [one.name for topic in topics for one in store.partitions(topic)]
    known = [one for one in committed if store.has_topic(one.topic)]
    return sorted(one for one in (named if topics else known) if number in (None, one.partition))


def _check_target(target: str | None) -> None:
    if target is not None and target not in ("earliest", "latest") and not is_number(target):
        parse_time(target)


def _offset(
    store: Store, name: TopicPartition, committed: OffsetAndMetadata | None, target: str | None, shift: int | None
) -> int:
    partition = store.partition(*name)
    start, end = partition.log_start_offset, partition.log_end_offset
    if target == "earliest":
        return start
    if target == "latest":
        return end
    if shift is not None:
        wanted = (start if committed is None else committed.offset) + shift
    elif target is not None and not is_time(target):
        wanted = int(target)
    else:
        found = partition.offset_for_time(parse_time(target or ""))
        wanted = end if found is None else found.offset
    return min(max(wanted, start), end)
