"""Logging that never makes a call wait.

Records go into a bounded queue; a thread of its own formats and writes them. When the reader of
the log stalls, the queue fills up, and what does not fit is dropped and counted instead of
stopping the event loop.
"""

from __future__ import annotations

import contextvars
import copy
import logging
import queue
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from pythonjsonlogger.json import JsonFormatter

from goverse.aio.limits import Limit
from goverse.config.settings import LogSettings

#: What a record says besides its message, where it is known: from ``extra`` or `log_fields`.
FIELDS = ("member", "shard", "object", "method", "call")

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

_FIELDS: contextvars.ContextVar[dict[str, Any]] = contextvars.ContextVar("goverse_log_fields")
_NO_FIELDS: dict[str, Any] = {}
_LIBRARIES = ("asyncio", "grpc", "uvicorn.access", "watchfiles")


@contextmanager
def log_fields(**fields: Any) -> Iterator[None]:
    """Give every record logged inside, also by tasks started there, these fields."""
    token = _FIELDS.set({**_FIELDS.get(_NO_FIELDS), **fields})
    try:
        yield
    finally:
        _FIELDS.reset(token)


def configure(settings: LogSettings, member: str, *, stream: TextIO | None = None) -> Logging:
    """Send everything that is logged in this process to ``stream``, standard error by default.

    Replaces what was configured before. Close the result last: it writes what is still queued.
    """
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(_json() if settings.format == "json" else _TextFormatter())
    return Logging(settings, member, handler)


class Logging:
    """The logging of one process, until `close`.

    :param sink: formats and writes, in the writing thread.
    """

    def __init__(self, settings: LogSettings, member: str, sink: logging.Handler) -> None:
        self._queue: queue.Queue[logging.LogRecord | None] = queue.Queue(
            settings.max_queued_records
        )
        self._sink = sink
        self._intake = _Intake(self._queue, member)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write_all, name="goverse-log", daemon=True)
        root = logging.getLogger()
        self._before = (root.level, root.handlers[:])
        root.handlers[:] = [self._intake]
        logging.captureWarnings(True)
        self.set_level(settings.level)
        self._thread.start()

    def limits(self) -> Iterator[Limit]:
        yield Limit("log.records", self._queue.qsize(), self._queue.maxsize)

    @property
    def dropped(self) -> int:
        """Records lost because the queue was full."""
        return self._intake.dropped

    @property
    def member(self) -> str:
        return self._intake.member

    @member.setter
    def member(self, name: str) -> None:
        """The name may be known only once a port is bound."""
        self._intake.member = name

    def set_level(self, level: str) -> None:
        """``debug``, ``info``, ``warning`` or ``error``."""
        number = LEVELS[level]
        logging.getLogger().setLevel(number)
        # Libraries tell at INFO what only they care about.
        for name in _LIBRARIES:
            logging.getLogger(name).setLevel(max(number, logging.WARNING))

    def close(self, *, timeout_s: float = 2.0) -> None:
        """Write what is queued, but do not wait longer than this for a reader that stalls."""
        root = logging.getLogger()
        if root.handlers == [self._intake]:
            level, handlers = self._before
            root.setLevel(level)
            root.handlers[:] = handlers
            logging.captureWarnings(False)
        self._closing.set()
        try:
            self._queue.put_nowait(None)  # wakes the thread
        except queue.Full:
            pass  # it is awake, or stuck
        self._thread.join(timeout_s)

    def _write_all(self) -> None:
        reported = 0
        while True:
            record = self._queue.get()
            if record is not None:
                self._sink.handle(record)
            if (dropped := self._intake.dropped) > reported:
                self._sink.handle(_drop_record(dropped - reported, self._intake.member))
                reported = dropped
            if self._closing.is_set() and self._queue.empty():
                return


class _Intake(logging.Handler):
    """Makes a record independent of its thread and task, and queues or drops it."""

    def __init__(self, queue: queue.Queue[logging.LogRecord | None], member: str) -> None:
        super().__init__()
        self._queue = queue
        self.member = member
        self.dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        # Called under the handler's lock: `dropped` has one writer at a time.
        if self._queue.full():
            self.dropped += 1  # before the work of preparing it
            return
        try:
            self._queue.put_nowait(self._prepare(record))
        except queue.Full:
            self.dropped += 1
        except Exception:
            self.handleError(record)

    def _prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """What the arguments, the traceback and the context say now, as text."""
        ready = copy.copy(record)
        ready.msg, ready.args = record.getMessage(), None
        if record.exc_info and not record.exc_text:
            ready.exc_text = _formatter.formatException(record.exc_info)
        # A traceback would keep its frames, and all that they refer to, alive in the queue.
        ready.exc_info = None
        fields = _FIELDS.get(_NO_FIELDS)
        for name in FIELDS:
            if name not in ready.__dict__:
                value = self.member if name == "member" else fields.get(name)
                if value is not None and value != "":
                    setattr(ready, name, value)
        return ready


class _TextFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.123Z INFO  goverse.cluster: message  member=n1 shard=42``."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
        _use_utc(self)

    def formatMessage(self, record: logging.LogRecord) -> str:
        # A record is one line: what a client sent must not look like a record of its own.
        line = super().formatMessage(record).replace("\r", "\\r").replace("\n", "\\n")
        known = [f"{name}={getattr(record, name)}" for name in FIELDS if hasattr(record, name)]
        fields = " ".join(known).replace("\r", "\\r").replace("\n", "\\n")
        return f"{line}  {fields}" if fields else line


def _json() -> logging.Formatter:
    formatter = JsonFormatter(
        "%(asctime)s %(levelname)s %(name)s %(message)s",
        rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
        json_ensure_ascii=False,
    )
    _use_utc(formatter)
    return formatter


def _use_utc(formatter: logging.Formatter) -> None:
    formatter.converter = time.gmtime
    formatter.default_time_format = "%Y-%m-%dT%H:%M:%S"
    formatter.default_msec_format = "%s.%03dZ"


def _drop_record(count: int, member: str) -> logging.LogRecord:
    text = "%d log records were dropped because the log could not be written fast enough"
    record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, (count,), None)
    record.member = member
    return record


_formatter = logging.Formatter()
