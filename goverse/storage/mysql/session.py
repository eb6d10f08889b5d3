"""One session with the server, and scripts: several statements on one journey."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from asyncmy.errors import MySQLError, OperationalError

#: asyncmy's connection. Its types say little, and what is needed to break one has no public name.
Driver = Any

CR_SERVER_LOST = 2013


class Answer(NamedTuple):
    """What one statement came to. ``insert_id`` is the first number that it made."""

    rows: Sequence[tuple[Any, ...]]
    affected: int
    insert_id: int


class Session:
    """One connection.

    :param max_packet: bytes that the server takes at once.
    :param version: as the server says it.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._broken = False
        self.max_packet = 16 * 1024 * 1024
        self.version = str(driver.get_server_info())

    @property
    def id(self) -> int:
        """What the server calls this session."""
        return int(self._driver.thread_id())

    @property
    def closed(self) -> bool:
        driver = self._driver
        transport = driver._transport
        return (
            self._broken
            or transport is None
            or transport.is_closing()
            or not driver.connected
            or driver._proto.eof
        )

    @property
    def silent(self) -> bool:
        """Whether everything that the server said was read."""
        protocol = self._driver._proto
        return bool(protocol.length == protocol.pos)

    def fileno(self) -> int:
        return int(self._driver._transport.get_extra_info("socket").fileno())

    async def script(self, statements: Sequence[str], answers: list[Answer]) -> None:
        """Carry out ``statements`` one after the other, until one fails.

        :param answers: gets what came, also before an error.

        Raises MySQLError. To be awaited by a task that is not cancelled while the session stands.
        """
        driver = self._driver
        try:
            await driver.query("; ".join(statements))
            while True:
                result = driver._result
                answers.append(Answer(result.rows or (), result.affected_rows, result.insert_id))
                if not result.has_next:
                    break
                await driver.next_result()
        except MySQLError:
            raise
        except Exception as error:
            # The driver met what it did not expect: what follows on the wire is anything.
            self.abort()
            raise OperationalError(CR_SERVER_LOST, f"{type(error).__name__}") from error
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Break it, so that whoever waits for an answer is woken with an error. What was not sent
        yet is not sent."""
        self._broken = True
        if self._driver._transport is not None:
            self._driver._transport.abort()

    def close(self) -> None:
        self._broken = True
        self._driver.close()
