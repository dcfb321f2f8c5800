"""Text that stays on its line: what would end a line, steer a terminal or is no UTF-8 is written as an escape.

Pure functions; safe to call from any thread.
"""

from __future__ import annotations

import json
import re
from typing import Any

# Controls, what Unicode calls line ends, and bytes of a file name that are not UTF-8 (kept as surrogate escapes).
_UNFIT_FOR_JSON = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_UNFIT_FOR_TEXT = re.compile("[\\\\\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SHORT = {"\n": "\\n", "\t": "\\t", "\\": "\\\\"}


def printable(text: str) -> str:
    r"""Write what would not print on one line as `\n`, `\t`, `\\` or `\xNN`, as keys and values are in text."""
    return _UNFIT_FOR_TEXT.sub(_escape, text)


def json_text(value: Any) -> str:
    """A value as compact JSON on one line, in plain characters unless one of them does not fit."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text if _UNFIT_FOR_JSON.search(text) is None else json.dumps(value, separators=(",", ":"))


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    return _SHORT.get(char) or "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))
