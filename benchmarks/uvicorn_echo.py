"""The limit that HTTP calls are measured against: a bare ASGI echo in uvicorn, nothing else.

``python -m benchmarks.uvicorn_echo`` prints its address.
"""

from __future__ import annotations

import socket
from typing import Any, cast

import uvicorn


async def echo(scope: Any, receive: Any, send: Any) -> None:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    host, port = listening.getsockname()
    config = uvicorn.Config(
        cast(Any, echo),
        http="httptools",
        loop="uvloop",
        lifespan="off",
        interface="asgi3",
        access_log=False,
        log_level="error",
    )
    print(f"{host}:{port}", flush=True)
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
