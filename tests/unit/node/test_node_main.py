"""The command line of a node: how it stops."""

from __future__ import annotations

import os

import pytest
from click.testing import CliRunner, Result

from goverse_node.__main__ import main


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("GOVERSE_", "POD_", "LOG_")):
            monkeypatch.delenv(name)


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(main, list(arguments), env=environment)


def mode(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return [line.strip() for line in result.output.splitlines() if "shutdown_" in line]


def test_the_way_to_stop_is_a_flag_before_it_is_the_environment() -> None:
    by_default = mode(run("check-config"))
    assert any(line.startswith("shutdown_mode: permanent") for line in by_default)
    by_environment = mode(run("check-config", GOVERSE_SHUTDOWN_MODE="restart"))
    assert any(line.startswith("shutdown_mode: restart") for line in by_environment)
    flags = ("--shutdown-mode", "permanent", "--shutdown-timeout", "45s")
    by_flag = mode(run("check-config", *flags, GOVERSE_SHUTDOWN_MODE="restart"))
    assert any(line.startswith("shutdown_mode: permanent") for line in by_flag)
    assert any(line.startswith("shutdown_timeout: 45s") for line in by_flag)


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (("--shutdown-mode", "later"), {}, "'later' is not one of 'permanent', 'restart'"),
        ((), {"GOVERSE_SHUTDOWN_MODE": "later"}, "node.shutdown_mode"),
        (("--shutdown-timeout", "20"), {}, "node.shutdown_timeout"),
    ],
)
def test_a_way_to_stop_that_there_is_not_is_named(
    arguments: tuple[str, ...], environment: dict[str, str], said: str
) -> None:
    result = run("check-config", *arguments, **environment)
    assert result.exit_code == 2
    assert said in result.output + result.stderr
