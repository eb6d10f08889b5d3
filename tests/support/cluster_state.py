"""A `ClusterState` with chosen contents, made the way a real one is: from keys and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from goverse.cluster.keys import Keys
from goverse.cluster.records import (
    ClaimValue,
    CordonValue,
    Kind,
    Layout,
    LeaderValue,
    MemberValue,
    PinValue,
    TargetValue,
    encode,
)
from goverse.cluster.state import ClusterState
from goverse.coordination.api import KeyValue, Snapshot
from goverse.sharding import Cordon


def cluster_state(
    *,
    nodes: Sequence[str] = (),
    gates: Sequence[str] = (),
    leader: str = "",
    num_shards: int = 8,
    targets: Mapping[int, str] | None = None,
    claims: Mapping[int, str] | None = None,
    pins: Mapping[int, str] | None = None,
    cordons: Mapping[str, Cordon] | None = None,
) -> ClusterState:
    """Node ``n`` listens on ``n:48000`` as incarnation ``i-n``. ``num_shards`` 0: no layout."""
    keys = Keys("/test")
    values = {}
    if num_shards:
        values[keys.layout] = encode(Layout("cluster-1", 1, num_shards))
    for name in nodes:
        values[keys.member(Kind.NODE, name)] = encode(
            MemberValue(f"i-{name}", f"{name}:48000", f"{name}:48001", version="0.1.0")
        )
    for name in gates:
        values[keys.member(Kind.GATE, name)] = encode(
            MemberValue(f"i-{name}", f"{name}:49000", f"{name}:49001", version="0.1.0")
        )
    if leader:
        values[keys.leader] = encode(LeaderValue(leader, f"i-{leader}"))
    for shard, name in (targets or {}).items():
        values[keys.target(shard)] = encode(TargetValue(name))
    for shard, name in (claims or {}).items():
        values[keys.claim(shard)] = encode(ClaimValue(name, f"i-{name}", 1))
    for shard, name in (pins or {}).items():
        values[keys.pin(shard)] = encode(PinValue(name))
    for name, cordon in (cordons or {}).items():
        values[keys.cordon(name)] = encode(CordonValue(cordon))
    items = {
        key: KeyValue(key, value, revision, revision, 7)
        for revision, (key, value) in enumerate(values.items(), start=10)
    }
    state, _ = ClusterState(keys).replaced_by(Snapshot(10 + len(items), items))
    return state
