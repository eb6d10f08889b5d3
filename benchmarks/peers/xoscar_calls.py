"""Actor calls of xoscar: an echo in a process of its own, called from this one."""

from __future__ import annotations

from importlib.metadata import version

import uvloop
import xoscar

from benchmarks.peers.driver import PAYLOAD, answer_runs, private_stdout


class Echo(xoscar.Actor):  # type: ignore[misc]
    async def echo(self, payload: bytes) -> bytes:
        return payload


async def main() -> None:
    answers = private_stdout()
    # One process and one actor: more of either were tried and were no faster on two cores.
    pool = await xoscar.create_actor_pool("127.0.0.1", n_process=1)
    async with pool:
        elsewhere = xoscar.allocate_strategy.ProcessIndex(1)
        actor = await xoscar.create_actor(
            Echo, address=pool.external_address, uid="echo", allocate_strategy=elsewhere
        )
        versions = {name: version(name) for name in ("xoscar", "uvloop")}
        about = {"versions": versions, "actors": 1, "actor_processes": 1}
        await answer_runs(lambda _: actor.echo(PAYLOAD), about, answers)


if __name__ == "__main__":
    uvloop.run(main())
