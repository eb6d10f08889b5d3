from __future__ import annotations

from collections import Counter

from benchmarks.methods import jump, jump_by_name, round_robin
from benchmarks.planner import least

NODES = tuple(f"n{number}" for number in range(9))


def test_jump_hashing_moves_only_to_a_node_that_is_added_last() -> None:
    before, after = jump(4096, NODES), jump(4096, (*NODES, "m"))
    assert {new for old, new in zip(before, after, strict=True) if old != new} == {"m"}
    assert all(abs(count - 409.6) < 100 for count in Counter(after).values())
    # Numbered by name it is in the middle, and most shards move.
    before, after = jump_by_name(4096, NODES), jump_by_name(4096, (*NODES, "m"))
    assert sum(old != new for old, new in zip(before, after, strict=True)) > 2000


def test_round_robin_is_even() -> None:
    assert set(Counter(round_robin(90, NODES)).values()) == {10}


def test_the_least_is_what_a_lost_node_had_or_a_new_one_is_due() -> None:
    before = ["a"] * 5000 + ["b"] * 3192
    assert least(before, {"a": 1, "b": 1}, {"a": 1}) == 3192
    assert least(before, {"a": 1, "b": 1}, {"a": 1, "b": 1, "c": 2}) == 4096
