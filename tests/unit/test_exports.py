"""What a package offers is in its sorted `__all__`: all that it imports to offer, and nothing that is not there."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

import pytest

import logstore

PACKAGES = [
    "logstore",
    *(found.name for found in pkgutil.walk_packages(logstore.__path__, "logstore.") if found.ispkg),
]


def rank(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest, each by name: the order that ruff gives an `__all__`."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def offered(module: ModuleType) -> set[str]:
    """The public names of a module that are no modules themselves; its version counts."""
    names = {name for name, one in vars(module).items() if not name.startswith("_") and not isinstance(one, ModuleType)}
    lazy = set(vars(module).get("_PLACES", ()))  # imported when they are asked for
    return (names - {"TYPE_CHECKING", "Any"}) | lazy | ({"__version__"} & vars(module).keys())


def test_the_packages_are_found() -> None:
    assert {"logstore.records", "logstore.records.internal", "logstore.log", "logstore.inspect"} <= set(PACKAGES)


@pytest.mark.parametrize("name", PACKAGES)
def test_all_is_sorted_and_is_what_the_package_offers(name: str) -> None:
    module = importlib.import_module(name)
    assert list(module.__all__) == sorted(set(module.__all__), key=rank)
    assert set(module.__all__) == offered(module) - {"annotations"}


@pytest.mark.parametrize("name", PACKAGES)
def test_a_star_import_gives_what_all_names(name: str) -> None:
    names: dict[str, object] = {}
    exec(f"from {name} import *", names)
    assert names.keys() - {"__builtins__"} == set(importlib.import_module(name).__all__)
