"""``check`` finds what is wrong, and nothing else."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest

from goverse.admin.api import ClusterStatus, Warning
from goverse.cluster.records import Claim, Leader, MemberState
from goverse.cluster.state import ClusterState
from goverse.ids import MemberId
from goverse.sharding import Cordon
from goverse_cli.doctor import (
    FAIL,
    OK,
    WARN,
    EndpointFacts,
    Finding,
    NodeFacts,
    check_etcd,
    check_nodes,
    worst,
)
from goverse_cli.doctor_state import check_state
from goverse_cli.exits import Exit
from tests.support.cluster_state import cluster_state

if TYPE_CHECKING:
    from .conftest import FakeCluster, Terminal


def healthy(**changes: Any) -> ClusterState:
    facts: dict[str, Any] = {
        "nodes": ("n1", "n2"), "gates": ("g1",), "leader": "n1", "num_shards": 4,
        "targets": {0: "n1", 1: "n2", 2: "n1", 3: "n2"},
        "claims": {0: "n1", 1: "n2", 2: "n1", 3: "n2"},
    }  # fmt: skip
    return cluster_state(**{**facts, **changes})


def bad(findings: list[Finding]) -> list[tuple[str, str]]:
    for finding in findings:
        if finding.level != OK:
            assert finding.hint, finding
    return [(finding.check, finding.level) for finding in findings if finding.level != OK]


def of_state(state: ClusterState) -> list[tuple[str, str]]:
    return bad(list(check_state(state)))


def test_a_healthy_cluster_has_nothing_wrong_and_says_what_was_looked_at() -> None:
    findings = list(check_state(healthy()))
    assert worst(findings) == OK
    assert {finding.check for finding in findings} == {
        "layout", "members", "versions", "leader", "claims", "targets",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"num_shards": 0}, ("layout", FAIL)),
        ({"nodes": (), "leader": "", "targets": {}, "claims": {}}, ("members", FAIL)),
        ({"gates": ()}, ("members", WARN)),
        ({"leader": ""}, ("leader", FAIL)),
        ({"leader": "n9"}, ("leader", FAIL)),
        ({"claims": {0: "n1", 1: "n2", 2: "n1"}}, ("claims", WARN)),
        ({"claims": {0: "n9", 1: "n2", 2: "n1", 3: "n2"}}, ("claims", FAIL)),
        ({"claims": {0: "n1", 1: "n2", 2: "n1", 3: "n2", 7: "n2"}}, ("claims", FAIL)),
        ({"targets": {0: "n9", 1: "n2", 2: "n1", 3: "n2"}}, ("targets", WARN)),
        ({"claims": {0: "n2", 1: "n2", 2: "n1", 3: "n2"}}, ("targets", WARN)),
        ({"pins": {1: "n9"}}, ("pins", WARN)),
    ],
    ids=str,
)
def test_what_is_wrong_in_etcd_is_found(changes: dict[str, Any], expected: tuple[str, str]) -> None:
    assert expected in of_state(healthy(**changes))


def test_processes_of_different_versions_and_generations_are_found() -> None:
    state = healthy()
    state.nodes["n2"] = dataclasses.replace(state.nodes["n2"], version="0.2.0", generation=2)
    assert of_state(state) == [("layout", FAIL), ("versions", WARN)]


def test_a_node_that_leaves_is_named() -> None:
    state = healthy()
    state.nodes["n2"] = dataclasses.replace(state.nodes["n2"], state=MemberState.DRAINING)
    assert of_state(state) == [("members", WARN)]


def test_what_operators_said_of_nodes_is_named_with_the_way_back() -> None:
    state = healthy()
    state.cordons |= {"n9": Cordon.DRAINING, "n1": Cordon.CORDONED}
    (found,) = [f for f in check_state(state) if f.level != OK]
    assert (found.check, found.level) == ("members", WARN)
    assert "n1, n9" in found.message and "node uncordon" in found.hint


def test_a_claim_under_another_lease_than_its_owners_is_found() -> None:
    state = healthy()
    state.claims[0] = Claim(state.claims[0].member, 1, 99, lease=8)
    assert of_state(state) == [("leases", FAIL)]


def test_a_claim_of_an_earlier_incarnation_is_orphaned() -> None:
    state = healthy()
    state.claims[0] = Claim(MemberId("n1", "before"), 1, 99, lease=7)
    assert ("claims", FAIL) in of_state(state)


def test_a_leader_that_is_another_incarnation_is_found() -> None:
    state = healthy()
    state.leader = Leader(MemberId("n1", "before"), 7)
    assert of_state(state) == [("leader", FAIL)]


def test_targets_are_kept_for_a_node_that_restarts() -> None:
    state = healthy(
        targets={0: "n9", 1: "n2", 2: "n1", 3: "n2"}, claims={1: "n2", 2: "n1", 3: "n2"}
    )
    assert ("targets", WARN) in of_state(state)
    state.restarts["n9"] = "i-n9"
    assert of_state(state) == [("claims", WARN)]


def test_shards_are_named_and_counted() -> None:
    state = healthy(num_shards=64, claims={}, targets={})
    (finding,) = [f for f in check_state(state) if f.check == "claims"]
    assert "shard 0, 1, 2, 3, 4, 5, 6, 7 and 56 more" in finding.message


def test_endpoints_of_etcd() -> None:
    up = EndpointFacts(endpoint="a:1", state=healthy(), took_s=0.002)
    down = EndpointFacts(endpoint="b:1", error="refused")
    assert bad(list(check_etcd([up]))) == []
    assert bad(list(check_etcd([up, down]))) == [("etcd", WARN)]
    assert bad(list(check_etcd([down]))) == [("etcd", FAIL)]
    other = healthy()
    assert other.layout is not None
    other.layout = type(other.layout)("another", 1, 4)
    both = [up, EndpointFacts(endpoint="c:1", state=other)]
    assert bad(list(check_etcd(both))) == [("etcd", FAIL)]


def test_nodes_are_asked_themselves() -> None:
    state = healthy()
    fine = ClusterStatus(generation=1, revision=20)

    def found(*facts: NodeFacts) -> list[tuple[str, str]]:
        return bad(list(check_nodes(facts, state)))

    one = NodeFacts(name="n1", status=fine, types_digest="d")
    assert found(one, NodeFacts(name="n2", status=fine, types_digest="d")) == []
    assert found(one, NodeFacts(name="n2", error="refused")) == [("nodes", FAIL)]
    assert found(one, NodeFacts(name="n2", status=fine, types_digest="e")) == [("types", WARN)]
    stale = dataclasses.replace(fine, current=False)
    assert found(NodeFacts(name="n1", status=stale)) == [("leases", WARN)]
    old = dataclasses.replace(fine, generation=2)
    assert found(NodeFacts(name="n1", status=old)) == [("nodes", FAIL)]
    stuck = dataclasses.replace(
        fine, warnings=(Warning(code="shard_stuck", message="shard 5 has been on its way"),)
    )
    assert found(NodeFacts(name="n1", status=stuck), NodeFacts(name="n2", status=stuck)) == [
        ("shards", WARN)
    ]


# -- the command


def test_the_command_asks_etcd_and_every_node(terminal: Terminal, cluster: FakeCluster) -> None:
    cluster.states["localhost:2379"] = healthy()
    cluster.up = {"n1:48000": None, "n2:48000": None}
    result = terminal.run("check", "-o", "json")
    assert result.exit_code == 0, result.stdout
    found = json.loads(result.stdout)
    assert list(found[0]) == ["check", "level", "message", "hint"]
    assert [f["check"] for f in found].count("nodes") == 2
    assert sorted(address for address, _ in cluster.connections) == ["n1:48000", "n2:48000"]
    assert cluster.open == 0
    text = terminal.run("check").stdout
    assert "n1 leads" in text


def test_something_that_failed_is_the_exit_status(terminal: Terminal, cluster: FakeCluster) -> None:
    assert terminal.run("check").exit_code == Exit.UNHEALTHY
    cluster.states["localhost:2379"] = healthy()
    cluster.up = {"n1:48000": None}
    result = terminal.run("check", "-o", "json")
    assert result.exit_code == Exit.UNHEALTHY
    (silent,) = [f for f in json.loads(result.stdout) if f["level"] == FAIL]
    assert silent["message"].startswith("n2 is registered and does not answer")
    assert cluster.open == 0


def test_warnings_alone_are_no_failure(terminal: Terminal, cluster: FakeCluster) -> None:
    cluster.states["a:1"] = healthy()
    cluster.up = {"n1:48000": None, "n2:48000": None}
    result = terminal.run("check", "--etcd-endpoints", "a:1,b:1", "-o", "json")
    assert result.exit_code == 0
    assert [f["level"] for f in json.loads(result.stdout)[:2]] == [OK, WARN]


def test_without_etcd_the_default_node_is_asked(terminal: Terminal, cluster: FakeCluster) -> None:
    result = terminal.run("check", "-o", "json")
    assert result.exit_code == Exit.UNHEALTHY
    etcd, node = json.loads(result.stdout)[:2]
    assert (etcd["check"], etcd["level"]) == ("etcd", FAIL)
    assert node["message"].startswith("localhost:48000 answers")
    cluster.connections.clear()
    terminal.run("check", "--etcd-endpoints", "a:1")
    assert not cluster.connections
    assert cluster.open == 0
