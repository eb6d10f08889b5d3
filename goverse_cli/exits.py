"""Exit codes, which scripts rely on, and the errors that lead to them."""

from __future__ import annotations

import enum
from typing import IO, Any

import click

from goverse.errors import (
    ApplicationError,
    Conflict,
    DeadlineExceeded,
    FailedPrecondition,
    GoverseError,
    InvalidArgument,
    NotFound,
    ObjectFailed,
    Overloaded,
    PermissionDenied,
    RateLimited,
    TooLarge,
    Unauthenticated,
    Unavailable,
)


class Exit(enum.IntEnum):
    """Frozen by a test: a number never changes its meaning."""

    OK = 0
    ERROR = 1
    USAGE = 2
    NOT_FOUND = 3
    UNAVAILABLE = 4
    DENIED = 5
    REFUSED = 6
    FAILED = 7
    TIMEOUT = 8
    UNHEALTHY = 9
    INTERRUPTED = 130


MEANINGS = {
    Exit.OK: "done",
    Exit.ERROR: "an error that has no number of its own",
    Exit.USAGE: "wrong options or arguments",
    Exit.NOT_FOUND: "no such node, shard, type or method",
    Exit.UNAVAILABLE: "no node could be reached, or the cluster cannot serve now",
    Exit.DENIED: "not permitted: needs loopback or the operators' token",
    Exit.REFUSED: "refused in this state (already exists, precondition)",
    Exit.FAILED: "the object's method raised an error",
    Exit.TIMEOUT: "no answer in time; it may have been executed",
    Exit.UNHEALTHY: "check found something that is wrong",
    Exit.INTERRUPTED: "stopped by Ctrl-C",
}

HELP = "\b\nExit codes:\n" + "\n".join(f"  {code:>3}  {MEANINGS[code]}" for code in Exit)

_BY_ERROR: tuple[tuple[type[GoverseError], Exit], ...] = (
    (InvalidArgument, Exit.USAGE),
    (TooLarge, Exit.USAGE),
    (NotFound, Exit.NOT_FOUND),
    (Unavailable, Exit.UNAVAILABLE),
    (Overloaded, Exit.UNAVAILABLE),
    (RateLimited, Exit.UNAVAILABLE),
    (PermissionDenied, Exit.DENIED),
    (Unauthenticated, Exit.DENIED),
    (Conflict, Exit.REFUSED),
    (FailedPrecondition, Exit.REFUSED),
    (ApplicationError, Exit.FAILED),
    (ObjectFailed, Exit.FAILED),
    (DeadlineExceeded, Exit.TIMEOUT),
)

_HINTS = {
    Exit.UNAVAILABLE: "is the cluster up? try: goverse-cli status",
    Exit.DENIED: "run this on the node's machine, or pass --token-file",
    Exit.TIMEOUT: "give it more time with --timeout",
}


class CliError(click.ClickException):
    """One sentence on standard error, what to do next, and an exit code."""

    def __init__(self, message: str, code: Exit = Exit.ERROR, hint: str = "") -> None:
        super().__init__(message)
        self.exit_code = int(code)  # type: ignore[misc]
        self.hint = hint

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"Error: {self.format_message()}", err=True)
        if self.hint:
            click.echo(f"Hint: {self.hint}", err=True)


def exit_of(error: GoverseError) -> Exit:
    for cls, code in _BY_ERROR:
        if isinstance(error, cls):
            return code
    return Exit.ERROR


def as_cli_error(error: GoverseError) -> CliError:
    """What an operator is told of ``error``."""
    code = exit_of(error)
    text = f"{error.message} [{error.code}, executed: {error.executed.value}]"
    return CliError(text, code, _HINTS.get(code, ""))
