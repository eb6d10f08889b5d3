"""The two transactions that decide who owns a shard."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from goverse.cluster.keys import Keys
from goverse.cluster.layout import Proof, raise_generation
from goverse.cluster.records import ClaimValue, Target, encode
from goverse.cluster.registration import Registration
from goverse.coordination.api import (
    MAX_TXN_OPERATIONS,
    Compare,
    Coordinator,
    CoordinatorUnavailable,
    Delete,
    Put,
    TxnResult,
)
from goverse.ids import Epoch
from goverse.observability.metrics import Metrics
from goverse.sharding import NODE_SHARD

#: Two compares for each claim, and two for all of them.
MAX_CLAIMS = MAX_TXN_OPERATIONS // 2 - 2


class ClaimWriter:
    """Creates and deletes claims; counts them and the transactions.

    :param answer_limit_s: after this long without an answer an outcome counts as unknown. The
        view tells it better than waiting does.
    """

    def __init__(
        self, coordinator: Coordinator, keys: Keys, metrics: Metrics, *, answer_limit_s: float
    ) -> None:
        self._coordinator = coordinator
        self._claims = metrics.claims
        self._keys = keys
        self._answer_limit_s = answer_limit_s
        self.transactions = 0

    async def claim(
        self,
        registration: Registration,
        layout_revision: int,
        wanted: Sequence[tuple[int, Target]],
    ) -> TxnResult:
        """Claim all of ``wanted`` or none. Raises CoordinatorUnavailable: perhaps claimed."""
        member, lease = registration.member, registration.lease.id
        value = encode(ClaimValue(member.name, member.incarnation, registration.layout.generation))
        compares = [
            registration.compare(),
            Compare.modified_at(self._keys.layout, layout_revision),
        ]
        puts = []
        for shard, target in wanted:
            key = self._keys.claim(shard)
            compares.append(Compare.absent(key))
            compares.append(Compare.modified_at(self._keys.target(shard), target.mod_revision))
            puts.append(Put(key, value, lease))
        result = await self._transact(compares, puts)
        self._claims.inc("made" if result.succeeded else "refused", by=len(wanted))
        return result

    async def release(self, claims: Sequence[tuple[int, int]]) -> TxnResult:
        """Delete claims, given as (shard, create_revision), all or none.

        Raises CoordinatorUnavailable: perhaps deleted, perhaps later.
        """
        compares = []
        deletes = []
        for shard, revision in claims:
            key = self._keys.claim(shard)
            compares.append(Compare.created_at(key, revision))
            deletes.append(Delete(key))
        result = await self._transact(compares, deletes)
        if result.succeeded:
            self._claims.inc("released", by=len(claims))
        return result

    async def outrank(
        self, registration: Registration, shard: int, epoch: Epoch, above: Epoch
    ) -> None:
        """``above`` is known, though the claim of ``shard`` at ``epoch`` stands: lift the
        generation over it. Raises FailedPrecondition if it does not stand, CoordinatorUnavailable.
        """
        lease = registration.lease.id
        key = registration.key if shard == NODE_SHARD else self._keys.claim(shard)
        proof = Proof(key, epoch.revision, lease)
        await raise_generation(self._coordinator, self._keys, proof, above=above.generation)

    async def _transact(
        self, compares: Sequence[Compare], operations: Sequence[Put | Delete]
    ) -> TxnResult:
        self.transactions += 1
        try:
            async with asyncio.timeout(self._answer_limit_s):
                return await self._coordinator.transact(compares, operations)
        except TimeoutError:
            raise CoordinatorUnavailable(f"no answer in {self._answer_limit_s} s") from None
