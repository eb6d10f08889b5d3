"""Who is a member, who leads, who owns which shard. See DESIGN.md in this folder.

`NodeMember` and `GateMember` are what the processes start; everybody else reads the
`ClusterView`. Nothing here runs objects: that is done by the `ShardHost` it is given.
"""

from goverse.cluster.admin import cordon_node, pin_shard, uncordon_node, unpin_shard
from goverse.cluster.keys import Keys
from goverse.cluster.leadership import Leadership, LeadershipSnapshot
from goverse.cluster.member import GateMember, LeaveMode, MemberSnapshot, NodeMember
from goverse.cluster.membership import Membership, MembershipSnapshot, Phase
from goverse.cluster.opening import ShardHost
from goverse.cluster.ownership import Ownership, OwnershipSnapshot
from goverse.cluster.records import Kind, Layout, MemberRecord, MemberState, Owner
from goverse.cluster.registration import Identity, Registration
from goverse.cluster.stuck import Step, StuckShard
from goverse.cluster.view import ClusterView, ViewSnapshot

__all__ = [
    "ClusterView",
    "GateMember",
    "Identity",
    "Keys",
    "Kind",
    "Layout",
    "Leadership",
    "LeadershipSnapshot",
    "LeaveMode",
    "MemberRecord",
    "MemberSnapshot",
    "MemberState",
    "Membership",
    "MembershipSnapshot",
    "NodeMember",
    "Owner",
    "Ownership",
    "OwnershipSnapshot",
    "Phase",
    "Registration",
    "ShardHost",
    "Step",
    "StuckShard",
    "ViewSnapshot",
    "cordon_node",
    "pin_shard",
    "uncordon_node",
    "unpin_shard",
]
