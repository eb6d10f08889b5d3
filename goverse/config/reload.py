"""Follow the configuration file while running.

What can change without a restart is applied, what cannot is named in the log, and a file with
faults changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from goverse.config.faults import ConfigError
from goverse.config.load import Loaded
from goverse.config.schema import keys
from goverse.config.settings import Settings

log = logging.getLogger(__name__)

#: What takes effect at once.
DYNAMIC = ("log.level",)


class Reloader:
    """Looks at a file's change time every now and then; ``run`` is the task to own.

    :param load: reads the configuration as it was read at the start, environment and flags too.
    :param apply: called with the new settings if something dynamic has changed.
    """

    def __init__(
        self,
        path: Path,
        loaded: Loaded,
        load: Callable[[], Loaded],
        apply: Callable[[Settings], None],
        *,
        interval_s: float = 2.0,
    ) -> None:
        self._path = path
        self._running = loaded.settings
        self._load = load
        self._apply = apply
        self._interval_s = interval_s
        self._seen = self._stamp()

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            self.look()

    def look(self) -> None:
        """Load again if the file has changed."""
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            wanted = self._load().settings
        except ConfigError as error:
            log.error("%s has changed and is not used: %s", self._path, error)
            return
        # Compared with what runs: a static key stays named until it is put back or restarted.
        changed = [k.path for k in keys().values() if k.get(wanted) != k.get(self._running)]
        static = [path for path in changed if path not in DYNAMIC]
        if static:
            log.warning("these changes take effect after a restart: %s", ", ".join(static))
        if len(static) < len(changed):
            self._apply(wanted)
            for path in DYNAMIC:
                self._running = keys()[path].set(self._running, keys()[path].get(wanted))
            log.info("%s: applied %s", self._path, ", ".join(p for p in changed if p in DYNAMIC))

    def _stamp(self) -> tuple[int, int]:
        try:
            status = self._path.stat()
        except OSError:
            return 0, 0  # being replaced; the next look sees the new one
        return status.st_mtime_ns, status.st_ino
