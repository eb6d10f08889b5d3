"""Calls of durable objects, as their callers saw them; what `exactly` looks at."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

#: What a method that declines is answered, instead of a result.
DECLINED = "declined"


@dataclass
class Attempt:
    """One time that a call was made. Moments are those of `Played`.

    :param told: how it ended: ok, declined, no, unknown, or rolled back.
    """

    called: int
    ended: int = 0
    told: str = ""
    result: Any = None

    @property
    def sure(self) -> bool:
        """Whether it was told the outcome."""
        return self.told in ("ok", DECLINED)


@dataclass
class Played:
    """One call: a plain one, with one attempt, or all that was asked under one call id."""

    token: str
    type: str
    id: str
    method: str
    arguments: dict[str, Any]
    reliable: bool
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def object(self) -> str:
        return f"{self.type}/{self.id}"

    @property
    def sure(self) -> list[Attempt]:
        """Attempts that were told the outcome, in the order in which they were."""
        found = [attempt for attempt in self.attempts if attempt.sure]
        return sorted(found, key=lambda attempt: attempt.ended)

    @property
    def undone(self) -> bool:
        """Whether every attempt was told that nothing has happened."""
        return all(attempt.told in ("no", "rolled back") for attempt in self.attempts)


@dataclass
class Game:
    """All of them. Its moments are counted, not measured: what comes first has the lower one."""

    calls: dict[str, Played] = field(default_factory=dict)
    moment: int = 0

    def next_moment(self) -> int:
        self.moment += 1
        return self.moment

    def attempts(self) -> int:
        return sum(len(call.attempts) for call in self.calls.values())

    def overlapping(self) -> int:
        """Attempts during which another call of the same object was under way."""
        by_object: dict[str, list[Attempt]] = {}
        for call in self.calls.values():
            by_object.setdefault(call.object, []).extend(call.attempts)
        return sum(map(_overlapping, by_object.values()))


def _overlapping(attempts: list[Attempt]) -> int:
    attempts.sort(key=lambda attempt: attempt.called)
    found: dict[int, None] = {}
    latest = 0
    for number, (one, two) in enumerate(pairwise(attempts)):
        latest = max(latest, one.ended)
        if two.called < one.ended:
            found[number] = None
        if two.called < latest:
            found[number + 1] = None
    return len(found)
