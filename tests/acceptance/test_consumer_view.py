"""What a real consumer was given of every partition is what `dump --isolation` prints, record for record."""

from __future__ import annotations

from pathlib import Path

from helpers.commands import logstore, objects
from helpers.fixtures import View, consumer_views

from logstore.inspect import Isolation, consumer_view, context_around, resolve
from logstore.records import BATCH_BYTES_MAX

VIEWS_MIN = 46  # compared in the smallest set, fixtures/


def test_every_view_of_a_real_consumer_is_what_dump_prints(kafka_fixtures: Path) -> None:
    views = list(consumer_views(kafka_fixtures))
    for view in views:
        result = logstore("dump", "--isolation", view.isolation, "--json", "--encoding", "base64", view.partition)
        identity = {name: view.head[name] for name in ("topic", "partition")}
        assert result.code == 0, result.err
        assert result.objects == [{**identity, **record} for record in view.records], view
    assert len(views) >= VIEWS_MIN
    assert {view.isolation for view in views} == {"read_uncommitted", "read_committed"}


def test_every_view_is_counted_as_large_as_it_is(kafka_fixtures: Path) -> None:
    for view in consumer_views(kafka_fixtures):
        result = logstore("dump", "--isolation", view.isolation, "--count", "--quiet", view.partition)
        assert (result.code, result.out) == (0, b"%d\n" % view.head["count"]), view


def test_a_consumer_begins_and_ends_where_describe_and_the_library_say(kafka_fixtures: Path) -> None:
    for view in consumer_views(kafka_fixtures):
        described = objects("describe", view.partition)[0]["partitions"][0]
        assert described["log_start_offset"] == view.head["low"], view
        end = described["log_end_offset"]
        assert view.head["high"] == (end if view.isolation == "read_uncommitted" else stable_offset(view, end)), view


def test_a_view_of_a_whole_log_directory_is_all_of_its_partitions_views(kafka_fixtures: Path) -> None:
    directory = kafka_fixtures / "kafka-2.8.2" / "clean"
    views = [view for view in consumer_views(kafka_fixtures) if view.partition.parent == directory]
    topics = [f"--topic={view.head['topic']}" for view in views]
    result = logstore("dump", "--isolation=read_uncommitted", "--json", "--encoding=base64", *topics, directory)
    got: dict[str, list[int]] = {}
    for record in result.objects:
        got.setdefault(f"{record['topic']}-{record['partition']}", []).append(record["offset"])
    assert got == {view.partition.name: [one["offset"] for one in view.records] for view in views if view.records}


def stable_offset(view: View, end: int) -> int:
    partition = resolve(view.partition)
    context = context_around(view.partition)
    seen = consumer_view(partition, context, Isolation(view.isolation), batch_bytes_max=BATCH_BYTES_MAX)
    return end if seen.last_stable_offset is None else seen.last_stable_offset
