"""What `check` looks at, as pure functions: facts in, findings out.

A finding says what was looked at, how it is, and what to do next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from goverse.admin.api import ClusterStatus
from goverse.cluster.records import MemberRecord
from goverse.cluster.state import ClusterState

OK, WARN, FAIL = "ok", "warn", "fail"

MAX_NAMED = 8


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the answer. ``hint`` is empty where there is nothing to do."""

    check: str
    level: str
    message: str
    hint: str = ""


@dataclass(frozen=True, kw_only=True)
class EndpointFacts:
    """What one endpoint of etcd answered: a state, or why there is none."""

    endpoint: str
    state: ClusterState | None = None
    took_s: float = 0.0
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    """What one node answered when it was asked itself."""

    name: str
    status: ClusterStatus | None = None
    types_digest: str = ""
    error: str = ""


def worst(findings: Sequence[Finding]) -> str:
    levels = [finding.level for finding in findings]
    return FAIL if FAIL in levels else WARN if WARN in levels else OK


def check_etcd(endpoints: Sequence[EndpointFacts]) -> Iterator[Finding]:
    """Whether every endpoint answers, and whether all speak of one cluster."""
    answered = [facts for facts in endpoints if facts.state is not None]
    for facts in endpoints:
        if facts.state is not None:
            yield Finding(
                check="etcd",
                level=OK,
                message=f"{facts.endpoint} answers in {facts.took_s * 1000:.0f} ms "
                f"at revision {facts.state.revision}",
            )
        else:
            yield Finding(
                check="etcd",
                level=WARN if answered else FAIL,
                message=f"{facts.endpoint} does not answer: {facts.error}",
                hint="is etcd up there, and are --etcd-endpoints and the credentials right? "
                "(goverse-cli dev without --nodes has none)",
            )
    clusters = {
        facts.state.layout.cluster_id: facts.endpoint
        for facts in answered
        if facts.state is not None and facts.state.layout is not None
    }
    if len(clusters) > 1:
        told = ", ".join(f"{endpoint} has {id}" for id, endpoint in clusters.items())
        yield Finding(
            check="etcd",
            level=FAIL,
            message=f"the endpoints belong to different clusters: {told}",
            hint="give every process endpoints of one etcd cluster only",
        )


def check_nodes(nodes: Sequence[NodeFacts], state: ClusterState | None) -> Iterator[Finding]:
    """Whether the nodes answer, are in touch with etcd, and host the same types."""
    for facts in nodes:
        status = facts.status
        if status is None:
            yield Finding(
                check="nodes",
                level=FAIL,
                message=f"{facts.name} is registered and does not answer: {facts.error}",
                hint="is it reachable from here? its lease ends by itself if it is dead",
            )
            continue
        if not status.current:
            yield Finding(
                check="leases",
                level=WARN,
                message=f"{facts.name} has lost touch with etcd; it stops serving when its lease "
                "has ended by its own clock",
                hint=f"check the network between {facts.name} and etcd",
            )
        elif state is not None and status.generation != _generation(state):
            yield Finding(
                check="nodes",
                level=FAIL,
                message=f"{facts.name} follows generation {status.generation}, etcd says "
                f"{_generation(state)}",
                hint="restart it",
            )
        else:
            yield Finding(
                check="nodes",
                level=OK,
                message=f"{facts.name} answers and follows etcd (revision {status.revision})",
            )
    yield from _stuck(nodes)
    yield from _types({facts.name: facts.types_digest for facts in nodes if facts.types_digest})


def _stuck(nodes: Sequence[NodeFacts]) -> Iterator[Finding]:
    told: dict[str, None] = {}
    for facts in nodes:
        for warning in facts.status.warnings if facts.status is not None else ():
            if warning.code in ("shard_stuck", "node_claims_nothing", "leader_silent"):
                told[warning.message] = None
    for message in told:
        yield Finding(
            check="shards",
            level=WARN,
            message=message,
            hint="see what runs there: goverse-cli object list --node NODE",
        )


def _types(digests: Mapping[str, str]) -> Iterator[Finding]:
    by_digest: dict[str, list[str]] = {}
    for name, digest in digests.items():
        by_digest.setdefault(digest, []).append(name)
    if len(by_digest) > 1:
        told = "; ".join(names(hosts) for hosts in by_digest.values())
        yield Finding(
            check="types",
            level=WARN,
            message=f"nodes host different object types: {told}",
            hint="normal during a rolling upgrade; compare: goverse-cli type list --server ...",
        )
    elif by_digest:
        yield Finding(
            check="types",
            level=OK,
            message=f"all nodes host the same types ({next(iter(by_digest))})",
        )


def nodes_of(state: ClusterState) -> list[MemberRecord]:
    return [record for _, record in sorted(state.nodes.items())]


def _generation(state: ClusterState) -> int:
    return state.layout.generation if state.layout is not None else 0


def names(found: Sequence[str]) -> str:
    """Some of them, and how many more there are."""
    more = len(found) - MAX_NAMED
    return ", ".join(found[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
