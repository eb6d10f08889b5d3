"""A property that hypothesis tries to break, for as many rounds as there is time."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis.database import DirectoryBasedExampleDatabase
from hypothesis.strategies import SearchStrategy

MAX_EXAMPLES = 150
"""Of one property in one round: few, so that a part keeps to its time."""


@dataclass(frozen=True)
class Round:
    """What one round of a part is played with.

    :param seed: all chance of the round comes from it.
    :param left_s: seconds that the part still has; a round should end soon after.
    :param kept: a folder that outlives the run.
    """

    seed: int
    left_s: float
    kept: Path


@dataclass(frozen=True)
class Property:
    """A function that must return for all values of its strategies."""

    check: Callable[..., None]
    strategies: tuple[SearchStrategy[Any], ...]

    def play(self, round: Round) -> int:
        """Returns how many examples were tried. Raises what the check raised, shrunk."""
        tried = 0

        @functools.wraps(self.check)
        def counted(**values: Any) -> None:
            nonlocal tried
            tried += 1
            self.check(**values)

        settings = hypothesis.settings(
            max_examples=MAX_EXAMPLES,
            database=DirectoryBasedExampleDatabase(str(round.kept)),
            deadline=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        hypothesis.seed(round.seed)(settings(hypothesis.given(*self.strategies)(counted)))()
        return tried


def fuzzed(*strategies: SearchStrategy[Any]) -> Callable[[Callable[..., None]], Property]:
    """``@fuzzed(a, b)`` is to a `Property` what ``@given(a, b)`` is to a test."""
    return lambda check: Property(check, strategies)
