"""How commands reach the store: configured like a node's, without a node."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from goverse import storage
from goverse.aio.runtime import Runtime
from goverse.config.faults import ConfigError
from goverse.config.load import load
from goverse.storage.api import OutcomeUnknown, StorageUnavailable, Store, StoreRefused
from goverse_cli.exits import CliError, Exit
from goverse_cli.session import Options

F = TypeVar("F", bound=Callable[..., Any])


def store_options(command: F) -> F:
    """Add the options that say which store is meant."""
    url = click.option(
        "--url", default="", help="The store's URL instead of the configured storage.url."
    )
    config = click.option(
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        help="The configuration file of the cluster. [env: GOVERSE_CONFIG]",
    )
    return config(url(command))


@asynccontextmanager
async def opened(
    options: Options, config: Path | None, url: str, *, within_s: float | None = None
) -> AsyncIterator[Store]:
    """The store that is meant; its errors end the command with the right code.

    :param within_s: how long an operation may take, instead of `storage.operation_timeout`.
    """
    if config is None and options.environ.get("GOVERSE_CONFIG"):
        config = Path(options.environ["GOVERSE_CONFIG"])
    try:
        settings = load(config, options.environ, {"storage.url": url} if url else {}).settings
    except ConfigError as error:
        raise CliError(str(error), Exit.USAGE) from error
    if not settings.storage.url:
        raise CliError(
            "no store is configured",
            Exit.USAGE,
            "pass --url or --config, or set GOVERSE_STORAGE__URL; "
            "a password goes to GOVERSE_POSTGRES_PASSWORD",
        )
    chosen = settings.storage
    if within_s is not None:
        chosen = replace(chosen, operation_timeout_s=within_s)
    try:
        store = await storage.open(chosen, Runtime())
    except ValueError as error:
        raise CliError(str(error), Exit.USAGE) from error
    try:
        yield store
    except StoreRefused as error:
        raise CliError(str(error), Exit.REFUSED) from error
    except StorageUnavailable as error:
        raise CliError(str(error), Exit.UNAVAILABLE, "is the store up?") from error
    except OutcomeUnknown as error:
        raise CliError(str(error), Exit.TIMEOUT, "run it again: it is safe to repeat") from error
    finally:
        await store.close()
