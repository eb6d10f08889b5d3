"""The limit that calls are measured against: a bare batched echo, one hop, nothing else.

One bidirectional grpc.aio stream whose messages are batches of calls: the frames of our codec,
so that the same fields travel. Both sides gather what waits while a write is in flight into the
next message, as links do.

``python -m benchmarks.echo serve`` prints its port; ``python -m benchmarks.echo load ADDRESS``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from typing import Any

import grpc.aio
import msgspec
import uvloop

from benchmarks.load import drive
from goverse.call import Codec, Verb
from goverse.transport.wire import CallFrame, ReplyFrame, encode

METHOD = "/benchmarks.Echo/Open"
_decode_calls = msgspec.msgpack.Decoder(list[CallFrame]).decode
_decode_replies = msgspec.msgpack.Decoder(list[ReplyFrame]).decode


async def _echo(_: Any, context: Any) -> None:
    waiting: list[ReplyFrame] = []
    wake = asyncio.Event()

    async def write() -> None:
        while True:
            await wake.wait()
            wake.clear()
            batch = waiting.copy()
            waiting.clear()
            await context.write(encode(batch))

    writer = asyncio.create_task(write())
    try:
        while isinstance(message := await context.read(), bytes):  # otherwise it is EOF
            for call in _decode_calls(message):
                waiting.append(ReplyFrame(call.number, call.payload, call.codec))
            wake.set()
    finally:
        writer.cancel()


async def serve() -> None:
    server = grpc.aio.server()
    handler = grpc.stream_stream_rpc_method_handler(_echo)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("benchmarks.Echo", {"Open": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


async def load(address: str, callers: int, warmup_s: float, seconds: float) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        opener: Any = channel.stream_stream  # its stubs know no raw bytes
        stream = opener(METHOD)()
        waiting: list[CallFrame] = []
        wake = asyncio.Event()
        replies: dict[int, asyncio.Future[bytes]] = {}
        loop = asyncio.get_running_loop()
        payload = bytes(64)
        ids = [f"echo-{caller}" for caller in range(callers)]
        number = 0

        async def write() -> None:
            while True:
                await wake.wait()
                wake.clear()
                batch = waiting.copy()
                waiting.clear()
                await stream.write(encode(batch))

        async def read() -> None:
            while isinstance(message := await stream.read(), bytes):
                for answer in _decode_replies(message):
                    replies.pop(answer.number).set_result(answer.payload)

        async def call(caller: int) -> bytes:
            nonlocal number
            number += 1
            reply: asyncio.Future[bytes] = loop.create_future()
            replies[number] = reply
            id = ids[caller]
            waiting.append(
                CallFrame(number, 30_000, "Echo", id, "echo", payload, Codec.MSGPACK, Verb.CALL)
            )
            wake.set()
            return await reply

        tasks = [asyncio.create_task(write()), asyncio.create_task(read())]
        result = await drive(call, callers, warmup_s, seconds)
        for task in tasks:
            task.cancel()
        print(json.dumps(asdict(result)))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        uvloop.run(serve())
    else:
        _, _, address, callers, warmup, seconds = sys.argv
        uvloop.run(load(address, int(callers), float(warmup), float(seconds)))
