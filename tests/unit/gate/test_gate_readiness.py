"""When a gate says that it is ready, and why not."""

from __future__ import annotations

import pytest

from goverse.cluster.member import MemberSnapshot
from goverse.cluster.membership import MembershipSnapshot, Phase
from goverse.cluster.records import MemberState
from goverse.cluster.view import ViewSnapshot
from goverse.ids import MemberId
from goverse_gate.readiness import gate_readiness

N1, N2, IDLE = MemberId("n1", "a"), MemberId("n2", "b"), MemberId("n3", "c")


def member(*, loaded: bool = True, current: bool = True) -> MemberSnapshot:
    view = ViewSnapshot(
        revision=1,
        loaded=loaded,
        current=current,
        contact_age_s=12.5,
        layout=None,
        nodes=(),
        gates=(),
        owned=0,
        waiting=0,
    )
    membership = MembershipSnapshot(
        phase=Phase.MEMBER,
        member=MemberId("g1", "x"),
        state=MemberState.ACTIVE,
        valid=True,
        lease_remaining_s=5,
        joins=1,
        losses=0,
        last_loss="",
    )
    return MemberSnapshot(view, membership, None, None)


@pytest.mark.parametrize("connected", [(N1,), (N1, N2), (IDLE, N2)])
def test_one_link_to_a_node_with_shards_is_enough(connected: tuple[MemberId, ...]) -> None:
    readiness = gate_readiness(member(), owners=(N1, N2), connected=connected, faults=())
    assert readiness.ready
    linked = sum(name in connected for name in (N1, N2))
    assert readiness.text == f"linked {linked}/2"


@pytest.mark.parametrize(
    ("state", "owners", "connected", "faults", "reason"),
    [
        (member(loaded=False), (N1,), (N1,), (), "not been read"),
        (member(current=False), (N1,), (N1,), (), "last heard 12.5 s ago"),
        (member(), (), (N1,), (), "no shard has an owner"),
        (member(), (N1,), (), (), "no link to a node with shards"),
        (member(), (N1,), (IDLE,), (), "no link to a node with shards"),
        (member(), (N1,), (N1,), ("this gate is stopping",), "stopping"),
    ],
)
def test_L23_what_is_missing_is_named(
    state: MemberSnapshot,
    owners: tuple[MemberId, ...],
    connected: tuple[MemberId, ...],
    faults: tuple[str, ...],
    reason: str,
) -> None:
    readiness = gate_readiness(state, owners=owners, connected=connected, faults=faults)
    assert not readiness.ready
    assert reason in "; ".join(readiness.reasons)
