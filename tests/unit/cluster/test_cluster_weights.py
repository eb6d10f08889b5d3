"""How much of the shards each node is due, also while two versions are there."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from goverse.cluster import Keys, Kind
from goverse.cluster.records import BadValue, MemberState, MemberValue, decode_member, encode
from goverse.cluster.registration import Identity, member_value
from goverse.cluster.state import ClusterState
from goverse.coordination.api import KeyValue, Snapshot
from goverse.ids import MemberId
from goverse.sharding import PlanInput, PlanNode, plan

KEYS = Keys()


class FormerMemberValue(msgspec.Struct, frozen=True):
    """As the version before writes and reads it."""

    incarnation: str
    address: str
    ops_address: str = ""
    weight: float = 1.0
    version: str = ""
    state: MemberState = MemberState.ACTIVE
    generation: int = 1


def item(name: str, value: bytes) -> KeyValue:
    return KeyValue(KEYS.member(Kind.NODE, name), value, 5, 5, 7)


def new(weight: float, capacity: float) -> bytes:
    identity = Identity(Kind.NODE, "n1", "n1:1", weight=weight, capacity=capacity)
    return encode(member_value(identity, MemberId("n1", "a"), MemberState.ACTIVE, 1))


def former(weight: float = 1.0) -> bytes:
    return encode(FormerMemberValue("a", "n1:1", weight=weight))


def weights(**values: bytes) -> dict[str, float]:
    items = {KEYS.member(Kind.NODE, n): item(n, value) for n, value in values.items()}
    state, _ = ClusterState(KEYS).replaced_by(Snapshot(9, items))
    return state.weights()


def test_a_former_version_reads_what_this_one_writes_and_the_other_way_round() -> None:
    read = msgspec.json.decode(new(1.0, 2.5), type=FormerMemberValue)
    assert (read.weight, read.generation, read.state) == (1.0, 1, MemberState.ACTIVE)
    record = decode_member(item("n1", former(3.0)), Kind.NODE, "n1")
    assert (record.weight, record.capacity) == (3.0, None)


def test_the_measured_capacity_counts_once_every_node_says_its_own() -> None:
    assert weights(n1=new(1.0, 4.0), n2=new(1.0, 2.0)) == {"n1": 4.0, "n2": 2.0}
    # A node that measures nothing would be given a fifth of what it had.
    assert weights(n1=new(1.0, 4.0), n2=former()) == {"n1": 1.0, "n2": 1.0}
    # What was configured is said in both ways.
    assert weights(n1=new(3.0, 3.0), n2=former(2.0)) == {"n1": 3.0, "n2": 2.0}
    assert weights() == {}


def test_equal_nodes_keep_their_shards_whatever_their_weight_is_called() -> None:
    none = (None,) * 64
    ones, twos = (tuple(PlanNode(n, w) for n in ("n1", "n2", "n3")) for w in (1.0, 2.6))
    assert plan(PlanInput(ones, none, none)) == plan(PlanInput(twos, none, none))


@pytest.mark.parametrize("capacity", ["-1", "1e999"])
def test_a_capacity_that_cannot_be_is_refused(capacity: str) -> None:
    value = f'{{"incarnation": "a", "address": "x", "capacity": {capacity}}}'.encode()
    with pytest.raises(BadValue, match="n1"):
        decode_member(item("n1", value), Kind.NODE, "n1")


def test_the_fields_of_a_member_only_grow() -> None:
    old: tuple[Any, ...] = FormerMemberValue.__struct_fields__
    assert MemberValue.__struct_fields__[: len(old)] == old
