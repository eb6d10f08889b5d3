"""What the pages show is what the project has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from goverse_cli.app import cli
from goverse_cli.dev.examples import find_example, lines_to_try
from goverse_gate.__main__ import main as gate_main
from goverse_node.__main__ import main as node_main
from tests.support.command_lines import parse

ROOT = Path(__file__).resolve().parents[3]
PAGES = ("README.md", "docs/ARCHITECTURE.md", "samples/counter/README.md")
OPERATORS = ("docs/RELIABLE_CALLS_CLEANUP.md", "docs/how-to/watch-reliable-calls.md")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(), re.M | re.S)


def shell_lines(page: str) -> list[str]:
    return [line for block in blocks(page, "sh") for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("page", PAGES)
def test_code_on_a_page_is_the_file_that_it_names(page: str) -> None:
    for block in blocks(page, "python"):
        name, _, code = block.partition("\n")
        assert name.startswith("# samples/"), f"say where this comes from: {block}"
        assert code == (ROOT / name.removeprefix("# ")).read_text()


@pytest.mark.parametrize("page", PAGES)
def test_commands_on_a_page_exist(page: str) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    example = find_example(ROOT / "samples/counter/counter.py")
    assert example is not None
    curl, _, _ = lines_to_try(example, http=8080, gate=49000, node=48000)
    for line in shell_lines(page):
        program = line.split()[0]
        if program == "goverse-cli":
            parse(cli, line)
        elif program == "goverse-node":
            parse(node_main, line)
        elif program == "goverse-gate":
            parse(gate_main, line)
        elif program == "make":
            assert line.split()[1] in targets, line
        else:
            assert line == curl


@pytest.mark.parametrize("page", OPERATORS)
def test_commands_for_operators_exist(page: str) -> None:
    lines = [line for line in shell_lines(page) if line.startswith("goverse-cli ")]
    assert lines
    for line in lines:
        parse(cli, line)


@pytest.mark.parametrize("page", PAGES + OPERATORS)
def test_links_on_a_page_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / target).exists(), target


def test_hello_world_is_short() -> None:
    assert len((ROOT / "samples/counter/counter.py").read_text().splitlines()) <= 15
