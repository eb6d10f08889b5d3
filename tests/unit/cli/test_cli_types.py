"""``type``, ``object create|delete``, ``version``, ``completion``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from goverse.admin.api import Member
from goverse.errors import Conflict, PermissionDenied
from goverse_cli.commands.type import _word
from goverse_cli.exits import Exit

if TYPE_CHECKING:
    from .conftest import FakeCluster, Terminal


def test_types_as_json_have_their_schemas_as_json(terminal: Terminal) -> None:
    found = json.loads(terminal.run("type", "describe", "Counter", "-o", "json").stdout)
    assert list(found) == [
        "name", "doc", "durability", "concurrent", "reentrancy", "idle_timeout_s", "fields",
        "methods",
    ]  # fmt: skip
    assert found["fields"] == [{"name": "value", "schema": {"type": "integer"}}]
    (method,) = found["methods"]
    assert method["arguments"]["properties"]["amount"]["default"] == 1
    assert json.loads(terminal.run("type", "list", "-o", "json").stdout) == [found]
    assert yaml.safe_load(terminal.run("type", "describe", "Counter", "-o", "yaml").stdout) == found


def test_types_as_tables_are_for_people(terminal: Terminal) -> None:
    text = terminal.run("type", "describe", "Counter").stdout
    assert "add(amount: integer = 1)" in text
    assert "value" in text
    assert "A counter per id." in terminal.run("type", "list").stdout
    assert "More." not in terminal.run("type", "list").stdout


def test_a_type_that_is_not_hosted_is_not_found(terminal: Terminal) -> None:
    result = terminal.run("type", "describe", "Nothing")
    assert result.exit_code == Exit.NOT_FOUND
    assert "hosted types: Counter" in result.stderr


def test_schemas_are_told_in_words() -> None:
    assert _word({"anyOf": [{"type": "string"}, {"type": "null"}]}) == "string | null"
    assert _word({"type": "array", "items": {"$ref": "#/$defs/Point"}}) == "[Point]"
    assert _word({"enum": ["a", 1]}) == '"a" | 1'
    assert _word({"type": "string", "format": "date"}) == "date"
    assert _word({}) == _word(True) == "any"


def test_objects_are_created_and_deleted(terminal: Terminal, cluster: FakeCluster) -> None:
    result = terminal.run("object", "create", "Counter", "a", "--timeout", "3s", "-o", "json")
    assert (result.exit_code, json.loads(result.stdout)["owner"]) == (0, "n1")
    assert terminal.run("object", "delete", "Counter", "a").exit_code == 0
    assert [asked for asked in cluster.asked if asked[0] in ("create", "delete")] == [
        ("create", "Counter", "a", 3.0),
        ("delete", "Counter", "a", 10.0),
    ]
    assert cluster.open == 0
    for error, code in ((Conflict("active"), Exit.REFUSED), (PermissionDenied("no"), Exit.DENIED)):
        cluster.failure = error
        assert terminal.run("object", "create", "Counter", "a").exit_code == code


def test_versions_of_client_and_cluster(terminal: Terminal, cluster: FakeCluster) -> None:
    found = json.loads(terminal.run("version", "-o", "json").stdout)
    assert set(found) == {"client", "nodes", "gates"}
    assert found["nodes"] == {"n1": "0.1.0", "n2": "0.1.0"}
    text = terminal.run("version")
    assert "node n1" in text.stdout
    assert "different versions" in text.stderr  # the gate of the fake says none
    cluster.up.clear()
    assert terminal.run("version").exit_code == Exit.UNAVAILABLE
    own = terminal.run("version", "--client", "-o", "json")
    assert (own.exit_code, json.loads(own.stdout)) == (0, {"client": found["client"]})


def test_a_member_that_says_no_version_is_unknown() -> None:
    assert Member(name="n").version == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_of_that_shell(
    terminal: Terminal, shell: str, tmp_path: Path
) -> None:
    result = terminal.run("completion", shell)
    assert result.exit_code == 0
    assert "_GOVERSE_CLI_COMPLETE" in result.stdout
    assert "goverse-cli" in result.stdout
    if shutil.which(shell):
        script = tmp_path / "script"
        script.write_text(result.stdout)
        subprocess.run([shell, "-n", script], check=True)


def test_completion_of_another_shell_is_refused(terminal: Terminal) -> None:
    assert terminal.run("completion", "cmd").exit_code == Exit.USAGE


def test_the_script_asks_the_program_and_gets_an_answer() -> None:
    environment = {
        **os.environ,
        "COMP_WORDS": "goverse-cli object cr",
        "COMP_CWORD": "2",
        "_GOVERSE_CLI_COMPLETE": "bash_complete",
    }
    done = subprocess.run(
        [sys.executable, "-m", "goverse_cli"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["plain,create"]
