"""``python -m tests.fuzz``: feed the doors of the system with what nobody should send.

A part is a list of hypothesis tests, or a function; it is repeated in rounds with seeds that
follow each other until its share of the time is over, and what it found before is tried first
(the examples are kept in ``.cache/fuzz``). To add a part, add a line to `PARTS`.
"""

from __future__ import annotations

import argparse
import logging
import secrets
import sys
import time
import traceback
from pathlib import Path

from tests.fuzz.parts import PARTS
from tests.fuzz.property import Round

KEPT = Path(__file__).resolve().parents[2] / ".cache" / "fuzz"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--seconds", type=float, default=120.0, help="for all parts together")
    parser.add_argument("--seed", type=int, help="of the first round (default: drawn)")
    parser.add_argument("--rounds", type=int, help="so many of each part, whatever the time")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.parts if name not in PARTS]
    if unknown:
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    return options


def run(name: str, seconds: float, first: int, rounds: int | None) -> bool:
    """One part. True: nothing was found."""
    started = time.monotonic()
    number = examples = 0
    while number < rounds if rounds is not None else time.monotonic() - started < seconds:
        seed = first + number
        number += 1
        try:
            left_s = max(0.5, seconds - (time.monotonic() - started))
            examples += PARTS[name](Round(seed, left_s, KEPT / name))
        except Exception:
            traceback.print_exc()
            print(f"{name}: BROKEN in round {number}", flush=True)
            print(f"  again: python -m tests.fuzz {name} --seed {seed} --rounds 1", flush=True)
            return False
    print(
        f"{name}: {examples} examples in {number} rounds, seeds {first} to {first + number - 1}, "
        f"{time.monotonic() - started:.1f} s: nothing found",
        flush=True,
    )
    return True


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    names = options.parts or list(PARTS)
    first = options.seed if options.seed is not None else secrets.randbelow(2**31)
    logging.disable(logging.CRITICAL)  # every refusal is logged, and there are many
    share_s = options.seconds / len(names)
    good = [run(name, share_s, first, options.rounds) for name in names]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
