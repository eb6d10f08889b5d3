"""The leader's questions to other nodes about their load, over the links that stand anyway."""

from __future__ import annotations

import asyncio

import msgspec

from goverse.call import Call, Codec, Verb
from goverse.cluster.loads import ASK_TIMEOUT_S
from goverse.cluster.records import MemberRecord
from goverse.errors import Executed, Internal, Unavailable
from goverse.objects import Catalog
from goverse.sharding.loads import NodeLoad
from goverse.transport.hello import REPORT_LOAD
from goverse.transport.pool import LinkPool


class NodeLoads:
    """A `goverse.cluster.loads.LoadSource`; of its own node it asks ``catalog``."""

    def __init__(self, name: str, pool: LinkPool, catalog: Catalog) -> None:
        self._name = name
        self._pool = pool
        self._catalog = catalog
        self._decoder = msgspec.json.Decoder(NodeLoad)

    async def load_of(self, node: MemberRecord) -> NodeLoad | None:
        if node.member.name == self._name:
            return self._catalog.meter.measure()
        features = {hello.member: hello.features for hello in self._pool.hellos()}
        if node.member not in features:
            # No link yet: there will be one when it is asked again.
            self._pool.dial(node.member, node.address)
            raise Unavailable(f"there is no link to {node.member} yet")
        if REPORT_LOAD not in features[node.member]:
            return None
        deadline = asyncio.get_running_loop().time() + ASK_TIMEOUT_S
        call = Call("", "", "", b"", deadline, codec=Codec.JSON, verb=Verb.LOAD)
        reply = await self._pool.target(node.member, node.address).invoke(call)
        try:
            return self._decoder.decode(reply.payload)
        except msgspec.DecodeError as error:
            raise Internal(f"not a report of load: {error}", executed=Executed.YES) from None
