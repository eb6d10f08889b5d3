"""``python -m benchmarks NAME [--rounds N] [--seconds S] [--output FILE]``."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

from benchmarks.report import Options, Report, environment

NAMES = {
    "calls": "calls through gate and node, beside a bare batched echo",
    "ledger": "the store on PostgreSQL: batches, fences, accepts beside 2,000,000 finished calls",
}


def main() -> int:
    listing = "\n".join(f"  {name:<10} {what}" for name, what in NAMES.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=f"benchmarks:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=sorted(NAMES))
    parser.add_argument("--rounds", type=int, default=5, help="interleaved runs (default 5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one run (default 3)")
    parser.add_argument("--output", type=Path, help="also keep the raw samples of every run here")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.seconds <= 0:
        parser.error("--rounds and --seconds must be positive")
    module = importlib.import_module(f"benchmarks.{arguments.name}")
    report: Report = module.run(Options(arguments.rounds, arguments.seconds))
    if arguments.output:
        arguments.output.write_text(json.dumps(report.raw, indent=1) + "\n")
    print(json.dumps(report.to_json(environment())))
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
