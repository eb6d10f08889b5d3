"""Tells which classes of an application must be durable, in a process of its own.

The supervisor does not import the application: it could never import it again. Run as ``python -m
goverse_cli.dev.probe MODULE``; the last line of its output is the answer.
"""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE

from goverse.aio.children import tied_to_this_process
from goverse.objects import ModuleLoadError, Registry, load_entry_points, load_modules

#: Longest wait for a module to be imported.
_LIMIT_S = 60.0


async def durable_classes(module: str) -> tuple[str, ...]:
    """Names of classes; none if the module cannot be loaded, which its nodes will tell."""
    process = await asyncio.create_subprocess_exec(
        *tied_to_this_process([sys.executable, "-m", __name__, module]),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=DEVNULL,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(_LIMIT_S):
            output, _ = await process.communicate()
    except TimeoutError:
        return ()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        return ()
    return tuple(json.loads(output.splitlines()[-1]))


def main() -> int:
    registry = Registry()
    try:
        load_entry_points(registry)
        load_modules((sys.argv[1],), registry)
    except ModuleLoadError:
        return 1
    print()
    print(json.dumps(registry.durable()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
