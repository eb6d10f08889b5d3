"""What objects of this node push, on its way to the gates.

::

    a turn succeeds ──send()──> a queue per gate ──one call at a time──> the gate's link
                                    │ full, gate gone, no link in time, lease lost
                                    └──> dropped, and counted by reason

A message is taken to a gate once at most: where the link breaks after the sending, its outcome is
unknown, and it is not sent again.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from goverse.aio.limits import Limit
from goverse.aio.tasks import Tasks
from goverse.cluster.records import MemberRecord
from goverse.cluster.view import ClusterView
from goverse.config.settings import LimitSettings
from goverse.errors import DeadlineExceeded, GoverseError, LinkBroken, Overloaded
from goverse.ids import MemberId, gate_tag, tag_of_client
from goverse.observability.metrics import Metrics
from goverse.transport.link import Link
from goverse.transport.pushes import Outcome, Push, push_call, tally_of

log = logging.getLogger(__name__)

PATIENCE_S = 5.0
"""How long a message waits for the link of its gate, and then for the gate's answer."""


@dataclass(frozen=True)
class GateQueueSnapshot:
    """What waits for one gate."""

    gate: MemberId
    linked: bool
    messages: int
    bytes: int


@dataclass(frozen=True)
class PushesSnapshot:
    """``links`` are those of gates; ``sending`` are queues with a task that empties them."""

    queues: tuple[GateQueueSnapshot, ...]
    links: int
    sending: int

    @property
    def at_rest(self) -> bool:
        return not self.sending and not any(queue.messages for queue in self.queues)


class _Queue:
    """What waits for one incarnation of a gate."""

    def __init__(self, gate: MemberId) -> None:
        self.gate = gate
        self.waiting: deque[tuple[Push, float]] = deque()  # with the time up to which it waits
        self.bytes = 0
        self.task: asyncio.Task[None] | None = None
        self.linked = asyncio.Event()

    def take(self, max_bytes: int) -> list[tuple[Push, float]]:
        """The next ones, in order; at least one if there are any."""
        taken: list[tuple[Push, float]] = []
        size = 0
        while self.waiting and (not taken or size + self.waiting[0][0].size <= max_bytes):
            entry = self.waiting.popleft()
            size += entry[0].size
            taken.append(entry)
        self.bytes -= size
        return taken

    def put_back(self, entries: list[tuple[Push, float]]) -> None:
        self.waiting.extendleft(reversed(entries))
        self.bytes += sum(push.size for push, _ in entries)


class Pushes:
    """A `goverse.objects.messages.PushSink` that reaches the gates of the cluster.

    :param view: which gates there are.
    :param lease_valid: asked immediately before anything is sent.
    """

    def __init__(
        self,
        view: ClusterView,
        lease_valid: Callable[[], bool],
        limits: LimitSettings,
        metrics: Metrics,
    ) -> None:
        self._view = view
        self._lease_valid = lease_valid
        self._limits = limits
        self._metrics = metrics
        self._queues: dict[MemberId, _Queue] = {}
        self._links: dict[MemberId, Link] = {}
        self._gates: dict[str, MemberRecord] = {}
        self._gates_revision = -1
        self._tasks = Tasks("pushes")
        # A queue's task outlives the turn that began it, and must not see its context.
        self._context = contextvars.copy_context()
        self._now = asyncio.get_running_loop().time
        self._term = 0
        self._closing = False
        view.on_member_gone(self._gate_gone)

    # -- what comes

    def send(self, pushes: list[Push]) -> None:
        gates = self._by_tag()
        for push in pushes:
            if push.clients is None:
                for gate in gates.values():
                    self._put(gate.member, push)
                continue
            for tag, clients in _by_tag(push.clients).items():
                found = gates.get(tag)
                if found is None:
                    self._count(Outcome.NO_GATE, len(clients))
                else:
                    self._put(found.member, Push(push.type, push.json, push.any, tuple(clients)))

    def linked(self, link: Link) -> None:
        """A gate has linked itself to this node. Pushes go no other way: who answers there was
        looked up by the gate, and the gate takes none from whoever else comes to it."""
        gate = link.peer.member
        self._links[gate] = link
        link.add_close_callback(self._link_ended)
        if gate in self._queues:
            self._queues[gate].linked.set()

    # -- ends

    def discard(self, reason: str) -> None:
        """The lease is lost: nothing of what waits may leave, under no later lease either."""
        self._term += 1
        for queue in self._queues.values():
            self._drop(queue, Outcome.LEASE_LOST)

    async def close(self, timeout_s: float) -> None:
        """Let what waits leave within ``timeout_s``; the rest is dropped and counted."""
        self._closing = True
        running = [queue.task for queue in self._queues.values() if queue.task is not None]
        if running:
            await asyncio.wait(running, timeout=timeout_s)
        await self._tasks.close()
        for queue in self._queues.values():
            self._drop(queue, Outcome.NO_LINK)

    def _gate_gone(self, member: MemberId) -> None:
        queue = self._queues.pop(member, None)
        if queue is not None:
            self._drop(queue, Outcome.NO_GATE)
            queue.linked.set()  # its task finds that there is nothing left

    def _link_ended(self, link: Link) -> None:
        if self._links.get(link.peer.member) is link:
            del self._links[link.peer.member]

    # -- the queues

    def _by_tag(self) -> dict[str, MemberRecord]:
        if self._gates_revision != self._view.revision:
            gates = self._view.state.gates
            self._gates = {gate_tag(record.member.name): record for record in gates.values()}
            self._gates_revision = self._view.revision
        return self._gates

    def _put(self, gate: MemberId, push: Push) -> None:
        queue = self._queues.get(gate)
        if queue is None:
            queue = self._queues[gate] = _Queue(gate)
        size = push.size
        if (
            len(queue.waiting) >= self._limits.max_inflight_calls
            or queue.bytes + size > self._limits.max_inflight_bytes
            or self._closing
        ):
            self._count(Outcome.BUFFER_FULL, _clients(push))
            return
        queue.waiting.append((push, self._now() + PATIENCE_S))
        queue.bytes += size
        if queue.task is None:
            spawn = self._tasks.spawn
            queue.task = self._context.copy().run(spawn, f"to {gate}", self._empty(queue))

    async def _empty(self, queue: _Queue) -> None:
        try:
            while queue.waiting:
                link = await self._wait_link(queue)
                if link is not None and queue.waiting:
                    await self._send(queue, link)
        finally:
            queue.task = None

    async def _wait_link(self, queue: _Queue) -> Link | None:
        """The gate's link; None: it did not come in time, and what waited for it was dropped."""
        link = self._links.get(queue.gate)
        if link is not None and link.takes_calls:
            return link
        queue.linked.clear()
        try:
            async with asyncio.timeout_at(queue.waiting[0][1]):
                await queue.linked.wait()
        except TimeoutError:
            self._drop_late(queue)
        return None

    async def _send(self, queue: _Queue, link: Link) -> None:
        if not self._lease_valid():
            self._drop(queue, Outcome.LEASE_LOST)
            return
        term, taken = self._term, queue.take(self._limits.max_batch_bytes)
        call = push_call([push for push, _ in taken], self._now() + PATIENCE_S)
        lost: Outcome | None = Outcome.UNKNOWN  # also if this task is cancelled
        try:
            tally = tally_of(await link.invoke(call))
            self._metrics.pushes.inc(Outcome.SENT.value, by=sum(tally.values()))
            lost = None
        except LinkBroken as broken:
            if not broken.sent:
                lost = self._put_back(queue, taken, term)
        except Overloaded:
            lost = Outcome.BUFFER_FULL
        except DeadlineExceeded:
            pass
        except GoverseError as error:
            log.warning("%s took no pushes: %s", queue.gate, error)
            lost = Outcome.REFUSED
        finally:
            if lost is not None:
                self._lost(taken, lost)

    def _put_back(
        self, queue: _Queue, taken: list[tuple[Push, float]], term: int
    ) -> Outcome | None:
        """Keep what was never sent for the gate's next link; why it is lost if there is none."""
        if term != self._term:
            return Outcome.LEASE_LOST
        if self._queues.get(queue.gate) is not queue:
            return Outcome.NO_GATE
        queue.put_back(taken)
        self._drop_late(queue)
        return None

    # -- counting

    def _drop_late(self, queue: _Queue) -> None:
        while queue.waiting and queue.waiting[0][1] <= self._now():
            push, _ = queue.waiting.popleft()
            queue.bytes -= push.size
            self._count(Outcome.NO_LINK, _clients(push))

    def _drop(self, queue: _Queue, outcome: Outcome) -> None:
        taken = list(queue.waiting)
        queue.waiting.clear()
        queue.bytes = 0
        self._lost(taken, outcome)

    def _lost(self, taken: list[tuple[Push, float]], outcome: Outcome) -> None:
        self._count(outcome, sum(_clients(push) for push, _ in taken))

    def _count(self, outcome: Outcome, clients: int) -> None:
        if clients:
            self._metrics.pushes.inc(outcome.value, by=clients)

    # -- for people

    def waiting(self) -> dict[tuple[str, ...], float]:
        """What waits, as a gauge wants it."""
        queues = self._queues.values()
        return {
            ("messages",): sum(len(queue.waiting) for queue in queues),
            ("bytes",): sum(queue.bytes for queue in queues),
            ("max_bytes",): self._limits.max_inflight_bytes * len(queues),
        }

    def limits(self) -> Iterator[Limit]:
        most = self._limits
        for queue in self._queues.values():
            yield Limit("node.pushes", len(queue.waiting), most.max_inflight_calls)
            yield Limit("node.push_bytes", queue.bytes, most.max_inflight_bytes)

    def snapshot(self) -> PushesSnapshot:
        return PushesSnapshot(
            queues=tuple(
                GateQueueSnapshot(
                    queue.gate, queue.gate in self._links, len(queue.waiting), queue.bytes
                )
                for queue in self._queues.values()
            ),
            links=len(self._links),
            sending=sum(queue.task is not None for queue in self._queues.values()),
        )


def _by_tag(clients: Iterable[str]) -> dict[str, list[str]]:
    by_tag: dict[str, list[str]] = {}
    for client in clients:
        by_tag.setdefault(tag_of_client(client), []).append(client)
    return by_tag


def _clients(push: Push) -> int:
    """For how many clients a lost message counts: how many a gate has is not known here."""
    return 1 if push.clients is None else len(push.clients)
