"""Text stays on its line, and JSON stays what it was."""

from __future__ import annotations

import json
import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstore.inspect.text import json_text, printable

names = st.binary(max_size=20).map(os.fsdecode)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain-é-값", "plain-é-값"),
        ("a\nb\tc\\d", "a\\nb\\tc\\\\d"),
        ("\0\x1b\x7f", "\\x00\\x1b\\x7f"),
        ("\x85\u2028\u2029", "\\xc2\\x85\\xe2\\x80\\xa8\\xe2\\x80\\xa9"),
        (os.fsdecode(b"caf\xe9"), "caf\\xe9"),
    ],
)
def test_what_would_not_print_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(names)
def test_any_file_name_prints_on_one_line_of_utf8(name: str) -> None:
    shown = printable(name)
    assert shown.encode().decode() == shown
    assert len(shown.splitlines()) <= 1
    assert not any(unicodedata.category(char) == "Cc" for char in shown)


@given(st.recursive(names | st.none() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(names, inner)))
def test_any_value_survives_as_json_on_one_line(value: object) -> None:
    text = json_text(value)
    assert json.loads(text) == value
    assert len(text.splitlines()) == 1
    text.encode()
