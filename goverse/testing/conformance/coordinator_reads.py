"""What reads and transactions of a coordinator must do."""

from __future__ import annotations

import asyncio

import pytest

from goverse.coordination.api import (
    MAX_TXN_OPERATIONS,
    Compare,
    Coordinator,
    CoordinatorUnavailable,
    Delete,
    KeyValue,
    Put,
    TransactionTooLarge,
)
from goverse.testing.conformance.coordinator_kit import Clients, CoordinatorFixtures, put


class ReadTests(CoordinatorFixtures):
    async def test_a_key_that_does_not_exist(self, client: Coordinator, prefix: str) -> None:
        assert await client.get(prefix + "a") is None
        assert (await client.list(prefix)).items == {}

    @pytest.mark.parametrize("value", [b"", b"plain", bytes(range(256)), b"x" * 100_000])
    async def test_a_value_comes_back_as_it_was(
        self, client: Coordinator, prefix: str, value: bytes
    ) -> None:
        key = prefix + "ключ/with space"
        revision = await put(client, key, value)
        expected = KeyValue(key, value, revision, revision, 0)
        assert await client.get(key) == expected
        assert (await client.list(prefix)).items == {key: expected}

    async def test_revisions_of_a_key(self, client: Coordinator, prefix: str) -> None:
        key = prefix + "a"
        first = await put(client, key, b"1")
        second = await put(client, key, b"2")
        assert second > first
        assert await client.get(key) == KeyValue(key, b"2", first, second, 0)
        gone = await client.transact([], [Delete(key)])
        third = await put(client, key, b"3")
        assert first < second < gone.revision < third
        assert await client.get(key) == KeyValue(key, b"3", third, third, 0)

    async def test_writing_the_same_value_again_is_a_change(
        self, client: Coordinator, prefix: str
    ) -> None:
        first = await put(client, prefix + "a", b"1")
        assert await put(client, prefix + "a", b"1") > first

    async def test_operations_of_one_transaction_share_a_revision(
        self, client: Coordinator, prefix: str
    ) -> None:
        await put(client, prefix + "old")
        result = await client.transact(
            [], [Put(prefix + "a", b"1"), Put(prefix + "b", b"2"), Delete(prefix + "old")]
        )
        listed = await client.list(prefix)
        assert listed.revision == result.revision
        assert list(listed.items) == [prefix + "a", prefix + "b"]
        assert {item.mod_revision for item in listed.items.values()} == {result.revision}

    async def test_a_transaction_that_changes_nothing_has_no_revision(
        self, client: Coordinator, prefix: str
    ) -> None:
        before = await put(client, prefix + "a")
        result = await client.transact([], [Delete(prefix + "missing")])
        assert result.succeeded
        assert result.revision == before

    async def test_a_failed_compare_writes_nothing(self, client: Coordinator, prefix: str) -> None:
        before = await put(client, prefix + "a", b"1")
        result = await client.transact(
            [Compare.modified_at(prefix + "a", before), Compare.created_at(prefix + "a", 1)],
            [Put(prefix + "b", b"2"), Delete(prefix + "a")],
        )
        assert not result.succeeded
        assert result.revision == before
        listed = await client.list(prefix)
        assert {key: item.value for key, item in listed.items.items()} == {prefix + "a": b"1"}

    @pytest.mark.parametrize("field", ["create_revision", "mod_revision", "lease"])
    @pytest.mark.parametrize("exists", [True, False])
    async def test_every_compare(
        self, client: Coordinator, prefix: str, field: str, exists: bool
    ) -> None:
        key = prefix + "a"
        actual = 0
        if exists:
            lease = await client.grant(60)
            await put(client, key, b"1", lease.id)
            await put(client, key, b"2", lease.id)
            found = await client.get(key)
            actual = getattr(found, field)
            assert actual > 0
        for value, equal, less in ((actual - 1, 0, 0), (actual, 1, 0), (actual + 1, 0, 1)):
            expected = {"==": equal, "!=": not equal, "<": less, ">": not equal and not less}
            for op, holds in expected.items():
                compare = Compare(key, field, op, value)  # type: ignore[arg-type]
                result = await client.transact([compare], [])
                assert result.succeeded is bool(holds), compare

    async def test_of_many_that_create_a_key_one_succeeds(
        self, clients: Clients, prefix: str
    ) -> None:
        key = prefix + "a"
        several = [await clients.connect() for _ in range(4)]
        results = await asyncio.gather(
            *(
                client.transact([Compare.absent(key)], [Put(key, b"%d" % n)])
                for n, client in enumerate(several * 5)
            )
        )
        winners = [n for n, result in enumerate(results) if result.succeeded]
        found = await several[0].get(key)
        assert len(winners) == 1
        assert found is not None
        assert found.value == b"%d" % winners[0]
        assert found.create_revision == results[winners[0]].revision

    async def test_conditional_writes_do_not_overwrite_each_other(
        self, clients: Clients, prefix: str
    ) -> None:
        key = prefix + "counter"

        async def add(client: Coordinator) -> None:
            while True:
                found = await client.get(key)
                value = int(found.value) if found else 0
                unchanged = Compare.modified_at(key, found.mod_revision if found else 0)
                wanted = Put(key, b"%d" % (value + 1))
                if (await client.transact([unchanged], [wanted])).succeeded:
                    return

        several = [await clients.connect() for _ in range(3)]
        await asyncio.gather(*(add(client) for client in several * 4))
        found = await several[0].get(key)
        assert found is not None
        assert int(found.value) == 12

    async def test_the_largest_transaction(self, client: Coordinator, prefix: str) -> None:
        keys = [f"{prefix}{n:03}" for n in range(MAX_TXN_OPERATIONS)]
        result = await client.transact(
            [Compare.absent(key) for key in keys], [Put(key, b"") for key in keys]
        )
        assert result.succeeded
        assert list((await client.list(prefix)).items) == keys

    async def test_a_transaction_of_129_operations_is_refused(
        self, client: Coordinator, prefix: str
    ) -> None:
        keys = [f"{prefix}{n:03}" for n in range(MAX_TXN_OPERATIONS + 1)]
        with pytest.raises(TransactionTooLarge):
            await client.transact([], [Put(key, b"") for key in keys])
        with pytest.raises(TransactionTooLarge):
            await client.transact([Compare.absent(key) for key in keys], [Put(keys[0], b"")])
        assert (await client.list(prefix)).items == {}

    async def test_two_operations_on_one_key_are_refused(
        self, client: Coordinator, prefix: str
    ) -> None:
        key = prefix + "a"
        pairs: list[list[Put | Delete]] = [
            [Put(key, b"1"), Put(key, b"2")],
            [Put(key, b"1"), Delete(key)],
            [Delete(key), Delete(key)],
        ]
        for operations in pairs:
            with pytest.raises(ValueError, match="two operations on the key"):
                await client.transact([], operations)
        assert await client.get(key) is None

    async def test_a_prefix_matches_no_sibling(self, client: Coordinator, prefix: str) -> None:
        for key in ("a", "a/1", "a/2/3", "a0", "a-b", "ab/1", "b/1"):
            await put(client, prefix + key)
        listed = await client.list(prefix + "a/")
        assert list(listed.items) == [prefix + "a/1", prefix + "a/2/3"]
        with pytest.raises(ValueError, match="slash"):
            await client.list(prefix + "a")
        with pytest.raises(ValueError, match="slash"):
            client.watch(prefix + "a")

    async def test_what_one_client_wrote_another_reads(self, clients: Clients, prefix: str) -> None:
        writer, reader = await clients.connect(), await clients.connect()
        for n in range(20):
            revision = await put(writer, prefix + "a", b"%d" % n)
            found = await reader.get(prefix + "a")
            assert found is not None
            assert found.mod_revision == revision
            assert (await reader.list(prefix)).revision >= revision

    async def test_a_closed_client_says_so(self, client: Coordinator, prefix: str) -> None:
        await client.close()
        with pytest.raises(CoordinatorUnavailable):
            await client.get(prefix + "a")
        with pytest.raises(CoordinatorUnavailable):
            await client.transact([], [Put(prefix + "a", b"")])
