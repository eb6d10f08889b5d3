"""Each condition of a claim, of a release, and of raising the generation, one by one."""

from __future__ import annotations

import pytest

from goverse.cluster import Kind, Registration
from goverse.cluster.claims import MAX_CLAIMS, ClaimWriter
from goverse.cluster.layout import Proof, raise_generation
from goverse.cluster.records import Claim, Target, TargetValue, encode
from goverse.coordination import CoordinatorUnavailable
from goverse.errors import FailedPrecondition
from goverse.ids import MemberId
from goverse.observability.metrics import Metrics
from tests.support.members import Process, World, in_world


class Claims:
    """A registered node, and some targets that nobody claims: the node's own id is another."""

    def __init__(self, world: World, node: Process, registration: Registration) -> None:
        self.world = world
        self.node = node
        self.registration = registration
        self.writer = ClaimWriter(node.coordinator, world.keys, Metrics(), answer_limit_s=2.0)
        for shard in range(100):
            world.put(world.keys.target(shard), encode(TargetValue("elsewhere")))

    def wanted(self, *shards: int) -> list[tuple[int, Target]]:
        return [
            (shard, Target("elsewhere", self.world.items("shards")[str(shard)].mod_revision))
            for shard in shards
        ]

    async def claim(self, wanted: list[tuple[int, Target]], layout_revision: int = 0) -> bool:
        standing = self.world.store.get(self.world.keys.layout)
        assert standing is not None
        revision = layout_revision or standing.mod_revision
        done = self.writer.claim(self.registration, revision, wanted)
        return (await self.world.loop.run_in(self.node.process, done)).succeeded

    async def release(self, shard: int, revision: int) -> bool:
        done = self.writer.release([(shard, revision)])
        return (await self.world.loop.run_in(self.node.process, done)).succeeded


async def begin(world: World) -> Claims:
    # A gate has a lease and a key, and an ownership that does not mix in.
    gate = await world.gate("g1")
    registration = gate.member.membership.registration
    assert registration is not None
    return Claims(world, gate, registration)


@in_world(shards=128)
async def test_a_full_batch_fits_into_a_transaction(world: World) -> None:
    claims = await begin(world)
    assert MAX_CLAIMS == 62
    assert await claims.claim(claims.wanted(*range(MAX_CLAIMS)))
    item = world.items("claims")["61"]
    assert item.lease == claims.registration.lease.id
    assert claims.writer.transactions == 1


@in_world(shards=128)
async def test_a_claim_needs_everything_to_be_as_it_was_read(world: World) -> None:
    claims = await begin(world)
    read = claims.wanted(1)
    world.put(world.keys.target(1), encode(TargetValue("elsewhere")))
    assert not await claims.claim(read)  # another revision of the target
    assert not await claims.claim(claims.wanted(1), layout_revision=5)
    world.put(world.keys.claim(1), b"{}")
    assert not await claims.claim(claims.wanted(1))  # it is claimed
    assert not await claims.claim(claims.wanted(1, 2))  # all or none
    assert list(world.items("claims")) == ["1"]
    assert await claims.claim(claims.wanted(2))


@in_world(shards=128)
async def test_a_claim_needs_the_own_key_under_the_own_lease(world: World) -> None:
    claims = await begin(world)
    key = world.keys.member(Kind.GATE, "g1")
    other = world.store.grant(60.0)
    world.put(key, b"{}", other)  # the lease lives, and the key is somebody else's
    assert not await claims.claim(claims.wanted(1))
    world.delete(key)
    assert not await claims.claim(claims.wanted(1))
    assert world.items("claims") == {}


@in_world(shards=128)
async def test_a_release_names_the_claim_that_it_deletes(world: World) -> None:
    claims = await begin(world)
    assert await claims.claim(claims.wanted(1))
    old = world.items("claims")["1"].create_revision
    assert not await claims.release(1, old - 1)
    assert await claims.release(1, old)
    assert not await claims.release(1, old)
    assert await claims.claim(claims.wanted(1))
    assert not await claims.release(1, old)  # a late one does not hit the next claim
    assert "1" in world.items("claims")


@in_world(shards=128)
async def test_a_transaction_without_an_answer_is_unknown_after_a_while(world: World) -> None:
    claims = await begin(world)
    wanted = claims.wanted(1)
    claims.node.cut()
    began = world.loop.time()
    with pytest.raises(CoordinatorUnavailable):
        await claims.claim(wanted)
    assert 1.9 < world.loop.time() - began < 2.1


@in_world(shards=128)
async def test_only_the_holder_of_a_claim_raises_the_generation(world: World) -> None:
    claims = await begin(world)
    assert await claims.claim(claims.wanted(1))
    item = world.items("claims")["1"]
    client = claims.node.coordinator
    mine = Claim(claims.registration.member, 1, item.create_revision, item.lease)
    foreign = Claim(MemberId("n9", "x"), 1, item.create_revision - 1, 99)

    async def raised(claim: Claim, above: int) -> int:
        proof = Proof(world.keys.claim(1), claim.create_revision, claim.lease)
        work = raise_generation(client, world.keys, proof, above=above)
        return (await world.loop.run_in(claims.node.process, work)).generation

    with pytest.raises(FailedPrecondition, match="claims/1 does not stand"):
        await raised(foreign, 7)
    assert await raised(mine, 0) == 1  # high enough already
    assert await raised(mine, 7) == 8
    assert await raised(mine, 3) == 8
