"""CRC-32C, from the package crc32c.

The package asks importlib.metadata for its own version when it is imported, which takes longer than all of a small
command's other work. Its extension module needs nothing of that and is loaded by itself; where its place is not the
expected one, the package is imported as usual. Thread-safe.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
from typing import TYPE_CHECKING, Any


def _load() -> Any:
    package = importlib.util.find_spec("crc32c")
    locations = None if package is None else package.submodule_search_locations
    spec = importlib.machinery.PathFinder.find_spec("crc32c._crc32c", locations)
    if spec is None or spec.loader is None:
        import crc32c

        return crc32c
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if TYPE_CHECKING:
    from crc32c import crc32c as crc32c
else:
    crc32c = _load().crc32c

__all__ = ["crc32c"]
