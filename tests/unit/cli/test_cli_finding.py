"""Which node is asked, and what is said when none answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from goverse_cli.exits import Exit

if TYPE_CHECKING:
    from .conftest import FakeCluster, Terminal


def asked(cluster: FakeCluster) -> list[str]:
    return [address for address, _ in cluster.connections]


def test_the_node_on_the_line_wins(terminal: Terminal, cluster: FakeCluster) -> None:
    terminal.environ = {"GOVERSE_SERVER": "env:1", "GOVERSE_ETCD_ENDPOINTS": "etcd:2379"}
    cluster.up["line:1"] = None
    assert terminal.run("node", "list", "--server", "line:1").exit_code == 0
    assert asked(cluster) == ["line:1"]
    assert cluster.etcd_asked == []


def test_the_environment_names_a_node(terminal: Terminal, cluster: FakeCluster) -> None:
    terminal.environ = {"GOVERSE_SERVER": "env:1"}
    cluster.up["env:1"] = None
    assert terminal.run("node", "list").exit_code == 0
    assert asked(cluster) == ["env:1"]


def test_etcd_on_the_line_wins_over_a_node_in_the_environment(
    terminal: Terminal, cluster: FakeCluster
) -> None:
    terminal.environ = {"GOVERSE_SERVER": "env:1"}
    cluster.etcd_up = True
    cluster.registered = ["n1:48000", "n2:48000"]
    cluster.up["n2:48000"] = None
    result = terminal.run("node", "list", "--etcd-endpoints", "e1:2379,e2:2379")
    assert result.exit_code == 0, result.stderr
    assert asked(cluster) == ["n1:48000", "n2:48000"]
    assert cluster.etcd_asked == [(("e1:2379", "e2:2379"), "")]


def test_without_a_word_this_machine_is_asked_and_then_etcd(
    terminal: Terminal, cluster: FakeCluster
) -> None:
    cluster.etcd_up = True
    cluster.registered = ["n2:48000"]
    cluster.up = {"n2:48000": None}
    assert terminal.run("node", "list").exit_code == 0
    assert asked(cluster) == ["localhost:48000", "n2:48000"]


def test_a_named_node_that_does_not_answer_is_not_replaced(
    terminal: Terminal, cluster: FakeCluster
) -> None:
    result = terminal.run("shard", "pin", "1", "--node", "n2", "--server", "gone:1")
    assert result.exit_code == Exit.UNAVAILABLE
    assert "no node at gone:1" in result.stderr
    assert asked(cluster) == ["gone:1"]
    assert cluster.etcd_asked == []


def test_when_nobody_answers_all_that_was_tried_is_named(
    terminal: Terminal, cluster: FakeCluster
) -> None:
    cluster.up = {}
    result = terminal.run("node", "list")
    assert result.exit_code == Exit.UNAVAILABLE
    assert "localhost:48000" in result.stderr
    assert "etcd" in result.stderr
    assert "--server host:port" in result.stderr
    assert cluster.open == 0


def test_status_falls_back_to_etcd_and_says_so(terminal: Terminal, cluster: FakeCluster) -> None:
    cluster.up = {}
    cluster.etcd_up = True
    cluster.registered = ["n1:48000"]
    result = terminal.run("status", "-o", "json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["source"] == "etcd"
    assert "This is what etcd knows" in result.stderr
    assert cluster.open == 0


def test_status_of_a_named_node_is_not_taken_from_some_other_clusters_etcd(
    terminal: Terminal, cluster: FakeCluster
) -> None:
    cluster.etcd_up = True
    result = terminal.run("status", "--server", "gone:1")
    assert result.exit_code == Exit.UNAVAILABLE
    assert (result.stdout, cluster.etcd_asked) == ("", [])
    assert "--etcd-endpoints" in result.stderr
    terminal.environ = {"GOVERSE_ETCD_ENDPOINTS": "e1:2379"}
    assert terminal.run("status", "--server", "gone:1").exit_code == 0
    assert cluster.etcd_asked == [(("e1:2379",), "")]


def test_status_without_anybody_says_what_to_do(terminal: Terminal, cluster: FakeCluster) -> None:
    cluster.up = {}
    result = terminal.run("status")
    assert result.exit_code == Exit.UNAVAILABLE
    assert "etcd does not answer either" in result.stderr
    assert "goverse-cli dev" in result.stderr


def test_a_wrong_address_in_the_environment_is_named(
    terminal: Terminal, cluster: FakeCluster
) -> None:
    terminal.environ = {"GOVERSE_SERVER": "http://x"}
    result = terminal.run("status")
    assert result.exit_code == Exit.USAGE
    assert "GOVERSE_SERVER" in result.stderr


def test_the_token_is_read_from_its_file(
    terminal: Terminal, cluster: FakeCluster, tmp_path: Path
) -> None:
    path = tmp_path / "token"
    path.write_text("0123456789abcdef\n")
    path.chmod(0o644)
    refused = terminal.run("shard", "pin", "1", "--node", "n2", "--token-file", str(path))
    assert refused.exit_code == Exit.USAGE
    assert "chmod 600" in refused.stderr
    path.chmod(0o600)
    terminal.run("shard", "pin", "1", "--node", "n2", "--token-file", str(path))
    assert cluster.connections[-1] == ("localhost:48000", "0123456789abcdef")
