"""Asks the operations ports whether everything answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

_POLL_S = 0.05
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


async def wait_ready(ports: Sequence[int]) -> None:
    """Return once every one of ``ports`` is ready in the same round; for ever if need be."""
    while True:
        answers = await asyncio.gather(*(is_ready(port) for port in ports))
        if all(ready for ready, _ in answers):
            return
        await asyncio.sleep(_POLL_S)
