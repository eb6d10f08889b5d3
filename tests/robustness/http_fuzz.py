"""`schemathesis run` against a gate with nodes behind it: ``python -m tests.robustness.http_fuzz``.

It makes requests out of /openapi.json, good and bad ones, and checks every answer against it.
Afterwards nothing may be under way in gate and nodes, and no answer may have been `internal`.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from goverse_gate.app import Gate
from goverse_node.app import Node
from tests.robustness.http_world import http_world, unrest
from tests.support.eventually import eventually
from tests.support.every_kind import Chain, Kinds

CONFIG = Path(__file__).with_name("schemathesis.toml")
#: Beyond the time that it was given: to load the document and to write its report.
_EXTRA_S = 90.0
_REST_S = 20.0


class _Errors(logging.Handler):
    """Collects what gate and nodes log as errors; the sample objects raise none."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if len(self.lines) < 20:
            self.lines.append(self.format(record))


@dataclass
class Outcome:
    """``ok`` if nothing was found; ``report`` is what schemathesis said."""

    seed: int
    status: int
    report: str
    errors: list[str] = field(default_factory=list)
    unrest: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not (self.status or self.errors or self.unrest)

    def __str__(self) -> str:
        lines = [self.report.rstrip(), f"schemathesis: exit status {self.status}"]
        lines += [f"logged as an error: {line}" for line in self.errors]
        lines += [f"still under way: {what}" for what in self.unrest]
        lines.append(f"seed {self.seed}: {'ok' if self.ok else 'FAILED'}")
        return "\n".join(lines)


async def fuzz(*, seconds: int, seed: int) -> Outcome:
    """One run of ``seconds``: at most half for the edges of every schema, the rest for random
    data."""
    errors = _Errors()
    root = logging.getLogger()
    root.addHandler(errors)
    try:
        async with http_world(Kinds, Chain) as (gate, nodes):
            began = time.monotonic()
            edges, of_edges = await _schemathesis(gate, "coverage", seconds // 2, seed)
            left = seconds - round(time.monotonic() - began)
            data, of_data = await _schemathesis(gate, "fuzzing", left, seed)
            status, report = edges or data, of_edges + of_data
            return Outcome(seed, status, report, errors.lines, await _at_rest(gate, nodes))
    finally:
        root.removeHandler(errors)


async def _schemathesis(gate: Gate, phase: str, seconds: int, seed: int) -> tuple[int, str]:
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        *("--config-file", str(CONFIG), "run", f"http://{gate.http_address}/openapi.json"),
        *("--phases", phase, "--max-time", str(max(seconds, 1)), "--seed", str(seed)),
        *("--no-color", "--continue-on-failure", "--max-failures", "20"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=folder,  # its caches and reports
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(seconds + _EXTRA_S):
                out, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            return 1, f"schemathesis did not end {_EXTRA_S:g} s after its time was over\n"
    return process.returncode or 0, out.decode(errors="replace")


async def _at_rest(gate: Gate, nodes: list[Node]) -> list[str]:
    def busy() -> list[str]:
        objects = [found for node in nodes for found in node.catalog.census.objects()]
        return unrest(gate.snapshot(), *(node.snapshot() for node in nodes), *objects)

    try:
        await eventually(lambda: not busy(), _REST_S)
    except Exception:
        return busy() or ["it came to rest at the last moment"]
    return []


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.http_fuzz")
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--seed", type=int, default=None, help="default: a new one")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if given.seed is None else given.seed
    print(f"fuzzing HTTP for {given.seconds} s, seed {seed}", flush=True)
    outcome = asyncio.run(fuzz(seconds=given.seconds, seed=seed))
    print(outcome)
    return 0 if outcome.ok else 1


if __name__ == "__main__":
    sys.exit(main())
