"""Checks lines for a shell without running them."""

from __future__ import annotations

import re
import shlex

import click


def parse(root: click.Command, line: str) -> None:
    """Parse ``line`` (program, options, arguments) as ``root`` would. Raises click's errors."""
    _, *words = shlex.split(re.split(r" [|>] ", line)[0].partition(" #")[0])
    command = root
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, *words = words
        found = command.commands.get(name)
        if found is None:
            raise click.UsageError(f"no such command: {name} in {line!r}")
        command = found
    with command.make_context(str(command.name), words):
        pass
