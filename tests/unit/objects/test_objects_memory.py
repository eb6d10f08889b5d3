"""What an object that nobody calls keeps in memory."""

from __future__ import annotations

import gc
import tracemalloc

import goverse
from tests.unit.objects.objects_kit import running

OBJECTS = 2_000
#: Of what tracemalloc sees. A process needs a little more; `benchmarks memory` has the bound.
BYTES_PER_OBJECT = 900


class Small(goverse.Object):
    value: int = 0

    @goverse.method
    async def add(self, amount: int) -> int:
        self.value += amount
        return self.value


async def test_an_object_at_rest_is_small() -> None:
    async with running(Small) as node:
        await node.call("Small", "warm", "add", amount=1)
        gc.collect()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for number in range(OBJECTS):
                await node.call("Small", f"small-{number}", "add", amount=1)
            node.observer.seen.clear()
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(node.ids()) == OBJECTS + 1
        assert (after - before) / OBJECTS < BYTES_PER_OBJECT


async def test_an_object_that_was_called_has_no_dict_of_its_own() -> None:
    """CPython makes one when somebody asks for ``__dict__``, and keeps it."""
    async with running(Small) as node:
        await node.call("Small", "a", "add", amount=1)
        gc.collect()
        instances = [one for one in gc.get_objects() if isinstance(one, Small)]
        assert len(instances) == 1
        assert not [one for one in gc.get_referents(instances[0]) if isinstance(one, dict)]
