"""The pytest plugin: clusters in tests, and tests in virtual time.

::

    @pytest.mark.virtual_time
    async def test_survives_a_kill(goverse_cluster):
        async with goverse_cluster(Counter, nodes=3) as cluster:
            counter = (await cluster.client()).get(Counter, "a")
            assert await counter.add(5) == 5
            cluster.kill("n1")
            await cluster.wait_all_claimed()

It needs no other plugin. A test with the mark runs on a loop of its own, so it cannot use async
fixtures; a test without it runs on whatever loop your asyncio plugin provides, in real time, and
then nodes cannot be killed or paused.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from goverse.testing.cluster import Cluster


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("goverse")
    group.addoption(
        "--virtual-time-seed",
        type=int,
        default=None,
        help="seed for the order of events in virtual-time tests that name none",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "virtual_time(seed=None, max_time_s=3600): run this async test in virtual time; with a "
        "seed, in an order of events chosen by it",
    )


@pytest.fixture
def goverse_cluster() -> type[Cluster]:
    """`goverse.testing.Cluster`: ``async with goverse_cluster(Counter, nodes=2) as cluster``."""
    from goverse.testing.cluster import Cluster

    return Cluster


# Innermost of the wrappers: an asyncio plugin must find a plain function and leave it alone.
@pytest.hookimpl(hookwrapper=True, trylast=True)
def pytest_pycollect_makeitem() -> Generator[None, Any, None]:
    outcome = yield
    made = outcome.get_result()
    for item in made if isinstance(made, list) else [made]:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            mark = item.get_closest_marker("virtual_time")
            if mark is not None:
                item.obj = _in_virtual_time(item.obj, item.config, **mark.kwargs)


def _in_virtual_time(
    function: Any, config: pytest.Config, *, seed: int | None = None, max_time_s: float = 3600.0
) -> Any:
    @functools.wraps(function)
    def test(*args: Any, **kwargs: Any) -> None:
        from goverse.testing.loop import SimLoop, run_virtual

        async def main(loop: SimLoop) -> None:
            await function(*args, **kwargs)

        chosen = config.getoption("--virtual-time-seed") if seed is None else seed
        run_virtual(main, seed=chosen, max_time_s=max_time_s)

    return test
