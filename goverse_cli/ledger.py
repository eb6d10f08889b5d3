"""How commands about reliable calls reach the ledger, and what they share in writing about it."""

from __future__ import annotations

import asyncio
import datetime
import getpass
import logging
import re
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import click

from goverse.observability import audit
from goverse.storage.api import Store, StoreRefused
from goverse.storage.values import CallStatus
from goverse_cli.exits import CliError, Exit
from goverse_cli.session import Options
from goverse_cli.store import opened

#: What every command that deletes rows says, and asks with.
RUNS_AGAIN = "A call whose id is deleted here is forgotten: repeated under that id it runs again."


@asynccontextmanager
async def reading(options: Options, config: Path | None, url: str) -> AsyncIterator[Store]:
    """The store, if this program knows its schema; within --timeout in all."""
    try:
        async with asyncio.timeout(options.timeout_s), working(options, config, url) as store:
            yield store
    except TimeoutError:
        raise CliError(
            f"the store did not answer within {options.timeout_s:g} s",
            Exit.TIMEOUT,
            "nothing was changed; give it more time with --timeout",
        ) from None


@asynccontextmanager
async def working(options: Options, config: Path | None, url: str) -> AsyncIterator[Store]:
    """The same for work that takes as long as there is much of it: --timeout is for each step."""
    async with opened(options, config, url, within_s=options.timeout_s) as store:
        schema = await store.schema_status()
        if not schema.current:
            raise StoreRefused(
                f"the schema is of version {schema.version} and this program needs "
                f"{schema.known}; see goverse-cli db status"
            )
        yield store


class Age(click.ParamType):  # type: ignore[type-arg]
    """A number of seconds, minutes, hours, days or weeks: 90m, 12h, 30d."""

    name = "age"
    _FORM = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d|w)")
    _UNITS: ClassVar[dict[str, float]] = {
        "s": 1.0,
        "m": 60.0,
        "h": 3600.0,
        "d": 86_400.0,
        "w": 604_800.0,
    }

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        form = self._FORM.fullmatch(str(value))
        seconds = float(form[1]) * self._UNITS[form[2]] if form else 0.0
        if not 0 < seconds < 50 * 365 * 86_400:
            raise click.BadParameter(
                f"{value!r} is not an age; write a number with a unit: 30d, 12h, 90m", ctx, param
            )
        return seconds


class Statuses(click.ParamType):  # type: ignore[type-arg]
    """One or several of ``allowed``, separated by commas."""

    name = "status,..."

    def __init__(self, *allowed: CallStatus) -> None:
        self._allowed = allowed

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[CallStatus, ...]:
        if isinstance(value, tuple):
            return value
        names = [part.strip() for part in str(value).split(",") if part.strip()]
        known = {status.value: status for status in self._allowed}
        wrong = [name for name in names if name not in known]
        if wrong or not names:
            raise click.BadParameter(
                f"{', '.join(wrong) or value!r} is not among {', '.join(known)}", ctx, param
            )
        return tuple(known[name] for name in dict.fromkeys(names))


class Progress:
    """Tells on standard error how far long work is, if it is long: on a terminal in one line,
    elsewhere now and then.

    :param what: is done to calls, as ``counted``. :param of: how many there are; 0: not known.
    """

    _EVERY_S: ClassVar[dict[bool, float]] = {True: 0.2, False: 10.0}

    def __init__(self, what: str, of: int = 0) -> None:
        self._what = what
        self._of = f" of {of:,}" if of else ""
        self._terminal = sys.stderr.isatty()
        self._said = time.monotonic()
        self._line = False

    def __call__(self, calls: int) -> None:
        if time.monotonic() - self._said < self._EVERY_S[self._terminal]:
            return
        self._said, self._line = time.monotonic(), self._terminal
        start = "\r" if self._terminal else ""
        click.echo(
            f"{start}{calls:,}{self._of} calls {self._what}",
            err=True,
            nl=not self._terminal,
        )

    def end(self) -> None:
        if self._line:
            click.echo("", err=True)
            self._line = False


def ask(question: str, yes: bool) -> None:
    """Return if it may be done. Raises CliError, also where nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CliError(
            "this is no terminal, so nobody can be asked; nothing was changed",
            Exit.REFUSED,
            "look at it with --dry-run, then run it with --yes",
        )
    if not click.confirm(question, err=True):
        raise CliError("nothing was changed", Exit.REFUSED)


def operator() -> str:
    """Who runs this command, for the audit log."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no such user, and no name for it
        user = "somebody"
    return f"{user}@{socket.gethostname()} (goverse-cli)"


@contextmanager
def audited() -> Iterator[None]:
    """Records of the audit log go to standard error meanwhile, a line each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    audit.log.addHandler(handler)
    try:
        yield
    finally:
        audit.log.removeHandler(handler)


def age(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return str(datetime.timedelta(seconds=int(seconds)))


def when(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="milliseconds")


def size(count: int | None) -> str:
    if count is None:
        return "not known"
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.1f} {unit}" if unit != "B" else f"{count} B"


def short_age(seconds: float) -> str:
    """An age as `Age` takes it."""
    for unit, length in (("d", 86_400.0), ("h", 3600.0), ("m", 60.0)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"
