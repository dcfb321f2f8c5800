"""Write docs/api.md from the docstrings of what the package offers, or say whether it is as they are.

    python tests/api_reference.py [--check]
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PLACE = Path(__file__).resolve().parent.parent / "docs" / "api.md"
PACKAGES = ("logstore", "logstore.store", "logstore.queue", "logstore.log")
SHOWN = {"logstore.log": ("Log", "SharedLog", "Appended", "AppendFuture", "FetchIsolation")}
HEAD = """# API

Made from the docstrings by `make api`. What is not here is told by its module: `help(logstore.cleaner)`.
"""


def main() -> int:
    text = reference()
    if "--check" in sys.argv[1:]:
        is_current = PLACE.exists() and PLACE.read_text(encoding="utf-8") == text
        print("docs/api.md is as the docstrings are" if is_current else "docs/api.md is not current: `make api`")
        return 0 if is_current else 1
    PLACE.write_text(text, encoding="utf-8")
    return 0


def reference() -> str:
    """The whole document."""
    parts, seen = [HEAD], set[int]()
    for package in PACKAGES:
        module = importlib.import_module(package)
        names = SHOWN.get(package, module.__all__)
        things = [(name, getattr(module, name)) for name in names if not name.startswith("_")]
        things = [(name, one) for name, one in things if callable(one) and id(one) not in seen]
        if things:
            parts.append(f"## {package}\n\n{described(inspect.getdoc(module))}")
        for name, one in things:
            seen.add(id(one))
            parts += thing(name, one)
    return "\n".join(parts)


def thing(name: str, one: Any) -> Iterator[str]:
    """A class with its methods, or a function."""
    yield f"### {name}\n\n{code(name, one)}{described(inspect.getdoc(one))}"
    if not inspect.isclass(one) or issubclass(one, Exception):
        return
    for member, value in sorted(vars(one).items()):
        target = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
        if member.startswith("_") or not (inspect.isfunction(target) or isinstance(target, property)):
            continue
        text = inspect.getdoc(target)
        if text:
            yield f"#### {name}.{member}\n\n{code(member, target)}{described(text)}"


def code(name: str, one: Any) -> str:
    """Its signature, as a block of code."""
    if isinstance(one, property) or (inspect.isclass(one) and not has_signature(one)):
        return ""
    try:
        signature = str(inspect.signature(one))
    except (TypeError, ValueError):
        return ""
    signature = re.sub(r"<object object at 0x[0-9a-f]+>|<factory>", "...", signature)
    signature = re.sub(r"(: |-> )'([^']*)'", r"\1\2", signature).replace("self, ", "").replace("(self)", "()")
    return f"```\n{textwrap.fill(name + signature, 110, subsequent_indent='    ', break_on_hyphens=False)}\n```\n\n"


def has_signature(one: type) -> bool:
    return dataclasses.is_dataclass(one) or "__init__" in vars(one) or issubclass(one, tuple)


def described(text: str | None) -> str:
    """A docstring as Markdown: lists of arguments become lists."""
    lines: list[str] = []
    for line in (text or "").split("\n"):
        entry = re.match(r"    (\S[^:]*): (.*)", line)
        if re.fullmatch(r"(Args|Attributes|Raises|Returns):", line):
            lines.append(f"{line}\n")
        elif entry:
            lines.append(f"- `{entry[1]}`: {entry[2]}")
        elif line.startswith("        "):
            lines.append(f"  {line.strip()}")
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
