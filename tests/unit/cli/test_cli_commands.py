"""What commands ask, print and exit with."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from goverse.errors import (
    ApplicationError,
    Conflict,
    DeadlineExceeded,
    Executed,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    ObjectFailed,
    Overloaded,
    PermissionDenied,
    Unavailable,
)
from goverse_cli.commands.object import encode_arguments
from goverse_cli.exits import MEANINGS, CliError, Exit

if TYPE_CHECKING:
    from .conftest import FakeCluster, Terminal

N1 = {
    "name": "n1",
    "incarnation": "a1",
    "kind": "node",
    "address": "10.0.0.1:48000",
    "ops_address": "10.0.0.1:48001",
    "weight": 1.0,
    "version": "0.1.0",
    "state": "active",
    "leader": True,
    "claimed": 2,
    "targeted": 2,
}
SHARD_2 = {
    "shard": 2,
    "state": "owned",
    "target": "n1",
    "owner": "n1",
    "owner_address": "10.0.0.1:48000",
    "epoch": "1.22",
    "pinned": False,
    "pinned_node": "",
    "failed_over": False,
    "why": [],
}


def answer(terminal: Terminal, *arguments: str) -> Any:
    result = terminal.run(*arguments, "-o", "json")
    assert result.exit_code == 0, result.stderr
    assert terminal.cluster.open == 0
    return json.loads(result.stdout)


def test_status_as_json_is_frozen(terminal: Terminal) -> None:
    found = answer(terminal, "status")
    assert list(found) == [
        "cluster_id", "generation", "num_shards", "revision", "current", "leader", "source",
        "nodes", "gates", "shards", "warnings", "held",
    ]  # fmt: skip
    assert found["nodes"][0] == N1
    assert found["shards"] == {
        "total": 4, "claimed": 3, "pinned": 1, "owned": 3, "migrating": 0, "unclaimed": 1,
        "unassigned": 0,
    }  # fmt: skip
    assert found["warnings"] == [
        {"code": "shards_without_owner", "message": "1 shard", "shards": [3]}
    ]


def test_lists_and_shards_as_json_are_frozen(terminal: Terminal) -> None:
    assert answer(terminal, "node", "list")[0] == N1
    assert answer(terminal, "gate", "list")[0]["kind"] == "gate"
    assert answer(terminal, "shard", "get", "2") == SHARD_2
    assert answer(terminal, "shard", "list")[2] == SHARD_2
    assert answer(terminal, "object", "list")[0] == {
        "type": "Counter", "id": "c0", "node": "n1", "shard": 0, "epoch": "1.7",
        "state": "active", "queued": 0, "running": 0, "idle_s": 0.0,
    }  # fmt: skip
    assert answer(terminal, "object", "locate", "Counter", "foobar") == {
        "type": "Counter", "id": "foobar", "slot": 6504, "shard": 0, "owner": "n1",
        "owner_address": "10.0.0.1:48000", "epoch": "1.20",
    }  # fmt: skip


def test_warnings_go_to_standard_error(terminal: Terminal) -> None:
    result = terminal.run("status")
    assert "Warning: 1 shard (shard 3)" in result.stderr
    assert "Warning" not in result.stdout


def test_yaml_says_the_same_as_json(terminal: Terminal) -> None:
    for command in (("status",), ("shard", "get", "2"), ("node", "list")):
        result = terminal.run(*command, "-o", "yaml")
        assert yaml.safe_load(result.stdout) == answer(terminal, *command)


def test_tables_are_for_people(terminal: Terminal) -> None:
    table = terminal.run("node", "list").stdout
    assert table.splitlines()[0].split()[:2] == ["NAME", "ADDRESS"]
    assert "10.0.0.1:48000" in table
    status = terminal.run("status").stdout
    assert "3/4 claimed" in status
    assert "c0ffee" in status
    assert "1 restarting" in status
    assert "n1" in terminal.run("shard", "get", "2").stdout


def test_options_may_stand_before_or_after_the_command(terminal: Terminal) -> None:
    for arguments in (
        ("-o", "json", "shard", "get", "2"),
        ("shard", "get", "-o", "json", "2"),
        ("shard", "get", "2", "-o", "json"),
    ):
        assert json.loads(terminal.run(*arguments).stdout) == SHARD_2
    assert terminal.run("-o", "json", "shard", "get", "2", "-o", "yaml").stdout.startswith("shard:")


def test_all_pages_are_fetched_up_to_the_limit(terminal: Terminal) -> None:
    assert [s["shard"] for s in answer(terminal, "shard", "list")] == [0, 1, 2, 3]
    result = terminal.run("shard", "list", "--limit", "3", "-o", "json")
    assert [s["shard"] for s in json.loads(result.stdout)] == [0, 1, 2]
    assert "There are more" in result.stderr
    assert len(answer(terminal, "object", "list")) == 3


def test_filters_reach_the_node(terminal: Terminal, cluster: FakeCluster) -> None:
    terminal.run("shard", "list", "--node", "n2", "--state", "pinned")
    terminal.run("object", "list", "--node", "n1", "--type", "T", "--prefix", "a")
    assert cluster.asked[0] == ("shards", "n2", "pinned")
    assert cluster.asked[-1] == ("objects", "n1", "T", "a")


def test_nodes_that_did_not_answer_are_named(terminal: Terminal, cluster: FakeCluster) -> None:
    cluster.unreachable = ("n7",)
    assert "node n7 did not answer" in terminal.run("object", "list").stderr


def test_L37_a_dry_run_shows_what_moves_and_what_does_not_and_why(
    terminal: Terminal, cluster: FakeCluster
) -> None:
    result = terminal.run("shard", "rebalance", "--dry-run")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["decisions", "balance,", "cooldown,", "pinned"] in lines
    assert ["moves", "2", "wanted,", "1", "begin", "now"] in lines
    assert ["held", "1", "cooldown,", "1", "pinned"] in lines
    assert ["n1", "1", "yes", "3", "2", "1.5", "1", "0.25", "0"] in lines
    assert ["2", "n1", "n2", "balance", "-", "2.5"] in lines
    assert ["3", "n1", "n2", "balance", "cooldown", "1"] in lines
    assert cluster.asked == [("plan",)]
    found = answer(terminal, "shard", "rebalance", "--dry-run")
    assert found["moves"][1] == {
        "shard": 3, "source": "n1", "target": "n2", "reason": "balance", "held": "cooldown",
        "load": 1.0,
    }  # fmt: skip
    result = terminal.run("shard", "rebalance", "--dry-run", "--limit", "1")
    assert "cooldown  1" not in result.stdout and "2 wanted moves" in result.stderr


def test_rebalancing_is_asked_of_the_leader_itself(
    terminal: Terminal, cluster: FakeCluster
) -> None:
    cluster.up["10.0.0.1:48000"] = None
    assert answer(terminal, "shard", "rebalance")["leader"] == "n1"
    assert cluster.asked == [("status",), ("rebalance",)]
    assert [address for address, _ in cluster.connections] == ["localhost:48000", "10.0.0.1:48000"]
    del cluster.up["10.0.0.1:48000"]
    result = terminal.run("shard", "rebalance")
    assert result.exit_code == Exit.UNAVAILABLE and cluster.open == 0


def test_L37_shards_that_are_held_are_listed_with_who_holds_and_who_wants_them(
    terminal: Terminal, cluster: FakeCluster
) -> None:
    result = terminal.run("shard", "locks", "--node", "n1")
    lines = [line.split() for line in result.stdout.splitlines()]
    wanted = "2 n1 draining sealed hand over 33.2 s 3 4 Order/o-1.pay c-9 61.0 s"
    assert wanted.split() in lines
    assert ["0", "n2", "open", "-", "-", "1", "0", "-", "-", "-"] in lines
    assert cluster.asked == [("locks", "n1", 40)]
    found = answer(terminal, "shard", "locks", "--limit", "1")
    assert [lock["object"] for lock in found["locks"]] == ["Order/o-1"]
    assert found["locks"][0]["wanted_s"] == 33.25 and found["locks"][0]["sealed"] is True
    cluster.unreachable = ("n7",)
    result = terminal.run("shard", "locks", "--limit", "2")
    assert "node n7 did not answer" in result.stderr and "first 2" in result.stderr


def test_pin_and_unpin(terminal: Terminal, cluster: FakeCluster) -> None:
    result = terminal.run("shard", "pin", "2", "--node", "n2", "-o", "json")
    assert json.loads(result.stdout) == {**SHARD_2, "pinned": True, "pinned_node": "n2"}
    assert "moves to n2 soon" in result.stderr
    assert answer(terminal, "shard", "unpin", "2")["shard"] == 2
    assert ("pin", 2, "n2") in cluster.asked


def test_pin_can_wait_until_the_shard_is_there(terminal: Terminal, cluster: FakeCluster) -> None:
    cluster.moves_after = 3
    found = answer(terminal, "shard", "pin", "2", "--node", "n2", "--wait")
    assert (found["owner"], found["pinned"]) == ("n2", True)


def test_waiting_for_a_pin_ends(terminal: Terminal) -> None:
    result = terminal.run("shard", "pin", "2", "--node", "n2", "--wait", "--timeout", "50ms")
    assert result.exit_code == Exit.TIMEOUT
    assert "shard 2 is not on n2" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        ((), b""),
        (('{"amount": 5}',), b'{"amount": 5}'),
        (("amount=5",), b'{"amount": 5}'),
        (("name=Ann", "tags=[1, 2]", "on=true", "x=", 'y="5"'),
         b'{"name": "Ann", "tags": [1, 2], "on": true, "x": "", "y": "5"}'),
        (("text=a=b",), b'{"text": "a=b"}'),
    ],
)  # fmt: skip
def test_arguments_are_an_object_or_pairs(
    terminal: Terminal, cluster: FakeCluster, arguments: tuple[str, ...], sent: bytes
) -> None:
    result = terminal.run("object", "call", "Counter", "a", "add", *arguments, "--timeout", "3s")
    assert result.exit_code == 0, result.stderr
    assert cluster.asked == [("call", "Counter", "a", "add", sent, 3.0)]


@pytest.mark.parametrize(
    "arguments", [("5",), ("{bad",), ("a b=1",), ("=1",), ("a=1", "a=2"), ("{}", "a=1")]
)
def test_arguments_that_are_neither_are_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(CliError) as caught:
        encode_arguments(arguments)
    assert caught.value.exit_code == Exit.USAGE


@pytest.mark.parametrize(
    ("result", "table"),
    [(b"5", "5\n"), (b"null", "null\n"), (b'"[bold]hi[/bold]"', "[bold]hi[/bold]\n"),
     (b'"a\\u001b[2Jb"', "a\\x1b[2Jb\n"), (b'{"a":[1]}', '{\n  "a": [\n    1\n  ]\n}\n')],
)  # fmt: skip
def test_a_result_is_printed_as_it_is(
    terminal: Terminal, cluster: FakeCluster, result: bytes, table: str
) -> None:
    cluster.result = result
    call = ("object", "call", "Counter", "a", "get")
    assert terminal.run(*call).stdout == table
    assert json.loads(terminal.run(*call, "-o", "json").stdout) == json.loads(result)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidArgument("x"), 2),
        (NotFound("x"), 3),
        (Unavailable("x"), 4),
        (Overloaded("x"), 4),
        (PermissionDenied("x"), 5),
        (Conflict("x"), 6),
        (FailedPrecondition("x"), 6),
        (ApplicationError("poor", "x"), 7),
        (ObjectFailed("x"), 7),
        (DeadlineExceeded("x", executed=Executed.UNKNOWN), 8),
        (Internal("x"), 1),
    ],
)
def test_an_error_has_its_exit_code(
    terminal: Terminal, cluster: FakeCluster, error: Any, code: int
) -> None:
    cluster.failure = error
    result = terminal.run("object", "call", "Counter", "a", "add", "-o", "json")
    assert result.exit_code == code
    assert result.stdout == ""
    assert f"Error: x [{error.code}, executed: {error.executed.value}]" in result.stderr
    assert "Traceback" not in result.stderr
    assert cluster.open == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("shard", "get"),
        ("shard", "get", "x"),
        ("shard", "get", "65536"),
        ("shard", "pin", "2"),
        ("shard", "list", "--state", "lost"),
        ("status", "--timeout", "5"),
        ("status", "--timeout", "0s"),
        ("status", "--server", "localhost"),
        ("status", "--etcd-endpoints", "a:1,b"),
        ("status", "-o", "xml"),
        ("nonsense",),
    ],
)
def test_wrong_usage_exits_with_2(terminal: Terminal, arguments: tuple[str, ...]) -> None:
    result = terminal.run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""


def test_exit_codes_never_change_their_meaning() -> None:
    assert {code.name: int(code) for code in Exit} == {
        "OK": 0,
        "ERROR": 1,
        "USAGE": 2,
        "NOT_FOUND": 3,
        "UNAVAILABLE": 4,
        "DENIED": 5,
        "REFUSED": 6,
        "FAILED": 7,
        "TIMEOUT": 8,
        "UNHEALTHY": 9,
        "INTERRUPTED": 130,
    }
    assert set(MEANINGS) == set(Exit)


def test_answers_are_not_changed_by_what_they_hold(
    terminal: Terminal, cluster: FakeCluster
) -> None:
    """An id may look like markup, or clear the screen."""
    odd = dataclasses.replace(cluster.objects[0], id="[red]\x9b2J ü")
    cluster.objects = [odd]
    assert answer(terminal, "object", "list")[0]["id"] == odd.id
    assert "[red]\\x9b2J ü" in terminal.run("object", "list").stdout
