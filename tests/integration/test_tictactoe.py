"""samples/tictactoe as its players see it: HTTP, and the lines of its README in a shell."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from goverse.objects import Object, Registry, load_modules
from tests.robustness.http_world import http_world

SAMPLE = Path(__file__).resolve().parents[2] / "samples" / "tictactoe"
ADA, BOB = "adas-secret", "bobs-secret"


@pytest.fixture
async def gate_url() -> AsyncIterator[str]:
    registry = Registry()
    load_modules([str(SAMPLE / "tictactoe.py")], registry)
    classes: list[type[Object]] = [found.cls for found in registry.types()]
    async with http_world(*classes) as (gate, _):
        yield f"http://{gate.http_address}"


class Table:
    """One game, as a client without library sees it."""

    def __init__(self, url: str, game: str) -> None:
        self._url = f"{url}/v1/objects/Game/{game}"
        self._http = httpx.AsyncClient()

    async def ask(self, method: str, **arguments: Any) -> Any:
        """The answer, or the code of the problem."""
        answer = await self._http.post(f"{self._url}/{method}", json=arguments)
        if answer.status_code == 200:
            return answer.json()
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.status_code in (400, 422), answer.text
        return answer.json()["code"]

    async def close(self) -> None:
        await self._http.aclose()


@pytest.fixture
async def table(gate_url: str) -> AsyncIterator[Table]:
    table = Table(gate_url, "friday")
    yield table
    await table.close()


async def seated(table: Table) -> None:
    assert await table.ask("join", name="Ada", token=ADA) == "X"
    assert await table.ask("join", name="Bob", token=BOB) == "O"


async def test_two_players_play_to_the_end(table: Table) -> None:
    await seated(table)
    state = None
    for token, cell in ((ADA, 0), (BOB, 3), (ADA, 1), (BOB, 4), (ADA, 2)):
        state = await table.ask("play", token=token, cell=cell)
    assert state == {
        "board": ["XXX", "OO ", "   "],
        "players": {"X": "Ada", "O": "Bob"},
        "next": None,
        "winner": "X",
        "over": True,
    }
    assert await table.ask("play", token=BOB, cell=5) == "over"
    assert await table.ask("show") == state


async def test_a_full_board_without_a_line_is_a_draw(table: Table) -> None:
    await seated(table)
    for number, cell in enumerate((0, 1, 2, 4, 3, 5, 7, 6, 8)):
        state = await table.ask("play", token=BOB if number % 2 else ADA, cell=cell)
    assert (state["over"], state["winner"]) == (True, None)


async def test_moves_are_validated(table: Table) -> None:
    assert await table.ask("join", name="Ada", token=ADA) == "X"
    assert await table.ask("play", token=ADA, cell=0) == "waiting"
    assert await table.ask("join", name="Ada", token="somebody-elses") == "name_taken"
    await seated(table)
    assert await table.ask("join", name="Eve", token="eves-secret") == "full"
    assert await table.ask("play", token="eves-secret", cell=0) == "not_a_player"
    assert await table.ask("play", token=BOB, cell=0) == "not_your_turn"
    await table.ask("play", token=ADA, cell=0)
    assert await table.ask("play", token=BOB, cell=0) == "taken"
    for cell in (-1, 9, "0", None, 0.5):
        assert await table.ask("play", token=BOB, cell=cell) == "invalid_argument"
    assert await table.ask("join", name="", token=BOB) == "invalid_argument"
    assert (await table.ask("show"))["board"] == ["X  ", "   ", "   "]


async def test_a_request_that_is_sent_again_counts_once(table: Table) -> None:
    await seated(table)
    await seated(table)
    first = await table.ask("play", token=ADA, cell=4)
    assert await table.ask("play", token=ADA, cell=4) == first
    assert first["next"] == "O"


async def test_tokens_are_not_shown(table: Table) -> None:
    await seated(table)
    assert ADA not in json.dumps(await table.ask("show"))


async def test_the_lines_of_the_readme_work(gate_url: str) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (SAMPLE / "README.md").read_text(), re.DOTALL)
    (lines,) = [block for block in blocks if "curl" in block]
    script = lines.replace("http://localhost:8080", gate_url).replace("curl ", "curl -sf -w '\\n' ")
    process = await asyncio.create_subprocess_exec(
        "sh", "-ec", script, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    answers = [json.loads(line) for line in out.decode().splitlines()]
    assert answers[:2] == ["X", "O"]
    assert answers[-1] == answers[-2]
    assert answers[-1]["board"] == ["O  ", " X ", "   "]
