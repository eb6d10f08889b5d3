"""What a process takes from its surroundings and a simulation replaces: time and chance."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from goverse.aio.clock import Clock, SystemClock


@dataclass(frozen=True)
class Runtime:
    """Handed from the composition root to every component that needs time or chance.

    :param clock: measures leases. Waiting is done with asyncio alone (the running loop's clock).
    :param random: every random number that is not a secret.
    """

    clock: Clock = field(default_factory=SystemClock)
    random: random.Random = field(default_factory=random.SystemRandom)
