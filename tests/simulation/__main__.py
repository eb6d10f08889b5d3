"""``python -m tests.simulation``: play seeds, repeat one, measure coverage, hunt mutants."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

MEASURED = ("cluster", "routing", "objects", "reliable", "transport")
REQUIRED_PERCENT = 85.0
#: What cannot run in a simulation: generated code, the carrier that needs real sockets, and what
#: writes and reads files.
UNREACHABLE = (
    "*/goverse/transport/pb/*",
    "*/goverse/reliable/archive*.py",
    *(
        f"*/goverse/transport/{module}.py"
        for module in (
            "dialling",
            "framing",
            "front",
            "grpc_server",
            "grpc_status",
            "passage",
            "tcp_carrier",
            "tcp_network",
        )
    ),
)
ROOT = Path(__file__).resolve().parents[2]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=50, help="how many seeds (default 50)")
    parser.add_argument("--first", type=int, default=1, help="the first of them (default 1)")
    parser.add_argument("--seed", type=int, help="play this one, with its plan and last events")
    parser.add_argument("--jobs", type=int, default=2, help="worker processes (default 2)")
    parser.add_argument("--coverage", action="store_true", help="measure and require coverage")
    parser.add_argument("--mutants", action="store_true", help="plant each fault and catch it")
    parser.add_argument("--mutant", action="append", metavar="NAME", help="only plant this one")
    parser.add_argument("--repeats", type=int, default=3, help="seeds whose trace is compared")
    parser.add_argument("--worker", metavar="SEEDS", help=argparse.SUPPRESS)
    parser.add_argument("--data-file", default="", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def work(seeds: list[int], data_file: str) -> int:
    """A worker process: one JSON line per seed on standard output."""
    measuring = None
    if data_file:
        import coverage

        # By folder: by name coverage would import the packages, forget them, and asyncio with
        # them, and of two asyncios neither understands the other's CancelledError.
        folders = [str(ROOT / "goverse" / package) for package in MEASURED]
        measuring = coverage.Coverage(data_file=data_file, data_suffix=True, source=folders)
        measuring.start()
    # Only now: what is imported before the measurement starts would count as never run.
    from tests.simulation.run import play

    for seed in seeds:
        print(json.dumps(play(seed).as_dict()), flush=True)
    if measuring is not None:
        measuring.stop()
        measuring.save()
    return 0


def report_coverage(folder: str) -> bool:
    """Print coverage of each package, with and without the unreachable. True: enough."""
    import coverage

    measured = coverage.Coverage(data_file=f"{folder}/coverage")
    measured.combine([folder])
    include = [f"*/goverse/{package}/*" for package in MEASURED]
    print("coverage from simulation alone:")
    for package in MEASURED:
        percent = _percent(measured, [f"*/goverse/{package}/*"], UNREACHABLE)
        print(f"  goverse.{package:<12} {percent:5.1f} %")
    everything = _percent(measured, include, ())
    reachable = _percent(measured, include, UNREACHABLE)
    print(f"  together             {reachable:5.1f} %  ({everything:.1f} % with the unreachable)")
    with open(f"{folder}/report", "w") as out:
        measured.report(include=include, omit=list(UNREACHABLE), file=out, show_missing=True)
    print(Path(out.name).read_text())
    return reachable >= REQUIRED_PERCENT


def _percent(measured: object, include: list[str], omit: tuple[str, ...]) -> float:
    import io

    return measured.report(  # type: ignore[attr-defined,no-any-return]
        include=include, omit=list(omit), file=io.StringIO()
    )


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.worker:
        return work(json.loads(options.worker), options.data_file)
    from tests.simulation import drive

    if options.seed is not None:
        return drive.show(options.seed)
    if options.mutant:
        from tests.simulation import mutants

        return 0 if mutants.hunt(root=ROOT, jobs=options.jobs, names=options.mutant) else 1
    seeds = range(options.first, options.first + options.seeds)
    with tempfile.TemporaryDirectory(prefix="goverse-simulation-") as folder:
        data_file = f"{folder}/coverage" if options.coverage else ""
        good = drive.play_all(list(seeds), jobs=options.jobs, root=ROOT, data_file=data_file)
        good &= drive.compare_traces(list(seeds)[: options.repeats], root=ROOT)
        if options.coverage:
            good &= report_coverage(folder)
    if options.mutants:
        from tests.simulation import mutants

        good &= mutants.hunt(root=ROOT, jobs=options.jobs)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
