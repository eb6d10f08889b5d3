"""Objects whose turns do not end: one waits for ever, one does not even let the loop go."""

from __future__ import annotations

import asyncio
import pathlib
import time

import goverse


class Hanging(goverse.Object):
    @goverse.method
    async def ping(self) -> str:
        return "pong"

    @goverse.method
    async def wait(self, begun: str) -> None:
        """Writes the file ``begun`` when it runs."""
        pathlib.Path(begun).touch()
        await asyncio.Event().wait()

    @goverse.method
    async def block(self, begun: str) -> None:
        """The same, with the whole process."""
        pathlib.Path(begun).touch()
        time.sleep(600)  # noqa: ASYNC251
