"""Every code has one explanation, and a finding has the shape that scripts read."""

from __future__ import annotations

import re
from pathlib import Path

from logstore.inspect import CODES, Finding, Severity, codes_table
from logstore.inspect.findings import finding
from logstore.records import DamageCode


def test_every_damage_that_a_scan_reports_has_an_explanation() -> None:
    assert {code.value for code in DamageCode} <= CODES.keys()


def test_codes_are_words_and_explanations_say_cause_and_remedy() -> None:
    for code, explanation in CODES.items():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", code)
        assert explanation.cause and explanation.remedy


def test_a_finding_takes_the_severity_and_remedy_of_its_code() -> None:
    found = finding("batch-crc", Path("a.log"), "why", position=3)
    assert found == Finding(Severity.DAMAGE, "batch-crc", Path("a.log"), 3, None, "why")
    assert found.remedy == CODES["batch-crc"].remedy
    assert finding("batch-crc", Path("a.log"), "why", severity=Severity.NOTE).severity == Severity.NOTE


def test_a_finding_as_json_has_the_fields_of_the_contract() -> None:
    names = ["severity", "code", "path", "position", "offset", "message", "remedy"]
    assert list(finding("batch-crc", Path("a.log"), "why").as_json()) == names


def test_the_documented_table_has_a_row_for_each_code() -> None:
    head, line, *rows = codes_table().splitlines()
    assert head.count("|") == line.count("|") == 5
    assert [row.split("`")[1] for row in rows] == list(CODES)
