"""The examples of docs/how-to/keep-state.md do what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import goverse
from goverse.errors import ApplicationError
from goverse.objects import Registry, load_modules
from goverse.testing import Cluster
from goverse_cli.app import cli
from tests.support.command_lines import parse

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "how-to" / "keep-state.md"
ACCOUNT = ROOT / "samples" / "account" / "account.py"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.M | re.S)


def loaded(source: str) -> dict[str, Any]:
    names: dict[str, Any] = {"goverse": goverse, "__name__": __name__}
    exec(source, names)
    return names


def test_what_the_page_shows_exists() -> None:
    account, _ = blocks("python")
    first, _, code = account.partition("\n")
    assert first == "# samples/account/account.py"
    assert code == ACCOUNT.read_text()
    [command] = blocks("sh")
    parse(cli, command.strip())
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE.read_text()):
        assert (PAGE.parent / target).exists(), target


@pytest.mark.virtual_time
async def test_the_account_survives_its_node() -> None:
    registry = Registry()
    load_modules([str(ACCOUNT)], registry)
    [account] = registry.types()
    async with Cluster(account.cls, nodes=2) as cluster:
        client = await cluster.client()
        for number in range(10):
            reference: Any = client.get("Account", f"a{number}")
            assert await reference.deposit(amount=number) == number
            with pytest.raises(ApplicationError, match="the balance is"):
                await reference.withdraw(amount=100)
        cluster.kill("n1")
        for number in range(10):
            reference = client.get("Account", f"a{number}")
            assert await reference.withdraw(amount=number) == 0


def test_a_state_of_version_0_becomes_one_of_version_1() -> None:
    class Player(goverse.Object, durability="acknowledged"):
        name: str = ""

    old = Player()
    old.name = "ada"
    before = Player.__goverse__
    assert before.stored is not None
    state = before.stored.pack(before.state.encode(old), None)
    new = loaded(blocks("python")[1])["Player"]
    player = new()
    assert new.__goverse__.stored.unpack(state, player) is None
    assert player.names == ["ada"]
