"""A process with one listener whose calls echo; ``hold`` as method never answers.

``python -m tests.support.link_server [address]`` prints the address it serves.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop

from goverse.aio.runtime import Runtime
from goverse.call import Call, Reply
from goverse.config.settings import LimitSettings
from goverse.ids import MemberId
from goverse.transport.hello import Role, our_hello
from goverse.transport.link import LinkConfig
from goverse.transport.tcp_network import TcpNetwork
from tests.support.accepting import accept_links


class Echo:
    async def invoke(self, call: Call) -> Reply:
        if call.method == "hold":
            await asyncio.Event().wait()
        return Reply(call.payload, call.codec)


async def main(address: str) -> None:
    accept = accept_links(
        our_hello(Role.NODE, MemberId("far", "1")),
        lambda theirs, link: Echo(),
        LinkConfig(LimitSettings(), Runtime(), "far"),
    )
    listener = await TcpNetwork().listen(address, accept)
    print(listener.address, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:0"))
