from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goverse.sharding.rendezvous import choices

SHARDS = 4096
names = st.lists(
    st.text("abcdefgh0123-.", min_size=1, max_size=12), min_size=1, max_size=8, unique=True
)


def equal(found: list[str]) -> tuple[tuple[str, float], ...]:
    return tuple((name, 1.0) for name in found)


@given(names)
@settings(max_examples=30, deadline=None)
def test_the_order_of_the_nodes_does_not_matter(found: list[str]) -> None:
    assert choices(256, equal(found)) == choices(256, equal(found[::-1]))


@given(names.filter(lambda found: len(found) > 1), st.data())
@settings(max_examples=40, deadline=None)
def test_a_node_that_goes_moves_only_its_own_shards(found: list[str], data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(found))
    weights = {name: data.draw(st.sampled_from([0.5, 1.0, 3.0])) for name in found}
    before = choices(512, tuple(weights.items()))
    after = choices(512, tuple((n, w) for n, w in weights.items() if n != gone))
    for old, new in zip(before, after, strict=True):
        assert old in (new, gone)


def test_raising_a_weight_only_attracts_shards() -> None:
    before = choices(SHARDS, (("a", 1.0), ("b", 1.0), ("c", 2.0)))
    after = choices(SHARDS, (("a", 1.0), ("b", 3.0), ("c", 2.0)))
    for old, new in zip(before, after, strict=True):
        assert old == new or new == "b"


@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 2, 3), (0.25, 1, 4, 4, 8), (1,) * 10])
def test_shares_follow_the_weights(weights: tuple[float, ...]) -> None:
    nodes = tuple((f"node-{place}", float(weight)) for place, weight in enumerate(weights))
    counts = Counter(choices(8192, nodes))
    for name, weight in nodes:
        share = 8192 * weight / sum(weights)
        # Five standard deviations of a binomial count.
        assert abs(counts[name] - share) < 5 * share**0.5


def test_the_choices_are_the_same_in_every_process_and_version() -> None:
    found = choices(8, (("n1", 1.0), ("n2", 1.0), ("n3", 1.0)))
    assert found == GOLDEN
    weighted = choices(8, (("n1", 1.0), ("n2", 2.0), ("n3", 4.0)))
    assert weighted == GOLDEN_WEIGHTED


def test_without_nodes_there_is_no_choice() -> None:
    with pytest.raises(ValueError, match="no node"):
        choices(8, ())


GOLDEN = ("n2", "n2", "n1", "n2", "n1", "n2", "n2", "n1")
GOLDEN_WEIGHTED = ("n2", "n3", "n1", "n2", "n3", "n2", "n3", "n1")
