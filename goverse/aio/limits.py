"""How full the bounded things of a process are: one value for queues, buffers and tables alike.

Whatever can grow has a method ``limits()`` that yields these, and hands on those of its parts; the
snapshots of nodes, gates and clients carry them. A test lists every container of these packages
and says which limit is its own, so that a new queue without one is noticed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Limit:
    """One bounded thing.

    :param name: ``part.what``; the same for all things of a kind.
    :param used: how many, or how many bytes, there are now.
    :param most: past this it refuses, or the oldest has to go.
    :param standing: True for what a process at rest has too, such as connections.
    """

    name: str
    used: int
    most: int
    standing: bool = False

    def __str__(self) -> str:
        return f"{self.name} {self.used}/{self.most}"


class Bounded(Protocol):
    """What has limits, its parts' included."""

    def limits(self) -> Iterable[Limit]: ...


def fullest(limits: Iterable[Limit]) -> tuple[Limit, ...]:
    """Of each name the one that is nearest to its limit, in the order of first appearance."""
    found: dict[str, Limit] = {}
    for limit in limits:
        known = found.get(limit.name)
        if known is None or limit.used * known.most > known.used * limit.most:
            found[limit.name] = limit
    return tuple(found.values())
