"""Input line by line, from pipes and files and what is neither."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from logstore_cli import lines
from logstore_cli.lines import InputLines

from logstore.errors import LogstoreError


@pytest.fixture
def pipe() -> Iterator[tuple[BinaryIO, int]]:
    """The reading end as a stream, and the writing end's descriptor."""
    reading, writing = os.pipe()
    with open(reading, "rb") as stream:
        yield stream, writing
    os.close(writing)


@given(st.binary(max_size=200), st.integers(1, 30))
def test_lines_are_those_of_the_stream(data: bytes, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_READ_BYTES", size)
        wanted = [line.removesuffix(b"\n") for line in io.BytesIO(data)]
        assert list(InputLines(io.BytesIO(data))) == wanted


def test_a_file_is_always_there(tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(b"a\nb")
    with open(tmp_path / "input", "rb") as stream:
        found = InputLines(stream)
        assert [(line, found.comes_within(0)) for line in found] == [(b"a", True), (b"b", True)]


def test_a_line_of_a_pipe_comes_when_it_is_whole(pipe: tuple[BinaryIO, int]) -> None:
    stream, writing = pipe
    found = InputLines(stream)
    assert not found.comes_within(0)
    os.write(writing, b"first\nsec")
    assert found.comes_within(0)
    assert next(found) == b"first"
    assert not found.comes_within(0.01)
    os.write(writing, b"ond\n")
    assert found.comes_within(0)
    assert next(found) == b"second"


def test_the_end_comes_too() -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as stream:
        found = InputLines(stream)
        os.write(writing, b"last")
        os.close(writing)
        assert found.comes_within(0)
        assert list(found) == [b"last"]
        assert found.comes_within(0)


def test_a_line_too_long_is_told_with_its_number_after_those_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LINE_BYTES_MAX", 10)
    monkeypatch.setattr(lines, "_READ_BYTES", 4)
    found = InputLines(io.BytesIO(b"one\ntwo\n" + b"x" * 40 + b"\nnever\n"))
    assert (next(found), next(found)) == (b"one", b"two")
    with pytest.raises(LogstoreError, match="stdin, line 3: longer than 10 bytes"):
        next(found)
