"""What goes wrong between simulated processes: latency, slow links, cuts, lost messages.

`Faults` is the state of the world's cables. The loopback network asks it how long a message
takes (`delay`); the channel to the in-memory coordinator hands it what is to be delivered
(`carry`). The coordinator is an end point like any other, named `COORDINATOR`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass

#: The name under which the coordinator is cut off and slowed down.
COORDINATOR = "coordinator"

#: The same of the store.
STORE = "store"

Deliver = Callable[[], None]


@dataclass(frozen=True)
class FaultsSnapshot:
    """The faults of this moment: pairs (from, to)."""

    cut: tuple[tuple[str, str], ...]
    slow: tuple[tuple[str, str], ...]
    lossy: tuple[tuple[str, str], ...]
    uneven: tuple[tuple[str, str], ...]
    closed: tuple[str, ...]
    held: int

    @property
    def clean(self) -> bool:
        return not (self.cut or self.slow or self.lossy or self.uneven or self.closed or self.held)


class Faults:
    """Cables between named processes; every pair is connected until it is cut.

    :param source: draws latencies and losses.
    :param latency_s: shortest and longest ordinary delay; two in a hundred take ten times that.
    :param record: is told of every change, for the trace.
    """

    def __init__(
        self,
        source: random.Random,
        *,
        latency_s: tuple[float, float] = (0.0002, 0.002),
        record: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._random = source
        self._latency_s = latency_s
        self._record = record
        self._cut: dict[tuple[str, str], None] = {}
        self._slow: dict[tuple[str, str], float] = {}
        self._lossy: dict[tuple[str, str], float] = {}
        self._uneven: dict[tuple[str, str], tuple[float, float]] = {}
        self._closed: dict[str, None] = {}
        self._held: list[tuple[str, str, Deliver]] = []
        self._healed: list[Callable[[], None]] = []

    # -- what a test does ---------------------------------------------------------------------

    def cut(self, a: str, b: str) -> None:
        """Nothing passes between ``a`` and ``b`` any more, and nobody is told."""
        self.cut_one_way(a, b)
        self.cut_one_way(b, a)

    def cut_one_way(self, source: str, target: str) -> None:
        """Messages from ``source`` no longer reach ``target``; the other direction works."""
        self._record(f"cut {source}>{target}")
        self._cut[source, target] = None

    def slow(self, a: str, b: str, delay_s: float) -> None:
        """Messages between ``a`` and ``b`` take ``delay_s`` more, in both directions."""
        self._record(f"slow {a}-{b} {delay_s:.3f}")
        self._slow[a, b] = self._slow[b, a] = delay_s

    def lose(self, source: str, target: str, share: float) -> None:
        """Lose this share of the single messages from ``source`` to ``target``.

        Only requests to the coordinator and its answers are single messages; a link is a stream,
        whose messages arrive in order or not at all.
        """
        self._record(f"lose {source}>{target} {share:.2f}")
        self._lossy[source, target] = share

    def jitter(self, a: str, b: str, max_s: float, share: float = 1.0) -> None:
        """Each message between ``a`` and ``b``, or this share of them, takes up to ``max_s`` more,
        one this, one that.

        Single messages overtake each other then; those of one link never do.
        """
        self._record(f"jitter {a}-{b} {max_s:.3f} {share:.2f}")
        self._uneven[a, b] = self._uneven[b, a] = (max_s, share)

    def close_port(self, name: str) -> None:
        """Whoever asks ``name`` is refused at once, as when its process is gone."""
        self._record(f"close {name}")
        self._closed[name] = None

    def open_port(self, name: str) -> None:
        self._record(f"open {name}")
        self._closed.pop(name, None)

    def mend(self, a: str, b: str) -> None:
        """End every fault between ``a`` and ``b``."""
        self._record(f"mend {a}-{b}")
        for pair in ((a, b), (b, a)):
            for faults in (self._cut, self._slow, self._lossy, self._uneven):
                faults.pop(pair, None)
        self._release()

    def heal(self) -> None:
        """End every fault."""
        self._record("heal")
        for faults in (self._cut, self._slow, self._lossy, self._uneven):
            faults.clear()
        self._closed.clear()
        self._release()

    # -- what the simulated networks ask --------------------------------------------------------

    def delay(self, source: str, target: str) -> float | None:
        """Seconds that a message takes now; None when the cable is cut."""
        if (source, target) in self._cut:
            return None
        low, high = self._latency_s
        delay_s = self._random.uniform(low, high)
        if self._random.random() < 0.02:
            delay_s *= 10
        uneven_s, share = self._uneven.get((source, target), (0.0, 0.0))
        if uneven_s and (share == 1.0 or self._random.random() < share):
            delay_s += self._random.uniform(0.0, uneven_s)
        return delay_s + self._slow.get((source, target), 0.0)

    def refuses(self, name: str) -> bool:
        return name in self._closed

    def carry(self, source: str, target: str, deliver: Deliver) -> None:
        """Call ``deliver`` once a single message from ``source`` has reached ``target``.

        A message into a cut is lost, or comes late: after the cut is mended, when its sender has
        perhaps long given it up. One on a lossy cable may be lost. The delivery belongs to no
        simulated process, so that the sender's death does not recall what it has sent.
        """
        delay_s = self.delay(source, target)
        if delay_s is None:
            if self._random.random() < 0.5:
                self._held.append((source, target, deliver))
            return
        if self._random.random() < self._lossy.get((source, target), 0.0):
            return
        asyncio.get_running_loop().call_later(delay_s, deliver, context=Context())

    def on_heal(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` each time some cable was mended."""
        self._healed.append(callback)

    def snapshot(self) -> FaultsSnapshot:
        return FaultsSnapshot(
            tuple(self._cut),
            tuple(self._slow),
            tuple(self._lossy),
            tuple(self._uneven),
            tuple(self._closed),
            len(self._held),
        )

    def _release(self) -> None:
        held, self._held = self._held, []
        for source, target, deliver in held:
            if (source, target) in self._cut:
                self._held.append((source, target, deliver))
            else:
                self.carry(source, target, deliver)
        for callback in self._healed:
            callback()
