"""Try the commands that README.md and docs/*.md show: run each, and compare what it prints with what stands there.

    ```console
    $ logstore dump --limit 1 fixtures/kafka-4.1.1/clean/plain-0
    ...
    $ echo $?
    0
    ```

Only `$ logstore` lines in ```console blocks run, those of one document in an empty directory that has `fixtures`; a
trailing backslash goes on in the next line. What is compared is standard output, line by line without trailing blanks;
a line `...` stands for any number of lines (append `2>&1` to show the rest). The exit code must be the one that
`$ echo $?` right after it shows, otherwise 0. Needs an installed logstore beside the Python that runs this.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
STEP = re.compile(r"^\$ (?P<command>(?:.*\\\n)*.*)\n(?P<output>(?:(?!\$ ).*\n)*)", re.MULTILINE)
ANYTHING = "..."
TIMEOUT_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Example:
    """One command of a document with what the document says it prints and returns."""

    place: str
    command: str
    output: list[str]
    exit_code: int


def main() -> int:
    count, faults = 0, []
    for path in documents():
        with tempfile.TemporaryDirectory() as scratch:
            (Path(scratch) / "fixtures").symlink_to(REPOSITORY / "fixtures")
            for example in read_examples(path):
                count += 1
                faults += [fault for fault in [try_example(example, Path(scratch))] if fault]
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"{count} commands of the documents tried, {len(faults)} differ")
    return 1 if faults else 0


def documents() -> list[Path]:
    return [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def read_examples(path: Path) -> list[Example]:
    """The logstore commands of one document; an `echo $?` gives its number to the command before it."""
    text = path.read_text()
    examples: list[Example] = []
    for block in BLOCK.finditer(text):
        steps = list(STEP.finditer(text, block.start(1), block.end(1)))
        for step, following in zip(steps, [*steps[1:], None], strict=True):
            if step["command"].startswith("logstore "):
                place = f"{path.relative_to(REPOSITORY).as_posix()}:{text.count(chr(10), 0, step.start()) + 1}"
                code = int(following["output"]) if following and following["command"] == "echo $?" else 0
                output = [line.rstrip() for line in step["output"].splitlines()]
                examples.append(Example(place, step["command"], output, code))
    return examples


def try_example(example: Example, scratch: Path) -> str | None:
    """Run one command in a directory; None when it did what the document says, else the report of the difference."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    run = subprocess.run(
        example.command,
        shell=True,
        cwd=scratch,
        env={**os.environ, "PATH": path, "COLUMNS": "120", "LC_ALL": "C.UTF-8", "TZ": "UTC"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    printed = [line.rstrip() for line in run.stdout.splitlines()]
    if run.returncode == example.exit_code and matches(example.output, printed):
        return None
    report = [f"{example.place}: $ {example.command}", f"  exit code {run.returncode}, documented {example.exit_code}"]
    report += ["  documented:", *(f"    {line}" for line in example.output)]
    report += ["  printed:", *(f"    {line}" for line in printed)]
    report += ["  on standard error:", *(f"    {line}" for line in run.stderr.splitlines())] if run.stderr else []
    return "\n".join(report)


def matches(documented: list[str], printed: list[str]) -> bool:
    """True when the lines agree; `...` stands for any number of lines."""
    pattern = "".join(".*" if line.strip() == ANYTHING else re.escape(f"{line}\n") for line in trimmed(documented))
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in trimmed(printed)), re.DOTALL) is not None


def trimmed(lines: list[str]) -> list[str]:
    """`lines` without the empty ones at the end."""
    while lines and not lines[-1]:
        lines = lines[:-1]
    return lines


if __name__ == "__main__":
    sys.exit(main())
