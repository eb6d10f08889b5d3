"""Finds what can grow: attributes of production classes that hold queues, tables or waiters."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("goverse", "goverse_node", "goverse_gate")
#: The test kit is not part of a process; generated code holds nothing.
SKIPPED = ("goverse/testing/", "goverse/transport/pb/")

# fmt: off
MAKERS = (
    "deque", "OrderedDict", "defaultdict", "dict", "list", "set", "bytearray", "BytesIO",
    "StringIO", "Queue", "LifoQueue", "PriorityQueue", "SimpleQueue", "Semaphore",
    "BoundedSemaphore", "Lock", "Condition", "Event", "Barrier", "Tasks", "TaskGroup",
    "ThreadPoolExecutor", "ProcessPoolExecutor", "Deadlines", "Mailbox",
)
# fmt: on


def growing() -> dict[str, str]:
    """``file:Class.attribute`` of each such attribute, and what makes it."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith(SKIPPED):
                found.update(_in_module(name, ast.parse(path.read_text())))
    return found


def limit_names() -> set[str]:
    """Every name that production code gives to a `goverse.aio.limits.Limit`."""
    found: set[str] = set()
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and _name(node.func) == "Limit":
                    name = node.args[0]
                    assert isinstance(name, ast.Constant), f"{path}: a Limit without a plain name"
                    found.add(name.value)
    return found


def _in_module(name: str, module: ast.Module) -> Iterator[tuple[str, str]]:
    for statement in module.body:
        if isinstance(statement, ast.ClassDef):
            for attribute in _counted(statement):
                yield f"{name}:{statement.name}.{attribute}", "counter"
            for node in ast.walk(statement):
                for attribute, maker in _assigned(node):
                    yield f"{name}:{statement.name}.{attribute}", maker
        else:
            for attribute, maker in _made(statement, ast.Name):
                # In capitals it is a table that nobody changes.
                if not attribute.isupper() and not attribute.lstrip("_").isupper():
                    yield f"{name}:{attribute}", maker


def _counted(cls: ast.ClassDef) -> Iterator[str]:
    """Attributes that go up and down: a semaphore made by hand."""
    up: dict[str, None] = {}
    down: dict[str, None] = {}
    for node in ast.walk(cls):
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Attribute):
            if isinstance(node.op, ast.Add):
                up[node.target.attr] = None
            elif isinstance(node.op, ast.Sub):
                down[node.target.attr] = None
    yield from (name for name in up if name in down)


def _assigned(node: ast.AST) -> Iterator[tuple[str, str]]:
    """``self.attribute = maker``, and defaults of fields."""
    yield from _made(node, ast.Attribute)
    if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Call):
        for keyword in node.value.keywords:
            if keyword.arg == "default_factory" and isinstance(node.target, ast.Name):
                maker = _name(keyword.value)
                if maker in MAKERS:
                    yield node.target.id, maker


def _made(node: ast.AST, kind: type[ast.Attribute] | type[ast.Name]) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.AnnAssign):
        targets, value = [node.target], node.value
    elif isinstance(node, ast.Assign):
        targets, value = list(node.targets), node.value
    else:
        return
    maker = _maker(value)
    for target in targets:
        if maker and isinstance(target, ast.Attribute) and kind is ast.Attribute:
            if isinstance(target.value, ast.Name) and target.value.id == "self":
                yield target.attr, maker
        elif maker and isinstance(target, ast.Name) and kind is ast.Name:
            yield target.id, maker


def _maker(value: ast.expr | None) -> str:
    match value:
        case ast.Dict(keys=[]) | ast.List(elts=[]):
            return "dict" if isinstance(value, ast.Dict) else "list"
        case ast.Call(func=function) if _name(function) in MAKERS:
            return _name(function)
    return ""


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    if isinstance(function, ast.Subscript):
        return _name(function.value)
    return function.id if isinstance(function, ast.Name) else ""
