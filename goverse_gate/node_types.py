"""What the nodes say of the types that they host, fetched once per digest of types.

::

    hellos of links ──> digests now ──known──────────────────────────────> descriptions
                             └──unknown──> one fetch each, shared by all who ask ──┘

All nodes host the same types, except during a rolling upgrade. Then there are several digests,
and the descriptions come newest first: the node that registered last has the newest code.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass

import msgspec

from goverse.aio.tasks import Tasks
from goverse.call import Call, Codec, Verb
from goverse.cluster.records import MemberRecord
from goverse.cluster.view import ClusterView
from goverse.errors import Executed, GoverseError, Internal, Unavailable
from goverse.objects.description import TypesDescription
from goverse.transport.hello import DESCRIBE_TYPES
from goverse.transport.pool import LinkPool

log = logging.getLogger(__name__)

#: Of one node; another with the same types is asked after that.
FETCH_TIMEOUT_S = 3.0
#: Different sets of types at one time, and as many more are remembered. A rolling upgrade has two.
MAX_DIGESTS = 4
#: Nodes that are asked for one set of types before giving up.
MAX_ASKED = 3


@dataclass(frozen=True)
class Known:
    """The descriptions of now, newest first; ``missing`` are digests that nobody could describe."""

    descriptions: tuple[TypesDescription, ...]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class NodeTypesSnapshot:
    digests: tuple[str, ...]
    fetching: int


class NodeTypes:
    """Descriptions by digest.

    :param view: which node registered last.
    :param pool: links to nodes, whose hellos name a digest.
    """

    def __init__(self, view: ClusterView, pool: LinkPool) -> None:
        self._view = view
        self._pool = pool
        self._known: OrderedDict[str, TypesDescription] = OrderedDict()
        self._fetching: dict[str, asyncio.Task[TypesDescription]] = {}
        self._tasks = Tasks("node types")

    def snapshot(self) -> NodeTypesSnapshot:
        return NodeTypesSnapshot(digests=tuple(self._known), fetching=len(self._fetching))

    async def close(self) -> None:
        await self._tasks.close()

    async def current(self) -> Known:
        """What linked nodes host. Raises Unavailable if none can be asked."""
        hosts = self._hosts()
        if not hosts:
            raise Unavailable("no node is linked that could describe its types; try again soon")
        await asyncio.gather(
            *(self._fetched(digest, nodes) for digest, nodes in hosts.items()),
            return_exceptions=True,  # who cannot be asked is missing in the answer
        )
        found = tuple(self._known[digest] for digest in hosts if digest in self._known)
        if not found:
            raise Unavailable("no node described its types; the gate's log says why")
        missing = tuple(digest for digest in hosts if digest not in self._known)
        return Known(found, missing)

    def _hosts(self) -> dict[str, list[MemberRecord]]:
        """Nodes by the digest of their types; what the newest node hosts comes first."""
        linked = []
        for hello in self._pool.hellos():
            record = self._view.state.nodes.get(hello.member.name)
            if record is None or record.member != hello.member or not hello.types_digest:
                continue
            if DESCRIBE_TYPES in hello.features:
                linked.append((record.create_revision, hello.types_digest, record))
        hosts: dict[str, list[MemberRecord]] = {}
        for _, digest, record in sorted(linked, key=lambda found: -found[0]):
            if digest in hosts or len(hosts) < MAX_DIGESTS:
                hosts.setdefault(digest, []).append(record)
        return hosts

    async def _fetched(self, digest: str, nodes: list[MemberRecord]) -> None:
        if digest in self._known:
            self._known.move_to_end(digest)
            return
        fetch = self._fetching.get(digest)
        if fetch is None:
            fetch = self._tasks.spawn(f"describe {digest}", self._fetch(digest, nodes))
            self._fetching[digest] = fetch
        # Who asks may go away; others wait for the same answer.
        await asyncio.shield(fetch)

    async def _fetch(self, digest: str, nodes: list[MemberRecord]) -> TypesDescription:
        failure: GoverseError = Unavailable(f"no node hosts types {digest}")
        try:
            for record in nodes[:MAX_ASKED]:
                try:
                    found = await self._ask(record, digest)
                except GoverseError as error:
                    log.warning("%s did not describe its types: %s", record.member, error)
                    failure = error
                    continue
                self._known[digest] = found
                while len(self._known) > 2 * MAX_DIGESTS:
                    self._known.popitem(last=False)
                return found
            raise failure
        finally:
            del self._fetching[digest]

    async def _ask(self, record: MemberRecord, digest: str) -> TypesDescription:
        deadline = asyncio.get_running_loop().time() + FETCH_TIMEOUT_S
        call = Call("", "", "", b"", deadline, codec=Codec.JSON, verb=Verb.DESCRIBE)
        reply = await self._pool.target(record.member, record.address).invoke(call)
        try:
            found = msgspec.json.decode(reply.payload, type=TypesDescription)
        except msgspec.DecodeError as error:
            raise Internal(f"not a description: {error}", executed=Executed.YES) from None
        if found.digest != digest:
            raise Internal(f"it described {found.digest}, not {digest}", executed=Executed.YES)
        return found
