"""Is this gate ready for calls? Asked anew for every probe, from facts alone."""

from __future__ import annotations

from collections.abc import Collection

from goverse.cluster.member import MemberSnapshot
from goverse.ids import MemberId
from goverse.observability.health import Readiness


def gate_readiness(
    member: MemberSnapshot,
    *,
    owners: Collection[MemberId],
    connected: Collection[MemberId],
    faults: Collection[str],
) -> Readiness:
    """Ready: the view is current, and there is a link to a node with shards.

    :param owners: nodes that have shards.
    :param connected: members with a link.
    :param faults: what else keeps clients out, in words.
    """
    view = member.view
    linked = sum(owner in connected for owner in owners)
    reasons = list(faults)
    if not view.loaded:
        reasons.append("the cluster has not been read yet")
    elif not view.current:
        reasons.append(f"the coordinator was last heard {view.contact_age_s:.1f} s ago")
    elif not owners:
        reasons.append("no shard has an owner yet")
    elif not linked:
        reasons.append("no link to a node with shards")
    return Readiness(not reasons, tuple(reasons), f"linked {linked}/{len(owners)}")
