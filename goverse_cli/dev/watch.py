"""Which files belong to an application, and when they change."""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterator
from pathlib import Path

import watchfiles

_MAX_FOLDERS = 500
_SETTLE_MS = 200


def folders_of(source: Path) -> tuple[Path, ...]:
    """The folder of ``source`` and the packages in it. Not the whole tree: that may be a home."""
    root = source.resolve().parent
    found = [root]
    for folder in found:
        if len(found) >= _MAX_FOLDERS:
            break
        found.extend(sorted(init.parent for init in folder.glob("*/__init__.py")))
    return tuple(found[:_MAX_FOLDERS])


async def changes(source: Path) -> AsyncIterator[tuple[str, ...]]:
    """The names of changed Python files, once per burst of changes."""
    async for burst in watchfiles.awatch(
        *folders_of(source),
        watch_filter=watchfiles.PythonFilter(),
        debounce=_SETTLE_MS,
        step=50,
        recursive=False,
        ignore_permission_denied=True,
    ):
        yield tuple(sorted({Path(path).name for _, path in burst}))


def syntax_fault(source: Path) -> str:
    """The traceback of ``source`` if it is not Python, else "". Nothing of it is run."""
    try:
        compile(source.read_bytes(), str(source), "exec", dont_inherit=True)
    except (SyntaxError, ValueError, OSError) as error:
        return "".join(traceback.format_exception_only(error)).rstrip()
    return ""
