"""The bundled etcd of one session. Its data is gone with the session."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from goverse.aio.backoff import Backoff
from goverse.coordination.supervised import EtcdOptions, EtcdProcess
from goverse_cli.dev.plan import Plan
from goverse_cli.dev.processes import Console, describe_exit

_POLL_S = 0.05


class DevelopmentEtcd:
    """Keeps etcd running from `run` until `stop`.

    :param data_dir: a folder of its own.
    """

    def __init__(self, plan: Plan, data_dir: Path, console: Console, backoff: Backoff) -> None:
        self._process = EtcdProcess(
            EtcdOptions(
                data_dir=data_dir,
                client_port=plan.etcd_port,
                peer_port=plan.etcd_peer_port,
                # Nobody needs this data after a power failure.
                arguments=("--unsafe-no-fsync",),
            )
        )
        self._console = console
        self._backoff = backoff
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        while not self._stopping.is_set():
            self._process.spawn()
            status = await self._process.wait()
            if self._stopping.is_set():
                break
            delay_s = self._backoff.next_s()
            self._console.say(
                f"etcd {describe_exit(status)}; starts again in {delay_s:.1f} s. "
                f"Its last lines:\n{self._last_lines()}"
            )
            try:
                async with asyncio.timeout(delay_s):
                    await self._stopping.wait()
            except TimeoutError:
                continue

    async def wait_ready(self) -> None:
        """Return once it answers, however often it is started again; for ever if need be."""
        while True:
            with contextlib.suppress(RuntimeError):
                await self._process.wait_ready()
                return
            await asyncio.sleep(_POLL_S)

    async def stop(self) -> None:
        self._stopping.set()
        await self._process.stop()

    async def kill(self) -> None:
        self._stopping.set()
        await self._process.kill()

    def _last_lines(self) -> str:
        text = self._process.log_file.read_text(errors="replace")
        return "\n".join(f"  {line[:300]}" for line in text.splitlines()[-5:])
