"""Every command explains itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click
import pytest

from goverse_cli.app import cli
from tests.support.command_lines import parse

if TYPE_CHECKING:
    from .conftest import Terminal


def commands(
    command: click.Command = cli, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from commands(child, (*path, name))


ALL = list(commands())


def test_the_commands_that_were_promised_exist() -> None:
    leaves = {" ".join(path) for path, command in ALL if not isinstance(command, click.Group)}
    assert leaves == {
        "status", "node list", "node cordon", "node uncordon", "node drain", "node decommission",
        "gate list", "shard list", "shard get", "shard pin", "shard unpin", "shard rebalance",
        "shard locks", "object call", "object create", "object delete",
        "object list",
        "object locate", "type list", "type describe", "check", "version", "completion", "dev",
        "db migrate", "db status", "db check", "db adopt", "reliable-calls stats",
        "reliable-calls get", "reliable-calls list", "reliable-calls retry",
        "reliable-calls cancel", "reliable-calls cleanup", "reliable-calls archive",
    }  # fmt: skip


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) or "-" for path, _ in ALL])
def test_help_has_a_sentence_and_examples_that_parse(
    terminal: Terminal, path: tuple[str, ...], command: click.Command
) -> None:
    result = terminal.run(*path, "--help")
    assert result.exit_code == 0
    assert "Examples:" in result.stdout
    assert command.help is not None
    assert command.help.split("\n")[0].rstrip().endswith(".")
    examples = re.findall(r"^ +(goverse-cli .+)$", command.help, re.MULTILINE)
    assert examples
    for example in examples:
        parse(cli, example)


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) or "-" for path, _ in ALL])
def test_every_option_is_explained(path: tuple[str, ...], command: click.Command) -> None:
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{' '.join(path)} {parameter.opts}"


def test_exit_codes_are_in_the_help(terminal: Terminal) -> None:
    text = terminal.run("--help").stdout
    for code in ("0  done", "2  wrong options", "4  no node", "130  stopped"):
        assert code in text


def test_the_version_is_told(terminal: Terminal) -> None:
    assert terminal.run("--version").stdout.startswith("goverse-cli, version ")
