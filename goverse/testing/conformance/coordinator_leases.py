"""What leases of a coordinator must do."""

from __future__ import annotations

from goverse.coordination.api import Compare, Coordinator, Delete, Put
from goverse.testing.conformance.coordinator_kit import (
    TTL_S,
    Clients,
    CoordinatorBackend,
    CoordinatorFixtures,
    View,
    put,
)
from goverse.testing.conformance.waiting import eventually


class LeaseTests(CoordinatorFixtures):
    async def test_a_lease_is_kept_alive(
        self, backend: CoordinatorBackend, client: Coordinator, prefix: str
    ) -> None:
        asked_at = backend.clock.now()
        lease = await client.grant(TTL_S)
        assert lease.id > 0
        assert lease.ttl_s == TTL_S
        assert asked_at + TTL_S <= lease.deadline <= backend.clock.now() + TTL_S
        await put(client, prefix + "a", b"", lease.id)
        first = lease.deadline
        await eventually(lambda: lease.deadline > first + 2 * TTL_S)
        assert lease.deadline <= backend.clock.now() + TTL_S
        found = await client.get(prefix + "a")
        assert found is not None
        assert found.lease == lease.id
        assert lease.id in [known.id for known in client.snapshot().leases]

    async def test_an_abandoned_lease_ends_by_itself(
        self, backend: CoordinatorBackend, clients: Clients, client: Coordinator, prefix: str
    ) -> None:
        view = View(await clients.watch(await clients.connect(), prefix))
        await view.advance()
        lease = await client.grant(TTL_S)
        keys = [Put(f"{prefix}{n}", b"", lease.id) for n in range(100)]
        await client.transact([], keys)
        await view.reach(lambda: len(view.items) == 100)
        deadline = lease.deadline
        await lease.abandon()
        assert lease.deadline == 0
        await view.advance()
        assert backend.clock.now() >= deadline, "the coordinator ended it early"
        assert backend.clock.now() < deadline + 4
        # All at once: nobody ever sees half of a member's keys.
        assert len(view.changes[-1].items) == 100
        assert view.items == {}

    async def test_a_revoked_lease_takes_its_keys_along(
        self, clients: Clients, client: Coordinator, prefix: str
    ) -> None:
        view = View(await clients.watch(await clients.connect(), prefix))
        await view.advance()
        lease = await client.grant(60)
        await client.transact(
            [], [Put(prefix + "a", b"", lease.id), Put(prefix + "b", b"", lease.id)]
        )
        await put(client, prefix + "c")
        await view.reach(lambda: len(view.items) == 3)
        await lease.revoke()
        assert lease.deadline == 0
        await view.advance()
        assert view.changes[-1].items == {prefix + "a": None, prefix + "b": None}
        assert list((await client.list(prefix)).items) == [prefix + "c"]
        await lease.revoke()  # again: harmless

    async def test_a_put_under_a_lease_that_is_over_fails(
        self, client: Coordinator, prefix: str
    ) -> None:
        lease = await client.grant(60)
        await lease.revoke()
        before = await put(client, prefix + "a", b"old")
        result = await client.transact(
            [], [Put(prefix + "a", b"new"), Put(prefix + "b", b"", lease.id)]
        )
        assert not result.succeeded
        assert result.revision == before
        assert (await client.list(prefix)).revision == before

    async def test_a_key_leaves_its_lease(self, client: Coordinator, prefix: str) -> None:
        first, second = await client.grant(60), await client.grant(60)
        key = prefix + "a"
        await put(client, key, b"", first.id)
        assert (await client.transact([Compare.has_lease(key, first.id)], [])).succeeded
        await put(client, key, b"", second.id)
        assert not (await client.transact([Compare.has_lease(key, first.id)], [])).succeeded
        await first.revoke()
        assert await client.get(key) is not None
        await put(client, key)
        await second.revoke()
        found = await client.get(key)
        assert found is not None
        assert found.lease == 0

    async def test_a_key_made_again_belongs_to_the_new_lease(
        self, client: Coordinator, prefix: str
    ) -> None:
        first, second = await client.grant(60), await client.grant(60)
        key = prefix + "a"
        await put(client, key, b"", first.id)
        await client.transact([], [Delete(key)])
        await put(client, key, b"", second.id)
        await first.revoke()
        assert await client.get(key) is not None

    async def test_a_lease_ended_by_somebody_else_is_reported(
        self, backend: CoordinatorBackend, client: Coordinator
    ) -> None:
        lease = await client.grant(TTL_S)
        reported: list[str] = []
        lease.on_lost(lambda: reported.append("lost"))
        await backend.end_lease(lease.id)
        await eventually(lambda: reported)
        assert reported == ["lost"]
        assert lease.deadline == 0

    async def test_silence_ends_a_lease_in_time(
        self, backend: CoordinatorBackend, clients: Clients, prefix: str
    ) -> None:
        other = await clients.connect()
        client, cut = await clients.connect_cuttable()
        lease = await client.grant(TTL_S)
        await put(client, prefix + "a", b"", lease.id)
        reported: list[str] = []
        lease.on_lost(lambda: reported.append("lost"))
        cut.cut()

        async def gone() -> bool:
            return await other.get(prefix + "a") is None

        await eventually(gone)
        assert lease.deadline <= backend.clock.now(), "the holder believed in it for longer"
        assert not reported
        cut.heal()
        await eventually(lambda: reported)
        assert lease.deadline == 0
