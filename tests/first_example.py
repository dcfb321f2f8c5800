"""Run the first Python example of README.md, in a directory of its own, and show it (`make demo`)."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"


def main() -> None:
    found = re.search(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found is not None
    print(found[1])
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        exec(compile(found[1], "README.md", "exec"), {"__name__": "__main__"})
        os.chdir(README.parent)


if __name__ == "__main__":
    main()
