"""The command line in a terminal of its own, on a cluster that is made up."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from click.testing import CliRunner, Result

from goverse.admin.api import (
    CallChange,
    CallResult,
    ClusterStatus,
    FieldInfo,
    Held,
    Location,
    Lock,
    LockList,
    Member,
    MemberList,
    MethodInfo,
    NodeShare,
    ObjectInfo,
    ObjectPage,
    Shard,
    ShardCounts,
    ShardMove,
    ShardPage,
    ShardPlan,
    TypeDescriptions,
    TypeInfo,
    Warning,
)
from goverse.cluster.state import ClusterState
from goverse.errors import GoverseError, NotFound, Unavailable
from goverse_cli.app import cli
from goverse_cli.session import Options, Outside

NODES = (
    Member(
        name="n1", incarnation="a1", address="10.0.0.1:48000", ops_address="10.0.0.1:48001",
        version="0.1.0", state="active", leader=True, claimed=2, targeted=2,
    ),
    Member(
        name="n2", incarnation="a2", address="10.0.0.2:48000", ops_address="10.0.0.2:48001",
        version="0.1.0", state="active", claimed=1, targeted=2, weight=2.0,
    ),
)  # fmt: skip
LOCKS = (
    Lock(
        shard=2, node="n1", epoch="1.20", state="draining", purpose="hand_over", waits_s=1.5,
        wanted_s=33.25, sealed=True, holders=3, held=4, object="Order/o-1", method="pay",
        call_id="c-9", age_s=61.0,
    ),
    Lock(shard=0, node="n2", epoch="1.21", state="open", holders=1),
)  # fmt: skip
GATES = (Member(name="g1", incarnation="b1", kind="gate", address="10.0.0.9:49000"),)


class FakeCluster:
    """Nodes by address, all with the same answers; and etcd, which may be away."""

    def __init__(self) -> None:
        self.up: dict[str, None] = {"localhost:48000": None}
        self.registered: list[str] = []
        self.etcd_up = False
        self.connections: list[tuple[str, str]] = []
        self.etcd_asked: list[tuple[tuple[str, ...], str]] = []
        self.open = 0
        self.asked: list[tuple[Any, ...]] = []
        self.failure: GoverseError | None = None
        self.result = b"5"
        self.change = CallChange(type="Account", id="a", status="skipped", changed=True)
        self.objects = [
            ObjectInfo(type="Counter", id=f"c{n}", node="n1", shard=n, epoch="1.7", state="active")
            for n in range(3)
        ]
        self.unreachable: tuple[str, ...] = ()
        self.shards = {
            number: Shard(
                shard=number, state="owned", target="n1", owner="n1",
                owner_address="10.0.0.1:48000", epoch=f"1.{number + 20}",
            )
            for number in range(4)
        }  # fmt: skip
        self.moves_after = 0
        self.members = {node.name: node for node in NODES}
        #: Shards that a draining node gives up each time that somebody looks.
        self.gives_up = 1
        #: Looks until a node that was told to leave is gone.
        self.looks_until_gone = 2
        self.leaving = ""
        self.types = TypeDescriptions(
            digest="d1",
            types=(
                TypeInfo(
                    name="Counter", doc="A counter per id.\n\nMore.",
                    fields=(FieldInfo(name="value", schema=b'{"type": "integer"}'),),
                    methods=(
                        MethodInfo(
                            name="add", doc="Adds.", rollback=True,
                            arguments=b'{"type": "object", "properties": {"amount": '
                            b'{"type": "integer", "default": 1}}, "required": []}',
                            result=b'{"type": "integer"}',
                        ),
                    ),
                ),
            ),
        )  # fmt: skip
        self.states: dict[str, ClusterState] = {}
        self.plan = ShardPlan(
            strategy="load", leader="n1", stable=True,
            decisions=("balance", "cooldown", "pinned"),
            nodes=(
                NodeShare(
                    node="n1", shards=3, shards_after=2, level=1.5, level_after=1.0, cpu=0.25
                ),
                NodeShare(node="n2", shards=1, shards_after=2, level=0.5, level_after=1.0),
            ),
            wanted=2,
            moves=(
                ShardMove(shard=2, source="n1", target="n2", reason="balance", load=2.5),
                ShardMove(shard=3, source="n1", target="n2", reason="balance", held="cooldown"),
            ),
            held=(Held(reason="cooldown", shards=1), Held(reason="pinned", shards=1)),
        )  # fmt: skip

    # -- what the command line reaches for ----------------------------------------------------

    async def connect(self, address: str, token: str, probe_s: float) -> FakeCluster:
        self.connections.append((address, token))
        if address not in self.up:
            raise Unavailable(f"no node at {address}: refused")
        self.open += 1
        return self

    async def directory(
        self, endpoints: Sequence[str], prefix: str, timeout_s: float
    ) -> FakeDirectory:
        self.etcd_asked.append((tuple(endpoints), prefix))
        self.open += 1
        return FakeDirectory(self, endpoints)

    async def close(self) -> None:
        self.open -= 1

    # -- the admin interface ------------------------------------------------------------------

    def _ask(self, *what: Any) -> None:
        self.asked.append(what)
        if self.failure is not None:
            raise self.failure

    async def get_status(self, *, local_only: bool = False, source: str = "n1") -> ClusterStatus:
        self._ask("status")
        return ClusterStatus(
            cluster_id="c0ffee", generation=1, num_shards=4, revision=77, leader="n1",
            source=source, nodes=NODES, gates=GATES,
            shards=ShardCounts(total=4, claimed=3, pinned=1, owned=3, unclaimed=1),
            warnings=(Warning(code="shards_without_owner", message="1 shard", shards=(3,)),),
            held=(Held(reason="restarting", shards=1),),
        )  # fmt: skip

    async def list_nodes(self) -> MemberList:
        self._ask("nodes")
        for name, node in tuple(self.members.items()):
            if node.state == "draining":
                left = max(0, node.claimed - self.gives_up)
                self.members[name] = dataclasses.replace(node, claimed=left, targeted=0)
            if name == self.leaving:
                self.looks_until_gone -= 1
                if not self.looks_until_gone:
                    del self.members[name]
        return MemberList(members=tuple(self.members.values()))

    async def cordon_node(self, node: str, *, drain: bool = False) -> Member:
        self._ask("cordon", node, drain)
        if node not in self.members:
            raise NotFound(f"node {node!r} is not in the cluster; the nodes are: n1, n2")
        return self._now(node, "draining" if drain else "cordoned")

    async def uncordon_node(self, node: str) -> Member:
        self._ask("uncordon", node)
        return self._now(node, "active") if node in self.members else Member(name=node)

    async def decommission_node(self, node: str) -> Member:
        self._ask("decommission", node, self.connections[-1][0])
        self.leaving = node
        return self.members[node]

    def _now(self, node: str, state: str) -> Member:
        self.members[node] = dataclasses.replace(self.members[node], state=state)
        return self.members[node]

    async def list_gates(self) -> MemberList:
        self._ask("gates")
        return MemberList(members=GATES)

    async def list_shards(
        self, *, node: str = "", state: str = "", page_size: int = 0, page_token: str = ""
    ) -> ShardPage:
        self._ask("shards", node, state)
        first = int(page_token or 0)
        shards = list(self.shards.values())[first : first + min(page_size, 2)]
        last = first + len(shards)
        token = str(last) if last < len(self.shards) else ""
        return ShardPage(shards=tuple(shards), next_page_token=token)

    async def get_shard(self, shard: int, *, local_only: bool = False) -> Shard:
        self._ask("shard", shard)
        if shard not in self.shards:
            raise NotFound(f"shard {shard} does not exist; there are 0 to 3")
        if self.moves_after:
            self.moves_after -= 1
            if not self.moves_after:
                found = self.shards[shard]
                self.shards[shard] = dataclasses.replace(found, owner=found.pinned_node)
        return self.shards[shard]

    async def pin_shard(self, shard: int, *, node: str) -> Shard:
        self._ask("pin", shard, node)
        self.shards[shard] = dataclasses.replace(
            await self.get_shard(shard), pinned=True, pinned_node=node
        )
        return self.shards[shard]

    async def unpin_shard(self, shard: int) -> Shard:
        self._ask("unpin", shard)
        return self.shards[shard]

    async def plan_shards(self, *, local_only: bool = False) -> ShardPlan:
        self._ask("plan")
        return self.plan

    async def rebalance_shards(self) -> ShardPlan:
        self._ask("rebalance")
        return self.plan

    async def list_locks(
        self, *, node: str = "", limit: int = 0, local_only: bool = False
    ) -> LockList:
        self._ask("locks", node, limit)
        return LockList(locks=LOCKS[:limit], unreachable=self.unreachable)

    async def locate_object(self, type: str, id: str) -> Location:
        self._ask("locate", type, id)
        return Location(
            type=type, id=id, slot=6504, shard=0, owner="n1",
            owner_address="10.0.0.1:48000", epoch="1.20",
        )  # fmt: skip

    async def list_objects(
        self,
        *,
        node: str = "",
        type: str = "",
        id_prefix: str = "",
        page_size: int = 0,
        page_token: str = "",
        local_only: bool = False,
    ) -> ObjectPage:
        self._ask("objects", node, type, id_prefix)
        first = int(page_token or 0)
        found = self.objects[first : first + min(page_size, 2)]
        last = first + len(found)
        return ObjectPage(
            objects=tuple(found),
            next_page_token=str(last) if last < len(self.objects) else "",
            unreachable=self.unreachable,
        )

    async def call_object(
        self, type: str, id: str, method: str, args: bytes = b"", *, timeout_s: float = 0.0
    ) -> CallResult:
        self._ask("call", type, id, method, args, timeout_s)
        return CallResult(result=self.result)

    async def create_object(self, type: str, id: str, *, timeout_s: float = 0.0) -> Location:
        self._ask("create", type, id, timeout_s)
        return await self.locate_object(type, id)

    async def delete_object(self, type: str, id: str, *, timeout_s: float = 0.0) -> Location:
        self._ask("delete", type, id, timeout_s)
        return await self.locate_object(type, id)

    async def cancel_call(
        self, call_id: str, *, type: str = "", id: str = "", reason: str = "", timeout_s: float = 0
    ) -> CallChange:
        self._ask("cancel_call", call_id, type, id, reason, timeout_s)
        return dataclasses.replace(self.change, call_id=call_id)

    async def retry_call(self, call_id: str, *, timeout_s: float = 0) -> CallChange:
        self._ask("retry_call", call_id, timeout_s)
        return dataclasses.replace(self.change, call_id=call_id)

    async def describe_types(self) -> TypeDescriptions:
        self._ask("types")
        return self.types


class FakeDirectory:
    def __init__(self, cluster: FakeCluster, endpoints: Sequence[str] = ()) -> None:
        self._cluster = cluster
        self._endpoints = endpoints

    async def read_state(self) -> ClusterState:
        (endpoint,) = self._endpoints
        if endpoint not in self._cluster.states:
            raise Unavailable("etcd does not answer: refused")
        return self._cluster.states[endpoint]

    async def node_addresses(self) -> list[str]:
        self._check()
        return self._cluster.registered

    async def get_status(self) -> ClusterStatus:
        self._check()
        return await self._cluster.get_status(source="etcd")

    def _check(self) -> None:
        if not self._cluster.etcd_up:
            raise Unavailable("etcd does not answer")

    async def close(self) -> None:
        self._cluster.open -= 1


class Terminal:
    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster
        self.environ: dict[str, str] = {}

    def run(self, *arguments: str, at_terminal: str | None = None) -> Result:
        """:param at_terminal: what a person there types; None: standard input is no terminal."""
        outside = Outside(connect=self.cluster.connect, directory=self.cluster.directory)
        options = Options(outside=outside, environ=self.environ)
        runner = CliRunner()
        if at_terminal is None:
            return runner.invoke(cli, list(arguments), obj=options)
        with runner.isolation(at_terminal):
            kind = type(sys.stdin)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kind, "isatty", lambda self: True)
            return runner.invoke(cli, list(arguments), input=at_terminal, obj=options)


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture
def terminal(cluster: FakeCluster) -> Terminal:
    return Terminal(cluster)
