"""Is this node ready for calls? Asked anew for every probe, from facts alone."""

from __future__ import annotations

from goverse.cluster.member import MemberSnapshot
from goverse.observability.health import Readiness


def node_readiness(member: MemberSnapshot, *, ready_grace_s: float, stopping: bool) -> Readiness:
    """Ready: the lease is valid, the view is loaded and current, and no shard that belongs here
    has been waiting to be served for longer than ``ready_grace_s``."""
    reasons = []
    view, membership, ownership = member.view, member.membership, member.ownership
    if stopping:
        reasons.append("this node is stopping")
    if not membership.valid:
        why = f" ({membership.last_loss})" if membership.last_loss else ""
        reasons.append(f"no valid lease{why}")
    if not view.loaded:
        reasons.append("the cluster has not been read yet")
    elif not view.current:
        reasons.append(f"the coordinator was last heard {view.contact_age_s:.1f} s ago")
    if ownership is None:
        return Readiness(False, (*reasons, "shards are not taken yet"))
    if view.owned == 0:
        reasons.append("no shard has an owner yet")
    if ownership.oldest_unclaimed_s > ready_grace_s:
        reasons.append(
            f"a shard that belongs here has been waiting for {ownership.oldest_unclaimed_s:.1f} s"
        )
    text = f"claimed {ownership.open}/{ownership.targeted}"
    return Readiness(not reasons, tuple(reasons), text)
