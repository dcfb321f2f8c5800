"""`logstore docs`: the tables of the documentation, as the code knows them."""

from __future__ import annotations

import json

from helpers.commands import logstore

from logstore.config import SETTINGS, LogConfig, config_table


def test_the_settings_are_printed_as_the_table_of_the_documentation() -> None:
    result = logstore("docs", "config")
    assert (result.code, result.out.decode(), result.err) == (0, config_table(), "")


def test_the_settings_are_printed_as_json() -> None:
    result = logstore("docs", "config", "--json")
    rows = json.loads(result.out)
    assert [row["name"] for row in rows] == list(SETTINGS)
    assert LogConfig.from_kafka({row["name"]: row["default"] for row in rows}) == LogConfig()
    assert set(rows[0]) == {"name", "type", "default", "range", "meaning"}


def test_a_table_that_is_not_there_is_wrong_usage() -> None:
    assert logstore("docs", "weather").code == 2
