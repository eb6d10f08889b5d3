"""A link to every live node, so that no call pays for the dialling."""

from __future__ import annotations

import asyncio

from goverse.aio.tasks import Tasks
from goverse.cluster.membership import Membership
from goverse.cluster.state import ViewChange
from goverse.cluster.view import ClusterView
from goverse.transport.pool import LinkPool

#: How soon a link that broke is dialled again if no call asks for it.
RECHECK_S = 1.0


class NodeLinks:
    """Dials what the view shows and the pool lacks, from `start` to `close`.

    The pool dials when a call needs it and gives up when none does; a gate without calls would
    stay without links, and tell its load balancer that it is not ready.
    """

    def __init__(self, view: ClusterView, membership: Membership, pool: LinkPool) -> None:
        self._view = view
        self._membership = membership
        self._pool = pool
        self._tasks = Tasks("node links")
        self._changed = asyncio.Event()
        view.subscribe(self._nodes_changed)

    def start(self) -> None:
        """Call once the gate is registered: nodes refuse whom they cannot know."""
        self._tasks.spawn("dial", self._keep())

    async def close(self) -> None:
        await self._tasks.close()

    def _nodes_changed(self, change: ViewChange) -> None:
        if change.nodes or change.replaced:
            self._changed.set()

    async def _keep(self) -> None:
        while True:
            self._changed.clear()
            if self._membership.member is not None:
                for record in self._view.state.nodes.values():
                    self._pool.dial(record.member, record.address)
            try:
                async with asyncio.timeout(RECHECK_S):
                    await self._changed.wait()
            except TimeoutError:
                pass
