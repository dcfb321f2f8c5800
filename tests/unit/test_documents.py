"""The tables in the documents that code makes are the ones code makes now."""

from __future__ import annotations

from pathlib import Path

from logstore.config import cleaner_config_table, config_table
from logstore.inspect import codes_table

DOCUMENTS = Path(__file__).resolve().parents[2] / "docs"


def test_the_damage_table_is_the_one_of_the_code() -> None:
    assert codes_table() in (DOCUMENTS / "damage.md").read_text(encoding="utf-8")


def test_the_configuration_table_is_the_one_of_the_code() -> None:
    assert config_table() in (DOCUMENTS / "config.md").read_text(encoding="utf-8")


def test_the_table_of_the_cleaners_configuration_is_the_one_of_the_code() -> None:
    assert cleaner_config_table() in (DOCUMENTS / "config.md").read_text(encoding="utf-8")
