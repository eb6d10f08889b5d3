"""The command line of a gate."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from goverse import process
from goverse.config.settings import Settings
from goverse_gate.__main__ import main


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("GOVERSE_", "POD_", "LOG_")):
            monkeypatch.delenv(name)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.mark.parametrize("command", [(), ("serve",), ("check-config",)])
def test_help_has_examples_or_exit_codes(command: tuple[str, ...]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Examples:" in result.output if command else "Exit status:" in result.output


def test_check_config_prints_what_is_in_force(tmp_path: Path) -> None:
    config = tmp_path / "cluster.yaml"
    config.write_text("gate:\n  listen: 127.0.0.1:49100\n  shutdown_timeout: 3s\n")
    result = run("check-config", "--config", str(config), "--http-listen", "off")
    assert result.exit_code == 0
    assert "127.0.0.1:49100" in result.output
    assert "shutdown_timeout: 3s" in result.output


@pytest.mark.parametrize("command", ["serve", "check-config"])
def test_a_faulty_configuration_is_refused_with_its_place(tmp_path: Path, command: str) -> None:
    config = tmp_path / "cluster.yaml"
    config.write_text("gate:\n  listen: nonsense\n  colour: red\n")
    result = run(command, "--config", str(config))
    assert result.exit_code == process.EXIT_CONFIG
    assert f"{config}:2" in result.output
    assert f"{config}:3" in result.output


def test_listening_beyond_loopback_needs_insecure() -> None:
    result = run("check-config", "--listen", "0.0.0.0:49000")
    assert result.exit_code == process.EXIT_CONFIG
    assert "--insecure" in result.output
    assert run("check-config", "--listen", "0.0.0.0:49000", "--insecure").exit_code == 0


def test_serve_runs_what_the_flags_say(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Settings, str]] = []

    def fake_run(configuration: process.Configuration, name: str, app: Any) -> int:
        seen.append((configuration.loaded.settings, name))
        return 7

    monkeypatch.setattr(process, "run", fake_run)
    result = run(
        "serve",
        *("--id", "g1", "--listen", "127.0.0.1:1", "--http-listen", "127.0.0.1:2"),
        *("--ops-listen", "off", "--allowed-origins", "https://a.example,https://b.example"),
        *("--etcd-endpoints", "e1:1,e2:2", "--log-level", "debug"),
    )
    assert result.exit_code == 7
    settings, name = seen[0]
    assert name == "g1"
    gate = settings.gate
    assert (gate.listen, gate.http_listen, gate.ops_listen) == ("127.0.0.1:1", "127.0.0.1:2", "off")
    assert gate.allowed_origins == ("https://a.example", "https://b.example")
    assert settings.cluster.etcd.endpoints == ("e1:1", "e2:2")
    assert settings.log.level == "debug"
