"""What the main functions of node and gate share: from loaded settings to the last signal."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import uvloop

from goverse import coordination
from goverse.aio.runtime import Runtime
from goverse.aio.tasks import Tasks
from goverse.cluster.surroundings import Surroundings
from goverse.config.checks import Process
from goverse.config.faults import ConfigError
from goverse.config.load import Loaded, load
from goverse.config.reload import Reloader
from goverse.config.render import render
from goverse.config.settings import Settings
from goverse.observability import logs
from goverse.observability.metrics import Metrics
from goverse.security.operators import TokenFileError
from goverse.storage.api import StorageUnavailable, StoreRefused
from goverse.transport.tcp_network import TcpNetwork

log = logging.getLogger(__name__)

EXIT_CANNOT_START = 1
EXIT_CONFIG = 2
EXIT_MODULE = 3
EXIT_HURRIED = 130

GC_THRESHOLDS = (20_000, 20, 20)
"""Containers made before the collector looks at the young ones, and how much rarer it looks at
older ones. A call makes and drops some ten of them, and hundreds of calls are under way at a time:
with Python's default of 700 the collector ran several times per batch, found everything in use,
and took a seventh of a process's time."""

App = Callable[[Settings, Surroundings], AbstractAsyncContextManager[object]]


@dataclass(frozen=True)
class Configuration:
    """What a process was started with.

    :param path: the file to follow; None for none.
    :param read: reads everything again, as it was read at the start.
    """

    loaded: Loaded
    path: Path | None
    read: Callable[[], Loaded]


def configuration(
    kind: Process, path: Path | None, flags: Mapping[str, object], keys: Mapping[str, str]
) -> Configuration:
    """Read the configuration, or print all its faults and exit with `EXIT_CONFIG`.

    :param flags: of the command line, by name; None, empty and False were not given.
    :param keys: which setting each flag sets, by its dotted key.
    """
    given = {
        key: _text(flags[name])
        for name, key in keys.items()
        if flags[name] not in (None, "", False, ())
    }

    def read() -> Loaded:
        return load(path, os.environ, given, process=kind)

    try:
        return Configuration(read(), path, read)
    except ConfigError as error:
        print(f"goverse-{kind}: {error}", file=sys.stderr)
        sys.exit(EXIT_CONFIG)


def _text(value: object) -> str:
    """A flag as it would be written in the environment."""
    if isinstance(value, tuple):
        return ",".join(value)
    return "true" if value is True else str(value)


def describe(configuration: Configuration) -> None:
    """Print what was understood, each value with its origin, and warnings apart."""
    loaded = configuration.loaded
    for warning in loaded.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(render(loaded.settings, loaded.sources), end="")


def run(configuration: Configuration, name: str, app: App) -> int:
    """Run ``app`` until SIGTERM or SIGINT; a second signal ends the process at once.

    :param name: of this process, in its log.
    :returns: the exit status.
    """
    loaded = configuration.loaded
    logging_ = logs.configure(loaded.settings.log, name)
    try:
        for warning in loaded.warnings:
            log.warning("%s", warning)
        return uvloop.run(_serve(configuration, app, logging_))
    finally:
        logging_.close()


async def _serve(configuration: Configuration, app: App, logging_: logs.Logging) -> int:
    settings = configuration.loaded.settings
    stopped = _stop_signals()
    tasks = Tasks("process")
    runtime, metrics = Runtime(), Metrics()
    metrics.log_records_dropped.follow(lambda: logging_.dropped)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(tasks.close)
        coordinator = await coordination.open(settings.cluster, runtime)
        stack.push_async_callback(coordinator.close)
        network = TcpNetwork(limits=settings.limits)
        stack.push_async_callback(network.close)
        surroundings = Surroundings(coordinator, network, runtime, metrics, stop=stopped.set)
        running = tasks.spawn("app", _run_app(app, settings, surroundings, stopped))
        if configuration.path is not None:
            reloader = Reloader(
                configuration.path,
                configuration.loaded,
                configuration.read,
                lambda new: logging_.set_level(new.log.level),
            )
            tasks.spawn("reload", reloader.run())
        status: int = await running
        return status


async def _run_app(
    app: App, settings: Settings, surroundings: Surroundings, stopped: asyncio.Event
) -> int:
    """Start, wait, stop; the exit status. A signal during the start ends the start."""
    starting = asyncio.current_task()
    assert starting is not None
    started = False
    early = asyncio.get_running_loop().create_task(_cancel_when(stopped, starting))
    try:
        async with app(settings, surroundings):
            started = True
            early.cancel()
            _settle_collector()
            await stopped.wait()
            log.info("stopping; a second signal ends the process at once")
    except asyncio.CancelledError:
        if not stopped.is_set():
            raise
        log.info("stopped while starting")
    except (OSError, TokenFileError, StoreRefused, StorageUnavailable) as error:
        if started:
            raise
        # An address that is in use, a file or a store that cannot be used: the operator's to mend.
        log.error("cannot start: %s", error)
        return EXIT_CANNOT_START
    finally:
        early.cancel()
    return 0


def _settle_collector() -> None:
    """What was imported and built so far stays for good: never walk through it again. Walking
    took 40 ms at a time, and all calls waited for it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


async def _cancel_when(event: asyncio.Event, task: asyncio.Task[None]) -> None:
    await event.wait()
    task.cancel()


def _stop_signals() -> asyncio.Event:
    """Set by the first signal. The second ends the process, also while a method holds up the loop:
    so these are handlers of the interpreter, which runs them between any two instructions, and not
    of the loop, which would run them in its turn."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = 0

    def received(number: int, frame: object) -> None:
        nonlocal signals
        signals += 1
        if signals > 1:
            # Not a word: whoever should read it may be what holds this process up.
            os._exit(EXIT_HURRIED)
        with contextlib.suppress(RuntimeError):  # the loop has ended, and the process soon will
            loop.call_soon_threadsafe(stopped.set)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, received)
    return stopped
