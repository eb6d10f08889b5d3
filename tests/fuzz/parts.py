"""The parts of a fuzzing run, by name."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.fuzz import bodies, configuration, frames, heads, hellos, messages
from tests.fuzz.property import Property, Round

Part = Callable[[Round], int]
"""Plays a round and returns how many examples it tried. Raises what it found."""


def properties(*found: Property) -> Part:
    """A part made of properties, one after the other while there is time."""

    def play(round: Round) -> int:
        until = time.monotonic() + round.left_s
        tried = 0
        for number in range(len(found)):
            # Another one goes first in the next round.
            if not number or time.monotonic() < until:
                tried += found[(number + round.seed) % len(found)].play(round)
        return tried

    return play


PARTS: dict[str, Part] = {
    "frames": properties(frames.random_bytes, frames.changed_bytes, frames.nonsense),
    "hello": properties(hellos.strange_hellos, hellos.random_hellos),
    "bodies": properties(bodies.random_bodies, bodies.nearly_right, bodies.deep),
    "heads": properties(heads.random_heads, heads.changed_heads),
    "protobuf": properties(
        messages.random_requests, messages.built_requests, messages.gate_requests
    ),
    "configuration": properties(configuration.random_files, configuration.strange_values),
}
