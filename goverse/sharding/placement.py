"""From an object's id to its slot, and from a slot to its shard.

A slot is for ever; the number of shards can change. Two prefixes place an object by hand:
``shard#<n>/<name>`` has slot ``n``, ``node#<node>/<name>`` lives on that node.
"""

from __future__ import annotations

from functools import lru_cache

from goverse.ids import NUM_SLOTS

#: The pseudo-shard of objects named ``node#<node>/...``: every node has one, claimed by its key.
NODE_SHARD = -1


def fnv1a_32(data: bytes) -> int:
    """FNV-1a, 32 bits (Fowler, Noll and Vo; draft-eastlake-fnv)."""
    value = 0x811C9DC5
    for byte in data:
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value


@lru_cache(maxsize=65_536)
def slot_of(id: str) -> int:
    """The slot of ``id``, 0 to 65,535. Raises ValueError for a malformed ``shard#`` prefix."""
    if id.startswith("shard#"):
        number, slash, name = id[6:].partition("/")
        # A leading zero or a sign would give one object several names.
        if not (slash and name and number.isascii() and number.isdigit()) or (
            len(number) > 1 and number[0] == "0"
        ):
            raise ValueError(f"object id {id[:64]!r}: expected shard#<0..{NUM_SLOTS - 1}>/<name>")
        slot = int(number) if len(number) <= 5 else NUM_SLOTS
        if slot >= NUM_SLOTS:
            raise ValueError(f"object id {id[:64]!r}: slot must be below {NUM_SLOTS}")
        return slot
    return fnv1a_32(id.encode()) % NUM_SLOTS


def shard_of(id: str, num_shards: int) -> int:
    """The shard of ``id``, or `NODE_SHARD` if the id names its node."""
    if id.startswith("node#"):
        node_of(id)
        return NODE_SHARD
    return slot_of(id) % num_shards


def node_of(id: str) -> str:
    """The node named by an id ``node#<node>/<name>``. Raises ValueError if it is malformed."""
    node, slash, name = id[5:].partition("/")
    if not (id.startswith("node#") and node and slash and name):
        raise ValueError(f"object id {id[:64]!r}: expected node#<node>/<name>")
    return node
