"""``python -m benchmarks NAME [--peers A,B] [--rounds N] [--seconds S] [--output FILE]``.

The last line of standard output is one JSON object. The exit status is 0 if every bound was kept
and nothing failed, otherwise 1. The samples of every run are kept in a file below reports/.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from benchmarks.peers import PEERS
from benchmarks.processes import adopt_orphans, end_leftovers
from benchmarks.report import ROOT, Options, Report, environment

NAMES = {
    "calls": "calls through gate and node, beside a bare batched echo and peers",
    "http": "JSON calls through gate and node, beside a bare uvicorn echo",
    "bootstrap": "three nodes claim all shards: time and etcd transactions",
    "planner": "plans for 100 nodes and 8,192 shards: time, and movement beside other methods",
    "latch": "calls of one shard at four levels of contention, while a writer comes each second",
    "memory": "bytes per resident object and per idle session",
    "ledger": "the store on PostgreSQL: batches, fences, accepts beside 2,000,000 finished calls",
    "reliable": "calls that take effect once, through gate and node, beside peers",
    "cleanup": "1,000,000 calls: what a dry run counts, a cleanup deletes, calls meanwhile see",
    "durable": "calls of durable objects, beside volatile ones and bare commits of PostgreSQL",
    "migration": "calls while a node joins, leaves, and each restarts in turn",
    "delayed": "calls for later, due while nodes are killed and shards move: each once, how late",
    "failover": "calls while nodes, the leader and etcd's leader are killed",
}
#: Benchmarks that know peers, and which.
COMPARED = {"calls": ("xoscar", "ray"), "reliable": ("restate",)}
#: Rounds where fewer or more are worth their time than the default.
ROUNDS = {"memory": 3, "latch": 3, "ledger": 4, "migration": 1, "failover": 3, "delayed": 1}
#: Lengths of a run that are worth their time more than the default.
SECONDS = {"delayed": 60.0}
DEFAULT_SECONDS = 3.0
DEFAULT_ROUNDS = 5


def main() -> int:
    name, options, output = _arguments()
    where = environment()
    report = Report(name)
    adopt_orphans()
    try:
        asyncio.run(_run(name, options, report))
    except (KeyboardInterrupt, asyncio.CancelledError):
        report.faults.append("interrupted")
    except Exception as error:
        traceback.print_exc()
        report.faults.append(f"{type(error).__name__}: {error}")
    finally:
        end_leftovers()
    _keep(report.samples(options, where), output or _default_output(name))
    print(json.dumps(report.to_json(where)), flush=True)
    return 0 if report.ok else 1


def _arguments() -> tuple[str, Options, Path | None]:
    listing = "\n".join(f"  {name:<10} {what}" for name, what in NAMES.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=f"benchmarks:\n{listing}\n\npeers: {', '.join(PEERS)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=sorted(NAMES))
    parser.add_argument("--peers", default="", help="what to compare with, comma-separated")
    parser.add_argument("--rounds", type=int, help="interleaved runs (default 5, of memory 3)")
    parser.add_argument("--seconds", type=float, help="length of one run (default 3, delayed 60)")
    parser.add_argument("--output", type=Path, help="file for the samples of every run")
    arguments = parser.parse_args()
    peers = tuple(dict.fromkeys(peer for peer in arguments.peers.split(",") if peer))
    known = COMPARED.get(arguments.name, ())
    if unknown := [peer for peer in peers if peer not in known]:
        there_are = f"there are {', '.join(known)}" if known else "it is compared with none"
        parser.error(f"{arguments.name} has no peer {', '.join(unknown)}; {there_are}")
    if arguments.rounds is None:
        arguments.rounds = ROUNDS.get(arguments.name, DEFAULT_ROUNDS)
    if arguments.seconds is None:
        arguments.seconds = SECONDS.get(arguments.name, DEFAULT_SECONDS)
    if arguments.rounds < 1 or not 0 < arguments.seconds < 3600:
        parser.error("--rounds and --seconds must be positive")
    return arguments.name, Options(arguments.rounds, arguments.seconds, peers), arguments.output


async def _run(name: str, options: Options, report: Report) -> None:
    """Run one benchmark; SIGTERM ends it in order, as Ctrl-C does."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await importlib.import_module(f"benchmarks.{name}").run(options, report)


def _default_output(name: str) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    return ROOT / "reports" / f"benchmark-{name}-{stamp}.json"


def _keep(samples: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(samples, indent=1) + "\n")
    print(f"samples: {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
