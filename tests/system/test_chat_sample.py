"""The chat sample as its README has it: development mode, the page, and two browsers that talk."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Browser, Page, async_playwright, expect

from tests.support.dev_session import ROOT, dev_session

pytestmark = pytest.mark.system

SAMPLE = ROOT / "samples" / "chat"


def chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    pytest.fail("there is no chromium here; scripts/setup-test gets it, or says what to do")


@asynccontextmanager
async def page_server() -> AsyncIterator[str]:
    """The sample's own server of its page; gives the address."""
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, str(SAMPLE / "page.py"), "0"), stdout=asyncio.subprocess.PIPE
    )
    assert server.stdout is not None
    try:
        async with asyncio.timeout(10):
            address = (await server.stdout.readline()).decode().strip()
        yield address
    finally:
        server.kill()
        await server.wait()


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    arguments = ["--no-sandbox"] if os.getuid() == 0 else []
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=chromium(), args=arguments)
        try:
            yield running
        finally:
            await running.close()


class Visitor:
    """One person with a browser of their own."""

    def __init__(self, page: Page, name: str) -> None:
        self.page = page
        self.name = name
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    @classmethod
    async def enter(cls, browser: Browser, url: str, name: str) -> Visitor:
        context = await browser.new_context()
        visitor = cls(await context.new_page(), name)
        await visitor.page.goto(url)
        await visitor.page.fill("#name", name)
        await visitor.page.click("#enter button")
        await expect(visitor.page.locator("#text")).to_be_enabled(timeout=15_000)
        return visitor

    async def say(self, text: str) -> None:
        await self.page.fill("#text", text)
        await self.page.press("#text", "Enter")
        await expect(self.page.locator("#text")).to_have_value("")

    async def sees(self, lines: list[str]) -> None:
        await expect(self.page.locator("#log li")).to_have_text(lines, timeout=20_000)

    async def lines(self) -> list[str]:
        return await self.page.locator("#log li").all_text_contents()


async def test_two_pages_talk() -> None:
    async with page_server() as address:
        allowed = {"GOVERSE_GATE__ALLOWED_ORIGINS": address.rstrip("/")}
        async with dev_session(SAMPLE / "chat.py", "--nodes", "2", env=allowed) as session:
            await session.shows("Ctrl-C stops it.")
            url = f"{address}?gate={session.http_address}"
            async with browser() as running:
                ann = await Visitor.enter(running, url, "ann")
                bob = await Visitor.enter(running, url, "bob")
                wanted = []
                for number in range(5):
                    for visitor in (ann, bob):
                        text = f"line {number} <b>&amp;</b>"
                        await visitor.say(text)
                        wanted.append(f"{visitor.name}{text}")
                        await ann.sees(wanted)
                        await bob.sees(wanted)

                # Both at once: whichever comes first, both pages have the same order.
                await asyncio.gather(
                    *(say_many(visitor, 10) for visitor in (ann, bob)),
                )
                await expect(ann.page.locator("#log li")).to_have_count(30)
                await expect(bob.page.locator("#log li")).to_have_count(30)
                lines = await ann.lines()
                assert lines == await bob.lines()
                for visitor in (ann, bob):
                    own = [line for line in lines[10:] if line.startswith(visitor.name)]
                    assert own == [f"{visitor.name}fast {number}" for number in range(10)]

                # Who comes later sees what was said before.
                cid = await Visitor.enter(running, url, "cid")
                assert await cid.lines() == lines

                # The gate dies and comes back: pages connect again by themselves.
                os.kill(session.pid_of("goverse_gate", "serve"), signal.SIGKILL)
                await session.shows("Ready again", timeout_s=60)
                for visitor in (ann, bob):
                    await expect(visitor.page.locator("#text")).to_be_enabled(timeout=30_000)
                await ann.say("still here")
                await bob.sees([*lines, "annstill here"])
                await ann.sees([*lines, "annstill here"])
                assert ann.errors == bob.errors == cid.errors == []
            assert await session.press_ctrl_c() == 0
            await session.leaves_nothing()


async def say_many(visitor: Visitor, count: int) -> None:
    for number in range(count):
        await visitor.say(f"fast {number}")
        # The next one is sent when this one was answered: a page sends in no order of its own.
        await expect(
            visitor.page.locator("#log li", has_text=f"{visitor.name}fast {number}")
        ).to_have_count(1)
