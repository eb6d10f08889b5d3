"""Asks the operations ports whether everything answers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

_POLL_S = 0.05
_CLAIMED = re.compile(r"^claimed (\d+)/(\d+)$", re.MULTILINE)
_ASK_S = 2.0
_MAX_ANSWER_BYTES = 64 * 1024


async def is_ready(port: int) -> tuple[bool, str]:
    """Whether ``/ready`` on ``port`` of this machine answers 200, and what it says."""
    try:
        async with asyncio.timeout(_ASK_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                answer = await reader.read(_MAX_ANSWER_BYTES)
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        return False, str(error) or "no answer"
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    return status == [b"200"], body.decode(errors="replace").strip()


def _settled(text: str) -> bool:
    claimed = _CLAIMED.search(text)
    return claimed is None or (claimed[1] == claimed[2] and claimed[1] != "0")


async def wait_ready(ports: Sequence[int]) -> None:
    """Return once every one of ``ports`` is ready in the same round; for ever if need be.

    A node that tells how many shards it has must have all that belong to it, and some: while
    shards still move, objects whose state is not durable begin afresh.
    """
    while True:
        answers = await asyncio.gather(*(is_ready(port) for port in ports))
        if all(ready and _settled(text) for ready, text in answers):
            return
        await asyncio.sleep(_POLL_S)
