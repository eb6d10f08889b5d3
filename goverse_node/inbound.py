"""Links that others opened to this node."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator

from goverse.aio.limits import Limit
from goverse.call import CallTarget
from goverse.errors import GoverseError, Overloaded, PermissionDenied, Unavailable
from goverse.ids import MemberId
from goverse.transport.carrier import Carrier
from goverse.transport.hello import Hello, Role
from goverse.transport.link import Link, LinkConfig, open_link

log = logging.getLogger(__name__)

MAX_LINKS = 4096
MAX_REMEMBERED = 10_000
MAX_WARNED_DIGESTS = 100


class InboundLinks:
    """Accepts members, refuses everybody else, and drops members whose key went.

    A member whose key was seen to go is remembered: it may not know that yet and come again,
    and nothing that it sends may be believed.

    :param hello: who this node is at the moment; None while it is nobody: links are refused then.
    :param target: takes the calls that arrive.
    :param node_target: takes those of a node, which says more than a gate may.
    :param on_gate: is given every link that a gate has opened.
    """

    def __init__(
        self,
        hello: Callable[[], Hello | None],
        target: CallTarget,
        config: LinkConfig,
        on_gate: Callable[[Link], None],
        node_target: Callable[[MemberId], CallTarget] | None = None,
    ) -> None:
        self._hello = hello
        self._target = target
        self._node_target = node_target
        self._config = config
        self._on_gate = on_gate
        self._links: dict[Link, None] = {}
        self._gone: OrderedDict[MemberId, None] = OrderedDict()
        self._warned_digests: OrderedDict[str, None] = OrderedDict()
        self._closing = False

    def __len__(self) -> int:
        return len(self._links)

    def limits(self) -> Iterator[Limit]:
        yield Limit("node.links", len(self._links), MAX_LINKS, standing=True)
        yield Limit("node.gone_members", len(self._gone), MAX_REMEMBERED, standing=True)
        digests = len(self._warned_digests)
        yield Limit("node.warned_digests", digests, MAX_WARNED_DIGESTS, standing=True)
        for link in self._links:
            yield from link.limits()

    async def accept(self, carrier: Carrier) -> None:
        """Serve one stream to its end."""
        hello = self._hello()
        if hello is None:
            carrier.abort("this node has not joined the cluster yet")
            return
        try:
            link = await open_link(carrier, hello, self._serve, self._config)
        except GoverseError as error:
            log.info("refused a link from %s: %s", carrier.peer, error)
            return
        self._links[link] = None
        if link.peer.role is Role.GATE:
            self._on_gate(link)
        try:
            reason = await link.wait_closed()
            log.info("link from %s ended: %s", link.peer, reason)
        finally:
            self._links.pop(link, None)

    def _serve(self, theirs: Hello, link: Link) -> CallTarget:
        if theirs.role is Role.CLIENT:
            raise PermissionDenied("this is a node; clients connect to a gate")
        if self._closing:
            raise Unavailable("this node is stopping")
        if theirs.member in self._gone:
            raise Unavailable(f"{theirs.member} is not in the cluster any more; join again")
        if len(self._links) >= MAX_LINKS:
            raise Overloaded(f"{MAX_LINKS} links are open on this node already")
        self._compare_types(theirs)
        if theirs.role is Role.NODE and self._node_target is not None:
            return self._node_target(theirs.member)
        return self._target

    def _compare_types(self, theirs: Hello) -> None:
        """All nodes host the same types, except for the length of a rolling upgrade."""
        digest, mine = theirs.types_digest, self._hello()
        if theirs.role is not Role.NODE or mine is None or digest == mine.types_digest:
            return
        if digest not in self._warned_digests:
            self._warned_digests[digest] = None
            while len(self._warned_digests) > MAX_WARNED_DIGESTS:
                self._warned_digests.popitem(last=False)
            log.warning("%s hosts other object types than this node", theirs.member)

    def drop(self, member: MemberId) -> None:
        """The member's key is gone: end its links and believe nothing it still sends."""
        self._gone[member] = None
        while len(self._gone) > MAX_REMEMBERED:
            self._gone.popitem(last=False)
        for link in [link for link in self._links if link.peer.member == member]:
            link.abort("its key in the coordinator is gone")

    def abort_all(self, reason: str) -> None:
        """This node's lease is lost: nothing that is queued may be sent any more."""
        for link in list(self._links):
            link.abort(reason)

    def goodbye(self) -> None:
        """Ask everybody for no new calls."""
        self._closing = True
        for link in self._links:
            link.goodbye()

    async def close(self, timeout_s: float) -> None:
        """Deliver what is in flight, say goodbye, end."""
        self.goodbye()
        await asyncio.gather(*(link.close(timeout_s) for link in list(self._links)))
