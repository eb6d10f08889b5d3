"""Actor calls of Ray: echoes in processes of their own, called from this one."""

from __future__ import annotations

import asyncio
import os
from importlib.metadata import version

import ray
import uvloop

from benchmarks.peers.driver import PAYLOAD, answer_runs, private_stdout

ACTORS = 2


class Echo:
    # Plain methods answer half as many calls again as async ones.
    def echo(self, payload: bytes) -> bytes:
        return payload


async def main() -> None:
    answers = private_stdout()
    os.environ["RAY_AUTH_MODE"] = "disabled"  # or every call carries a token
    ray.init(include_dashboard=False, log_to_driver=False)
    try:
        remote = ray.remote(num_cpus=0)(Echo)
        actors = [remote.remote() for _ in range(ACTORS)]
        await asyncio.gather(*(actor.echo.remote(PAYLOAD) for actor in actors))
        about = {
            "versions": {name: version(name) for name in ("ray", "uvloop")},
            "actors": ACTORS,
            "actor_processes": ACTORS,
        }

        async def call(caller: int) -> object:
            return await actors[caller % ACTORS].echo.remote(PAYLOAD)

        await answer_runs(call, about, answers)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    uvloop.run(main())
