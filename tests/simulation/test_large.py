"""The large simulation in small: every kind of change once. `make simulate` has 100 nodes."""

from __future__ import annotations

import pytest

from tests.simulation.large import STRATEGIES, play


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("seed", [1, 2])
def test_L16_L37_churn_moves_little_and_all_is_owned_again(seed: int, strategy: str) -> None:
    outcome = play(seed, nodes=12, shards=256, changes=9, strategy=strategy)
    assert outcome.violations == []
    assert len(outcome.changes) == 9
