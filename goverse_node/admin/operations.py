"""What a node answers operators: `goverse.admin.Admin` on this node's view, router and catalog."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import heapq
import json
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Protocol

from goverse.admin.api import (
    DEFAULT_OBJECTS,
    MAX_OBJECTS,
    Admin,
    CallResult,
    ClusterStatus,
    Location,
    Lock,
    LockList,
    Member,
    MemberList,
    ObjectInfo,
    ObjectPage,
    Shard,
    ShardPage,
    ShardPlan,
    TypeDescriptions,
    Warning,
)
from goverse.call import Call, CallTarget, Codec, Reply, Verb
from goverse.cluster.state import ClusterState
from goverse.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    GoverseError,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from goverse.sharding import Cordon
from goverse.storage.api import Store
from goverse_node.admin import locks, report
from goverse_node.admin.calls import ReliableCallAdmin

#: Longest wait for one other node while the objects of all nodes are gathered.
PEER_TIMEOUT_S = 3.0
LEADER_TIMEOUT_S = 1.0

#: Writes a pin (or with None removes it); returns once this node's view shows it.
SetPin = Callable[[int, str | None], Awaitable[None]]
#: Cordons or drains a node (or with None takes that back); returns once this node's view shows it.
SetCordon = Callable[[str, Cordon | None], Awaitable[None]]
#: The activations of this node.
LocalObjects = Callable[[], Iterable[ObjectInfo]]
#: What this node knows as the leader: `ClusterStatus.held`, and warnings of these codes.
_OF_THE_LEADER = ("shard_stuck", "node_claims_nothing")
Leading = Callable[[], ClusterStatus]
#: What this node plans as the leader; asked to do it now, or only to say it.
Plans = Callable[[bool], ShardPlan]
#: The types that this node hosts.
Types = Callable[[], TypeDescriptions]
#: Shards of this node that are held or wanted: not more than so many, the most urgent.
LocalLocks = Callable[[int], Iterable[Lock]]
#: Opens the admin service of another node by its address, to be closed again.
Peers = Callable[[str], AbstractAsyncContextManager[Admin]]

_Position = tuple[str, str, str]  # node, type, id: the last object of the page before
_START: _Position = ("", "", "")


class View(Protocol):
    """This node's view of the cluster."""

    @property
    def state(self) -> ClusterState: ...
    @property
    def current(self) -> bool:
        """Whether the coordinator was heard of lately."""
        ...


@dataclasses.dataclass(frozen=True)
class Parts:
    """What answers are made with, beside the view.

    :param router: carries out `NodeAdmin.call_object`, like any other call.
    """

    set_pin: SetPin
    objects: LocalObjects
    router: CallTarget
    peers: Peers
    leading: Leading = ClusterStatus
    types: Types = TypeDescriptions
    why: Callable[[int], Iterable[str]] = lambda shard: ()
    plan: Plans = lambda asked: ShardPlan()
    store: Store | None = None
    locks: LocalLocks = lambda most: ()
    set_cordon: SetCordon | None = None
    decommission: Callable[[], None] = lambda: None


class NodeAdmin(ReliableCallAdmin):
    """Answers on behalf of the node called ``name``.

    :param default_timeout_s: deadline of a call whose caller states none.
    """

    def __init__(
        self, name: str, view: View, parts: Parts, *, default_timeout_s: float = 30.0
    ) -> None:
        super().__init__(parts.store, parts.router, default_timeout_s)
        self._name = name
        self._view = view
        self._parts = parts
        self._default_timeout_s = default_timeout_s

    async def get_status(self, *, local_only: bool = False) -> ClusterStatus:
        """Only the leader knows why shards do not move: it is asked for that part."""
        state = self._view.state
        found = report.cluster_status(state, source=self._name, current=self._view.current)
        leader = state.nodes.get(found.leader)
        if leader is None:
            return found
        if found.leader == self._name:
            told = self._parts.leading()
            return _with_plan(found, told if local_only else await self._explained(told))
        if local_only:
            return found
        try:
            async with asyncio.timeout(LEADER_TIMEOUT_S), self._parts.peers(leader.address) as peer:
                told = await peer.get_status(local_only=True)
        except (GoverseError, TimeoutError):
            silent = Warning(
                code="leader_silent",
                message=f"the leader {found.leader} does not answer: it is not known why shards "
                "do not move",
            )
            return dataclasses.replace(found, warnings=(*found.warnings, silent))
        return _with_plan(found, await self._explained(told))

    async def _explained(self, told: ClusterStatus) -> ClusterStatus:
        """With what those say who keep a shard from arriving; they are asked at the same time."""
        warnings = await asyncio.gather(*map(self._explain, told.warnings))
        return dataclasses.replace(told, warnings=tuple(warnings))

    async def _explain(self, warning: Warning) -> Warning:
        if warning.code != "shard_stuck" or len(warning.shards) != 1:
            return warning
        state, (shard,) = self._view.state, warning.shards
        owner, target = state.owners.get(shard), state.targets.get(shard)
        name = owner.member.name if owner is not None else target.node if target else ""
        record = state.nodes.get(name)
        if record is None:
            return warning
        if name == self._name:
            said = tuple(self._parts.why(shard))
        else:
            said = await self._why_says(name, record.address, shard)
        fresh = [text for text in said if text not in warning.message]
        if not fresh:
            return warning
        message = f"{warning.message}. {name} says: {'; '.join(fresh)}"
        return dataclasses.replace(warning, message=message)

    async def list_nodes(self) -> MemberList:
        return report.node_list(self._view.state)

    async def list_gates(self) -> MemberList:
        return report.gate_list(self._view.state)

    async def cordon_node(self, node: str, *, drain: bool = False) -> Member:
        state = self._view.state
        if drain and not report.takers(state, apart_from=node) and node in state.nodes:
            raise FailedPrecondition(
                f"no other node takes shards, so {node} cannot give up its own: start one, or "
                "uncordon one (goverse-cli node list)"
            )
        await self._cordon(node, Cordon.DRAINING if drain else Cordon.CORDONED)
        return report.one_node(self._view.state, node)

    async def uncordon_node(self, node: str) -> Member:
        await self._cordon(node, None)
        return report.one_node(self._view.state, node)

    async def _cordon(self, node: str, cordon: Cordon | None) -> None:
        if self._parts.set_cordon is None:
            raise Unavailable("this node has no way to the coordinator")
        await self._parts.set_cordon(node, cordon)

    async def decommission_node(self, node: str) -> Member:
        state = self._view.state
        if node != self._name:
            record = state.nodes.get(node)
            if record is None:
                raise NotFound(f"node {node!r} is not registered; see: goverse-cli node list")
            raise FailedPrecondition(f"only {node} itself can end: ask it at {record.address}")
        found = report.one_node(state, node)
        if state.cordons.get(node) is not Cordon.DRAINING:
            raise FailedPrecondition(
                f"{node} is {found.state}, not drained: goverse-cli node decommission does both"
            )
        if found.claimed or found.targeted:
            raise FailedPrecondition(
                f"{node} has {found.claimed} shards, and {found.targeted} are meant for it: wait "
                "until it has none"
            )
        self._parts.decommission()
        return found

    async def list_shards(
        self, *, node: str = "", state: str = "", page_size: int = 0, page_token: str = ""
    ) -> ShardPage:
        return report.shard_page(
            self._view.state,
            node=node,
            shard_state=state,
            page_size=page_size,
            page_token=page_token,
        )

    async def get_shard(self, shard: int, *, local_only: bool = False) -> Shard:
        """The leader knows why it does not move, its owner why it does not let go, and its target
        why it does not claim."""
        state = self._view.state
        found = report.one_shard(state, shard)
        told = [*self._parts.why(shard)]
        leader = state.leader.member.name if state.leader is not None else ""
        for name in () if local_only else dict.fromkeys((leader, found.owner, found.target)):
            record = state.nodes.get(name)
            if record is not None and name != self._name:
                told.extend(await self._why_says(name, record.address, shard))
        return dataclasses.replace(found, why=tuple(told))

    async def _why_says(self, name: str, address: str, shard: int) -> tuple[str, ...]:
        try:
            async with asyncio.timeout(LEADER_TIMEOUT_S), self._parts.peers(address) as peer:
                return (await peer.get_shard(shard, local_only=True)).why
        except (GoverseError, TimeoutError):
            return (f"{name} does not answer, and may know more",)

    async def pin_shard(self, shard: int, *, node: str) -> Shard:
        report.check_shard(self._view.state, shard)
        if not node:
            raise InvalidArgument("node is empty; name the node to pin the shard to")
        await self._parts.set_pin(shard, node)
        return report.one_shard(self._view.state, shard)

    async def unpin_shard(self, shard: int) -> Shard:
        report.check_shard(self._view.state, shard)
        await self._parts.set_pin(shard, None)
        return report.one_shard(self._view.state, shard)

    async def plan_shards(self, *, local_only: bool = False) -> ShardPlan:
        state = self._view.state
        leader = self._leader()
        if leader == self._name or local_only:
            self._check_leads("its plan")
            return dataclasses.replace(self._parts.plan(False), leader=self._name)
        address = state.nodes[leader].address
        try:
            async with asyncio.timeout(PEER_TIMEOUT_S), self._parts.peers(address) as peer:
                return await peer.plan_shards(local_only=True)
        except TimeoutError as error:
            raise DeadlineExceeded(f"the leader {leader} did not answer") from error

    async def rebalance_shards(self) -> ShardPlan:
        self._check_leads("rebalancing")
        return dataclasses.replace(self._parts.plan(True), leader=self._name)

    def _leader(self) -> str:
        state = self._view.state
        leader = state.leader.member.name if state.leader is not None else ""
        if leader not in state.nodes:
            raise Unavailable("no node leads at this moment: try again")
        return leader

    def _check_leads(self, what: str) -> None:
        """The leader alone can do it, and its operators ask it by its own address."""
        leader = self._leader()
        if leader != self._name:
            address = self._view.state.nodes[leader].address
            raise FailedPrecondition(f"{what} is up to the leader, {leader}; ask it at {address}")

    async def list_locks(
        self, *, node: str = "", limit: int = 0, local_only: bool = False
    ) -> LockList:
        """All nodes are asked at once: what waits for a shard is wanted within seconds."""
        most = locks.bounded(limit)
        nodes = self._view.state.nodes
        if node and node not in nodes and not local_only:
            raise NotFound(f"node {node!r} is not registered; see: goverse-cli node list")
        if local_only or node == self._name:
            return LockList(locks=locks.most_urgent(self._parts.locks(most), most))
        names = [node] if node else sorted(nodes)

        async def ask(name: str) -> LockList:
            if name == self._name:
                return LockList(locks=tuple(self._parts.locks(most)))
            address = nodes[name].address
            async with asyncio.timeout(PEER_TIMEOUT_S), self._parts.peers(address) as peer:
                return await peer.list_locks(limit=most, local_only=True)

        return await locks.gathered({name: partial(ask, name) for name in names}, most)

    async def locate_object(self, type: str, id: str) -> Location:
        return report.location(self._view.state, type, id)

    async def call_object(
        self, type: str, id: str, method: str, args: bytes = b"", *, timeout_s: float = 0.0
    ) -> CallResult:
        if args and not args.lstrip().startswith(b"{"):
            raise InvalidArgument('args must be a JSON object of arguments by name: {"amount": 5}')
        reply = await self._invoke(Call(type, id, method, args, timeout_s, codec=Codec.JSON))
        return CallResult(result=reply.payload or b"null")

    async def create_object(self, type: str, id: str, *, timeout_s: float = 0.0) -> Location:
        await self._invoke(Call(type, id, "", b"", timeout_s, verb=Verb.CREATE))
        return report.location(self._view.state, type, id)

    async def delete_object(self, type: str, id: str, *, timeout_s: float = 0.0) -> Location:
        await self._invoke(Call(type, id, "", b"", timeout_s, verb=Verb.DELETE))
        return report.location(self._view.state, type, id)

    async def _invoke(self, call: Call) -> Reply:
        """``call``, whose deadline is still a number of seconds; 0: the default."""
        report.location(self._view.state, call.type, call.id)
        timeout_s = call.deadline if call.deadline > 0 else self._default_timeout_s
        call.deadline = asyncio.get_running_loop().time() + timeout_s
        return await self._parts.router.invoke(call)

    async def describe_types(self) -> TypeDescriptions:
        return self._parts.types()

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
        """Nodes are asked one after the other, by name, until the page is full: the work of one
        request is bounded whatever the size of the cluster."""
        size = report.bounded_page(page_size, DEFAULT_OBJECTS, MAX_OBJECTS)
        after = _position(page_token)
        query = _Query(type, id_prefix)
        if local_only:
            return self._local_page(query, after, size)
        if node and node not in self._view.state.nodes:
            raise NotFound(f"node {node!r} is not registered; see: goverse-cli node list")
        names = [node] if node else [n for n in sorted(self._view.state.nodes) if n >= after[0]]
        found: list[ObjectInfo] = []
        unreachable: list[str] = []
        for index, name in enumerate(names):
            start = after if name == after[0] else (name, "", "")
            try:
                page = await self._page_of(name, query, start, size - len(found))
            except GoverseError:
                unreachable.append(name)
                continue
            found.extend(page.objects)
            token = page.next_page_token
            if not token and len(found) == size and index + 1 < len(names):
                token = _token((names[index + 1], "", ""))
            if token:
                return ObjectPage(
                    objects=tuple(found), next_page_token=token, unreachable=tuple(unreachable)
                )
        return ObjectPage(objects=tuple(found), unreachable=tuple(unreachable))

    async def _page_of(self, name: str, query: _Query, after: _Position, size: int) -> ObjectPage:
        if name == self._name:
            return self._local_page(query, after, size)
        record = self._view.state.nodes.get(name)
        if record is None:  # It left while other nodes were asked, and its objects with it.
            return ObjectPage()
        try:
            async with asyncio.timeout(PEER_TIMEOUT_S), self._parts.peers(record.address) as peer:
                return await peer.list_objects(
                    type=query.type,
                    id_prefix=query.id_prefix,
                    page_size=size,
                    page_token=_token(after),
                    local_only=True,
                )
        except TimeoutError as error:
            raise DeadlineExceeded(f"node {name} did not answer") from error

    def _local_page(self, query: _Query, after: _Position, size: int) -> ObjectPage:
        passed = after[1:] if after[0] == self._name else ("", "")
        found = heapq.nsmallest(
            size + 1,
            (info for info in self._parts.objects() if query.wants(info) and _key(info) > passed),
            key=_key,
        )
        objects = tuple(dataclasses.replace(info, node=self._name) for info in found[:size])
        token = _token((self._name, *_key(objects[-1]))) if len(found) > size else ""
        return ObjectPage(objects=objects, next_page_token=token)


def _with_plan(found: ClusterStatus, told: ClusterStatus) -> ClusterStatus:
    stuck = tuple(warning for warning in told.warnings if warning.code in _OF_THE_LEADER)
    return dataclasses.replace(found, held=told.held, warnings=(*found.warnings, *stuck))


@dataclasses.dataclass(frozen=True)
class _Query:
    type: str
    id_prefix: str

    def wants(self, info: ObjectInfo) -> bool:
        return (not self.type or info.type == self.type) and info.id.startswith(self.id_prefix)


def _key(info: ObjectInfo) -> tuple[str, str]:
    return info.type, info.id


def _token(position: _Position) -> str:
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode()


def _position(token: str) -> _Position:
    if not token:
        return _START
    try:
        node, type, id = json.loads(base64.urlsafe_b64decode(token.encode()))
        return str(node), str(type), str(id)
    except ValueError as error:
        raise InvalidArgument("page_token does not come from this service") from error
