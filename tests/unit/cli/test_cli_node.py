"""``node cordon|uncordon|drain|decommission``: what is asked, watched, refused and told."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from goverse.errors import FailedPrecondition
from goverse_cli.exits import Exit

if TYPE_CHECKING:
    from .conftest import FakeCluster, Terminal


def test_a_node_is_cordoned_and_uncordoned(terminal: Terminal, cluster: FakeCluster) -> None:
    found = json.loads(terminal.run("node", "cordon", "n2", "-o", "json").stdout)
    assert (found["name"], found["state"]) == ("n2", "cordoned")
    assert "active" in terminal.run("node", "uncordon", "n2").stdout
    assert cluster.asked == [("cordon", "n2", False), ("uncordon", "n2")]
    result = terminal.run("node", "uncordon", "n7")
    assert result.exit_code == 0 and "n7 is away" in result.stderr
    result = terminal.run("node", "cordon", "n7")
    assert result.exit_code == Exit.NOT_FOUND and "the nodes are: n1, n2" in result.stderr


def test_a_drain_says_how_many_shards_are_left_until_there_are_none(
    terminal: Terminal, cluster: FakeCluster
) -> None:
    result = terminal.run("node", "drain", "n1", "-o", "json")
    assert result.exit_code == 0
    assert [line for line in result.stderr.splitlines() if "left" in line] == [
        "n1: 2 shards left",
        "n1: 1 shards left",
        "n1: 0 shards left",
    ]
    assert json.loads(result.stdout)["claimed"] == 0
    assert cluster.asked[0] == ("cordon", "n1", True)


def test_a_drain_need_not_be_watched(terminal: Terminal, cluster: FakeCluster) -> None:
    result = terminal.run("node", "drain", "n1", "--no-wait", "-o", "json")
    assert json.loads(result.stdout)["state"] == "draining"
    assert cluster.asked == [("cordon", "n1", True)]


def test_a_drain_that_takes_too_long_says_why_and_that_it_goes_on(
    terminal: Terminal, cluster: FakeCluster
) -> None:
    cluster.gives_up = 0
    result = terminal.run("node", "drain", "n1", "--timeout", "50ms", "-o", "json")
    assert (result.exit_code, result.stdout) == (Exit.TIMEOUT, "")
    assert "n1 has 2 shards after 0.05 s" in result.stderr
    assert "shard 0: it is on its way" in result.stderr
    assert "goverse-cli node uncordon n1" in result.stderr


def test_a_drain_that_somebody_calls_off_ends(terminal: Terminal, cluster: FakeCluster) -> None:
    cluster.gives_up = 0
    asked = cluster.list_nodes

    async def list_nodes() -> object:
        await cluster.uncordon_node("n1")
        return await asked()

    cluster.list_nodes = list_nodes  # type: ignore[method-assign,assignment]
    result = terminal.run("node", "drain", "n1")
    assert result.exit_code == Exit.REFUSED and "n1 is active again" in result.stderr


def test_a_decommission_drains_then_ends_the_node_itself_and_sees_it_go(
    terminal: Terminal, cluster: FakeCluster
) -> None:
    cluster.up |= {"10.0.0.1:48000": None, "10.0.0.2:48000": None}
    cluster.looks_until_gone = 1
    result = terminal.run("node", "decommission", "n1", "--yes", "-o", "json")
    assert result.exit_code == 0, result.stderr
    assert (json.loads(result.stdout)["name"], json.loads(result.stdout)["state"]) == ("n1", "left")
    steps = [asked[0] for asked in cluster.asked]
    assert steps == ["nodes", "cordon", "nodes", "nodes", "decommission", "nodes"]
    assert cluster.asked[4] == ("decommission", "n1", "10.0.0.1:48000")
    # That it has gone is asked of another.
    assert [address for address, _ in cluster.connections][-1] == "10.0.0.2:48000"
    assert cluster.open == 0


def test_a_decommission_is_not_done_off_a_terminal_without_yes(
    terminal: Terminal, cluster: FakeCluster
) -> None:
    result = terminal.run("node", "decommission", "n1")
    assert (result.exit_code, result.stdout) == (Exit.REFUSED, "")
    assert "this is no terminal" in result.stderr and "--yes" in result.stderr
    assert cluster.asked == [("nodes",)]
    result = terminal.run("node", "decommission", "n7", "--yes")
    assert result.exit_code == Exit.NOT_FOUND


@pytest.mark.parametrize("answer", ["n\n", "\n"])
def test_at_a_terminal_a_decommission_asks_and_no_is_no(
    terminal: Terminal, cluster: FakeCluster, answer: str
) -> None:
    result = terminal.run("node", "decommission", "n1", at_terminal=answer)
    assert result.exit_code == Exit.REFUSED and "nothing was changed" in result.stderr
    assert "End n1 (10.0.0.1:48000, 2 shards) for good?" in result.stderr
    assert cluster.asked == [("nodes",)]


def test_a_node_that_cannot_be_emptied_in_time_is_not_ended(
    terminal: Terminal, cluster: FakeCluster
) -> None:
    cluster.gives_up = 0
    result = terminal.run("node", "decommission", "n1", "--yes", "--timeout", "50ms")
    assert result.exit_code == Exit.TIMEOUT
    assert "decommission" not in [asked[0] for asked in cluster.asked]


def test_the_last_node_is_refused_by_the_cluster(terminal: Terminal, cluster: FakeCluster) -> None:
    cluster.failure = FailedPrecondition("no other node takes shards")
    result = terminal.run("node", "drain", "n1")
    assert result.exit_code == Exit.REFUSED and "no other node takes shards" in result.stderr
