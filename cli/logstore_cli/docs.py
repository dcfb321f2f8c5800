"""`logstore docs`."""

from __future__ import annotations

import json

import click

from logstore.config import SETTINGS, LogConfig, config_table

EPILOG = """\b
Examples:
  logstore docs config
  logstore docs config --json | jq '.[] | select(.type == "long") | .name'
"""


@click.group("docs", epilog=EPILOG)
def command() -> None:
    """Print the tables of the documentation that come from the code."""


@command.command("config", epilog=EPILOG)
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a Markdown table.")
def config(as_json: bool) -> int:
    """All settings of a log: name, type, default, range, meaning."""
    if as_json:
        defaults = LogConfig().to_kafka()
        rows = [
            {
                "name": name,
                "type": one.kind,
                "default": defaults[name],
                "range": one.range,
                "meaning": one.meaning,
            }
            for name, one in SETTINGS.items()
        ]
        print(json.dumps(rows))
    else:
        print(config_table(), end="")
    return 0
