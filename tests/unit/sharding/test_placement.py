"""Where an id lives. These numbers are for ever: stored data is keyed by them."""

from __future__ import annotations

import pytest

from goverse.sharding import NODE_SHARD, node_of, shard_of, slot_of
from goverse.sharding.placement import fnv1a_32


@pytest.mark.parametrize(
    ("data", "expected"), [(b"", 0x811C9DC5), (b"a", 0xE40C292C), (b"foobar", 0xBF9CF968)]
)
def test_fnv1a_matches_its_published_vectors(data: bytes, expected: int) -> None:
    assert fnv1a_32(data) == expected


@pytest.mark.parametrize(("id", "shard"), [("foobar", 6504), ("a", 2348), ("Counter-test", 7210)])
def test_shards_of_well_known_ids(id: str, shard: int) -> None:
    assert shard_of(id, 8192) == shard


def test_a_shard_prefix_names_the_slot() -> None:
    assert slot_of("shard#5/x") == 5
    assert shard_of("shard#8197/x", 8192) == 5
    assert slot_of("shard#65535/x") == 65_535


@pytest.mark.parametrize(
    "id",
    [
        "shard#65536/x",
        "shard#99999999999/x",
        "shard#-1/x",
        "shard#05/x",
        "shard#5",
        "shard#5/",
        "shard#/x",
        "shard#٥/x",
        "node#/x",
        "node#n1",
        "node#n1/",
    ],
)
def test_a_malformed_prefix_is_refused(id: str) -> None:
    with pytest.raises(ValueError, match="object id"):
        shard_of(id, 8192)


def test_a_node_prefix_names_the_node() -> None:
    assert shard_of("node#n1/x", 8192) == NODE_SHARD
    assert node_of("node#n1/x/y") == "n1"


def test_ids_spread_evenly_over_the_shards() -> None:
    counts = [0] * 64
    for number in range(64_000):
        counts[shard_of(f"user-{number}", 64)] += 1
    assert min(counts) > 800 and max(counts) < 1200
