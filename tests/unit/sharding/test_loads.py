from __future__ import annotations

import msgspec
import pytest

from goverse.sharding.loads import (
    FULL_MEMORY,
    IDLE_SHARE,
    MAX_REPORTED,
    NodeLoad,
    ShardLoad,
    divided,
    shard_loads,
)


def report(cpu: float, shards: dict[int, ShardLoad], **other: object) -> NodeLoad:
    return NodeLoad(cpu=cpu, hottest=shards, **other)  # type: ignore[arg-type]


def test_processor_time_is_divided_by_calls_and_by_their_time() -> None:
    shares = report(0.8, {1: ShardLoad(30, 1.0), 2: ShardLoad(10, 3.0)}).shares()
    assert shares.hottest == {
        1: pytest.approx(0.8 * (0.75 + 0.25) / 2),
        2: pytest.approx(0.8 * (0.25 + 0.75) / 2),
    }
    assert sum(shares.hottest.values()) == pytest.approx(0.8)


def test_a_shard_whose_calls_only_wait_is_not_taken_for_all_the_work() -> None:
    waits, works = ShardLoad(1, 50.0), ShardLoad(99, 0.5)
    shares = report(0.6, {1: waits, 2: works}).shares()
    assert shares.hottest[1] < 0.6 * 0.51


def test_memory_counts_by_objects_and_their_state() -> None:
    full = report(0.0, {1: ShardLoad(objects=1024), 2: ShardLoad(bytes=3 << 20)})
    shares = msgspec.structs.replace(full, memory_bytes=8 << 20).shares()
    assert shares.hottest == {1: pytest.approx(1 / 8), 2: pytest.approx(3 / 8)}
    assert not shares.full
    assert msgspec.structs.replace(full, memory=FULL_MEMORY + 0.01).shares().full


def test_the_others_share_what_is_left_and_the_nodes_own_stays() -> None:
    shares = report(
        1.0, {1: ShardLoad(50)}, others=4, rest=ShardLoad(40), own=ShardLoad(10)
    ).shares()
    assert shares.hottest[1] == pytest.approx(0.5)
    assert shares.other == pytest.approx(0.1)
    assert shares.own == pytest.approx(0.1)


def test_nothing_going_on_is_no_load() -> None:
    shares = report(0.3, {1: ShardLoad()}, others=2).shares()
    assert (shares.hottest, shares.other, shares.own) == ({1: 0.0}, 0.0, 0.0)


def test_a_report_is_bounded_whatever_the_node_has() -> None:
    rows = [(shard, 1 / 3 + shard, 1 / 7, 12345, float(1 << 30)) for shard in range(65_536)]
    hottest, rest = divided(rows, 1 << 33)
    assert len(hottest) == MAX_REPORTED and next(iter(hottest)) == 65_535
    named = sum(load.calls for load in hottest.values())
    assert named + rest.calls == pytest.approx(sum(row[1] for row in rows))
    assert rest.objects == 12345 * (65_536 - MAX_REPORTED)
    whole = NodeLoad(1 / 3, 1 / 3, 1 << 40, hottest, 65_536 - MAX_REPORTED, rest)
    encoded = msgspec.json.encode(whole)
    assert len(encoded) < 6_000
    assert msgspec.json.decode(encoded, type=NodeLoad) == whole


def test_a_later_version_may_say_more() -> None:
    text = b'{"cpu": 0.5, "hottest": {"7": [1, 2, 3, 4, 5]}, "network": 9}'
    assert msgspec.json.decode(text, type=NodeLoad).hottest == {7: ShardLoad(1, 2, 3, 4)}


def test_loads_are_in_units_of_the_weights_and_never_nothing() -> None:
    shares = {
        "n1": report(1.0, {0: ShardLoad(1)}, others=1).shares(),
        "n2": report(0.5, {2: ShardLoad(1)}).shares(),
    }
    found = shard_loads(["n1", "n1", "n2", "n3", None], shares, {"n1": 2.0, "n2": 4.0, "n3": 1.0})
    idle = IDLE_SHARE * 7.0 / 5
    mean = (2.0 + 0.0 + 2.0) / 3
    assert found == pytest.approx([2.0 + idle, idle, 2.0 + idle, mean + idle, mean + idle])
    assert shard_loads([None], {}, {}) == (IDLE_SHARE,)
