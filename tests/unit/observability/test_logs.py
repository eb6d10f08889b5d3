"""Records reach the log with their fields, and a log that stalls stops nobody."""

import asyncio
import io
import json
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from goverse.config.settings import LogSettings
from goverse.observability.logs import Logging, configure, log_fields

log = logging.getLogger("goverse.test")


class Stalling(io.StringIO):
    """A stream whose reader reads only when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.flowing = threading.Event()
        self.begun = threading.Event()

    def write(self, text: str) -> int:
        self.begun.set()
        assert self.flowing.wait(10)
        return super().write(text)


Configure = Callable[..., tuple[Logging, io.StringIO]]


@pytest.fixture
def configured() -> Iterator[Configure]:
    opened: list[Logging] = []

    def make(stream: io.StringIO | None = None, **settings: Any) -> tuple[Logging, io.StringIO]:
        stream = stream or io.StringIO()
        opened.append(configure(LogSettings(**settings), "n1", stream=stream))
        return opened[-1], stream

    yield make
    for logging_ in reversed(opened):
        logging_.close()


def test_text_has_time_level_logger_message_and_fields(configured: Configure) -> None:
    logging_, stream = configured()
    with log_fields(object="Counter/a", shard=42):
        log.info("moved %s", "wörld", extra={"call": "add"})
    logging_.close()
    line = stream.getvalue()
    assert line.endswith(
        "Z INFO    goverse.test: moved wörld  member=n1 shard=42 object=Counter/a call=add\n"
    )
    time.strptime(line[:19], "%Y-%m-%dT%H:%M:%S")


def test_json_has_one_object_per_line(configured: Configure) -> None:
    logging_, stream = configured(format="json")
    with log_fields(method="add"):
        log.warning("moved\n%s", 1)
    try:
        raise ValueError("why")
    except ValueError:
        log.exception("failed")
    logging_.close()
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first["level"] == "WARNING"
    assert first["logger"] == "goverse.test"
    assert first["message"] == "moved\n1"
    assert (first["member"], first["method"]) == ("n1", "add")
    assert "object" not in first
    assert second["exc_info"].endswith("ValueError: why")


def test_a_record_is_one_line_of_text_whatever_a_client_sent(configured: Configure) -> None:
    logging_, stream = configured()
    log.info("id %s", "a\n2026-01-01T00:00:00Z ERROR forged", extra={"object": "x\r\ny"})
    logging_.close()
    assert stream.getvalue().count("\n") == 1
    assert "\r" not in stream.getvalue()


async def test_fields_follow_a_task_and_end_with_their_block(configured: Configure) -> None:
    logging_, stream = configured()

    async def inner(name: str) -> None:
        with log_fields(call=name):
            log.info("inside")

    with log_fields(object="Counter/a"):
        await asyncio.gather(inner("c1"), inner("c2"))
        log.info("between")
    log.info("after")
    logging_.close()
    tails = [line.partition(": ")[2] for line in stream.getvalue().splitlines()]
    assert tails == [
        "inside  member=n1 object=Counter/a call=c1",
        "inside  member=n1 object=Counter/a call=c2",
        "between  member=n1 object=Counter/a",
        "after  member=n1",
    ]


def test_levels(configured: Configure) -> None:
    logging_, stream = configured(level="warning")
    log.info("quiet")
    log.warning("loud")
    logging_.set_level("debug")
    log.debug("now")
    logging.getLogger("grpc").info("a library's own affair")
    logging_.close()
    assert [line.split(": ")[1].split("  ")[0] for line in stream.getvalue().splitlines()] == [
        "loud",
        "now",
    ]


def test_L24_a_log_that_stalls_drops_and_counts_and_stops_nobody(configured: Configure) -> None:
    stream = Stalling()
    logging_, _ = configured(stream, max_queued_records=10)
    log.info("first")
    assert stream.begun.wait(10)  # the writing thread now hangs in it
    started = time.monotonic()
    for number in range(1000):
        log.info("record %d", number)
        assert time.monotonic() - started < 2.0
    assert logging_.dropped == 990

    stream.flowing.set()
    logging_.close()
    lines = stream.getvalue().splitlines()
    assert len([line for line in lines if "record " in line]) == 10
    assert len([line for line in lines if "990 log records were dropped" in line]) == 1


def test_closing_does_not_wait_for_a_reader_that_stalls(configured: Configure) -> None:
    stream = Stalling()
    logging_, _ = configured(stream, max_queued_records=2)
    for number in range(5):
        log.info("record %d", number)
    started = time.monotonic()
    logging_.close(timeout_s=0.05)
    assert time.monotonic() - started < 1.0
    stream.flowing.set()
    assert logging_.dropped >= 2


def test_everything_queued_is_written_on_close(configured: Configure) -> None:
    logging_, stream = configured()
    for number in range(500):
        log.info("record %d", number)
    logging_.close()
    assert logging_.dropped == 0
    assert len(stream.getvalue().splitlines()) == 500


def test_what_was_configured_before_comes_back(configured: Configure) -> None:
    root = logging.getLogger()
    before = (root.level, root.handlers[:])
    logging_, _ = configured()
    assert len(root.handlers) == 1
    logging_.close()
    assert (root.level, root.handlers) == before


def test_a_queued_record_keeps_no_frames_alive(configured: Configure) -> None:
    stream = Stalling()
    logging_, _ = configured(stream)

    class Big:
        pass

    def fail() -> "weakref.ref[Big]":
        big = Big()
        try:
            raise ValueError(big)
        except ValueError:
            log.exception("failed with %s", big)
        return weakref.ref(big)

    reference = fail()
    assert reference() is None
    stream.flowing.set()
    logging_.close()
    assert "ValueError" in stream.getvalue()


def test_a_member_can_be_named_later(configured: Configure) -> None:
    logging_, stream = configured()
    logging_.member = "web-3-48000"
    log.info("x")
    logging_.close()
    assert "member=web-3-48000" in stream.getvalue()


def test_arguments_that_do_not_fit_their_message_stop_nobody(
    configured: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    logging_, stream = configured()
    log.info("%d", "not a number")
    log.info("after")
    logging_.close()
    assert "after" in stream.getvalue()
    assert "Logging error" in capsys.readouterr().err
