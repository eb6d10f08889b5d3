"""Three lines to try, made from the source of a module without running it."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_SAMPLE_VALUES: dict[str, object] = {"int": 5, "float": 1.5, "str": "hello", "bool": True}


@dataclass(frozen=True)
class Example:
    """A call that somebody new can make."""

    type: str
    method: str
    arguments: dict[str, object] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return "my-" + re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", self.type).lower()


def source_of(module: str) -> Path | None:
    """The file behind ``module``, which is a path or a dotted name. Nothing is imported but the
    packages above a dotted name."""
    path = Path(module)
    if path.suffix == ".py" or path.exists():
        return path
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin else None


def find_example(path: Path) -> Example | None:
    """The first callable method of the first object class in the file; None if there is none."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return None
    for cls in tree.body:
        if isinstance(cls, ast.ClassDef) and any(_named(base, "Object") for base in cls.bases):
            for example in _examples(cls):
                return example
    return None


def _examples(cls: ast.ClassDef) -> Iterator[Example]:
    name = cls.name
    for keyword in cls.keywords:
        if keyword.arg == "name" and isinstance(keyword.value, ast.Constant):
            name = str(keyword.value.value)
    for item in cls.body:
        if isinstance(item, ast.AsyncFunctionDef) and any(
            _named(decorator, "method") for decorator in item.decorator_list
        ):
            arguments = _arguments(item.args)
            if arguments is not None:
                yield Example(name, item.name, arguments)


def _arguments(args: ast.arguments) -> dict[str, object] | None:
    """Sample values for all that is simple; None if something else has no default."""
    found: dict[str, object] = {}
    positional = args.args[1:]
    first_default = len(positional) - len(args.defaults)
    parameters = [(arg, index >= first_default) for index, arg in enumerate(positional)]
    parameters += [
        (arg, default is not None)
        for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True)
    ]
    for parameter, optional in parameters:
        annotation = parameter.annotation
        kind = annotation.id if isinstance(annotation, ast.Name) else ""
        if kind in _SAMPLE_VALUES:
            found[parameter.arg] = _SAMPLE_VALUES[kind]
        elif not optional:
            return None
    return found


def _named(node: ast.expr, name: str) -> bool:
    if isinstance(node, ast.Call):
        node = node.func
    if isinstance(node, ast.Attribute):
        return node.attr == name
    return isinstance(node, ast.Name) and node.id == name


def lines_to_try(example: Example, *, http: int, gate: int, node: int) -> tuple[str, str, str]:
    """Shell lines for curl, the CLI and Python that work as they are, with the given ports."""
    body = shlex.quote(json.dumps(example.arguments)) if example.arguments else "''"
    path = f"/v1/objects/{example.type}/{example.id}/{example.method}"
    server = "" if node == 48000 else f" --server localhost:{node}"
    pairs = "".join(
        f" {name}={shlex.quote(value if isinstance(value, str) else json.dumps(value))}"
        for name, value in example.arguments.items()
    )
    keywords = ", ".join(f"{name}={value!r}" for name, value in example.arguments.items())
    program = (
        f'from goverse.client import connect_sync; c = connect_sync("localhost:{gate}"); '
        f'print(c.run(c.get("{example.type}", "{example.id}").{example.method}({keywords})))'
    )
    return (
        f"curl -d {body} localhost:{http}{path}",
        f"{command_line('goverse-cli')} object call {example.type} {example.id} "
        f"{example.method}{pairs}{server}",
        f"{command_line('python')} -c {shlex.quote(program)}",
    )


def command_line(name: str) -> str:
    """How to type ``name`` so that the shell finds the one of this environment."""
    beside = Path(sys.executable).parent / name
    found = shutil.which(name)
    if found is not None and Path(found).parent == beside.parent:
        return name
    if beside.exists():
        return shlex.quote(_short(beside))
    python = shlex.quote(_short(Path(sys.executable)))
    return python if name == "python" else f"{python} -m {name.replace('-', '_')}"


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
