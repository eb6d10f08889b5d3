"""Which nodes are asked for their types, and what becomes of bad answers."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any, cast

import msgspec
import pytest

from goverse.call import Call, Codec, Reply, Verb
from goverse.cluster.state import ClusterState
from goverse.errors import Unavailable
from goverse.ids import MemberId
from goverse.objects.description import TypesDescription
from goverse.transport.hello import DESCRIBE_TYPES, FEATURES, Hello, Role
from goverse_gate.node_types import MAX_DIGESTS, NodeTypes
from tests.support.cluster_state import cluster_state


class Nodes:
    """A view and a pool: nodes by name, each with the digest of its types."""

    def __init__(self, **digests: str) -> None:
        self.state: ClusterState = cluster_state(nodes=tuple(digests))
        self.digests = digests
        self.features = FEATURES
        self.answers: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.types = NodeTypes(cast(Any, self), cast(Any, self))

    def hellos(self) -> tuple[Hello, ...]:
        return tuple(
            Hello(1, self.features, Role.NODE, MemberId(name, f"i-{name}"), digest)
            for name, digest in self.digests.items()
        )

    def target(self, member: MemberId, address: str) -> Any:
        nodes = self

        class Target:
            async def invoke(self, call: Call) -> Reply:
                assert (call.verb, call.codec, address) == (
                    Verb.DESCRIBE, Codec.JSON, f"{member.name}:48000",
                )  # fmt: skip
                nodes.asked.append(member.name)
                await nodes.gate.wait()
                description = TypesDescription(nodes.digests[member.name], {})
                answer = nodes.answers.get(member.name, msgspec.json.encode(description))
                return Reply(answer, Codec.JSON)

        return Target()

    async def told(self) -> tuple[list[str], list[str]]:
        """Digests that are described, and those that are missing."""
        known = await self.types.current()
        return [found.digest for found in known.descriptions], list(known.missing)


async def test_the_node_that_registered_last_comes_first() -> None:
    nodes = Nodes(n1="a", n2="b", n3="a")
    assert await nodes.told() == (["a", "b"], [])
    nodes.state.nodes["n2"] = dataclasses.replace(nodes.state.nodes["n2"], create_revision=99)
    assert await nodes.told() == (["b", "a"], [])
    assert sorted(nodes.asked) == ["n2", "n3"]


async def test_nodes_that_cannot_describe_are_not_asked() -> None:
    nodes = Nodes(n1="a")
    nodes.features = tuple(name for name in FEATURES if name != DESCRIBE_TYPES)
    with pytest.raises(Unavailable):
        await nodes.told()
    assert not nodes.asked


async def test_a_link_to_an_earlier_incarnation_does_not_count() -> None:
    nodes = Nodes(n1="a")
    record = nodes.state.nodes["n1"]
    nodes.state.nodes["n1"] = dataclasses.replace(record, member=MemberId("n1", "later"))
    with pytest.raises(Unavailable):
        await nodes.told()


async def test_only_so_many_sets_of_types_are_looked_at_and_kept() -> None:
    nodes = Nodes(**{f"n{number}": f"d{number}" for number in range(MAX_DIGESTS + 3)})
    described, missing = await nodes.told()
    assert described == [f"d{number}" for number in range(MAX_DIGESTS + 2, 2, -1)]
    assert not missing
    for round in range(5):
        nodes.digests = {name: f"r{round}-{name}" for name in nodes.digests}
        await nodes.told()
    snapshot = nodes.types.snapshot()
    assert len(snapshot.digests) == 2 * MAX_DIGESTS
    assert snapshot.fetching == 0


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b'{"digest": "a"}', b'{"digest": "other", "types": {}}', b"\xff"]
)
async def test_a_bad_answer_is_not_believed(answer: bytes) -> None:
    nodes = Nodes(n1="a", n2="b")
    nodes.answers["n1"] = answer
    assert await nodes.told() == (["b"], ["a"])
    del nodes.answers["n1"]
    assert await nodes.told() == (["b", "a"], [])


async def test_who_goes_away_does_not_take_the_answer_from_others() -> None:
    nodes = Nodes(n1="a")
    nodes.gate.clear()
    first = asyncio.ensure_future(nodes.told())
    second = asyncio.ensure_future(nodes.told())
    while not nodes.asked:
        await asyncio.wait([first, second], timeout=0)
    assert nodes.types.snapshot().fetching == 1
    first.cancel()
    nodes.gate.set()
    assert await second == (["a"], [])
    assert nodes.asked == ["n1"]
    assert nodes.types.snapshot().fetching == 0


async def test_closing_ends_what_is_under_way() -> None:
    nodes = Nodes(n1="a")
    nodes.gate.clear()
    asking = asyncio.ensure_future(nodes.told())
    while not nodes.asked:
        await asyncio.wait([asking], timeout=0)
    await nodes.types.close()
    with pytest.raises(Unavailable):
        await asking
    assert nodes.types.snapshot().fetching == 0
