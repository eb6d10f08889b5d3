"""docs/how-to/write-a-store.md names what is there, and all of it."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from goverse.storage.api import Store
from goverse.testing.conformance.store import StoreBackend, StoreConformance

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/how-to/write-a-store.md").read_text()


def test_each_promise_names_tests_of_the_suite() -> None:
    promises = [line for line in PAGE.splitlines() if line.startswith("| **")]
    assert len(promises) > 10
    for line in promises:
        named = re.findall(r"`(test_\w+)`", line.rpartition("|")[0].rpartition("|")[2])
        assert named, line
        for name in named:
            assert hasattr(StoreConformance, name), name


def test_every_method_of_a_store_and_of_a_backend_is_named() -> None:
    methods = {name for name in dir(Store) if not name.startswith("_")}
    for name in methods:
        assert re.search(rf"`{name}`", PAGE), name
    for name in ("connect", "connect_new", "connect_gated"):
        assert hasattr(StoreBackend, name) and f"def {name}(" in PAGE


def test_modules_and_files_are_there() -> None:
    table = PAGE[PAGE.index("| module of") :].partition("\n\n")[0]
    for names in re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", names):
            importlib.import_module(f"goverse.storage.{name}")
    for path in re.findall(r"`(tests/[\w/.]+)`", PAGE):
        assert (ROOT / path).exists(), path


def test_the_backend_of_the_page_imports_nothing_else_of_goverse() -> None:
    allowed = re.compile(
        r"goverse\.(aio|ids|call|config\.settings|storage\.(api|values|listing|checks|rules|counts|"
        r"stats|halving|migrations)|storage)\b"
    )
    for path in (ROOT / "tests/support/lmdb_store").glob("*.py"):
        for module in re.findall(r"^(?:from|import) (goverse[\w.]*)", path.read_text(), re.M):
            assert allowed.fullmatch(module) or allowed.match(module + "."), (path.name, module)
