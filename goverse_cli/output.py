"""How answers are written: a table for people, JSON or YAML for programs.

Only answers go to standard output. Everything else, warnings included, goes to standard error.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click
import yaml
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

FORMATS = ("table", "json", "yaml")

# A pipe has no width: rows must not be wrapped under somebody's grep.
_PIPE_WIDTH = 240


def plain(value: Any) -> Any:
    """``value`` as JSON types; dataclasses become objects with their fields as keys."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def emit(format: str, value: Any, table: Callable[[], RenderableType]) -> None:
    """Write ``value``: as it is for programs, as ``table()`` for people."""
    if format == "json":
        click.echo(json.dumps(plain(value), indent=2, ensure_ascii=False))
    elif format == "yaml":
        text = yaml.safe_dump(plain(value), sort_keys=False, allow_unicode=True)
        # A bare scalar gets an end-of-document marker that only confuses.
        click.echo(text.removesuffix("...\n"), nl=False)
    else:
        stdout = sys.stdout
        width = None if stdout.isatty() else _PIPE_WIDTH
        answer = table()
        if isinstance(answer, str):  # Not markup: brackets in it mean nothing.
            answer = Text("\n".join(cell_text(line) for line in answer.split("\n")))
        Console(file=stdout, width=width, highlight=False).print(answer)


def note(message: str) -> None:
    """Tell a person something that is not the answer."""
    click.echo(message, err=True)


def rows(columns: Sequence[str], lines: Iterable[Sequence[object]]) -> Table:
    """A plain table; cells are text, never markup."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        table.add_column(column.upper(), no_wrap=True)
    for line in lines:
        table.add_row(*(Text(cell_text(cell) or "-") for cell in line))
    return table


def fields(pairs: Iterable[tuple[str, object]]) -> Table:
    """One answer, a field a line."""
    table = Table(box=None, pad_edge=False, show_header=False, show_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, value in pairs:
        table.add_row(name, Text(cell_text(value) or "-"))
    return table


def cell_text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    # Ids may hold anything printable; escape sequences must not reach the terminal.
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))
