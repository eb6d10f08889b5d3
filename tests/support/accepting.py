"""The accepting side in its plainest form: every stream that arrives becomes a link."""

from __future__ import annotations

import logging
from collections.abc import Callable

from goverse.call import CallTarget
from goverse.errors import GoverseError
from goverse.transport.carrier import Accept, Carrier
from goverse.transport.hello import Hello
from goverse.transport.link import Link, LinkConfig, open_link

log = logging.getLogger(__name__)


def accept_links(
    hello: Hello,
    serve: Callable[[Hello, Link], CallTarget],
    config: LinkConfig,
    *,
    on_hello: Callable[[Hello], Hello] | None = None,
    on_link: Callable[[Link], None] | None = None,
) -> Accept:
    """What a network is told to listen with; ``on_link(link)`` is called once a link stands."""

    async def accept(carrier: Carrier) -> None:
        try:
            link = await open_link(carrier, hello, serve, config, on_hello=on_hello)
        except GoverseError as error:
            log.info("%s got no link: %s", carrier.peer, error)
            return
        if on_link is not None:
            on_link(link)
        try:
            await link.wait_closed()
        finally:
            link.abort("its server has ended")

    return accept
