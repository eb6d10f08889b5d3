"""What modules that mypyc compiles must not contain: it is compiled, and then does something else.

See docs/decisions/0026-the-path-of-a-call-can-be-compiled.md.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["goverse"][
    "compiled"
]


def faults(code: str) -> list[str]:
    """What must not be there, each with its line."""
    return [f"line {line}: {what}" for line, what in _faults(ast.parse(code), handles=False)]


def _faults(node: ast.AST, *, handles: bool) -> Iterator[tuple[int, str]]:
    """
    :param handles: an exception may be handled where ``node`` is.
    """
    match node:
        case ast.Await() if handles:
            yield node.lineno, "waits while an exception is handled"
        case ast.AsyncWith() | ast.AsyncFor():
            yield node.lineno, f"{type(node).__name__} waits while an exception is handled"
        case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
            if any(each.is_async for each in node.generators):
                yield node.lineno, "an asynchronous comprehension"
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
            handles = False
        case ast.ClassDef():
            if any("Struct" in ast.unparse(base) for base in node.bases):
                yield node.lineno, f"{node.name} is a msgspec struct"
    for name, value in ast.iter_fields(node):
        inside = handles or (isinstance(node, ast.Try) and name in ("handlers", "finalbody"))
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _faults(child, handles=inside)


@pytest.mark.parametrize("module", MODULES)
def test_a_compiled_module_has_only_what_is_compiled_rightly(module: str) -> None:
    assert faults((ROOT / module).read_text()) == []


WAITS_IN_A_HANDLER = """
async def f():
    try:
        await g()
    except ValueError:
        if late:
            {}
"""
WAITS_AT_LAST = """
async def f():
    try:
        pass
    finally:
        return [await g()]
"""
FINE = """
class Plain(Protocol):
    async def f(self):
        try:
            await g()
        except ValueError:
            async def later():
                await g()
            self.later = later
        else:
            await g()
        with suppress(OSError):
            return await g()
"""


@pytest.mark.parametrize(
    "code",
    [
        WAITS_IN_A_HANDLER.format("await g()"),
        WAITS_IN_A_HANDLER.format("x = 1 + (await g())"),
        WAITS_AT_LAST,
        "async def f():\n    async with lock:\n        pass",
        "async def f():\n    async for each in source:\n        pass",
        "async def f():\n    return [each async for each in source]",
        "class Slot(msgspec.Struct, eq=False):\n    number: int",
        "class Slot(Struct):\n    number: int",
    ],
)
def test_what_must_not_be_there_is_found(code: str) -> None:
    assert len(faults(code)) == 1


def test_what_may_be_there_is_not() -> None:
    assert faults(FINE) == []
