"""Which files belong to an application, and when they change."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import AsyncGenerator
from pathlib import Path

import watchfiles

_MAX_FOLDERS = 500
_SETTLE_MS = 200
_CATCH_UP_MS = 500


def folders_of(source: Path) -> tuple[Path, ...]:
    """The folder of ``source`` and the packages in it. Not the whole tree: that may be a home."""
    root = source.resolve().parent
    found = [root]
    for folder in found:
        if len(found) >= _MAX_FOLDERS:
            break
        found.extend(sorted(init.parent for init in folder.glob("*/__init__.py")))
    return tuple(found[:_MAX_FOLDERS])


class Watch:
    """Tells of every change after the moment at which it was made."""

    def __init__(self, source: Path) -> None:
        self._folders = folders_of(source)
        self._before = self._modified()

    async def changes(self) -> AsyncGenerator[tuple[str, ...], None]:
        """The names of changed Python files, once per burst of changes."""
        caught_up = False
        async for burst in watchfiles.awatch(
            *self._folders,
            watch_filter=watchfiles.PythonFilter(),
            debounce=_SETTLE_MS,
            step=50,
            rust_timeout=_CATCH_UP_MS,
            yield_on_timeout=True,
            recursive=False,
            ignore_permission_denied=True,
        ):
            names = {Path(path).name for _, path in burst}
            if not caught_up:
                # What was changed before the system began to watch, it never tells.
                caught_up = True
                names |= {path.name for path, _ in self._modified() ^ self._before}
            if names:
                yield tuple(sorted(names))

    def _modified(self) -> set[tuple[Path, int]]:
        found = set()
        for folder in self._folders:
            for path in folder.glob("*.py"):
                with contextlib.suppress(OSError):
                    found.add((path, path.stat().st_mtime_ns))
        return found


def syntax_fault(source: Path) -> str:
    """The traceback of ``source`` if it is not Python, else "". Nothing of it is run."""
    try:
        compile(source.read_bytes(), str(source), "exec", dont_inherit=True)
    except (SyntaxError, ValueError, OSError) as error:
        return "".join(traceback.format_exception_only(error)).rstrip()
    return ""
